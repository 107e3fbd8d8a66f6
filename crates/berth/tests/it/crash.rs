//! SIGKILL of the daemon: containers go on, nothing is lost, the next daemon takes over.

use std::io::{BufRead as _, BufReader};

use crate::host::Host;

#[test]
fn privileged_containers_outlive_a_killed_daemon() {
    let mut host = Host::new();
    let script = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done";
    let id = host
        .berth(&[
            "run",
            "-d",
            "--name",
            "talker",
            "-p",
            "127.0.0.1:48090:80",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok()
        .to_owned();
    host.kill_daemon();
    let log = host
        .path()
        .join("data/containers")
        .join(&id)
        .join("local-logs/tail");
    let size = || std::fs::metadata(&log).map_or(0, |meta| meta.len());
    let before = size();
    host.wait_until("the log grows without a daemon", || size() > before);
    host.start();

    assert_eq!(
        host.docker(&["ps", "--format", "{{.Names}} {{.State}}"])
            .ok(),
        "talker running"
    );
    assert_eq!(
        host.docker(&["exec", "talker", "echo", "still here"]).ok(),
        "still here"
    );
    let mut follow =
        crate::client::Client::Docker.spawn(&host, &["logs", "-f", "--tail", "1", "talker"]);
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("line "));
    assert!(lines.next().unwrap().unwrap().starts_with("line "));
    host.docker(&["stop", "-t", "1", "talker"]).ok();
    assert!(follow.wait().unwrap().success());
    assert_eq!(host.docker(&["wait", "talker"]).ok(), "137");
    host.docker(&["rm", "talker"]).ok();
    assert_eq!(host.cgroups(&id), Vec::<std::path::PathBuf>::new());
}

#[test]
fn privileged_an_exit_without_a_daemon_shows_its_real_code() {
    let mut host = Host::new();
    let id = host
        .berth(&[
            "run",
            "-d",
            "--name",
            "brief",
            "busybox",
            "sh",
            "-c",
            "until [ -e /go ]; do sleep 0.05; done; exit 42",
        ])
        .ok()
        .to_owned();
    let gone = host
        .berth(&[
            "run",
            "-d",
            "--rm",
            "--name",
            "gone",
            "busybox",
            "sh",
            "-c",
            "sleep 0.3; exit 3",
        ])
        .ok()
        .to_owned();
    let pid: u32 = host
        .berth(&["inspect", "-f", "{{.State.Pid}}", &id])
        .ok()
        .parse()
        .unwrap();
    host.kill_daemon();
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    host.wait_until("both have ended", || host.monitors() == 0);
    host.start();
    let state = host.docker(&[
        "inspect",
        "-f",
        "{{.State.Status}} {{.State.ExitCode}}",
        "brief",
    ]);
    assert_eq!(state.ok(), "exited 42");
    assert_eq!(host.docker(&["wait", "brief"]).ok(), "42");
    host.wait_until("the container that asked for removal is gone", || {
        !host
            .docker(&["ps", "-aq", "--no-trunc"])
            .ok()
            .contains(&gone)
    });
    assert_eq!(host.docker(&["start", "brief"]).ok(), "brief");
}

#[test]
fn privileged_published_ports_come_back_with_the_daemon() {
    let mut host = Host::new();
    host.berth(&[
        "run",
        "-d",
        "-p",
        "127.0.0.1:48091:80",
        "busybox",
        "sh",
        "-c",
        "echo up > /tmp/index.html; httpd -f -h /tmp",
    ])
    .ok();
    host.kill_daemon();
    host.start();
    host.wait_until("the port answers", || {
        crate::daily::http_get("127.0.0.1:48091").is_ok_and(|body| body == "up\n")
    });
    let refused = host.berth(&["run", "-d", "-p", "127.0.0.1:48091:80", "busybox", "true"]);
    assert!(
        refused.fails(125).contains("port is already allocated"),
        "{refused:?}"
    );
}

#[test]
fn privileged_images_and_names_survive_kills_in_quick_succession() {
    let mut host = Host::new();
    for round in 0..8 {
        let name = format!("c{round}");
        host.berth(&["create", "--name", &name, "busybox", "true"])
            .ok();
        host.kill_daemon();
        host.start();
        assert_eq!(host.berth(&["start", "-a", &name]).code, Some(0));
    }
    assert_eq!(host.berth(&["ps", "-aq"]).ok().lines().count(), 8);
}

#[test]
fn privileged_a_stopped_daemon_leaves_no_mounts_and_its_successor_finds_all() {
    let mut host = Host::new();
    host.berth(&["run", "--name", "done", "busybox", "true"])
        .ok();
    assert_eq!(host.stop_daemon(), Some(0), "{}", host.log());
    assert!(!host.socket().exists(), "the socket is removed");
    host.start();
    assert_eq!(
        host.berth(&["ps", "-a", "--format", "{{.Names}}"]).ok(),
        "done"
    );
    assert_eq!(host.berth(&["start", "-a", "done"]).code, Some(0));
}
