//! One client on one I/O thread: polls its core, performs the actions, tells it what happened.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::drive::{Action, ConnectionId, Core};
use crate::time::MonoTime;
use crate::wire::FrameReader;

/// A core between the threads that use it and the driver.
#[derive(Debug)]
pub(super) struct Shared<C> {
    core: Mutex<C>,
    origin: Instant,
    /// For the driver: something was asked of the core.
    wake: Notify,
    /// For everyone else: the core got somewhere.
    progress: Condvar,
    waiting: AtomicUsize,
    stops: AtomicBool,
    has_stopped: AtomicBool,
}

impl<C: Core> Shared<C> {
    pub(super) fn new(core: C) -> Arc<Self> {
        Arc::new(Shared {
            core: Mutex::new(core),
            origin: Instant::now(),
            wake: Notify::new(),
            progress: Condvar::new(),
            waiting: AtomicUsize::new(0),
            stops: AtomicBool::new(false),
            has_stopped: AtomicBool::new(false),
        })
    }

    pub(super) fn now(&self) -> MonoTime {
        MonoTime(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The core. A thread that panicked while it held the lock has left a core that is whole: no method of a core
    /// leaves it half changed for another to see.
    pub(super) fn lock(&self) -> MutexGuard<'_, C> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the driver look at the core.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Asks the core again and again, each time it got somewhere, until there is an answer or the time is up.
    pub(super) fn wait_for<T>(
        &self,
        timeout: Duration,
        mut ask: impl FnMut(&mut C, MonoTime) -> Option<T>,
    ) -> Option<T> {
        let until = Instant::now().checked_add(timeout);
        let mut core = self.lock();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let answer = loop {
            if let Some(answer) = ask(&mut core, self.now()) {
                break Some(answer);
            }
            // Without a driver nothing will change any more.
            if self.has_stopped.load(Ordering::Acquire) {
                break None;
            }
            let left = until
                .map_or(Duration::from_secs(3600), |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break None;
            }
            core = self.progress.wait_timeout(core, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    fn tell_progress(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.progress.notify_all();
        }
    }

    /// Ends the driver.
    pub(super) fn stop(&self) {
        self.stops.store(true, Ordering::Release);
        self.wake();
    }
}

/// What one kind of client adds to the driver.
pub(super) trait Host: 'static {
    type Core: Core + Send + 'static;

    /// Takes what the core has for the application. The core is locked.
    fn collect(&mut self, core: &mut Self::Core);

    /// Hands on what was taken. The core is not locked.
    fn dispatch(&mut self);

    /// The client is being closed: what is left must come to an end. The core is locked.
    fn stop(&mut self, core: &mut Self::Core);
}

/// How one runtime moves bytes.
pub(super) trait Transport: 'static {
    type Stream: Stream;

    fn connect(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Self::Stream>>;
}

/// A connection. One task reads while another writes.
pub(super) trait Stream: 'static {
    /// Appends received bytes to the reader's buffer; 0 is the end of the stream.
    fn read(&self, reader: &mut FrameReader) -> impl Future<Output = io::Result<usize>>;

    /// Writes all parts.
    fn write(&self, parts: Vec<Bytes>) -> impl Future<Output = io::Result<()>>;

    /// Ends both directions, also for operations under way.
    fn shutdown(&self);
}

/// What a connection's task still has to write. Bounded by the requests that the core allows in flight.
#[derive(Default)]
struct Outbox {
    frames: RefCell<VecDeque<(i32, Vec<Bytes>)>>,
    filled: Notify,
    closed: Notify,
}

/// Tells everyone who waits that nothing will change any more, however the driver ends.
struct Ending<C: Core>(Arc<Shared<C>>);

impl<C: Core> Drop for Ending<C> {
    fn drop(&mut self) {
        self.0.has_stopped.store(true, Ordering::Release);
        // Whoever has just found it false holds the lock until it waits.
        drop(self.0.lock());
        self.0.progress.notify_all();
    }
}

struct Driver<H: Host, T> {
    shared: Arc<Shared<H::Core>>,
    outboxes: RefCell<HashMap<ConnectionId, Rc<Outbox>>>,
    max_frame_bytes: usize,
    transport: T,
}

/// Drives a client until it is stopped.
pub(super) async fn drive<H: Host, T: Transport>(
    shared: Arc<Shared<H::Core>>,
    mut host: H,
    max_frame_bytes: usize,
    transport: T,
) {
    let _ending = Ending(Arc::clone(&shared));
    let driver = Rc::new(Driver::<H, T> {
        shared,
        outboxes: RefCell::new(HashMap::new()),
        max_frame_bytes,
        transport,
    });
    let mut actions = Vec::new();
    loop {
        let stops = driver.shared.stops.load(Ordering::Acquire);
        let now = driver.shared.now();
        let wake_at = {
            let mut core = driver.shared.lock();
            if stops {
                host.stop(&mut core);
            }
            while let Some(action) = core.poll_action(now) {
                actions.push(action);
            }
            host.collect(&mut core);
            core.wake_at()
        };
        for action in actions.drain(..) {
            driver.perform(action);
        }
        host.dispatch();
        if stops {
            break;
        }
        driver.shared.tell_progress();
        let sleep = wake_at.saturating_since(driver.shared.now());
        if wake_at == MonoTime::NEVER {
            driver.shared.wake.notified().await;
        } else if !sleep.is_zero() {
            tokio::select! {
                () = driver.shared.wake.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        } else {
            tokio::task::yield_now().await;
        }
    }
    for outbox in driver.outboxes.borrow().values() {
        outbox.closed.notify_one();
    }
}

impl<H: Host, T: Transport> Driver<H, T> {
    fn perform(self: &Rc<Self>, action: Action) {
        match action {
            Action::Connect { connection, host, port } => {
                let outbox = Rc::new(Outbox::default());
                self.outboxes.borrow_mut().insert(connection, Rc::clone(&outbox));
                tokio::task::spawn_local(Rc::clone(self).connection(connection, host, port, outbox));
            }
            Action::Send { connection, correlation_id, parts } => {
                if let Some(outbox) = self.outboxes.borrow().get(&connection) {
                    outbox.frames.borrow_mut().push_back((correlation_id, parts));
                    outbox.filled.notify_one();
                }
            }
            Action::Disconnect { connection } => {
                if let Some(outbox) = self.outboxes.borrow_mut().remove(&connection) {
                    outbox.closed.notify_one();
                }
            }
        }
    }

    fn tell(&self, tell: impl FnOnce(&mut H::Core, MonoTime)) {
        let now = self.shared.now();
        tell(&mut self.shared.lock(), now);
        self.shared.wake();
    }

    /// The life of one connection.
    async fn connection(
        self: Rc<Self>,
        connection: ConnectionId,
        host: Arc<str>,
        port: u16,
        outbox: Rc<Outbox>,
    ) {
        let connected = tokio::select! {
            connected = self.transport.connect(&host, port) => connected,
            () = outbox.closed.notified() => return,
        };
        if let Ok(stream) = connected {
            self.tell(|core, now| core.on_connected(connection, now));
            tokio::select! {
                () = self.read(connection, &stream) => {}
                () = self.write(connection, &stream, &outbox) => {}
                () = outbox.closed.notified() => {}
            }
            stream.shutdown();
        }
        if self.outboxes.borrow_mut().remove(&connection).is_some() {
            self.tell(|core, now| core.on_disconnected(connection, now));
        }
    }

    async fn read(&self, connection: ConnectionId, stream: &T::Stream) {
        let mut reader = FrameReader::new(self.max_frame_bytes);
        while let Ok(1..) = stream.read(&mut reader).await {
            loop {
                match reader.next_frame() {
                    Ok(Some(frame)) => self.tell(|core, now| core.on_frame(connection, frame, now)),
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
    }

    async fn write(&self, connection: ConnectionId, stream: &T::Stream, outbox: &Outbox) {
        loop {
            let frame = outbox.frames.borrow_mut().pop_front();
            let Some((correlation_id, parts)) = frame else {
                outbox.filled.notified().await;
                continue;
            };
            if stream.write(parts).await.is_err() {
                return;
            }
            self.tell(|core, now| core.on_sent(connection, correlation_id, now));
        }
    }
}
