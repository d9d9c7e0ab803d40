//! The client's own ceiling: what it reaches against a broker that acknowledges and keeps nothing.
//!
//! Client and broker share the machine, so a figure near this one says more about the client than about the broker. The
//! null broker is this program's stand-in, in a process of its own like any broker.

use std::path::Path;
use std::time::Duration;

use highwater_checker::{Layout, RunId};

use crate::broker::admin::{self, Settings};
use crate::broker::driver::{Driver, Place};
use crate::broker::process::{Installed, free_ports};
use crate::broker::wire::Connection;
use crate::cancel::Cancel;
use crate::cell::CellError;
use crate::clock::Clock;
use crate::load::{self, Driving};
use crate::medium::Scratch;
use crate::results::Ceiling;
use crate::workload::settings::{Fault, Start};
use crate::workload::units::Rate;
use crate::workload::{Cell, Timing};

const TOPIC: &str = "ceiling";
const WARM_UP: Duration = Duration::from_millis(300);
const DURATION: Duration = Duration::from_millis(1_200);
const TIMEOUT: Duration = Duration::from_secs(10);

/// Measures the client with the settings of `like`, as fast as it goes. `driver` is the stand-in's.
pub fn client_ceiling(
    driver: &Driver,
    like: &Cell,
    driving: Driving,
    scratch: &Path,
    cancel: &Cancel,
) -> Result<Ceiling, CellError> {
    let work = Scratch::create(scratch)?;
    let io = |source| CellError::Io { path: work.path().to_owned(), source };
    let (port, port2) = free_ports().map_err(io)?;
    let program = std::env::current_exe().map_err(io)?;
    let home = program.parent().unwrap_or(Path::new("/")).to_owned();
    let place = Place { home, data: work.path().join("data"), work: work.path().to_owned(), port, port2 };
    let settings = Settings::from([("keep".to_owned(), "nothing".to_owned())]);
    let installed = Installed::prepare(driver, place, &settings, cancel)?;
    let mut broker = installed.start()?;
    broker.wait_ready(None, cancel)?;
    let cell = ceiling_cell(like);
    let mut connection = Connection::open(broker.address(), TIMEOUT)?;
    admin::create_topic(&mut connection, TOPIC, cell.settings.partitions, &Settings::new())?;
    let plan = load::Plan {
        address: broker.address(),
        topic: TOPIC.to_owned(),
        run: RunId(cell.seed.0),
        layout: Layout::new(&[cell.settings.partitions.unsigned_abs()]),
        clock: Clock::start(),
        driving,
        cell,
    };
    let mut running = load::start(plan)?;
    running.start_clock(cancel)?;
    let done = running.finish(cancel)?;
    Ok(Ceiling {
        records_per_second: done.load.records_per_second(),
        bytes_per_second: done.load.bytes_per_second(),
    })
}

fn ceiling_cell(like: &Cell) -> Cell {
    let mut cell = like.clone();
    cell.settings.rate = Rate::Saturating;
    // A broker that keeps nothing has nothing to read: the ceiling is that of the producers.
    cell.settings.consumers = 0;
    cell.settings.fault = Fault::None;
    cell.settings.start = Start::Warm;
    cell.timing = Timing { warm_up: WARM_UP, duration: DURATION, ..cell.timing };
    cell
}
