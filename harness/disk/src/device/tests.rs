use std::sync::mpsc::{Receiver, TryRecvError, channel};

use super::*;
use crate::fault::Grain;

fn device() -> Device {
    let medium = Medium::new(tempfile::tempfile().unwrap(), 1 << 20, 1 << 20).unwrap();
    Device::new(medium, None).unwrap()
}

fn submit(device: &Device, request: Request<&[u8]>) -> Receiver<Answer> {
    let (sender, receiver) = channel();
    device.submit(request, Box::new(move |answer| drop(sender.send(answer))));
    receiver
}

fn write(device: &Device, sector: u64, value: u8) -> Answer {
    submit(device, Request::Write { offset: sector * 512, data: &[value; 512] }).recv().unwrap()
}

fn flush(device: &Device) -> Answer {
    submit(device, Request::Flush).recv().unwrap()
}

fn read(device: &Device, sector: u64) -> Result<u8, Failure> {
    let read = Request::Read { offset: sector * 512, length: 512 };
    submit(device, read).recv().unwrap().map(|data| data[0])
}

fn power_cycle(device: &Device, mode: CutMode) -> CutReport {
    let report = device.cut(mode).unwrap();
    device.release();
    device.power_on();
    report
}

#[test]
fn cut_unflushed_write_is_gone_flushed_write_is_kept() {
    let device = device();
    write(&device, 1, 1).unwrap();
    flush(&device).unwrap();
    write(&device, 1, 2).unwrap();
    write(&device, 2, 2).unwrap();
    let report = power_cycle(&device, CutMode::DropAll);
    assert_eq!((report.dropped_sectors, report.unflushed_writes), (2, 2));
    assert_eq!(report.last_flush.unwrap().outcome, FlushOutcome::Persisted);
    assert_eq!((read(&device, 1), read(&device, 2)), (Ok(1), Ok(0)));
}

#[test]
fn cut_requests_hang_until_released_then_fail_until_power_on() {
    let device = device();
    device.cut(CutMode::DropAll).unwrap();
    let hung = [
        submit(&device, Request::Flush),
        submit(&device, Request::Read { offset: 0, length: 512 }),
        submit(&device, Request::Write { offset: 0, data: &[1; 512] }),
    ];
    for request in &hung {
        assert_eq!(request.try_recv(), Err(TryRecvError::Empty));
    }
    assert_eq!(device.stats(PowerState::Cut).waiting_requests, 3);
    device.release();
    for request in &hung {
        assert_eq!(request.recv().unwrap(), Err(Failure::Io));
    }
    assert_eq!(write(&device, 0, 1), Err(Failure::Io));
    device.power_on();
    assert_eq!(read(&device, 0), Ok(0));
}

#[test]
fn cut_os_crash_carries_out_what_hung_and_keeps_the_cache() {
    let device = device();
    write(&device, 1, 1).unwrap();
    device.cut(CutMode::OsCrash).unwrap();
    let hung = submit(&device, Request::Write { offset: 1024, data: &[2; 512] });
    assert_eq!(hung.try_recv(), Err(TryRecvError::Empty));
    device.release();
    assert_eq!(hung.recv().unwrap(), Ok(Vec::new()));
    device.power_on();
    assert_eq!((read(&device, 1), read(&device, 2)), (Ok(1), Ok(2)));
}

#[test]
fn cut_delayed_write_is_never_acknowledged_but_may_be_on_the_medium() {
    let mut kept = 0;
    for seed in 0..30 {
        let device = device();
        device.inject(Fault::Delay { read_us: 0, write_us: 3_600_000_000, flush_us: 0 }).unwrap();
        let in_flight = submit(&device, Request::Write { offset: 0, data: &[1; 512] });
        let report = device.cut(CutMode::KeepSubset { seed, grain: Some(Grain::Sector) }).unwrap();
        assert_eq!(report.requests_in_flight, 1);
        device.release();
        assert_eq!(in_flight.recv().unwrap(), Err(Failure::Io));
        device.power_on();
        device.heal();
        kept += u64::from(read(&device, 0).unwrap());
    }
    assert!(kept > 0 && kept < 30, "{kept} of 30");
}

#[test]
fn flush_lie_loses_flushed_data_unless_an_honest_flush_follows() {
    let device = device();
    device.inject(Fault::FlushLie { rule: Rule::Next(1) }).unwrap();
    write(&device, 1, 1).unwrap();
    flush(&device).unwrap();
    assert_eq!(power_cycle(&device, CutMode::DropAll).last_flush.unwrap().outcome, FlushOutcome::Lied);
    assert_eq!(read(&device, 1), Ok(0));

    device.inject(Fault::FlushLie { rule: Rule::Next(1) }).unwrap();
    write(&device, 1, 1).unwrap();
    flush(&device).unwrap();
    flush(&device).unwrap();
    power_cycle(&device, CutMode::DropAll);
    assert_eq!(read(&device, 1), Ok(1));
    assert_eq!(device.stats(PowerState::On).flushes_lied, 2);
}

#[test]
fn flush_error_losing_the_cache_makes_a_retried_flush_a_lie() {
    let device = device();
    let cache = FailedFlush::LosesCache;
    device.inject(Fault::FlushError { rule: Rule::Next(1), cache }).unwrap();
    write(&device, 1, 1).unwrap();
    assert_eq!(flush(&device), Err(Failure::Io));
    assert_eq!(flush(&device), Ok(Vec::new()));
    assert_eq!(read(&device, 1), Ok(0));
}

#[test]
fn flush_error_keeping_the_cache_is_made_up_for_by_the_next() {
    let device = device();
    let cache = FailedFlush::KeepsCache;
    device.inject(Fault::FlushError { rule: Rule::Next(1), cache }).unwrap();
    write(&device, 1, 1).unwrap();
    assert_eq!(flush(&device), Err(Failure::Io));
    flush(&device).unwrap();
    power_cycle(&device, CutMode::DropAll);
    assert_eq!(read(&device, 1), Ok(1));
}

#[test]
fn rule_one_in_three_strikes_each_third() {
    let device = device();
    device.inject(Fault::WriteError { rule: Rule::OneIn(3) }).unwrap();
    let outcomes: Vec<bool> = (0..9).map(|sector| write(&device, sector, 1).is_ok()).collect();
    assert_eq!(outcomes, [true, true, false, true, true, false, true, true, false]);
    assert_eq!(device.stats(PowerState::On).injected_errors, 3);
    device.heal();
    assert!((0..9).all(|sector| write(&device, sector, 1).is_ok()));
}

#[test]
fn unreadable_sectors_fail_until_written() {
    let device = device();
    device.inject(Fault::Unreadable { offset_bytes: 1000, length_bytes: 1100 }).unwrap();
    let readable = |device: &Device| (0..6).map(|s| read(device, s).is_ok()).collect::<Vec<_>>();
    assert_eq!(readable(&device), [true, false, false, false, false, true]);
    write(&device, 2, 7).unwrap();
    assert_eq!(readable(&device), [true, false, true, false, false, true]);
}

#[test]
fn stall_holds_requests_and_resume_carries_them_out_in_order() {
    let device = device();
    device.stall();
    let first = submit(&device, Request::Write { offset: 0, data: &[1; 512] });
    let second = submit(&device, Request::Write { offset: 0, data: &[2; 512] });
    assert_eq!(first.try_recv(), Err(TryRecvError::Empty));
    assert!(device.stats(PowerState::On).stalled);
    device.resume();
    assert_eq!((first.recv().unwrap(), second.recv().unwrap()), (Ok(Vec::new()), Ok(Vec::new())));
    assert_eq!(read(&device, 0), Ok(2));
}

#[test]
fn delay_answers_no_sooner_than_asked() {
    let device = device();
    device.inject(Fault::Delay { read_us: 0, write_us: 0, flush_us: 20_000 }).unwrap();
    let before = Stamp::now().monotonic_ns;
    flush(&device).unwrap();
    assert!(Stamp::now().monotonic_ns - before >= 20_000_000);
}

#[test]
fn request_beyond_the_medium_is_invalid() {
    let device = device();
    assert_eq!(write(&device, 2048, 1), Err(Failure::Invalid));
    assert_eq!(read(&device, u64::MAX / 512), Err(Failure::Invalid));
}
