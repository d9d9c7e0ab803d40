//! Promises of listeners and streams.

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use highwater_io::fs::{Durability, File, OpenOptions};
use highwater_io::net::{ListenOptions, TcpStream};
use highwater_io::{BufPool, Io, IoBuf};

use crate::host::{Host, IP, below, connected, listen, pattern};

/// Receives until the end of the stream.
async fn drain(stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let bytes = stream.recv().await.expect("received");
        if bytes.is_empty() {
            return all;
        }
        all.extend_from_slice(&bytes);
    }
}

/// Sends `data` in a task of its own, then ends the stream.
fn send_all(io: &Io, stream: TcpStream, data: Vec<u8>) {
    io.spawn(async move {
        stream.send(vec![data.into()]).await.expect("sent");
    })
    .detach();
}

pub(crate) fn both_ends_know_their_addresses(host: Host) {
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        assert_eq!(near.peer_addr(), far.local_addr());
        assert_eq!(near.local_addr(), far.peer_addr());
        assert_eq!(near.peer_addr().ip(), IP);
        assert_ne!(near.peer_addr().port(), 0);
    });
}

pub(crate) fn echo_returns_the_bytes(host: Host) {
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        let echo = io.spawn(async move {
            loop {
                let bytes = far.recv().await.expect("received");
                if bytes.is_empty() {
                    return;
                }
                far.send(vec![bytes]).await.expect("sent");
            }
        });
        for round in 0..200 {
            let len = 1 + below(&io, 3000);
            near.send(vec![pattern(round, len).into()]).await.expect("sent");
            let back = near.recv_into(IoBuf::with_capacity(len), len).await.expect("received");
            assert_eq!(&back[..], pattern(round, len));
        }
        drop(near);
        echo.await;
    });
}

pub(crate) fn end_of_the_peer_is_the_end_of_the_stream(host: Host) {
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        near.send(vec![Bytes::from_static(b"last words")]).await.expect("sent");
        drop(near);
        assert_eq!(drain(&far).await, b"last words");
        assert!(far.recv().await.expect("the end stays").is_empty());
        let error = far.recv_into(IoBuf::with_capacity(1), 1).await.expect_err("nothing will come");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    });
}

pub(crate) fn end_of_the_peer_is_told_before_what_came_is_received(host: Host) {
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        near.send(vec![Bytes::from_static(b"last words")]).await.expect("sent");
        {
            let mut hung_up = pin!(far.hung_up());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(hung_up.as_mut().poll(&mut cx).is_pending(), "it may go on");
        }
        let told = io.spawn(async move {
            far.hung_up().await;
            far
        });
        io.yield_now().await;
        near.shutdown();
        let far = told.await;
        assert_eq!(drain(&far).await, b"last words");
        far.hung_up().await;
    });
}

pub(crate) fn connection_to_nobody_is_refused(host: Host) {
    host.one_shard(|io, _| async move {
        let listener = listen(&io).await;
        let address = listener.local_addr();
        drop(listener);
        let error = io.connect(address).await.expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

pub(crate) fn vectored_send_keeps_the_order_of_pieces(host: Host) {
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        let pieces: Vec<Bytes> = (0..5000u64).map(|i| pattern(i, (i as usize * 7) % 1500).into()).collect();
        let expected = pieces.concat();
        let sender = io.spawn(async move {
            near.send(Vec::new()).await.expect("nothing to do");
            near.send(pieces).await.expect("sent");
        });
        let received = far.recv_into(IoBuf::with_capacity(expected.len()), expected.len()).await;
        assert!(received.expect("received")[..] == expected[..]);
        sender.await;
    });
}

pub(crate) fn slow_receiver_holds_the_sender_back(host: Host) {
    const CHUNK: usize = 256 << 10;
    const CHUNKS: usize = 256;
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        let sent = Rc::new(Cell::new(0));
        let sender = io.spawn({
            let sent = Rc::clone(&sent);
            async move {
                for i in 0..CHUNKS {
                    near.send(vec![pattern(i as u64, CHUNK).into()]).await.expect("sent");
                    sent.set(i + 1);
                }
            }
        });
        // The receive is armed, and then nobody consumes: the sender comes to a stand when everything bounded is full.
        let mut received = far.recv().await.expect("received").to_vec();
        let mut before = usize::MAX;
        while before != sent.get() {
            before = sent.get();
            io.sleep(Duration::from_millis(100)).await;
        }
        assert!(sent.get() < CHUNKS / 2, "{} of {CHUNKS} chunks are sent to nobody", sent.get());
        for i in 0..CHUNKS {
            while received.len() < CHUNK {
                let bytes = far.recv().await.expect("received");
                assert!(!bytes.is_empty(), "chunk {i} is missing");
                received.extend_from_slice(&bytes);
            }
            assert!(received[..CHUNK] == pattern(i as u64, CHUNK), "chunk {i} is not as it was sent");
            received.drain(..CHUNK);
        }
        sender.await;
        assert!(received.is_empty() && far.recv().await.expect("the end").is_empty());
    });
}

pub(crate) fn receives_of_both_kinds_interleave_exactly(host: Host) {
    const TOTAL: usize = 8 << 20;
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        let expected = pattern(99, TOTAL);
        let sender = io.spawn({
            let (io, data) = (io.clone(), Bytes::from(expected.clone()));
            async move {
                let mut rest = data;
                while !rest.is_empty() {
                    let len = (1 + below(&io, 60_000)).min(rest.len());
                    near.send(vec![rest.split_to(len)]).await.expect("sent");
                    if below(&io, 4) == 0 {
                        io.yield_now().await;
                    }
                }
            }
        });
        let mut at = 0;
        while at < TOTAL {
            let len = (1 + below(&io, 100_000)).min(TOTAL - at);
            match below(&io, 3) {
                0 => {
                    let bytes = far.recv().await.expect("received");
                    assert!(bytes[..] == expected[at..at + bytes.len()], "recv at {at}");
                    at += bytes.len();
                }
                1 => {
                    let buf = far.recv_into(IoBuf::with_capacity(len), len).await.expect("received");
                    assert!(buf[..] == expected[at..at + len], "recv_into of {len} at {at}");
                    at += len;
                }
                _ => {
                    let mut buf = IoBuf::with_capacity(7 + len + below(&io, 100_000));
                    buf.extend_from_slice(b"content");
                    let buf = far.recv_at_least(buf, len).await.expect("received");
                    let received = buf.len() - 7;
                    assert!(received >= len && buf[..7] == *b"content");
                    assert!(buf[7..] == expected[at..at + received], "recv_at_least of {len} at {at}");
                    at += received;
                }
            }
            if below(&io, 8) == 0 {
                io.sleep(Duration::from_micros(50)).await;
            }
        }
        sender.await;
        assert!(far.recv().await.expect("the end").is_empty());
    });
}

pub(crate) fn receive_into_appends_to_the_buffer(host: Host) {
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        let sent = pattern(3, 10_000);
        send_all(&io, near, sent.clone());
        let mut buf = IoBuf::with_capacity(20_000);
        buf.extend_from_slice(b"before ");
        buf = far.recv_into(buf, 4000).await.expect("received");
        buf = far.recv_into(buf, 0).await.expect("nothing to do");
        buf = far.recv_into(buf, 6000).await.expect("received");
        assert_eq!(&buf[..], [b"before ", &sent[..]].concat());
    });
}

pub(crate) fn receive_into_reports_an_early_end(host: Host) {
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        send_all(&io, near, pattern(3, 1000));
        let error = far.recv_into(IoBuf::with_capacity(1001), 1001).await.expect_err("a byte is missing");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    });
}

pub(crate) fn large_frame_is_received_whole(host: Host) {
    const LEN: usize = 24 << 20;
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        let frame = pattern(5, LEN);
        let sent = Bytes::from(frame.clone());
        io.spawn(async move {
            let length = Bytes::copy_from_slice(&(LEN as u64).to_be_bytes());
            near.send(vec![length, sent]).await.expect("sent");
        })
        .detach();
        // As a broker does it: the first bytes tell how much is to come, the rest goes where it belongs.
        let mut first = far.recv().await.expect("received");
        while first.len() < 8 {
            first = [first, far.recv().await.expect("received")].concat().into();
        }
        let len = u64::from_be_bytes(first[..8].try_into().expect("eight bytes"));
        assert_eq!(len, LEN as u64);
        let mut buf = IoBuf::with_capacity(LEN);
        buf.extend_from_slice(&first[8..]);
        let missing = LEN - buf.len();
        let buf = far.recv_into(buf, missing).await.expect("received");
        assert!(buf[..] == frame[..]);
    });
}

pub(crate) fn dropped_receives_lose_nothing(host: Host) {
    const TOTAL: usize = 1 << 20;
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        let expected = pattern(6, TOTAL);
        let sender = io.spawn({
            let (io, data) = (io.clone(), Bytes::from(expected.clone()));
            async move {
                for piece in data.chunks(5000) {
                    near.send(vec![data.slice_ref(piece)]).await.expect("sent");
                    io.sleep(Duration::from_micros(20)).await;
                }
            }
        });
        let mut received = Vec::new();
        while received.len() < TOTAL {
            let patience = Duration::from_micros(below(&io, 40) as u64);
            match io.timeout(patience, far.recv()).await {
                Ok(bytes) => received.extend_from_slice(&bytes.expect("received")),
                Err(_) => io.yield_now().await,
            }
        }
        assert!(received == expected);
        sender.await;
    });
}

pub(crate) fn dropped_accepts_lose_no_connection(host: Host) {
    host.one_shard(|io, _| async move {
        let listener = listen(&io).await;
        let address = listener.local_addr();
        let connecting = io.spawn({
            let io = io.clone();
            async move {
                let mut streams = Vec::new();
                for _ in 0..50 {
                    streams.push(io.connect(address).await.expect("connected"));
                }
                streams
            }
        });
        let mut accepted = Vec::new();
        while accepted.len() < 50 {
            match io.timeout(Duration::from_micros(10), listener.accept()).await {
                Ok(stream) => accepted.push(stream.expect("accepted")),
                Err(_) => io.yield_now().await,
            }
        }
        assert_eq!(connecting.await.len(), 50);
    });
}

pub(crate) fn both_directions_work_at_once(host: Host) {
    const TOTAL: usize = 16 << 20;
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        let (near, far) = (Rc::new(near), Rc::new(far));
        let mut tasks = Vec::new();
        for (seed, from, to) in [(1, near.clone(), far.clone()), (2, far, near)] {
            tasks.push(io.spawn(async move {
                from.send(vec![pattern(seed, TOTAL).into()]).await.expect("sent");
            }));
            tasks.push(io.spawn(async move {
                let mut received = Vec::with_capacity(TOTAL);
                while received.len() < TOTAL {
                    received.extend_from_slice(&to.recv().await.expect("received"));
                }
                assert!(received == pattern(seed, TOTAL));
            }));
        }
        for task in tasks {
            task.await;
        }
    });
}

pub(crate) fn many_connections_are_told_apart(host: Host) {
    const CONNECTIONS: u64 = 200;
    host.one_shard(|io, _| async move {
        let listener = listen(&io).await;
        let address = listener.local_addr();
        let client = |seed: u64| {
            let io = io.clone();
            async move {
                let stream = io.connect(address).await.expect("connected");
                for round in 0..5 {
                    let data = pattern(seed * 100 + round, 2000 + below(&io, 50_000));
                    let header = Bytes::copy_from_slice(&(data.len() as u64).to_be_bytes());
                    stream.send(vec![header, data.clone().into()]).await.expect("sent");
                    let buf = IoBuf::with_capacity(data.len());
                    let back = stream.recv_into(buf, data.len()).await.expect("received");
                    assert!(back[..] == data[..], "connection {seed}");
                }
            }
        };
        let clients: Vec<_> = (0..CONNECTIONS).map(|seed| io.spawn(client(seed))).collect();
        for _ in 0..CONNECTIONS {
            let stream = listener.accept().await.expect("accepted");
            io.spawn(async move { while echo_frame(&stream).await {} }).detach();
        }
        for client in clients {
            client.await;
        }
    });
}

/// Sends one frame back; false at the end of the stream.
async fn echo_frame(stream: &TcpStream) -> bool {
    let Ok(header) = stream.recv_into(IoBuf::with_capacity(8), 8).await else { return false };
    let len = u64::from_be_bytes(header[..].try_into().expect("eight bytes"));
    let len = usize::try_from(len).expect("a small frame");
    let body = stream.recv_into(IoBuf::with_capacity(len), len).await.expect("received");
    stream.send(vec![body.freeze()]).await.expect("sent");
    true
}

async fn file_with(io: &Io, path: &std::path::Path, content: Vec<u8>) -> File {
    let file = io.fs().open(path, OpenOptions::read_write().create()).await.expect("created");
    file.write_at(vec![content.into()], 0, Durability::Plain).await.expect("written");
    file
}

pub(crate) fn sent_file_arrives_exactly(host: Host) {
    const LEN: usize = 10 << 20;
    host.one_shard(|io, dir| async move {
        let (near, far) = connected(&io).await;
        let content = pattern(8, LEN);
        let file = file_with(&io, &dir.join("f"), content.clone()).await;
        let parts = [(0, 1), (1, 4095), (12_345, 1_000_000), (4096, 8 << 20), (LEN - 7, 7), (5, 0)];
        let sender = io.spawn(async move {
            for (at, len) in parts {
                near.send(vec![Bytes::from_static(b"head")]).await.expect("sent");
                near.send_file(&file, at as u64, len as u64).await.expect("sent");
            }
        });
        for (at, len) in parts {
            let head = far.recv_into(IoBuf::with_capacity(4), 4).await.expect("received");
            assert_eq!(&head[..], b"head");
            let buf = IoBuf::with_capacity(len);
            let body = far.recv_into(buf, len).await.expect("received");
            assert!(body[..] == content[at..at + len], "{len} bytes at {at}");
        }
        sender.await;
        assert!(far.recv().await.expect("the end").is_empty());
    });
}

pub(crate) fn sent_file_that_ends_early_is_an_error(host: Host) {
    host.one_shard(|io, dir| async move {
        let (near, far) = connected(&io).await;
        let file = file_with(&io, &dir.join("f"), pattern(8, 1000)).await;
        let error = near.send_file(&file, 500, 501).await.expect_err("a byte is missing");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        drop(near);
        assert_eq!(drain(&far).await, pattern(8, 1000)[500..]);
    });
}

pub(crate) fn shutdown_ends_a_waiting_receive_and_the_peer(host: Host) {
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        let near = Rc::new(near);
        let waiting = io.spawn({
            let near = near.clone();
            async move { near.recv().await }
        });
        io.yield_now().await;
        near.shutdown();
        assert!(waiting.await.expect("the end is no error").is_empty());
        assert!(far.recv().await.expect("the end is no error").is_empty());
        assert!(near.send(vec![Bytes::from_static(b"late")]).await.is_err());
        near.shutdown();
    });
}

pub(crate) fn send_to_a_peer_that_went_fails(host: Host) {
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        drop(far);
        let data = Bytes::from(pattern(1, 100_000));
        // The first may still get into a buffer.
        let error = loop {
            if let Err(error) = near.send(vec![data.clone()]).await {
                break error;
            }
        };
        assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    });
}

pub(crate) fn dropped_listener_frees_its_port(host: Host) {
    host.one_shard(|io, _| async move {
        let mut listener = listen(&io).await;
        let address: SocketAddr = listener.local_addr();
        for _ in 0..5 {
            {
                // A waiting accept is no reason to keep it.
                let mut accept = pin!(listener.accept());
                let polled = accept.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(matches!(polled, Poll::Pending));
                io.yield_now().await;
            }
            drop(listener);
            listener = io.listen(address, ListenOptions::default()).await.expect("the port is free");
            assert_eq!(listener.local_addr(), address);
            let (connected, accepted) = {
                let connecting = io.spawn({
                    let io = io.clone();
                    async move { io.connect(address).await }
                });
                let accepted = listener.accept().await.expect("accepted");
                (connecting.await.expect("connected"), accepted)
            };
            assert_eq!(connected.local_addr(), accepted.peer_addr());
        }
    });
}

pub(crate) fn received_bytes_outlive_their_stream(host: Host) {
    host.one_shard(|io, _| async move {
        let (near, far) = connected(&io).await;
        near.send(vec![Bytes::from_static(b"kept")]).await.expect("sent");
        let mut kept = Vec::new();
        while kept.iter().map(Bytes::len).sum::<usize>() < 4 {
            kept.push(far.recv().await.expect("received"));
        }
        drop((near, far));
        // What arrives later must not be written over it.
        for _ in 0..100 {
            let (near, far) = connected(&io).await;
            near.send(vec![Bytes::from_static(b"other")]).await.expect("sent");
            drop(near);
            assert_eq!(drain(&far).await, b"other");
        }
        assert_eq!(kept.concat(), b"kept");
    });
}

pub(crate) fn memory_of_a_dropped_receive_is_not_reused_too_early(host: Host) {
    host.one_shard(|io, _| async move {
        let pool = BufPool::new(4096, 64, 1);
        for _ in 0..20 {
            let (near, far) = connected(&io).await;
            let mut cx = Context::from_waker(Waker::noop());
            let mut send = pin!(near.send(vec![vec![1; 4096].into()]));
            let sent = send.as_mut().poll(&mut cx);
            // Polled once and dropped. A driver may also have received by now.
            let _ = pin!(far.recv_into(pool.try_take().expect("a slab"), 4096)).as_mut().poll(&mut cx);
            // As for files: were the buffer back in the pool already, it would be this one.
            let mut next = pool.try_take().expect("a slab");
            next.set_len(4096);
            next.fill(2);
            if sent.is_pending() {
                send.await.expect("sent");
            }
            for _ in 0..5 {
                io.sleep(Duration::from_micros(20)).await;
            }
            assert!(next.iter().all(|&byte| byte == 2));
        }
    });
}
