//! Requests and answers of the Engine API, with members in the order in which Go prints them.
//!
//! What also is stored with a container (`Config`, `HostConfig`, endpoints) is in
//! `vocab::config`. An `Option` that is always printed is one that clients meet as `null`; one
//! with `skip_serializing_if` is one that Docker leaves out. Every type reads with missing members,
//! so that answers of older daemons are understood.
//!
//! | module | area |
//! |---|---|
//! | [`containers`] | create, list, inspect, top, stats, wait, exec |
//! | [`images`] | list, inspect, history, delete, prune, progress |
//! | [`manifests`] | what the names of an image point at |
//! | [`networks`] | list, inspect, create, connect |
//! | [`system`] | version, info, events, auth, disk usage |
//! | [`volumes`] | list, inspect, create, prune |

use serde::{Deserialize, Serialize};

mod containers;
mod images;
mod manifests;
mod networks;
mod system;
mod volumes;

pub use containers::*;
pub use images::*;
pub use manifests::*;
pub use networks::*;
pub use system::*;
pub use volumes::*;

/// The body of every refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// What went wrong, for people.
    pub message: String,
}

/// The answer to a create call that has nothing else to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Identified {
    /// What was made.
    pub id: String,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
