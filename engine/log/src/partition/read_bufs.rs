//! Memory for reads from segments, used again: memory fresh from the kernel costs several times the read in page faults.

use std::cell::Cell;

use highwater_io::{BufPool, IO_ALIGNMENT, IoBuf};

/// Sizes in bytes, without the room for blocks at both ends and the header behind the last batch.
const SMALLEST_BYTES: usize = 64 << 10;
const CLASSES: usize = 7;
/// Room beside the size that is asked for.
const SLACK_BYTES: usize = 4 * IO_ALIGNMENT;
/// Memory in bytes, in huge pages, that is for use again, at most. What readers take beyond that is given back at once.
const MOST_KEPT_BYTES: usize = 16 << 20;

/// Where the hot tail is small: so much of its memory.
const KEPT_FRACTION: usize = 4;

/// Buffers of a shard, by size. A reader takes what it needs; how much that may be is bounded elsewhere.
pub(crate) struct ReadBufs {
    classes: Vec<Class>,
    kept_bytes: usize,
}

struct Class {
    pool: BufPool,
    /// Whether one was taken since the last [`trim_if_idle`](ReadBufs::trim_if_idle).
    is_in_use: Cell<bool>,
}

impl ReadBufs {
    /// For a shard with so much memory for its hot tail.
    pub(crate) fn new(hot_tail_bytes: usize) -> Self {
        let kept_bytes = MOST_KEPT_BYTES.min(hot_tail_bytes / KEPT_FRACTION);
        let class = |at: usize| {
            let size_bytes = SMALLEST_BYTES << at;
            let most = (kept_bytes / size_bytes).max(1);
            let pool = BufPool::new(size_bytes + SLACK_BYTES, most, most);
            Class { pool, is_in_use: Cell::new(false) }
        };
        ReadBufs { classes: (0..CLASSES).map(class).collect(), kept_bytes }
    }

    /// An empty buffer for at least `len_bytes`. Small ones and very large ones are not kept for later.
    pub(crate) fn take(&self, len_bytes: usize) -> IoBuf {
        let worth_keeping = len_bytes > SMALLEST_BYTES / 2;
        let class = self.classes.iter().find(|class| worth_keeping && len_bytes <= class.pool.slab_bytes());
        let kept = class.and_then(|class| {
            class.is_in_use.set(true);
            (class.pool.spare() > 0 || self.has_room(class)).then(|| class.pool.try_take()).flatten()
        });
        kept.unwrap_or_else(|| IoBuf::with_capacity(len_bytes))
    }

    /// Whether one more of a size may be made to be kept. What is not in use of the other sizes goes for it.
    fn has_room(&self, class: &Class) -> bool {
        let fits = || self.held_bytes() + class.pool.slab_bytes() <= self.kept_bytes + CLASSES * SLACK_BYTES;
        if !fits() {
            self.classes.iter().for_each(|class| class.pool.trim());
        }
        fits()
    }

    /// Memory in bytes that is kept, in use or not, with what was made together with another one and not touched.
    fn held_bytes(&self) -> usize {
        self.classes.iter().map(|Class { pool, .. }| (pool.lent() + pool.spare()) * pool.slab_bytes()).sum()
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
        let bufs = ReadBufs::new(96 << 20);
        for len in [1, 40 << 10, 64 << 10, (1 << 20) + 3 * IO_ALIGNMENT, 4 << 20, 9 << 20] {
            let buf = bufs.take(len);
            assert!(buf.is_empty() && buf.capacity() >= len, "{len}");
            assert!(
                buf.capacity() <= (2 * len).max(len + IO_ALIGNMENT) + SLACK_BYTES,
                "{len}: {}",
                buf.capacity()
            );
        }
        // More than are kept may have been made together, and what is too much goes, so that not all come again.
        let all = |bufs: &ReadBufs| -> Vec<IoBuf> { (0..16).map(|_| bufs.take(1 << 20)).collect() };
        let pool =
            &bufs.classes.iter().find(|class| class.pool.slab_bytes() > 1 << 20).expect("one for it").pool;
        drop(all(&bufs));
        let most = pool.spare();
        assert!((13..=16).contains(&most), "{most}");
        let again = all(&bufs);
        assert_eq!((pool.lent(), pool.spare()), (most, 0), "all of them were kept, and no more are");
        // Several are made at a time.
        assert!(bufs.held_bytes() <= MOST_KEPT_BYTES + (8 << 20));
        let other = bufs.take(64 << 10);
        drop(again);
        assert_eq!(pool.spare(), most);
        drop(other);
        let others: Vec<IoBuf> = (0..8).map(|_| bufs.take(2 << 20)).collect();
        assert_eq!(pool.spare(), 0, "gone for another size");
        assert!(bufs.held_bytes() <= MOST_KEPT_BYTES + (8 << 20));
        drop(others);
        bufs.trim_if_idle();
        assert!(bufs.classes.iter().any(|class| class.pool.spare() > 0), "in use until now");
        bufs.trim_if_idle();
        assert!(bufs.classes.iter().all(|class| class.pool.spare() == 0));
    }
}
