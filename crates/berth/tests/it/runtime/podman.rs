//! Podman runs its containers with berth.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use testkit::{eventually, tool};

use super::checkpoint::COUNTER;
use super::driver::{Driver, Flags, exec_flags_reach, flags_reach, limits, live, run, terminals};
use crate::client::Run;
use crate::host::PATIENCE;

/// Podman with everything of its own in a scratch directory.
pub(crate) struct Podman(Driver);

impl Podman {
    /// With the image `image`.
    fn new() -> Self {
        let podman = Self::empty();
        podman.run(&["import", &podman.0.image(), "image"]).ok();
        podman
    }

    /// Without images.
    pub(crate) fn empty() -> Self {
        // conmon leaves its children to whoever takes them, and the machine's first process may not.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let podman = Self(Driver::new());
        let settings = format!("[containers]\ninit_path = {:?}\n", tool("catatonit"));
        fs::write(podman.settings(), settings).unwrap();
        podman
    }

    fn settings(&self) -> PathBuf {
        self.0.path().join("containers.conf")
    }

    /// Scratch space that it sees.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.0.command("podman");
        for (flag, below) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            command.arg(flag).arg(self.0.path().join(below));
        }
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        command.args([
            "--events-backend",
            "none",
            "--log-level",
            "error",
            "--runtime",
        ]);
        command.arg(self.0.runtime()).args(args.first());
        if args.first() == Some(&"run") {
            command.args(["--cgroup-parent", self.0.cgroup()]);
        }
        command.args(args.iter().skip(1));
        command.env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
        command.env("CONTAINERS_CONF_OVERRIDE", self.settings());
        // Where it, and the runtime, finds CRIU.
        let tools = tool("criu");
        let tools = tools.parent().unwrap().display();
        command.env("PATH", format!("{tools}:/usr/sbin:/usr/bin:/sbin:/bin"));
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        run(self.0.path(), self.command(args))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.run(&["rm", "--all", "--force", "--time", "0"]);
    }
}

#[test]
fn privileged_podman_runs_containers_to_their_end() {
    let podman = Podman::new();
    let hello = [
        "run",
        "--rm",
        "--network",
        "none",
        "image",
        "sh",
        "-c",
        "echo hello; exit 7",
    ];
    let run = podman.run(&hello);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(7), "hello\n"),
        "{run:#?}"
    );
    let run = podman.run(&["run", "--rm", "--network", "none", "image", "nope"]);
    assert!(
        run.fails(127)
            .contains("executable file not found in $PATH")
    );
    let run = podman.run(&["run", "--rm", "--network", "none", "image", "/etc"]);
    run.fails(126);
    let run = podman.run(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--read-only",
        "--user",
        "1000",
        "--cap-drop",
        "all",
        "--tmpfs",
        "/tmp",
        "image",
        "sh",
        "-c",
        "id -u; touch /x || touch /tmp/x && echo done",
    ]);
    assert_eq!(run.ok(), "1000\ndone");
}

#[test]
fn privileged_podman_pauses_limits_restarts_and_kills_containers() {
    let podman = Podman::new();
    let meanwhile = || {
        let limit = podman.run(&["stats", "--no-stream", "--format", "{{.MemLimit}}", "box"]);
        assert_eq!(limit.ok(), (64 << 20).to_string());
    };
    live(|words| podman.run(words), meanwhile);
}

#[test]
fn privileged_podman_gives_containers_a_terminal() {
    let podman = Podman::new();
    let command = podman.command(&[
        "run",
        "-it",
        "--name",
        "box",
        "--network",
        "none",
        "image",
        "sh",
    ]);
    let exec = || podman.command(&["exec", "-it", "box", "sh"]);
    terminals(&command, false, exec);
    eventually(PATIENCE, || podman.run(&["rm", "box"]).code == Some(0));
}

const FLAGS: &[Flags] = &[
    (
        &[
            "--device=/dev/zero:/dev/x:rw",
            "--sysctl=kernel.msgmax=7777",
            "--ulimit=nofile=333:444",
            "--hostname=hh",
            "--add-host=a:1.2.3.4",
            "--env=A=B",
            "--oom-score-adj=500",
            "--workdir=/bin",
            "--volume=vol:/v",
            "--security-opt=seccomp=unconfined",
        ],
        "stat -c '%t:%T' /dev/x; cat /proc/sys/kernel/msgmax; ulimit -n; ulimit -Hn; hostname; \
         grep -c 1.2.3.4 /etc/hosts; echo $A; cat /proc/self/oom_score_adj; pwd; \
         echo x > /v/f; cat /v/f; grep Seccomp: /proc/self/status",
        "1:5\n7777\n333\n444\nhh\n1\nB\n500\n/bin\nx\nSeccomp:\t0",
    ),
    (
        &[
            "--read-only",
            "--tmpfs=/t:size=1m,mode=1777",
            "--security-opt=no-new-privileges",
            "--group-add=55",
            "--user=3",
        ],
        "touch /a 2>/dev/null || touch /t/a && df -k /t | grep -o 1024 | head -n 1; id -u; id -G; \
         grep NoNewPrivs /proc/self/status",
        "1024\n3\n0 55\nNoNewPrivs:\t1",
    ),
    (
        &["--uidmap=0:200000:1000", "--gidmap=0:300000:1000"],
        "set -- $(cat /proc/self/uid_map /proc/self/gid_map); echo $*; touch /x; stat -c %u /x",
        "0 200000 1000 0 300000 1000\n0",
    ),
    (
        &["--pid=host", "--ipc=host", "--uts=host"],
        "test $$ != 1 && echo ours",
        "ours",
    ),
    (&["--init"], "cat /proc/1/comm", "podman-init"),
    (
        &["--userns=auto:size=500"],
        "set -- $(cat /proc/self/uid_map); echo $*; touch /x; stat -c %u /x",
        "0 1690000000 500\n0",
    ),
];

#[test]
fn privileged_podmans_flags_reach_the_container() {
    let podman = Podman::new();
    // Of whom `--userns=auto` takes ids; the user is one that no machine has.
    let ids = || String::from("containers:1690000000:65536");
    let user = String::from("containers:x:1690000000:1690000000::/:/bin/sh");
    podman
        .0
        .add_to_etc(&[("passwd", user), ("subuid", ids()), ("subgid", ids())]);
    flags_reach(|words| podman.run(words), FLAGS);
}

#[test]
fn privileged_podman_changes_limits_looks_after_and_saves_containers() {
    let podman = Podman::new();
    let flags = [
        "--name",
        "box",
        "--network",
        "none",
        "--health-cmd",
        "test -e /count",
    ];
    let program = ["--health-interval", "disable", "image", "sh", "-c", COUNTER];
    podman
        .run(
            &[
                &["run", "--detach", "--memory", "64m"][..],
                &flags,
                &program,
            ]
            .concat(),
        )
        .ok();
    let is_limited = || assert_eq!(limits(|words| podman.run(words)), "104857600\n55");
    podman
        .run(&["update", "--memory", "100m", "--pids-limit", "55", "box"])
        .ok();
    is_limited();
    podman.run(&["healthcheck", "run", "box"]).ok();
    exec_flags_reach(|words| podman.run(words));
    let count = || -> u32 {
        let said = podman.run(&["exec", "box", "tail", "-n", "1", "/count"]);
        said.stdout.trim().parse().unwrap_or(0)
    };
    // Saved and restored where it is, and from a file under another name.
    podman.run(&["container", "checkpoint", "box"]).ok();
    podman.run(&["container", "restore", "box"]).ok();
    let restored = podman.run(&[
        "inspect",
        "-f",
        "{{.State.Status}} {{.State.Restored}}",
        "box",
    ]);
    assert_eq!(restored.ok(), "running true");
    let reached = count();
    eventually(PATIENCE, || count() > reached);
    is_limited();
    // Not left running: it would write on while its files are packed.
    let archive = podman.0.path().join("saved.tar.gz");
    let archive = archive.to_str().unwrap();
    podman
        .run(&["container", "checkpoint", "--export", archive, "box"])
        .ok();
    podman.run(&["rm", "box"]).ok();
    podman
        .run(&[
            "container",
            "restore",
            "--import",
            archive,
            "--name",
            "other",
        ])
        .ok();
    let status = podman.run(&["inspect", "-f", "{{.State.Status}}", "other"]);
    assert_eq!(status.ok(), "running");
}
