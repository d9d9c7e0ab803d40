//! The broker over the wire: a broker in this process, and clients that speak through plain sockets.

mod admin;
mod api_versions;
mod client;
mod configs;
mod damage;
mod epochs;
mod fetch;
mod hostile;
mod limits;
mod list_offsets;
mod log_dirs;
mod metadata;
mod produce;
mod restart;
mod sessions;
mod stop;
mod versions;
