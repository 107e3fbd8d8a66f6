//! The role `berth monitor`: from a child of the daemon to a process of its own, and from a
//! description to a container.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use runtime::cgroup::Cgroup;
use runtime::oci::LinuxNamespaceType;
use runtime::{CreateError, oci};
use rustix::fs::{Mode, OFlags};
use sys::daemonise::Forked;
use vocab::failure::chain;
use vocab::{Failure, Kind};

use crate::client::SocketPath;
use crate::log::Sink;
use crate::monitor::{Beginning, Monitor, complain};
use crate::protocol::{Exit, FailureKind, Reply};
use crate::{Setup, client, exit, process, spawn};

/// Signals that a stopping host, service manager or terminal may send, and that must not keep the
/// monitor from recording how its container ends. (Rust programs ignore SIGPIPE from the start.)
const IGNORED: [i32; 4] = [
    rustix::process::Signal::HUP.as_raw(),
    rustix::process::Signal::INT.as_raw(),
    rustix::process::Signal::QUIT.as_raw(),
    rustix::process::Signal::TERM.as_raw(),
];

/// What the binary's main calls for `berth monitor ARGS`; `args` begins with the program's name,
/// the role's is taken out.
///
/// Must be called before any thread exists. Standard input is the control socket, standard output
/// the network namespace if `--netns` is given.
pub fn run(args: Vec<OsString>) -> ExitCode {
    match detach(args) {
        Ok(Some(arguments)) => {
            attend(arguments);
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            complain("become a monitor", &error);
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    dir: PathBuf,
    netns: bool,
}

/// Why the process did not become a monitor.
#[derive(Debug, thiserror::Error)]
enum DetachError {
    #[error("usage: berth monitor --dir DIR [--netns], started by the daemon: unexpected {0:?}")]
    Usage(Option<OsString>),
    #[error("close inherited descriptors")]
    Close(#[source] io::Error),
    #[error("ignore a signal")]
    Signal(#[source] io::Error),
    #[error("fork")]
    Fork(#[source] io::Error),
    #[error("begin a session")]
    Session(#[source] io::Error),
}

/// Leaves the daemon's session, group and children. `None` in the process that only did this.
fn detach(args: Vec<OsString>) -> Result<Option<Arguments>, DetachError> {
    let arguments = parse(args)?;
    sys::daemonise::close_from(3).map_err(DetachError::Close)?;
    for signal in IGNORED {
        sys::daemonise::ignore_signal(signal).map_err(DetachError::Signal)?;
    }
    match sys::daemonise::fork().map_err(DetachError::Fork)? {
        Forked::Parent { .. } => Ok(None),
        Forked::Child => {
            rustix::process::setsid().map_err(|errno| DetachError::Session(errno.into()))?;
            // Else `ps` and the kernel's log would call it by the number of a descriptor.
            let _ = rustix::thread::set_name(c"berth-monitor");
            Ok(Some(arguments))
        }
    }
}

fn parse(args: Vec<OsString>) -> Result<Arguments, DetachError> {
    let mut dir = None;
    let mut netns = false;
    let mut args = args.into_iter().skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--dir") => dir = args.next(),
            Some("--netns") => netns = true,
            _ => return Err(DetachError::Usage(Some(arg))),
        }
    }
    let dir = dir.ok_or(DetachError::Usage(None))?.into();
    Ok(Arguments { dir, netns })
}

/// Creates the container and stays with it to its end.
fn attend(Arguments { dir, netns }: Arguments) {
    let inherited = match Inherited::take(netns) {
        Ok(inherited) => inherited,
        Err(error) => return complain("take the inherited descriptors", &error),
    };
    let created = create(&dir, inherited.netns.as_ref().map(OwnedFd::as_fd));
    // The namespace lives as long as the container, not as long as its monitor.
    drop(inherited.netns);
    match created {
        Ok(created) => match Monitor::new(inherited.control, created) {
            Ok(mut monitor) => monitor.run(),
            Err(error) => complain("attend to the container", &error),
        },
        Err(error) => refuse(&dir, &inherited.control, &error),
    }
}

/// What the daemon gave on the standard descriptors, which become `/dev/null`.
struct Inherited {
    control: UnixStream,
    netns: Option<OwnedFd>,
}

impl Inherited {
    fn take(netns: bool) -> io::Result<Self> {
        let control = io::stdin().as_fd().try_clone_to_owned()?;
        let netns = match netns {
            true => Some(io::stdout().as_fd().try_clone_to_owned()?),
            false => None,
        };
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(Self {
            control: control.into(),
            netns,
        })
    }
}

/// Why there is no container.
#[derive(Debug, thiserror::Error)]
enum AttendError {
    #[error("leave the working directory")]
    WorkingDirectory(#[source] io::Error),
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

fn create(dir: &Path, netns: Option<BorrowedFd<'_>>) -> Result<Beginning, AttendError> {
    // Not to keep a file system busy.
    rustix::process::chdir("/").map_err(|errno| AttendError::WorkingDirectory(errno.into()))?;
    let path = dir.join(spawn::FILE);
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
