//! Archives of images between Docker's daemon, Podman and berth: whoever writes them, whoever reads
//! them, the images are the same.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::image::{Compression, Image, compress, tar};
use testkit::{Registry, tool};
use vocab::Platform;

use crate::client::{CLIENTS, Client, Run};
use crate::host::Host;
use crate::runtime::docker::Docker;
use crate::runtime::podman::Podman;

/// Two images with a layer in common.
fn images() -> [Image; 2] {
    let base = tar(&[("etc/", b""), ("etc/base", b"base")]);
    ["a", "b"].map(|name| {
        let own = tar(&[(name, name.as_bytes())]);
        let layers = [
            (base.clone(), Compression::Plain),
            (own, Compression::Plain),
        ];
        Image::new(&layers, &Platform::host())
    })
}

const NAMES: [&str; 2] = ["one.test/a:1", "one.test/b:1"];

/// The ids under the names, as `docker images` and `podman images` tell them.
fn ids(said: &Run) -> Vec<String> {
    let mut ids: Vec<String> = said
        .ok()
        .lines()
        .map(|line| line.replace("sha256:", ""))
        .collect();
    ids.sort();
    ids
}

fn expected(images: &[Image]) -> Vec<String> {
    let rows = images.iter().zip(NAMES);
    rows.map(|(image, name)| format!("{name} {}", image.id().hex()))
        .collect()
}

const LIST: [&str; 4] = [
    "images",
    "--no-trunc",
    "--format",
    "{{.Repository}}:{{.Tag}} {{.ID}}",
];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn privileged_archives_go_to_docker_and_back() {
    let (docker, host) = (Docker::empty(), Host::empty());
    let images = images();
    for (image, name) in images.iter().zip(NAMES) {
        let file = docker.path().join("in.tar");
        fs::write(&file, image.docker_archive(&[name])).unwrap();
        docker.run(&["load", "-q", "-i", text(&file)]).ok();
    }
    let from_docker = docker.path().join("docker.tar");
    let save = ["save", "-o", text(&from_docker)];
    docker.run(&[&save[..], &NAMES].concat()).ok();
    let bytes = fs::read(&from_docker).unwrap();
    for client in CLIENTS {
        for how in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
            let archive = compress(&bytes, how);
            let said = client.feed(&host, &["load"], &archive);
            assert_eq!(said.ok().lines().count(), 2, "{said:?}");
            assert_eq!(ids(&host.docker(&LIST)), expected(&images), "{how:?}");
            if how != Compression::Zstd {
                client.run(&host, &[&["rmi"][..], &NAMES].concat()).ok();
            }
        }
        let from_berth = docker.path().join("berth.tar");
        let save = ["save", "-o", text(&from_berth)];
        client.run(&host, &[&save[..], &NAMES].concat()).ok();
        docker.run(&[&["rmi"][..], &NAMES].concat()).ok();
        docker.run(&["load", "-q", "-i", text(&from_berth)]).ok();
        assert_eq!(ids(&docker.run(&LIST)), expected(&images));
        // The same on the way through a pipe, which is read and written from the front only.
        let piped = client.command(&host, &[&["save"][..], &NAMES].concat());
        let piped = { piped }.output().unwrap().stdout;
        assert_eq!(piped, fs::read(&from_berth).unwrap());
        client.run(&host, &[&["rmi"][..], &NAMES].concat()).ok();
    }
}

#[test]
fn privileged_archives_go_to_podman_and_back() {
    let (podman, host) = (Podman::empty(), Host::empty());
    let images = images();
    for (image, name) in images.iter().zip(NAMES) {
        let archive = image.docker_archive(&[name]);
        Client::Docker.feed(&host, &["load"], &archive).ok();
    }
    let from_berth = podman.path().join("berth.tar");
    let save = ["save", "-o", text(&from_berth)];
    host.berth(&[&save[..], &NAMES].concat()).ok();
    podman.run(&["load", "-q", "-i", text(&from_berth)]).ok();
    assert_eq!(ids(&podman.run(&LIST)), expected(&images));
    let archive = podman.path().join("podman.tar");
    let save = ["save", "-q", "-m", "--format", "docker-archive", "-o"];
    podman
        .run(&[&save[..], &[text(&archive)], &NAMES].concat())
        .ok();
    for client in CLIENTS {
        host.berth(&[&["rmi"][..], &NAMES].concat()).ok();
        client.run(&host, &["load", "-i", text(&archive)]).ok();
        assert_eq!(ids(&host.docker(&LIST)), expected(&images));
    }
    // As an OCI image it has another configuration: the one that the archive says.
    let archive = podman.path().join("oci.tar");
    let save = ["save", "-q", "--format", "oci-archive", "-o"];
    podman
        .run(&[&save[..], &[text(&archive), NAMES[0]]].concat())
        .ok();
    let name = format!("oci-archive:{}", archive.display());
    let told = Command::new(tool("skopeo"))
        .args(["inspect", "--raw", &name])
        .output()
        .unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    for client in CLIENTS {
        host.berth(&["rmi", "-f", NAMES[0]]).ok();
        client.run(&host, &["load", "-i", text(&archive)]).ok();
        let id = host.docker(&["images", "-q", "--no-trunc", NAMES[0]]);
        assert_eq!(id.ok(), manifest["config"]["digest"]);
    }
}

#[test]
fn privileged_root_trees_are_imported_from_files_pipes_and_addresses() {
    let (host, registry) = (Host::empty(), Registry::start());
    let tree = tar(&[("etc/", b""), ("etc/base", b"base")]);
    let file = host.path().join("root.tar");
    fs::write(&file, &tree).unwrap();
    // A blob of a registry is at an address like any file.
    let digest = registry.push_blob("files", &compress(&tree, Compression::Gzip));
    let address = format!("http://{}/v2/files/blobs/{digest}", registry.address());
    let layers = "{{.RootFS.Layers}} {{.Comment}} {{.Config.Cmd}} {{.Config.Labels.a}}";
    let flags = ["import", "-c", "CMD [\"sh\"]", "-c", "LABEL a=b"];
    for client in CLIENTS {
        let imported = |args: &[&str]| {
            let said = client.feed(&host, &[&flags[..], args].concat(), &tree);
            let id = said.ok().lines().last().unwrap().to_owned();
            let shown = host.docker(&["image", "inspect", "-f", layers, &id]);
            (said.ok().lines().count(), shown.ok().to_owned())
        };
        let whole = testkit::image::sha256(&tree);
        let told = |comment: &str| format!("[{whole}] {comment} [sh] b");
        let from = format!("Imported from {address}");
        assert_eq!(
            imported(&[text(&file), "one:1"]),
            (1, told("Imported from -"))
        );
        assert_eq!(imported(&["-m", "why", "-"]), (1, told("why")));
        assert_eq!(imported(&[&address, "two:1"]), (2, told(&from)));
        let missing = address.replace("files", "none");
        let said = client.run(&host, &["import", &missing]);
        assert!(said.fails(1).contains("404"), "{said:?}");
        let said = client.run(&host, &["import", "http://127.0.0.1:1/none.tar"]);
        assert!(
            said.fails(1).contains("http://127.0.0.1:1/none.tar"),
            "{said:?}"
        );
        assert_eq!(
            host.docker(&["images", "-q", "two"]).ok().lines().count(),
            1
        );
    }
}
