//! The log as a storage backend: many tasks append small records, each ack means *on the medium*, and nothing is lost
//! when the process dies in the middle.
//!
//!     cargo run --release --example embed

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use highwater_log::store::{NewRecord, Store, StoreError, StoreOptions, Wait};
use highwater_model::Offset;

const WRITERS: usize = 256;

fn options() -> StoreOptions {
    StoreOptions {
        batch_size: 64 << 10,               // batch.size
        linger: Duration::from_micros(200), // linger
        ..StoreOptions::default()           // flush.messages=1: an ack survives a power cut
    }
}

/// Appends from many tasks until the process is killed, and says what was acknowledged.
fn write_until_killed(dir: &str) -> Result<(), StoreError> {
    let store = Store::open(dir, options())?;
    let log = store.log("events", 0).wait()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a tokio runtime");
    runtime.block_on(async {
        for writer in 0..WRITERS {
            let log = log.clone();
            tokio::spawn(async move {
                for n in 0.. {
                    let ack = log.append(NewRecord::value(format!("writer {writer}, record {n}"))).await?;
                    let offset = ack.await?.offset; // durable
                    writeln!(std::io::stdout(), "{offset}").expect("the parent listens");
                }
                Ok::<(), StoreError>(())
            });
        }
        std::future::pending().await
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    if let (Some("write-to"), Some(dir)) = (arguments.next().as_deref(), arguments.next()) {
        return Ok(write_until_killed(&dir)?);
    }
    let scratch = tempfile::tempdir()?;
    let dir = scratch.path().join("log");

    // A process that writes, and is killed without warning.
    let mut writer =
        Command::new(std::env::current_exe()?).arg("write-to").arg(&dir).stdout(Stdio::piped()).spawn()?;
    let mut acknowledged = Vec::new();
    let begin = Instant::now();
    for line in BufReader::new(writer.stdout.take().expect("piped")).lines() {
        acknowledged.push(line?.parse::<i64>()?);
        if begin.elapsed() > Duration::from_secs(2) {
            writer.kill()?;
        }
    }
    writer.wait()?;
    if acknowledged.is_empty() {
        return Err("the writer said nothing; what it has to say is above".into());
    }
    println!("{WRITERS} tasks had {} records acknowledged as durable, then SIGKILL", acknowledged.len());

    // Open again: recovery replays the journal.
    let begin = Instant::now();
    let store = Store::open(&dir, options())?;
    let recovery = store.recovery();
    println!(
        "opened in {:?}: {} groups replayed, {} bytes",
        begin.elapsed(),
        recovery.groups_replayed,
        recovery.bytes_replayed
    );
    let log = store.log("events", 0).wait()?;
    let mut next = Offset(0);
    let mut found = 0;
    loop {
        let read = log.read(next, 1 << 20).wait()?;
        if read.records.is_empty() {
            break;
        }
        found += read.records.len();
        next = read.next_offset;
    }
    let last = acknowledged.iter().max().expect("not empty");
    assert!(found as i64 > *last, "a record that was acknowledged is not there");
    println!("read back {found} records: every acknowledged one is there");
    store.close().wait()?;
    Ok(())
}
