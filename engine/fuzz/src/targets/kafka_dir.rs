//! A data directory as Apache Kafka leaves it, clean or not: segments, indexes, snapshots and checkpoints of texts.

use crate::Reached;
use crate::source::{Source, put_piece};
use crate::targets::exercise::{self, Files};
use crate::targets::journal::{batch, damage};

pub(crate) fn run(bytes: &[u8]) -> Reached {
    exercise::run(directory(&mut Source::new(bytes)))
}

fn directory(source: &mut Source<'_>) -> Files {
    let mut files = vec![
        ("meta.properties".to_owned(), b"version=1\ncluster.id=c\nnode.id=0\n".to_vec()),
        ("topic-0/partition.metadata".to_owned(), b"version: 0\ntopic_id: AQEBAQEBAQEBAQEBAQEBAQ".to_vec()),
    ];
    if source.u8().is_multiple_of(2) {
        files.push((".kafka_cleanshutdown".to_owned(), Vec::new()));
    }
    let mut next_offset = 0;
    for _ in 0..8 {
        let how = source.u8();
        let base = if how & 8 == 0 { next_offset } else { source.number() };
        let file = |suffix: &str| format!("topic-0/{base:020}.{suffix}");
        match how % 8 {
            0 => break,
            1 | 7 => {
                let (bytes, end) = segment(source, base);
                next_offset = end;
                files.push((file("log"), bytes));
            }
            2 => files.push((file("index"), source.piece().to_vec())),
            3 => files.push((file("timeindex"), source.piece().to_vec())),
            4 => files.push((file("snapshot"), snapshot(source))),
            5 => files.push(("topic-0/leader-epoch-checkpoint".to_owned(), source.piece().to_vec())),
            _ => {
                let names = [
                    "recovery-point-offset-checkpoint",
                    "log-start-offset-checkpoint",
                    "meta.properties",
                    "topic-0/partition.metadata",
                    "topic-0/00000000000000000000.log.deleted",
                    "topic-0/00000000000000000000.log.swap",
                    "topic-1.00000000000000000000000000000001-delete/00000000000000000000.log",
                    "topic-2-future/00000000000000000000.log",
                ];
                let name = names[usize::from(source.u8()) % names.len()];
                files.push((name.to_owned(), source.piece().to_vec()));
            }
        }
    }
    files
}

/// Batches that follow each other, then damage and bytes that are none.
fn segment(source: &mut Source<'_>, base: u64) -> (Vec<u8>, u64) {
    let mut bytes = Vec::new();
    let mut offset = base;
    for _ in 0..source.u8() % 32 {
        bytes.extend(batch(offset, 1 + usize::from(source.u8()) * 8));
        offset = offset.wrapping_add(1);
    }
    damage(source, &mut bytes);
    bytes.extend(source.piece());
    (bytes, offset & i64::MAX.cast_unsigned())
}

/// A snapshot whose checksum fits.
fn snapshot(source: &mut Source<'_>) -> Vec<u8> {
    let content = source.piece();
    let mut bytes = vec![0, 1];
    bytes.extend(crc32c::crc32c(content).to_be_bytes());
    bytes.extend(content);
    bytes
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let segment: &[u8] = &[1, 20, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 0, 0];
    let whole = [&[0][..], segment, segment, &[0]].concat();
    let unclean = [&[1][..], segment, segment, &[0]].concat();
    let mut indexed = [&[0][..], segment].concat();
    // For the first segment, with a base of its own: offset 4 at byte 560, timestamp 7 at offset 4.
    indexed.extend([2 | 8, 0]);
    put_piece(&mut indexed, &[0, 0, 0, 4, 0, 0, 2, 0x30]);
    indexed.extend([3 | 8, 0]);
    put_piece(&mut indexed, &[0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 4]);
    indexed.extend(segment);
    let mut producers = [&[1][..], segment, &[4]].concat();
    let mut content = 1u32.to_be_bytes().to_vec();
    content.extend([0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 19, 0, 0, 0, 1]);
    content.extend([0; 8].iter().chain(&[0xff; 12]));
    put_piece(&mut producers, &content);
    producers.push(5);
    put_piece(&mut producers, b"0\n1\n1 0\n");
    producers.extend([6, 0]);
    put_piece(&mut producers, b"0\n1\ntopic 0 5\n");
    // After a clean stop nobody looks at every batch: the reader does. Byte 231 lies in the second one.
    let mut rotten = [&[0][..], segment].concat();
    rotten.truncate(rotten.len() - 2);
    rotten.extend([1, 0, 77, 0x10, 0, 0]);
    vec![whole, unclean, indexed, producers, rotten]
}
