//! One store, used by plain threads and by tokio's tasks at once.
//!
//!     cargo run --release --example threads_and_tokio

use highwater_log::store::{NewRecord, Offset, Store, StoreError, StoreOptions, Wait};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let store = Store::open(scratch.path().join("log"), StoreOptions::default())?;
    let log = store.log("events", 0).wait()?;

    // A thread blocks on a future with `wait`.
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let log = log.clone();
            std::thread::spawn(move || {
                for n in 0..100 {
                    log.append(NewRecord::value(format!("thread {thread}, {n}"))).wait()?.wait()?;
                }
                Ok::<(), StoreError>(())
            })
        })
        .collect();

    // A task awaits it, on whatever executor.
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let seen = runtime.block_on(async {
        for task in 0..4 {
            let log = log.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    log.append(NewRecord::value(format!("task {task}, {n}"))).await?.await?;
                }
                Ok::<(), StoreError>(())
            });
        }
        let mut tail = log.tail(Offset(0));
        let mut seen = 0;
        while seen < 800 {
            seen += tail.next().await?.records.len();
        }
        Ok::<_, StoreError>(seen)
    })?;
    assert_eq!(seen, 800);
    for thread in threads {
        thread.join().expect("no panic")?;
    }
    Ok(store.close().wait()?)
}
