//! The bare loop of one shard.
//!
//! ```text
//!   socket ──recv_into──> slab of a connection ──checksum──> forming ──one flushing write──> journal
//!                                                                            │
//!                                             answers <── durable <──────────┴──> chunk ──plain write──> segment
//! ```
//!
//! A slab is as large as a chunk. It goes back to the pool when its chunk is written, so that receiving waits for both
//! writes where they do not keep up.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use highwater_io::fs::{Durability, File};
use highwater_io::net::{ListenOptions, TcpStream};
use highwater_io::sync::Watch;
use highwater_io::{BufPool, IO_ALIGNMENT, Io, IoBuf};
use highwater_model::batch;

use crate::files::{create, filled, journal, warm_pool};
use crate::{ANSWER_BYTES, HEAD_BYTES, Measured, SIZE_BYTES, Work};

struct Connection {
    stream: TcpStream,
    segment: Rc<File>,
    /// Frames that are in the journal.
    durable: Watch<u64>,
    /// Of them, those that are not in a chunk yet.
    gathered: RefCell<Vec<Bytes>>,
    /// Where the next chunk goes.
    position_bytes: Cell<u64>,
}

struct Chunk {
    frames: Vec<Bytes>,
    segment: Rc<File>,
    position_bytes: u64,
}

struct Shard {
    work: Work,
    connections: Vec<Connection>,
    pool: BufPool,
    /// Connection and frame of what waits for the next group.
    forming: RefCell<VecDeque<(usize, Bytes)>>,
    arrived: Watch<u64>,
    /// What is to be written behind.
    chunks: RefCell<VecDeque<Chunk>>,
    chunks_changed: Watch<u64>,
    all_durable: Cell<bool>,
}

impl Shard {
    /// Frames that the shard is sent.
    fn frames(&self) -> u64 {
        self.work.frames * self.connections.len() as u64
    }

    /// Takes what has gathered, up to the size of a group, and at least one frame.
    fn take_group(&self) -> Vec<(usize, Bytes)> {
        let mut forming = self.forming.borrow_mut();
        let most = (self.work.settings.group_max_bytes / self.work.frame_bytes).max(1);
        let count = forming.len().min(most);
        forming.drain(..count).collect()
    }

    /// A frame of connection `number` is in the journal.
    fn tell(&self, number: usize, frame: Bytes) {
        let connection = &self.connections[number];
        connection.gathered.borrow_mut().push(frame);
        let full = self.work.settings.chunk_bytes / self.work.frame_bytes;
        if connection.gathered.borrow().len() == full {
            self.write_behind(connection);
        }
    }

    fn write_behind(&self, connection: &Connection) {
        let frames = connection.gathered.take();
        if frames.is_empty() {
            return;
        }
        let position_bytes = connection.position_bytes.get();
        connection.position_bytes.set(position_bytes + (frames.len() * self.work.frame_bytes) as u64);
        let segment = Rc::clone(&connection.segment);
        self.chunks.borrow_mut().push_back(Chunk { frames, segment, position_bytes });
        self.chunks_changed.update(|changes| *changes += 1);
    }
}

/// Receives until every frame is answered; `tell_address` is told where it listens.
pub(crate) async fn run(io: Io, work: Work, shard: usize, tell_address: impl FnOnce(SocketAddr)) -> Measured {
    let journal = journal(&io, &work.dir, &work.settings, shard).await;
    let count = work.connections_of(shard);
    let slabs = (work.settings.hot_tail_bytes / work.settings.chunk_bytes).max(2 * count);
    let pool = warm_pool(work.settings.chunk_bytes, slabs * work.settings.chunk_bytes);
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = io.listen(loopback, ListenOptions::default()).await.expect("a port");
    let mut segments = Vec::new();
    for number in 0..count {
        let path = work.dir.join(format!("segment-{shard}-{number}"));
        segments.push(create(&io, &path, work.frames * work.frame_bytes as u64).await);
    }
    tell_address(listener.local_addr());
    let mut connections = Vec::new();
    for segment in segments {
        let stream = listener.accept().await.expect("a connection");
        connections.push(Connection {
            stream,
            segment,
            durable: Watch::new(0),
            gathered: RefCell::default(),
            position_bytes: Cell::new(0),
        });
    }
    let shard = Rc::new(Shard {
        work,
        connections,
        pool,
        forming: RefCell::default(),
        arrived: Watch::new(0),
        chunks: RefCell::default(),
        chunks_changed: Watch::new(0),
        all_durable: Cell::new(false),
    });
    shard.work.start.wait();
    receive_all(&io, &shard, journal).await
}

async fn receive_all(io: &Io, shard: &Rc<Shard>, journal: Vec<Rc<File>>) -> Measured {
    let (begin, enters) = (Instant::now(), io.counters().enters);
    let writers: Vec<_> =
        (0..shard.work.settings.chunks_in_flight).map(|_| io.spawn(write_chunks(Rc::clone(shard)))).collect();
    let groups = io.spawn_urgent(write_groups(Rc::clone(shard), journal));
    let answers: Vec<_> =
        (0..shard.connections.len()).map(|number| io.spawn(answer(Rc::clone(shard), number))).collect();
    let receivers: Vec<_> =
        (0..shard.connections.len()).map(|number| io.spawn(receive(Rc::clone(shard), number))).collect();
    for receiver in receivers {
        receiver.await;
    }
    for answer in answers {
        answer.await;
    }
    let acknowledged = begin.elapsed();
    let groups = groups.await;
    for writer in writers {
        writer.await;
    }
    let drained = begin.elapsed();
    Measured { frames: shard.frames(), acknowledged, drained, groups, enters: io.counters().enters - enters }
}

async fn receive(shard: Rc<Shard>, number: usize) {
    let (stream, frame_bytes) = (&shard.connections[number].stream, shard.work.frame_bytes);
    let mut slab: Option<IoBuf> = None;
    for _ in 0..shard.work.frames {
        let mut memory = match slab.take() {
            Some(rest) => rest,
            None => shard.pool.take().await,
        };
        let place = memory.split_to(frame_bytes);
        slab = (memory.capacity() >= frame_bytes).then_some(memory);
        let frame = stream.recv_into(place, frame_bytes).await.expect("a frame");
        check(&frame);
        shard.forming.borrow_mut().push_back((number, frame.freeze()));
        shard.arrived.update(|arrived| *arrived += 1);
    }
}

fn check(frame: &[u8]) {
    let size = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
    assert_eq!(size as usize, frame.len() - SIZE_BYTES, "a frame begins where the last one ended");
    batch::verify(&frame[HEAD_BYTES..]).expect("a batch that is whole");
}

/// Groups that were written.
async fn write_groups(shard: Rc<Shard>, journal: Vec<Rc<File>>) -> u64 {
    let head = filled(IoBuf::with_capacity(IO_ALIGNMENT), IO_ALIGNMENT);
    let durability = if shard.work.unflushed { Durability::Plain } else { Durability::Sync };
    let file_bytes = shard.work.settings.journal_file_bytes;
    let (mut file, mut position_bytes, mut written, mut groups) = (0, 0, 0, 0);
    while written < shard.frames() {
        shard.arrived.wait_for(|_| (!shard.forming.borrow().is_empty()).then_some(())).await;
        let group = shard.take_group();
        let group_bytes = (IO_ALIGNMENT + group.len() * shard.work.frame_bytes) as u64;
        if position_bytes + group_bytes > file_bytes {
            (file, position_bytes) = ((file + 1) % journal.len(), 0);
        }
        let pieces = std::iter::once(head.clone()).chain(group.iter().map(|(_, frame)| frame.clone()));
        journal[file].write_at(pieces.collect(), position_bytes, durability).await.expect("a group");
        position_bytes += group_bytes;
        written += group.len() as u64;
        groups += 1;
        for (number, frame) in group {
            shard.connections[number].durable.update(|durable| *durable += 1);
            shard.tell(number, frame);
        }
    }
    shard.connections.iter().for_each(|connection| shard.write_behind(connection));
    shard.all_durable.set(true);
    shard.chunks_changed.update(|changes| *changes += 1);
    groups
}

/// Answers what is durable: all that became so together in one send.
async fn answer(shard: Rc<Shard>, number: usize) {
    let connection = &shard.connections[number];
    let answers = Bytes::from(vec![0; shard.work.depth * ANSWER_BYTES]);
    let mut answered = 0;
    while answered < shard.work.frames {
        let durable = connection.durable.wait_for(|&durable| (durable > answered).then_some(durable)).await;
        let count = usize::try_from(durable - answered).expect("at most the depth");
        connection.stream.send(vec![answers.slice(..count * ANSWER_BYTES)]).await.expect("answered");
        answered = durable;
    }
}

async fn write_chunks(shard: Rc<Shard>) {
    loop {
        let next = shard.chunks_changed.wait_for(|_| match shard.chunks.borrow_mut().pop_front() {
            Some(chunk) => Some(Some(chunk)),
            None => shard.all_durable.get().then_some(None),
        });
        let Some(Chunk { frames, segment, position_bytes }) = next.await else { return };
        segment.write_at(frames, position_bytes, Durability::Plain).await.expect("a chunk");
    }
}
