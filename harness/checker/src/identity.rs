//! What a record's value carries, so that it can be recognised wherever it turns up.
//!
//! A value is a fixed header and a filler. Integers are big-endian, like the rest of Kafka's wire.
//!
//! ```text
//!  0        4        8               16       20       24       28        32               40               48
//!  ├ magic ─┼ crc32c ┼── run id ─────┼producer┼ topic ─┼partition┼ length ┼── sequence ────┼── sent at ─────┼─ filler …
//!  │ "HWR1" │        │     u64       │  u32   │  u32   │  u32    │  u32   │     u64        │  u64, ns       │
//! ```
//!
//! - `crc32c` is the CRC-32C of the whole value, header and filler, with these four bytes zero.
//! - `length` is the length of the whole value; a value cut or grown on its way does not decode.
//! - `sequence` counts from 0 within one producer and partition, without gaps.
//! - `sent at` is the *intended* send time on the harness's monotonic clock.
//! - The filler is a seeded stream that no compressor can shrink, unless the workload asks for one
//!   it can: the first `zero_percent` of it are zeros then.
//!
//! The key, headers and timestamp of a record are not covered.

use crate::units::{Nanos, PartitionId, ProducerId, RunId};
use thiserror::Error;

/// Length of the header in bytes, and so the least length of a value.
pub const HEADER_LEN: usize = 48;

const MAGIC: [u8; 4] = *b"HWR1";
const CRC_RANGE: std::ops::Range<usize> = 4..8;

/// Who a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The run that made it.
    pub run: RunId,
    /// The producer that sent it.
    pub producer: ProducerId,
    /// Where it was sent.
    pub partition: PartitionId,
    /// Its number within (producer, partition), from 0 without gaps.
    pub sequence: u64,
    /// When it should have been sent.
    pub sent_at: Nanos,
    /// Length of the whole value in bytes, at least [`HEADER_LEN`].
    pub value_len: u32,
}

/// What follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filler {
    /// How much of the filler is zeros, in per cent (0 to 100); the rest does not compress.
    pub zero_percent: u8,
}

impl Filler {
    /// A filler that does not compress.
    pub const INCOMPRESSIBLE: Self = Self { zero_percent: 0 };
}

/// The buffer does not fit the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a value of {stated} bytes cannot be written into {actual} bytes (at least {HEADER_LEN})")]
pub struct EncodeError {
    stated: u32,
    actual: usize,
}

/// Why bytes are not a record of this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Nothing of ours: another magic.
    #[error("not a record of any run: {len} bytes without the header's magic")]
    NotOurs {
        /// Length of the value in bytes.
        len: usize,
    },
    /// An intact record of another run.
    #[error("a record of run {:#x}", run.0)]
    OtherRun {
        /// The run that it names.
        run: RunId,
    },
    /// What was served is no record at all: a batch whose checksum is wrong, or a record in it that breaks its format.
    #[error("what was served cannot be read: {why}")]
    Unreadable {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The value begins like one of ours, and ends within the header.
    #[error("a record cut to {len} bytes, less than its header")]
    Truncated {
        /// Length of the value in bytes.
        len: usize,
    },
    /// The value was cut or grown.
    #[error("a record of {stated} bytes is {actual} bytes long")]
    Length {
        /// What the header says, if it can be believed.
        stated: u32,
        /// What was read.
        actual: usize,
    },
    /// A byte changed.
    #[error("the header's CRC-32C is {stored:#010x}, the value's is {computed:#010x}")]
    Checksum {
        /// The CRC in the header.
        stored: u32,
        /// The CRC of the bytes read.
        computed: u32,
    },
}

impl DecodeError {
    /// Whether this was a record of ours once (corrupt), rather than one of somebody else (foreign).
    #[must_use]
    pub const fn is_corrupt(&self) -> bool {
        matches!(
            self,
            Self::Unreadable { .. } | Self::Truncated { .. } | Self::Length { .. } | Self::Checksum { .. }
        )
    }
}

impl Identity {
    /// Fills `value`, whose length must be `value_len`.
    ///
    /// # Errors
    /// [`EncodeError`] if the length differs or leaves no room for the header.
    pub fn encode(&self, value: &mut [u8], filler: Filler) -> Result<(), EncodeError> {
        if value.len() != self.value_len as usize || value.len() < HEADER_LEN {
            return Err(EncodeError { stated: self.value_len, actual: value.len() });
        }
        let (header, rest) = value.split_at_mut(HEADER_LEN);
        header[..4].copy_from_slice(&MAGIC);
        header[CRC_RANGE].fill(0);
        header[8..16].copy_from_slice(&self.run.0.to_be_bytes());
        header[16..20].copy_from_slice(&self.producer.0.to_be_bytes());
        header[20..24].copy_from_slice(&self.partition.topic.to_be_bytes());
        header[24..28].copy_from_slice(&self.partition.partition.to_be_bytes());
        header[28..32].copy_from_slice(&self.value_len.to_be_bytes());
        header[32..40].copy_from_slice(&self.sequence.to_be_bytes());
        header[40..48].copy_from_slice(&self.sent_at.0.to_be_bytes());
        let zeros = rest.len() * usize::from(filler.zero_percent.min(100)) / 100;
        let (zeroed, random) = rest.split_at_mut(zeros);
        zeroed.fill(0);
        fill_random(random, self.seed());
        let crc = crc32c::crc32c(value);
        value[CRC_RANGE].copy_from_slice(&crc.to_be_bytes());
        Ok(())
    }

    /// Reads the identity back from a record's value.
    ///
    /// # Errors
    /// [`DecodeError`], which tells a foreign record from a corrupt one.
    pub fn decode(value: &[u8], run: RunId) -> Result<Self, DecodeError> {
        let len = value.len();
        if !value.starts_with(&MAGIC) {
            return Err(DecodeError::NotOurs { len });
        }
        let header = value.first_chunk::<HEADER_LEN>().ok_or(DecodeError::Truncated { len })?;
        let identity = Self {
            run: RunId(u64_at(header, 8)),
            producer: ProducerId(u32_at(header, 16)),
            partition: PartitionId { topic: u32_at(header, 20), partition: u32_at(header, 24) },
            sequence: u64_at(header, 32),
            sent_at: Nanos(u64_at(header, 40)),
            value_len: u32_at(header, 28),
        };
        if identity.value_len as usize != value.len() {
            return Err(DecodeError::Length { stated: identity.value_len, actual: value.len() });
        }
        let stored = u32_at(header, CRC_RANGE.start);
        let computed = crc_of(value);
        if stored != computed {
            return Err(DecodeError::Checksum { stored, computed });
        }
        if identity.run != run {
            return Err(DecodeError::OtherRun { run: identity.run });
        }
        Ok(identity)
    }

    /// A seed of the filler that no two records of a run share.
    fn seed(&self) -> u64 {
        let place = u64::from(self.partition.topic) << 32 | u64::from(self.partition.partition);
        [u64::from(self.producer.0), place, self.sequence]
            .iter()
            .fold(self.run.0, |seed, part| mix(seed ^ part))
    }
}

/// CRC-32C of a value with the four bytes of the stored CRC read as zero.
fn crc_of(value: &[u8]) -> u32 {
    let before = crc32c::crc32c(&value[..CRC_RANGE.start]);
    let zeroed = crc32c::crc32c_append(before, &[0; 4]);
    crc32c::crc32c_append(zeroed, &value[CRC_RANGE.end..])
}

fn u32_at(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

fn u64_at(header: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from(u32_at(header, at)) << 32 | u64::from(u32_at(header, at + 4))
}

/// The finaliser of SplitMix64: a bijection whose output shows no pattern of its input.
const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// SplitMix64 over the buffer: every 8 bytes depend on the counter alone, so they pipeline.
fn fill_random(buffer: &mut [u8], seed: u64) {
    let mut counter = seed;
    let mut chunks = buffer.chunks_exact_mut(8);
    for chunk in &mut chunks {
        chunk.copy_from_slice(&mix(counter).to_le_bytes());
        counter = counter.wrapping_add(0x9E37_79B9_7F4A_7C15);
    }
    let tail = chunks.into_remainder();
    let last = mix(counter).to_le_bytes();
    tail.copy_from_slice(&last[..tail.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunId = RunId(0x1234_5678_9ABC_DEF0);

    fn identity(value_len: u32) -> Identity {
        Identity {
            run: RUN,
            producer: ProducerId(7),
            partition: PartitionId { topic: 1, partition: 300 },
            sequence: 1 << 40,
            sent_at: Nanos(987_654_321),
            value_len,
        }
    }

    fn encoded(value_len: u32) -> Vec<u8> {
        let mut value = vec![0xAA; value_len as usize];
        identity(value_len).encode(&mut value, Filler::INCOMPRESSIBLE).unwrap();
        value
    }

    #[test]
    fn identity_round_trips_at_every_length() {
        for len in (HEADER_LEN as u32)..=130 {
            assert_eq!(Identity::decode(&encoded(len), RUN), Ok(identity(len)));
        }
    }

    #[test]
    fn identity_bytes_are_the_documented_layout() {
        let value = encoded(48);
        assert_eq!(&value[..4], b"HWR1");
        assert_eq!(&value[8..16], &[0x12, 0x34, 0x56, 0x78, 0x9A, 0xBC, 0xDE, 0xF0]);
        assert_eq!(&value[16..32], &[0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 1, 44, 0, 0, 0, 48]);
        assert_eq!(&value[32..40], &[0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(&value[40..48], &987_654_321u64.to_be_bytes());
    }

    #[test]
    fn encode_of_wrong_length_is_refused() {
        assert!(identity(64).encode(&mut [0; 63], Filler::INCOMPRESSIBLE).is_err());
        assert!(identity(47).encode(&mut [0; 47], Filler::INCOMPRESSIBLE).is_err());
    }

    #[test]
    fn decode_of_any_flipped_bit_is_never_ok() {
        let value = encoded(96);
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = Identity::decode(&damaged, RUN).expect_err("a flipped bit went unseen");
            assert_eq!(error.is_corrupt(), bit >= 32, "bit {bit}: {error}");
        }
    }

    #[test]
    fn decode_of_cut_or_grown_value_is_corrupt() {
        let mut value = encoded(96);
        for len in 4..96 {
            assert!(Identity::decode(&value[..len], RUN).unwrap_err().is_corrupt(), "{len}");
        }
        value.push(0);
        assert!(Identity::decode(&value, RUN).unwrap_err().is_corrupt());
    }

    #[test]
    fn decode_of_other_bytes_is_foreign() {
        assert_eq!(Identity::decode(b"", RUN), Err(DecodeError::NotOurs { len: 0 }));
        assert_eq!(Identity::decode(&[0; 100], RUN), Err(DecodeError::NotOurs { len: 100 }));
        let other = Identity::decode(&encoded(64), RunId(1));
        assert_eq!(other, Err(DecodeError::OtherRun { run: RUN }));
        assert!(!other.unwrap_err().is_corrupt());
    }

    #[test]
    fn filler_share_of_zeros_is_as_asked() {
        for (percent, expected) in [(0, 0), (50, 500), (100, 1000), (200, 1000)] {
            let mut value = vec![1; HEADER_LEN + 1000];
            let who = identity(value.len() as u32);
            who.encode(&mut value, Filler { zero_percent: percent }).unwrap();
            let zeros = value[HEADER_LEN..].iter().take_while(|byte| **byte == 0).count();
            assert!(zeros.abs_diff(expected) <= 2, "{percent} %: {zeros} zeros");
            assert_eq!(Identity::decode(&value, RUN), Ok(who));
        }
    }

    #[test]
    fn filler_bytes_are_near_uniform_and_differ_between_records() {
        let mut counts = [0u32; 256];
        let mut value = vec![0; HEADER_LEN + 4096];
        let mut fillers = std::collections::BTreeSet::new();
        for sequence in 0..64 {
            let who = Identity { sequence, ..identity(value.len() as u32) };
            who.encode(&mut value, Filler::INCOMPRESSIBLE).unwrap();
            value[HEADER_LEN..].iter().for_each(|byte| counts[usize::from(*byte)] += 1);
            assert!(fillers.insert(value[HEADER_LEN..].to_vec()));
        }
        assert!(counts.iter().all(|count| (800..1250).contains(count)), "{counts:?}");
    }
}
