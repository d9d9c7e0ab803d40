//! A directory that Apache Kafka wrote: recovered as Kafka would, flushed whole, ours from then on.
//!
//! After a clean shutdown (`.kafka_cleanshutdown`) segments are taken as they are; otherwise every batch from the
//! recovery point on is checked, and the log ends before the first that is damaged. Old message formats and interrupted
//! replacements of segments are refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use highwater_io::{Io, IoBuf, fs};
use highwater_model::Offset;
use highwater_model::batch::{self, BATCH_HEADER_BYTES, BatchError, BatchHeader};

use crate::dir::{FoundDir, FoundDirs, OpenOptions, PartitionSeed, RecoveryReport};
use crate::error::OpenError;
use crate::kafka_files::{
    EPOCH_CHECKPOINT, LOG_SUFFIX, SNAPSHOT_SUFFIX, base_offset_of, parse_epochs, parse_producer_snapshot,
    segment_path,
};
use crate::partition::state::{MAX_OFFSET, MAX_SEGMENT_BYTES, PartitionState};
use crate::recovery::{Listing, Settled, settle_segments};

const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
const LOG_START_OFFSETS: &str = "log-start-offset-checkpoint";
/// Kafka's own metadata, which is not a topic of ours.
const CLUSTER_METADATA: &str = "__cluster_metadata";
/// What is added to the name of its directory.
const KAFKA_SUFFIX: &str = ".kafka";
const SMALL_FILE_BYTES: usize = 16 << 20;
/// Bytes of a segment that are read at a time; a larger batch is read whole.
const WINDOW_BYTES: usize = 4 << 20;

/// Takes over every partition in `found`.
pub(crate) async fn import_kafka(
    io: &Io,
    path: &Path,
    options: &OpenOptions,
    found: FoundDirs,
    report: &mut RecoveryReport,
) -> Result<Vec<PartitionSeed>, OpenError> {
    let was_clean = io.fs().exists(path.join(CLEAN_SHUTDOWN)).await?;
    let recovery_points = offsets_file(io, &path.join(RECOVERY_POINTS)).await?;
    let log_starts = offsets_file(io, &path.join(LOG_START_OFFSETS)).await?;
    let mut seeds = Vec::new();
    for (id, dir) in found {
        if dir.topic_name == CLUSTER_METADATA {
            set_aside(io, &dir, report).await?;
            continue;
        }
        let key = (dir.topic_name.clone(), id.partition.0);
        let check_from = if was_clean { None } else { Some(recovery_points.get(&key).copied().unwrap_or(0)) };
        let log_start = log_starts.get(&key).copied().unwrap_or(0);
        let mut state = PartitionState::empty(id, &dir.topic_name);
        load(io, &dir, &mut state, check_from, log_start, options.shard.max_producers_per_partition).await?;
        let listing = Listing::of(io, &dir.path).await?;
        let Settled { segments, .. } = settle_segments(io, &dir.path, &mut state, &listing).await?;
        flush_whole(io, &dir.path).await?;
        if let Some(reason) = &state.fenced {
            report.fenced.push((id, reason.clone()));
        }
        seeds.push(PartitionSeed { dir: dir.path, state, segments, is_complete: false });
    }
    if was_clean {
        io.fs().remove_file(path.join(CLEAN_SHUTDOWN)).await?;
    }
    io.fs().sync_dir(path).await?;
    Ok(seeds)
}

/// Moves Kafka's own metadata log out of the way of ours, which has its name; nothing of it is lost.
async fn set_aside(io: &Io, dir: &FoundDir, report: &mut RecoveryReport) -> Result<(), OpenError> {
    let mut name = dir.path.clone().into_os_string();
    name.push(KAFKA_SUFFIX);
    let aside = PathBuf::from(name);
    io.fs().rename(&dir.path, &aside).await?;
    report.strays.push(format!(
        "{}: Kafka's own metadata is kept here; settings of topics are in it",
        aside.display()
    ));
    Ok(())
}

/// Kafka's checkpoint files of offsets: version, count, then `topic partition offset` a line.
async fn offsets_file(io: &Io, path: &Path) -> Result<BTreeMap<(String, i32), i64>, OpenError> {
    if !io.fs().exists(path).await? {
        return Ok(BTreeMap::new());
    }
    let bytes = io.fs().read_file(path, SMALL_FILE_BYTES).await?;
    let text = String::from_utf8_lossy(&bytes);
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let key = (fields.next()?.to_owned(), fields.next()?.parse().ok()?);
        Some((key, fields.next()?.parse().ok()?))
    };
    Ok(text.lines().skip(2).filter_map(parse).collect())
}

/// Finds the log's start and end and what is known of epochs and producers.
async fn load(
    io: &Io,
    dir: &FoundDir,
    state: &mut PartitionState,
    check_from: Option<i64>,
    log_start: i64,
    max_producers: usize,
) -> Result<(), OpenError> {
    let files = list(io, dir).await?;
    let Some(&first) = files.segments.first() else { return Ok(()) };
    state.log_start_offset = first.max(Offset(log_start));
    state.next_offset = first;
    state.segment_base = first;
    if let Ok(bytes) = io.fs().read_file(dir.path.join(EPOCH_CHECKPOINT), SMALL_FILE_BYTES).await
        && let Some(starts) = std::str::from_utf8(&bytes).ok().and_then(parse_epochs)
    {
        starts.iter().for_each(|start| state.epochs.assign(start.epoch, start.start_offset));
    }
    let snapshot = load_snapshot(io, dir, state, &files.snapshots).await?;
    // Headers are read from the older of the two places on: the end is only in the last segment.
    let last = *files.segments.last().expect("not empty");
    let check_base = check_from.map_or(last, |point| floor(&files.segments, Offset(point)));
    let walk_base = check_base.min(floor(&files.segments, snapshot));
    for (index, &base) in files.segments.iter().enumerate() {
        if base < walk_base {
            continue;
        }
        state.segment_base = base;
        state.position_bytes = 0;
        state.segment_first_timestamp = None;
        // Segments before the first that is walked are not looked at, and one that was just begun is empty: its base is
        // where the log ends, then.
        state.next_offset = state.next_offset.max(base);
        let checks = check_from.is_some() && base >= check_base;
        let whole = walk_segment(io, dir, state, checks, snapshot, max_producers).await?;
        if !whole {
            for &later in &files.segments[index + 1..] {
                io.fs().remove_file(segment_path(&dir.path, later, LOG_SUFFIX)).await?;
            }
            break;
        }
    }
    state.epochs.truncate_from_end(state.next_offset);
    state.producers.truncate_from_end(state.next_offset);
    state.log_start_offset = state.log_start_offset.min(state.next_offset);
    Ok(())
}

struct Files {
    segments: Vec<Offset>,
    snapshots: Vec<Offset>,
}

async fn list(io: &Io, dir: &FoundDir) -> Result<Files, OpenError> {
    let mut files = Files { segments: Vec::new(), snapshots: Vec::new() };
    for entry in io.fs().read_dir(&dir.path).await? {
        let path = dir.path.join(&entry.name);
        if entry.name.ends_with(".swap") {
            return Err(OpenError::NotOurs {
                path,
                why: "the replacement of a segment was interrupted; start Kafka on it once to finish it"
                    .to_owned(),
            });
        }
        if entry.name.ends_with(".deleted") || entry.name.ends_with(".cleaned") {
            io.fs().remove_file(&path).await?;
            continue;
        }
        files.segments.extend(base_offset_of(&entry.name, LOG_SUFFIX));
        files.snapshots.extend(base_offset_of(&entry.name, SNAPSHOT_SUFFIX));
    }
    files.segments.sort_unstable();
    files.snapshots.sort_unstable();
    Ok(files)
}

/// Largest base offset not above `offset`.
fn floor(segments: &[Offset], offset: Offset) -> Offset {
    let after = segments.partition_point(|base| *base <= offset);
    segments[after.saturating_sub(1)]
}

/// Loads the newest whole snapshot; batches before the returned offset are in it.
async fn load_snapshot(
    io: &Io,
    dir: &FoundDir,
    state: &mut PartitionState,
    snapshots: &[Offset],
) -> Result<Offset, OpenError> {
    for &offset in snapshots.iter().rev() {
        let path = segment_path(&dir.path, offset, SNAPSHOT_SUFFIX);
        if let Ok(bytes) = io.fs().read_file(path, SMALL_FILE_BYTES).await
            && let Some(table) = parse_producer_snapshot(&bytes)
        {
            state.producers = table;
            return Ok(offset);
        }
    }
    Ok(Offset(0))
}

/// Goes through the batches of one segment; tells whether it is whole to its end.
async fn walk_segment(
    io: &Io,
    dir: &FoundDir,
    state: &mut PartitionState,
    checks: bool,
    snapshot: Offset,
    max_producers: usize,
) -> Result<bool, OpenError> {
    let path = segment_path(&dir.path, state.segment_base, LOG_SUFFIX);
    let file = io.fs().open(&path, fs::OpenOptions::read_only()).await?;
    let len_bytes = file.len().await?;
    let mut window = Bytes::new();
    let mut window_start = 0;
    while state.position_bytes < len_bytes {
        let position = state.position_bytes;
        let at = usize::try_from(position - window_start).expect("inside the window");
        let need = match BatchHeader::parse(window.get(at..).unwrap_or_default()) {
            Ok(header) if !checks || at + header.size_bytes <= window.len() => None,
            Ok(header) => Some(header.size_bytes),
            Err(BatchError::Truncated { .. }) => Some(BATCH_HEADER_BYTES),
            Err(BatchError::UnsupportedMagic(magic)) if magic == 0 && is_zero(&window[at..]) => {
                return Ok(false);
            }
            Err(BatchError::UnsupportedMagic(magic @ 0..=1)) => {
                return Err(old_format(&path, position, magic));
            }
            Err(_) => return Ok(false),
        };
        if let Some(need) = need {
            let len = need.max(WINDOW_BYTES);
            let left = usize::try_from(len_bytes - position).unwrap_or(usize::MAX);
            if need > left {
                return Ok(false);
            }
            window = file.read_at(IoBuf::with_capacity(len), position, len).await?.freeze();
            window_start = position;
            if window.len() < need {
                return Ok(false);
            }
            continue;
        }
        let header = if checks { batch::verify(&window[at..]) } else { BatchHeader::parse(&window[at..]) };
        let Ok(header) = header else { return Ok(false) };
        let is_possible = header.next_offset() <= MAX_OFFSET && position <= MAX_SEGMENT_BYTES;
        if position + header.size_bytes as u64 > len_bytes
            || header.base_offset < state.next_offset
            || !is_possible
        {
            return Ok(false);
        }
        if header.base_offset >= snapshot {
            state.record_batch(&header, max_producers);
        } else {
            state.epochs.assign(header.leader_epoch, header.base_offset);
            state.next_offset = header.next_offset();
            state.position_bytes += header.size_bytes as u64;
        }
        if at + header.size_bytes > window.len() {
            window = Bytes::new();
            window_start = state.position_bytes;
        }
    }
    Ok(true)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().take(BATCH_HEADER_BYTES).all(|byte| *byte == 0)
}

fn old_format(path: &Path, position_bytes: u64, magic: i8) -> OpenError {
    OpenError::Damaged {
        path: PathBuf::from(path),
        position_bytes,
        what: format!(
            "a message of the old format v{magic}, which Kafka 4 does not read either; \
             let a Kafka 3 broker rewrite the topic first"
        ),
    }
}

/// Flushes every file of a partition: Kafka may have left them to the system.
async fn flush_whole(io: &Io, dir: &Path) -> Result<(), OpenError> {
    for entry in io.fs().read_dir(dir).await? {
        if entry.kind == fs::FileKind::File {
            let file = io.fs().open(dir.join(&entry.name), fs::OpenOptions::read_write()).await?;
            file.sync_all().await?;
        }
    }
    Ok(io.fs().sync_dir(dir).await?)
}
