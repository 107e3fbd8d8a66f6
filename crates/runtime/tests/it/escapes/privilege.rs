//! Groups, capabilities, keys and sessions: nothing of the caller's is left, and nothing that the
//! container laid out is taken.

use std::fs;

use rustix::thread::{CapabilitySets, Gid, capabilities, set_capabilities, set_thread_groups};
use serde_json::json;

use super::without_mounts;
use crate::kit::{Answer, Container, Step, Streaming, process};

/// Runs a test's body in a thread whose privileges may be changed; what it starts inherits them.
fn in_a_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(body).join().unwrap())
}

/// What `script` prints as the container's first process, and as one more.
fn both(container: Container, script: &str) -> [String; 2] {
    let container = container.set(
        "/process/args",
        json!([
            "/bin/sh",
            "-c",
            format!("{script}; echo ready; exec sleep 1000")
        ]),
    );
    let steps = [
        Step::Start,
        Step::Until("ready\n".into()),
        Step::Exec(
            Box::new(process(&["/bin/sh", "-c", script])),
            Streaming::Pipes,
            None,
        ),
        Step::Signal(9),
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    let first = answers[1].out.strip_suffix("ready\n").unwrap();
    [first.to_owned(), answers[2].out.clone()]
}

/// CVE-2022-36109: groups that nobody asked for stay, or those asked for are not set. Here the
/// caller has one that the container must not have.
///
/// Taken out: `set_thread_groups` in `identity::become_user`. Seen: `Groups: 4242`.
#[test]
fn privileged_no_group_of_the_caller_stays() {
    let groups = "grep Groups /proc/self/status";
    let found = in_a_thread(|| {
        set_thread_groups(&[Gid::from_raw(4242)]).unwrap();
        both(Container::sh(""), groups)
    });
    assert_eq!(found, ["Groups:\t \n", "Groups:\t \n"]);
}

/// CVE-2022-29162 (and CVE-2022-24769): inheritable capabilities were not empty, so that a user
/// got them by running a file that has them inheritable. Here the caller's are full.
///
/// Taken out: `inheritable` in `identity::limit_to` was what the caller had. Seen: every bit set.
#[test]
fn privileged_no_capability_is_inheritable_unless_asked_for() {
    let found = in_a_thread(|| {
        let own = capabilities(None).unwrap();
        let full = CapabilitySets {
            inheritable: own.permitted,
            ..own
        };
        set_capabilities(None, full).unwrap();
        both(
            Container::sh(""),
            "grep -E 'Cap(Inh|Amb)' /proc/self/status",
        )
    });
    let none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    assert_eq!(found, [none, none]);
}

/// How many capabilities there are was read from the container's own `/proc`: an image without a
/// procfs there said "one", and its bounding set kept all the others.
///
/// Taken out: `identity::restrict` read `/proc/sys/kernel/cap_last_cap`. Seen:
/// `CapBnd: 000001fffeffffff`.
#[test]
fn privileged_the_image_does_not_say_how_many_capabilities_there_are() {
    let container = without_mounts(Container::sh(""), &["/proc"])
        .add(
            "/mounts",
            json!({"destination": "/real", "type": "proc", "source": "proc"}),
        )
        .set("/linux/maskedPaths", json!([]));
    let fake = container.file("/proc/sys/kernel/cap_last_cap");
    fs::create_dir_all(fake.parent().unwrap()).unwrap();
    fs::write(fake, "0\n").unwrap();
    let found = both(container, "grep CapBnd /real/self/status");
    assert_eq!(found, ["CapBnd:\t00000000a80425fb\n"; 2]);
}

/// The caller's session keyring is not the container's, nor is one that somebody else made under
/// the name that runc would give it, to share keys through it. (Run as a user, to whom `/proc/keys`
/// shows only what is possessed.)
///
/// Taken out: `join_session` in `join_keyring`. Seen: the caller's keyring.
#[test]
fn privileged_no_keyring_is_shared() {
    let web = json!({"uid": 33, "gid": 33});
    let mut more = process(&["/bin/grep", "_ses", "/proc/keys"]);
    more["user"] = web.clone();
    let script = "grep _ses /proc/keys; echo ready; exec sleep 1000";
    let container = Container::sh(script)
        .set("/linux/maskedPaths", json!([]))
        .set("/process/user", web);
    let name = std::ffi::CString::new(format!("_ses.{}", container.id())).unwrap();
    let answers = in_a_thread(|| {
        sys::keyring::join_session(Some(&name)).unwrap();
        let steps = [
            Step::Start,
            Step::Until("ready\n".into()),
            Step::Exec(Box::new(more), Streaming::Pipes, None),
            Step::Signal(9),
            Step::Wait,
        ];
        container.script(&steps).unwrap()
    });
    for found in [&answers[1].out, &answers[2].out] {
        assert!(found.contains(" _ses: "), "{found}");
        assert!(!found.contains(" _ses."), "{found}");
    }
}

/// A process that stays in its caller's session may write to the caller's terminal as if it were
/// the keyboard (`TIOCSTI`).
///
/// Taken out: `setsid` in `terminal::adopt`. Seen: session 0, which is one outside.
#[test]
fn privileged_every_process_leads_a_session_without_a_terminal() {
    // pid (name) state parent group session terminal
    let found = both(
        Container::sh(""),
        "read -r s < /proc/self/stat; echo $$ ${s##*) }",
    );
    for (number, found) in found.iter().enumerate() {
        let fields: Vec<&str> = found.split_whitespace().collect();
        let (own, session, terminal) = (fields[0], fields[4], fields[5]);
        assert_eq!((session, terminal), (own, "0"), "{number}: {found}");
    }
}

/// `/etc/passwd` is the container's: a fifo there would hold up whoever asks for a user's home, and
/// with it all that the container's owner does.
///
/// Taken out: `read_passwd` was `fs::read`. Seen: `HOME=/taken`, as the fifo's writer wanted.
#[test]
fn privileged_a_fifo_for_a_passwd_is_not_read() {
    let script = "trap '' PIPE; busybox rm /etc/passwd; busybox mkfifo /etc/passwd; \
                  (while :; do echo 'root:x:0:0::/taken:' > /etc/passwd; done) 2>/dev/null & \
                  echo ready; exec sleep 1000";
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Exec(Box::new(process(&["/bin/env"])), Streaming::Pipes, None),
        Step::KillAll,
        Step::Wait,
    ];
    let answers: Vec<Answer> = Container::sh(script).script(&steps).unwrap();
    assert!(answers[2].out.contains("HOME=/\n"), "{answers:?}");
}
