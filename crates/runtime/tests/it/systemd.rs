//! A container in a scope that a real systemd makes. Run in a guest by `guest`, since the machine
//! at hand may have none.

use std::fs;
use std::path::Path;
use std::time::Duration;

use runtime::cgroup::Cgroup;
use runtime::cgroup::systemd::{Properties, Scope};
use runtime::{Bundle, Rootfs, Stdio, oci};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::{Value, json};

use crate::kit::Container;

/// Set in a guest with systemd.
pub(crate) const GUEST: &str = "BERTH_RUNTIME_TEST_SYSTEMD";

const PATH: &str = "/berth.slice/berth-test.slice/box-one.scope";

fn resources(value: Value) -> oci::LinuxResources {
    serde_json::from_value(value).unwrap()
}

fn read(file: &str) -> String {
    let text = fs::read_to_string(format!("/sys/fs/cgroup{PATH}/{file}"));
    text.unwrap().trim().to_owned()
}

/// Not a test of its own, but in a guest.
#[test]
fn in_a_guest() {
    if std::env::var_os(GUEST).is_none() {
        return;
    }
    let limits = json!({
        "memory": {"limit": 67_108_864, "swap": 67_108_864},
        "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 20}
    });
    let scope = Scope::parse("berth-test.slice:box:one", "one").unwrap();
    let none = Properties::default();
    let started = scope
        .start(Some(&resources(limits.clone())), &none)
        .unwrap();
    assert_eq!(started.path, PATH);
    // systemd's doing so far: nothing else has written.
    assert_eq!(
        [
            "memory.max",
            "memory.swap.max",
            "pids.max",
            "cpu.weight",
            "cpu.max",
            "cpuset.cpus"
        ]
        .map(read),
        ["67108864", "0", "20", "100", "50000 100000", "0"]
    );
    let again = scope.start(None, &none).unwrap_err();
    let again = vocab::failure::chain(&again);
    assert!(
        again.starts_with("start the unit `box-one.scope`: ") && again.contains("already"),
        "{again}"
    );

    let container = Container::sh("sleep 1000 & wait")
        .set("/linux/cgroupsPath", json!(started.path))
        .set("/linux/resources", limits);
    let bundle = Bundle {
        id: String::from("one"),
        directory: container.dir.path().to_owned(),
        spec: serde_json::from_value(container.spec.clone()).unwrap(),
        rootfs: Rootfs::Directory(container.dir.path().join("lower")),
        seccomp: None,
        extras: runtime::Extras::default(),
    };
    let mut created = runtime::create(&bundle, None, Stdio::Null).unwrap();
    drop(started);
    created.start().unwrap();
    let cgroup = Cgroup::open(PATH).unwrap();
    testkit::eventually(Duration::from_secs(30), || {
        cgroup.pids().unwrap().len() == 2
    });

    // systemd writes what it is told, and would write it again when it reloads.
    let less = resources(json!({"pids": {"limit": 10}, "memory": {"limit": 33_554_432}}));
    scope.update(&less).unwrap();
    testkit::eventually(Duration::from_secs(30), || {
        ["pids.max", "memory.max"].map(read) == ["10", "33554432"]
    });

    cgroup.kill_all().unwrap();
    waitid(
        WaitId::PidFd(std::os::fd::AsFd::as_fd(&created.pidfd)),
        WaitIdOptions::EXITED,
    )
    .unwrap();
    scope.stop().unwrap();
    testkit::eventually(Duration::from_secs(30), || {
        !Path::new("/sys/fs/cgroup").join(&PATH[1..]).exists()
    });
    scope.stop().unwrap();
}

#[test]
fn without_systemd_it_is_named() {
    if Path::new("/run/systemd/private").exists() {
        return;
    }
    let scope = Scope::parse("", "one").unwrap();
    let error = scope.stop().unwrap_err();
    assert_eq!(
        vocab::failure::chain(&error),
        "reach systemd at `/run/systemd/private`: no such file or directory"
    );
}
