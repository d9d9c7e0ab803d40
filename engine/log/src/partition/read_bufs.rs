//! Memory for reads from segments, used again: memory fresh from the kernel costs several times the read in page faults.

use highwater_io::{BufPool, IO_ALIGNMENT, IoBuf};

/// Sizes in bytes, without the room for blocks at both ends and the header behind the last batch.
const SMALLEST_BYTES: usize = 64 << 10;
const CLASSES: usize = 7;
/// Room beside the size that is asked for.
const SLACK_BYTES: usize = 4 * IO_ALIGNMENT;
/// Memory in bytes that each size keeps while nobody reads.
const SPARE_BYTES: usize = 4 << 20;

/// Buffers of a shard, by size. A reader takes what it needs; how much that may be is bounded elsewhere.
pub(crate) struct ReadBufs {
    classes: Vec<BufPool>,
}

impl Default for ReadBufs {
    fn default() -> Self {
        let class = |at: usize| {
            let size_bytes = SMALLEST_BYTES << at;
            BufPool::new(size_bytes + SLACK_BYTES, usize::MAX, (SPARE_BYTES / size_bytes).max(1))
        };
        ReadBufs { classes: (0..CLASSES).map(class).collect() }
    }
}

impl ReadBufs {
    /// An empty buffer for at least `len_bytes`. Small ones and very large ones are not kept for later.
    pub(crate) fn take(&self, len_bytes: usize) -> IoBuf {
        let worth_keeping = len_bytes > SMALLEST_BYTES / 2;
        let class = self.classes.iter().find(|class| worth_keeping && len_bytes <= class.slab_bytes());
        class.and_then(BufPool::try_take).unwrap_or_else(|| IoBuf::with_capacity(len_bytes))
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
        let first = bufs.take(1 << 20).as_ptr();
        assert_eq!(bufs.take(1 << 20).as_ptr(), first);
    }
}
