//! Records that tell who wrote them and whether they are whole.

use anyhow::{Result, ensure};

/// Size of every record.
pub const RECORD_BYTES: usize = 1024;
/// Writer, number, checksum.
const HEADER_BYTES: usize = 4 + 8 + 4;
const POOL_BYTES: usize = 256 << 10;

/// Who wrote a record, and as its how-many-th.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    pub writer: u32,
    pub number: u64,
}

impl Id {
    pub const BYTES: usize = 12;

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.writer.to_le_bytes());
        bytes[4..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let (writer, number) = bytes.split_at(4);
        Id {
            writer: u32::from_le_bytes(writer.try_into().expect("4 bytes")),
            number: u64::from_le_bytes(number.try_into().expect("8 bytes")),
        }
    }
}

/// Makes records; the same for every engine.
pub struct Maker {
    pool: Vec<u8>,
    writer: u32,
    number: u64,
}

impl Maker {
    pub fn new(writer: u32) -> Self {
        // Marsaglia's xorshift64*: no compressor finds anything in it.
        let mut state = 0x9e37_79b9_7f4a_7c15 ^ (u64::from(writer) << 32);
        let mut pool = Vec::with_capacity(POOL_BYTES);
        while pool.len() < POOL_BYTES {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            pool.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        Maker { pool, writer, number: 0 }
    }

    /// Puts the next record into `record`.
    pub fn next(&mut self, record: &mut Vec<u8>) -> Id {
        let id = Id { writer: self.writer, number: self.number };
        self.number += 1;
        let body_bytes = RECORD_BYTES - HEADER_BYTES;
        // A stride that is no divisor of the pool: long before it repeats, the number differs.
        let at = (id.number as usize).wrapping_mul(4099) % (POOL_BYTES - body_bytes);
        record.clear();
        record.extend_from_slice(&id.to_bytes());
        record.extend_from_slice(&[0; 4]);
        record.extend_from_slice(&self.pool[at..at + body_bytes]);
        let checksum = checksum(record);
        record[Id::BYTES..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        id
    }
}

fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..Id::BYTES]), &record[HEADER_BYTES..])
}

/// Whose record it is, if it is whole.
pub fn check(record: &[u8]) -> Result<Id> {
    ensure!(record.len() == RECORD_BYTES, "a record of {} bytes", record.len());
    let id = Id::from_bytes(record.first_chunk().expect("long enough"));
    let stored = u32::from_le_bytes(record[Id::BYTES..HEADER_BYTES].try_into().expect("4 bytes"));
    ensure!(stored == checksum(record), "{id:?} is damaged");
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_whole_and_damage_is_seen() {
        let mut maker = Maker::new(3);
        let mut record = Vec::new();
        for number in 0..10_000 {
            let id = maker.next(&mut record);
            assert_eq!((id.writer, id.number), (3, number));
            assert_eq!(check(&record).expect("whole"), id);
            record[500] ^= 1;
            assert!(check(&record).is_err());
        }
    }
}
