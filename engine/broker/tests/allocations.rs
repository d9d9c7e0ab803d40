//! What a produce request takes from the allocator, on its way from the socket to its answer: a bounded number of times,
//! whatever it carries. None of it is a record's, and of many batches less than one is a batch's.
//!
//! The allocator counts for the whole process, so this file has one test, and the client's part of it allocates nothing
//! while we count.

#[path = "broker/client.rs"]
#[allow(dead_code, reason = "this test uses a part of it")]
mod client;

use std::alloc::System;
use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use client::{TestBroker, produce_request};
use highwater_model::Timestamp;
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PARTITIONS: i32 = 16;
/// Requests that are not answered.
const IN_FLIGHT: usize = 16;
/// Until the hot tail is full, and everything has the size that it keeps.
const WARM_REQUESTS: usize = 4_000;
const COUNTED_REQUESTS: usize = 4_000;

/// What is left are the decoded request and the response, whose types are made of lists, the task that answers, and what is
/// sent. None of it grows with the batch.
const MOST_PER_REQUEST: f64 = 16.0;
/// By so much the two may differ: of larger batches fewer are in a group, a chunk or a checkpoint, whose lists are counted too.
const MOST_APART: f64 = 3.0;
/// So much more a request with a batch for each partition may take than one with a single batch, less than once a batch: lists with
/// room for one element in themselves, which grow.
const MOST_FOR_LISTS: f64 = 12.0;

#[test]
fn produce_request_takes_memory_from_the_allocator_a_few_times_whatever_it_carries() {
    let few = allocations_each(1, 4_000, 1_000);
    let many = allocations_each(1, 16_000, 100);
    let batches = allocations_each(PARTITIONS, 4_000, 1_000);
    println!(
        "a request of 4 records: {few:.2} allocations, of 150 records: {many:.2}, of {PARTITIONS} batches: {batches:.2}"
    );
    assert!(
        few < MOST_PER_REQUEST && many < MOST_PER_REQUEST,
        "{few:.2} and {many:.2} allocations a request"
    );
    assert!((many - few).abs() < MOST_APART, "{few:.2} and {many:.2} allocations a request");
    assert!(batches < few + MOST_FOR_LISTS, "{few:.2} and {batches:.2} allocations a request");
}

/// Allocations of one request for `partitions`, with a batch of some `batch_bytes` for each, in records of `value_bytes`.
fn allocations_each(partitions: i32, batch_bytes: usize, value_bytes: usize) -> f64 {
    let broker = TestBroker::start(&[("num.shards", "1"), ("journal.file.bytes", "16777216")]);
    broker.create_topic("steady", PARTITIONS, &[]);
    let batch = batch(batch_bytes, value_bytes);
    let frames: Vec<Bytes> = (0..PARTITIONS)
        .step_by(usize::try_from(partitions).expect("a count"))
        .map(|first| {
            let data = (first..first + partitions).map(|partition| (partition, batch.clone())).collect();
            let request = produce_request("steady", -1, data);
            highwater_protocol::encode_request(9, first, None, &request).expect("encodes")
        })
        .collect();
    let mut stream = TcpStream::connect(broker.addr()).expect("connects");
    stream.set_nodelay(true).expect("can be set");
    stream.set_read_timeout(Some(client::PATIENCE)).expect("can be set");
    produce(&mut stream, &frames, WARM_REQUESTS);
    let region = Region::new(ALLOCATOR);
    produce(&mut stream, &frames, COUNTED_REQUESTS);
    region.change().allocations as f64 / COUNTED_REQUESTS as f64
}

/// Sends so many requests, the given ones in turn, and reads an answer for each.
fn produce(stream: &mut TcpStream, frames: &[Bytes], requests: usize) {
    let mut answer = [0; 1024];
    for number in 0..requests + IN_FLIGHT {
        if number < requests {
            stream.write_all(&frames[number % frames.len()]).expect("is sent");
        }
        if number >= IN_FLIGHT {
            let mut size = [0; 4];
            stream.read_exact(&mut size).expect("an answer");
            let size = usize::try_from(i32::from_be_bytes(size)).expect("a size");
            stream.read_exact(&mut answer[..size]).expect("an answer");
        }
    }
}

fn batch(batch_bytes: usize, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = vec![7; value_bytes];
    while builder.size_bytes() + value_bytes < batch_bytes {
        builder.push(&NewRecord { timestamp: Timestamp(1_000), value: Some(&value), ..NewRecord::default() });
    }
    builder.build(ProducerStamp::NONE).expect("a batch")
}
