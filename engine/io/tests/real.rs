//! What only real drivers promise: threads, system calls, bounds of their buffers.

use std::cell::RefCell;
use std::future::{Future, pending};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::resume_unwind;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use highwater_io::fs::{Durability, OpenOptions};
use highwater_io::net::{ListenOptions, Sent, TcpStream};
use highwater_io::{DriverChoice, Io, IoBuf, Runtime, RuntimeConfig, mailbox};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a test of each promise for one driver.
macro_rules! kept_by {
    ($module:ident, $driver:expr; $($promise:ident),* $(,)?) => {
        mod $module {
            $(#[test]
            fn $promise() {
                crate::$promise($driver);
            })*
        }
    };
}

macro_rules! promises {
    ($($list:tt)*) => {
        kept_by! { uring, highwater_io::DriverChoice::Uring; $($list)* }
        kept_by! { posix, highwater_io::DriverChoice::Posix; $($list)* }
    };
}

promises! {
    foreign_thread_and_sleeping_shard_wake_each_other,
    file_system_in_memory_is_told,
    stop_reaches_every_waiter_of_every_shard,
    dropped_runtime_stops_and_waits,
    panic_on_one_shard_stops_the_others_and_surfaces,
    runtime_without_shards_ends_at_once,
    tasks_run_in_the_order_of_spawning,
    urgent_tasks_run_before_others_that_are_ready,
    wake_ups_on_the_shard_cost_no_system_call,
    endless_sleep_does_not_keep_the_shard_awake,
    more_requests_than_the_queues_hold_all_complete,
    held_buffers_do_not_stop_the_receive_and_come_back_from_another_thread,
    slow_consumer_is_given_little_that_it_did_not_ask_for,
    many_streams_share_few_buffers_without_loss,
    stream_that_nobody_reads_does_not_hold_up_others,
    receives_of_both_kinds_work_while_every_buffer_is_held,
    dropped_receive_into_does_not_overlap_the_next_receive,
    dropped_stream_gives_its_buffers_back,
    zero_copy_send_arrives_whole,
    zero_copy_send_that_is_given_up_gives_its_memory_back,
    zero_copy_send_to_a_peer_in_the_process_copies,
    stalled_file_sends_do_not_hold_up_other_work_or_the_end,
    ipv6_works_as_ipv4,
    shards_share_a_port_if_asked,
    names_and_numbers_resolve,
    path_with_a_zero_byte_is_refused,
    record_lock_of_another_program_excludes_ours_and_the_other_way_round,
    clock_is_the_same_on_all_shards,
}

mod uring_alone {
    #[test]
    fn requests_of_one_turn_share_a_system_call() {
        crate::requests_of_one_turn_share_a_system_call(highwater_io::DriverChoice::Uring);
    }

    #[test]
    fn zero_copy_send_has_a_bound_and_completes_twice() {
        crate::zero_copy_send_has_a_bound_and_completes_twice(highwater_io::DriverChoice::Uring);
    }

    #[test]
    fn memory_of_a_zero_copy_send_is_the_kernels_until_the_peer_has_it() {
        crate::memory_of_a_zero_copy_send_is_the_kernels_until_the_peer_has_it(
            highwater_io::DriverChoice::Uring,
        );
    }

    #[test]
    fn zero_copy_send_that_nobody_waits_for_is_cut_off() {
        crate::zero_copy_send_that_nobody_waits_for_is_cut_off(highwater_io::DriverChoice::Uring);
    }

    #[test]
    fn shard_ends_while_a_zero_copy_send_waits_for_its_peer() {
        crate::shard_ends_while_a_zero_copy_send_waits_for_its_peer(highwater_io::DriverChoice::Uring);
    }
}

fn on(driver: DriverChoice) -> RuntimeConfig {
    RuntimeConfig { driver, ..RuntimeConfig::default() }
}

fn run<Fut>(config: &RuntimeConfig, main: impl Fn(Io) -> Fut + Clone + Send + 'static)
where
    Fut: Future<Output = ()> + 'static,
{
    let main = move |io: Io, ()| {
        let main = main.clone();
        async move { io.timeout(PATIENCE, main(io.clone())).await.expect("the test takes too long") }
    };
    let runtime = Runtime::start(config, vec![()], main).expect("the runtime starts");
    runtime.join().unwrap_or_else(|payload| resume_unwind(payload));
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory beside the build")
}

async fn connected(io: &Io, ip: IpAddr) -> (TcpStream, TcpStream) {
    let listener = io.listen(SocketAddr::new(ip, 0), ListenOptions::default()).await.expect("a free port");
    let address = listener.local_addr();
    let connecting = io.spawn({
        let io = io.clone();
        async move { io.connect(address).await }
    });
    let accepted = listener.accept().await.expect("accepted");
    (connecting.await.expect("connected"), accepted)
}

/// Bytes that tell stream and position.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251 + seed * 7) as u8).collect()
}

/// Polls `future` on this thread, which runs no shard.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn foreign_thread_and_sleeping_shard_wake_each_other(driver: DriverChoice) {
    let (to_shard, from_thread) = mailbox::channel(1);
    let (to_thread, mut from_shard) = mailbox::channel(1);
    let state = (to_thread, from_thread);
    let echo = |_io, (to_thread, mut from_thread): (mailbox::Sender<u32>, mailbox::Receiver<u32>)| async move {
        while let Some(message) = from_thread.recv().await {
            to_thread.send(message + 1).await.expect("the thread waits");
        }
    };
    let runtime = Runtime::start(&on(driver), vec![state], echo).expect("started");
    for round in 0..2000 {
        block_on(to_shard.send(round)).expect("the shard listens");
        assert_eq!(block_on(from_shard.recv()), Some(round + 1));
    }
    drop(to_shard);
    runtime.join().expect("no panic");
}

fn file_system_in_memory_is_told(driver: DriverChoice) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("Linux");
    // What is mounted over another is seen last.
    let in_memory = mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?.to_owned();
        (fields.next()? == "tmpfs" && std::fs::read_dir(&path).is_ok()).then_some(path)
    });
    let look = |io: Io, path: Option<String>| async move {
        let is_in_memory = async |path: &str| io.fs().space(path).await.expect("is there").is_in_memory;
        assert!(!is_in_memory("/proc").await);
        if let Some(path) = path {
            assert!(is_in_memory(&path).await, "{path}");
        }
    };
    Runtime::start(&on(driver), vec![in_memory], look).expect("started").join().expect("no panic");
}

fn stop_reaches_every_waiter_of_every_shard(driver: DriverChoice) {
    let stopped = Arc::new(AtomicUsize::new(0));
    let (ready, mut all_wait) = mailbox::channel(3);
    let states = vec![(Arc::clone(&stopped), ready); 3];
    let main = |io: Io, (stopped, ready): (Arc<AtomicUsize>, mailbox::Sender<()>)| async move {
        let waiters: Vec<_> = (0..10)
            .map(|_| {
                let (io, stopped) = (io.clone(), Arc::clone(&stopped));
                io.clone().spawn(async move {
                    io.stop_requested().await;
                    stopped.fetch_add(1, Ordering::SeqCst);
                })
            })
            .collect();
        assert!(io.timeout(Duration::from_millis(1), io.stop_requested()).await.is_err());
        ready.send(()).await.expect("the test waits");
        for waiter in waiters {
            waiter.await;
        }
        io.stop_requested().await;
    };
    let runtime = Runtime::start(&on(driver), states, main).expect("started");
    for _ in 0..3 {
        block_on(all_wait.recv()).expect("every shard waits");
    }
    assert_eq!(stopped.load(Ordering::SeqCst), 0);
    runtime.stop();
    runtime.join().expect("no panic");
    assert_eq!(stopped.load(Ordering::SeqCst), 30);
}

fn dropped_runtime_stops_and_waits(driver: DriverChoice) {
    let ended = Arc::new(AtomicUsize::new(0));
    let main = |io: Io, ended: Arc<AtomicUsize>| async move {
        io.stop_requested().await;
        io.sleep(Duration::from_millis(20)).await;
        ended.fetch_add(1, Ordering::SeqCst);
    };
    let states = vec![Arc::clone(&ended); 2];
    drop(Runtime::start(&on(driver), states, main).expect("started"));
    assert_eq!(ended.load(Ordering::SeqCst), 2);
}

fn panic_on_one_shard_stops_the_others_and_surfaces(driver: DriverChoice) {
    let main = |io: Io, panics: bool| async move {
        if panics {
            io.sleep(Duration::from_millis(5)).await;
            io.spawn(async { panic!("shard down") }).detach();
            pending::<()>().await;
        }
        io.stop_requested().await;
    };
    let runtime = Runtime::start(&on(driver), vec![false, true, false], main).expect("started");
    let payload = runtime.join().expect_err("the panic surfaces");
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"shard down"));
}

fn runtime_without_shards_ends_at_once(driver: DriverChoice) {
    let main = |_io: Io, (): ()| async {};
    Runtime::start(&on(driver), Vec::new(), main).expect("started").join().expect("no panic");
}

fn tasks_run_in_the_order_of_spawning(driver: DriverChoice) {
    run(&on(driver), |io| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..1000)
            .map(|i| {
                let order = Rc::clone(&order);
                io.spawn(async move { order.borrow_mut().push(i) })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert!(order.borrow().iter().copied().eq(0..1000));
    });
}

fn urgent_tasks_run_before_others_that_are_ready(driver: DriverChoice) {
    run(&on(driver), |io| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        let note = |what: &'static str| {
            let order = Rc::clone(&order);
            async move { order.borrow_mut().push(what) }
        };
        let (sender, mut receiver) = mailbox::channel::<()>(1);
        let woken = note("urgent, woken");
        let woken = io.spawn_urgent(async move {
            receiver.recv().await.expect("sent");
            woken.await;
        });
        let second = io.spawn(note("usual"));
        let first = io.spawn_urgent(note("urgent"));
        let sent = note("usual, sends");
        let third = io.spawn(async move {
            sent.await;
            sender.send(()).await.expect("room");
        });
        let last = io.spawn(note("usual, last"));
        for task in [woken, second, first, third, last] {
            task.await;
        }
        assert_eq!(*order.borrow(), ["urgent", "usual", "usual, sends", "urgent, woken", "usual, last"]);
    });
}

fn wake_ups_on_the_shard_cost_no_system_call(driver: DriverChoice) {
    run(&on(driver), move |io| async move {
        let (sender, mut receiver) = mailbox::channel(1);
        let task = io.spawn(async move {
            for i in 0..10_000 {
                sender.send(i).await.expect("the other receives");
            }
        });
        let before = io.counters();
        while receiver.recv().await.is_some() {}
        let after = io.counters();
        task.await;
        assert!(after.task_polls - before.task_polls > 10_000, "{before:?} {after:?}");
        // On epoll, a look at the sockets for each batch of tasks.
        let most = if driver == DriverChoice::Uring { 10 } else { 200 };
        assert!(after.enters - before.enters < most, "{before:?} {after:?}");
    });
}

fn endless_sleep_does_not_keep_the_shard_awake(driver: DriverChoice) {
    let (asleep, mut is_asleep) = mailbox::channel(1);
    let (to_shard, from_thread) = mailbox::channel::<()>(1);
    let main = |io: Io, (asleep, mut from_thread): (mailbox::Sender<()>, mailbox::Receiver<()>)| async move {
        let endless = io.sleep(Duration::MAX);
        io.spawn(endless).detach();
        asleep.send(()).await.expect("the test waits");
        let before = io.counters();
        from_thread.recv().await.expect("the test sends");
        let after = io.counters();
        assert!(after.enters - before.enters < 10, "{before:?} {after:?}");
    };
    let runtime = Runtime::start(&on(driver), vec![(asleep, from_thread)], main).expect("started");
    block_on(is_asleep.recv()).expect("the shard starts");
    // Time to spin in, if it did.
    thread::sleep(Duration::from_millis(20));
    block_on(to_shard.send(())).expect("the shard waits");
    runtime.join().unwrap_or_else(|payload| resume_unwind(payload));
}

fn requests_of_one_turn_share_a_system_call(driver: DriverChoice) {
    run(&on(driver), |io| async move {
        let dir = directory();
        let options = OpenOptions::read_write().create();
        let file = Rc::new(io.fs().open(dir.path().join("f"), options).await.expect("created"));
        file.write_at(vec![pattern(1, 64 << 10).into()], 0, Durability::Plain).await.expect("written");
        let before = io.counters();
        let reads: Vec<_> = (0..64u64)
            .map(|i| {
                let file = Rc::clone(&file);
                io.spawn(async move { file.read_at(IoBuf::with_capacity(1024), i << 10, 1024).await })
            })
            .collect();
        for read in reads {
            assert_eq!(read.await.expect("read").len(), 1024);
        }
        let after = io.counters();
        assert_eq!(after.requests - before.requests, 64);
        assert!(after.enters - before.enters < 16, "{before:?} {after:?}");
    });
}

fn more_requests_than_the_queues_hold_all_complete(driver: DriverChoice) {
    // More than the completion queue holds, too.
    const REQUESTS: u64 = 10_000;
    run(&RuntimeConfig { ring_entries: 8, ..on(driver) }, |io| async move {
        let dir = directory();
        let options = OpenOptions::read_write().create();
        let file = Rc::new(io.fs().open(dir.path().join("f"), options).await.expect("created"));
        let content = pattern(3, 10_000);
        file.write_at(vec![content.clone().into()], 0, Durability::Plain).await.expect("written");
        let mut reads: Vec<_> =
            (0..REQUESTS).map(|i| Box::pin(file.read_at(IoBuf::with_capacity(1), i, 1))).collect();
        // All are polled before the shard has a turn.
        let mut cx = Context::from_waker(Waker::noop());
        for read in &mut reads {
            assert!(read.as_mut().poll(&mut cx).is_pending());
        }
        assert!(io.counters().in_flight >= REQUESTS);
        for (i, read) in reads.into_iter().enumerate() {
            assert_eq!(read.await.expect("read")[..], content[i..=i]);
        }
    });
}

/// Few and small receive buffers.
fn small(driver: DriverChoice, recv_buffers: u16) -> RuntimeConfig {
    RuntimeConfig { recv_buffers, recv_buffer_bytes: 1024, recv_queue_per_stream: 2, ..on(driver) }
}

fn held_buffers_do_not_stop_the_receive_and_come_back_from_another_thread(driver: DriverChoice) {
    run(&small(driver, 4), |io| async move {
        let (near, far) = connected(&io, LOOPBACK).await;
        let expected = pattern(5, 1 << 20);
        let data = Bytes::from(expected.clone());
        io.spawn(async move { near.send(vec![data]).await }).detach();
        let (mut held, mut received) = (Vec::new(), Vec::new());
        while received.len() < expected.len() {
            let bytes = far.recv().await.expect("received");
            received.extend_from_slice(&bytes);
            held.push(bytes);
            if held.len() == 20 {
                assert!(held.iter().any(|bytes| bytes.len() > 1024), "not all can be provided buffers");
                let given_back = std::mem::take(&mut held);
                thread::spawn(move || drop(given_back)).join().expect("no panic");
            }
        }
        assert!(received == expected);
    });
}

fn slow_consumer_is_given_little_that_it_did_not_ask_for(driver: DriverChoice) {
    run(&small(driver, 4096), |io| async move {
        let (near, far) = connected(&io, LOOPBACK).await;
        let flood = io.spawn(async move { near.send(vec![pattern(1, 64 << 20).into()]).await });
        let first = far.recv().await.expect("received");
        let before = io.counters().completions;
        // Some hundred turns of the shard's loop, enough to fill every buffer if nothing stopped it.
        for _ in 0..50_000 {
            io.yield_now().await;
        }
        assert!(!flood.is_finished());
        // The queue's limit is two; the kernel delivers some tens at once before it looks for a cancellation.
        let unasked = io.counters().completions - before;
        assert!(unasked < 200, "{unasked} buffers of 4096 are filled for nobody");
        drop(first);
    });
}

fn many_streams_share_few_buffers_without_loss(driver: DriverChoice) {
    const STREAMS: usize = 40;
    const LEN: usize = 100_000;
    run(&small(driver, 2), |io| async move {
        let mut receivers = Vec::new();
        for seed in 0..STREAMS {
            let (near, far) = connected(&io, LOOPBACK).await;
            // Streams without traffic wait like all others, and must not keep buffers from those with.
            let (idle, idle_peer) = connected(&io, LOOPBACK).await;
            io.spawn(async move {
                let (_idle, _near) = (idle, near.send(vec![pattern(seed, LEN).into()]).await.expect("sent"));
                pending::<()>().await;
            })
            .detach();
            io.spawn(async move { idle_peer.recv().await.map(drop) }).detach();
            receivers.push(io.spawn(receive_both_ways(io.clone(), far, pattern(seed, LEN))));
        }
        for receiver in receivers {
            receiver.await;
        }
    });
}

async fn receive_both_ways(io: Io, stream: TcpStream, expected: Vec<u8>) {
    let mut at = 0;
    while at < expected.len() {
        if io.random_u64().is_multiple_of(4) {
            let len = 1500.min(expected.len() - at);
            let buf = stream.recv_into(IoBuf::with_capacity(len), len).await.expect("received");
            assert_eq!(buf[..], expected[at..at + len]);
            at += len;
        } else {
            let bytes = stream.recv().await.expect("received");
            assert_eq!(bytes[..], expected[at..at + bytes.len()]);
            at += bytes.len();
        }
    }
}

fn stream_that_nobody_reads_does_not_hold_up_others(driver: DriverChoice) {
    run(&small(driver, 16), |io| async move {
        let (near, far) = connected(&io, LOOPBACK).await;
        let flood = io.spawn(async move { near.send(vec![pattern(1, 64 << 20).into()]).await });
        // Arms the receive; then nobody asks again.
        let first = far.recv().await.expect("received");
        for seed in 0..200 {
            let (near, far) = connected(&io, LOOPBACK).await;
            near.send(vec![pattern(seed, 5000).into()]).await.expect("sent");
            let mut received = Vec::new();
            while received.len() < 5000 {
                received.extend_from_slice(&far.recv().await.expect("received"));
            }
            assert_eq!(received, pattern(seed, 5000));
        }
        assert!(!flood.is_finished());
        let next = far.recv().await.expect("received");
        assert_eq!(next[..], pattern(1, 64 << 10)[first.len()..first.len() + next.len()]);
    });
}

fn receives_of_both_kinds_work_while_every_buffer_is_held(driver: DriverChoice) {
    run(&small(driver, 1), |io| async move {
        let (near, far) = connected(&io, LOOPBACK).await;
        near.send(vec![pattern(1, 9000).into()]).await.expect("sent");
        let held = far.recv().await.expect("received");
        let buf = far.recv_into(IoBuf::with_capacity(1000), 1000).await.expect("received");
        let mut received = [&held[..], &buf[..]].concat();
        while received.len() < 9000 {
            received.extend_from_slice(&far.recv().await.expect("received"));
        }
        assert_eq!(received, pattern(1, 9000));
        let waiting = io.timeout(Duration::from_millis(1), far.recv()).await;
        assert!(waiting.is_err(), "there is no more");
        near.send(vec![Bytes::from_static(b"late")]).await.expect("sent");
        let buf = far.recv_into(IoBuf::with_capacity(4), 4).await.expect("received");
        assert_eq!(&buf[..], b"late", "what the dropped receive got is not lost");
    });
}

fn dropped_receive_into_does_not_overlap_the_next_receive(driver: DriverChoice) {
    run(&on(driver), |io| async move {
        for _ in 0..50 {
            let (near, far) = connected(&io, LOOPBACK).await;
            let dropped = io.timeout(Duration::from_micros(50), far.recv_into(IoBuf::with_capacity(10), 10));
            assert!(dropped.await.is_err(), "nothing was sent");
            near.send(vec![Bytes::from_static(b"hello")]).await.expect("sent");
            assert_eq!(far.recv().await.expect("received"), "hello");
        }
    });
}

fn dropped_stream_gives_its_buffers_back(driver: DriverChoice) {
    run(&small(driver, 4), |io| async move {
        for seed in 0..50 {
            let (near, far) = connected(&io, LOOPBACK).await;
            near.send(vec![pattern(seed, 4000).into()]).await.expect("sent");
            let first = far.recv().await.expect("received");
            assert_eq!(first[..], pattern(seed, 4000)[..first.len()]);
        }
    });
}

fn zero_copy(driver: DriverChoice) -> RuntimeConfig {
    RuntimeConfig { zero_copy_min_bytes: 1000, ..on(driver) }
}

fn zero_copy_send_has_a_bound_and_completes_twice(driver: DriverChoice) {
    run(&zero_copy(driver), |io| async move {
        let (near, far) = connected(&io, LOOPBACK).await;
        // The listener's end is on its way still; what polls for other threads stays.
        while io.counters().in_flight > 1 {
            io.yield_now().await;
        }
        for (pieces, completions) in
            [(vec![999], 1), (vec![1000], 2), (vec![500, 500], 2), (vec![1, 2, 3], 1)]
        {
            let data = pieces.iter().map(|&len| pattern(1, len).into()).collect();
            let before = io.counters();
            near.send(data).await.expect("sent");
            let after = io.counters();
            assert_eq!(after.requests - before.requests, 1, "{pieces:?}");
            assert_eq!(after.completions - before.completions, completions, "{pieces:?}");
        }
        drop(far);
    });
}

fn zero_copy_send_arrives_whole(driver: DriverChoice) {
    run(&zero_copy(driver), |io| async move {
        let (near, far) = connected(&io, LOOPBACK).await;
        // More than the socket takes at once, and more pieces than one request does.
        let expected = pattern(7, 8 << 20);
        let data: Vec<Bytes> = expected.chunks(3001).map(Bytes::copy_from_slice).collect();
        let sending = io.spawn(async move { near.send(data).await });
        let buf = far.recv_into(IoBuf::with_capacity(8 << 20), 8 << 20).await.expect("received");
        assert!(buf[..] == expected);
        sending.await.expect("sent");
    });
}

fn zero_copy_send_that_is_given_up_gives_its_memory_back(driver: DriverChoice) {
    run(&zero_copy(driver), |io| async move {
        let (near, far) = connected(&io, LOOPBACK).await;
        // Some of it waits in the peer's socket, some in ours, and most was never taken by the kernel.
        let memory = Bytes::from(pattern(1, 64 << 20));
        let sending = io.timeout(Duration::from_millis(20), near.send(vec![memory.clone()]));
        assert!(sending.await.is_err(), "nobody receives");
        // Also while somebody holds the stream.
        while !memory.is_unique() {
            io.sleep(Duration::from_millis(1)).await;
        }
        drop((near, far));
    });
}

/// Bytes of one send, more than a socket's peer takes that nobody reads from, and less than both sockets do.
const WAITING_BYTES: usize = 1 << 20;

/// A send that the kernel has taken, and its peer has not; its memory, and the two ends.
async fn waiting_for_its_peer(io: &Io) -> (Sent, Bytes, TcpStream, TcpStream) {
    let (near, far) = connected(io, LOOPBACK).await;
    let memory = Bytes::from(pattern(1, WAITING_BYTES));
    let sent = near.start_send(vec![memory.clone()]).await.expect("taken");
    (sent, memory, near, far)
}

fn memory_of_a_zero_copy_send_is_the_kernels_until_the_peer_has_it(driver: DriverChoice) {
    run(&zero_copy(driver), |io| async move {
        let (sent, memory, near, far) = waiting_for_its_peer(&io).await;
        let delivering = io.spawn(sent.delivered());
        // A few turns, in which nothing can come.
        for _ in 0..100 {
            io.yield_now().await;
        }
        assert!(!delivering.is_finished() && !memory.is_unique());
        let buf = far.recv_into(IoBuf::with_capacity(WAITING_BYTES), WAITING_BYTES).await.expect("received");
        assert!(buf[..] == memory[..]);
        delivering.await;
        assert!(memory.is_unique());
        // The stream is as it was.
        near.send(vec![Bytes::from_static(b"more")]).await.expect("sent");
        assert_eq!(far.recv().await.expect("received"), "more");
    });
}

fn zero_copy_send_that_nobody_waits_for_is_cut_off(driver: DriverChoice) {
    run(&zero_copy(driver), |io| async move {
        let (sent, memory, _near, _far) = waiting_for_its_peer(&io).await;
        drop(sent);
        while !memory.is_unique() {
            io.sleep(Duration::from_millis(1)).await;
        }
    });
}

fn shard_ends_while_a_zero_copy_send_waits_for_its_peer(driver: DriverChoice) {
    let memory = Arc::new(std::sync::Mutex::new(None));
    let kept = Arc::clone(&memory);
    run(&zero_copy(driver), move |io| {
        let kept = Arc::clone(&kept);
        async move {
            let (sent, memory, near, far) = waiting_for_its_peer(&io).await;
            *kept.lock().expect("no panic") = Some(memory);
            io.spawn(async move {
                sent.delivered().await;
                drop((near, far));
            })
            .detach();
        }
    });
    assert!(memory.lock().expect("no panic").take().expect("was sent").is_unique());
}

fn zero_copy_send_to_a_peer_in_the_process_copies(driver: DriverChoice) {
    run(&zero_copy(driver), |io| async move {
        let (near, far) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let (near, far) = (io.adopt(near).expect("adopted"), io.adopt(far).expect("adopted"));
        let expected = pattern(3, 1 << 20);
        let data = Bytes::from(expected.clone());
        let sending = io.spawn(async move { near.send(vec![data]).await });
        let buf = far.recv_into(IoBuf::with_capacity(1 << 20), 1 << 20).await.expect("received");
        assert!(buf[..] == expected);
        sending.await.expect("sent");
    });
}

fn stalled_file_sends_do_not_hold_up_other_work_or_the_end(driver: DriverChoice) {
    run(&on(driver), |io| async move {
        let dir = directory();
        let options = OpenOptions::read_write().create();
        let file = Rc::new(io.fs().open(dir.path().join("f"), options).await.expect("created"));
        let content = pattern(1, 32 << 20);
        file.write_at(vec![content.clone().into()], 0, Durability::Plain).await.expect("written");
        let mut peers = Vec::new();
        for _ in 0..20 {
            let (near, far) = connected(&io, LOOPBACK).await;
            let file = Rc::clone(&file);
            // Nobody receives.
            io.spawn(async move { near.send_file(&file, 0, 32 << 20).await }).detach();
            peers.push(far);
        }
        let (near, far) = connected(&io, LOOPBACK).await;
        let sending = io.spawn(async move { near.send_file(&file, 0, 8 << 20).await });
        let buf = far.recv_into(IoBuf::with_capacity(8 << 20), 8 << 20).await.expect("received");
        assert!(buf[..] == content[..8 << 20]);
        sending.await.expect("sent");
    });
}

fn ipv6_works_as_ipv4(driver: DriverChoice) {
    run(&on(driver), |io| async move {
        let (near, far) = connected(&io, IpAddr::V6(Ipv6Addr::LOCALHOST)).await;
        assert!(near.peer_addr().is_ipv6() && near.peer_addr() == far.local_addr());
        near.send(vec![Bytes::from_static(b"six")]).await.expect("sent");
        assert_eq!(far.recv().await.expect("received"), "six");
    });
}

fn shards_share_a_port_if_asked(driver: DriverChoice) {
    run(&on(driver), |io| async move {
        let address = SocketAddr::new(LOOPBACK, 0);
        let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let first = io.listen(address, options).await.expect("a free port");
        let second = io.listen(first.local_addr(), options).await.expect("shared");
        assert_eq!(first.local_addr(), second.local_addr());
        let refused = io.listen(first.local_addr(), ListenOptions::default()).await;
        assert_eq!(refused.expect_err("not shared").kind(), ErrorKind::AddrInUse);
    });
}

fn names_and_numbers_resolve(driver: DriverChoice) {
    run(&on(driver), |io| async move {
        let numeric = io.resolve("127.0.0.1", 9092).await.expect("a number");
        assert_eq!(numeric, [SocketAddr::new(LOOPBACK, 9092)]);
        let named = io.resolve("localhost", 9092).await.expect("a name");
        assert!(
            named.iter().all(|address| address.ip().is_loopback() && address.port() == 9092),
            "{named:?}"
        );
        assert!(!named.is_empty());
    });
}

fn path_with_a_zero_byte_is_refused(driver: DriverChoice) {
    run(&on(driver), |io| async move {
        let error = io.fs().open("a\0b", OpenOptions::read_only()).await.expect_err("no such path can be");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

/// A JVM locks with record locks; those of one process stand for those of another, since ours belong to a description.
fn record_lock_of_another_program_excludes_ours_and_the_other_way_round(driver: DriverChoice) {
    use rustix::fs::{FlockOperation, fcntl_lock};
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lock");
    run(&on(driver), move |io| {
        let path = path.clone();
        async move {
            let ours = io.fs().open(&path, OpenOptions::read_write().create()).await.expect("created");
            let reader = io.fs().open(&path, OpenOptions::read_only()).await.expect("opened");
            let theirs = std::fs::File::options().write(true).open(&path).expect("opened");

            fcntl_lock(&theirs, FlockOperation::NonBlockingLockExclusive).expect("nobody has it");
            assert!(!ours.try_lock().await.expect("asked"));
            assert!(!reader.try_lock().await.expect("asked"));

            fcntl_lock(&theirs, FlockOperation::NonBlockingUnlock).expect("given back");
            assert!(ours.try_lock().await.expect("asked"));
            let refused =
                fcntl_lock(&theirs, FlockOperation::NonBlockingLockExclusive).expect_err("we have it");
            assert_eq!(refused, rustix::io::Errno::AGAIN);
            assert!(!reader.try_lock().await.expect("asked"));
            drop(ours);
            assert!(
                reader.try_lock().await.expect("asked"),
                "a shared lock of a file that is open for reading only"
            );
        }
    });
}

fn clock_is_the_same_on_all_shards(driver: DriverChoice) {
    let (sender, receiver) = mailbox::channel(1);
    let states = vec![(Some(sender), None), (None, Some(receiver))];
    type State =
        (Option<mailbox::Sender<highwater_io::MonoTime>>, Option<mailbox::Receiver<highwater_io::MonoTime>>);
    let main = |io: Io, (sender, receiver): State| async move {
        for _ in 0..100 {
            if let Some(sender) = &sender {
                sender.send(io.now()).await.expect("the other receives");
            }
        }
        if let Some(mut receiver) = receiver {
            while let Some(sent) = receiver.recv().await {
                assert!(sent <= io.now(), "sent before it is received");
            }
        }
    };
    let runtime = Runtime::start(&on(driver), states, main).expect("started");
    runtime.join().unwrap_or_else(|payload| resume_unwind(payload));
}
