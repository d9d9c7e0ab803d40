//! One file: what readers see, what the medium holds, and the versions between the two.
//!
//! ```text
//!   live     what a read returns: page cache and device cache together
//!    │       ─ write ─────► a new extent at the end of `unflushed`, a change of length in `lengths`
//!   unflushed, lengths      in the order in which they were applied
//!    │       ─ flush ─────► everything that was completed when the flush was asked for goes to the medium
//!   medium   what a power cut leaves for certain
//! ```
//!
//! Invariant: outside the pages of `unflushed` and `diverged`, and below `truncated_to`, live and medium hold the
//! same pages. A crash therefore touches only those.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use super::content::{
    Content, PAGE, Page, PageRanges, SECTOR, SECTORS_PER_PAGE, bytes_of, page_of, within_page,
};
use super::crash::{CrashPlan, Fate, Keep};

/// Position in the order in which a disk applied what it was asked.
pub(crate) type Sequence = u64;

/// A write that is not known to be durable: which sectors, and what their pages looked like after it.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub(crate) sequence: Sequence,
    sectors: Range<u64>,
    image: Rc<Image>,
    /// It went past the page cache, so that only a loss of power can lose it.
    direct: bool,
    /// It had not completed when the power went.
    in_flight: bool,
}

#[derive(Debug)]
enum Image {
    Zeros,
    Pages { first: u64, pages: Vec<Page> },
}

impl Extent {
    fn pages(&self) -> Range<u64> {
        self.sectors.start / SECTORS_PER_PAGE..self.sectors.end.div_ceil(SECTORS_PER_PAGE)
    }

    /// The sectors of page `index` that belong to this extent, as bits.
    fn mask(&self, index: u64) -> u8 {
        let first = index * SECTORS_PER_PAGE;
        let start = self.sectors.start.saturating_sub(first).min(SECTORS_PER_PAGE);
        let end = self.sectors.end.saturating_sub(first).min(SECTORS_PER_PAGE);
        (start..end).fold(0, |mask, sector| mask | 1 << sector)
    }

    fn page(&self, index: u64) -> Page {
        match &*self.image {
            Image::Zeros => None,
            Image::Pages { first, pages } => pages[(index - first) as usize].clone(),
        }
    }

    fn is_zeros(&self) -> bool {
        matches!(*self.image, Image::Zeros)
    }

    fn end_bytes(&self) -> u64 {
        self.sectors.end * SECTOR
    }

    fn overlaps(&self, sectors: &Range<u64>) -> bool {
        self.sectors.start < sectors.end && sectors.start < self.sectors.end
    }

    /// What is left of it without `sectors`.
    fn without(&self, sectors: &Range<u64>) -> impl Iterator<Item = Extent> + use<> {
        let before = self.sectors.start..self.sectors.end.min(sectors.start);
        let after = self.sectors.start.max(sectors.end)..self.sectors.end;
        let whole = self.clone();
        [before, after]
            .into_iter()
            .filter(|left| !left.is_empty())
            .map(move |sectors| Extent { sectors, ..whole.clone() })
    }
}

#[derive(Debug, Clone, Copy)]
struct LengthChange {
    sequence: Sequence,
    len: u64,
    shrinks: bool,
}

#[derive(Debug, Default)]
pub(crate) struct FileState {
    live: Content,
    medium: Content,
    unflushed: VecDeque<Extent>,
    lengths: VecDeque<LengthChange>,
    /// Shortest length since the lengths were last all durable.
    truncated_to: Option<u64>,
    /// Pages whose flush failed: readers may see what the medium will never get.
    diverged: Vec<Range<u64>>,
    allocated: PageRanges,
    unreadable: BTreeSet<u64>,
}

/// Versions a file may have before the oldest is written back by itself, as a kernel does with old dirty pages.
const WRITE_BACK_AFTER: usize = 4096;

impl FileState {
    pub(crate) fn live(&self) -> &Content {
        &self.live
    }

    pub(crate) fn medium(&self) -> &Content {
        &self.medium
    }

    pub(crate) fn allocated_pages(&self) -> u64 {
        self.allocated.count()
    }

    /// Pages that a write of these bytes would have to be given.
    pub(crate) fn missing_pages(&self, position: u64, len: u64) -> u64 {
        self.allocated.missing(page_range(position, len))
    }

    pub(crate) fn is_unreadable(&self, position: u64, len: u64) -> bool {
        len > 0 && self.unreadable.range(sector_range(position, len)).next().is_some()
    }

    pub(crate) fn make_unreadable(&mut self, position: u64, len: u64) {
        self.unreadable.extend(sector_range(position, len));
    }

    /// Applies a write to what readers see. It is durable only after [`flush`](Self::flush) or
    /// [`settle_last`](Self::settle_last).
    pub(crate) fn write(&mut self, sequence: Sequence, position: u64, data: &[Bytes], path: WritePath) {
        let len: u64 = data.iter().map(|piece| piece.len() as u64).sum();
        if len == 0 {
            return;
        }
        self.allocated.insert(page_range(position, len));
        let sectors = sector_range(position, len);
        if !self.unreadable.is_empty() {
            self.unreadable.retain(|sector| !sectors.contains(sector));
        }
        self.extend_to(sequence, position + len);
        let image = Rc::new(self.image_of(position, len, data));
        let extent = Extent {
            sequence,
            sectors,
            image,
            direct: path != WritePath::PageCache,
            in_flight: path == WritePath::Interrupted,
        };
        self.show(&extent);
        self.unflushed.push_back(extent);
        self.write_back_old();
    }

    fn image_of(&self, position: u64, len: u64, data: &[Bytes]) -> Image {
        let numbers = page_range(position, len);
        let first = numbers.start;
        let mut source = Pieces { pieces: data, offset: 0 };
        let mut at = position;
        let pages: Vec<Page> = numbers
            .map(|index| {
                let within = within_page(at).1;
                let count = (PAGE as usize - within).min((position + len - at) as usize);
                at += count as u64;
                if let Some(whole) = source.whole_page(count) {
                    return page_of(whole);
                }
                let mut bytes = bytes_of(&self.live.page(index)).to_vec();
                source.copy_to(&mut bytes[within..within + count]);
                page_of(&bytes)
            })
            .collect();
        if pages.iter().all(Option::is_none) { Image::Zeros } else { Image::Pages { first, pages } }
    }

    fn show(&mut self, extent: &Extent) {
        if extent.is_zeros() {
            for index in self.live.page_numbers(extent.pages()) {
                self.live.put(index, None);
            }
        } else {
            for index in extent.pages() {
                self.live.put(index, extent.page(index));
            }
        }
    }

    fn write_back_old(&mut self) {
        if self.unflushed.len() > WRITE_BACK_AFTER {
            let oldest = self.unflushed[WRITE_BACK_AFTER / 4].sequence;
            self.flush(oldest);
        }
    }

    fn extend_to(&mut self, sequence: Sequence, len: u64) {
        if len > self.live.len() {
            self.live.set_len(len);
            self.lengths.push_back(LengthChange { sequence, len, shrinks: false });
        }
    }

    /// Reserves the pages of a range and extends the file over it.
    pub(crate) fn allocate(&mut self, sequence: Sequence, position: u64, len: u64) {
        self.allocated.insert(page_range(position, len));
        self.extend_to(sequence, position + len);
    }

    pub(crate) fn set_len(&mut self, sequence: Sequence, len: u64) {
        if len >= self.live.len() {
            return self.extend_to(sequence, len);
        }
        self.live.set_len(len);
        self.allocated.truncate(len.div_ceil(PAGE));
        self.lengths.push_back(LengthChange { sequence, len, shrinks: true });
        self.truncated_to = Some(self.truncated_to.map_or(len, |shortest| shortest.min(len)));
        let (index, within) = within_page(len);
        if within != 0 {
            // The kernel zeroes the rest of the last page in the page cache and writes that page back.
            let image = Rc::new(Image::Pages { first: index, pages: vec![self.live.page(index)] });
            let sectors = len / SECTOR..(index + 1) * SECTORS_PER_PAGE;
            self.unflushed.push_back(Extent { sequence, sectors, image, direct: false, in_flight: false });
        }
    }

    /// Makes everything up to `upto` durable.
    pub(crate) fn flush(&mut self, upto: Sequence) {
        loop {
            let length = self.lengths.front().map(|change| change.sequence).filter(|&s| s <= upto);
            let extent = self.unflushed.front().map(|extent| extent.sequence).filter(|&s| s <= upto);
            match (length, extent) {
                (None, None) => break,
                (Some(length), extent) if extent.is_none_or(|extent| length <= extent) => {
                    let change = self.lengths.pop_front().expect("a change is in front");
                    self.medium.set_len(change.len);
                }
                _ => {
                    let extent = self.unflushed.pop_front().expect("an extent is in front");
                    settle(&mut self.medium, &extent);
                }
            }
        }
        self.forget_truncations_if_durable();
    }

    /// Makes the write `sequence` durable, which was the last one, and nothing else but what is needed to find it.
    pub(crate) fn settle_last(&mut self, sequence: Sequence) {
        if self.unflushed.back().is_none_or(|extent| extent.sequence != sequence) {
            return;
        }
        let Some(extent) = self.unflushed.pop_back() else { return };
        let extends = self.lengths.back().is_some_and(|change| change.sequence == extent.sequence);
        // Bytes past the medium's end, or in blocks that a pending truncation frees, are found through the inode.
        let moved = self.lengths.iter().any(|change| change.shrinks && change.len < extent.end_bytes());
        let beyond = self.medium.len() < extent.end_bytes().min(self.live.len());
        if extends || moved || beyond {
            self.commit_lengths(extent.sequence);
        }
        settle(&mut self.medium, &extent);
        self.supersede(&extent.sectors, extent.sequence);
    }

    fn commit_lengths(&mut self, upto: Sequence) {
        while let Some(change) = self.lengths.front().copied().filter(|change| change.sequence <= upto) {
            self.lengths.pop_front();
            self.medium.set_len(change.len);
            if change.shrinks {
                self.supersede(&(change.len.div_ceil(SECTOR)..u64::MAX), change.sequence);
            }
        }
        self.forget_truncations_if_durable();
    }

    fn forget_truncations_if_durable(&mut self) {
        if self.lengths.is_empty() {
            self.truncated_to = None;
        }
    }

    /// Forgets versions of `sectors` older than `below`: the medium has a newer one, which a later flush must not
    /// undo.
    fn supersede(&mut self, sectors: &Range<u64>, below: Sequence) {
        if !self.unflushed.iter().any(|extent| extent.sequence < below && extent.overlaps(sectors)) {
            return;
        }
        for extent in std::mem::take(&mut self.unflushed) {
            if extent.sequence < below && extent.overlaps(sectors) {
                self.unflushed.extend(extent.without(sectors));
            } else {
                self.unflushed.push_back(extent);
            }
        }
    }

    /// A flush failed: the kernel marks the pages clean, whether they reached the medium or not, and no later flush
    /// writes them.
    pub(crate) fn forget(&mut self, upto: Sequence, mut reached_medium: impl FnMut() -> bool) {
        let mut waiting_for_length = VecDeque::new();
        let count = self.unflushed.partition_point(|extent| extent.sequence <= upto);
        for extent in self.unflushed.drain(..count) {
            match reached_medium() {
                true if extent.end_bytes().min(self.live.len()) > self.medium.len() => {
                    waiting_for_length.push_back(extent);
                }
                true => {
                    settle(&mut self.medium, &extent);
                    self.medium.cut();
                }
                false => self.diverged.push(extent.pages()),
            }
        }
        waiting_for_length.append(&mut self.unflushed);
        self.unflushed = waiting_for_length;
    }

    /// Drops clean pages from the page cache: readers see what the medium has where a flush had failed.
    pub(crate) fn evict(&mut self) {
        if self.unflushed.is_empty() {
            for pages in std::mem::take(&mut self.diverged) {
                self.live.take_pages(&self.medium, pages);
            }
            self.live.cut();
        }
    }

    /// Flips `flip` bits, at the medium and for readers.
    pub(crate) fn corrupt(&mut self, range: Range<u64>, mut flip: impl FnMut() -> u8) {
        for position in range.start..range.end.min(self.live.len()) {
            let (index, within) = within_page(position);
            let flip = flip();
            for content in [&mut self.live, &mut self.medium] {
                if position >= content.len() {
                    continue;
                }
                let mut bytes = bytes_of(&content.page(index)).to_vec();
                bytes[within] ^= flip;
                content.put(index, page_of(&bytes));
            }
        }
    }

    /// The first thing that a crash may lose.
    pub(crate) fn first_unflushed(&self) -> Option<Sequence> {
        let length = self.lengths.front().map(|change| change.sequence);
        let extent = self.unflushed.front().map(|extent| extent.sequence);
        length.into_iter().chain(extent).min()
    }

    /// Number of versions that a crash may lose.
    pub(crate) fn unflushed_count(&self) -> usize {
        self.unflushed.len() + self.lengths.len()
    }

    /// Loses what was not durable, as `plan` decides, and makes the survivors what readers see.
    pub(crate) fn crash(&mut self, plan: &mut CrashPlan<'_>) {
        if self.unflushed.is_empty() && self.lengths.is_empty() && self.diverged.is_empty() {
            return;
        }
        let keep = plan.keep_for_file();
        let touched = self.touched_pages();
        let kept_lengths = plan.kept_lengths(keep, self.lengths.iter().map(|change| change.sequence));
        let mut survivor =
            Survivor::new(&mut self.medium, self.lengths.iter().map(|change| change.len).max());
        let mut lengths = self.lengths.drain(..).enumerate().peekable();
        for extent in self.unflushed.drain(..) {
            while let Some((index, change)) =
                lengths.next_if(|(_, change)| change.sequence <= extent.sequence)
            {
                survivor.resize(change, index < kept_lengths);
            }
            survivor.take(&extent, keep, plan, &mut self.unreadable);
        }
        for (index, change) in lengths {
            survivor.resize(change, index < kept_lengths);
        }
        let final_len = survivor.final_len;
        self.medium.set_len(final_len);
        for pages in touched {
            self.live.take_pages(&self.medium, pages);
        }
        self.live.set_len(final_len);
        self.allocated.truncate(final_len.div_ceil(PAGE));
        self.truncated_to = None;
        self.diverged.clear();
    }

    fn touched_pages(&self) -> Vec<Range<u64>> {
        let cut = self.truncated_to.map(|len| len / PAGE..u64::MAX);
        self.unflushed.iter().map(Extent::pages).chain(self.diverged.iter().cloned()).chain(cut).collect()
    }
}

/// How a write got where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WritePath {
    PageCache,
    Direct,
    /// The power went while it was on its way.
    Interrupted,
}

/// The medium while a crash decides what is on it.
struct Survivor<'a> {
    medium: &'a mut Content,
    /// Beyond every version of the file, so that nothing is cut before its time.
    end: u64,
    durable_len: u64,
    final_len: u64,
    /// Where the first truncation that is lost cut the file: what was written there later went to blocks that only
    /// the truncation had freed, and is lost with it.
    lost_from: u64,
}

impl<'a> Survivor<'a> {
    fn new(medium: &'a mut Content, longest: Option<u64>) -> Self {
        let durable_len = medium.len();
        let end = durable_len.max(longest.unwrap_or(0)).next_multiple_of(PAGE);
        medium.set_len(end);
        Survivor { medium, end, durable_len, final_len: durable_len, lost_from: u64::MAX }
    }

    fn resize(&mut self, change: LengthChange, kept: bool) {
        if kept {
            self.final_len = change.len;
            if change.shrinks {
                self.medium.set_len(change.len);
                self.medium.set_len(self.end);
            }
        } else if change.shrinks {
            self.lost_from = self.lost_from.min(change.len);
        }
    }

    fn take(
        &mut self,
        extent: &Extent,
        keep: Keep,
        plan: &mut CrashPlan<'_>,
        unreadable: &mut BTreeSet<u64>,
    ) {
        let whole = extent.direct && !extent.in_flight && plan.device_cache_survives();
        let fate = if whole { Fate::Whole } else { plan.fate(keep, extent.sequence, &extent.sectors) };
        plan.count(fate);
        let pages = if extent.is_zeros() {
            self.medium.page_numbers(extent.pages())
        } else {
            extent.pages().collect()
        };
        for index in pages {
            let reachable = self.reachable(index);
            let asked = extent.mask(index) & reachable;
            let kept = plan.kept_sectors(fate, index * SECTORS_PER_PAGE, asked);
            self.medium.patch(index, &extent.page(index), kept);
            if !extent.is_zeros() {
                self.spoil(index, asked & !kept, plan);
            }
            if fate != Fate::Whole && plan.shears_block() {
                self.medium.put(index, page_of(&plan.garbage(PAGE as usize)));
            }
            if extent.in_flight {
                unreadable.extend(plan.unreadable_sectors(index * SECTORS_PER_PAGE, asked));
            }
        }
    }

    fn reachable(&self, index: u64) -> u8 {
        let first = index * SECTORS_PER_PAGE;
        (0..SECTORS_PER_PAGE)
            .filter(|sector| (first + sector + 1) * SECTOR <= self.lost_from)
            .fold(0, |mask, sector| mask | 1 << sector)
    }

    /// Sectors that the file grew over without being written hold zeros, or whatever was in the block before.
    fn spoil(&mut self, index: u64, lost: u8, plan: &mut CrashPlan<'_>) {
        for sector in 0..SECTORS_PER_PAGE {
            let start = index * PAGE + sector * SECTOR;
            let mask = 1 << sector;
            if lost & mask != 0 && start >= self.durable_len && plan.leaves_garbage() {
                self.medium.patch(index, &page_of(&plan.garbage(PAGE as usize)), mask);
            }
        }
    }
}

fn settle(medium: &mut Content, extent: &Extent) {
    let pages =
        if extent.is_zeros() { medium.page_numbers(extent.pages()) } else { extent.pages().collect() };
    for index in pages {
        medium.patch(index, &extent.page(index), extent.mask(index));
    }
}

fn page_range(position: u64, len: u64) -> Range<u64> {
    if len == 0 {
        return 0..0;
    }
    position / PAGE..(position + len).div_ceil(PAGE)
}

fn sector_range(position: u64, len: u64) -> Range<u64> {
    position / SECTOR..(position + len).div_ceil(SECTOR)
}

/// The pieces of a vectored write, read from front to back.
struct Pieces<'a> {
    pieces: &'a [Bytes],
    offset: usize,
}

impl<'a> Pieces<'a> {
    fn skip_spent(&mut self) {
        while self.pieces.first().is_some_and(|piece| piece.len() == self.offset) {
            self.pieces = &self.pieces[1..];
            self.offset = 0;
        }
    }

    /// The next page without a copy, if a whole one is wanted and lies in one piece.
    fn whole_page(&mut self, count: usize) -> Option<&'a [u8]> {
        self.skip_spent();
        if count != PAGE as usize {
            return None;
        }
        let page = self.pieces.first()?.get(self.offset..self.offset + count)?;
        self.offset += count;
        Some(page)
    }

    fn copy_to(&mut self, mut into: &mut [u8]) {
        while !into.is_empty() {
            self.skip_spent();
            let rest = &self.pieces[0][self.offset..];
            let count = rest.len().min(into.len());
            let (now, later) = into.split_at_mut(count);
            now.copy_from_slice(&rest[..count]);
            self.offset += count;
            into = later;
        }
    }
}
