//! Hooks: all six kinds, where they run, in which order, what they are told, how they fail.

use std::fs;
use std::path::Path;
use std::time::Duration;

use runtime::Status;
use runtime::hooks::Kind;
use serde_json::{Value, json};

use crate::kit::{Container, Step};

/// A hook that is a shell script. The shell is the host's, or busybox for `startContainer`.
fn sh(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]})
}

/// A container whose root is a directory, which hooks and program share.
fn container(program: &str, hooks: Value) -> Container {
    let mut container = Container::sh(program).set("/hooks", hooks);
    container.directory = true;
    container
}

fn log(container: &Container) -> String {
    fs::read_to_string(container.file("/log")).unwrap_or_default()
}

fn namespace(kind: &str) -> String {
    let link = fs::read_link(Path::new("/proc/self/ns").join(kind)).unwrap();
    link.to_str().unwrap().to_owned()
}

#[test]
fn privileged_hooks_of_all_kinds_run_in_order_where_they_should() {
    let mut container = container("echo program >> /log", json!({}));
    let log_path = container.file("/log").to_str().unwrap().to_owned();
    let told = |kind: &str, log: &str| {
        let namespaces = "$(readlink /proc/self/ns/net) $(readlink /proc/self/ns/mnt)";
        sh(&format!("echo \"{kind} {namespaces} $(cat)\" >> {log}"))
    };
    for kind in Kind::ALL {
        let log = match kind {
            Kind::StartContainer => "/log",
            _ => log_path.as_str(),
        };
        container.spec["hooks"][kind.name()] = json!([told(kind.name(), log)]);
    }
    container.spec["annotations"] = json!({"b": "2", "a": "1"});
    let steps = [
        Step::Read(String::from("/proc/{pid}/stat")),
        Step::Start,
        Step::Wait,
        Step::Hooks(Kind::Poststart, Status::Running),
        Step::Hooks(Kind::Poststop, Status::Stopped),
    ];
    let answers = container.script(&steps).unwrap();
    assert_eq!(answers[1].error, None);
    assert_eq!((answers[3].out.as_str(), answers[4].out.as_str()), ("", ""));
    let pid: i64 = answers[0].out.split(' ').next().unwrap().parse().unwrap();

    let text = log(&container);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.splitn(4, ' ').collect())
        .collect();
    let order: Vec<&str> = lines.iter().map(|line| line[0]).collect();
    assert_eq!(
        order,
        [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "program",
            "poststart",
            "poststop"
        ]
    );
    let (net, mnt) = (namespace("net"), namespace("mnt"));
    for (line, inside, status, pid) in [
        (&lines[0], false, "creating", pid),
        (&lines[1], false, "creating", pid),
        (&lines[2], true, "creating", 1),
        (&lines[3], true, "created", 1),
        (&lines[5], false, "running", pid),
        (&lines[6], false, "stopped", pid),
    ] {
        assert_eq!(line[1] != net && line[2] != mnt, inside, "{line:?}");
        let state: Value = serde_json::from_str(line[3]).unwrap();
        assert_eq!(
            state,
            json!({"ociVersion": "1.3.0", "id": container.id(), "status": status, "pid": pid,
                   "bundle": container.dir.path(), "annotations": {"a": "1", "b": "2"}})
        );
    }
}

#[test]
fn privileged_a_hook_has_its_own_arguments_and_environment_and_nothing_else() {
    let script = "tr '\\0' '|' < /proc/$$/cmdline; echo; tr '\\0' '|' < /proc/$$/environ; echo; \
                  pwd; umask; ls /proc/$$/fd | tr '\\n' ' '; \
                  grep -E '^Sig(Blk|Ign)' /proc/$$/status | cut -f 2; exit 1";
    let hook = json!({"path": "/bin/sh", "args": ["the name", "-c", script], "env": ["A=b c"]});
    let container = container("true", json!({"createRuntime": [hook]}));
    let dir = container.dir.path().display().to_string();
    let said = container.script(&[]).unwrap_err();
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            format!(
                "run the hooks: error running createRuntime hook #0: `/bin/sh`: exited with code 1: \
                 the name|-c|{script}|"
            )
            .as_str(),
            "A=b c|",
            dir.as_str(),
            "0022",
            "0 1 2 0000000000000000",
            "0000000000000000",
        ]
    );
}

#[test]
fn privileged_a_hook_without_arguments_has_its_path_as_name() {
    let hooks = json!({"prestart": [{"path": "/bin/false"}]});
    assert_eq!(
        container("true", hooks).script(&[]).unwrap_err(),
        "run the hooks: error running prestart hook #0: `/bin/false`: exited with code 1"
    );
}

#[test]
fn privileged_a_hook_that_fails_ends_the_creation_and_those_after_it_do_not_run() {
    for (kind, prefix) in [
        ("prestart", "run the hooks: "),
        ("createRuntime", "run the hooks: "),
        ("createContainer", ""),
    ] {
        let mut container = container("true", json!({}));
        let log_path = container.file("/log");
        let ran = |word: &str| sh(&format!("echo {word} >> {}", log_path.display()));
        let failing = sh("echo why; echo because >&2; exit 3");
        container.spec["hooks"][kind] = json!([ran("first"), failing, ran("third")]);
        // `script` checks that nothing of the container is left.
        let said = container.script(&[Step::Start, Step::Wait]).unwrap_err();
        assert_eq!(
            said,
            format!(
                "{prefix}error running {kind} hook #1: `/bin/sh`: exited with code 3: why\nbecause"
            )
        );
        assert_eq!(log(&container), "first\n");
    }
}

#[test]
fn privileged_a_start_hook_that_fails_ends_the_start_before_the_program() {
    let hooks = json!({"startContainer": [sh("exit 4")]});
    let container = container("echo program >> /log", hooks);
    let answers = container.script(&[Step::Start, Step::Wait]).unwrap();
    assert_eq!(
        answers[0].error.as_deref(),
        Some("error running startContainer hook #0: `/bin/sh`: exited with code 4")
    );
    assert_eq!(log(&container), "");
}

#[test]
fn privileged_start_hooks_run_as_the_containers_user() {
    let hooks = json!({"startContainer": [sh("id -u > /tmp/who; pwd > /tmp/where")]});
    let container = container("cat /tmp/who /tmp/where", hooks)
        .set("/process/user", json!({"uid": 33, "gid": 33}))
        .set("/process/cwd", json!("/var/www"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(container.file("/tmp"), mode).unwrap();
    assert_eq!(container.output(), "33\n/var/www");
}

#[test]
fn privileged_hooks_that_cannot_run_or_are_killed_say_so() {
    let said = |hook: Value| {
        let container = container("true", json!({"createRuntime": [hook]}));
        let said = container.script(&[]).unwrap_err();
        let prefix = "run the hooks: error running createRuntime hook #0: ";
        said.strip_prefix(prefix).unwrap().to_owned()
    };
    assert_eq!(
        said(json!({"path": "/no/such/hook"})),
        "`/no/such/hook`: run it: no such file or directory"
    );
    assert_eq!(
        said(json!({"path": "/etc/passwd"})),
        "`/etc/passwd`: run it: permission denied"
    );
    assert_eq!(
        said(sh("echo last words; kill -KILL $$")),
        "`/bin/sh`: was killed by signal 9: last words"
    );
}

#[test]
fn privileged_a_hook_that_takes_too_long_is_killed_with_its_children() {
    let mut container = container("true", json!({}));
    let pid_file = container.dir.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
    let mut hook = sh(&script);
    hook["timeout"] = json!(1);
    container.spec["hooks"] = json!({"createRuntime": [hook]});
    assert_eq!(
        container.script(&[]).unwrap_err(),
        "run the hooks: error running createRuntime hook #0: `/bin/sh`: did not end within 1 s"
    );
    let pid = fs::read_to_string(pid_file).unwrap();
    testkit::eventually(Duration::from_secs(60), || {
        // Killed, and perhaps not reaped yet.
        match fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        }
    });
}

#[test]
fn privileged_a_hook_that_leaves_a_child_behind_is_not_waited_for() {
    // The child holds standard output; it ends when its standard input, a fifo, does.
    let mut container = container("true", json!({}));
    let fifo = container.dir.path().join("fifo");
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_bits_truncate(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
    let hook = sh(&format!("cat {} & exit 0", fifo.display()));
    container.spec["hooks"] = json!({"createRuntime": [hook]});
    assert_eq!(container.run().code, 0);
    fs::OpenOptions::new().write(true).open(&fifo).unwrap();
}

#[test]
fn privileged_a_hook_may_print_much_and_read_nothing_and_get_a_large_state() {
    let mut container = container("true", json!({}));
    let log = container.file("/log").display().to_string();
    container.spec["annotations"] = json!({"large": "x".repeat(200_000)});
    container.spec["hooks"] = json!({
        "createRuntime": [sh("exec head -c 1000000 /dev/zero"), sh(&format!("wc -c > {log}"))],
    });
    assert_eq!(container.run().code, 0);
    let length: usize = fs::read_to_string(log).unwrap().trim().parse().unwrap();
    assert!(length > 200_000, "{length}");
}

#[test]
fn privileged_what_hooks_mount_below_the_root_is_in_the_container() {
    // By its path on the host, as hooks of GPU vendors do, and by the working directory.
    let mut container = container("cat /mnt/host /tmp/from", json!({}));
    for dir in ["mnt", "tmp"] {
        fs::create_dir_all(container.file(dir)).unwrap();
    }
    let root = container.file("").display().to_string();
    let script = format!(
        "set -e; mount -t tmpfs x {root}/mnt; echo 1 > {root}/mnt/host; \
         mount -t tmpfs x tmp; echo 2 > tmp/from"
    );
    container.spec["hooks"] = json!({"createContainer": [sh(&script)]});
    assert_eq!(container.output(), "1\n2");
}

#[test]
fn privileged_all_poststop_hooks_run_and_those_that_failed_are_told() {
    let mut container = container("true", json!({}));
    let log_path = container.file("/log").display().to_string();
    container.spec["hooks"] = json!({"poststop": [
        sh("exit 1"), sh(&format!("echo second >> {log_path}")), {"path": "/no/such"}
    ]});
    let steps = [
        Step::Start,
        Step::Wait,
        Step::Hooks(Kind::Poststop, Status::Stopped),
    ];
    let answers = container.script(&steps).unwrap();
    assert_eq!(
        answers[2].out,
        "error running poststop hook #0: `/bin/sh`: exited with code 1\n\
         error running poststop hook #2: `/no/such`: run it: no such file or directory"
    );
    assert_eq!(log(&container), "second\n");
}
