//! Latencies as HdrHistograms: kept whole, merged, and written in the formats that other tools read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{
    Deserialize, Deserializer as SerdeDeserializer, Serialize, Serializer as SerdeSerializer, de, ser,
};
use std::io::{self, Write};

/// Durations in nanoseconds, three significant digits. In JSON it is one string: the compressed V2
/// encoding in base64 that every HdrHistogram implementation reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new(3).expect("three significant digits are valid"))
    }
}

impl Latency {
    /// Adds one duration.
    pub fn record(&mut self, nanos: u64) {
        // The histogram resizes itself; where it cannot, the longest that it can hold stands in.
        if self.0.record(nanos).is_err() {
            self.0.saturating_record(nanos);
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        // Both have three digits and resize, so that nothing is out of range.
        self.0 += &other.0;
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The duration that the fraction `quantile` (0 to 1) does not exceed, ns; absent without data.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(quantile))
    }

    /// The longest, ns.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.max())
    }

    /// The curve as (quantile, ns), with more points where the tail gets thin.
    #[must_use]
    pub fn curve(&self) -> Vec<(f64, u64)> {
        let points = self.0.iter_quantiles(8);
        points.map(|point| (point.quantile_iterated_to(), point.value_iterated_to())).collect()
    }

    /// Writes the `.hgrm` text that HdrHistogram's plotters read, values in milliseconds.
    ///
    /// # Errors
    /// What the writer returns.
    pub fn write_hgrm(&self, out: &mut impl Write) -> io::Result<()> {
        const TO_MILLIS: f64 = 1e6;
        writeln!(
            out,
            "{:>12} {:>14} {:>10} {:>14}\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        )?;
        let mut total = 0;
        for point in self.0.iter_quantiles(5) {
            total += point.count_since_last_iteration();
            let value = point.value_iterated_to() as f64 / TO_MILLIS;
            let quantile = point.quantile_iterated_to();
            write!(out, "{value:>12.6} {quantile:>14.12} {total:>10}")?;
            if quantile < 1.0 {
                writeln!(out, " {:>14.2}", 1.0 / (1.0 - quantile))?;
            } else {
                writeln!(out)?;
            }
        }
        let (mean, deviation) = (self.0.mean() / TO_MILLIS, self.0.stdev() / TO_MILLIS);
        writeln!(out, "#[Mean    = {mean:>12.6}, StdDeviation   = {deviation:>12.6}]")?;
        let max = self.0.max() as f64 / TO_MILLIS;
        writeln!(out, "#[Max     = {max:>12.6}, Total count    = {:>12}]", self.0.len())?;
        let (buckets, distinct) = (self.0.buckets(), self.0.distinct_values());
        writeln!(out, "#[Buckets = {buckets:>12}, SubBuckets     = {distinct:>12}]")
    }
}

impl Serialize for Latency {
    fn serialize<S: SerdeSerializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.0, &mut bytes).map_err(ser::Error::custom)?;
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: SerdeDeserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(de::Error::custom)?;
        let mut histogram = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| de::Error::custom(format!("not a histogram: {error:?}")))?;
        histogram.auto(true);
        Ok(Self(histogram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(values: impl IntoIterator<Item = u64>) -> Latency {
        let mut latency = Latency::default();
        values.into_iter().for_each(|value| latency.record(value));
        latency
    }

    #[test]
    fn latency_round_trips_through_json_and_can_grow_again() {
        let before = latency((1..1000).map(|n| n * 1000));
        let json = serde_json::to_string(&before).unwrap();
        assert!(json.starts_with("\"HISTFAAA"), "the standard encoding's cookie: {json}");
        let mut after: Latency = serde_json::from_str(&json).unwrap();
        assert_eq!(after, before);
        after.record(10_000_000_000);
        assert!(after.max().unwrap() >= 10_000_000_000);
    }

    #[test]
    fn latency_of_garbage_is_an_error() {
        for text in ["\"\"", "\"!!\"", "\"SGVsbG8=\"", "3"] {
            assert!(serde_json::from_str::<Latency>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn merge_is_of_counts_not_of_percentiles() {
        let mut merged = latency(std::iter::repeat_n(1_000, 99));
        merged.merge(&latency([1_000_000_000]));
        assert_eq!(merged.len(), 100);
        assert!(merged.quantile(0.99).unwrap() < 1_100);
        assert!(merged.quantile(0.999).unwrap() >= 1_000_000_000);
    }

    #[test]
    fn quantiles_without_data_are_absent() {
        assert_eq!(Latency::default().quantile(0.5), None);
        assert_eq!(Latency::default().max(), None);
    }

    #[test]
    fn hgrm_has_header_rows_and_footer() {
        let mut text = Vec::new();
        latency((1..=100).map(|n| n * 1_000_000)).write_hgrm(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
        );
        let last = lines.iter().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert_eq!((fields[1], fields[2]), ("1.000000000000", "100"));
        assert_eq!(lines.iter().filter(|line| line.starts_with("#[")).count(), 3);
    }
}
