//! A batch that its broker finds too large becomes two. (Kafka splits to `batch.size` first; halving ends as surely and
//! needs no guess.)

use highwater_model::Timestamp;
use highwater_model::batch::{BatchBuilder, BatchRecords, NewRecord};
use highwater_model::record::{RecordView, records};

/// Two batches of the records of one, in order, of about equal size. `None` for a single record.
pub(super) fn halves(whole: &BatchRecords) -> Option<(BatchRecords, BatchRecords)> {
    if whole.record_count() < 2 {
        return None;
    }
    let half_bytes = whole.uncompressed().len() / 2;
    let mut first = BatchBuilder::new(whole.compression());
    let mut second = BatchBuilder::new(whole.compression());
    let empty_bytes = first.size_bytes();
    let last = whole.record_count() - 1;
    for record in records(whole.uncompressed()) {
        let record = record.ok()?;
        let fits = first.size_bytes() - empty_bytes < half_bytes && record.offset_delta < last;
        let into_first = first.is_empty() || (second.is_empty() && fits);
        push(if into_first { &mut first } else { &mut second }, whole.base_timestamp(), &record)?;
    }
    Some((first.finish().ok()?, second.finish().ok()?))
}

fn push(builder: &mut BatchBuilder, base: Timestamp, record: &RecordView<'_>) -> Option<()> {
    let headers: Vec<(&str, Option<&[u8]>)> = record
        .headers()
        .map(|header| {
            let (name, value) = header.ok()?;
            Some((std::str::from_utf8(name).ok()?, value))
        })
        .collect::<Option<_>>()?;
    builder.push(&NewRecord {
        timestamp: Timestamp(base.0.wrapping_add(record.timestamp_delta)),
        key: record.key,
        value: record.value,
        headers: &headers,
    });
    Some(())
}

#[cfg(test)]
mod tests {
    use highwater_model::compression::Compression;

    use super::*;

    fn batch(values: &[usize], compression: Compression) -> BatchRecords {
        let mut builder = BatchBuilder::new(compression);
        for (index, len) in values.iter().enumerate() {
            builder.push(&NewRecord {
                timestamp: Timestamp(1000 + 7 * i64::try_from(index).expect("few")),
                key: Some(&index.to_be_bytes()),
                value: Some(&vec![1; *len]),
                headers: &[("h", None)],
            });
        }
        builder.finish().expect("not empty")
    }

    fn read(batch: &BatchRecords) -> Vec<(i64, Vec<u8>, usize)> {
        records(batch.uncompressed())
            .map(|record| record.expect("well formed"))
            .map(|r| {
                let at = batch.base_timestamp().0 + r.timestamp_delta;
                (at, r.key.expect("keyed").to_vec(), r.header_count().unsigned_abs() as usize)
            })
            .collect()
    }

    #[test]
    fn halves_hold_every_record_in_order() {
        for compression in [Compression::None, Compression::Lz4] {
            for sizes in [&[5, 5][..], &[5000, 1, 1], &[1, 1, 5000], &[0; 101]] {
                let whole = batch(sizes, compression);
                let (first, second) = halves(&whole).expect("more than one record");
                assert_eq!([read(&first), read(&second)].concat(), read(&whole), "{sizes:?}");
                assert!(first.record_count() >= 1 && second.record_count() >= 1);
            }
        }
    }

    #[test]
    fn one_record_is_not_split() {
        assert!(halves(&batch(&[9], Compression::None)).is_none());
    }
}
