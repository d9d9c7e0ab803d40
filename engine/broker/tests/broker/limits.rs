use std::io::Read;
use std::net::TcpStream;

use highwater_protocol::messages::ProduceRequest;

use crate::client::{PATIENCE, TestBroker, batch, produce_request};

#[test]
fn connection_above_the_limit_is_refused_until_another_ends() {
    for setting in ["max.connections", "max.connections.per.ip"] {
        let broker = TestBroker::start(&[(setting, "3")]);
        let request = highwater_protocol::messages::ApiVersionsRequest::default();
        let mut clients: Vec<_> = (0..3).map(|_| broker.connect()).collect();
        for client in &mut clients {
            client.call(0, &request);
        }
        let mut refused = TcpStream::connect(broker.addr()).expect("connects");
        refused.set_read_timeout(Some(PATIENCE)).expect("can be set");
        assert!(matches!(refused.read(&mut [0]), Ok(0) | Err(_)));
        assert_eq!(broker.broker().metrics().connections_refused, 1);
        clients.pop();
        while broker.broker().metrics().connections_open > 2 {
            std::thread::yield_now();
        }
        broker.connect().call(0, &request);
    }
}

#[test]
fn more_requests_than_memory_are_served_one_after_the_other() {
    // Shares of one megabyte for each shard; each request is larger.
    let broker = TestBroker::start(&[("queued.max.request.bytes", "2097152")]);
    broker.create_topic("t", 2, &[("max.message.bytes", "3000000")]);
    let value = "x".repeat(1_000_000);
    let mut clients: Vec<_> = (0..8).map(|_| broker.connect()).collect();
    let writers: Vec<_> = clients
        .drain(..)
        .map(|mut client| {
            let request = produce_request("t", -1, vec![(0, batch(&[&value])), (1, batch(&[&value]))]);
            std::thread::spawn(move || {
                for _ in 0..3 {
                    let id = client.send(9, &request);
                    let response = client.receive::<ProduceRequest>(9, id);
                    assert!(response.responses[0].partition_responses.iter().all(|p| p.error_code == 0));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("was served");
    }
}

#[test]
fn produce_requests_in_flight_are_bounded_and_all_answered() {
    let broker = TestBroker::start(&[("max.in.flight.requests.per.connection", "2")]);
    broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    let ids: Vec<i32> =
        (0..100).map(|_| client.send(9, &produce_request("t", 1, vec![(0, batch(&["x"]))]))).collect();
    for (offset, id) in (0..).zip(ids) {
        let response = client.receive::<ProduceRequest>(9, id);
        assert_eq!(response.responses[0].partition_responses[0].base_offset, offset);
    }
}
