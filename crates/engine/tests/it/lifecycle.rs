//! From creation to removal.

use engine::containers::{RemoveOptions, Status, Update, WaitCondition};
use vocab::config::{Resources, RestartPolicy};
use vocab::{Failure as _, Kind};

use crate::place::{LONG, Place, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_container_runs_and_leaves_nothing() {
    let place = Place::new().await;
    let id = place
        .create("one", &["sh", "-c", "echo hello; exit 7"])
        .await;
    assert_eq!(place.run("one").await.code, 7);
    assert_eq!(place.logged("one").await, "hello\n");
    let details = place.engine().inspect(&id[..5], false).await.unwrap();
    assert_eq!(details.state.status, Status::Exited);
    assert_eq!((details.state.exit_code, details.state.pid), (7, 0));
    assert!(details.state.finished_at >= details.state.started_at);
    assert_eq!(details.config.hostname, id[..12]);
    place.remove("one").await;
    let dir = place.dir.path();
    for left in ["data/containers", "run/containers", "data/store/snapshots"] {
        let entries = std::fs::read_dir(dir.join(left)).unwrap().count();
        assert_eq!(entries, 0, "{left}");
    }
    let error = place.engine().inspect("one", false).await.unwrap_err();
    assert_eq!(error.to_string(), "No such container: one");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_signals_end_a_container_with_their_codes() {
    let place = Place::new().await;
    let engine = place.engine();
    place.create("kill", &["sleep", "1000"]).await;
    let wait = engine.wait("kill", WaitCondition::NextExit).await.unwrap();
    place.start("kill").await;
    engine.kill("kill", None).await.unwrap();
    assert_eq!(wait.outcome().await.code, 137);
    let error = engine.kill("kill", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    let error = vocab::failure::chain(&error);
    assert!(error.ends_with("is not running"), "{error}");

    let trap = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    place.create("stop", &["sh", "-c", trap]).await;
    place.start("stop").await;
    eventually(async || place.logged("stop").await == "ready\n").await;
    engine.stop("stop", None, None).await.unwrap();
    let state = engine.inspect("stop", false).await.unwrap().state;
    assert_eq!((state.status, state.exit_code), (Status::Exited, 3));
    let again = engine.stop("stop", None, None).await.unwrap_err();
    assert_eq!(again.kind(), Kind::NotModified);

    // PID 1 without a handler ignores SIGTERM: the grace ends with SIGKILL.
    place.create("deaf", &["sleep", "1000"]).await;
    place.start("deaf").await;
    engine.stop("deaf", None, Some(0)).await.unwrap();
    let state = engine.inspect("deaf", false).await.unwrap().state;
    assert_eq!(state.exit_code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_program_that_is_not_there_is_told() {
    let place = Place::new().await;
    for (words, code, part) in [
        (
            &["nope"][..],
            127,
            "exec: \"nope\": executable file not found in $PATH",
        ),
        (&["/etc/passwd"], 126, "permission denied"),
        (&["/nope"], 127, "no such file or directory"),
    ] {
        place.create("xx", words).await;
        let error = place.engine().start("xx").await.unwrap_err();
        let text = vocab::failure::chain(&error);
        assert!(text.contains(part), "{text}");
        assert_eq!(error.kind(), Kind::InvalidArgument);
        let state = place.engine().inspect("xx", false).await.unwrap().state;
        assert_eq!((state.status, state.exit_code), (Status::Created, code));
        place.remove("xx").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_waiters_hear_what_they_wait_for() {
    let place = Place::new().await;
    let engine = place.engine();
    place
        .create_as("waits", &["sh", "-c", "exit 5"], |_, host| {
            host.auto_remove = true;
        })
        .await;
    let idle = engine
        .wait("waits", WaitCondition::NotRunning)
        .await
        .unwrap();
    assert_eq!(idle.outcome().await.code, 0, "it does not run yet");
    let next = engine.wait("waits", WaitCondition::NextExit).await.unwrap();
    let removed = engine.wait("waits", WaitCondition::Removed).await.unwrap();
    place.start("waits").await;
    let both = async { (next.outcome().await.code, removed.outcome().await.code) };
    assert_eq!(tokio::time::timeout(LONG, both).await.unwrap(), (5, 5));
    assert!(
        engine.inspect("waits", false).await.is_err(),
        "it was to remove itself"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_paused_container_stands_still() {
    let place = Place::new().await;
    let engine = place.engine();
    place.create("paused", &["sleep", "1000"]).await;
    assert_eq!(
        engine.pause("paused").await.unwrap_err().kind(),
        Kind::Conflict
    );
    place.start("paused").await;
    engine.pause("paused").await.unwrap();
    let state = engine.inspect("paused", false).await.unwrap().state;
    assert_eq!(state.status, Status::Paused);
    assert!(engine.pause("paused").await.is_err());
    let refused = engine
        .remove("paused", RemoveOptions::default())
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    engine.unpause("paused").await.unwrap();
    engine.pause("paused").await.unwrap();
    // A stop thaws it first.
    engine.stop("paused", Some("KILL"), Some(10)).await.unwrap();
    let state = engine.inspect("paused", false).await.unwrap().state;
    assert_eq!((state.status, state.exit_code), (Status::Exited, 137));
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_names_are_unique_and_free_again() {
    let place = Place::new().await;
    let engine = place.engine();
    let first = place.create("name", &["true"]).await;
    let wanted = crate::place::wanted("name", &["true"], |_, _| {});
    let error = engine.create(wanted).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    let conflict = format!(
        "Conflict. The container name \"/name\" is already in use by container \"{first}\". You \
         have to remove (or rename) that container to be able to reuse that name."
    );
    assert_eq!(error.to_string(), conflict);
    engine.rename("name", "other").await.unwrap();
    let second = place.create("name", &["true"]).await;
    assert_ne!(first, second);
    let error = engine.rename("other", "name").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    let error = engine.rename("other", "/").await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    place.remove("other").await;
    place.create("other", &["true"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_running_container_is_removed_by_force_alone() {
    let place = Place::new().await;
    let engine = place.engine();
    place.create("runs", &["sleep", "1000"]).await;
    place.start("runs").await;
    let error = engine
        .remove("runs", RemoveOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        vocab::failure::chain(&error),
        "cannot remove container \"runs\": container is running: stop the container before removing \
         or force remove"
    );
    place.remove("runs").await;
    assert!(engine.list(Default::default()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_policies_start_a_container_again() {
    let place = Place::new().await;
    let engine = place.engine();
    let policy = |name: &str, tries| RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count: tries,
    };
    place
        .create_as("tries", &["sh", "-c", "echo x; exit 1"], |_, host| {
            host.restart_policy = policy("on-failure", 2);
        })
        .await;
    place.start("tries").await;
    eventually(async || {
        engine.inspect("tries", false).await.unwrap().state.status == Status::Exited
    })
    .await;
    assert_eq!(place.logged("tries").await, "x\nx\nx\n");
    assert_eq!(
        engine.inspect("tries", false).await.unwrap().restart_count,
        2
    );

    place
        .create_as("always", &["sleep", "1000"], |_, host| {
            host.restart_policy = policy("always", 0);
        })
        .await;
    place.start("always").await;
    let first = engine.inspect("always", false).await.unwrap().state.pid;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(first).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    eventually(async || {
        let state = engine.inspect("always", false).await.unwrap().state;
        state.status == Status::Running && state.pid != first
    })
    .await;
    engine.stop("always", None, Some(0)).await.unwrap();
    let state = engine.inspect("always", false).await.unwrap().state;
    assert_eq!(
        state.status,
        Status::Exited,
        "what was stopped stays stopped"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_restart_gives_a_new_process_and_keeps_the_files() {
    let place = Place::new().await;
    let engine = place.engine();
    let script = "echo run >> /runs; wc -l < /runs; exec sleep 1000";
    place.create("again", &["sh", "-c", script]).await;
    place.start("again").await;
    eventually(async || place.logged("again").await == "1\n").await;
    engine.restart("again", None, Some(0)).await.unwrap();
    eventually(async || place.logged("again").await == "1\n2\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_limits_change_while_it_runs() {
    let place = Place::new().await;
    let engine = place.engine();
    place
        .create_as("limited", &["sleep", "1000"], |_, host| {
            host.resources.memory = 64 << 20;
        })
        .await;
    place.start("limited").await;
    let sample = engine.stats("limited").await.unwrap().now;
    assert_eq!(sample.memory.limit_bytes, 64 << 20);
    assert!(sample.pids >= 1 && sample.cpu.host_nanos > 0);
    let update = Update {
        resources: Resources {
            memory: 96 << 20,
            memory_swap: 192 << 20,
            ..Resources::default()
        },
        restart_policy: None,
    };
    engine.update("limited", update).await.unwrap();
    let sample = engine.stats("limited").await.unwrap().now;
    assert_eq!(sample.memory.limit_bytes, 96 << 20);
    let top = engine.top("limited", "-o pid,args").await.unwrap();
    assert!(
        top.processes.iter().any(|row| row[1] == "sleep 1000"),
        "{top:?}"
    );
}
