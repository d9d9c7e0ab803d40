use highwater_model::Timestamp;
use highwater_model::batch::{BATCH_HEADER_BYTES, BatchBuilder, NewRecord, ProducerStamp, headers};
use highwater_model::compression::Compression;
use highwater_model::record::{RecordView, records};
use highwater_protocol::ErrorCode;
use highwater_protocol::messages::describe_configs_request::DescribeConfigsResource;
use highwater_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use highwater_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use highwater_protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};

use crate::client::{TestBroker, batch, batch_of, fetch_request};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;

fn alter(broker: &TestBroker, resource: (i8, &str), op: i8, name: &str, value: Option<&str>) -> ErrorCode {
    let config = AlterableConfig::default()
        .with_name(name.to_owned().into())
        .with_config_operation(op)
        .with_value(value.map(|value| value.to_owned().into()));
    let resource = AlterConfigsResource::default()
        .with_resource_type(resource.0)
        .with_resource_name(resource.1.to_owned().into())
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    ErrorCode(broker.connect().call(1, &request).responses[0].error_code)
}

fn describe(
    broker: &TestBroker,
    version: i16,
    resource: (i8, &str),
    key: &str,
) -> Result<Option<DescribeConfigsResourceResult>, ErrorCode> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(resource.0)
        .with_resource_name(resource.1.to_owned().into())
        .with_configuration_keys(Some(vec![key.to_owned().into()]));
    let request =
        DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
    let result = broker.connect().call(version, &request).results[0].clone();
    ErrorCode(result.error_code).into_result()?;
    Ok(result.configs.into_iter().next())
}

fn value(broker: &TestBroker, resource: (i8, &str), key: &str) -> Option<String> {
    describe(broker, 4, resource, key).expect("known").and_then(|config| config.value).map(|v| v.to_string())
}

#[test]
fn settings_are_described_in_every_version() {
    let broker = TestBroker::start(&[("log.retention.hours", "2")]);
    broker.create_topic("t", 1, &[("flush.messages", "7")]);
    for version in 1..=4 {
        let config =
            describe(&broker, version, (TOPIC, "t"), "flush.messages").expect("known").expect("there");
        assert_eq!(config.value.as_deref(), Some("7"));
        assert_eq!((config.config_source, config.read_only), (1, false));
        assert_eq!(config.synonyms.len(), 2);
        let config = describe(&broker, version, (TOPIC, "t"), "retention.ms").expect("known").expect("there");
        assert_eq!((config.value.as_deref(), config.config_source), (Some("7200000"), 4));
        let config =
            describe(&broker, version, (BROKER, "1"), "num.partitions").expect("known").expect("there");
        assert_eq!((config.value.as_deref(), config.read_only), (Some("2"), true));
    }
}

fn broker_named(name: &str) -> DescribeConfigsResource {
    DescribeConfigsResource::default()
        .with_resource_type(BROKER)
        .with_resource_name(name.to_owned().into())
        .with_configuration_keys(None)
}

#[test]
fn resource_that_is_asked_for_again_and_again_is_described_once() {
    let broker = TestBroker::start(&[]);
    let resources = vec![broker_named("1"); 20_000];
    let request = DescribeConfigsRequest::default().with_resources(resources);
    let results = broker.connect().call(4, &request).results;
    assert_eq!(results.len(), 1);
    assert!(results[0].configs.len() > 10);
}

/// A number can be written in many ways.
#[test]
fn no_reply_describes_more_than_some_megabytes() {
    let broker = TestBroker::start(&[]);
    let names = (0..8_000).map(|zeros| format!("{}1", "0".repeat(zeros)));
    let resources = names.map(|name| broker_named(&name)).collect();
    let request = DescribeConfigsRequest::default()
        .with_resources(resources)
        .with_include_synonyms(true)
        .with_include_documentation(true);
    let mut client = broker.connect();
    client.send(4, &request);
    let reply = client.receive_frame().expect("an answer");
    assert!(reply.len() < 100 << 20, "{} bytes", reply.len());
}

/// Each held its place among administrators until its reply was sent, which could take hours.
#[test]
fn administrators_who_do_not_read_hold_up_no_others() {
    let broker = TestBroker::start(&[]);
    let names = (0..1_000).map(|zeros| format!("{}1", "0".repeat(zeros)));
    let resources = names.map(|name| broker_named(&name)).collect();
    let request =
        DescribeConfigsRequest::default().with_resources(resources).with_include_documentation(true);
    let mut deaf: Vec<_> = (0..40).map(|_| broker.connect()).collect();
    for client in &mut deaf {
        client.send(4, &request);
    }
    broker.create_topic("t", 1, &[]);
    drop(deaf);
}

#[test]
fn unknown_resources_are_refused() {
    let broker = TestBroker::start(&[]);
    let code = |resource| describe(&broker, 4, resource, "x").expect_err("refused");
    assert_eq!(code((TOPIC, "none")), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(code((TOPIC, "not valid")), ErrorCode::INVALID_TOPIC_EXCEPTION);
    assert_eq!(code((BROKER, "9")), ErrorCode::INVALID_REQUEST);
    assert_eq!(code((BROKER, "x")), ErrorCode::INVALID_REQUEST);
    assert_eq!(code((99, "x")), ErrorCode::INVALID_REQUEST);
}

#[test]
fn changed_setting_takes_effect_at_once_and_survives_a_restart() {
    let mut broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    let large = "x".repeat(5000);
    assert_eq!(broker.connect().produce("t", 0, -1, batch(&[&large])).error_code, 0);
    assert_eq!(alter(&broker, (TOPIC, "t"), SET, "max.message.bytes", Some("1000")), ErrorCode::NONE);
    let code = |broker: &TestBroker, partition| {
        ErrorCode(broker.connect().produce("t", partition, -1, batch(&[&large])).error_code)
    };
    assert_eq!(code(&broker, 0), ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(code(&broker, 1), ErrorCode::MESSAGE_TOO_LARGE);
    broker.restart();
    assert_eq!(code(&broker, 0), ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(value(&broker, (TOPIC, "t"), "max.message.bytes").as_deref(), Some("1000"));
    assert_eq!(alter(&broker, (TOPIC, "t"), DELETE, "max.message.bytes", None), ErrorCode::NONE);
    assert_eq!(code(&broker, 0), ErrorCode::NONE);
}

#[test]
fn brokers_setting_reaches_topics_that_do_not_override_it() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("follows", 1, &[]);
    broker.create_topic("overrides", 1, &[("max.message.bytes", "100000")]);
    let large = "x".repeat(5000);
    for resource in [(BROKER, ""), (BROKER, "1")] {
        assert_eq!(alter(&broker, resource, SET, "message.max.bytes", Some("1000")), ErrorCode::NONE);
        let code =
            |topic: &str| ErrorCode(broker.connect().produce(topic, 0, -1, batch(&[&large])).error_code);
        assert_eq!(code("follows"), ErrorCode::MESSAGE_TOO_LARGE);
        assert_eq!(code("overrides"), ErrorCode::NONE);
        assert_eq!(value(&broker, resource, "message.max.bytes").as_deref(), Some("1000"));
        assert_eq!(alter(&broker, resource, DELETE, "message.max.bytes", None), ErrorCode::NONE);
        assert_eq!(code("follows"), ErrorCode::NONE);
    }
}

#[test]
fn consumers_see_at_once_what_a_looser_flush_lets_them_see() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    assert_eq!(alter(&broker, (TOPIC, "t"), SET, "flush.messages", Some("1000000")), ErrorCode::NONE);
    broker.connect().produce("t", 0, 1, batch(&["a"]));
    assert_eq!(broker.connect().fetch_values("t", 0, 0), ["a"]);
    // A stricter policy does not take back what was seen.
    assert_eq!(alter(&broker, (TOPIC, "t"), SET, "flush.messages", Some("1")), ErrorCode::NONE);
    assert_eq!(broker.connect().fetch_values("t", 0, 0), ["a"]);
    broker.connect().produce("t", 0, 1, batch(&["b"]));
    assert_eq!(broker.connect().fetch_values("t", 0, 0), ["a", "b"]);
}

#[test]
fn resource_that_is_changed_twice_in_a_request_is_not_changed() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    broker.create_topic("other", 1, &[]);
    let change = |topic: &'static str, value: &'static str| {
        let config = AlterableConfig::default()
            .with_name("retention.ms".to_owned().into())
            .with_config_operation(SET)
            .with_value(Some(value.to_owned().into()));
        AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(topic.to_owned().into())
            .with_configs(vec![config])
    };
    let resources = vec![change("t", "1"), change("other", "5"), change("t", "2")];
    let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
    let response = broker.connect().call(1, &request);
    let codes: Vec<ErrorCode> = response.responses.iter().map(|one| ErrorCode(one.error_code)).collect();
    assert_eq!(codes, [ErrorCode::INVALID_REQUEST, ErrorCode::NONE, ErrorCode::INVALID_REQUEST]);
    assert_eq!(value(&broker, (TOPIC, "t"), "retention.ms").as_deref(), Some("604800000"));
    assert_eq!(value(&broker, (TOPIC, "other"), "retention.ms").as_deref(), Some("5"));
}

#[test]
fn invalid_changes_are_refused() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let t = (TOPIC, "t");
    assert_eq!(alter(&broker, t, SET, "nope", Some("1")), ErrorCode::INVALID_CONFIG);
    assert_eq!(alter(&broker, t, SET, "retention.ms", Some("x")), ErrorCode::INVALID_CONFIG);
    assert_eq!(alter(&broker, t, SET, "retention.ms", None), ErrorCode::INVALID_REQUEST);
    assert_eq!(alter(&broker, t, 9, "retention.ms", Some("1")), ErrorCode::INVALID_REQUEST);
    let unknown = alter(&broker, (TOPIC, "none"), SET, "retention.ms", Some("1"));
    assert_eq!(unknown, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let read_only = alter(&broker, (BROKER, "1"), SET, "num.partitions", Some("1"));
    assert_eq!(read_only, ErrorCode::INVALID_REQUEST);
}

fn keyed(values: &[(&str, Option<&str>)]) -> bytes::Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for (key, value) in values {
        builder.push(&NewRecord {
            timestamp: Timestamp(1_700_000_000_000),
            key: Some(key.as_bytes()),
            value: value.map(str::as_bytes),
            ..NewRecord::default()
        });
    }
    builder.build(ProducerStamp::NONE).expect("a batch")
}

#[test]
fn compacted_topic_keeps_the_last_value_of_each_key_and_its_policy_changes_live() {
    let broker = TestBroker::start(&[("log.cleaner.backoff.ms", "20")]);
    let configs =
        [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.01"), ("segment.bytes", "1048576")];
    broker.create_topic("t", 1, &configs);
    let mut client = broker.connect();
    let no_key = ErrorCode(client.produce("t", 0, -1, batch(&["no key"])).error_code);
    assert_eq!(no_key, ErrorCode::INVALID_RECORD);
    let long = "x".repeat(100_000);
    for round in 0..40 {
        let value = format!("{round} {long}");
        assert_eq!(
            client.produce("t", 0, -1, keyed(&[(&format!("{}", round % 3), Some(&value))])).error_code,
            0
        );
    }
    let mut left = usize::MAX;
    for _ in 0..500 {
        left = fetch_all(&mut client, "t").len();
        if left < 20 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(left < 20, "{left} of 40 records are left");
    let found = fetch_all(&mut client, "t");
    let last: Vec<i64> = (37..40).filter(|offset| found.contains(offset)).collect();
    assert_eq!(last, [37, 38, 39]);
    let t = (TOPIC, "t");
    assert_eq!(alter(&broker, t, SET, "cleanup.policy", Some("compact,delete")), ErrorCode::NONE);
    assert_eq!(value(&broker, t, "cleanup.policy").as_deref(), Some("compact,delete"));
    assert_eq!(alter(&broker, t, SET, "cleanup.policy", Some("delete")), ErrorCode::NONE);
    assert_eq!(client.produce("t", 0, -1, batch(&["no key"])).error_code, 0, "no longer compacted");
    assert_eq!(alter(&broker, t, SET, "cleanup.policy", Some("keep")), ErrorCode::INVALID_CONFIG);
    let lag = alter(&broker, t, SET, "max.compaction.lag.ms", Some("0"));
    assert_eq!(lag, ErrorCode::INVALID_CONFIG);
}

/// Offsets of everything that is there.
fn fetch_all(client: &mut crate::client::Client, topic: &str) -> Vec<i64> {
    let (mut offsets, mut next) = (Vec::new(), 0);
    loop {
        let response = client.call(11, &fetch_request(&[(topic, 0, next)]));
        let data = &response.responses[0].partitions[0];
        assert_eq!(ErrorCode(data.error_code), ErrorCode::NONE);
        if next >= data.high_watermark {
            return offsets;
        }
        let bytes = data.records.clone().unwrap_or_default();
        for header in headers(&bytes).map_while(Result::ok) {
            let (at, header) = header;
            let payload = &bytes[at + BATCH_HEADER_BYTES..at + header.size_bytes];
            let of = |record: RecordView<'_>| header.base_offset.0 + i64::from(record.offset_delta);
            offsets.extend(records(payload).map_while(Result::ok).map(of));
            next = header.next_offset().0;
        }
    }
}

#[test]
fn stored_compression_is_the_topics() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[("compression.type", "zstd"), ("compression.zstd.level", "7")]);
    let mut client = broker.connect();
    for codec in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let sent = batch_of(&[codec.name()], codec, ProducerStamp::NONE);
        assert_eq!(client.produce("t", 0, 1, sent).error_code, 0, "{codec:?}");
    }
    let response = client.call(11, &fetch_request(&[("t", 0, 0)]));
    let bytes = response.responses[0].partitions[0].records.clone().expect("records");
    let codecs: Vec<_> = headers(&bytes).map(|header| header.expect("whole").1.compression()).collect();
    assert!(codecs.iter().all(|codec| *codec == Ok(Compression::Zstd)), "{codecs:?}");
    assert_eq!(client.fetch_values("t", 0, 0), ["none", "gzip", "zstd"]);
    assert_eq!(alter(&broker, (TOPIC, "t"), SET, "compression.type", Some("uncompressed")), ErrorCode::NONE);
    let sent = batch_of(&["lz4"], Compression::Lz4, ProducerStamp::NONE);
    assert_eq!(client.produce("t", 0, 1, sent).error_code, 0);
    assert_eq!(client.fetch_values("t", 0, 0).len(), 4);
}

#[test]
fn types_of_settings_are_kafkas() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    for (name, code, default) in [
        ("min.cleanable.dirty.ratio", 6, "0.5"),
        ("delete.retention.ms", 5, "86400000"),
        ("segment.index.bytes", 3, "10485760"),
        ("preallocate", 1, "false"),
        ("cleanup.policy", 7, "delete"),
        ("remote.storage.enable", 1, "false"),
    ] {
        let config = describe(&broker, 4, (TOPIC, "t"), name).expect("known").expect("there");
        assert_eq!((config.config_type, config.value.as_deref()), (code, Some(default)), "{name}");
        assert_eq!(config.config_source, 5, "{name}");
    }
    assert_eq!(
        alter(&broker, (TOPIC, "t"), SET, "remote.storage.enable", Some("true")),
        ErrorCode::INVALID_CONFIG
    );
}
