//! The recording of a strict directory: every change and every flush of it, in order.
//!
//! `fuse` appends under the lock that orders the directory. Replaying applies the same events to the same [`Tree`], and
//! may cut the power anywhere between two of them.
//!
//! The file, all integers little-endian:
//!
//! ```text
//! header, 16 bytes
//!   0   8  magic "HWDIRR1\0"
//!   8   8  zero
//! then events, each 40 bytes and its payload
//!   0   8  number of the event, from 1
//!   8   8  CLOCK_MONOTONIC in nanoseconds
//!   16  8  inode number: the file or directory that changed (for names: the directory)
//!   24  8  create: the new inode; rename: the new directory; write: offset in bytes; length: the new one in bytes;
//!          settle: number of the write; sync: number of the last event when it was asked for; otherwise zero
//!   32  4  kind: 1 create file, 2 create directory, 3 remove, 4 rename, 5 write, 6 length, 7 settle, 8 sync file,
//!          9 sync directory
//!   36  4  length of the payload: a name; for a rename 4 bytes with the length of the old name, the old and the new one;
//!          the data of a write
//! ```
//!
//! A torn last event ends the recording. There are no checksums: it is a file of this run, not an archive.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::tree::{Image, StrictAction, Tree};
use crate::error::{At, Error, Result};
use crate::fault::CutMode;

const MAGIC: &[u8; 8] = b"HWDIRR1\0";
const HEADER_BYTES: u64 = 16;
const EVENT_BYTES: usize = 40;
/// No request that reaches the directory is larger.
const MAX_PAYLOAD_BYTES: u32 = 64 << 20;

/// One event of a strict directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrictEvent {
    /// Counted from one.
    pub number: u64,
    /// `CLOCK_MONOTONIC` when it happened: a [`Stamp`](crate::Stamp) taken before something that led to it is lower.
    pub monotonic_ns: u64,
    /// What happened.
    pub action: StrictAction,
}

/// Appends events.
pub(super) struct Recorder {
    file: BufWriter<File>,
}

impl Recorder {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).at("create the recording", path)?;
        let mut file = BufWriter::with_capacity(256 * 1024, file);
        let header = [MAGIC.as_slice(), &[0; 8]].concat();
        file.write_all(&header).and_then(|()| file.flush()).at("write to the recording", path)?;
        Ok(Self { file })
    }

    pub(super) fn append(&mut self, number: u64, monotonic_ns: u64, action: &StrictAction) -> io::Result<()> {
        let (kind, inode, argument, payload) = encode(action);
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        self.file.write_all([number, monotonic_ns, inode, argument].map(u64::to_le_bytes).as_flattened())?;
        self.file.write_all([kind, length].map(u32::to_le_bytes).as_flattened())?;
        self.file.write_all(&payload)?;
        if action.is_flush() { self.file.flush() } else { Ok(()) }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn encode(action: &StrictAction) -> (u32, u64, u64, std::borrow::Cow<'_, [u8]>) {
    let bytes = |name: &'_ OsString| name.as_bytes().to_vec().into();
    match action {
        StrictAction::CreateFile { parent, inode, name } => (1, *parent, *inode, bytes(name)),
        StrictAction::CreateDirectory { parent, inode, name } => (2, *parent, *inode, bytes(name)),
        StrictAction::Remove { parent, name } => (3, *parent, 0, bytes(name)),
        StrictAction::Rename { parent, name, new_parent, new_name } => {
            // Names are at most 255 bytes long.
            let length = (name.len() as u32).to_le_bytes();
            let payload = [&length[..], name.as_bytes(), new_name.as_bytes()].concat();
            (4, *parent, *new_parent, payload.into())
        }
        StrictAction::Write { inode, offset_bytes, data } => {
            (5, *inode, *offset_bytes, data.as_slice().into())
        }
        StrictAction::SetLength { inode, len_bytes } => (6, *inode, *len_bytes, [].as_slice().into()),
        StrictAction::Settle { inode, write } => (7, *inode, *write, [].as_slice().into()),
        StrictAction::SyncFile { inode, upto } => (8, *inode, *upto, [].as_slice().into()),
        StrictAction::SyncDirectory { inode, upto } => (9, *inode, *upto, [].as_slice().into()),
    }
}

fn decode(kind: u32, inode: u64, argument: u64, payload: Vec<u8>) -> Option<StrictAction> {
    let name = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    Some(match kind {
        1 => StrictAction::CreateFile { parent: inode, inode: argument, name: OsString::from_vec(payload) },
        2 => StrictAction::CreateDirectory {
            parent: inode,
            inode: argument,
            name: OsString::from_vec(payload),
        },
        3 => StrictAction::Remove { parent: inode, name: OsString::from_vec(payload) },
        4 => {
            let (length, names) = payload.split_first_chunk::<4>()?;
            let (old, new) = names.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            let (name, new_name) = (name(old), name(new));
            StrictAction::Rename { parent: inode, name, new_parent: argument, new_name }
        }
        5 => StrictAction::Write { inode, offset_bytes: argument, data: payload },
        6 => StrictAction::SetLength { inode, len_bytes: argument },
        7 => StrictAction::Settle { inode, write: argument },
        8 => StrictAction::SyncFile { inode, upto: argument },
        9 => StrictAction::SyncDirectory { inode, upto: argument },
        _ => return None,
    })
}

/// The replay of a recording from its beginning, with the power cut wherever one likes.
///
/// ```no_run
/// use highwater_disk::CutMode;
/// use highwater_disk::strict::Replay;
///
/// let mut replay = Replay::open("recording".as_ref())?;
/// while let Some(next) = replay.peek()? {
///     if next.action.is_flush() {
///         // The strictest state between the flush before and this one: what was flushed and nothing else.
///         replay.cut(CutMode::DropAll).write_to("state".as_ref())?;
///     }
///     replay.advance()?;
/// }
/// # Ok::<(), highwater_disk::Error>(())
/// ```
pub struct Replay {
    path: PathBuf,
    file: BufReader<File>,
    position_bytes: u64,
    next: Option<StrictEvent>,
    tree: Tree,
}

impl Replay {
    /// Opens a recording and stands before its first event.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).at("open the recording", path)?;
        let mut file = BufReader::with_capacity(256 * 1024, file);
        let mut header = [0; HEADER_BYTES as usize];
        file.read_exact(&mut header).at("read the header of the recording", path)?;
        let (path, tree) = (path.to_owned(), Tree::default());
        if !header.starts_with(MAGIC) {
            let problem = "not a recording of a strict directory".to_owned();
            return Err(Error::Recording { path, position_bytes: 0, problem });
        }
        let mut replay = Self { path, file, position_bytes: HEADER_BYTES, next: None, tree };
        replay.next = replay.read()?;
        Ok(replay)
    }

    /// The event that would be next; none at the end.
    pub fn peek(&self) -> Result<Option<&StrictEvent>> {
        Ok(self.next.as_ref())
    }

    /// Lets the next event happen and gives it.
    pub fn advance(&mut self) -> Result<Option<StrictEvent>> {
        let next = self.read()?;
        let Some(event) = std::mem::replace(&mut self.next, next) else { return Ok(None) };
        self.tree.apply(event.number, &event.action);
        if matches!(event.action, StrictAction::SyncDirectory { .. }) {
            self.tree.forget_unreferenced(|_| false);
        }
        Ok(Some(event))
    }

    /// What would be left were the power cut here. With `OsCrash` it is all that was written.
    pub fn cut(&self, mode: CutMode) -> Image {
        self.tree.cut(mode)
    }

    fn read(&mut self) -> Result<Option<StrictEvent>> {
        let mut head = [0; EVENT_BYTES];
        if !self.fill(&mut head)? {
            return Ok(None);
        }
        let (longs, shorts) = head.split_at(32);
        let [number, monotonic_ns, inode, argument] =
            [0, 8, 16, 24].map(|at| u64::from_le_bytes(longs[at..at + 8].try_into().unwrap_or_default()));
        let [kind, length] =
            [0, 4].map(|at| u32::from_le_bytes(shorts[at..at + 4].try_into().unwrap_or_default()));
        if length > MAX_PAYLOAD_BYTES {
            return Err(self.damaged(format!("an event of {length} bytes")));
        }
        let mut payload = vec![0; length as usize];
        if !self.fill(&mut payload)? {
            return Ok(None);
        }
        let action = decode(kind, inode, argument, payload);
        let action = action.ok_or_else(|| self.damaged(format!("an event of unknown kind {kind}")))?;
        self.position_bytes += EVENT_BYTES as u64 + u64::from(length);
        Ok(Some(StrictEvent { number, monotonic_ns, action }))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn actions() -> Vec<StrictAction> {
        let name = |text: &str| OsString::from(text);
        vec![
            StrictAction::CreateDirectory { parent: 1, inode: 2, name: name("d") },
            StrictAction::CreateFile { parent: 2, inode: 3, name: name("f.tmp") },
            StrictAction::Write { inode: 3, offset_bytes: 512, data: vec![7; 512] },
            StrictAction::Settle { inode: 3, write: 3 },
            StrictAction::SetLength { inode: 3, len_bytes: 2048 },
            StrictAction::SyncFile { inode: 3, upto: 5 },
            StrictAction::Rename { parent: 2, name: name("f.tmp"), new_parent: 1, new_name: name("f") },
            StrictAction::SyncDirectory { inode: 1, upto: 7 },
            StrictAction::SyncDirectory { inode: 2, upto: 8 },
            StrictAction::Remove { parent: 1, name: name("d") },
        ]
    }

    fn recorded(path: &Path) {
        let mut recorder = Recorder::create(path).unwrap();
        for (number, action) in (1..).zip(actions()) {
            recorder.append(number, 100 + number, &action).unwrap();
        }
    }

    #[test]
    fn recording_read_back_gives_the_same_events_and_ends_at_a_torn_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recording");
        recorded(&path);
        let mut replay = Replay::open(&path).unwrap();
        for (number, action) in (1..).zip(actions()) {
            let event = StrictEvent { number, monotonic_ns: 100 + number, action };
            assert_eq!(replay.peek().unwrap(), Some(&event));
            assert_eq!(replay.advance().unwrap(), Some(event));
        }
        assert_eq!(replay.advance().unwrap(), None);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        let mut torn = Replay::open(&path).unwrap();
        let count = std::iter::from_fn(|| torn.advance().unwrap()).count();
        assert_eq!(count, actions().len() - 1);
    }

    #[test]
    fn replay_cut_after_each_event_has_what_was_flushed_by_then() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recording");
        recorded(&path);
        let mut replay = Replay::open(&path).unwrap();
        let mut lengths = Vec::new();
        while replay.advance().unwrap().is_some() {
            let image = replay.cut(CutMode::DropAll);
            lengths.push(image.files().map(|(_, len)| len).next());
        }
        let durable_from = 9;
        assert_eq!(lengths[..durable_from - 1], vec![None; durable_from - 1]);
        assert_eq!(lengths[durable_from - 1..], [Some(2048), Some(2048)]);
    }

    #[test]
    fn something_else_is_refused_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("no-recording");
        std::fs::write(&path, [7; 100]).unwrap();
        let error = Replay::open(&path).err().unwrap().to_string();
        assert!(error.contains("no-recording") && error.contains("not a recording"), "{error}");
    }
}
