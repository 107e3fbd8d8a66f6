//! The monitor as a process: alone, small, unimpressed by the end of its daemon.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::process::{Command, Stdio};

use monitor::protocol::{Reply, Request, State};
use testkit::eventually;

use crate::harness::{LONG, PROGRAM, Place, command, script};

/// A numbered field of `/proc/PID/stat`, as proc(5) numbers them.
fn stat(pid: i32, field: usize) -> i32 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = text.rsplit_once(") ").unwrap();
    rest.split(' ').nth(field - 3).unwrap().parse().unwrap()
}

/// A line of `/proc/PID/status`.
fn status(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = text.lines();
    lines
        .find_map(|line| line.strip_prefix(name))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn privileged_a_monitor_stands_alone() {
    let container = command(&["sleep", "1000"]).start();
    let pid = container.monitor_pid;
    let me = i32::try_from(std::process::id()).unwrap();
    let [parent, session] = [4, 6].map(|field| stat(pid, field));
    assert_ne!(parent, me);
    assert_ne!(session, stat(me, 6));
    assert_ne!(stat(pid, 5), stat(me, 5), "its process group");
    assert_eq!(status(pid, "Threads:"), "1");
    // HUP, INT, QUIT, PIPE, TERM.
    let ignored = u64::from_str_radix(&status(pid, "SigIgn:"), 16).unwrap();
    for signal in [1, 2, 3, 13, 15] {
        assert_ne!(ignored & (1 << (signal - 1)), 0, "signal {signal}");
    }
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(),
        Some("/")
    );
}

#[test]
fn privileged_monitors_outlive_their_fork_server_and_the_next_begins_from_another() {
    let first = command(&["sleep", "1000"]).start();
    let server = stat(first.monitor_pid, 4);
    let pid = rustix::process::Pid::from_raw(server).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually(LONG, || stat(first.monitor_pid, 4) != server);
    let second = script("exit 7").create();
    assert_ne!(stat(second.monitor_pid, 4), server);
    second.start();
    assert_eq!(second.exit().code, 7);
    assert_eq!(first.status().state, State::Running);
}

#[test]
fn privileged_a_monitors_program_cannot_be_written_through_its_process() {
    let container = command(&["sleep", "1000"]).create();
    for pid in [container.monitor_pid, container.pid] {
        let exe = format!("/proc/{pid}/exe");
        // Not `ExecutableFileBusy`, which ends with the process, and comes second when truncating.
        let exe = fs::OpenOptions::new().write(true).truncate(true).open(exe);
        assert_eq!(exe.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    }
    assert_eq!(status(container.monitor_pid, "Name:"), "berth-monitor");
}

#[test]
fn privileged_a_container_has_signals_and_descriptors_as_a_new_process_has_them() {
    let container = script("grep -E '^Sig(Ign|Blk)' /proc/self/status; ls /proc/self/fd").start();
    container.exit();
    let shown = container.logged("stdout");
    let (masks, descriptors) = shown.split_at(shown.find("\n0\n").unwrap() + 1);
    for line in masks.lines() {
        let (_, mask) = line.split_once('\t').unwrap();
        // 32 and 33 belong to the C library, which lets nobody change them.
        let own = u64::from_str_radix(mask, 16).unwrap() & !(0b11 << 31);
        assert_eq!(own, 0, "{line}");
    }
    assert_eq!(
        descriptors, "0\n1\n2\n3\n",
        "3 is the directory that ls reads"
    );
}

#[test]
fn privileged_a_container_joins_the_network_namespace_it_is_given() {
    let owner = command(&["sleep", "1000"]).start();
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let netns = fs::File::open(format!("/proc/{}/ns/net", owner.pid)).unwrap();
    let mut wanted = command(&["sleep", "1000"]);
    wanted.netns = Some(netns.into());
    let guest = wanted.start();
    assert_eq!(namespace(guest.pid), namespace(owner.pid));
    // The monitor stays where it was, and does not keep the namespace alive.
    assert_ne!(namespace(guest.monitor_pid), namespace(owner.pid));
    let entries = fs::read_dir(format!("/proc/{}/fd", guest.monitor_pid)).unwrap();
    let mut open = entries.map(|entry| fs::read_link(entry.unwrap().path()).unwrap());
    assert!(open.all(|path| path != namespace(owner.pid)));
}

#[test]
fn privileged_a_monitor_outlives_a_killed_daemon() {
    let place = Place::new("run".as_ref());
    let wanted = script("trap 'exit 77' USR1; echo up; while :; do sleep 0.01; echo tick; done")
        .with_stdin();
    let setup = wanted.setup(&place);
    fs::write(
        place.dir.join("wanted.json"),
        serde_json::to_vec(&setup).unwrap(),
    )
    .unwrap();
    #[expect(clippy::disallowed_methods, reason = "it is the daemon that is killed")]
    let mut daemon = Command::new(PROGRAM)
        .arg("hold")
        .arg(&place.dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "started\n");
    daemon.kill().unwrap();
    daemon.wait().unwrap();

    let logged = place.log().len();
    eventually(LONG, || {
        place.log_bytes() > 0 && place.log().len() > logged + 10
    });
    let reply = place.ask(&Request::Status);
    assert!(matches!(reply, Reply::Status(status) if status.state == State::Running));
    place.must(&Request::Signal {
        exec: None,
        signal: 10,
    });
    assert_eq!(place.exit().code, 77);
}

#[test]
fn privileged_slow_a_burst_leaves_no_memory_behind() {
    let container = script("read x; head -c 3000000 /dev/zero; echo done >&2; sleep 1000")
        .with_stdin()
        .start();
    let pid = container.monitor_pid;
    // Creating the container was a burst as well: its stack's deeper pages go a second later.
    eventually(LONG, || anonymous_kilobytes(pid, "[stack]") <= 40);
    let before = anonymous_kilobytes(pid, "");
    eprintln!("an idle monitor has {before} kB of its own, in this build");
    let client = container.attach();
    client.write("\n");
    while client.chunk().is_some_and(|(stream, _)| stream == 1) {}
    drop(client);
    // The stack may keep up to 40 kB more than it had at that moment (see above), the heap a page
    // or two; what passed through was megabytes, and the buffers for it hundreds of kilobytes.
    eventually(LONG, || anonymous_kilobytes(pid, "") <= before + 64);
}

/// Pages that belong to this process alone, in mappings whose name ends with `name`.
fn anonymous_kilobytes(pid: i32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut total = 0;
    let mut counts = false;
    for line in text.lines() {
        match line.strip_prefix("Anonymous:") {
            Some(value) if counts => {
                let value = value.trim().trim_end_matches(" kB");
                total += value.parse::<u64>().unwrap();
            }
            // Only the head of a mapping has its permissions in the second column.
            None if line
                .split_whitespace()
                .nth(1)
                .is_some_and(|word| word.len() == 4 && word.ends_with(['p', 's'])) =>
            {
                counts = line.ends_with(name);
            }
            _ => {}
        }
    }
    total
}
