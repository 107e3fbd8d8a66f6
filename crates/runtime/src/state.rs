//! What is told about a container: to hooks on their standard input, to seccomp agents, and by the
//! `state` command (runtime-spec, runtime.md "State").

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;

/// The version of runtime-spec that berth follows.
pub const OCI_VERSION: &str = "1.3.0";

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is at work.
    Creating,
    /// Waiting for `start`.
    Created,
    /// Its program runs.
    Running,
    /// Its processes are frozen. Not one of the specification's own, but runc's.
    Paused,
    /// Its program has ended.
    Stopped,
}

/// The state of a container, as it is said in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The version of the specification that this follows.
    pub oci_version: String,
    /// The container's.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// Its first process as the reader sees it; 0, and not said, where there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pid: i32,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Those of the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

impl State {
    /// Of a container of which nothing was said.
    pub(crate) fn unknown() -> Self {
        Self {
            oci_version: String::from(OCI_VERSION),
            id: String::new(),
            status: Status::Stopped,
            pid: 0,
            bundle: PathBuf::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// Of the container of `bundle`.
    pub fn new(bundle: &Bundle, status: Status, pid: i32) -> Self {
        let annotations = bundle.spec.annotations().iter().flatten();
        Self {
            oci_version: String::from(OCI_VERSION),
            id: bundle.id.clone(),
            status,
            pid,
            bundle: bundle.directory.clone(),
            annotations: annotations
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        }
    }
}
