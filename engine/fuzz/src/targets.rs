//! The targets, one a module: `run` and `seeds`.

pub(crate) mod batch;
pub(crate) mod client_frames;
pub(crate) mod connection;
mod exercise;
pub(crate) mod journal;
pub(crate) mod kafka_dir;
pub(crate) mod log_files;
pub(crate) mod metadata;
pub(crate) mod request;
pub(crate) mod response;
