//! Which partition a record goes to when the application does not say: by murmur2 of its key, as every Kafka client
//! does it, or else to one partition for about a batch's worth of bytes and then to another (KIP-794).

use highwater_model::PartitionIndex;

use crate::rng::Rng;

/// MurmurHash2 with Kafka's seed. Source: `org.apache.kafka.common.utils.Utils.murmur2`.
#[must_use]
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^= hash >> 15;
    hash.cast_signed()
}

/// The partition of a record with `key`, of a topic with `partition_count` (≥ 1) partitions.
#[must_use]
pub fn partition_for_key(key: &[u8], partition_count: i32) -> PartitionIndex {
    PartitionIndex((murmur2(key) & i32::MAX) % partition_count.max(1))
}

/// Where records without a key go at the moment.
#[derive(Debug, Default)]
pub(crate) struct Sticky {
    current: Option<PartitionIndex>,
    produced_bytes: usize,
}

impl Sticky {
    /// The current partition, or a new one chosen evenly from `available` if there is none.
    pub(crate) fn partition(
        &mut self,
        rng: &mut Rng,
        available: impl Fn() -> Vec<PartitionIndex>,
    ) -> Option<PartitionIndex> {
        if self.current.is_none() {
            let candidates = available();
            if candidates.is_empty() {
                return None;
            }
            self.current = Some(candidates[rng.below(candidates.len())]);
            self.produced_bytes = 0;
        }
        self.current
    }

    /// Counts bytes appended to the current partition, and leaves it after a batch's worth: at the end of a batch, or
    /// at the latest after two.
    pub(crate) fn on_appended(&mut self, bytes: usize, batch_size_bytes: usize, batch: BatchEnd) {
        self.produced_bytes += bytes;
        let enough = batch_size_bytes.max(1);
        if (self.produced_bytes >= enough && batch == BatchEnd::Ended) || self.produced_bytes >= 2 * enough {
            self.current = None;
        }
    }

    /// Leaves the current partition, which has lost its leader.
    pub(crate) fn leave(&mut self) {
        self.current = None;
    }

    pub(crate) fn current(&self) -> Option<PartitionIndex> {
        self.current
    }
}

/// Whether the batch that took a record can take another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchEnd {
    Open,
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_kafkas() {
        // Printed by Utils.murmur2 of Apache Kafka 4.3.0.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("", 275_646_681),
            ("a", -1_563_381_124),
            ("ab", 316_155_434),
            ("abc", 479_470_107),
            ("abcd", -1_323_649_548),
            ("abcde", 461_995_741),
            ("éÿ", -1_748_483_581),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
        assert_eq!(partition_for_key(b"21", 7), PartitionIndex((-973_932_308 & 0x7fff_ffff) % 7));
    }

    #[test]
    fn sticky_stays_for_a_batch_and_spreads_evenly() {
        let mut sticky = Sticky::default();
        let mut rng = Rng::new(3);
        let all = || (0..4).map(PartitionIndex).collect::<Vec<_>>();
        let mut batches = [0u32; 4];
        for _ in 0..4000 {
            let first = sticky.partition(&mut rng, all).expect("some");
            sticky.on_appended(600, 1000, BatchEnd::Open);
            assert_eq!(sticky.partition(&mut rng, all), Some(first), "stays within a batch");
            sticky.on_appended(600, 1000, BatchEnd::Ended);
            batches[usize::try_from(first.0).expect("small")] += 1;
        }
        assert!(batches.iter().all(|&count| (800..1200).contains(&count)), "{batches:?}");
        assert_eq!(sticky.partition(&mut rng, Vec::new), None, "nowhere to go");
    }
}
