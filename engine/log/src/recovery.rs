//! Recovery: from checkpoints and journals to segments that stand on their own. Always before serving.
//!
//! ```text
//!   newest valid checkpoint ──▶ groups after it, in order ──▶ segments ──flush──▶ seeds for the shards
//!                                 │ torn end: cut
//!                                 └ rot below the durable bound: the partitions concerned are fenced
//! ```
//!
//! The log's end comes from the checkpoint and the journal alone. Entries are applied in order, truncations and rolls
//! included, none skipped by offset; since the first append after a settle repeats the settled block, a block is always
//! written whole, and running it all again gives the same bytes. Nothing here asks cluster metadata.

mod kafka;
mod replay;

use std::path::Path;

use highwater_io::{Io, fs};
use highwater_model::Offset;

use crate::checkpoint;
use crate::dir::{FoundDirs, Generation, OpenOptions, PartitionSeed, RecoveryReport, SegmentFile};
use crate::error::OpenError;
use crate::journal::scan::{Access, Ending, JournalReader, Next};
use crate::kafka_files::{LOG_SUFFIX, base_offset_of};
use crate::partition::state::PartitionState;
use crate::recovery::replay::Replay;

pub(crate) use kafka::import_kafka;

/// Recovers every journal of `generation`.
pub(crate) async fn recover(
    io: &Io,
    path: &Path,
    generation: &Generation,
    options: &OpenOptions,
    found: FoundDirs,
    report: &mut RecoveryReport,
) -> Result<Vec<PartitionSeed>, OpenError> {
    let mut replay = Replay::new(io, path, options, found);
    let mut damaged = false;
    for entry in io.fs().read_dir(&generation.dir).await? {
        let dir = generation.dir.join(&entry.name);
        if entry.kind == fs::FileKind::Directory {
            report.journals += 1;
            damaged |= recover_journal(io, &dir, generation, &mut replay, report).await?;
        }
    }
    let seeds = replay.finish(report).await?;
    if damaged {
        keep_damaged(io, generation, report).await?;
    }
    Ok(seeds)
}

/// Applies one journal; tells whether rot was found in it.
async fn recover_journal(
    io: &Io,
    dir: &Path,
    generation: &Generation,
    replay: &mut Replay,
    report: &mut RecoveryReport,
) -> Result<bool, OpenError> {
    let Some(checkpoint) = checkpoint::read_newest(io, dir, Access::Recover).await? else {
        return Err(OpenError::Damaged {
            path: dir.join("checkpoint-0"),
            position_bytes: 0,
            what: "neither checkpoint of this journal is whole, so the end of its logs is not known; \
                   repair the partitions from a replica, or restore a copy"
                .to_owned(),
        });
    };
    let journal = replay.begin_journal(checkpoint.partitions);
    let ending = if report.was_clean { Ending::Clean } else { Ending::Unknown };
    let place = &checkpoint.place;
    let mut reader = JournalReader::open(io, dir, generation.id, place, Access::Recover, ending).await?;
    let mut damaged = false;
    loop {
        match reader.next().await? {
            Next::Group(group) => {
                report.groups_replayed += 1;
                report.bytes_replayed += group.size_bytes;
                for (entry, payload) in group.entries {
                    replay.apply(&entry, payload).await?;
                }
            }
            Next::Rotten { sequence, entries } => {
                damaged = true;
                let reason =
                    format!("journal {} is damaged at group {sequence}, which was durable", dir.display());
                tracing::error!("{reason}");
                replay.fence(&journal, entries.as_deref(), &reason);
            }
            Next::End { cut_bytes } => {
                report.bytes_cut += cut_bytes;
                return Ok(damaged);
            }
        }
    }
}

/// Keeps a damaged journal beside the new one: what can still be read of it may be salvaged.
async fn keep_damaged(
    io: &Io,
    generation: &Generation,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    let name = generation.dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let kept = generation.dir.with_file_name(format!("damaged-{}", name.unwrap_or_default()));
    if io.fs().exists(&kept).await? {
        return Ok(());
    }
    // A copy, since this generation counts until the next one is complete.
    io.fs().create_dir_all_durable(&kept).await?;
    for shard in io.fs().read_dir(&generation.dir).await? {
        let (from, to) = (generation.dir.join(&shard.name), kept.join(&shard.name));
        io.fs().create_dir_all_durable(&to).await?;
        for file in io.fs().read_dir(&from).await? {
            copy_file(io, &from.join(&file.name), &to.join(&file.name)).await?;
        }
    }
    report.strays.push(format!("{}: the damaged journal is kept here", kept.display()));
    Ok(())
}

async fn copy_file(io: &Io, from: &Path, to: &Path) -> Result<(), OpenError> {
    const COPY_BYTES: usize = 1 << 20;
    let source = io.fs().open(from, fs::OpenOptions::read_only()).await?;
    let target = io.fs().open(to, fs::OpenOptions::read_write().create().truncate()).await?;
    let len = source.len().await?;
    let mut position = 0;
    while position < len {
        let buf = highwater_io::IoBuf::with_capacity(COPY_BYTES);
        match source.read_at(buf, position, COPY_BYTES).await {
            Ok(buf) => target.write_at(vec![buf.freeze()], position, fs::Durability::Plain).await?,
            Err(error) => tracing::warn!("{error}: left out of the copy"),
        }
        position += COPY_BYTES as u64;
    }
    Ok(target.sync_all().await?)
}

/// Lists a partition's segments as they belong to `state`, and removes those that do not: made ahead for a roll that was
/// never recorded, or passed by the log's start.
pub(crate) async fn settle_segments(
    io: &Io,
    dir: &Path,
    state: &mut PartitionState,
) -> Result<Vec<SegmentFile>, OpenError> {
    let mut bases: Vec<Offset> = Vec::new();
    for entry in io.fs().read_dir(dir).await? {
        if let Some(base) = base_offset_of(&entry.name, LOG_SUFFIX) {
            bases.push(base);
        } else if entry.name.ends_with(".tmp") {
            io.fs().remove_file(dir.join(&entry.name)).await?;
        }
    }
    bases.sort_unstable();
    let mut segments = Vec::new();
    for (index, &base) in bases.iter().enumerate() {
        let path = crate::kafka_files::segment_path(dir, base, LOG_SUFFIX);
        let passed = bases
            .get(index + 1)
            .is_some_and(|next| *next <= state.log_start_offset && *next <= state.segment_base);
        if base > state.segment_base || passed {
            io.fs().remove_file(&path).await?;
            continue;
        }
        let len_bytes = io.fs().metadata(&path).await?.len_bytes;
        let size_bytes = if base == state.segment_base { state.position_bytes } else { len_bytes };
        if len_bytes < size_bytes {
            fence(state, &format!("{}: {len_bytes} bytes long, {size_bytes} expected", path.display()));
        }
        segments.push(SegmentFile { base_offset: base, size_bytes: size_bytes.min(len_bytes) });
    }
    let has_active = segments.last().is_some_and(|segment| segment.base_offset == state.segment_base);
    if !has_active && state.position_bytes > 0 {
        fence(state, &format!("{}: segment {} is missing", dir.display(), state.segment_base));
    }
    Ok(segments)
}

fn fence(state: &mut PartitionState, reason: &str) {
    tracing::error!(topic = %state.topic_name, partition = %state.id.partition, "{reason}");
    state.fenced.get_or_insert_with(|| reason.to_owned());
}
