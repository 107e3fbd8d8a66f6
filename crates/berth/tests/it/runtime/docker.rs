//! Docker's daemon, with its containerd and shims, runs its containers with berth.

use std::fs;
use std::process::Command;

use testkit::tool;

use super::driver::{
    Daemon, Driver, Flags, exec_flags_reach, flags_reach, limits, live, run, terminals,
};
use crate::client::Run;

/// A daemon with everything of its own in a scratch directory.
pub(crate) struct Docker {
    /// Ends first.
    daemon: Option<Daemon>,
    driver: Driver,
}

impl Docker {
    /// A running daemon with the image `image`.
    fn new() -> Self {
        let docker = Self::empty();
        let image = docker.driver.image();
        docker.run(&["import", &image, "image"]).ok();
        docker
    }

    /// A running daemon without images.
    pub(crate) fn empty() -> Self {
        Self::with(&serde_json::json!({}))
    }

    /// The same with further settings, or others.
    pub(crate) fn with(more: &serde_json::Value) -> Self {
        // Shims leave the daemon, and the machine's first process may not take them in.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let driver = Driver::new();
        let at = |name: &str| driver.path().join(name);
        let runtime = driver.runtime();
        let mut settings = serde_json::json!({
            "hosts": [format!("unix://{}", at("d.sock").display())],
            "pidfile": at("pid"), "data-root": at("data"), "exec-root": at("exec"),
            "storage-driver": "vfs", "bridge": "none", "iptables": false, "ip6tables": false,
            "ip-forward": false, "ip-masq": false, "live-restore": true,
            "cgroup-parent": driver.cgroup(), "runtimes": {"berth": {"path": runtime}}, "default-runtime": "berth",
        });
        for (name, value) in more.as_object().unwrap() {
            settings[name] = value.clone();
        }
        fs::write(at("daemon.json"), settings.to_string()).unwrap();
        let mut docker = Self {
            daemon: None,
            driver,
        };
        docker.start();
        docker
    }

    /// Starts the daemon, and waits until it answers.
    fn start(&mut self) {
        let mut command = self.driver.command("dockerd");
        let settings = self.driver.path().join("daemon.json");
        command.arg("--config-file").arg(settings);
        let daemon = Daemon::start(&self.driver, command);
        daemon.wait_until(|| self.run(&["version"]).code == Some(0));
        self.daemon = Some(daemon);
    }

    /// Ends the daemon and starts the next one; containers go on.
    pub(crate) fn restart(&mut self, meanwhile: &dyn Fn()) {
        drop(self.daemon.take());
        meanwhile();
        self.start();
    }

    /// Scratch space that daemon and client see.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.driver.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(tool("docker"));
        let socket = self.driver.path().join("d.sock");
        command
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .env("DOCKER_CONFIG", self.driver.path().join("config"))
            .env("DOCKER_CLI_HINTS", "false")
            .env_remove("DOCKER_CONTEXT")
            .args(args)
            .stdin(std::process::Stdio::null());
        command
    }

    /// Runs Docker's client to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        run(self.driver.path(), self.command(args))
    }
}

/// So often it is tried to remove what is left.
const REMOVALS: usize = 10;

impl Drop for Docker {
    fn drop(&mut self) {
        // One that Docker is about to restart may refuse to go, or come back without a name.
        for _ in 0..REMOVALS {
            let left = self.run(&["ps", "-aq"]).stdout;
            let left: Vec<&str> = left.lines().collect();
            if left.is_empty() {
                break;
            }
            self.run(&[&["update", "--restart", "no"], left.as_slice()].concat());
            self.run(&[&["rm", "-f"], left.as_slice()].concat());
        }
    }
}

#[test]
fn privileged_docker_runs_pauses_limits_restarts_and_kills_containers() {
    let docker = Docker::new();
    let runtime = docker.run(&["info", "-f", "{{.DefaultRuntime}}"]);
    assert_eq!(runtime.ok(), "berth");
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
    let run = docker.run(&hello);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(7), "hello\n"),
        "{run:#?}"
    );
    let run = docker.run(&["run", "--rm", "--network", "none", "image", "nope"]);
    assert!(
        run.fails(127)
            .contains("executable file not found in $PATH")
    );
    docker
        .run(&["run", "--rm", "--network", "none", "image", "/etc"])
        .fails(126);

    let meanwhile = || {
        let run = docker.run(&["exec", "box", "nope"]);
        assert_eq!(run.code, Some(127), "{run:#?}");
        docker
            .run(&["update", "--memory", "32m", "--memory-swap", "64m", "box"])
            .ok();
    };
    live(|words| docker.run(words), meanwhile);
}

#[test]
fn privileged_docker_gives_containers_a_terminal() {
    let docker = Docker::new();
    let command = docker.command(&[
        "run",
        "-it",
        "--name",
        "box",
        "--network",
        "none",
        "image",
        "sh",
    ]);
    let exec = || docker.command(&["exec", "-it", "box", "sh"]);
    terminals(&command, true, exec);
}

const FLAGS: &[Flags] = &[
    (
        &[
            "--device=/dev/zero:/dev/x:rw",
            "--sysctl=kernel.msgmax=7777",
            "--ulimit=nofile=333:444",
            "--hostname=hh",
            "--env=A=B",
            "--security-opt=seccomp=unconfined",
        ],
        "stat -c '%t:%T' /dev/x; cat /proc/sys/kernel/msgmax; ulimit -n; ulimit -Hn; hostname; \
         echo $A; grep Seccomp: /proc/self/status",
        "1:5\n7777\n333\n444\nhh\nB\nSeccomp:\t0",
    ),
    (
        &[
            "--read-only",
            "--tmpfs=/t:size=1m,mode=1777",
            "--security-opt=no-new-privileges",
            "--cap-drop=all",
            "--group-add=55",
            "--user=3",
        ],
        "touch /a 2>/dev/null || touch /t/a && df -k /t | grep -o 1024 | head -n 1; id -u; id -G; \
         grep -E 'NoNewPrivs|CapBnd' /proc/self/status",
        "1024\n3\n0 55\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1",
    ),
    (
        &["--pid=host", "--ipc=host", "--uts=host"],
        "test $$ != 1 && echo ours",
        "ours",
    ),
    (&["--init"], "cat /proc/1/comm", "docker-init"),
];

#[test]
fn privileged_dockers_flags_reach_the_container_and_its_limits_change() {
    let docker = Docker::new();
    flags_reach(|words| docker.run(words), FLAGS);
    let flags = ["run", "--detach", "--name", "box", "--network", "none"];
    let program = ["--memory", "64m", "image", "sleep", "1000"];
    docker.run(&[&flags[..], &program].concat()).ok();
    let changed = [
        "--memory",
        "100m",
        "--memory-swap",
        "200m",
        "--pids-limit",
        "55",
    ];
    docker
        .run(&[&["update"], &changed[..], &["box"]].concat())
        .ok();
    assert_eq!(limits(|words| docker.run(words)), "104857600\n55");
    assert!(docker.run(&["top", "box"]).ok().contains("sleep 1000"));
    exec_flags_reach(|words| docker.run(words));
}
