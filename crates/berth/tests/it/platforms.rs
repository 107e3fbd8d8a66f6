//! Images of several platforms, and what builders say about them: kept as they came, chosen from, and
//! handed on with the same digests.

use std::fs;
use std::process::Command;

use serde_json::Value;
use testkit::image::{Compression, Image, tar};
use testkit::layout::Built;
use testkit::{Registry, tool};
use vocab::Platform;

use crate::client::CLIENTS;
use crate::host::Host;

const NAME: &str = "multi:1";

/// This host's architecture and two others.
fn architectures() -> [String; 3] {
    let own = Platform::host().architecture;
    let other = if own == "arm64" { "amd64" } else { "arm64" };
    [own, other.to_owned(), "s390x".to_owned()]
}

/// An image for each of these, with an attestation of its origin.
fn built(architectures: &[String]) -> Built {
    let image = |architecture: &String| {
        let files = tar(&[("architecture", architecture.as_bytes())]);
        let platform = Platform::linux(architecture);
        Image::new(&[(files, Compression::Gzip)], &platform)
    };
    let images: Vec<Image> = architectures.iter().map(image).collect();
    Built::attested(&images)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn skopeo(args: &[&str]) -> String {
    let output = Command::new(tool("skopeo"))
        .args(["--insecure-policy"])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?} {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The JSON that a GET is answered with.
fn get(host: &Host, path: &str) -> Value {
    let answer = host.raw(&format!("GET {path} HTTP/1.0\nHost: x\n\n"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{answer}");
    json(body)
}

/// A platform as APIs want it in a query.
fn query(architecture: &str) -> String {
    format!("%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22{architecture}%22%7D")
}

/// What a manifest is, for what, and whether it is here.
fn told(manifests: &Value) -> Vec<(String, String, bool)> {
    let list = manifests.as_array().unwrap().iter();
    list.map(|one| {
        let platform = &one["ImageData"]["Platform"]["architecture"];
        (
            one["Kind"].as_str().unwrap().to_owned(),
            platform.as_str().unwrap_or_default().to_owned(),
            one["Available"].as_bool().unwrap(),
        )
    })
    .collect()
}

fn expected(architectures: &[String], here: impl Fn(usize) -> bool) -> Vec<(String, String, bool)> {
    let images = architectures.iter().enumerate();
    let images = images.map(|(at, name)| ("image".to_owned(), name.clone(), here(at)));
    let said =
        (0..architectures.len()).map(|at| ("attestation".to_owned(), String::new(), here(at)));
    images.chain(said).collect()
}

#[test]
fn privileged_an_index_that_came_whole_leaves_whole() {
    let architectures = architectures();
    let built = built(&architectures);
    let digest = built.digest().to_string();
    for client in CLIENTS {
        let (host, registry) = (Host::empty(), Registry::start());
        let file = |name: &str| host.path().join(name).display().to_string();
        // As skopeo writes it, from a registry.
        built.push(&registry, "from/here", "1");
        let origin = format!("docker://{}/from/here:1", registry.address());
        let first = format!("oci-archive:{}:{NAME}", file("first.tar"));
        skopeo(&[
            "copy",
            "-q",
            "--all",
            "--preserve-digests",
            "--src-tls-verify=false",
            &origin,
            &first,
        ]);
        let said = client.run(&host, &["load", "-i", &file("first.tar")]);
        assert_eq!(said.ok(), format!("Loaded image: {NAME}"));
        let listed = get(&host, "/v1.51/images/json?manifests=1");
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(listed[0]["Descriptor"]["digest"], digest.as_str());
        assert_eq!(
            told(&listed[0]["Manifests"]),
            expected(&architectures, |_| true)
        );

        // Out as an archive, and out to a registry.
        client
            .run(&host, &["save", "-o", &file("second.tar"), NAME])
            .ok();
        let second = format!("oci-archive:{}:1", file("second.tar"));
        let copied = format!("docker://{}/by/skopeo:1", registry.address());
        skopeo(&[
            "copy",
            "-q",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &second,
            &copied,
        ]);
        assert_eq!(registry.manifest("by/skopeo", "1"), built.index);
        let target = format!("{}/by/client:1", registry.address());
        client.run(&host, &["tag", NAME, &target]).ok();
        let said = client.run(&host, &["push", &target]);
        assert!(
            said.ok()
                .ends_with(&format!("1: digest: {digest} size: {}", built.index.len()))
        );
        assert_eq!(registry.manifest("by/client", "1"), built.index);
        for member in &built.members {
            let there = registry.manifest("by/client", &member.digest().to_string());
            assert_eq!(there, member.manifest);
        }
        let known = host.berth(&["inspect", "-f", "{{join .RepoDigests \" \"}}", &target]);
        let name = target.rsplit_once(':').unwrap().0;
        assert_eq!(known.ok(), format!("{name}@{digest}"));
        // Somebody else can have all of it from there.
        let third = format!("oci-archive:{}", file("third.tar"));
        let pushed = format!("docker://{target}");
        skopeo(&[
            "copy",
            "-q",
            "--all",
            "--preserve-digests",
            "--src-tls-verify=false",
            &pushed,
            &third,
        ]);
        // What was written is read again as the same.
        host.berth(&["rmi", "-f", NAME, &target]).ok();
        assert_eq!(
            get(&host, "/v1.51/images/json?all=1"),
            Value::Array(Vec::new())
        );
        client.run(&host, &["load", "-i", &file("second.tar")]).ok();
        let listed = get(&host, "/v1.51/images/json?manifests=1");
        assert_eq!(
            told(&listed[0]["Manifests"]),
            expected(&architectures, |_| true)
        );
    }
}

#[test]
fn privileged_one_platform_of_an_index_is_taken_and_handed_on() {
    let architectures = architectures();
    let built = built(&architectures);
    let (registry, digest) = (Registry::start(), built.digest().to_string());
    built.push(&registry, "app", "1");
    let name = format!("{}/app:1", registry.address());
    for client in CLIENTS {
        let host = Host::empty();
        let said = client.run(&host, &["pull", &name]);
        assert!(said.ok().contains(&format!("Digest: {digest}")), "{said:?}");
        let shown = get(&host, &format!("/v1.51/images/{name}/json?manifests=1"));
        assert_eq!(shown["Descriptor"]["digest"], digest.as_str());
        assert_eq!(
            told(&shown["Manifests"]),
            expected(&architectures, |at| at == 0)
        );
        // What is said about it came along.
        let said = get(
            &host,
            &format!("/v1.55/images/{name}/attestations?statement=1"),
        );
        assert_eq!(said[0]["PredicateType"], "https://slsa.dev/provenance/v0.2");
        let subject = &said[0]["Statement"]["subject"][0]["digest"]["sha256"];
        assert_eq!(*subject, built.members[0].digest().hex());
        let none = get(
            &host,
            &format!("/v1.55/images/{name}/attestations?type=other"),
        );
        assert_eq!(none, Value::Array(Vec::new()));

        // Alone it leaves as itself, and that is told.
        let target = format!("{}/{client:?}:1", registry.address()).to_lowercase();
        let repository = format!("{client:?}").to_lowercase();
        client.run(&host, &["tag", &name, &target]).ok();
        let said = client.run(&host, &["push", &target]);
        let own = built.members[0].digest().to_string();
        assert!(said.ok().contains(&format!("1: digest: {own}")), "{said:?}");
        let told_both = said.stdout.clone() + &said.stderr;
        assert!(
            told_both.contains("only the available single-platform image was pushed"),
            "{said:?}"
        );
        assert_eq!(
            registry.manifest(&repository, "1"),
            built.members[0].manifest
        );

        // Two of three are neither one nor all.
        let other = format!("linux/{}", architectures[1]);
        client
            .run(&host, &["pull", "-q", "--platform", &other, &name])
            .ok();
        let said = client.run(&host, &["push", &target]);
        assert!(
            said.fails(1).contains("push one with --platform"),
            "{said:?}"
        );
        let said = client.run(&host, &["push", "--platform", &other, &target]);
        let second = built.members[2].digest().to_string();
        assert!(
            said.ok().contains(&format!("1: digest: {second}")),
            "{said:?}"
        );
        let said = client.run(&host, &["push", "--platform", "linux/s390x", &target]);
        assert!(
            said.fails(1)
                .contains("does not match the specified platform"),
            "{said:?}"
        );
        // All of them are the index.
        client
            .run(&host, &["pull", "-q", "--platform", "linux/s390x", &name])
            .ok();
        let said = client.run(&host, &["push", &target]);
        assert!(
            said.ok().contains(&format!("1: digest: {digest}")),
            "{said:?}"
        );
        assert_eq!(registry.manifest(&repository, "1"), built.index);
    }
}

#[test]
fn privileged_platforms_are_chosen_where_images_are_shown_saved_loaded_and_removed() {
    let architectures = architectures();
    let [own, other, third] = &architectures;
    let built = built(&architectures);
    let host = Host::empty();
    let file = |name: &str| host.path().join(name).display().to_string();
    fs::write(
        file("all.tar"),
        built.oci_archive("docker.io/library/multi:1"),
    )
    .unwrap();
    let id = |at: usize| built.members[at * 2].id().to_string();
    let shown = |args: &[&str]| {
        let said = host.docker(&[&["image", "inspect", "-f", "{{.Id}}"], args].concat());
        said.ok().to_owned()
    };
    for client in CLIENTS {
        client.run(&host, &["load", "-i", &file("all.tar")]).ok();
        assert_eq!(shown(&[NAME]), id(0));
        for (at, architecture) in architectures.iter().enumerate() {
            let platform = format!("linux/{architecture}");
            let said = client.run(&host, &["image", "inspect", "--platform", &platform, NAME]);
            assert_eq!(json(said.ok())[0]["Id"], id(at));
            let said = client.run(
                &host,
                &["history", "-q", "--no-trunc", "--platform", &platform, NAME],
            );
            assert_eq!(said.ok(), id(at));
        }
        // One of them leaves alone, and comes in alone.
        let platform = format!("linux/{other}");
        client
            .run(
                &host,
                &[
                    "save",
                    "--platform",
                    &platform,
                    "-o",
                    &file("one.tar"),
                    NAME,
                ],
            )
            .ok();
        let one = format!("oci-archive:{}", file("one.tar"));
        let raw = skopeo(&["inspect", "--raw", &one]);
        assert_eq!(raw.as_bytes(), built.members[2].manifest);
        host.berth(&["rmi", NAME]).ok();
        client.run(&host, &["load", "-i", &file("one.tar")]).ok();
        assert_eq!(shown(&[NAME]), id(1));
        host.berth(&["rmi", NAME]).ok();
        let said = client.run(
            &host,
            &[
                "load",
                "--platform",
                "linux/riscv64",
                "-i",
                &file("all.tar"),
            ],
        );
        assert!(said.fails(1).contains("linux/riscv64"), "{said:?}");
        client
            .run(
                &host,
                &[
                    "load",
                    "--platform",
                    &format!("linux/{third}"),
                    "-i",
                    &file("all.tar"),
                ],
            )
            .ok();
        assert_eq!(shown(&[NAME]), id(2));

        // One goes, and the name stays with the others.
        client.run(&host, &["load", "-i", &file("all.tar")]).ok();
        assert_eq!(shown(&[NAME]), id(0));
        let said = client.run(&host, &["rmi", "--platform", &format!("linux/{own}"), NAME]);
        assert!(
            said.ok().contains(&format!("Deleted: {}", id(0))),
            "{said:?}"
        );
        assert_ne!(shown(&[NAME]), id(0));
        let said = client.run(&host, &["rmi", "--platform", &format!("linux/{own}"), NAME]);
        assert!(
            said.fails(1)
                .contains("does not match the specified platform"),
            "{said:?}"
        );
        let said = client.run(
            &host,
            &[
                "rmi",
                "--platform",
                &platform,
                "--platform",
                "linux/s390x",
                NAME,
            ],
        );
        assert!(said.ok().contains(&format!("Untagged: {NAME}")), "{said:?}");
        assert_eq!(
            get(&host, "/v1.51/images/json?all=1"),
            Value::Array(Vec::new())
        );
    }
    // Which programs may say in several ways.
    host.berth(&["load", "-i", &file("all.tar")]).ok();
    let both = format!(
        "GET /v1.55/images/{NAME}/json?manifests=1&platform={} HTTP/1.0\nHost: x\n\n",
        query(own)
    );
    let refused = host.raw(&both);
    assert!(
        refused.contains(" 400 ") && refused.contains("manifests and platform"),
        "{refused}"
    );
    let older = get(
        &host,
        &format!("/v1.47/images/{NAME}/json?platform={}", query(other)),
    );
    assert_eq!(older["Id"], id(0));
    assert_eq!(older.get("Descriptor"), None);
}

#[test]
fn privileged_images_are_drawn_as_a_tree() {
    let architectures = architectures();
    let built = built(&architectures);
    let (host, registry) = (Host::new(), Registry::start());
    built.push(&registry, "app", "1");
    let name = format!("{}/app:1", registry.address());
    host.berth(&["pull", "-q", &name]).ok();
    host.berth(&["tag", &name, "app:2"]).ok();
    let tar = host.path().join("nameless.tar");
    fs::write(&tar, crate::host::busybox_tar()).unwrap();
    host.berth(&["import", tar.to_str().unwrap()]).ok();
    host.berth(&["create", "--name", "one", "busybox", "sh"])
        .ok();
    for args in [
        &["image", "ls", "--tree"][..],
        &["image", "ls", "--tree", "-a"],
        &["image", "ls", "--tree", "busybox"],
        &["image", "ls", "--tree", "none"],
        &["image", "ls", "--tree", "-q"],
        &["image", "ls", "--tree", "--no-trunc"],
        &["image", "ls", "--tree", "--digests"],
        &["image", "ls", "--tree", "--format", "json"],
    ] {
        let (mut docker, berth) = (host.docker(args), host.berth(args));
        // Docker's headings are bold even in a pipe.
        for code in ["\u{1b}[39m", "\u{1b}[1m", "\u{1b}[0m"] {
            docker.stdout = docker.stdout.replace(code, "");
        }
        assert_eq!(
            (berth.code, berth.stdout, berth.stderr),
            (docker.code, docker.stdout, docker.stderr),
            "{args:?}"
        );
    }
    host.berth(&["rm", "one"]).ok();
}
