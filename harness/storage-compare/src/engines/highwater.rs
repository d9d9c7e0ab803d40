use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use highwater_log::store::{Ack, Log, LogConfig, NewRecord, Offset, Store, StoreOptions, Wait};

use super::{Each, Engine, Promise};

/// Acks outstanding, where nobody waits for each.
const OUTSTANDING: usize = 4096;
const READ_BYTES: usize = 1 << 20;

struct Highwater {
    log: Log,
    unsettled: Mutex<VecDeque<Ack>>,
    /// Stops when it is dropped.
    _store: Store,
}

pub(super) fn open(dir: &Path, promise: Promise) -> Result<Box<dyn Engine>> {
    let flush_messages = if promise == Promise::Durable { 1 } else { u64::MAX };
    let log = LogConfig { flush_messages, retention_ms: None, ..LogConfig::default() };
    let store = Store::open(dir, StoreOptions { log, ..StoreOptions::default() })?;
    let log = store.log("records", 0).wait()?;
    Ok(Box::new(Highwater { log, unsettled: Mutex::default(), _store: store }))
}

impl Engine for Highwater {
    fn append(&self, record: &[u8]) -> Result<()> {
        self.log.append(NewRecord::value(record.to_vec())).wait()?.wait()?;
        Ok(())
    }

    fn append_unflushed(&self, record: &[u8]) -> Result<()> {
        let ack = self.log.append(NewRecord::value(record.to_vec())).wait()?;
        let oldest = {
            let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
            unsettled.push_back(ack);
            if unsettled.len() > OUTSTANDING { unsettled.pop_front() } else { None }
        };
        if let Some(oldest) = oldest {
            oldest.wait()?;
        }
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        let unsettled = std::mem::take(&mut *self.unsettled.lock().unwrap_or_else(PoisonError::into_inner));
        for ack in unsettled {
            ack.wait()?;
        }
        Ok(())
    }

    fn read(&self, each: Each<'_>) -> Result<()> {
        let mut next = Offset(0);
        loop {
            let found = self.log.read(next, READ_BYTES).wait()?;
            if found.next_offset == next {
                return Ok(());
            }
            for record in &found.records {
                if !each(record.value.as_deref().unwrap_or_default())? {
                    return Ok(());
                }
            }
            next = found.next_offset;
        }
    }
}
