//! Bytes on their way out, and how far they have got.

use bytes::Bytes;

/// Pieces in one vectored request at most (`UIO_MAXIOV`).
pub(crate) const MAX_PIECES: usize = 1024;
/// Bytes in one request at most. The kernel has a limit of its own a little below 2 GiB.
pub(crate) const MAX_BYTES: usize = 1 << 30;

/// Several pieces that go out one after the other.
pub(crate) struct Pieces {
    data: Vec<Bytes>,
    /// First piece of which something is left.
    next: usize,
    /// Bytes of it that are done.
    done: usize,
}

impl Pieces {
    pub(crate) fn new(data: Vec<Bytes>) -> Self {
        let mut pieces = Pieces { data, next: 0, done: 0 };
        pieces.advance(0);
        pieces
    }

    pub(crate) fn is_done(&self) -> bool {
        self.next == self.data.len()
    }

    /// Counts `bytes` more as done.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.done += bytes;
        while let Some(piece) = self.data.get(self.next)
            && self.done >= piece.len()
        {
            self.done -= piece.len();
            self.next += 1;
        }
        assert!(!self.is_done() || self.done == 0, "no more is done than was asked for");
    }

    /// Number of pieces, whatever is done.
    pub(crate) fn count(&self) -> usize {
        self.data.len()
    }

    /// What is left, without what is empty.
    pub(crate) fn left(&self) -> impl Iterator<Item = &[u8]> {
        let left = &self.data[self.next..];
        let first = left.first().map(|first| &first[self.done..]);
        let rest = left.iter().skip(1).map(|piece| &piece[..]).filter(|piece| !piece.is_empty());
        first.into_iter().chain(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(pieces: &Pieces) -> Vec<usize> {
        pieces.left().map(<[u8]>::len).collect()
    }

    #[test]
    fn pieces_advance_across_empty_and_partial_ones() {
        let data = [0, 3, 0, 4, 5, 0].map(|len| Bytes::from(vec![0; len])).to_vec();
        let mut pieces = Pieces::new(data);
        assert_eq!(left(&pieces), [3, 4, 5]);
        pieces.advance(2);
        assert_eq!(left(&pieces), [1, 4, 5]);
        pieces.advance(3);
        assert_eq!(left(&pieces), [2, 5]);
        pieces.advance(7);
        assert!(pieces.is_done());
    }

    #[test]
    fn pieces_of_nothing_are_done_at_once() {
        assert!(Pieces::new(Vec::new()).is_done());
        assert!(Pieces::new(vec![Bytes::new(), Bytes::new()]).is_done());
    }
}
