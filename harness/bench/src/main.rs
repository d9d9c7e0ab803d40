//! `highwater-bench`: see `highwater-bench --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A disk with a power switch is served by a process of its own, which is this program again.
    highwater_disk::serve_if_asked();
    highwater_bench::cli::main()
}
