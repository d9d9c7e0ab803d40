//! What is told of the runs.

use std::fmt;
use std::time::Duration;

use crate::cpu::Cpu;
use crate::{Measured, Shape, Side};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 10_000;

/// Processor time of the calling thread so far.
pub(crate) fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("procfs");
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds"))
}

/// One run of one side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) side: Side,
    pub(crate) shape: Shape,
    pub(crate) measured: Measured,
    /// Of the whole run, what comes before the clock starts included.
    pub(crate) cpu: Cpu,
}

impl Run {
    fn megabytes_per_second(&self) -> f64 {
        self.measured.bytes as f64 / 1e6 / self.measured.drained.as_secs_f64()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { appends, acknowledged, drained, groups, enters, bytes, thread_cpu } = self.measured;
        write!(
            f,
            "{:8} {:>10}  {:7.1} MB/s  {:9.0} appends/s  acked {:5.2} s  drained {:5.2} s  {:6.1} KiB a group  \
             {:.3} enters an append  thread {:4.2} s, process {:4.2}, machine {:4.2}",
            format!("{:?}", self.side).to_lowercase(),
            self.shape.to_string(),
            self.megabytes_per_second(),
            appends as f64 / drained.as_secs_f64(),
            acknowledged.as_secs_f64(),
            drained.as_secs_f64(),
            bytes as f64 / 1024.0 / groups as f64,
            enters as f64 / appends as f64,
            thread_cpu.as_secs_f64(),
            self.cpu.process,
            self.cpu.machine,
        )
    }
}

/// The ratio of a shape's pairs, of one side over the bare loop, in a sentence.
pub(crate) fn ratio(runs: &[Run], shape: Shape, side: Side) -> String {
    let of = |side| runs.iter().filter(move |run| run.shape == shape && run.side == side);
    let ratios: Vec<f64> = of(side)
        .zip(of(Side::Bare))
        .map(|(one, bare)| one.megabytes_per_second() / bare.megabytes_per_second())
        .collect();
    let (low, high) = bootstrap(&ratios);
    format!(
        "{shape}: {} over bare {:.3} [{low:.3} to {high:.3}], {} pairs",
        format!("{side:?}").to_lowercase(),
        median(&ratios),
        ratios.len()
    )
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// A 95 % interval of the median.
fn bootstrap(values: &[f64]) -> (f64, f64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        values[usize::try_from(state % values.len() as u64).expect("an index")]
    };
    let mut medians: Vec<f64> =
        (0..RESAMPLES).map(|_| median(&(0..values.len()).map(|_| draw()).collect::<Vec<_>>())).collect();
    medians.sort_by(f64::total_cmp);
    (medians[RESAMPLES / 40], medians[RESAMPLES - RESAMPLES / 40 - 1])
}

/// All runs as a JSON list.
pub(crate) fn json(runs: &[Run]) -> String {
    let lines: Vec<String> = runs
        .iter()
        .map(|run| {
            format!(
                "  {{\"side\": \"{:?}\", \"partitions\": {}, \"append_bytes\": {}, \"appends\": {}, \"bytes\": {}, \
                 \"acknowledged_s\": {:.4}, \"drained_s\": {:.4}, \"groups\": {}, \"enters\": {}, \
                 \"thread_cpu_s\": {:.3}, \"process_cpu_s\": {:.2}, \"machine_cpu_s\": {:.2}}}",
                run.side,
                run.shape.partitions,
                run.shape.append_bytes,
                run.measured.appends,
                run.measured.bytes,
                run.measured.acknowledged.as_secs_f64(),
                run.measured.drained.as_secs_f64(),
                run.measured.groups,
                run.measured.enters,
                run.measured.thread_cpu.as_secs_f64(),
                run.cpu.process,
                run.cpu.machine,
            )
        })
        .collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}
