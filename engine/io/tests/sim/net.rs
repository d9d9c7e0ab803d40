//! Streams, listeners and links.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use highwater_io::fs::OpenOptions;
use highwater_io::net::{ListenOptions, TcpListener, TcpStream};
use highwater_io::sim::{NetConfig, NodeId, World, WorldConfig, run};
use highwater_io::{Io, IoBuf};

use crate::support::{CREATE, create, filled, outcomes, write};

const PORT: u16 = 9092;

async fn listen(io: &Io) -> TcpListener {
    let address = format!("0.0.0.0:{PORT}").parse().expect("an address");
    io.listen(address, ListenOptions::default()).await.expect("the port is free")
}

async fn connect(io: &Io, host: &str) -> std::io::Result<TcpStream> {
    let addresses = io.resolve(host, PORT).await?;
    io.connect(addresses[0]).await
}

async fn receive_all(stream: &TcpStream) -> std::io::Result<Bytes> {
    let mut all = BytesMut::new();
    loop {
        let bytes = stream.recv().await?;
        if bytes.is_empty() {
            return Ok(all.freeze());
        }
        all.extend_from_slice(&bytes);
    }
}

/// What a client and a server log, in the order in which it happened.
type Log = Rc<RefCell<Vec<String>>>;

fn note(log: &Log, text: impl Into<String>) {
    log.borrow_mut().push(text.into());
}

fn noted(log: &Log, text: &str) -> bool {
    log.borrow().iter().any(|entry| entry == text)
}

/// Two nodes: a server that accepts one connection and keeps receiving, a client that connects, sends and waits.
fn pair(seed: u64, config: WorldConfig) -> (World, NodeId, NodeId, Log) {
    let mut world = World::new(seed, config);
    let (server, client) = (world.add_node("server"), world.add_node("client"));
    let log = Log::default();
    let server_log = Rc::clone(&log);
    world.start(server, vec![()], move |io, ()| {
        let log = Rc::clone(&server_log);
        async move {
            let listener = listen(&io).await;
            let stream = listener.accept().await.expect("there are descriptors");
            note(&log, "accepted");
            match receive_all(&stream).await {
                Ok(bytes) => note(&log, format!("server: end after {}", bytes.len())),
                Err(error) => note(&log, format!("server: {:?}", error.kind())),
            }
            io.stop_requested().await;
        }
    });
    let client_log = Rc::clone(&log);
    world.start(client, vec![()], move |io, ()| {
        let log = Rc::clone(&client_log);
        async move {
            let stream = loop {
                match connect(&io, "server").await {
                    Ok(stream) => break stream,
                    Err(_) => io.sleep(Duration::from_millis(1)).await,
                }
            };
            note(&log, "connected");
            stream.send(vec![filled(1, 100)]).await.expect("the server is there");
            match stream.recv().await {
                Ok(_) => note(&log, "client: end"),
                Err(error) => note(&log, format!("client: {:?}", error.kind())),
            }
            io.stop_requested().await;
        }
    });
    (world, server, client, log)
}

#[test]
fn bytes_arrive_in_order_and_in_other_pieces() {
    for seed in 0..30 {
        let lens = run(seed, |io| async move {
            let listener = listen(&io).await;
            let client = connect(&io, "localhost").await.expect("somebody listens");
            let server = listener.accept().await.expect("there are descriptors");
            assert_eq!(client.peer_addr(), server.local_addr());
            assert_eq!(client.local_addr(), server.peer_addr());
            let sent: Bytes = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
            let bytes = sent.clone();
            let sending = io.spawn(async move {
                for chunk in [1_000, 50_000, 249_000].iter().scan(0, |at, len| {
                    *at += len;
                    Some(bytes.slice(*at - len..*at))
                }) {
                    let (front, back) = (chunk.slice(..chunk.len() / 2), chunk.slice(chunk.len() / 2..));
                    client.send(vec![front, Bytes::new(), back]).await.expect("the server is there");
                }
            });
            let (mut received, mut lens) = (BytesMut::new(), Vec::new());
            loop {
                let bytes = server.recv().await.expect("the client is there");
                if bytes.is_empty() {
                    break;
                }
                lens.push(bytes.len());
                received.extend_from_slice(&bytes);
            }
            sending.await;
            assert!(received == sent);
            lens
        });
        assert!(lens.len() > 10 && lens.iter().any(|&len| len != lens[0]), "seed {seed}: {lens:?}");
    }
}

#[test]
fn frame_is_received_into_its_own_memory() {
    for seed in 0..20 {
        run(seed, |io| async move {
            let listener = listen(&io).await;
            let client = connect(&io, "localhost").await.expect("somebody listens");
            let server = listener.accept().await.expect("there are descriptors");
            client.send(vec![filled(1, 10), filled(2, 100_000)]).await.expect("the server is there");
            drop(client);
            let mut buf = IoBuf::copy_from_slice(b"head");
            assert!(buf.remaining() > 10);
            buf = server.recv_into(buf, 10).await.expect("the bytes are there");
            assert_eq!(&buf[..], b"head\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01");
            let body = server.recv_into(IoBuf::with_capacity(100_000), 100_000).await;
            assert!(body.expect("the bytes are there")[..] == filled(2, 100_000));
            let more = server.recv_into(IoBuf::with_capacity(1), 1).await;
            assert_eq!(more.expect_err("it is the end").kind(), ErrorKind::UnexpectedEof);
        });
    }
}

#[test]
fn file_is_sent_from_any_position() {
    for options in [CREATE, CREATE.direct()] {
        run(1, move |io| async move {
            let file = create(&io.fs(), "/f", options).await;
            write(&file, 0, [filled(1, 98_304), filled(2, 102_400)].concat_aligned()).await;
            let listener = listen(&io).await;
            let client = connect(&io, "localhost").await.expect("somebody listens");
            let server = listener.accept().await.expect("there are descriptors");
            let receiving = io.spawn(async move { receive_all(&server).await.expect("the client is there") });
            client.send_file(&file, 98_000, 100_001).await.expect("the bytes are there");
            let early = client.send_file(&file, 200_000, 1_000).await;
            assert_eq!(early.expect_err("the file ends").kind(), ErrorKind::UnexpectedEof);
            drop(client);
            let received = receiving.await;
            assert!(received[..304] == filled(1, 304) && received[304..100_001] == filled(2, 99_697));
        });
    }
}

trait ConcatAligned {
    fn concat_aligned(&self) -> Bytes;
}

impl ConcatAligned for [Bytes; 2] {
    fn concat_aligned(&self) -> Bytes {
        IoBuf::copy_from_slice(&self.concat()).freeze()
    }
}

#[test]
fn sender_waits_for_a_receiver_that_does_not_receive() {
    run(1, |io| async move {
        let listener = listen(&io).await;
        let client = connect(&io, "localhost").await.expect("somebody listens");
        let server = listener.accept().await.expect("there are descriptors");
        let window = NetConfig::default().window_bytes;
        let sending = client.send(vec![filled(1, window + 1)]);
        assert!(io.timeout(Duration::from_secs(60), sending).await.is_err(), "one byte too many");
        let received = server.recv_into(IoBuf::with_capacity(window), window).await;
        assert!(received.expect("the bytes are there")[..] == filled(1, window));
        client.send(vec![filled(1, window)]).await.expect("there is room again");
    });
}

#[test]
fn addresses_are_refused_as_bind_and_connect_do() {
    run(1, |io| async move {
        let any = |port: u16| SocketAddr::from(([0, 0, 0, 0], port));
        let first = io.listen(any(0), ListenOptions::default()).await.expect("a port is free");
        assert_ne!(first.local_addr().port(), 0);
        let taken = io.listen(first.local_addr(), ListenOptions::default()).await;
        assert_eq!(taken.expect_err("it is taken").kind(), ErrorKind::AddrInUse);
        let foreign = io.listen("10.9.9.9:1".parse().expect("an address"), ListenOptions::default()).await;
        assert_eq!(foreign.expect_err("it is another's").kind(), ErrorKind::AddrNotAvailable);
        let nobody = io.connect(SocketAddr::from(([127, 0, 0, 1], 1))).await;
        assert_eq!(nobody.expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
        assert_eq!(io.resolve("nowhere", 1).await.expect_err("no such node").kind(), ErrorKind::NotFound);
        let port = first.local_addr().port();
        drop(first);
        io.listen(any(port), ListenOptions::default()).await.expect("it is free again");
    });
}

#[test]
fn shards_that_share_a_port_share_its_connections() {
    let mut world = World::new(1, WorldConfig::default());
    let (server, client) = (world.add_node("server"), world.add_node("client"));
    let accepted = Rc::new(RefCell::new([0; 2]));
    let counts = Rc::clone(&accepted);
    world.start(server, vec![(); 2], move |io, ()| {
        let counts = Rc::clone(&counts);
        async move {
            let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
            let address = SocketAddr::from(([0, 0, 0, 0], PORT));
            let listener = io.listen(address, options).await.expect("both may");
            loop {
                drop(listener.accept().await.expect("there are descriptors"));
                counts.borrow_mut()[io.shard().0] += 1;
            }
        }
    });
    world.start(client, vec![()], |io, ()| async move {
        io.sleep(Duration::from_secs(1)).await;
        for _ in 0..40 {
            connect(&io, "server").await.expect("somebody listens");
        }
    });
    world.run_until(|world| !world.is_up(client)).expect("the client ends");
    world.run_for(Duration::from_secs(1)).expect("nothing is wrong");
    let [a, b] = *accepted.borrow();
    assert!(a + b == 40 && a > 5 && b > 5, "{a} and {b}");
}

#[test]
fn end_of_a_stream_comes_after_its_bytes_and_unread_bytes_reset_it() {
    run(1, |io| async move {
        let listener = listen(&io).await;
        let client = connect(&io, "localhost").await.expect("somebody listens");
        let server = listener.accept().await.expect("there are descriptors");
        client.send(vec![filled(1, 1000)]).await.expect("the server is there");
        client.shutdown();
        assert!(client.recv().await.expect("it is shut down").is_empty());
        assert_eq!(
            client.send(vec![filled(1, 1)]).await.expect_err("it is shut").kind(),
            ErrorKind::BrokenPipe
        );
        assert_eq!(receive_all(&server).await.expect("no reset").len(), 1000);

        let client = connect(&io, "localhost").await.expect("somebody listens");
        let server = listener.accept().await.expect("there are descriptors");
        client.send(vec![filled(1, 1000)]).await.expect("the server is there");
        io.sleep(Duration::from_secs(1)).await;
        drop(server);
        assert_eq!(client.recv().await.expect_err("unread bytes").kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn shutdown_wakes_a_receive_that_waits() {
    run(1, |io| async move {
        let listener = listen(&io).await;
        let client = Rc::new(connect(&io, "localhost").await.expect("somebody listens"));
        let _server = listener.accept().await.expect("there are descriptors");
        let waiting = Rc::clone(&client);
        let receiving = io.spawn(async move { waiting.recv().await });
        io.sleep(Duration::from_secs(1)).await;
        client.shutdown();
        assert!(receiving.await.expect("it is the end").is_empty());
    });
}

#[test]
fn kill_is_seen_as_end_or_reset_or_not_at_all() {
    let found = outcomes(100, |seed| {
        let (mut world, server, _, log) = pair(seed, WorldConfig::default());
        world.run_until(|_| noted(&log, "connected") && noted(&log, "accepted")).expect("they meet");
        if seed % 2 == 0 {
            // By then the server has received everything, and the client only waits.
            world.run_for(Duration::from_secs(1)).expect("nothing is wrong");
        }
        world.kill(server);
        world.run_for(Duration::from_secs(30)).expect("nothing is wrong");
        let last = log.borrow().last().cloned();
        last.filter(|entry| entry.starts_with("client"))
    });
    let seen: Vec<_> = found.keys().map(|entry| entry.as_deref()).collect();
    assert_eq!(seen, [None, Some("client: ConnectionReset"), Some("client: end")], "{found:?}");
}

#[test]
fn power_cut_is_silent_until_the_machine_runs_again() {
    let (mut world, server, client, log) = pair(3, WorldConfig::default());
    world.run_until(|_| noted(&log, "connected") && noted(&log, "accepted")).expect("they meet");
    world.power_cut(server);
    world.run_for(Duration::from_secs(60)).expect("nothing is wrong");
    assert!(!log.borrow().iter().any(|entry| entry.starts_with("client")), "{log:?}");
    let probe = Rc::new(RefCell::new(None));
    let other = world.add_node("other");
    let slot = Rc::clone(&probe);
    world.start(other, vec![()], move |io, ()| {
        let slot = Rc::clone(&slot);
        async move { *slot.borrow_mut() = Some(connect(&io, "server").await.map(drop).map_err(|e| e.kind())) }
    });
    world.run_until(|world| !world.is_up(other)).expect("the probe ends");
    assert_eq!(probe.take(), Some(Err(ErrorKind::TimedOut)), "nobody answers");
    world.start(server, vec![()], |io, ()| async move { io.stop_requested().await });
    let slot = Rc::clone(&probe);
    world.start(other, vec![()], move |io, ()| {
        let slot = Rc::clone(&slot);
        async move { *slot.borrow_mut() = Some(connect(&io, "server").await.map(drop).map_err(|e| e.kind())) }
    });
    world.run_until(|world| !world.is_up(other)).expect("the probe ends");
    assert_eq!(probe.take(), Some(Err(ErrorKind::ConnectionRefused)), "it is up, and nobody listens");
    assert!(world.is_up(client));
}

#[test]
fn sender_to_a_machine_that_restarted_is_reset() {
    let mut world = World::new(1, WorldConfig::default());
    let (server, client) = (world.add_node("server"), world.add_node("client"));
    let connected = Rc::new(Cell::new(false));
    let outcome = Rc::new(RefCell::new(None));
    world.start(server, vec![()], |io, ()| async move {
        let listener = listen(&io).await;
        let _stream = listener.accept().await.expect("there are descriptors");
        io.stop_requested().await;
    });
    let (flag, slot) = (Rc::clone(&connected), Rc::clone(&outcome));
    world.start(client, vec![()], move |io, ()| {
        let (connected, slot) = (Rc::clone(&flag), Rc::clone(&slot));
        async move {
            io.sleep(Duration::from_secs(1)).await;
            let stream = connect(&io, "server").await.expect("somebody listens");
            connected.set(true);
            let error = loop {
                io.sleep(Duration::from_millis(100)).await;
                if let Err(error) = stream.send(vec![filled(1, 100)]).await {
                    break error;
                }
            };
            *slot.borrow_mut() = Some(error.kind());
        }
    });
    world.run_until(|_| connected.get()).expect("they meet");
    world.power_cut(server);
    world.run_for(Duration::from_secs(5)).expect("nothing is wrong");
    assert!(outcome.borrow().is_none(), "nobody answers");
    world.start(server, vec![()], |io, ()| async move { io.stop_requested().await });
    world.run_until(|world| !world.is_up(client)).expect("the client ends");
    assert!(matches!(outcome.take(), Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)));
}

#[test]
fn partition_holds_bytes_back_until_it_heals() {
    for one_way in [false, true] {
        let mut world = World::new(2, WorldConfig::default());
        let (server, client) = (world.add_node("server"), world.add_node("client"));
        let echoes = Rc::new(Cell::new(0));
        world.start(server, vec![()], |io, ()| async move {
            let listener = listen(&io).await;
            let stream = listener.accept().await.expect("there are descriptors");
            loop {
                let bytes = stream.recv().await.expect("the client is there");
                stream.send(vec![bytes]).await.expect("the client is there");
            }
        });
        let count = Rc::clone(&echoes);
        world.start(client, vec![()], move |io, ()| {
            let count = Rc::clone(&count);
            async move {
                io.sleep(Duration::from_secs(1)).await;
                let stream = connect(&io, "server").await.expect("somebody listens");
                loop {
                    stream.send(vec![filled(1, 1)]).await.expect("the server is there");
                    assert_eq!(stream.recv().await.expect("the server is there").len(), 1);
                    count.set(count.get() + 1);
                }
            }
        });
        world.run_until(|_| echoes.get() == 10).expect("it goes on");
        if one_way {
            world.block(server, client);
        } else {
            world.partition(server, client);
        }
        world.run_for(Duration::from_secs(60)).expect("nothing is wrong");
        let stuck = echoes.get();
        assert!(stuck <= 11, "one may have been under way");
        world.heal_all();
        world.run_until(|_| echoes.get() == stuck + 10).expect("it goes on");
    }
}

#[test]
fn connection_attempt_across_a_partition_times_out() {
    let (mut world, server, client, log) = pair(1, WorldConfig::default());
    world.partition(server, client);
    world.run_for(Duration::from_secs(50)).expect("nothing is wrong");
    assert!(!noted(&log, "connected") && !noted(&log, "accepted"));
    world.heal(server, client);
    world.run_until(|_| noted(&log, "connected")).expect("they meet");
}

#[test]
fn connection_that_is_cut_is_reset_at_both_ends() {
    let (mut world, _, _, log) = pair(1, WorldConfig::default());
    world.run_until(|_| noted(&log, "connected") && noted(&log, "accepted")).expect("they meet");
    world.run_for(Duration::from_secs(1)).expect("nothing is wrong");
    let connections = world.connections();
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0].server.port(), PORT);
    world.reset_connection(connections[0].id);
    world.run_for(Duration::from_secs(1)).expect("nothing is wrong");
    assert!(noted(&log, "client: ConnectionReset") && noted(&log, "server: ConnectionReset"), "{log:?}");
}

#[test]
fn full_backlog_delays_a_connection() {
    run(1, |io| async move {
        let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
        let address = SocketAddr::from(([127, 0, 0, 1], PORT));
        let listener = io.listen(address, options).await.expect("the port is free");
        let _first = io.connect(address).await.expect("somebody listens");
        let second = io.timeout(Duration::from_secs(5), io.connect(address)).await;
        assert!(second.is_err(), "there is no room");
        let _accepted = listener.accept().await.expect("there are descriptors");
        io.timeout(Duration::from_secs(5), io.connect(address))
            .await
            .expect("there is room")
            .expect("it works");
    });
}

#[test]
fn dropped_receive_loses_nothing() {
    for seed in 0..20 {
        run(seed, |io| async move {
            let listener = listen(&io).await;
            let client = connect(&io, "localhost").await.expect("somebody listens");
            let server = listener.accept().await.expect("there are descriptors");
            let sent: Bytes = (0..200_u8).collect();
            let bytes = sent.clone();
            let other = io.clone();
            let sending = io.spawn(async move {
                for at in 0..bytes.len() {
                    client.send(vec![bytes.slice(at..=at)]).await.expect("the server is there");
                    other.sleep(Duration::from_micros(30)).await;
                }
            });
            let mut received = Vec::new();
            while received.len() < sent.len() {
                if let Ok(bytes) = io.timeout(Duration::from_micros(20), server.recv()).await {
                    received.extend_from_slice(&bytes.expect("the client is there"));
                }
            }
            sending.await;
            assert!(received == sent);
        });
    }
}

#[test]
fn file_that_was_never_there_is_not_sent() {
    run(1, |io| async move {
        let missing = io.fs().open("/missing", OpenOptions::read_only()).await;
        assert!(missing.expect_err("it is missing").is_not_found());
    });
}
