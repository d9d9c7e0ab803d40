//! Runs seeds.

fn main() {
    let first: u64 = std::env::args().nth(1).and_then(|t| t.parse().ok()).unwrap_or(0);
    let n: u64 = std::env::args().nth(2).and_then(|t| t.parse().ok()).unwrap_or(1);
    for seed in first..first + n {
        let scenario = highwater_sim::Scenario::seeded(seed);
        let t = std::time::Instant::now();
        let o = highwater_sim::run(seed, &scenario);
        println!(
            "{seed} {:?} {:?} {:x} {:?} {:?}",
            o.culprit(),
            o.complaints(),
            o.trace_hash,
            o.figures,
            t.elapsed()
        );
    }
}
