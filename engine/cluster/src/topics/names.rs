//! Which names a topic may have.

use crate::METADATA_TOPIC;
use crate::error::MetadataError;
use crate::image::MetadataImage;

const MAX_NAME_LENGTH: usize = 249;

/// Checks a topic's name by itself.
///
/// # Errors
/// [`MetadataError::InvalidTopic`], in Kafka's words.
pub fn validate_name(name: &str) -> Result<(), MetadataError> {
    let invalid = |why: String| Err(MetadataError::InvalidTopic(format!("Topic name is invalid: {why}")));
    let is_legal =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
    if name.is_empty() {
        invalid("the empty string is not allowed".to_owned())
    } else if name == "." || name == ".." {
        invalid(format!("'{name}' is not allowed"))
    } else if name.len() > MAX_NAME_LENGTH {
        invalid(format!("the length of '{name}' is longer than the max allowed length {MAX_NAME_LENGTH}"))
    } else if !name.chars().all(is_legal) {
        invalid(format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        ))
    } else {
        Ok(())
    }
}

/// Checks the name of a topic that is to be created against those that exist, and its form.
pub(super) fn check_new_name(name: &str, image: &MetadataImage) -> Result<(), MetadataError> {
    if name == METADATA_TOPIC {
        return Err(MetadataError::InvalidRequest(format!(
            "Creation of internal topic {METADATA_TOPIC} is prohibited."
        )));
    }
    validate_name(name)?;
    if image.topic(name).is_some() {
        return Err(MetadataError::TopicAlreadyExists(name.to_owned()));
    }
    image.colliding_topic(name).map_or(Ok(()), |existing| Err(collision(name, existing)))
}

/// Two topics of which metrics could not tell the names apart.
pub(super) fn collision(name: &str, existing: &str) -> MetadataError {
    MetadataError::InvalidTopic(format!("Topic '{name}' collides with existing topic: {existing}"))
}
