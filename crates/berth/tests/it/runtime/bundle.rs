//! A bundle with busybox in it, and the runtime with a state directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use testkit::eventually;

use crate::client::Run;
use crate::host::PATIENCE;

/// A bundle and the containers that are made of it; those that are left end with it.
pub(super) struct Bundle {
    dir: tempfile::TempDir,
    /// Of this test alone: names the container and its cgroup.
    pub(super) id: String,
    pub(super) spec: Value,
}

impl Bundle {
    /// One whose process runs `sh -c script`.
    pub(super) fn sh(script: &str) -> Self {
        // Orphans of containers become ours, whatever this machine's first process does with them.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let dir = tempfile::Builder::new()
            .prefix("berth-runc-")
            .tempdir()
            .unwrap();
        let rootfs = dir.path().join("rootfs");
        let mut tar = tar::Archive::new(std::io::Cursor::new(testkit::image::busybox_tar()));
        tar.unpack(&rootfs).unwrap();
        let id = testkit::unique("berth-runc");
        let mut bundle = Self {
            dir,
            id,
            spec: Value::Null,
        };
        bundle
            .run(&["spec", "--bundle", bundle.path().to_str().unwrap()])
            .ok();
        let text = fs::read_to_string(bundle.config()).unwrap();
        bundle.spec = serde_json::from_str(&text).unwrap();
        bundle.spec["process"]["terminal"] = json!(false);
        bundle.spec["process"]["args"] = json!(["sh", "-c", script]);
        bundle.spec["root"]["readonly"] = json!(false);
        bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.id));
        bundle.write();
        bundle
    }

    /// The same with the configuration changed.
    pub(super) fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.spec);
        self.write();
        self
    }

    fn write(&self) {
        fs::write(self.config(), self.spec.to_string()).unwrap();
    }

    pub(super) fn config(&self) -> PathBuf {
        self.path().join("config.json")
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn root(&self) -> PathBuf {
        self.path().join("state")
    }

    /// A file that the container sees below its root.
    pub(super) fn inside(&self, path: &str) -> PathBuf {
        self.path().join("rootfs").join(path)
    }

    /// `berth runtime ARGS`, in the bundle.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command
            .args(["runtime", "--root"])
            .arg(self.root())
            .args(args)
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end. What inherits its streams and stays behind is not waited for.
    pub(super) fn run(&self, args: &[&str]) -> Run {
        self.finish(self.command(args))
    }

    /// The same for a command that was made before.
    pub(super) fn finish(&self, mut command: Command) -> Run {
        let said = |name: &str| self.path().join(name);
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

    /// Starts it in the background.
    pub(super) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// What `state` prints.
    pub(super) fn state(&self) -> Value {
        serde_json::from_str(self.run(&["state", &self.id]).ok()).unwrap()
    }

    pub(super) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(super) fn wait_for(&self, status: &str) {
        eventually(PATIENCE, || {
            self.reap();
            self.status() == status
        });
    }

    /// Waits until the container has written this file.
    #[track_caller]
    pub(super) fn wait_for_file(&self, path: &str) -> String {
        eventually(PATIENCE, || {
            fs::metadata(self.inside(path)).is_ok_and(|file| file.len() > 0)
        });
        fs::read_to_string(self.inside(path)).unwrap()
    }

    /// Takes in the orphans that have ended.
    pub(super) fn reap(&self) {
        for pid in children() {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Runtimes are waited for by who started them.
            let ours = !stat.contains("(berth") || is_in_container(pid);
            if ours && stat.contains(") Z ") {
                let pid = rustix::process::Pid::from_raw(pid);
                let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG);
            }
        }
    }

    /// How many processes of containers have this one as parent, since their own has gone.
    pub(super) fn left_to_us(&self) -> usize {
        children()
            .into_iter()
            .filter(|pid| is_in_container(*pid))
            .count()
    }

    /// Nothing of the container is left: no state, no cgroup.
    #[track_caller]
    pub(super) fn is_gone(&self) {
        assert!(!self.root().join(&self.id).exists(), "state is left");
        let cgroups = self.cgroups();
        assert!(cgroups.is_empty(), "cgroups are left: {cgroups:?}");
    }

    /// The container's directories in every hierarchy.
    pub(super) fn cgroups(&self) -> Vec<PathBuf> {
        let below = fs::read_dir("/sys/fs/cgroup").unwrap();
        let mounts = below.map(|entry| entry.unwrap().path());
        mounts
            .chain([PathBuf::from("/sys/fs/cgroup")])
            .map(|mount| mount.join(&self.id))
            .filter(|path| path.exists())
            .collect()
    }
}

fn children() -> Vec<i32> {
    let children = format!("/proc/self/task/{}/children", std::process::id());
    let children = fs::read_to_string(children).unwrap_or_default();
    children.split_whitespace().flat_map(str::parse).collect()
}

/// Whether it has another number there.
fn is_in_container(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().count() > 1)
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.reap();
        let listed = self.run(&["list", "-q"]).stdout;
        for id in listed.lines() {
            // Ends it, then takes in what ended, so that it can be removed.
            self.run(&["kill", "--all", id, "KILL"]);
            let gone = || {
                self.reap();
                self.run(&["delete", "--force", id]).code == Some(0)
            };
            eventually(PATIENCE, gone);
        }
    }
}
