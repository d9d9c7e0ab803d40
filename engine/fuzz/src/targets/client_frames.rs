//! The client's frame reader: the same frames come out however the bytes arrive, and it holds no more than they need.

use highwater_client::FrameReader;

use crate::Reached;
use crate::source::Source;
use crate::targets::request;

const MAX_FRAME_BYTES: usize = 1 << 20;

pub(crate) fn run(bytes: &[u8]) -> Reached {
    let mut source = Source::new(bytes);
    let step = 1 + usize::from(source.u8());
    let stream = source.rest();
    let (pieces, pieces_failed) = cut(stream, step);
    let (whole, whole_failed) = cut(stream, stream.len().max(1));
    assert_eq!((&pieces, pieces_failed), (&whole, whole_failed), "frames depend on how bytes arrive");
    Reached::accepted_if(!whole.is_empty())
}

/// The frames, and whether the stream failed after them.
fn cut(stream: &[u8], step: usize) -> (Vec<Vec<u8>>, bool) {
    let mut reader = FrameReader::new(MAX_FRAME_BYTES);
    let mut frames = Vec::new();
    for piece in stream.chunks(step) {
        let room = reader.buffer_mut();
        assert!(room.capacity() - room.len() <= 2 * MAX_FRAME_BYTES + 8, "more room than a frame needs");
        room.extend_from_slice(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame.to_vec()),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let frames = request::frames();
    let stream = frames.iter().step_by(17).flat_map(|frame| frame.to_vec());
    vec![[7].into_iter().chain(stream).collect(), [0, 0, 0, 0, 0, 0, 0, 0, 1, 9].to_vec()]
}
