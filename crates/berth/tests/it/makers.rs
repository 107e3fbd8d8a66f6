//! Images that other programs make, and go on to use: Buildah, BuildKit, skopeo, docker. What one of
//! them writes leaves berth with the digest it had.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::image::{Compression, Image, tar};
use testkit::{Registry, tool};
use vocab::Platform;

use crate::client::{CLIENTS, Client};
use crate::host::Host;
use crate::runtime::docker::Docker;

/// A program with `/usr` and `/etc` of its own.
fn among(args: &[&str]) -> String {
    let output = Command::new(tool("among")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?} {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn skopeo(args: &[&str]) -> String {
    let mut command = Command::new(tool("skopeo"));
    let output = command.arg("--insecure-policy").args(args).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{args:?} {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The digest that skopeo sees at a transport.
fn digest(at: &str) -> String {
    let tls = match at.starts_with("docker://") {
        true => &["--tls-verify=false"][..],
        false => &[],
    };
    let format = ["inspect", "--no-tags", "--format", "{{.Digest}}"];
    match at.starts_with("docker://") {
        true => skopeo(&[&format[..], tls, &[at]].concat()),
        false => skopeo(&["inspect", "--format", "{{.Digest}}", at]),
    }
}

/// Buildah with a store of its own.
struct Buildah<'a>(&'a Path);

impl Buildah<'_> {
    fn run(&self, args: &[&str]) -> String {
        let at = |name: &str| self.0.join(name).display().to_string();
        let (root, run) = (at("buildah"), at("buildah-run"));
        let own = [
            "--root",
            &root,
            "--runroot",
            &run,
            "--storage-driver",
            "vfs",
        ];
        among(&[&["buildah"], &own[..], args].concat())
    }

    /// A container of an image, with a program that says hello added.
    fn made(&self, from: &str) -> String {
        let busybox = tool("busybox").display().to_string();
        let container = self.run(&["from", "--tls-verify=false", from]);
        self.run(&["copy", &container, &busybox, "/bin/busybox"]);
        let config = ["config", "--cmd", "/bin/busybox echo hello", "--env", "A=b"];
        self.run(&[&config[..], &[&container]].concat());
        container
    }
}

#[test]
fn privileged_what_buildah_makes_runs_and_what_berth_makes_it_takes() {
    let (host, registry) = (Host::empty(), Registry::start());
    let buildah = Buildah(host.path());
    let container = buildah.made("scratch");
    let file = |name: &str| host.path().join(name).display().to_string();
    for format in ["oci", "docker"] {
        buildah.run(&["commit", "-q", "--format", format, &container, format]);
        let run = |image: &str| {
            let said = host.berth(&["run", "--rm", "--network", "none", image]);
            assert_eq!(said.ok(), "hello", "{image}");
            host.berth(&["rmi", image]).ok();
        };
        for transport in ["oci-archive", "docker-archive"] {
            // Buildah writes no OCI manifest there.
            if (format, transport) == ("oci", "docker-archive") {
                continue;
            }
            let archive = file(&format!("{format}.{transport}"));
            let target = format!("{transport}:{archive}:made:{format}");
            buildah.run(&["push", "-q", "--format", format, format, &target]);
            for client in CLIENTS {
                let said = client.run(&host, &["load", "-q", "-i", &archive]);
                let id = said.ok().lines().next().unwrap().to_owned();
                let (_, image) = id.rsplit_once(": ").unwrap();
                run(image);
                host.berth(&["image", "prune", "-af"]).ok();
            }
        }
        // Through a registry, however it is compressed.
        let compressions: &[&str] = match format {
            "oci" => &["gzip", "zstd", "zstd:chunked"],
            _ => &["gzip"],
        };
        for how in compressions {
            let tag = format!("{format}-{}", how.replace(':', "-"));
            let name = format!("{}/made:{tag}", registry.address());
            let target = format!("docker://{name}");
            let flags = ["--tls-verify=false", "--format", format];
            let compression = ["--compression-format", how, "--force-compression"];
            let push = [
                &["push", "-q"],
                &flags[..],
                &compression,
                &[format, &target],
            ]
            .concat();
            buildah.run(&push);
            let came = digest(&target);
            let again = format!("{}/again:{tag}", registry.address());
            host.docker(&["pull", "-q", &name]).ok();
            host.berth(&["tag", &name, &again]).ok();
            host.berth(&["push", "-q", &again]).ok();
            assert_eq!(digest(&format!("docker://{again}")), came, "{tag}");
            host.berth(&["rmi", &again]).ok();
            run(&name);
        }
    }
    // The other way: what is committed here is a base there.
    host.import_busybox();
    host.berth(&[
        "run",
        "--name",
        "one",
        "busybox",
        "sh",
        "-c",
        "echo kept > /kept",
    ])
    .ok();
    let base = format!("{}/base:1", registry.address());
    host.berth(&["commit", "-c", "ENV B=c", "one", &base]).ok();
    host.berth(&["push", "-q", &base]).ok();
    host.berth(&["rm", "one"]).ok();
    let above = buildah.made(&format!("docker://{base}"));
    buildah.run(&["commit", "-q", &above, "above"]);
    let archive = file("above");
    buildah.run(&[
        "push",
        "-q",
        "above",
        &format!("docker-archive:{archive}:above:1"),
    ]);
    host.berth(&["load", "-q", "-i", &archive]).ok();
    let said = host.berth(&[
        "run",
        "--rm",
        "--network",
        "none",
        "above:1",
        "sh",
        "-c",
        "cat /kept; echo $A $B",
    ]);
    assert_eq!(said.ok(), "kept\nb c");
}

/// Docker's daemon as a builder: its own graph drivers keep no attestations, containerd's store does.
fn builder() -> Docker {
    let docker = Docker::with(&serde_json::json!({
        "storage-driver": "native", "features": { "containerd-snapshotter": true },
    }));
    let plugins = docker.path().join("config/cli-plugins");
    fs::create_dir_all(&plugins).unwrap();
    let plugin = plugins.join("docker-buildx");
    let among = tool("among");
    let text = format!(
        "#!/bin/sh\nexec {} /usr/libexec/docker/cli-plugins/docker-buildx \"$@\"\n",
        among.display()
    );
    fs::write(&plugin, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&plugin, mode).unwrap();
    docker
}

#[test]
fn privileged_what_buildkit_says_about_its_images_goes_where_they_go() {
    let (docker, one, two) = (builder(), Registry::start(), Registry::start());
    let context = docker.path().join("context");
    fs::create_dir(&context).unwrap();
    fs::copy(tool("busybox"), context.join("busybox")).unwrap();
    let file =
        "FROM scratch\nCOPY busybox /bin/busybox\nCMD [\"/bin/busybox\", \"echo\", \"built\"]\n";
    fs::write(context.join("Dockerfile"), file).unwrap();
    let name = format!("{}/built:1", one.address());
    let context = context.display().to_string();
    let platforms = format!("linux/{},linux/s390x", Platform::host().architecture);
    let build = [
        "buildx",
        "build",
        "--provenance=mode=max",
        "--platform",
        &platforms,
    ];
    docker
        .run(&[&build[..], &["-t", &name, "--push", &context]].concat())
        .ok();
    let came = one.manifest("built", "1");
    let index: Value = serde_json::from_slice(&came).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(
        entries.len(),
        4,
        "two images, and what is said about each: {index}"
    );
    for client in CLIENTS {
        let host = Host::empty();
        client.run(&host, &["pull", "-q", &name]).ok();
        let said = client.run(&host, &["run", "--rm", "--network", "none", &name]);
        assert_eq!(said.ok(), "built");
        let tree = host.berth(&["image", "ls", "--tree"]);
        let own = format!("linux/{}", Platform::host().architecture);
        assert!(
            tree.ok().contains(&own) && tree.ok().contains("linux/s390x"),
            "{tree:?}"
        );
        let answer = host.raw(&format!(
            "GET /v1.55/images/{name}/attestations?statement=1 HTTP/1.0\nHost: x\n\n"
        ));
        assert!(answer.contains("https://slsa.dev/provenance/"), "{answer}");
        assert!(answer.contains("\"Statement\":{"), "{answer}");
        client
            .run(&host, &["pull", "-q", "--platform", "linux/s390x", &name])
            .ok();
        let repository = format!("{client:?}").to_lowercase();
        let again = format!("{}/{repository}:1", two.address());
        client.run(&host, &["tag", &name, &again]).ok();
        client.run(&host, &["push", &again]).ok();
        assert_eq!(two.manifest(&repository, "1"), came);
        // BuildKit finds there what it said.
        let inspect = [
            "buildx",
            "imagetools",
            "inspect",
            "--format",
            "{{json .Provenance}}",
        ];
        let said = docker.run(&[&inspect[..], &[&again]].concat());
        assert!(said.ok().contains("\"SLSA\""), "{said:?}");
    }
}

#[test]
fn privileged_lists_of_manifests_are_made_of_what_berth_has_pushed() {
    let (host, registry) = (Host::empty(), Registry::start());
    let name = |rest: &str| format!("{}/{rest}", registry.address());
    let architectures = [Platform::host().architecture, "s390x".to_owned()];
    let mut digests = Vec::new();
    for architecture in &architectures {
        let files = tar(&[("architecture", architecture.as_bytes())]);
        let layers = [(files, Compression::Plain)];
        let image = Image::new(&layers, &Platform::linux(architecture));
        let archive = host.path().join("image.tar");
        fs::write(
            &archive,
            image.docker_archive(&[&name(&format!("app:{architecture}"))]),
        )
        .unwrap();
        host.berth(&["load", "-q", "-i", archive.to_str().unwrap()])
            .ok();
        let said = host.docker(&["push", &name(&format!("app:{architecture}"))]);
        let (_, digest) = said.ok().rsplit_once("digest: ").unwrap();
        digests.push(digest.split_once(' ').unwrap().0.to_owned());
    }
    let docker = |args: &[&str]| Client::Docker.run(&host, &[&["manifest"], args].concat());
    let [own, other] = architectures
        .each_ref()
        .map(|one| name(&format!("app:{one}")));
    let shown = docker(&["inspect", "--insecure", &own]);
    assert!(shown.ok().contains("\"schemaVersion\": 2"), "{shown:?}");
    docker(&["create", "--insecure", &name("app:all"), &own, &other]).ok();
    docker(&["annotate", "--os-version", "1", &name("app:all"), &other]).ok();
    let pushed = docker(&["push", "--insecure", &name("app:all")]);
    let pushed = pushed.ok().lines().last().unwrap().to_owned();
    let list: Value = serde_json::from_slice(&registry.manifest("app", "all")).unwrap();
    let listed = list["manifests"].as_array().unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|one| one["digest"].as_str().unwrap())
        .collect();
    assert_eq!(listed, digests);
    let said = host.berth(&["pull", &name("app:all")]);
    assert!(said.ok().contains(&format!("Digest: {pushed}")), "{said:?}");
    for architecture in &architectures {
        let platform = format!("linux/{architecture}");
        host.docker(&["pull", "-q", "--platform", &platform, &name("app:all")])
            .ok();
        let format = [
            "image",
            "inspect",
            "--platform",
            &platform,
            "-f",
            "{{.Architecture}}",
        ];
        let said = host.docker(&[&format[..], &[&name("app:all")]].concat());
        assert_eq!(said.ok(), architecture);
    }
    host.berth(&["tag", &name("app:all"), &name("copy:1")]).ok();
    host.docker(&["push", "-q", &name("copy:1")]).ok();
    assert_eq!(
        registry.manifest("copy", "1"),
        registry.manifest("app", "all")
    );
}

/// Every form in which images come, and every way out: the digest is the same.
#[test]
fn privileged_whatever_comes_in_goes_out_with_its_digest() {
    let (host, registry) = (Host::empty(), Registry::start());
    let platforms = [Platform::host(), Platform::linux("s390x")];
    let compressions = [Compression::Plain, Compression::Gzip, Compression::Zstd];
    let mut names: Vec<(String, String)> = Vec::new();
    for how in compressions {
        let images = platforms.clone().map(|platform| {
            let files = tar(&[(
                "how",
                format!("{how:?} {}", platform.architecture).as_bytes(),
            )]);
            Image::new(&[(files, how)], &platform)
        });
        let tag = format!("{how:?}").to_lowercase();
        names.push((
            format!("one:{tag}"),
            registry.push("one", &tag, &images[0]).to_string(),
        ));
        let all: Vec<&Image> = images.iter().collect();
        names.push((
            format!("all:{tag}"),
            registry.push_index("all", &tag, &all).to_string(),
        ));
        if how == Compression::Gzip {
            let docker = images[0].clone().docker();
            names.push((
                "docker:1".to_owned(),
                registry.push("docker", "1", &docker).to_string(),
            ));
        }
    }
    let path = |name: &str| host.path().join(name).display().to_string();
    for (place, (name, expected)) in names.iter().enumerate() {
        let client = CLIENTS[place % 2];
        let from = format!("{}/{name}", registry.address());
        let to = |way: &str| format!("{}/{way}/{name}", registry.address());
        let check = |way: &str| {
            let repository = format!("{way}/{}", name.split_once(':').unwrap().0);
            let tag = name.split_once(':').unwrap().1;
            let raw = registry.manifest(&repository, tag);
            let found = testkit::image::sha256(&raw).to_string();
            assert_eq!(found, *expected, "{name} by {way}, {client:?}");
        };
        // From a registry to a registry.
        for platform in &platforms[..if name.starts_with("all") { 2 } else { 1 }] {
            let platform = platform.to_string();
            client
                .run(&host, &["pull", "-q", "--platform", &platform, &from])
                .ok();
        }
        client.run(&host, &["tag", &from, &to("pushed")]).ok();
        client.run(&host, &["push", "-q", &to("pushed")]).ok();
        check("pushed");
        // Out as an archive, which skopeo copies to the registry.
        let saved = path("saved.tar");
        client
            .run(&host, &["save", "-o", &saved, &to("pushed")])
            .ok();
        let copy = |source: &str, way: &str| {
            let target = format!("docker://{}", to(way));
            let flags = [
                "copy",
                "-q",
                "--all",
                "--preserve-digests",
                "--dest-tls-verify=false",
            ];
            skopeo(&[&flags[..], &[source, &target]].concat());
            check(way);
        };
        let raw = skopeo(&["inspect", "--raw", &format!("oci-archive:{saved}")]);
        assert_eq!(
            testkit::image::sha256(raw.as_bytes()).to_string(),
            *expected,
            "{name}"
        );
        // Skopeo adds to each index what is of zstd in it, and then keeps no digest.
        let is_kept = name != "all:zstd";
        if is_kept {
            copy(&format!("oci-archive:{saved}"), "saved");
        }
        host.berth(&["rmi", &from, &to("pushed")]).ok();
        // In as archives and out again: berth's own, and those of skopeo.
        client.run(&host, &["load", "-q", "-i", &saved]).ok();
        client
            .run(&host, &["tag", &to("pushed"), &to("loaded")])
            .ok();
        client.run(&host, &["push", "-q", &to("loaded")]).ok();
        check("loaded");
        host.berth(&["rmi", &to("pushed"), &to("loaded")]).ok();
        let layout = path("skopeo.tar");
        let _ = fs::remove_file(&layout);
        let flags = [
            "copy",
            "-q",
            "--all",
            "--preserve-digests",
            "--src-tls-verify=false",
        ];
        let source = format!("docker://{from}");
        let target = format!("oci-archive:{layout}:{}", to("skopeo"));
        // Docker's types are no OCI layout's; skopeo would change them.
        if is_kept && !name.starts_with("docker") {
            skopeo(&[&flags[..], &[&source, &target]].concat());
            client.run(&host, &["load", "-q", "-i", &layout]).ok();
            client.run(&host, &["push", "-q", &to("skopeo")]).ok();
            check("skopeo");
            host.berth(&["rmi", &to("skopeo")]).ok();
        }
    }
    assert_eq!(host.berth(&["images", "-aq"]).ok(), "");
}
