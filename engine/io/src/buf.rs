//! Aligned, pooled memory for direct I/O and for bytes that cross shards.
//!
//! An [`IoBuf`] is exclusive and mutable; [`IoBuf::freeze`] turns it into [`Bytes`], which is shared, counted and
//! sliced without a copy. [`IoBuf::split_to`] gives away the front of a buffer, so that one slab holds many small
//! journal groups while earlier ones are still being written. The memory returns to its [`BufPool`] when the last
//! handle goes, on whichever thread that happens.
//!
//! ```text
//!   slab (one allocation, IO_ALIGNMENT aligned)
//!   ├── frozen group ──┼── frozen group ──┼── IoBuf being filled ─────────┤
//!   0                                      start        start+len    capacity end
//! ```

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;

/// Alignment in bytes of every slab: enough for direct I/O on devices with 512 B and 4 KiB blocks.
pub const IO_ALIGNMENT: usize = 4096;

/// Size in bytes of a huge page, on every machine that we run on.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// From this size in bytes on, the kernel is asked for zeros: it has them when they are touched, and not twice.
const LARGE_ALLOCATION_BYTES: usize = 128 << 10;

/// A pool that may grow to this takes its slabs from huge pages.
const LARGE_POOL_BYTES: usize = 4 << 20;

/// So much of a pool's spare memory goes round while that is enough: what a processor's cache may hold.
const NEAR_BYTES: usize = 4 << 20;

/// A part of an aligned allocation that is nobody else's. Its bytes are initialised from the start and stay so.
pub(crate) struct Memory {
    ptr: NonNull<u8>,
    size_bytes: usize,
    _owner: Arc<Allocation>,
}

struct Allocation {
    ptr: NonNull<u8>,
    layout: Layout,
    source: Source,
}

/// Where memory is from, and goes back to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Allocator,
    /// Mapped by itself. The allocator would write the zeros at once, into small pages.
    Kernel,
}

// SAFETY: `Memory` owns its allocation; access is arbitrated by `IoBuf` (exclusive, disjoint ranges) and `Bytes`
// (shared, read only).
unsafe impl Send for Memory {}
// SAFETY: as above; a shared `Memory` hands out no references of its own.
unsafe impl Sync for Memory {}

// SAFETY: `Allocation` hands out nothing by itself; its memory is freed once, with the last `Memory`.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// At least `size_bytes` zeros.
    fn zeroed(size_bytes: usize) -> Self {
        let layout = io_layout(size_bytes, IO_ALIGNMENT);
        assert!(layout.size() > 0, "an I/O buffer has at least one byte");
        // SAFETY: the layout's size is not zero, asserted above.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else { handle_alloc_error(layout) };
        Allocation { ptr, layout, source: Source::Allocator }
    }

    /// At least `size_bytes` zeros, which the kernel has once they are touched.
    fn mapped(size_bytes: usize) -> Self {
        let layout = io_layout(size_bytes, IO_ALIGNMENT);
        Allocation { ptr: map(layout), layout, source: Source::Kernel }
    }

    /// At least `size_bytes` zeros, in huge pages as soon as they are touched: direct I/O then pins and describes five
    /// hundred times fewer. A kernel without them is as good, only slower.
    fn in_huge_pages(size_bytes: usize) -> Self {
        let layout = io_layout(size_bytes, HUGE_PAGE_BYTES);
        let mapped = map(io_layout(layout.size() + HUGE_PAGE_BYTES, IO_ALIGNMENT));
        let before = mapped.as_ptr().align_offset(HUGE_PAGE_BYTES);
        let after = HUGE_PAGE_BYTES - before;
        // SAFETY: the mapping is wider than the layout by a huge page, in which this and what follows the layout lie.
        let ptr = unsafe { mapped.add(before) };
        // SAFETY: as above.
        let end = unsafe { ptr.add(layout.size()) };
        for (start, len) in [(mapped, before), (end, after)] {
            if len > 0 {
                // SAFETY: whole pages of the mapping, on neither side part of the layout, and touched by nobody.
                unsafe { libc::munmap(start.as_ptr().cast(), len) };
            }
        }
        // SAFETY: the range is this allocation's own, and the advice changes no byte of it.
        unsafe { libc::madvise(ptr.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        Allocation { ptr, layout, source: Source::Kernel }
    }
}

/// Whole units of `alignment`.
fn io_layout(size_bytes: usize, alignment: usize) -> Layout {
    Layout::from_size_align(size_bytes.next_multiple_of(alignment), alignment)
        .expect("the size of an I/O buffer fits the address space")
}

/// New memory from the kernel, in whole pages.
fn map(layout: Layout) -> NonNull<u8> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new private mapping, at an address of the kernel's choice, touches no memory that anybody has.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), layout.size(), access, kind, -1, 0) };
    let mapped = NonNull::new(mapped.cast::<u8>()).filter(|_| mapped != libc::MAP_FAILED);
    mapped.unwrap_or_else(|| handle_alloc_error(layout))
}

impl Drop for Allocation {
    fn drop(&mut self) {
        match self.source {
            // SAFETY: the pointer came from `alloc_zeroed` with this layout and is freed once, here.
            Source::Allocator => unsafe { dealloc(self.ptr.as_ptr(), self.layout) },
            Source::Kernel => {
                // SAFETY: a mapping of this size, given back once, here.
                unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.layout.size()) };
            }
        }
    }
}

impl Memory {
    /// At least `size_bytes` zeros, aligned to [`IO_ALIGNMENT`].
    pub(crate) fn zeroed(size_bytes: usize) -> Self {
        let is_large = size_bytes >= LARGE_ALLOCATION_BYTES;
        let owner =
            Arc::new(if is_large { Allocation::mapped(size_bytes) } else { Allocation::zeroed(size_bytes) });
        Memory { ptr: owner.ptr, size_bytes: owner.layout.size(), _owner: owner }
    }

    /// Some of `size_bytes`, a multiple of [`IO_ALIGNMENT`]: as many as huge pages hold without a large rest.
    fn in_huge_pages(size_bytes: usize) -> impl Iterator<Item = Memory> {
        let has_large_rest = !HUGE_PAGE_BYTES.is_multiple_of(size_bytes) && size_bytes > HUGE_PAGE_BYTES / 8;
        let at_least = if has_large_rest { 4 * size_bytes } else { size_bytes };
        let owner = Arc::new(Allocation::in_huge_pages(at_least));
        let parts = owner.layout.size() / size_bytes;
        (0..parts).map(move |part| {
            // SAFETY: the part lies inside the allocation.
            let ptr = unsafe { owner.ptr.add(part * size_bytes) };
            Memory { ptr, size_bytes, _owner: Arc::clone(&owner) }
        })
    }

    fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Start of the memory. Valid while this lives; moving this does not move it.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

/// Memory that came back and is kept.
struct Spare {
    /// What is taken first, so that no more goes round than is needed.
    near: ArrayQueue<Memory>,
    far: Option<ArrayQueue<Memory>>,
}

impl Spare {
    /// Room for `most` slabs, one at least.
    fn new(most: usize, slab_bytes: usize) -> Self {
        let most = most.max(1);
        let near = most.min((NEAR_BYTES / slab_bytes).max(1));
        let far = most - near;
        Spare { near: ArrayQueue::new(near), far: (far > 0).then(|| ArrayQueue::new(far)) }
    }

    fn most(&self) -> usize {
        self.near.capacity() + self.far.as_ref().map_or(0, ArrayQueue::capacity)
    }

    fn len(&self) -> usize {
        self.near.len() + self.far.as_ref().map_or(0, ArrayQueue::len)
    }

    fn take(&self) -> Option<Memory> {
        self.near.pop().or_else(|| self.far.as_ref()?.pop())
    }

    /// What there is no room for goes back to where it is from.
    fn keep(&self, memory: Memory) {
        if let Err(memory) = self.near.push(memory)
            && let Some(far) = &self.far
        {
            drop(far.push(memory));
        }
    }
}

/// What a pool's handles and its slabs share.
struct PoolShared {
    spare: Spare,
    slab_bytes: usize,
    lent: AtomicUsize,
    limit: usize,
    waiting: Mutex<Vec<Waker>>,
    /// Whether there are any: looked at for each slab that comes back, so that none takes the lock for nobody.
    has_waiting: AtomicBool,
}

impl PoolShared {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slab that no one had before.
    fn more_memory(&self) -> Memory {
        let keeps_all = self.spare.most() >= self.limit;
        if keeps_all && self.limit.saturating_mul(self.slab_bytes) >= LARGE_POOL_BYTES {
            let mut parts = Memory::in_huge_pages(self.slab_bytes);
            let first = parts.next().expect("at least one part");
            // Should two threads come here at once, what is too much goes back to the allocator.
            parts.for_each(|part| self.spare.keep(part));
            return first;
        }
        Memory::zeroed(self.slab_bytes)
    }

    fn take_back(&self, memory: Memory) {
        self.spare.keep(memory);
        // In one order with what `wait` does: it sees the slab, or is seen here.
        self.lent.fetch_sub(1, Ordering::SeqCst);
        if self.has_waiting.load(Ordering::SeqCst) {
            let mut waiting = self.waiting();
            self.has_waiting.store(false, Ordering::SeqCst);
            let wakers = std::mem::take(&mut *waiting);
            drop(waiting);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn wait(&self, waker: &Waker) {
        let mut waiting = self.waiting();
        waiting.push(waker.clone());
        self.has_waiting.store(true, Ordering::SeqCst);
    }
}

/// A slab that goes home to its pool when the last handle to it is dropped.
struct Slab {
    memory: Option<Memory>,
    home: Option<Arc<PoolShared>>,
}

impl Drop for Slab {
    fn drop(&mut self) {
        if let (Some(memory), Some(home)) = (self.memory.take(), self.home.take()) {
            home.take_back(memory);
        }
    }
}

impl Slab {
    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("a slab has its memory until it is dropped")
    }
}

/// A bounded set of equal slabs. Cheap to clone; usable from every thread.
#[derive(Clone)]
pub struct BufPool {
    shared: Arc<PoolShared>,
}

impl fmt::Debug for BufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufPool")
            .field("slab_bytes", &self.shared.slab_bytes)
            .field("lent", &self.lent())
            .field("limit", &self.shared.limit)
            .finish_non_exhaustive()
    }
}

impl BufPool {
    /// A pool that lends at most `limit` slabs of `slab_bytes` (rounded up to [`IO_ALIGNMENT`]) at once, and keeps at
    /// most `max_free` of those that came back.
    #[must_use]
    pub fn new(slab_bytes: usize, limit: usize, max_free: usize) -> Self {
        let slab_bytes = slab_bytes.max(1).next_multiple_of(IO_ALIGNMENT);
        BufPool {
            shared: Arc::new(PoolShared {
                spare: Spare::new(max_free, slab_bytes),
                slab_bytes,
                lent: AtomicUsize::new(0),
                limit: limit.max(1),
                waiting: Mutex::default(),
                has_waiting: AtomicBool::new(false),
            }),
        }
    }

    /// Size in bytes of each slab.
    #[must_use]
    pub fn slab_bytes(&self) -> usize {
        self.shared.slab_bytes
    }

    /// Slabs that are out, in any handle.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.shared.lent.load(Ordering::Acquire)
    }

    /// Most slabs that may be out at once.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Slabs that are kept for whoever takes one next.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.shared.spare.len()
    }

    /// Lets the memory go that nobody has.
    pub fn trim(&self) {
        while self.shared.spare.take().is_some() {}
    }

    /// An empty buffer with a capacity of one slab, or `None` when all are out. Its spare bytes are initialised, with
    /// whatever was there.
    #[must_use]
    pub fn try_take(&self) -> Option<IoBuf> {
        let claim = |lent: usize| (lent < self.shared.limit).then_some(lent + 1);
        self.shared.lent.fetch_update(Ordering::SeqCst, Ordering::SeqCst, claim).ok()?;
        let memory = self.shared.spare.take().unwrap_or_else(|| self.shared.more_memory());
        Some(IoBuf::over(Slab { memory: Some(memory), home: Some(Arc::clone(&self.shared)) }))
    }

    /// As [`try_take`](Self::try_take), waiting for a slab to come back.
    pub async fn take(&self) -> IoBuf {
        poll_fn(|cx| {
            if let Some(buf) = self.try_take() {
                return Poll::Ready(buf);
            }
            self.shared.wait(cx.waker());
            // One may have come back between the attempt and the registration.
            self.try_take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// An exclusive, aligned, growable-in-place buffer: `len` bytes of content in `capacity` bytes of memory.
///
/// The start is aligned to [`IO_ALIGNMENT`] unless [`split_to`](Self::split_to) was given an unaligned length.
pub struct IoBuf {
    slab: Arc<Slab>,
    start: usize,
    len: usize,
    capacity: usize,
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoBuf").field("len", &self.len).field("capacity", &self.capacity).finish()
    }
}

impl IoBuf {
    fn over(slab: Slab) -> Self {
        let capacity = slab.memory().size_bytes();
        IoBuf { slab: Arc::new(slab), start: 0, len: 0, capacity }
    }

    /// An empty, zeroed buffer of its own with at least `capacity_bytes` of room.
    #[must_use]
    pub fn with_capacity(capacity_bytes: usize) -> Self {
        IoBuf::over(Slab { memory: Some(Memory::zeroed(capacity_bytes.max(1))), home: None })
    }

    /// A buffer of its own that holds a copy of `content`.
    #[must_use]
    pub fn copy_from_slice(content: &[u8]) -> Self {
        let mut buf = IoBuf::with_capacity(content.len());
        buf.extend_from_slice(content);
        buf
    }

    /// Content length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no content.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Room in bytes, content included.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Room in bytes after the content.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.capacity - self.len
    }

    /// Sets the content length; bytes that come into view are initialised, with whatever was there.
    ///
    /// # Panics
    /// If `len` is above the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "length {len} is above the capacity {}", self.capacity);
        self.len = len;
    }

    /// Appends `content`.
    ///
    /// # Panics
    /// If it does not fit into [`remaining`](Self::remaining).
    pub fn extend_from_slice(&mut self, content: &[u8]) {
        let end = self.len.checked_add(content.len()).expect("lengths fit the address space");
        assert!(end <= self.capacity, "{} bytes do not fit into {}", content.len(), self.remaining());
        let at = self.len;
        self.len = end;
        self[at..end].copy_from_slice(content);
    }

    /// Appends zeros up to the next multiple of `alignment`, and returns how many.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn pad_to(&mut self, alignment: usize) -> usize {
        let end = self.len.next_multiple_of(alignment);
        let at = self.len;
        self.set_len(end);
        self[at..end].fill(0);
        end - at
    }

    /// Gives away the first `at` bytes of memory (content and spare room alike) and keeps the rest.
    ///
    /// # Panics
    /// If `at` is above the capacity.
    #[must_use]
    pub fn split_to(&mut self, at: usize) -> IoBuf {
        assert!(at <= self.capacity, "cannot split at {at}, capacity {}", self.capacity);
        let front =
            IoBuf { slab: Arc::clone(&self.slab), start: self.start, len: self.len.min(at), capacity: at };
        self.start += at;
        self.capacity -= at;
        self.len -= front.len;
        front
    }

    /// Takes back what [`split_to`](Self::split_to) parted: the memory right behind, with its content.
    ///
    /// # Panics
    /// If `next` is not that, or has content that this one's does not reach.
    pub fn unsplit(&mut self, next: IoBuf) {
        let IoBuf { slab, start, len, capacity } = next;
        let follows = Arc::ptr_eq(&self.slab, &slab) && self.start + self.capacity == start;
        assert!(follows, "only what was split off is taken back");
        assert!(self.len == self.capacity || len == 0, "content has no hole");
        self.len += len;
        self.capacity += capacity;
    }

    /// The content as shared bytes, without a copy.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        if self.is_empty() { Bytes::new() } else { Bytes::from_owner(self) }
    }

    /// Start of the memory, for a driver that fills it. Valid for `capacity` bytes while the buffer lives.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        let base = self.slab.memory().ptr.as_ptr();
        // SAFETY: `start` lies inside the allocation (or one past its end when the capacity is zero).
        unsafe { base.add(self.start) }
    }
}

impl Deref for IoBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let base = self.slab.memory().ptr.as_ptr();
        // SAFETY: `start` lies inside the allocation (or one past its end when the capacity is zero).
        let at = unsafe { base.add(self.start) };
        // SAFETY: `start..start+len` is inside the allocation, initialised, and no other handle covers it:
        // ranges of one slab are disjoint, because `split_to` is the only way to make a second one.
        unsafe { std::slice::from_raw_parts(at, self.len) }
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let at = self.as_mut_ptr();
        // SAFETY: as for `deref`, and `&mut self` makes this the only access through this handle.
        unsafe { std::slice::from_raw_parts_mut(at, self.len) }
    }
}

impl AsRef<[u8]> for IoBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_to_gives_disjoint_aligned_ranges() {
        let mut rest = BufPool::new(4 * IO_ALIGNMENT, 1, 1).try_take().expect("one slab");
        rest.extend_from_slice(b"group one");
        rest.pad_to(IO_ALIGNMENT);
        let first = rest.split_to(IO_ALIGNMENT).freeze();
        rest.extend_from_slice(b"group two");
        let second = rest.freeze();
        assert_eq!(&first[..9], b"group one");
        assert_eq!(&second[..], b"group two");
        assert_eq!(first.as_ptr() as usize % IO_ALIGNMENT, 0);
        assert_eq!(second.as_ptr() as usize % IO_ALIGNMENT, 0);
    }

    #[test]
    fn what_was_split_is_whole_again() {
        let mut rest = IoBuf::with_capacity(3 * IO_ALIGNMENT);
        let address = rest.as_ptr();
        let mut whole = rest.split_to(IO_ALIGNMENT);
        let mut second = rest.split_to(IO_ALIGNMENT);
        whole.extend_from_slice(&[1; IO_ALIGNMENT]);
        second.extend_from_slice(&[2; 10]);
        whole.unsplit(second);
        assert_eq!((whole.len(), whole.capacity()), (IO_ALIGNMENT + 10, 2 * IO_ALIGNMENT));
        whole.unsplit(rest);
        whole.extend_from_slice(&[3; 10]);
        assert_eq!(whole.as_ptr(), address);
        assert_eq!(whole[IO_ALIGNMENT..], [[2; 10], [3; 10]].concat());
        assert_eq!(whole.capacity(), 3 * IO_ALIGNMENT);
    }

    #[test]
    #[should_panic(expected = "only what was split off")]
    fn memory_from_elsewhere_is_not_taken() {
        IoBuf::with_capacity(10).unsplit(IoBuf::with_capacity(10));
    }

    #[test]
    #[should_panic(expected = "content has no hole")]
    fn content_behind_a_hole_is_not_taken() {
        let mut rest = IoBuf::with_capacity(2 * IO_ALIGNMENT);
        let mut front = rest.split_to(IO_ALIGNMENT);
        rest.extend_from_slice(&[1]);
        front.unsplit(rest);
    }

    /// Memory that is touched first is in small pages, and stays there.
    #[test]
    fn large_pool_asks_for_huge_pages_before_anything_is_touched() {
        let slab_bytes = 64 * IO_ALIGNMENT;
        let buf = BufPool::new(slab_bytes, 16, 16).try_take().expect("one slab");
        let address = buf.as_ptr().addr();
        let mut resident = [0_u8; 64];
        // SAFETY: the range is the slab's own, in whole pages, and there is a byte for each.
        let told = unsafe { libc::mincore(address as *mut libc::c_void, slab_bytes, resident.as_mut_ptr()) };
        assert_eq!((told, resident), (0, [0; 64]), "touched already");
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("readable");
        let is_ours = |line: &str| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            range.is_some_and(|(start, end)| {
                let number = |text| usize::from_str_radix(text, 16).ok();
                number(start).zip(number(end)).is_some_and(|(start, end)| (start..end).contains(&address))
            })
        };
        let ours = maps.lines().skip_while(|line| !is_ours(line));
        let flags = ours.into_iter().find(|line| line.starts_with("VmFlags:")).expect("it is mapped");
        assert!(flags.split(' ').any(|flag| flag == "hg"), "{flags}");
        assert_eq!(address % IO_ALIGNMENT, 0);
        assert!(buf.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn pool_takes_memory_back_after_the_last_handle() {
        let pool = BufPool::new(IO_ALIGNMENT, 1, 1);
        let mut buf = pool.try_take().expect("one slab");
        buf.extend_from_slice(b"abc");
        let bytes = buf.freeze();
        let slice = bytes.slice(1..2);
        drop(bytes);
        assert!(pool.try_take().is_none(), "a slice still holds the slab");
        let mut take = std::pin::pin!(pool.take());
        let mut cx = std::task::Context::from_waker(Waker::noop());
        assert!(take.as_mut().poll(&mut cx).is_pending());
        std::thread::spawn(move || drop(slice)).join().expect("the thread drops the slice");
        assert!(take.as_mut().poll(&mut cx).is_ready());
    }

    /// Slabs of the size of all that is near: one is.
    #[test]
    fn as_few_slabs_go_round_as_are_needed() {
        let pool = BufPool::new(NEAR_BYTES, usize::MAX, 3);
        let taken: Vec<IoBuf> = (0..4).filter_map(|_| pool.try_take()).collect();
        let first = taken[0].as_ptr();
        drop(taken);
        assert_eq!(pool.spare(), 3, "the fourth is not kept");
        for _ in 0..4 {
            assert_eq!(pool.try_take().expect("one is spare").as_ptr(), first);
        }
        pool.trim();
        assert_eq!((pool.spare(), pool.lent()), (0, 0));
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn extend_beyond_capacity_panics() {
        let mut buf = IoBuf::with_capacity(1);
        buf.extend_from_slice(&vec![0; IO_ALIGNMENT + 1]);
    }
}
