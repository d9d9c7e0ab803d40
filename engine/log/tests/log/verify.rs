//! `verify` finds damage where it is, and none where there is none. (That it finds none after any crash is part of
//! `crash.rs`.)

use std::path::{Path, PathBuf};

use crate::common::{DIR, append_one, create, open, read_from};
use highwater_io::{Io, fs, sim};
use highwater_log::OpenError;
use highwater_log::verify::{Problem, VerifyReport, WrittenBy, verify};
use highwater_model::Offset;

/// A cleanly stopped log of a few segments; returns the paths of their files of one kind.
async fn stopped_log(io: &Io) {
    let (dir, logs, _) = open(io).await;
    let partition = create(&logs, 0).await;
    for n in 0..120u32 {
        let value = [u8::try_from(n).expect("small"); 600];
        append_one(&partition, &value).await.acknowledged().await.expect("durable");
    }
    logs.close().await.expect("a clean stop");
    dir.mark_clean().await.expect("marked");
}

async fn files(io: &Io, suffix: &str) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join("topic-0");
    let entries = io.fs().read_dir(&dir).await.expect("readable");
    let mut paths: Vec<PathBuf> =
        entries.iter().filter(|e| e.name.ends_with(suffix)).map(|e| dir.join(&e.name)).collect();
    paths.sort();
    paths
}

async fn flip(io: &Io, path: &Path, position_bytes: u64) {
    let file = io.fs().open(path, fs::OpenOptions::read_write()).await.expect("opens");
    let byte =
        file.read_at(highwater_io::IoBuf::with_capacity(1), position_bytes, 1).await.expect("readable");
    let flipped = vec![byte.freeze()[0] ^ 0x20];
    file.write_at(vec![flipped.into()], position_bytes, fs::Durability::Plain).await.expect("written");
}

async fn look(io: &Io) -> VerifyReport {
    verify(io, Path::new(DIR), |_| {}).await.expect("nobody uses it")
}

fn only(report: &VerifyReport) -> &Problem {
    match report.problems.as_slice() {
        [problem] => problem,
        problems => panic!("one problem was made, found: {problems:#?}"),
    }
}

#[test]
fn sound_directory_has_no_problems_and_is_counted() {
    sim::run(1, |io| async move {
        stopped_log(&io).await;
        let mut last = None;
        let report = verify(&io, Path::new(DIR), |progress| last = Some(progress)).await.expect("readable");
        assert_eq!(report.problems, []);
        assert_eq!((report.written_by, report.was_clean), (WrittenBy::Highwater, true));
        let [partition] = report.partitions.as_slice() else { panic!("one partition: {report:?}") };
        assert_eq!((partition.records, partition.batches), (120, 120));
        assert_eq!((partition.log_start_offset, partition.log_end_offset), (Offset(0), Offset(120)));
        assert!(partition.segments > 2 && partition.journal_bytes == 0, "{partition:?}");
        assert_eq!(last.expect("progress is told").partitions_done, 1);
        // Looking changes nothing: the next start finds a clean directory.
        assert!(open(&io).await.2.was_clean);
    });
}

#[test]
fn flipped_bit_in_a_segment_is_named_with_its_place() {
    sim::run(2, |io| async move {
        stopped_log(&io).await;
        let segment = files(&io, ".log").await.remove(1);
        flip(&io, &segment, 1_000).await;
        let report = look(&io).await;
        let problem = only(&report);
        assert_eq!(problem.path, segment);
        let position = problem.position_bytes.expect("a place");
        assert!((1..=1_000).contains(&position), "the batch that holds the byte: {problem}");
        assert_eq!(report.partitions[0].problems, 1);
        assert_eq!(report.partitions[0].records, 119, "the others are counted");
    });
}

#[test]
fn damaged_hints_are_named() {
    sim::run(3, |io| async move {
        stopped_log(&io).await;
        let index = files(&io, ".index").await.remove(0);
        flip(&io, &index, 7).await;
        assert_eq!(only(&look(&io).await).path, index);
        flip(&io, &index, 7).await;
        assert_eq!(look(&io).await.problems, []);
        let snapshot = files(&io, ".snapshot").await.remove(0);
        flip(&io, &snapshot, 3).await;
        assert_eq!(only(&look(&io).await).path, snapshot);
    });
}

#[test]
fn missing_segment_and_missing_journal_are_named() {
    sim::run(4, |io| async move {
        stopped_log(&io).await;
        let last = files(&io, ".log").await.pop().expect("a segment");
        io.fs().remove_file(&last).await.expect("removed");
        assert!(only(&look(&io).await).what.contains("is missing"));
        io.fs().remove_file(Path::new(DIR).join("journal/current")).await.expect("removed");
        let report = look(&io).await;
        assert!(report.problems.iter().any(|problem| problem.what.contains("journal")), "{report:?}");
    });
}

#[test]
fn directory_in_use_is_refused() {
    sim::run(5, |io| async move {
        let (_dir, _logs, _) = open(&io).await;
        let error = verify(&io, Path::new(DIR), |_| {}).await.expect_err("it is in use");
        assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    });
}

/// A crash between a truncation, new appends and the next roll once left the index of batches that were gone; a reader
/// that trusts it skips records.
#[test]
fn index_that_points_at_later_batches_hides_no_record() {
    sim::run(6, |io| async move {
        stopped_log(&io).await;
        let index = files(&io, ".index").await.remove(0);
        let bytes = io.fs().read_file(&index, 1 << 20).await.expect("readable");
        let mut entries: Vec<Vec<u8>> = bytes.chunks(8).map(<[u8]>::to_vec).collect();
        assert!(entries.len() > 3, "something to shift");
        // Each offset gets the place of the batch two entries on: batches begin there, just not these.
        for at in 0..entries.len() - 2 {
            let later = entries[at + 2][4..].to_vec();
            entries[at][4..].copy_from_slice(&later);
        }
        entries.truncate(entries.len() - 2);
        io.fs().replace_file_durable(&index, entries.concat().into()).await.expect("written");
        assert_eq!(only(&look(&io).await).path, index);

        let (_dir, logs, _) = open(&io).await;
        let partition = logs.partitions().pop().expect("one");
        for offset in 0..120 {
            let values = read_from(&partition, Offset(offset)).await;
            assert_eq!(values.first().map(|(first, _)| *first), Some(Offset(offset)));
        }
    });
}
