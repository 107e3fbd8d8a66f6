//! Another build takes the daemon's place: nothing that runs notices.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::host::{Host, PATIENCE, scratch};

const OURS: &str = concat!("Docker/", env!("CARGO_PKG_VERSION"), " (linux)");
/// As long as ours, and no version of ours.
const OTHER: &str = "Docker/9.9.9 (linux)";

/// A build of another version: what it calls itself is all that is different.
fn other_build(place: &Path) {
    let mut program = fs::read(env!("CARGO_BIN_EXE_berth")).unwrap();
    assert_eq!(OURS.len(), OTHER.len());
    let at: Vec<usize> = memchr_all(&program, OURS.as_bytes());
    assert!(!at.is_empty());
    for at in at {
        program[at..at + OTHER.len()].copy_from_slice(OTHER.as_bytes());
    }
    fs::write(place, program).unwrap();
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
}

fn memchr_all(bytes: &[u8], wanted: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(wanted.len()).enumerate();
    windows
        .filter(|(_, window)| *window == wanted)
        .map(|(at, _)| at)
        .collect()
}

fn get(host: &Host, path: &str) -> Value {
    let answer = host.raw(&format!("GET {path} HTTP/1.0\nHost: x\n\n"));
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

fn post(host: &Host, path: &str, body: &str) -> String {
    let length = body.len();
    let answer = host.raw(&format!(
        "POST {path} HTTP/1.0\nHost: x\nContent-Type: application/json\nContent-Length: {length}\n\n{body}"
    ));
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn privileged_another_build_takes_over_and_nothing_that_runs_notices() {
    let root = scratch();
    let program = root.path().join("berth-in-use");
    other_build(&program);
    let flags = root.path().join("flags");
    fs::create_dir(&flags).unwrap();
    let mut host = Host::of(program.clone(), root, &[]);
    host.import_busybox();
    let ping = "GET /_ping HTTP/1.0\nHost: x\n\n";
    assert!(host.raw(ping).contains(OTHER));

    // One that answers and counts, one that ends while no daemon is there, one that ends after.
    let mount = format!("{}:/flags", flags.display());
    let talks =
        "n=0; (while :; do n=$((n+1)); echo $n; sleep 0.02; done) & exec nc -ll -p 80 -e cat";
    let ends = "until [ -f /flags/$0 ]; do sleep 0.02; done; exit $1";
    host.berth(&[
        "run",
        "-d",
        "--name",
        "talks",
        "-p",
        "127.0.0.1:48480:80",
        "busybox",
        "sh",
        "-c",
        talks,
    ])
    .ok();
    for (name, code) in [("meanwhile", "41"), ("after", "42")] {
        host.berth(&[
            "run", "-d", "--name", name, "-v", &mount, "busybox", "sh", "-c", ends, name, code,
        ])
        .ok();
    }
    let command = r#"{"Cmd": ["sh", "-c", "until [ -f /tmp/go ]; do sleep 0.02; done; exit 7"]}"#;
    let exec: Value =
        serde_json::from_str(&post(&host, "/containers/talks/exec", command)).unwrap();
    let exec = exec["Id"].as_str().unwrap();
    post(&host, &format!("/exec/{exec}/start"), r#"{"Detach": true}"#);
    let mut talk = None;
    host.wait_until("the container answers", || {
        talk = TcpStream::connect("127.0.0.1:48480").ok();
        talk.is_some()
    });
    let mut talk = talk.unwrap();
    talk.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut say = |word: &[u8; 4]| {
        talk.write_all(word).unwrap();
        let mut heard = [0; 4];
        talk.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *word);
    };
    say(b"old\n");
    let state = |host: &Host| {
        let found = get(host, "/containers/talks/json");
        let state = &found["State"];
        (
            state["Pid"].clone(),
            state["StartedAt"].clone(),
            found["RestartCount"].clone(),
        )
    };
    let before = state(&host);

    assert_eq!(host.stop_daemon(), Some(0));
    say(b"none");
    fs::write(flags.join("meanwhile"), "").unwrap();
    // As a package does it: beside, then into place.
    let beside = program.with_extension("new");
    fs::copy(env!("CARGO_BIN_EXE_berth"), &beside).unwrap();
    fs::rename(&beside, &program).unwrap();
    host.start();
    assert!(host.raw(ping).contains(OURS));

    say(b"new\n");
    assert_eq!(state(&host), before);
    assert_eq!(host.docker(&["wait", "meanwhile"]).ok(), "41");
    fs::write(flags.join("after"), "").unwrap();
    assert_eq!(host.docker(&["wait", "after"]).ok(), "42");
    let running = get(&host, &format!("/exec/{exec}/json"));
    assert_eq!(running["Running"], true, "{running}");
    // The new daemon's commands are the old monitor's to run.
    host.docker(&["exec", "talks", "touch", "/tmp/go"]).ok();
    host.wait_until("the command of the old daemon has ended", || {
        get(&host, &format!("/exec/{exec}/json"))["ExitCode"] == 7
    });
    host.docker(&["kill", "talks"]).ok();
    assert_eq!(host.docker(&["wait", "talks"]).ok(), "137");
    let log = host.docker(&["logs", "talks"]).ok().to_owned();
    let counted: Vec<usize> = log.lines().map(|line| line.parse().unwrap()).collect();
    let wanted: Vec<usize> = (1..=counted.len()).collect();
    assert_eq!(counted, wanted);
    assert!(counted.len() > 3, "{log}");
}
