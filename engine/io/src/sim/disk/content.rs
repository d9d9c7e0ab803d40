//! Bytes of a file as sparse pages that are shared until they change.
//!
//! A page that is not there reads as zeros, so that a journal file of zeros costs nothing; a crash or a flush moves
//! references, never bytes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

pub(crate) const PAGE: u64 = 4096;
pub(crate) const SECTOR: u64 = 512;
pub(crate) const SECTORS_PER_PAGE: u64 = PAGE / SECTOR;

static ZERO_PAGE: [u8; PAGE as usize] = [0; PAGE as usize];

/// One page; `None` is a page of zeros.
pub(crate) type Page = Option<Rc<[u8]>>;

/// The page that holds `bytes`, a whole page of them.
pub(crate) fn page_of(bytes: &[u8]) -> Page {
    debug_assert_eq!(bytes.len(), PAGE as usize, "a page has one size");
    if bytes == ZERO_PAGE { None } else { Some(Rc::from(bytes)) }
}

pub(crate) fn bytes_of(page: &Page) -> &[u8] {
    page.as_deref().unwrap_or(&ZERO_PAGE)
}

/// Range of a file's bytes within one page.
pub(crate) fn within_page(position: u64) -> (u64, usize) {
    (position / PAGE, (position % PAGE) as usize)
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Content {
    pages: BTreeMap<u64, Rc<[u8]>>,
    len: u64,
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn page(&self, index: u64) -> Page {
        self.pages.get(&index).cloned()
    }

    /// Numbers of the pages in `range` that are not zeros.
    pub(crate) fn page_numbers(&self, range: Range<u64>) -> Vec<u64> {
        if range.is_empty() {
            return Vec::new();
        }
        self.pages.range(range).map(|(&index, _)| index).collect()
    }

    pub(crate) fn put(&mut self, index: u64, page: Page) {
        match page {
            Some(page) => self.pages.insert(index, page),
            None => self.pages.remove(&index),
        };
    }

    /// Takes from `page` the sectors whose bits are set in `mask`.
    pub(crate) fn patch(&mut self, index: u64, page: &Page, mask: u8) {
        match mask {
            0 => return,
            u8::MAX => return self.put(index, page.clone()),
            _ => {}
        }
        let mut bytes = bytes_of(&self.page(index)).to_vec();
        for sector in (0..SECTORS_PER_PAGE as usize).filter(|sector| mask & (1 << sector) != 0) {
            let range = sector * SECTOR as usize..(sector + 1) * SECTOR as usize;
            bytes[range.clone()].copy_from_slice(&bytes_of(page)[range]);
        }
        self.put(index, page_of(&bytes));
    }

    /// Forgets what lies beyond the length.
    pub(crate) fn cut(&mut self) {
        let len = self.len;
        self.len = u64::MAX;
        self.set_len(len);
    }

    /// Cuts or extends to `len`; what comes into view is zeros.
    pub(crate) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (last, within) = within_page(len);
            let first_gone = if within == 0 { last } else { last + 1 };
            drop(self.pages.split_off(&first_gone));
            if let Some(page) = self.pages.get(&last).filter(|_| within != 0) {
                let mut bytes = page.to_vec();
                bytes[within..].fill(0);
                self.put(last, page_of(&bytes));
            }
        }
        self.len = len;
    }

    /// Makes the pages of `range` those of `other`.
    pub(crate) fn take_pages(&mut self, other: &Content, range: Range<u64>) {
        for index in self.page_numbers(range.clone()) {
            self.pages.remove(&index);
        }
        for index in other.page_numbers(range) {
            self.put(index, other.page(index));
        }
    }

    /// Fills `into` from `position`, as far as the content goes, and returns how much that was.
    pub(crate) fn read(&self, position: u64, into: &mut [u8]) -> usize {
        let available = self.len.saturating_sub(position).min(into.len() as u64) as usize;
        let mut done = 0;
        while done < available {
            let (index, within) = within_page(position + done as u64);
            let count = (PAGE as usize - within).min(available - done);
            let bytes = self.pages.get(&index).map_or(&ZERO_PAGE[..], |page| page);
            into[done..done + count].copy_from_slice(&bytes[within..within + count]);
            done += count;
        }
        available
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes =
            vec![0; usize::try_from(self.len).expect("a file that is looked at fits into memory")];
        self.read(0, &mut bytes);
        bytes
    }
}

/// Disjoint ranges of page numbers.
#[derive(Debug, Default, Clone)]
pub(crate) struct PageRanges {
    /// Start to end, exclusive.
    ranges: BTreeMap<u64, u64>,
    count: u64,
}

impl PageRanges {
    /// Number of pages.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Number of pages of `range` that are not here.
    pub(crate) fn missing(&self, range: Range<u64>) -> u64 {
        let before = self.ranges.range(..range.start).next_back();
        let within = self.ranges.range(range.clone());
        let here: u64 = before
            .into_iter()
            .chain(within)
            .map(|(&start, &end)| end.min(range.end).saturating_sub(start.max(range.start)))
            .sum();
        range.end.saturating_sub(range.start) - here
    }

    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.count += self.missing(range.clone());
        let Range { mut start, mut end } = range;
        if let Some((&before, &before_end)) = self.ranges.range(..start).next_back()
            && before_end >= start
        {
            start = before;
            end = end.max(before_end);
        }
        while let Some((&next, &next_end)) = self.ranges.range(start..=end).next() {
            end = end.max(next_end);
            self.ranges.remove(&next);
        }
        self.ranges.insert(start, end);
    }

    /// Removes every page from `first` on.
    pub(crate) fn truncate(&mut self, first: u64) {
        let gone = self.ranges.split_off(&first);
        self.count -= gone.into_iter().map(|(start, end)| end - start).sum::<u64>();
        if let Some((_, end)) = self.ranges.range_mut(..first).next_back()
            && *end > first
        {
            self.count -= *end - first;
            *end = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_content_reads_zeros_after_it_grows_again() {
        let mut content = Content::default();
        content.set_len(2 * PAGE);
        content.put(0, page_of(&[7; PAGE as usize]));
        content.put(1, page_of(&[8; PAGE as usize]));
        content.set_len(100);
        content.set_len(2 * PAGE);
        let bytes = content.to_vec();
        assert_eq!(&bytes[..100], &[7; 100]);
        assert!(bytes[100..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn patch_takes_only_the_masked_sectors() {
        let mut content = Content::default();
        content.set_len(PAGE);
        content.put(0, page_of(&[1; PAGE as usize]));
        content.patch(0, &page_of(&[2; PAGE as usize]), 0b1000_0001);
        let bytes = content.to_vec();
        for sector in 0..8 {
            let expected = if sector == 0 || sector == 7 { 2 } else { 1 };
            assert!(bytes[sector * 512..][..512].iter().all(|&byte| byte == expected), "sector {sector}");
        }
    }

    #[test]
    fn page_ranges_merge_and_count() {
        let mut ranges = PageRanges::default();
        ranges.insert(10..20);
        ranges.insert(30..40);
        assert_eq!(ranges.missing(15..35), 10);
        ranges.insert(15..35);
        assert_eq!(ranges.ranges, BTreeMap::from([(10, 40)]));
        assert_eq!(ranges.count(), 30);
        ranges.truncate(12);
        assert_eq!((ranges.count(), ranges.missing(0..100)), (2, 98));
        ranges.insert(12..13);
        ranges.insert(0..1);
        assert_eq!(ranges.ranges, BTreeMap::from([(0, 1), (10, 13)]));
    }
}
