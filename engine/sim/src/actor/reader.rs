//! The final read: every partition from log start to log end, over the wire, by a fresh connection. It shows every
//! record; what the record is, the checker decides.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use highwater_checker::{Identity, Nanos};
use highwater_client::IsolationLevel;
use highwater_client::admin::{
    ConfigResource, DescribeCluster, DescribeConfigs, ListOffsets, OffsetSpec, Target,
};
use highwater_io::Io;
use highwater_model::PartitionIndex;
use highwater_model::batch::{self, BATCH_HEADER_BYTES};
use highwater_model::compression::Compression;
use highwater_model::record::{self, RecordView};
use highwater_protocol::ErrorCode;
use highwater_protocol::messages::FetchRequest;
use highwater_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use highwater_protocol::messages::fetch_response::PartitionData;

use super::Stagehand;
use super::admin::BROKER;
use crate::wire::{Connection, Gone, topic_name};

const MAX_BYTES: i32 = 64 << 10;
const MAX_WAIT_MS: i32 = 20;
/// A batch does not decompress to more than this.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// So many fetches in a row without a new record, although the broker says that there are more.
const MAX_EMPTY_FETCHES: u32 = 50;

/// Reads of a partition until two are equal. Nobody writes: compaction comes to an end, and so does retention.
const MAX_READS: u32 = 100;

/// The header in which a tombstone carries what is the value of any other record.
pub(super) const IDENTITY_HEADER: &str = "identity";

/// What a partition holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PartitionContent {
    pub(crate) log_start: i64,
    pub(crate) log_end: i64,
    /// Offset, and what is there: a record of this run, or other bytes.
    pub(crate) records: Vec<(i64, Result<Identity, Vec<u8>>)>,
}

/// What a broker holds.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// Names of the topics, with their numbers of partitions.
    pub(crate) topics: BTreeMap<String, u32>,
    /// By topic name and partition.
    pub(crate) partitions: BTreeMap<(String, u32), PartitionContent>,
    /// Settings in effect, by topic name and setting.
    pub(crate) settings: BTreeMap<(String, String), String>,
    /// When the last record was read.
    pub(crate) read_at: Nanos,
}

/// Why there is no final read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the connection ended while everything was read")]
    Gone,
    #[error("{what}: {code}")]
    Refused { what: String, code: ErrorCode },
    #[error("{topic}-{partition} is another at every read, though nobody writes")]
    Restless { topic: String, partition: u32 },
    #[error("{topic}-{partition} gives nothing at offset {offset}, though its log ends at {end}")]
    Stuck { topic: String, partition: u32, offset: i64, end: i64 },
}

impl From<Gone> for ReadError {
    fn from(_: Gone) -> Self {
        ReadError::Gone
    }
}

/// Where a reader leaves what it found.
pub(crate) type Found<T> = Rc<RefCell<Option<Result<T, ReadError>>>>;

/// Reads everything.
pub(crate) async fn read_everything(io: Io, hand: Stagehand, found: Found<Content>) {
    let content = read(&io, &hand).await;
    *found.borrow_mut() = Some(content);
}

async fn read(io: &Io, hand: &Stagehand) -> Result<Content, ReadError> {
    let mut connection = Connection::open(io, hand.address).await;
    let mut content = Content::default();
    let everything = DescribeCluster { topics: None, target: Target::Any };
    for topic in connection.operate(9, &everything).await?.topics {
        let refused = |code| ReadError::Refused { what: format!("metadata of {}", topic.name), code };
        let count = topic.partitions.map_err(refused)?.len();
        content.topics.insert(topic.name, u32::try_from(count).expect("few partitions"));
    }
    for (topic, count) in content.topics.clone() {
        for partition in 0..count {
            let read = read_settled(&mut connection, hand, &topic, partition).await?;
            content.partitions.insert((topic.clone(), partition), read);
        }
        let describe = DescribeConfigs { resource: ConfigResource::Topic(topic.clone()) };
        let refused = |error: highwater_client::admin::ItemError| ReadError::Refused {
            what: format!("settings of {topic}"),
            code: error.code,
        };
        let entries = connection.operate(4, &describe).await?.map_err(refused)?;
        let values = entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
        content.settings.extend(values.map(|(name, value)| ((topic.clone(), name), value)));
    }
    content.read_at = hand.books.clock.now();
    Ok(content)
}

/// Reads a partition, if compaction is at work until two reads show the same. A read that takes longer than
/// `delete.retention.ms` may see values and then miss the tombstone that took them, as Kafka says; at rest it may not.
async fn read_settled(
    connection: &mut Connection,
    hand: &Stagehand,
    topic: &str,
    partition: u32,
) -> Result<PartitionContent, ReadError> {
    let mut content = read_partition(connection, hand, topic, partition).await?;
    if hand.scenario.compacted.is_none() {
        return Ok(content);
    }
    for _ in 0..MAX_READS {
        let again = read_partition(connection, hand, topic, partition).await?;
        if again == content {
            return Ok(content);
        }
        content = again;
    }
    Err(ReadError::Restless { topic: topic.to_owned(), partition })
}

async fn read_partition(
    connection: &mut Connection,
    hand: &Stagehand,
    topic: &str,
    partition: u32,
) -> Result<PartitionContent, ReadError> {
    let log_start = list_offset(connection, topic, partition, OffsetSpec::Earliest).await?;
    let log_end = list_offset(connection, topic, partition, OffsetSpec::Latest).await?;
    let mut content = PartitionContent { log_start, log_end, records: Vec::new() };
    let (mut next, mut empty_fetches) = (log_start, 0);
    while next < log_end {
        let data = fetch(connection, topic, partition, next, MAX_BYTES).await?;
        if ErrorCode(data.error_code) == ErrorCode::OFFSET_OUT_OF_RANGE {
            let log_start = list_offset(connection, topic, partition, OffsetSpec::Earliest).await?;
            if log_start > next {
                // Retention was faster: the log begins anew.
                next = log_start;
                content = PartitionContent { log_start, log_end, records: Vec::new() };
                continue;
            }
        }
        if data.error_code != 0 {
            let what = format!("fetch of {topic}-{partition} at {next}");
            return Err(ReadError::Refused { what, code: ErrorCode(data.error_code) });
        }
        let before = next;
        let end = values(data.records.as_deref().unwrap_or_default(), |offset, value| {
            if (before..log_end).contains(&offset) {
                let record = Identity::decode(value, hand.books.run).map_err(|_| value.to_vec());
                content.records.push((offset, record));
            }
        });
        next = next.max(end.unwrap_or(next));
        empty_fetches = if next > before { 0 } else { empty_fetches + 1 };
        if empty_fetches > MAX_EMPTY_FETCHES {
            let (topic, end) = (topic.to_owned(), log_end);
            return Err(ReadError::Stuck { topic, partition, offset: next, end });
        }
    }
    Ok(content)
}

async fn list_offset(
    connection: &mut Connection,
    topic: &str,
    partition: u32,
    spec: OffsetSpec,
) -> Result<i64, ReadError> {
    let ask = ListOffsets {
        leader: BROKER,
        topic: topic.to_owned(),
        partitions: vec![(PartitionIndex(partition.cast_signed()), spec)],
        isolation_level: IsolationLevel::ReadUncommitted,
    };
    let listed = connection.operate(5, &ask).await?;
    let what = || format!("offsets of {topic}-{partition}");
    let unknown = Err(ErrorCode::UNKNOWN_SERVER_ERROR);
    let listed = listed.first().map_or(unknown, |(_, result)| *result);
    let listed = listed.map_err(|code| ReadError::Refused { what: what(), code })?;
    Ok(listed.offset.map_or(-1, |offset| offset.0))
}

/// Ends of all logs of the topics that stay, as (topic, partition, end).
pub(crate) async fn read_ends(io: Io, hand: Stagehand, found: Found<Vec<(u32, u32, i64)>>) {
    let mut connection = Connection::open(&io, hand.address).await;
    let mut ends = Vec::new();
    let mut failure = None;
    for (topic, &partitions) in (0..).zip(&hand.scenario.partitions) {
        let name = super::steady_topic(topic as usize);
        for partition in 0..partitions {
            match list_offset(&mut connection, &name, partition, OffsetSpec::Latest).await {
                Ok(end) => ends.push((topic, partition, end)),
                // It may not have been created yet.
                Err(ReadError::Refused { code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, .. }) => {}
                Err(error) => failure = Some(error),
            }
        }
    }
    *found.borrow_mut() = Some(failure.map_or(Ok(ends), Err));
}

/// One fetch of one partition.
pub(super) async fn fetch(
    connection: &mut Connection,
    topic: &str,
    partition: u32,
    offset: i64,
    max_bytes: i32,
) -> Result<PartitionData, Gone> {
    let partition = FetchPartition::default()
        .with_partition(partition.cast_signed())
        .with_fetch_offset(offset)
        .with_partition_max_bytes(max_bytes);
    let topic = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_wait_ms(MAX_WAIT_MS)
        .with_min_bytes(1)
        .with_max_bytes(max_bytes)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let mut response = connection.call(11, &request).await?;
    let data = response.responses.pop().and_then(|mut topic| topic.partitions.pop());
    Ok(data.unwrap_or_default())
}

/// Shows every record's value; gives the offset after the last batch, if there is one. Of a batch that is damaged it shows the bytes, at the batch's first offset: they are no
/// record of the run, and the checker will say so.
pub(super) fn values(bytes: &[u8], mut show: impl FnMut(i64, &[u8])) -> Option<i64> {
    let mut end = None;
    // A batch that was cut at the end of a response comes whole in the next one.
    for (at, header) in batch::headers(bytes).map_while(Result::ok) {
        let bytes = &bytes[at..at + header.size_bytes];
        end = Some(header.last_offset().0 + 1);
        let payload = batch::verify(bytes).ok().and_then(|header| {
            let payload = &bytes[BATCH_HEADER_BYTES..];
            match header.compression().ok()? {
                Compression::None => Some(Cow::Borrowed(payload)),
                codec => codec.decompress(payload, MAX_BATCH_BYTES).ok().map(Cow::Owned),
            }
        });
        let Some(payload) = payload else {
            show(header.base_offset.0, bytes);
            continue;
        };
        for record in record::records(&payload).map_while(Result::ok) {
            show(header.base_offset.0 + i64::from(record.offset_delta), identity_of(&record));
        }
    }
    end
}

/// The bytes that say who a record is.
fn identity_of<'a>(record: &RecordView<'a>) -> &'a [u8] {
    let header = || {
        let mut headers = record.headers().map_while(Result::ok);
        headers.find(|(name, _)| *name == IDENTITY_HEADER.as_bytes())?.1
    };
    record.value.or_else(header).unwrap_or_default()
}
