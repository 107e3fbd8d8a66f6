//! What is remembered between two calls: one directory for each container.
//!
//! ```text
//! /run/berth/runtime/            0700; --root, or $XDG_RUNTIME_DIR/berth/runtime
//! └─ <id>/                       0711; made first, removed last; flock(2) on it is the container's lock
//!    ├─ state.json               a [`Record`], replaced by rename
//!    ├─ config.json              the configuration as it was when the container was created
//!    ├─ start.sock               where a created container waits for `start`
//!    └─ criu-root/               during `restore`, for CRIU
//! ```
//!
//! The record is written before anything is made, and again with the process id before anything
//! happens to that process. So whatever a SIGKILL leaves at any moment, `delete --force` finds it:
//! by the process, by the cgroup, or as a directory without a record.
//!
//! Who changes a container holds its lock; who only looks, or sends a signal, does not, so that a
//! hook may ask for the state, and what hangs can be killed.

mod process;
mod record;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

pub(crate) use process::Life;
pub use record::{Phase, Record};
use runtime::Status;
use runtime::cgroup::Cgroup;

const RECORD: &str = "state.json";
const NEW_RECORD: &str = ".state.json";
const CONFIG: &str = "config.json";

/// Why the state of a container cannot be had. Texts that tools look for are runc's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("container id cannot be empty")]
    NoId,
    #[error("invalid container ID format")]
    Id,
    #[error("container does not exist")]
    NotFound,
    #[error("container with given ID already exists")]
    Exists,
    #[error("{action} `{path}`")]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("read `{path}`")]
    Damaged {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl StateError {
    fn file<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::File {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// All containers of one root.
#[derive(Debug)]
pub(crate) struct Containers {
    root: PathBuf,
}

/// The directory of one container.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

/// A container that was found.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) directory: Directory,
    pub(crate) record: Record,
}

/// An id is a file's name of plain letters.
fn check(id: &str) -> Result<(), StateError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+,-.".contains(&byte);
    match id {
        "" => Err(StateError::NoId),
        "." | ".." => Err(StateError::Id),
        id if id.bytes().all(plain) => Ok(()),
        _ => Err(StateError::Id),
    }
}

impl Containers {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Makes the directory of a new container, and locks it.
    pub(crate) fn claim(&self, id: &str) -> Result<Directory, StateError> {
        check(id)?;
        let path = self.root.join(id);
        loop {
            match self.make(&path) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(StateError::Exists),
                Err(error) => return Err(StateError::file("create", &path)(error)),
            }
            // One who deletes what is half made may have been quicker.
            match Directory::open(path.clone()) {
                Ok(directory) => match directory.lock() {
                    Err(StateError::NotFound) => {}
                    other => return other.map(|()| directory),
                },
                Err(StateError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn make(&self, path: &Path) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(0o711);
        match rustix::fs::mkdir(path, mode) {
            Err(Errno::NOENT) => {
                let private = std::os::unix::fs::DirBuilderExt::mode(
                    fs::DirBuilder::new().recursive(true),
                    0o700,
                )
                .create(&self.root);
                let failed = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
                private.map_err(failed)?;
                rustix::fs::mkdir(path, mode)
            }
            other => other,
        }
    }

    /// A container, to look at.
    pub(crate) fn find(&self, id: &str) -> Result<Container, StateError> {
        let directory = self.directory(id)?;
        let record = directory.record()?.ok_or(StateError::NotFound)?;
        Ok(Container { directory, record })
    }

    /// A container, to change: waits until nobody else does.
    pub(crate) fn find_locked(&self, id: &str) -> Result<Container, StateError> {
        let directory = self.directory(id)?;
        directory.lock()?;
        let record = directory.record()?.ok_or(StateError::NotFound)?;
        Ok(Container { directory, record })
    }

    /// The directory of a container that may be half made, or half removed.
    pub(crate) fn directory(&self, id: &str) -> Result<Directory, StateError> {
        check(id)?;
        Directory::open(self.root.join(id))
    }

    /// Every container, by id. One that cannot be read is told with its reason.
    pub(crate) fn all(&self) -> Result<Vec<Result<Container, StateError>>, StateError> {
        let failed = || StateError::file("list", &self.root);
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed())?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed())?;
            if entry.file_type().map_err(failed())?.is_dir() {
                ids.push(entry.file_name());
            }
        }
        ids.sort();
        let found = ids
            .iter()
            .filter_map(|id| id.to_str())
            .map(|id| self.find(id));
        // What is gone by now, or is not there yet.
        Ok(found
            .filter(|found| !matches!(found, Err(StateError::NotFound | StateError::Id)))
            .collect())
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Directory {
    fn open(path: PathBuf) -> Result<Self, StateError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(StateError::NotFound),
            Err(error) => Err(StateError::file("open", &path)(error)),
        }
    }

    /// Takes the container's lock, which is held as long as this value lives.
    pub(crate) fn lock(&self) -> Result<(), StateError> {
        let failed = || StateError::file("lock", &self.path);
        rustix::io::retry_on_intr(|| flock(&self.fd, FlockOperation::LockExclusive))
            .map_err(failed())?;
        // Whoever had it before may have removed the directory.
        match rustix::fs::fstat(&self.fd).map_err(failed())?.st_nlink {
            0 => Err(StateError::NotFound),
            _ => Ok(()),
        }
    }

    /// Lets others have the lock.
    pub(crate) fn unlock(&self) {
        // It would only be held longer, until this program ends.
        let _ = flock(&self.fd, FlockOperation::Unlock);
    }

    /// Whether somebody is at work on the container.
    fn is_locked(&self) -> bool {
        let mine = Directory::open(self.path.clone());
        let tried = mine.map(|mine| flock(&mine.fd, FlockOperation::NonBlockingLockShared));
        matches!(tried, Ok(Err(Errno::WOULDBLOCK)))
    }

    /// Replaces the record.
    pub(crate) fn write(&self, record: &Record) -> Result<(), StateError> {
        let path = self.path.join(RECORD);
        let json = serde_json::to_vec(record).map_err(io::Error::from);
        json.and_then(|json| self.write_file(NEW_RECORD, &json))
            .and_then(|()| {
                Ok(rustix::fs::renameat(
                    &self.fd, NEW_RECORD, &self.fd, RECORD,
                )?)
            })
            .map_err(StateError::file("write", &path))
    }

    /// Keeps the configuration.
    pub(crate) fn write_config(&self, json: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(CONFIG);
        self.write_file(CONFIG, json)
            .map_err(StateError::file("write", &path))
    }

    fn write_file(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))?;
        io::Write::write_all(&mut fs::File::from(fd), content)
    }

    /// The record; `None` where there is none yet, or any more.
    pub(crate) fn record(&self) -> Result<Option<Record>, StateError> {
        let path = self.path.join(RECORD);
        let Some(json) = self
            .read_file(RECORD)
            .map_err(StateError::file("read", &path))?
        else {
            return Ok(None);
        };
        let read = Record::read(&json);
        read.map(Some)
            .map_err(|source| StateError::Damaged { path, source })
    }

    /// The configuration as it was at creation.
    pub(crate) fn config(&self) -> Result<Vec<u8>, StateError> {
        let path = self.path.join(CONFIG);
        let read = self.read_file(CONFIG);
        let read = read.map_err(StateError::file("read", &path))?;
        read.ok_or_else(|| StateError::file("read", &path)(io::Error::from(Errno::NOENT)))
    }

    fn read_file(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let mut content = Vec::new();
        fs::File::from(fd).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// Removes the directory; the container is forgotten. That it is gone already is no error.
    pub(crate) fn remove(&self) -> Result<(), StateError> {
        let failed = || StateError::file("remove", &self.path);
        let gone = |result: Result<(), Errno>| match result {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        };
        // The record last: without it the rest is nobody's, with it `delete` can be tried again.
        for name in [runtime::gate::SOCKET, CONFIG, NEW_RECORD, RECORD] {
            gone(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())).map_err(failed())?;
        }
        match gone(rustix::fs::unlinkat(CWD, &self.path, AtFlags::REMOVEDIR)) {
            // Something that is none of ours.
            Err(Errno::NOTEMPTY) => {
                fs::remove_dir_all(&self.path).map_err(StateError::file("remove", &self.path))
            }
            other => other.map_err(failed()),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the directory's owner, as `list` shows it.
    pub(crate) fn owner(&self) -> u32 {
        rustix::fs::fstat(&self.fd).map_or(0, |status| status.st_uid)
    }
}

impl Container {
    /// Where it is in its life, by what the kernel says.
    pub(crate) fn status(&self) -> Status {
        let record = &self.record;
        if record.pid == 0 {
            return if self.directory.is_locked() {
                Status::Creating
            } else {
                Status::Stopped
            };
        }
        if !record.life().is_running() {
            return Status::Stopped;
        }
        let frozen = |cgroup: Cgroup| cgroup.is_frozen().unwrap_or(false);
        if self.cgroup().is_some_and(frozen) {
            return Status::Paused;
        }
        match record.phase {
            Phase::Creating => Status::Creating,
            // Whoever started it may have been killed before it noted that down.
            Phase::Created if runtime::gate::is_waiting(self.directory.as_fd()) => Status::Created,
            Phase::Created | Phase::Running => Status::Running,
        }
    }

    /// Its cgroup, if it has one and it can be told.
    pub(crate) fn cgroup(&self) -> Option<Cgroup> {
        Cgroup::open(self.record.cgroup.as_deref()?).ok()
    }

    /// A handle on its first process, if that runs.
    pub(crate) fn init(&self) -> Option<OwnedFd> {
        self.record.life().open()
    }
}

/// The text of an id that was typed; what is no text is no id.
pub(crate) fn id(typed: &OsStr) -> Result<&str, StateError> {
    typed.to_str().ok_or(StateError::Id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn containers() -> (tempfile::TempDir, Containers) {
        let dir = tempfile::tempdir().unwrap();
        let containers = Containers::new(dir.path().join("deep/root"));
        (dir, containers)
    }

    #[test]
    fn ids_are_those_of_runc() {
        for id in ["a", "A_b-9.x+y", "...", "-"] {
            assert!(check(id).is_ok(), "{id}");
        }
        for id in [".", "..", "a/b", "a b", "ä", "a\n", "/"] {
            assert!(matches!(check(id), Err(StateError::Id)), "{id}");
        }
        assert!(matches!(check(""), Err(StateError::NoId)));
    }

    #[test]
    fn an_id_is_given_once() {
        let (_dir, containers) = containers();
        let first = containers.claim("one").unwrap();
        assert!(matches!(containers.claim("one"), Err(StateError::Exists)));
        first.remove().unwrap();
        containers.claim("one").unwrap();
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let (_dir, containers) = containers();
        let record = Record::sample("one");
        let directory = containers.claim("one").unwrap();
        assert!(matches!(containers.find("one"), Err(StateError::NotFound)));
        directory.write(&record).unwrap();
        assert_eq!(containers.find("one").unwrap().record, record);
        let all = containers.all().unwrap();
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn what_no_process_makes_any_more_is_stopped() {
        let (_dir, containers) = containers();
        let directory = containers.claim("one").unwrap();
        directory.write(&Record::sample("one")).unwrap();
        assert_eq!(containers.find("one").unwrap().status(), Status::Creating);
        drop(directory);
        assert_eq!(containers.find("one").unwrap().status(), Status::Stopped);
    }

    #[test]
    fn a_process_of_the_same_number_is_not_mistaken_for_the_container() {
        let (_dir, containers) = containers();
        let directory = containers.claim("one").unwrap();
        let me = Life::of(std::process::id().cast_signed());
        let mut record = Record {
            phase: Phase::Running,
            ..Record::sample("one")
        };
        record.set_life(me);
        directory.write(&record).unwrap();
        assert_eq!(containers.find("one").unwrap().status(), Status::Running);
        record.start_time -= 1;
        directory.write(&record).unwrap();
        let found = containers.find("one").unwrap();
        assert_eq!(found.status(), Status::Stopped);
        assert!(found.init().is_none());
    }

    #[test]
    fn one_who_waited_for_the_lock_sees_that_the_container_is_gone() {
        let (_dir, containers) = containers();
        let first = containers.claim("one").unwrap();
        let second = containers.directory("one").unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| second.lock());
            first.remove().unwrap();
            drop(first);
            assert!(matches!(waiting.join().unwrap(), Err(StateError::NotFound)));
        });
    }

    #[test]
    fn a_link_is_no_container() {
        let (dir, containers) = containers();
        containers.claim("one").unwrap();
        let link = dir.path().join("deep/root/link");
        std::os::unix::fs::symlink("one", link).unwrap();
        assert!(containers.directory("link").is_err());
    }
}
