//! A broker for tests: a directory and a port of its own, and nothing left of it.
//!
//! The one test of its process: it looks at all the process's threads.

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use highwater_broker::{Broker, BrokerError, Config};

/// Names of this process's threads that are a broker's.
fn broker_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with("highwater")).collect()
}

/// A thread that was joined is in the list for another moment.
fn wait_until_threads_are_gone() {
    let begin = Instant::now();
    while !broker_threads().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?} are still there", broker_threads());
        std::thread::yield_now();
    }
}

#[test]
fn ephemeral_broker_is_ready_and_goes_without_a_trace() {
    let begin = Instant::now();
    let broker = Broker::start(Config::ephemeral()).expect("starts");
    // Told, not judged: the machine may be busy.
    println!("ready in {:?}, of which the start says {:?}", begin.elapsed(), broker.started().start_duration);
    let other = Broker::start(Config::ephemeral()).expect("a second one beside it");
    assert_ne!(broker.bootstrap(), other.bootstrap());
    let dirs: Vec<PathBuf> = [&broker, &other].iter().map(|broker| broker.data_dir().to_owned()).collect();
    assert!(dirs.iter().all(|dir| dir.starts_with(std::env::temp_dir()) && dir.is_dir()), "{dirs:?}");
    let second_shards = broker_threads().iter().filter(|name| name.starts_with("highwater-1")).count();
    assert_eq!(second_shards, 0, "one shard each: {:?}", broker_threads());
    assert!(broker_threads().len() >= 2, "{:?}", broker_threads());

    // A client that is still connected keeps nobody.
    let client = TcpStream::connect(broker.bootstrap()).expect("it listens");
    let addresses = [broker.bootstrap(), other.bootstrap()];
    drop(broker);
    other.stop().expect("stops cleanly");
    assert!(dirs.iter().all(|dir| !dir.exists()), "{dirs:?}");
    for address in addresses {
        assert!(TcpStream::connect(&address).is_err(), "{address} still listens");
    }
    wait_until_threads_are_gone();
    drop(client);

    // One that cannot start leaves nothing either.
    let parent = tempfile::tempdir().expect("a directory");
    let mut config = Config::ephemeral();
    config.set("log.dirs", parent.path().to_str().expect("a path")).expect("valid");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    config.set("listeners", &format!("PLAINTEXT://{address}")).expect("valid");
    let error = Broker::start(&config).expect_err("the port is taken");
    assert!(matches!(error, BrokerError::Listen { .. }), "{error}");
    assert_eq!(std::fs::read_dir(parent.path()).expect("it is there").count(), 0, "nothing is left");

    // And where it was told to be, it is.
    config.set("listeners", "PLAINTEXT://127.0.0.1:0").expect("valid");
    let broker = Broker::start(&config).expect("starts");
    assert_eq!(broker.data_dir().parent(), Some(parent.path()));
    drop(broker);
    assert_eq!(std::fs::read_dir(parent.path()).expect("it is there").count(), 0, "nothing is left");
    wait_until_threads_are_gone();
}
