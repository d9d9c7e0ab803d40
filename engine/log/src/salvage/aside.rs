//! Files: copying aside what goes, before anything is changed, and trimming what is left, once it counts for nothing.

use std::path::Path;

use highwater_io::{FileError, Io, fs};
use highwater_model::Offset;

use super::examine::Examined;
use super::{Found, journals};
use crate::compaction::CLEANER_CHECKPOINT;
use crate::dir;
use crate::error::OpenError;
use crate::journal::files::lock_for_writing;
use crate::kafka_files::{
    INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX, base_offset_of, segment_path,
};
use crate::recovery::{copy_file, copy_file_from};

/// The list, beside the copies of a partition: written last, so that there it is all there.
const LIST_FILE: &str = "given-up.txt";

const SUFFIXES: [&str; 4] = [LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX, SNAPSHOT_SUFFIX];

impl Found {
    /// Copies everything that goes. Durable when this returns.
    pub(super) async fn copy_aside(&self, io: &Io, path: &Path) -> Result<(), OpenError> {
        let mut missing = Vec::new();
        for (one, examined, cut) in &self.cuts {
            let to = self.side_dir.join(&cut.name);
            if io.fs().exists(to.join(LIST_FILE)).await? {
                // By a run that crashed. Its recovery may have written over some of what was copied.
                continue;
            }
            missing.push(cut);
            io.fs().create_dir_all_durable(&to).await?;
            copy_segments(io, &one.dir, examined, &to).await?;
            let stray = dir::stray_dir(path, one.state.id);
            if io.fs().exists(&stray).await? {
                for entry in io.fs().read_dir(&stray).await? {
                    let copy = to.join(format!("stray-{}", entry.name));
                    copy_file(io, &stray.join(&entry.name), &copy).await?;
                }
            }
        }
        journals::extract(io, path, self, &missing).await?;
        for cut in missing {
            let to = self.side_dir.join(&cut.name);
            io.fs().sync_dir(&to).await?;
            io.fs().replace_file_durable(to.join(LIST_FILE), cut.to_string().into()).await?;
        }
        Ok(())
    }

    /// Removes index files of segments that are cut, which would describe batches that are gone, and the compaction's note
    /// of what it has seen, which would pass for what is written there next. Before the cut counts.
    pub(super) async fn forget_hints(&self, io: &Io) -> Result<(), OpenError> {
        for (one, Examined { keep, .. }, _) in &self.cuts {
            let index = [INDEX_SUFFIX, TIME_INDEX_SUFFIX]
                .map(|suffix| segment_path(&one.dir, keep.segment_base, suffix));
            for path in index.iter().chain([&one.dir.join(CLEANER_CHECKPOINT)]) {
                remove_if_there(io, path).await?;
            }
            io.fs().sync_dir(&one.dir).await?;
        }
        Ok(())
    }

    /// Removes what lies behind the ends of the logs, and directories of strays, of which there are copies.
    pub(super) async fn trim(&self, io: &Io) -> Result<(), OpenError> {
        for (one, Examined { keep, .. }, _) in &self.cuts {
            for entry in io.fs().read_dir(&one.dir).await? {
                let base = SUFFIXES.iter().find_map(|suffix| base_offset_of(&entry.name, suffix));
                if base.is_some_and(|base| {
                    base > keep.segment_base && !is_snapshot_of_end(&entry.name, keep.next_offset)
                }) {
                    remove_if_there(io, &one.dir.join(&entry.name)).await?;
                }
            }
            let active = segment_path(&one.dir, keep.segment_base, LOG_SUFFIX);
            if io.fs().exists(&active).await? {
                let file = io.fs().open(&active, fs::OpenOptions::read_write()).await?;
                lock_for_writing(io, &file).await?;
                if file.len().await? > keep.position_bytes {
                    file.set_len(keep.position_bytes).await?;
                }
                file.sync_all().await?;
            }
            io.fs().sync_dir(&one.dir).await?;
            let data_dir = one.dir.parent().unwrap_or(&one.dir);
            let stray = dir::stray_dir(data_dir, one.state.id);
            if io.fs().exists(&stray).await? {
                dir::remove_partition_dir(io, &stray).await?;
                io.fs().sync_dir(data_dir).await?;
            }
        }
        Ok(())
    }

    /// Moves the journals that recoveries kept to what was cut off: nothing of them is needed any more, and to a later
    /// salvage their records would be those of another log.
    pub(super) async fn set_damaged_journals_aside(&self, io: &Io, path: &Path) -> Result<(), OpenError> {
        let mut moved = false;
        for (from, _) in journals::damaged_dirs(io, path).await? {
            let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
            io.fs().rename(&from, self.side_dir.join(format!("journal-{name}"))).await?;
            moved = true;
        }
        if moved {
            io.fs().sync_dir(&self.side_dir).await?;
            io.fs().sync_dir(path.join(dir::JOURNAL_DIR)).await?;
        }
        Ok(())
    }
}

fn is_snapshot_of_end(name: &str, next_offset: Offset) -> bool {
    base_offset_of(name, SNAPSHOT_SUFFIX) == Some(next_offset)
}

/// Copies a partition's files behind its new end: of the segment in which that lies, what follows it, under the segment's
/// name and the byte; of later segments everything.
async fn copy_segments(io: &Io, dir: &Path, examined: &Examined, to: &Path) -> Result<(), OpenError> {
    let Examined { keep, segments, .. } = examined;
    for (&base, path) in segments.range(keep.segment_base..) {
        if base > keep.segment_base {
            copy_file(io, path, &segment_path(to, base, LOG_SUFFIX)).await?;
            continue;
        }
        let len_bytes = io.fs().metadata(path).await?.len_bytes;
        if len_bytes > keep.position_bytes {
            let name = format!("{:020}{LOG_SUFFIX}.from-{}", base.0, keep.position_bytes);
            copy_file_from(io, path, &to.join(name), keep.position_bytes).await?;
        }
    }
    if !io.fs().exists(dir).await? {
        return Ok(());
    }
    for entry in io.fs().read_dir(dir).await? {
        let base = SUFFIXES[1..].iter().find_map(|suffix| base_offset_of(&entry.name, suffix));
        if base.is_some_and(|base| base > keep.segment_base) {
            copy_file(io, &dir.join(&entry.name), &to.join(&entry.name)).await?;
        }
    }
    Ok(())
}

async fn remove_if_there(io: &Io, path: &Path) -> Result<(), FileError> {
    match io.fs().remove_file(path).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
