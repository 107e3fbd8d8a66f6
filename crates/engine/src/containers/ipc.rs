//! The IPC namespace of a container, and the memory in `/dev/shm` that belongs to it.
//!
//! | mode | namespace | `/dev/shm` |
//! |---|---|---|
//! | `private`, `none` | its own | its own, mounted in the container alone; nothing |
//! | `shareable` | its own | `<exec root>/shm/<id>`, mounted on the host while it runs |
//! | `container:X` | that of X | that of X |
//! | `host` | the host's | the host's |

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vocab::{ContainerId, Failure, Kind};

use super::FindError;
use super::record::Record;
use crate::shared::Shared;
use crate::spec::Namespace;

/// Where the host has its own.
const HOSTS: &str = "/dev/shm";

/// A container may join one that joined one; so often.
const MAX_CHAIN: usize = 16;

/// Why the namespace is not shared.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// The other container is not there.
    #[error("can't join IPC of container {typed}")]
    Find {
        /// As typed.
        typed: String,
        /// Why not.
        source: FindError,
    },
    /// It does not run.
    #[error("can't join IPC of container {0}: container {0} is not running")]
    NotRunning(String),
    /// It keeps its namespace to itself.
    #[error(
        "can't join IPC of container {0}: non-shareable IPC (hint: use IpcMode:shareable for the \
         donor container)"
    )]
    NotShareable(String),
    /// The memory to share.
    #[error("mount the shared memory at `{}`", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Failure for IpcError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find { source, .. } => source.kind(),
            Self::NotRunning(_) => Kind::Conflict,
            Self::NotShareable(_) => Kind::InvalidArgument,
            Self::Mount { .. } => Kind::Internal,
        }
    }
}

/// A namespace, and what of the host is its `/dev/shm`: nothing where the container mounts it.
pub(crate) struct Ipc {
    pub(crate) namespace: Namespace,
    pub(crate) shm: Option<PathBuf>,
}

/// Makes ready what the mode asks for. Blocks.
pub(crate) fn prepare(shared: &Shared, record: &Record) -> Result<Ipc, IpcError> {
    match record.host.ipc_mode.as_str() {
        "host" => Ok(Ipc {
            namespace: Namespace::Host,
            shm: Some(PathBuf::from(HOSTS)),
        }),
        "shareable" => Ok(Ipc {
            namespace: Namespace::New,
            shm: Some(mount(shared, record)?),
        }),
        mode => match mode.strip_prefix("container:") {
            Some(typed) => join(shared, typed),
            None => Ok(Ipc {
                namespace: Namespace::New,
                shm: None,
            }),
        },
    }
}

fn join(shared: &Shared, typed: &str) -> Result<Ipc, IpcError> {
    let find = |typed: &str| {
        let found = shared.index().find(typed).map(|handle| handle.view());
        found.map_err(|source| IpcError::Find {
            typed: typed.to_owned(),
            source,
        })
    };
    let donor = find(typed)?;
    if !donor.course.phase.has_process() {
        return Err(IpcError::NotRunning(typed.to_owned()));
    }
    let namespace = Namespace::Path(PathBuf::from(format!("/proc/{}/ns/ipc", donor.course.pid)));
    let mut owner = donor;
    for _ in 0..MAX_CHAIN {
        let shm = match owner.record.host.ipc_mode.as_str() {
            "host" => PathBuf::from(HOSTS),
            "shareable" => shm_dir(shared, &owner.record.id),
            mode => match mode.strip_prefix("container:") {
                Some(next) => {
                    owner = find(next)?;
                    continue;
                }
                None => break,
            },
        };
        return Ok(Ipc {
            namespace,
            shm: Some(shm),
        });
    }
    Err(IpcError::NotShareable(typed.to_owned()))
}

fn shm_dir(shared: &Shared, id: &ContainerId) -> PathBuf {
    shared.config.exec_root.join("shm").join(id.to_string())
}

fn mount(shared: &Shared, record: &Record) -> Result<PathBuf, IpcError> {
    let path = shm_dir(shared, &record.id);
    let options = format!(
        "nosuid,nodev,noexec,mode=1777,size={}",
        record.host.shm_size
    );
    let mounted = fs::create_dir_all(&path)
        .and_then(|()| runtime::host::unmount_all(&path))
        .and_then(|()| runtime::host::mount("tmpfs", "shm", &options, &path));
    match mounted {
        Ok(()) => Ok(path),
        Err(source) => Err(IpcError::Mount { path, source }),
    }
}

/// Takes a container's shared memory from the host; whoever joined it keeps it. Blocks.
pub(crate) fn let_go(shared: &Shared, id: &ContainerId) {
    remove(&shm_dir(shared, id));
}

/// Takes away what belongs to no running container. Blocks.
pub(crate) fn sweep(shared: &Shared, running: &HashSet<ContainerId>) {
    let entries = fs::read_dir(shared.config.exec_root.join("shm"));
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_string_lossy().parse();
        if !id.is_ok_and(|id| running.contains(&id)) {
            remove(&entry.path());
        }
    }
}

fn remove(path: &Path) {
    let removed = runtime::host::unmount_all(path).and_then(|()| fs::remove_dir(path));
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, ?path, "unmount shared memory");
        }
        _ => {}
    }
}
