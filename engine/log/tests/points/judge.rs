//! Opens what a cut left and judges it.

use std::path::Path;
use std::time::Duration;

use highwater_io::Io;
use highwater_log::verify::verify;
use highwater_log::{DataDir, OpenError, OpenOptions, Partition, ReadRequest, RecoveryReport, ShardLogs};
use highwater_model::batch::{BATCH_HEADER_BYTES, headers};
use highwater_model::record::records;
use highwater_model::{Offset, TopicPartition};

use crate::common::options;
use crate::compaction::number_of_keyed;
use crate::ledger::{Found, Instant, Ledger, Loss, number_of};

/// All logs, with everything in them.
pub(crate) async fn find_all(logs: &ShardLogs) -> Result<Vec<(TopicPartition, Found)>, String> {
    let mut found = Vec::new();
    for log in logs.partitions() {
        found.push((log.id(), find(&log).await.map_err(|what| format!("{}: {what}", log.id()))?));
    }
    Ok(found)
}

/// A log, with everything in it.
pub(crate) async fn find(log: &Partition) -> Result<Found, String> {
    let marks = log.watermarks().get();
    let (start, end) = (marks.log_start_offset, marks.log_end_offset);
    let mut values = Vec::new();
    let mut offset = start;
    while offset < end {
        let request = ReadRequest { offset, max_bytes: 100_000, min_one_batch: true, upper_bound: end };
        let data = log.read(request).await.map_err(|error| format!("cannot be read at {offset}: {error}"))?;
        let bytes = data.chunks.concat();
        if bytes.is_empty() {
            return Err(format!("a read at {offset} of {end} gives nothing"));
        }
        for header in headers(&bytes) {
            let (at, header) = header.map_err(|error| format!("no whole batch at {offset}: {error}"))?;
            let batch = &bytes[at..];
            highwater_model::batch::verify(batch).map_err(|error| format!("damage at {offset}: {error}"))?;
            for record in records(&batch[BATCH_HEADER_BYTES..header.size_bytes]) {
                let record = record.map_err(|error| format!("no record at {offset}: {error}"))?;
                let this = Offset(header.base_offset.0 + i64::from(record.offset_delta));
                let timestamp = header.base_timestamp.0 + record.timestamp_delta;
                let number = match record.key {
                    Some(key) => number_of_keyed(timestamp, key, record.value),
                    None => number_of(record.value.unwrap_or_default()),
                };
                let number = number.ok_or_else(|| format!("the value at {this} was never appended"))?;
                if this >= offset {
                    values.push((this.0, number));
                }
            }
        }
        offset = data.next_offset;
    }
    Ok(Found { start: start.0, end: end.0, values })
}

/// Opens a directory once nobody has its lock. A process that another thread starts has every descriptor of this one until it
/// is under way, locks included.
pub(crate) async fn open_unlocked(
    io: &Io,
    dir: &Path,
    options: OpenOptions,
) -> Result<(DataDir, RecoveryReport), OpenError> {
    loop {
        match DataDir::open(io, dir, options.clone()).await {
            Err(OpenError::Locked { .. }) => wait_for_lock(io).await,
            outcome => return outcome,
        }
    }
}

async fn wait_for_lock(io: &Io) {
    io.sleep(Duration::from_millis(1)).await;
}

/// Whether the directory, left by a cut at an instant, is as it must be: in order for the offline check, opened without
/// damage, each log what was reported to be durable and at most what was asked for by then.
pub(crate) async fn judge(io: &Io, dir: &Path, ledger: &Ledger, at: Instant) -> Result<(), String> {
    let fs = io.fs();
    let is_there = fs.exists(dir).await.map_err(|error| error.to_string())?;
    if is_there && !fs.read_dir(dir).await.map_err(|error| error.to_string())?.is_empty() {
        let report = loop {
            match verify(io, dir, |_| {}).await {
                Err(OpenError::Locked { .. }) => wait_for_lock(io).await,
                outcome => break outcome.map_err(|error| format!("verify: {error}"))?,
            }
        };
        if let Some(problem) = report.problems.first() {
            return Err(format!("verify finds damage: {problem}"));
        }
    }
    let (mut opened, report) =
        open_unlocked(io, dir, options()).await.map_err(|error| format!("it does not open: {error}"))?;
    let seeds = opened.split(1, |_, _| 0).await.map_err(|error| format!("it does not start: {error}"))?;
    let seed = seeds.into_iter().next().ok_or("there is no shard")?;
    let logs = ShardLogs::start(io, seed).await.map_err(|error| format!("it does not start: {error}"))?;
    if !report.fenced.is_empty() || !report.strays.is_empty() {
        return Err(format!("recovery reports damage: {report:?}"));
    }
    ledger.judge(Loss::Power, at, &find_all(&logs).await?).map(drop)
}
