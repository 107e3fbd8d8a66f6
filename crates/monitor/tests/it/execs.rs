//! Commands inside a running container.

use std::fs;
use std::io::BufRead as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use monitor::client;
use monitor::protocol::{Event, ExecStatus, FailureKind, MAX_EXECS, Reply, Request, State};
use vocab::ExecId;

use crate::harness::{Container, LONG, command, refused};

fn sleeper() -> Container {
    command(&["sleep", "1000"]).start()
}

#[test]
fn privileged_a_command_has_streams_and_a_code_of_its_own() {
    let container = sleeper();
    let watch = container.watch();
    let id = container.plan(&["/bin/sh", "-c", "cat; echo err >&2; exit 7"], None);
    let client = container.attach_to(Some(id));
    container.run(id);
    client.write("in");
    client.end();
    assert_eq!(client.rest(), ["in", "err\n"]);
    assert_eq!(watch.next(), Some(Event::ExecExited { id, code: 7 }));
    assert_eq!(
        container.log(),
        [],
        "a command's output is not the container's"
    );
}

#[test]
fn privileged_a_command_on_a_terminal_begins_with_the_size_set_before_its_start() {
    let container = sleeper();
    let id = container.plan(
        &["/bin/sh", "-c", "tty >&2; stty size; read x; exit 3"],
        Some((24, 80)),
    );
    container.must(&Request::Resize {
        exec: Some(id),
        rows: 33,
        columns: 99,
    });
    let watch = container.watch();
    let client = container.attach_to(Some(id));
    container.run(id);
    let shown = client.read_until("33 99\r\n");
    assert!(shown.starts_with("/dev/pts/"), "{shown:?}");
    client.write("\n");
    client.rest();
    assert_eq!(watch.next(), Some(Event::ExecExited { id, code: 3 }));
}

#[test]
fn privileged_a_command_is_in_the_containers_pid_namespace() {
    let container = sleeper();
    let id = container.plan(&["cat", "/proc/1/cmdline"], None);
    let client = container.attach_to(Some(id));
    container.run(id);
    assert_eq!(client.rest(), ["sleep\x001000\0", ""]);
}

#[test]
fn privileged_a_signal_reaches_one_command() {
    let container = sleeper();
    let watch = container.watch();
    let [one, two] = [(); 2].map(|()| {
        let id = container.plan(&["sleep", "1000"], None);
        container.run(id);
        id
    });
    container.must(&Request::Signal {
        exec: Some(one),
        signal: 15,
    });
    assert_eq!(watch.next(), Some(Event::ExecExited { id: one, code: 143 }));
    let codes: Vec<_> = container
        .status()
        .execs
        .into_iter()
        .map(|exec| (exec.id, exec.code))
        .collect();
    assert_eq!(codes, [(one, Some(143)), (two, None)]);
}

#[test]
fn privileged_commands_end_with_their_container_and_are_told_before_it() {
    let container = sleeper();
    let watch = container.watch();
    let id = container.plan(&["sleep", "1000"], None);
    let client = container.attach_to(Some(id));
    container.run(id);
    container.signal(9);
    let events = watch.rest();
    assert_eq!(events[0], Event::ExecExited { id, code: 137 });
    assert!(
        matches!(&events[1..], [Event::Exited(exit)] if exit.code == 137),
        "{events:?}"
    );
    assert_eq!(client.rest(), ["", ""]);
}

#[test]
fn privileged_a_command_that_is_not_there_says_so_and_is_forgotten() {
    let container = sleeper();
    let id = container.plan(&["nope"], None);
    let client = container.attach_to(Some(id));
    let message = refused(
        container.ask(&Request::ExecStart { id }),
        FailureKind::NotFound,
    );
    assert!(
        message.contains(r#"exec: "nope": executable file not found in $PATH"#),
        "{message}"
    );
    assert_eq!(client.rest(), ["", ""]);
    assert_eq!(container.status().execs, []);
}

#[test]
fn privileged_a_command_that_cannot_be_executed_says_so() {
    let container = sleeper();
    let id = container.plan(&["/etc/passwd"], None);
    let message = refused(
        container.ask(&Request::ExecStart { id }),
        FailureKind::NotExecutable,
    );
    assert!(message.contains("permission denied"), "{message}");
}

#[test]
fn privileged_a_watcher_that_comes_late_is_told_what_it_missed() {
    let container = sleeper();
    let id = container.plan(&["false"], None);
    let client = container.attach_to(Some(id));
    let pid = container.run(id);
    client.rest();
    let watch = container.watch();
    assert_eq!(watch.next(), Some(Event::ExecExited { id, code: 1 }));
    let known = ExecStatus {
        id,
        pid: Some(pid),
        code: Some(1),
    };
    assert_eq!(container.status().execs, [known]);
    container.must(&Request::ForgetExec { id });
    assert_eq!(container.status().execs, []);
}

#[test]
fn privileged_a_client_that_vanishes_ends_a_commands_input() {
    let container = sleeper();
    let watch = container.watch();
    let id = container.plan(&["cat"], None);
    let client = container.attach_to(Some(id));
    container.run(id);
    client.write("x");
    client.read_until("x");
    drop(client);
    assert_eq!(watch.next(), Some(Event::ExecExited { id, code: 0 }));
}

#[test]
fn privileged_slow_what_a_command_leaves_running_does_not_hide_its_end() {
    let container = sleeper();
    let watch = container.watch();
    let id = container.plan(&["/bin/sh", "-c", "sleep 1000 & echo left"], None);
    let client = container.attach_to(Some(id));
    container.run(id);
    assert_eq!(client.rest(), ["left\n", ""]);
    assert_eq!(watch.next(), Some(Event::ExecExited { id, code: 0 }));
    let count = container.plan(
        &["/bin/sh", "-c", "ps -o args | grep -cx 'sleep 1000'"],
        None,
    );
    let client = container.attach_to(Some(count));
    container.run(count);
    assert_eq!(
        client.rest(),
        ["2\n", ""],
        "the container's own, and what was left"
    );
}

#[test]
fn privileged_what_does_not_fit_is_refused() {
    let container = command(&["sleep", "1000"]).create();
    let id = container.plan(&["true"], None);
    let unknown = ExecId::random();
    let refuse = |request| refused(container.ask(&request), FailureKind::Refused);
    assert_eq!(
        refuse(Request::ExecStart { id }),
        "the container is not running"
    );
    assert_eq!(
        refuse(Request::ExecStart { id: unknown }),
        "there is no such command"
    );
    container.start();
    assert_eq!(refuse(Request::Start), "the container was started before");
    let pid = container.run(id);
    assert!(pid > 0);
    assert_eq!(
        refuse(Request::ExecStart { id }),
        "the command was started before"
    );
}

#[test]
fn privileged_commands_are_bounded_and_those_that_ended_make_room() {
    let container = sleeper();
    let watch = container.watch();
    let ended = container.plan(&["true"], None);
    container.run(ended);
    assert_eq!(watch.next(), Some(Event::ExecExited { id: ended, code: 0 }));

    let connection = container.connect();
    let plan = || {
        let id = ExecId::random();
        let request = container.planned(id, &["true"], None);
        (id, client::ask(&connection, &request).unwrap())
    };
    for number in 1..=MAX_EXECS {
        assert_eq!(plan().1, Reply::Ok, "{number}");
    }
    let known: Vec<ExecId> = container
        .status()
        .execs
        .iter()
        .map(|exec| exec.id)
        .collect();
    assert_eq!(known.len(), MAX_EXECS);
    assert!(!known.contains(&ended));
    refused(plan().1, FailureKind::Refused);
    container.must(&Request::ForgetExec { id: known[7] });
    assert_eq!(plan().1, Reply::Ok);
}

/// A file system of a container that answers nobody, until the value is dropped.
struct Silent(Child);

impl Silent {
    /// Mounts it, which makes the container's `/tmp` unreachable.
    fn at_tmp(container: &Container) -> Self {
        let script = format!(
            "exec 3<>/dev/fuse && nsenter --mount=/proc/{}/ns/mnt /bin/busybox mount -i -t fuse \
             -o fd=3,rootmode=40000,user_id=0,group_id=0 silent /tmp && echo mounted && exec cat",
            container.pid
        );
        #[expect(clippy::disallowed_methods, reason = "mounts from outside")]
        let mut holder = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let output = holder.stdout.as_mut().unwrap();
        std::io::BufReader::new(output)
            .read_line(&mut said)
            .unwrap();
        assert_eq!(said, "mounted\n");
        Self(holder)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// Waits until a child of the monitor waits for a file system's answer.
fn until_one_hangs(container: &Container) {
    let monitor = container.monitor_pid;
    let hangs = |pid: &str| {
        let at = fs::read_to_string(format!("/proc/{pid}/wchan"));
        at.is_ok_and(|at| at.contains("fuse"))
    };
    testkit::eventually(LONG, || {
        let children = fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children"));
        children.unwrap().split_whitespace().any(hangs)
    });
}

/// Asks for something that is not answered yet.
fn asked(socket: UnixStream, request: Request) -> JoinHandle<Reply> {
    std::thread::spawn(move || client::ask(&socket, &request).unwrap())
}

#[test]
fn privileged_a_command_that_hangs_before_its_program_hinders_nobody() {
    let container = sleeper();
    let silent = Silent::at_tmp(&container);
    let id = container.plan(&["/tmp/program"], None);
    let start = asked(container.connect(), Request::ExecStart { id });
    until_one_hangs(&container);
    let other = container.plan(&["sh", "-c", "exit 3"], None);
    let watch = container.watch();
    container.run(other);
    assert_eq!(watch.next(), Some(Event::ExecExited { id: other, code: 3 }));
    assert!(!start.is_finished());
    drop(silent);
    assert!(matches!(start.join().unwrap(), Reply::Failed { .. }));
}

#[test]
fn privileged_a_container_that_hangs_before_its_program_can_be_asked_about_and_killed() {
    let container = command(&["/tmp/program"]).create();
    let silent = Silent::at_tmp(&container);
    let start = asked(container.control.try_clone().unwrap(), Request::Start);
    until_one_hangs(&container);
    assert_eq!(container.status().state, State::Created);
    container.signal(9);
    assert!(matches!(start.join().unwrap(), Reply::Failed { .. }));
    assert_eq!(container.exit().code, 128);
    drop(silent);
}
