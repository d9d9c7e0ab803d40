//! What interleaved pairs say: for each figure the ratio of B over A, and how it reads.
//!
//! A ratio is that of a pair, not of two medians: what made both runs of a pair slow is divided out. Below
//! [`FEWEST_PAIRS`](super::stats::FEWEST_PAIRS) pairs nothing is read, however well they agree, and no ratio is given.

use super::stats::{self, Ratio, Spread};
use super::{Comparison, Sweep};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Bytes a second.
    Throughput,
    /// Bytes a second until the broker had drained.
    Drained,
    /// Bytes per second of CPU of the broker's own processes.
    PerCpuSecond,
    /// Bytes per second of CPU of the machine less the client's.
    PerMachineCpuSecond,
    /// 99th percentile of latency, ns.
    P99,
}

impl Figure {
    /// As the head of a line.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Throughput => "MB/s",
            Self::Drained => "MB/s until drained",
            Self::PerCpuSecond => "MB per broker CPU-s",
            Self::PerMachineCpuSecond => "MB per machine CPU-s",
            Self::P99 => "p99",
        }
    }

    /// A value as it is shown.
    #[must_use]
    pub fn shown(self, value: f64) -> String {
        match self {
            Self::Throughput | Self::Drained | Self::PerCpuSecond | Self::PerMachineCpuSecond => {
                super::text::megabytes(value)
            }
            Self::P99 => super::text::latency(Some(value as u64)),
        }
    }

    const fn better(self, b: bool) -> &'static str {
        match (self, b) {
            (Self::Throughput | Self::Drained, true) => "B is faster",
            (Self::Throughput | Self::Drained, false) => "A is faster",
            (Self::PerCpuSecond | Self::PerMachineCpuSecond, true) => "B does more with a CPU-second",
            (Self::PerCpuSecond | Self::PerMachineCpuSecond, false) => "A does more with a CPU-second",
            (Self::P99, true) => "B answers sooner",
            (Self::P99, false) => "A answers sooner",
        }
    }
}

/// One figure of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Compared<'a> {
    /// Which comparison.
    pub comparison: &'a Comparison,
    /// Which figure.
    pub figure: Figure,
    /// Of A over the pairs.
    pub a: Option<Spread>,
    /// Of B.
    pub b: Option<Spread>,
    /// How many pairs there are.
    pub pairs: usize,
    /// B over A; absent where too few pairs tell nothing.
    pub ratio: Option<Ratio>,
    /// How it reads.
    pub reading: &'static str,
}

/// Every figure of every comparison of a sweep, in its order. A figure that was not measured on both sides is left out, and
/// so is the throughput of a rate that was offered, which is the same on both.
#[must_use]
pub fn compared(sweep: &Sweep) -> Vec<Compared<'_>> {
    let offered = |id: &str| {
        let cell = sweep.cells.iter().find(|cell| cell.plan.id == id);
        cell.is_some_and(|cell| {
            cell.trials.iter().any(|trial| trial.load.target_records_per_second.is_some())
        })
    };
    let mut all = Vec::new();
    for comparison in &sweep.comparisons {
        let offered = offered(&comparison.a);
        if !offered {
            all.push(read(comparison, Figure::Throughput, &comparison.pairs));
        }
        for (figure, pairs) in [
            (Figure::Drained, &comparison.drained),
            (Figure::PerCpuSecond, &comparison.per_cpu_second),
            (Figure::PerMachineCpuSecond, &comparison.per_machine_cpu_second),
            (Figure::P99, &comparison.p99),
        ] {
            let says_the_rate = offered && figure == Figure::Drained;
            if !pairs.is_empty() && !says_the_rate {
                all.push(read(comparison, figure, pairs));
            }
        }
    }
    all
}

fn read<'a>(comparison: &'a Comparison, figure: Figure, pairs: &[(f64, f64)]) -> Compared<'a> {
    let ratio = stats::ratio(pairs);
    let same = comparison.a == comparison.b;
    let reading = match &ratio {
        None => "no pair was completed",
        Some(ratio) if !ratio.tells() => "too few pairs to tell",
        Some(_) if same => "the same twice: this is the noise",
        Some(ratio) if !ratio.is_significant() => "no difference beyond the noise",
        Some(ratio) => figure.better((ratio.median > 1.0) == (figure != Figure::P99)),
    };
    Compared {
        comparison,
        figure,
        a: Spread::of(pairs.iter().map(|(a, _)| *a)),
        b: Spread::of(pairs.iter().map(|(_, b)| *b)),
        pairs: pairs.len(),
        ratio: ratio.filter(Ratio::tells),
        reading,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(b: &str) -> Comparison {
        Comparison {
            a: "a".to_owned(),
            b: b.to_owned(),
            pairs: Vec::new(),
            drained: Vec::new(),
            per_cpu_second: Vec::new(),
            per_machine_cpu_second: Vec::new(),
            p99: Vec::new(),
        }
    }

    #[test]
    fn reading_knows_which_way_is_better() {
        let faster = [(100.0, 200.0); 6];
        let (other, same) = (comparison("b"), comparison("a"));
        assert_eq!(read(&other, Figure::Throughput, &faster).reading, "B is faster");
        assert_eq!(read(&other, Figure::PerCpuSecond, &faster).reading, "B does more with a CPU-second");
        assert_eq!(read(&other, Figure::P99, &faster).reading, "A answers sooner");
        assert_eq!(read(&same, Figure::Throughput, &faster).reading, "the same twice: this is the noise");
        assert_eq!(read(&other, Figure::P99, &[(5.0, 5.0); 6]).reading, "no difference beyond the noise");
    }

    #[test]
    fn fewer_than_six_pairs_give_no_ratio_and_no_reading() {
        let other = comparison("b");
        let few = read(&other, Figure::Throughput, &[(100.0, 200.0); 5]);
        assert_eq!((few.ratio, few.reading, few.pairs), (None, "too few pairs to tell", 5));
        assert!(few.a.is_some() && few.b.is_some());
        assert_eq!(read(&other, Figure::Throughput, &[]).reading, "no pair was completed");
    }
}
