//! What replay gathers for a segment before it writes: pieces from the journal, joined to runs that begin at a block.

use std::collections::VecDeque;
use std::path::PathBuf;

use bytes::{Buf, Bytes};
use highwater_io::{IO_ALIGNMENT, IoBuf};
use highwater_model::Offset;

use crate::error::OpenError;
use crate::recovery::replay::PENDING_BYTES;

/// Bytes that go to one place of one segment.
pub(super) struct Piece {
    pub(super) segment_base: Offset,
    pub(super) position_bytes: u64,
    pub(super) bytes: Bytes,
}

impl Piece {
    pub(super) fn end_bytes(&self) -> u64 {
        self.position_bytes + self.bytes.len() as u64
    }
}

/// Bytes of pieces that follow each other, from the start of a block.
pub(super) struct Run {
    pub(super) start_bytes: u64,
    parts: Vec<Bytes>,
    len_bytes: u64,
}

impl Run {
    pub(super) fn begin(first: &Piece, written: Option<(Offset, u64, Bytes)>) -> Result<Self, OpenError> {
        let mut run = Run { start_bytes: first.position_bytes, parts: Vec::new(), len_bytes: 0 };
        if !first.position_bytes.is_multiple_of(IO_ALIGNMENT as u64) {
            // Only a piece that goes on where this replay wrote before may begin inside a block.
            let block = written
                .filter(|(base, end, _)| *base == first.segment_base && *end == first.position_bytes)
                .map(|(_, _, block)| block);
            let Some(block) = block else {
                return Err(OpenError::Damaged {
                    path: PathBuf::from(format!("segment {}", first.segment_base)),
                    position_bytes: first.position_bytes,
                    what: "the journal goes on inside a block that it does not repeat".to_owned(),
                });
            };
            run.start_bytes -= block.len() as u64;
            run.push(block);
        }
        run.push(first.bytes.clone());
        Ok(run)
    }

    fn push(&mut self, bytes: Bytes) {
        self.len_bytes += bytes.len() as u64;
        self.parts.push(bytes);
    }

    pub(super) fn end_bytes(&self) -> u64 {
        self.start_bytes + self.len_bytes
    }

    /// Whether `next` goes on here, or repeats the last block and goes on.
    pub(super) fn accepts(&self, next: &Piece) -> bool {
        self.len_bytes < PENDING_BYTES as u64
            && next.position_bytes <= self.end_bytes()
            && next.position_bytes >= self.start_bytes
            && next.end_bytes() >= self.end_bytes()
    }

    pub(super) fn add(&mut self, next: &Piece) {
        let mut repeated = self.end_bytes() - next.position_bytes;
        self.len_bytes -= repeated;
        while repeated > 0 {
            let last = self.parts.last_mut().expect("inside the run");
            let keep = (last.len() as u64).saturating_sub(repeated);
            repeated -= last.len() as u64 - keep;
            last.truncate(usize::try_from(keep).expect("no longer than it was"));
            if last.is_empty() {
                self.parts.pop();
            }
        }
        self.push(next.bytes.clone());
    }

    pub(super) fn into_parts(self) -> Parts {
        Parts { rest: self.parts.into(), len_bytes: self.len_bytes }
    }
}

/// The bytes of a run on their way into buffers.
pub(super) struct Parts {
    rest: VecDeque<Bytes>,
    len_bytes: u64,
}

impl Parts {
    /// What is behind the last whole block, a copy.
    pub(super) fn last_block(&self) -> Bytes {
        let wanted = usize::try_from(self.len_bytes % IO_ALIGNMENT as u64).expect("less than a block");
        let mut tail: Vec<Bytes> = Vec::new();
        let mut missing = wanted;
        for part in self.rest.iter().rev() {
            if missing == 0 {
                break;
            }
            let take = missing.min(part.len());
            tail.push(part.slice(part.len() - take..));
            missing -= take;
        }
        tail.reverse();
        tail.concat().into()
    }

    /// Moves as much into `buf` as it has room for.
    pub(super) fn fill(&mut self, buf: &mut IoBuf) {
        while let Some(part) = self.rest.front_mut() {
            let take = part.len().min(buf.remaining());
            buf.extend_from_slice(&part[..take]);
            part.advance(take);
            if !part.is_empty() {
                return;
            }
            self.rest.pop_front();
        }
    }
}
