//! DescribeConfigs and IncrementalAlterConfigs.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use highwater_cluster::MetadataError;
use highwater_cluster::alter_configs::{AlterOp, ConfigChange, alter_configs};
use highwater_cluster::config::effective::{ConfigSource, DescribedConfig};
use highwater_cluster::config::{ConfigDef, broker, topic};
use highwater_cluster::image::ConfigResource;
use highwater_cluster::topics::validate_name;
use highwater_model::BrokerId;
use highwater_protocol::codec::StrBytes;
use highwater_protocol::messages::describe_configs_request::DescribeConfigsResource;
use highwater_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use highwater_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use highwater_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use highwater_protocol::messages::{
    DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use highwater_protocol::{ErrorCode, RequestHeader};

use super::{message, reply};
use crate::errors;
use crate::pace::Pace;
use crate::reply::Outcome;
use crate::shard::{CONTROLLER_SHARD, Shard};

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;

/// Most resources that one request may describe: what is told of each is much more than what is asked.
const MAX_RESOURCES: usize = 10_000;

/// About the most bytes of settings in one reply, and the last resource may go beyond: the settings of ten thousand topics
/// without their documentation.
const MAX_DESCRIBED_BYTES: usize = 32 << 20;

/// An error code and the text that goes with it.
type Refusal = (ErrorCode, StrBytes);

fn refuse(error: ErrorCode, text: impl Into<String>) -> Refusal {
    (error, text.into().into())
}

fn of_metadata(error: &MetadataError) -> Refusal {
    (errors::of_metadata(error), message(error))
}

/// What a resource on the wire is.
fn resource(shard: &Shard, kind: i8, name: &str) -> Result<ConfigResource, Refusal> {
    match kind {
        RESOURCE_TOPIC => {
            validate_name(name).map_err(|error| of_metadata(&error))?;
            Ok(ConfigResource::Topic(name.to_owned()))
        }
        RESOURCE_BROKER if name.is_empty() => Ok(ConfigResource::AllBrokers),
        RESOURCE_BROKER => {
            let ours = shard.broker.config.node_id;
            match name.parse() {
                Ok(id) if BrokerId(id) == ours => Ok(ConfigResource::Broker(ours)),
                Ok(_) => Err(refuse(
                    ErrorCode::INVALID_REQUEST,
                    format!("Unexpected broker id, expected {ours} or empty string, but received {name}"),
                )),
                Err(_) => Err(refuse(
                    ErrorCode::INVALID_REQUEST,
                    "Broker id must be an integer, but it is not.".to_owned(),
                )),
            }
        }
        _ => Err(refuse(
            ErrorCode::INVALID_REQUEST,
            format!("Settings of resources of type {kind} are not supported."),
        )),
    }
}

pub(super) async fn describe(
    shard: &Shard,
    header: &RequestHeader,
    request: DescribeConfigsRequest,
) -> Outcome {
    let options = Options {
        synonyms: request.include_synonyms,
        documentation: request.include_documentation && header.api_version >= 3,
    };
    let resources = distinct(request.resources);
    let is_excessive = resources.len() > MAX_RESOURCES;
    let mut left_bytes = MAX_DESCRIBED_BYTES;
    let mut pace = Pace::new(&shard.io);
    let mut results = Vec::with_capacity(resources.len());
    for asked in resources {
        pace.step().await;
        let answer = DescribeConfigsResult::default()
            .with_resource_type(asked.resource_type)
            .with_resource_name(asked.resource_name.clone());
        let described = if is_excessive || left_bytes == 0 {
            Err(refuse(ErrorCode::INVALID_REQUEST, "Too much is described at once; ask for fewer resources."))
        } else {
            describe_resource(shard, &asked, options)
        };
        results.push(match described {
            Ok(configs) => {
                left_bytes = left_bytes.saturating_sub(configs.iter().map(size_bytes).sum());
                answer.with_configs(configs).with_error_message(None)
            }
            Err((error, text)) => answer.with_error_code(error.0).with_error_message(Some(text)),
        });
    }
    reply(header, &DescribeConfigsResponse::default().with_results(results))
}

/// Each resource once, with the keys that were asked of it last: every admin client gives answers by resource.
fn distinct(resources: Vec<DescribeConfigsResource>) -> Vec<DescribeConfigsResource> {
    let mut places = BTreeMap::new();
    let mut distinct: Vec<DescribeConfigsResource> = Vec::new();
    for resource in resources {
        let key = (resource.resource_type, resource.resource_name.clone());
        match places.entry(key) {
            Entry::Occupied(place) => distinct[*place.get()] = resource,
            Entry::Vacant(place) => {
                place.insert(distinct.len());
                distinct.push(resource);
            }
        }
    }
    distinct
}

/// About as many bytes as a described setting has in the reply.
fn size_bytes(config: &DescribeConfigsResourceResult) -> usize {
    const FIXED_BYTES: usize = 16;
    let text = |text: &Option<StrBytes>| text.as_ref().map_or(0, |text| text.len());
    let synonyms =
        config.synonyms.iter().map(|synonym| FIXED_BYTES + synonym.name.len() + text(&synonym.value));
    FIXED_BYTES
        + config.name.len()
        + text(&config.value)
        + text(&config.documentation)
        + synonyms.sum::<usize>()
}

/// What is told besides the values.
#[derive(Debug, Clone, Copy)]
struct Options {
    synonyms: bool,
    documentation: bool,
}

fn describe_resource(
    shard: &Shard,
    asked: &DescribeConfigsResource,
    options: Options,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    let image = shard.image();
    let view = shard.config_view(&image);
    let keys: Option<BTreeSet<&str>> =
        asked.configuration_keys.as_ref().map(|keys| keys.iter().map(|key| &**key).collect());
    let is_wanted = |name: &str| keys.as_ref().is_none_or(|keys| keys.is_empty() || keys.contains(name));
    let resource = resource(shard, asked.resource_type, &asked.resource_name)?;
    let described: Vec<(&ConfigDef, DescribedConfig)> = match &resource {
        ConfigResource::Topic(name) => {
            if image.topic(name).is_none() {
                return Err(of_metadata(&MetadataError::unknown_topic()));
            }
            let overrides = image.overrides(&resource);
            let wanted = topic::TOPIC_CONFIGS.iter().filter(|config| is_wanted(config.def.name));
            wanted.map(|config| (&config.def, view.describe_topic(config, overrides))).collect()
        }
        ConfigResource::Broker(_) => {
            let wanted = broker::BROKER_CONFIGS.iter().filter(|config| is_wanted(config.def.name));
            wanted.map(|config| (&config.def, view.describe_broker(config))).collect()
        }
        // Of all brokers together only overrides are told.
        ConfigResource::AllBrokers => broker::BROKER_CONFIGS
            .iter()
            .filter(|config| is_wanted(config.def.name))
            .filter(|config| image.overrides(&resource).is_some_and(|set| set.contains_key(config.def.name)))
            .map(|config| {
                let mut described = view.describe_broker(config);
                described.synonyms.retain(|value| value.source == ConfigSource::AllBrokers);
                described.value = described.synonyms.first().and_then(|value| value.value.clone());
                described.source = ConfigSource::AllBrokers;
                (&config.def, described)
            })
            .collect(),
    };
    Ok(described.into_iter().map(|(def, described)| result_of(def, described, options)).collect())
}

fn result_of(def: &ConfigDef, described: DescribedConfig, options: Options) -> DescribeConfigsResourceResult {
    let synonym = |value: highwater_cluster::config::effective::ConfigValue| {
        DescribeConfigsSynonym::default()
            .with_name(value.name.into())
            .with_value(value.value.map(Into::into))
            .with_source(value.source.code())
    };
    let synonyms =
        if options.synonyms { described.synonyms.into_iter().map(synonym).collect() } else { Vec::new() };
    DescribeConfigsResourceResult::default()
        .with_name(def.name.into())
        .with_value(described.value.map(Into::into))
        .with_read_only(described.is_read_only)
        .with_config_source(described.source.code())
        .with_synonyms(synonyms)
        .with_config_type(def.ty.code())
        .with_documentation(options.documentation.then(|| def.doc.into()))
}

pub(super) async fn alter(
    shard: &Rc<Shard>,
    header: &RequestHeader,
    request: IncrementalAlterConfigsRequest,
) -> Outcome {
    let mut responses = Vec::with_capacity(request.resources.len());
    let key = |asked: &AlterConfigsResource| (asked.resource_type, asked.resource_name.clone());
    let mut times = BTreeMap::new();
    request.resources.iter().for_each(|asked| *times.entry(key(asked)).or_insert(0) += 1);
    for asked in request.resources {
        let answer = AlterConfigsResourceResponse::default()
            .with_resource_type(asked.resource_type)
            .with_resource_name(asked.resource_name.clone());
        // Of two changes of one resource nobody could say which counts.
        let altered = if times.get(&key(&asked)) == Some(&1) {
            alter_resource(shard, asked, request.validate_only).await
        } else {
            Err(refuse(ErrorCode::INVALID_REQUEST, "Each resource must appear at most once."))
        };
        responses.push(match altered {
            Ok(()) => answer.with_error_message(None),
            Err((error, text)) => answer.with_error_code(error.0).with_error_message(Some(text)),
        });
    }
    reply(header, &IncrementalAlterConfigsResponse::default().with_responses(responses))
}

async fn alter_resource(
    shard: &Rc<Shard>,
    asked: AlterConfigsResource,
    validate_only: bool,
) -> Result<(), Refusal> {
    let resource = resource(shard, asked.resource_type, &asked.resource_name)?;
    let changes: Vec<ConfigChange> = asked
        .configs
        .into_iter()
        .map(|config| {
            let op = AlterOp::from_code(config.config_operation).ok_or_else(|| {
                let code = config.config_operation;
                refuse(ErrorCode::INVALID_REQUEST, format!("Unknown operation type {code}"))
            })?;
            Ok(ConfigChange {
                name: config.name.to_string(),
                op,
                value: config.value.map(|value| value.to_string()),
            })
        })
        .collect::<Result<_, Refusal>>()?;
    let call = shard.on(CONTROLLER_SHARD, move |shard| decide(shard, resource, changes, validate_only)).await;
    match call.await.unwrap_or(Err(ErrorCode::NOT_CONTROLLER)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(of_metadata(&error)),
        Err(error) => Err(refuse(error, "The change could not be written.")),
    }
}

async fn decide(
    shard: Rc<Shard>,
    resource: ConfigResource,
    changes: Vec<ConfigChange>,
    validate_only: bool,
) -> Result<Result<(), MetadataError>, ErrorCode> {
    let controller = shard.controller.as_ref().ok_or(ErrorCode::NOT_CONTROLLER)?;
    let changed = controller.change(&shard, |image| {
        match alter_configs(&shard.config_view(image), &resource, &changes) {
            Ok(_) if validate_only => (Vec::new(), Ok(())),
            Ok(records) => (records, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        }
    });
    changed.await.map_err(|error| {
        tracing::error!(%error, "settings were not changed");
        error.code()
    })
}
