use highwater_model::compression::Compression;
use highwater_protocol::ErrorCode;
use highwater_protocol::messages::{DeleteTopicsRequest, InitProducerIdRequest};

use crate::client::{TestBroker, batch, batch_of, stamp, topic_name};

#[test]
fn everything_is_there_after_a_restart() {
    let mut broker = TestBroker::start(&[]);
    let cluster_id = broker.broker().started().cluster_id.clone();
    let id = broker.create_topic("t", 3, &[]);
    for partition in 0..3 {
        broker.connect().produce("t", partition, -1, batch(&[&format!("p{partition}")]));
    }
    for _ in 0..3 {
        broker.restart();
        assert!(broker.broker().started().recovery.was_clean);
        assert_eq!(broker.broker().started().cluster_id, cluster_id);
        for partition in 0..3 {
            let value = format!("p{partition}");
            assert_eq!(broker.connect().fetch_values("t", partition, 0), [value]);
        }
        let mut request = crate::client::fetch_request(&[("", 0, 0)]);
        request.topics[0].topic_id = id;
        assert_eq!(broker.connect().call(16, &request).responses[0].partitions[0].error_code, 0);
    }
}

#[test]
fn idempotent_producer_goes_on_after_a_restart() {
    let mut broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let produce = |broker: &TestBroker, sequence, value: &str| {
        let batch = batch_of(&[value], Compression::None, stamp(5, 0, sequence));
        broker.connect().produce("t", 0, -1, batch)
    };
    produce(&broker, 0, "a");
    broker.restart();
    assert_eq!(produce(&broker, 0, "a").base_offset, 0, "a retry across the restart");
    assert_eq!(produce(&broker, 1, "b").base_offset, 1);
    assert_eq!(broker.connect().fetch_values("t", 0, 0), ["a", "b"]);
}

#[test]
fn producer_ids_are_not_given_again_after_a_restart() {
    let mut broker = TestBroker::start(&[]);
    let next = |broker: &TestBroker| {
        let request = InitProducerIdRequest::default().with_transactional_id(None);
        broker.connect().call(4, &request).producer_id.0
    };
    let mut seen: Vec<i64> = (0..4).map(|_| next(&broker)).collect();
    broker.restart();
    seen.extend((0..4).map(|_| next(&broker)));
    seen.sort_unstable();
    let count = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), count);
}

#[test]
fn deleted_topic_stays_deleted_and_its_name_is_free() {
    let mut broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    broker.connect().produce("t", 0, -1, batch(&["old"]));
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("t")]);
    assert_eq!(broker.connect().call(5, &delete).responses[0].error_code, 0);
    broker.restart();
    let answer = broker.connect().produce("t", 0, 1, batch(&["x"]));
    assert_eq!(ErrorCode(answer.error_code), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    broker.create_topic("t", 2, &[]);
    assert_eq!(broker.connect().produce("t", 0, -1, batch(&["new"])).base_offset, 0);
    broker.restart();
    assert_eq!(broker.connect().fetch_values("t", 0, 0), ["new"]);
}

#[test]
fn number_of_shards_may_change_between_starts() {
    let dir = tempfile::tempdir().expect("a directory");
    for shards in ["2", "3", "1"] {
        let mut config = highwater_broker::BrokerConfig::for_data_dir(dir.path());
        config.set("num.shards", shards).expect("valid");
        config.set("journal.file.bytes", "4194304").expect("valid");
        let broker = highwater_broker::Broker::start(&config).expect("starts");
        let mut client = crate::client::Client::connect(broker.addr());
        let request = highwater_protocol::messages::MetadataRequest::default()
            .with_topics(Some(vec![
                highwater_protocol::messages::metadata_request::MetadataRequestTopic::default()
                    .with_name(Some(topic_name("t"))),
            ]))
            .with_allow_auto_topic_creation(true);
        assert_eq!(client.call(9, &request).topics[0].error_code, 0);
        assert_eq!(client.produce("t", 0, -1, batch(&[shards])).error_code, 0);
        drop(client);
        broker.stop().expect("stops cleanly");
    }
    let broker = highwater_broker::Broker::start(highwater_broker::BrokerConfig::for_data_dir(dir.path()));
    let broker = broker.expect("starts");
    let mut client = crate::client::Client::connect(broker.addr());
    assert_eq!(client.fetch_values("t", 0, 0), ["2", "3", "1"]);
}

#[test]
fn second_broker_on_the_same_directory_is_refused() {
    let broker = TestBroker::start(&[]);
    let config = highwater_broker::BrokerConfig::for_data_dir(data_dir(&broker));
    let error = highwater_broker::Broker::start(&config).expect_err("refused").to_string();
    assert!(error.contains("another process uses this data directory"), "{error}");
}

#[test]
fn second_broker_on_the_same_port_is_refused() {
    let broker = TestBroker::start(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = highwater_broker::BrokerConfig::for_data_dir(dir.path());
    config.set("listeners", &format!("PLAINTEXT://{}", broker.addr())).expect("valid");
    let error = highwater_broker::Broker::start(&config).expect_err("refused").to_string();
    assert!(error.contains("another process listens there"), "{error}");
}

fn data_dir(broker: &TestBroker) -> std::path::PathBuf {
    let request = highwater_protocol::messages::DescribeLogDirsRequest::default().with_topics(None);
    let response = broker.connect().call(4, &request);
    response.results[0].log_dir.to_string().into()
}
