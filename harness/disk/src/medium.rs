//! The medium and its volatile cache: what is durable, what is not yet, and what a power cut leaves.
//!
//! Every write lands in the cache. A flush moves the whole cache to the image file, and that move is the only
//! way for a byte to become durable, save two that real disks have as well: a cache that is full is written
//! out in part (*destaged*, and counted), and a cut may leave a seeded subset of the cache behind.
//!
//! ```text
//!   write ──► cache: dirty 512 B sectors, latest version + one earlier version ──flush──► image file
//!   read  ◄── cache over image                                                 ──cut────► subset, or nothing
//! ```
//!
//! Invariants: the image holds exactly what was durable at the last flush plus what was destaged since; the
//! result of a cut depends on the cache and the seed alone; the cache never exceeds its limit. An earlier
//! version is one drawn uniformly from all versions that a dirty sector had since the last flush, which keeps
//! the memory bounded at twice the cache.
//!
//! Absent: clocks, faults, threads, FUSE. The image is never fsynced: it has to survive this disk's power cut,
//! not that of the machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use crate::fault::{CutMode, Grain, mix};

/// The unit of atomicity of this disk, and of most others.
pub const SECTOR_BYTES: usize = 512;
const BLOCK_BYTES: usize = 4096;
const SECTORS_PER_BLOCK: usize = BLOCK_BYTES / SECTOR_BYTES;
/// Blocks kept for reuse after a flush: 64 MiB. A fresh page costs many times a warm one.
const MAX_SPARE_BLOCKS: usize = 16 * 1024;
/// `IOV_MAX` is 1024 on Linux; 1 MiB at a time is enough.
const MAX_SLICES: usize = 256;

#[derive(Clone)]
struct Block {
    bytes: [u8; BLOCK_BYTES],
    /// Bit n: sector n differs from the image, or may.
    dirty: u8,
    /// The number of the write that each dirty sector's content came with.
    written_by: [u64; SECTORS_PER_BLOCK],
    earlier: Option<Box<Earlier>>,
}

#[derive(Clone)]
struct Earlier {
    bytes: [u8; BLOCK_BYTES],
    /// How many earlier versions sector n had since the last flush; zero: none is held.
    versions: [u32; SECTORS_PER_BLOCK],
    written_by: [u64; SECTORS_PER_BLOCK],
}

/// What a cut did with the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Remains {
    pub(crate) dropped_sectors: u64,
    pub(crate) kept_sectors: u64,
    pub(crate) shorn_blocks: u64,
    pub(crate) damaged_sectors: u64,
}

/// The medium of one disk.
pub(crate) struct Medium {
    image: File,
    size_bytes: u64,
    cache: BTreeMap<u64, Box<Block>>,
    limit_blocks: usize,
    spare: Vec<Box<Block>>,
    dirty_sectors: u64,
    destaged_sectors: u64,
    write_number: u64,
}

impl Medium {
    /// Takes over an image file, sizing it (sparsely) to `size_bytes`, a multiple of 4 KiB.
    pub(crate) fn new(image: File, size_bytes: u64, cache_limit_bytes: u64) -> io::Result<Self> {
        assert!(size_bytes.is_multiple_of(BLOCK_BYTES as u64), "whole blocks only");
        image.set_len(size_bytes)?;
        let limit_blocks =
            usize::try_from(cache_limit_bytes / BLOCK_BYTES as u64).unwrap_or(usize::MAX).max(8);
        Ok(Self {
            image,
            size_bytes,
            cache: BTreeMap::new(),
            limit_blocks,
            spare: Vec::new(),
            dirty_sectors: 0,
            destaged_sectors: 0,
            write_number: 0,
        })
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) fn dirty_sectors(&self) -> u64 {
        self.dirty_sectors
    }

    pub(crate) fn destaged_sectors(&self) -> u64 {
        self.destaged_sectors
    }

    /// Whether a request is one that a disk can be asked: whole sectors within the medium.
    pub(crate) fn is_addressable(&self, offset: u64, length: usize) -> bool {
        let sector = SECTOR_BYTES as u64;
        offset.is_multiple_of(sector)
            && length.is_multiple_of(SECTOR_BYTES)
            && offset.checked_add(length as u64).is_some_and(|end| end <= self.size_bytes)
    }

    /// Puts an addressable write into the cache. An error is the image's, met while destaging.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        debug_assert!(self.is_addressable(offset, data.len()));
        self.write_number += 1;
        let mut rest = data;
        let mut position = offset;
        while !rest.is_empty() {
            let within = (position % BLOCK_BYTES as u64) as usize;
            let (piece, tail) = rest.split_at(rest.len().min(BLOCK_BYTES - within));
            self.write_in_block(position / BLOCK_BYTES as u64, within, piece);
            position += piece.len() as u64;
            rest = tail;
        }
        if self.cache.len() > self.limit_blocks { self.destage() } else { Ok(()) }
    }

    fn write_in_block(&mut self, index: u64, within: usize, piece: &[u8]) {
        let spare = &mut self.spare;
        let block = self.cache.entry(index).or_insert_with(|| spare.pop().unwrap_or_else(Block::blank));
        let first = within / SECTOR_BYTES;
        for sector in first..first + piece.len() / SECTOR_BYTES {
            if block.is_dirty(sector) {
                block.remember(index, sector);
            } else {
                block.dirty |= 1 << sector;
                self.dirty_sectors += 1;
            }
            block.written_by[sector] = self.write_number;
        }
        block.bytes[within..within + piece.len()].copy_from_slice(piece);
    }

    /// Reads an addressable range: the cache over the image.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        debug_assert!(self.is_addressable(offset, out.len()));
        self.image.read_exact_at(out, offset)?;
        let end = offset + out.len() as u64;
        let blocks = offset / BLOCK_BYTES as u64..end.div_ceil(BLOCK_BYTES as u64);
        for (&index, block) in self.cache.range(blocks) {
            for sector in block.dirty_sectors() {
                let start = sector_position(index, sector);
                if start >= offset && start < end {
                    let at = (start - offset) as usize;
                    out[at..at + SECTOR_BYTES].copy_from_slice(block.sector(sector));
                }
            }
        }
        Ok(())
    }

    /// Makes all that was written durable. Returns how many sectors that were. After an error the cache is
    /// as before; the image is not to be trusted.
    pub(crate) fn flush(&mut self) -> io::Result<u64> {
        let cache = std::mem::take(&mut self.cache);
        if let Err(error) = write_back(&self.image, &cache) {
            self.cache = cache;
            return Err(error);
        }
        self.recycle(cache);
        Ok(std::mem::take(&mut self.dirty_sectors))
    }

    /// Forgets all that was not flushed, as a disk does that was reset. Returns how many sectors that were.
    pub(crate) fn lose_cache(&mut self) -> u64 {
        let cache = std::mem::take(&mut self.cache);
        self.recycle(cache);
        std::mem::take(&mut self.dirty_sectors)
    }

    /// The power goes: what remains of the cache is on the medium now, the rest is gone.
    pub(crate) fn cut(&mut self, mode: CutMode) -> io::Result<Remains> {
        let subset = match mode {
            CutMode::OsCrash => return Ok(Remains::default()),
            CutMode::DropAll => {
                return Ok(Remains { dropped_sectors: self.lose_cache(), ..Remains::default() });
            }
            CutMode::KeepSubset { seed, grain } => Subset::drawn(seed, grain),
            CutMode::Shorn { seed } => Subset { shears: true, ..Subset::drawn(seed, Some(Grain::Block)) },
        };
        let cache = std::mem::take(&mut self.cache);
        let mut remains = Remains { dropped_sectors: self.dirty_sectors, ..Remains::default() };
        for (&index, block) in &cache {
            subset.apply(&self.image, index, block, &mut remains)?;
        }
        remains.dropped_sectors -= remains.kept_sectors;
        self.recycle(cache);
        self.dirty_sectors = 0;
        Ok(remains)
    }

    /// Writes out an eighth of the cache from a place that depends on the history alone.
    fn destage(&mut self) -> io::Result<()> {
        let start = mix(self.write_number, self.destaged_sectors) % (self.size_bytes / BLOCK_BYTES as u64);
        let count = (self.limit_blocks / 8).max(self.cache.len() - self.limit_blocks);
        let (after, before) = (self.cache.range(start..), self.cache.range(..start));
        let chosen: Vec<u64> = after.chain(before).map(|(&index, _)| index).take(count).collect();
        let mut batch = BTreeMap::new();
        for index in chosen {
            if let Some(block) = self.cache.remove(&index) {
                batch.insert(index, block);
            }
        }
        write_back(&self.image, &batch)?;
        let sectors: u64 = batch.values().map(|block| u64::from(block.dirty.count_ones())).sum();
        self.dirty_sectors -= sectors;
        self.destaged_sectors += sectors;
        self.recycle(batch);
        Ok(())
    }

    fn recycle(&mut self, blocks: BTreeMap<u64, Box<Block>>) {
        for mut block in blocks.into_values() {
            if self.spare.len() == MAX_SPARE_BLOCKS {
                break;
            }
            block.dirty = 0;
            block.earlier = None;
            self.spare.push(block);
        }
    }
}

impl Block {
    fn blank() -> Box<Self> {
        Box::new(Self {
            bytes: [0; BLOCK_BYTES],
            dirty: 0,
            written_by: [0; SECTORS_PER_BLOCK],
            earlier: None,
        })
    }

    fn is_dirty(&self, sector: usize) -> bool {
        self.dirty & (1 << sector) != 0
    }

    fn dirty_sectors(&self) -> impl Iterator<Item = usize> {
        (0..SECTORS_PER_BLOCK).filter(|&sector| self.is_dirty(sector))
    }

    fn sector(&self, sector: usize) -> &[u8] {
        &self.bytes[sector * SECTOR_BYTES..][..SECTOR_BYTES]
    }

    /// Before a dirty sector is overwritten: reservoir sampling of one among its versions.
    fn remember(&mut self, index: u64, sector: usize) {
        let earlier = self.earlier.get_or_insert_with(Earlier::blank);
        let version = earlier.versions[sector].saturating_add(1);
        earlier.versions[sector] = version;
        let draw = mix(sector_position(index, sector), self.written_by[sector]);
        if draw.is_multiple_of(u64::from(version)) {
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            earlier.bytes[range.clone()].copy_from_slice(&self.bytes[range]);
            earlier.written_by[sector] = self.written_by[sector];
        }
    }
}

impl Earlier {
    fn blank() -> Box<Self> {
        Box::new(Self {
            bytes: [0; BLOCK_BYTES],
            versions: [0; SECTORS_PER_BLOCK],
            written_by: [0; SECTORS_PER_BLOCK],
        })
    }
}

/// Which part of the cache survives a cut.
struct Subset {
    seed: u64,
    grain: Grain,
    keep_of_256: u64,
    shears: bool,
}

impl Subset {
    /// The seed draws the fraction that survives too: nearly nothing and nearly everything find other bugs
    /// than one half.
    fn drawn(seed: u64, grain: Option<Grain>) -> Self {
        const GRAINS: [Grain; 3] = [Grain::Sector, Grain::Block, Grain::Write];
        const FRACTIONS: [u64; 5] = [16, 64, 128, 192, 240];
        let grain = grain.unwrap_or(GRAINS[(mix(seed, u64::MAX) % 3) as usize]);
        let keep_of_256 = FRACTIONS[(mix(seed, u64::MAX - 1) % 5) as usize];
        Self { seed, grain, keep_of_256, shears: false }
    }

    fn keeps(&self, piece: u64) -> bool {
        mix(self.seed, piece) % 256 < self.keep_of_256
    }

    /// Another draw for the same piece.
    fn draw(&self, piece: u64) -> u64 {
        mix(!self.seed, piece)
    }

    fn apply(&self, image: &File, index: u64, block: &Block, remains: &mut Remains) -> io::Result<()> {
        let shorn_at = if self.shears { self.shear(index, block) } else { SECTORS_PER_BLOCK };
        for sector in block.dirty_sectors().take_while(|&sector| sector < shorn_at) {
            if let Some(content) = self.survivor(index, block, sector) {
                image.write_all_at(content, sector_position(index, sector))?;
                remains.kept_sectors += 1;
            }
        }
        if shorn_at == SECTORS_PER_BLOCK {
            return Ok(());
        }
        remains.shorn_blocks += 1;
        for sector in (shorn_at..SECTORS_PER_BLOCK).filter(|&sector| !block.is_dirty(sector)) {
            image.write_all_at(&garbage(self.draw(index), sector), sector_position(index, sector))?;
            remains.damaged_sectors += 1;
        }
        Ok(())
    }

    /// Where a surviving block is shorn: one in four, after one to seven sectors.
    fn shear(&self, index: u64, block: &Block) -> usize {
        let draw = self.draw(index);
        let is_shorn = block.dirty != 0 && self.keeps(index) && draw.is_multiple_of(4);
        if is_shorn { 1 + (draw >> 8) as usize % (SECTORS_PER_BLOCK - 1) } else { SECTORS_PER_BLOCK }
    }

    /// The version of a dirty sector that the medium has after the cut; none if it stays as it was.
    fn survivor<'a>(&self, index: u64, block: &'a Block, sector: usize) -> Option<&'a [u8]> {
        let earlier = block.earlier.as_ref().filter(|earlier| earlier.versions[sector] > 0);
        let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        let piece = match self.grain {
            Grain::Sector => sector_position(index, sector),
            Grain::Block => index,
            Grain::Write => {
                if self.keeps(block.written_by[sector]) {
                    return Some(&block.bytes[range]);
                }
                return earlier
                    .filter(|earlier| self.keeps(earlier.written_by[sector]))
                    .map(|earlier| &earlier.bytes[range]);
            }
        };
        if !self.keeps(piece) {
            return None;
        }
        match earlier {
            Some(earlier) if self.draw(piece) & 1 == 1 => Some(&earlier.bytes[range]),
            _ => Some(&block.bytes[range]),
        }
    }
}

fn garbage(seed: u64, sector: usize) -> [u8; SECTOR_BYTES] {
    let mut bytes = [0; SECTOR_BYTES];
    for (word, at) in bytes.chunks_exact_mut(8).zip(0..) {
        word.copy_from_slice(&mix(seed, sector as u64 * SECTOR_BYTES as u64 + at).to_le_bytes());
    }
    bytes
}

fn sector_position(index: u64, sector: usize) -> u64 {
    index * BLOCK_BYTES as u64 + (sector * SECTOR_BYTES) as u64
}

/// Writes all dirty sectors in ascending order, neighbours together.
fn write_back(image: &File, blocks: &BTreeMap<u64, Box<Block>>) -> io::Result<()> {
    let mut run = Run { image, start: 0, end: 0, slices: Vec::with_capacity(MAX_SLICES) };
    for (&index, block) in blocks {
        for (first, count) in dirty_runs(block.dirty) {
            let bytes = &block.bytes[first * SECTOR_BYTES..(first + count) * SECTOR_BYTES];
            run.push(sector_position(index, first), bytes)?;
        }
    }
    run.finish()
}

/// The maximal runs of set bits, as (first, count).
fn dirty_runs(dirty: u8) -> impl Iterator<Item = (usize, usize)> {
    let mut rest = u32::from(dirty);
    let mut base = 0;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let skip = rest.trailing_zeros() as usize;
        let count = (rest >> skip).trailing_ones() as usize;
        let first = base + skip;
        rest >>= skip + count;
        base = first + count;
        Some((first, count))
    })
}

/// A contiguous stretch of the image that is gathered and written with one call.
struct Run<'a> {
    image: &'a File,
    start: u64,
    end: u64,
    slices: Vec<IoSlice<'a>>,
}

impl<'a> Run<'a> {
    fn push(&mut self, position: u64, bytes: &'a [u8]) -> io::Result<()> {
        if position != self.end || self.slices.len() == MAX_SLICES {
            self.finish()?;
            self.start = position;
        }
        self.slices.push(IoSlice::new(bytes));
        self.end = position + bytes.len() as u64;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.slices.is_empty() {
            return Ok(());
        }
        let written = rustix::io::pwritev(self.image, &self.slices, self.start)? as u64;
        if written < self.end - self.start {
            // Cut short, by a signal or a full file system: piece by piece, to meet the error if there is one.
            let mut position = self.start;
            for slice in &self.slices {
                self.image.write_all_at(slice, position)?;
                position += slice.len() as u64;
            }
        }
        self.slices.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
