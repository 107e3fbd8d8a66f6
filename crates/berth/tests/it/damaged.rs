//! A daemon whose store is not what was written: it says so, puts aside what is bad, and all else goes
//! on.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use testkit::image::{Compression, Image, tar};
use vocab::Platform;

use crate::client::{CLIENTS, Client};
use crate::host::Host;

const LIST: [&str; 4] = [
    "images",
    "--no-trunc",
    "--format",
    "{{.ID}} {{.Repository}}:{{.Tag}}",
];

/// All names with their ids; names of one image come in any order.
fn list(host: &Host) -> Vec<String> {
    let said = host.docker(&LIST);
    let mut lines: Vec<String> = said.ok().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn store(host: &Host) -> PathBuf {
    host.path().join("data/store")
}

/// Writes garbage over the middle of a file.
fn spoil(path: &PathBuf) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    file.write_all_at(&[0xA5; 40], middle).unwrap();
}

/// What the daemon warns of.
fn warnings(host: &Host) -> String {
    host.docker(&["info", "-f", "{{json .Warnings}}"])
        .ok()
        .to_owned()
}

#[test]
fn privileged_damaged_tables_are_put_aside_and_made_again() {
    let mut host = Host::new();
    host.berth(&["tag", "busybox", "other:1"]).ok();
    let id = host.berth(&["run", "-d", "--network", "none", "busybox", "sleep", "1000"]);
    let id = id.ok().to_owned();
    host.berth(&["exec", &id, "touch", "/mine"]).ok();
    let before = list(&host);
    host.stop_daemon();
    // Each page of the tables, but for the first.
    let path = store(&host).join("metadata.db");
    let pages = fs::metadata(&path).unwrap().len() / 4096;
    let file = fs::File::options().write(true).open(&path).unwrap();
    for page in 1..pages {
        file.write_all_at(&[0xA5; 100], page * 4096).unwrap();
    }
    drop(file);
    host.start();
    assert_eq!(list(&host), before);
    let told = warnings(&host);
    let place = store(&host).join("quarantine/metadata-1.db");
    assert!(place.exists(), "{told}");
    for part in [
        "metadata.db` was damaged",
        place.to_str().unwrap(),
        "1 images were put back",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // The container never noticed, and others begin.
    host.berth(&["exec", &id, "test", "-e", "/mine"]).ok();
    for client in CLIENTS {
        let run = [
            "run",
            "--rm",
            "--network",
            "none",
            "other:1",
            "echo",
            "fine",
        ];
        assert_eq!(client.run(&host, &run).ok(), "fine");
    }
    host.berth(&["rm", "-f", &id]).ok();
    // It is told once.
    host.restart_with(&[]);
    assert!(!warnings(&host).contains("damaged"));
    assert_eq!(list(&host), before);
}

#[test]
fn privileged_a_damaged_configuration_costs_only_its_image() {
    let mut host = Host::new();
    let layer = (tar(&[("data", b"some")]), Compression::Gzip);
    let image = Image::new(&[layer], &Platform::host());
    let archive = image.docker_archive(&["app:1"]);
    Client::Docker.feed(&host, &["load"], &archive).ok();
    let before = list(&host);
    host.stop_daemon();
    let blob = store(&host).join("blobs/sha256").join(image.id().hex());
    spoil(&blob);
    host.start();
    let told = warnings(&host);
    let sentence = format!("the configuration of image {} (app:1)", image.id());
    assert!(told.contains(&sentence), "{told}");
    let name = format!("sha256-{}", image.id().hex());
    assert!(store(&host).join("quarantine").join(name).exists());
    let run = [
        "run",
        "--rm",
        "--network",
        "none",
        "busybox",
        "echo",
        "fine",
    ];
    assert_eq!(host.berth(&run).ok(), "fine");
    // The same image mends it.
    Client::Docker.feed(&host, &["load"], &archive).ok();
    assert_eq!(list(&host), before);
    host.berth(&["image", "verify", "app:1"]).ok();
    host.restart_with(&[]);
    assert!(!warnings(&host).contains("damaged"));
}
