//! A broker in the simulator, one connection that sends the fuzzer's bytes, and one that goes on being served.
//!
//! The bytes are pieces. A piece is sent as it is, or as a frame with its size before it; between them the peer waits, and
//! at the end it goes away. Then the broker still answers others, and stops cleanly.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use highwater_broker::{BrokerConfig, prepare, run_shard};
use highwater_io::net::TcpStream;
use highwater_io::sim::{World, WorldConfig};
use highwater_io::{Io, IoBuf};
use highwater_protocol::codec::{Request, StrBytes};
use highwater_protocol::messages::create_topics_request::CreatableTopic;
use highwater_protocol::messages::{ApiVersionsRequest, CreateTopicsRequest, TopicName};
use highwater_protocol::{decode_response, encode_request};

use crate::Reached;
use crate::source::{Source, put_piece};
use crate::targets::request;

const PORT: u16 = 9092;

/// Steps of the simulation after which something has gone round in a circle.
const MAX_STEPS: u64 = 2_000_000;

/// Most pieces of an input.
const MAX_PIECES: usize = 24;

pub(crate) fn run(bytes: &[u8]) -> Reached {
    let mut world = World::new(0, WorldConfig { max_steps: MAX_STEPS, ..WorldConfig::default() });
    let broker = world.add_node("broker");
    let peer = world.add_node("peer");
    let address = SocketAddr::from((world.address(broker), PORT));
    let (states, _handle) = prepare(&config(address));
    world.start(broker, states, run_shard);
    let answered = Rc::new(Cell::new(false));
    let pieces: Vec<(Bytes, Duration)> = pieces(&mut Source::new(bytes));
    world.start(peer, vec![(pieces, Rc::clone(&answered))], move |io, (pieces, answered)| async move {
        let good = connect(&io, address).await;
        let topic = CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_static_str("orders")))
            .with_num_partitions(1)
            .with_replication_factor(1);
        call(&good, 5, &CreateTopicsRequest::default().with_topics(vec![topic])).await;
        answered.set(send_pieces(&io, address, pieces).await);
        call(&good, 0, &ApiVersionsRequest::default()).await;
        let another = connect(&io, address).await;
        call(&another, 0, &ApiVersionsRequest::default()).await;
    });
    world.run_until(|world| !world.is_up(peer)).unwrap_or_else(|error| panic!("{error}"));
    world.stop(broker);
    world.run_until(|world| !world.is_up(broker)).unwrap_or_else(|error| panic!("{error}"));
    Reached::accepted_if(answered.get())
}

fn config(address: SocketAddr) -> BrokerConfig {
    let mut config = BrokerConfig::for_data_dir("/data");
    config.set("listeners", &format!("PLAINTEXT://{address}")).expect("valid");
    config.set("num.shards", "1").expect("valid");
    config.set("socket.request.max.bytes", "65536").expect("valid");
    config.shard.journal_file_bytes = 256 << 10;
    config.shard.checkpoint_interval_bytes = 128 << 10;
    config.shard.journal_max_files = 3;
    config.shard.group_max_bytes = 32 << 10;
    config.shard.unflushed_max_bytes = 32 << 10;
    config.shard.hot_tail_bytes = 2 << 20;
    config.shard.chunk_bytes = 8 << 10;
    config
}

/// What to send, and how long to wait after it.
fn pieces(source: &mut Source<'_>) -> Vec<(Bytes, Duration)> {
    let mut pieces = Vec::new();
    while !source.is_empty() && pieces.len() < MAX_PIECES {
        let how = source.u8();
        let piece = source.piece();
        let mut bytes = Vec::with_capacity(4 + piece.len());
        if how & 1 == 0 {
            bytes.extend(u32::try_from(piece.len()).expect("short").to_be_bytes());
        }
        bytes.extend(piece);
        pieces.push((bytes.into(), Duration::from_millis(u64::from(how >> 4))));
    }
    pieces
}

/// Sends everything and takes what comes; whether anything came.
async fn send_pieces(io: &Io, address: SocketAddr, pieces: Vec<(Bytes, Duration)>) -> bool {
    let stream = connect(io, address).await;
    let mut answered = false;
    for (piece, wait) in pieces {
        if !piece.is_empty() && stream.send(vec![piece]).await.is_err() {
            break;
        }
        let received = io.timeout(wait, stream.recv_into(IoBuf::with_capacity(8), 8)).await;
        answered |= matches!(received, Ok(Ok(_)));
        if matches!(received, Ok(Err(_))) {
            break;
        }
    }
    let last = io.timeout(Duration::from_millis(50), stream.recv_into(IoBuf::with_capacity(8), 8)).await;
    answered | matches!(last, Ok(Ok(_)))
}

async fn connect(io: &Io, address: SocketAddr) -> TcpStream {
    loop {
        match io.connect(address).await {
            Ok(stream) => return stream,
            Err(_) => io.sleep(Duration::from_millis(1)).await,
        }
    }
}

/// A request of a good client, which is answered.
async fn call<R: Request>(stream: &TcpStream, version: i16, request: &R) {
    let client_id = StrBytes::from_static_str("good");
    let frame = encode_request(version, 1, Some(&client_id), request).expect("encodes");
    stream.send(vec![frame]).await.expect("the broker is there");
    let size = stream.recv_into(IoBuf::with_capacity(4), 4).await.expect("the broker answers");
    let size = u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize;
    let frame = stream.recv_into(IoBuf::with_capacity(size), size).await.expect("the broker answers");
    decode_response::<R>(frame.freeze(), version).expect("a response");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = request::seeds()
        .iter()
        .step_by(3)
        .map(|frame| {
            let mut seed = vec![0];
            put_piece(&mut seed, frame);
            seed
        })
        .collect();
    // All in one, one after the other.
    seeds.push(seeds.iter().rev().step_by(4).take(MAX_PIECES).flatten().copied().collect());
    seeds
}
