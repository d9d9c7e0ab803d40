//! Memory and files of the bare loops, as the engine has them.

use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use highwater_io::fs::{Durability, File, OpenOptions};
use highwater_io::{BufPool, Io, IoBuf};
use highwater_log::ShardConfig;

/// Slabs of the size of the hot tail, as the engine has them; each was written to.
pub(crate) fn warm_pool(slab_bytes: usize, total_bytes: usize) -> BufPool {
    let slabs = total_bytes / slab_bytes;
    let pool = BufPool::new(slab_bytes, slabs, slabs);
    let all: Vec<_> = std::iter::from_fn(|| pool.try_take()).map(|slab| filled(slab, slab_bytes)).collect();
    drop(all);
    pool
}

pub(crate) fn filled(mut buf: IoBuf, size_bytes: usize) -> Bytes {
    buf.set_len(size_bytes);
    buf.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251) as u8);
    buf.freeze()
}

/// Journal files as the engine has them after a lap: allocated, and written to once.
pub(crate) async fn journal(io: &Io, dir: &Path, config: &ShardConfig, shard: usize) -> Vec<Rc<File>> {
    let zeros = filled(IoBuf::with_capacity(1 << 20), 1 << 20);
    let mut files = Vec::with_capacity(config.journal_max_files);
    for number in 0..config.journal_max_files {
        let file =
            create(io, &dir.join(format!("journal-{shard}-{number}")), config.journal_file_bytes).await;
        for position in (0..config.journal_file_bytes).step_by(1 << 20) {
            file.write_at(vec![zeros.clone()], position, Durability::Plain).await.expect("written");
        }
        file.sync_all().await.expect("flushed");
        files.push(file);
    }
    files
}

/// A file for direct I/O that has its space.
pub(crate) async fn create(io: &Io, path: &Path, size_bytes: u64) -> Rc<File> {
    let options = OpenOptions::read_write().create().direct();
    let file = io.fs().open(path, options).await.expect("opened");
    file.allocate(0, size_bytes).await.expect("space");
    Rc::new(file)
}
