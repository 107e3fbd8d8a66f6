//! Where Podman and Docker run: a mount namespace in which `/usr` and `/etc` are those of their own
//! root. It ends, with all that they mounted, when the test does.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use testkit::{eventually, tool};

use crate::client::Run;
use crate::host::PATIENCE;
use crate::terminal::Session;

/// The namespace, and a scratch directory that is the same inside and outside.
pub(super) struct Driver {
    dir: tempfile::TempDir,
    /// Keeps the namespace; ends with its standard input.
    holder: Child,
    cgroup: String,
}

impl Driver {
    pub(super) fn new() -> Self {
        // Short, since sockets are made in it.
        let dir = tempfile::Builder::new().prefix("bd-").tempdir().unwrap();
        let ready = dir.path().join("ready");
        let holder = Command::new(tool("within"))
            .args(["sh", "-c", "echo > \"$0\"; exec cat"])
            .arg(&ready)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        eventually(PATIENCE, || ready.exists());
        fs::write(dir.path().join("image.tar"), testkit::image::busybox_tar()).unwrap();
        Self {
            dir,
            holder,
            cgroup: format!("/{}", testkit::unique("berth-driver")),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// An image as `import` takes it.
    pub(super) fn image(&self) -> String {
        self.dir
            .path()
            .join("image.tar")
            .to_string_lossy()
            .into_owned()
    }

    /// The cgroup above those of the containers, of this test alone.
    pub(super) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// berth, called as a runtime.
    pub(super) fn runtime(&self) -> PathBuf {
        let link = self.dir.path().join("berth-runtime");
        if !link.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_berth"), &link).unwrap();
        }
        link
    }

    /// Adds these lines to files in their `/etc`, which is a copy from then on.
    pub(super) fn add_to_etc(&self, lines: &[(&str, String)]) {
        let etc = self.path().join("etc");
        let copied = self.command("cp").args(["-a", "/etc"]).arg(&etc).status();
        assert!(copied.unwrap().success());
        for (file, line) in lines {
            let path = etc.join(file);
            let before = fs::read_to_string(&path).unwrap_or_default();
            fs::write(path, before + line + "\n").unwrap();
        }
        let mut bind = self.command("mount");
        bind.arg("--bind").arg(&etc).arg("/etc");
        assert!(bind.status().unwrap().success());
    }

    /// A program of theirs.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()))
            .arg("--")
            .arg(program)
            .stdin(Stdio::null());
        command
    }
}

/// Runs it to its end. What stays behind with its streams is not waited for.
pub(super) fn run(directory: &Path, mut command: Command) -> Run {
    let said = |name: &str| directory.join(name);
    let file = |name: &str| fs::File::create(said(name)).unwrap();
    let status = command
        .stdout(file("stdout"))
        .stderr(file("stderr"))
        .status()
        .unwrap();
    Run {
        what: format!("{command:?}"),
        code: status.code(),
        stdout: fs::read_to_string(said("stdout")).unwrap(),
        stderr: fs::read_to_string(said("stderr")).unwrap(),
    }
}

/// A daemon of theirs, ended with the test.
pub(super) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(super) fn start(driver: &Driver, mut command: Command) -> Self {
        let log = driver.path().join("log");
        // Of one after the other.
        let said = fs::File::options().create(true).append(true).open(&log);
        let said = said.unwrap();
        command.stdout(said.try_clone().unwrap()).stderr(said);
        let child = command.spawn().unwrap();
        Self { child, log }
    }

    /// Waits until it does, while the daemon runs.
    pub(super) fn wait_until(&self, answers: impl Fn() -> bool) {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        eventually(PATIENCE, || {
            let ended = waitid(WaitId::Pid(Pid::from_child(&self.child)), ended).unwrap();
            let log = || fs::read_to_string(&self.log).unwrap();
            assert!(ended.is_none(), "the daemon ended: {}", log());
            answers()
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Flags of `run`, a script, and what that prints.
pub(super) type Flags = (&'static [&'static str], &'static str, &'static str);

/// What Docker and Podman share: flags that a container sees.
pub(super) fn flags_reach(run: impl Fn(&[&str]) -> Run, cases: &[Flags]) {
    for (flags, script, printed) in cases {
        let always = ["run", "--rm", "--network", "none"];
        let program = ["image", "sh", "-c", script];
        let run = run(&[&always[..], flags, &program].concat());
        assert_eq!(run.ok(), *printed, "{flags:?}");
    }
}

/// What limits of the container `box` are.
pub(super) fn limits(run: impl Fn(&[&str]) -> Run) -> String {
    let files = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max \
                 2>/dev/null || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max";
    run(&["exec", "box", "sh", "-c", files]).ok().to_owned()
}

/// Flags of `exec` on the container `box`.
pub(super) fn exec_flags_reach(run: impl Fn(&[&str]) -> Run) {
    let flags = ["exec", "-w", "/tmp", "-e", "X=Y", "-u", "7"];
    let program = ["box", "sh", "-c", "echo $PWD $X; id -u"];
    let exec = run(&[&flags[..], &program].concat());
    assert_eq!(exec.ok(), "/tmp Y\n7");
}

/// A terminal of a container's shell, and one of a shell that is executed in it meanwhile.
pub(super) fn terminals(run: &Command, resized: bool, exec: impl FnOnce() -> Command) {
    let mut session = Session::of(run);
    session.expect("# ");
    session.type_in(b"echo $((40+2)) on $(tty)\r");
    session.expect("42 on /dev/pts/");
    if resized {
        session.resize(50, 132);
        let wait = "until [ \"$(stty size)\" = '50 132' ]; do sleep 0.05; done; echo re''sized\r";
        session.type_in(wait.as_bytes());
        session.expect("resized");
    }
    let mut exec = Session::of(&exec());
    exec.expect("# ");
    exec.type_in(b"echo also on $(tty); exit 5\r");
    exec.expect("also on /dev/pts/");
    assert_eq!(exec.finish().0, Some(5));
    session.type_in(b"exit 4\r");
    assert_eq!(session.finish().0, Some(4));
}

/// What Docker and Podman share, on a container `box` that sleeps until it is told to end: a command
/// in it, pausing, restarting, stopping, killing. `meanwhile` is done while it runs.
pub(super) fn live(run: impl Fn(&[&str]) -> Run, meanwhile: impl FnOnce()) {
    let script = "trap 'exit 3' TERM; while :; do sleep 0.05; done";
    let create = ["run", "-d", "--name", "box", "--network", "none"];
    let limits = ["--memory", "64m", "--pids-limit", "50"];
    let program = ["image", "sh", "-c", script];
    run(&[&create[..], &limits, &program].concat()).ok();
    let status = |wanted: &str| {
        let run = run(&["inspect", "-f", "{{.State.Status}}", "box"]);
        assert_eq!(run.ok(), wanted);
    };
    let exec = run(&["exec", "box", "sh", "-c", "echo in; exit 3"]);
    assert_eq!(
        (exec.code, exec.stdout.as_str()),
        (Some(3), "in\n"),
        "{exec:#?}"
    );
    meanwhile();
    run(&["pause", "box"]).ok();
    status("paused");
    run(&["unpause", "box"]).ok();
    status("running");
    assert!(run(&["top", "box"]).ok().contains("trap"));
    run(&["restart", "box"]).ok();
    status("running");
    run(&["stop", "box"]).ok();
    let code = run(&["inspect", "-f", "{{.State.ExitCode}}", "box"]);
    assert_eq!(code.ok(), "3");
    run(&["start", "box"]).ok();
    run(&["kill", "box"]).ok();
    assert_eq!(run(&["wait", "box"]).ok(), "137");
    run(&["rm", "box"]).ok();
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
        let name = self.cgroup();
        let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else {
            return;
        };
        let mounts = hierarchies.flatten().map(|entry| entry.path());
        for mount in mounts.chain([PathBuf::from("/sys/fs/cgroup")]) {
            let cgroup = mount.join(&name[1..]);
            // What Podman keeps its own processes in, and what holds that.
            for left in [cgroup.join("conmon"), cgroup] {
                // Busy until the kernel has let go of who ended in it.
                eventually(
                    PATIENCE,
                    || !matches!(fs::remove_dir(&left), Err(error) if error.kind() == ErrorKind::ResourceBusy),
                );
            }
        }
    }
}
