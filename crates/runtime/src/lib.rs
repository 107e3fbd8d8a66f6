//! An OCI bundle becomes a process: namespaces, cgroups, root file system, mounts, identity,
//! seccomp, and the gate between *created* and *started*.
//!
//! ```text
//!  caller (the monitor: one thread)              child, already pid 1 of its namespace
//!  ───────────────────────────────              ─────────────────────────────────────
//!  plan: spec → checked values
//!  cgroup::Cgroup::create
//!  clone3(all namespaces) ──────────────────────▶ enters its cgroup and the cgroup namespace
//!                                                bind sources, root, mounts, devices
//!  ◀──────────────────────────────── Mounted, only if hooks are to run here
//!  prestart and createRuntime hooks ─────────────▶ createContainer hooks, masks
//!                                                pivot_root
//!  ◀──────────────────────────────── Terminal(fd), identity, limits, capabilities
//!  Created ◀──────────────────────── Ready, or the step that failed and its errno
//!  Created::start ── Start ─────────────────────▶ startContainer hooks, seccomp, execve
//!  ◀───────────────────────── end of file: exec happened; or why it did not
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`bundle`] | what `create` and `exec` are asked for; serialisable |
//! | [`config`] | reading `config.json`: from bytes to a specification |
//! | [`features`] | what this runtime can do, as a document |
//! | [`stdio`] | which descriptors the process gets, and our ends of them |
//! | [`gate`] | where a container waits that outlives who created it |
//! | [`error`] | the errors of both, and what a failure in the child looks like |
//! | [`hooks`] | programs of the specification that run at six points of a container's life |
//! | [`state`] | what hooks, agents and the `state` command are told about a container |
//! | [`host`] | what is mounted on the host for containers |
//! | [`offline`] | the files of a container that does not run, in a mount namespace of their own |
//! | [`overlay`] | layers joined to one root, on every kernel |
//! | [`criu`] | saving containers and restoring them |
//! | [`cgroup`] | versions 1, 2 and hybrid behind one type |
//! | [`seccomp`] | profiles, Docker's default one, and the compiler to classic BPF |
//! | [`lsm`] | which security modules the kernel runs |
//! | [`sealed`] | running the caller so that containers cannot write its program |
//! | [`capability`] | names, numbers, the default set |
//!
//! What you will not find: threads (but the one of [`offline`]), tokio, images, networks, policy, a log. The child is a fork
//! that never execs a helper: it is the container's own pid 1 from its first instruction (with
//! namespaces of another owner to join, the sibling of one).

pub mod bundle;
pub mod capability;
pub mod cgroup;
pub mod config;
pub mod criu;
pub mod error;
pub mod features;
pub mod gate;
pub mod hooks;
pub mod host;
pub mod lsm;
pub mod offline;
mod origin;
pub mod overlay;
pub mod seccomp;
pub mod state;
pub mod stdio;

mod attributes;
mod channel;
mod child;
mod create;
mod exec;
mod listener;
mod mapped_overlay;
mod mapping;
mod namespaces;
mod netdevices;
mod plan;
mod resources;
mod sealed;
mod sources;
mod starting;
mod user_namespace;

pub use bundle::{Bundle, ExecProcess, Extras, Overlay, Rootfs};
pub use create::{Created, Options, check, create, create_with};
pub use error::{CreateError, SetupError, StartError, Step};
pub use exec::{Executed, Executing, begin_exec, exec, exec_with};
pub use features::features;
pub use gate::{Gate, start};
pub use listener::ListenerError;
pub use netdevices::NetDeviceError;
pub use oci_spec::runtime as oci;
pub use origin::Origin;
pub use sealed::{seal_self, sealed};
pub use starting::Starting;
pub use state::{State, Status};
pub use stdio::{Stdio, Streams};
pub use user_namespace::is_in_user_namespace;
