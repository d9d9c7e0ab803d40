//! A directory that a later build wrote: what is whole by its checksums and cannot be read is refused, and nothing is changed.

use highwater_io::{Io, fs};
use twox_hash::XxHash3_64;

use super::{BLOCK_BYTES, assert_refused, assert_whole, journal_path, scene_with_records};
use crate::common::DIR;
use crate::common::scene::End;

/// What a later build may write, put over the first bytes of a journal file: each is whole by its checksums.
fn of_a_later_build(journal: &[u8]) -> [Vec<u8>; 3] {
    let seed = XxHash3_64::oneshot(&journal[8..24]);
    let block = BLOCK_BYTES as usize;
    let change_group = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = journal.to_vec();
        let group = &mut bytes[block..];
        change(group);
        let checksum = XxHash3_64::oneshot_with_seed(seed, &group[..64]);
        group[64..72].copy_from_slice(&checksum.to_be_bytes());
        bytes
    };
    let another_kind = change_group(&|group| {
        let number = |at: usize| u32::from_be_bytes(group[at..at + 4].try_into().expect("four")) as usize;
        let entries = 72 + number(32)..72 + number(32) + number(36);
        group[entries.start] = 99;
        let checksum = XxHash3_64::oneshot_with_seed(seed, &group[entries]);
        group[56..64].copy_from_slice(&checksum.to_be_bytes());
    });
    let another_version = change_group(&|group| group[5] = 2);
    let mut another_file = journal.to_vec();
    another_file[..8].copy_from_slice(b"HWJRNL02");
    let checksum = XxHash3_64::oneshot(&another_file[..48]);
    another_file[48..56].copy_from_slice(&checksum.to_be_bytes());
    [another_kind, another_version, another_file]
}

/// Two blocks, or less where there is less.
async fn read_start(io: &Io, path: &str) -> Vec<u8> {
    let bytes = io.fs().read_file(path, 1 << 20).await.expect("is there");
    bytes[..bytes.len().min(2 * BLOCK_BYTES as usize)].to_vec()
}

async fn write_start(io: &Io, path: &str, bytes: Vec<u8>) {
    let file = io.fs().open(path, fs::OpenOptions::read_write()).await.expect("is there");
    file.write_at(vec![bytes.into()], 0, fs::Durability::Plain).await.expect("written");
}

/// It was taken for the torn end of the journal, and everything from there on was lost.
#[test]
fn journal_of_a_later_build_is_a_refusal_that_loses_nothing() {
    for which in 0..3 {
        let mut scene = scene_with_records(false);
        let journal = journal_path(&scene, "journal-0");
        let path = journal.clone();
        let before = scene.live_and(End::Kill, move |io| async move {
            let before = read_start(&io, &path).await;
            write_start(&io, &path, of_a_later_build(&before)[which].clone()).await;
            before
        });
        assert_refused(&mut scene, "a format that this build does not know");
        scene.live_and(End::Kill, |io| async move { write_start(&io, &journal, before).await });
        assert_whole(&mut scene);
    }
}

/// It was taken for a directory without a journal of ours.
#[test]
fn journal_in_a_later_format_is_a_refusal() {
    let mut scene = scene_with_records(false);
    let meta = format!("{DIR}/meta.properties");
    let path = meta.clone();
    scene.live_and(End::Kill, |io| async move {
        let text = String::from_utf8(read_start(&io, &path).await).expect("text");
        write_start(&io, &path, text.replace("highwater.journal=1", "highwater.journal=2").into_bytes())
            .await;
    });
    assert_refused(&mut scene, "has format 2");
    scene.live_and(End::Kill, |io| async move {
        let text = String::from_utf8(read_start(&io, &meta).await).expect("text");
        write_start(&io, &meta, text.replace("highwater.journal=2", "highwater.journal=1").into_bytes())
            .await;
    });
    assert_whole(&mut scene);
}
