//! Files and directories of a cgroup hierarchy.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::CgroupError;

/// A process that was killed leaves its cgroup once its parent looks; so long removal waits.
pub(super) const REMOVAL: Duration = Duration::from_secs(5);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// Levels of cgroups that a container may make below its own; the kernel's default for
/// `cgroup.max.depth` is none, ours is a bound for the stack.
const MAX_DEPTH: u32 = 64;

/// Writes to a file that is there, in one call, as cgroup files want it.
pub(super) fn write(file: &Path, value: &str) -> Result<(), CgroupError> {
    let fd = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    write_to(&fd.map_err(not_written(file, value))?, file, value)
}

/// Opens a file that is there, for [`write_to`].
pub(super) fn open(file: &Path) -> Result<OwnedFd, CgroupError> {
    rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| CgroupError::file("open", file)(error.into()))
}

/// One write to an open file.
pub(super) fn write_to(fd: &OwnedFd, file: &Path, value: &str) -> Result<(), CgroupError> {
    rustix::io::retry_on_intr(|| rustix::io::write(fd, value.as_bytes()))
        .map(drop)
        .map_err(not_written(file, value))
}

fn not_written(file: &Path, value: &str) -> impl FnOnce(Errno) -> CgroupError {
    move |error| CgroupError::file(&format!("write {value:?} to"), file)(error.into())
}

/// Reads a whole file.
pub(super) fn read(file: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(file).map_err(CgroupError::file("read", file))
}

/// Reads a file that not every host has.
pub(super) fn read_if_there(file: &Path) -> Result<Option<String>, CgroupError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {
            Ok(None)
        }
        Err(error) => Err(CgroupError::file("read", file)(error)),
    }
}

/// Makes a directory; whether it is new.
pub(super) fn make(directory: &Path) -> Result<bool, CgroupError> {
    match fs::create_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(CgroupError::file("create", directory)(error)),
    }
}

/// Calls `visit` for `directory` and every cgroup below, parents first.
pub(super) fn walk(
    directory: &Path,
    visit: &mut dyn FnMut(&Path) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    fn level(
        directory: &Path,
        depth: u32,
        visit: &mut dyn FnMut(&Path) -> Result<(), CgroupError>,
    ) -> Result<(), CgroupError> {
        visit(directory)?;
        let failed = || CgroupError::file("list", directory);
        for entry in fs::read_dir(directory).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            if depth < MAX_DEPTH && entry.file_type().map_err(failed())?.is_dir() {
                match level(&entry.path(), depth + 1, visit) {
                    // Removed while we looked.
                    Err(error) if error.is_gone() => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }
    level(directory, 0, visit)
}

/// Removes a cgroup and those below it; tries until the deadline. That it is gone already is no error.
pub(super) fn remove(directory: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let mut pause = Duration::from_micros(100);
    loop {
        let error = match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= deadline {
            return Err(CgroupError::file("remove", directory)(error));
        }
        remove_below(directory);
        wait(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Removes what is below; what is busy is met again by the next try of the caller.
fn remove_below(directory: &Path) {
    let mut below = Vec::new();
    let listed = walk(directory, &mut |found| {
        below.push(found.to_owned());
        Ok(())
    });
    if listed.is_ok() {
        for found in below.iter().skip(1).rev() {
            let _ = fs::remove_dir(found);
        }
    }
}

/// Runs `reached` until it is true, or the time is over.
pub(super) fn until(
    what: &'static str,
    directory: &Path,
    patience: Duration,
    mut reached: impl FnMut() -> Result<bool, CgroupError>,
) -> Result<(), CgroupError> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_micros(50);
    while !reached()? {
        if Instant::now() >= deadline {
            return Err(CgroupError::Slow {
                what,
                path: directory.to_owned(),
                waited: patience,
            });
        }
        wait(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}

/// A pause between two looks at the kernel's state, which offers no event to wait for here.
pub(super) fn wait(pause: Duration) {
    if let Ok(pause) = pause.try_into() {
        // An interruption only makes the next look come earlier.
        let _ = rustix::thread::nanosleep(&pause);
    }
}

pub(super) fn number(fd: &OwnedFd) -> RawFd {
    fd.as_raw_fd()
}
