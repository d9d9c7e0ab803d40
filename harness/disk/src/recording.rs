//! The recording: every write and flush of a disk since it was made, in order, and the replay of it.
//!
//! `device` appends under the lock that orders the medium, so the recording's order is the disk's. Replaying
//! feeds the same events to the same [`Medium`] over a new image, stops anywhere and cuts the power there: the
//! image is then one that a real power cut at that instant could have left. That is how every point between
//! two flushes is tried.
//!
//! The file, all integers little-endian:
//!
//! ```text
//! header, 32 bytes
//!   0   8  magic "HWDISKR1"
//!   8   8  size of the medium in bytes (all zeros at the start)
//!   16  8  limit of the cache in bytes
//!   24  8  zero
//! then events, each 32 bytes and its payload
//!   0   8  number of the event, from 1
//!   8   8  CLOCK_MONOTONIC in nanoseconds
//!   16  8  write: offset in bytes; otherwise zero
//!   24  4  kind: 1 write, 2 flush, 3 flush that lied, 4 flush that failed, 5 cache lost, 6 power cut
//!   28  4  length of the payload: the data of a write, the cut's mode as JSON, or nothing
//! ```
//!
//! The file is complete up to the last flush; what follows a killed server's last flush may be missing. A torn
//! last event ends the recording. There are no checksums: it is a file of this run, not an archive.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};
use crate::fault::CutMode;
use crate::medium::Medium;

const MAGIC: &[u8; 8] = b"HWDISKR1";
/// No request that reaches the disk is larger.
const MAX_PAYLOAD_BYTES: u32 = 64 << 20;

/// One event of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counted from one.
    pub number: u64,
    /// `CLOCK_MONOTONIC` when it happened.
    pub monotonic_ns: u64,
    /// What happened.
    pub action: Action,
}

/// What a disk did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Whole sectors were written into the cache.
    Write {
        /// Position on the medium.
        offset_bytes: u64,
        /// The content.
        data: Vec<u8>,
    },
    /// Everything before became durable.
    Flush,
    /// Success was reported, nothing became durable.
    FlushLied,
    /// The flush failed; the cache was kept.
    FlushFailed,
    /// The cache was lost without a power cut.
    CacheLost,
    /// The power was cut.
    Cut(CutMode),
}

/// Appends events.
pub(crate) struct Recorder {
    file: BufWriter<File>,
    events: u64,
}

impl Recorder {
    pub(crate) fn create(path: &Path, medium: &Medium, cache_limit_bytes: u64) -> Result<Self> {
        let file = File::create(path).at("create the recording", path)?;
        let mut file = BufWriter::with_capacity(256 * 1024, file);
        let fields = [medium.size_bytes(), cache_limit_bytes, 0].map(u64::to_le_bytes);
        let header = [MAGIC.as_slice(), fields.as_flattened()].concat();
        file.write_all(&header).at("write to the recording", path)?;
        Ok(Self { file, events: 0 })
    }

    pub(crate) fn write(&mut self, monotonic_ns: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        self.append(monotonic_ns, 1, offset, data)
    }

    /// Any action other than a write. Hands what was buffered to the kernel.
    pub(crate) fn note(&mut self, monotonic_ns: u64, action: &Action) -> io::Result<()> {
        match action {
            Action::Write { offset_bytes, data } => self.append(monotonic_ns, 1, *offset_bytes, data)?,
            Action::Flush => self.append(monotonic_ns, 2, 0, &[])?,
            Action::FlushLied => self.append(monotonic_ns, 3, 0, &[])?,
            Action::FlushFailed => self.append(monotonic_ns, 4, 0, &[])?,
            Action::CacheLost => self.append(monotonic_ns, 5, 0, &[])?,
            Action::Cut(mode) => self.append(monotonic_ns, 6, 0, &serde_json::to_vec(mode)?)?,
        }
        self.file.flush()
    }

    fn append(&mut self, monotonic_ns: u64, kind: u32, offset: u64, payload: &[u8]) -> io::Result<()> {
        self.events += 1;
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let longs = [self.events, monotonic_ns, offset].map(u64::to_le_bytes);
        let shorts = [kind, length].map(u32::to_le_bytes);
        self.file.write_all(longs.as_flattened())?;
        self.file.write_all(shorts.as_flattened())?;
        self.file.write_all(payload)
    }
}

/// Reads a recording from its beginning.
pub struct Recording {
    path: PathBuf,
    file: BufReader<File>,
    position_bytes: u64,
    size_bytes: u64,
    cache_limit_bytes: u64,
}

impl Recording {
    /// Opens a recording.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).at("open the recording", path)?;
        let mut file = BufReader::with_capacity(256 * 1024, file);
        let mut header = [0; 32];
        file.read_exact(&mut header).at("read the header of the recording", path)?;
        let recording = Self {
            path: path.to_owned(),
            file,
            position_bytes: 32,
            size_bytes: u64_at(&header, 8),
            cache_limit_bytes: u64_at(&header, 16),
        };
        if !header.starts_with(MAGIC) || !recording.size_bytes.is_multiple_of(4096) {
            return Err(Error::Recording {
                path: recording.path,
                position_bytes: 0,
                problem: "not a recording of highwater-disk".to_owned(),
            });
        }
        Ok(recording)
    }

    /// The size of the medium.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The next event; none at the end, which a torn event is as well.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        let mut head = [0; 32];
        if !self.fill(&mut head)? {
            return Ok(None);
        }
        let (kind, length) = (u32_at(&head, 24), u32_at(&head, 28));
        if length > MAX_PAYLOAD_BYTES {
            return Err(self.damaged(format!("an event of {length} bytes")));
        }
        let mut payload = vec![0; length as usize];
        if !self.fill(&mut payload)? {
            return Ok(None);
        }
        let action = self.action(kind, u64_at(&head, 16), payload)?;
        self.position_bytes += 32 + u64::from(length);
        Ok(Some(Event { number: u64_at(&head, 0), monotonic_ns: u64_at(&head, 8), action }))
    }

    fn action(&self, kind: u32, offset_bytes: u64, payload: Vec<u8>) -> Result<Action> {
        Ok(match kind {
            1 => Action::Write { offset_bytes, data: payload },
            2 => Action::Flush,
            3 => Action::FlushLied,
            4 => Action::FlushFailed,
            5 => Action::CacheLost,
            6 => Action::Cut(serde_json::from_slice(&payload).map_err(|e| self.damaged(e.to_string()))?),
            other => return Err(self.damaged(format!("an event of unknown kind {other}"))),
        })
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.file.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error).at("read the recording", &self.path),
        }
    }

    fn damaged(&self, problem: String) -> Error {
        Error::Recording { path: self.path.clone(), position_bytes: self.position_bytes, problem }
    }
}

fn u64_at(bytes: &[u8; 32], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn u32_at(bytes: &[u8; 32], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Where a replay stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopAfter {
    /// The event of this number.
    Event(u64),
    /// This many persisting flushes, counted from one.
    Flush(u64),
    /// The last event.
    End,
}

/// What a replay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReplayReport {
    /// Events replayed.
    pub events: u64,
    /// Of these, writes.
    pub writes: u64,
    /// Of these, flushes that persisted.
    pub flushes: u64,
    /// Unflushed sectors that the cut at the end dropped.
    pub dropped_sectors: u64,
    /// Unflushed sectors that survived it.
    pub kept_sectors: u64,
}

/// Makes `image`, a new file, what the medium would hold had the power been cut at the given point. With
/// `mode` `OsCrash` it holds all that was written.
pub fn replay(recording: &Path, stop: StopAfter, mode: CutMode, image: &Path) -> Result<ReplayReport> {
    let mut recording = Recording::open(recording)?;
    let file = File::options().read(true).write(true).create_new(true).open(image);
    let file = file.at("create the image", image)?;
    let medium = Medium::new(file, recording.size_bytes, recording.cache_limit_bytes);
    let mut medium = medium.at("size the image", image)?;
    let mut report = ReplayReport::default();
    while !report.reached(stop) {
        let Some(event) = recording.next_event()? else { break };
        report.events += 1;
        match &event.action {
            Action::Write { offset_bytes, data } => {
                if !medium.is_addressable(*offset_bytes, data.len()) {
                    return Err(recording.damaged(format!("event {} misses the medium", event.number)));
                }
                report.writes += 1;
                medium.write(*offset_bytes, data).at("write to the image", image)?;
            }
            Action::Flush => {
                report.flushes += 1;
                medium.flush().at("write to the image", image)?;
            }
            Action::FlushLied | Action::FlushFailed => {}
            Action::CacheLost => drop(medium.lose_cache()),
            Action::Cut(mode) => drop(medium.cut(*mode).at("write to the image", image)?),
        }
    }
    let remains = medium.cut(mode).at("write to the image", image)?;
    if mode == CutMode::OsCrash {
        medium.flush().at("write to the image", image)?;
    }
    Ok(ReplayReport {
        dropped_sectors: remains.dropped_sectors,
        kept_sectors: remains.kept_sectors,
        ..report
    })
}

impl ReplayReport {
    fn reached(&self, stop: StopAfter) -> bool {
        match stop {
            StopAfter::Event(number) => self.events >= number,
            StopAfter::Flush(number) => self.flushes >= number,
            StopAfter::End => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(path: &Path, actions: &[Action]) {
        let medium = Medium::new(tempfile::tempfile().unwrap(), 1 << 20, 1 << 20).unwrap();
        let mut recorder = Recorder::create(path, &medium, 1 << 20).unwrap();
        for action in actions {
            recorder.note(1, action).unwrap();
        }
    }

    fn write(sector: u64, value: u8) -> Action {
        Action::Write { offset_bytes: sector * 512, data: vec![value; 512] }
    }

    #[test]
    fn recording_read_back_gives_the_same_events() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recording");
        let actions =
            [write(1, 1), Action::Flush, Action::FlushLied, Action::Cut(CutMode::Shorn { seed: 9 })];
        recorded(&path, &actions);
        let mut recording = Recording::open(&path).unwrap();
        for (action, number) in actions.iter().zip(1..) {
            let event = recording.next_event().unwrap().unwrap();
            assert_eq!((event.number, &event.action), (number, action));
        }
        assert_eq!(recording.next_event().unwrap(), None);
    }

    #[test]
    fn replay_stopped_after_a_flush_holds_that_flush_and_not_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recording");
        recorded(&path, &[write(0, 1), Action::Flush, write(0, 2), Action::Flush, write(1, 3)]);
        for (stop, expected) in [
            (StopAfter::Flush(1), [1, 0]),
            (StopAfter::Event(3), [1, 0]),
            (StopAfter::Flush(2), [2, 0]),
            (StopAfter::End, [2, 0]),
        ] {
            let image = directory.path().join("image");
            replay(&path, stop, CutMode::DropAll, &image).unwrap();
            let bytes = std::fs::read(&image).unwrap();
            assert_eq!([bytes[0], bytes[512]], expected, "{stop:?}");
            std::fs::remove_file(&image).unwrap();
        }
    }

    #[test]
    fn recording_with_a_torn_last_event_ends_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recording");
        recorded(&path, &[write(0, 1), write(1, 1)]);
        let length = std::fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
        let report =
            replay(&path, StopAfter::End, CutMode::OsCrash, &directory.path().join("image")).unwrap();
        assert_eq!(report.writes, 1);
    }

    #[test]
    fn recording_of_something_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recording");
        std::fs::write(&path, [7; 64]).unwrap();
        assert!(matches!(Recording::open(&path), Err(Error::Recording { position_bytes: 0, .. })));
    }
}
