//! A batch as producers send it.

use std::rc::Rc;

use bytes::Bytes;
use highwater_model::Timestamp;
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;

const RECORD_BYTES: usize = 1000;

/// One batch of exactly `size_bytes`.
pub(crate) fn batch(size_bytes: usize) -> Bytes {
    let build = |values: &[usize]| {
        let mut builder = BatchBuilder::new(Compression::None);
        let noise: Rc<[u8]> = noise(size_bytes);
        for &len in values {
            let value = Some(&noise[..len]);
            builder.push(&NewRecord { timestamp: Timestamp(1_000), value, ..NewRecord::default() });
        }
        builder.build(ProducerStamp::NONE).expect("a batch")
    };
    let mut values = vec![RECORD_BYTES; (size_bytes / (RECORD_BYTES + 16)).saturating_sub(1)];
    let short = build(&values);
    // The rest goes into one record more; its own lengths take a few bytes.
    values.push(size_bytes.saturating_sub(short.len()));
    while build(&values).len() > size_bytes {
        *values.last_mut().expect("one was pushed") -= 1;
    }
    build(&values)
}

fn noise(size_bytes: usize) -> Rc<[u8]> {
    let mut state = 88_172_645_463_325_252_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(size_bytes)
    .collect()
}
