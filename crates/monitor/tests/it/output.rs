//! What a container writes reaches the log and every client.

use std::fs;
use std::time::Instant;

use monitor::protocol::Request;
use testkit::eventually;

use crate::harness::{LONG, script};

#[test]
fn privileged_nothing_is_lost_when_a_client_attaches_before_the_start() {
    let container = script("echo out; echo err >&2; echo more").create();
    let client = container.attach();
    container.start();
    assert_eq!(client.rest(), ["out\nmore\n", "err\n"]);
    assert_eq!(container.exit().code, 0);
    assert_eq!(container.logged("stdout"), "out\nmore\n");
    assert_eq!(container.logged("stderr"), "err\n");
}

#[test]
fn privileged_two_clients_get_the_same_output() {
    let container = script("for n in 1 2 3; do echo $n; echo e$n >&2; done").create();
    let clients = [container.attach(), container.attach()];
    container.start();
    for client in clients {
        assert_eq!(client.rest(), ["1\n2\n3\n", "e1\ne2\ne3\n"]);
    }
}

#[test]
fn privileged_a_client_gets_only_the_streams_it_asked_for() {
    let container = script("echo out; echo err >&2").create();
    let socket = container.connect();
    let request = Request::Attach {
        exec: None,
        stdin: false,
        stdout: false,
        stderr: true,
    };
    monitor::client::ask(&socket, &request).unwrap();
    container.start();
    let client = crate::harness::Attached { socket };
    assert_eq!(client.rest(), ["", "err\n"]);
}

#[test]
fn privileged_a_slow_client_holds_the_container_back_until_it_dies() {
    const BYTES: u64 = 8 << 20;
    let container = script(&format!("head -c {BYTES} /dev/zero")).create();
    let slow = container.attach();
    container.start();
    // The writer sleeps in the kernel's pipe, and what was logged is not nearly all.
    eventually(LONG, || {
        let tasks = fs::read_to_string(format!("/proc/{0}/task/{0}/children", container.pid));
        let child = tasks.unwrap_or_default();
        let writer = child
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned();
        let waits = |pid: &str| {
            let wchan = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            wchan.contains("pipe_write")
        };
        waits(&writer) || waits(&container.pid.to_string())
    });
    let escaped = "\\u0000".len() as u64;
    assert!(container.log_bytes() < BYTES * escaped / 2);
    assert_eq!(monitor::find_exit(&container.dir).unwrap(), None);
    drop(slow);
    assert_eq!(container.exit().code, 0);
    assert!(container.log_bytes() >= BYTES * escaped);
}

#[test]
fn privileged_an_exit_is_told_though_a_client_has_yet_to_read() {
    // More than a socket takes, less than the pipe and the client's backlog hold beside it.
    let container = script("head -c 300000 /dev/zero | tr '\\0' x").create();
    let slow = container.attach();
    container.start();
    assert_eq!(container.exit().code, 0);
    let [out, _] = slow.rest();
    assert_eq!(out.len(), 300_000);
}

#[test]
fn privileged_a_full_log_is_rotated() {
    let mut wanted = script("for n in $(seq 100); do echo $n; done");
    wanted.max_log_bytes = Some(1000);
    let container = wanted.start();
    assert_eq!(container.exit().code, 0);
    let numbers: Vec<u32> = container
        .log()
        .iter()
        .map(|(_, text)| text.trim().parse().unwrap())
        .collect();
    let first = numbers[0];
    assert!(first > 1, "nothing was thrown away");
    assert_eq!(numbers, (first..=100).collect::<Vec<_>>());
}

#[test]
fn privileged_a_line_without_its_end_is_logged_as_it_is() {
    let container = script("printf one; printf '\\ntwo'").start();
    container.exit();
    let texts: Vec<String> = container.log().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one\n", "two"]);
}

#[test]
fn privileged_fifty_megabytes_arrive_whole() {
    const LINES: usize = 500_000;
    let line = "x".repeat(99);
    let text = format!("yes {line} | head -n {LINES} > /lines; echo ready >&2; read x; cat /lines");
    let container = script(&text).with_stdin().start();
    eventually(LONG, || container.logged("stderr") == "ready\n");
    let client = container.attach();
    let begin = Instant::now();
    client.write("\n");
    drop(client);
    assert_eq!(container.exit().code, 0);
    eprintln!("50 MB into the log: {:?}", begin.elapsed());
    let expected = format!("{line}\n");
    let log = container.log();
    let lines = log.iter().filter(|(stream, _)| stream == "stdout");
    assert_eq!(lines.filter(|(_, text)| *text == expected).count(), LINES);
}
