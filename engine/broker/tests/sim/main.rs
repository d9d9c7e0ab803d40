//! The whole broker in the simulator: what it acknowledged is there after power cuts, kills and clean stops, and one
//! seed always gives one trace.

mod client;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use highwater_broker::{BrokerConfig, prepare, run_shard};
use highwater_io::sim::{NodeId, World, WorldConfig};

use client::{Client, Ledger};

const PORT: u16 = 9092;

/// How a life of the broker ends.
#[derive(Debug, Clone, Copy)]
enum End {
    PowerCut,
    Kill,
    Stop,
}

/// A broker, a client, and what the client was told.
struct Scene {
    world: World,
    broker: NodeId,
    client: NodeId,
    ledger: Rc<RefCell<Ledger>>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed, WorldConfig::default());
        let broker = world.add_node("broker");
        let client = world.add_node("client");
        Scene { world, broker, client, ledger: Rc::default() }
    }

    /// Two shards with little of everything, so that a short run goes round the journal.
    fn config(&self) -> BrokerConfig {
        let mut config = BrokerConfig::for_data_dir("/data");
        let listener = format!("PLAINTEXT://{}:{PORT}", self.world.address(self.broker));
        config.set("listeners", &listener).expect("valid");
        config.set("num.shards", "2").expect("valid");
        config.shard.journal_file_bytes = 256 << 10;
        config.shard.checkpoint_interval_bytes = 128 << 10;
        config.shard.journal_max_files = 3;
        config.shard.group_max_bytes = 32 << 10;
        config.shard.unflushed_max_bytes = 32 << 10;
        config.shard.hot_tail_bytes = 2 << 20;
        config.shard.chunk_bytes = 8 << 10;
        config
    }

    fn start_broker(&mut self) {
        let (states, _handle) = prepare(&self.config());
        self.world.start(self.broker, states, run_shard);
    }

    fn run_until_ended(&mut self, node: NodeId) {
        let seed = self.world.seed();
        let run = self.world.run_until(|world| !world.is_up(node));
        run.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }

    /// A life of the broker, with a client that produces until it ends.
    fn live(&mut self, millis: u64, end: End) {
        self.start_broker();
        let address = (self.world.address(self.broker), PORT).into();
        self.world.start(self.client, vec![Rc::clone(&self.ledger)], move |io, ledger| async move {
            Client::connect(&io, address).await.produce(&ledger).await;
        });
        let seed = self.world.seed();
        let run = self.world.run_for(Duration::from_millis(millis));
        run.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        match end {
            End::PowerCut => self.world.power_cut(self.broker),
            End::Kill => self.world.kill(self.broker),
            End::Stop => self.world.stop(self.broker),
        }
        self.run_until_ended(self.broker);
        if self.world.is_up(self.client) {
            self.world.kill(self.client);
        }
    }

    /// Starts the broker once more, reads everything back and compares it with what was acknowledged.
    fn check(&mut self) {
        self.start_broker();
        let address = (self.world.address(self.broker), PORT).into();
        self.world.start(self.client, vec![Rc::clone(&self.ledger)], move |io, ledger| async move {
            Client::connect(&io, address).await.read_everything(&ledger).await;
        });
        self.run_until_ended(self.client);
        self.ledger.borrow_mut().check(self.world.seed());
        self.world.stop(self.broker);
        self.run_until_ended(self.broker);
    }
}

/// Three lives with ends and lengths that the seed chooses; the trace.
fn run(seed: u64) -> u64 {
    let mut scene = Scene::new(seed);
    for life in 0..3 {
        let end = match (seed + life) % 5 {
            0..=2 => End::PowerCut,
            3 => End::Kill,
            _ => End::Stop,
        };
        scene.live(40 + (seed * 7 + life * 31) % 160, end);
        scene.check();
    }
    scene.world.trace_hash()
}

#[test]
fn everything_acknowledged_is_there_after_every_end() {
    for seed in 0..30 {
        run(seed);
    }
}

#[test]
fn one_seed_gives_one_trace() {
    for seed in [3, 4] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(3), run(4));
}

/// The checks above are worth something: a broker that lies does not pass them. These are the lies that one client which
/// asks for durable acknowledgements can notice; the others are for the log's own tests.
#[cfg(feature = "mutants")]
#[test]
fn broker_that_lies_is_caught() {
    use highwater_log::mutants;
    for mutant in [
        mutants::ACK_BEFORE_WRITE,
        mutants::SKIP_CREATE_FLUSH,
        mutants::CHECKPOINT_BEFORE_FLUSH,
        mutants::SKIP_SETTLED_PREFIX,
        mutants::OFFSET_GIVEN_TWICE,
        mutants::RECORD_ALTERED,
        mutants::DROP_FLUSH_SOMETIMES,
    ] {
        let is_caught = (0..60).any(|seed| {
            let run_with_lie = || {
                let _lie = mutant.enable();
                run(seed)
            };
            std::panic::catch_unwind(run_with_lie).is_err()
        });
        assert!(is_caught, "{} is not noticed", mutant.name);
    }
}
