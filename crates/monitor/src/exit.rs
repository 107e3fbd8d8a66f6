//! `exit.json`: how a container's end is kept for a daemon that was not there to see it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use vocab::{Failure, Kind};

use crate::protocol::Exit;

/// The file in the container's run directory.
pub(crate) const FILE: &str = "exit.json";

/// Why the record of an exit could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FindExitError {
    /// The file is there and cannot be read.
    #[error("read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a record of an exit.
    #[error("understand `{path}`")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl Failure for FindExitError {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

/// The recorded end of the container whose run directory is `dir`, if it has ended.
pub fn find_exit(dir: &Path) -> Result<Option<Exit>, FindExitError> {
    let path = dir.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FindExitError::Read { path, source }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(exit) => Ok(Some(exit)),
        Err(source) => Err(FindExitError::Parse { path, source }),
    }
}

/// Writes the record; a reader sees all of it or nothing.
pub(crate) fn record(dir: &Path, exit: &Exit) -> io::Result<()> {
    let temporary = dir.join("exit.json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(exit)?)?;
    fs::rename(&temporary, dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_found_as_it_was_recorded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find_exit(dir.path()).unwrap(), None);
        let exit = Exit {
            code: 143,
            oom_killed: false,
            at: 5,
            error: Some("no".to_owned()),
        };
        record(dir.path(), &exit).unwrap();
        assert_eq!(find_exit(dir.path()).unwrap(), Some(exit));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        let error = find_exit(dir.path()).unwrap_err();
        assert!(error.to_string().contains("exit.json"), "{error}");
    }
}
