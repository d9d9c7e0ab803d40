//! Zig-zag variable-length integers of the record format (as protobuf's `sint32` and `sint64`).

use bytes::BufMut;

/// Most bytes that a value takes.
pub const MAX_BYTES: usize = 10;

/// The bytes of `value`, and how many they are.
#[inline]
pub(crate) fn encode(value: i64) -> ([u8; MAX_BYTES], usize) {
    let mut bits = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let mut encoded = [0; MAX_BYTES];
    let mut len = 0;
    while bits >= 0x80 {
        encoded[len] = (bits & 0x7f) as u8 | 0x80;
        bits >>= 7;
        len += 1;
    }
    encoded[len] = bits as u8;
    (encoded, len + 1)
}

/// Appends `value`.
pub fn write_i64(out: &mut impl BufMut, value: i64) {
    let (encoded, len) = encode(value);
    out.put_slice(&encoded[..len]);
}

/// Length in bytes of `value`.
#[must_use]
pub fn len_i64(value: i64) -> usize {
    let bits = ((value << 1) ^ (value >> 63)).cast_unsigned() | 1;
    (64 - bits.leading_zeros() as usize).div_ceil(7)
}

/// Reads a value of at most 64 bits from the front of `bytes` and moves past it. `None` if it is cut or too long.
#[inline]
pub fn read_i64(bytes: &mut &[u8]) -> Option<i64> {
    match bytes.split_first() {
        // Nearly all of them: deltas, lengths of short fields.
        Some((&byte, rest)) if byte & 0x80 == 0 => {
            *bytes = rest;
            Some(from_zigzag(byte.into()))
        }
        _ => read_long(bytes),
    }
}

fn read_long(bytes: &mut &[u8]) -> Option<i64> {
    let mut bits: u64 = 0;
    for (index, &byte) in bytes.iter().enumerate().take(MAX_BYTES) {
        if index == MAX_BYTES - 1 && byte > 1 {
            return None;
        }
        bits |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Some(from_zigzag(bits));
        }
    }
    None
}

fn from_zigzag(bits: u64) -> i64 {
    (bits >> 1).cast_signed() ^ -((bits & 1).cast_signed())
}

/// Reads a value of at most 32 bits from the front of `bytes` and moves past it. `None` if it is cut or too long.
pub fn read_i32(bytes: &mut &[u8]) -> Option<i32> {
    let mut rest = *bytes;
    let value = i32::try_from(read_i64(&mut rest)?).ok()?;
    *bytes = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_round_trip_at_every_length() {
        let mut values = vec![0, -1, 1, i64::MIN, i64::MAX];
        for shift in 0..63 {
            values.extend([1 << shift, -(1 << shift), (1 << shift) - 1]);
        }
        for value in values {
            let mut out = Vec::new();
            write_i64(&mut out, value);
            assert_eq!(out.len(), len_i64(value), "{value}");
            let mut rest = &out[..];
            assert_eq!(read_i64(&mut rest), Some(value));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn cut_and_overlong_values_are_refused() {
        assert_eq!(read_i64(&mut &[0x80][..]), None);
        assert_eq!(read_i64(&mut &[0xff; 11][..]), None);
        let mut out = Vec::new();
        write_i64(&mut out, i64::from(i32::MAX) + 1);
        assert_eq!(read_i32(&mut &out[..]), None);
    }
}
