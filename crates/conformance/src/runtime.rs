//! The program under test.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::{command, hybrid};

/// Whose runtime it is: decides which differences are known.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `berth runtime`
    Berth,
    /// crun
    Crun,
    /// opencontainers' runc
    Runc,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 3] = [Self::Berth, Self::Crun, Self::Runc];

    /// Whether a refusal names the JSON path of what it refuses.
    pub fn names_paths(self) -> bool {
        self == Self::Berth
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Berth => "berth",
            Self::Crun => "crun",
            Self::Runc => "runc",
        })
    }
}

/// A runtime on disk.
#[derive(Debug)]
pub struct Runtime {
    /// Its program.
    pub path: PathBuf,
    /// Whose it is.
    pub family: Family,
    /// The first line of what it says of its version.
    pub version: String,
    /// What the host is given for it while it is tested.
    _held: Vec<OwnedFd>,
}

/// How long a runtime may take to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

impl Runtime {
    /// Asks the program at `path` what it is.
    pub fn at(path: &Path) -> Result<Self> {
        let argv = [path.as_os_str().to_owned(), OsString::from("--version")];
        let scratch = tempfile::tempdir().context("make a scratch directory")?;
        let files = scratch.path().join("version");
        let told = command::run(
            &argv,
            &command::Context::new(scratch.path(), &files, VERSION_LIMIT),
        )?;
        let version = told.stdout.lines().next().unwrap_or_default().to_owned();
        let named = |family: &Family| version.contains(&family.to_string());
        let family = Family::ALL.into_iter().find(named);
        ensure!(
            told.exit == Some(0) && family.is_some(),
            "`{} --version` says {version:?}, which is no runtime that is known here",
            path.display()
        );
        let family = family.unwrap_or(Family::Berth);
        let held = match family {
            Family::Crun => hybrid::take_controllers()?,
            Family::Berth | Family::Runc => Vec::new(),
        };
        Ok(Self {
            path: path.to_owned(),
            family,
            version,
            _held: held,
        })
    }
}
