//! What tests share: waiting for a condition, the tools they run, images made in memory, and a
//! real registry to keep them in.
//!
//! Nothing here pretends to be something else: the registry is Debian's `docker-registry`, the
//! tools are the distribution's. What is missing is a failure with a sentence that says how to get
//! it, never a skipped test. What you will not find: anything that a crate under test should do
//! itself.
//!
//! | module | holds |
//! |---|---|
//! | [`image`] | layers, images and archives, built in memory |
//! | [`layout`] | images of several platforms, with what is said about them |
//! | [`registry`] | a `docker-registry` on a free loopback port, gone with its value |
//! | [`disk`] | a disk that loses power |
//! | [`chance`] | numbers that look random |
//! | [`tokens`] | a token server that a registry believes |
//! | [`guest`] | a Linux with other cgroups, booted under qemu |
//! | [`proxy`] | what stands before a real registry and spoils what passes |
//! | [`page`] | sections of `docs/` that are made of tables in the code |
//! | [`http`] | requests so plain that they can be trusted to do nothing clever |

#![expect(
    clippy::unwrap_used,
    reason = "tests panic; the message and the line are what they tell"
)]

pub mod chance;
pub mod disk;
pub mod guest;
pub mod http;
pub mod image;
pub mod layout;
pub mod page;
pub mod proxy;
pub mod registry;
pub mod tokens;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use chance::Chance;
pub use disk::Disk;
pub use proxy::{Fault, FaultProxy};
pub use registry::Registry;
pub use tokens::TokenServer;

/// Where the script that installs test tools puts them.
const TOOLS: &str = "/var/cache/berth/tools/bin";

/// The program `name` that tests run beside berth, from `$BERTH_TOOLS` or the usual place.
///
/// # Panics
/// If it is not installed.
pub fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("BERTH_TOOLS").map_or_else(|| TOOLS.into(), PathBuf::from);
    let path = tools.join(name);
    assert!(
        path.exists(),
        "this test runs `{name}`, which is not at `{}`: `sudo make test` installs it there \
         (BERTH_TOOLS names another directory)",
        path.display(),
    );
    path
}

/// `prefix`, and what makes a name that no other test had or will have. A process id would not do:
/// the kernel gives it to another, who then meets what one that was killed has left.
pub fn unique(prefix: &str) -> String {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    format!("{prefix}-{}", uuid[..13].replace('-', ""))
}

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within `limit`.
#[track_caller]
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(
            Instant::now() < end,
            "the condition did not hold within {limit:?}"
        );
        // Nobody unparks a test: this is the pause between two looks.
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
