//! The decoders of the log's files, each by itself: the first byte says which.

use highwater_log::fuzzing;
use twox_hash::XxHash3_64;

use crate::Reached;
use crate::format::{self, BLOCK, Group, JournalFile, NOTHING_MORE, PartitionState, Place};
use crate::source::{Source, put_piece};

pub(crate) fn run(bytes: &[u8]) -> Reached {
    let mut source = Source::new(bytes);
    Reached::accepted_if(match source.u8() % 8 {
        0 => fuzzing::checkpoint(source.rest()),
        // The fuzzer cannot guess a checksum: it gets one.
        1 => {
            let place = Place { sequence: source.number(), checksum: source.number() };
            let (number, end) = (source.number(), source.number());
            fuzzing::checkpoint(&format::checkpoint(number, place, 0, end, source.rest()))
        }
        2 => fuzzing::journal_file_header(source.rest()),
        3 => {
            let incarnation = source.array();
            let position = source.number();
            let mut header = source.bytes(64).to_vec();
            let checksum = XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(&incarnation), &header);
            header.extend(checksum.to_be_bytes());
            fuzzing::group_header(&header, incarnation, position)
        }
        4 => {
            let count = source.number();
            fuzzing::entry_list(source.rest(), count as u32)
        }
        5 => {
            let (base, size, wanted) = (source.number(), source.number(), source.number());
            let offsets = source.piece();
            fuzzing::index(offsets, source.rest(), base.cast_signed(), size, wanted.cast_signed())
        }
        6 => {
            let content = source.rest();
            let mut bytes = vec![0, 1];
            bytes.extend(crc32c::crc32c(content).to_be_bytes());
            bytes.extend(content);
            fuzzing::producer_snapshot(&bytes)
        }
        _ => fuzzing::text(source.rest()),
    })
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut body = Vec::new();
    let mut rest = vec![0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
    rest.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1]);
    rest.extend([0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5]);
    rest.extend([0, 2, b'n', b'o']);
    let state = PartitionState {
        topic_id: [1; 16],
        partition: 0,
        log_start_offset: 2,
        next_offset: 9,
        segment_base: 0,
        position_bytes: 900,
        rest,
    };
    state.put(&mut body);
    PartitionState { partition: 1, rest: NOTHING_MORE.to_vec(), ..state }.put(&mut body);
    let whole = format::checkpoint(3, Place::default(), 0, BLOCK as u64, &body);
    let mut file = JournalFile::new(1);
    let mut entries = Vec::new();
    format::put_id(&mut entries, 2, [1; 16], 0);
    entries.extend([0; 24]);
    format::put_id(&mut entries, 5, [1; 16], 0);
    let group = Group { entries: entries.clone(), entry_count: 2, ..Group::default() };
    file.push(&mut Place::default(), &group);
    let group_header = &file.bytes[BLOCK..BLOCK + 64];
    let mut index = vec![5, 0, 200, 3];
    put_piece(&mut index, &[0, 0, 0, 4, 0, 0, 0, 100]);
    index.extend([0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 4]);
    let mut producers = vec![6, 0, 0, 0, 1];
    producers.extend([0; 42]);
    vec![
        [&[0], &whole[..]].concat(),
        [&[1, 0, 0, 3, 40], &body[..]].concat(),
        [&[2], &file.bytes[..64]].concat(),
        [&[3], &[1 ^ 0x3c; 16][..], &[0xf0, 0x10, 0x00], group_header].concat(),
        [&[4, 2], &entries[..]].concat(),
        index,
        producers,
        b"\x070\n1\n1 0\n".to_vec(),
        b"\x07version: 0\ntopic_id: AQEBAQEBAQEBAQEBAQEBAQ".to_vec(),
        b"\x07cluster.id=c\nnode.id=3\ndirectory.id=AQEBAQEBAQEBAQEBAQEBAQ\nx=y\n".to_vec(),
        b"\x0700000000000000000042.log".to_vec(),
        b"\x07my-topic-12".to_vec(),
    ]
}
