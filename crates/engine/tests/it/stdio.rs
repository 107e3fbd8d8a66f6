//! Attach, exec, logs.

use engine::attach::{AttachOptions, Source, Written};
use engine::containers::WaitCondition;
use engine::exec::{CreateExec, StartExec, StartExecError};
use engine::logs::LogOptions;
use futures_util::StreamExt as _;
use vocab::{Failure as _, Kind};

use crate::place::{LONG, Place, eventually, keep, read_all};

fn all() -> AttachOptions {
    AttachOptions {
        stdin: true,
        stdout: true,
        stderr: true,
        stream: true,
        ..AttachOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_who_attaches_before_the_start_misses_nothing() {
    let place = Place::new().await;
    place
        .create("early", &["sh", "-c", "echo out; echo err >&2"])
        .await;
    let attached = place.engine().attach("early", all()).await.unwrap();
    assert!(attached.input.is_none(), "stdin is not open");
    assert_eq!(place.run("early").await.code, 0);
    let (out, err) = read_all(attached).await;
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_input_reaches_the_process_and_its_end_too() {
    let place = Place::new().await;
    place
        .create_as("cat", &["cat"], |config, _| {
            config.open_stdin = true;
            config.stdin_once = true;
        })
        .await;
    let mut attached = place.engine().attach("cat", all()).await.unwrap();
    let mut input = attached.input.take().unwrap();
    let typed = "line\n".repeat(20_000);
    let writing = async {
        assert_eq!(input.write(typed.as_bytes()).await.unwrap(), Written::All);
        input.close().await.unwrap();
    };
    place.start("cat").await;
    let ((), (out, _)) = tokio::join!(writing, read_all(attached));
    assert_eq!(out.len(), typed.len());
    eventually(async || {
        !place
            .engine()
            .inspect("cat", false)
            .await
            .unwrap()
            .state
            .is_running()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_detach_keys_leave_the_container_running() {
    let place = Place::new().await;
    place
        .create_as("tty", &["cat"], |config, _| {
            config.tty = true;
            config.open_stdin = true;
        })
        .await;
    place.start("tty").await;
    let mut attached = place.engine().attach("tty", all()).await.unwrap();
    assert!(attached.tty);
    place.engine().resize("tty", 33, 99).await.unwrap();
    let mut input = attached.input.take().unwrap();
    input.write(b"hi\r").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"hi\r\nhi\r\n") {
        let chunk = tokio::time::timeout(LONG, attached.output.next())
            .await
            .unwrap();
        seen.extend_from_slice(&chunk.unwrap().unwrap().bytes);
    }
    assert_eq!(input.write(b"\x10").await.unwrap(), Written::All);
    assert_eq!(input.write(b"\x11").await.unwrap(), Written::Detached);
    assert!(attached.output.next().await.is_none());
    let state = place.engine().inspect("tty", false).await.unwrap().state;
    assert!(state.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_commands_run_beside() {
    let place = Place::new().await;
    let engine = place.engine();
    place
        .create_as("xx", &["sleep", "1000"], |config, _| {
            config.env = Some(vec!["OWN=1".to_owned()]);
        })
        .await;
    let words = |words: &[&str]| CreateExec {
        cmd: words.iter().map(|&word| word.to_owned()).collect(),
        attach_stdout: true,
        attach_stderr: true,
        ..CreateExec::default()
    };
    let error = engine
        .create_exec("xx", words(&["true"]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    place.start("xx").await;
    let script = ["sh", "-c", "echo $OWN $FROM $HOME; echo err >&2; exit 4"];
    let id = engine
        .create_exec("xx", words(&script))
        .await
        .unwrap()
        .to_string();
    let attached = engine
        .start_exec(&id, StartExec::default())
        .await
        .unwrap()
        .unwrap();
    let (out, err) = read_all(attached).await;
    assert_eq!((out.as_str(), err.as_str()), ("1 image /root\n", "err\n"));
    eventually(async || engine.inspect_exec(&id).await.unwrap().exit_code == Some(4)).await;
    let again = engine
        .start_exec(&id, StartExec::default())
        .await
        .unwrap_err();
    assert_eq!(again.kind(), Kind::Conflict);

    let id = engine
        .create_exec("xx", words(&["nope"]))
        .await
        .unwrap()
        .to_string();
    let error = engine
        .start_exec(&id, StartExec::default())
        .await
        .unwrap_err();
    let StartExecError::Launch { code, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*code, 127);
    assert!(
        error
            .to_string()
            .contains("executable file not found in $PATH"),
        "{error}"
    );
    assert_eq!(engine.inspect_exec(&id).await.unwrap().exit_code, Some(127));

    let user = CreateExec {
        user: Some("65534:7".to_owned()),
        working_dir: Some("/tmp".to_owned()),
        ..words(&["sh", "-c", "id -u; id -g; pwd"])
    };
    let id = engine.create_exec("xx", user).await.unwrap().to_string();
    let attached = engine
        .start_exec(&id, StartExec::default())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read_all(attached).await.0, "65534\n7\n/tmp\n");
    let missing = engine.inspect_exec("nope").await.unwrap_err();
    assert_eq!(missing.to_string(), "No such exec instance: nope");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_followed_log_ends_with_the_container() {
    let place = Place::new().await;
    let engine = place.engine();
    let script = "for i in $(seq 1 2000); do echo line $i; done; sleep 0.2; echo last";
    place
        .create_as("log", &["sh", "-c", script], |_, host| {
            let options = [("max-size", "8k"), ("max-file", "100")];
            host.log_config.kind = "json-file".to_owned();
            host.log_config.config =
                Some(options.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        })
        .await;
    place.start("log").await;
    let follow = LogOptions {
        stdout: true,
        follow: true,
        ..LogOptions::default()
    };
    let lines = tokio::time::timeout(LONG, place.lines("log", follow));
    let lines = lines.await.unwrap();
    assert!(lines.iter().all(|(source, _)| *source == Source::Stdout));
    let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines.len(), 2001);
    assert_eq!(lines[1999], "line 2000\n");
    assert_eq!(lines[2000], "last\n");
    let tail = LogOptions {
        stdout: true,
        tail: Some(2),
        ..LogOptions::default()
    };
    assert_eq!(place.lines("log", tail).await.len(), 2);
    let none = engine.logs("log", LogOptions::default(), keep);
    let none = none.await.err().unwrap();
    assert_eq!(none.kind(), Kind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_events_tell_a_life_in_order() {
    let place = Place::new().await;
    let engine = place.engine();
    let mut events = engine.events(Default::default()).unwrap();
    place
        .create_as("told", &["sh", "-c", "exit 2"], |config, _| {
            config.labels = Some([("k".to_owned(), "v".to_owned())].into());
        })
        .await;
    place.run("told").await;
    let removed = engine.wait("told", WaitCondition::Removed).await.unwrap();
    place.remove("told").await;
    removed.outcome().await;
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("container destroy") {
        let event = tokio::time::timeout(LONG, events.next())
            .await
            .unwrap()
            .unwrap();
        if event.kind.name() == "container" {
            assert_eq!(event.attributes["k"], "v");
            assert_eq!(event.attributes["name"], "told");
        }
        if event.action == "die" {
            assert_eq!(event.attributes["exitCode"], "2");
        }
        seen.push(format!("{} {}", event.kind.name(), event.action));
    }
    let wanted = [
        "container create",
        "network connect",
        "container start",
        "container die",
        "network disconnect",
        "container destroy",
    ];
    assert_eq!(seen, wanted);
}
