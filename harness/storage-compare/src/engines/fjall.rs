use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Each, Engine, Promise};
use crate::batched::{Batched, Commits};

struct Fjall {
    database: Database,
    records: Keyspace,
    next: AtomicU64,
}

fn open(dir: &Path) -> Result<Fjall> {
    let database = Database::builder(dir).open()?;
    let records = database.keyspace("records", KeyspaceCreateOptions::default)?;
    let next = match records.last_key_value() {
        Some(last) => u64::from_be_bytes(last.key()?.as_ref().try_into()?) + 1,
        None => 0,
    };
    Ok(Fjall { database, records, next: AtomicU64::new(next) })
}

impl Fjall {
    fn next_key(&self) -> [u8; 8] {
        self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes()
    }

    fn read_all(&self, each: Each<'_>) -> Result<()> {
        for entry in self.records.iter() {
            if !each(&entry.value()?)? {
                break;
            }
        }
        Ok(())
    }
}

pub(super) fn open_single(dir: &Path, _promise: Promise) -> Result<Box<dyn Engine>> {
    Ok(Box::new(open(dir)?))
}

impl Engine for Fjall {
    fn append(&self, record: &[u8]) -> Result<()> {
        self.records.insert(self.next_key(), record)?;
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn append_unflushed(&self, record: &[u8]) -> Result<()> {
        Ok(self.records.insert(self.next_key(), record)?)
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

impl Commits for Arc<Fjall> {
    fn commit(&mut self, records: &[Box<[u8]>], is_durable: bool) -> Result<()> {
        let mode = if is_durable { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.database.batch().durability(Some(mode));
        for record in records {
            batch.insert(&self.records, self.next_key(), &**record);
        }
        Ok(batch.commit()?)
    }
}
