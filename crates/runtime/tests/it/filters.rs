//! System call filters on the real kernel: every action, and agents that answer calls.

use std::fs;
use std::io::{IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use crate::kit::{Answer, Container, Step, Streaming, process};

/// 128 and SIGSYS.
const SIGSYS: i32 = 159;

/// A filter with one rule for making a directory.
fn mkdir(action: &str) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat", "a call nobody knows"], "action": action}]})
}

fn run(filter: Value) -> Answer {
    Container::new(&["/bin/mkdir", "/made"])
        .set("/linux/seccomp", filter)
        .run()
}

#[test]
fn privileged_every_action_does_what_it_says() {
    for (action, code, said) in [
        ("SCMP_ACT_ALLOW", 0, ""),
        ("SCMP_ACT_LOG", 0, ""),
        ("SCMP_ACT_ERRNO", 1, "Operation not permitted"),
        // Without a tracer there is nobody to answer.
        ("SCMP_ACT_TRACE", 1, "Function not implemented"),
        ("SCMP_ACT_TRAP", SIGSYS, ""),
        ("SCMP_ACT_KILL", SIGSYS, ""),
        ("SCMP_ACT_KILL_THREAD", SIGSYS, ""),
        ("SCMP_ACT_KILL_PROCESS", SIGSYS, ""),
    ] {
        let answer = run(mkdir(action));
        assert_eq!(answer.code, code, "{action}: {answer:?}");
        assert!(answer.err.contains(said), "{action}: {answer:?}");
    }
}

#[test]
fn privileged_all_flags_are_accepted_where_they_mean_something() {
    for flags in [
        json!([]),
        json!(["SECCOMP_FILTER_FLAG_TSYNC"]),
        json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
        json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]),
    ] {
        let mut filter = mkdir("SCMP_ACT_ERRNO");
        filter["flags"] = flags;
        assert_eq!(run(filter).code, 1);
    }
}

#[test]
fn privileged_arguments_are_compared_by_the_kernel_as_they_should() {
    // chmod's second argument is the mode.
    for (op, value, two, mode, refused) in [
        ("EQ", 0o777, 0, "777", true),
        ("EQ", 0o777, 0, "776", false),
        ("NE", 0o777, 0, "776", true),
        ("LT", 0o700, 0, "677", true),
        ("LE", 0o700, 0, "700", true),
        ("GT", 0o700, 0, "700", false),
        ("GE", 0o700, 0, "700", true),
        ("MASKED_EQ", 0o077, 0o007, "707", true),
        ("MASKED_EQ", 0o077, 0o007, "717", false),
    ] {
        let rule = |name: &str, index: u32| {
            json!({"names": [name], "action": "SCMP_ACT_ERRNO", "args": [
                {"index": index, "value": value, "valueTwo": two,
                 "op": format!("SCMP_CMP_{op}")}]})
        };
        let filter = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [rule("chmod", 1), rule("fchmodat", 2), rule("fchmodat2", 2)]});
        let answer = Container::new(&["/bin/chmod", mode, "/tmp"])
            .set("/linux/seccomp", filter)
            .run();
        assert_eq!(answer.code != 0, refused, "{op} {mode}: {answer:?}");
    }
}

/// What an agent was told, and the listener it got.
struct Told {
    state: Value,
    listener: OwnedFd,
}

/// Listens at `path`, and takes one listener.
fn agent(path: &Path) -> JoinHandle<Told> {
    let socket = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || receive(socket.accept().unwrap().0))
}

fn receive(mut stream: UnixStream) -> Told {
    let mut bytes = vec![0; 1 << 16];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let length = recvmsg(&stream, &mut parts, &mut ancillary, flags)
        .unwrap()
        .bytes;
    let listener = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    bytes.truncate(length);
    stream.read_to_end(&mut bytes).unwrap();
    Told {
        state: serde_json::from_slice(&bytes).unwrap(),
        listener: listener.unwrap(),
    }
}

impl Told {
    /// Waits for a call, and then goes away, so that it and all later ones fail with ENOSYS.
    fn see_a_call_and_leave(self) -> Value {
        let link = fs::read_link(format!("/proc/self/fd/{}", self.listener.as_raw_fd())).unwrap();
        assert_eq!(link.to_str(), Some("anon_inode:seccomp notify"));
        let mut fds = [PollFd::from_borrowed_fd(
            self.listener.as_fd(),
            PollFlags::IN,
        )];
        poll(&mut fds, None).unwrap();
        assert!(fds[0].revents().contains(PollFlags::IN));
        self.state
    }
}

fn listening(container: &Container, names: &Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "opaque",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"],
        "listenerPath": container.dir.path().join("agent.sock"),
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}]})
}

#[test]
fn privileged_an_agent_gets_the_listener_and_the_state_of_the_container() {
    let mut container = Container::new(&["/bin/mkdir", "/made"]);
    // Everything that could be used to hand the listener over is itself listened to.
    let names = json!([
        "mkdir",
        "mkdirat",
        "write",
        "sendmsg",
        "sendto",
        "connect",
        "socket",
        "close",
        "futex",
        "clock_gettime",
        "nanosleep",
        "sched_yield",
        "exit"
    ]);
    container.spec["annotations"] = json!({"large": "x".repeat(300_000)});
    container.spec["linux"]["seccomp"] = listening(&container, &names);
    let agent = agent(&container.dir.path().join("agent.sock"));
    let agent = std::thread::spawn(|| agent.join().unwrap().see_a_call_and_leave());
    let steps = [
        Step::Read(String::from("/proc/{pid}/stat")),
        Step::Start,
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    let state = agent.join().unwrap();
    assert_eq!((answers[1].error.as_deref(), answers[2].code), (None, 1));
    let pid: i64 = answers[0].out.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(
        state,
        json!({"ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": pid, "metadata": "opaque",
            "state": {"ociVersion": "1.3.0", "id": container.id(), "status": "created",
                "pid": pid, "bundle": container.dir.path(),
                "annotations": {"large": "x".repeat(300_000)}}})
    );
}

#[test]
fn privileged_even_the_exec_may_be_the_agents_to_answer() {
    let mut container = Container::new(&["/bin/true"]);
    container.spec["linux"]["seccomp"] = listening(&container, &json!(["execve"]));
    let agent = agent(&container.dir.path().join("agent.sock"));
    let agent = std::thread::spawn(|| agent.join().unwrap().see_a_call_and_leave());
    let answers = container.script(&[Step::Start, Step::Wait]).unwrap();
    agent.join().unwrap();
    assert_eq!(
        answers[0].error.as_deref(),
        Some("exec /bin/true: function not implemented")
    );
}

#[test]
fn privileged_a_process_that_is_executed_has_its_own_listener() {
    let container = Container::sh("echo ready; read end").with(Streaming::Input);
    // Who may not even read learns in another way that the agent has the listener.
    let filter = listening(&container, &json!(["mkdir", "mkdirat", "read"]));
    let agent = agent(&container.dir.path().join("agent.sock"));
    let agent = std::thread::spawn(|| agent.join().unwrap().see_a_call_and_leave());
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::ExecFiltered(
            Box::new(process(&["/bin/mkdir", "/made"])),
            Box::new(filter),
        ),
        Step::Input("\n".into()),
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    let state = agent.join().unwrap();
    assert!(
        answers[2].err.contains("Function not implemented"),
        "{:?}",
        answers[2]
    );
    assert_eq!(state["state"]["status"], "running");
    assert_ne!(state["pid"], state["state"]["pid"]);
}

#[test]
fn privileged_without_its_agent_a_container_does_not_start() {
    let mut container = Container::new(&["/bin/mkdir", "/made"]);
    container.spec["linux"]["seccomp"] = listening(&container, &json!(["mkdir"]));
    let answers = container.script(&[Step::Start, Step::Wait]).unwrap();
    let path = container.dir.path().join("agent.sock");
    assert_eq!(
        answers[0].error,
        Some(format!(
            "failed to connect with seccomp agent `{}`: no such file or directory",
            path.display()
        ))
    );
    assert_eq!(answers[1].code, 137);
}
