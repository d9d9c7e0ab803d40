use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Each, Engine, Promise};
use crate::batched::{Batched, Commits, make};

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");

struct Redb {
    database: Database,
    next: AtomicU64,
}

fn open(dir: &Path) -> Result<Redb> {
    make(dir)?;
    let database = Database::create(dir.join("redb"))?;
    let transaction = database.begin_write()?;
    let last = transaction.open_table(RECORDS)?.last()?.map(|(key, _)| key.value());
    transaction.commit()?;
    Ok(Redb { database, next: AtomicU64::new(last.map_or(0, |last| last + 1)) })
}

impl Redb {
    fn commit<'a>(&self, records: impl Iterator<Item = &'a [u8]>, durability: Durability) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(RECORDS)?;
            for record in records {
                table.insert(self.next.fetch_add(1, Ordering::Relaxed), record)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn read_all(&self, each: Each<'_>) -> Result<()> {
        let table = self.database.begin_read()?.open_table(RECORDS)?;
        for entry in table.iter()? {
            if !each(entry?.1.value())? {
                break;
            }
        }
        Ok(())
    }
}

pub(super) fn open_single(dir: &Path, _promise: Promise) -> Result<Box<dyn Engine>> {
    Ok(Box::new(open(dir)?))
}

impl Engine for Redb {
    fn append(&self, record: &[u8]) -> Result<()> {
        self.commit(std::iter::once(record), Durability::Immediate)
    }

    fn append_unflushed(&self, record: &[u8]) -> Result<()> {
        self.commit(std::iter::once(record), Durability::None)
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn read(&self, each: Each<'_>) -> Result<()> {
        self.read_all(each)
    }
}

pub(super) fn open_batched(dir: &Path, _promise: Promise) -> Result<Box<dyn Engine>> {
    let database = Arc::new(open(dir)?);
    let reader = Arc::clone(&database);
    Ok(Box::new(Batched::new(database, Box::new(move |each| reader.read_all(each)))))
}

impl Commits for Arc<Redb> {
    fn commit(&mut self, records: &[Box<[u8]>], is_durable: bool) -> Result<()> {
        let durability = if is_durable { Durability::Immediate } else { Durability::None };
        Redb::commit(self, records.iter().map(|record| &**record), durability)
    }
}
