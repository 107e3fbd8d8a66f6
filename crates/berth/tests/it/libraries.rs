//! Libraries that speak the Engine API, as they are published, against berth.

use std::process::{Command, Stdio};

use testkit::tool;

use crate::host::Host;

/// Runs a script in the Python that has the libraries; it ends by saying `wanted`.
fn python(host: &Host, script: &str, wanted: &str) {
    let output = Command::new(tool("python"))
        .args(["-c", script])
        .env("DOCKER_HOST", host.url())
        .env("DOCKER_CONFIG", host.path().join("docker-config"))
        .env("TESTCONTAINERS_RYUK_DISABLED", "true")
        .env_remove("DOCKER_CONTEXT")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    assert_eq!(said.lines().last(), Some(wanted), "{complaint}");
}

#[test]
fn privileged_docker_py_does_what_programs_do_with_it() {
    let host = Host::new();
    python(
        &host,
        include_str!("clients/docker_py.py"),
        "all of docker-py",
    );
}

#[test]
fn privileged_testcontainers_for_python_runs_without_its_reaper() {
    let host = Host::new();
    let script = include_str!("clients/testcontainers_py.py");
    python(&host, script, "all of Testcontainers");
}
