//! Libraries that speak the Engine API, as they are published, against berth.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use testkit::tool;

use crate::host::Host;

/// Runs a client against the host to its end, which is to be a good one; gives what it said.
fn run(host: &Host, program: &str, args: &[&str]) -> String {
    let output = Command::new(tool(program))
        .args(args)
        .env("DOCKER_HOST", host.url())
        .env("DOCKER_CONFIG", host.path().join("docker-config"))
        .env("TESTCONTAINERS_RYUK_DISABLED", "true")
        .env("ANSIBLE_COLLECTIONS_PATH", tool("ansible-collections"))
        .env("ANSIBLE_HOME", host.path().join("ansible"))
        .env("LC_ALL", "C.UTF-8")
        .env("SCRATCH", host.path())
        .env_remove("DOCKER_CONTEXT")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    said
}

/// Runs a script in the Python that has the libraries; it ends by saying `wanted`.
fn python(host: &Host, script: &str, wanted: &str) {
    let said = run(host, "python", &["-c", script]);
    assert_eq!(said.lines().last(), Some(wanted));
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

#[test]
fn privileged_testcontainers_for_node_runs_without_its_reaper() {
    let host = Host::new();
    // Modules are looked for beside the script.
    symlink(tool("node_modules"), host.path().join("node_modules")).unwrap();
    let script = host.path().join("test.mjs");
    fs::write(&script, include_str!("clients/testcontainers_node.mjs")).unwrap();
    let said = run(&host, "node", &[script.to_str().unwrap()]);
    assert_eq!(said, "all of Testcontainers for Node\n");
}

#[test]
fn privileged_ansible_makes_what_a_playbook_says_and_changes_nothing_the_second_time() {
    let host = Host::new();
    let playbook = host.path().join("playbook.yaml");
    fs::write(&playbook, include_str!("clients/ansible.yaml")).unwrap();
    let python = tool("ansible");
    let interpreter = format!("ansible_python_interpreter={}", python.display());
    let playbook = playbook.to_str().unwrap();
    let args = [
        "-m",
        "ansible.cli.playbook",
        "-i",
        "localhost,",
        "-e",
        &interpreter,
        playbook,
    ];
    let said = run(&host, "ansible", &args);
    assert!(said.contains("failed=0"), "{said}");
}
