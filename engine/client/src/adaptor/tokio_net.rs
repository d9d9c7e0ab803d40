//! Connections by `tokio`.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

use super::driver::{Stream, Transport};
use crate::wire::FrameReader;

/// Parts of one write call; the kernel takes up to 1,024.
const MAX_PARTS: usize = 128;

pub(super) struct Tokio;

pub(super) struct TokioStream(TcpStream);

impl Transport for Tokio {
    type Stream = TokioStream;

    async fn connect(host: &str, port: u16) -> io::Result<TokioStream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(TokioStream(stream))
    }
}

impl Stream for TokioStream {
    async fn read(&self, reader: &mut FrameReader) -> io::Result<usize> {
        loop {
            self.0.readable().await?;
            match self.0.try_read_buf(reader.buffer_mut()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    async fn write(&self, parts: Vec<Bytes>) -> io::Result<()> {
        let mut parts = VecDeque::from(parts);
        while !parts.is_empty() {
            self.0.writable().await?;
            let written = {
                let slices: Vec<IoSlice<'_>> =
                    parts.iter().take(MAX_PARTS).map(|part| IoSlice::new(part)).collect();
                match self.0.try_write_vectored(&slices) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    done => done?,
                }
            };
            advance(&mut parts, written);
        }
        Ok(())
    }

    fn shutdown(&self) {
        // Dropping the stream closes it: nothing of it is in the kernel's hands.
    }
}

/// Drops the first `count` bytes of `parts`.
pub(super) fn advance(parts: &mut VecDeque<Bytes>, mut count: usize) {
    while let Some(first) = parts.front_mut() {
        if first.len() > count {
            first.advance(count);
            return;
        }
        count -= first.len();
        parts.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advance_drops_whole_and_partial_parts() {
        let parts = || VecDeque::from([&b"abc"[..], b"", b"de"].map(Bytes::from_static));
        for (count, left) in [(0, "abcde"), (2, "cde"), (3, "de"), (4, "e"), (5, "")] {
            let mut parts = parts();
            advance(&mut parts, count);
            let rest: Vec<u8> = parts.iter().flatten().copied().collect();
            assert_eq!(rest, left.as_bytes(), "{count}");
        }
    }
}
