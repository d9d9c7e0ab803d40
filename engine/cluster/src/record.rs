//! Records of the metadata log, and their bytes.
//!
//! Each is the value of one Kafka record (without a key) in the log's one partition; what one decision makes is one
//! batch, and so happens whole or not at all.
//!
//! ```text
//!   byte 0   type
//!   byte 1   version of the type's layout: 0, or 1 where the table has a field that version 0 has not, and it is not empty
//!   then     the fields, in the order of the table
//! ```
//!
//! | type | name | fields |
//! |---|---|---|
//! | 1 | topic | topic id, name |
//! | 2 | partition | topic id, partition, replicas [], in-sync replicas [], leader, leader epoch, partition epoch; from version 1 on: directories [], one a replica |
//! | 3 | remove topic | topic id |
//! | 4 | config | resource, name, value? |
//! | 5 | producer ids | next producer id |
//! | 6 | raise epochs | broker id |
//! | 7 | register broker | broker id, incarnation id, host, port, rack?; from version 1 on: log directories [] of (directory id, path) |
//! | 8 | begin snapshot | |
//! | 9 | end snapshot | |
//!
//! Numbers are zig-zag varints; ids 16 bytes; a string or list has its length or count before it; `?` has a byte 0 or 1
//! before it; a resource is a byte 0 (topic), 1 (broker), 2 (all brokers), then the name or the broker id.
//!
//! A reader refuses types and versions that it does not know, and bytes that are left over: metadata that is half
//! understood is worse than none.

use highwater_model::{
    BrokerId, DirectoryId, LeaderEpoch, PartitionIndex, ProducerId, TopicId, TopicPartition, varint,
};

use crate::image::{Broker, ConfigResource, LogDir, PartitionState};

/// A change to the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A topic exists; its partitions follow.
    Topic {
        /// Id.
        topic_id: TopicId,
        /// Name.
        name: String,
    },
    /// A partition exists, and is in this state.
    Partition {
        /// Which one.
        id: TopicPartition,
        /// Its state.
        state: PartitionState,
    },
    /// A topic and everything of it is gone for good; its partitions on disk may be removed.
    RemoveTopic {
        /// Which one.
        topic_id: TopicId,
    },
    /// A setting is overridden, or no more.
    Config {
        /// What it is set on.
        resource: ConfigResource,
        /// Name of the setting.
        name: String,
        /// Its value; `None` removes the override.
        value: Option<String>,
    },
    /// Every producer id below this one is given away.
    ProducerIds {
        /// Exclusive.
        next: ProducerId,
    },
    /// Every partition that this broker leads has a leader epoch one higher.
    RaiseEpochs {
        /// The leader.
        broker_id: BrokerId,
    },
    /// A broker is part of the cluster, under this address.
    RegisterBroker {
        /// Its id.
        broker_id: BrokerId,
        /// The rest.
        broker: Broker,
    },
    /// What follows, up to the end, is the whole image; what came before no longer counts.
    BeginSnapshot,
    /// The snapshot is whole.
    EndSnapshot,
}

/// Bytes that are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A type or version from the future.
    #[error(
        "metadata record of type {kind} version {version} is not known: was this written by a newer Highwater?"
    )]
    Unknown {
        /// Type.
        kind: u8,
        /// Version.
        version: u8,
    },
    /// Cut, too long or out of range.
    #[error("metadata record of type {kind} is not well formed: {field}")]
    Malformed {
        /// Type.
        kind: u8,
        /// The field that does not fit.
        field: &'static str,
    },
}

mod kind {
    pub(super) const TOPIC: u8 = 1;
    pub(super) const PARTITION: u8 = 2;
    pub(super) const REMOVE_TOPIC: u8 = 3;
    pub(super) const CONFIG: u8 = 4;
    pub(super) const PRODUCER_IDS: u8 = 5;
    pub(super) const RAISE_EPOCHS: u8 = 6;
    pub(super) const REGISTER_BROKER: u8 = 7;
    pub(super) const BEGIN_SNAPSHOT: u8 = 8;
    pub(super) const END_SNAPSHOT: u8 = 9;
}

const RESOURCE_TOPIC: u8 = 0;
const RESOURCE_BROKER: u8 = 1;
const RESOURCE_ALL_BROKERS: u8 = 2;

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Record::Topic { .. } => kind::TOPIC,
            Record::Partition { .. } => kind::PARTITION,
            Record::RemoveTopic { .. } => kind::REMOVE_TOPIC,
            Record::Config { .. } => kind::CONFIG,
            Record::ProducerIds { .. } => kind::PRODUCER_IDS,
            Record::RaiseEpochs { .. } => kind::RAISE_EPOCHS,
            Record::RegisterBroker { .. } => kind::REGISTER_BROKER,
            Record::BeginSnapshot => kind::BEGIN_SNAPSHOT,
            Record::EndSnapshot => kind::END_SNAPSHOT,
        }
    }

    /// The lowest version that has everything: whoever has one log directory writes what was always written.
    fn version(&self) -> u8 {
        let has_more = match self {
            Record::Partition { state, .. } => !state.directories.is_empty(),
            Record::RegisterBroker { broker, .. } => !broker.log_dirs.is_empty(),
            _ => false,
        };
        has_more.into()
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder(vec![self.kind(), self.version()]);
        match self {
            Record::Topic { topic_id, name } => {
                out.topic_id(*topic_id);
                out.string(name);
            }
            Record::Partition { id, state } => {
                out.topic_id(id.topic_id);
                out.number(id.partition.0);
                out.brokers(&state.replicas);
                out.brokers(&state.in_sync_replicas);
                out.number(state.leader.0);
                out.number(state.leader_epoch.0);
                out.number(state.partition_epoch);
                if self.version() > 0 {
                    out.length(state.directories.len());
                    state.directories.iter().for_each(|id| out.directory_id(*id));
                }
            }
            Record::RemoveTopic { topic_id } => out.topic_id(*topic_id),
            Record::Config { resource, name, value } => {
                out.resource(resource);
                out.string(name);
                out.optional(value.as_deref());
            }
            Record::ProducerIds { next } => out.number(next.0),
            Record::RaiseEpochs { broker_id } => out.number(broker_id.0),
            Record::RegisterBroker { broker_id, broker } => {
                out.number(broker_id.0);
                out.0.extend_from_slice(broker.incarnation_id.as_bytes());
                out.string(&broker.host);
                out.number(broker.port);
                out.optional(broker.rack.as_deref());
                if self.version() > 0 {
                    out.length(broker.log_dirs.len());
                    for dir in &broker.log_dirs {
                        out.directory_id(dir.id);
                        out.string(&dir.path);
                    }
                }
            }
            Record::BeginSnapshot | Record::EndSnapshot => {}
        }
        out.0
    }

    /// From its bytes.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let &[kind, version, ref rest @ ..] = bytes else {
            return Err(RecordError::Malformed { kind: 0, field: "header" });
        };
        let newest = match kind {
            kind::PARTITION | kind::REGISTER_BROKER => 1,
            _ => 0,
        };
        if version > newest {
            return Err(RecordError::Unknown { kind, version });
        }
        let mut from = Decoder { kind, version, rest };
        let record = match kind {
            kind::TOPIC => Record::Topic { topic_id: from.topic_id()?, name: from.string("name")? },
            kind::PARTITION => from.partition()?,
            kind::REMOVE_TOPIC => Record::RemoveTopic { topic_id: from.topic_id()? },
            kind::CONFIG => Record::Config {
                resource: from.resource()?,
                name: from.string("name")?,
                value: from.optional("value")?,
            },
            kind::PRODUCER_IDS => Record::ProducerIds { next: ProducerId(from.number("next producer id")?) },
            kind::RAISE_EPOCHS => Record::RaiseEpochs { broker_id: BrokerId(from.number("broker id")?) },
            kind::REGISTER_BROKER => from.broker()?,
            kind::BEGIN_SNAPSHOT => Record::BeginSnapshot,
            kind::END_SNAPSHOT => Record::EndSnapshot,
            _ => return Err(RecordError::Unknown { kind, version }),
        };
        if from.rest.is_empty() { Ok(record) } else { Err(from.malformed("bytes left over")) }
    }
}

struct Encoder(Vec<u8>);

impl Encoder {
    fn number(&mut self, value: impl Into<i64>) {
        varint::write_i64(&mut self.0, value.into());
    }

    fn length(&mut self, length: usize) {
        self.number(i64::try_from(length).expect("lengths of metadata fit 63 bits"));
    }

    fn topic_id(&mut self, id: TopicId) {
        self.0.extend_from_slice(id.as_bytes());
    }

    fn directory_id(&mut self, id: DirectoryId) {
        self.0.extend_from_slice(id.0.as_bytes());
    }

    fn string(&mut self, text: &str) {
        self.length(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn optional(&mut self, text: Option<&str>) {
        self.0.push(text.is_some().into());
        if let Some(text) = text {
            self.string(text);
        }
    }

    fn brokers(&mut self, brokers: &[BrokerId]) {
        self.length(brokers.len());
        for broker in brokers {
            self.number(broker.0);
        }
    }

    fn resource(&mut self, resource: &ConfigResource) {
        match resource {
            ConfigResource::Topic(name) => {
                self.0.push(RESOURCE_TOPIC);
                self.string(name);
            }
            ConfigResource::Broker(id) => {
                self.0.push(RESOURCE_BROKER);
                self.number(id.0);
            }
            ConfigResource::AllBrokers => self.0.push(RESOURCE_ALL_BROKERS),
        }
    }
}

struct Decoder<'a> {
    kind: u8,
    version: u8,
    rest: &'a [u8],
}

impl Decoder<'_> {
    fn malformed(&self, field: &'static str) -> RecordError {
        RecordError::Malformed { kind: self.kind, field }
    }

    fn number<T: TryFrom<i64>>(&mut self, field: &'static str) -> Result<T, RecordError> {
        let value = varint::read_i64(&mut self.rest).ok_or_else(|| self.malformed(field))?;
        T::try_from(value).map_err(|_| self.malformed(field))
    }

    fn take(&mut self, length: usize, field: &'static str) -> Result<&[u8], RecordError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.malformed(field))?;
        self.rest = rest;
        Ok(taken)
    }

    fn uuid(&mut self, field: &'static str) -> Result<uuid::Uuid, RecordError> {
        let malformed = self.malformed(field);
        uuid::Uuid::from_slice(self.take(16, field)?).map_err(|_| malformed)
    }

    fn topic_id(&mut self) -> Result<TopicId, RecordError> {
        self.uuid("topic id").map(TopicId)
    }

    fn directory_id(&mut self) -> Result<DirectoryId, RecordError> {
        self.uuid("directory id").map(DirectoryId)
    }

    /// A list that the version has, and that is not empty there.
    fn list<T>(
        &mut self,
        field: &'static str,
        item: impl Fn(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        if self.version == 0 {
            return Ok(Vec::new());
        }
        let count: usize = self.number(field)?;
        if count == 0 || count > self.rest.len() {
            return Err(self.malformed(field));
        }
        (0..count).map(|_| item(self)).collect()
    }

    fn string(&mut self, field: &'static str) -> Result<String, RecordError> {
        let length = self.number(field)?;
        let malformed = self.malformed(field);
        let text = std::str::from_utf8(self.take(length, field)?).map_err(|_| malformed)?;
        Ok(text.to_owned())
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, RecordError> {
        Ok(self.take(1, field)?[0])
    }

    fn optional(&mut self, field: &'static str) -> Result<Option<String>, RecordError> {
        match self.byte(field)? {
            0 => Ok(None),
            1 => self.string(field).map(Some),
            _ => Err(self.malformed(field)),
        }
    }

    fn brokers(&mut self, field: &'static str) -> Result<Vec<BrokerId>, RecordError> {
        let count: usize = self.number(field)?;
        if count > self.rest.len() {
            return Err(self.malformed(field));
        }
        (0..count).map(|_| self.number(field).map(BrokerId)).collect()
    }

    fn resource(&mut self) -> Result<ConfigResource, RecordError> {
        match self.byte("resource")? {
            RESOURCE_TOPIC => Ok(ConfigResource::Topic(self.string("resource")?)),
            RESOURCE_BROKER => Ok(ConfigResource::Broker(BrokerId(self.number("resource")?))),
            RESOURCE_ALL_BROKERS => Ok(ConfigResource::AllBrokers),
            _ => Err(self.malformed("resource")),
        }
    }

    fn partition(&mut self) -> Result<Record, RecordError> {
        let topic_id = self.topic_id()?;
        let partition = PartitionIndex(self.number("partition")?);
        let state = PartitionState {
            replicas: self.brokers("replicas")?,
            in_sync_replicas: self.brokers("in-sync replicas")?,
            leader: BrokerId(self.number("leader")?),
            leader_epoch: LeaderEpoch(self.number("leader epoch")?),
            partition_epoch: self.number("partition epoch")?,
            directories: self.list("directories", Decoder::directory_id)?,
        };
        if self.version > 0 && state.directories.len() != state.replicas.len() {
            return Err(self.malformed("directories"));
        }
        Ok(Record::Partition { id: TopicPartition { topic_id, partition }, state })
    }

    fn broker(&mut self) -> Result<Record, RecordError> {
        let broker_id = BrokerId(self.number("broker id")?);
        let broker = Broker {
            incarnation_id: self.uuid("incarnation id")?,
            host: self.string("host")?,
            port: self.number("port")?,
            rack: self.optional("rack")?,
            log_dirs: self.list("log directories", |from| {
                Ok(LogDir { id: from.directory_id()?, path: from.string("path")? })
            })?,
        };
        Ok(Record::RegisterBroker { broker_id, broker })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Record> {
        let topic_id = TopicId(uuid::Uuid::from_u128(0x1234_5678));
        let state = PartitionState {
            replicas: vec![BrokerId(1), BrokerId(300)],
            in_sync_replicas: vec![BrokerId(1)],
            leader: BrokerId(1),
            leader_epoch: LeaderEpoch(7),
            partition_epoch: 9,
            directories: Vec::new(),
        };
        let assigned = state.clone().with_directory(BrokerId(300), DirectoryId(uuid::Uuid::from_u128(9)));
        let broker = Broker {
            incarnation_id: uuid::Uuid::from_u128(5),
            host: "127.0.0.1".to_owned(),
            port: 9092,
            rack: Some("a".to_owned()),
            log_dirs: Vec::new(),
        };
        let log_dirs = vec![
            LogDir { id: DirectoryId(uuid::Uuid::from_u128(9)), path: "/a".to_owned() },
            LogDir { id: DirectoryId(uuid::Uuid::from_u128(10)), path: String::new() },
        ];
        let with_dirs = Broker { log_dirs, ..broker.clone() };
        vec![
            Record::Topic { topic_id, name: "orders".to_owned() },
            Record::Partition { id: TopicPartition { topic_id, partition: PartitionIndex(3) }, state },
            Record::Partition {
                id: TopicPartition { topic_id, partition: PartitionIndex(4) },
                state: assigned,
            },
            Record::RegisterBroker { broker_id: BrokerId(2), broker: with_dirs },
            Record::RemoveTopic { topic_id },
            Record::Config {
                resource: ConfigResource::Topic("orders".to_owned()),
                name: "flush.messages".to_owned(),
                value: Some("1".to_owned()),
            },
            Record::Config {
                resource: ConfigResource::Broker(BrokerId(4)),
                name: "x".to_owned(),
                value: None,
            },
            Record::Config {
                resource: ConfigResource::AllBrokers,
                name: "x".to_owned(),
                value: Some(String::new()),
            },
            Record::ProducerIds { next: ProducerId(1 << 40) },
            Record::RaiseEpochs { broker_id: BrokerId(1) },
            Record::RegisterBroker { broker_id: BrokerId(1), broker },
            Record::BeginSnapshot,
            Record::EndSnapshot,
        ]
    }

    #[test]
    fn every_record_survives_the_round_trip() {
        for record in examples() {
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn layout_is_the_documented_one() {
        let topic_id = TopicId(uuid::Uuid::from_u128(1));
        let bytes = Record::Topic { topic_id, name: "ab".to_owned() }.encode();
        assert_eq!(bytes, [&[1, 0][..], topic_id.as_bytes(), &[4], b"ab"].concat());
        assert_eq!(Record::RaiseEpochs { broker_id: BrokerId(-1) }.encode(), [6, 0, 1]);
    }

    #[test]
    fn version_1_is_written_only_with_what_version_0_has_not() {
        let versions = |wanted: u8| examples().iter().filter(|record| record.encode()[1] == wanted).count();
        assert_eq!((versions(0), versions(1)), (examples().len() - 2, 2));
        let topic_id = TopicId(uuid::Uuid::from_u128(1));
        let state = PartitionState {
            replicas: vec![BrokerId(1)],
            in_sync_replicas: vec![BrokerId(1)],
            leader: BrokerId(1),
            leader_epoch: LeaderEpoch(2),
            partition_epoch: 3,
            directories: Vec::new(),
        };
        let partition = PartitionIndex(0);
        let record = |state| Record::Partition { id: TopicPartition { topic_id, partition }, state }.encode();
        let old = record(state.clone());
        let fields = [0, 2, 2, 2, 2, 2, 4, 6];
        assert_eq!(old, [&[2, 0][..], topic_id.as_bytes(), &fields].concat());
        let directory = DirectoryId(uuid::Uuid::from_u128(7));
        let new = record(state.with_directory(BrokerId(1), directory));
        assert_eq!(new, [&[2, 1][..], &old[2..], &[2], directory.0.as_bytes()].concat());
    }

    #[test]
    fn cut_records_and_records_from_the_future_are_refused() {
        for record in examples() {
            let bytes = record.encode();
            for length in 0..bytes.len() {
                assert!(Record::decode(&bytes[..length]).is_err(), "{record:?} cut at {length}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(Record::decode(&longer).is_err(), "{record:?} with a byte more");
            let newer = [&[bytes[0], 2], &bytes[2..]].concat();
            assert_eq!(Record::decode(&newer), Err(RecordError::Unknown { kind: bytes[0], version: 2 }));
        }
        assert_eq!(Record::decode(&[200, 0]), Err(RecordError::Unknown { kind: 200, version: 0 }));
    }
}
