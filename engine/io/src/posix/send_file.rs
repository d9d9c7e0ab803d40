//! Bytes from a file to a socket without a copy through user space (sendfile(2)).
//!
//! The call may wait for the disk, so it is a job; it does not wait for the socket, which does not block.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::sendfile;
use rustix::io::Errno;

use super::source::Source;

/// Bytes that one job sends at most.
const JOB_BYTES: u64 = 1 << 20;

/// Sends `len_bytes` of `file` from `position_bytes`.
pub(super) async fn send_file(
    source: &Source,
    file: &Arc<OwnedFd>,
    position_bytes: u64,
    len_bytes: u64,
) -> io::Result<()> {
    let mut sent = 0;
    while sent < len_bytes {
        poll_fn(|cx| source.poll_ready(source.writing(), cx)).await;
        // Before the call: an edge that comes while it runs must not be taken back afterwards.
        source.writing().is_exhausted();
        let (from, to) = (Arc::clone(file), Arc::clone(source.socket()));
        let mut position = position_bytes + sent;
        let len = usize::try_from((len_bytes - sent).min(JOB_BYTES)).expect("bounded");
        let moved = source.core().carry_out(move || sendfile(&*to, &*from, Some(&mut position), len)).await;
        match moved {
            Ok(0) => {
                let why = format!("the file ends {} bytes early", len_bytes - sent);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
            Ok(moved) => {
                sent += moved as u64;
                source.writing().is_worth_a_try();
            }
            Err(Errno::AGAIN) => {}
            Err(Errno::INTR) => source.writing().is_worth_a_try(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
