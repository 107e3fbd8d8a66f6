//! Containers that are saved and go on elsewhere, through a real CRIU.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use testkit::{eventually, tool};

use super::bundle::Bundle;
use super::terminal::receive;
use crate::client::Run;
use crate::host::PATIENCE;

/// Counts in a file, a line for each number from 1 on: written anew it would mostly be empty. It
/// starts no programs, as for a pause: busybox's shell does so by vfork(2), in the middle of which CRIU
/// saves nobody. Nor does it wait in `read -t`, which busybox's shell does without end where CRIU has
/// interrupted it.
pub(super) const COUNTER: &str =
    "echo begun >> /begun; i=0; while :; do i=$((i+1)); echo $i >> /count; done";

fn counter() -> Bundle {
    Bundle::sh(COUNTER)
}

impl Bundle {
    /// A command that finds CRIU. What is restored has the cgroup that is called as it is.
    pub(super) fn criu_command(&self, args: &[&str]) -> Command {
        if let ["restore", .., id] = args {
            let mut spec = self.spec.clone();
            spec["linux"]["cgroupsPath"] = json!(format!("/{id}"));
            fs::write(self.config(), spec.to_string()).unwrap();
        }
        let mut command = self.command(args);
        let tools = tool("criu");
        let mut path = tools.parent().unwrap().as_os_str().to_owned();
        // GNU's tar, which CRIU packs a tmpfs with, before busybox's.
        path.push(":/usr/bin:");
        path.push(std::env::var_os("PATH").unwrap());
        command.env("PATH", path);
        command
    }

    pub(super) fn criu(&self, args: &[&str]) -> Run {
        if let ["restore", .., id] = args {
            self.put_into_cgroup(id);
        }
        self.finish(self.criu_command(args))
    }

    /// Names the cgroup after a container from now on.
    fn put_into_cgroup(&self, id: &str) {
        let text = fs::read(self.config()).unwrap();
        let mut spec: serde_json::Value = serde_json::from_slice(&text).unwrap();
        spec["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        fs::write(self.config(), spec.to_string()).unwrap();
    }

    /// How far it has counted.
    #[track_caller]
    pub(super) fn count(&self) -> u32 {
        let mut count = None;
        eventually(PATIENCE, || {
            let text = fs::read_to_string(self.inside("count")).unwrap_or_default();
            count = text.lines().last().and_then(|line| line.parse().ok());
            count.is_some()
        });
        count.unwrap()
    }

    #[track_caller]
    pub(super) fn counts_beyond(&self, reached: u32) {
        eventually(PATIENCE, || self.count() > reached);
    }

    /// Another of its containers.
    fn other(&self) -> String {
        format!("{}-restored", self.id)
    }

    #[track_caller]
    fn status_of(&self, id: &str) -> String {
        let state = self.run(&["state", id]);
        let state: serde_json::Value = serde_json::from_str(state.ok()).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    /// Errors are looked for in CRIU's log, so that a failure can be understood.
    #[track_caller]
    pub(super) fn did(&self, run: &Run) {
        let logs = ["dump", "restore"].map(|log| self.path().join(format!("images/{log}.log")));
        let logs = logs.map(|log| fs::read_to_string(log).unwrap_or_default());
        assert_eq!(run.code, Some(0), "{run:#?}\n{}\n{}", logs[0], logs[1]);
    }
}

#[test]
fn privileged_a_container_goes_on_where_it_was_saved() {
    let limits = json!({"pids": {"limit": 77}, "memory": {"limit": 64 << 20}});
    let bundle = counter().with(|spec| spec["linux"]["resources"] = limits);
    let (id, other) = (bundle.id.as_str(), bundle.other());
    bundle.run(&["run", "--detach", id]).ok();
    let reached = bundle.count();
    bundle.did(&bundle.criu(&["checkpoint", "--image-path", "images", id]));
    bundle.is_gone();
    let images = bundle.path().join("images");
    assert_eq!(
        fs::metadata(&images).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let restored = bundle.criu(&[
        "restore",
        "--detach",
        "--pid-file",
        "pid",
        "--image-path",
        "images",
        &other,
    ]);
    bundle.did(&restored);
    assert_eq!(bundle.status_of(&other), "running");
    bundle.counts_beyond(reached);
    assert_eq!(bundle.wait_for_file("begun"), "begun\n");
    let pid = fs::read_to_string(bundle.path().join("pid")).unwrap();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let pids = groups.lines().find(|line| line.contains(":pids:"));
    if let Some(pids) = pids {
        assert!(pids.ends_with(&format!(":/{other}")), "{groups}");
    }
    let inside = |path: &str, file: &str| {
        let version_1 = Path::new("/sys/fs/cgroup").join(path).join(&other);
        let version_2 = Path::new("/sys/fs/cgroup").join(&other);
        let at = [version_1, version_2].map(|at| fs::read_to_string(at.join(file)));
        at.into_iter().find_map(Result::ok)
    };
    assert_eq!(inside("pids", "pids.max").unwrap(), "77\n");
    let memory = inside("memory", "memory.limit_in_bytes");
    let memory = memory.or_else(|| inside("memory", "memory.max")).unwrap();
    assert_eq!(memory, format!("{}\n", 64 << 20));
    // It is a container as any other.
    bundle.run(&["pause", &other]).ok();
    assert_eq!(bundle.status_of(&other), "paused");
    bundle.run(&["resume", &other]).ok();
    assert_eq!(bundle.run(&["exec", &other, "echo", "in"]).ok(), "in");
    bundle.did(&bundle.criu(&["checkpoint", "--image-path", "again", &other]));
    bundle.did(&bundle.criu(&["restore", "--detach", "--image-path", "again", id]));
    bundle.counts_beyond(bundle.count());
    bundle.run(&["delete", "--force", id]).ok();
    bundle.is_gone();
}

#[test]
fn privileged_a_container_that_is_left_running_counts_on() {
    let bundle = counter();
    let id = bundle.id.as_str();
    bundle.run(&["run", "--detach", id]).ok();
    bundle.counts_beyond(1);
    let saved = bundle.criu(&["checkpoint", "--leave-running", "--work-path", "log", id]);
    bundle.did(&saved);
    assert!(bundle.path().join("checkpoint/inventory.img").exists());
    assert!(bundle.path().join("log/dump.log").exists());
    assert_eq!(bundle.status(), "running");
    bundle.counts_beyond(bundle.count());
    // As containerd does it.
    bundle.run(&["pause", id]).ok();
    bundle.did(&bundle.criu(&["checkpoint", "--leave-running", id]));
    assert_eq!(bundle.status(), "paused");
    bundle.run(&["resume", id]).ok();
    bundle.counts_beyond(bundle.count());
}

#[test]
fn privileged_a_restored_container_has_the_streams_and_the_exit_code_of_its_caller() {
    let script = "echo before; read line; echo got $line; read line; echo then $line >&2; exit 7";
    let bundle = Bundle::sh(script);
    let (id, other) = (bundle.id.as_str(), bundle.other());
    let start = |args: &[&str]| -> Child {
        bundle
            .criu_command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let line_of = |child: &mut Child| {
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap());
        lines.read_line(&mut line).unwrap();
        line
    };
    let mut first = start(&["run", id]);
    assert_eq!(line_of(&mut first), "before\n");
    first.stdin.as_mut().unwrap().write_all(b"one\n").unwrap();
    assert_eq!(line_of(&mut first), "got one\n");
    bundle.did(&bundle.criu(&["checkpoint", "--image-path", "images", id]));
    first.wait().unwrap();
    bundle.put_into_cgroup(&other);
    let mut second = start(&["restore", "--image-path", "images", &other]);
    second.stdin.as_mut().unwrap().write_all(b"two\n").unwrap();
    let ended = second.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(
        (ended.status.code(), said.as_ref()),
        (Some(7), "then two\n")
    );
    assert!(!bundle.root().join(&other).exists());
}

#[test]
fn privileged_a_restored_terminal_is_handed_over_through_a_socket() {
    let script = "echo ready; while read line; do echo got $line from $(tty); done";
    let bundle = Bundle::sh(script).with(|spec| spec["process"]["terminal"] = json!(true));
    let (id, other) = (bundle.id.as_str(), bundle.other());
    let path = bundle.path().join("console.sock");
    let socket = path.to_str().unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let master = || {
        let (connection, _) = listener.accept().unwrap();
        fs::File::from(receive(&connection).1)
    };
    let expect = |mut terminal: &fs::File, wanted: &str| {
        let mut seen = String::new();
        while !seen.contains(wanted) {
            let mut bytes = [0; 256];
            let length = terminal.read(&mut bytes).unwrap();
            assert!(length > 0, "{seen}");
            seen += &String::from_utf8_lossy(&bytes[..length]);
        }
    };
    bundle.run(&["create", "--console-socket", socket, id]).ok();
    let first = master();
    bundle.run(&["start", id]).ok();
    expect(&first, "ready");
    bundle.did(&bundle.criu(&["checkpoint", "--image-path", "images", id]));
    drop(first);
    let restored = bundle.criu(&[
        "restore",
        "--detach",
        "--console-socket",
        socket,
        "--image-path",
        "images",
        &other,
    ]);
    bundle.did(&restored);
    let mut second = master();
    second.write_all(b"word\n").unwrap();
    expect(&second, "got word from /dev/pts/0");
}

#[test]
fn privileged_binds_are_those_of_the_bundle_that_is_restored() {
    let script = "while :; do read said < /data/word; echo $said > /said; done";
    let bundle = Bundle::sh(script).with(|spec| {
        let bind = |from: &str, to: &str| json!({"type": "bind", "source": from, "destination": to, "options": ["rbind", "ro"]});
        let mounts = spec["mounts"].as_array_mut().unwrap();
        // By a link of the image, and below another bind.
        mounts.push(bind("data", "/link"));
        mounts.push(bind("one", "/data/one file"));
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
        namespaces.push(json!({"type": "cgroup"}));
        spec["root"]["readonly"] = json!(false);
    });
    // Of one length: CRIU looks at the size of what is open.
    for directory in ["data", "else"] {
        let path = bundle.path().join(directory);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("word"), directory).unwrap();
        fs::write(path.join("one file"), "").unwrap();
    }
    fs::write(bundle.path().join("one"), "1").unwrap();
    fs::create_dir(bundle.inside("data")).unwrap();
    std::os::unix::fs::symlink("data", bundle.inside("link")).unwrap();
    let (id, other) = (bundle.id.as_str(), bundle.other());
    bundle.run(&["run", "--detach", id]).ok();
    let said = bundle.inside("said");
    let says = |word: &str| {
        let said = || fs::read_to_string(&said).unwrap_or_default();
        eventually(PATIENCE, || said().trim_end() == word);
    };
    says("data");
    bundle.did(&bundle.criu(&["checkpoint", "--image-path", "images", id]));
    let bundle = bundle.with(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        let place = mounts
            .iter()
            .position(|mount| mount["destination"] == "/link");
        mounts[place.unwrap()]["source"] = json!("else");
    });
    // As on another host.
    fs::remove_dir(bundle.inside("data")).unwrap();
    bundle.did(&bundle.criu(&["restore", "--detach", "--image-path", "images", &other]));
    says("else");
    let own = bundle.run(&["exec", &other, "cat", "/proc/self/cgroup"]);
    assert!(!own.ok().contains(&bundle.id), "{own:#?}");
    let seen = [
        "exec",
        &other,
        "sh",
        "-c",
        "cat '/data/one file'; ls /sys/fs/cgroup | wc -l",
    ];
    assert!(bundle.run(&seen).ok().starts_with('1'));
    // Once: not once more below.
    let mounts = bundle.run(&[
        "exec",
        &other,
        "grep",
        "-c",
        " /data ",
        "/proc/self/mountinfo",
    ]);
    assert_eq!(mounts.ok(), "1");
}

#[test]
fn privileged_hooks_of_a_restored_container_are_run() {
    let said =
        |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat > {name}")]}]);
    let bundle = counter().with(|spec| {
        spec["hooks"] = json!({"createRuntime": said("created"), "poststop": said("stopped")});
    });
    let (own, other) = (bundle.id.clone(), bundle.other());
    let id = own.as_str();
    bundle.run(&["run", "--detach", id]).ok();
    bundle.counts_beyond(1);
    bundle.did(&bundle.criu(&["checkpoint", "--image-path", "images", id]));
    let told = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(bundle.path().join(name)).unwrap()).unwrap()
    };
    assert_eq!(
        (&told("stopped")["id"], &told("stopped")["status"]),
        (&json!(id), &json!("stopped"))
    );
    bundle.did(&bundle.criu(&["restore", "--detach", "--image-path", "images", &other]));
    assert_eq!(told("created")["id"], json!(other));
    let pid = told("created")["pid"].as_i64().unwrap();
    let pids = bundle.run(&["ps", "--format", "json", &other]);
    assert_eq!(pids.ok(), format!("[{pid}]"));
    bundle.run(&["delete", "--force", &other]).ok();
    // One that fails ends the restoring, and leaves nothing.
    let bundle = bundle.with(|spec| spec["hooks"]["createRuntime"][0]["args"][2] = json!("exit 3"));
    let failed = bundle.criu(&["restore", "--detach", "--image-path", "images", id]);
    assert!(
        failed
            .fails(1)
            .contains("error running createRuntime hook #0: `/bin/sh`: exited with code 3"),
        "{failed:#?}"
    );
    bundle.is_gone();
}

#[test]
fn privileged_what_cannot_be_saved_or_restored_is_told() {
    let bundle = counter();
    let id = bundle.id.as_str();
    bundle.run(&["create", id]).ok();
    let created = bundle.criu(&["checkpoint", id]);
    assert!(
        created
            .fails(1)
            .contains("checkpoint failed: Container cannot be checkpointed in created state")
    );
    bundle.run(&["start", id]).ok();
    let check = |args: &[&str], said: &str| {
        let run = bundle.criu(args);
        assert!(run.fails(1).contains(said), "{run:#?}");
    };
    check(
        &["checkpoint", "--manage-cgroups-mode", "x", id],
        r#"invalid manage-cgroups-mode \"x\""#,
    );
    check(
        &["checkpoint", "--empty-ns", "pid", id],
        r#"namespace \"pid\" is not supported"#,
    );
    check(
        &["checkpoint", "--page-server", "here", id],
        "use --page-server ADDRESS:PORT",
    );
    check(
        &["checkpoint", "--parent-path", "/x", id],
        "invalid --parent-path: must be relative",
    );
    check(
        &["checkpoint", "--parent-path", "nope", id],
        "invalid --parent-path: `checkpoint/nope`: no such file",
    );
    check(
        &["checkpoint", "--status-fd", "99", id],
        "invalid --status-fd 99: is not open",
    );
    check(&["checkpoint", "nope"], "container does not exist");
    check(
        &["restore", "--detach", "--image-path", "nope", "x"],
        "open the directory `nope`: no such file or directory",
    );
    fs::create_dir(bundle.path().join("empty")).unwrap();
    check(
        &[
            "restore",
            "--detach",
            "--image-path",
            "empty",
            &bundle.other(),
        ],
        "criu failed: type RESTORE errno 0: ",
    );
    check(
        &["restore", "--detach", "--image-path", "empty", id],
        "container with given ID already exists",
    );
    assert_eq!(bundle.status(), "running");
    for command in [
        &["checkpoint", id][..],
        &["restore", "--detach", "--image-path", "empty", "x"],
    ] {
        let mut command = bundle.criu_command(command);
        let said = bundle.finish({
            command.env("PATH", "/nonexistent");
            command
        });
        assert!(
            said.fails(1)
                .contains("CRIU is not installed: there is no `criu` in $PATH"),
            "{said:#?}"
        );
    }
    assert_eq!(bundle.run(&["list", "-q"]).ok(), id);
    // A process that CRIU cannot save goes on.
    assert_eq!(bundle.status(), "running");
}

/// The first system call that a program is killed at, and how many it is let go further each time.
const FIRST_STEP: usize = 24;
const STRIDE: usize = 8;
/// Neither makes so many system calls.
const MAX_KILLS: usize = 60;

/// `berth runtime ARGS` in `bundle`, killed at its `step`-th system call; its exit code if it came to
/// its end before that.
fn killed_at(bundle: &Bundle, step: usize, args: &[&str]) -> Option<i32> {
    let berth = bundle.criu_command(args);
    let own = berth.get_envs();
    let mut command = Command::new(tool("strace"));
    command
        .args(["--quiet=all", "--output=/dev/null"])
        .arg(format!("--inject=all:signal=KILL:when={step}"))
        .arg(berth.get_program())
        .args(berth.get_args())
        .current_dir(bundle.path())
        .envs(own.filter_map(|(key, value)| Some((key, value?))))
        .stdin(Stdio::null());
    bundle.finish(command).code
}

/// Kills it at one step after the other, until it comes to its end; looks at what is left each time.
fn kill_at_every_step(bundle: &Bundle, args: &[&str], mut left: impl FnMut()) {
    let kills = (0..MAX_KILLS).take_while(|kills| {
        let done = killed_at(bundle, FIRST_STEP + kills * STRIDE, args) == Some(0);
        if !done {
            left();
        }
        !done
    });
    let kills = kills.count();
    assert!((6..MAX_KILLS).contains(&kills), "killed {kills} times");
}

#[test]
fn privileged_a_checkpoint_killed_midway_lets_the_container_go_on() {
    let bundle = counter();
    let id = bundle.id.as_str();
    bundle.run(&["run", "--detach", id]).ok();
    let save = ["checkpoint", "--leave-running", id];
    // CRIU gives up when nobody listens.
    kill_at_every_step(&bundle, &save, || bundle.counts_beyond(bundle.count()));
    bundle.run(&["delete", "--force", id]).ok();
    bundle.is_gone();
}

#[test]
fn privileged_what_a_killed_restore_leaves_is_deleted() {
    // It opens no files, whose size would be another once it ran on.
    let bundle = Bundle::sh("exec sleep 1000");
    let (id, other) = (bundle.id.as_str(), bundle.other());
    bundle.run(&["run", "--detach", id]).ok();
    bundle.did(&bundle.criu(&["checkpoint", "--image-path", "images", id]));
    bundle.put_into_cgroup(&other);
    let delete = || {
        bundle.run(&["delete", "--force", &other]).ok();
        assert!(!bundle.root().join(&other).exists());
    };
    let restore = ["restore", "--detach", "--image-path", "images", &other];
    kill_at_every_step(&bundle, &restore, delete);
    delete();
    let left = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!left.contains(bundle.path().to_str().unwrap()), "{left}");
}
