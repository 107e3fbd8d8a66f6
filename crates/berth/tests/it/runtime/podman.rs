//! Podman runs its containers with berth.

use std::process::Command;

use testkit::eventually;

use super::driver::{Driver, live, run};
use crate::client::Run;
use crate::host::PATIENCE;
use crate::terminal::Session;

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
        Self(Driver::new())
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
    let mut session = Session::of(&command);
    session.expect("# ");
    session.type_in(b"echo $((40+2)) on $(tty)\r");
    session.expect("42 on /dev/pts/");
    let mut exec = Session::of(&podman.command(&["exec", "-it", "box", "sh"]));
    exec.expect("# ");
    exec.type_in(b"echo also on $(tty); exit 5\r");
    exec.expect("also on /dev/pts/");
    assert_eq!(exec.finish().0, Some(5));
    session.type_in(b"exit 4\r");
    assert_eq!(session.finish().0, Some(4));
    eventually(PATIENCE, || podman.run(&["rm", "box"]).code == Some(0));
}
