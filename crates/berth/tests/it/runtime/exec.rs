//! `exec`: more processes in a container that runs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::bundle::Bundle;

fn running() -> Bundle {
    let bundle = Bundle::sh("exec sleep 1000");
    bundle.run(&["run", "-d", &bundle.id]).ok();
    bundle
}

#[test]
fn privileged_a_process_runs_beside_the_first_one() {
    let bundle = running();
    let id = bundle.id.as_str();
    let run = bundle.run(&["exec", id, "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (Some(3), "out\n", "err\n")
    );
    let hostname = bundle.run(&["exec", id, "hostname"]);
    assert_eq!(hostname.ok(), "runc");
    let cgroup = bundle.run(&["exec", id, "cat", "/proc/self/cgroup"]);
    let first = bundle.run(&["exec", id, "cat", "/proc/1/cgroup"]);
    assert_eq!(cgroup.ok(), first.ok());
}

/// CVE-2026-30892: crun took a user that is one number for root. A number that is none is refused.
///
/// Taken out: the parsing in `exec`, by `unwrap_or(0)`. Seen: root for `1x`.
#[test]
fn privileged_a_user_without_a_group_is_that_user_and_what_is_no_number_is_nobody() {
    let bundle = running();
    let id = bundle.id.as_str();
    for (user, ids) in [("1", "1 0"), ("1:", ""), ("01", "1 0"), ("1:2", "1 2")] {
        let whoami = "echo $(id -u) $(id -g)";
        let run = bundle.run(&["exec", "--user", user, id, "sh", "-c", whoami]);
        match ids {
            "" => assert_eq!(run.code, Some(255), "{user}: {run:#?}"),
            ids => assert_eq!(run.ok(), ids, "{user}"),
        }
    }
    for user in ["1x", "-1", " 1", "4294967296", "root", "1:x"] {
        let run = bundle.run(&["exec", "--user", user, id, "id"]);
        assert_eq!(run.code, Some(255), "{user}: {run:#?}");
    }
}

#[test]
fn privileged_flags_say_as_whom_where_and_with_what() {
    let bundle = running();
    let id = bundle.id.as_str();
    let run = bundle.run(&["exec", "--user", "1000:100", "-g", "7", id, "id"]);
    assert_eq!(run.ok(), "uid=1000(ann) gid=100 groups=7");
    let run = bundle.run(&[
        "exec",
        "--cwd",
        "/tmp",
        "--env",
        "A=1",
        "-e",
        "B=2",
        id,
        "sh",
        "-c",
        "echo $PWD $A $B $TERM",
    ]);
    assert_eq!(run.ok(), "/tmp 1 2 xterm");
    let effective = |flags: &[&str]| {
        let command = [id, "grep", "CapEff", "/proc/self/status"];
        bundle
            .run(&[&["exec"], flags, &command].concat())
            .ok()
            .to_owned()
    };
    assert_eq!(effective(&[]), "CapEff:\t0000000020000420");
    assert_eq!(
        effective(&["--cap", "CAP_NET_RAW"]),
        "CapEff:\t0000000020002420"
    );
    let run = bundle.run(&[
        "exec",
        "--no-new-privs",
        id,
        "grep",
        "NoNewPrivs",
        "/proc/self/status",
    ]);
    assert_eq!(run.ok(), "NoNewPrivs:\t1");
}

#[test]
fn privileged_a_document_describes_the_process_whole() {
    let bundle = running();
    let process = json!({
        "args": ["sh", "-c", "id -u; pwd; echo $X"], "cwd": "/home", "env": ["PATH=/bin", "X=y"],
        "user": {"uid": 5, "gid": 5}
    });
    let path = bundle.path().join("process.json");
    fs::write(&path, process.to_string()).unwrap();
    let run = bundle.run(&["exec", "--process", path.to_str().unwrap(), &bundle.id]);
    assert_eq!(run.ok(), "5\n/home\ny");
}

#[test]
fn privileged_a_detached_process_is_known_by_its_pid_file() {
    let bundle = running();
    let args = [
        "exec",
        "-d",
        "--pid-file",
        "exec.pid",
        &bundle.id,
        "sh",
        "-c",
        "echo $PPID > /out",
    ];
    bundle.run(&args).ok();
    assert_eq!(bundle.wait_for_file("out"), "0\n");
    let pid: i32 = fs::read_to_string(bundle.path().join("exec.pid"))
        .unwrap()
        .parse()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(pid);
    rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).unwrap();
}

#[test]
fn privileged_a_process_can_be_put_into_a_cgroup_below() {
    let bundle = running();
    let below: Vec<_> = bundle
        .cgroups()
        .iter()
        .map(|cgroup| cgroup.join("below"))
        .collect();
    below
        .iter()
        .for_each(|cgroup| fs::create_dir_all(cgroup).unwrap());
    // Where controllers need it, what a new cgroup lacks is taken over from above.
    for cgroup in &below {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read(cgroup.parent().unwrap().join(file)) {
                let _ = fs::write(cgroup.join(file), value);
            }
        }
    }
    let run = bundle.run(&[
        "exec",
        "--cgroup",
        "below",
        &bundle.id,
        "grep",
        "-c",
        "/below$",
        "/proc/self/cgroup",
    ]);
    assert_ne!(run.ok(), "0");
    let run = bundle.run(&["exec", "--cgroup", "../x", &bundle.id, "true"]);
    assert!(run.fails(255).contains("../x is not a sub cgroup path"));
}

#[test]
fn privileged_a_process_can_be_put_into_a_cgroup_below_by_controller() {
    let bundle = running();
    let memory = Path::new("/sys/fs/cgroup/memory").join(&bundle.id);
    let args = |controller: &str| format!("{controller}:/below");
    let exec = |controller: &str| {
        let (cgroup, id) = (args(controller), &bundle.id);
        bundle.run(&["exec", "--cgroup", &cgroup, id, "cat", "/proc/self/cgroup"])
    };
    let said = exec("nope").fails(255).to_owned();
    assert!(
        said.contains("unknown controller nope in SubCgroupPaths"),
        "{said}"
    );
    if !memory.exists() {
        // A single hierarchy has none of a controller's own.
        let said = exec("memory").fails(255).to_owned();
        assert!(
            said.contains("unknown controller memory in SubCgroupPaths"),
            "{said}"
        );
        return;
    }
    fs::create_dir(memory.join("below")).unwrap();
    for line in exec("memory").ok().lines() {
        let is_memory = line.contains(":memory:");
        assert_eq!(line.ends_with("/below"), is_memory, "{line}");
    }
}

#[test]
fn privileged_a_process_runs_beside_the_first_one_where_cgroups_below_have_controllers() {
    let bundle = running();
    let version_2 = |cgroup: &PathBuf| cgroup.join("cgroup.subtree_control").exists();
    let Some(own) = bundle.cgroups().into_iter().find(version_2) else {
        // Version 1 alone: processes may be where cgroups are below.
        return;
    };
    let inner = own.join("inner");
    fs::create_dir(&inner).unwrap();
    let pid = bundle.state()["pid"].to_string();
    fs::write(inner.join("cgroup.procs"), &pid).unwrap();
    let has_controllers = fs::read_to_string(own.join("cgroup.controllers"))
        .unwrap()
        .contains("pids");
    if has_controllers {
        fs::write(own.join("cgroup.subtree_control"), "+pids").unwrap();
    }
    let exec = ["exec", &bundle.id, "grep", "0::", "/proc/self/cgroup"];
    assert_eq!(bundle.run(&exec).ok().ends_with("/inner"), has_controllers);
}

#[test]
fn privileged_what_cannot_be_run_is_said_in_runcs_words() {
    let bundle = running();
    let id = bundle.id.as_str();
    for (args, text) in [
        (
            &["exec", id, "nope"][..],
            r#"exec failed: unable to start container process: exec: \"nope\": executable file not found in $PATH"#,
        ),
        (&["exec", id, "/etc"], r#"exec: \"/etc\": is a directory"#),
        (
            &["exec", id, "/etc/passwd"],
            r#"exec: \"/etc/passwd\": permission denied"#,
        ),
        (&["exec", id], "exec args cannot be empty"),
        (&["exec", "-u", "foo", id, "id"], "bad uid"),
        (
            &["exec", "-d", "-t", id, "true"],
            "cannot allocate tty if runc will detach without setting console socket",
        ),
        (
            &["exec", "nope", "true"],
            "exec failed: container does not exist",
        ),
    ] {
        let run = bundle.run(args);
        assert!(run.fails(255).contains(text), "{run:#?}");
    }
}
