//! The buffers that the kernel receives into: one ring of them a shard.
//!
//! A buffer is in one of three places, and only there:
//!
//! ```text
//!   ring (the kernel may fill it) ── completion ──> LentBuffer inside Bytes (shared, read only, any thread)
//!        ^                                               │ last handle dropped
//!        └──────── collect() ──── returned queue <───────┘
//! ```
//!
//! The memory is one allocation that lives as long as the ring or any lent buffer. The number of buffers is the bound
//! of what a shard receives without having been asked: with none in the ring, receives end with `ENOBUFS`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;
use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use super::ring;
use crate::buf::Memory;

/// The buffer group of the ring.
pub(super) const RECV_GROUP: u16 = 0;

/// Largest ring that the kernel takes.
const MAX_BUFFERS: u16 = 1 << 15;

/// What lent buffers share with the ring.
struct Lent {
    memory: Memory,
    buffer_bytes: usize,
    returned: ArrayQueue<u16>,
}

/// A filled buffer, given back when dropped.
struct LentBuffer {
    lent: Arc<Lent>,
    id: u16,
    len: usize,
}

impl AsRef<[u8]> for LentBuffer {
    fn as_ref(&self) -> &[u8] {
        let start = usize::from(self.id) * self.lent.buffer_bytes;
        // SAFETY: `lend` has checked that the buffer lies within the memory.
        let at = unsafe { self.lent.memory.as_ptr().add(start) };
        // SAFETY: the memory is initialised and lives as long as `lent`; the kernel has given this buffer up with its
        // completion, and gets it back only when this, its one `LentBuffer`, is dropped.
        unsafe { std::slice::from_raw_parts(at, self.len) }
    }
}

impl Drop for LentBuffer {
    fn drop(&mut self) {
        self.lent.returned.push(self.id).expect("the queue has room for every buffer");
    }
}

/// The shard's side: the ring that the kernel takes buffers from.
pub(super) struct BufferRing {
    entries: Memory,
    mask: u16,
    tail: u16,
    /// Buffers that the kernel may fill, as far as its completions have told.
    available: usize,
    lent: Arc<Lent>,
}

impl BufferRing {
    pub(super) fn new(count: u16, buffer_bytes: usize) -> Self {
        let count = count.clamp(1, MAX_BUFFERS).next_power_of_two();
        let buffer_bytes = buffer_bytes.clamp(1, 1 << 30).next_multiple_of(64);
        let lent = Lent {
            memory: Memory::zeroed(usize::from(count) * buffer_bytes),
            buffer_bytes,
            returned: ArrayQueue::new(usize::from(count)),
        };
        let entries = Memory::zeroed(usize::from(count) * size_of::<BufRingEntry>());
        let mut ring = BufferRing { entries, mask: count - 1, tail: 0, available: 0, lent: Arc::new(lent) };
        (0..count).for_each(|id| ring.add(id));
        ring.publish();
        ring
    }

    /// Tells the kernel of the ring.
    ///
    /// # Safety
    /// `self` must outlive the io_uring, or be leaked.
    pub(super) unsafe fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.entries.as_ptr() as u64;
        // SAFETY: the address is that of `mask + 1` entries, page-aligned; the caller keeps them. The buffers that
        // they name live in `lent`, which `self` keeps.
        let registered =
            unsafe { submitter.register_buf_ring_with_flags(address, self.mask + 1, RECV_GROUP, 0) };
        registered.map_err(ring::explain)
    }

    /// Buffers that the kernel may fill.
    pub(super) fn available(&self) -> usize {
        self.available
    }

    /// Gives the kernel the buffers that came back.
    pub(super) fn collect(&mut self) {
        let mut any = false;
        while let Some(id) = self.lent.returned.pop() {
            self.add(id);
            any = true;
        }
        if any {
            self.publish();
        }
    }

    /// The first `len` bytes of a buffer that a completion named.
    pub(super) fn lend(&mut self, id: u16, len: usize) -> Bytes {
        assert!(id <= self.mask && len <= self.lent.buffer_bytes, "the kernel names a buffer of the ring");
        self.available -= 1;
        Bytes::from_owner(LentBuffer { lent: Arc::clone(&self.lent), id, len })
    }

    fn add(&mut self, id: u16) {
        let index = usize::from(self.tail & self.mask);
        let start = usize::from(id) * self.lent.buffer_bytes;
        let address = self.lent.memory.as_ptr() as u64 + start as u64;
        // SAFETY: the masked index is one of the entries.
        let entry = unsafe { self.entries.as_ptr().cast::<BufRingEntry>().add(index) };
        // SAFETY: the entry is within our memory, aligned, and beyond the published tail, where the kernel does not
        // look; no other reference to it exists.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(u32::try_from(self.lent.buffer_bytes).expect("clamped when the ring was made"));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.available += 1;
    }

    fn publish(&self) {
        // SAFETY: the base is that of the ring's entries.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr().cast()) };
        // SAFETY: the tail lies in the reserved part of the first entry, aligned, and both sides access it atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
