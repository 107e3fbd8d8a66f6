//! What a caller asks for. Serialisable, because it crosses from the engine to the monitor.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::oci;
use crate::origin::Origin;
use crate::state::State;

/// Everything [`crate::create`] needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bundle {
    /// The container's id.
    pub id: String,
    /// The bundle's directory, told to hooks and where those that run on the host begin. May be
    /// empty where there are none.
    #[serde(default)]
    pub directory: PathBuf,
    /// The OCI configuration. [`Bundle::rootfs`] says where the root is; of `root.path` only one that
    /// is absolute is looked at, where hooks find an overlay.
    /// `linux.cgroupsPath` is absolute below the cgroup mounts, such as `/berth/<id>`.
    pub spec: oci::Spec,
    /// Where the root file system comes from.
    pub rootfs: Rootfs,
    /// A seccomp program compiled before ([`crate::seccomp::compile`]), which the caller caches.
    /// `None`: `spec.linux.seccomp` is compiled if present.
    pub seccomp: Option<PathBuf>,
    /// What OCI's configuration has no words for.
    #[serde(default)]
    pub extras: Extras,
}

/// What OCI's configuration has no words for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Extras {
    /// Whether a small init is the first process, which starts the program, hands on signals and
    /// reaps.
    #[serde(default)]
    pub init: bool,
    /// Where binds come from whose source does not say it all, by their destination.
    #[serde(default)]
    pub origins: BTreeMap<PathBuf, Origin>,
}

/// Where a root file system comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Rootfs {
    /// A directory, with whatever is mounted in it.
    Directory(PathBuf),
    /// Mounted inside the container's own mount namespace: nothing of it appears on the host.
    Overlay(Overlay),
}

/// An overlayfs mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overlay {
    /// Read-only layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// The writable layer.
    pub upper: PathBuf,
    /// overlayfs's scratch directory, beside `upper` on the same file system.
    pub work: PathBuf,
}

/// One more process in a running container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecProcess {
    /// What runs, as whom, with which limits and capabilities.
    pub process: oci::Process,
    /// A compiled seccomp program. `None`: the profile is compiled if present.
    pub seccomp: Option<PathBuf>,
    /// The seccomp profile, which says more than its program: flags, and an agent that answers.
    #[serde(default)]
    pub profile: Option<oci::LinuxSeccomp>,
    /// The container's execution domain, which every process of it has.
    #[serde(default)]
    pub personality: Option<oci::LinuxPersonality>,
    /// The same for its memory policy.
    #[serde(default)]
    pub memory_policy: Option<oci::LinuxMemoryPolicy>,
    /// The container's state, which a seccomp agent is told.
    #[serde(default)]
    pub state: Option<State>,
    /// The container's cgroup, such as `/berth/<id>`; empty leaves the process in the caller's.
    pub cgroup: String,
    /// What the container's specification lists in `linux.namespaces`. Only the user and the time
    /// namespace are looked for: to join those one shares already is an error, or costs. The
    /// others are joined in any case.
    #[serde(default)]
    pub namespaces: Vec<oci::LinuxNamespace>,
}
