//! From a description to a container, and to its end.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use runtime::cgroup::Cgroup;
use runtime::oci::LinuxNamespaceType;
use runtime::{CreateError, oci};
use vocab::failure::chain;
use vocab::{Failure, Kind};

use crate::client::SocketPath;
use crate::log::Sink;
use crate::monitor::{Beginning, Monitor, complain};
use crate::protocol::{Exit, FailureKind, Reply};
use crate::server::Order;
use crate::{Setup, client, exit, launch, process};

/// Creates the container and stays with it to its end.
pub(crate) fn attend(order: Order) {
    let Order {
        dir,
        control,
        netns,
        ..
    } = order;
    let created = create(&dir, netns.as_ref().map(OwnedFd::as_fd));
    // The namespace lives as long as the container, not as long as its monitor.
    drop(netns);
    match created {
        Ok(created) => match Monitor::new(control, created) {
            Ok(mut monitor) => monitor.run(),
            Err(error) => complain("attend to the container", &error),
        },
        Err(error) => refuse(&dir, &control, &error),
    }
}

/// Why there is no container.
#[derive(Debug, thiserror::Error)]
enum AttendError {
    #[error("read `{path}`")]
    Setup { path: PathBuf, source: io::Error },
    #[error("open the log `{path}`")]
    Log { path: PathBuf, source: io::Error },
    #[error("listen on `{path}`")]
    Listen { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Create(#[from] CreateError),
}

impl AttendError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Create(error) if error.kind() == Kind::InvalidArgument => FailureKind::Invalid,
            _ => FailureKind::Other,
        }
    }
}

// Inlined, its frame would lie beneath the loop's for the monitor's whole life.
#[inline(never)]
fn create(dir: &Path, netns: Option<BorrowedFd<'_>>) -> Result<Beginning, AttendError> {
    let path = dir.join(launch::FILE);
    let setup: Setup = match fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?)) {
        Ok(setup) => setup,
        Err(source) => return Err(AttendError::Setup { path, source }),
    };
    let log = match Sink::open(&setup.log) {
        Ok(log) => log,
        Err(source) => {
            let path = setup.log.path().unwrap_or(dir).to_owned();
            return Err(AttendError::Log { path, source });
        }
    };
    let listener = match SocketPath::below(dir).and_then(|socket| UnixListener::bind(socket.path)) {
        Ok(listener) => listener,
        Err(source) => {
            let path = dir.join(client::SOCKET);
            return Err(AttendError::Listen { path, source });
        }
    };
    let stdio = process::stdio(setup.terminal, setup.stdin);
    let created = runtime::create(&setup.bundle, netns, stdio)?;
    let cgroup = match cgroup(&setup.bundle.spec).map(Cgroup::open) {
        Some(Ok(cgroup)) => Some(cgroup),
        Some(Err(error)) => {
            complain("open the cgroup", &error);
            None
        }
        None => None,
    };
    Ok(Beginning {
        dir: dir.to_owned(),
        listener,
        log,
        created,
        cgroup,
        stdin_once: setup.stdin_once,
        own_pids: has_own_pids(&setup.bundle.spec),
    })
}

fn cgroup(spec: &oci::Spec) -> Option<&str> {
    spec.linux().as_ref()?.cgroups_path().as_ref()?.to_str()
}

/// Whether the container has a pid namespace of its own, so that nothing outlives its first process.
fn has_own_pids(spec: &oci::Spec) -> bool {
    let linux = spec.linux().as_ref();
    let mut namespaces = linux
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten();
    namespaces
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none())
}

/// There is no container: tells whoever waits, and whoever may come later.
fn refuse(dir: &Path, control: &UnixStream, error: &AttendError) {
    let message = chain(error);
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let recorded = exit::record(
        dir,
        &Exit {
            code: error.kind().exit_code(),
            oom_killed: false,
            at: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            error: Some(message.clone()),
        },
    );
    if let Err(error) = recorded {
        complain("record the failure", &error);
    }
    // A socket that was not bound cannot be removed.
    let _ = fs::remove_file(dir.join(client::SOCKET));
    let kind = error.kind();
    if let Err(error) = client::send(control, &Reply::Failed { kind, message }) {
        complain("tell the failure", &error);
    }
}
