//! Records behind the damage that only a journal has: the one that counts, and those that earlier recoveries kept.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use highwater_io::{Io, fs};
use highwater_model::batch;
use highwater_model::batch::BatchHeader;

use super::{Cut, Found, Where};
use crate::checkpoint;
use crate::dir::{self, DAMAGED_PREFIX, JOURNAL_DIR};
use crate::error::OpenError;
use crate::journal::format::{Change, Entry};
use crate::journal::read_ahead::chunk_pool;
use crate::journal::scan::{Access, Ending, JournalReader, Next};
use crate::kafka_files::{LOG_SUFFIX, base_offset_of};

/// Journals of one generation.
struct Kept {
    dir: PathBuf,
    id: [u8; 16],
}

/// Directories of journals that were damaged, in the order of their names.
pub(super) async fn damaged_dirs(io: &Io, path: &Path) -> Result<Vec<(PathBuf, [u8; 16])>, OpenError> {
    let root = path.join(JOURNAL_DIR);
    let mut dirs = Vec::new();
    for entry in io.fs().read_dir(&root).await? {
        let id = entry.name.strip_prefix(DAMAGED_PREFIX).and_then(dir::parse_hex);
        dirs.extend(id.map(|id| (root.join(&entry.name), id)));
    }
    dirs.sort();
    Ok(dirs)
}

async fn all_journals(io: &Io, path: &Path, found: &Found) -> Result<Vec<Kept>, OpenError> {
    let mut all = vec![Kept { dir: found.generation.dir.clone(), id: found.generation.id }];
    all.extend(damaged_dirs(io, path).await?.into_iter().map(|(dir, id)| Kept { dir, id }));
    Ok(all)
}

/// Adds to each cut what the journals have behind it.
pub(super) async fn find_apart(io: &Io, path: &Path, found: &mut Found) -> Result<(), OpenError> {
    if found.cuts.is_empty() {
        return Ok(());
    }
    for kept in all_journals(io, path, found).await? {
        for shard in shards(io, &kept).await? {
            let Some(mut reader) = open(io, &kept, &shard).await? else { continue };
            loop {
                match reader.next().await? {
                    Next::Group(group) => {
                        for (entry, payload) in &group.entries {
                            note(found, &shard, entry, Some(payload));
                        }
                    }
                    // Of those nothing can be read; that they were there is known.
                    Next::Rotten { entries, .. } => {
                        entries.iter().flatten().for_each(|entry| note(found, &shard, entry, None));
                    }
                    Next::Unknown { .. } => {}
                    Next::End { .. } => break,
                }
            }
        }
    }
    find_strays(io, path, found).await
}

async fn shards(io: &Io, kept: &Kept) -> Result<Vec<PathBuf>, OpenError> {
    let entries = io.fs().read_dir(&kept.dir).await?;
    let dirs = entries.iter().filter(|entry| entry.kind == fs::FileKind::Directory);
    Ok(dirs.map(|entry| kept.dir.join(&entry.name)).collect())
}

async fn open(io: &Io, kept: &Kept, shard: &Path) -> Result<Option<JournalReader>, OpenError> {
    let Some(checkpoint) = checkpoint::read_newest(io, shard, Access::Inspect).await? else {
        return Ok(None);
    };
    let place = &checkpoint.place;
    let reader =
        JournalReader::open(io, &chunk_pool(), shard, kept.id, place, Access::Inspect, Ending::Unknown)
            .await?;
    Ok(Some(reader))
}

fn note(found: &mut Found, shard: &Path, entry: &Entry, payload: Option<&Bytes>) {
    let Change::Append { next_offset, prefix_bytes, leader_epoch, .. } = entry.change else { return };
    let cut = found.cuts.iter_mut().find(|(one, ..)| one.state.id == entry.id);
    let Some((_, examined, cut)) = cut else { return };
    cut.known_end = cut.known_end.max(next_offset);
    examined.latest_epoch = examined.latest_epoch.max(Some(leader_epoch));
    for (header, _) in payload.into_iter().flat_map(|payload| batches(payload, prefix_bytes)) {
        examined.add_batch(shard, Where::Journal, &header);
    }
}

/// The batches of an append's payload.
fn batches(payload: &Bytes, prefix_bytes: u32) -> impl Iterator<Item = (BatchHeader, Bytes)> {
    let bytes = payload.slice(prefix_bytes as usize..);
    let headers: Vec<_> = batch::headers(&bytes).map_while(Result::ok).collect();
    headers.into_iter().map(move |(at, header)| (header, bytes.slice(at..at + header.size_bytes)))
}

/// What was kept of a partition whose directory was lost.
async fn find_strays(io: &Io, path: &Path, found: &mut Found) -> Result<(), OpenError> {
    for (one, examined, _) in &mut found.cuts {
        let stray = dir::stray_dir(path, one.state.id);
        if !io.fs().exists(&stray).await? {
            continue;
        }
        for entry in io.fs().read_dir(&stray).await? {
            if base_offset_of(&entry.name, LOG_SUFFIX).is_some() {
                examined.add_file(io, &stray.join(&entry.name), 0).await?;
            }
        }
    }
    Ok(())
}

/// Copies what `find_apart` found in journals into files of Kafka's format, flushed: one for each run of offsets, named by
/// its first. Of these partitions only.
pub(super) async fn extract(io: &Io, path: &Path, found: &Found, only: &[&Cut]) -> Result<(), OpenError> {
    let is_needed = only.iter().any(|cut| cut.apart.iter().any(|apart| apart.place == Where::Journal));
    if !is_needed {
        return Ok(());
    }
    for kept in all_journals(io, path, found).await? {
        for shard in shards(io, &kept).await? {
            let Some(mut reader) = open(io, &kept, &shard).await? else { continue };
            let mut writer = Writer { io, found, only, shard: &shard, open: None };
            loop {
                match reader.next().await? {
                    Next::Group(group) => {
                        for (entry, payload) in &group.entries {
                            writer.take(entry, payload).await?;
                        }
                    }
                    Next::Rotten { .. } | Next::Unknown { .. } => {}
                    Next::End { .. } => break,
                }
            }
            writer.close().await?;
        }
    }
    Ok(())
}

struct Writer<'a> {
    io: &'a Io,
    found: &'a Found,
    only: &'a [&'a Cut],
    shard: &'a Path,
    /// The file that was written last.
    open: Option<Open>,
}

struct Open {
    path: PathBuf,
    file: fs::File,
}

impl Writer<'_> {
    async fn take(&mut self, entry: &Entry, payload: &Bytes) -> Result<(), OpenError> {
        let Change::Append { prefix_bytes, .. } = entry.change else { return Ok(()) };
        let cut = self.found.cuts.iter().find(|(one, ..)| one.state.id == entry.id);
        let Some((_, _, cut)) = cut.filter(|(_, _, cut)| self.only.contains(&cut)) else { return Ok(()) };
        for (header, bytes) in batches(payload, prefix_bytes) {
            let run = cut.apart.iter().find(|apart| {
                let is_here = apart.place == Where::Journal && apart.path == self.shard;
                is_here && apart.offsets.contains(&header.base_offset)
            });
            if let Some(run) = run {
                let name = format!("journal-{:020}{LOG_SUFFIX}", run.offsets.start.0);
                let path = self.found.side_dir.join(&cut.name).join(name);
                self.write(path, header.base_offset == run.offsets.start, bytes).await?;
            }
        }
        Ok(())
    }

    async fn write(&mut self, path: PathBuf, is_first: bool, bytes: Bytes) -> Result<(), OpenError> {
        if self.open.as_ref().is_none_or(|open| open.path != path) {
            self.close().await?;
            let options = fs::OpenOptions::read_write().create();
            self.open = Some(Open { file: self.io.fs().open(&path, options).await?, path });
        }
        let Some(Open { file, .. }) = &self.open else { return Ok(()) };
        if is_first {
            // A run before this one may have begun it.
            file.set_len(0).await?;
        }
        let end = file.len().await?;
        Ok(file.write_at(vec![bytes], end, fs::Durability::Plain).await?)
    }

    async fn close(&mut self) -> Result<(), OpenError> {
        if let Some(Open { file, .. }) = self.open.take() {
            file.sync_all().await?;
        }
        Ok(())
    }
}
