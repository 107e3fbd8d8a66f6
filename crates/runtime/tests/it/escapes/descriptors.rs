//! What a process in a container could reach of the one that made it: open descriptors, working
//! directories, memory.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::kit::{Container, Step, Streaming, process};

/// CVE-2016-9962: a process that enters a container can be seen there before it has become the
/// program, and with it what it has open. Here one waits at its gate in a pid namespace that an
/// attacker shares: root, with Docker's capabilities.
///
/// Taken out: `set_dumpable_behavior` in `child::standalone`. Seen: its descriptors, its root, its
/// memory.
#[test]
fn privileged_a_process_that_is_not_yet_the_program_cannot_be_looked_into() {
    let waiting = Container::new(&["/bin/true"]);
    let script = "cd /proc/1; for link in fd/* root cwd exe ns/mnt; do readlink $link; done; \
                  head -c 1 mem; head -c 1 environ; head -c 1 auxv; ls map_files/";
    let mut attacker = Container::sh(script).without("hostname").spec;
    attacker["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "ipc"},
        {"type": "pid", "path": "/proc/{pid}/ns/pid"}]);
    attacker["linux"]
        .as_object_mut()
        .unwrap()
        .remove("cgroupsPath");
    let answers = waiting.script(&[Step::Beside(Box::new(attacker))]).unwrap();
    assert_eq!(answers[0].error, None);
    assert_eq!(answers[0].out, "", "{answers:?}");
    assert!(answers[0].err.contains("Permission denied"), "{answers:?}");
}

/// Everything that a process finds open, with what is behind it.
const OPEN: &str = "for fd in /proc/self/fd/*; do readlink $fd; done | grep -v -e ^pipe: \
                    -e ^/dev/null -e /proc/.*/fd; for fd in 3 4 5 6 7 8 9 10 11 12; do \
                    cd /proc/self/fd/$fd 2>/dev/null && echo inside $fd; done; true";

/// CVE-2024-21626: the caller has a directory of the host open, and so had the program.
///
/// Taken out: every `close_other_than` and `close_on_exec_from`. Seen: `/`, and `inside 3`.
#[test]
fn privileged_what_the_caller_has_open_stays_with_it() {
    let mut container = Container::sh(&format!("{OPEN}; echo ready; exec sleep 1000"));
    container.leak = true;
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Exec(
            Box::new(process(&["/bin/sh", "-c", OPEN])),
            Streaming::Pipes,
            None,
        ),
        Step::Signal(9),
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    assert_eq!(answers[1].out, "ready\n");
    assert_eq!(answers[2].out, "", "{answers:?}");
}

/// CVE-2024-21626: the working directory, or the program, is named by such a descriptor.
///
/// Taken out: every `close_other_than`, `NO_MAGICLINKS` in `inside::open`, `verify_cwd`. Seen: the
/// names of the host's root. With `verify_cwd` left in: refused as a possible breakout.
#[test]
fn privileged_no_descriptor_leads_out_as_a_working_directory_or_a_program() {
    for fd in 3..12 {
        for cwd in [format!("/proc/self/fd/{fd}"), format!("/link{fd}")] {
            let link = |container: &Container| {
                symlink(
                    format!("/proc/self/fd/{fd}"),
                    container.file(&format!("/link{fd}")),
                )
                .unwrap();
            };
            let mut container = Container::sh("ls").set("/process/cwd", json!(cwd));
            container.leak = true;
            link(&container);
            let refusal = container.script(&[Step::Start]).unwrap_err();
            assert!(refusal.contains("working directory"), "{refusal}");

            let mut process = process(&["/bin/ls"]);
            process["cwd"] = json!(cwd);
            let answer = exec(process, link);
            assert!(answer.error.is_some(), "{cwd}: {answer:?}");
        }
    }
    for program in ["/proc/self/fd/3/bin/ls", "/proc/self/fd/7/../bin/ls"] {
        let answer = exec(process(&[program]), |_| ());
        assert_eq!(answer.code, 127, "{answer:?}");
    }
}

fn exec(process: Value, prepare: impl FnOnce(&Container)) -> crate::kit::Answer {
    let mut container = Container::sh("echo ready; exec sleep 1000");
    container.leak = true;
    prepare(&container);
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Exec(Box::new(process), Streaming::Pipes, None),
        Step::Signal(9),
        Step::Wait,
    ];
    container.script(&steps).unwrap().swap_remove(2)
}
