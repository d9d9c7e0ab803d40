//! A trial by time: what was acknowledged in each bucket, and how late.

use hdrhistogram::Histogram;
use highwater_checker::Nanos;

use crate::results::Timeline;

/// Buckets of a trial, whatever its length.
const BUCKETS: u64 = 200;
/// Never finer than this: a bucket should hold more than a few acks.
const FINEST: u64 = 20_000_000;

/// The buckets of one producer, to be merged with the others'.
#[derive(Debug)]
pub(super) struct Buckets {
    width: Nanos,
    buckets: Vec<Bucket>,
}

#[derive(Debug, Default)]
struct Bucket {
    acked: u64,
    bytes: u64,
    errors: u64,
    /// Latency from the intended send time in µs.
    latency: Option<Histogram<u32>>,
}

impl Buckets {
    /// Buckets for a trial of about `length`.
    pub(super) fn new(length: Nanos) -> Self {
        Buckets { width: Nanos((length.0 / BUCKETS).max(FINEST)), buckets: Vec::new() }
    }

    pub(super) fn acked(&mut self, at: Nanos, bytes: u64, latency: Nanos) {
        let bucket = self.bucket(at);
        bucket.acked += 1;
        bucket.bytes += bytes;
        // Two digits are plenty for a line in a picture.
        let histogram =
            bucket.latency.get_or_insert_with(|| Histogram::new(2).expect("two digits are valid"));
        // It resizes itself, so that recording fails only past what memory can hold.
        let _ = histogram.record(latency.0 / 1_000);
    }

    pub(super) fn failed(&mut self, at: Nanos, records: u64) {
        self.bucket(at).errors += records;
    }

    fn bucket(&mut self, at: Nanos) -> &mut Bucket {
        let index = usize::try_from(at.0 / self.width.0).unwrap_or(usize::MAX);
        if self.buckets.len() <= index {
            self.buckets.resize_with(index + 1, Bucket::default);
        }
        &mut self.buckets[index]
    }

    /// The timeline of all producers.
    pub(super) fn merge(all: Vec<Buckets>) -> Timeline {
        let width = all.first().map_or(Nanos(FINEST), |buckets| buckets.width);
        let mut merged = Buckets { width, buckets: Vec::new() };
        for buckets in all {
            for (index, bucket) in buckets.buckets.into_iter().enumerate() {
                merged.bucket(Nanos(width.0 * index as u64)).add(bucket);
            }
        }
        let mut timeline = Timeline { bucket: width, ..Timeline::default() };
        for bucket in &merged.buckets {
            timeline.acked.push(u32::try_from(bucket.acked).unwrap_or(u32::MAX));
            timeline.bytes.push(bucket.bytes);
            timeline.errors.push(u32::try_from(bucket.errors).unwrap_or(u32::MAX));
            timeline.p50_us.push(bucket.quantile(0.5));
            timeline.p99_us.push(bucket.quantile(0.99));
        }
        timeline
    }
}

impl Bucket {
    fn add(&mut self, other: Bucket) {
        self.acked += other.acked;
        self.bytes += other.bytes;
        self.errors += other.errors;
        match (&mut self.latency, other.latency) {
            (Some(latency), Some(other)) => *latency += other,
            (latency @ None, other) => *latency = other,
            (Some(_), None) => {}
        }
    }

    fn quantile(&self, quantile: f64) -> Option<u32> {
        let value = self.latency.as_ref()?.value_at_quantile(quantile);
        Some(u32::try_from(value).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_add_up_bucket_by_bucket() {
        let ms = |n| Nanos::from_millis(n);
        let mut one = Buckets::new(ms(4_000));
        one.acked(ms(5), 100, ms(1));
        one.failed(ms(45), 3);
        let mut two = Buckets::new(ms(4_000));
        two.acked(ms(6), 100, ms(9));
        two.acked(ms(21), 100, ms(2));
        let timeline = Buckets::merge(vec![one, two]);
        assert_eq!(timeline.bucket, ms(20));
        assert_eq!(timeline.acked, [2, 1, 0]);
        assert_eq!(timeline.bytes, [200, 100, 0]);
        assert_eq!(timeline.errors, [0, 0, 3]);
        assert_eq!(timeline.p50_us[2], None);
        assert!(timeline.p99_us[0].unwrap() >= 9_000 && timeline.p50_us[0].unwrap() < 1_100);
    }

    #[test]
    fn long_trials_have_wider_buckets() {
        assert_eq!(Buckets::new(Nanos::from_millis(200_000)).width, Nanos::from_millis(1_000));
    }
}
