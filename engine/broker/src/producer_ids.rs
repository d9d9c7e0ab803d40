//! Ids of idempotent producers. The controller gives them away in blocks, durably; a shard draws from its own block.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use highwater_cluster::lifecycle;
use highwater_io::sync::Semaphore;
use highwater_protocol::ErrorCode;

use crate::shard::{CONTROLLER_SHARD, Shard};

/// Ids that a shard is given at once. What is left when it stops is never used.
const BLOCK: u16 = 1000;

/// A shard's block of ids.
#[derive(Debug)]
pub(crate) struct ProducerIds {
    block: RefCell<Range<i64>>,
    turn: Semaphore,
}

impl ProducerIds {
    pub(crate) fn new() -> Self {
        ProducerIds { block: RefCell::new(0..0), turn: Semaphore::new(1) }
    }

    /// An id that was never given away.
    pub(crate) async fn next(&self, shard: &Rc<Shard>) -> Result<i64, ErrorCode> {
        let _turn = self.turn.acquire(1).await;
        if let Some(id) = self.block.borrow_mut().next() {
            return Ok(id);
        }
        let block = shard.on(CONTROLLER_SHARD, allocate).await.await;
        let mut block = block.ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)??;
        let id = block.next().ok_or(ErrorCode::UNKNOWN_SERVER_ERROR)?;
        *self.block.borrow_mut() = block;
        Ok(id)
    }
}

async fn allocate(shard: Rc<Shard>) -> Result<Range<i64>, ErrorCode> {
    let controller = shard.controller.as_ref().ok_or(ErrorCode::NOT_CONTROLLER)?;
    let allocated = controller
        .change(&shard, |image| match lifecycle::allocate_producer_ids(image, BLOCK) {
            Ok((records, block)) => (records, Ok(block)),
            Err(error) => (Vec::new(), Err(crate::errors::of_metadata(&error))),
        })
        .await;
    allocated.map_err(|error| error.code())?
}
