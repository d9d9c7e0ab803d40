//! A broker for a test: there in milliseconds, gone without a trace. Starts a dozen, one after the other, and tells how long
//! each took.
//!
//!     cargo run --release -p highwater-broker --example ephemeral

use std::net::TcpStream;
use std::time::Instant;

use highwater_broker::{Broker, Config};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for _ in 0..12 {
        let begin = Instant::now();
        let broker = Broker::start(Config::ephemeral())?;
        let ready = begin.elapsed();
        let bootstrap = broker.bootstrap();
        TcpStream::connect(&bootstrap)?;

        let dir = broker.data_dir().to_owned();
        let begin = Instant::now();
        drop(broker);
        println!("{bootstrap} ready in {ready:.1?}, gone in {:.1?}", begin.elapsed());
        assert!(!dir.exists() && TcpStream::connect(&bootstrap).is_err());
    }
    Ok(())
}
