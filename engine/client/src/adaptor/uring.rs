//! Connections by `tokio-uring`: the same, through io_uring.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;

use bytes::Bytes;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;

use super::driver::{Stream, Transport};
use super::tokio_net::advance;
use crate::wire::FrameReader;

/// Parts of one write; the kernel takes up to 1,024.
const MAX_PARTS: usize = 128;

pub(super) struct Uring;

pub(super) struct UringStream(TcpStream);

impl Transport for Uring {
    type Stream = UringStream;

    async fn connect(&self, host: &str, port: u16) -> io::Result<UringStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in tokio::net::lookup_host((host, port)).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(UringStream(stream));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Stream for UringStream {
    async fn read(&self, reader: &mut FrameReader) -> io::Result<usize> {
        let buffer = std::mem::take(reader.buffer_mut());
        let filled = buffer.len();
        let (read, slice) = self.0.read(buffer.slice(filled..)).await;
        *reader.buffer_mut() = slice.into_inner();
        read
    }

    async fn write(&self, parts: Vec<Bytes>) -> io::Result<()> {
        let mut parts = VecDeque::from(parts);
        while !parts.is_empty() {
            let batch: Vec<Bytes> = parts.iter().take(MAX_PARTS).cloned().collect();
            let (written, _) = self.0.writev(batch).await;
            match written? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => advance(&mut parts, written),
            }
        }
        Ok(())
    }

    fn shutdown(&self) {
        // An operation under way keeps the descriptor, and ends only when the connection does. A connection that is
        // gone already cannot be ended once more.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
