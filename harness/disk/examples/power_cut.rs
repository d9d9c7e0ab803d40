//! Cuts the power under a file that is half flushed, and shows what is left. Run as root:
//! `cargo run -p highwater-disk --example power_cut`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use highwater_disk::{CutMode, Disk, DiskConfig, Error, ServerProgram};

fn main() -> Result<(), Error> {
    // The disk is served by another process, here by this program started again.
    highwater_disk::serve_if_asked();
    let disk = Disk::create(DiskConfig { server: ServerProgram::ThisProgram, ..DiskConfig::new(64 << 20) })?;
    let path = disk.mount_point().join("file");
    write(&path).expect("the disk is new and empty");

    let cut = disk.cut_power(CutMode::DropAll)?;
    // A broker would be killed here, before its I/O fails.
    disk.release_hung_io()?;
    disk.finish_cut()?;
    let on = disk.power_on()?;

    println!("cut: {cut:?}");
    println!("ext4 replayed its journal: {}", on.replayed_journal);
    println!(
        "the file holds: {:?}",
        std::fs::read_to_string(&path).unwrap_or_else(|error| error.to_string())
    );
    Ok(())
}

/// Writes a line and flushes it, writes over it and does not.
fn write(path: &std::path::Path) -> std::io::Result<()> {
    let file = File::create(path)?;
    file.write_all_at(b"flushed  ", 0)?;
    file.sync_all()?;
    file.write_all_at(b"unflushed", 0)
}
