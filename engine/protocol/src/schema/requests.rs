//! The layouts of the requests that are served, after Kafka's message definitions (`common/message/*.json` of Apache
//! Kafka 4.3). Only what the walker needs is kept: types, versions, nullability, tags.

use super::Type::{Array, Bool, Int8, Int16, Int32, Int64, Records, String, Struct, Uuid};
use super::{Field, Schema};

/// Request header v1 and, from the version on in which the request itself is flexible, v2. The client id keeps its
/// old encoding in both, so that a broker can read it before it knows the version.
pub(crate) const HEADER_FIXED_BYTES: usize = 8;

pub(crate) static API_VERSIONS: Schema = Schema {
    flexible_since: 3,
    fields: &[
        Field::new("ClientSoftwareName", String).since(3),
        Field::new("ClientSoftwareVersion", String).since(3),
    ],
};

pub(crate) static METADATA: Schema = Schema {
    flexible_since: 9,
    fields: &[
        Field::new(
            "Topics",
            Array(&Struct(&[Field::new("TopicId", Uuid).since(10), Field::new("Name", String).nullable(10)])),
        )
        .nullable(1),
        Field::new("AllowAutoTopicCreation", Bool).since(4),
        Field::new("IncludeClusterAuthorizedOperations", Bool).since(8).until(10),
        Field::new("IncludeTopicAuthorizedOperations", Bool).since(8),
    ],
};

pub(crate) static CREATE_TOPICS: Schema = Schema {
    flexible_since: 5,
    fields: &[
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("Name", String),
                Field::new("NumPartitions", Int32),
                Field::new("ReplicationFactor", Int16),
                Field::new(
                    "Assignments",
                    Array(&Struct(&[
                        Field::new("PartitionIndex", Int32),
                        Field::new("BrokerIds", Array(&Int32)),
                    ])),
                ),
                Field::new(
                    "Configs",
                    Array(&Struct(&[Field::new("Name", String), Field::new("Value", String).nullable(0)])),
                ),
            ])),
        ),
        Field::new("TimeoutMs", Int32),
        Field::new("ValidateOnly", Bool),
    ],
};

pub(crate) static DELETE_TOPICS: Schema = Schema {
    flexible_since: 4,
    fields: &[
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("Name", String).since(6).nullable(6),
                Field::new("TopicId", Uuid).since(6),
            ])),
        )
        .since(6),
        Field::new("TopicNames", Array(&String)).until(5),
        Field::new("TimeoutMs", Int32),
    ],
};

pub(crate) static CREATE_PARTITIONS: Schema = Schema {
    flexible_since: 2,
    fields: &[
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("Name", String),
                Field::new("Count", Int32),
                Field::new("Assignments", Array(&Struct(&[Field::new("BrokerIds", Array(&Int32))])))
                    .nullable(0),
            ])),
        ),
        Field::new("TimeoutMs", Int32),
        Field::new("ValidateOnly", Bool),
    ],
};

pub(crate) static PRODUCE: Schema = Schema {
    flexible_since: 9,
    fields: &[
        Field::new("TransactionalId", String).nullable(0),
        Field::new("Acks", Int16),
        Field::new("TimeoutMs", Int32),
        Field::new(
            "TopicData",
            Array(&Struct(&[
                Field::new("Name", String).until(12),
                Field::new("TopicId", Uuid).since(13),
                Field::new(
                    "PartitionData",
                    Array(&Struct(&[Field::new("Index", Int32), Field::new("Records", Records).nullable(0)])),
                ),
            ])),
        ),
    ],
};

pub(crate) static FETCH: Schema = Schema {
    flexible_since: 12,
    fields: &[
        Field::new("ClusterId", String).since(12).nullable(12).tag(0),
        Field::new("ReplicaId", Int32).until(14),
        Field::new(
            "ReplicaState",
            Struct(&[Field::new("ReplicaId", Int32).since(15), Field::new("ReplicaEpoch", Int64).since(15)]),
        )
        .since(15)
        .tag(1),
        Field::new("MaxWaitMs", Int32),
        Field::new("MinBytes", Int32),
        Field::new("MaxBytes", Int32),
        Field::new("IsolationLevel", Int8),
        Field::new("SessionId", Int32).since(7),
        Field::new("SessionEpoch", Int32).since(7),
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("Topic", String).until(12),
                Field::new("TopicId", Uuid).since(13),
                Field::new(
                    "Partitions",
                    Array(&Struct(&[
                        Field::new("Partition", Int32),
                        Field::new("CurrentLeaderEpoch", Int32).since(9),
                        Field::new("FetchOffset", Int64),
                        Field::new("LastFetchedEpoch", Int32).since(12),
                        Field::new("LogStartOffset", Int64).since(5),
                        Field::new("PartitionMaxBytes", Int32),
                        Field::new("ReplicaDirectoryId", Uuid).since(17).tag(0),
                        Field::new("HighWatermark", Int64).since(18).tag(1),
                    ])),
                ),
            ])),
        ),
        Field::new(
            "ForgottenTopicsData",
            Array(&Struct(&[
                Field::new("Topic", String).since(7).until(12),
                Field::new("TopicId", Uuid).since(13),
                Field::new("Partitions", Array(&Int32)).since(7),
            ])),
        )
        .since(7),
        Field::new("RackId", String).since(11),
    ],
};

pub(crate) static LIST_OFFSETS: Schema = Schema {
    flexible_since: 6,
    fields: &[
        Field::new("ReplicaId", Int32),
        Field::new("IsolationLevel", Int8).since(2),
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("Name", String),
                Field::new(
                    "Partitions",
                    Array(&Struct(&[
                        Field::new("PartitionIndex", Int32),
                        Field::new("CurrentLeaderEpoch", Int32).since(4),
                        Field::new("Timestamp", Int64),
                    ])),
                ),
            ])),
        ),
        Field::new("TimeoutMs", Int32).since(10),
    ],
};

pub(crate) static INIT_PRODUCER_ID: Schema = Schema {
    flexible_since: 2,
    fields: &[
        Field::new("TransactionalId", String).nullable(0),
        Field::new("TransactionTimeoutMs", Int32),
        Field::new("ProducerId", Int64).since(3),
        Field::new("ProducerEpoch", Int16).since(3),
    ],
};

pub(crate) static OFFSET_FOR_LEADER_EPOCH: Schema = Schema {
    flexible_since: 4,
    fields: &[
        Field::new("ReplicaId", Int32).since(3),
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("Topic", String),
                Field::new(
                    "Partitions",
                    Array(&Struct(&[
                        Field::new("Partition", Int32),
                        Field::new("CurrentLeaderEpoch", Int32),
                        Field::new("LeaderEpoch", Int32),
                    ])),
                ),
            ])),
        ),
    ],
};

pub(crate) static DELETE_RECORDS: Schema = Schema {
    flexible_since: 2,
    fields: &[
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("Name", String),
                Field::new(
                    "Partitions",
                    Array(&Struct(&[Field::new("PartitionIndex", Int32), Field::new("Offset", Int64)])),
                ),
            ])),
        ),
        Field::new("TimeoutMs", Int32),
    ],
};

pub(crate) static DESCRIBE_CONFIGS: Schema = Schema {
    flexible_since: 4,
    fields: &[
        Field::new(
            "Resources",
            Array(&Struct(&[
                Field::new("ResourceType", Int8),
                Field::new("ResourceName", String),
                Field::new("ConfigurationKeys", Array(&String)).nullable(0),
            ])),
        ),
        Field::new("IncludeSynonyms", Bool),
        Field::new("IncludeDocumentation", Bool).since(3),
    ],
};

pub(crate) static INCREMENTAL_ALTER_CONFIGS: Schema = Schema {
    flexible_since: 1,
    fields: &[
        Field::new(
            "Resources",
            Array(&Struct(&[
                Field::new("ResourceType", Int8),
                Field::new("ResourceName", String),
                Field::new(
                    "Configs",
                    Array(&Struct(&[
                        Field::new("Name", String),
                        Field::new("ConfigOperation", Int8),
                        Field::new("Value", String).nullable(0),
                    ])),
                ),
            ])),
        ),
        Field::new("ValidateOnly", Bool),
    ],
};

pub(crate) static DESCRIBE_CLUSTER: Schema = Schema {
    flexible_since: 0,
    fields: &[
        Field::new("IncludeClusterAuthorizedOperations", Bool),
        Field::new("EndpointType", Int8).since(1),
        Field::new("IncludeFencedBrokers", Bool).since(2),
    ],
};

pub(crate) static DESCRIBE_TOPIC_PARTITIONS: Schema = Schema {
    flexible_since: 0,
    fields: &[
        Field::new("Topics", Array(&Struct(&[Field::new("Name", String)]))),
        Field::new("ResponsePartitionLimit", Int32),
        Field::new("Cursor", Struct(&[Field::new("TopicName", String), Field::new("PartitionIndex", Int32)]))
            .nullable(0),
    ],
};

pub(crate) static DESCRIBE_LOG_DIRS: Schema = Schema {
    flexible_since: 2,
    fields: &[Field::new(
        "Topics",
        Array(&Struct(&[Field::new("Topic", String), Field::new("Partitions", Array(&Int32))])),
    )
    .nullable(0)],
};
