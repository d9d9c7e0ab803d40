//! A chunk: what is written of a segment at once, gathered from the hot tail.
//!
//! ```text
//!   hot tail   ┌ batch ─┬─ batch ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┬ batch ┬ batch ─ ─ ─ ─
//!   blocks        │     ·     │           │           │           │           │
//!   pieces        └── copied ─┴──────── as it lies ───┴─ copied ──────────────┴─ as it lies ─
//! ```
//!
//! A large batch was placed in its group so that its bytes lie in memory as in the segment (`Group::align`): its whole blocks
//! are written from there. Of all else, blocks that several batches share above all, whole blocks are copied together.

use std::rc::Rc;

use bytes::Bytes;
use highwater_io::{IO_ALIGNMENT, IoBuf};

use crate::partition::Live;
use crate::partition::segment::Segment;

/// A chunk ready to be written.
pub(super) struct Chunk {
    pub(super) segment: Rc<Segment>,
    pub(super) start_bytes: u64,
    /// Whole blocks, each at a block in memory.
    pub(super) pieces: Vec<Bytes>,
    /// Of all pieces.
    pub(super) len_bytes: usize,
    /// What is in the file when it completes.
    pub(super) written_bytes: u64,
    pub(super) settled: Bytes,
}

/// A chunk that is worth its write.
pub(super) struct Planned {
    pub(super) segment: Rc<Segment>,
    pub(super) start_bytes: u64,
    pub(super) end_bytes: u64,
}

impl Planned {
    /// Gathers the chunk, the last block padded with zeros. `buf` is empty, and has room for all of it.
    pub(super) fn gather(self, live: &Live, buf: IoBuf) -> Chunk {
        let Planned { segment, start_bytes, end_bytes } = self;
        let drain = &live.drain;
        let mut pieces = Gathered { pieces: Vec::new(), buf };
        pieces.buf.extend_from_slice(&drain.settled);
        let mut at = drain.written_bytes;
        for hot in live.tail.undrained() {
            let mut skip = usize::try_from(at.saturating_sub(hot.position_bytes)).expect("in a batch");
            for piece in &hot.chunks {
                let skipped = skip.min(piece.len());
                skip -= skipped;
                let left = usize::try_from(end_bytes - at).expect("bounded by a buffer");
                let end = piece.len().min(skipped.saturating_add(left));
                pieces.add(piece, skipped..end, at);
                at += (end - skipped) as u64;
            }
            if at == end_bytes {
                break;
            }
        }
        assert_eq!(at, end_bytes, "the tail has what was planned");
        let (pieces, settled) = pieces.finish();
        let len_bytes = pieces.iter().map(Bytes::len).sum();
        Chunk { segment, start_bytes, pieces, len_bytes, written_bytes: end_bytes, settled }
    }
}

/// Pieces of a chunk, as far as it is gathered.
struct Gathered {
    /// Whole blocks.
    pieces: Vec<Bytes>,
    /// What was copied since the last piece, and the memory for more.
    buf: IoBuf,
}

impl Gathered {
    /// Adds a range of `bytes`, which comes to lie at `position_bytes` of the segment.
    fn add(&mut self, bytes: &Bytes, range: std::ops::Range<usize>, position_bytes: u64) {
        let Some(whole) = whole_blocks(&bytes[range.clone()], position_bytes) else {
            self.buf.extend_from_slice(&bytes[range]);
            return;
        };
        let (start, end) = (range.start + whole.start, range.start + whole.end);
        self.buf.extend_from_slice(&bytes[range.start..start]);
        self.push_copied();
        self.pieces.push(bytes.slice(start..end));
        self.buf.extend_from_slice(&bytes[end..range.end]);
    }

    /// Makes a piece of what was copied, which ends at a block.
    fn push_copied(&mut self) {
        let copied = self.buf.len();
        debug_assert_eq!(copied % IO_ALIGNMENT, 0, "the next piece begins at a block");
        if copied > 0 {
            self.pieces.push(self.buf.split_to(copied).freeze());
        }
    }

    /// The pieces, and what the last block holds before its padding, if it has any.
    fn finish(mut self) -> (Vec<Bytes>, Bytes) {
        let partial = self.buf.len() % IO_ALIGNMENT;
        let settled = Bytes::copy_from_slice(&self.buf[self.buf.len() - partial..]);
        self.buf.pad_to(IO_ALIGNMENT);
        self.push_copied();
        (self.pieces, settled)
    }
}

/// The blocks of a segment that `bytes`, at `position_bytes`, fill, if they lie at blocks in memory.
fn whole_blocks(bytes: &[u8], position_bytes: u64) -> Option<std::ops::Range<usize>> {
    let block = IO_ALIGNMENT as u64;
    let start = (position_bytes.next_multiple_of(block) - position_bytes) as usize;
    let end = bytes.len().checked_sub(((position_bytes + bytes.len() as u64) % block) as usize)?;
    (start < end && bytes[start..].as_ptr().addr().is_multiple_of(IO_ALIGNMENT)).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that begin so far into a block of memory.
    fn bytes(len: usize, skew: usize) -> Bytes {
        let mut buf = IoBuf::with_capacity(skew + len + IO_ALIGNMENT);
        buf.extend_from_slice(&vec![0; skew]);
        let content: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
        buf.extend_from_slice(&content);
        buf.freeze().slice(skew..)
    }

    /// Gathers parts that follow each other from a block on; returns the lengths of the pieces.
    fn gather(parts: &[&Bytes]) -> Vec<usize> {
        let mut gathered = Gathered { pieces: Vec::new(), buf: IoBuf::with_capacity(64 * IO_ALIGNMENT) };
        let mut position = 10 * IO_ALIGNMENT as u64;
        for part in parts {
            gathered.add(part, 0..part.len(), position);
            position += part.len() as u64;
        }
        let (pieces, settled) = gathered.finish();
        let expected: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let found = pieces.concat();
        assert_eq!(found.len(), expected.len().next_multiple_of(IO_ALIGNMENT));
        assert_eq!(found[..expected.len()], expected);
        assert!(found[expected.len()..].iter().all(|&byte| byte == 0), "padded with zeros");
        assert_eq!(settled, expected[expected.len() / IO_ALIGNMENT * IO_ALIGNMENT..]);
        for piece in &pieces {
            assert!(
                piece.as_ptr().addr().is_multiple_of(IO_ALIGNMENT)
                    && piece.len().is_multiple_of(IO_ALIGNMENT)
            );
        }
        pieces.iter().map(Bytes::len).collect()
    }

    #[test]
    fn what_lies_right_is_not_copied_and_the_rest_is() {
        // As after `Group::align`: each lies in memory as at its position.
        let (first, second) = (bytes(5 * 4096 + 100, 0), bytes(4 * 4096, 100));
        assert_eq!(gather(&[&first, &second]), [5 * 4096, 4096, 3 * 4096, 4096]);
        let elsewhere = bytes(4 * 4096, 228);
        assert_eq!(gather(&[&first, &elsewhere]), [5 * 4096, 5 * 4096], "lies at no block");
        let short = bytes(4096, 100);
        assert_eq!(gather(&[&first, &short]), [5 * 4096, 2 * 4096], "fills no block");
        assert_eq!(gather(&[&bytes(100, 0)]), [4096]);
        assert_eq!(gather(&[&bytes(8192, 0)]), [8192]);
    }
}
