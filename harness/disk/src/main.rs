//! `highwater-disk`: a disk with a power switch, from the shell.
//!
//! `run` serves a disk; every other command finds a running one by its control socket and does one thing to it. The
//! library does the work; `flags` says what can be said.

mod flags;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use highwater_disk::{
    Balloon, CutReport, Disk, Fault, FileSystemCheck, FlushRecord, PowerOnReport, Stamp, Stats, StopAfter,
    kill, strict,
};
use serde::Serialize;

use crate::flags::{Command, Cut, Eio, Flags, Operation, Replay, Step, StrictReplay, Target};

fn main() -> ExitCode {
    highwater_disk::serve_if_asked();
    let flags = Flags::parse();
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("highwater-disk: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> Result<()> {
    let Flags { target, json, command } = flags;
    let disk = || find(&target);
    match command {
        Command::Run(run) => highwater_disk::serve(run.config(target.control), |disk| {
            println!("{} is ready; control socket {}", disk.mount_point.display(), disk.control.display());
            println!("interrupt to take it down");
        })?,
        Command::Cut(arguments) => cut(&disk()?, &arguments, json)?,
        Command::On => on(&disk()?, json)?,
        Command::Eio(eio) => disk()?.inject(eio_fault(&eio))?,
        Command::Lie(when) => disk()?.inject(Fault::FlushLie { rule: when.rule() })?,
        Command::Slow(slow) => {
            let (read_us, write_us, flush_us) = (slow.read_us, slow.write_us, slow.flush_us);
            disk()?.inject(Fault::Delay { read_us, write_us, flush_us })?;
        }
        Command::Bad { offset, length } => {
            disk()?.inject(Fault::Unreadable { offset_bytes: offset, length_bytes: length })?;
        }
        Command::Stall => disk()?.stall()?,
        Command::Resume => disk()?.resume()?,
        Command::Heal => disk()?.heal()?,
        Command::Full { undo: true, .. } => match Balloon::find(disk()?.mount_point()) {
            Some(balloon) => balloon.deflate()?,
            None => bail!("there is no balloon on the disk"),
        },
        Command::Full { leave, .. } => {
            let balloon = disk()?.fill(leave)?;
            println!("the balloon takes {} bytes", balloon.size_bytes());
        }
        Command::Stats => print(json, &disk()?.stats()?, describe_stats)?,
        Command::Users => print(json, &disk()?.users(), |users| lines(users))?,
        Command::Stop => disk()?.stop()?.iter().for_each(|removed| println!("removed {removed}")),
        Command::List => list()?,
        Command::Cleanup => {
            let removed = highwater_disk::cleanup()?.into_result()?;
            removed.iter().for_each(|removed| println!("removed {removed}"));
        }
        Command::Check => {
            highwater_disk::preflight()?;
            println!("this machine can run disks with a power switch");
        }
        Command::Replay(arguments) => replay(&arguments, json)?,
        Command::Strict(arguments) => strict::serve(arguments.config(), |mount_point| {
            println!("{} is ready", mount_point.display());
            println!("interrupt to take it down");
        })?,
        Command::StrictReplay(arguments) => strict_replay(&arguments, json)?,
    }
    Ok(())
}

fn find(target: &Target) -> Result<Disk> {
    if let Some(control) = &target.control {
        return Ok(Disk::attach(control)?);
    }
    let mut disks = highwater_disk::list()?;
    if let Some(mount_point) = &target.disk {
        let wanted = std::path::absolute(mount_point).context("the path of the disk")?;
        disks.retain(|disk| disk.mount_point == wanted);
    }
    match disks.as_slice() {
        [disk] => Ok(Disk::attach(&disk.control)?),
        [] => bail!("no such disk is running; start one with `highwater-disk run`"),
        _ => bail!("{} disks are running; say which with --disk or --control (see `list`)", disks.len()),
    }
}

fn cut(disk: &Disk, arguments: &Cut, json: bool) -> Result<()> {
    if matches!(arguments.only, None | Some(Step::Off)) {
        print(json, &disk.cut_power(arguments.leaves.mode())?, describe_cut)?;
    }
    for &pid in &arguments.kill {
        kill(pid)?;
    }
    if arguments.kill_users {
        disk.kill_users()?;
    }
    if matches!(arguments.only, None | Some(Step::Release)) {
        disk.release_hung_io()?;
    }
    if matches!(arguments.only, None | Some(Step::Finish)) {
        disk.finish_cut()?;
    }
    Ok(())
}

fn on(disk: &Disk, json: bool) -> Result<()> {
    let report = disk.power_on()?;
    print(json, &report, describe_power_on)?;
    match report.check {
        Some(check) if !check.is_clean => bail!("the file system did not survive the cut"),
        _ => Ok(()),
    }
}

fn eio_fault(eio: &Eio) -> Fault {
    let rule = eio.when.rule();
    match eio.on {
        Operation::Read => Fault::ReadError { rule },
        Operation::Write => Fault::WriteError { rule },
        Operation::Flush => Fault::FlushError { rule, cache: eio.failed_flush() },
    }
}

fn replay(arguments: &Replay, json: bool) -> Result<()> {
    let mode = arguments.leaves.mode();
    let report = highwater_disk::replay(&arguments.recording, arguments.stop(), mode, &arguments.image)?;
    print(json, &report, |report| {
        format!(
            "events: {}, writes: {}, flushes: {}; unflushed sectors at the cut: {} dropped, {} kept",
            report.events, report.writes, report.flushes, report.dropped_sectors, report.kept_sectors
        )
    })
}

/// What a replay of a strict directory left.
#[derive(Serialize)]
struct StrictLeft {
    events: u64,
    flushes: u64,
    directories: usize,
    files: usize,
    bytes: u64,
}

fn strict_replay(arguments: &StrictReplay, json: bool) -> Result<()> {
    let mut replay = strict::Replay::open(&arguments.recording)?;
    let (mut events, mut flushes) = (0, 0);
    while !match arguments.stop() {
        StopAfter::Event(number) => events >= number,
        StopAfter::Flush(number) => flushes >= number,
        StopAfter::End => false,
    } {
        let Some(event) = replay.advance()? else { break };
        events += 1;
        flushes += u64::from(event.action.is_flush());
    }
    let image = replay.cut(arguments.leaves.mode());
    image.write_to(&arguments.into)?;
    let (directories, files) = (image.directories().count(), image.files().count());
    let bytes = image.files().map(|(_, len)| len).sum();
    print(json, &StrictLeft { events, flushes, directories, files, bytes }, |left| {
        format!(
            "events: {}, flushes: {}; left: {} files of {} bytes in {} directories",
            left.events, left.flushes, left.files, left.bytes, left.directories
        )
    })
}

fn list() -> Result<()> {
    for disk in highwater_disk::list()? {
        let (mount_point, control) = (disk.mount_point.display(), disk.control.display());
        println!("{mount_point}  {} bytes  served by {}  {control}", disk.size_bytes, disk.pid);
    }
    Ok(())
}

fn print<T: Serialize>(json: bool, value: &T, in_words: impl FnOnce(&T) -> String) -> Result<()> {
    let text = if json { serde_json::to_string_pretty(value)? } else { in_words(value) };
    println!("{text}");
    Ok(())
}

fn lines<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join("\n")
}

fn describe_cut(cut: &CutReport) -> String {
    let mut text = format!(
        "power off: {} unflushed sectors gone, {} kept, {} writes since the last flush",
        cut.dropped_sectors, cut.kept_sectors, cut.unflushed_writes
    );
    if let Some(oldest) = cut.oldest_unflushed_write {
        text += &format!(", the oldest {} before", milliseconds(oldest, cut.at));
    }
    if let Some(flush) = cut.last_flush {
        text +=
            &format!("; last flush {} before ({:?})", milliseconds(flush.finished, cut.at), flush.outcome);
    }
    if cut.shorn_blocks > 0 {
        text +=
            &format!("; {} blocks shorn, {} durable sectors damaged", cut.shorn_blocks, cut.damaged_sectors);
    }
    text
}

fn describe_power_on(report: &PowerOnReport) -> String {
    let journal = if report.replayed_journal { "the journal was replayed" } else { "the journal was empty" };
    let check = match &report.check {
        None => "not checked".to_owned(),
        Some(FileSystemCheck { is_clean: true, .. }) => "the file system is clean".to_owned(),
        Some(check) => format!("THE FILE SYSTEM IS DAMAGED:\n{}", check.output),
    };
    format!("power on: {journal} (mounted in {} ms); {check}", report.mount_us / 1000)
}

fn describe_stats(stats: &Stats) -> String {
    let mut text = format!(
        "power {:?}{}\nreads {} ({} bytes), writes {} ({} bytes), flushes {} ({} lied), injected errors {}\n\
         cached: {} sectors by {} unflushed writes; destaged early: {} sectors; waiting: {} requests",
        stats.power,
        if stats.stalled { ", stalled" } else { "" },
        stats.reads,
        stats.bytes_read,
        stats.writes,
        stats.bytes_written,
        stats.flushes,
        stats.flushes_lied,
        stats.injected_errors,
        stats.cached_sectors,
        stats.unflushed_writes,
        stats.destaged_sectors,
        stats.waiting_requests,
    );
    if let Some(FlushRecord { finished, outcome, sectors, .. }) = stats.recent_flushes.last() {
        let age = milliseconds(*finished, Stamp::now());
        text += &format!("\nlast flush {age} ago: {outcome:?}, {sectors} sectors");
    }
    for problem in stats.recording_error.iter().chain(&stats.medium_error) {
        text += &format!("\nPROBLEM: {problem}");
    }
    if let Some(cut) = &stats.last_cut {
        text += &format!("\nlast cut: {}", describe_cut(cut));
    }
    text
}

fn milliseconds(from: Stamp, to: Stamp) -> String {
    let elapsed_us = to.monotonic_ns.saturating_sub(from.monotonic_ns) / 1000;
    format!("{}.{:03} ms", elapsed_us / 1000, elapsed_us % 1000)
}
