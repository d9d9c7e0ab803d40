use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use rusqlite::Connection;

use super::{Each, Engine, Promise};
use crate::batched::{Batched, Commits, make};

const INSERT: &str = "INSERT INTO records (value) VALUES (?1)";

struct Sqlite {
    connection: Mutex<Connection>,
    path: PathBuf,
}

fn connect(dir: &Path, promise: Promise) -> Result<(Connection, PathBuf)> {
    make(dir)?;
    let path = dir.join("sqlite");
    let connection = Connection::open(&path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = if promise == Promise::Durable { "FULL" } else { "NORMAL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection
        .execute_batch("CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, value BLOB NOT NULL)")?;
    Ok((connection, path))
}

fn read_all(path: &Path, each: Each<'_>) -> Result<()> {
    let connection = Connection::open(path)?;
    let mut select = connection.prepare("SELECT value FROM records ORDER BY id")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        if !each(row.get_ref(0)?.as_blob()?)? {
            break;
        }
    }
    Ok(())
}

pub(super) fn open_single(dir: &Path, promise: Promise) -> Result<Box<dyn Engine>> {
    let (connection, path) = connect(dir, promise)?;
    Ok(Box::new(Sqlite { connection: Mutex::new(connection), path }))
}

impl Engine for Sqlite {
    /// One connection for all: SQLite has one writer at a time anyway, and its own way to wait is polling.
    fn append(&self, record: &[u8]) -> Result<()> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.prepare_cached(INSERT)?.execute([record])?;
        Ok(())
    }

    fn append_unflushed(&self, record: &[u8]) -> Result<()> {
        self.append(record)
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn read(&self, each: Each<'_>) -> Result<()> {
        read_all(&self.path, each)
    }
}

pub(super) fn open_batched(dir: &Path, promise: Promise) -> Result<Box<dyn Engine>> {
    let (connection, path) = connect(dir, promise)?;
    Ok(Box::new(Batched::new(Committer(connection), Box::new(move |each| read_all(&path, each)))))
}

struct Committer(Connection);

impl Commits for Committer {
    /// Whether it is flushed is the connection's setting.
    fn commit(&mut self, records: &[Box<[u8]>], _is_durable: bool) -> Result<()> {
        let transaction = self.0.transaction()?;
        {
            let mut insert = transaction.prepare_cached(INSERT)?;
            for record in records {
                insert.execute([&**record])?;
            }
        }
        Ok(transaction.commit()?)
    }
}
