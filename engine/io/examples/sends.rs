//! What it costs the kernel to send the bytes of a log, by each way there is: the limit of any fetch.
//!
//!     cargo run --release -p highwater-io --example sends -- [--rounds 3] [--bytes 4000000000] [--dir target]
//!
//! A bare loop sends to a process that receives as a client does (it reads everything into one buffer of 256 KiB), over
//! loopback, 1 MiB a system call:
//!
//! * `memory`: sendmsg(2) of 16 pieces, out of as much memory as the hot tail has
//! * `memory, zero copy`: the same with `MSG_ZEROCOPY`, whose mechanism `IORING_OP_SEND_ZC` has, too
//! * `page cache`: sendfile(2) of a file that is in the page cache, which looks at no byte
//! * `page cache, read`: pread(2) of it and send(2), as one must who looks at checksums
//! * `direct`: pread(2) with `O_DIRECT` of the same file, and send(2)
//! * `sparse file`: sendfile(2) again, of holes: the page cache from nowhere
//!
//! Processor time is the sender's, what the kernel does on its behalf included; over loopback that is the receiving half of
//! the network stack as well, for every way alike. Rounds are interleaved.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PART_BYTES: usize = 1 << 20;
const PIECES: usize = 16;
const MEMORY_BYTES: usize = 192 << 20;
const FILE_BYTES: usize = 1 << 30;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Memory,
    MemoryZeroCopy,
    PageCache,
    PageCacheRead,
    Direct,
    Sparse,
}

const WAYS: [(Way, &str); 6] = [
    (Way::Memory, "memory"),
    (Way::MemoryZeroCopy, "memory, zero copy"),
    (Way::PageCache, "page cache"),
    (Way::PageCacheRead, "page cache, read"),
    (Way::Direct, "direct"),
    (Way::Sparse, "sparse file"),
];

/// What is sent.
struct Sources {
    memory: Aligned,
    cached: File,
    direct: Option<File>,
    sparse: File,
}

/// Memory that direct I/O takes.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![7; len + 4096];
        let start = bytes.as_ptr().align_offset(4096);
        Aligned { bytes, start, len }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Processor time of this process.
fn processor_time() -> Duration {
    // SAFETY: all zeros are a valid `rusage`, which has only integers.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the call.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut used) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    let of = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    of(used.ru_utime) + of(used.ru_stime)
}

/// Sends all of `bytes` in pieces.
fn send_message(stream: &TcpStream, mut bytes: &[u8], flags: i32) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut pieces: Vec<libc::iovec> = bytes
            .chunks(PART_BYTES / PIECES)
            .map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() })
            .collect();
        // SAFETY: all zeros are a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = pieces.as_mut_ptr();
        message.msg_iovlen = pieces.len() as _;
        // SAFETY: the message and what it points to outlive the call; with zero copy the memory is kept, unchanged, until
        // the process ends.
        let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, flags) };
        bytes = &bytes[checked(sent)?..];
    }
    Ok(())
}

/// Takes what the kernel tells of finished sends without a copy; how many of them it copied all the same.
fn take_notices(stream: &TcpStream) -> u64 {
    let mut copied = 0;
    loop {
        let mut control = [0u64; 16];
        // SAFETY: all zeros are a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = std::mem::size_of_val(&control) as _;
        // SAFETY: the message and its control buffer outlive the call.
        let got = unsafe {
            libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
        };
        if got < 0 {
            return copied;
        }
        // A header of 16 bytes, then `sock_extended_err`: errno, origin, type, code, pad, info, data.
        let words: Vec<u32> = control.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]).collect();
        let code = words[5] >> 16 & 0xff;
        let (first, last) = (words[6], words[7]);
        if code & 1 != 0 {
            copied += u64::from(last.wrapping_sub(first)) + 1;
        }
    }
}

fn send_file(stream: &TcpStream, file: &File, position: usize, len: usize) -> io::Result<()> {
    let (mut offset, end) = (position as libc::off_t, (position + len) as libc::off_t);
    while offset < end {
        // SAFETY: the offset outlives the call.
        let sent = unsafe {
            libc::sendfile(stream.as_raw_fd(), file.as_raw_fd(), &raw mut offset, (end - offset) as usize)
        };
        if checked(sent)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn send(way: Way, sources: &mut Sources, stream: &TcpStream, buf: &mut Aligned, at: usize) -> io::Result<()> {
    let in_file = at % FILE_BYTES;
    match way {
        Way::Memory | Way::MemoryZeroCopy => {
            let flags = if way == Way::MemoryZeroCopy { libc::MSG_ZEROCOPY } else { 0 };
            let from = at % MEMORY_BYTES;
            send_message(stream, &sources.memory.get()[from..from + PART_BYTES], flags)
        }
        Way::PageCache => send_file(stream, &sources.cached, in_file, PART_BYTES),
        Way::Sparse => send_file(stream, &sources.sparse, in_file, PART_BYTES),
        Way::PageCacheRead | Way::Direct => {
            let direct = sources.direct.as_ref().filter(|_| way == Way::Direct);
            direct.unwrap_or(&sources.cached).read_exact_at(buf.get(), in_file as u64)?;
            send_message(stream, buf.get(), 0)
        }
    }
}

fn receiver() -> io::Result<(Child, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let program = std::env::current_exe()?;
    let address = listener.local_addr()?.to_string();
    let child = Command::new(program).args(["receive", &address]).stdin(Stdio::null()).spawn()?;
    let (stream, _) = listener.accept()?;
    let on: libc::c_int = 1;
    // SAFETY: the value outlives the call, and has the size that is said.
    let set = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, (&raw const on).cast(), 4)
    };
    checked(set as isize)?;
    Ok((child, stream))
}

fn receive(address: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut buf = vec![0; 256 << 10];
    while stream.read(&mut buf)? > 0 {}
    Ok(())
}

/// MB/s, MB per processor second, and the share of sends that were copied though none was asked for.
fn measure(way: Way, sources: &mut Sources, bytes: usize) -> io::Result<(f64, f64, f64)> {
    let (mut child, stream) = receiver()?;
    let mut buf = Aligned::new(PART_BYTES);
    let (begin, cpu) = (Instant::now(), processor_time());
    let (mut at, mut copied, mut sends) = (0, 0, 0_u64);
    while at < bytes {
        send(way, sources, &stream, &mut buf, at)?;
        at += PART_BYTES;
        sends += 1;
        if way == Way::MemoryZeroCopy {
            copied += take_notices(&stream);
        }
    }
    drop(stream);
    child.wait()?;
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), (processor_time() - cpu).as_secs_f64());
    let megabytes = at as f64 / 1e6;
    Ok((megabytes / seconds, megabytes / cpu, copied as f64 / sends as f64))
}

fn sources(dir: &Path) -> io::Result<Sources> {
    let cached = tempfile::tempfile_in(dir)?;
    let name = PathBuf::from(format!("/proc/self/fd/{}", cached.as_raw_fd()));
    let mut chunk = Aligned::new(PART_BYTES);
    for _ in 0..FILE_BYTES / PART_BYTES {
        (&cached).write_all(chunk.get())?;
    }
    cached.sync_all()?;
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(name).ok();
    let sparse = tempfile::tempfile_in(dir)?;
    sparse.set_len(FILE_BYTES as u64)?;
    Ok(Sources { memory: Aligned::new(MEMORY_BYTES), cached, direct, sparse })
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [what, address] = &arguments[..]
        && what == "receive"
    {
        return receive(address);
    }
    let of = |name: &str| arguments.iter().position(|word| word == name).and_then(|at| arguments.get(at + 1));
    let number = |name: &str, default: usize| {
        of(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} takes a number")))
    };
    let (rounds, bytes) = (number("--rounds", 3), number("--bytes", 4_000_000_000));
    let mut sources = sources(Path::new(of("--dir").map_or("target", String::as_str)))?;
    for (way, _) in WAYS {
        measure(way, &mut sources, bytes / 8)?;
    }
    for _ in 0..rounds {
        for (way, name) in WAYS {
            let (speed, economy, copied) = measure(way, &mut sources, bytes)?;
            let note = if way == Way::MemoryZeroCopy {
                format!("  {:.0} % copied", copied * 100.0)
            } else {
                String::new()
            };
            println!("{name:18} {speed:7.0} MB/s  {economy:7.0} MB per CPU-second{note}");
        }
    }
    Ok(())
}
