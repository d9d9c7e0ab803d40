//! The integers of the checker, each a type of its own.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One run of the harness; a record of another run is foreign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId(pub u64);

/// A producer of the run, dense from 0. Not Kafka's `producer_id`: it outlives a new session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProducerId(pub u32);

/// Nanoseconds of the harness's monotonic clock since the run began, or a span of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nanos(pub u64);

impl Nanos {
    /// A span of whole milliseconds, saturating.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// The span since `earlier`, zero if that lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// In seconds.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl fmt::Display for Nanos {
    /// A unit that leaves one to three digits before the point, and three digits in all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What would be rounded up to 1000 has a larger unit.
        let (scaled, unit) = match self.0 {
            0 => return f.write_str("0 s"),
            1..1_000 => (self.0 as f64, "ns"),
            1_000..999_500 => (self.0 as f64 / 1e3, "µs"),
            999_500..999_500_000 => (self.0 as f64 / 1e6, "ms"),
            _ => (self.0 as f64 / 1e9, "s"),
        };
        let decimals = if scaled < 9.995 { 2 } else { usize::from(scaled < 99.95) };
        write!(f, "{scaled:.decimals$} {unit}")
    }
}

/// A record's number in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Offset(pub i64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition as the workload numbers it: topics in the order in which it declares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    /// Index of the topic in the workload.
    pub topic: u32,
    /// Kafka's partition number within the topic.
    pub partition: u32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A partition's place in the run's [`Layout`], dense from 0, so that lookups are array accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionIndex(pub(crate) u32);

impl PartitionIndex {
    /// As an index of a vector with one element for each partition of the layout.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// The topics and partitions of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// For each topic the index of its first partition, and the total at the end.
    first: Vec<u32>,
}

impl Layout {
    /// A layout from the number of partitions of each topic. At most 2³² − 1 partitions in all.
    ///
    /// # Panics
    /// If the total does not fit.
    #[must_use]
    pub fn new(partitions_by_topic: &[u32]) -> Self {
        let mut first = Vec::with_capacity(partitions_by_topic.len() + 1);
        let mut total = 0u32;
        first.push(0);
        for count in partitions_by_topic {
            total = total.checked_add(*count).expect("more than 2^32 partitions");
            first.push(total);
        }
        Self { first }
    }

    /// The number of partitions of all topics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.first.last().map_or(0, |total| *total as usize)
    }

    /// Whether there is no partition at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The place of a partition, if the layout has it.
    #[must_use]
    pub fn index(&self, id: PartitionId) -> Option<PartitionIndex> {
        let topic = id.topic as usize;
        let (start, end) = (*self.first.get(topic)?, *self.first.get(topic + 1)?);
        let index = start.checked_add(id.partition)?;
        (index < end).then_some(PartitionIndex(index))
    }

    /// The name of the partition at a place.
    ///
    /// # Panics
    /// If the index came from a larger layout.
    #[must_use]
    pub fn id(&self, index: PartitionIndex) -> PartitionId {
        let topic = self.first.partition_point(|first| *first <= index.0) - 1;
        assert!(topic + 1 < self.first.len(), "partition index {} of another layout", index.0);
        PartitionId { topic: topic as u32, partition: index.0 - self.first[topic] }
    }

    /// All places in order.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionIndex> + use<> {
        (0..self.len() as u32).map(PartitionIndex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_index_and_id_are_inverse_and_reject_strangers() {
        let layout = Layout::new(&[2, 0, 3]);
        assert_eq!(layout.len(), 5);
        for index in layout.partitions() {
            assert_eq!(layout.index(layout.id(index)), Some(index));
        }
        assert_eq!(layout.id(PartitionIndex(2)), PartitionId { topic: 2, partition: 0 });
        for (topic, partition) in [(0, 2), (1, 0), (3, 0), (2, u32::MAX)] {
            assert_eq!(layout.index(PartitionId { topic, partition }), None);
        }
    }

    #[test]
    fn nanos_display_keeps_three_digits() {
        let shown = [0, 999, 1_500, 12_345_678, 987_654_321, 7_004_000_000, 61_000_000_000];
        let texts: Vec<String> = shown.iter().map(|n| Nanos(*n).to_string()).collect();
        assert_eq!(texts, ["0 s", "999 ns", "1.50 µs", "12.3 ms", "988 ms", "7.00 s", "61.0 s"]);
    }

    #[test]
    fn nanos_display_keeps_three_digits_where_rounding_reaches_the_next_unit() {
        let shown = [999_499, 999_500, 999_999, 999_499_999, 999_600_000, 9_994_000, 9_996_000, 99_960_000];
        let texts: Vec<String> = shown.iter().map(|n| Nanos(*n).to_string()).collect();
        assert_eq!(
            texts,
            ["999 µs", "1.00 ms", "1.00 ms", "999 ms", "1.00 s", "9.99 ms", "10.0 ms", "100 ms"]
        );
    }
}
