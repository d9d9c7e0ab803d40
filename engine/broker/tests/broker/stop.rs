use std::time::{Duration, Instant};

use highwater_protocol::messages::{FetchRequest, ProduceRequest};

use crate::client::{TestBroker, batch, fetch_request, produce_request};

#[test]
fn stop_answers_what_was_accepted() {
    let mut broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    let mut reader = broker.connect();
    let fetch = reader.send(11, &fetch_request(&[("t", 0, 0), ("t", 1, 0)]).with_max_wait_ms(600_000));
    let mut writer = broker.connect();
    // What comes before this answer is accepted for certain.
    let produces: Vec<i32> =
        (0..10).map(|_| writer.send(9, &produce_request("t", 1, vec![(1, batch(&["x"]))]))).collect();
    for id in produces {
        writer.receive::<ProduceRequest>(9, id);
    }
    reader.receive::<FetchRequest>(11, fetch);
    let fetch = reader.send(11, &fetch_request(&[("t", 0, 0)]).with_max_wait_ms(600_000));
    while broker.broker().metrics().fetches_parked < 2 {
        std::thread::yield_now();
    }
    let begin = Instant::now();
    broker.stop();
    assert!(begin.elapsed() < Duration::from_secs(20), "a parked fetch does not hold up the end");
    reader.receive::<FetchRequest>(11, fetch);
    assert!(reader.is_closed());
    assert!(writer.is_closed());
}

#[test]
fn idle_connections_do_not_hold_up_the_end() {
    let mut broker = TestBroker::start(&[]);
    let mut idle: Vec<_> = (0..20).map(|_| broker.connect()).collect();
    let request = highwater_protocol::messages::ApiVersionsRequest::default();
    for client in &mut idle {
        client.call(0, &request);
    }
    broker.stop();
    assert!(idle.iter_mut().all(crate::client::Client::is_closed));
}
