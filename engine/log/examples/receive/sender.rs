//! The other process: sends prepared frames and counts answers.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Barrier};

use crate::{ANSWER_BYTES, Options, frame};

/// Connects, waits for a word on standard input, and sends until everything is answered.
pub(crate) fn send(options: &Options) {
    let frame_bytes = options.frames[0];
    let frames = options.bytes / (options.connections * frame_bytes) as u64;
    // What may be sent at once is sent with one call.
    let several: Arc<[u8]> = frame(frame_bytes).repeat(options.depth).into();
    let go = Arc::new(Barrier::new(options.connections + 1));
    let threads: Vec<_> = (0..options.connections)
        .map(|number| {
            let stream =
                TcpStream::connect(options.send_to[number % options.send_to.len()]).expect("connects");
            stream.set_nodelay(true).expect("a socket");
            let (several, go, depth) = (Arc::clone(&several), Arc::clone(&go), options.depth as u64);
            std::thread::spawn(move || {
                go.wait();
                send_all(stream, &several, frame_bytes, frames, depth)
            })
        })
        .collect();
    let mut word = [0];
    io::stdin().read_exact(&mut word).expect("the process that receives is there");
    go.wait();
    for thread in threads {
        thread.join().expect("no panic").expect("every frame is answered");
    }
}

fn send_all(
    mut stream: TcpStream,
    several: &[u8],
    frame_bytes: usize,
    frames: u64,
    depth: u64,
) -> io::Result<()> {
    let mut answers = [0; 4096];
    let (mut sent, mut answered_bytes) = (0, 0);
    loop {
        let answered = answered_bytes / ANSWER_BYTES as u64;
        let room = (frames - sent).min(depth - (sent - answered));
        stream.write_all(&several[..usize::try_from(room).expect("at most the depth") * frame_bytes])?;
        sent += room;
        if answered == frames {
            return Ok(());
        }
        match stream.read(&mut answers)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            received => answered_bytes += received as u64,
        }
    }
}
