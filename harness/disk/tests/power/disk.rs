//! Power cuts, faults, clean-up, seen from a program that uses the library.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use crate::support::{
    self, Dd, PATTERN_BLOCK, Sleeper, assert_nothing_left, config, disk, power_cycle, read_blocks, skip,
    sync_file, write_blocks,
};
use highwater_disk::{
    CutMode, Disk, DiskConfig, FailedFlush, Fault, FlushOutcome, Grain, PowerState, Rule, SectorSize,
    StopAfter,
};

#[test]
fn cut_unflushed_direct_writes_are_gone_flushed_ones_are_kept() {
    let Some(disk) = disk(|_| {}) else { return };
    let file = disk.mount_point().join("file");
    write_blocks(&file, 0..100, 1);
    sync_file(&file);
    write_blocks(&file, 50..100, 2);
    let (cut, on) = power_cycle(&disk, CutMode::DropAll);
    assert!(cut.dropped_sectors >= 50 * 8 && cut.kept_sectors == 0, "{cut:?}");
    assert_eq!(cut.last_flush.unwrap().outcome, FlushOutcome::Persisted);
    assert!(on.replayed_journal, "{on:?}");
    assert_eq!(read_blocks(&file), [1; 100]);
    assert_nothing_left(disk);
}

#[test]
fn cut_keep_subset_keeps_some_unflushed_sectors_each_old_or_new() {
    let Some(disk) = disk(|_| {}) else { return };
    let file = disk.mount_point().join("file");
    let mut kept = 0;
    for seed in 0..4 {
        write_blocks(&file, 0..200, 1);
        sync_file(&file);
        write_blocks(&file, 0..200, 2);
        let mode = CutMode::KeepSubset { seed, grain: Some(Grain::Sector) };
        let (cut, on) = power_cycle(&disk, mode);
        assert!(cut.kept_sectors > 0 && cut.dropped_sectors > 0, "seed {seed}: {cut:?}");
        assert!(on.check.as_ref().unwrap().is_clean, "seed {seed}: {on:?}");
        let bytes = std::fs::read(&file).unwrap();
        for sector in bytes.chunks(512) {
            assert!(sector.iter().all(|&byte| byte == sector[0] && (byte == 1 || byte == 2)), "seed {seed}");
        }
        kept += bytes.chunks(512).filter(|sector| sector[0] == 2).count();
    }
    assert!(kept > 0 && kept < 4 * 1600, "{kept} of 6400 kept");
    assert_nothing_left(disk);
}

#[test]
fn cut_twelve_times_under_load_ext4_recovers_each_time() {
    let Some(disk) = disk(|_| {}) else { return };
    for round in 0..12u64 {
        let synced = disk.mount_point().join(format!("synced-{round}"));
        write_blocks(&synced, 0..20, round as u8 + 1);
        sync_file(&synced);
        support::sync_directory(disk.mount_point());
        for extra in 0..30 {
            std::fs::write(disk.mount_point().join(format!("loose-{round}-{extra}")), [7; 9000]).unwrap();
        }
        let mut writer = Dd::writing(&disk.mount_point().join("load"), "oflag=direct");
        support::until(|| disk.stats().unwrap().unflushed_writes > 50);
        let mode = match round % 3 {
            0 => CutMode::DropAll,
            _ => CutMode::KeepSubset { seed: round, grain: None },
        };
        disk.cut_power(mode).unwrap();
        writer.kill();
        disk.release_hung_io().unwrap();
        writer.wait();
        disk.finish_cut().unwrap();
        let on = disk.power_on().unwrap();
        let check = on.check.as_ref().unwrap();
        assert!(check.is_clean, "round {round}, {mode:?}: {}", check.output);
        for earlier in 0..=round {
            let path = disk.mount_point().join(format!("synced-{earlier}"));
            assert_eq!(read_blocks(&path), [earlier as u8 + 1; 20], "round {round}, {mode:?}");
        }
    }
    assert_nothing_left(disk);
}

#[test]
fn cut_io_hangs_until_released_and_then_fails_with_eio() {
    let Some(disk) = disk(|_| {}) else { return };
    let file = disk.mount_point().join("file");
    write_blocks(&file, 0..8, 1);
    sync_file(&file);
    disk.cut_power(CutMode::DropAll).unwrap();
    let mut reader = Dd::reading(&file);
    let mut writer = Dd::writing(&file, "oflag=direct,dsync");
    support::until(|| disk.stats().unwrap().waiting_requests >= 2);
    assert!(reader.is_running() && writer.is_running(), "someone noticed the cut");
    assert_eq!(disk.stats().unwrap().power, PowerState::Cut);
    disk.release_hung_io().unwrap();
    for ended in [reader.wait(), writer.wait()] {
        assert_eq!(ended.status.code(), Some(1));
        assert!(ended.stderr.contains("Input/output error"), "{}", ended.stderr);
    }
    disk.finish_cut().unwrap();
    disk.power_on().unwrap();
    assert_eq!(read_blocks(&file), [1; 8]);
    assert_nothing_left(disk);
}

#[test]
fn cut_killed_process_dies_only_once_released() {
    let Some(disk) = disk(|_| {}) else { return };
    disk.cut_power(CutMode::DropAll).unwrap();
    let mut writer = Dd::writing(&disk.mount_point().join("file"), "oflag=direct,dsync");
    support::until(|| disk.stats().unwrap().waiting_requests >= 1);
    writer.kill();
    assert!(writer.is_running(), "it died while it waited for I/O");
    disk.release_hung_io().unwrap();
    assert_eq!(writer.wait().status, ExitStatus::from_raw(9));
    disk.finish_cut().unwrap();
    disk.power_on().unwrap();
    assert_nothing_left(disk);
}

#[test]
fn cut_steps_out_of_order_are_refused_with_the_state() {
    let Some(disk) = disk(|_| {}) else { return };
    let refused = |result: Result<(), highwater_disk::Error>| result.unwrap_err().to_string();
    assert_eq!(refused(disk.finish_cut()), "cannot finish the cut while the disk is on");
    assert_eq!(refused(disk.release_hung_io()), "cannot release hung I/O while the disk is on");
    assert_eq!(refused(disk.power_on().map(drop)), "cannot switch the power on while the disk is on");
    disk.cut_power(CutMode::DropAll).unwrap();
    let again = disk.cut_power(CutMode::DropAll).map(drop);
    assert_eq!(refused(again), "cannot cut the power while the disk is cut, with its I/O hanging");
    // Dropped while cut: it must come down all the same.
    assert_nothing_left(disk);
}

#[test]
fn finish_cut_with_a_live_user_names_it() {
    let Some(disk) = disk(|_| {}) else { return };
    let user = Sleeper::in_directory(disk.mount_point());
    disk.cut_power(CutMode::DropAll).unwrap();
    disk.release_hung_io().unwrap();
    assert_eq!(disk.users().iter().map(|user| user.pid).collect::<Vec<_>>(), [user.id()]);
    let error = disk.finish_cut().unwrap_err().to_string();
    assert!(error.contains(&format!("still in use by {} (sleep)", user.id())), "{error}");
    assert_eq!(disk.kill_users().unwrap().len(), 1);
    disk.finish_cut().unwrap();
    disk.power_on().unwrap();
    assert_nothing_left(disk);
}

#[test]
fn finish_cut_with_a_copy_of_the_mount_in_another_namespace_unmounts_it_there_too() {
    let Some(disk) = disk(|_| {}) else { return };
    let _elsewhere = Sleeper::in_a_mount_namespace();
    power_cycle(&disk, CutMode::DropAll);
    let file = disk.mount_point().join("file");
    write_blocks(&file, 0..4, 1);
    assert_eq!(read_blocks(&file), [1; 4]);
    assert_nothing_left(disk);
}

#[test]
fn os_crash_loses_the_page_cache_and_keeps_direct_writes() {
    for plain in [false, true] {
        let kind = if plain { highwater_disk::Kind::PlainLoop } else { highwater_disk::Kind::PowerSwitch };
        let Some(disk) = disk(|config| config.kind = kind) else { return };
        let (direct, cached) = (disk.mount_point().join("direct"), disk.mount_point().join("cached"));
        for file in [&direct, &cached] {
            write_blocks(file, 0..50, 1);
            sync_file(file);
        }
        write_blocks(&direct, 0..50, 2);
        let mut open = std::fs::File::options().write(true).open(&cached).unwrap();
        std::io::Write::write_all(&mut open, &[2; 50 * PATTERN_BLOCK]).unwrap();
        drop(open);
        std::fs::write(disk.mount_point().join("never-synced"), "x").unwrap();
        let (_, on) = power_cycle(&disk, CutMode::OsCrash);
        assert!(on.replayed_journal && on.check.unwrap().is_clean);
        assert_eq!(read_blocks(&direct), [2; 50], "{kind:?}: direct writes survive an OS crash");
        assert_eq!(read_blocks(&cached), [1; 50], "{kind:?}: the page cache does not");
        assert!(!disk.mount_point().join("never-synced").exists(), "{kind:?}");
        if plain {
            assert!(disk.cut_power(CutMode::DropAll).unwrap_err().to_string().contains("keeps its power"));
            assert!(disk.stall().unwrap_err().to_string().contains("plain loop device"));
        }
        assert_nothing_left(disk);
    }
}

#[test]
fn flush_lie_loses_what_was_flushed() {
    let Some(disk) = disk(|_| {}) else { return };
    let file = disk.mount_point().join("file");
    write_blocks(&file, 0..50, 1);
    sync_file(&file);
    disk.inject(Fault::FlushLie { rule: Rule::Always }).unwrap();
    write_blocks(&file, 0..50, 2);
    sync_file(&file);
    let stats = disk.stats().unwrap();
    assert!(stats.flushes_lied > 0 && stats.cached_sectors >= 400, "{stats:?}");
    disk.heal().unwrap();
    power_cycle(&disk, CutMode::DropAll);
    assert_eq!(read_blocks(&file), [1; 50]);
    assert_nothing_left(disk);
}

#[test]
fn eio_on_read_write_or_flush_reaches_the_program() {
    let rule = Rule::Always;
    type Program = fn(&Path) -> Dd;
    let cases: [(Fault, Program); 3] = [
        (Fault::ReadError { rule }, Dd::reading),
        (Fault::WriteError { rule }, Dd::writing_once),
        (Fault::FlushError { rule, cache: FailedFlush::KeepsCache }, Dd::writing_once),
    ];
    for (fault, start) in cases {
        let Some(disk) = disk(|_| {}) else { return };
        let file = disk.mount_point().join("file");
        write_blocks(&file, 0..8, 1);
        sync_file(&file);
        disk.inject(fault).unwrap();
        let ended = start(&file).wait();
        assert_eq!(ended.status.code(), Some(1), "{fault:?}");
        assert!(ended.stderr.contains("Input/output error"), "{fault:?}: {}", ended.stderr);
        assert!(disk.stats().unwrap().injected_errors > 0);
        assert_nothing_left(disk);
    }
}

#[test]
fn stall_holds_a_write_and_resume_lets_it_through() {
    let Some(disk) = disk(|_| {}) else { return };
    let file = disk.mount_point().join("file");
    write_blocks(&file, 0..8, 1);
    sync_file(&file);
    disk.stall().unwrap();
    let mut writer = Dd::writing_once(&file);
    support::until(|| disk.stats().unwrap().waiting_requests >= 1);
    assert!(writer.is_running());
    disk.resume().unwrap();
    assert!(writer.wait().status.success());
    assert_nothing_left(disk);
}

#[test]
fn slow_flush_takes_as_long_as_asked() {
    let Some(disk) = disk(|_| {}) else { return };
    let file = disk.mount_point().join("file");
    write_blocks(&file, 0..8, 1);
    disk.inject(Fault::Delay { read_us: 0, write_us: 0, flush_us: 50_000 }).unwrap();
    let started = std::time::Instant::now();
    sync_file(&file);
    assert!(started.elapsed().as_millis() >= 50, "{:?}", started.elapsed());
    let flush = *disk.stats().unwrap().recent_flushes.last().unwrap();
    assert!(flush.finished.monotonic_ns - flush.arrived.monotonic_ns >= 50_000_000, "{flush:?}");
    assert_nothing_left(disk);
}

#[test]
fn full_disk_refuses_writes_until_the_balloon_is_deflated() {
    let Some(disk) = disk(|_| {}) else { return };
    let file = disk.mount_point().join("file");
    let balloon = disk.fill(0).unwrap();
    let refused = std::fs::write(&file, vec![1u8; 1 << 20]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
    balloon.deflate().unwrap();
    std::fs::write(&file, vec![1u8; 1 << 20]).unwrap();
    assert_nothing_left(disk);
}

#[test]
fn recording_replayed_after_each_of_the_last_flushes_gives_a_mountable_image() {
    let directory = tempfile::tempdir().unwrap();
    let recording = directory.path().join("recording");
    let Some(disk) = disk(|config| config.recording = Some(recording.clone())) else { return };
    let file = disk.mount_point().join("file");
    for value in 1..4 {
        write_blocks(&file, 0..20, value);
        sync_file(&file);
    }
    assert_eq!(disk.stats().unwrap().recording_error, None);
    assert_nothing_left(disk);
    let image = directory.path().join("image");
    let replayed = |stop, mode| {
        let report = highwater_disk::replay(&recording, stop, mode, &image).unwrap();
        support::assert_ext4_recovers(&image, &format!("{stop:?}, {mode:?}"));
        std::fs::remove_file(&image).unwrap();
        report
    };
    let all = replayed(StopAfter::End, CutMode::DropAll);
    assert!(all.flushes >= 6, "{all:?}");
    for flush in all.flushes - 3..=all.flushes {
        let at = replayed(StopAfter::Flush(flush), CutMode::DropAll);
        let next = StopAfter::Event(at.events + 1);
        replayed(next, CutMode::KeepSubset { seed: flush, grain: Some(Grain::Sector) });
    }
}

#[test]
fn two_disks_at_once_are_cut_apart() {
    let (Some(one), Some(two)) = (disk(|_| {}), disk(|c| c.sector_size = SectorSize::B4096)) else { return };
    let file_of = |disk: &Disk| disk.mount_point().join("file");
    for disk in [&one, &two] {
        write_blocks(&file_of(disk), 0..20, 1);
        sync_file(&file_of(disk));
        write_blocks(&file_of(disk), 0..20, 2);
    }
    power_cycle(&one, CutMode::DropAll);
    assert_eq!(read_blocks(&file_of(&one)), [1; 20]);
    sync_file(&file_of(&two));
    power_cycle(&two, CutMode::DropAll);
    assert_eq!(read_blocks(&file_of(&two)), [2; 20]);
    assert_nothing_left(one);
    assert_nothing_left(two);
}

#[test]
fn disk_dropped_while_in_use_goes_when_its_last_user_ends() {
    let Some(disk) = disk(|_| {}) else { return };
    let user = Sleeper::in_directory(disk.mount_point());
    let device = disk.describe().unwrap().loop_device.unwrap();
    let removed = disk.stop().unwrap().join("\n");
    assert!(removed.contains(&format!("still used by {} (sleep)", user.id())), "{removed}");
    let is_attached = || {
        let listed = std::process::Command::new("losetup").arg("--list").output().unwrap().stdout;
        String::from_utf8(listed).unwrap().contains(&format!("{} ", device.display()))
    };
    assert!(is_attached(), "the kernel keeps what a process uses");
    drop(user);
    support::until(|| !is_attached());
}

#[test]
fn killed_server_leaves_nothing_after_a_cleanup() {
    let Some(disk) = disk(|_| {}) else { return };
    let description = disk.description().clone();
    write_blocks(&disk.mount_point().join("file"), 0..20, 1);
    highwater_disk::kill(description.pid).unwrap();
    // Its owner notices, at the latest when the disk is dropped.
    assert!(disk.stats().is_err());
    assert_nothing_left(disk);
}

#[test]
fn cleanup_of_a_directory_with_an_unreadable_record_removes_it() {
    if skip() {
        return;
    }
    // No process can have this id: it is beyond the largest pid_max.
    let directory = Path::new(highwater_disk::STATE_DIRECTORY).join("4194305");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("disk.json"), "{").unwrap();
    highwater_disk::cleanup().unwrap();
    assert!(!directory.exists());
}

/// This test runs itself: the process that it starts makes a disk and waits to be killed.
#[test]
fn disk_whose_owner_is_killed_takes_itself_down() {
    const ROLE: &str = "HIGHWATER_DISK_TEST_OWNER";
    if std::env::var_os(ROLE).is_some() {
        let disk = disk(|_| {}).unwrap();
        println!("disk in {}", disk.description().state_directory.display());
        std::io::stdin().lines().for_each(drop);
        unreachable!("the owner was not killed");
    }
    if skip() {
        return;
    }
    let (mut owner, directory) =
        support::this_test_as_owner("disk::disk_whose_owner_is_killed_takes_itself_down", ROLE);
    assert!(directory.join("control").exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    support::until(|| !directory.exists());
    support::assert_no_trace_of(&directory, &directory.join("mnt"));
}

#[test]
fn create_on_a_directory_with_something_in_it_is_refused_and_leaves_nothing() {
    if skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("precious"), "x").unwrap();
    let mount_point = Some(directory.path().to_owned());
    let refused = Disk::create(DiskConfig { mount_point, ..config() }).err().unwrap().to_string();
    assert!(refused.contains("is not empty"), "{refused}");
    assert!(directory.path().join("precious").exists());
    support::assert_no_trace_of(directory.path(), directory.path());
}

#[test]
fn create_with_options_that_mkfs_refuses_says_so_and_leaves_nothing() {
    if skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mount_point = directory.path().join("made");
    let mkfs_options = vec!["-b".to_owned(), "17".to_owned()];
    let refused = DiskConfig { mount_point: Some(mount_point.clone()), mkfs_options, ..config() };
    let refused = Disk::create(refused).err().unwrap().to_string();
    assert!(refused.contains("`mkfs.ext4 -q -F -b 17 /dev/loop"), "{refused}");
    assert!(!mount_point.exists());
    support::assert_no_trace_of(&mount_point, &mount_point);
}
