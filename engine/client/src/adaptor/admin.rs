//! An administrator that any thread may use.

use std::sync::Arc;
use std::time::Duration;

use super::driver::{Host, Shared};
use super::io_thread::IoThread;
use crate::admin::{AdminCore, AdminError, Operation};
use crate::config::{ClientConfig, ConfigError};

/// An administrator on an I/O thread. Threads may share it by reference.
#[derive(Debug)]
pub struct Admin {
    shared: Arc<Shared<AdminCore>>,
    /// Keeps the thread alive.
    _io: IoThread,
}

struct AdminHost;

impl Host for AdminHost {
    type Core = AdminCore;

    /// Answers wait in the core for the calls that they belong to.
    fn collect(&mut self, _core: &mut AdminCore) {}

    fn dispatch(&mut self) {}

    fn stop(&mut self, _core: &mut AdminCore) {}
}

impl Admin {
    /// Starts an administrator.
    ///
    /// # Errors
    /// As [`ClientConfig::validate`].
    pub fn start(io: &IoThread, config: &ClientConfig, seed: u64) -> Result<Admin, ConfigError> {
        let shared = Shared::new(AdminCore::new(config, seed)?);
        io.host(Arc::clone(&shared), AdminHost, config.max_frame_bytes);
        Ok(Admin { shared, _io: io.clone() })
    }

    /// Makes a call and waits for its answer.
    ///
    /// # Errors
    /// [`AdminError`]; errors within the answer are part of the output.
    pub fn call<O: Operation>(&self, operation: O, timeout: Duration) -> Result<O::Output, AdminError> {
        let operation = Arc::new(operation);
        let call = {
            let mut core = self.shared.lock();
            let now = self.shared.now();
            core.call(Arc::clone(&operation), timeout, now)
        };
        self.shared.wake();
        // The core ends every call in time.
        let answer = self.shared.wait_for(Duration::MAX, |core, _| core.take_answer(call));
        answer.unwrap_or(Err(AdminError::Closed))?.decode(&*operation)
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
