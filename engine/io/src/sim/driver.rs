//! The simulated side of the seam: what a shard's [`Io`](crate::Io) calls.
//!
//! A handle belongs to one process. Once that is dead, nothing it does has an effect and nothing it waits for comes:
//! destructors that run because a killed node's tasks are dropped change nothing.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::core::Core;
use super::disk::{
    Action, DescriptionId, DiskId, Errno, Opened, Reply, Slot, Submission, components, display_path,
};
use super::kernel::{Event, ProcessId};
use super::net::{ConnectionId, ListenerId, Side};
use crate::buf::{IO_ALIGNMENT, IoBuf};
use crate::error::{FileError, FileOp};
use crate::fs::{DirEntry, Durability, Metadata, OpenOptions, Space};
use crate::net::ListenOptions;
use crate::time::{MonoTime, WallTime};

/// What [`Driver::exit_now`] unwinds with; the world catches it.
pub(crate) struct ExitNow;

#[derive(Clone)]
pub(crate) struct Driver {
    core: Rc<RefCell<Core>>,
    node: usize,
    process: ProcessId,
    shard: usize,
    /// How far the process's monotonic clock is ahead of the world's.
    clock_ahead: Duration,
    disk: DiskId,
    recv_buffer_bytes: usize,
}

impl Driver {
    pub(crate) fn new(core: &Rc<RefCell<Core>>, node: usize, process: ProcessId, shard: usize) -> Self {
        let state = core.borrow();
        let clock_ahead = state.nodes[node].process.as_ref().map_or(Duration::ZERO, |it| it.clock_ahead);
        Driver {
            core: Rc::clone(core),
            node,
            process,
            shard,
            clock_ahead,
            disk: state.nodes[node].disk,
            recv_buffer_bytes: state.net.recv_buffer_bytes(),
        }
    }

    /// Does something to the world, if this process is alive.
    fn act<R>(&self, act: impl FnOnce(&mut Core) -> R) -> Option<R> {
        let mut core = self.core.borrow_mut();
        core.kernel.is_alive(self.process).then(|| act(&mut core))
    }

    /// As [`act`](Self::act), for a poll: a dead process waits for ever.
    fn poll<R>(&self, act: impl FnOnce(&mut Core) -> Poll<R>) -> Poll<R> {
        self.act(act).unwrap_or(Poll::Pending)
    }

    pub(crate) fn now(&self) -> MonoTime {
        self.core.borrow().kernel.now + self.clock_ahead
    }

    pub(crate) fn wall_time(&self) -> WallTime {
        self.core.borrow().wall_time(self.node)
    }

    /// Lets a little virtual time pass, or none.
    async fn pause(&self) {
        let mut until = None;
        poll_fn(|cx| {
            self.poll(|core| {
                let kernel = &mut core.kernel;
                let until = *until.get_or_insert_with(|| match kernel.chance.coin() {
                    true => kernel.now,
                    false => kernel.now + Duration::from_nanos(kernel.chance.below(20_000)),
                });
                if kernel.now >= until {
                    return Poll::Ready(());
                }
                kernel.schedule(until, Event::Wake(cx.waker().clone()));
                Poll::Pending
            })
        })
        .await;
    }

    /// Asks the disk and waits for the answer.
    async fn ask(
        &self,
        path: &Path,
        description: Option<DescriptionId>,
        action: Action,
    ) -> Result<Reply, Errno> {
        let slot = self.act(|core| {
            let Core { disks, kernel, .. } = core;
            let submission = Submission {
                process: self.process,
                shard: self.shard,
                path: display_path(path),
                description,
                action,
            };
            disks[self.disk.0].submit(kernel, submission)
        });
        match slot {
            Some(slot) => Answer { driver: self, slot }.await,
            None => pending().await,
        }
    }

    async fn ask_path(&self, op: FileOp, path: &Path, action: Action) -> Result<Reply, FileError> {
        let reply = self.ask(path, None, action).await;
        reply.map_err(|errno| FileError::new(op, path, io::Error::from_raw_os_error(errno)))
    }

    pub(crate) async fn open(&self, path: &Path, options: OpenOptions) -> Result<File, FileError> {
        let action = Action::Open { names: components(path), options };
        let Opened { description, direct } = self.ask_path(FileOp::Open, path, action).await?.opened();
        Ok(File { driver: self.clone(), description, direct, path: Rc::from(path) })
    }

    pub(crate) async fn create_dir(&self, path: &Path) -> Result<(), FileError> {
        self.ask_path(FileOp::Create, path, Action::CreateDir { names: components(path) }).await.map(drop)
    }

    pub(crate) async fn remove_file(&self, path: &Path) -> Result<(), FileError> {
        self.ask_path(FileOp::Remove, path, Action::RemoveFile { names: components(path) }).await.map(drop)
    }

    pub(crate) async fn remove_dir(&self, path: &Path) -> Result<(), FileError> {
        self.ask_path(FileOp::Remove, path, Action::RemoveDir { names: components(path) }).await.map(drop)
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        let action = Action::Rename { from: components(from), to: components(to) };
        self.ask_path(FileOp::Rename, from, action).await.map(drop)
    }

    pub(crate) async fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>, FileError> {
        let action = Action::ReadDir { names: components(path) };
        self.ask_path(FileOp::List, path, action).await.map(Reply::entries)
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> Result<(), FileError> {
        let directory = self.act(|core| core.disks[self.disk.0].directory_to_sync(&components(path)));
        let Some(directory) = directory else { return pending().await };
        self.ask_path(FileOp::SyncDirectory, path, Action::SyncDir { directory }).await.map(drop)
    }

    pub(crate) async fn metadata(&self, path: &Path) -> Result<Metadata, FileError> {
        let action = Action::Metadata { names: components(path) };
        self.ask_path(FileOp::Metadata, path, action).await.map(Reply::metadata)
    }

    pub(crate) async fn space(&self, path: &Path) -> Result<Space, FileError> {
        let action = Action::Space { names: components(path) };
        self.ask_path(FileOp::Space, path, action).await.map(Reply::space)
    }

    pub(crate) async fn direct_io_alignment(&self, path: &Path) -> Result<usize, FileError> {
        let action = Action::DirectAlignment { names: components(path) };
        self.ask_path(FileOp::Metadata, path, action).await.map(|reply| reply.number() as usize)
    }

    pub(crate) async fn listen(
        &self,
        address: SocketAddr,
        options: ListenOptions,
    ) -> io::Result<TcpListener> {
        self.pause().await;
        match self.act(|core| core.net.listen(self.node, self.process, address, options)) {
            Some(Ok((id, address))) => Ok(TcpListener { driver: self.clone(), id, address }),
            Some(Err(errno)) => Err(io::Error::from_raw_os_error(errno)),
            None => pending().await,
        }
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let begun = self.act(|core| core.net.connect(&mut core.kernel, self.node, self.process, address));
        let (id, own) = match begun {
            Some(begun) => begun.map_err(io::Error::from_raw_os_error)?,
            None => return pending().await,
        };
        // From here on the stream's destructor ends the attempt.
        let stream = TcpStream { driver: self.clone(), id, side: Side::Client, local: own, peer: address };
        let connected = poll_fn(|cx| self.poll(|core| core.net.poll_connected(id, cx))).await;
        connected.map(|()| stream).map_err(io::Error::from_raw_os_error)
    }

    pub(crate) async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.pause().await;
        let node = self.core.borrow().nodes.iter().find(|node| node.name == host).map(|node| node.address);
        let found = match host {
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            _ => host.parse().ok().or(node),
        };
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("no node is called {host}"));
        found.map(|address| vec![SocketAddr::new(address, port)]).ok_or_else(unknown)
    }

    pub(crate) async fn stop_requested(&self) {
        poll_fn(|cx| {
            let mut core = self.core.borrow_mut();
            let Some(process) = core.process(self.node, self.process) else { return Poll::Pending };
            if process.stop_requested {
                return Poll::Ready(());
            }
            let waiting = &mut process.waiting_for_stop;
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    pub(crate) fn exit_now(&self, code: i32) -> ! {
        {
            let mut core = self.core.borrow_mut();
            if let Some(process) = core.process(self.node, self.process) {
                process.exit_code = Some(code);
            }
            core.kernel.mark_dead(self.process);
        }
        std::panic::resume_unwind(Box::new(ExitNow))
    }
}

/// Waits for the answer to a request. Dropping it abandons the request, which may happen all the same.
struct Answer<'a> {
    driver: &'a Driver,
    slot: Rc<Slot>,
}

impl Future for Answer<'_> {
    type Output = Result<Reply, Errno>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.slot.poll(cx)
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if let Some(Ok(Reply::Opened(opened))) = self.slot.abandon() {
            self.driver.act(|core| core.disks[self.driver.disk.0].close(opened.description));
        }
    }
}

pub(crate) struct File {
    driver: Driver,
    description: DescriptionId,
    direct: bool,
    path: Rc<Path>,
}

impl File {
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    async fn ask(&self, op: FileOp, position: Option<u64>, action: Action) -> Result<Reply, FileError> {
        let reply = self.driver.ask(&self.path, Some(self.description), action).await;
        reply.map_err(|errno| {
            let source = io::Error::from_raw_os_error(errno);
            match position {
                Some(position) => FileError::at(op, &*self.path, position, source),
                None => FileError::new(op, &*self.path, source),
            }
        })
    }

    pub(crate) async fn read_at(
        &self,
        buf: IoBuf,
        position_bytes: u64,
        len: usize,
    ) -> Result<IoBuf, FileError> {
        let action = Action::Read { buf: Some(buf), position: position_bytes, len };
        self.ask(FileOp::Read, Some(position_bytes), action).await.map(Reply::read)
    }

    pub(crate) async fn write_at(
        &self,
        data: Vec<Bytes>,
        position_bytes: u64,
        durability: Durability,
    ) -> Result<(), FileError> {
        let action = Action::Write { data, position: position_bytes, durability };
        self.ask(FileOp::Write, Some(position_bytes), action).await.map(drop)
    }

    pub(crate) async fn sync_data(&self) -> Result<(), FileError> {
        self.ask(FileOp::SyncData, None, Action::Flush).await.map(drop)
    }

    pub(crate) async fn sync_all(&self) -> Result<(), FileError> {
        self.ask(FileOp::SyncAll, None, Action::Flush).await.map(drop)
    }

    pub(crate) async fn allocate(&self, position_bytes: u64, len_bytes: u64) -> Result<(), FileError> {
        let action = Action::Allocate { position: position_bytes, len: len_bytes };
        self.ask(FileOp::Allocate, Some(position_bytes), action).await.map(drop)
    }

    pub(crate) async fn set_len(&self, len_bytes: u64) -> Result<(), FileError> {
        self.ask(FileOp::SetLength, Some(len_bytes), Action::SetLen { len: len_bytes }).await.map(drop)
    }

    pub(crate) async fn len(&self) -> Result<u64, FileError> {
        self.ask(FileOp::Metadata, None, Action::Len).await.map(Reply::number)
    }

    pub(crate) async fn try_lock(&self) -> Result<bool, FileError> {
        self.ask(FileOp::Lock, None, Action::TryLock).await.map(Reply::locked)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.driver.act(|core| core.disks[self.driver.disk.0].close(self.description));
    }
}

pub(crate) struct TcpListener {
    driver: Driver,
    id: ListenerId,
    address: SocketAddr,
}

impl TcpListener {
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn accept(&self) -> io::Result<TcpStream> {
        let (id, local, peer) =
            poll_fn(|cx| self.driver.poll(|core| core.net.poll_accept(self.id, cx))).await;
        Ok(TcpStream { driver: self.driver.clone(), id, side: Side::Server, local, peer })
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.driver.act(|core| core.net.close_listener(&mut core.kernel, self.id));
    }
}

pub(crate) struct TcpStream {
    driver: Driver,
    id: ConnectionId,
    side: Side,
    local: SocketAddr,
    peer: SocketAddr,
}

/// Bytes of a file that one step of [`TcpStream::send_file`] moves.
const SEND_FILE_STEP: usize = 64 * 1024;

impl TcpStream {
    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn poll_recv(&self, limit: usize, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let received =
            self.driver.poll(|core| core.net.poll_recv(&mut core.kernel, (self.id, self.side), limit, cx));
        received.map_err(io::Error::from_raw_os_error)
    }

    pub(crate) async fn recv(&self) -> io::Result<Bytes> {
        poll_fn(|cx| self.poll_recv(self.driver.recv_buffer_bytes, cx)).await
    }

    pub(crate) async fn recv_into(&self, mut buf: IoBuf, least: usize, most: usize) -> io::Result<IoBuf> {
        let (target, limit) = (buf.len() + least, buf.len() + most);
        while buf.len() < target {
            let received = poll_fn(|cx| self.poll_recv(limit - buf.len(), cx)).await?;
            if received.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buf.extend_from_slice(&received);
        }
        Ok(buf)
    }

    pub(crate) async fn hung_up(&self) {
        poll_fn(|cx| self.driver.poll(|core| core.net.poll_hung_up((self.id, self.side), cx))).await;
    }

    pub(crate) async fn send(&self, data: Vec<Bytes>) -> io::Result<()> {
        let mut data = VecDeque::from(data);
        let sent = poll_fn(|cx| {
            self.driver.poll(|core| core.net.poll_send(&mut core.kernel, (self.id, self.side), &mut data, cx))
        })
        .await;
        self.driver.pause().await;
        sent.map_err(io::Error::from_raw_os_error)
    }

    pub(crate) async fn send_file(&self, file: &File, position_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let end = position_bytes + len_bytes;
        let mut at = position_bytes;
        while at < end {
            // Read from an aligned position, since the file may be open for direct I/O.
            let skip = at % IO_ALIGNMENT as u64;
            let buf = IoBuf::with_capacity(SEND_FILE_STEP);
            let read = file.read_at(buf, at - skip, SEND_FILE_STEP).await.map_err(|error| error.source)?;
            let piece = read.freeze();
            let wanted = skip + (end - at);
            let piece = piece.slice(..piece.len().min(usize::try_from(wanted).unwrap_or(usize::MAX)));
            if piece.len() as u64 <= skip {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let piece = piece.slice(skip as usize..);
            at += piece.len() as u64;
            self.send(vec![piece]).await?;
        }
        Ok(())
    }

    pub(crate) fn shutdown(&self) {
        self.driver.act(|core| core.net.shutdown(&mut core.kernel, self.id, self.side));
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.driver.act(|core| core.net.close(&mut core.kernel, self.id, self.side));
    }
}
