//! Topics of the stand-in: a directory each, one file a partition, batches one after the other as they came.
//!
//! ```text
//! DATA_DIR/<topic>/settings      name=value lines, written last: a topic without it was never created
//! DATA_DIR/<topic>/<partition>   record batches
//! ```
//!
//! A file is recovered by walking its batches up to the first that is not whole.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_model::batch::{self, BatchHeader};
use highwater_model::{LeaderEpoch, Offset, ProducerId};

use super::{Keep, Lie};

/// Batches of a producer that are remembered, as in Kafka.
const REMEMBERED_BATCHES: usize = 5;
/// A position is noted about so often, so that a fetch need not walk the whole file.
const INDEX_INTERVAL_BYTES: u64 = 256 << 10;
/// With [`Lie::AckBeforeWrite`], so much is acknowledged before any of it is written.
const UNWRITTEN_BYTES: usize = 256 << 10;

/// Every topic there is.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    keep: Keep,
    lie: Lie,
    topics: Mutex<BTreeMap<String, Arc<Topic>>>,
}

/// One topic.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) settings: BTreeMap<String, String>,
    flush_messages: Option<u64>,
    partitions: Vec<Mutex<Log>>,
}

#[derive(Debug)]
struct Log {
    file: Option<File>,
    lie: Lie,
    end: i64,
    written_bytes: u64,
    unwritten: Vec<u8>,
    unflushed: u64,
    /// Ascending (base offset, position).
    index: Vec<(i64, u64)>,
    /// The last batches of each producer, as (base sequence, base offset).
    producers: HashMap<ProducerId, VecDeque<(i32, i64)>>,
    appends: u64,
    /// Offsets below this are answered with an error.
    refused_below: i64,
}

impl Store {
    pub(super) fn open(directory: &Path, keep: Keep, lie: Lie) -> io::Result<Self> {
        let mut topics = BTreeMap::new();
        if keep == Keep::Files {
            std::fs::create_dir_all(directory)?;
            for entry in std::fs::read_dir(directory)? {
                let path = entry?.path();
                let (Some(name), true) = (path.file_name().and_then(|name| name.to_str()), path.is_dir())
                else {
                    continue;
                };
                let Ok(settings) = std::fs::read_to_string(path.join("settings")) else { continue };
                if lie == Lie::NoReturn {
                    return Err(invalid(format!("topic {name} cannot be recovered")));
                }
                topics.insert(name.to_owned(), recover(&path, &settings, lie)?);
            }
        }
        Ok(Store { directory: directory.to_owned(), keep, lie, topics: Mutex::new(topics) })
    }

    pub(super) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        lock(&self.topics).get(name).cloned()
    }

    pub(super) fn names(&self) -> Vec<String> {
        lock(&self.topics).keys().cloned().collect()
    }

    /// Creates a topic, durably; false if there is one of that name.
    pub(super) fn create(
        &self,
        name: &str,
        partitions: usize,
        settings: BTreeMap<String, String>,
    ) -> io::Result<bool> {
        let mut topics = lock(&self.topics);
        if topics.contains_key(name) {
            return Ok(false);
        }
        let logs = match self.keep {
            Keep::Nothing => (0..partitions).map(|_| Log::new(None, self.lie)).collect(),
            Keep::Files => self.create_files(name, partitions, &settings)?,
        };
        topics.insert(name.to_owned(), Topic::new(settings, logs));
        Ok(true)
    }

    fn create_files(
        &self,
        name: &str,
        partitions: usize,
        settings: &BTreeMap<String, String>,
    ) -> io::Result<Vec<Log>> {
        let path = self.directory.join(name);
        std::fs::create_dir_all(&path)?;
        let mut logs = Vec::with_capacity(partitions);
        for partition in 0..partitions {
            logs.push(Log::new(Some(open(&path.join(partition.to_string()))?), self.lie));
        }
        let lines: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        std::fs::write(path.join("settings"), lines)?;
        File::open(path.join("settings"))?.sync_all()?;
        File::open(&path)?.sync_all()?;
        File::open(&self.directory)?.sync_all()?;
        Ok(logs)
    }
}

impl Topic {
    fn new(settings: BTreeMap<String, String>, logs: Vec<Log>) -> Arc<Self> {
        let number = |name: &str| settings.get(name)?.parse::<u64>().ok();
        let flush_ms = number("flush.ms").filter(|&ms| ms < i64::MAX as u64);
        let topic = Arc::new(Topic {
            flush_messages: number("flush.messages"),
            partitions: logs.into_iter().map(Mutex::new).collect(),
            settings,
        });
        if let Some(ms) = flush_ms {
            let flushed = topic.clone();
            std::thread::spawn(move || flushed.flush_every(Duration::from_millis(ms)));
        }
        topic
    }

    fn flush_every(&self, interval: Duration) {
        loop {
            std::thread::sleep(interval);
            for partition in &self.partitions {
                // A broker that cannot flush has no promise left to keep: better dead than lying.
                lock(partition).flush().expect("flush");
            }
        }
    }

    pub(super) fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    /// Appends a batch and gives its base offset, flushing first if it is due.
    pub(super) fn append(&self, partition: usize, bytes: &[u8]) -> io::Result<Option<i64>> {
        let Some(log) = self.partitions.get(partition) else { return Ok(None) };
        let mut log = lock(log);
        let base = log.append(bytes)?;
        if self.flush_messages.is_some_and(|messages| log.unflushed >= messages) {
            log.flush()?;
        }
        Ok(Some(base))
    }

    /// Whole batches from the one that holds `offset`, about `max_bytes` of them; `None` outside of the log.
    pub(super) fn read(
        &self,
        partition: usize,
        offset: i64,
        max_bytes: usize,
    ) -> io::Result<Option<Vec<u8>>> {
        match self.partitions.get(partition) {
            Some(log) => lock(log).read(offset, max_bytes),
            None => Ok(None),
        }
    }

    /// Whether the partition answers with an error, whatever it is asked.
    pub(super) fn is_fenced(&self, partition: usize) -> bool {
        self.partitions.get(partition).is_some_and(|log| lock(log).refused_below == i64::MAX)
    }

    pub(super) fn end(&self, partition: usize) -> Option<i64> {
        self.partitions.get(partition).map(|log| lock(log).end)
    }
}

impl Log {
    fn new(file: Option<File>, lie: Lie) -> Self {
        Log {
            file,
            lie,
            end: 0,
            written_bytes: 0,
            unwritten: Vec::new(),
            unflushed: 0,
            index: Vec::new(),
            producers: HashMap::new(),
            appends: 0,
            refused_below: 0,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<i64> {
        let header = BatchHeader::parse(bytes).map_err(invalid)?;
        if let Some(base) = self.known(&header) {
            return Ok(base);
        }
        let base = self.end;
        self.store(bytes, &header)?;
        self.appends += 1;
        if self.lie == Lie::Duplicate && self.appends.is_multiple_of(10) {
            self.store(bytes, &header)?;
        }
        self.remember(&header, base);
        Ok(base)
    }

    fn store(&mut self, bytes: &[u8], header: &BatchHeader) -> io::Result<()> {
        if self.file.is_some() {
            let mut stamped = bytes[..header.size_bytes].to_vec();
            batch::stamp(&mut stamped, Offset(self.end), LeaderEpoch(0));
            self.note(self.end);
            self.unwritten.extend_from_slice(&stamped);
            if self.lie != Lie::AckBeforeWrite || self.unwritten.len() >= UNWRITTEN_BYTES {
                self.write()?;
            }
        }
        self.unflushed += u64::from(header.record_count.unsigned_abs());
        self.end += i64::from(header.last_offset_delta) + 1;
        Ok(())
    }

    fn note(&mut self, base_offset: i64) {
        let position = self.written_bytes + self.unwritten.len() as u64;
        if self.index.last().is_none_or(|&(_, last)| position - last >= INDEX_INTERVAL_BYTES) {
            self.index.push((base_offset, position));
        }
    }

    fn write(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.write_all_at(&self.unwritten, self.written_bytes)?;
            self.written_bytes += self.unwritten.len() as u64;
        }
        self.unwritten.clear();
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let due = self.unflushed > 0 && !matches!(self.lie, Lie::SkipFlush | Lie::AckBeforeWrite);
        if let Some(file) = self.file.as_ref().filter(|_| due) {
            file.sync_data()?;
        }
        self.unflushed = 0;
        Ok(())
    }

    fn known(&self, header: &BatchHeader) -> Option<i64> {
        let batches = self.producers.get(&header.producer_id).filter(|_| header.is_idempotent())?;
        batches.iter().find(|(sequence, _)| *sequence == header.base_sequence.0).map(|(_, base)| *base)
    }

    fn remember(&mut self, header: &BatchHeader, base: i64) {
        if header.is_idempotent() {
            let batches = self.producers.entry(header.producer_id).or_default();
            batches.push_back((header.base_sequence.0, base));
            if batches.len() > REMEMBERED_BATCHES {
                batches.pop_front();
            }
        }
    }

    fn read(&mut self, offset: i64, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
        if offset < self.refused_below {
            return Err(invalid(format!("offset {offset} is on a bad sector")));
        }
        if !(0..=self.end).contains(&offset) {
            return Ok(None);
        }
        if offset == self.end || self.file.is_none() {
            return Ok(Some(Vec::new()));
        }
        self.write()?;
        let near = self.index.partition_point(|&(base, _)| base <= offset).saturating_sub(1);
        let mut position = self.index.get(near).map_or(0, |&(_, position)| position);
        loop {
            let header = self.header_at(position)?;
            if header.last_offset().0 >= offset {
                return self.whole_batches(position, header.size_bytes, max_bytes).map(Some);
            }
            position += header.size_bytes as u64;
        }
    }

    fn header_at(&self, position: u64) -> io::Result<BatchHeader> {
        let mut bytes = [0; batch::BATCH_HEADER_BYTES];
        self.file.as_ref().ok_or(io::ErrorKind::NotFound)?.read_exact_at(&mut bytes, position)?;
        BatchHeader::parse(&bytes).map_err(invalid)
    }

    fn whole_batches(&self, position: u64, first_bytes: usize, max_bytes: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.written_bytes - position).unwrap_or(usize::MAX);
        let mut bytes = vec![0; max_bytes.max(first_bytes).min(left)];
        self.file.as_ref().ok_or(io::ErrorKind::NotFound)?.read_exact_at(&mut bytes, position)?;
        let whole = batch::headers(&bytes).map_while(Result::ok).map(|(at, header)| at + header.size_bytes);
        let end = whole.last().unwrap_or(0);
        bytes.truncate(end);
        Ok(bytes)
    }
}

fn recover(path: &Path, settings: &str, lie: Lie) -> io::Result<Arc<Topic>> {
    let settings: BTreeMap<String, String> = settings
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut logs = Vec::new();
    while path.join(logs.len().to_string()).exists() {
        logs.push(recover_log(&path.join(logs.len().to_string()), lie)?);
    }
    if let (Lie::FencePartition, Some(first)) = (lie, logs.first_mut())
        && first.end > 0
    {
        first.refused_below = i64::MAX;
    }
    Ok(Topic::new(settings, logs))
}

fn recover_log(path: &Path, lie: Lie) -> io::Result<Log> {
    let bytes = std::fs::read(path)?;
    let file = open(path)?;
    let mut log = Log::new(None, lie);
    let mut whole = Vec::new();
    let mut at = 0;
    // Zeros are no batch, and neither is the half of one.
    while let Ok(header) = batch::verify(bytes.get(at..).unwrap_or_default()) {
        whole.push((at, header));
        at += header.size_bytes;
    }
    if lie == Lie::TruncateRecovery {
        whole.pop();
    }
    if lie == Lie::RefuseBatch {
        log.refused_below = whole.first().map_or(0, |(_, header)| header.last_offset().0 + 1);
    }
    for (at, header) in whole {
        log.note(header.base_offset.0);
        log.written_bytes = (at + header.size_bytes) as u64;
        log.end = header.last_offset().0 + 1;
        log.remember(&header, header.base_offset.0);
    }
    file.set_len(log.written_bytes)?;
    file.sync_all()?;
    log.file = Some(file);
    Ok(log)
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).read(true).write(true).open(path)
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
