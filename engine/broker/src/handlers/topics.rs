//! CreateTopics, DeleteTopics, CreatePartitions.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use highwater_cluster::config::topic::TOPIC_CONFIGS;
use highwater_cluster::topics::{
    self as commands, CreateContext, CreateResults, CreatedTopic, DeletedTopic, NewPartitions, NewTopic,
    ReplicaAssignment, TopicSelector,
};
use highwater_cluster::{MetadataError, MetadataImage, Record};
use highwater_model::{BrokerId, PartitionIndex, TopicId};
use highwater_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use highwater_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use highwater_protocol::messages::create_topics_request::CreatableTopic;
use highwater_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use highwater_protocol::messages::delete_topics_response::DeletableTopicResult;
use highwater_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};
use highwater_protocol::{ErrorCode, RequestHeader};

use super::{message, reply};
use crate::errors;
use crate::pace::Pace;
use crate::reply::Outcome;
use crate::shard::{CONTROLLER_SHARD, Shard};

/// Whether a change is made or only checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Create,
    ValidateOnly,
}

impl Mode {
    fn of(validate_only: bool) -> Self {
        if validate_only { Mode::ValidateOnly } else { Mode::Create }
    }
}

/// Creates topics where that is decided.
pub(super) async fn create_on_controller(
    shard: &Rc<Shard>,
    topics: Vec<NewTopic>,
    mode: Mode,
) -> Result<CreateResults, ErrorCode> {
    let created = shard.on(CONTROLLER_SHARD, move |shard| decide_create(shard, topics, mode)).await.await;
    created.unwrap_or(Err(ErrorCode::NOT_CONTROLLER))
}

async fn decide_create(
    shard: Rc<Shard>,
    topics: Vec<NewTopic>,
    mode: Mode,
) -> Result<CreateResults, ErrorCode> {
    let controller = shard.controller.as_ref().ok_or(ErrorCode::NOT_CONTROLLER)?;
    let config = &shard.broker.config;
    let changed = controller.change(&shard, |image| {
        let context = CreateContext {
            config: shard.config_view(image),
            default_num_partitions: config.num_partitions,
            default_replication_factor: config.default_replication_factor,
            max_partitions: config.max_partitions,
        };
        let mut new_id = || TopicId(shard.io.random_uuid());
        let (records, results) = commands::create(&context, &topics, &mut new_id);
        if mode == Mode::ValidateOnly { (Vec::new(), results) } else { (records, results) }
    });
    changed.await.map_err(|error| {
        tracing::error!(%error, "topics were not created");
        error.code()
    })
}

pub(super) async fn create(
    shard: &Rc<Shard>,
    header: &RequestHeader,
    request: CreateTopicsRequest,
) -> Outcome {
    let names: Vec<TopicName> = request.topics.iter().map(|topic| topic.name.clone()).collect();
    let mut pace = Pace::new(&shard.io);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        pace.step().await;
        topics.push(new_topic(topic));
    }
    let mode = Mode::of(request.validate_only);
    let results = match create_on_controller(shard, topics, mode).await {
        Ok(results) => {
            let mut answers = Vec::with_capacity(results.len());
            for (name, result) in results {
                // Which tells as many settings.
                pace.steps(TOPIC_CONFIGS.len()).await;
                answers.push(created(shard, header, name, result));
            }
            answers
        }
        Err(error) => names
            .into_iter()
            .map(|name| {
                CreatableTopicResult::default()
                    .with_name(name)
                    .with_error_code(error.0)
                    .with_num_partitions(-1)
                    .with_replication_factor(-1)
                    .with_configs(None)
            })
            .collect(),
    };
    reply(header, &CreateTopicsResponse::default().with_topics(results))
}

fn new_topic(topic: CreatableTopic) -> NewTopic {
    let assignment =
        |assignment: highwater_protocol::messages::create_topics_request::CreatableReplicaAssignment| {
            ReplicaAssignment {
                partition: PartitionIndex(assignment.partition_index),
                replicas: assignment.broker_ids.iter().map(|id| BrokerId(id.0)).collect(),
            }
        };
    NewTopic {
        name: topic.name.to_string(),
        num_partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic.assignments.into_iter().map(assignment).collect(),
        configs: topic
            .configs
            .into_iter()
            .map(|config| (config.name.to_string(), config.value.map(|value| value.to_string())))
            .collect(),
    }
}

fn created(
    shard: &Shard,
    header: &RequestHeader,
    name: String,
    result: Result<CreatedTopic, MetadataError>,
) -> CreatableTopicResult {
    let answer = CreatableTopicResult::default().with_name(TopicName(name.into()));
    match result {
        Ok(topic) => {
            let answer = answer
                .with_topic_id(topic.id.0)
                .with_num_partitions(i32::try_from(topic.num_partitions).unwrap_or(i32::MAX))
                .with_replication_factor(i16::try_from(topic.replication_factor).unwrap_or(i16::MAX));
            // Configs are part of the response from version 5 on.
            if header.api_version >= 5 {
                answer.with_configs(Some(configs_of(shard, &topic)))
            } else {
                answer.with_configs(None)
            }
        }
        Err(error) => answer
            .with_error_code(errors::of_metadata(&error).0)
            .with_error_message(Some(message(&error)))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_configs(None),
    }
}

fn configs_of(shard: &Shard, topic: &CreatedTopic) -> Vec<CreatableTopicConfigs> {
    let image = shard.image();
    let view = shard.config_view(&image);
    TOPIC_CONFIGS
        .iter()
        .map(|config| {
            let described = view.describe_topic(config, Some(&topic.overrides));
            CreatableTopicConfigs::default()
                .with_name(config.def.name.into())
                .with_value(described.value.map(Into::into))
                .with_read_only(described.is_read_only)
                .with_config_source(described.source.code())
        })
        .collect()
}

/// A topic that is to be deleted, as the request names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Doomed {
    name: Option<String>,
    id: uuid::Uuid,
}

impl Doomed {
    /// Which topic is meant: by its name or by its id, never by both.
    fn selector(&self) -> Result<TopicSelector, MetadataError> {
        match (&self.name, self.id.is_nil()) {
            (Some(name), true) => Ok(TopicSelector::Name(name.clone())),
            (None, false) => Ok(TopicSelector::Id(TopicId(self.id))),
            (None, true) => Err(invalid("Neither topic name nor id were specified.")),
            (Some(_), false) => Err(invalid("You may not specify both topic name and topic id.")),
        }
    }

    fn duplicate(&self) -> MetadataError {
        invalid(if self.name.is_some() { "Duplicate topic name." } else { "Duplicate topic id." })
    }
}

fn invalid(text: &str) -> MetadataError {
    MetadataError::InvalidRequest(text.to_owned())
}

type Deleted = Result<DeletedTopic, (ErrorCode, Option<MetadataError>)>;

fn refused(error: MetadataError) -> Deleted {
    Err((errors::of_metadata(&error), Some(error)))
}

pub(super) async fn delete(
    shard: &Rc<Shard>,
    header: &RequestHeader,
    request: DeleteTopicsRequest,
) -> Outcome {
    let by_name = |name: TopicName| Doomed { name: Some(name.to_string()), id: uuid::Uuid::nil() };
    let named: Vec<Doomed> = if header.api_version >= 6 {
        let topics = request.topics.into_iter();
        topics
            .map(|topic| Doomed { name: topic.name.map(|name| name.to_string()), id: topic.topic_id })
            .collect()
    } else {
        request.topic_names.into_iter().map(by_name).collect()
    };
    let mut pace = Pace::new(&shard.io);
    let mut times: BTreeMap<&Doomed, usize> = BTreeMap::new();
    for doomed in &named {
        pace.step().await;
        *times.entry(doomed).or_default() += 1;
    }
    let mut answers: Vec<(&Doomed, Option<Deleted>)> = Vec::new();
    let mut selectors = Vec::new();
    for doomed in &named {
        pace.step().await;
        let answer = match (doomed.selector(), times.get(doomed).copied()) {
            (Err(error), _) => Some(refused(error)),
            (Ok(selector), Some(1)) => {
                selectors.push(selector);
                None
            }
            (Ok(_), Some(_)) => {
                times.remove(doomed);
                Some(refused(doomed.duplicate()))
            }
            // The first mention was answered for all.
            (Ok(_), None) => continue,
        };
        answers.push((doomed, answer));
    }
    let call = shard.on(CONTROLLER_SHARD, move |shard| decide_delete(shard, selectors)).await;
    let decided = call.await.unwrap_or(Err(ErrorCode::NOT_CONTROLLER));
    let failed = decided.as_ref().err().copied().unwrap_or(ErrorCode::UNKNOWN_SERVER_ERROR);
    let mut decided = decided.unwrap_or_default().into_iter();
    let responses = answers.into_iter().map(|(doomed, answer)| {
        let answer = answer.unwrap_or_else(|| match decided.next() {
            Some(decided) => decided.or_else(refused),
            None => Err((failed, None)),
        });
        deleted(header, doomed, answer)
    });
    reply(header, &DeleteTopicsResponse::default().with_responses(responses.collect()))
}

async fn decide_delete(
    shard: Rc<Shard>,
    selectors: Vec<TopicSelector>,
) -> Result<Vec<Result<DeletedTopic, MetadataError>>, ErrorCode> {
    let controller = shard.controller.as_ref().ok_or(ErrorCode::NOT_CONTROLLER)?;
    if !shard.broker.config.delete_topics {
        return Ok(selectors.iter().map(|_| Err(MetadataError::TopicDeletionDisabled)).collect());
    }
    let changed = controller.change(&shard, |image| delete_each_once(image, &selectors)).await;
    changed.map_err(|error| {
        tracing::error!(%error, "topics were not deleted");
        error.code()
    })
}

/// Deletes topics; one that is named by its id and by its name, too, is deleted by the id.
fn delete_each_once(
    image: &MetadataImage,
    selectors: &[TopicSelector],
) -> (Vec<Record>, Vec<Result<DeletedTopic, MetadataError>>) {
    let id_of = |selector: &TopicSelector| match selector {
        TopicSelector::Id(id) => Some(*id),
        TopicSelector::Name(_) => None,
    };
    let ids: BTreeSet<TopicId> = selectors.iter().filter_map(id_of).collect();
    let (records, mut results) = commands::delete(image, selectors);
    for (selector, result) in selectors.iter().zip(&mut results) {
        if let (TopicSelector::Name(_), Ok(topic)) = (selector, &*result)
            && ids.contains(&topic.id)
        {
            *result = Err(invalid("The provided topic name maps to an ID that was already supplied."));
        }
    }
    (records, results)
}

fn deleted(header: &RequestHeader, doomed: &Doomed, result: Deleted) -> DeletableTopicResult {
    let answer = DeletableTopicResult::default();
    match result {
        Ok(topic) => answer.with_name(Some(TopicName(topic.name.into()))).with_topic_id(topic.id.0),
        Err((error, reason)) => {
            // Before version 3 the error was not known.
            let code = match error {
                ErrorCode::TOPIC_DELETION_DISABLED if header.api_version < 3 => ErrorCode::INVALID_REQUEST,
                other => other,
            };
            answer
                .with_name(doomed.name.clone().map(|name| TopicName(name.into())))
                .with_topic_id(doomed.id)
                .with_error_code(code.0)
                .with_error_message(reason.map(|reason| message(&reason)))
        }
    }
}

pub(super) async fn create_partitions(
    shard: &Rc<Shard>,
    header: &RequestHeader,
    request: CreatePartitionsRequest,
) -> Outcome {
    let mode = Mode::of(request.validate_only);
    let mut results = Vec::with_capacity(request.topics.len());
    let mut seen = std::collections::BTreeMap::new();
    for topic in &request.topics {
        *seen.entry(topic.name.clone()).or_insert(0) += 1;
    }
    for topic in request.topics {
        let name = topic.name.clone();
        let times = seen.remove(&name);
        let result = match times {
            Some(1) => create_partitions_of(shard, topic, mode).await,
            Some(_) => {
                let error = MetadataError::InvalidRequest("Duplicate topic name.".to_owned());
                Err((errors::of_metadata(&error), Some(error)))
            }
            // The first mention was answered for all.
            None => continue,
        };
        let answer = CreatePartitionsTopicResult::default().with_name(name);
        results.push(match result {
            Ok(()) => answer,
            Err((code, reason)) => {
                answer.with_error_code(code.0).with_error_message(reason.map(|reason| message(&reason)))
            }
        });
    }
    reply(header, &CreatePartitionsResponse::default().with_results(results))
}

async fn create_partitions_of(
    shard: &Rc<Shard>,
    topic: CreatePartitionsTopic,
    mode: Mode,
) -> Result<(), (ErrorCode, Option<MetadataError>)> {
    let assignments = topic.assignments.map(|assignments| {
        assignments
            .into_iter()
            .map(|assignment| assignment.broker_ids.iter().map(|id| BrokerId(id.0)).collect())
            .collect()
    });
    let request = NewPartitions { topic: topic.name.to_string(), count: topic.count, assignments };
    let call = shard.on(CONTROLLER_SHARD, move |shard| decide_partitions(shard, request, mode)).await;
    match call.await.unwrap_or(Err(ErrorCode::NOT_CONTROLLER)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err((errors::of_metadata(&error), Some(error))),
        Err(code) => Err((code, None)),
    }
}

async fn decide_partitions(
    shard: Rc<Shard>,
    request: NewPartitions,
    mode: Mode,
) -> Result<Result<(), MetadataError>, ErrorCode> {
    let controller = shard.controller.as_ref().ok_or(ErrorCode::NOT_CONTROLLER)?;
    let max_partitions = shard.broker.config.max_partitions;
    let changed = controller.change(&shard, |image| {
        match commands::create_partitions(image, &request, max_partitions) {
            Ok(_) if mode == Mode::ValidateOnly => (Vec::new(), Ok(())),
            Ok(records) => (records, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        }
    });
    changed.await.map_err(|error| {
        tracing::error!(%error, "partitions were not created");
        error.code()
    })
}
