//! How containers end, and what is left of them.

use monitor::protocol::{Event, FailureKind, Request, State};
use monitor::{SpawnError, client};
use testkit::eventually;

use crate::harness::{LONG, command, refused, script};

#[test]
fn privileged_an_exit_code_is_recorded_and_told() {
    let container = script("exit 42").create();
    let watch = container.watch();
    container.start();
    let exit = container.exit();
    assert_eq!(
        (exit.code, exit.oom_killed, &exit.error),
        (42, false, &None)
    );
    assert_eq!(watch.rest(), [Event::Exited(exit)]);
    assert!(!container.has_cgroup());
    eventually(LONG, || monitor::connect(&container.dir).is_err());
    let complaints = std::fs::read_to_string(container.dir.join("monitor.log")).unwrap();
    assert_eq!(complaints, "");
}

#[test]
fn privileged_a_signal_is_128_and_its_number() {
    let container = script("trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done").create();
    let client = container.attach();
    container.start();
    client.read_until("ready");
    container.signal(15);
    assert_eq!(container.exit().code, 9);

    let container = command(&["sleep", "1000"]).start();
    container.signal(9);
    assert_eq!(container.exit().code, 137);
}

#[test]
fn privileged_a_container_killed_for_its_memory_says_so() {
    let mut wanted = command(&["tail", "/dev/zero"]);
    wanted.memory_bytes = Some(16 << 20);
    let container = wanted.create();
    let watch = container.watch();
    container.start();
    let exit = container.exit();
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    assert_eq!(watch.rest(), [Event::OutOfMemory, Event::Exited(exit)]);
}

#[test]
fn privileged_a_program_that_is_not_there_ends_the_container_with_127() {
    let container = command(&["nope"]).create();
    let reply = client::ask(&container.control, &Request::Start).unwrap();
    let message = refused(reply, FailureKind::NotFound);
    assert!(
        message.contains("executable file not found in $PATH"),
        "{message}"
    );
    let exit = container.exit();
    assert_eq!((exit.code, exit.error), (127, Some(message)));
    assert!(!container.has_cgroup());
}

#[test]
fn privileged_a_file_that_is_no_program_ends_the_container_with_126() {
    let container = command(&["/etc/passwd"]).create();
    let reply = client::ask(&container.control, &Request::Start).unwrap();
    refused(reply, FailureKind::NotExecutable);
    assert_eq!(container.exit().code, 126);
}

#[test]
fn privileged_what_cannot_be_created_leaves_nothing() {
    let mut wanted = command(&["true"]);
    wanted.change = |spec| {
        let mount = serde_json::json!({
            "destination": "/x", "type": "bind", "source": "/nowhere/at/all", "options": ["bind"],
        });
        spec["mounts"].as_array_mut().unwrap().push(mount);
    };
    let (error, place) = wanted.try_create().err().unwrap();
    match error {
        SpawnError::Create { message, .. } => {
            assert!(message.contains("/nowhere/at/all"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!place.has_cgroup());
    assert!(monitor::connect(&place.dir).is_err());
    assert!(place.exit().error.is_some());
}

#[test]
fn privileged_a_container_that_nobody_will_start_is_removed() {
    let mut container = command(&["true"]).create();
    let (other, _) = std::os::unix::net::UnixStream::pair().unwrap();
    container.control = other;
    let exit = container.exit();
    assert_eq!(exit.code, 128);
    assert!(exit.error.unwrap().contains("before starting it"));
    assert!(!container.has_cgroup());
}

#[test]
fn privileged_a_container_may_be_killed_before_its_start() {
    let container = command(&["true"]).create();
    assert_eq!(container.status().state, State::Created);
    container.signal(9);
    assert_eq!(container.exit().code, 137);
}

#[test]
fn privileged_another_run_begins_afresh_in_the_same_place() {
    let container = script("exit 1").start();
    assert_eq!(container.exit().code, 1);
    let wanted = script("exit 2");
    let setup = wanted.setup(&container.place);
    let again = crate::harness::launcher()
        .spawn(&container.dir, &setup, None)
        .unwrap();
    assert_eq!(monitor::find_exit(&container.dir).unwrap(), None);
    client::ask(&again.control, &Request::Start).unwrap();
    assert_eq!(container.exit().code, 2);
}

#[test]
fn privileged_a_run_directory_may_have_a_long_path() {
    let mut wanted = command(&["true"]);
    wanted.below = ["d".repeat(100), "e".repeat(100)].iter().collect();
    let container = wanted.create();
    container.start();
    assert_eq!(container.exit().code, 0);
}

#[test]
fn privileged_nonsense_on_the_socket_is_answered_and_harms_nobody() {
    use std::io::Write as _;

    let container = command(&["sleep", "1000"]).start();
    for nonsense in [
        &b"\0\0\0\x02{]"[..],
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut socket = container.connect();
        socket.write_all(nonsense).unwrap();
        refused(client::receive(&socket).unwrap(), FailureKind::Refused);
    }
    assert_eq!(container.status().state, State::Running);
}
