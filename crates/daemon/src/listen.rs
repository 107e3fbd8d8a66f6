//! Sockets that the daemon listens on, and the locks that make sure it is alone.
//!
//! A unix socket is made beside its place, given its owner and mode there, and renamed into place:
//! nobody ever meets it half made, and one that a killed daemon left behind is replaced in the same
//! step. Before that somebody must have failed to answer on the old one. What you will not find:
//! HTTP, a decision about who may do what.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use vocab::{Failure, Kind};

use crate::config::{DOCKER_GROUP, DOCKER_SOCKET, GROUP, Host, Listen, Tls};
use crate::scope::Scope;
use crate::tls::{self, Door, TlsError};

/// Mode of the unix socket: its owner and its group may connect.
const SOCKET_MODE: u32 = 0o660;

/// Mode of a root that the daemon makes: others may pass (to a socket in it that is their group's),
/// and see nothing.
const ROOT_MODE: u32 = 0o711;

/// Why the daemon does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another daemon is there.
    #[error("another daemon already answers on unix://{0}")]
    Taken(PathBuf),
    /// What is there is no socket.
    #[error("{0} is in the way: it is not a socket")]
    InTheWay(PathBuf),
    /// The group that was asked for.
    #[error("the group `{0}` of the socket does not exist")]
    NoGroup(String),
    /// A step failed.
    #[error("{step} {place}")]
    Step {
        /// Which.
        step: &'static str,
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// The daemon was not started by systemd, or for fewer sockets.
    #[error(
        "no sockets were passed on: fd:// is for a daemon that systemd starts from a socket unit"
    )]
    NotPassed,
    /// What was passed on is something else.
    #[error("descriptor {0} that was passed on is no listening unix or TCP socket")]
    NoSocket(usize),
    /// TLS.
    #[error("TLS on TCP sockets")]
    Tls(#[from] TlsError),
    /// Another daemon uses the directory.
    #[error("{0} is in use by another daemon")]
    Locked(PathBuf),
}

impl Failure for ListenError {
    fn kind(&self) -> Kind {
        match self {
            Self::Taken(_) | Self::Locked(_) | Self::InTheWay(_) => Kind::Conflict,
            Self::NoGroup(_) | Self::NotPassed | Self::NoSocket(_) | Self::Tls(_) => {
                Kind::InvalidArgument
            }
            Self::Step { .. } => Kind::Internal,
        }
    }
}

fn step(step: &'static str, place: &str) -> impl FnOnce(io::Error) -> ListenError {
    let place = place.to_owned();
    move |source| ListenError::Step {
        step,
        place,
        source,
    }
}

/// A socket that clients can connect to, and what they may ask for there.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) scope: Scope,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    /// In the file system.
    Unix {
        listener: UnixListener,
        /// Taken away at the end.
        place: SocketFile,
    },
    /// The same, made by systemd, which keeps it.
    InheritedUnix(UnixListener),
    /// On the network.
    Tcp {
        listener: TcpListener,
        tls: Option<Door>,
    },
}

/// A connection to a client.
#[derive(Debug)]
pub(crate) enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream, Option<Door>),
}

/// The client at the other end of a Unix socket.
///
/// Some clients (docker-py) read the answer that hands a connection over through a buffer, and
/// then go on with the bare socket: what came with the answer is lost to them. A container's output
/// can be that quick.
#[derive(Clone, Debug)]
pub(crate) struct Peer(Arc<OwnedFd>);

impl Peer {
    fn of(socket: &UnixStream) -> Option<Self> {
        let socket = socket.as_fd().try_clone_to_owned();
        socket.ok().map(|socket| Self(Arc::new(socket)))
    }

    /// Waits until it has read all that was sent, or has had long enough.
    pub(crate) async fn has_read(&self) {
        const STEP: Duration = Duration::from_millis(1);
        const STEPS: u32 = 1000;
        for _ in 0..STEPS {
            match sys::queue::is_unread(self.0.as_fd()) {
                Ok(true) => tokio::time::sleep(STEP).await,
                Ok(false) | Err(_) => return,
            }
        }
    }
}

impl Connection {
    /// The client, where it can be told what it has read.
    pub(crate) fn peer(&self) -> Option<Peer> {
        match self {
            Self::Unix(socket) => Peer::of(socket),
            Self::Tcp(..) => None,
        }
    }
}

/// Listens wherever it was asked for.
pub(crate) async fn bind_all(
    hosts: &[Host],
    group: Option<&str>,
    tls: Option<&Tls>,
) -> Result<Vec<Listener>, ListenError> {
    let tls = tls.map(tls::door).transpose()?;
    let passed = sys::inherited::take_sockets();
    let mut passed: Vec<_> = passed
        .map_err(step("take the sockets of", "systemd"))?
        .into_iter()
        .map(Some)
        .collect();
    let mut listeners = Vec::new();
    for host in hosts {
        let sockets = match &host.listen {
            Listen::Unix(path) => vec![bind_unix(path, group, host).await?],
            Listen::Tcp(address) => vec![Socket::Tcp {
                listener: bind_tcp(address).await?,
                tls: tls.clone(),
            }],
            Listen::Inherited(which) => adopt(&mut passed, *which, tls.as_ref())?,
        };
        listeners.extend(sockets.into_iter().map(|socket| Listener {
            scope: host.scope.clone(),
            socket,
        }));
    }
    Ok(listeners)
}

/// Listens on `address:port`.
pub(crate) async fn bind_tcp(address: &str) -> Result<TcpListener, ListenError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(step("listen on tcp://", address))
}

/// Takes one of the sockets that systemd passed on, or all that are left.
fn adopt(
    passed: &mut [Option<OwnedFd>],
    which: Option<u32>,
    tls: Option<&Door>,
) -> Result<Vec<Socket>, ListenError> {
    /// The number of the first (`SD_LISTEN_FDS_START`).
    const FIRST: usize = 3;
    let wanted = |at: usize| which.is_none_or(|number| number as usize == at + FIRST);
    let mut sockets = Vec::new();
    for (at, slot) in passed.iter_mut().enumerate() {
        if let Some(socket) = slot.take_if(|_| wanted(at)) {
            let number = at + FIRST;
            sockets.push(listening(socket, tls).ok_or(ListenError::NoSocket(number))?);
        }
    }
    if sockets.is_empty() {
        return Err(ListenError::NotPassed);
    }
    Ok(sockets)
}

fn listening(socket: OwnedFd, tls: Option<&Door>) -> Option<Socket> {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    let is_stream = sockopt::socket_type(&socket) == Ok(SocketType::STREAM);
    if !is_stream || sockopt::socket_acceptconn(&socket) != Ok(true) {
        return None;
    }
    rustix::io::ioctl_fionbio(&socket, true).ok()?;
    match sockopt::socket_domain(&socket).ok()? {
        AddressFamily::UNIX => {
            let listener = UnixListener::from_std(socket.into()).ok()?;
            Some(Socket::InheritedUnix(listener))
        }
        AddressFamily::INET | AddressFamily::INET6 => Some(Socket::Tcp {
            listener: TcpListener::from_std(socket.into()).ok()?,
            tls: tls.cloned(),
        }),
        _ => None,
    }
}

impl Listener {
    /// The next client.
    pub(crate) async fn accept(&self) -> io::Result<Connection> {
        match &self.socket {
            Socket::Unix { listener, .. } | Socket::InheritedUnix(listener) => {
                Ok(Connection::Unix(listener.accept().await?.0))
            }
            Socket::Tcp { listener, tls } => {
                let (socket, _) = listener.accept().await?;
                socket.set_nodelay(true)?;
                Ok(Connection::Tcp(socket, tls.clone()))
            }
        }
    }

    /// Where it listens, as a client would say it.
    pub(crate) fn address(&self) -> String {
        match &self.socket {
            Socket::Unix { place, .. } => format!("unix://{}", place.path.display()),
            Socket::InheritedUnix(listener) => match listener.local_addr() {
                Ok(address) => match address.as_pathname() {
                    Some(path) => format!("unix://{}", path.display()),
                    None => "unix://".to_owned(),
                },
                Err(_) => "unix://".to_owned(),
            },
            Socket::Tcp { listener, .. } => match listener.local_addr() {
                Ok(address) => format!("tcp://{address}"),
                Err(_) => "tcp://".to_owned(),
            },
        }
    }

    /// Whether whoever reaches the address is let in without a certificate.
    pub(crate) fn is_open(&self) -> bool {
        matches!(&self.socket, Socket::Tcp { tls: None, .. })
    }
}

async fn bind_unix(path: &Path, group: Option<&str>, host: &Host) -> Result<Socket, ListenError> {
    let shown = &path.display().to_string();
    let gid = match host.group.as_deref().or(group) {
        Some(name) => Some(find_group(name).ok_or_else(|| ListenError::NoGroup(name.to_owned()))?),
        None if path == Path::new(DOCKER_SOCKET) => find_group(DOCKER_GROUP),
        None => find_group(GROUP),
    };
    let mode = host.mode.unwrap_or(SOCKET_MODE);
    match fs::symlink_metadata(path) {
        Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            return Err(ListenError::InTheWay(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(ListenError::Taken(path.to_owned()));
        }
        _ => {}
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(step("make the directory of the socket", shown))?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    // Left by a daemon of the same process id, which is not us.
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside).map_err(step("listen on unix://", shown))?;
    let finish = || {
        fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
        if gid.is_some() {
            std::os::unix::fs::chown(&beside, None, gid)?;
        }
        let inode = fs::symlink_metadata(&beside)?.ino();
        fs::rename(&beside, path)?;
        Ok(inode)
    };
    let inode = finish()
        .inspect_err(|_| drop(fs::remove_file(&beside)))
        .map_err(step("put into place unix://", shown))?;
    Ok(Socket::Unix {
        listener,
        place: SocketFile {
            path: path.to_owned(),
            inode,
        },
    })
}

/// A socket in the file system, removed when dropped unless somebody else's stands there by then.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The number of a group in `/etc/group`.
fn find_group(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// A directory that this daemon alone uses while it holds this. The kernel lets go of it however
/// the daemon ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Makes the directory if need be and locks it.
    pub(crate) fn take(directory: &Path) -> Result<Self, ListenError> {
        let shown = &directory.display().to_string();
        DirBuilder::new()
            .recursive(true)
            .mode(ROOT_MODE)
            .create(directory)
            .map_err(step("make", shown))?;
        let path = directory.join("daemon.lock");
        let file = File::options()
            .create(true)
            .mode(0o600)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(step("open", &path.display().to_string()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(ListenError::Locked(directory.to_owned())),
            Err(TryLockError::Error(source)) => {
                Err(step("lock", &path.display().to_string())(source))
            }
        }
    }
}

/// The file with the daemon's process id, removed when dropped.
#[derive(Debug)]
pub(crate) struct Pidfile(PathBuf);

impl Pidfile {
    /// Writes it. The lock of the data root says that no other daemon of ours is there.
    pub(crate) fn write(path: &Path) -> Result<Self, ListenError> {
        let write = || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            File::create(path)?.write_all(std::process::id().to_string().as_bytes())
        };
        write().map_err(step("write", &path.display().to_string()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bind(listen: &Listen, group: Option<&str>) -> Result<Vec<Listener>, ListenError> {
        bind_all(&[listen.clone().into()], group, None).await
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_on_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.sock");
        let left_behind = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(left_behind);
        assert!(path.exists());

        let listen = Listen::Unix(path.clone());
        let listener = bind(&listen, None).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let refusal = bind(&listen, None).await.unwrap_err();
        assert!(matches!(refusal, ListenError::Taken(_)), "{refusal}");
        UnixStream::connect(&path).await.unwrap();
        drop(listener);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let listen = Listen::Unix(file.path().to_owned());
        let refusal = bind(&listen, None).await.unwrap_err();
        assert!(matches!(refusal, ListenError::InTheWay(_)), "{refusal}");
    }

    #[tokio::test]
    async fn a_group_that_was_named_must_exist() {
        let directory = tempfile::tempdir().unwrap();
        let listen = Listen::Unix(directory.path().join("s.sock"));
        let refusal = bind(&listen, Some("nobody-is-in-this-group"))
            .await
            .unwrap_err();
        assert!(matches!(refusal, ListenError::NoGroup(_)), "{refusal}");
    }

    #[test]
    fn a_directory_has_one_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::take(directory.path()).unwrap();
        let refusal = DirectoryLock::take(directory.path()).unwrap_err();
        assert!(matches!(refusal, ListenError::Locked(_)), "{refusal}");
        drop(lock);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
