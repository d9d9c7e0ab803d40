//! What concerns a whole process: signals, the limit of descriptors, a sandbox that forbids io_uring. Each case runs in a
//! child of its own, which is this program again, and once for each driver.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use highwater_io::net::ListenOptions;
use highwater_io::{DriverChoice, DriverKind, Io, Runtime, RuntimeConfig, StartError};

const CASE: &str = "HIGHWATER_IO_TEST_CASE";
const DRIVER: &str = "HIGHWATER_IO_TEST_DRIVER";
const DRIVERS: [&str; 2] = ["uring", "posix"];
const PATIENCE: Duration = Duration::from_secs(30);

type Case = (&'static str, fn(), fn(&str));

/// Name, what the child does, what the parent does and expects.
const CASES: [Case; 6] = [
    ("first_signal_asks_to_stop", child_stops_on_signal, first_signal_asks_to_stop),
    ("same_signal_twice_asks_to_stop_once", child_stops_on_signal, same_signal_twice_asks_to_stop_once),
    ("second_signal_ends_the_process", child_ignores_the_request, second_signal_ends_the_process),
    ("start_without_descriptors_leaves_no_shard", child_starts_too_many, start_without_descriptors),
    ("accept_without_descriptors_is_an_error", child_runs_out_of_descriptors, accept_without_descriptors),
    ("start_in_a_sandbox_takes_the_other_driver", child_in_a_sandbox, start_in_a_sandbox),
];

fn main() {
    if let Ok(case) = std::env::var(CASE) {
        let (_, child, _) = CASES.iter().find(|(name, ..)| *name == case).expect("a case");
        return child();
    }
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    for (name, _, parent) in CASES {
        for driver in DRIVERS {
            let name = format!("{driver}::{name}");
            if filter.as_deref().is_none_or(|filter| name.contains(filter)) {
                parent(driver);
                println!("test {name} ... ok");
            }
        }
    }
}

/// Runs this program as the child of a case, under a limit of descriptors.
fn child(driver: &str, case: &str, max_descriptors: u32) -> Child {
    let program = std::env::current_exe().expect("this program");
    Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -n {max_descriptors}; exec \"$0\""))
        .arg(program)
        .env(CASE, case)
        .env(DRIVER, driver)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell")
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("the parent listens");
}

fn wait_for(child: &mut Child, line: &str) {
    let mut heard = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    BufReader::with_capacity(1, stdout).read_line(&mut heard).expect("the child speaks");
    assert_eq!(heard.trim_end(), line);
}

fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
    assert!(status.success());
}

fn end_of(mut child: Child) -> (ExitStatus, String) {
    drop(child.stdin.take());
    let mut rest = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut rest).expect("text");
    (child.wait().expect("the child ends"), rest)
}

/// The configuration of a child.
fn config() -> RuntimeConfig {
    let driver = match std::env::var(DRIVER).expect("the parent says which").as_str() {
        "uring" => DriverChoice::Uring,
        _ => DriverChoice::Posix,
    };
    RuntimeConfig { driver, ..RuntimeConfig::default() }
}

fn signal_config() -> RuntimeConfig {
    RuntimeConfig { handle_signals: true, ..config() }
}

fn child_stops_on_signal() {
    let main = |io: Io, first: bool| async move {
        if first {
            say("ready");
        }
        io.timeout(PATIENCE, io.stop_requested()).await.expect("a signal comes");
    };
    let runtime = Runtime::start(&signal_config(), vec![true, false], main).expect("started");
    runtime.join().expect("no panic");
    say("stopped");
}

fn first_signal_asks_to_stop(driver: &str) {
    for name in ["-TERM", "-INT"] {
        let mut child = child(driver, "first_signal_asks_to_stop", 1000);
        wait_for(&mut child, "ready");
        signal(&child, name);
        let (status, rest) = end_of(child);
        assert!(status.success(), "{name}: {status}");
        assert_eq!(rest.trim(), "stopped", "{name}");
    }
}

/// As `timeout` does, or a terminal that signals a whole pipeline.
fn same_signal_twice_asks_to_stop_once(driver: &str) {
    let mut child = child(driver, "same_signal_twice_asks_to_stop_once", 1000);
    wait_for(&mut child, "ready");
    let both = format!("kill -TERM {0}; kill -TERM {0} || true", child.id());
    assert!(Command::new("sh").args(["-c", &both]).status().expect("sh").success());
    let (status, rest) = end_of(child);
    assert!(status.success(), "{status}");
    assert_eq!(rest.trim(), "stopped");
}

fn child_ignores_the_request() {
    let main = |io: Io, (): ()| async move {
        say("ready");
        io.stop_requested().await;
        say("asked");
        io.sleep(PATIENCE).await;
    };
    let runtime = Runtime::start(&signal_config(), vec![()], main).expect("started");
    runtime.join().expect("no panic");
}

fn second_signal_ends_the_process(driver: &str) {
    let mut child = child(driver, "second_signal_ends_the_process", 1000);
    wait_for(&mut child, "ready");
    signal(&child, "-TERM");
    wait_for(&mut child, "asked");
    // A signal at once would only say the same again.
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, "-TERM");
    let (status, _) = end_of(child);
    assert_eq!(status.code(), Some(128 + 15), "{status}");
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("Linux").count()
}

fn child_starts_too_many() {
    let before = threads();
    let alive = Arc::new(());
    let states = vec![Arc::clone(&alive); 64];
    let main = |_io: Io, _alive: Arc<()>| async { panic!("no shard runs unless all do") };
    let error = Runtime::start(&config(), states, main).expect_err("too few descriptors");
    assert!(matches!(error, StartError::System(_)), "{error}");
    assert_eq!((threads(), Arc::strong_count(&alive)), (before, 1), "no shard is left");
    say(&error.to_string());
}

fn start_without_descriptors(driver: &str) {
    let (status, said) = end_of(child(driver, "start_without_descriptors_leaves_no_shard", 40));
    assert!(status.success(), "{status}");
    assert!(said.contains("Too many open files"), "{said}");
}

fn child_runs_out_of_descriptors() {
    let main = |io: Io, (): ()| async move {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = io.listen(address, ListenOptions::default()).await.expect("a free port");
        say(&listener.local_addr().to_string());
        let mut streams = Vec::new();
        let error = loop {
            match io.timeout(PATIENCE, listener.accept()).await.expect("the parent connects") {
                Ok(stream) => streams.push(stream),
                Err(error) => break error,
            }
        };
        say(&error.to_string());
        // With descriptors free again, it goes on where it was.
        let before = streams.len();
        streams.truncate(before / 2);
        for _ in 0..3 {
            let accepted = io.timeout(PATIENCE, listener.accept()).await.expect("connections wait");
            streams.push(accepted.expect("descriptors are free"));
        }
        say("accepted");
        // The parent may still be connecting.
        io.stop_requested().await;
    };
    let runtime = Runtime::start(&config(), vec![()], main).expect("started");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("the parent closes it when it is done");
    runtime.stop();
    runtime.join().expect("no panic");
}

fn accept_without_descriptors(driver: &str) {
    let mut child = child(driver, "accept_without_descriptors_is_an_error", 40);
    let mut address = String::new();
    BufReader::with_capacity(1, child.stdout.as_mut().expect("piped"))
        .read_line(&mut address)
        .expect("a line");
    let address: SocketAddr = address.trim().parse().expect("an address");
    let _connections: Vec<_> =
        (0..60).map(|_| std::net::TcpStream::connect(address).expect("the kernel queues it")).collect();
    let mut refused = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    BufReader::with_capacity(1, stdout).read_line(&mut refused).expect("a line");
    assert!(refused.contains("Too many open files"), "{refused}");
    wait_for(&mut child, "accepted");
    let (status, _) = end_of(child);
    assert!(status.success(), "{status}");
}

/// Forbids io_uring_setup(2) to this thread and those that it starts, as the default profile of container runtimes does.
fn forbid_io_uring() {
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let number = u32::try_from(libc::SYS_io_uring_setup).expect("a small number");
    let step = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let mut steps = [
        // The number of the call is the first field of what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number),
        step(libc::BPF_RET | libc::BPF_K, 0, REFUSE),
        step(libc::BPF_RET | libc::BPF_K, 0, ALLOW),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: takes numbers only.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0);
    // SAFETY: the pointer is valid for the call, and what it points to says how many steps there are.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn child_in_a_sandbox() {
    forbid_io_uring();
    let error = Runtime::start(&RuntimeConfig { driver: DriverChoice::Uring, ..config() }, vec![()], nothing)
        .expect_err("io_uring is forbidden");
    let said = error.to_string();
    assert!(
        matches!(error, StartError::UringUnavailable { .. }) && said.contains("io_uring_setup"),
        "{said}"
    );
    assert!(said.contains("io_uring_disabled=0") && said.contains("container"), "what to do: {said}");

    let auto = RuntimeConfig { driver: DriverChoice::Auto, ..config() };
    let runtime = Runtime::start(&auto, vec![(), ()], nothing).expect("the other driver needs none");
    assert_eq!(runtime.driver(), DriverKind::Posix);
    runtime.join().expect("no panic");
    say("ran");
}

async fn nothing(io: Io, (): ()) {
    assert_eq!(io.driver_kind(), DriverKind::Posix);
    io.fs().metadata("/").await.expect("is there");
}

fn start_in_a_sandbox(driver: &str) {
    let (status, said) = end_of(child(driver, "start_in_a_sandbox_takes_the_other_driver", 1000));
    assert!(status.success(), "{status}");
    assert_eq!(said.trim(), "ran");
}
