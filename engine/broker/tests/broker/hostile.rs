//! Whatever a peer sends, others go on being served, and the broker stops cleanly in the end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use highwater_model::batch::ProducerStamp;
use highwater_model::compression::Compression;
use highwater_protocol::{ApiKey, ErrorCode};

use crate::client::{PATIENCE, TestBroker, batch, batch_of, fetch_request, produce_request};

/// The broker is well: a produce and a fetch on a new connection.
fn assert_serves(broker: &TestBroker) {
    let mut client = broker.connect();
    let answer = client.produce("good", 0, -1, batch(&["good"]));
    assert_eq!(answer.error_code, 0);
    assert_eq!(client.fetch_values("good", 0, answer.base_offset), ["good"]);
}

fn start(settings: &[(&str, &str)]) -> TestBroker {
    let broker = TestBroker::start(settings);
    broker.create_topic("good", 1, &[]);
    broker
}

fn connect(broker: &TestBroker) -> TcpStream {
    let stream = TcpStream::connect(broker.addr()).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("can be set");
    stream
}

/// Sends `bytes`; whether the broker then closed the connection, with or without an answer before.
fn is_closed_after(broker: &TestBroker, bytes: &[u8]) -> bool {
    let mut stream = connect(broker);
    // The broker may close before everything is sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn framed(content: &[u8]) -> Vec<u8> {
    let mut frame = i32::try_from(content.len()).expect("short").to_be_bytes().to_vec();
    frame.extend_from_slice(content);
    frame
}

/// The header of a request without a client id.
fn header(api: ApiKey, version: i16) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_i16(api.key());
    out.put_i16(version);
    out.put_i32(1);
    out.put_i16(-1);
    if api.is_flexible(version) {
        out.put_u8(0);
    }
    out
}

#[test]
fn garbage_closes_only_its_own_connection() {
    let broker = start(&[]);
    assert!(is_closed_after(&broker, b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"));
    assert!(is_closed_after(&broker, &[0xff; 100]), "a negative size");
    assert!(is_closed_after(&broker, &i32::MAX.to_be_bytes()), "a size above socket.request.max.bytes");
    assert!(is_closed_after(&broker, &framed(&[])), "an empty request");
    assert!(is_closed_after(&broker, &framed(&[0x12, 0x34, 0, 0, 0, 0, 0, 1, 0, 0])), "an unknown API");
    assert!(is_closed_after(&broker, &framed(&[0, 3, 0, 99, 0, 0, 0, 1, 0, 0])), "an unknown version");
    assert!(is_closed_after(&broker, &framed(&[0, 3, 0])), "a cut header");
    assert_serves(&broker);
    assert!(broker.broker().metrics().malformed_requests >= 7);
}

#[test]
fn hostile_counts_take_no_memory() {
    let broker = start(&[]);
    for &api in ApiKey::ALL {
        let versions = api.served_versions();
        for version in versions.min..=versions.max {
            for filler in [0x7f, 0xff, 0x80] {
                let mut request = header(api, version);
                request.extend_from_slice(&[filler; 64]);
                // An answer, an error or a closed connection: anything but the end of the broker.
                let mut stream = connect(&broker);
                stream.write_all(&framed(&request)).expect("is sent");
                stream.shutdown(std::net::Shutdown::Write).expect("can be shut");
                let _ = stream.read_to_end(&mut Vec::new());
            }
        }
    }
    assert_serves(&broker);
}

#[test]
fn connection_that_ends_in_the_middle_of_a_request_harms_nobody() {
    let broker = start(&[]);
    let whole = {
        let request = produce_request("good", -1, vec![(0, batch(&["never finished"]))]);
        highwater_protocol::encode_request(9, 1, None, &request).expect("encodes")
    };
    for length in [1, 3, 4, 5, 20, whole.len() - 1] {
        connect(&broker).write_all(&whole[..length]).expect("is sent");
    }
    assert_serves(&broker);
    assert_eq!(broker.connect().fetch_values("good", 0, 0), ["good"]);
}

#[test]
fn slow_drip_is_cut_off_while_others_are_served() {
    let broker = start(&[("socket.request.read.timeout.ms", "500"), ("queued.max.request.bytes", "2097152")]);
    let mut drips: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = connect(&broker);
            // Announces fifty megabytes, and sends a few bytes of them.
            stream.write_all(&(50_i32 << 20).to_be_bytes()).expect("is sent");
            stream.write_all(&[0; 100]).expect("is sent");
            stream
        })
        .collect();
    assert_serves(&broker);
    let begin = Instant::now();
    for stream in &mut drips {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    }
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert_serves(&broker);
    assert!(broker.broker().metrics().connections_timed_out >= 50);
}

/// A crowd once kept everybody waiting until its requests had timed out, again and again.
#[test]
fn slow_crowd_gives_way_when_memory_is_short() {
    let an_hour = "3600000";
    let broker =
        start(&[("socket.request.read.timeout.ms", an_hour), ("queued.max.request.bytes", "2097152")]);
    let mut good = broker.connect();
    let crowd: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = connect(&broker);
            stream.write_all(&1_000_000_i32.to_be_bytes()).expect("is sent");
            stream.write_all(&[0; 100]).expect("is sent");
            stream
        })
        .collect();
    // Small requests have memory of their own, a large one gets what the crowd has to give back.
    let large = "in between, and large ".repeat(2_000);
    for value in ["in between", &large, "in between"] {
        assert_eq!(good.produce("good", 0, -1, batch(&[value])).error_code, 0);
    }
    assert_serves(&broker);
    assert!(broker.broker().metrics().connections_timed_out > 0);
    drop(crowd);
}

#[test]
fn idle_connection_is_closed() {
    let broker = start(&[("connections.max.idle.ms", "200")]);
    let mut stream = connect(&broker);
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).expect("ends"), 0);
    assert_serves(&broker);
}

#[test]
fn client_that_never_reads_its_answers_is_cut_off() {
    let broker = start(&[("socket.response.write.timeout.ms", "500")]);
    broker.create_topic("large", 1, &[]);
    let value = "x".repeat(900_000);
    let mut writer = broker.connect();
    for _ in 0..20 {
        assert_eq!(writer.produce("large", 0, -1, batch(&[&value])).error_code, 0);
    }
    let mut deaf = broker.connect();
    let mut request = fetch_request(&[("large", 0, 0)]).with_max_bytes(50 << 20);
    request.topics[0].partitions[0].partition_max_bytes = 50 << 20;
    // More than the kernel holds of them, even where each brings one batch, since others append.
    for _ in 0..60 {
        deaf.send(11, &request);
    }
    while broker.broker().metrics().connections_timed_out == 0 {
        assert_serves(&broker);
    }
}

#[test]
fn flood_of_fetches_that_never_end_does_not_hold_up_others() {
    let broker = start(&[]);
    broker.create_topic("other", 1, &[]);
    let mut parked: Vec<_> = (0..100).map(|_| broker.connect()).collect();
    for client in &mut parked {
        client
            .send(11, &fetch_request(&[("good", 0, 0)]).with_max_wait_ms(i32::MAX).with_min_bytes(i32::MAX));
        // A further request behind it, which is not read before the client goes.
        client.send(9, &produce_request("other", -1, vec![(0, batch(&[&"y".repeat(100_000)]))]));
    }
    for _ in 0..5 {
        assert_serves(&broker);
    }
    drop(parked);
    assert_serves(&broker);
}

/// Each append once read such a partition again for every time that it was named, for as long as the peer had asked.
#[test]
fn partition_named_a_hundred_thousand_times_is_read_once() {
    let broker = start(&[]);
    let mut asked = fetch_request(&[("good", 0, 0)]);
    let partition = asked.topics[0].partitions[0].clone().with_partition_max_bytes(0);
    asked.topics[0].partitions = vec![partition; 100_000];
    let answer = broker.connect().call(11, &asked);
    assert_eq!(answer.responses[0].partitions.len(), 1);
    let mut parked = broker.connect();
    parked.send(11, &asked.with_max_wait_ms(i32::MAX).with_min_bytes(i32::MAX));
    for _ in 0..20 {
        assert_serves(&broker);
    }
}

/// A crowd of fetches that wait for days could hold all the memory for requests.
#[test]
fn parked_fetches_give_way_when_memory_is_short() {
    let broker = start(&[("queued.max.request.bytes", "2097152")]);
    let mut parked: Vec<_> = (0..300).map(|_| broker.connect()).collect();
    for client in &mut parked {
        client.send(11, &fetch_request(&[("good", 0, 0)]).with_max_wait_ms(i32::MAX));
    }
    let answer = parked[0].receive::<highwater_protocol::messages::FetchRequest>(11, 1);
    assert_eq!(answer.responses[0].partitions[0].error_code, 0);
    assert_serves(&broker);
}

#[test]
fn request_that_arrives_byte_by_byte_is_served() {
    let broker = start(&[]);
    let request = produce_request("good", -1, vec![(0, batch(&["drop by drop"]))]);
    let frame = highwater_protocol::encode_request(9, 7, None, &request).expect("encodes");
    let mut stream = connect(&broker);
    stream.set_nodelay(true).expect("can be set");
    for byte in &frame[..] {
        stream.write_all(&[*byte]).expect("is sent");
    }
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).expect("is answered");
    assert_eq!(answer[4..], [0, 0, 0, 7]);
    assert_eq!(broker.connect().fetch_values("good", 0, 0), ["drop by drop"]);
}

/// The fetch of such a peer once waited on, and its connection with it, for as long as the peer had asked: one address
/// could fill `max.connections` for days.
#[test]
fn peer_that_closes_its_half_leaves_nothing_behind() {
    let broker = start(&[]);
    let before = broker.broker().metrics().connections_open;
    let mut halves: Vec<TcpStream> = (0..50).map(|_| connect(&broker)).collect();
    for (number, stream) in halves.iter_mut().enumerate() {
        // Some in the middle of a request, some with one that is answered, some in the middle of the next one, for which
        // nobody looks at the connection.
        let request = fetch_request(&[("good", 0, 0)]).with_max_wait_ms(i32::MAX).with_min_bytes(1);
        let frame = highwater_protocol::encode_request(11, 1, None, &request).expect("encodes");
        let next = [&frame[..], &[0, 0, 1, 0]].concat();
        let sent = match number % 3 {
            0 => &frame[..],
            1 => &frame[..frame.len() / 2],
            _ => &next,
        };
        stream.write_all(sent).expect("is sent");
        stream.shutdown(std::net::Shutdown::Write).expect("can be shut");
    }
    for stream in &mut halves {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_serves(&broker);
    while broker.broker().metrics().connections_open > before {
        assert_serves(&broker);
    }
}

/// What a client asks for behind a fetch that waits is done, even where it goes away right after.
#[test]
fn produce_behind_a_waiting_fetch_survives_the_end_of_its_connection() {
    let broker = start(&[]);
    broker.create_topic("waits", 1, &[]);
    let mut client = broker.connect();
    client.send(11, &fetch_request(&[("waits", 0, 0)]).with_max_wait_ms(i32::MAX));
    for number in 0..20 {
        client.send(9, &produce_request("good", 0, vec![(0, batch(&[&number.to_string()]))]));
    }
    client.stream.shutdown(std::net::Shutdown::Write).expect("can be shut");
    assert!(client.is_closed(), "nothing is answered out of order");
    let mut all = fetch_request(&[("good", 0, 0)]).with_max_wait_ms(10_000);
    all.min_bytes = i32::try_from(20 * batch(&["0"]).len()).expect("fits");
    let response = broker.connect().call(11, &all);
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(crate::client::values(&response, "good", 0), expected);
}

/// A client that went away without a word keeps its connection open, and once did so for as long as its fetch had asked.
#[test]
fn fetch_waits_no_longer_than_a_connection_may_be_idle() {
    let broker = start(&[("connections.max.idle.ms", "300")]);
    let mut silent = broker.connect();
    silent.send(11, &fetch_request(&[("good", 0, 0)]).with_max_wait_ms(i32::MAX));
    while silent.receive_frame().is_some() {}
    assert_serves(&broker);
}

#[test]
fn requests_pipelined_beyond_the_bound_are_answered_in_order() {
    const REQUESTS: i32 = 300;
    let broker = start(&[("max.in.flight.requests.per.connection", "3")]);
    broker.create_topic("piped", 1, &[]);
    let mut client = broker.connect();
    let sender = client.stream.try_clone().expect("can be cloned");
    // On a thread of its own, since the broker stops reading before all is sent.
    let sending = std::thread::spawn(move || {
        let mut sender = sender;
        for id in 0..REQUESTS {
            let request =
                produce_request("piped", -1, vec![(0, batch(&[&format!("{id}:{}", "z".repeat(20_000))]))]);
            let frame = highwater_protocol::encode_request(9, id, None, &request).expect("encodes");
            sender.write_all(&frame).expect("is sent");
        }
    });
    assert_serves(&broker);
    for id in 0..REQUESTS {
        let frame = client.receive_frame().expect("is answered");
        assert_eq!(frame[..4], id.to_be_bytes());
    }
    sending.join().expect("everything is sent");
    let values = broker.connect().fetch_values("piped", 0, 0);
    let numbers = values.iter().filter_map(|value| value.split_once(':')?.0.parse::<i32>().ok());
    assert!(numbers.eq(0..REQUESTS), "in the order of sending");
}

#[test]
fn compression_bomb_is_refused_as_too_large() {
    let broker = start(&[]);
    let value = "0".repeat(200 << 20);
    for codec in [Compression::Gzip, Compression::Lz4, Compression::Zstd] {
        let bomb = batch_of(&[&value], codec, ProducerStamp::NONE);
        assert!(bomb.len() < 1_000_000, "{codec:?}: {} bytes", bomb.len());
        let answer = broker.connect().produce("good", 0, -1, bomb);
        assert_eq!(ErrorCode(answer.error_code), ErrorCode::MESSAGE_TOO_LARGE, "{codec:?}");
    }
    assert_serves(&broker);
}

#[test]
fn connections_beyond_the_limit_are_closed_and_the_others_served() {
    let broker = start(&[("max.connections", "100")]);
    let mut good = broker.connect();
    // It is served, and so has its place, before the crowd comes.
    assert!(good.fetch_values("good", 0, 0).is_empty());
    let crowd: Vec<TcpStream> = (0..400).map(|_| connect(&broker)).collect();
    assert_eq!(good.produce("good", 0, -1, batch(&["in the crowd"])).error_code, 0);
    while broker.broker().metrics().connections_refused < 300 {
        assert_eq!(good.fetch_values("good", 0, 0), ["in the crowd"]);
    }
    drop(crowd);
    while broker.broker().metrics().connections_open > 1 {
        assert_eq!(good.fetch_values("good", 0, 0), ["in the crowd"]);
    }
    assert_serves(&broker);
}
