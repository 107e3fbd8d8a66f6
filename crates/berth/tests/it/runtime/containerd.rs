//! containerd alone, without Docker, runs its containers with berth, through its shim for runc.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use testkit::{eventually, tool};

use super::checkpoint::COUNTER;
use super::driver::{Daemon, Driver, run, terminals};
use crate::client::Run;
use crate::host::PATIENCE;

/// A daemon with everything of its own in a scratch directory.
struct Containerd {
    /// Ends first.
    daemon: Daemon,
    driver: Driver,
}

impl Containerd {
    fn new() -> Self {
        // Shims leave the daemon, and the machine's first process may not take them in.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let driver = Driver::new();
        let at = |name: &str| driver.path().join(name);
        let text = |name: &str| at(name).to_str().unwrap().to_owned();
        let settings = format!(
            "version = 3\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            text("root"),
            text("state"),
            text("c.sock"),
            text("t.sock"),
        );
        fs::write(at("config.toml"), settings).unwrap();
        let image = fs::File::open(driver.image()).unwrap();
        tar::Archive::new(image).unpack(at("rootfs")).unwrap();
        // Where the shim, and so the runtime, finds CRIU.
        let tools = tool("criu");
        let path = format!(
            "{}:/usr/sbin:/usr/bin:/sbin:/bin",
            tools.parent().unwrap().display()
        );
        let mut command = driver.command("containerd");
        command
            .arg("--config")
            .arg(at("config.toml"))
            .env("PATH", path);
        let daemon = Daemon::start(&driver, command);
        let containerd = Self { daemon, driver };
        let answers = || containerd.run(&["version"]).code == Some(0);
        containerd.daemon.wait_until(answers);
        containerd
    }

    /// `ctr ARGS`; containers are in a cgroup of this test's.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.driver.command("ctr");
        command
            .arg("--address")
            .arg(self.driver.path().join("c.sock"))
            .args(["--namespace", &self.driver.cgroup()[1..]])
            .args(args)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        run(self.driver.path(), self.command(args))
    }

    /// `ctr run FLAGS` with berth, up to the root file system.
    fn run_flags<'a>(&'a self, runtime: &'a Path, flags: &[&'a str]) -> Vec<String> {
        let path = |name: &str| self.driver.path().join(name).display().to_string();
        let mut words = vec![String::from("run")];
        words.extend(flags.iter().map(|&flag| flag.to_owned()));
        words.extend(["--runc-binary".to_owned(), runtime.display().to_string()]);
        words.extend(["--runc-root".to_owned(), path("runc")]);
        words.extend(["--fifo-dir".to_owned(), path("fifo")]);
        words.extend(["--rootfs".to_owned(), path("rootfs")]);
        words
    }

    fn start(&self, flags: &[&str], id: &str, program: &[&str]) -> Command {
        let runtime = self.driver.runtime();
        let mut words = self.run_flags(&runtime, flags);
        words.push(id.to_owned());
        words.extend(program.iter().map(|&word| word.to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.command(&words)
    }

    /// Runs a container to its end.
    fn to_the_end(&self, id: &str, program: &[&str]) -> Run {
        run(self.driver.path(), self.start(&["--rm"], id, program))
    }

    #[track_caller]
    fn wait_for(&self, id: &str, status: &str) {
        eventually(PATIENCE, || {
            let listed = self.run(&["task", "ls"]);
            let line = listed.ok().lines().find(|line| line.starts_with(id));
            line.is_some_and(|line| line.trim_end().ends_with(status))
        });
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for id in self.run(&["container", "ls", "-q"]).stdout.lines() {
            self.run(&["task", "rm", "--force", id]);
            self.run(&["container", "rm", id]);
        }
    }
}

#[test]
fn privileged_containerd_runs_pauses_limits_saves_and_kills_containers() {
    let containerd = Containerd::new();
    let hello = containerd.to_the_end("hello", &["/bin/sh", "-c", "echo hello; exit 7"]);
    assert_eq!(
        (hello.code, hello.stdout.as_str()),
        (Some(7), "hello\n"),
        "{hello:#?}"
    );
    let missing = containerd.to_the_end("missing", &["nope"]);
    assert!(
        missing
            .fails(1)
            .contains(r#"exec: "nope": executable file not found in $PATH"#)
    );

    let flags = ["--detach", "--memory-limit", "67108864"];
    let started = containerd.start(&flags, "box", &["/bin/sh", "-c", COUNTER]);
    run(containerd.driver.path(), started).ok();
    containerd.wait_for("box", "RUNNING");
    let cgroup = format!("{}/box", &containerd.driver.cgroup()[1..]);
    let limit = [("memory", "memory.limit_in_bytes"), ("", "memory.max")].map(|(mount, file)| {
        Path::new("/sys/fs/cgroup")
            .join(mount)
            .join(&cgroup)
            .join(file)
    });
    let limit = limit.iter().find_map(|file| fs::read_to_string(file).ok());
    assert_eq!(limit.as_deref(), Some("67108864\n"));
    let exec = containerd.run(&[
        "task",
        "exec",
        "--exec-id",
        "one",
        "box",
        "/bin/sh",
        "-c",
        "echo in; exit 3",
    ]);
    assert_eq!(
        (exec.code, exec.stdout.as_str()),
        (Some(3), "in\n"),
        "{exec:#?}"
    );
    containerd.run(&["task", "pause", "box"]).ok();
    containerd.wait_for("box", "PAUSED");
    containerd.run(&["task", "resume", "box"]).ok();
    containerd.wait_for("box", "RUNNING");
    assert!(containerd.run(&["task", "ps", "box"]).ok().lines().count() > 1);
    let images = containerd.driver.path().join("images");
    let saved = containerd.run(&[
        "task",
        "checkpoint",
        "--image-path",
        images.to_str().unwrap(),
        "box",
    ]);
    saved.ok();
    assert!(images.join("inventory.img").exists());
    containerd.wait_for("box", "RUNNING");
    containerd
        .run(&["task", "kill", "--signal", "KILL", "box"])
        .ok();
    containerd.wait_for("box", "STOPPED");
    let removed = containerd.run(&["task", "rm", "box"]);
    assert!(removed.stderr.contains("exit code 137"), "{removed:#?}");
    containerd.run(&["container", "rm", "box"]).ok();
    assert!(!Path::new("/sys/fs/cgroup/unified").join(&cgroup).exists());
}

#[test]
fn privileged_flags_of_ctr_reach_the_container() {
    let containerd = Containerd::new();
    let flags = ["--rm", "--env", "A=B", "--cwd", "/tmp", "--user", "3:4"];
    let more = ["--hostname", "hh", "--read-only", "--cap-drop", "CAP_KILL"];
    let script = "echo $A; pwd; id -u; id -g; hostname; touch /x 2>/dev/null || echo read-only; \
                  grep CapBnd /proc/self/status";
    let started = containerd.start(
        &[&flags[..], &more].concat(),
        "box",
        &["/bin/sh", "-c", script],
    );
    let said = run(containerd.driver.path(), started);
    assert_eq!(
        said.ok(),
        "B\n/tmp\n3\n4\nhh\nread-only\nCapBnd:\t00000000a80425db"
    );
}

#[test]
fn privileged_containerd_gives_containers_a_terminal() {
    let containerd = Containerd::new();
    let command = containerd.start(&["--rm", "--tty"], "box", &["/bin/sh"]);
    let exec = [
        "task",
        "exec",
        "--tty",
        "--exec-id",
        "one",
        "box",
        "/bin/sh",
    ];
    terminals(&command, false, || containerd.command(&exec));
}
