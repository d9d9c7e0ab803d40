//! DescribeCluster.

use highwater_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use highwater_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use highwater_protocol::{ErrorCode, RequestHeader};

use super::{operations, reply};
use crate::reply::Outcome;
use crate::shard::Shard;

const ENDPOINT_BROKERS: i8 = 1;
const ENDPOINT_CONTROLLERS: i8 = 2;

pub(super) fn handle(shard: &Shard, header: &RequestHeader, request: &DescribeClusterRequest) -> Outcome {
    if header.api_version >= 1 && request.endpoint_type != ENDPOINT_BROKERS {
        return reply(header, &refusal(request.endpoint_type));
    }
    let image = shard.image();
    let brokers = image.brokers().iter().map(|(id, broker)| {
        DescribeClusterBroker::default()
            .with_broker_id(BrokerId(id.0))
            .with_host(broker.host.clone().into())
            .with_port(broker.port.into())
            .with_rack(broker.rack.clone().map(Into::into))
    });
    let operations = if request.include_cluster_authorized_operations {
        operations::CLUSTER
    } else {
        operations::NOT_ASKED
    };
    let response = DescribeClusterResponse::default()
        .with_endpoint_type(ENDPOINT_BROKERS)
        .with_cluster_id(shard.broker.cluster_id.clone().into())
        .with_controller_id(BrokerId(shard.broker.config.node_id.0))
        .with_brokers(brokers.collect())
        .with_cluster_authorized_operations(operations);
    reply(header, &response)
}

fn refusal(endpoint_type: i8) -> DescribeClusterResponse {
    let (error, message) = if endpoint_type == ENDPOINT_CONTROLLERS {
        let message = "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER";
        (ErrorCode::MISMATCHED_ENDPOINT_TYPE, message.to_owned())
    } else {
        (ErrorCode::UNSUPPORTED_ENDPOINT_TYPE, format!("Unsupported endpoint type {endpoint_type}"))
    };
    DescribeClusterResponse::default().with_error_code(error.0).with_error_message(Some(message.into()))
}
