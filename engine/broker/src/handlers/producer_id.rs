//! InitProducerId, for idempotent producers without transactions.
//!
//! Transactions are not served yet, and FindCoordinator, which a transactional producer asks first, is not advertised:
//! Kafka's clients say at once that the broker does not support it. Whoever asks here all the same is told
//! UNSUPPORTED_VERSION, which no client tries again.

use std::rc::Rc;

use highwater_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use highwater_protocol::{ErrorCode, RequestHeader};

use super::reply;
use crate::reply::Outcome;
use crate::shard::Shard;

pub(super) async fn handle(
    shard: &Rc<Shard>,
    header: &RequestHeader,
    request: InitProducerIdRequest,
) -> Outcome {
    let refused = match &request.transactional_id {
        None if (request.producer_id.0 == -1) != (request.producer_epoch == -1) => {
            Some(ErrorCode::INVALID_REQUEST)
        }
        None => None,
        Some(id) if id.is_empty() => Some(ErrorCode::INVALID_REQUEST),
        Some(_) => Some(ErrorCode::UNSUPPORTED_VERSION),
    };
    let id = match refused {
        Some(error) => Err(error),
        None => shard.producer_ids.next(shard).await,
    };
    let response = match id {
        Ok(id) => InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0),
        Err(error) => InitProducerIdResponse::default()
            .with_error_code(error.0)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    };
    reply(header, &response)
}
