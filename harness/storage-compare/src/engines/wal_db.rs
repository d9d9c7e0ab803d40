use std::path::Path;

use anyhow::Result;
use wal_db::Wal;

use super::{Each, Engine, Promise};
use crate::batched::make;

struct WalDb(Wal);

pub(super) fn open(dir: &Path, _promise: Promise) -> Result<Box<dyn Engine>> {
    make(dir)?;
    Ok(Box::new(WalDb(Wal::open(dir.join("wal"))?)))
}

impl Engine for WalDb {
    fn append(&self, record: &[u8]) -> Result<()> {
        let _lsn = self.0.append_and_sync(record)?;
        Ok(())
    }

    fn append_unflushed(&self, record: &[u8]) -> Result<()> {
        let _lsn = self.0.append(record)?;
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn read(&self, each: Each<'_>) -> Result<()> {
        for entry in self.0.iter()? {
            if !each(entry?.data())? {
                break;
            }
        }
        Ok(())
    }
}
