//! One file of the strict directory: what readers see, what is durable, and the changes in between.
//!
//! ```text
//!   live      what a read returns
//!    │        ─ write, truncation, growth ─► a change at the end of `pending`
//!   pending   in the order in which they were made; some *settled*: durable by themselves, as O_DSYNC makes them
//!    │        ─ fsync ─► all that were made before it was asked for go to `base`
//!   base      what a cut leaves for certain
//! ```
//!
//! Invariant: `base` with all of `pending` applied is `live`. A cut applies a subset of it that holds every settled
//! change. Pages are shared between all versions of a file, so that a copy of a whole tree costs little.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::draw::{Draw, Fate, Manner, Pieces};

pub(crate) const PAGE: u64 = 4096;
pub(crate) const SECTOR: u64 = 512;

/// Position in the order of events, from 1.
pub(crate) type Number = u64;

/// The bytes of a file. Pages that are not there read as zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pages: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
    len: u64,
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that pages are held for.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// Reads without regard to the length.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) {
        for (within, piece) in pieces(offset, out.len()) {
            let part = &mut out[piece.clone()];
            match self.pages.get(&((offset + piece.start as u64) / PAGE)) {
                Some(page) => part.copy_from_slice(&page[within..within + part.len()]),
                None => part.fill(0),
            }
        }
    }

    /// Writes without regard to the length, which stays.
    pub(crate) fn patch(&mut self, offset: u64, data: &[u8]) {
        for (within, piece) in pieces(offset, data.len()) {
            let index = (offset + piece.start as u64) / PAGE;
            let part = &data[piece];
            if part.iter().all(|&byte| byte == 0) {
                if part.len() == PAGE as usize {
                    self.pages.remove(&index);
                    continue;
                }
                if !self.pages.contains_key(&index) {
                    continue;
                }
            }
            let page = self.pages.entry(index).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[within..within + part.len()].copy_from_slice(part);
        }
    }

    /// What lies beyond reads as zeros from now on. The length stays.
    fn clear_from(&mut self, len: u64) {
        drop(self.pages.split_off(&len.div_ceil(PAGE)));
        let within = (len % PAGE) as usize;
        if let Some(page) = self.pages.get_mut(&(len / PAGE)).filter(|_| within > 0) {
            Arc::make_mut(page)[within..].fill(0);
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.clear_from(len);
        }
        self.len = len;
    }

    /// Writes everything into a new, empty file.
    pub(crate) fn write_to(&self, file: &File) -> io::Result<()> {
        for (index, page) in &self.pages {
            file.write_all_at(&page[..], index * PAGE)?;
        }
        file.set_len(self.len)
    }
}

/// The parts of a range of `len` bytes at `offset` that lie in one page each: where in the page, and which bytes.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == len {
            return None;
        }
        let within = ((offset + at as u64) % PAGE) as usize;
        let end = len.min(at + PAGE as usize - within);
        let piece = at..end;
        at = end;
        Some((within, piece))
    })
}

#[derive(Debug, Clone)]
enum What {
    /// Whole sectors as they were after the write: a device is given no less.
    Data {
        offset: u64,
        data: Arc<[u8]>,
    },
    Length {
        len: u64,
        shrinks: bool,
    },
}

#[derive(Debug, Clone)]
struct Change {
    number: Number,
    settled: bool,
    what: What,
}

/// A file between its reader and its medium.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileState {
    live: Content,
    base: Content,
    pending: Vec<Change>,
}

impl FileState {
    /// A file that durably holds this.
    pub(crate) fn holding(content: Content) -> Self {
        FileState { live: content.clone(), base: content, pending: Vec::new() }
    }

    pub(crate) fn live(&self) -> &Content {
        &self.live
    }

    pub(crate) fn write(&mut self, number: Number, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        if end > self.live.len {
            self.set_len(number, end);
        }
        self.live.patch(offset, data);
        let start = offset / SECTOR * SECTOR;
        let mut sectors = vec![0; (end.next_multiple_of(SECTOR) - start) as usize];
        self.live.read(start, &mut sectors);
        self.push(number, What::Data { offset: start, data: sectors.into() });
    }

    pub(crate) fn set_len(&mut self, number: Number, len: u64) {
        let shrinks = len < self.live.len;
        self.live.set_len(len);
        self.push(number, What::Length { len, shrinks });
        let sector = len / SECTOR * SECTOR;
        if shrinks && len > sector {
            // The kernel zeroes the rest of the last sector and writes it.
            let mut data = vec![0; SECTOR as usize];
            self.live.read(sector, &mut data);
            self.push(number, What::Data { offset: sector, data: data.into() });
        }
    }

    fn push(&mut self, number: Number, what: What) {
        self.pending.push(Change { number, settled: false, what });
    }

    /// Makes one write durable, and of the others no more than is needed to find it: the length, where it lies beyond
    /// what is durable.
    pub(crate) fn settle(&mut self, number: Number) {
        let Some(at) = self.pending.iter().position(|change| change.number == number && change.is_data())
        else {
            return;
        };
        let end = self.pending[at].end();
        let earlier = &mut self.pending[..=at];
        let moves = |change: &Change| match change.what {
            What::Length { len, shrinks } => change.number == number || (shrinks && len < end),
            What::Data { .. } => false,
        };
        let durable_len =
            earlier.iter().filter(|change| change.settled).fold(self.base.len, Change::len_after);
        let all_len = earlier.iter().fold(self.base.len, Change::len_after);
        if earlier.iter().any(moves) || durable_len < end.min(all_len) {
            earlier.iter_mut().filter(|change| !change.is_data()).for_each(|change| change.settled = true);
        }
        earlier[at].settled = true;
        self.take_settled();
    }

    /// Makes everything durable that was done up to `upto`.
    pub(crate) fn flush(&mut self, upto: Number) {
        let count = self.pending.partition_point(|change| change.number <= upto);
        for change in self.pending.drain(..count) {
            change.apply(&mut self.base);
        }
        self.take_settled();
    }

    /// Nothing can come between what is durable and the settled changes that follow at once.
    fn take_settled(&mut self) {
        let count = self.pending.iter().take_while(|change| change.settled).count();
        for change in self.pending.drain(..count) {
            change.apply(&mut self.base);
        }
    }

    /// Numbers of the changes that a cut may lose.
    pub(crate) fn losable(&self) -> impl Iterator<Item = Number> + '_ {
        self.pending.iter().filter(|change| !change.settled).map(|change| change.number)
    }

    /// What is left when the power goes.
    pub(crate) fn survivor(&self, draw: &mut Draw, manner: Manner) -> Content {
        let mut survivor =
            Survivor { final_len: self.base.len, content: self.base.clone(), lost_from: u64::MAX };
        let lengths = || self.pending.iter().filter(|change| !change.is_data());
        let settled = lengths().filter(|change| change.settled).count();
        let drawn = draw.kept_lengths(manner, lengths().map(|change| change.number));
        // The inode is one thing: a beginning of the changes of length is kept.
        let mut lengths_left = drawn.max(settled);
        for change in &self.pending {
            match &change.what {
                What::Length { len, shrinks } => {
                    let kept = lengths_left > 0;
                    lengths_left = lengths_left.saturating_sub(1);
                    survivor.resize(*len, *shrinks, kept);
                }
                What::Data { offset, data } if change.settled => survivor.content.patch(*offset, data),
                What::Data { offset, data } => {
                    let fate = draw.fate(manner, change.number, data.len());
                    survivor.take(draw, fate, *offset, data);
                }
            }
        }
        survivor.content.len = u64::MAX;
        survivor.content.set_len(survivor.final_len);
        survivor.content
    }
}

impl Change {
    fn is_data(&self) -> bool {
        matches!(self.what, What::Data { .. })
    }

    fn end(&self) -> u64 {
        match &self.what {
            What::Data { offset, data } => offset + data.len() as u64,
            What::Length { len, .. } => *len,
        }
    }

    fn len_after(before: u64, change: &Change) -> u64 {
        match change.what {
            What::Length { len, .. } => len,
            What::Data { .. } => before,
        }
    }

    fn apply(&self, content: &mut Content) {
        match &self.what {
            What::Data { offset, data } => content.patch(*offset, data),
            What::Length { len, .. } => content.set_len(*len),
        }
    }
}

/// The medium while a cut decides what is on it.
struct Survivor {
    content: Content,
    final_len: u64,
    /// Where the first truncation that is lost cut the file: what was written there later went to blocks that only the
    /// truncation had freed, and is lost with it.
    lost_from: u64,
}

impl Survivor {
    fn resize(&mut self, len: u64, shrinks: bool, kept: bool) {
        if kept {
            self.final_len = len;
            if shrinks {
                self.content.clear_from(len);
            }
        } else if shrinks {
            self.lost_from = self.lost_from.min(len);
        }
    }

    fn take(&mut self, draw: &mut Draw, fate: Fate, offset: u64, data: &[u8]) {
        let grain = match draw.pieces() {
            Pieces::Sectors => SECTOR,
            Pieces::Blocks | Pieces::ShornBlocks => PAGE,
        };
        let end = offset + data.len() as u64;
        let mut at = offset;
        while at < end {
            let next = ((at / grain + 1) * grain).min(end);
            let piece = &data[(at - offset) as usize..(next - offset) as usize];
            let reachable = next <= self.lost_from;
            if reachable && draw.keeps_piece(fate, (at - offset) as usize) {
                self.content.patch(at, piece);
            } else if reachable && fate != Fate::Whole && draw.shears() {
                // The block was being written: all of it is spoilt, its durable sectors too.
                let mut garbage = [0; PAGE as usize];
                draw.fill(&mut garbage);
                self.content.patch(at / PAGE * PAGE, &garbage);
            }
            at = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{CutMode, Grain};

    fn read(content: &Content) -> Vec<u8> {
        let mut bytes = vec![0; content.len() as usize];
        content.read(0, &mut bytes);
        bytes
    }

    fn after_cut(file: &FileState, mode: CutMode) -> Vec<u8> {
        let mut draw = Draw::new(mode, 0..100);
        let manner = draw.manner();
        read(&file.survivor(&mut draw, manner))
    }

    fn durable(file: &FileState) -> Vec<u8> {
        after_cut(file, CutMode::DropAll)
    }

    #[test]
    fn fsync_makes_durable_what_was_done_before_it_was_asked_for() {
        let mut file = FileState::default();
        file.write(1, 0, &[1; 1000]);
        file.write(2, 4000, &[2; 1000]);
        assert!(durable(&file).is_empty());
        file.flush(1);
        assert_eq!(durable(&file), [1; 1000]);
        file.flush(2);
        assert_eq!(durable(&file), read(file.live()));
        assert_eq!(file.losable().count(), 0);
    }

    #[test]
    fn settled_write_is_durable_alone_with_the_length_that_it_needs() {
        let mut file = FileState::default();
        file.write(1, 0, &[1; 512]);
        file.write(2, 512, &[2; 512]);
        file.settle(2);
        let expected = [[0; 512], [2; 512]].concat();
        assert_eq!(durable(&file), expected, "the first write is not, its room is");
        file.write(3, 512, &[3; 512]);
        assert_eq!(durable(&file), expected, "a write over it is not");
        file.flush(3);
        assert_eq!(durable(&file), [[1; 512], [3; 512]].concat());
    }

    #[test]
    fn settled_write_is_not_undone_by_an_older_one_whatever_is_kept() {
        let mut file = FileState::default();
        file.write(1, 0, &[0; 4096]);
        file.flush(1);
        file.write(2, 0, &[2; 4096]);
        file.write(3, 0, &[3; 4096]);
        file.settle(3);
        for seed in 0..200 {
            let mode = CutMode::KeepSubset { seed, grain: Some(Grain::Sector) };
            assert_eq!(after_cut(&file, mode), [3; 4096], "seed {seed}");
        }
    }

    #[test]
    fn write_behind_a_lost_truncation_is_lost_or_all_of_it_is_kept() {
        let mut file = FileState::default();
        file.write(1, 0, &[1; 8192]);
        file.flush(1);
        file.set_len(2, 0);
        file.write(3, 0, &[3; 8192]);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let left = after_cut(&file, CutMode::KeepSubset { seed, grain: Some(Grain::Sector) });
            let old = left.contains(&1);
            let new = left.contains(&3);
            assert!(!(old && new), "seed {seed}: old and new bytes in one file");
            seen.insert((old, new));
        }
        assert!(seen.len() == 3, "old, new and neither: {seen:?}");
        file.settle(3);
        assert_eq!(durable(&file), [3; 8192], "a truncation that a durable write needs is durable");
    }

    #[test]
    fn tears_are_of_the_grain_that_was_asked_for() {
        let mut file = FileState::default();
        file.write(1, 0, &[1; 64 << 10]);
        file.flush(1);
        file.write(2, 0, &[2; 64 << 10]);
        let torn = |grain, bytes: usize| {
            (0..100).any(|seed| {
                let left = after_cut(&file, CutMode::KeepSubset { seed, grain: Some(grain) });
                left.chunks(bytes).any(|piece| piece.iter().any(|byte| *byte != piece[0]))
            })
        };
        assert!(torn(Grain::Sector, 4096) && !torn(Grain::Sector, 512));
        assert!(torn(Grain::Block, 8192) && !torn(Grain::Block, 4096));
        assert!(!torn(Grain::Write, 64 << 10));
    }

    #[test]
    fn shorn_block_spoils_durable_neighbours_and_nothing_else() {
        let mut file = FileState::default();
        file.write(1, 0, &[1; 12288]);
        file.flush(1);
        file.write(2, 4096, &[2; 512]);
        let mut spoilt = 0;
        for seed in 0..200 {
            let left = after_cut(&file, CutMode::Shorn { seed });
            assert_eq!((&left[..4096], &left[8192..]), (&[1; 4096][..], &[1; 4096][..]), "seed {seed}");
            spoilt += usize::from(left[5000..8192].iter().any(|&byte| byte != 1));
        }
        assert!((10..150).contains(&spoilt), "{spoilt} of 200");
    }
}
