//! What a bare loop reaches over TCP: the limit of any durable produce path.
//!
//!     cargo run --release -p highwater-log --example receive -- --runs 4
//!     cargo run --release -p highwater-log --example receive -- --frames 16384 --connections 32 --json runs.json
//!
//! Each shard is a thread with a listener, connections, a journal and a segment file for each connection. Of every frame it
//! does what no broker can leave out:
//!
//! 1. it receives it, in one request, into memory from which it is written (no copy of its own),
//! 2. it checks the CRC-32C of the record batch in it,
//! 3. it writes it with others of that moment as one group into the journal: one write at a time, `O_DIRECT` and
//!    `RWF_DSYNC`, into a ring of files that were written to before,
//! 4. it answers with eight bytes once that write is done, all answers of a group to a connection in one send,
//! 5. it writes it behind in a chunk of a segment, `O_DIRECT`; nothing else is flushed.
//!
//! It decodes no request, looks at no record, gives no offset, keeps nothing for readers. All of it goes through
//! `highwater_io`, as in the broker, and through as much memory as the hot tail has. A frame has 64 bytes in place of a
//! request's fields, and a batch of records of about 1,000 random bytes.
//!
//! The frames come from a process of its own, over loopback: one thread a connection, which sends the same prepared frame again
//! and again, `--depth` of them not answered. Its processor time is not counted, but it needs some: where the machine has no
//! more processors than shards, MB/s is what both reach together. *CPU* is user and system time of the process that receives,
//! the kernel's I/O workers included, until the last chunk is written; over loopback the kernel does part of the receiving in
//! the sender's time, as it does for a broker that is measured there. *MB* are those of frames. *acked* counts until the last
//! answer, *drained* until the last chunk.
//!
//! Runs of the frame sizes are interleaved, after one of each that is not counted.

#[path = "../shared/batch.rs"]
mod batch;
#[path = "../shared/cpu.rs"]
mod cpu;
#[path = "../shared/files.rs"]
mod files;
mod receiver;
mod report;
mod sender;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use highwater_io::{IO_ALIGNMENT, Runtime, RuntimeConfig};
use highwater_log::ShardConfig;

/// In place of a request's fields, the frame's size among them.
const HEAD_BYTES: usize = 64;
const SIZE_BYTES: usize = 4;
const ANSWER_BYTES: usize = 8;

/// What a bare loop reaches that receives, checks CRC-32C, and writes journal and segments.
#[derive(Debug, Parser)]
struct Options {
    /// Sizes in bytes of a frame, multiples of 4,096; several with commas.
    #[arg(long, value_delimiter = ',', default_value = "16384,1048576")]
    frames: Vec<usize>,
    /// Connections, dealt out to the shards.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Frames of each connection that are not answered.
    #[arg(long, default_value_t = 16)]
    depth: usize,
    /// Runs of each size.
    #[arg(long, default_value_t = 4)]
    runs: usize,
    /// Bytes of each run.
    #[arg(long, default_value_t = 4 << 30)]
    bytes: u64,
    /// Threads, each with a journal of its own.
    #[arg(long, default_value_t = 2)]
    shards: usize,
    /// Memory in bytes that frames go through, of each shard.
    #[arg(long, default_value_t = ShardConfig::default().hot_tail_bytes)]
    hot_tail_bytes: usize,
    /// Bytes of the chunks that are written behind, or one frame if that is larger.
    #[arg(long, default_value_t = ShardConfig::default().chunk_bytes)]
    chunk_bytes: usize,
    /// Answer when written, not when durable.
    #[arg(long)]
    unflushed: bool,
    /// Where the files go: on the disk that is to be measured.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Writes every run here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Sends to these addresses: what the process is that this one starts.
    #[arg(long, hide = true, value_delimiter = ',')]
    send_to: Vec<SocketAddr>,
}

/// What one run is asked for.
#[derive(Debug, Clone)]
struct Work {
    dir: PathBuf,
    frame_bytes: usize,
    connections: usize,
    depth: usize,
    /// Of each connection.
    frames: u64,
    shards: usize,
    unflushed: bool,
    /// Of each shard.
    settings: ShardConfig,
    /// Lets the shards begin together.
    start: Arc<Barrier>,
}

impl Work {
    fn of(options: &Options, frame_bytes: usize, bytes: u64, dir: &Path) -> Self {
        let shards = options.shards.min(options.connections).max(1);
        Work {
            dir: dir.to_owned(),
            frame_bytes,
            connections: options.connections,
            depth: options.depth,
            frames: bytes.div_ceil((options.connections * frame_bytes) as u64),
            shards,
            unflushed: options.unflushed,
            settings: ShardConfig {
                hot_tail_bytes: options.hot_tail_bytes,
                chunk_bytes: options.chunk_bytes.max(frame_bytes) / frame_bytes * frame_bytes,
                ..ShardConfig::default()
            },
            start: Arc::new(Barrier::new(shards + 1)),
        }
    }

    /// Connections that belong to `shard`.
    fn connections_of(&self, shard: usize) -> usize {
        (shard..self.connections).step_by(self.shards).count()
    }
}

/// What one run of one shard took.
#[derive(Debug, Clone, Copy)]
struct Measured {
    frames: u64,
    /// Until the last answer was sent.
    acknowledged: Duration,
    /// Until the last chunk was written.
    drained: Duration,
    /// Journal groups.
    groups: u64,
    /// System calls into the ring.
    enters: u64,
}

impl Measured {
    /// What shards that ran at the same time did together.
    fn and(self, other: Measured) -> Self {
        Measured {
            frames: self.frames + other.frames,
            acknowledged: self.acknowledged.max(other.acknowledged),
            drained: self.drained.max(other.drained),
            groups: self.groups + other.groups,
            enters: self.enters + other.enters,
        }
    }
}

/// A frame of exactly `size_bytes`: its size, room for a request's fields, and a batch.
fn frame(size_bytes: usize) -> Bytes {
    let mut frame = vec![0; HEAD_BYTES];
    let rest = u32::try_from(size_bytes - SIZE_BYTES).expect("a frame's size fits");
    frame[..SIZE_BYTES].copy_from_slice(&rest.to_be_bytes());
    frame.extend_from_slice(&batch::batch(size_bytes - HEAD_BYTES));
    assert_eq!(frame.len(), size_bytes);
    frame.into()
}

/// The process that sends, which waits for a word on its standard input.
fn start_sender(work: &Work, addresses: &[SocketAddr]) -> Child {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let bytes = work.frames * (work.frame_bytes * work.connections) as u64;
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--send-to", &addresses.join(","), "--frames", &work.frame_bytes.to_string()])
        .args(["--connections", &work.connections.to_string(), "--depth", &work.depth.to_string()])
        .args(["--bytes", &bytes.to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .expect("a process that sends")
}

fn run(options: &Options, frame_bytes: usize, bytes: u64) -> report::Run {
    let scratch = tempfile::tempdir_in(&options.dir).expect("a folder on the disk to be measured");
    let work = Work::of(options, frame_bytes, bytes, scratch.path());
    let (tell_address, addresses) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let states: Vec<_> = (0..work.shards).map(|shard| (work.clone(), shard)).collect();
    let runtime = Runtime::start(&RuntimeConfig::default(), states, move |io, (work, shard)| {
        let (tell_address, tell) = (tell_address.clone(), tell.clone());
        async move {
            let address = |address| tell_address.send((shard, address)).expect("somebody waits");
            tell.send(receiver::run(io, work, shard, address).await).expect("somebody waits");
        }
    })
    .expect("shards");
    let mut addresses: Vec<(usize, SocketAddr)> = addresses.iter().take(work.shards).collect();
    addresses.sort_unstable();
    let addresses: Vec<_> = addresses.into_iter().map(|(_, address)| address).collect();
    let mut sender = start_sender(&work, &addresses);

    // Every connection is there.
    work.start.wait();
    let before = cpu::Cpu::now();
    sender.stdin.take().expect("piped").write_all(b"!").expect("it waits");
    let measured = told.iter().take(work.shards).reduce(Measured::and).expect("at least one shard");
    let cpu = cpu::Cpu::now().since(&before);
    assert!(sender.wait().expect("it ends").success(), "the process that sends failed");
    if let Err(panic) = runtime.join() {
        std::panic::resume_unwind(panic);
    }
    report::Run { frame_bytes, connections: work.connections, shards: work.shards, measured, cpu }
}

fn main() {
    let options = Options::parse();
    if !options.send_to.is_empty() {
        return sender::send(&options);
    }
    assert!(options.dir.is_dir(), "{} is no folder: --dir names one on the disk", options.dir.display());
    for &frame_bytes in &options.frames {
        let whole = frame_bytes > 0 && frame_bytes.is_multiple_of(IO_ALIGNMENT);
        assert!(whole, "--frames {frame_bytes} is no multiple of {IO_ALIGNMENT}");
    }
    for &frame_bytes in &options.frames {
        run(&options, frame_bytes, options.bytes.min(1 << 30));
    }
    let mut runs = Vec::new();
    for _ in 0..options.runs {
        for &frame_bytes in &options.frames {
            let run = run(&options, frame_bytes, options.bytes);
            println!("{run}");
            runs.push(run);
        }
    }
    for &frame_bytes in &options.frames {
        println!("{}", report::summary(&runs, frame_bytes));
    }
    if let Some(path) = &options.json {
        std::fs::write(path, report::json(&runs)).expect("the results are written");
    }
}
