//! Times of directories, which are set last because filling a directory changes its time.
//!
//! What has to be remembered until then goes to a file once it is much: a layer may have a million
//! directories.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Timespec, Timestamps, fstat, utimensat};
use rustix::io::Errno;

use crate::files::Staged;
use crate::tree::{Moment, UnpackError};

/// Bytes that are remembered in memory.
const RECENT_BYTES: usize = 256 << 10;
/// Length of the path, inode, seconds, nanoseconds.
const RECORD_BYTES: usize = 2 + 8 + 8 + 4;

/// Directories and the times that they are to have.
#[derive(Debug)]
pub(crate) struct Directories {
    recent: Vec<u8>,
    /// Where the file is made; nowhere if all is to stay in memory.
    scratch: Option<PathBuf>,
    file: Option<(Staged, File)>,
}

impl Directories {
    pub(crate) fn new(scratch: Option<PathBuf>) -> Self {
        Self {
            recent: Vec::new(),
            scratch,
            file: None,
        }
    }

    /// Remembers the time of a directory, whose path the tar has.
    pub(crate) fn note(
        &mut self,
        path: &[u8],
        directory: impl AsFd,
        mtime: Moment,
    ) -> Result<(), UnpackError> {
        let found = fstat(directory).map_err(UnpackError::io("look at", path))?;
        let length = u16::try_from(path.len()).expect("paths are bounded");
        self.recent.extend_from_slice(&length.to_le_bytes());
        self.recent.extend_from_slice(&found.st_ino.to_le_bytes());
        self.recent.extend_from_slice(&mtime.seconds.to_le_bytes());
        self.recent
            .extend_from_slice(&mtime.nanoseconds.to_le_bytes());
        self.recent.extend_from_slice(path);
        if self.recent.len() >= RECENT_BYTES {
            self.write_out().map_err(remembering)?;
        }
        Ok(())
    }

    fn write_out(&mut self) -> io::Result<()> {
        let Some(scratch) = &self.scratch else {
            return Ok(());
        };
        if self.file.is_none() {
            self.file = Some(Staged::file(scratch)?);
        }
        let (_, file) = self.file.as_mut().expect("made just now");
        file.write_all(&self.recent)?;
        self.recent.clear();
        Ok(())
    }

    /// Sets the times, the last word on each directory last. What is no longer the same directory
    /// has its time from elsewhere.
    pub(crate) fn set_times(
        mut self,
        open: impl Fn(&[u8]) -> Result<OwnedFd, Errno>,
    ) -> Result<(), UnpackError> {
        let set = |path: &[u8], inode: u64, mtime| {
            let opened = match open(path) {
                Ok(opened) => opened,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                Err(error) => return Err(UnpackError::io("open", path)(error)),
            };
            let found = fstat(&opened).map_err(UnpackError::io("look at", path))?;
            if found.st_ino != inode {
                return Ok(());
            }
            utimensat(&opened, c".", &times(mtime), AtFlags::empty())
                .map_err(UnpackError::io("set the times of", path))
        };
        if let Some((_, file)) = &mut self.file {
            file.rewind().map_err(remembering)?;
            let length = file.metadata().map_err(remembering)?.len();
            let mut records = io::BufReader::new(file).take(length);
            while records.limit() > 0 {
                each(&mut records, set)?;
            }
        }
        let mut recent = self.recent.as_slice();
        while !recent.is_empty() {
            each(&mut recent, set)?;
        }
        Ok(())
    }
}

/// Reads one record.
fn each(
    records: &mut impl Read,
    set: impl Fn(&[u8], u64, Moment) -> Result<(), UnpackError>,
) -> Result<(), UnpackError> {
    let mut record = [0; RECORD_BYTES];
    records.read_exact(&mut record).map_err(remembering)?;
    let mut fields = &record[..];
    let length = u16::from_le_bytes(take(&mut fields));
    let inode = u64::from_le_bytes(take(&mut fields));
    let mtime = Moment {
        seconds: i64::from_le_bytes(take(&mut fields)),
        nanoseconds: u32::from_le_bytes(take(&mut fields)),
    };
    let mut path = vec![0; length.into()];
    records.read_exact(&mut path).map_err(remembering)?;
    set(&path, inode, mtime)
}

fn take<const N: usize>(fields: &mut &[u8]) -> [u8; N] {
    let (field, rest) = fields.split_first_chunk().expect("a record is whole");
    *fields = rest;
    *field
}

fn remembering(source: io::Error) -> UnpackError {
    UnpackError::Io {
        what: "remember",
        path: "the times of directories".to_owned(),
        source,
    }
}

/// Both times of a file are that of its entry.
pub(crate) fn times(moment: Moment) -> Timestamps {
    let at = Timespec {
        tv_sec: moment.seconds,
        tv_nsec: i64::from(moment.nanoseconds),
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{Mode, OFlags, openat};

    use super::*;

    #[test]
    fn each_directory_has_the_time_that_was_said_last() {
        let root = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let mut directories = Directories::new(Some(scratch.path().to_owned()));
        let open = |path: &[u8]| {
            let root = File::open(root.path()).unwrap();
            openat(root, path, OFlags::DIRECTORY, Mode::empty())
        };
        let moment = |seconds| Moment {
            seconds,
            nanoseconds: 5,
        };
        // Once more than is kept in memory.
        let name = |number: i64| format!("{number:0200}");
        for number in 0..2000 {
            std::fs::create_dir(root.path().join(name(number))).unwrap();
            let opened = open(name(number).as_bytes()).unwrap();
            directories
                .note(name(number).as_bytes(), &opened, moment(number))
                .unwrap();
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
        let opened = open(name(7).as_bytes()).unwrap();
        directories
            .note(name(7).as_bytes(), &opened, moment(-7))
            .unwrap();
        // One is gone, and one is another.
        std::fs::remove_dir(root.path().join(name(3))).unwrap();
        std::fs::remove_dir(root.path().join(name(4))).unwrap();
        let link = root.path().join(name(4));
        std::os::unix::fs::symlink(name(9), link).unwrap();
        directories.set_times(open).unwrap();
        let seconds = |number| {
            let found = std::fs::metadata(root.path().join(name(number))).unwrap();
            (found.mtime(), found.mtime_nsec())
        };
        assert_eq!(seconds(0), (0, 5));
        assert_eq!(seconds(7), (-7, 5));
        assert_eq!(seconds(9), (9, 5));
        assert_eq!(seconds(1999), (1999, 5));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
