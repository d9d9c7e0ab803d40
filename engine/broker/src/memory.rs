//! Memory that is admitted before it is taken: for requests, and for the records of fetch responses.
//!
//! **Requests.** A frame holds units of the shard's budget for what has arrived of it, from its first bytes until its
//! reply is sent: a peer that announces much and sends little holds little. Taking units step by step could leave many
//! half-read frames that wait for each other. Hence the *last resort*: one frame at a time may grow beyond the budget,
//! to the end; one that needs more than the rest of the whole budget waits for that alone. The bound is the budget plus one
//! largest request. A part of the budget is for *small* frames alone, so that a crowd that sends large ones, slowly, keeps
//! nobody from asking for metadata, from fetching or from a short produce.
//!
//! **Responses.** A fetch takes what it wants or a share of what is left, never all of it; the response is then shorter,
//! which is always allowed. When hardly anything is left, fetches wait in turn. One batch is returned however large, so
//! that a response may become larger than its grant: it then takes what it really has, the budget is *overdrawn*, and
//! nobody is granted anything until it is not. Of those that want less than a usual batch only a few read at once. The
//! bound is the budget plus a largest batch for each of these few.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use highwater_io::Io;
use highwater_io::race::first;
use highwater_io::sync::{Permit, Semaphore, Watch};

/// While others wait for memory, whoever holds some and makes no use of it may keep it this long: a frame whose next piece
/// does not come, a fetch that waits for records. A crowd of them could otherwise keep everybody waiting for hours.
pub(crate) const SHORT_MEMORY_PATIENCE: Duration = Duration::from_secs(1);

/// Frames up to this size may take from the reserve: all but those with many records.
pub(crate) const SMALL_FRAME_BYTES: usize = 16 << 10;

/// The fraction of the budget that is the reserve.
const RESERVED_SHARE: usize = 8;

/// The budget of a shard's requests.
#[derive(Debug, Clone)]
pub(crate) struct RequestBudget {
    units: Semaphore,
    /// For small frames, when there are no other units.
    reserve: Semaphore,
    last_resort: Semaphore,
    /// Of those who wait for units.
    shortage: Shortage,
    /// Of those who could do with the reserve.
    small_shortage: Shortage,
}

impl RequestBudget {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        // Less than a frame's first memory is of use to nobody.
        let reserve_bytes = Some(limit_bytes / RESERVED_SHARE).filter(|&bytes| bytes >= SMALL_FRAME_BYTES);
        Self::with_reserve(limit_bytes, reserve_bytes.unwrap_or(0))
    }

    fn with_reserve(limit_bytes: usize, reserve_bytes: usize) -> Self {
        RequestBudget {
            units: Semaphore::new(limit_bytes - reserve_bytes),
            reserve: Semaphore::new(reserve_bytes),
            last_resort: Semaphore::new(1),
            shortage: Shortage::default(),
            small_shortage: Shortage::default(),
        }
    }

    /// Resolves when somebody waits for memory, and still does after `patience`: who holds some and makes no use of it
    /// should give way.
    pub(crate) async fn is_short_for(&self, io: &Io, patience: Duration) {
        first(self.shortage.lasts(io, patience), self.small_shortage.lasts(io, patience)).await;
    }

    /// A holding of nothing, for a new frame of `size_bytes`.
    pub(crate) fn begin(&self, size_bytes: usize) -> RequestMemory {
        let is_small = size_bytes <= SMALL_FRAME_BYTES;
        let budget = self.clone();
        let (units, reserve, last_resort) = (None, None, None);
        RequestMemory { budget, is_small, units, reserve, last_resort, shared: None, admitted_bytes: 0 }
    }

    #[cfg(test)]
    pub(crate) fn available(&self) -> usize {
        self.units.available() + self.reserve.available()
    }
}

/// What one request holds of the budget; dropping it gives everything back.
#[derive(Debug)]
pub(crate) struct RequestMemory {
    budget: RequestBudget,
    is_small: bool,
    units: Option<Permit>,
    reserve: Option<Permit>,
    last_resort: Option<Permit>,
    /// What it shares with other frames that came in one piece of memory.
    shared: Option<Rc<RequestMemory>>,
    /// What was taken for what the frame becomes.
    admitted_bytes: usize,
}

impl RequestMemory {
    /// Holds `memory` as well, which others may hold, too.
    pub(crate) fn beside(mut self, memory: Rc<RequestMemory>) -> Self {
        self.shared = Some(memory);
        self
    }

    /// Whether the memory that its frame came in is its own, and not that of a whole piece in which many came.
    pub(crate) fn is_its_own(&self) -> bool {
        self.shared.is_none()
    }

    /// Takes `bytes` more if that leaves half of the budget: for what one could do without.
    pub(crate) fn try_spare(&mut self, bytes: usize) -> bool {
        let units = &self.budget.units;
        units.available() >= bytes + units.limit() / 2 && self.try_grow(bytes)
    }

    fn try_grow(&mut self, bytes: usize) -> bool {
        let Some(permit) = self.budget.units.try_acquire(bytes) else { return false };
        self.add(permit);
        true
    }

    fn add(&mut self, permit: Permit) {
        match &mut self.units {
            Some(units) => units.merge(permit),
            units => *units = Some(permit),
        }
    }

    /// Whether it has the last resort, alone or with others: their piece is kept by it, and it would wait for itself.
    pub(crate) fn has_last_resort(&self) -> bool {
        self.last_resort.is_some() || self.shared.as_ref().is_some_and(|shared| shared.has_last_resort())
    }

    /// Waits until it holds so much besides its frame, for what that becomes: less than what it holds already is in that.
    pub(crate) async fn admit(&mut self, bytes: usize) {
        let missing = bytes.saturating_sub(self.admitted_bytes);
        self.grow(missing).await;
        self.admitted_bytes += missing;
    }

    /// What it has of the units, alone or with others.
    fn held_units(&self) -> usize {
        let shared = self.shared.as_ref().map_or(0, |shared| shared.held_units());
        self.units.as_ref().map_or(0, Permit::units) + shared
    }

    /// Waits until `bytes` more may be taken.
    pub(crate) async fn grow(&mut self, bytes: usize) {
        if bytes == 0 || self.has_last_resort() {
            return;
        }
        if self.try_grow(bytes) {
            return;
        }
        // Once, and no more than a small frame: what it asks the broker to do may take far more.
        let may_take_reserve = self.is_small
            && self.reserve.is_none()
            && bytes <= SMALL_FRAME_BYTES.min(self.budget.reserve.limit());
        if may_take_reserve {
            self.reserve = self.budget.reserve.try_acquire(bytes);
            if self.reserve.is_some() {
                return;
            }
        }
        let shortage = if may_take_reserve { &self.budget.small_shortage } else { &self.budget.shortage };
        let _waiting = shortage.begin();
        // What can never come while this holds what it has would only keep its place at the head of the line from others.
        let may_take_units = self.held_units().saturating_add(bytes) <= self.budget.units.limit();
        let mut units = pin!(self.budget.units.acquire(bytes));
        let mut reserve = pin!(self.budget.reserve.acquire(bytes));
        let mut last_resort = pin!(self.budget.last_resort.acquire(1));
        poll_fn(|cx| {
            if may_take_units && let Poll::Ready(permit) = units.as_mut().poll(cx) {
                self.add(permit);
            } else if may_take_reserve && let Poll::Ready(permit) = reserve.as_mut().poll(cx) {
                self.reserve = Some(permit);
            } else if let Poll::Ready(permit) = last_resort.as_mut().poll(cx) {
                self.last_resort = Some(permit);
            } else {
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Resolves when somebody waits for memory that this holds, and still does after `patience`.
    pub(crate) async fn is_short_for(&self, io: &Io, patience: Duration) {
        if self.units.is_none() && self.last_resort.is_none() && self.shared.is_none() {
            self.budget.small_shortage.lasts(io, patience).await;
        } else {
            self.budget.is_short_for(io, patience).await;
        }
    }
}

/// How many wait for memory of one budget.
#[derive(Debug, Clone)]
struct Shortage(Rc<Watch<usize>>);

impl Default for Shortage {
    fn default() -> Self {
        Shortage(Rc::new(Watch::new(0)))
    }
}

impl Shortage {
    fn begin(&self) -> Waiting {
        self.0.update(|count| *count += 1);
        Waiting(Rc::clone(&self.0))
    }

    /// Resolves when there was always somebody who waits for as long as `patience`.
    async fn lasts(&self, io: &Io, patience: Duration) {
        loop {
            self.0.wait_for(|&waiting| (waiting > 0).then_some(())).await;
            let relieved = self.0.wait_for(|&waiting| (waiting == 0).then_some(()));
            if io.timeout(patience, relieved).await.is_err() {
                return;
            }
        }
    }
}

/// Somebody waits for memory, until it is dropped.
struct Waiting(Rc<Watch<usize>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.update(|count| *count -= 1);
    }
}

/// Below this many bytes left, fetches wait in turn.
const MIN_GRANT_BYTES: usize = 64 << 10;

/// Who wants less than this may well get more: a usual largest batch (Kafka's default of `message.max.bytes`, and more).
pub(crate) const USUAL_BATCH_BYTES: usize = 2 << 20;

/// So many who want less than a usual batch are granted that at once; each keeps its place until it is settled.
const SMALL_GRANTS: usize = 8;

/// No fetch is granted more than this fraction of what is left.
const LARGEST_SHARE: usize = 4;

/// The budget of a shard's fetch responses.
#[derive(Debug)]
pub(crate) struct ResponseBudget {
    /// Below zero while overdrawn.
    available: Cell<isize>,
    given_back: Watch<u64>,
    turn: Semaphore,
    small_grants: Semaphore,
    shortage: Shortage,
}

impl ResponseBudget {
    pub(crate) fn new(limit_bytes: usize) -> Rc<Self> {
        let limit = limit_bytes.max(LARGEST_SHARE * MIN_GRANT_BYTES);
        Rc::new(ResponseBudget {
            available: Cell::new(signed(limit)),
            given_back: Watch::new(0),
            turn: Semaphore::new(1),
            small_grants: Semaphore::new(SMALL_GRANTS),
            shortage: Shortage::default(),
        })
    }

    /// Resolves when somebody waits for memory, and still does after `patience`.
    pub(crate) async fn is_short_for(&self, io: &Io, patience: Duration) {
        self.shortage.lasts(io, patience).await;
    }

    /// Grants `wanted` bytes or fewer, and waits if next to nothing is left. To be settled as soon as it is known what the
    /// response has.
    pub(crate) async fn grant(self: &Rc<Self>, wanted: usize) -> ResponseMemory {
        let place = if wanted < USUAL_BATCH_BYTES { Some(self.small_grants.acquire(1).await) } else { None };
        let mut share = pin!(self.share(wanted));
        let bytes = match poll_fn(|cx| Poll::Ready(share.as_mut().poll(cx))).await {
            Poll::Ready(bytes) => bytes,
            Poll::Pending => {
                let _waiting = self.shortage.begin();
                share.await
            }
        };
        self.available.set(self.available.get() - signed(bytes));
        ResponseMemory { budget: Rc::clone(self), bytes, place }
    }

    async fn share(&self, wanted: usize) -> usize {
        let _turn = self.turn.acquire(1).await;
        let share = |_: &u64| {
            let share = usize::try_from(self.available.get()).unwrap_or(0) / LARGEST_SHARE;
            (share >= MIN_GRANT_BYTES).then(|| wanted.min(share))
        };
        self.given_back.wait_for(share).await
    }

    fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.available.set(self.available.get() + signed(bytes));
            self.given_back.update(|count| *count += 1);
        }
    }
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

/// What one response holds of the budget; dropping it gives everything back.
#[derive(Debug)]
pub(crate) struct ResponseMemory {
    budget: Rc<ResponseBudget>,
    bytes: usize,
    /// Among the small grants, until it is settled.
    place: Option<Permit>,
}

impl ResponseMemory {
    /// How many bytes were granted.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds from now on what the response really has, be it less than was granted or more.
    pub(crate) fn settle(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        let overdraft = bytes.saturating_sub(self.bytes);
        self.bytes = bytes;
        self.budget.available.set(self.budget.available.get() - signed(overdraft));
        self.budget.give_back(surplus);
        self.place = None;
    }
}

impl Drop for ResponseMemory {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Waker};

    fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn half_read_frames_do_not_wait_for_each_other() {
        let budget = RequestBudget::new(100);
        let [mut a, mut b] = [budget.begin(1 << 20), budget.begin(1 << 20)];
        assert!(poll_once(a.grow(60)).is_ready());
        assert!(poll_once(b.grow(40)).is_ready());
        assert!(poll_once(a.grow(60)).is_ready(), "the last resort");
        assert!(poll_once(a.grow(1000)).is_ready(), "to the end");
        {
            let mut waiting = pin!(b.grow(40));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(waiting.as_mut().poll(&mut cx).is_pending(), "one at a time");
            drop(a);
            assert!(waiting.as_mut().poll(&mut cx).is_ready());
        }
        drop(b);
        assert_eq!(budget.available(), 100);
    }

    /// One that had a part of the budget and asked for more than the rest once stood first in the line for it, in vain, and held
    /// up everybody else.
    #[test]
    fn frame_that_can_only_have_the_last_resort_holds_up_nobody() {
        let budget = RequestBudget::new(100);
        let [mut a, mut b, mut c] = [budget.begin(1 << 20), budget.begin(1 << 20), budget.begin(1 << 20)];
        assert!(poll_once(a.grow(60)).is_ready());
        assert!(poll_once(a.grow(60)).is_ready(), "the last resort");
        assert!(poll_once(b.grow(10)).is_ready());
        {
            let mut waiting = pin!(b.grow(1000));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
            assert!(poll_once(c.grow(5)).is_ready());
            drop(a);
            assert!(waiting.as_mut().poll(&mut cx).is_ready(), "the last resort is free");
        }
        drop((b, c));
        assert_eq!(budget.available(), 100);
    }

    /// It would wait for itself: the piece is kept until all frames in it are done.
    #[test]
    fn frames_of_a_piece_with_the_last_resort_grow_with_it() {
        let budget = RequestBudget::new(100);
        let [mut a, mut piece] = [budget.begin(1 << 20), budget.begin(1 << 20)];
        assert!(poll_once(a.grow(90)).is_ready());
        assert!(poll_once(piece.grow(60)).is_ready(), "the last resort");
        let piece = Rc::new(piece);
        let mut frames = [(); 2].map(|()| budget.begin(1 << 20).beside(Rc::clone(&piece)));
        assert!(frames.iter_mut().all(|frame| poll_once(frame.grow(20)).is_ready()));
        assert!(poll_once(a.grow(20)).is_pending(), "nobody else");
    }

    /// What a fetch becomes was once counted twice, as decoded and as it waits.
    #[test]
    fn what_a_frame_becomes_next_is_in_what_it_was_before() {
        let budget = RequestBudget::new(100);
        let mut memory = budget.begin(1 << 20);
        assert!(poll_once(memory.grow(10)).is_ready());
        for (admitted, left) in [(20, 70), (50, 40), (30, 40), (60, 30)] {
            assert!(poll_once(memory.admit(admitted)).is_ready());
            assert_eq!(budget.available(), left);
        }
        drop(memory);
        assert_eq!(budget.available(), 100);
    }

    /// What a frame shares with others it holds as well, until its end.
    #[test]
    fn shared_memory_counts_where_more_is_asked_for_than_there_is() {
        let budget = RequestBudget::new(100);
        let [mut a, mut piece, mut c] = [budget.begin(1 << 20), budget.begin(1 << 20), budget.begin(1 << 20)];
        assert!(poll_once(a.grow(40)).is_ready());
        assert!(poll_once(a.grow(70)).is_ready(), "the last resort");
        assert!(poll_once(piece.grow(30)).is_ready());
        let mut b = budget.begin(1 << 20).beside(Rc::new(piece));
        let mut waiting = pin!(b.grow(80));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        assert!(poll_once(c.grow(5)).is_ready());
    }

    /// Four hundred clients that sent a large request each, slowly, once kept all others waiting for half a minute.
    #[test]
    fn small_frame_does_not_wait_for_large_ones() {
        let budget = RequestBudget::with_reserve(160, 20);
        let mut large: Vec<RequestMemory> = (0..3).map(|_| budget.begin(1 << 20)).collect();
        assert!(poll_once(large[0].grow(140)).is_ready());
        assert!(poll_once(large[1].grow(100)).is_ready(), "the last resort");
        assert!(poll_once(large[2].grow(10)).is_pending());
        let [mut a, mut b, mut c] = [budget.begin(100), budget.begin(100), budget.begin(100)];
        assert!(poll_once(a.grow(10)).is_ready());
        assert!(poll_once(b.grow(10)).is_ready());
        let mut waiting = pin!(c.grow(10));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending(), "the reserve has its bound, too");
        drop(a);
        assert!(waiting.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn small_frame_that_waits_takes_whatever_comes_free() {
        let budget = RequestBudget::with_reserve(160, 20);
        let mut large: Vec<RequestMemory> = (0..2).map(|_| budget.begin(1 << 20)).collect();
        assert!(poll_once(large[0].grow(140)).is_ready());
        assert!(poll_once(large[1].grow(100)).is_ready(), "the last resort");
        let [mut small, mut waits] = [budget.begin(100), budget.begin(100)];
        assert!(poll_once(small.grow(20)).is_ready());
        let mut waiting = pin!(waits.grow(20));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        large.remove(0);
        assert!(waiting.as_mut().poll(&mut cx).is_ready(), "the units of a large one");
    }

    /// A fetch of thirty bytes may ask for a session of thousands of partitions.
    #[test]
    fn what_a_small_frame_asks_for_does_not_come_from_the_reserve() {
        let budget = RequestBudget::with_reserve(160, 20);
        let [mut large, mut last] = [budget.begin(1 << 20), budget.begin(1 << 20)];
        assert!(poll_once(large.grow(140)).is_ready());
        assert!(poll_once(last.grow(100)).is_ready(), "the last resort");
        let mut small = budget.begin(100);
        assert!(poll_once(small.grow(10)).is_ready());
        assert!(poll_once(small.grow(10)).is_pending());
    }

    #[test]
    fn response_takes_a_share_and_never_all() {
        let budget = ResponseBudget::new(1 << 20);
        let Poll::Ready(first) = poll_once(budget.grant(10 << 20)) else { panic!("granted at once") };
        assert_eq!(first.bytes(), (1 << 20) / LARGEST_SHARE);
        let Poll::Ready(mut second) = poll_once(budget.grant(100)) else { panic!("granted at once") };
        assert_eq!(second.bytes(), 100);
        second.settle(10);
        assert_eq!(second.bytes(), 10);
        drop((first, second));
        assert_eq!(budget.available.get(), 1 << 20);
    }

    /// Ten thousand fetches of one byte once took one byte each of the budget, and a batch each of the memory.
    #[test]
    fn response_above_its_grant_is_counted_and_holds_up_the_next() {
        let budget = ResponseBudget::new(1 << 20);
        let Poll::Ready(mut first) = poll_once(budget.grant(1)) else { panic!("granted at once") };
        first.settle(2 << 20);
        let mut second = pin!(budget.grant(1));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(second.as_mut().poll(&mut cx).is_pending(), "overdrawn");
        drop(first);
        assert!(second.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn few_that_may_get_more_than_they_want_are_at_work_at_once() {
        let budget = ResponseBudget::new(100 << 20);
        let small = |_| match poll_once(budget.grant(1)) {
            Poll::Ready(memory) => memory,
            Poll::Pending => panic!("granted at once"),
        };
        let mut granted: Vec<ResponseMemory> = (0..SMALL_GRANTS).map(small).collect();
        assert!(poll_once(budget.grant(1)).is_pending());
        assert!(poll_once(budget.grant(USUAL_BATCH_BYTES)).is_ready(), "is not held up by them");
        granted[0].settle(1 << 20);
        assert!(poll_once(budget.grant(1)).is_ready());
    }

    #[test]
    fn fetch_waits_when_next_to_nothing_is_left() {
        let budget = ResponseBudget::new(0);
        let Poll::Ready(first) = poll_once(budget.grant(1 << 20)) else { panic!("granted at once") };
        let mut second = pin!(budget.grant(1));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(second.as_mut().poll(&mut cx).is_pending());
        drop(first);
        assert!(second.as_mut().poll(&mut cx).is_ready());
    }
}
