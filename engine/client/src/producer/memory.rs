//! `buffer.memory`: what batches may occupy, and their buffers once they are free.
//!
//! As in Kafka, an open batch takes all of `batch.size` at once (more for a larger record), so the sum of what batches
//! have taken bounds what they touch. Buffers of `batch.size` are kept for the next batch.

use bytes::BytesMut;

#[derive(Debug)]
pub(super) struct Memory {
    available_bytes: usize,
    batch_size_bytes: usize,
    free: Vec<BytesMut>,
    free_tokens: Vec<Vec<u64>>,
}

/// Vectors of tokens kept for reuse. They are small beside their batches.
const MAX_FREE_TOKENS: usize = 64;

impl Memory {
    pub(super) fn new(buffer_memory_bytes: usize, batch_size_bytes: usize) -> Self {
        Memory {
            available_bytes: buffer_memory_bytes,
            batch_size_bytes,
            free: Vec::new(),
            free_tokens: Vec::new(),
        }
    }

    pub(super) fn available_bytes(&self) -> usize {
        self.available_bytes
    }

    /// A buffer for a batch of `batch.size`, or of `needed_bytes` if that is more, and what it costs. `None` if there
    /// is not enough left.
    pub(super) fn take(&mut self, needed_bytes: usize) -> Option<(BytesMut, usize)> {
        let cost_bytes = needed_bytes.max(self.batch_size_bytes);
        self.available_bytes = self.available_bytes.checked_sub(cost_bytes)?;
        let pooled = if cost_bytes == self.batch_size_bytes { self.free.pop() } else { None };
        let buffer = pooled.unwrap_or_else(|| {
            // A free buffer may be kept only beside memory that is available.
            self.trim();
            BytesMut::with_capacity(cost_bytes)
        });
        Some((buffer, cost_bytes))
    }

    /// Gives back what a batch cost, and its buffer if nobody holds it any more.
    pub(super) fn give_back(&mut self, cost_bytes: usize, buffer: Option<BytesMut>) {
        self.available_bytes += cost_bytes;
        if let Some(mut buffer) = buffer
            && cost_bytes == self.batch_size_bytes
            && buffer.capacity() >= self.batch_size_bytes
        {
            buffer.clear();
            self.free.push(buffer);
        }
        self.trim();
    }

    fn trim(&mut self) {
        let most = self.available_bytes / self.batch_size_bytes.max(1);
        self.free.truncate(most);
    }

    pub(super) fn take_tokens(&mut self) -> Vec<u64> {
        self.free_tokens.pop().unwrap_or_default()
    }

    pub(super) fn give_back_tokens(&mut self, mut tokens: Vec<u64>) {
        if self.free_tokens.len() < MAX_FREE_TOKENS {
            tokens.clear();
            self.free_tokens.push(tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_refused_at_the_limit_and_buffers_come_back() {
        let mut memory = Memory::new(250, 100);
        let (first, cost) = memory.take(10).expect("a batch");
        let address = first.as_ptr();
        let (_second, _) = memory.take(10).expect("another");
        assert!(memory.take(10).is_none());
        memory.give_back(cost, Some(first));
        let (again, _) = memory.take(10).expect("room again");
        assert_eq!(again.as_ptr(), address, "the same buffer");
        assert_eq!(memory.available_bytes(), 50);
    }

    #[test]
    fn large_record_costs_its_size_and_displaces_free_buffers() {
        let mut memory = Memory::new(300, 100);
        let taken: Vec<_> = (0..3).map(|_| memory.take(1).expect("a batch")).collect();
        for (buffer, cost) in taken {
            memory.give_back(cost, Some(buffer));
        }
        assert_eq!(memory.free.len(), 3);
        let (_, cost) = memory.take(250).expect("fits");
        assert_eq!((cost, memory.free.len()), (250, 0), "what is kept counts");
        memory.give_back(cost, None);
        assert_eq!(memory.available_bytes(), 300);
    }
}
