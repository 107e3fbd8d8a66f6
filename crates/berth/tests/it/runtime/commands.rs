//! The commands, one after the other, as a script would call them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsRawFd as _;

use serde_json::{Value, json};
use testkit::eventually;

use super::bundle::Bundle;
use crate::host::PATIENCE;

#[test]
fn privileged_a_container_lives_from_create_to_delete() {
    let bundle = Bundle::sh("echo ran > /out; exec sleep 1000");
    let id = bundle.id.as_str();
    bundle.run(&["create", "--pid-file", "pid", id]).ok();
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], id);
    assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
    assert_eq!(
        state["rootfs"],
        bundle.inside("").to_str().unwrap().trim_end_matches('/')
    );
    assert_eq!(
        fs::read_to_string(bundle.path().join("pid")).unwrap(),
        state["pid"].to_string()
    );
    assert!(!bundle.inside("out").exists(), "it ran before its start");
    let again = bundle.run(&["create", id]);
    assert!(
        again
            .fails(1)
            .contains("container with given ID already exists")
    );

    bundle.run(&["start", id]).ok();
    assert_eq!(bundle.wait_for_file("out"), "ran\n");
    assert_eq!(bundle.status(), "running");
    let again = bundle.run(&["start", id]);
    assert!(
        again
            .fails(1)
            .contains("cannot start an already running container")
    );
    let listed: Value = serde_json::from_str(bundle.run(&["list", "-f", "json"]).ok()).unwrap();
    assert_eq!(listed[0]["pid"], state["pid"]);
    assert_eq!(
        bundle.run(&["ps", "--format", "json", id]).ok(),
        format!("[{}]", state["pid"])
    );
    let table = bundle.run(&["ps", id]);
    assert!(table.ok().contains("PID") && table.ok().contains("sleep 1000"));
    let running = bundle.run(&["delete", id]);
    assert!(running.fails(1).contains("that is not stopped: running"));

    bundle.run(&["kill", id, "KILL"]).ok();
    bundle.wait_for("stopped");
    assert_eq!(bundle.state()["pid"], 0);
    let dead = bundle.run(&["kill", id, "TERM"]);
    assert!(dead.fails(1).contains("container not running"));
    let dead = bundle.run(&["exec", id, "true"]);
    assert!(
        dead.fails(255)
            .contains("cannot exec in a stopped container")
    );
    bundle.run(&["delete", id]).ok();
    bundle.is_gone();
    assert!(
        bundle
            .run(&["state", id])
            .fails(1)
            .contains("container does not exist")
    );
    assert!(
        bundle
            .run(&["delete", id])
            .fails(1)
            .contains("container does not exist")
    );
    bundle.run(&["delete", "--force", id]).ok();
}

#[test]
fn privileged_run_prints_what_the_program_prints_and_exits_as_it_does() {
    let bundle = Bundle::sh("echo hello; echo oh >&2; exit 7");
    let run = bundle.run(&["run", &bundle.id]);
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (Some(7), "hello\n", "oh\n")
    );
    bundle.is_gone();
    let bundle = Bundle::sh("kill -9 $$");
    // The kernel keeps signals of its own kind from a namespace's first process.
    assert_eq!(bundle.run(&["run", &bundle.id]).code, Some(0));
    let bundle = Bundle::sh("exit 3");
    assert_eq!(bundle.run(&["run", "--keep", &bundle.id]).code, Some(3));
    assert_eq!(bundle.status(), "stopped");
}

#[test]
fn privileged_a_detached_run_leaves_the_container_running() {
    let bundle = Bundle::sh("exec sleep 1000");
    bundle
        .run(&["run", "--detach", "--pid-file", "pid", &bundle.id])
        .ok();
    assert_eq!(bundle.status(), "running");
    bundle.run(&["delete", "--force", &bundle.id]).ok();
    bundle.is_gone();
}

#[test]
fn privileged_run_hands_signals_on() {
    let bundle = Bundle::sh("trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done");
    let mut run = bundle.spawn(&["run", &bundle.id]);
    let mut line = String::new();
    BufReader::new(run.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "up\n");
    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(9));
    bundle.is_gone();
}

#[test]
fn privileged_a_missing_program_is_an_error_of_create() {
    let bundle = Bundle::sh("").with(|spec| spec["process"]["args"] = json!(["nope"]));
    for command in ["create", "run"] {
        let run = bundle.run(&[command, &bundle.id]);
        let said = run.fails(1);
        assert!(
            said.contains("unable to start container process")
                && said.contains(r#"exec: \"nope\": executable file not found in $PATH"#),
            "{said}"
        );
        bundle.is_gone();
    }
}

#[test]
fn privileged_start_says_why_the_program_could_not_be_run() {
    let bundle = Bundle::sh("").with(|spec| spec["process"]["args"] = json!(["/bin/garbage"]));
    let program = bundle.inside("bin/garbage");
    fs::write(&program, [0x7f, 0, 1, 2]).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, mode).unwrap();
    bundle.run(&["create", &bundle.id]).ok();
    let start = bundle.run(&["start", &bundle.id]);
    assert!(start.fails(1).contains("exec format error"), "{start:#?}");
    bundle.wait_for("stopped");
    bundle.run(&["delete", &bundle.id]).ok();
    bundle.is_gone();
}

#[test]
fn privileged_bad_configuration_is_refused_before_anything_is_made() {
    let bundle = Bundle::sh("true").with(|spec| {
        spec["linux"]["resources"]["pids"] = json!({"limit": "many"});
    });
    let run = bundle.run(&["create", &bundle.id]);
    assert!(
        run.fails(1).contains("linux.resources.pids.limit"),
        "{run:#?}"
    );
    bundle.is_gone();
    let bundle = Bundle::sh("true").with(|spec| spec["process"]["cwd"] = json!("relative"));
    let run = bundle.run(&["create", &bundle.id]);
    assert!(run.fails(1).contains("process.cwd"), "{run:#?}");
    bundle.is_gone();
    fs::remove_file(bundle.config()).unwrap();
    let run = bundle.run(&["create", &bundle.id]);
    assert!(
        run.fails(1)
            .contains("JSON specification file config.json not found")
    );
}

#[test]
fn privileged_ids_and_words_that_make_no_sense_are_refused() {
    let bundle = Bundle::sh("true");
    for (args, code, text) in [
        (&["create", "a/b"][..], 1, "invalid container ID format"),
        (&["create", ""], 1, "container id cannot be empty"),
        (&["create"], 1, "requires exactly 1 argument(s)"),
        (&["state", "a", "b"], 1, "requires exactly 1 argument(s)"),
        (&["state", "nope"], 1, "container does not exist"),
        (
            &["kill", "--foo", "x"],
            1,
            "flag provided but not defined: -foo",
        ),
        (&["list", "-f", "x"], 1, "invalid format option"),
        (&["frobnicate"], 3, "No help topic for 'frobnicate'"),
        (&["restore", "x"], 1, "open the directory `checkpoint`"),
        (
            &["run", "--console-socket", "x", "y"],
            1,
            "cannot use console socket",
        ),
        (&["run", "--preserve-fds", "9", "y"], 1, "is not open"),
    ] {
        let run = bundle.run(args);
        assert!(run.fails(code).contains(text), "{run:#?}");
    }
    assert_eq!(bundle.run(&["list", "-f", "json"]).ok(), "null");
    assert!(bundle.run(&["--version"]).ok().contains("spec: 1."));
    assert!(
        bundle
            .run(&["exec", "--help"])
            .ok()
            .contains("--additional-gids")
    );
    let features: Value = serde_json::from_str(bundle.run(&["features"]).ok()).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
}

#[test]
fn privileged_errors_are_told_to_the_log_in_the_format_that_is_asked_for() {
    let bundle = Bundle::sh("true");
    let log = bundle.path().join("log");
    let args = [
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "kill",
        "nope",
    ];
    assert_eq!(bundle.run(&args).fails(1), "container does not exist");
    let line: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], "container does not exist");
}

#[test]
fn privileged_a_paused_container_stands_still_until_it_is_resumed() {
    let bundle = Bundle::sh("while :; do echo x >> /out; sleep 0.01; done");
    let id = bundle.id.as_str();
    bundle.run(&["run", "-d", id]).ok();
    bundle.wait_for_file("out");
    bundle.run(&["pause", id]).ok();
    assert_eq!(bundle.status(), "paused");
    let length = || fs::metadata(bundle.inside("out")).unwrap().len();
    let before = length();
    assert!(
        bundle
            .run(&["pause", id])
            .fails(1)
            .contains("container not running")
    );
    assert!(
        bundle
            .run(&["start", id])
            .fails(1)
            .contains("in the paused state")
    );
    let exec = bundle.run(&["exec", id, "true"]);
    assert!(
        exec.fails(255)
            .contains("cannot exec in a paused container")
    );
    assert_eq!(length(), before);
    bundle.run(&["resume", id]).ok();
    assert!(
        bundle
            .run(&["resume", id])
            .fails(1)
            .contains("container not paused")
    );
    eventually(PATIENCE, || length() > before);
    bundle.run(&["pause", id]).ok();
    bundle.run(&["delete", "--force", id]).ok();
    bundle.is_gone();
}

#[test]
fn privileged_limits_can_be_changed_and_are_counted() {
    let bundle = Bundle::sh("exec sleep 1000");
    let id = bundle.id.as_str();
    bundle.run(&["run", "-d", id]).ok();
    bundle
        .run(&["update", "--memory", "64m", "--pids-limit", "7", id])
        .ok();
    let stats =
        || -> Value { serde_json::from_str(bundle.run(&["events", "--stats", id]).ok()).unwrap() };
    let first = stats();
    assert_eq!(
        (&first["type"], &first["id"]),
        (&json!("stats"), &json!(id))
    );
    assert_eq!(first["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert_eq!(first["data"]["pids"], json!({"current": 1, "limit": 7}));
    let resources = bundle.path().join("resources.json");
    fs::write(&resources, r#"{"memory": {"limit": 33554432}}"#).unwrap();
    bundle
        .run(&["update", "-r", resources.to_str().unwrap(), id])
        .ok();
    assert_eq!(stats()["data"]["memory"]["usage"]["limit"], 32 << 20);
    let cpuset = &first["data"]["cpuset"];
    // Only version 1 tells.
    if fs::exists("/sys/fs/cgroup/cpuset").unwrap() {
        assert_eq!(cpuset["mems"], json!([0]));
        assert_eq!(cpuset["sched_relax_domain_level"], -1);
        assert_eq!(
            first["data"]["memory"]["kernel"]["limit"],
            json!(9_223_372_036_854_771_712_u64)
        );
    }
    assert_eq!(cpuset["cpu_exclusive"], 0);
    let wrong = bundle.run(&["update", "--memory", "10x", id]);
    assert!(wrong.fails(1).contains("invalid value for memory"));
    let ignored = bundle.run(&["update", "--kernel-memory", "5", id]);
    ignored.ok();
    assert!(
        ignored
            .stderr
            .contains("Kernel memory settings are ignored")
    );
}

#[test]
fn privileged_events_tell_when_memory_ran_out() {
    let bundle = Bundle::sh(
        "sleep 1000 & while [ ! -e /go ]; do sleep 0.01; done; \
        head -c 200m /dev/zero | tail > /dev/null; wait",
    )
    .with(|spec| {
        spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    });
    bundle.run(&["run", "-d", &bundle.id]).ok();
    let mut events = bundle.spawn(&["events", "--interval", "50ms", &bundle.id]);
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["type"], "stats");
    fs::write(bundle.inside("go"), "").unwrap();
    while next()["type"] != "oom" {}
    bundle.run(&["kill", &bundle.id, "KILL"]).ok();
    eventually(PATIENCE, || {
        bundle.reap();
        events.try_wait().unwrap().is_some()
    });
}

#[test]
fn privileged_every_process_hears_a_signal_that_is_for_all() {
    let bundle = Bundle::sh(
        "sh -c 'trap \"echo heard > /out; exit\" USR1; echo up > /up; \
        while :; do sleep 0.01; done' & trap '' USR1; while :; do sleep 0.01; done",
    )
    .with(|spec| {
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|one| one["type"] != "pid");
    });
    bundle.run(&["run", "-d", &bundle.id]).ok();
    bundle.wait_for_file("up");
    bundle.run(&["kill", "--all", &bundle.id, "USR1"]).ok();
    assert_eq!(bundle.wait_for_file("out"), "heard\n");
    // Without a pid namespace of its own, nothing ends with the first process but what is ended.
    bundle.run(&["delete", "--force", &bundle.id]).ok();
    bundle.is_gone();
}

#[test]
fn privileged_what_a_killed_create_leaves_is_deleted() {
    let bundle = Bundle::sh("true").with(|spec| {
        spec["hooks"] = json!({"createRuntime": [
            {"path": "/bin/sh", "args": ["sh", "-c", "echo $$ > hook; exec sleep 1000"]}
        ]});
    });
    let mut create = bundle.spawn(&["create", &bundle.id]);
    let hook = bundle.path().join("hook");
    eventually(PATIENCE, || {
        fs::metadata(&hook).is_ok_and(|file| file.len() > 0)
    });
    assert_eq!(bundle.status(), "creating");
    create.kill().unwrap();
    create.wait().unwrap();
    let hook: i32 = fs::read_to_string(hook).unwrap().trim().parse().unwrap();
    let hook = rustix::process::Pid::from_raw(hook).unwrap();
    rustix::process::kill_process(hook, rustix::process::Signal::KILL).unwrap();
    bundle.reap();
    assert!(!bundle.cgroups().is_empty(), "nothing was made yet");
    eventually(PATIENCE, || {
        bundle.reap();
        bundle.run(&["delete", "--force", &bundle.id]).code == Some(0)
    });
    bundle.is_gone();
}

#[test]
fn privileged_hooks_run_at_start_and_delete_with_the_state_of_the_container() {
    let bundle = Bundle::sh("exec sleep 1000").with(|spec| {
        let hook = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat > {name}")]}]);
        spec["hooks"] = json!({"poststart": hook("poststart"), "poststop": hook("poststop")});
        spec["annotations"] = json!({"a": "b"});
    });
    let told = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(bundle.path().join(name)).unwrap()).unwrap()
    };
    bundle.run(&["create", &bundle.id]).ok();
    assert!(!bundle.path().join("poststart").exists());
    bundle.run(&["start", &bundle.id]).ok();
    let state = told("poststart");
    assert_eq!(state["status"], "running");
    assert_eq!(state["pid"], bundle.state()["pid"]);
    assert_eq!(bundle.state()["annotations"], json!({"a": "b"}));
    bundle.run(&["delete", "--force", &bundle.id]).ok();
    let state = told("poststop");
    assert_eq!(
        (&state["status"], &state["id"]),
        (&json!("stopped"), &json!(bundle.id))
    );
    bundle.is_gone();
}

#[test]
fn privileged_descriptors_are_handed_over_where_that_is_asked_for() {
    let script = "ls /proc/self/fd; read line <&3; echo $line";
    for (flags, found) in [(&[][..], false), (&["--preserve-fds", "1"], true)] {
        let bundle = Bundle::sh(script);
        fs::write(bundle.path().join("content"), "content\n").unwrap();
        let file = fs::File::open(bundle.path().join("content")).unwrap();
        // The shell moves it to 3, where this test has files of its own.
        let inner = bundle.command(&[&["run"], flags, &[bundle.id.as_str()]].concat());
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("exec 3<&{}; exec \"$@\"", 0), "sh"]);
        command.arg(inner.get_program()).args(inner.get_args());
        let output = command
            .current_dir(bundle.path())
            .stdin(file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.contains("content"), found, "{said}");
        bundle.is_gone();
    }
}

#[test]
fn privileged_a_handle_on_the_process_is_sent_where_that_is_asked_for() {
    let bundle = Bundle::sh("exec sleep 1000");
    let socket = bundle.path().join("pidfd.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let args = [
        "run",
        "-d",
        "--pidfd-socket",
        socket.to_str().unwrap(),
        &bundle.id,
    ];
    bundle.run(&args).ok();
    let (mut connection, _) = listener.accept().unwrap();
    let (name, pidfd) = super::terminal::receive(&connection);
    assert_eq!(name, "pidfd");
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    assert!(
        info.contains(&format!("Pid:\t{}\n", bundle.state()["pid"])),
        "{info}"
    );
    let mut rest = Vec::new();
    connection.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}
