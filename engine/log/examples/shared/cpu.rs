//! What processor time was spent.

/// Processor time in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    /// Of this process, the kernel's work for it included.
    pub(crate) process: f64,
    /// Of the whole machine.
    pub(crate) machine: f64,
}

impl Cpu {
    pub(crate) fn now() -> Self {
        let ticks = |text: &str, fields: &[usize]| -> f64 {
            let fields = fields.iter().filter_map(|&at| text.split_whitespace().nth(at)?.parse::<f64>().ok());
            // USER_HZ is 100 on every Linux that we run on.
            fields.sum::<f64>() / 100.0
        };
        let own = std::fs::read_to_string("/proc/self/stat").expect("procfs");
        let own = own.rsplit(')').next().expect("the name ends");
        let machine = std::fs::read_to_string("/proc/stat").expect("procfs");
        // user nice system, then irq softirq.
        Cpu { process: ticks(own, &[11, 12]), machine: ticks(&machine, &[1, 2, 3, 6, 7]) }
    }

    pub(crate) fn since(self, before: &Cpu) -> Self {
        Cpu { process: self.process - before.process, machine: self.machine - before.machine }
    }
}
