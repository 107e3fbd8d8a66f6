//! The record of one container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Life;

/// How far a container had come when its record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It is being made.
    Creating,
    /// It waits for `start`.
    Created,
    /// It was started.
    Running,
}

/// What `state.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The container's id.
    pub id: String,
    /// `ociVersion` of its configuration.
    pub oci_version: String,
    /// How far it had come.
    pub phase: Phase,
    /// Its first process; 0 before there is one.
    pub pid: i32,
    /// When that began, in clock ticks since boot.
    pub start_time: u64,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Its root file system.
    pub rootfs: PathBuf,
    /// When it was created, in RFC 3339.
    pub created: String,
    /// Its cgroup.
    pub cgroup: Option<String>,
    /// The scope that systemd made the cgroup for, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<runtime::cgroup::systemd::Scope>,
    /// Whether it has a pid namespace of its own, so that nothing outlives its first process.
    pub own_pids: bool,
    /// Whether hooks are to run when it is started, or gone.
    pub hooks: bool,
    /// What its standard streams led to, as it is saved with; none if it has a terminal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<String>,
    /// Those of its configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Record {
    /// Reads what was written.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    pub(crate) fn life(&self) -> Life {
        Life {
            pid: self.pid,
            start_time: self.start_time,
        }
    }

    pub(crate) fn set_life(&mut self, life: Life) {
        self.pid = life.pid;
        self.start_time = life.start_time;
    }

    #[cfg(test)]
    pub(crate) fn sample(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            oci_version: String::from("1.3.0"),
            phase: Phase::Creating,
            pid: 0,
            start_time: 0,
            bundle: PathBuf::from("/bundle"),
            rootfs: PathBuf::from("/bundle/rootfs"),
            created: String::from("2026-11-21T05:00:00Z"),
            cgroup: None,
            scope: None,
            own_pids: true,
            hooks: false,
            streams: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }
}
