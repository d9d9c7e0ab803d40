//! The layouts of the responses that a client decodes, after Kafka's message definitions (`common/message/*.json` of
//! Apache Kafka 4.3). Only what the walker needs is kept; whether a field may be null is the codec's to check, so that
//! here every field that ever may be null is nullable in all versions.

use super::Type::{Array, Bool, Int8, Int16, Int32, Int64, Records, String, Struct, Uuid};
use super::{Field, Schema};

/// The layout of the response of this API key, if a client knows it.
pub(crate) fn of(api_key: i16) -> Option<&'static Schema> {
    Some(match api_key {
        0 => &PRODUCE,
        1 => &FETCH,
        2 => &LIST_OFFSETS,
        3 => &METADATA,
        18 => &API_VERSIONS,
        19 => &CREATE_TOPICS,
        20 => &DELETE_TOPICS,
        21 => &DELETE_RECORDS,
        22 => &INIT_PRODUCER_ID,
        23 => &OFFSET_FOR_LEADER_EPOCH,
        32 => &DESCRIBE_CONFIGS,
        35 => &DESCRIBE_LOG_DIRS,
        37 => &CREATE_PARTITIONS,
        43 => &ELECT_LEADERS,
        44 => &INCREMENTAL_ALTER_CONFIGS,
        60 => &DESCRIBE_CLUSTER,
        75 => &DESCRIBE_TOPIC_PARTITIONS,
        _ => return None,
    })
}

static PRODUCE: Schema = Schema {
    flexible_since: 9,
    fields: &[
        Field::new(
            "Responses",
            Array(&Struct(&[
                Field::new("Name", String).until(12),
                Field::new("TopicId", Uuid).since(13),
                Field::new(
                    "PartitionResponses",
                    Array(&Struct(&[
                        Field::new("Index", Int32),
                        Field::new("ErrorCode", Int16),
                        Field::new("BaseOffset", Int64),
                        Field::new("LogAppendTimeMs", Int64),
                        Field::new("LogStartOffset", Int64).since(5),
                        Field::new(
                            "RecordErrors",
                            Array(&Struct(&[
                                Field::new("BatchIndex", Int32).since(8),
                                Field::new("BatchIndexErrorMessage", String).since(8).nullable(0),
                            ])),
                        )
                        .since(8),
                        Field::new("ErrorMessage", String).since(8).nullable(0),
                        Field::new(
                            "CurrentLeader",
                            Struct(&[
                                Field::new("LeaderId", Int32).since(10),
                                Field::new("LeaderEpoch", Int32).since(10),
                            ]),
                        )
                        .since(10)
                        .tag(0),
                    ])),
                ),
            ])),
        ),
        Field::new("ThrottleTimeMs", Int32),
        Field::new(
            "NodeEndpoints",
            Array(&Struct(&[
                Field::new("NodeId", Int32).since(10),
                Field::new("Host", String).since(10),
                Field::new("Port", Int32).since(10),
                Field::new("Rack", String).since(10).nullable(0),
            ])),
        )
        .since(10)
        .tag(0),
    ],
};

static FETCH: Schema = Schema {
    flexible_since: 12,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new("ErrorCode", Int16).since(7),
        Field::new("SessionId", Int32).since(7),
        Field::new(
            "Responses",
            Array(&Struct(&[
                Field::new("Topic", String).until(12),
                Field::new("TopicId", Uuid).since(13),
                Field::new(
                    "Partitions",
                    Array(&Struct(&[
                        Field::new("PartitionIndex", Int32),
                        Field::new("ErrorCode", Int16),
                        Field::new("HighWatermark", Int64),
                        Field::new("LastStableOffset", Int64),
                        Field::new("LogStartOffset", Int64).since(5),
                        Field::new(
                            "AbortedTransactions",
                            Array(&Struct(&[
                                Field::new("ProducerId", Int64),
                                Field::new("FirstOffset", Int64),
                            ])),
                        )
                        .nullable(0),
                        Field::new("PreferredReadReplica", Int32).since(11),
                        Field::new("Records", Records).nullable(0),
                        Field::new(
                            "DivergingEpoch",
                            Struct(&[
                                Field::new("Epoch", Int32).since(12),
                                Field::new("EndOffset", Int64).since(12),
                            ]),
                        )
                        .since(12)
                        .tag(0),
                        Field::new(
                            "CurrentLeader",
                            Struct(&[
                                Field::new("LeaderId", Int32).since(12),
                                Field::new("LeaderEpoch", Int32).since(12),
                            ]),
                        )
                        .since(12)
                        .tag(1),
                        Field::new(
                            "SnapshotId",
                            Struct(&[Field::new("EndOffset", Int64), Field::new("Epoch", Int32)]),
                        )
                        .since(12)
                        .tag(2),
                    ])),
                ),
            ])),
        ),
        Field::new(
            "NodeEndpoints",
            Array(&Struct(&[
                Field::new("NodeId", Int32).since(16),
                Field::new("Host", String).since(16),
                Field::new("Port", Int32).since(16),
                Field::new("Rack", String).since(16).nullable(0),
            ])),
        )
        .since(16)
        .tag(0),
    ],
};

static LIST_OFFSETS: Schema = Schema {
    flexible_since: 6,
    fields: &[
        Field::new("ThrottleTimeMs", Int32).since(2),
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("Name", String),
                Field::new(
                    "Partitions",
                    Array(&Struct(&[
                        Field::new("PartitionIndex", Int32),
                        Field::new("ErrorCode", Int16),
                        Field::new("Timestamp", Int64),
                        Field::new("Offset", Int64),
                        Field::new("LeaderEpoch", Int32).since(4),
                    ])),
                ),
            ])),
        ),
    ],
};

static METADATA: Schema = Schema {
    flexible_since: 9,
    fields: &[
        Field::new("ThrottleTimeMs", Int32).since(3),
        Field::new(
            "Brokers",
            Array(&Struct(&[
                Field::new("NodeId", Int32),
                Field::new("Host", String),
                Field::new("Port", Int32),
                Field::new("Rack", String).since(1).nullable(0),
            ])),
        ),
        Field::new("ClusterId", String).since(2).nullable(0),
        Field::new("ControllerId", Int32).since(1),
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("ErrorCode", Int16),
                Field::new("Name", String).nullable(0),
                Field::new("TopicId", Uuid).since(10),
                Field::new("IsInternal", Bool).since(1),
                Field::new(
                    "Partitions",
                    Array(&Struct(&[
                        Field::new("ErrorCode", Int16),
                        Field::new("PartitionIndex", Int32),
                        Field::new("LeaderId", Int32),
                        Field::new("LeaderEpoch", Int32).since(7),
                        Field::new("ReplicaNodes", Array(&Int32)),
                        Field::new("IsrNodes", Array(&Int32)),
                        Field::new("OfflineReplicas", Array(&Int32)).since(5),
                    ])),
                ),
                Field::new("TopicAuthorizedOperations", Int32).since(8),
            ])),
        ),
        Field::new("ClusterAuthorizedOperations", Int32).since(8).until(10),
        Field::new("ErrorCode", Int16).since(13),
    ],
};

static API_VERSIONS: Schema = Schema {
    flexible_since: 3,
    fields: &[
        Field::new("ErrorCode", Int16),
        Field::new(
            "ApiKeys",
            Array(&Struct(&[
                Field::new("ApiKey", Int16),
                Field::new("MinVersion", Int16),
                Field::new("MaxVersion", Int16),
            ])),
        ),
        Field::new("ThrottleTimeMs", Int32).since(1),
        Field::new(
            "SupportedFeatures",
            Array(&Struct(&[
                Field::new("Name", String).since(3),
                Field::new("MinVersion", Int16).since(3),
                Field::new("MaxVersion", Int16).since(3),
            ])),
        )
        .since(3)
        .tag(0),
        Field::new("FinalizedFeaturesEpoch", Int64).since(3).tag(1),
        Field::new(
            "FinalizedFeatures",
            Array(&Struct(&[
                Field::new("Name", String).since(3),
                Field::new("MaxVersionLevel", Int16).since(3),
                Field::new("MinVersionLevel", Int16).since(3),
            ])),
        )
        .since(3)
        .tag(2),
        Field::new("ZkMigrationReady", Bool).since(3).tag(3),
    ],
};

static CREATE_TOPICS: Schema = Schema {
    flexible_since: 5,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("Name", String),
                Field::new("TopicId", Uuid).since(7),
                Field::new("ErrorCode", Int16),
                Field::new("ErrorMessage", String).nullable(0),
                Field::new("NumPartitions", Int32).since(5),
                Field::new("ReplicationFactor", Int16).since(5),
                Field::new(
                    "Configs",
                    Array(&Struct(&[
                        Field::new("Name", String).since(5),
                        Field::new("Value", String).since(5).nullable(0),
                        Field::new("ReadOnly", Bool).since(5),
                        Field::new("ConfigSource", Int8).since(5),
                        Field::new("IsSensitive", Bool).since(5),
                    ])),
                )
                .since(5)
                .nullable(0),
                Field::new("TopicConfigErrorCode", Int16).since(5).tag(0),
            ])),
        ),
    ],
};

static DELETE_TOPICS: Schema = Schema {
    flexible_since: 4,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new(
            "Responses",
            Array(&Struct(&[
                Field::new("Name", String).nullable(0),
                Field::new("TopicId", Uuid).since(6),
                Field::new("ErrorCode", Int16),
                Field::new("ErrorMessage", String).since(5).nullable(0),
            ])),
        ),
    ],
};

static CREATE_PARTITIONS: Schema = Schema {
    flexible_since: 2,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new(
            "Results",
            Array(&Struct(&[
                Field::new("Name", String),
                Field::new("ErrorCode", Int16),
                Field::new("ErrorMessage", String).nullable(0),
            ])),
        ),
    ],
};

static INIT_PRODUCER_ID: Schema = Schema {
    flexible_since: 2,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new("ErrorCode", Int16),
        Field::new("ProducerId", Int64),
        Field::new("ProducerEpoch", Int16),
        Field::new("OngoingTxnProducerId", Int64).since(6),
        Field::new("OngoingTxnProducerEpoch", Int16).since(6),
    ],
};

static DESCRIBE_CONFIGS: Schema = Schema {
    flexible_since: 4,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new(
            "Results",
            Array(&Struct(&[
                Field::new("ErrorCode", Int16),
                Field::new("ErrorMessage", String).nullable(0),
                Field::new("ResourceType", Int8),
                Field::new("ResourceName", String),
                Field::new(
                    "Configs",
                    Array(&Struct(&[
                        Field::new("Name", String),
                        Field::new("Value", String).nullable(0),
                        Field::new("ReadOnly", Bool),
                        Field::new("ConfigSource", Int8),
                        Field::new("IsSensitive", Bool),
                        Field::new(
                            "Synonyms",
                            Array(&Struct(&[
                                Field::new("Name", String),
                                Field::new("Value", String).nullable(0),
                                Field::new("Source", Int8),
                            ])),
                        ),
                        Field::new("ConfigType", Int8).since(3),
                        Field::new("Documentation", String).since(3).nullable(0),
                    ])),
                ),
            ])),
        ),
    ],
};

static INCREMENTAL_ALTER_CONFIGS: Schema = Schema {
    flexible_since: 1,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new(
            "Responses",
            Array(&Struct(&[
                Field::new("ErrorCode", Int16),
                Field::new("ErrorMessage", String).nullable(0),
                Field::new("ResourceType", Int8),
                Field::new("ResourceName", String),
            ])),
        ),
    ],
};

static DELETE_RECORDS: Schema = Schema {
    flexible_since: 2,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("Name", String),
                Field::new(
                    "Partitions",
                    Array(&Struct(&[
                        Field::new("PartitionIndex", Int32),
                        Field::new("LowWatermark", Int64),
                        Field::new("ErrorCode", Int16),
                    ])),
                ),
            ])),
        ),
    ],
};

static ELECT_LEADERS: Schema = Schema {
    flexible_since: 2,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new("ErrorCode", Int16).since(1),
        Field::new(
            "ReplicaElectionResults",
            Array(&Struct(&[
                Field::new("Topic", String),
                Field::new(
                    "PartitionResult",
                    Array(&Struct(&[
                        Field::new("PartitionId", Int32),
                        Field::new("ErrorCode", Int16),
                        Field::new("ErrorMessage", String).nullable(0),
                    ])),
                ),
            ])),
        ),
    ],
};

static OFFSET_FOR_LEADER_EPOCH: Schema = Schema {
    flexible_since: 4,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("Topic", String),
                Field::new(
                    "Partitions",
                    Array(&Struct(&[
                        Field::new("ErrorCode", Int16),
                        Field::new("Partition", Int32),
                        Field::new("LeaderEpoch", Int32),
                        Field::new("EndOffset", Int64),
                    ])),
                ),
            ])),
        ),
    ],
};

static DESCRIBE_CLUSTER: Schema = Schema {
    flexible_since: 0,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new("ErrorCode", Int16),
        Field::new("ErrorMessage", String).nullable(0),
        Field::new("EndpointType", Int8).since(1),
        Field::new("ClusterId", String),
        Field::new("ControllerId", Int32),
        Field::new(
            "Brokers",
            Array(&Struct(&[
                Field::new("BrokerId", Int32),
                Field::new("Host", String),
                Field::new("Port", Int32),
                Field::new("Rack", String).nullable(0),
                Field::new("IsFenced", Bool).since(2),
            ])),
        ),
        Field::new("ClusterAuthorizedOperations", Int32),
    ],
};

static DESCRIBE_LOG_DIRS: Schema = Schema {
    flexible_since: 2,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new("ErrorCode", Int16).since(3),
        Field::new(
            "Results",
            Array(&Struct(&[
                Field::new("ErrorCode", Int16),
                Field::new("LogDir", String),
                Field::new(
                    "Topics",
                    Array(&Struct(&[
                        Field::new("Name", String),
                        Field::new(
                            "Partitions",
                            Array(&Struct(&[
                                Field::new("PartitionIndex", Int32),
                                Field::new("PartitionSize", Int64),
                                Field::new("OffsetLag", Int64),
                                Field::new("IsFutureKey", Bool),
                            ])),
                        ),
                    ])),
                ),
                Field::new("TotalBytes", Int64).since(4),
                Field::new("UsableBytes", Int64).since(4),
            ])),
        ),
    ],
};

static DESCRIBE_TOPIC_PARTITIONS: Schema = Schema {
    flexible_since: 0,
    fields: &[
        Field::new("ThrottleTimeMs", Int32),
        Field::new(
            "Topics",
            Array(&Struct(&[
                Field::new("ErrorCode", Int16),
                Field::new("Name", String).nullable(0),
                Field::new("TopicId", Uuid),
                Field::new("IsInternal", Bool),
                Field::new(
                    "Partitions",
                    Array(&Struct(&[
                        Field::new("ErrorCode", Int16),
                        Field::new("PartitionIndex", Int32),
                        Field::new("LeaderId", Int32),
                        Field::new("LeaderEpoch", Int32),
                        Field::new("ReplicaNodes", Array(&Int32)),
                        Field::new("IsrNodes", Array(&Int32)),
                        Field::new("EligibleLeaderReplicas", Array(&Int32)).nullable(0),
                        Field::new("LastKnownElr", Array(&Int32)).nullable(0),
                        Field::new("OfflineReplicas", Array(&Int32)),
                    ])),
                ),
                Field::new("TopicAuthorizedOperations", Int32),
            ])),
        ),
        Field::new(
            "NextCursor",
            Struct(&[Field::new("TopicName", String), Field::new("PartitionIndex", Int32)]),
        )
        .nullable(0),
    ],
};
