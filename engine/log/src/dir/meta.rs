//! `meta.properties`: Kafka's file that says whose a data directory is, and ours that a journal belongs to it.

use std::path::Path;

use highwater_io::{FileError, Io};
use highwater_model::{BrokerId, DirectoryId, TopicId};

use super::{MetadataPlace, OpenOptions, SMALL_FILE_BYTES};
use crate::error::OpenError;

pub(super) const META_PROPERTIES: &str = "meta.properties";
/// The format of the journal that belongs to the directory.
const JOURNAL_PROPERTY: &str = "highwater.journal";
const JOURNAL_VERSION: u32 = 1;
/// In a directory that is one of several: the id of that with the metadata log.
const METADATA_DIRECTORY_PROPERTY: &str = "highwater.metadata.directory.id";

/// The lines of `meta.properties` that matter to us; the others are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MetaProperties {
    pub(super) cluster_id: String,
    node_id: Option<i32>,
    pub(super) directory_id: DirectoryId,
    pub(crate) has_journal: bool,
    /// The format of its journal, where this build does not know it.
    unknown_journal: Option<u32>,
    metadata_directory: Option<DirectoryId>,
    others: Vec<(String, String)>,
}

impl MetaProperties {
    /// The node whose directory it is, if it says so.
    pub(crate) fn node_id(&self) -> Option<BrokerId> {
        self.node_id.map(BrokerId)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut meta = MetaProperties {
            cluster_id: String::new(),
            node_id: None,
            directory_id: DirectoryId::UNASSIGNED,
            has_journal: false,
            unknown_journal: None,
            metadata_directory: None,
            others: Vec::new(),
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let (key, value) = line.split_once('=')?;
            match key.trim() {
                "cluster.id" => meta.cluster_id = value.trim().to_owned(),
                "node.id" | "broker.id" => meta.node_id = Some(value.trim().parse().ok()?),
                "directory.id" => meta.directory_id = DirectoryId(TopicId::parse(value.trim())?.0),
                METADATA_DIRECTORY_PROPERTY => {
                    meta.metadata_directory = Some(DirectoryId(TopicId::parse(value.trim())?.0));
                }
                "version" => {}
                JOURNAL_PROPERTY => {
                    meta.has_journal = true;
                    meta.unknown_journal =
                        Some(value.trim().parse().ok()?).filter(|&it| it != JOURNAL_VERSION);
                }
                other => meta.others.push((other.to_owned(), value.trim().to_owned())),
            }
        }
        (!meta.cluster_id.is_empty()).then_some(meta)
    }

    pub(crate) fn encode(&self) -> String {
        let mut text = format!(
            "version=1\ncluster.id={}\nnode.id={}\ndirectory.id={}\n{JOURNAL_PROPERTY}={JOURNAL_VERSION}\n",
            self.cluster_id,
            self.node_id.unwrap_or(0),
            self.directory_id,
        );
        if let Some(id) = self.metadata_directory {
            text.push_str(&format!("{METADATA_DIRECTORY_PROPERTY}={id}\n"));
        }
        for (key, value) in &self.others {
            text.push_str(&format!("{key}={value}\n"));
        }
        text
    }
}

pub(crate) async fn read_meta(io: &Io, path: &Path) -> Result<Option<MetaProperties>, OpenError> {
    let file = path.join(META_PROPERTIES);
    if !io.fs().exists(&file).await? {
        return Ok(None);
    }
    let bytes = io.fs().read_file(&file, SMALL_FILE_BYTES).await?;
    let meta = std::str::from_utf8(&bytes).ok().and_then(MetaProperties::parse);
    if let Some(version) = meta.as_ref().and_then(|meta| meta.unknown_journal) {
        let why = format!(
            "its journal has format {version}, and this build knows {JOURNAL_VERSION} alone; \
             start the Highwater that wrote it"
        );
        return Err(OpenError::NotOurs { path: file, why });
    }
    meta.map(Some).ok_or_else(|| OpenError::NotOurs {
        path: file,
        why:
            "not a meta.properties file of version 1; if this is a data directory of a Kafka older than 3.0, \
              start a newer Kafka on it once; if it is damaged, put it back from a copy"
                .to_owned(),
    })
}

/// What the directory is to say of itself from now on: what it says, or, where it is new, what `options` ask for.
///
/// # Errors
/// [`OpenError::NotOurs`] where the two disagree.
pub(super) fn check_meta(
    io: &Io,
    path: &Path,
    options: &OpenOptions,
    found: Option<MetaProperties>,
) -> Result<MetaProperties, OpenError> {
    let Some(mut meta) = found else {
        let cluster_id = options.cluster_id.clone().unwrap_or_else(|| TopicId(io.random_uuid()).to_string());
        return Ok(MetaProperties {
            cluster_id,
            node_id: Some(options.node_id.0),
            directory_id: DirectoryId(io.random_uuid()),
            has_journal: false,
            unknown_journal: None,
            metadata_directory: match options.metadata {
                MetadataPlace::In(id) => Some(id),
                MetadataPlace::Here | MetadataPlace::Anywhere => None,
            },
            others: Vec::new(),
        });
    };
    let not_ours = |why: String| OpenError::NotOurs { path: path.join(META_PROPERTIES), why };
    if let Some(wanted) = options.cluster_id.as_ref().filter(|wanted| **wanted != meta.cluster_id) {
        return Err(not_ours(format!(
            "belongs to cluster {}, not {wanted}; use the right directory or cluster id",
            meta.cluster_id
        )));
    }
    if let Some(node_id) = meta.node_id.filter(|node_id| *node_id != options.node_id.0) {
        return Err(not_ours(format!(
            "belongs to node {node_id}, not {}; use the right directory or --set node.id={node_id}",
            options.node_id
        )));
    }
    match (options.metadata, meta.metadata_directory) {
        (MetadataPlace::Here, Some(elsewhere)) => {
            return Err(not_ours(format!(
                "is one of several log directories, and the metadata log is in another one (directory.id={elsewhere}): \
                 name that in log.dirs, too, and first or as metadata.log.dir"
            )));
        }
        (MetadataPlace::In(given), Some(known)) if given != known => {
            return Err(not_ours(format!(
                "belongs to the metadata log in another log directory (directory.id={known}), not to that in \
                 directory.id={given}; use the directories that belong together"
            )));
        }
        (MetadataPlace::In(given), _) => meta.metadata_directory = Some(given),
        (MetadataPlace::Here | MetadataPlace::Anywhere, _) => {}
    }
    meta.node_id = Some(options.node_id.0);
    if meta.directory_id == DirectoryId::UNASSIGNED {
        meta.directory_id = DirectoryId(io.random_uuid());
    }
    Ok(meta)
}

pub(super) async fn write_meta(io: &Io, path: &Path, meta: &MetaProperties) -> Result<(), FileError> {
    io.fs().replace_file_durable(path.join(META_PROPERTIES), meta.encode().into()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_properties_survive_the_round_trip_with_foreign_lines() {
        let text = "#\n#Tue Nov 24 06:00:00 UTC 2026\ncluster.id=abc\ndirectory.id=AAECAwQFBgcICQoLDA0ODw\n\
                    node.id=3\nversion=1\nx.y=z\n";
        let meta = MetaProperties::parse(text).expect("well formed");
        assert_eq!((meta.cluster_id.as_str(), meta.node_id, meta.has_journal), ("abc", Some(3), false));
        let ours = MetaProperties::parse(&meta.encode()).expect("well formed");
        assert!(ours.has_journal);
        assert_eq!(ours.others, [("x.y".to_owned(), "z".to_owned())]);
    }

    #[test]
    fn meta_properties_tell_where_the_metadata_log_is_only_if_it_is_elsewhere() {
        let text = "cluster.id=abc\nnode.id=3\ndirectory.id=AAECAwQFBgcICQoLDA0ODw\n";
        let mut meta = MetaProperties::parse(text).expect("well formed");
        assert!(!meta.encode().contains("metadata"));
        meta.metadata_directory = Some(DirectoryId(uuid::Uuid::from_u128(7)));
        assert_eq!(
            MetaProperties::parse(&meta.encode()).expect("well formed").metadata_directory,
            meta.metadata_directory
        );
    }
}
