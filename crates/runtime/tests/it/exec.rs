//! More processes in a running container.

use serde_json::{Value, json};

use crate::kit::{Answer, Container, Step, Streaming, exec_in, process};

fn exec(process: Value) -> Answer {
    exec_in(Container::sh(""), process, Streaming::Pipes)
}

fn sh(script: &str) -> Value {
    process(&["/bin/sh", "-c", script])
}

#[test]
fn privileged_it_is_in_every_namespace_of_the_container() {
    let answer = exec(sh("for n in mnt uts ipc pid net cgroup; do \
         [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] && echo same; done; hostname"));
    assert_eq!(
        answer.out,
        format!("{}box\n", "same\n".repeat(6)),
        "{answer:?}"
    );
}

#[test]
fn privileged_it_is_in_the_containers_cgroups() {
    let answer = exec(sh(
        "cat /proc/1/cgroup > /a; cat /proc/self/cgroup > /b; cat /a; wc -l < /b",
    ));
    let lines: Vec<&str> = answer.out.lines().collect();
    let (count, cgroups) = lines.split_last().unwrap();
    assert_eq!(count.trim().parse(), Ok(cgroups.len()));
    assert!(
        cgroups.iter().all(|line| line.ends_with(":/")),
        "{answer:?}"
    );
}

#[test]
fn privileged_its_exit_code_and_streams_are_its_own() {
    let answer = exec(sh("echo out; echo err >&2; exit 9"));
    assert_eq!(
        (answer.code, answer.out.as_str(), answer.err.as_str()),
        (9, "out\n", "err\n")
    );
}

#[test]
fn privileged_it_runs_as_its_own_user_in_its_own_directory() {
    let mut process = sh("id -u; id -G; pwd; echo $HOME; echo $A; grep CapEff /proc/self/status");
    process["user"] = json!({"uid": 33, "gid": 33, "additionalGids": [4]});
    process["cwd"] = json!("/var/www");
    process["env"] = json!(["PATH=/bin", "A=b"]);
    let answer = exec(process);
    assert_eq!(
        answer.out,
        "33\n33 4\n/var/www\n/var/www\nb\nCapEff:\t0000000000000000\n"
    );
}

#[test]
fn privileged_it_may_have_a_terminal() {
    let script = "tty; stty size; test -c /dev/tty && echo > /dev/tty";
    let answer = exec_in(Container::sh(""), sh(script), Streaming::Terminal(7, 9));
    assert_eq!(
        answer.out.replace('\r', "").trim_end(),
        "/dev/pts/0\n7 9",
        "{answer:?}"
    );
}

#[test]
fn privileged_what_cannot_be_run_is_told_apart() {
    let answer = exec(process(&["nope"]));
    let text = r#"exec: "nope": executable file not found in $PATH"#;
    assert_eq!((answer.code, answer.error.as_deref()), (127, Some(text)));
    let answer = exec(process(&["/etc/passwd"]));
    let text = r#"exec: "/etc/passwd": permission denied"#;
    assert_eq!((answer.code, answer.error.as_deref()), (126, Some(text)));
    let mut nowhere = sh("pwd");
    nowhere["cwd"] = json!("/no/where");
    let answer = exec(nowhere);
    let text = r#"chdir to cwd ("/no/where") set in config.json failed: no such file or directory"#;
    assert_eq!((answer.code, answer.error.as_deref()), (128, Some(text)));
}

#[test]
fn privileged_it_cannot_be_run_in_a_container_that_ended() {
    let container = Container::sh("exit 0");
    let exec = Step::Exec(Box::new(sh("true")), Streaming::Pipes, None);
    let answers = container.script(&[Step::Start, Step::Wait, exec]).unwrap();
    assert_eq!(answers[2].code, 128, "{answers:?}");
}

#[test]
fn privileged_it_ends_with_the_container() {
    let container = Container::sh("echo ready; read end").with(Streaming::Input);
    let left = sh("sleep 1000 & echo left");
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Exec(
            Box::new(process(&[
                "/bin/sh",
                "-c",
                "(sleep 1000 >/dev/null 2>&1 &) ; echo x",
            ])),
            Streaming::Pipes,
            None,
        ),
        Step::Pids,
        Step::Input("\n".into()),
        Step::Wait,
    ];
    let _ = left;
    let answers = container.script(&steps).unwrap();
    // The helper removes the cgroup, which fails while anybody is in it.
    assert_eq!(
        (answers[3].out.as_str(), answers[5].code),
        ("2", 0),
        "{answers:?}"
    );
}
