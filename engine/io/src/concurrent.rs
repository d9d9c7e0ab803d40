//! Many pieces of work at once, up to a limit, on one shard.

use std::future::Future;

use crate::runtime::Io;
use crate::sync::Semaphore;

/// Awaits every piece of `work`, at most `limit` at a time, and gives the results in order.
pub async fn all<T: 'static, F: Future<Output = T> + 'static>(
    io: &Io,
    limit: usize,
    work: impl IntoIterator<Item = F>,
) -> Vec<T> {
    let room = Semaphore::new(limit);
    let mut tasks = Vec::new();
    for piece in work {
        let place = room.acquire(1).await;
        tasks.push(io.spawn(async move {
            let result = piece.await;
            drop(place);
            result
        }));
    }
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await);
    }
    results
}
