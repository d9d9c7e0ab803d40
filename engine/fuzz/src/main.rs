//! One fuzz target under libFuzzer. `HIGHWATER_FUZZ_TARGET` names it; the arguments are libFuzzer's. With
//! `HIGHWATER_FUZZ_SEEDS` it only writes the seeds of every target, to `$HIGHWATER_FUZZ_SEEDS/<target>/seed-<n>`.
#![no_main]

use std::alloc::System;
use std::path::Path;
use std::sync::OnceLock;

use cap::Cap;
use highwater_fuzz::{BYTES_PER_BYTE, TARGETS, Target, target};
use libfuzzer_sys::fuzz_target;

/// An input that asks for more than its share ends the process, which libFuzzer reports as a crash.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// Memory that may stay behind after an input, for what is made once: above it, inputs leak.
const LEFT_BYTES: usize = 32 << 20;

static TARGET: OnceLock<&Target> = OnceLock::new();

fn write_seeds(dir: &Path) -> std::io::Result<()> {
    for target in TARGETS {
        let dir = dir.join(target.name);
        std::fs::create_dir_all(&dir)?;
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}

fn begin() {
    if let Some(dir) = std::env::var_os("HIGHWATER_FUZZ_SEEDS") {
        let written = write_seeds(Path::new(&dir));
        std::process::exit(written.map_or_else(
            |error| {
                eprintln!("{}: {error}", dir.display());
                2
            },
            |()| 0,
        ));
    }
    let name = std::env::var("HIGHWATER_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = target(&name) else {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("HIGHWATER_FUZZ_TARGET is {name:?}; there are: {}", names.join(" "));
        std::process::exit(2);
    };
    TARGET.get_or_init(|| target);
}

fuzz_target!(init: begin(), |bytes: &[u8]| {
    if let Some(target) = TARGET.get() {
        assert!(MEMORY.allocated() < LEFT_BYTES, "inputs before this one left {} bytes behind", MEMORY.allocated());
        let budget = target.memory_bytes + BYTES_PER_BYTE * bytes.len();
        let _ = MEMORY.set_limit(MEMORY.allocated() + budget);
        (target.run)(bytes);
        let _ = MEMORY.set_limit(usize::MAX);
    }
});
