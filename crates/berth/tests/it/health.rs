//! Whether containers are well, and how they end.

use serde_json::{Value, json};

use crate::client::{CLIENTS, Client};
use crate::host::Host;

fn inspect(host: &Host, name: &str) -> Value {
    let said = host.docker(&["inspect", name]);
    let list: Value = serde_json::from_str(said.ok()).unwrap();
    list[0].clone()
}

fn health(host: &Host, name: &str) -> Value {
    inspect(host, name)["State"]["Health"].clone()
}

/// A second from now, since clients cut moments to whole ones.
fn soon() -> String {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    (since.as_secs() + 1).to_string()
}

fn status(host: &Host, client: Client, name: &str) -> String {
    let filter = format!("name=^{name}$");
    let ps = ["ps", "-a", "--filter", &filter, "--format", "{{.Status}}"];
    client.run(host, &ps).ok().to_owned()
}

#[test]
fn privileged_health_is_checked_shown_and_kept() {
    let mut host = Host::new();
    for (client, name) in CLIENTS.into_iter().zip(["first", "second"]) {
        let run = [
            "run",
            "-d",
            "--name",
            name,
            "--health-cmd",
            "echo looked; test -f /well",
            "--health-interval",
            "200ms",
            "--health-retries",
            "2",
            "busybox",
            "sleep",
            "1000",
        ];
        client.run(&host, &run).ok();
        host.wait_until("two failures make it unhealthy", || {
            status(&host, client, name).ends_with("(unhealthy)")
        });
        client.run(&host, &["exec", name, "touch", "/well"]).ok();
        host.wait_until("a success makes it healthy", || {
            status(&host, client, name).ends_with("(healthy)")
        });
        host.wait_until("five checks are remembered, and no more", || {
            let log = health(&host, name)["Log"].as_array().unwrap().clone();
            assert!(log.len() <= 5);
            log.len() == 5
                && log.iter().all(|entry| entry["ExitCode"] == 0)
                && log.iter().all(|entry| entry["Output"] == "looked\n")
        });
        assert_eq!(health(&host, name)["FailingStreak"], 0);
        let filter = ["ps", "--filter", "health=healthy", "--format", "{{.Names}}"];
        assert!(client.run(&host, &filter).ok().contains(name));
        let events = client.run(
            &host,
            &[
                "events",
                "--since",
                "1h",
                "--until",
                &soon(),
                "--filter",
                "event=health_status",
                "--filter",
                &format!("container={name}"),
                "--format",
                "{{.Action}}",
            ],
        );
        assert_eq!(
            events.ok(),
            "health_status: unhealthy\nhealth_status: healthy"
        );
    }
    // What was found outlives the daemon, and goes on being looked for.
    host.berth(&["pause", "first"]).ok();
    let before = health(&host, "first");
    host.kill_daemon();
    host.start();
    assert_eq!(health(&host, "first"), before);
    host.berth(&["unpause", "first"]).ok();
    host.berth(&["exec", "first", "rm", "/well"]).ok();
    host.wait_until("it is checked again", || {
        status(&host, Client::Docker, "first").ends_with("(unhealthy)")
    });
    host.berth(&["kill", "second"]).ok();
    host.berth(&["wait", "second"]).ok();
    assert!(!status(&host, Client::Docker, "second").contains("health"));
    host.berth(&["start", "second"]).ok();
    let again = health(&host, "second")["Status"].clone();
    assert!(again == "starting" || again == "healthy", "{again}");
}

#[test]
fn privileged_checks_that_hang_or_cannot_run_fail_and_leave_nothing() {
    let host = Host::new();
    let run = |name: &str, more: &[&str]| {
        let all = [
            &[
                "run",
                "-d",
                "--name",
                name,
                "--health-interval",
                "20ms",
                "--health-retries",
                "1",
            ],
            more,
            &["busybox", "sleep", "1000"],
        ]
        .concat();
        host.berth(&all).ok();
        host.wait_until("it is unhealthy", || {
            status(&host, Client::Docker, name).ends_with("(unhealthy)")
        });
    };
    run(
        "hangs",
        &[
            "--health-cmd",
            "echo begun; sleep 777",
            "--health-timeout",
            "300ms",
        ],
    );
    let log = health(&host, "hangs")["Log"].clone();
    assert_eq!(log[0]["ExitCode"], -1);
    assert_eq!(
        log[0]["Output"],
        "Health check exceeded timeout (300ms): begun\n"
    );
    host.berth(&["pause", "hangs"]).ok();
    host.berth(&["unpause", "hangs"]).ok();
    host.berth(&["rm", "-f", "hangs"]).ok();
    // Within the start period nothing counts; a check in the image counts as the user's own.
    let never = [
        "run",
        "-d",
        "--name",
        "starts",
        "--health-cmd",
        "false",
        "--health-interval",
        "20ms",
        "--health-start-period",
        "1h",
        "--health-start-interval",
        "20ms",
        "busybox",
        "sleep",
        "99",
    ];
    host.berth(&never).ok();
    host.wait_until("it was looked at a few times", || {
        health(&host, "starts")["Log"]
            .as_array()
            .is_some_and(|log| log.len() == 5)
    });
    assert_eq!(health(&host, "starts")["Status"], "starting");
    assert_eq!(health(&host, "starts")["FailingStreak"], 0);
    for client in CLIENTS {
        assert!(status(&host, client, "starts").ends_with("(health: starting)"));
    }
}

#[test]
fn privileged_checks_of_images_are_inherited_changed_or_switched_off() {
    let host = Host::new();
    let change = "HEALTHCHECK --interval=30ms --retries=7 CMD [\"/bin/true\"]";
    host.berth(&["create", "--name", "base", "busybox", "true"])
        .ok();
    host.berth(&["commit", "-c", change, "base", "checked"])
        .ok();
    let config = |arguments: &[&str]| {
        let all = [
            &["create", "--name", "made"],
            arguments,
            &["checked", "sleep", "9"],
        ]
        .concat();
        for client in CLIENTS {
            client.run(&host, &all).ok();
            let found = inspect(&host, "made")["Config"]["Healthcheck"].clone();
            host.berth(&["rm", "made"]).ok();
            if client == Client::Berth {
                return found;
            }
        }
        unreachable!("there are two clients")
    };
    assert_eq!(
        config(&[]),
        json!({"Test": ["CMD", "/bin/true"], "Interval": 30_000_000, "Retries": 7})
    );
    assert_eq!(
        config(&["--health-retries", "2"]),
        json!({"Test": ["CMD", "/bin/true"], "Interval": 30_000_000, "Retries": 2})
    );
    let off = config(&["--no-healthcheck"]);
    assert_eq!(off["Test"], json!(["NONE"]));
    let short = [
        "create",
        "--health-cmd",
        "x",
        "--health-interval",
        "1us",
        "busybox",
        "x",
    ];
    for client in CLIENTS {
        assert!(
            client
                .run(&host, &short)
                .stderr
                .contains("Interval in Healthcheck cannot be less than 1ms")
        );
    }
}

/// A first process without a handler never hears the signal: nobody waits for it. One that has a
/// handler is given its time.
#[test]
fn privileged_a_process_that_cannot_hear_the_stop_signal_is_killed_at_once() {
    let host = Host::new();
    for client in CLIENTS {
        host.berth(&["run", "-d", "--name", "deaf", "busybox", "sleep", "1000"])
            .ok();
        let trap = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
        host.berth(&["run", "-d", "--name", "hears", "busybox", "sh", "-c", trap])
            .ok();
        host.wait_until("the handler is there", || {
            host.berth(&["logs", "hears"]).ok() == "ready"
        });
        client
            .run(&host, &["stop", "-t", "600", "deaf", "hears"])
            .ok();
        let events = |name: &str| {
            let container = format!("container={name}");
            let all = [
                "events",
                "--since",
                "1h",
                "--until",
                &soon(),
                "--filter",
                "event=kill",
                "--filter",
                &container,
                "--format",
                "{{.Actor.Attributes.signal}} {{.Actor.Attributes.reason}}",
            ];
            client.run(&host, &all).ok().to_owned()
        };
        assert!(
            events("deaf").ends_with("15 <no value>\n9 process 1 has no handler of signal 15"),
            "{}",
            events("deaf")
        );
        assert!(events("hears").ends_with("15 <no value>"));
        assert_eq!(inspect(&host, "deaf")["State"]["ExitCode"], 137);
        assert_eq!(inspect(&host, "hears")["State"]["ExitCode"], 3);
        host.berth(&["rm", "deaf", "hears"]).ok();
    }
}

#[test]
fn privileged_limits_and_policies_are_updated() {
    let host = Host::new();
    host.berth(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])
        .ok();
    for client in CLIENTS {
        let update = [
            "update",
            "--pids-limit",
            "77",
            "--restart",
            "on-failure:4",
            "box",
        ];
        assert_eq!(client.run(&host, &update).ok(), "box");
        let found = inspect(&host, "box")["HostConfig"].clone();
        assert_eq!(found["PidsLimit"], 77);
        assert_eq!(
            found["RestartPolicy"],
            json!({"Name": "on-failure", "MaximumRetryCount": 4})
        );
        let update = ["update", "--pids-limit", "78", "--restart", "no", "box"];
        client.run(&host, &update).ok();
        assert_eq!(
            client.run(&host, &["update", "box"]).fails(1),
            "you must provide one or more flags when using this command"
        );
        let said = client.run(&host, &["update", "-m", "64m", "nobox"]);
        assert!(
            said.fails(1).contains("No such container: nobox"),
            "{said:?}"
        );
    }
}
