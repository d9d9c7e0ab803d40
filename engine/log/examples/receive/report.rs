//! What is told of the runs.

use std::fmt;

use crate::Measured;
use crate::cpu::Cpu;

/// One run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) frame_bytes: usize,
    pub(crate) connections: usize,
    pub(crate) shards: usize,
    pub(crate) measured: Measured,
    /// Of the process that receives, and of the machine, until the last chunk was written.
    pub(crate) cpu: Cpu,
}

impl Run {
    fn bytes(&self) -> u64 {
        self.measured.frames * self.frame_bytes as u64
    }

    fn megabytes(&self) -> f64 {
        self.bytes() as f64 / 1e6
    }

    fn megabytes_per_second(&self) -> f64 {
        self.megabytes() / self.measured.acknowledged.as_secs_f64()
    }

    fn megabytes_per_cpu_second(&self) -> f64 {
        // A tick at least: a run that short says nothing.
        self.megabytes() / self.cpu.process.max(0.01)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { frames, acknowledged, drained, groups, enters } = self.measured;
        write!(
            f,
            "{:>8} B a frame  {:7.1} MB/s  {:7.1} MB per CPU-second  acked {:5.2} s  drained {:5.2} s  CPU {:5.2} s, \
             machine {:5.2}  {:7.1} KiB a group  {:.3} enters a frame",
            self.frame_bytes,
            self.megabytes_per_second(),
            self.megabytes_per_cpu_second(),
            acknowledged.as_secs_f64(),
            drained.as_secs_f64(),
            self.cpu.process,
            self.cpu.machine,
            self.bytes() as f64 / 1024.0 / groups as f64,
            enters as f64 / frames as f64,
        )
    }
}

/// The runs of a frame size, in a sentence.
pub(crate) fn summary(runs: &[Run], frame_bytes: usize) -> String {
    let of = |figure: fn(&Run) -> f64| {
        let mut figures: Vec<f64> =
            runs.iter().filter(|run| run.frame_bytes == frame_bytes).map(figure).collect();
        figures.sort_by(f64::total_cmp);
        match figures[..] {
            [] => "nothing".to_owned(),
            [first, .., last] => {
                let middle = f64::midpoint(figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
                format!("{middle:.0} [{first:.0} to {last:.0}]")
            }
            [only] => format!("{only:.0}"),
        }
    };
    format!(
        "{frame_bytes}: {} MB/s, {} MB per CPU-second; median [least to most]",
        of(Run::megabytes_per_second),
        of(Run::megabytes_per_cpu_second),
    )
}

/// All runs as a JSON list.
pub(crate) fn json(runs: &[Run]) -> String {
    let lines: Vec<String> = runs
        .iter()
        .map(|run| {
            let Measured { frames, acknowledged, drained, groups, enters } = run.measured;
            format!(
                "  {{\"frame_bytes\": {}, \"connections\": {}, \"shards\": {}, \"frames\": {frames}, \"bytes\": {}, \
                 \"acknowledged_s\": {:.4}, \"drained_s\": {:.4}, \"groups\": {groups}, \"enters\": {enters}, \
                 \"process_cpu_s\": {:.2}, \"machine_cpu_s\": {:.2}}}",
                run.frame_bytes,
                run.connections,
                run.shards,
                run.bytes(),
                acknowledged.as_secs_f64(),
                drained.as_secs_f64(),
                run.cpu.process,
                run.cpu.machine,
            )
        })
        .collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}
