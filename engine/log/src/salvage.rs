//! The way out for a fenced partition (rule 12): on command, its log is cut to what is intact, and takes appends again.
//!
//! ```text
//!   look      the recovery's own pass over checkpoint and journal, and every batch of the segments; nothing is changed
//!   copy      whatever the cut takes goes to D/salvaged/<generation>/, flushed
//!   recover   as a start does, and the states of the partitions are cut
//!   switch    a new generation begins with these states (dir.rs): from here on the cut counts
//!   trim      segments lose what lies behind their log's end
//! ```
//!
//! The switch decides, by one durable rename. A crash before it leaves the fence and everything behind it, and copies that
//! the next run writes again; a crash after it leaves bytes behind a log's end, which mean nothing to anybody.
//!
//! The log keeps a prefix: up to the first batch that is damaged, missing or not where the journal says. What is intact
//! behind that is kept apart, in Kafka's format, and not put back: nothing says what stood between.

mod aside;
mod examine;
mod journals;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use highwater_io::Io;
use highwater_model::{LeaderEpoch, Offset, TopicPartition};

use crate::dir::{self, DataDir, Generation, MetadataPlace, OpenOptions, RecoveryReport};
use crate::error::OpenError;
use crate::kafka_files::{parse_partition_dir, partition_dir_name};
use crate::recovery::{self, Inspected};
use crate::salvage::examine::{Examined, examine};
use crate::verify::{self, Problem};

/// Directory of what was cut off, in the data directory.
const SALVAGED_DIR: &str = "salvaged";

/// Which partitions are to be salvaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Every fenced one.
    Fenced,
    /// These, by the names of their directories (`topic-0`): fenced, or damaged in a segment.
    Named(Vec<String>),
}

/// What a salvage gives up, and what it keeps. Displays as the list that the operator reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where what is cut off is copied to.
    pub side_dir: PathBuf,
    /// The partitions that are cut and lose their fence.
    pub partitions: Vec<Cut>,
    /// Fenced partitions that are left as they are, and why.
    pub left: Vec<Left>,
    /// Partitions that were named and are sound.
    pub sound: Vec<String>,
}

/// A partition that is left fenced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Name of its directory.
    pub name: String,
    /// Why it is fenced.
    pub fenced: String,
    /// Why it is left.
    pub why: String,
}

/// One partition's salvage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Topic and partition index: `topic-0`.
    pub name: String,
    /// Why it is fenced; `None` if it is damaged in a segment that is not read at a start.
    pub fenced: Option<String>,
    /// Where the log starts.
    pub log_start_offset: Offset,
    /// Where it will end: the offset that the next append gets, in a new leader epoch.
    pub next_offset: Offset,
    /// The first place that is not intact. `None` if all that the log has is: the journal's damage lies behind it.
    pub damage: Option<Problem>,
    /// The highest offset that was given is below.
    pub known_end: Offset,
    /// Offsets below `known_end` of which nothing intact is left.
    pub lost: Vec<Range<Offset>>,
    /// Records that are intact and behind the damage, by where they are.
    pub apart: Vec<Apart>,
    /// What goes from the partition's segments.
    pub cut_off: Vec<CutOff>,
}

/// Intact batches behind the damage, whose offsets follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apart {
    /// Their offsets.
    pub offsets: Range<Offset>,
    /// Number of records.
    pub records: u64,
    /// Bytes of the batches.
    pub size_bytes: u64,
    /// The file that they are in.
    pub path: PathBuf,
    /// What kind of file that is.
    pub place: Where,
}

/// Where intact batches are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// In a segment, which is copied as it is.
    Segment,
    /// In a journal: they are copied out of it into a file in Kafka's format.
    Journal,
}

/// A part of a segment that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutOff {
    /// The segment.
    pub path: PathBuf,
    /// The bytes, as far as they are known to be of the log.
    pub bytes: Range<u64>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }
}

/// Finds out what a salvage of the directory at `path` would give up. Changes nothing.
///
/// # Errors
/// [`OpenError`]: also where a start would be refused, since that is not a fence.
pub async fn plan(io: &Io, path: &Path, selection: &Selection) -> Result<Plan, OpenError> {
    let _lock = verify::lock(io, path).await?;
    Ok(look(io, path, selection).await?.into_plan())
}

/// Salvages: copies aside what [`plan`] lists, cuts the logs, lifts the fences. Durable when this returns. May be run again
/// after a crash.
///
/// # Errors
/// [`OpenError`]: before the cut counts everything is as it was, or recovered.
pub async fn salvage(io: &Io, path: &Path, selection: &Selection) -> Result<Plan, OpenError> {
    if !io.fs().exists(path).await? {
        return Err(no_directory(path));
    }
    let lock = dir::lock_dir(io, path).await?;
    let found = look(io, path, selection).await?;
    if found.cuts.is_empty() {
        return Ok(found.into_plan());
    }
    found.copy_aside(io, path).await?;
    let options = OpenOptions {
        node_id: dir::read_meta(io, path).await?.and_then(|meta| meta.node_id()).unwrap_or_default(),
        metadata: MetadataPlace::Anywhere,
        ..OpenOptions::default()
    };
    let (mut data_dir, _) = DataDir::open_locked(io, path, options, lock).await?;
    found.cut(&mut data_dir)?;
    found.forget_hints(io).await?;
    data_dir.split(1, |_, _| 0).await?;
    found.trim(io).await?;
    if found.left.is_empty() {
        found.set_damaged_journals_aside(io, path).await?;
    }
    Ok(found.into_plan())
}

/// A data directory without a look into its segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// Id of the journals that count; `None` if there is no journal: Apache Kafka's directory, or a new one.
    pub generation: Option<String>,
    /// What the next start would do, without what only a start can know.
    pub recovery: RecoveryReport,
    /// Fenced partitions by name, and why.
    pub fenced: Vec<(String, String)>,
}

/// Looks at what a start would find in checkpoints and journals. Changes nothing.
///
/// # Errors
/// [`OpenError`]: also where a start would be refused.
pub async fn overview(io: &Io, path: &Path) -> Result<Overview, OpenError> {
    let _lock = verify::lock(io, path).await?;
    let mut recovery = RecoveryReport {
        was_clean: io.fs().exists(path.join(dir::CLEAN_MARKER)).await?,
        ..RecoveryReport::default()
    };
    let Some((generation, inspected)) = inspect(io, path, &mut recovery).await? else {
        return Ok(Overview { generation: None, recovery, fenced: Vec::new() });
    };
    let fenced = inspected.iter().filter_map(|one| Some((name_of(one), one.state.fenced.clone()?)));
    Ok(Overview { generation: Some(dir::hex(&generation.id)), fenced: fenced.collect(), recovery })
}

fn no_directory(path: &Path) -> OpenError {
    OpenError::NotOurs { path: path.to_owned(), why: "there is no such data directory".to_owned() }
}

/// What a recovery would come to, if there is a journal.
async fn inspect(
    io: &Io,
    path: &Path,
    report: &mut RecoveryReport,
) -> Result<Option<(Generation, Vec<Inspected>)>, OpenError> {
    if !io.fs().exists(path).await? {
        return Err(no_directory(path));
    }
    let meta = dir::read_meta(io, path).await?;
    let Some(generation) = dir::current_generation(io, path).await? else {
        return match meta {
            Some(meta) if meta.has_journal => Err(dir::missing_journal(path)),
            _ => Ok(None),
        };
    };
    let access = crate::journal::scan::Access::Inspect;
    let found = dir::discover(io, path, true, access, report).await?;
    let inspected = recovery::inspect(io, path, &generation, found, report).await?;
    Ok(Some((generation, inspected)))
}

fn name_of(inspected: &Inspected) -> String {
    let state = &inspected.state;
    partition_dir_name(&state.topic_name, state.id.partition.0)
}

/// What was found, and is to be done.
struct Found {
    /// The generation's directory that counts before.
    generation: Generation,
    side_dir: PathBuf,
    cuts: Vec<(Inspected, Examined, Cut)>,
    left: Vec<Left>,
    sound: Vec<String>,
}

async fn look(io: &Io, path: &Path, selection: &Selection) -> Result<Found, OpenError> {
    let mut report = RecoveryReport::default();
    let Some((generation, inspected)) = inspect(io, path, &mut report).await? else {
        return Err(OpenError::NotOurs {
            path: path.to_owned(),
            why:
                "has no journal: no broker of ours has run here, and nothing is fenced; start one on it first"
                    .to_owned(),
        });
    };
    if let Selection::Named(names) = selection
        && let Some(unknown) = names.iter().find(|name| inspected.iter().all(|one| name_of(one) != **name))
    {
        return Err(OpenError::NotOurs {
            path: path.join(unknown),
            why: "there is no such partition; name it as its directory is named, such as orders-0".to_owned(),
        });
    }
    let side_dir = path.join(SALVAGED_DIR).join(dir::hex(&generation.id));
    let mut found = Found { generation, side_dir, cuts: Vec::new(), left: Vec::new(), sound: Vec::new() };
    for one in inspected {
        found.take(io, one, selection).await?;
    }
    journals::find_apart(io, path, &mut found).await?;
    for (_, examined, cut) in &mut found.cuts {
        cut.finish(std::mem::take(&mut examined.apart));
    }
    Ok(found)
}

impl Found {
    async fn take(&mut self, io: &Io, one: Inspected, selection: &Selection) -> Result<(), OpenError> {
        let name = name_of(&one);
        let is_named = match selection {
            Selection::Fenced => false,
            Selection::Named(names) => names.contains(&name),
        };
        let is_chosen = is_named || *selection == Selection::Fenced && one.state.fenced.is_some();
        if let Some(why) = why_left(&one, is_chosen) {
            self.left.extend(one.state.fenced.clone().map(|fenced| Left { name, fenced, why }));
            return Ok(());
        }
        if !is_chosen {
            return Ok(());
        }
        let examined = examine(io, &one).await?;
        if one.state.fenced.is_none() && examined.damage.is_none() {
            self.sound.push(name);
            return Ok(());
        }
        let cut = Cut {
            name,
            fenced: one.state.fenced.clone(),
            log_start_offset: one.state.log_start_offset,
            next_offset: examined.keep.next_offset,
            damage: examined.damage.clone(),
            known_end: one.state.next_offset,
            lost: Vec::new(),
            apart: Vec::new(),
            cut_off: examined.cut_off.clone(),
        };
        self.cuts.push((one, examined, cut));
        Ok(())
    }

    fn into_plan(self) -> Plan {
        let Found { side_dir, cuts, left, sound, .. } = self;
        Plan { side_dir, partitions: cuts.into_iter().map(|(_, _, cut)| cut).collect(), left, sound }
    }

    /// Cuts the states that the recovery came to.
    fn cut(&self, data_dir: &mut DataDir) -> Result<(), OpenError> {
        let cuts: BTreeMap<TopicPartition, _> =
            self.cuts.iter().map(|(one, examined, _)| (one.state.id, (one, examined))).collect();
        for seed in data_dir.seeds_mut() {
            let Some((one, Examined { keep, latest_epoch, .. })) = cuts.get(&seed.state.id) else { continue };
            let state = &mut seed.state;
            if state.end_place() != one.state.end_place() || state.next_offset != one.state.next_offset {
                return Err(OpenError::Damaged {
                    path: seed.dir.clone(),
                    position_bytes: state.position_bytes,
                    what: "the recovery came to another end of this log than was listed; nothing was cut"
                        .to_owned(),
                });
            }
            // Offsets behind the cut were given in older epochs, and are given again in newer ones.
            let known = state.epochs.latest().map(|latest| latest.epoch).max(*latest_epoch);
            let epoch = known.map_or(0, |known| known.0.saturating_add(1));
            state.truncate(keep.next_offset, keep.segment_base, keep.position_bytes);
            state.epochs.assign(LeaderEpoch(epoch), keep.next_offset);
            state.fenced = None;
        }
        Ok(())
    }
}

/// Why a partition is not to be cut, fenced or not.
fn why_left(one: &Inspected, is_chosen: bool) -> Option<String> {
    let dir_name = one.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name_of(one);
    let is_renamed = parse_partition_dir(&dir_name).is_some() && dir_name != name;
    match (is_renamed, is_chosen) {
        (true, _) => Some(format!("rename {dir_name} back to {name} first")),
        (false, false) => Some("it was not named".to_owned()),
        (false, true) => None,
    }
}

impl Cut {
    /// Once everything intact is known: what is not.
    fn finish(&mut self, apart: Vec<Apart>) {
        self.apart = apart;
        self.apart.sort_by_key(|apart| apart.offsets.start);
        let ends = self.apart.iter().map(|apart| apart.offsets.end);
        self.known_end = ends.max().unwrap_or_default().max(self.known_end);
        let mut from = self.next_offset;
        for Apart { offsets, .. } in &self.apart {
            if from < offsets.start {
                self.lost.push(from..offsets.start);
            }
            from = from.max(offsets.end);
        }
        if from < self.known_end {
            self.lost.push(from..self.known_end);
        }
    }
}

/// Offsets in words.
struct Offsets<'a>(&'a Range<Offset>);

impl fmt::Display for Offsets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.0;
        match end.0 - start.0 {
            ..=0 => write!(f, "none"),
            1 => write!(f, "{start}"),
            _ => write!(f, "{start} to {}", end.0 - 1),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.log_start_offset..self.next_offset;
        writeln!(f, "{}: keeps offsets {}; the log ends at {}", self.name, Offsets(&kept), self.next_offset)?;
        match &self.fenced {
            Some(reason) => writeln!(f, "  fenced: {reason}")?,
            None => writeln!(f, "  not fenced; damaged in a segment")?,
        }
        if let Some(damage) = &self.damage {
            writeln!(f, "  first damage: {damage}")?;
        }
        if self.lost.is_empty() {
            writeln!(f, "  lost for good: nothing that is known of")?;
        }
        for lost in &self.lost {
            writeln!(f, "  lost for good: offsets {}", Offsets(lost))?;
        }
        for Apart { offsets, records, size_bytes, path, .. } in &self.apart {
            let (offsets, path) = (Offsets(offsets), path.display());
            writeln!(
                f,
                "  intact behind it, kept apart: offsets {offsets} ({records} records, {size_bytes} bytes) of {path}"
            )?;
        }
        for CutOff { path, bytes } in &self.cut_off {
            let (path, len) = (path.display(), bytes.end - bytes.start);
            writeln!(f, "  cut off: {path}, {len} bytes from byte {} on", bytes.start)?;
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.partitions.iter().try_for_each(|cut| write!(f, "{cut}"))?;
        for Left { name, fenced, why } in &self.left {
            writeln!(f, "{name}: stays fenced ({why}): {fenced}")?;
        }
        self.sound.iter().try_for_each(|name| writeln!(f, "{name}: sound; nothing to do"))
    }
}
