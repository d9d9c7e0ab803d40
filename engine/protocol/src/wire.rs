//! Writes the primitive types of the protocol, compact or not.

use bytes::{BufMut, BytesMut};

/// Appends fields of a message in one version.
///
/// A length that its field cannot say does not panic, since it may come from a peer: it is remembered, and the message
/// must not be sent ([`overflowed`](Writer::overflowed)).
pub(crate) struct Writer {
    pub(crate) out: BytesMut,
    flexible: bool,
    overflowed: bool,
}

impl Writer {
    pub(crate) fn new(out: BytesMut, flexible: bool) -> Self {
        Writer { out, flexible, overflowed: false }
    }

    pub(crate) fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }

    /// Whether a length did not fit.
    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    fn fit<T: TryFrom<usize> + Default>(&mut self, length: usize) -> T {
        T::try_from(length).unwrap_or_else(|_| {
            self.overflowed = true;
            T::default()
        })
    }

    /// The length of what follows.
    fn length(&mut self, length: usize) {
        let length: i32 = self.fit(length);
        if self.flexible {
            self.unsigned_varint(length.cast_unsigned() + 1);
        } else {
            self.out.put_i32(length);
        }
    }

    /// Number of an array's elements, which follow.
    pub(crate) fn array(&mut self, count: usize) {
        self.length(count);
    }

    /// Length of record bytes, which follow.
    pub(crate) fn records(&mut self, size_bytes: usize) {
        self.length(size_bytes);
    }

    pub(crate) fn null_array(&mut self) {
        if self.flexible { self.out.put_u8(0) } else { self.out.put_i32(-1) }
    }

    pub(crate) fn string(&mut self, text: &str) {
        if self.flexible {
            self.length(text.len());
        } else {
            let length = self.fit(text.len());
            self.out.put_i16(length);
        }
        self.out.put_slice(text.as_bytes());
    }

    /// Number of tagged fields, which follow; nothing in versions without.
    pub(crate) fn tags(&mut self, count: u32) {
        if self.flexible {
            self.unsigned_varint(count);
        }
    }

    /// A tagged field whose content is `content`.
    pub(crate) fn tagged(&mut self, tag: u32, content: &[u8]) {
        self.unsigned_varint(tag);
        let length = self.fit(content.len());
        self.unsigned_varint(length);
        self.out.put_slice(content);
    }
}
