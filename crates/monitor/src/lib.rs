//! One small process for each container: it owns stdio or the pty, writes the log, reaps, records
//! the exit code, and outlives the daemon.
//!
//! What this crate hides: how the monitor is started and cut loose, its poll loop, the descriptors
//! of every process in the container, Docker's json-file format and its rotation, the order of
//! things at an exit. What you will not find: tokio, a thread, the engine's types, a decision about
//! restarts, networks or images.
//!
//! ```text
//!  daemon                 berth monitor, forked for each container       container
//!  spawn ── descriptors ▶ setsid, runtime::create ────────────────▶ init, waiting at its gate
//!    ◀── Created ─────────  binds DIR/monitor.sock
//!  Attach, Watch (any number of connections) ─▶
//!  Start ───────────────▶ opens the gate ─────────────────────────▶ exec
//!    ◀── Started ────────
//!    ◀── Exited ─────────  drains, DIR/exit.json, is gone ◀──────── exit
//! ```
//!
//! | in DIR (exec root `containers/<id>`) | written by | meaning |
//! |---|---|---|
//! | `setup.json` | [`Launcher`] | the [`Setup`] of this run |
//! | `monitor.sock` | monitor | lives as long as the container; speaks [`protocol`] |
//! | `exit.json` | monitor | a [`protocol::Exit`], renamed into place before the socket goes |
//! | `monitor.log` | monitor | what went wrong with the monitor itself; normally empty |
//!
//! Whoever finds neither an answering socket nor `exit.json` knows that the monitor died with its
//! host. The reader looks at the socket first, and at the file when nobody answers.
//!
//! | module | holds |
//! |---|---|
//! | [`protocol`] | requests, replies, events and their framing, without I/O |
//! | [`launch`] | the daemon's side of starting monitors: a fork server, ready beforehand |
//! | `server` | that process |
//! | [`client`] | a blocking connection to a monitor |
//! | [`log`] | lines, and the drivers that keep them; [`log::blocks`] is for their readers, too |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub mod client;
mod connection;
mod exit;
pub mod launch;
pub mod log;
mod monitor;
mod process;
pub mod protocol;
mod run;
mod server;

pub use client::connect;
pub use exit::{FindExitError, find_exit};
pub use launch::{Launcher, SpawnError, Spawned};
pub use server::run;

/// Everything a monitor needs for one run of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// What becomes the container.
    pub bundle: runtime::Bundle,
    /// Rows and columns of the terminal; `None` gives pipes.
    pub terminal: Option<(u16, u16)>,
    /// Whether standard input can ever carry something; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// The first attached client's end of input is the container's.
    pub stdin_once: bool,
    /// Where the output goes besides the attached clients.
    pub log: Log,
}

/// Where a container's output is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Log {
    /// Nowhere.
    None,
    /// Docker's `json-file`.
    JsonFile {
        /// The current file; rotated ones are `<path>.1`, `<path>.2`, … (the youngest first).
        path: PathBuf,
        /// Rotated when it has reached this size; `None` never.
        max_bytes: Option<u64>,
        /// Files kept in all, the current one included; with 1 a full file is emptied.
        max_files: u32,
        /// Label and environment values to repeat in every line.
        attrs: BTreeMap<String, String>,
    },
    /// In compressed blocks with an index, [`log::blocks`].
    Local(LocalLog),
}

/// A log in compressed blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalLog {
    /// The directory, which alone is this log's; made with the first line.
    pub dir: PathBuf,
    /// Bytes of lines after which a new file is begun; `None` for never.
    pub max_bytes: Option<u64>,
    /// Files kept in all, the current one included.
    pub max_files: u32,
    /// Whether blocks are compressed.
    pub compress: bool,
    /// Label and environment values of all lines.
    pub attrs: BTreeMap<String, String>,
    /// Files with lines that were not delivered ([`log::blocks::delivered`]) are not removed: the
    /// container has to wait.
    pub hold: bool,
}

impl Log {
    /// The current file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::None => None,
            Self::JsonFile { path, .. } => Some(path),
            Self::Local(local) => Some(&local.dir),
        }
    }
}
