//! `berth runtime` against the cases that runc and crun proved (crates/conformance).

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The binary under a name that makes it the runtime.
struct Link {
    _directory: TempDir,
    path: PathBuf,
}

impl Link {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("berth-runtime");
        symlink(env!("CARGO_BIN_EXE_berth"), &path).unwrap();
        Self {
            _directory: directory,
            path,
        }
    }
}

impl AsRef<Path> for Link {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

conformance::topics!(Link::new());

#[test]
fn slow_the_cases_hold_on_version_2_alone() {
    let suite = std::env::current_exe().unwrap();
    let berth = Path::new(env!("CARGO_BIN_EXE_berth"));
    conformance::suite::check_version_2(&suite, &[berth]);
}
