//! A broker on a node of a simulated world.

use std::cell::RefCell;
use std::rc::Rc;

use highwater_broker::{BrokerConfig, BrokerError, Started, prepare, run_shard};
use highwater_io::sim::{NodeId, World};

/// What became of a start, once that is known.
pub(crate) type Report = Rc<RefCell<Option<Result<Started, BrokerError>>>>;

/// Starts a broker, whether or not it comes to serve.
pub(crate) fn boot(world: &mut World, node: NodeId, config: &BrokerConfig) -> Report {
    let (states, handle) = prepare(config);
    let reported = Report::default();
    let mut started = Some(handle.started);
    let states: Vec<_> = states.into_iter().map(|state| (state, started.take())).collect();
    let report = Rc::clone(&reported);
    world.start(node, states, move |io, (state, started)| {
        let report = Rc::clone(&report);
        async move {
            let waiting = started.map(|started| {
                io.spawn(async move {
                    let outcome = started.await;
                    *report.borrow_mut() = outcome;
                })
            });
            run_shard(io.clone(), state).await;
            if let Some(waiting) = waiting {
                waiting.await;
            }
        }
    });
    reported
}
