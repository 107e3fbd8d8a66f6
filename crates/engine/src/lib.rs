//! The engine: containers, commands inside them, events, logs, volumes and networks as users know
//! them. It decides, owns and recovers; the mechanisms beneath do as they are told.
//!
//! Every container has one task that owns it ([`containers`]); everybody else sends it requests.
//! What must not be lost is in `engine.db` before it is done ([`config::Config::data_root`]); what
//! a monitor can tell again is not waited for. [`Engine::open`] compares the records with the
//! monitors that are alive and finishes what was begun.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | what the daemon decides for the engine |
//! | [`containers`] | records, the state machine, the owner task, every container operation |
//! | [`exec`] | commands started inside running containers |
//! | [`attach`] | stdio of a container or a command, detach keys |
//! | [`logs`] | reading what monitors wrote |
//! | [`stats`] | resource usage and process tables |
//! | [`images`] | names, pulls and removals, thin over `store` and `registry` |
//! | [`volumes`] | the local driver |
//! | [`networks`] | records of networks, endpoints of containers |
//! | [`events`] | what happened, as a stream with a history |
//! | [`system`] | the host and the totals |
//! | [`spec`] | `Config` and `HostConfig` become an OCI specification; pure but for what it looks up |
//!
//! What you will not find: HTTP, JSON of the API, `fork`, `mount`.

pub mod attach;
pub mod config;
pub mod containers;
pub mod events;
pub mod exec;
pub mod images;
pub mod logs;
pub mod networks;
pub mod spec;
pub mod stats;
pub mod system;
pub mod volumes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use vocab::{Failure, Kind};

pub use config::Config;

/// Filters of a list or a stream: values of one key are alternatives, keys must all match.
pub type Filters = BTreeMap<String, Vec<String>>;

/// A stream that a client reads.
pub type Stream<T> = futures_util::stream::BoxStream<'static, T>;

/// A filter that the list does not know, or a value that it cannot read.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// No such key.
    #[error("invalid filter '{0}'")]
    Unknown(String),
    /// The key takes another kind of value.
    #[error("invalid filter '{key}={value}'")]
    Value {
        /// The filter.
        key: String,
        /// What was given.
        value: String,
    },
}

impl Failure for FilterError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

/// The engine of one daemon.
#[derive(Debug)]
pub struct Engine {}

/// Why the engine did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {}

impl Failure for OpenError {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

impl Engine {
    /// Opens the state, finds the containers that still run, and applies restart policies.
    pub async fn open(_config: Config) -> Result<Arc<Self>, OpenError> {
        todo!()
    }

    /// Ends the engine's tasks. Containers keep running; their monitors hold what happens
    /// meanwhile. `grace` bounds the wait for operations that are under way.
    pub async fn shutdown(&self, _grace: Duration) {
        todo!()
    }
}
