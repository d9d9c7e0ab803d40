//! Reading a journal back: which groups are whole, where it ends, and whether the end is torn or rotten.
//!
//! Groups are taken in order of sequence, each naming its predecessor's checksum. Where the expected group is not whole,
//! a later one of the journal decides: if it says that the missing one was durable, the medium lost what it had promised
//! to keep (rot); otherwise the missing group was never acknowledged as durable, and the journal ends there.

use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use highwater_io::{FileError, Io, IoBuf, fs};

use crate::journal::JournalPlace;
use crate::journal::files::lock_for_writing;
use crate::journal::format::{
    Entry, FILE_HEADER_BYTES, FileHeader, GroupHeader, MIN_ALIGNMENT, entries_checksum,
};
use crate::mutants;
use crate::partition::append::entry_crc;

/// Bytes read at a time when groups are looked for.
const SEARCH_BYTES: usize = 1 << 20;

/// Linux's number for an input/output error.
const EIO: i32 = 5;

/// A journal file that has a valid header.
struct ScannedFile {
    file: Rc<fs::File>,
    header: FileHeader,
    len_bytes: u64,
}

/// A whole group.
pub(crate) struct WholeGroup {
    /// Each entry with its payload, which is empty for most kinds.
    pub(crate) entries: Vec<(Entry, Bytes)>,
    pub(crate) size_bytes: u64,
}

/// What stands at the next place of the journal.
pub(crate) enum Next {
    /// The expected group.
    Group(WholeGroup),
    /// A group that was durable and is damaged. The entries name whom it concerns; `None` if they cannot be read, which
    /// concerns everyone. Reading goes on behind it.
    Rotten { sequence: u64, entries: Option<Vec<Entry>> },
    /// The journal ends. `cut_bytes` of never acknowledged groups follow.
    End { cut_bytes: u64 },
}

/// What the bytes at some place are.
enum Found {
    Whole {
        header: GroupHeader,
        checksum: u64,
        group: WholeGroup,
    },
    /// The header is whole, something behind it is not.
    Damaged {
        header: GroupHeader,
        checksum: u64,
        entries: Option<Vec<Entry>>,
    },
    Nothing,
}

/// What reading is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Recovery: a dead process's writes are waited for, and what is read is made durable first.
    Recover,
    /// Nothing is changed: for looking at a directory that nobody uses.
    Inspect,
}

/// Reads the groups of one journal after a checkpoint.
pub(crate) struct JournalReader {
    files: Vec<ScannedFile>,
    /// Index of the file in which the next group is looked for.
    at_file: usize,
    position_bytes: u64,
    /// Sequence and header checksum of the group before.
    sequence: u64,
    checksum: u64,
}

impl JournalReader {
    /// Opens the journal files of `generation` in `dir`, waits for a dead process's writes, and stands at `place`.
    pub(crate) async fn open(
        io: &Io,
        dir: &Path,
        generation: [u8; 16],
        place: &JournalPlace,
        access: Access,
    ) -> Result<Self, FileError> {
        let mut files = Vec::new();
        for entry in io.fs().read_dir(dir).await? {
            if !entry.name.starts_with("journal-") {
                continue;
            }
            let file = open_file(io, &dir.join(&entry.name), access).await?;
            let len_bytes = file.len().await?;
            let head = read_or_empty(&file, 0, FILE_HEADER_BYTES as usize).await?;
            match FileHeader::decode(&head) {
                Some(header) if header.generation == generation => {
                    files.push(ScannedFile { file: Rc::new(file), header, len_bytes });
                }
                // Torn in preparation, before the first group: there is nothing in it.
                _ => tracing::debug!(file = %entry.name, "journal file without a valid header"),
            }
        }
        files.sort_unstable_by_key(|file| file.header.file_number);
        files.retain(|file| file.header.file_number >= place.file_number);
        // The place's own file may be in use again: then the next group begins the file after it.
        let is_there = files.first().is_some_and(|file| file.header.file_number == place.file_number);
        let position_bytes = if is_there { place.position_bytes } else { FILE_HEADER_BYTES };
        Ok(JournalReader {
            files,
            at_file: 0,
            position_bytes: position_bytes.max(FILE_HEADER_BYTES),
            sequence: place.sequence,
            checksum: place.checksum,
        })
    }

    /// What stands next. After [`Next::End`] there is no more.
    pub(crate) async fn next(&mut self) -> Result<Next, FileError> {
        // A hostile header may say anything; a real journal never comes so far.
        let expected = self.sequence.saturating_add(1);
        let here = self.read_at(self.at_file, self.position_bytes).await?;
        if let Some(group) = self.take_if_expected(&here, expected) {
            return Ok(Next::Group(self.advance(here, group)));
        }
        if self.at_file + 1 < self.files.len() {
            let there = self.read_at(self.at_file + 1, FILE_HEADER_BYTES).await?;
            if self.take_if_expected(&there, expected).is_some() {
                self.at_file += 1;
                self.position_bytes = FILE_HEADER_BYTES;
                return Ok(Next::Group(self.advance(there, ())));
            }
            // The expected group may be the damaged one there.
            if matches!(&there, Found::Damaged { header, .. } if header.sequence == expected) {
                self.at_file += 1;
                self.position_bytes = FILE_HEADER_BYTES;
                return self.judge(there, expected).await;
            }
        }
        self.judge(here, expected).await
    }

    fn take_if_expected(&self, found: &Found, expected: u64) -> Option<()> {
        match found {
            Found::Whole { header, .. }
                if header.sequence == expected && header.previous_checksum == self.checksum =>
            {
                Some(())
            }
            _ => None,
        }
    }

    fn advance(&mut self, found: Found, (): ()) -> WholeGroup {
        let Found::Whole { header, checksum, group } = found else {
            unreachable!("the caller looked");
        };
        self.sequence = header.sequence;
        self.checksum = checksum;
        self.position_bytes += group.size_bytes;
        group
    }

    /// Decides whether the group that is not whole was ever durable.
    async fn judge(&mut self, damaged: Found, expected: u64) -> Result<Next, FileError> {
        let later = self.find_later(expected).await?;
        let proven = later.iter().any(|(_, _, header, _)| header.durable_through >= expected);
        if !proven || mutants::CUT_AT_ROT.is_on() {
            let cut_bytes = later.iter().map(|(_, _, header, _)| header.content_bytes()).sum();
            self.at_file = self.files.len();
            return Ok(Next::End { cut_bytes });
        }
        match damaged {
            Found::Damaged { header, checksum, entries } if header.sequence == expected => {
                self.sequence = expected;
                self.checksum = checksum;
                self.position_bytes += header.content_bytes().next_multiple_of(MIN_ALIGNMENT);
                Ok(Next::Rotten { sequence: expected, entries })
            }
            _ => {
                // Nothing can be read of it: go on at the next group that can.
                let (file, position, header, _) = later.first().expect("a proof was found");
                self.at_file = *file;
                self.position_bytes = *position;
                self.sequence = header.sequence - 1;
                self.checksum = header.previous_checksum;
                Ok(Next::Rotten { sequence: expected, entries: None })
            }
        }
    }

    /// Headers of groups after `sequence`, in order, from the place where we stand.
    async fn find_later(&self, sequence: u64) -> Result<Vec<(usize, u64, GroupHeader, u64)>, FileError> {
        let mut later = Vec::new();
        for index in self.at_file..self.files.len() {
            let scanned = &self.files[index];
            let mut position = if index == self.at_file { self.position_bytes } else { FILE_HEADER_BYTES };
            while position < scanned.len_bytes {
                let window = read_or_empty(&scanned.file, position, SEARCH_BYTES).await?;
                if window.is_empty() {
                    position += MIN_ALIGNMENT;
                    continue;
                }
                let mut at = 0;
                while at < window.len() {
                    let here = position + at as u64;
                    let found = GroupHeader::decode(&window[at..], scanned.header.incarnation, here);
                    if let Some((header, checksum)) = found.filter(|(header, _)| header.sequence > sequence) {
                        later.push((index, here, header, checksum));
                    }
                    at += usize::try_from(MIN_ALIGNMENT).expect("small");
                }
                position += (window.len() as u64).next_multiple_of(MIN_ALIGNMENT);
            }
        }
        Ok(later)
    }

    async fn read_at(&self, index: usize, position_bytes: u64) -> Result<Found, FileError> {
        let Some(scanned) = self.files.get(index) else { return Ok(Found::Nothing) };
        if position_bytes >= scanned.len_bytes {
            return Ok(Found::Nothing);
        }
        let incarnation = scanned.header.incarnation;
        let first = read_or_empty(&scanned.file, position_bytes, MIN_ALIGNMENT as usize).await?;
        let Some((header, checksum)) = GroupHeader::decode(&first, incarnation, position_bytes) else {
            return Ok(Found::Nothing);
        };
        let content_bytes = header.content_bytes();
        let size_bytes = content_bytes.next_multiple_of(MIN_ALIGNMENT);
        if position_bytes + size_bytes > scanned.len_bytes {
            return Ok(Found::Damaged { header, checksum, entries: None });
        }
        let len = usize::try_from(size_bytes).expect("below the file's length");
        let bytes = read_or_empty(&scanned.file, position_bytes, len).await?;
        if (bytes.len() as u64) < content_bytes {
            return Ok(Found::Damaged { header, checksum, entries: None });
        }
        let payload_end =
            (crate::journal::format::GROUP_HEADER_BYTES as u64 + u64::from(header.payload_bytes)) as usize;
        let list = &bytes[payload_end..content_bytes as usize];
        let entries = (entries_checksum(incarnation, list) == header.entries_checksum)
            .then(|| Entry::decode_list(list, header.entry_count))
            .flatten();
        let Some(entries) = entries else {
            return Ok(Found::Damaged { header, checksum, entries: None });
        };
        let payload = bytes.slice(crate::journal::format::GROUP_HEADER_BYTES..payload_end);
        match split_payload(&entries, &payload) {
            Some(entries) => Ok(Found::Whole { header, checksum, group: WholeGroup { entries, size_bytes } }),
            None => Ok(Found::Damaged { header, checksum, entries: Some(entries) }),
        }
    }
}

async fn open_file(io: &Io, path: &Path, access: Access) -> Result<fs::File, FileError> {
    if access == Access::Inspect {
        return io.fs().open(path, fs::OpenOptions::read_only().direct()).await;
    }
    let file = io.fs().open(path, fs::OpenOptions::read_write().direct()).await?;
    lock_for_writing(io, &file).await?;
    // A killed process may have left groups that no flush covers. They are applied, so they are made durable first: a
    // block of a segment is rewritten only when its whole image is durable in the journal.
    if !mutants::REPLAY_BEFORE_FLUSH.is_on() {
        file.sync_data().await?;
    }
    Ok(file)
}

/// Gives each entry its part of the payload, if every part is intact.
fn split_payload(entries: &[Entry], payload: &Bytes) -> Option<Vec<(Entry, Bytes)>> {
    let mut at = 0;
    let mut split = Vec::with_capacity(entries.len());
    for entry in entries {
        let end = at + entry.payload_bytes();
        if end > payload.len() {
            return None;
        }
        let part = payload.slice(at..end);
        if !is_intact(entry, &part) {
            return None;
        }
        split.push((*entry, part));
        at = end;
    }
    (at == payload.len()).then_some(split)
}

fn is_intact(entry: &Entry, payload: &[u8]) -> bool {
    match entry.change {
        crate::journal::format::Change::Append { prefix_bytes, crc, .. } => {
            entry_crc(payload, prefix_bytes as usize) == Some(crc)
        }
        _ => true,
    }
}

/// Reads, with an unreadable sector counted as nothing there.
async fn read_or_empty(file: &fs::File, position_bytes: u64, len: usize) -> Result<Bytes, FileError> {
    let buf = IoBuf::with_capacity(len);
    match file.read_at(buf, position_bytes, len).await {
        Ok(buf) => Ok(buf.freeze()),
        Err(error) if error.errno() == Some(EIO) => {
            tracing::warn!("{error}: counts as torn");
            Ok(Bytes::new())
        }
        Err(error) => Err(error),
    }
}
