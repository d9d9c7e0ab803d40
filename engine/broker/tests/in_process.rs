//! A broker and its clients in one process, without a port between them.

use std::sync::mpsc::channel;
use std::time::Duration;

use highwater_broker::{Broker, BrokerConfig};
use highwater_client::adaptor::{Admin, Consumer, IoThread, Producer, timestamp_now};
use highwater_client::admin::{CreateTopics, NewTopic};
use highwater_client::consumer::{ConsumerEvent, StartAt};
use highwater_client::producer::{Outcome, ProducerRecord};
use highwater_client::{ClientConfig, ConsumerConfig, HostPort, Partition, ProducerConfig};
use highwater_model::PartitionIndex;

const LONG: Duration = Duration::from_secs(30);
const RECORDS: u64 = 2_000;

#[test]
fn clients_within_the_process_produce_and_consume_and_see_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = BrokerConfig::for_data_dir(dir.path());
    config.set("listeners", "PLAINTEXT://127.0.0.1:0").expect("valid");
    let broker = Broker::start(&config).expect("starts");
    let connector = broker.connector();
    let io = {
        let connector = connector.clone();
        IoThread::in_process(move || connector.connect()).expect("a thread")
    };
    // Nobody looks at the address.
    let servers = || vec![HostPort { host: "in.process.invalid".to_owned(), port: 1 }];

    let admin = Admin::start(&io, &ClientConfig::new(servers()), 1).expect("valid settings");
    let topic = NewTopic {
        name: "numbers".to_owned(),
        partition_count: 3,
        replication_factor: -1,
        assignments: Vec::new(),
        configs: Vec::new(),
    };
    let created = admin.call(CreateTopics { topics: vec![topic], timeout: LONG }, LONG).expect("answered");
    assert_eq!(created, [("numbers".to_owned(), Ok(()))]);

    let (sender, outcomes) = channel();
    let producer = Producer::start(&io, ProducerConfig::new(servers()), 1, move |delivery| {
        // The test may have failed already.
        for _ in &delivery.tokens {
            let _gone = sender.send(delivery.outcome);
        }
    })
    .expect("valid settings");
    let topic = producer.topic("numbers");
    for number in 0..RECORDS {
        let value = number.to_be_bytes();
        producer.send(&ProducerRecord::new(topic, timestamp_now(), &value)).expect("accepted");
    }
    assert!(producer.close(LONG));
    let acked = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Acked { .. })).count();
    assert_eq!(acked as u64, RECORDS);

    let consumer = Consumer::start(&io, ConsumerConfig::new(servers()), 1).expect("valid settings");
    let topic = consumer.topic("numbers");
    for index in 0..consumer.partition_count(topic, LONG).expect("known") {
        consumer.assign(Partition { topic, index: PartitionIndex(index) }, StartAt::Earliest);
    }
    let mut numbers = Vec::new();
    while (numbers.len() as u64) < RECORDS {
        if let ConsumerEvent::Records(records) = consumer.poll(LONG).expect("more is to come") {
            for batch in records.batches() {
                let batch = batch.expect("valid");
                numbers.extend(batch.records().map(|record| {
                    let value = record.expect("valid").value().expect("a value").to_vec();
                    u64::from_be_bytes(*value.first_chunk().expect("a number"))
                }));
            }
        }
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..RECORDS).collect::<Vec<_>>());

    broker.stop().expect("stops cleanly");
    let refused = connector.connect().expect_err("nobody is there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
