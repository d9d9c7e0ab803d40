//! What a broker writes about itself: its start, blocks of producer ids, snapshots.

use std::ops::Range;

use highwater_model::{BrokerId, ProducerId};

use crate::error::MetadataError;
use crate::image::{Broker, MetadataImage};
use crate::record::Record;

/// A broker starts: it registers, and raises the leader epoch of every partition that it leads, so that a tail which
/// was lost with the power never comes back under the same epoch with other records. Durable before anything is served.
#[must_use]
pub fn start(broker_id: BrokerId, broker: Broker) -> Vec<Record> {
    vec![Record::RegisterBroker { broker_id, broker }, Record::RaiseEpochs { broker_id }]
}

/// Gives away the next `count` producer ids: the record, and the ids. Durable before any of them is used.
///
/// # Errors
/// [`MetadataError::Exhausted`], after 2⁶³ ids.
pub fn allocate_producer_ids(
    image: &MetadataImage,
    count: u16,
) -> Result<(Vec<Record>, Range<i64>), MetadataError> {
    let first = image.next_producer_id().0;
    let end = first.checked_add(count.into()).ok_or(MetadataError::Exhausted("producer ids are used up"))?;
    Ok((vec![Record::ProducerIds { next: ProducerId(end) }], first..end))
}

/// Records that the log may hold before a snapshot is due, beyond what the snapshot itself would take.
const SNAPSHOT_SLACK_RECORDS: u64 = 10_000;

/// Whether the log has grown so far beyond the image that a snapshot should replace it.
#[must_use]
pub fn is_snapshot_due(image: &MetadataImage, records_in_log: u64) -> bool {
    let image_records = image.partition_count() + image.topic_count();
    records_in_log > SNAPSHOT_SLACK_RECORDS + 2 * image_records as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producer_ids_are_given_away_once() {
        let mut image = MetadataImage::default();
        let (records, first) = allocate_producer_ids(&image, 1000).expect("there are enough");
        records.iter().for_each(|record| image.apply(record).expect("fits"));
        let (_, second) = allocate_producer_ids(&image, 1000).expect("there are enough");
        assert_eq!((first, second), (0..1000, 1000..2000));
    }

    #[test]
    fn producer_ids_run_out_with_an_error() {
        let mut image = MetadataImage::default();
        image.apply(&Record::ProducerIds { next: ProducerId(i64::MAX - 5) }).expect("fits");
        assert!(allocate_producer_ids(&image, 1000).is_err());
    }
}
