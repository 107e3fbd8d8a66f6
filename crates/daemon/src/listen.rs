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

use crate::config::{GROUP, Listen};

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
    /// Another daemon uses the directory.
    #[error("{0} is in use by another daemon")]
    Locked(PathBuf),
}

impl Failure for ListenError {
    fn kind(&self) -> Kind {
        match self {
            Self::Taken(_) | Self::Locked(_) | Self::InTheWay(_) => Kind::Conflict,
            Self::NoGroup(_) => Kind::InvalidArgument,
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

/// A socket that clients can connect to.
#[derive(Debug)]
pub(crate) enum Listener {
    /// In the file system.
    Unix {
        listener: UnixListener,
        /// Taken away at the end.
        place: SocketFile,
    },
    /// On the network.
    Tcp(TcpListener),
}

/// A connection to a client.
#[derive(Debug)]
pub(crate) enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
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
            Self::Tcp(_) => None,
        }
    }
}

impl Listener {
    /// Listens, or says why not.
    pub(crate) async fn bind(listen: &Listen, group: Option<&str>) -> Result<Self, ListenError> {
        match listen {
            Listen::Unix(path) => bind_unix(path, group).await,
            Listen::Tcp(address) => {
                let bound = TcpListener::bind(address).await;
                Ok(Self::Tcp(bound.map_err(step("listen on tcp://", address))?))
            }
        }
    }

    /// The next client.
    pub(crate) async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Unix { listener, .. } => Ok(Connection::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                socket.set_nodelay(true)?;
                Ok(Connection::Tcp(socket))
            }
        }
    }

    /// Where it listens, as a client would say it.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Unix { place, .. } => format!("unix://{}", place.path.display()),
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("tcp://{address}"),
                Err(_) => "tcp://".to_owned(),
            },
        }
    }
}

async fn bind_unix(path: &Path, group: Option<&str>) -> Result<Listener, ListenError> {
    let shown = &path.display().to_string();
    let gid = match group {
        Some(name) => Some(find_group(name).ok_or_else(|| ListenError::NoGroup(name.to_owned()))?),
        None => find_group(GROUP),
    };
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
        fs::set_permissions(&beside, fs::Permissions::from_mode(SOCKET_MODE))?;
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
    Ok(Listener::Unix {
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

    #[tokio::test]
    async fn a_socket_that_nobody_answers_on_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.sock");
        let left_behind = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(left_behind);
        assert!(path.exists());

        let listen = Listen::Unix(path.clone());
        let listener = Listener::bind(&listen, None).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let refusal = Listener::bind(&listen, None).await.unwrap_err();
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
        let refusal = Listener::bind(&listen, None).await.unwrap_err();
        assert!(matches!(refusal, ListenError::InTheWay(_)), "{refusal}");
    }

    #[tokio::test]
    async fn a_group_that_was_named_must_exist() {
        let directory = tempfile::tempdir().unwrap();
        let listen = Listen::Unix(directory.path().join("s.sock"));
        let refusal = Listener::bind(&listen, Some("nobody-is-in-this-group"))
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
