//! Requests and answers of the Engine API in Docker's field order.
//!
//! What also is stored with a container (`Config`, `HostConfig`, endpoints) is in `vocab::config`.

use serde::{Deserialize, Serialize};

/// The body of every refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// What went wrong, for people.
    pub message: String,
}
