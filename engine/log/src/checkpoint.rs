//! The checkpoint: up to which journal group everything is in segments and flushed, and where each partition ends.
//!
//! Two files a journal, `checkpoint-0` and `checkpoint-1`, written in turn and flushed: a torn one leaves the other.
//! All integers are big-endian.
//!
//! ```text
//!    0   8  magic "HWCKPT01"
//!    8  16  generation
//!   24   8  number; the higher of two valid ones counts
//!   32   8  sequence of the last group that it covers
//!   40   8  that group's header checksum
//!   48   8  number of the file in which that group lies
//!   56   8  its end in that file: there the next one is looked for
//!   64   8  length of the body
//!   72   8  xxh3-64 of the above and the body
//!   80      body: partition states, one after the other
//! ```

use std::path::{Path, PathBuf};

use highwater_io::{FileError, Io, IoBuf, fs};
use twox_hash::XxHash3_64;

use crate::journal::JournalPlace;
use crate::journal::files::lock_for_writing;
use crate::journal::format::{Fields, MIN_ALIGNMENT};
use crate::journal::scan::Access;
use crate::partition::state::PartitionState;

const MAGIC: &[u8; 8] = b"HWCKPT01";
const HEADER_BYTES: usize = 80;
/// Where the header tells the length of the body.
const BODY_BYTES_AT: usize = 64;
/// Bytes that are read at a time.
const PIECE_BYTES: usize = 4 << 20;

/// A checkpoint in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) generation: [u8; 16],
    pub(crate) number: u64,
    pub(crate) place: JournalPlace,
    pub(crate) partitions: Vec<PartitionState>,
}

/// The bytes of a checkpoint whose partition states are encoded already.
pub(crate) fn encode(generation: [u8; 16], number: u64, place: &JournalPlace, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&generation);
    for field in
        [number, place.sequence, place.checksum, place.file_number, place.position_bytes, body.len() as u64]
    {
        out.extend_from_slice(&field.to_be_bytes());
    }
    let checksum = checksum(&out, body);
    out.extend_from_slice(&checksum.to_be_bytes());
    out.extend_from_slice(body);
    out
}

fn checksum(header: &[u8], body: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(header), body)
}

/// `None` if the bytes are not a whole, undamaged checkpoint.
pub(crate) fn decode(bytes: &[u8]) -> Option<Checkpoint> {
    let mut fields = Fields(bytes);
    if fields.array::<8>()? != *MAGIC {
        return None;
    }
    let generation = fields.array()?;
    let number = fields.u64()?;
    let place = JournalPlace {
        sequence: fields.u64()?,
        checksum: fields.u64()?,
        file_number: fields.u64()?,
        position_bytes: fields.u64()?,
    };
    let body_bytes = usize::try_from(fields.u64()?).ok()?;
    let stored = fields.u64()?;
    let body = fields.bytes(body_bytes)?;
    if stored != checksum(bytes.get(..HEADER_BYTES - 8)?, body) {
        return None;
    }
    // Groups begin at blocks, and reads are direct.
    if !place.position_bytes.is_multiple_of(MIN_ALIGNMENT) {
        return None;
    }
    let mut body = Fields(body);
    let mut partitions = Vec::new();
    while !body.0.is_empty() {
        partitions.push(PartitionState::decode(&mut body)?);
    }
    Some(Checkpoint { generation, number, place, partitions })
}

fn slot_path(dir: &Path, slot: u64) -> PathBuf {
    dir.join(format!("checkpoint-{slot}"))
}

/// Writes checkpoint `number` into its slot; durable when this returns, if the slot's name is ([`create_slots`]).
pub(crate) async fn write(io: &Io, dir: &Path, number: u64, bytes: Vec<u8>) -> Result<(), FileError> {
    let options = fs::OpenOptions::read_write().create();
    let file = io.fs().open(slot_path(dir, number % 2), options).await?;
    lock_for_writing(io, &file).await?;
    file.write_at(vec![bytes.into()], 0, fs::Durability::Plain).await?;
    file.sync_data().await
}

/// Writes the first checkpoint of a journal and makes the names of both slots durable.
pub(crate) async fn create_slots(io: &Io, dir: &Path, bytes: Vec<u8>) -> Result<(), FileError> {
    write(io, dir, 0, bytes).await?;
    io.fs().open(slot_path(dir, 1), fs::OpenOptions::read_write().create()).await?;
    io.fs().sync_dir(dir).await
}

/// The bytes of a checkpoint's file that its header claims, however long the file is: whatever fitted into the memory of the one
/// who wrote it is read, and an older, larger one may have left more behind it. `None` if it claims more than there is memory
/// for: such a one was never written, whatever a file full of holes may hold.
async fn read(io: &Io, path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let file = io.fs().open(path, fs::OpenOptions::read_only()).await?;
    let header = file.read_at(IoBuf::with_capacity(HEADER_BYTES), 0, HEADER_BYTES).await?;
    let body_bytes = header.get(BODY_BYTES_AT..BODY_BYTES_AT + 8).and_then(|bytes| Fields(bytes).u64());
    let claimed_bytes = body_bytes.unwrap_or(0).saturating_add(HEADER_BYTES as u64);
    let Ok(len) = usize::try_from(claimed_bytes.min(file.len().await?)) else { return Ok(None) };
    let mut bytes = Vec::new();
    if bytes.try_reserve_exact(len).is_err() {
        return Ok(None);
    }
    while bytes.len() < len {
        let piece_bytes = PIECE_BYTES.min(len - bytes.len());
        let piece = file.read_at(IoBuf::with_capacity(piece_bytes), bytes.len() as u64, piece_bytes).await?;
        if piece.is_empty() {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes))
}

/// The newest valid checkpoint in `dir`.
pub(crate) async fn read_newest(
    io: &Io,
    dir: &Path,
    access: Access,
) -> Result<Option<Checkpoint>, FileError> {
    let mut newest: Option<Checkpoint> = None;
    for slot in 0..2 {
        let path = slot_path(dir, slot);
        if !io.fs().exists(&path).await? {
            continue;
        }
        if access == Access::Recover {
            // A dead process may still be writing here.
            let file = io.fs().open(&path, fs::OpenOptions::read_write()).await?;
            lock_for_writing(io, &file).await?;
        }
        let bytes = match read(io, &path).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                tracing::warn!(
                    "{} claims more than fits memory: the other checkpoint slot is used",
                    path.display()
                );
                continue;
            }
            // An unreadable sector counts as torn: the other slot is there for that.
            Err(error) if error.errno() == Some(EIO) => {
                tracing::warn!("{error}: the other checkpoint slot is used");
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some(checkpoint) = decode(&bytes)
            && newest.as_ref().is_none_or(|newest| checkpoint.number > newest.number)
        {
            newest = Some(checkpoint);
        }
    }
    Ok(newest)
}

/// Linux's number for an input/output error.
const EIO: i32 = 5;

#[cfg(test)]
mod tests {
    use crate::partition::state::tests::sample_state;

    use super::*;

    #[test]
    fn checkpoint_survives_the_round_trip_and_refuses_damage() {
        let place = JournalPlace { sequence: 7, checksum: 8, file_number: 2, position_bytes: 8192 };
        let checkpoint = Checkpoint {
            generation: [6; 16],
            number: 3,
            place,
            partitions: vec![sample_state(), sample_state()],
        };
        let mut body = Vec::new();
        checkpoint.partitions.iter().for_each(|state| state.encode(&mut body));
        let bytes = encode([6; 16], 3, &place, &body);
        crate::golden::check("checkpoint.bin", &bytes);
        assert_eq!(decode(&bytes), Some(checkpoint.clone()));
        let mut longer = bytes.clone();
        longer.extend_from_slice(b"left over from a longer one");
        assert_eq!(decode(&longer), Some(checkpoint));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            assert_eq!(decode(&damaged), None, "byte {at}");
        }
    }
}
