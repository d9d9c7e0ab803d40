//! One machine whose process lives, ends in some way, and lives again.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use highwater_io::Io;
use highwater_io::sim::{Disk, DiskConfig, NodeId, World, WorldConfig};

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Kill,
    PowerCut,
}

pub(crate) struct Scene {
    pub(crate) world: World,
    node: NodeId,
}

impl Scene {
    pub(crate) fn new(seed: u64) -> Self {
        Scene::on(seed, DiskConfig::default())
    }

    pub(crate) fn on(seed: u64, disk: DiskConfig) -> Self {
        // Something that goes round in a circle is noticed soon.
        let config = WorldConfig { disk, max_steps: 5_000_000, ..WorldConfig::default() };
        let mut world = World::new(seed, config);
        let node = world.add_node("node");
        Scene { world, node }
    }

    pub(crate) fn disk(&self) -> Disk {
        self.world.disk_of(self.node)
    }

    /// Starts a process and lets it run until `main` is done; then everything in it goes on until it is ended.
    pub(crate) fn live<T, F, Fut>(&mut self, main: F) -> T
    where
        T: 'static,
        F: FnOnce(Io) -> Fut + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let output: Rc<RefCell<Option<T>>> = Rc::default();
        let slot = Rc::clone(&output);
        self.world.start(self.node, vec![(main, slot)], |io, (main, slot)| async move {
            let done = main(io).await;
            *slot.borrow_mut() = Some(done);
            std::future::pending::<()>().await;
        });
        let run = self.world.run_until(|_| output.borrow().is_some());
        run.unwrap_or_else(|error| panic!("seed {}: {error}", self.world.seed()));
        output.borrow_mut().take().expect("looked")
    }

    /// As [`live`](Self::live), then ends the process.
    pub(crate) fn live_and<T, F, Fut>(&mut self, end: End, main: F) -> T
    where
        T: 'static,
        F: FnOnce(Io) -> Fut + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let output = self.live(main);
        self.end(end);
        output
    }

    /// Starts a process and ends it after a while, whatever it has come to.
    pub(crate) fn live_for<F, Fut>(&mut self, time: Duration, end: End, main: F)
    where
        F: FnOnce(Io) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.world.start(self.node, vec![main], |io, main| async move {
            main(io).await;
            std::future::pending::<()>().await;
        });
        self.pass(time);
        self.end(end);
    }

    /// Starts a process and lets it run until the power goes, or until it is done and is killed.
    pub(crate) fn live_until_down<F, Fut>(&mut self, main: F)
    where
        F: FnOnce(Io) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let done = Rc::new(std::cell::Cell::new(false));
        let told = Rc::clone(&done);
        self.world.start(self.node, vec![(main, told)], |io, (main, told)| async move {
            main(io).await;
            told.set(true);
            std::future::pending::<()>().await;
        });
        let node = self.node;
        let run = self.world.run_until(|world| done.get() || !world.is_up(node));
        run.unwrap_or_else(|error| panic!("seed {}: {error}", self.world.seed()));
        if self.world.is_up(node) {
            self.world.kill(node);
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let run = self.world.run_for(time);
        run.unwrap_or_else(|error| panic!("seed {}: {error}", self.world.seed()));
    }

    pub(crate) fn end(&mut self, end: End) {
        match end {
            End::Kill => self.world.kill(self.node),
            End::PowerCut => self.world.power_cut(self.node),
        }
    }

    /// The one file whose path contains `part`.
    pub(crate) fn path_of(&self, part: &str) -> String {
        let lengths = self.disk().file_lengths();
        let mut found = lengths.into_keys().filter(|path| path.contains(part));
        let path = found.next().unwrap_or_else(|| panic!("there is no {part}"));
        assert_eq!(found.next(), None, "{part} is in more than one path");
        path
    }
}
