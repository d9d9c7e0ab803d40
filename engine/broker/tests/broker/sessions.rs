use highwater_protocol::ErrorCode;
use highwater_protocol::messages::{FetchRequest, FetchResponse};

use crate::client::{Client, TestBroker, batch, fetch_request, values};

fn partitions(response: &FetchResponse) -> Vec<i32> {
    let all = response.responses.iter().flat_map(|topic| &topic.partitions);
    all.map(|partition| partition.partition_index).collect()
}

fn begin(client: &mut Client) -> i32 {
    let request = fetch_request(&[("t", 0, 0), ("t", 1, 0)]).with_session_epoch(0);
    let response = client.call(11, &request);
    assert_eq!(partitions(&response), [0, 1]);
    assert!(response.session_id > 0);
    response.session_id
}

fn next(id: i32, epoch: i32) -> FetchRequest {
    fetch_request(&[]).with_session_id(id).with_session_epoch(epoch)
}

#[test]
fn session_tells_only_what_is_new() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    let mut client = broker.connect();
    let id = begin(&mut client);
    let response = client.call(11, &next(id, 1));
    assert_eq!((response.session_id, partitions(&response)), (id, vec![]));
    broker.connect().produce("t", 1, -1, batch(&["new"]));
    let response = client.call(11, &next(id, 2).with_max_wait_ms(10_000));
    assert_eq!(partitions(&response), [1]);
    assert_eq!(values(&response, "t", 1), ["new"]);
    let moved = next(id, 3).with_topics(fetch_request(&[("t", 1, 1)]).topics);
    assert_eq!(partitions(&client.call(11, &moved)), [] as [i32; 0]);
}

#[test]
fn sessions_errors_are_kafkas() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    let mut client = broker.connect();
    let id = begin(&mut client);
    let mut code = |request: &FetchRequest| {
        let response = client.call(11, request);
        assert_eq!((response.session_id, response.responses.len()), (0, 0));
        ErrorCode(response.error_code)
    };
    assert_eq!(code(&next(id, 7)), ErrorCode::INVALID_FETCH_SESSION_EPOCH);
    assert_eq!(code(&next(id ^ 0x4000_0000, 1)), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
}

#[test]
fn broker_without_slots_serves_without_sessions() {
    let broker = TestBroker::start(&[("max.incremental.fetch.session.cache.slots", "0")]);
    broker.create_topic("t", 2, &[]);
    let request = fetch_request(&[("t", 0, 0), ("t", 1, 0)]).with_session_epoch(0);
    let response = broker.connect().call(11, &request);
    assert_eq!((response.session_id, partitions(&response)), (0, vec![0, 1]));
}
