//! Images as people handle them: out and in again, explained, verified, measured.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::client::{CLIENTS, Client};
use crate::host::Host;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn privileged_a_container_is_exported_as_it_is_seen() {
    let host = Host::new();
    let script = "echo new > /new; rm /etc/passwd; mkdir /d; sleep 1000";
    host.berth(&[
        "run", "-d", "--name", "one", "-v", "/vol", "busybox", "sh", "-c", script,
    ])
    .ok();
    host.wait_until("the script has come to its end", || {
        host.berth(&["exec", "one", "test", "-d", "/d"]).code == Some(0)
    });
    for client in CLIENTS {
        let tar = host.path().join(format!("{client:?}.tar"));
        let tar = tar.to_str().unwrap();
        client.run(&host, &["export", "-o", tar, "one"]).ok();
        let list = Command::new("tar").args(["tf", tar]).output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        let has = |name: &str| list.lines().any(|line| line == name);
        assert!(has("new") && has("d/") && has("bin/busybox"), "{list}");
        assert!(!has("etc/passwd"), "{list}");
        let refused = client.run(&host, &["export", "-o", tar, "nobody"]);
        assert!(
            refused.fails(1).contains("No such container: nobody"),
            "{refused:?}"
        );
    }
    // What was exported can be imported, and runs.
    let tar = host.path().join("Berth.tar");
    host.berth(&["import", tar.to_str().unwrap(), "again"]).ok();
    let said = host.berth(&["run", "--rm", "again", "cat", "/new"]);
    assert_eq!(said.ok(), "new");
    host.berth(&["rm", "-fv", "one"]).ok();
}

#[test]
fn privileged_a_container_becomes_an_image() {
    let host = Host::new();
    for client in CLIENTS {
        let script = "echo kept > /kept; rm /etc/passwd";
        client
            .run(
                &host,
                &[
                    "run", "--name", "one", "-e", "A=b", "busybox", "sh", "-c", script,
                ],
            )
            .ok();
        let said = client.run(
            &host,
            &[
                "commit",
                "-m",
                "why",
                "-a",
                "who",
                "-c",
                "CMD [\"cat\", \"/kept\"]",
                "one",
                "made:1",
            ],
        );
        let id = said.ok().to_owned();
        assert!(id.starts_with("sha256:"), "{id}");
        assert_eq!(client.run(&host, &["run", "--rm", "made:1"]).ok(), "kept");
        let gone = client.run(
            &host,
            &["run", "--rm", "made:1", "test", "-e", "/etc/passwd"],
        );
        assert_eq!(gone.code, Some(1), "{gone:#?}");
        let image = &json(client.run(&host, &["image", "inspect", "made:1"]).ok())[0];
        assert_eq!(image["Id"], id.as_str());
        assert_eq!(
            (&image["Comment"], &image["Author"]),
            (&"why".into(), &"who".into())
        );
        assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 2);
        let env = image["Config"]["Env"].as_array().unwrap();
        assert!(env.contains(&"A=b".into()), "{env:?}");
        let refused = client.run(&host, &["commit", "-c", "RUN x", "one"]);
        assert!(
            refused
                .fails(1)
                .contains("RUN is not a valid change command"),
            "{refused:?}"
        );
        client.run(&host, &["rm", "one"]).ok();
        client.run(&host, &["rmi", "made:1"]).ok();
    }
}

#[test]
fn privileged_a_running_container_is_committed_and_runs_on() {
    let host = Host::new();
    host.berth(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"])
        .ok();
    for flags in [
        &["commit", "one", "made"][..],
        &["commit", "--pause=false", "one", "made"],
    ] {
        host.docker(flags).ok();
        let state = host.berth(&["inspect", "-f", "{{.State.Status}}", "one"]);
        assert_eq!(state.ok(), "running");
    }
    host.berth(&["rm", "-f", "one"]).ok();
}

#[test]
fn privileged_an_image_is_explained_and_verified() {
    let host = Host::new();
    let script = "head -c 100000 /dev/urandom > /big; cp /bin/busybox /copy";
    host.berth(&["run", "--name", "one", "busybox", "sh", "-c", script])
        .ok();
    host.berth(&["commit", "one", "two"]).ok();
    let explained = host.berth(&["image", "explain", "--format", "json", "two"]);
    let explained = json(explained.ok());
    assert_eq!(explained["Layers"].as_array().unwrap().len(), 2);
    let paths = |list: &Value| -> Vec<String> {
        let files = list.as_array().unwrap().iter();
        files
            .map(|file| file["Path"].as_str().unwrap().to_owned())
            .collect()
    };
    assert!(
        paths(&explained["Largest"]).contains(&"/big".to_owned()),
        "{explained}"
    );
    assert!(
        paths(&explained["Duplicates"][0]).contains(&"/copy".to_owned()),
        "{explained}"
    );
    assert!(
        explained["Duplicate"].as_i64().unwrap() > 100_000,
        "{explained}"
    );
    let text = host.berth(&["image", "explain", "two"]);
    assert!(text.ok().contains("Same content"), "{text:#?}");
    let verified = host.berth(&["image", "verify"]);
    assert_eq!(verified.ok().lines().count(), 2, "{verified:#?}");
    assert!(
        verified.ok().lines().all(|line| line.contains(": whole (")),
        "{verified:#?}"
    );
    // One bit of the configuration turns.
    let id = json(host.berth(&["image", "inspect", "two"]).ok())[0]["RootFS"]["Layers"][1].clone();
    let blob = id
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap()
        .to_owned();
    let blob = host.path().join("data/store/blobs/sha256").join(blob);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[2000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let verified = host.berth(&["image", "verify", "two"]);
    assert_eq!(verified.code, Some(1), "{verified:#?}");
    assert!(verified.stdout.starts_with("two: damaged"), "{verified:#?}");
    host.berth(&["image", "verify", "busybox"]).ok();
}

#[test]
fn privileged_disk_usage_explains_every_byte() {
    let host = Host::new();
    let script =
        "head -c 3000000 /dev/urandom > /own; head -c 2000000 /dev/urandom > /vol/x; echo log";
    host.berth(&[
        "run",
        "--name",
        "one",
        "-v",
        "data:/vol",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    host.berth(&["commit", "one", "two"]).ok();
    host.berth(&["tag", "two", "three"]).ok();
    let now = || {
        let answer = host.raw("GET /v1.47/system/df?data-root=1 HTTP/1.0\nHost: x\n\n");
        json(answer.split_once("\r\n\r\n").unwrap().1)
    };
    let usage = now();
    let told: i64 = usage["DataRoot"]
        .as_object()
        .unwrap()
        .values()
        .map(|v| v.as_i64().unwrap())
        .sum();
    let data_root = host.path().join("data");
    let du = Command::new("du")
        .args(["-s", "--block-size=1"])
        .arg(&data_root)
        .output()
        .unwrap();
    let du = String::from_utf8(du.stdout).unwrap();
    let found: i64 = du.split_whitespace().next().unwrap().parse().unwrap();
    assert!(
        (told - found).abs() * 100 <= found,
        "told {told}, du finds {found}: {usage:#}"
    );
    assert!(
        usage["DataRoot"]["Volumes"].as_i64().unwrap() >= 2_000_000,
        "{usage:#}"
    );
    assert!(
        usage["DataRoot"]["Containers"].as_i64().unwrap() >= 3_000_000,
        "{usage:#}"
    );
    // Both images have the layers of the first in common.
    let shared: Vec<_> = usage["Images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| &image["SharedSize"])
        .collect();
    assert!(
        shared.len() == 2 && shared[0] == shared[1] && shared[0].as_i64() > Some(0),
        "{usage:#}"
    );
    for client in CLIENTS {
        let text = client.run(&host, &["system", "df", "-v"]);
        for title in [
            "Images space usage:",
            "Containers space usage:",
            "Local Volumes space usage:",
            "Build cache usage: 0B",
        ] {
            assert!(text.ok().contains(title), "{client:?} {text:#?}");
        }
        let text = client.run(&host, &["system", "df"]);
        assert_eq!(
            text.ok().lines().count(),
            if client == Client::Berth { 6 } else { 5 },
            "{text:#?}"
        );
    }
    host.berth(&["rm", "one"]).ok();
    host.berth(&["volume", "rm", "data"]).ok();
    // What goes is told as what it took.
    let images = |usage: &Value| usage["DataRoot"]["Images"].as_i64().unwrap();
    let full = images(&now());
    let answer = host.raw(
        "POST /v1.47/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D HTTP/1.0\nHost: x\n\n",
    );
    let pruned = json(answer.split_once("\r\n\r\n").unwrap().1);
    let reclaimed = pruned["SpaceReclaimed"].as_i64().unwrap();
    let freed = full - images(&now());
    assert!(
        (reclaimed - freed).abs() * 100 <= freed,
        "{reclaimed} of {freed}"
    );
}

#[test]
fn privileged_image_events_are_dockers() {
    let host = Host::new();
    let since = json(host.berth(&["info", "--format", "json"]).ok())["SystemTime"].clone();
    host.berth(&["tag", "busybox", "other:1"]).ok();
    let tar = host.path().join("saved.tar");
    host.berth(&["save", "-o", tar.to_str().unwrap(), "other:1"])
        .ok();
    host.berth(&["rmi", "other:1", "busybox"]).ok();
    host.berth(&["load", "-i", tar.to_str().unwrap()]).ok();
    host.berth(&["image", "prune", "-af"]).ok();
    let args = [
        "events",
        "--since",
        since.as_str().unwrap(),
        "--until",
        "0s",
        "--filter",
        "type=image",
        "--format",
        "json",
    ];
    let events = host.berth(&args);
    let events: Vec<Value> = events.ok().lines().map(json).collect();
    let actions: Vec<&str> = events
        .iter()
        .map(|event| event["Action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "tag", "save", "untag", "untag", "delete", "load", "untag", "delete", "prune"
        ]
    );
    let id = events[0]["Actor"]["ID"].clone();
    for event in &events[..8] {
        assert_eq!(event["Actor"]["ID"], id, "{event}");
    }
    assert_eq!(events[0]["Actor"]["Attributes"]["name"], "other:1");
    assert_eq!(events[1]["Actor"]["Attributes"]["name"], id);
    assert!(events[8]["Actor"]["Attributes"]["reclaimed"].is_string());
}

#[test]
fn privileged_a_full_disk_costs_only_images_that_nobody_used_for_long() {
    let names = |host: &Host| -> Vec<String> {
        let list = host.berth(&["images", "--format", "{{.Repository}}"]);
        let mut names: Vec<String> = list.ok().lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    let mut host = Host::new();
    host.berth(&["create", "--name", "user", "busybox", "true"])
        .ok();
    let tar = host.path().join("other.tar");
    fs::write(&tar, crate::host::busybox_tar()).unwrap();
    for name in ["unused", "unused:2"] {
        host.berth(&["import", tar.to_str().unwrap(), name]).ok();
    }
    // Every disk is fuller than nothing; what came within two weeks stays all the same.
    let marks = ["--image-gc-high", "0", "--image-gc-low", "0"];
    host.restart_with(&marks);
    host.wait_until("the disk was looked at", || {
        host.log().contains("made room on the disk")
    });
    assert_eq!(names(&host), ["busybox", "unused", "unused"]);
    // With no time to keep them, those without a container go.
    host.restart_with(&[&marks[..], &["--image-gc-keep", "0"]].concat());
    host.wait_until("unused images are gone", || names(&host) == ["busybox"]);
    host.berth(&["rm", "user"]).ok();
}
