//! What survives a cut, drawn from its seed among everything that the contract allows.
//!
//! Each cut has a manner, so that the rare corners (everything survives, an ordered device was stopped in the middle of
//! a write) come up as often as the plain mixture; in half of the cuts each file and the names have one of their own.

use std::ops::Range;

use super::content::{Number, SECTOR};
use crate::fault::{CutMode, Grain, mix};

/// Which of the changes that are not durable survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Nothing,
    Everything,
    /// Each piece of each write by itself, this many in 256.
    Pieces(u64),
    /// Each change by itself, this many in 256.
    Changes(u64),
    /// What was done before this, and the beginning of this.
    Before(Number),
}

/// What becomes of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Whole,
    /// Bytes below this one.
    Beginning(usize),
    Pieces(u64),
}

/// What is kept or lost as one piece, where a write is torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pieces {
    Sectors,
    Blocks,
    ShornBlocks,
}

/// The stream of decisions of one cut.
#[derive(Debug)]
pub(crate) struct Draw {
    seed: u64,
    drawn: u64,
    numbers: Range<Number>,
    pieces: Pieces,
    tears: bool,
    manner: Option<Manner>,
}

impl Draw {
    /// For a cut of a tree in which the changes of these numbers may be lost.
    pub(crate) fn new(mode: CutMode, numbers: Range<Number>) -> Self {
        let (seed, pieces, tears) = match mode {
            CutMode::DropAll | CutMode::OsCrash => (0, Pieces::Sectors, false),
            CutMode::Shorn { seed } => (seed, Pieces::ShornBlocks, true),
            CutMode::KeepSubset { seed, grain } => match grain.unwrap_or(drawn_grain(seed)) {
                Grain::Sector => (seed, Pieces::Sectors, true),
                Grain::Block => (seed, Pieces::Blocks, true),
                Grain::Write => (seed, Pieces::Blocks, false),
            },
        };
        let mut draw = Self { seed: mix(seed, 1), drawn: 0, numbers, pieces, tears, manner: None };
        draw.manner = match mode {
            CutMode::DropAll => Some(Manner::Nothing),
            CutMode::OsCrash => Some(Manner::Everything),
            _ => draw.common_manner(),
        };
        draw
    }

    fn common_manner(&mut self) -> Option<Manner> {
        match self.below(8) {
            0 => Some(Manner::Everything),
            1 => Some(self.before()),
            2 => Some(Manner::Pieces(128)),
            3 => Some(Manner::Changes(128)),
            _ => None,
        }
    }

    fn before(&mut self) -> Manner {
        let span = self.numbers.end.saturating_sub(self.numbers.start).max(1);
        Manner::Before(self.numbers.start + self.below(span))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.drawn += 1;
        mix(self.seed, self.drawn) % bound
    }

    fn chance(&mut self, of_256: u64) -> bool {
        self.below(256) < of_256
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            let drawn = self.below(u64::MAX).to_le_bytes();
            word.copy_from_slice(&drawn[..word.len()]);
        }
    }

    pub(crate) fn pieces(&self) -> Pieces {
        self.pieces
    }

    /// For a file, or for the names.
    pub(crate) fn manner(&mut self) -> Manner {
        if let Some(manner) = self.manner {
            return manner;
        }
        let share = [13, 128, 243][self.below(3) as usize];
        match self.below(6) {
            0 => Manner::Nothing,
            1 => Manner::Everything,
            2 => self.before(),
            3 => Manner::Changes(share),
            _ => Manner::Pieces(share),
        }
    }

    /// How many changes of length are kept.
    pub(crate) fn kept_lengths(&mut self, manner: Manner, changes: impl Iterator<Item = Number>) -> usize {
        match manner {
            Manner::Nothing => 0,
            Manner::Everything => changes.count(),
            Manner::Before(end) => changes.take_while(|&number| number <= end).count(),
            Manner::Pieces(_) | Manner::Changes(_) => self.below(changes.count() as u64 + 1) as usize,
        }
    }

    /// Whether a change of names is kept.
    pub(crate) fn keeps_name(&mut self, manner: Manner, number: Number) -> bool {
        match manner {
            Manner::Nothing => false,
            Manner::Everything => true,
            Manner::Before(end) => number < end,
            Manner::Pieces(share) | Manner::Changes(share) => self.chance(share),
        }
    }

    pub(crate) fn fate(&mut self, manner: Manner, number: Number, len: usize) -> Fate {
        match manner {
            Manner::Nothing => Fate::Lost,
            Manner::Everything => Fate::Whole,
            Manner::Pieces(share) if self.tears => Fate::Pieces(share),
            Manner::Pieces(share) | Manner::Changes(share) => whole_if(self.chance(share)),
            Manner::Before(end) if number == end && self.tears => {
                Fate::Beginning(self.below(len as u64 / SECTOR + 1) as usize * SECTOR as usize)
            }
            Manner::Before(end) => whole_if(number < end),
        }
    }

    /// Whether the piece that begins at byte `at` of a write is kept.
    pub(crate) fn keeps_piece(&mut self, fate: Fate, at: usize) -> bool {
        match fate {
            Fate::Lost => false,
            Fate::Whole => true,
            Fate::Beginning(end) => at < end,
            Fate::Pieces(share) => self.chance(share),
        }
    }

    /// Whether a piece that is not kept was destroyed instead.
    pub(crate) fn shears(&mut self) -> bool {
        self.pieces == Pieces::ShornBlocks && self.chance(128)
    }
}

fn drawn_grain(seed: u64) -> Grain {
    [Grain::Sector, Grain::Block, Grain::Write][(mix(seed, u64::MAX) % 3) as usize]
}

fn whole_if(kept: bool) -> Fate {
    if kept { Fate::Whole } else { Fate::Lost }
}
