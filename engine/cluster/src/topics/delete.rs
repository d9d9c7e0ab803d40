//! Deleting topics.

use std::collections::BTreeSet;

use highwater_model::TopicId;

use crate::error::MetadataError;
use crate::image::MetadataImage;
use crate::record::Record;

/// How a client names a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicSelector {
    /// By name.
    Name(String),
    /// By id.
    Id(TopicId),
}

/// A topic that was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedTopic {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: String,
}

/// Deletes the topics, each by itself: the records, and what became of each. Naming one twice deletes it once.
#[must_use]
pub fn delete(
    image: &MetadataImage,
    topics: &[TopicSelector],
) -> (Vec<Record>, Vec<Result<DeletedTopic, MetadataError>>) {
    let mut deleted = BTreeSet::new();
    let results = topics
        .iter()
        .map(|selector| {
            let topic = match selector {
                TopicSelector::Name(name) => image.topic(name).ok_or_else(MetadataError::unknown_topic)?,
                TopicSelector::Id(id) => image.topic_by_id(id).ok_or(MetadataError::UnknownTopicId)?,
            };
            deleted.insert(topic.id);
            Ok(DeletedTopic { id: topic.id, name: topic.name.clone() })
        })
        .collect();
    let records = deleted.into_iter().map(|topic_id| Record::RemoveTopic { topic_id }).collect();
    (records, results)
}
