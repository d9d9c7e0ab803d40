//! Reads decisions and numbers from the fuzzer's bytes; when they are used up, zeros.

/// Bytes that are left.
#[derive(Debug, Clone)]
pub(crate) struct Source<'a> {
    rest: &'a [u8],
}

impl<'a> Source<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Source { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.bytes(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// At most `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Bytes with their length before them, in one byte or, from 128 on, two.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let first = usize::from(self.u8());
        let len = if first < 0x80 { first } else { (first & 0x7f) << 8 | usize::from(self.u8()) };
        self.bytes(len)
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// A number that is mostly small, and now and then at the edge of what 64 bits can say.
    pub(crate) fn number(&mut self) -> u64 {
        match self.u8() {
            0xff => u64::MAX,
            0xfe => i64::MAX.cast_unsigned(),
            0xfd => u64::from_be_bytes(self.array()),
            0xfc => u32::MAX.into(),
            0xfb => u32::from_be_bytes(self.array()).into(),
            0xf0..=0xfa => self.u16().into(),
            small => small.into(),
        }
    }
}

/// Writes what [`Source::piece`] reads.
pub(crate) fn put_piece(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = bytes.len();
    assert!(len < 0x8000, "a piece is short");
    if len < 0x80 {
        out.push(len as u8);
    } else {
        out.extend([(len >> 8) as u8 | 0x80, (len & 0xff) as u8]);
    }
    out.extend(bytes);
}
