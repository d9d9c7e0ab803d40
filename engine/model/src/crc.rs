//! CRC-32C (Castagnoli), in hardware where the processor has it.

/// Checksum of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// Checksum of what `crc` covers followed by `bytes`.
#[must_use]
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, bytes)
}

/// Checksum of two parts in sequence from theirs and the length of the second: no byte is read again.
#[must_use]
pub fn combine(first: u32, second: u32, second_len: usize) -> u32 {
    ::crc32c::crc32c_combine(first, second, second_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combine_equals_append() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for split in [0, 1, 21, 61, 4096, 9_999, 10_000] {
            let (first, second) = bytes.split_at(split);
            assert_eq!(combine(crc32c(first), crc32c(second), second.len()), crc32c(&bytes));
            assert_eq!(append(crc32c(first), second), crc32c(&bytes));
        }
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
    }
}
