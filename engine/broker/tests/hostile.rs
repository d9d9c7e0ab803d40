//! Hostile peers against the broker as a process, whose memory is looked at: it stays within what the settings say while
//! one good client produces and consumes undisturbed.

#[path = "broker/client.rs"]
#[allow(dead_code, reason = "this test uses a part of it")]
mod client;
mod process;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::{Client, batch, batch_of, fetch_request, produce_request, topic_name};
use highwater_model::batch::ProducerStamp;
use highwater_model::compression::Compression;
use highwater_protocol::messages::CreateTopicsRequest;
use highwater_protocol::messages::create_topics_request::CreatableTopic;
use highwater_protocol::messages::produce_request::PartitionProduceData;
use process::{Process, address_in};

/// What the settings below add up to: the hot tail, requests, responses, and one request beyond the budget.
const SETTINGS: [&str; 6] = [
    "num.shards=2",
    "hot.tail.bytes=16777216",
    "queued.max.request.bytes=16777216",
    "queued.max.response.bytes=16777216",
    "socket.request.max.bytes=8388608",
    "socket.response.write.timeout.ms=2000",
];
const BUDGET_BYTES: u64 = (16 + 16 + 16 + 8) << 20;

/// What each of some thousands of connections may cost beside.
const CONNECTION_BYTES: u64 = 16 << 10;
const CONNECTIONS: usize = 2_000;

/// Room for the allocator, stacks and the ring, and for huge pages: each of two shards has pools in them for the hot tail, for
/// chunks, for what is received (on one of the drivers), and for reads of one size, and of its last page a pool may use little.
const SLACK_BYTES: u64 = (64 + 2 * 4 * 2) << 20;

/// Produces and consumes until it is told to stop, and checks every answer. Returns how many records came back.
fn good_client(addr: SocketAddr, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut client = Client::connect(addr);
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            let value = format!("record {sent}");
            let answer = client.produce("good", 0, -1, batch(&[&value]));
            assert_eq!((answer.error_code, answer.base_offset), (0, sent));
            assert_eq!(client.fetch_values("good", 0, sent), [value]);
            sent += 1;
        }
        usize::try_from(sent).expect("fits")
    })
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("connects");
    stream.set_read_timeout(Some(client::PATIENCE)).expect("can be set");
    stream.set_write_timeout(Some(Duration::from_millis(200))).expect("can be set");
    stream
}

/// Thousands of connections, each with a request that never comes to its end.
fn crowd(addr: SocketAddr) -> Vec<TcpStream> {
    let begun: Vec<u8> = [&(1_000_000_i32).to_be_bytes()[..], &[0; 200]].concat();
    let crowd: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(addr)).collect();
    crowd.iter().for_each(|mut stream| stream.write_all(&begun).expect("is sent"));
    crowd
}

/// Floods of large requests on many connections, whose answers nobody reads.
fn floods(addr: SocketAddr) -> Vec<TcpStream> {
    let value = "f".repeat(900_000);
    let produce = produce_request("other", -1, vec![(0, batch(&[&value]))]);
    let produce = highwater_protocol::encode_request(9, 1, None, &produce).expect("encodes");
    let mut fetch = fetch_request(&[("other", 0, 0)]).with_max_bytes(50 << 20);
    fetch.topics[0].partitions[0].partition_max_bytes = 50 << 20;
    let fetch = highwater_protocol::encode_request(11, 1, None, &fetch).expect("encodes");
    let floods: Vec<TcpStream> = (0..40).map(|_| connect(addr)).collect();
    for (number, mut stream) in floods.iter().enumerate() {
        let request = if number % 2 == 0 { &produce } else { &fetch };
        for _ in 0..4 {
            // The broker may stop reading, or end the connection: that is its right.
            if stream.write_all(request).is_err() {
                break;
            }
        }
    }
    floods
}

/// A produce for a partition that is named so many times, each time with these records.
fn produce_of_many(elements: usize, index: i32, records: Option<Bytes>) -> Bytes {
    let element = PartitionProduceData::default().with_index(index).with_records(records);
    let mut request = produce_request("other", -1, Vec::new());
    request.topic_data[0].partition_data = vec![element; elements];
    highwater_protocol::encode_request(9, 1, None, &request).expect("encodes")
}

/// Requests of many elements, whose answers nobody reads. Decoded and answered, an element of a few bytes takes thirty times the
/// memory that it came in, and a batch of one record on its way into the log ten times.
fn many_elements(addr: SocketAddr) -> Vec<TcpStream> {
    let smallest = batch(&["x"]);
    let frames = [
        produce_of_many(20_000, 7, None),
        produce_of_many(4_000, 0, Some(smallest.clone())),
        // As many as may be at work at once, of which many come in one piece.
        Bytes::from(produce_of_many(60, 0, Some(smallest)).repeat(64)),
    ];
    let crowd: Vec<TcpStream> = (0..300).map(|_| connect(addr)).collect();
    for (mut stream, frame) in crowd.iter().zip(frames.iter().cycle()) {
        // The broker may stop reading.
        let _ = stream.write_all(frame);
    }
    crowd
}

fn bombs(addr: SocketAddr) {
    let value = "0".repeat(100 << 20);
    for codec in [Compression::Gzip, Compression::Lz4, Compression::Zstd] {
        let bomb = batch_of(&[&value], codec, ProducerStamp::NONE);
        let mut client = Client::connect(addr);
        for _ in 0..5 {
            assert_ne!(client.produce("other", 0, -1, bomb.clone()).error_code, 0, "{codec:?}");
        }
    }
}

/// Arrays that claim to have thousands of millions of elements, in every API.
fn hostile_counts(addr: SocketAddr) {
    for api in highwater_protocol::ApiKey::ALL {
        let mut content = api.key().to_be_bytes().to_vec();
        content.extend(api.served_versions().max.to_be_bytes());
        content.extend([0, 0, 0, 1, 0xff, 0xff, 0]);
        content.extend([0xff; 2_000]);
        let mut stream = connect(addr);
        stream.write_all(&u32::try_from(content.len()).expect("short").to_be_bytes()).expect("is sent");
        stream.write_all(&content).expect("is sent");
        stream.shutdown(std::net::Shutdown::Write).expect("can be shut");
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn memory_stays_within_the_settings_while_a_good_client_is_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut process = Process::start(dir.path(), &SETTINGS);
    let addr = address_in(&process.wait_for("ready"));
    let topics = ["good", "other"].map(|name| {
        CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(1)
            .with_replication_factor(1)
    });
    let request = CreateTopicsRequest::default().with_topics(topics.to_vec()).with_timeout_ms(10_000);
    Client::connect(addr).call(7, &request);
    let before = process.memory_bytes("VmHWM");
    let stop = Arc::new(AtomicBool::new(false));
    let good = good_client(addr, Arc::clone(&stop));

    let crowd = crowd(addr);
    let floods = floods(addr);
    let many = many_elements(addr);
    bombs(addr);
    hostile_counts(addr);
    // Under all of that at once, a client that comes anew is served too.
    let mut late = Client::connect(addr);
    assert!(!late.fetch_values("good", 0, 0).is_empty());
    let highest = process.memory_bytes("VmHWM") - before;
    drop((crowd, floods, many));

    stop.store(true, Ordering::Relaxed);
    let served = good.join().expect("the good client is served");
    assert!(served > 0);
    let limit = BUDGET_BYTES + CONNECTIONS as u64 * CONNECTION_BYTES + SLACK_BYTES;
    println!(
        "{served} records; {} of {} MiB beyond the {} at rest",
        highest >> 20,
        limit >> 20,
        before >> 20
    );
    assert!(highest < limit, "memory grew by {highest} bytes, to which {limit} were allowed");
    process.signal("-TERM");
    assert_eq!(process.wait(), Some(0), "stops cleanly");
}
