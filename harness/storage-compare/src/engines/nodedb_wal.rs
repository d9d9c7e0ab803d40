use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use nodedb_wal::WalWriter;
use nodedb_wal::group_commit::{GroupCommitter, PendingWrite};
use nodedb_wal::lazy_reader::replay_segment_lazy;
use nodedb_wal::record::RecordType;
use nodedb_wal::writer::WalWriterConfig;

use super::{Each, Engine, Promise};
use crate::batched::make;

const PUT: u32 = RecordType::Put as u32;

struct NodedbWal {
    writer: Mutex<WalWriter>,
    commits: GroupCommitter,
    path: PathBuf,
}

pub(super) fn open(dir: &Path, _promise: Promise) -> Result<Box<dyn Engine>> {
    make(dir)?;
    let path = dir.join("wal");
    // With O_DIRECT, its default, each flush ends in padding, at which the readers of 0.4 end, too: of everything that was
    // acknowledged they find the first flush.
    let config = WalWriterConfig { use_direct_io: false, ..WalWriterConfig::default() };
    let writer = WalWriter::open(&path, config)?;
    Ok(Box::new(NodedbWal { writer: Mutex::new(writer), commits: GroupCommitter::new(), path }))
}

impl NodedbWal {
    fn writer(&self) -> MutexGuard<'_, WalWriter> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for NodedbWal {
    fn append(&self, record: &[u8]) -> Result<()> {
        let write = PendingWrite {
            record_type: PUT,
            tenant_id: 0,
            vshard_id: 0,
            database_id: 0,
            payload: record.to_vec(),
        };
        let result = self.commits.submit(&self.writer, write)?;
        result.durable.then_some(()).context("it says that the record is not durable")
    }

    fn append_unflushed(&self, record: &[u8]) -> Result<()> {
        self.writer().append(PUT, 0, 0, 0, record)?;
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Record by record: its other ways to read bring everything into memory at once.
    fn read(&self, each: Each<'_>) -> Result<()> {
        let mut ended: Option<Result<()>> = None;
        replay_segment_lazy(&self.path, |reader, header| {
            if ended.is_some() || header.record_type != PUT {
                return reader.skip_payload(header);
            }
            match each(&reader.read_payload(header)?) {
                Ok(true) => {}
                Ok(false) => ended = Some(Ok(())),
                Err(error) => ended = Some(Err(error)),
            }
            Ok(())
        })?;
        ended.unwrap_or(Ok(()))
    }
}

/// It has a buffer of its own, which a writer that goes does not write.
impl Drop for NodedbWal {
    fn drop(&mut self) {
        if let Err(error) = self.writer().sync() {
            eprintln!("nodedb-wal: {error}");
        }
    }
}
