//! The store on a kernel that mounts no EROFS from files: Debian's 6.1, through loop devices.

use store::{Driver, Options, Store};
use testkit::guest::{Cgroups, Guest};

/// What is run there; the many layers of one image are stacked by what came with Linux 6.7.
const TESTS: &str = "guest::chosen layers::erofs:: --skip as_many_layers";

#[test]
fn slow_an_older_kernel_mounts_layers_through_loop_devices() {
    let suite = std::env::current_exe().unwrap();
    let outcome = Guest::new(Cgroups::V2).program(&suite).run(&format!(
        "mkdir -p /tmp && mount -t tmpfs tmpfs /tmp && {} --include-ignored --test-threads=1 {TESTS}",
        suite.display()
    ));
    let (console, output) = (&outcome.console, &outcome.output);
    assert_eq!(outcome.code, Some(0), "{console}\n{output}");
    assert!(output.contains("test result: ok. 18 passed"), "{output}");
}

#[test]
#[ignore = "is run by the test above, in a guest"]
fn chosen() {
    let directory = tempfile::tempdir().unwrap();
    let (root, run) = (directory.path().join("store"), directory.path().join("run"));
    let store = Store::open(&root, &run, &Options::default()).unwrap();
    assert_eq!(store.driver(), Driver::Erofs);
}
