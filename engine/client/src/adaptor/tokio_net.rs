//! Connections by `tokio`: over TCP, or to a broker in the same process.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::{TcpStream, UnixStream};

use super::driver::{Stream, Transport};
use super::io_thread::Connect;
use crate::wire::FrameReader;

/// Parts of one write call; the kernel takes up to 1,024.
const MAX_PARTS: usize = 128;

/// TCP.
pub(super) struct Tokio;

/// A broker in this process, whatever address it says it has.
pub(super) struct InProcess(pub(super) Connect);

/// A stream that is ready before it is tried.
pub(super) trait Ready: 'static {
    async fn readable(&self) -> io::Result<()>;
    async fn writable(&self) -> io::Result<()>;
    fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize>;
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
}

macro_rules! ready {
    ($stream:ty) => {
        impl Ready for $stream {
            async fn readable(&self) -> io::Result<()> {
                <$stream>::readable(self).await
            }
            async fn writable(&self) -> io::Result<()> {
                <$stream>::writable(self).await
            }
            fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
                <$stream>::try_read_buf(self, buffer)
            }
            fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
                <$stream>::try_write_vectored(self, slices)
            }
        }
    };
}

ready!(TcpStream);
ready!(UnixStream);

pub(super) struct TokioStream<S>(S);

impl Transport for Tokio {
    type Stream = TokioStream<TcpStream>;

    async fn connect(&self, host: &str, port: u16) -> io::Result<Self::Stream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(TokioStream(stream))
    }
}

impl Transport for InProcess {
    type Stream = TokioStream<UnixStream>;

    async fn connect(&self, _host: &str, _port: u16) -> io::Result<Self::Stream> {
        let stream = (self.0)()?;
        stream.set_nonblocking(true)?;
        Ok(TokioStream(UnixStream::from_std(stream)?))
    }
}

impl<S: Ready> Stream for TokioStream<S> {
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
