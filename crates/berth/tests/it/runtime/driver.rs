//! Where Podman and Docker run: a mount namespace in which `/usr` and `/etc` are those of their own
//! root. It ends, with all that they mounted, when the test does.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use testkit::{eventually, tool};

use crate::client::Run;
use crate::host::PATIENCE;

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
