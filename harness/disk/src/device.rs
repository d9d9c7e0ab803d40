//! The disk as the kernel sees it: the medium behind a gate, with faults.
//!
//! ```text
//!   request ──► gate open? ──► delay? ──► fault rule? ──► medium ──► recording ──► reply
//!                 │ stalled or hung: the request waits, its reply unsent
//!                 └ dead: EIO
//! ```
//!
//! Invariants: one lock orders everything, so a cut has a definite place between any two requests; a request
//! takes effect at one instant, under that lock, and is answered after it; while the gate is hung no request is
//! answered at all, so that nobody can react to the cut; a waiting request holds no thread. How many can
//! wait is bounded by the kernel (its background limit and the loop device's workers).
//!
//! Absent: FUSE (`fuse` turns its requests into these), ext4, loop devices.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::fault::{CutMode, FailedFlush, Fault, Rule};
use crate::medium::{Medium, SECTOR_BYTES};
use crate::recording::{Action, Recorder};
use crate::stats::{CutReport, FlushOutcome, FlushRecord, PowerState, RECENT_FLUSHES, Stamp, Stats};

/// What the kernel asks. `W` is how a write's bytes are held.
#[derive(Clone, Copy)]
pub(crate) enum Request<W> {
    Read { offset: u64, length: usize },
    Write { offset: u64, data: W },
    Flush,
}

/// A reply other than success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// EIO.
    Io,
    /// EINVAL: no disk could do this.
    Invalid,
}

/// What was read; empty for a write or a flush.
pub(crate) type Answer = Result<Vec<u8>, Failure>;
pub(crate) type Reply = Box<dyn FnOnce(Answer) + Send>;

/// The largest number of unreadable ranges held at once.
const MAX_UNREADABLE: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gate {
    Open,
    Stalled,
    Hung,
    Dead,
}

struct Waiting {
    request: Request<Vec<u8>>,
    arrived: Stamp,
    reply: Reply,
}

/// A request that waits for its time. Ordered by when that is, then by arrival.
struct Delayed {
    due_ns: u64,
    number: u64,
    waiting: Waiting,
}

#[derive(Default)]
struct Counted {
    rule: Rule,
    met: u32,
}

#[derive(Default)]
struct Rules {
    read_error: Counted,
    write_error: Counted,
    flush_error: Counted,
    failed_flush: FailedFlush,
    flush_lie: Counted,
    read_delay_us: u64,
    write_delay_us: u64,
    flush_delay_us: u64,
    /// Half-open byte ranges of whole sectors.
    unreadable: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Counters {
    reads: u64,
    bytes_read: u64,
    writes: u64,
    bytes_written: u64,
    flushes: u64,
    flushes_lied: u64,
    injected_errors: u64,
}

struct Inner {
    medium: Medium,
    gate: Gate,
    rules: Rules,
    waiting: VecDeque<Waiting>,
    delayed: BinaryHeap<Reverse<Delayed>>,
    delayed_ever: u64,
    recorder: Option<Recorder>,
    recording_error: Option<String>,
    medium_error: Option<String>,
    counters: Counters,
    unflushed_writes: u64,
    oldest_unflushed_write: Option<Stamp>,
    last_write: Option<Stamp>,
    recent_flushes: VecDeque<FlushRecord>,
    last_cut: Option<CutReport>,
    closing: bool,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Told when the earliest delayed request may have changed.
    changed: Condvar,
}

/// One disk. Dropping it forgets the requests that still wait.
pub(crate) struct Device {
    shared: Arc<Shared>,
    timer: Option<JoinHandle<()>>,
}

impl Device {
    pub(crate) fn new(medium: Medium, recorder: Option<Recorder>) -> io::Result<Self> {
        let inner = Inner {
            medium,
            gate: Gate::Open,
            rules: Rules::default(),
            waiting: VecDeque::new(),
            delayed: BinaryHeap::new(),
            delayed_ever: 0,
            recorder,
            recording_error: None,
            medium_error: None,
            counters: Counters::default(),
            unflushed_writes: 0,
            oldest_unflushed_write: None,
            last_write: None,
            recent_flushes: VecDeque::with_capacity(RECENT_FLUSHES),
            last_cut: None,
            closing: false,
        };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new() });
        let for_timer = Arc::clone(&shared);
        let timer = std::thread::Builder::new()
            .name("disk-delay".to_owned())
            .spawn(move || for_timer.run_delayed())?;
        Ok(Self { shared, timer: Some(timer) })
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.shared.lock().medium.size_bytes()
    }

    /// Takes a request. `reply` is called exactly once, from any thread, possibly much later.
    pub(crate) fn submit(&self, request: Request<&[u8]>, reply: Reply) {
        let arrived = Stamp::now();
        let mut inner = self.shared.lock();
        let delay_us = inner.rules.delay_us(&request);
        match inner.gate {
            Gate::Open if delay_us == 0 => {
                let answer = inner.execute(request, arrived);
                drop(inner);
                reply(answer);
            }
            Gate::Open => {
                let due_ns = arrived.monotonic_ns.saturating_add(delay_us.saturating_mul(1000));
                inner.delayed_ever += 1;
                let number = inner.delayed_ever;
                let waiting = Waiting { request: request.to_owned(), arrived, reply };
                inner.delayed.push(Reverse(Delayed { due_ns, number, waiting }));
                drop(inner);
                self.shared.changed.notify_one();
            }
            Gate::Stalled | Gate::Hung => {
                inner.waiting.push_back(Waiting { request: request.to_owned(), arrived, reply });
            }
            Gate::Dead => {
                drop(inner);
                reply(Err(Failure::Io));
            }
        }
    }

    pub(crate) fn inject(&self, fault: Fault) -> Result<(), String> {
        self.shared.lock().rules.set(fault)
    }

    /// Ends all faults, a stall included.
    pub(crate) fn heal(&self) {
        self.shared.lock().rules = Rules::default();
        self.resume();
    }

    /// From now on requests wait.
    pub(crate) fn stall(&self) {
        let mut inner = self.shared.lock();
        if inner.gate == Gate::Open {
            inner.gate = Gate::Stalled;
            inner.hold_delayed();
        }
    }

    /// Carries out what waited in a stall, in the order of arrival.
    pub(crate) fn resume(&self) {
        let mut inner = self.shared.lock();
        if inner.gate != Gate::Stalled {
            return;
        }
        inner.gate = Gate::Open;
        let waited = std::mem::take(&mut inner.waiting);
        let done: Vec<_> = waited
            .into_iter()
            .map(|waiting| (inner.execute(waiting.request.borrowed(), waiting.arrived), waiting.reply))
            .collect();
        drop(inner);
        done.into_iter().for_each(|(answer, reply)| reply(answer));
    }

    /// The switch goes off (or, in an OS crash, the disk is stalled so that nobody sees what comes next).
    pub(crate) fn cut(&self, mode: CutMode) -> Result<CutReport, String> {
        let mut inner = self.shared.lock();
        let at = Stamp::now();
        inner.hold_delayed();
        inner.gate = if mode.loses_power() { Gate::Hung } else { Gate::Stalled };
        inner.cut(mode, at)
    }

    /// Ends the hanging: EIO for all that waits and all that comes; after an OS crash, normal service.
    pub(crate) fn release(&self) {
        let mut inner = self.shared.lock();
        if inner.gate == Gate::Stalled {
            drop(inner);
            return self.resume();
        }
        inner.gate = Gate::Dead;
        inner.hold_delayed();
        let waited = std::mem::take(&mut inner.waiting);
        drop(inner);
        waited.into_iter().for_each(|waiting| (waiting.reply)(Err(Failure::Io)));
    }

    /// The switch goes off for good, with EIO at once: the disk is being taken away.
    pub(crate) fn kill(&self) {
        self.shared.lock().gate = Gate::Hung;
        self.release();
    }

    /// The switch goes on again. Faults stay as they were set.
    pub(crate) fn power_on(&self) {
        let mut inner = self.shared.lock();
        assert!(inner.waiting.is_empty(), "requests still hang from before the cut");
        inner.gate = Gate::Open;
    }

    pub(crate) fn stats(&self, power: PowerState) -> Stats {
        self.shared.lock().stats(power)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_one();
        if let Some(timer) = self.timer.take() {
            // It cannot have panicked without poisoning the lock, which lock() reports.
            let _ = timer.join();
        }
    }
}

impl Shared {
    /// A panic under the lock leaves counters behind at worst; the disk must go on answering, since a request
    /// without a reply hangs its process for good.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_delayed(&self) {
        let mut inner = self.lock();
        while !inner.closing {
            let now_ns = Stamp::now().monotonic_ns;
            match inner.delayed.peek().map(|Reverse(next)| next.due_ns) {
                None => inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(due_ns) if due_ns > now_ns => {
                    let pause = Duration::from_nanos(due_ns - now_ns);
                    let waited = self.changed.wait_timeout(inner, pause);
                    inner = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(_) => {
                    let Some(Reverse(Delayed { waiting, .. })) = inner.delayed.pop() else { continue };
                    let answer = inner.execute(waiting.request.borrowed(), waiting.arrived);
                    drop(inner);
                    (waiting.reply)(answer);
                    inner = self.lock();
                }
            }
        }
    }
}

impl Inner {
    fn execute(&mut self, request: Request<&[u8]>, arrived: Stamp) -> Answer {
        if self.medium_error.is_some() {
            return Err(Failure::Io);
        }
        match request {
            Request::Read { offset, length } => self.read(offset, length),
            Request::Write { offset, data } => self.write(offset, data),
            Request::Flush => self.flush(arrived),
        }
    }

    fn read(&mut self, offset: u64, length: usize) -> Answer {
        if !self.medium.is_addressable(offset, length) {
            return Err(Failure::Invalid);
        }
        if self.rules.read_error.strikes() || self.rules.is_unreadable(offset, length) {
            return self.injected();
        }
        let mut data = vec![0; length];
        self.medium.read(offset, &mut data).map_err(|error| self.latch("read", &error))?;
        self.counters.reads += 1;
        self.counters.bytes_read += length as u64;
        Ok(data)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Answer {
        if !self.medium.is_addressable(offset, data.len()) {
            return Err(Failure::Invalid);
        }
        if self.rules.write_error.strikes() {
            return self.injected();
        }
        self.rules.remap(offset, data.len());
        self.enter(offset, data)?;
        self.counters.writes += 1;
        self.counters.bytes_written += data.len() as u64;
        Ok(Vec::new())
    }

    /// A write into the cache and the recording.
    fn enter(&mut self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        let now = Stamp::now();
        self.record(|recorder| recorder.write(now.monotonic_ns, offset, data));
        self.medium.write(offset, data).map_err(|error| self.latch("write", &error))?;
        self.unflushed_writes += 1;
        self.oldest_unflushed_write.get_or_insert(now);
        self.last_write = Some(now);
        Ok(())
    }

    fn flush(&mut self, arrived: Stamp) -> Answer {
        let (outcome, action, sectors) = if self.rules.flush_error.strikes() {
            match self.rules.failed_flush {
                FailedFlush::KeepsCache => (FlushOutcome::Failed, Action::FlushFailed, 0),
                FailedFlush::LosesCache => {
                    (FlushOutcome::FailedCacheLost, Action::CacheLost, self.medium.lose_cache())
                }
            }
        } else if self.rules.flush_lie.strikes() {
            (FlushOutcome::Lied, Action::FlushLied, 0)
        } else {
            let sectors = self.medium.flush().map_err(|error| self.latch("flush", &error))?;
            (FlushOutcome::Persisted, Action::Flush, sectors)
        };
        self.book_flush(arrived, outcome, sectors);
        let now_ns = Stamp::now().monotonic_ns;
        self.record(|recorder| recorder.note(now_ns, &action));
        match outcome {
            FlushOutcome::Persisted | FlushOutcome::Lied => Ok(Vec::new()),
            FlushOutcome::Failed | FlushOutcome::FailedCacheLost => self.injected(),
        }
    }

    fn book_flush(&mut self, arrived: Stamp, outcome: FlushOutcome, sectors: u64) {
        self.counters.flushes += 1;
        self.counters.flushes_lied += u64::from(outcome == FlushOutcome::Lied);
        if matches!(outcome, FlushOutcome::Persisted | FlushOutcome::FailedCacheLost) {
            self.unflushed_writes = 0;
            self.oldest_unflushed_write = None;
        }
        if self.recent_flushes.len() == RECENT_FLUSHES {
            self.recent_flushes.pop_front();
        }
        let number = self.counters.flushes;
        let finished = Stamp::now();
        self.recent_flushes.push_back(FlushRecord { number, arrived, finished, outcome, sectors });
    }

    fn cut(&mut self, mode: CutMode, at: Stamp) -> Result<CutReport, String> {
        let requests_in_flight = self.waiting.len() as u64;
        let (unflushed_writes, oldest_unflushed_write) = (self.unflushed_writes, self.oldest_unflushed_write);
        if !matches!(mode, CutMode::DropAll | CutMode::OsCrash) {
            self.enter_waiting_writes();
        }
        self.record(|recorder| recorder.note(at.monotonic_ns, &Action::Cut(mode)));
        let remains = self.medium.cut(mode).map_err(|error| {
            self.latch("cut", &error);
            format!("the image of the medium failed during the cut: {error}")
        })?;
        if mode.loses_power() {
            self.unflushed_writes = 0;
            self.oldest_unflushed_write = None;
        }
        let report = CutReport {
            mode,
            at,
            dropped_sectors: remains.dropped_sectors,
            kept_sectors: remains.kept_sectors,
            shorn_blocks: remains.shorn_blocks,
            damaged_sectors: remains.damaged_sectors,
            unflushed_writes,
            oldest_unflushed_write,
            last_flush: self.recent_flushes.back().copied(),
            requests_in_flight,
        };
        self.last_cut = Some(report);
        Ok(report)
    }

    /// A write that had reached the disk but not been answered may be on the medium after a cut, in part.
    fn enter_waiting_writes(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for Waiting { request, .. } in &waiting {
            if let Request::Write { offset, data } = request
                && self.medium.is_addressable(*offset, data.len())
            {
                // An error of the image is latched, and met again by the cut itself.
                let _ = self.enter(*offset, data);
            }
        }
        self.waiting = waiting;
    }

    /// Turns what is delayed into what waits, in the order of arrival.
    fn hold_delayed(&mut self) {
        let mut delayed: Vec<_> = self.delayed.drain().map(|Reverse(delayed)| delayed).collect();
        delayed.sort_by_key(|delayed| delayed.number);
        self.waiting.extend(delayed.into_iter().map(|delayed| delayed.waiting));
    }

    fn injected(&mut self) -> Answer {
        self.counters.injected_errors += 1;
        Err(Failure::Io)
    }

    /// The image under the medium failed: nothing this disk says can be trusted any more.
    fn latch(&mut self, action: &str, error: &io::Error) -> Failure {
        self.medium_error.get_or_insert_with(|| format!("the image failed to {action}: {error}"));
        Failure::Io
    }

    fn record(&mut self, append: impl FnOnce(&mut Recorder) -> io::Result<()>) {
        let Some(recorder) = &mut self.recorder else { return };
        if let Err(error) = append(recorder) {
            // The disk goes on without: a full host must not look like a fault of the disk.
            self.recorder = None;
            self.recording_error = Some(format!("the recording ends early: {error}"));
        }
    }

    fn stats(&self, power: PowerState) -> Stats {
        Stats {
            power,
            stalled: self.gate == Gate::Stalled && power == PowerState::On,
            reads: self.counters.reads,
            bytes_read: self.counters.bytes_read,
            writes: self.counters.writes,
            bytes_written: self.counters.bytes_written,
            flushes: self.counters.flushes,
            flushes_lied: self.counters.flushes_lied,
            injected_errors: self.counters.injected_errors,
            cached_sectors: self.medium.dirty_sectors(),
            destaged_sectors: self.medium.destaged_sectors(),
            waiting_requests: (self.waiting.len() + self.delayed.len()) as u64,
            unflushed_writes: self.unflushed_writes,
            oldest_unflushed_write: self.oldest_unflushed_write,
            last_write: self.last_write,
            recent_flushes: self.recent_flushes.iter().copied().collect(),
            last_cut: self.last_cut,
            recording_error: self.recording_error.clone(),
            medium_error: self.medium_error.clone(),
        }
    }
}

impl Rules {
    fn set(&mut self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::ReadError { rule } => self.read_error = Counted::new(rule),
            Fault::WriteError { rule } => self.write_error = Counted::new(rule),
            Fault::FlushError { rule, cache } => {
                self.flush_error = Counted::new(rule);
                self.failed_flush = cache;
            }
            Fault::FlushLie { rule } => self.flush_lie = Counted::new(rule),
            Fault::Delay { read_us, write_us, flush_us } => {
                self.read_delay_us = read_us;
                self.write_delay_us = write_us;
                self.flush_delay_us = flush_us;
            }
            Fault::Unreadable { offset_bytes, length_bytes } => {
                if self.unreadable.len() == MAX_UNREADABLE {
                    return Err(format!("{MAX_UNREADABLE} ranges are unreadable already"));
                }
                let sector = SECTOR_BYTES as u64;
                let end = offset_bytes.saturating_add(length_bytes).div_ceil(sector).saturating_mul(sector);
                self.unreadable.push((offset_bytes / sector * sector, end));
            }
        }
        Ok(())
    }

    fn delay_us<W>(&self, request: &Request<W>) -> u64 {
        match request {
            Request::Read { .. } => self.read_delay_us,
            Request::Write { .. } => self.write_delay_us,
            Request::Flush => self.flush_delay_us,
        }
    }

    fn is_unreadable(&self, offset: u64, length: usize) -> bool {
        let end = offset + length as u64;
        self.unreadable.iter().any(|&(from, to)| from < end && offset < to)
    }

    /// A disk gives a bad sector that is written a new place.
    fn remap(&mut self, offset: u64, length: usize) {
        if !self.is_unreadable(offset, length) {
            return;
        }
        let end = offset + length as u64;
        let parts = |(from, to): (u64, u64)| [(from, to.min(offset)), (from.max(end), to)];
        self.unreadable = std::mem::take(&mut self.unreadable)
            .into_iter()
            .flat_map(parts)
            .filter(|&(from, to)| from < to)
            .take(MAX_UNREADABLE)
            .collect();
    }
}

impl Counted {
    fn new(rule: Rule) -> Self {
        Self { rule, met: 0 }
    }

    /// Whether the fault strikes the operation that is now being done.
    fn strikes(&mut self) -> bool {
        self.met = self.met.wrapping_add(1);
        match self.rule {
            Rule::Off | Rule::Next(0) => false,
            Rule::Always => true,
            Rule::OneIn(n) => n > 0 && self.met.is_multiple_of(n),
            Rule::Next(n) => {
                self.rule = Rule::Next(n - 1);
                true
            }
        }
    }
}

impl Request<&[u8]> {
    fn to_owned(self) -> Request<Vec<u8>> {
        match self {
            Self::Read { offset, length } => Request::Read { offset, length },
            Self::Write { offset, data } => Request::Write { offset, data: data.to_vec() },
            Self::Flush => Request::Flush,
        }
    }
}

impl Request<Vec<u8>> {
    fn borrowed(&self) -> Request<&[u8]> {
        match self {
            Self::Read { offset, length } => Request::Read { offset: *offset, length: *length },
            Self::Write { offset, data } => Request::Write { offset: *offset, data },
            Self::Flush => Request::Flush,
        }
    }
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Delayed {}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due_ns, self.number).cmp(&(other.due_ns, other.number))
    }
}

#[cfg(test)]
mod tests;
