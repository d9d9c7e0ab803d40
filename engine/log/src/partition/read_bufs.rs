//! Memory for reads from segments, used again: memory fresh from the kernel costs several times the read in page faults.

use std::cell::Cell;

use highwater_io::{BufPool, IO_ALIGNMENT, IoBuf};

/// Sizes in bytes, without the room for blocks at both ends and the header behind the last batch.
const SMALLEST_BYTES: usize = 64 << 10;
const CLASSES: usize = 7;
/// Room beside the size that is asked for.
const SLACK_BYTES: usize = 4 * IO_ALIGNMENT;
/// Memory in bytes that each size has for use again, in huge pages. What readers take beyond that is given back at once.
const KEPT_BYTES: usize = 16 << 20;

/// Buffers of a shard, by size. A reader takes what it needs; how much that may be is bounded elsewhere.
pub(crate) struct ReadBufs {
    classes: Vec<Class>,
}

struct Class {
    pool: BufPool,
    /// Whether one was taken since the last [`trim_if_idle`](ReadBufs::trim_if_idle).
    is_in_use: Cell<bool>,
}

impl Default for ReadBufs {
    fn default() -> Self {
        let class = |at: usize| {
            let size_bytes = SMALLEST_BYTES << at;
            let most = KEPT_BYTES / size_bytes;
            let pool = BufPool::new(size_bytes + SLACK_BYTES, most, most);
            Class { pool, is_in_use: Cell::new(false) }
        };
        ReadBufs { classes: (0..CLASSES).map(class).collect() }
    }
}

impl ReadBufs {
    /// An empty buffer for at least `len_bytes`. Small ones and very large ones are not kept for later.
    pub(crate) fn take(&self, len_bytes: usize) -> IoBuf {
        let worth_keeping = len_bytes > SMALLEST_BYTES / 2;
        let class = self.classes.iter().find(|class| worth_keeping && len_bytes <= class.pool.slab_bytes());
        let kept = class.and_then(|class| {
            class.is_in_use.set(true);
            class.pool.try_take()
        });
        kept.unwrap_or_else(|| IoBuf::with_capacity(len_bytes))
    }

    /// Lets go what is kept of each size, if nobody took any since the last call.
    pub(crate) fn trim_if_idle(&self) {
        self.classes
            .iter()
            .filter(|class| !class.is_in_use.replace(false))
            .for_each(|class| class.pool.trim());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_fit_what_is_asked_for_and_are_used_again() {
        let bufs = ReadBufs::default();
        for len in [1, 40 << 10, 64 << 10, (1 << 20) + 3 * IO_ALIGNMENT, 4 << 20, 9 << 20] {
            let buf = bufs.take(len);
            assert!(buf.is_empty() && buf.capacity() >= len, "{len}");
            assert!(
                buf.capacity() <= (2 * len).max(len + IO_ALIGNMENT) + SLACK_BYTES,
                "{len}: {}",
                buf.capacity()
            );
        }
        // In whatever order they come back, these are all that there are.
        let all = |bufs: &ReadBufs| -> Vec<IoBuf> { (0..16).map(|_| bufs.take(1 << 20)).collect() };
        let addresses = |bufs: &[IoBuf]| {
            let mut addresses: Vec<usize> = bufs.iter().map(|buf| buf.as_ptr().addr()).collect();
            addresses.sort_unstable();
            addresses
        };
        let first = addresses(&all(&bufs));
        let again = all(&bufs);
        assert_eq!(addresses(&again), first);
        assert!(!first.contains(&bufs.take(1 << 20).as_ptr().addr()), "more than are kept");
        drop(again);
        bufs.trim_if_idle();
        assert!(bufs.classes.iter().any(|class| class.pool.spare() > 0), "in use until now");
        bufs.trim_if_idle();
        assert!(bufs.classes.iter().all(|class| class.pool.spare() == 0));
    }
}
