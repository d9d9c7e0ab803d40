//! What is left when the power goes: chosen by the seed among everything that the contract allows.
//!
//! Each crash has a manner, so that the rare corners (nothing survives, everything does, an ordered device that was
//! stopped in the middle of a write) come up as often as the plain mixture.

use std::ops::Range;

use super::content::{SECTOR, SECTORS_PER_PAGE};
use super::file::Sequence;
use crate::sim::config::{DiskConfig, TornUnit};
use crate::sim::rng::Chance;

/// What is lost besides the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrashKind {
    /// Page cache and device cache.
    PowerCut,
    /// The page cache.
    OsCrash,
}

/// Which of the versions that are not durable survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    Everything,
    /// Each torn unit of each write by itself, this many in a thousand.
    Units(u32),
    /// Each write by itself, this many in a thousand.
    Writes(u32),
    /// What was applied before this, and the beginning of this.
    Before(Sequence),
}

/// What becomes of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Whole,
    /// Sectors below this one.
    Beginning(u64),
    Units(u32),
}

pub(crate) struct CrashPlan<'a> {
    kind: CrashKind,
    config: &'a DiskConfig,
    chance: &'a mut Chance,
    /// The same for all, or each file and name by itself.
    manner: Option<Keep>,
    sequences: Range<Sequence>,
    pub(crate) versions: u64,
    pub(crate) kept: u64,
}

impl<'a> CrashPlan<'a> {
    /// A plan for a disk on which `sequences` were applied and are perhaps not durable.
    pub(crate) fn new(
        kind: CrashKind,
        config: &'a DiskConfig,
        chance: &'a mut Chance,
        sequences: Range<Sequence>,
    ) -> Self {
        let mut plan = CrashPlan { kind, config, chance, manner: None, sequences, versions: 0, kept: 0 };
        plan.manner = match plan.chance.below(8) {
            0 => Some(Keep::Nothing),
            1 => Some(Keep::Everything),
            2 => Some(plan.before()),
            3 => Some(Keep::Units(500)),
            _ => None,
        };
        plan
    }

    pub(crate) fn device_cache_survives(&self) -> bool {
        self.kind == CrashKind::OsCrash
    }

    fn before(&mut self) -> Keep {
        Keep::Before(self.chance.between(self.sequences.start, self.sequences.end))
    }

    pub(crate) fn keep_for_file(&mut self) -> Keep {
        if let Some(manner) = self.manner {
            return manner;
        }
        let share = [50, 500, 950][self.chance.index(3)];
        match self.chance.below(6) {
            0 => Keep::Nothing,
            1 => Keep::Everything,
            2 => self.before(),
            3 => Keep::Writes(share),
            _ => Keep::Units(share),
        }
    }

    /// How many of a file's changes of length are kept: a beginning of them, since the inode is one thing.
    pub(crate) fn kept_lengths(&mut self, keep: Keep, changes: impl Iterator<Item = Sequence>) -> usize {
        match keep {
            Keep::Nothing => 0,
            Keep::Everything => changes.count(),
            Keep::Before(end) => changes.filter(|&sequence| sequence <= end).count(),
            Keep::Units(_) | Keep::Writes(_) => self.chance.index(changes.count() + 1),
        }
    }

    /// Whether a change of names survives, its predecessors aside.
    pub(crate) fn keeps_name(&mut self, keep: Keep, sequence: Sequence) -> bool {
        match keep {
            Keep::Nothing => false,
            Keep::Everything => true,
            Keep::Before(end) => sequence < end,
            Keep::Units(share) | Keep::Writes(share) => self.chance.per_mille(share),
        }
    }

    pub(crate) fn fate(&mut self, keep: Keep, sequence: Sequence, sectors: &Range<u64>) -> Fate {
        match keep {
            Keep::Nothing => Fate::Lost,
            Keep::Everything => Fate::Whole,
            Keep::Units(share) => Fate::Units(share),
            Keep::Writes(share) => whole_if(self.chance.per_mille(share)),
            Keep::Before(end) if sequence == end => {
                let end = self.chance.between(sectors.start, sectors.end);
                Fate::Beginning(self.round(end))
            }
            Keep::Before(end) => whole_if(sequence < end),
        }
    }

    fn round(&self, sector: u64) -> u64 {
        match self.config.torn_unit {
            TornUnit::Sector512 => sector,
            TornUnit::Block4096 | TornUnit::ShornBlock4096 => sector / SECTORS_PER_PAGE * SECTORS_PER_PAGE,
        }
    }

    pub(crate) fn count(&mut self, fate: Fate) {
        self.versions += 1;
        self.kept += u64::from(fate != Fate::Lost);
    }

    /// Which of the sectors `asked` of the page that begins at sector `first` are kept.
    pub(crate) fn kept_sectors(&mut self, fate: Fate, first: u64, asked: u8) -> u8 {
        match fate {
            Fate::Lost => 0,
            Fate::Whole => asked,
            Fate::Beginning(end) => {
                let below = end.saturating_sub(first).min(SECTORS_PER_PAGE);
                asked & ((1_u16 << below) - 1) as u8
            }
            Fate::Units(share) if self.config.torn_unit == TornUnit::Sector512 => self.choose(share, asked),
            Fate::Units(share) => {
                if self.chance.per_mille(share) {
                    asked
                } else {
                    0
                }
            }
        }
    }

    fn choose(&mut self, share: u32, asked: u8) -> u8 {
        if share == 500 {
            return self.chance.next() as u8 & asked;
        }
        (0..SECTORS_PER_PAGE)
            .map(|sector| 1 << sector)
            .filter(|mask| asked & mask != 0 && self.chance.per_mille(share))
            .fold(0, |kept, mask| kept | mask)
    }

    pub(crate) fn leaves_garbage(&mut self) -> bool {
        self.chance.per_mille(self.config.garbage_per_mille)
    }

    /// A device that keeps its power finishes the block that it writes.
    pub(crate) fn shears_block(&mut self) -> bool {
        self.kind == CrashKind::PowerCut
            && self.config.torn_unit == TornUnit::ShornBlock4096
            && self.chance.per_mille(125)
    }

    pub(crate) fn garbage(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.chance.fill(&mut bytes);
        bytes
    }

    pub(crate) fn unreadable_sectors(&mut self, first: u64, asked: u8) -> Vec<u64> {
        let share = self.config.unreadable_after_cut_per_mille;
        (0..SECTORS_PER_PAGE)
            .filter(|sector| asked & (1 << sector) != 0 && self.chance.per_mille(share))
            .map(|sector| first + sector)
            .collect()
    }
}

fn whole_if(kept: bool) -> Fate {
    if kept { Fate::Whole } else { Fate::Lost }
}

const _: () = assert!(SECTOR * SECTORS_PER_PAGE <= 4096, "a page's sectors fit eight bits");
