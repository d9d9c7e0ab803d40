//! Sockets, as far as drivers set them up alike.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::net::ListenOptions;

/// The addresses of a stream.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
}

impl Ends {
    /// Those of one end of a pair that this process has both of, neither of which has an address.
    pub(crate) const NOWHERE: Ends = {
        let nowhere = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Ends { local: nowhere, peer: nowhere }
    };
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the socket has no IP address")
}

pub(crate) fn open_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
}

/// A socket that listens, and where.
pub(crate) fn listen(address: SocketAddr, options: ListenOptions) -> io::Result<(Socket, SocketAddr)> {
    let socket = open_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    let local_addr = socket.local_addr()?.as_socket().ok_or_else(no_address)?;
    Ok((socket, local_addr))
}

/// Sets up a connected socket as every stream is.
pub(crate) fn set_up_stream(socket: impl AsFd) -> io::Result<Ends> {
    let options = SockRef::from(&socket);
    options.set_tcp_nodelay(true)?;
    let local = options.local_addr()?.as_socket().ok_or_else(no_address)?;
    let peer = options.peer_addr()?.as_socket().ok_or_else(no_address)?;
    Ok(Ends { local, peer })
}

/// Whether an error of accept(2) says something about the listener or the process, and not about one connection that
/// went before it was accepted.
pub(crate) fn concerns_the_listener(errno: i32) -> bool {
    !matches!(
        errno,
        libc::ECANCELED
            | libc::EINTR
            | libc::EAGAIN
            | libc::ECONNABORTED
            | libc::ECONNRESET
            | libc::EPROTO
            | libc::EPERM
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::ETIMEDOUT
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENONET
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_errors_of_one_connection_are_told_from_those_of_the_process() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EINVAL, libc::EBADF] {
            assert!(concerns_the_listener(errno), "errno {errno}");
        }
        for errno in [libc::ECONNABORTED, libc::EPROTO, libc::ENETUNREACH, libc::EINTR] {
            assert!(!concerns_the_listener(errno), "errno {errno}");
        }
    }
}
