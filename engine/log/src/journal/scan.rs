//! Reading a journal back: which groups are whole, where it ends, and whether the end is torn or rotten.
//!
//! Groups are taken in order of sequence, each naming its predecessor's checksum. Where the expected group is not whole,
//! a later one of the journal decides: if it says that the missing one was durable, the medium lost what it had promised
//! to keep (rot); otherwise the missing group was never acknowledged as durable, and the journal ends there.
//!
//! A later group may stand anywhere behind the expected one, and damage may be of any size, so that nothing less than the
//! rest of the journal is searched, zeros and old laps included; but once: what was found serves every damaged group.
//! Only after a clean stop is there nothing to search for. So a journal is read at most twice, forwards, in large reads.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use highwater_io::{BufPool, FileError, FileOp, Io, concurrent, fs};

use crate::journal::JournalPlace;
use crate::journal::files::lock_for_writing;
use crate::journal::format::{
    Change, Entry, FILE_HEADER_BYTES, FileHeader, GROUP_HEADER_BYTES, GroupHeader, MIN_ALIGNMENT,
    entries_checksum,
};
use crate::journal::read_ahead::{CHUNK_BYTES, ReadAhead, Stretch, read_or_nothing};
use crate::mutants;
use crate::partition::entry::entry_crc;

/// Bytes that are searched at a time.
const SEARCH_BYTES: usize = CHUNK_BYTES as usize;

/// Files that are opened, and flushed, at the same time.
const OPENED_AT_ONCE: usize = 16;

/// Bytes between places at which a group may begin.
const BLOCK_BYTES: usize = MIN_ALIGNMENT as usize;

/// A journal file that has a valid header.
struct ScannedFile {
    path: PathBuf,
    file: Rc<fs::File>,
    header: FileHeader,
    len_bytes: u64,
}

/// A whole group.
pub(crate) struct WholeGroup {
    /// Each entry with its payload, which is empty for most kinds, and keeps the memory that the group was read into.
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
    /// The header of a file that holds groups is damaged, so that they cannot be told from those of an old lap: what they
    /// say is lost, which concerns everyone.
    Unknown { path: PathBuf },
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

/// Files that the others, or its own header, say should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gap {
    /// This file is not there.
    Missing(PathBuf),
    /// This file is shorter than it was.
    Cut { path: PathBuf, len_bytes: u64 },
}

/// What is known of a journal's end before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The process was killed, or the power went: groups may follow the checkpoint, whole, torn or rotten.
    Unknown,
    /// The clean stop's marker says that nothing follows the checkpoint. What does all the same is read.
    Clean,
}

/// A group's header that was found by searching.
struct Later {
    file: usize,
    position_bytes: u64,
    header: GroupHeader,
    /// The highest `durable_through` of this one and all behind it.
    proven_through: u64,
}

/// Reads the groups of one journal after a checkpoint.
pub(crate) struct JournalReader {
    io: Io,
    /// Memory for what is read.
    pool: BufPool,
    files: Vec<ScannedFile>,
    ending: Ending,
    /// Index of the file in which the next group is looked for.
    at_file: usize,
    position_bytes: u64,
    /// Sequence and header checksum of the group before.
    sequence: u64,
    checksum: u64,
    /// The current file from `position_bytes` on, and the next one from its beginning, once they are looked at.
    here: Option<ReadAhead>,
    there: Option<ReadAhead>,
    /// Every header behind the first group that was not whole, in order of place, without those that were passed.
    later: Option<VecDeque<Later>>,
    gap: Option<Gap>,
    /// A file without a header, with groups that may be of this journal.
    unknown: Option<PathBuf>,
}

impl JournalReader {
    /// Opens the journal files of `generation` in `dir`, waits for a dead process's writes, and stands at `place`. Reads into
    /// memory of `pool` ([`chunk_pool`](crate::journal::read_ahead::chunk_pool)).
    pub(crate) async fn open(
        io: &Io,
        pool: &BufPool,
        dir: &Path,
        generation: [u8; 16],
        place: &JournalPlace,
        access: Access,
        ending: Ending,
    ) -> Result<Self, FileError> {
        let Listing { mut files, headless, slots } = list(io, dir, generation, access).await?;
        files.sort_unstable_by_key(|file| file.header.file_number);
        files.retain(|file| file.header.file_number >= place.file_number);
        let (mut gap, mut unknown) = (None, None);
        if ending == Ending::Unknown {
            gap = find_gap(dir, &files, &headless, &slots, place);
            unknown = find_unknown(io, pool, headless, place).await?;
        }
        // The place's own file may be in use again: then the next group begins the file after it.
        let is_there = files.first().is_some_and(|file| file.header.file_number == place.file_number);
        let position_bytes = if is_there { place.position_bytes } else { FILE_HEADER_BYTES };
        Ok(JournalReader {
            io: io.clone(),
            pool: pool.clone(),
            files,
            ending,
            at_file: 0,
            position_bytes: position_bytes.max(FILE_HEADER_BYTES),
            sequence: place.sequence,
            checksum: place.checksum,
            here: None,
            there: None,
            later: None,
            gap,
            unknown,
        })
    }

    /// The first file that is missing or was cut. There is nothing to be said of where the journal ends, then.
    pub(crate) fn gap(&self) -> Option<&Gap> {
        self.gap.as_ref()
    }

    /// What stands next. After [`Next::End`] there is no more.
    pub(crate) async fn next(&mut self) -> Result<Next, FileError> {
        let next = self.next_known().await?;
        match next {
            // Once all that can be read is read.
            Next::End { .. } => Ok(self.unknown.take().map_or(next, |path| Next::Unknown { path })),
            _ => Ok(next),
        }
    }

    async fn next_known(&mut self) -> Result<Next, FileError> {
        // A hostile header may say anything; a real journal never comes so far.
        let expected = self.sequence.saturating_add(1);
        let here = self.look_here().await?;
        if self.is_expected(&here, expected) {
            return Ok(Next::Group(self.advance(here)));
        }
        if self.at_file + 1 < self.files.len() {
            let there = self.look_there().await?;
            if self.is_expected(&there, expected) {
                self.go_to(self.at_file + 1, FILE_HEADER_BYTES);
                return Ok(Next::Group(self.advance(there)));
            }
            // The expected group may be the damaged one there.
            if matches!(&there, Found::Damaged { header, .. } if header.sequence == expected) {
                self.go_to(self.at_file + 1, FILE_HEADER_BYTES);
                return self.judge(there, expected).await;
            }
        }
        self.judge(here, expected).await
    }

    fn is_expected(&self, found: &Found, expected: u64) -> bool {
        matches!(found, Found::Whole { header, .. }
            if header.sequence == expected && header.previous_checksum == self.checksum)
    }

    fn advance(&mut self, found: Found) -> WholeGroup {
        let Found::Whole { header, checksum, group } = found else {
            unreachable!("the caller looked");
        };
        self.sequence = header.sequence;
        self.checksum = checksum;
        self.position_bytes += group.size_bytes;
        group
    }

    /// Moves on, to another file or forwards in this one.
    fn go_to(&mut self, file: usize, position_bytes: u64) {
        if file != self.at_file {
            self.here = if file == self.at_file + 1 { self.there.take() } else { None };
            self.there = None;
        }
        self.at_file = file;
        self.position_bytes = position_bytes;
    }

    /// Decides whether the group that is not whole was ever durable.
    async fn judge(&mut self, damaged: Found, expected: u64) -> Result<Next, FileError> {
        if self.ending == Ending::Clean && matches!(damaged, Found::Nothing) {
            self.go_to(self.files.len(), 0);
            return Ok(Next::End { cut_bytes: 0 });
        }
        self.find_later(expected).await?;
        let later = self.later.get_or_insert_default();
        let proven = later.front().is_some_and(|first| first.proven_through >= expected);
        if !proven || mutants::CUT_AT_ROT.is_on() {
            let cut_bytes = later.iter().map(|later| later.header.content_bytes()).sum();
            self.go_to(self.files.len(), 0);
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
                let Later { file, position_bytes, header, .. } = later.front().expect("a proof was found");
                let (file, position_bytes, header) = (*file, *position_bytes, *header);
                self.go_to(file, position_bytes);
                self.sequence = header.sequence - 1;
                self.checksum = header.previous_checksum;
                Ok(Next::Rotten { sequence: expected, entries: None })
            }
        }
    }

    /// Sees to it that `later` begins with the first group after `sequence` from the place where we stand. The journal is
    /// searched the first time only: what is behind us by now is dropped.
    async fn find_later(&mut self, sequence: u64) -> Result<(), FileError> {
        if self.later.is_none() {
            self.later = Some(self.search(sequence).await?.into());
        }
        let here = (self.at_file, self.position_bytes);
        let later = self.later.get_or_insert_default();
        while later.front().is_some_and(|first| {
            (first.file, first.position_bytes) < here || first.header.sequence <= sequence
        }) {
            later.pop_front();
        }
        Ok(())
    }

    /// Headers of groups after `sequence`, in order of place, from where we stand. What was read ahead is not read again.
    async fn search(&mut self, sequence: u64) -> Result<Vec<Later>, FileError> {
        let mut found = Vec::new();
        let mut ahead = [self.here.take(), self.there.take()].into_iter();
        for (index, scanned) in self.files.iter().enumerate().skip(self.at_file) {
            let mut position = if index == self.at_file { self.position_bytes } else { FILE_HEADER_BYTES };
            let ahead = ahead.next().flatten();
            let mut reading = ahead.unwrap_or_else(|| scanned.read_from(&self.io, &self.pool, position));
            while position < scanned.len_bytes {
                let window = reading.stretch(position, SEARCH_BYTES).await?;
                if window.len() == 0 {
                    break;
                }
                for block in window.pieces().iter().flat_map(|piece| piece.chunks(BLOCK_BYTES)) {
                    let header = scanned.group_header(block, position)?;
                    if let Some((header, _)) = header.filter(|(header, _)| header.sequence > sequence) {
                        let (position_bytes, proven_through) = (position, header.durable_through);
                        found.push(Later { file: index, position_bytes, header, proven_through });
                    }
                    position += BLOCK_BYTES as u64;
                }
            }
        }
        let mut proven_through = 0;
        for later in found.iter_mut().rev() {
            proven_through = later.proven_through.max(proven_through);
            later.proven_through = proven_through;
        }
        Ok(found)
    }

    async fn look_here(&mut self) -> Result<Found, FileError> {
        let Some(scanned) = self.files.get(self.at_file) else { return Ok(Found::Nothing) };
        let position = self.position_bytes;
        let reading = self.here.get_or_insert_with(|| scanned.read_from(&self.io, &self.pool, position));
        scanned.group_at(reading, position).await
    }

    /// The first group of the next file.
    async fn look_there(&mut self) -> Result<Found, FileError> {
        let Some(scanned) = self.files.get(self.at_file + 1) else { return Ok(Found::Nothing) };
        let reading =
            self.there.get_or_insert_with(|| scanned.read_from(&self.io, &self.pool, FILE_HEADER_BYTES));
        scanned.group_at(reading, FILE_HEADER_BYTES).await
    }
}

impl ScannedFile {
    fn read_from(&self, io: &Io, pool: &BufPool, position_bytes: u64) -> ReadAhead {
        ReadAhead::new(io, pool, Rc::clone(&self.file), position_bytes, self.len_bytes)
    }

    /// The header of this file's group at this place, and its checksum.
    fn group_header(
        &self,
        block: &[u8],
        position_bytes: u64,
    ) -> Result<Option<(GroupHeader, u64)>, FileError> {
        let header = GroupHeader::decode(block, self.header.incarnation, position_bytes);
        if header.is_none()
            && GroupHeader::unknown_version(block, self.header.incarnation, position_bytes).is_some()
        {
            return Err(unknown_format(&self.path, position_bytes));
        }
        Ok(header)
    }

    async fn group_at(&self, reading: &mut ReadAhead, position_bytes: u64) -> Result<Found, FileError> {
        if position_bytes >= self.len_bytes {
            return Ok(Found::Nothing);
        }
        let incarnation = self.header.incarnation;
        let first = reading.bytes(position_bytes, BLOCK_BYTES).await?;
        let Some((header, checksum)) = self.group_header(&first, position_bytes)? else {
            return Ok(Found::Nothing);
        };
        let content_bytes = header.content_bytes();
        let size_bytes = content_bytes.next_multiple_of(MIN_ALIGNMENT);
        let unreadable = Found::Damaged { header, checksum, entries: None };
        if position_bytes + size_bytes > self.len_bytes {
            return Ok(unreadable);
        }
        let len = usize::try_from(content_bytes).expect("below the file's length");
        let group = reading.stretch(position_bytes, len).await?;
        if group.len() < len {
            return Ok(unreadable);
        }
        let payload_end = GROUP_HEADER_BYTES + header.payload_bytes as usize;
        let list = group.slice(payload_end..len);
        if entries_checksum(incarnation, &list) != header.entries_checksum {
            return Ok(unreadable);
        }
        let Some(entries) = Entry::decode_list(&list, header.entry_count) else {
            return Err(unknown_format(&self.path, position_bytes));
        };
        match split_payload(&entries, &group, GROUP_HEADER_BYTES..payload_end) {
            Some(entries) => Ok(Found::Whole { header, checksum, group: WholeGroup { entries, size_bytes } }),
            None => Ok(Found::Damaged { header, checksum, entries: Some(entries) }),
        }
    }
}

/// What is whole and cannot be read is no damage: a later build wrote it. To take it for a torn end would lose it.
fn unknown_format(path: &Path, position_bytes: u64) -> FileError {
    FileError {
        op: FileOp::Read,
        path: path.to_owned(),
        position_bytes: Some(position_bytes),
        source: io::Error::new(
            io::ErrorKind::Unsupported,
            "whole, and in a format that this build does not know; start the Highwater that wrote it, and stop that \
             cleanly before an older one is started",
        ),
    }
}

/// The files of a journal.
#[derive(Default)]
struct Listing {
    files: Vec<ScannedFile>,
    /// Those without a valid header: torn in preparation, before the first group, or damaged.
    headless: Vec<Headless>,
    /// The numbers in their names.
    slots: BTreeSet<usize>,
}

struct Headless {
    path: PathBuf,
    slot: usize,
    file: Rc<fs::File>,
    len_bytes: u64,
}

async fn list(io: &Io, dir: &Path, generation: [u8; 16], access: Access) -> Result<Listing, FileError> {
    let entries = io.fs().read_dir(dir).await?;
    let files = entries.iter().filter_map(|entry| {
        let slot: usize = entry.name.strip_prefix("journal-")?.parse().ok()?;
        let (io, path) = (io.clone(), dir.join(&entry.name));
        Some(async move {
            let file = Rc::new(open_file(&io, &path, access).await?);
            let len_bytes = file.len().await?;
            let head = read_or_nothing(&file, 0, FILE_HEADER_BYTES as usize).await?.unwrap_or_default();
            Ok((head, Headless { path, slot, file, len_bytes }))
        })
    });
    let mut listing = Listing::default();
    for opened in concurrent::all(io, OPENED_AT_ONCE, files).await {
        let (head, found) = opened?;
        if FileHeader::is_of_unknown_version(&head) {
            return Err(unknown_format(&found.path, 0));
        }
        listing.slots.insert(found.slot);
        match FileHeader::decode(&head) {
            Some(header) if header.generation == generation => {
                let Headless { path, file, len_bytes, .. } = found;
                listing.files.push(ScannedFile { path, file, header, len_bytes });
            }
            _ => listing.headless.push(found),
        }
    }
    Ok(listing)
}

/// Looks for files that must have been there. Names are given out in order, and so are file numbers; the file in which the
/// next group is looked for, or the one after it, is there from before the checkpoint on.
fn find_gap(
    dir: &Path,
    files: &[ScannedFile],
    headless: &[Headless],
    slots: &BTreeSet<usize>,
    place: &JournalPlace,
) -> Option<Gap> {
    let slot = (0..).find(|slot| !slots.contains(slot)).unwrap_or_default();
    if slots.is_empty() || slot < slots.len() {
        return Some(Gap::Missing(dir.join(format!("journal-{slot}"))));
    }
    if let Some(cut) = files.iter().find(|file| file.len_bytes < file.header.len_bytes) {
        return Some(Gap::Cut { path: cut.path.clone(), len_bytes: cut.len_bytes });
    }
    let numbers = files.iter().map(|file| file.header.file_number);
    let follow_each_other = numbers.clone().zip(numbers.clone().skip(1)).all(|(one, next)| one + 1 == next);
    let begins = numbers.min().is_some_and(|first| first <= place.file_number.saturating_add(1));
    let is_complete = follow_each_other && begins;
    // A file without a header may be the one that the others miss. The first one has a block from the beginning.
    let is_cut = |file: &&Headless| file.len_bytes < FILE_HEADER_BYTES && (file.slot == 0 || !is_complete);
    if let Some(cut) = headless.iter().find(is_cut) {
        return Some(Gap::Cut { path: cut.path.clone(), len_bytes: cut.len_bytes });
    }
    (!is_complete && headless.is_empty()).then(|| Gap::Missing(dir.join("journal-*")))
}

/// The first file without a header that holds what looks like a group after the checkpoint.
async fn find_unknown(
    io: &Io,
    pool: &BufPool,
    headless: Vec<Headless>,
    place: &JournalPlace,
) -> Result<Option<PathBuf>, FileError> {
    for Headless { path, file, len_bytes, .. } in headless {
        let mut position = FILE_HEADER_BYTES;
        let mut reading = ReadAhead::new(io, pool, file, position, len_bytes);
        while position < len_bytes {
            let window = reading.bytes(position, SEARCH_BYTES).await?;
            let mut blocks = (position..).step_by(BLOCK_BYTES).zip(window.chunks(BLOCK_BYTES));
            if blocks.any(|(at, block)| {
                GroupHeader::sequence_unchecked(block, at).is_some_and(|sequence| sequence > place.sequence)
            }) {
                return Ok(Some(path));
            }
            if window.is_empty() {
                break;
            }
            position += (window.len() as u64).next_multiple_of(MIN_ALIGNMENT);
        }
        tracing::debug!(path = %path.display(), "journal file that was torn in preparation");
    }
    Ok(None)
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

/// Gives each entry its part of the payload, if every part is intact. `payload` is where that lies in the group.
fn split_payload(entries: &[Entry], group: &Stretch, payload: Range<usize>) -> Option<Vec<(Entry, Bytes)>> {
    let mut at = payload.start;
    let mut split = Vec::with_capacity(entries.len());
    for entry in entries {
        let range = entry.payload(at);
        at = range.end;
        if at > payload.end {
            return None;
        }
        let part = group.slice(range);
        if !is_intact(entry, &part) {
            return None;
        }
        split.push((*entry, part));
    }
    (at == payload.end).then_some(split)
}

fn is_intact(entry: &Entry, payload: &[u8]) -> bool {
    match entry.change {
        Change::Append { prefix_bytes, crc, .. } => entry_crc(payload, prefix_bytes as usize) == Some(crc),
        _ => true,
    }
}
