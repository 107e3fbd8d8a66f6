//! What an engine finds when it opens again.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use engine::containers::{Status, WaitCondition};
use engine::exec::{CreateExec, StartExec};
use vocab::config::RestartPolicy;

use crate::place::{LONG, PROGRAM, Place, eventually, read_all};

#[tokio::test(flavor = "multi_thread")]
async fn privileged_containers_outlive_the_engine() {
    let mut place = Place::new().await;
    place
        .create(
            "lives",
            &[
                "sh",
                "-c",
                "echo a; while [ ! -e /go ]; do sleep 0.02; done; echo b; exit 9",
            ],
        )
        .await;
    place
        .create("ends", &["sh", "-c", "sleep 0.3; exit 6"])
        .await;
    place.start("lives").await;
    place.start("ends").await;
    let pid = place
        .engine()
        .inspect("ends", false)
        .await
        .unwrap()
        .state
        .pid;
    place.drop_engine().await;
    testkit::eventually(LONG, || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    });
    place.reopen().await;
    let engine = place.engine();
    let ended = engine
        .wait("ends", WaitCondition::NotRunning)
        .await
        .unwrap();
    assert_eq!(ended.outcome().await.code, 6, "the code it really had");
    let state = engine.inspect("lives", false).await.unwrap().state;
    assert_eq!(state.status, Status::Running);
    let exec = CreateExec {
        cmd: vec!["touch".to_owned(), "/go".to_owned()],
        attach_stdout: true,
        ..CreateExec::default()
    };
    let wait = engine.wait("lives", WaitCondition::NextExit).await.unwrap();
    let id = engine.create_exec("lives", exec).await.unwrap().to_string();
    let attached = engine.start_exec(&id, StartExec::default()).await.unwrap();
    read_all(attached.unwrap()).await;
    assert_eq!(wait.outcome().await.code, 9);
    assert_eq!(place.logged("lives").await, "a\nb\n");
}

#[expect(
    clippy::disallowed_methods,
    reason = "an engine to be killed is a process of its own"
)]
#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_killed_engine_loses_nothing() {
    let mut place = Place::new().await;
    place.drop_engine().await;
    // The store is let go of a moment later than the engine.
    let mut held = None;
    eventually(async || {
        let mut child = Command::new(PROGRAM)
            .arg("hold")
            .arg(place.dir.path())
            .args(["held", "sh", "-c", "echo up; exec sleep 1000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        if line == "started\n" {
            held = Some(child);
            return true;
        }
        child.wait().unwrap();
        false
    })
    .await;
    let mut child = held.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    place.reopen().await;
    let engine = place.engine();
    let details = engine.inspect("held", false).await.unwrap();
    assert_eq!(details.state.status, Status::Running);
    assert_ne!(details.state.pid, 0);
    let wait = engine.wait("held", WaitCondition::NextExit).await.unwrap();
    engine.stop("held", None, Some(0)).await.unwrap();
    assert_eq!(wait.outcome().await.code, 137);
    eventually(async || place.logged("held").await == "up\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_policies_hold_over_a_restart_of_the_engine() {
    let mut place = Place::new().await;
    let policy = |name: &str| RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count: 0,
    };
    for name in ["always", "unless-stopped"] {
        place
            .create_as(name, &["sleep", "1000"], |_, host| {
                host.restart_policy = policy(name);
            })
            .await;
        place.start(name).await;
        place.engine().stop(name, None, Some(0)).await.unwrap();
    }
    place.reopen().await;
    let engine = place.engine();
    eventually(async || {
        engine.inspect("always", false).await.unwrap().state.status == Status::Running
    })
    .await;
    let state = engine.inspect("unless-stopped", false).await.unwrap().state;
    assert_eq!(state.status, Status::Exited);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_container_without_a_monitor_is_told_as_lost() {
    let mut place = Place::new().await;
    let id = place.create("lost", &["sleep", "1000"]).await;
    place.start("lost").await;
    let pid = place
        .engine()
        .inspect("lost", false)
        .await
        .unwrap()
        .state
        .pid;
    place.drop_engine().await;
    // Monitor and container die with their host, and the run directory with the boot.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(1)
        .unwrap();
    for pid in [parent.parse().unwrap(), pid] {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    testkit::eventually(LONG, || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    });
    // The engine that was dropped may have seen the monitor go, and begun the same.
    match std::fs::remove_dir_all(place.dir.path().join("run/containers").join(&id)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
    place.reopen().await;
    eventually(async || {
        place
            .engine()
            .inspect("lost", false)
            .await
            .unwrap()
            .state
            .status
            == Status::Exited
    })
    .await;
    let state = place.engine().inspect("lost", false).await.unwrap().state;
    assert_eq!(state.exit_code, 255);
    place.start("lost").await;
    assert!(
        place
            .engine()
            .inspect("lost", false)
            .await
            .unwrap()
            .state
            .is_running()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_what_nobody_owns_is_swept() {
    let mut place = Place::new().await;
    let stray = vocab::ContainerId::random().to_string();
    let half = place.create("half", &["true"]).await;
    place.drop_engine().await;
    for root in ["data", "run"] {
        let dir = place.dir.path().join(root).join("containers").join(&stray);
        std::fs::create_dir(dir).unwrap();
    }
    let store = place.dir.path().join("data/store");
    testkit::eventually(LONG, || {
        let run = place.dir.path().join("run");
        let Ok(store) = store::Store::open(&store, &run, &store::Options::default()) else {
            return false;
        };
        store.remove_snapshot(&half.parse().unwrap()).unwrap();
        let image = store.find_image("busybox").unwrap().id;
        store
            .create_snapshot(&stray.parse().unwrap(), &image)
            .unwrap();
        true
    });
    place.reopen().await;
    let everything = engine::containers::ListOptions {
        all: true,
        ..Default::default()
    };
    assert!(
        place.engine().list(everything).await.unwrap().is_empty(),
        "half of one is none"
    );
    place.create("half", &["true"]).await;
    let snapshot = place.dir.path().join("data/store/snapshots").join(&stray);
    assert!(!snapshot.exists());
    for root in ["data", "run"] {
        let dir = place.dir.path().join(root).join("containers").join(&stray);
        assert!(!dir.exists());
    }
}

/// Answers the first question on `socket` with `words`, framed as the protocol has it.
fn pretend(socket: &std::path::Path, words: &'static str) -> std::thread::JoinHandle<()> {
    // By a descriptor: the path may be longer than an address.
    let dir = std::fs::File::open(socket.parent().unwrap()).unwrap();
    let name = socket.file_name().unwrap().to_str().unwrap();
    let address = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    let listener = UnixListener::bind(address).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let length = u32::try_from(words.len()).unwrap().to_be_bytes();
        stream
            .write_all(&[&length, words.as_bytes()].concat())
            .unwrap();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_container_whose_monitor_cannot_be_understood_is_left_alone() {
    let mut place = Place::new().await;
    let id = place.create("lives", &["sleep", "1000"]).await;
    place.start("lives").await;
    let socket = place.run_dir(&id).join("monitor.sock");
    let aside = socket.with_extension("aside");
    for (words, why) in [
        (
            r#"{"Hello":{"version":2}}"#,
            "speaks version 2 of the protocol, and this berth version 1",
        ),
        (r#"{"Bonjour":{}}"#, "unknown variant `Bonjour`"),
    ] {
        place.drop_engine().await;
        std::fs::rename(&socket, &aside).unwrap();
        let stranger = pretend(&socket, words);
        let error = place.try_open().await.unwrap_err();
        stranger.join().unwrap();
        std::fs::rename(&aside, &socket).unwrap();
        let text = vocab::failure::chain(&error);
        let said = format!(
            "container {id} runs, and its monitor cannot be talked to: start the berth that \
             started it, and end it with that: "
        );
        assert!(text.starts_with(&said) && text.contains(why), "{text}");
        place.reopen().await;
        let state = place.engine().inspect("lives", false).await.unwrap().state;
        assert_eq!(state.status, Status::Running);
    }
}
