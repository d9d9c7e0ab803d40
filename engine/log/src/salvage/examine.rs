//! How much of a partition's log is intact from its start on, and what is intact behind that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use highwater_io::Io;
use highwater_model::batch::BatchHeader;
use highwater_model::{LeaderEpoch, Offset};

use super::walk::{Seen, Walk};
use super::{Apart, CutOff, Where};
use crate::compaction::swap::Replaced;
use crate::error::OpenError;
use crate::journal::scan::Access;
use crate::kafka_files::{LOG_SUFFIX, segment_path};
use crate::partition::state::PartitionState;
use crate::recovery::{Inspected, segment_names};
use crate::verify::Problem;

/// Where a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) segment_base: Offset,
    pub(super) position_bytes: u64,
    pub(super) next_offset: Offset,
}

/// What is to be kept of a log, and what is not.
#[derive(Debug, Clone)]
pub(super) struct Examined {
    pub(super) keep: End,
    pub(super) damage: Option<Problem>,
    pub(super) apart: Vec<Apart>,
    pub(super) cut_off: Vec<CutOff>,
    /// Epoch of the newest record behind the end that is known of.
    pub(super) latest_epoch: Option<LeaderEpoch>,
    /// Every segment's data file that there is.
    pub(super) segments: BTreeMap<Offset, PathBuf>,
}

pub(super) async fn examine(io: &Io, one: &Inspected) -> Result<Examined, OpenError> {
    let segments = Segments::list(io, &one.dir).await?;
    let mut prefix = Prefix::new(&one.state);
    prefix.follow(io, one, &segments).await?;
    let Prefix { end, damage, .. } = prefix;
    let keep = match damage {
        Some(_) => End { next_offset: end.next_offset.max(one.state.log_start_offset), ..end },
        None => end_of(&one.state),
    };
    let mut examined = Examined {
        keep,
        damage,
        apart: Vec::new(),
        cut_off: Vec::new(),
        latest_epoch: None,
        segments: segments.data,
    };
    behind(io, &one.state, &mut examined).await?;
    Ok(examined)
}

fn end_of(state: &PartitionState) -> End {
    let PartitionState { segment_base, position_bytes, next_offset, .. } = *state;
    End { segment_base, position_bytes, next_offset }
}

struct Segments {
    /// All that are known, and whether there is the data.
    named: BTreeMap<Offset, bool>,
    data: BTreeMap<Offset, PathBuf>,
    dir: PathBuf,
}

impl Segments {
    /// As after every compaction has come to its end.
    async fn list(io: &Io, dir: &Path) -> Result<Self, OpenError> {
        let mut segments = Segments { named: BTreeMap::new(), data: BTreeMap::new(), dir: dir.to_owned() };
        if !io.fs().exists(dir).await? {
            return Ok(segments);
        }
        segments.named = segment_names(io, dir, Access::Inspect).await?;
        let has_data = segments.named.iter().filter(|(_, has_data)| **has_data);
        segments.data = has_data.map(|(base, _)| (*base, segment_path(dir, *base, LOG_SUFFIX))).collect();
        for swap in io.fs().read_dir(dir).await?.iter().filter_map(|entry| Replaced::parse(&entry.name)) {
            segments.data.insert(swap.base_offset, swap.swap_path(dir));
        }
        Ok(segments)
    }

    /// Base offsets of those that the log needs, up to `last`.
    fn needed(&self, state: &PartitionState, last: Offset) -> Vec<Offset> {
        let mut bases: Vec<Offset> = self.named.range(..=last).map(|(base, _)| *base).collect();
        if !bases.contains(&last) {
            bases.push(last);
        }
        let next = |index: usize| bases.get(index + 1).copied();
        let after_last = (last < state.segment_base).then_some(state.segment_base);
        let is_passed = |index: usize| next(index).or(after_last).is_some_and(|next| state.is_passed(next));
        let needed = (0..bases.len()).filter(|&index| !is_passed(index)).map(|index| bases[index]);
        needed.collect()
    }
}

/// The intact beginning of a log, as far as it was followed.
struct Prefix {
    end: End,
    /// The end before the last batch, and whether offsets are left out between the two.
    before_last: Option<(End, bool)>,
    /// Whether offsets are left out somewhere, as compaction does.
    is_sparse: bool,
    damage: Option<Problem>,
}

impl Prefix {
    fn new(state: &PartitionState) -> Self {
        let start = state.log_start_offset;
        let end = End { segment_base: start, position_bytes: 0, next_offset: start };
        Prefix { end, before_last: None, is_sparse: false, damage: None }
    }

    fn damaged(&mut self, path: &Path, position_bytes: Option<u64>, what: impl Into<String>) {
        self.damage = Some(Problem { path: path.to_owned(), position_bytes, what: what.into() });
    }

    /// Follows the log through the segments, up to its end or to where the journal has the rest.
    async fn follow(&mut self, io: &Io, one: &Inspected, segments: &Segments) -> Result<(), OpenError> {
        let Inspected { state, rewritten_from, .. } = one;
        let place = rewritten_from.map_or(state.end_place(), |from| from.min(state.end_place()));
        let (last, last_bytes) = place;
        let needed = segments.needed(state, last);
        for (index, &base) in needed.iter().enumerate() {
            let path = segment_path(&segments.dir, base, LOG_SUFFIX);
            if base == last && last_bytes == 0 {
                // Nothing of it is in the file.
                self.check_begin(&path, base, index == 0, state);
                break;
            }
            let Some(path) = segments.data.get(&base) else {
                self.damaged(&path, None, "missing");
                return Ok(());
            };
            if !self.check_begin(path, base, index == 0, state) {
                return Ok(());
            }
            let len = io.fs().metadata(path).await?.len_bytes;
            let end = if base == last { last_bytes } else { len };
            let may_be_cut = base == last && place != state.end_place();
            self.segment(io, path, base, end.min(len), may_be_cut, state).await?;
            if self.damage.is_none() && len < end {
                self.damaged(path, Some(len), format!("the file ends here, {end} bytes are expected"));
            }
            if self.damage.is_some() {
                return Ok(());
            }
        }
        if self.damage.is_none() && place == state.end_place() {
            self.check_end(segments, state);
        }
        Ok(())
    }

    /// Goes over to the next segment; false if that does not follow.
    fn check_begin(&mut self, path: &Path, base: Offset, is_first: bool, state: &PartitionState) -> bool {
        if is_first {
            if base > state.log_start_offset {
                let what = format!("missing: the log starts at {}", state.log_start_offset);
                self.damaged(&path.with_file_name(file_name(state.log_start_offset)), None, what);
                return false;
            }
            self.end = End { segment_base: base, position_bytes: 0, next_offset: base };
            return true;
        }
        let ends_at = self.end.next_offset;
        if ends_at > base {
            // No batch tells its own place: the one whose offset was checked last is wrong.
            let what = format!("the segment before holds offsets up to {ends_at}, this one begins at {base}");
            self.end = self.before_last.map_or(self.end, |(end, _)| end);
            self.damaged(path, Some(0), what);
            return false;
        }
        if ends_at < base && !self.is_sparse {
            let what = format!("nothing has offsets {ends_at} to {}", base.0 - 1);
            self.damaged(path, Some(0), what);
            return false;
        }
        self.end = End { segment_base: base, position_bytes: 0, next_offset: base };
        true
    }

    async fn segment(
        &mut self,
        io: &Io,
        path: &Path,
        base: Offset,
        end_bytes: u64,
        may_be_cut: bool,
        state: &PartitionState,
    ) -> Result<(), OpenError> {
        let mut walk = Walk::open(io, path, 0, end_bytes).await?;
        while let Some((position, seen)) = walk.next().await? {
            match seen {
                Seen::Intact(header) if header.base_offset < self.end.next_offset => {
                    let what = format!("offset {} after {}", header.base_offset, self.end.next_offset);
                    if let Some((end, true)) = self.before_last {
                        // That one said too much, and this one is right.
                        self.end = end;
                    }
                    self.damaged(path, Some(position), what);
                }
                Seen::Intact(header) => self.pass(base, position, &header),
                Seen::Damaged { header: Some(header), .. } if self.is_before_start(&header, state) => {
                    self.pass(base, position, &header);
                }
                Seen::Damaged { header: Some(header), .. }
                    if may_be_cut && position + header.size_bytes as u64 > end_bytes =>
                {
                    // The journal rewrites the rest of it.
                    return Ok(());
                }
                Seen::Damaged { header: None, .. }
                    if may_be_cut
                        && end_bytes - position < highwater_model::batch::BATCH_HEADER_BYTES as u64 =>
                {
                    return Ok(());
                }
                Seen::Damaged { what, .. } => self.damaged(path, Some(position), what),
            }
            if self.damage.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Nobody reads it any more, and it tells where the next one is.
    fn is_before_start(&self, header: &BatchHeader, state: &PartitionState) -> bool {
        header.base_offset == self.end.next_offset && header.next_offset() <= state.log_start_offset
    }

    fn pass(&mut self, segment_base: Offset, position_bytes: u64, header: &BatchHeader) {
        let has_gap = header.base_offset > self.end.next_offset;
        let span = header.next_offset().0 - header.base_offset.0;
        self.is_sparse |= has_gap || i64::from(header.record_count) < span;
        let before = End { segment_base, position_bytes, ..self.end };
        self.before_last = Some((before, has_gap));
        self.end = End {
            segment_base,
            position_bytes: position_bytes + header.size_bytes as u64,
            next_offset: header.next_offset(),
        };
    }

    /// The last batch must end where checkpoint and journal say that the log does.
    fn check_end(&mut self, segments: &Segments, state: &PartitionState) {
        let ends_at = self.end.next_offset;
        let is_right = if state.position_bytes > 0 {
            ends_at == state.next_offset
        } else {
            ends_at <= state.next_offset
        };
        if is_right {
            return;
        }
        let what = format!("ends at offset {ends_at}, and the log at {}", state.next_offset);
        let path = segment_path(&segments.dir, self.end.segment_base, LOG_SUFFIX);
        if let Some((before, _)) = self.before_last {
            self.end = before;
        }
        self.damaged(&path, Some(self.end.position_bytes), what);
    }
}

fn file_name(base: Offset) -> String {
    format!("{:020}{LOG_SUFFIX}", base.0)
}

/// Adds batches behind the end that is kept, and what goes of each segment.
async fn behind(io: &Io, state: &PartitionState, examined: &mut Examined) -> Result<(), OpenError> {
    let keep = examined.keep;
    for (base, path) in examined
        .segments
        .range(keep.segment_base..)
        .map(|(base, path)| (*base, path.clone()))
        .collect::<Vec<_>>()
    {
        let from = if base == keep.segment_base { keep.position_bytes } else { 0 };
        let intact_end = examined.add_file(io, &path, from).await?;
        let len = io.fs().metadata(&path).await?.len_bytes;
        let known_end = match base.cmp(&state.segment_base) {
            std::cmp::Ordering::Less => len,
            std::cmp::Ordering::Equal => state.position_bytes.min(len),
            std::cmp::Ordering::Greater => 0,
        };
        let end = known_end.max(intact_end);
        if from < end {
            examined.cut_off.push(CutOff { path, bytes: from..end });
        }
    }
    Ok(())
}

impl Examined {
    /// Adds the batches of a file behind the end, from a batch's first byte on; tells where the last intact one ends.
    pub(super) async fn add_file(&mut self, io: &Io, path: &Path, from: u64) -> Result<u64, OpenError> {
        let mut walk = Walk::open(io, path, from, u64::MAX).await?;
        while let Some((_, seen)) = walk.next().await? {
            if let Seen::Intact(header) = seen {
                self.add_batch(path, Where::Segment, &header);
            }
        }
        Ok(walk.intact_end())
    }

    /// Notes a batch that is intact, unless it is kept or its offsets are noted already.
    pub(super) fn add_batch(&mut self, path: &Path, place: Where, header: &BatchHeader) {
        let (start, end) = (header.base_offset, header.next_offset());
        let is_known = self.apart.iter().any(|known| known.offsets.start < end && start < known.offsets.end);
        if start < self.keep.next_offset || is_known {
            return;
        }
        self.latest_epoch = self.latest_epoch.max(Some(header.leader_epoch));
        let (records, size_bytes) = (u64::from(header.record_count.unsigned_abs()), header.size_bytes as u64);
        match self.apart.iter_mut().find(|known| known.path == path && known.offsets.end == start) {
            Some(known) => {
                known.offsets.end = end;
                known.records += records;
                known.size_bytes += size_bytes;
            }
            None => {
                let path = path.to_owned();
                self.apart.push(Apart { offsets: start..end, records, size_bytes, path, place });
            }
        }
    }
}
