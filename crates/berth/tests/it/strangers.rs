//! What the definition of the Engine API allows, and much that it does not, asked of a daemon.

use std::process::{Command, Stdio};

use testkit::tool;

use crate::host::Host;

const DEFINITION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/testdata/engine-api-1.55.yaml"
);
/// Nothing of it reaches a registry.
const NOWHERE: &str = "http://127.0.0.1:9";

#[test]
fn privileged_no_request_fails_the_daemon_or_waits_for_ever() {
    const SEED: &str = "1";
    const SECONDS: &str = "20";
    let host = Host::with_flags(&["--http-proxy", NOWHERE, "--https-proxy", NOWHERE]);
    host.import_busybox();
    let output = Command::new(tool("schemathesis"))
        .args(["-c", include_str!("clients/strangers.py")])
        .args([DEFINITION, host.socket().to_str().unwrap(), SEED, SECONDS])
        .current_dir(host.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    assert!(!host.log().contains("panicked"), "{}", host.log());
}
