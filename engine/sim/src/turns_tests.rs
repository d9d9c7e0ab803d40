//! Whether one client holds up others: requests that are much work, answers that nobody takes, devices that stand still.

use std::net::SocketAddr;
use std::time::Duration;

use highwater_broker::BrokerConfig;
use highwater_io::Io;
use highwater_io::net::TcpStream;
use highwater_io::sim::{Disk, Latency, NetConfig, World, WorldConfig};
use highwater_protocol::encode_request;
use highwater_protocol::messages::create_topics_request::CreatableTopic;
use highwater_protocol::messages::metadata_request::MetadataRequestTopic;
use highwater_protocol::messages::{CreateTopicsRequest, MetadataRequest};

use crate::boot::boot;
use crate::wire::{Connection, topic_name};

/// Steps and ways of equal length, so that turns can be counted.
fn even() -> WorldConfig {
    let always =
        |duration: Duration| Latency { least: duration, usual: duration, tail: duration, tail_per_mille: 0 };
    let way = always(Duration::from_micros(20));
    WorldConfig {
        net: NetConfig { latency: way, loopback: way, ..NetConfig::default() },
        poll: always(Duration::from_micros(1)),
        ..WorldConfig::default()
    }
}

/// A broker with these settings, and what clients on another node do.
fn play<F, Fut>(settings: &[(&str, &str)], play: F)
where
    F: FnOnce(Client) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let mut world = World::new(1, even());
    let (broker, client) = (world.add_node("broker"), world.add_node("client"));
    let address = SocketAddr::new(world.address(broker), 9092);
    let mut config = BrokerConfig::for_data_dir("/data-0");
    let listeners = format!("PLAINTEXT://{address}");
    let usual = [("listeners", listeners.as_str()), ("journal.file.bytes", "4194304")];
    for (name, value) in usual.iter().chain(settings) {
        config.set(name, value).expect("valid");
    }
    let _report = boot(&mut world, broker, &config);
    let state = (address, world.disk_of(broker), play);
    world.start(client, vec![state], move |io, (address, disk, play)| play(Client { io, address, disk }));
    world.run_until(move |world| !world.is_up(client) || !world.is_up(broker)).expect("runs");
    assert!(world.is_up(broker), "the broker goes on");
}

#[derive(Clone)]
struct Client {
    io: Io,
    address: SocketAddr,
    disk: Disk,
}

impl Client {
    async fn connect(&self) -> Connection {
        Connection::open(&self.io, self.address).await
    }

    async fn connect_raw(&self) -> TcpStream {
        self.io.connect(self.address).await.expect("connects")
    }

    async fn create(&self, name: &str, partitions: i32) {
        let topic = CreatableTopic::default().with_name(topic_name(name)).with_num_partitions(partitions);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic.with_replication_factor(1)])
            .with_timeout_ms(60_000);
        let frame = encode_request(7, 1, None, &request).expect("encodes");
        let stream = self.connect_raw().await;
        stream.send(vec![frame]).await.expect("is sent");
        assert!(!stream.recv().await.expect("is answered").is_empty());
        let known = MetadataRequest::default()
            .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(topic_name(name)))]));
        let told = self.connect().await.call(9, &known).await.expect("is answered");
        assert_eq!(told.topics[0].error_code, 0);
    }
}

/// Eight answers that nobody took once kept the places of all that are large.
#[test]
fn metadata_are_told_while_others_do_not_take_theirs() {
    play(&[("num.shards", "1")], |client| async move {
        client.create("wide", 1_200).await;
        let request = MetadataRequest::default().with_topics(None);
        let mut deaf = Vec::new();
        for _ in 0..9 {
            let stream = client.connect_raw().await;
            for id in 0..20 {
                let frame = encode_request(9, id, None, &request).expect("encodes");
                stream.send(vec![frame]).await.expect("is sent");
            }
            deaf.push(stream);
        }
        // Their answers fill what the network holds.
        client.io.sleep(Duration::from_secs(1)).await;
        let mut good = client.connect().await;
        let told = good.call(9, &request).await.expect("is answered");
        assert!(told.topics.iter().any(|topic| topic.partitions.len() == 1_200));
        drop(deaf);
    });
}
