//! Podman without root, called by an ordinary user, runs its containers with berth. It calls the
//! runtime as root of a user namespace that newuidmap and newgidmap made.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::driver::{Driver, run};
use crate::client::Run;

/// The user, whom no machine has, and the first of the ids that are the user's to map.
const USER: u32 = 1_680_000_000;
const FIRST: u32 = 1_681_000_000;

/// Podman with everything of the user's in a scratch directory.
struct Podman(Driver);

impl Podman {
    fn new() -> Self {
        // conmon leaves its children to whoever takes them, and the machine's first process may not.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let podman = Self(Driver::new());
        let at = |name: &str| podman.0.path().join(name);
        open_to_all(podman.0.path(), 0o711);
        podman.know_the_user();
        for own in ["home", "run"] {
            fs::create_dir(at(own)).unwrap();
            give(&at(own));
        }
        let image = fs::File::open(podman.0.image()).unwrap();
        tar::Archive::new(image).unpack(at("rootfs")).unwrap();
        give(&at("rootfs"));
        // Set-user-ID root, and run with the libraries that are in Podman's root.
        fs::create_dir(at("bin")).unwrap();
        for program in ["newuidmap", "newgidmap"] {
            let copy = at("bin").join(program);
            fs::copy(Path::new("/usr/bin").join(program), &copy).unwrap();
            open_to_all(&copy, 0o4755);
        }
        let berth = at("bin").join("berth-runtime");
        let built = env!("CARGO_BIN_EXE_berth");
        if fs::hard_link(built, &berth).is_err() {
            fs::copy(built, &berth).unwrap();
        }
        podman
    }

    fn know_the_user(&self) {
        let home = self.0.path().join("home");
        self.0.add_to_etc(&[
            (
                "passwd",
                format!("tester:x:{USER}:{USER}::{}:/bin/sh", home.display()),
            ),
            ("group", format!("tester:x:{USER}:")),
            ("subuid", format!("tester:{FIRST}:65536")),
            ("subgid", format!("tester:{FIRST}:65536")),
        ]);
    }

    fn command(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.0.path().join(name);
        let user = USER.to_string();
        let mut command = self.0.command("setpriv");
        command
            .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
            .args(["podman", "--storage-driver", "vfs"])
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"])
            .args(["--log-level", "error", "--runtime"])
            .arg(at("bin/berth-runtime"))
            .args(args)
            .env(
                "PATH",
                format!("{}:/usr/sbin:/usr/bin", at("bin").display()),
            )
            .env("HOME", at("home"))
            .env("XDG_RUNTIME_DIR", at("run"))
            .env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1")
            .env_remove("USER")
            .current_dir(at("home"));
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        run(self.0.path(), self.command(args))
    }

    /// `podman run FLAGS` of `sh -c script`, in the user's root file system.
    fn sh(&self, flags: &[&str], script: &str) -> Run {
        let rootfs = self.0.path().join("rootfs");
        let rootfs = rootfs.to_str().unwrap();
        let program = ["--network", "none", "--rootfs", rootfs, "sh", "-c", script];
        self.run(&[&["run"], flags, &program].concat())
    }

    /// The process that keeps the user's namespaces between two calls.
    fn pause_file(&self) -> PathBuf {
        self.0.path().join("run/libpod/tmp/pause.pid")
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.run(&["rm", "--all", "--force", "--time", "0"]);
        let pid = fs::read_to_string(self.pause_file()).ok();
        let pid = pid.and_then(|pid| rustix::process::Pid::from_raw(pid.trim().parse().ok()?));
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = fs::remove_file(format!("/dev/shm/libpod_rootless_lock_{USER}"));
    }
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// With all below.
fn give(path: &Path) {
    lchown(path, Some(USER), Some(USER)).unwrap();
    if fs::symlink_metadata(path).unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

#[test]
fn privileged_an_ordinary_users_podman_runs_containers() {
    let podman = Podman::new();
    let run = podman.sh(&["--rm"], "id -u; cat /proc/self/uid_map; exit 7");
    let words: Vec<&str> = run.stdout.split_whitespace().collect();
    let (user, first) = (USER.to_string(), FIRST.to_string());
    let map = ["0", "0", &user, "1", "1", &first, "65536"];
    assert_eq!(
        (run.code, words.as_slice()),
        (Some(7), &map[..]),
        "{run:#?}"
    );
    // As the user itself, and as others.
    let run = podman.sh(&["--rm", "--userns", "keep-id"], "id -u");
    assert_eq!(run.ok(), user);
    let flags = [
        "--rm",
        "--user",
        "5:6",
        "--cap-drop",
        "all",
        "--read-only",
        "--tmpfs",
        "/tmp:mode=1777",
    ];
    let run = podman.sh(&flags, "id -u; touch /x || touch /tmp/x && echo done");
    assert_eq!(run.ok(), "5\ndone");

    let script = "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done";
    podman.sh(&["--detach", "--name", "box"], script).ok();
    let exec = podman.run(&["exec", "box", "sh", "-c", "id -u; exit 3"]);
    assert_eq!(
        (exec.code, exec.stdout.as_str()),
        (Some(3), "0\n"),
        "{exec:#?}"
    );
    assert!(podman.run(&["top", "box"]).ok().contains("trap"));
    assert_eq!(podman.run(&["logs", "box"]).ok(), "up");
    podman.run(&["stop", "box"]).ok();
    let code = podman.run(&["inspect", "-f", "{{.State.ExitCode}}", "box"]);
    assert_eq!(code.ok(), "3");
    podman.run(&["start", "box"]).ok();
    podman.run(&["kill", "box"]).ok();
    assert_eq!(podman.run(&["wait", "box"]).ok(), "137");
    podman.run(&["rm", "box"]).ok();
}
