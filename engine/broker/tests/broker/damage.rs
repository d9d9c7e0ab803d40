//! Data directories that were damaged while no broker ran: the broker refuses to start and says what to do, or keeps off
//! what is damaged. It never starts with less than was acknowledged without a word.

use std::fs;
use std::path::{Path, PathBuf};

use crate::client::{TestBroker, batch};

const METADATA_DIR: &str = "__cluster_metadata-0";

/// A broker with topics that was stopped, so that its metadata log is in its segment.
fn stopped_broker() -> TestBroker {
    let mut broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[("retention.ms", "1000000000")]);
    broker.create_topic("u", 1, &[]);
    assert_eq!(broker.connect().produce("t", 0, -1, batch(&["acknowledged"])).error_code, 0);
    broker.stop();
    broker
}

fn metadata_segment(broker: &TestBroker) -> PathBuf {
    broker.data_dir().join(METADATA_DIR).join("00000000000000000000.log")
}

/// The refusal of a start, checked to be one sentence that says where, from which offset on and what to do.
fn metadata_refusal(broker: &mut TestBroker) -> String {
    let refusal = broker.try_restart().expect_err("the metadata log is damaged");
    assert_eq!(refusal.lines().count(), 1, "{refusal}");
    for part in [METADATA_DIR, "at offset ", "restore the data directory", "highwater verify "] {
        assert!(refusal.contains(part), "no {part} in: {refusal}");
    }
    refusal
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("is there");
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("can be written");
}

/// Where batches begin in a segment: each has its length at byte 8.
fn batch_starts(segment: &[u8]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut at = 0;
    while at + 12 <= segment.len() {
        starts.push(at);
        let length = u32::from_be_bytes(segment[at + 8..at + 12].try_into().expect("four bytes"));
        at += 12 + length as usize;
    }
    starts
}

/// Reading such a log once ended in a panic (a base offset too high reads as "nothing here"), or in an image without
/// what the damaged batch said.
#[test]
fn rot_anywhere_in_the_metadata_log_is_a_refusal_until_it_is_mended() {
    let mut broker = stopped_broker();
    let segment = metadata_segment(&broker);
    let bytes = fs::read(&segment).expect("is there");
    let starts = batch_starts(&bytes);
    assert!(starts.len() >= 3, "{starts:?}");
    // The base offset, which no checksum covers; length, magic, checksum, last offset delta, count of records, a record.
    let in_batch = [0, 5, 7, 9, 11, 16, 18, 25, 59, 65];
    let middle = starts[1];
    for at in in_batch.iter().map(|at| middle + at).chain([7, bytes.len() - 1]) {
        flip(&segment, at);
        let refusal = metadata_refusal(&mut broker);
        assert!(refusal.contains("00000000000000000000.log"), "byte {at}: {refusal}");
        flip(&segment, at);
    }
    broker.try_restart().expect("nothing is damaged any more");
    assert_eq!(broker.connect().fetch_values("t", 0, 0), ["acknowledged"]);
}

#[test]
fn metadata_log_without_a_batch_in_the_middle_is_a_refusal() {
    let mut broker = stopped_broker();
    let segment = metadata_segment(&broker);
    let bytes = fs::read(&segment).expect("is there");
    let starts = batch_starts(&bytes);
    // Whole batches, each with a valid checksum, and a file of the right length: another batch in the place of one.
    let mut shifted = bytes[..starts[1]].to_vec();
    shifted.extend_from_slice(&bytes[starts[2]..]);
    shifted.resize(bytes.len(), 0);
    fs::write(&segment, shifted).expect("can be written");
    metadata_refusal(&mut broker);
}

#[test]
fn metadata_log_that_was_cut_is_a_refusal() {
    let mut broker = stopped_broker();
    let segment = metadata_segment(&broker);
    let len = fs::metadata(&segment).expect("is there").len();
    fs::OpenOptions::new().write(true).open(&segment).expect("opens").set_len(len / 2).expect("is cut");
    metadata_refusal(&mut broker);
    // The next start is no more lenient.
    metadata_refusal(&mut broker);
}

#[test]
fn metadata_log_without_its_segment_is_a_refusal() {
    let mut broker = stopped_broker();
    fs::remove_file(metadata_segment(&broker)).expect("is there");
    metadata_refusal(&mut broker);
    metadata_refusal(&mut broker);
}

/// Once it looked like the first start on a directory of Apache Kafka's, and its topics were adopted without settings.
#[test]
fn metadata_log_without_its_directory_is_a_refusal() {
    let mut broker = stopped_broker();
    fs::remove_dir_all(broker.data_dir().join(METADATA_DIR)).expect("is there");
    metadata_refusal(&mut broker);
    metadata_refusal(&mut broker);
}

/// Index files are hints.
#[test]
fn metadata_log_without_its_index_is_read_all_the_same() {
    let mut broker = stopped_broker();
    let segment = metadata_segment(&broker);
    for suffix in ["index", "timeindex"] {
        fs::remove_file(segment.with_extension(suffix)).expect("is there");
    }
    broker.try_restart().expect("nothing is lost");
    assert_eq!(broker.connect().fetch_values("t", 0, 0), ["acknowledged"]);
}
