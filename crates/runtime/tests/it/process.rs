//! The process: exit codes, signals, streams, environment.

use serde_json::json;

use crate::kit::{Container, Step, Streaming};

#[test]
fn privileged_a_container_exits_with_its_programs_code() {
    assert_eq!(Container::sh("exit 42").run().code, 42);
    assert_eq!(
        Container::sh("kill -9 $$").run().code,
        0,
        "pid 1 is not killed from inside"
    );
}

#[test]
fn privileged_the_program_is_pid_1() {
    assert_eq!(Container::sh("echo $$; hostname").output(), "1\nbox");
}

#[test]
fn privileged_a_signal_ends_it() {
    let sleeper = Container::sh("echo ready; exec sleep 1000");
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Signal(9),
        Step::Wait,
    ];
    assert_eq!(sleeper.script(&steps).unwrap()[3].code, 137);
}

#[test]
fn privileged_signals_are_as_in_a_fresh_process() {
    // Rust ignores SIGPIPE, and a test harness may block others; none of it is inherited.
    let status = Container::sh("grep -E '^Sig(Blk|Ign):' /proc/self/status").output();
    assert_eq!(
        status,
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000"
    );
}

#[test]
fn privileged_nothing_but_the_standard_streams_is_open() {
    let fds = Container::sh("ls -l /proc/self/fd | grep -v /proc/ | grep -c -- '->'");
    assert_eq!(fds.output(), "3");
}

#[test]
fn privileged_output_and_errors_are_apart() {
    let answer = Container::sh("echo out; echo err >&2").run();
    assert_eq!(
        (answer.out.as_str(), answer.err.as_str()),
        ("out\n", "err\n")
    );
}

#[test]
fn privileged_input_reaches_the_program_and_ends() {
    let cat = Container::new(&["/bin/cat"]).with(Streaming::Input);
    let steps = [Step::Start, Step::Input("hello".into()), Step::Wait];
    let answers = cat.script(&steps).unwrap();
    assert_eq!((answers[2].out.as_str(), answers[2].code), ("hello", 0));
}

#[test]
fn privileged_without_streams_everything_is_null() {
    let null = Container::sh("for n in 0 1 2; do readlink /proc/self/fd/$n; done >/out; cat /out");
    let null = null.with(Streaming::Null);
    let answers = null.script(&[Step::Start, Step::Wait]).unwrap();
    assert_eq!((answers[1].code, answers[1].out.as_str()), (0, ""));
    let out = std::fs::read_to_string(null.dir.path().join("upper/out")).unwrap();
    assert_eq!(out, "/dev/null\n/out\n/dev/null\n");
}

#[test]
fn privileged_a_terminal_is_a_terminal() {
    let script = "tty; stty size; readlink /proc/self/fd/0; echo > /dev/console; echo > /dev/tty";
    let terminal = Container::sh(script).with(Streaming::Terminal(33, 101));
    let out = terminal.output().replace('\r', "");
    assert_eq!(out.trim_end(), "/dev/pts/0\n33 101\n/dev/pts/0");
}

#[test]
fn privileged_a_terminal_takes_input_and_sends_interrupts() {
    let terminal =
        Container::sh("trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 1; done")
            .with(Streaming::Terminal(24, 80));
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Input("\x03".into()),
        Step::Wait,
    ];
    let answers = terminal.script(&steps).unwrap();
    assert!(answers[3].out.contains("interrupted"), "{:?}", answers[3]);
    assert_eq!(answers[3].code, 7);
}

#[test]
fn privileged_the_terminal_belongs_to_the_user() {
    let terminal = Container::sh("stat -c '%u %g %a' $(tty)")
        .set("/process/user", json!({"uid": 33, "gid": 33}))
        .with(Streaming::Terminal(24, 80));
    assert_eq!(terminal.output(), "33 5 620");
}

#[test]
fn privileged_a_user_may_reopen_its_output() {
    let user = Container::sh("echo one > /dev/stdout; echo two > /proc/self/fd/2")
        .set("/process/user", json!({"uid": 33, "gid": 33}));
    let answer = user.run();
    assert_eq!(
        (answer.out.as_str(), answer.err.as_str(), answer.code),
        ("one\n", "two\n", 0)
    );
}

#[test]
fn privileged_the_environment_is_what_was_asked_and_a_home() {
    let env = |container: Container| {
        let out = container.output();
        let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(env(Container::new(&["/bin/env"])), ["HOME=/root", path]);
    let web = Container::new(&["/bin/env"]).set("/process/user", json!({"uid": 33, "gid": 0}));
    assert_eq!(env(web), ["HOME=/var/www", path]);
    let nobody = Container::new(&["env"])
        .set("/process/user", json!({"uid": 4711, "gid": 0}))
        .add("/process/env", json!("A=b c"));
    assert_eq!(env(nobody), ["A=b c", "HOME=/", path]);
    let own = Container::new(&["env"]).add("/process/env", json!("HOME=/tmp"));
    assert_eq!(env(own), ["HOME=/tmp", path]);
}

#[test]
fn privileged_the_working_directory_is_made_if_missing() {
    let cwd = Container::sh("pwd; stat -c '%a %u' .").set("/process/cwd", json!("/made/for/it"));
    assert_eq!(cwd.output(), "/made/for/it\n755 0");
}

#[test]
fn privileged_the_mask_of_new_files_is_022_or_as_asked() {
    assert_eq!(Container::sh("umask").output(), "0022");
    let user = json!({"uid": 0, "gid": 0, "umask": 63});
    assert_eq!(
        Container::sh("umask").set("/process/user", user).output(),
        "0077"
    );
}

/// Why a program did not start, and with what code.
fn fails_to_start(container: &Container) -> (String, i32) {
    let answers = container.script(&[Step::Start, Step::Wait]).unwrap();
    (
        answers[0].error.clone().expect("it started"),
        answers[0].code,
    )
}

#[test]
fn privileged_a_program_that_is_not_there_is_127() {
    assert_eq!(
        fails_to_start(&Container::new(&["nope"])),
        (
            String::from(r#"exec: "nope": executable file not found in $PATH"#),
            127
        )
    );
    assert_eq!(
        fails_to_start(&Container::new(&["/no/pe", "x"])),
        (
            String::from(r#"exec: "/no/pe": stat /no/pe: no such file or directory"#),
            127
        )
    );
}

#[test]
fn privileged_a_program_that_cannot_run_is_126() {
    assert_eq!(
        fails_to_start(&Container::new(&["/etc/passwd"])),
        (
            String::from(r#"exec: "/etc/passwd": permission denied"#),
            126
        )
    );
    assert_eq!(
        fails_to_start(&Container::new(&["/etc"])),
        (String::from(r#"exec: "/etc": is a directory"#), 126)
    );
    let text = Container::new(&["/bin/text"]);
    std::fs::write(text.file("/bin/text"), "no program").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(text.file("/bin/text"), mode).unwrap();
    assert_eq!(
        fails_to_start(&text),
        (String::from("exec /bin/text: exec format error"), 126)
    );
}

#[test]
fn privileged_a_script_without_its_interpreter_is_not_found() {
    let script = Container::new(&["/bin/script"]);
    std::fs::write(script.file("/bin/script"), "#!/no/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(script.file("/bin/script"), mode).unwrap();
    assert_eq!(
        fails_to_start(&script),
        (
            String::from("exec /bin/script: no such file or directory"),
            127
        )
    );
}

#[test]
fn privileged_a_container_starts_once() {
    let answers = Container::sh("exit 0")
        .script(&[Step::Start, Step::Start, Step::Wait])
        .unwrap();
    assert_eq!(
        answers[1].error.as_deref(),
        Some("the container was started before")
    );
}

#[test]
fn privileged_a_container_that_is_never_started_ends_with_its_caller() {
    // The helper drops it: the process sees its gate close. `script` checks that nothing is left.
    assert_eq!(
        Container::sh("exit 0").script(&[Step::Pids]).unwrap()[0].out,
        "1"
    );
}
