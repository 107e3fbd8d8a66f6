//! The same commands at Docker's daemon and at berth's, given by Docker's command line: what is said
//! about images is the same word for word, but for ids, moments and sizes that cannot be.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use testkit::image::{Compression, Image, Layer, tar};
use testkit::{Registry, eventually};
use vocab::Platform;

use crate::client::Run;
use crate::host::{Host, PATIENCE};
use crate::runtime::docker::Docker;

/// Both daemons, with one directory each for the files that commands name.
pub(crate) struct Both {
    pub(crate) docker: Docker,
    pub(crate) berth: Host,
    /// What stands for what differs: ids of containers, addresses.
    pub(crate) names: BTreeMap<String, String>,
    differences: Vec<String>,
}

impl Both {
    pub(crate) fn new() -> Self {
        Self {
            docker: Docker::empty(),
            berth: Host::empty(),
            names: BTreeMap::new(),
            differences: Vec::new(),
        }
    }

    /// Puts a file where both see it as `%/NAME`.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) {
        fs::write(self.docker.path().join(name), bytes).unwrap();
        fs::write(self.berth.path().join(name), bytes).unwrap();
    }

    fn at(directory: &std::path::Path, args: &[&str]) -> Vec<String> {
        let directory = format!("{}/", directory.display());
        args.iter()
            .map(|arg| arg.replace("%/", &directory))
            .collect()
    }

    pub(crate) fn runs(&self, args: &[&str]) -> (Run, Run) {
        let docker = Self::at(self.docker.path(), args);
        let docker: Vec<&str> = docker.iter().map(String::as_str).collect();
        let berth = Self::at(self.berth.path(), args);
        let berth: Vec<&str> = berth.iter().map(String::as_str).collect();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| self.berth.docker(&berth));
            (self.docker.run(&docker), other.join().unwrap())
        })
    }

    /// Runs it at both; the answers are the same.
    pub(crate) fn same(&mut self, args: &[&str]) {
        self.same_but(args, str::to_owned);
    }

    /// The same for answers of which not everything can be compared.
    pub(crate) fn same_but(&mut self, args: &[&str], plain: impl Fn(&str) -> String) {
        let (docker, berth) = self.runs(args);
        let places = [self.docker.path(), self.berth.path()].map(|path| path.display().to_string());
        let tell = |run: &Run| {
            let mut text = format!("{:?}\n{}{}", run.code, run.stdout, run.stderr);
            for place in &places {
                text = text.replace(place, "%");
            }
            // What another begins with comes after it.
            for (id, name) in self.names.iter().rev() {
                text = text.replace(id, name);
            }
            plain(&text)
        };
        let (docker, berth) = (tell(&docker), tell(&berth));
        if docker != berth {
            self.differences.push(format!(
                "$ docker {}\n--- docker\n{docker}--- berth\n{berth}",
                args.join(" ")
            ));
        }
    }

    /// Makes a container at both, and remembers its ids.
    pub(crate) fn container(&mut self, name: &str, args: &[&str]) {
        let (docker, berth) = self.runs(args);
        for run in [docker, berth] {
            let id = run.ok().to_owned();
            self.names.insert(id[..12].to_owned(), format!("<{name}>"));
            self.names.insert(id, format!("<{name}>"));
        }
    }

    /// Pushes at both. Docker makes a manifest of its own where berth sends the one that came.
    fn push(&mut self, name: &str) {
        let (docker, berth) = self.runs(&["push", name]);
        for run in [docker, berth] {
            let (_, digest) = run.ok().rsplit_once("digest: ").unwrap();
            let (digest, _) = digest.split_once(' ').unwrap();
            self.names.insert(digest.to_owned(), "<pushed>".to_owned());
        }
    }

    pub(crate) fn finish(self) {
        assert!(
            self.differences.is_empty(),
            "{}",
            self.differences.join("\n")
        );
    }
}

/// An image made at this second of a day long ago, with these labels.
fn image(second: u32, labels: &Value, files: &[&[(&str, &[u8])]]) -> Image {
    let layers = files
        .iter()
        .map(|files| Layer::new(&tar(files), Compression::Plain));
    let config = json!({
        "Cmd": ["sh", "-c", "true"], "Env": ["A=b"], "Labels": labels, "WorkingDir": "/w",
        "ExposedPorts": { "80/tcp": {} }, "User": "1:2", "StopSignal": "SIGINT",
    });
    let mut image = Image::with_config(layers.collect(), &Platform::host(), &config);
    let text = String::from_utf8(image.config).unwrap();
    let before = testkit::image::sha256(text.as_bytes()).to_string();
    image.config = text.replace(":05Z", &format!(":{second:02}Z")).into_bytes();
    let manifest = String::from_utf8(image.manifest).unwrap();
    let after = testkit::image::sha256(&image.config).to_string();
    image.manifest = manifest.replace(&before, &after).into_bytes();
    image
}

/// A pull without what a layer has come through on its way: of several such states in quick succession
/// Docker shows the last.
fn told_for_sure(text: &str) -> String {
    let passing = [
        ": Pulling fs layer",
        ": Waiting",
        ": Verifying Checksum",
        ": Download complete",
    ];
    let lines = text
        .lines()
        .filter(|line| !passing.iter().any(|state| line.ends_with(state)));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Lists that have an order of their own at Docker, which changes.
pub(crate) fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n") + "\n"
}

/// Without what came free: Docker counts the bytes of files, berth those of the disk.
pub(crate) fn without_space(text: &str) -> String {
    let lines = text.lines();
    let kept = lines.filter(|line| !line.starts_with("Total reclaimed space: "));
    kept.map(|line| format!("{line}\n")).collect()
}

/// What both can say of an image.
fn common(text: &str) -> String {
    let (code, list) = text.split_once('\n').unwrap();
    let mut list: Value = serde_json::from_str(list).unwrap();
    for image in list.as_array_mut().unwrap() {
        let members = image.as_object_mut().unwrap();
        for own in ["GraphDriver", "Metadata", "Descriptor"] {
            members.remove(own);
        }
    }
    format!("{code}\n{list:#}\n")
}

#[test]
fn privileged_images_are_listed_named_and_removed_as_by_docker() {
    let mut both = Both::new();
    let base: &[(&str, &[u8])] = &[("etc/", b""), ("etc/base", b"base")];
    let a = image(
        10,
        &json!({ "kind": "a", "both": "1" }),
        &[base, &[("a", b"only a")]],
    );
    let b = image(
        20,
        &json!({ "kind": "b", "both": "1" }),
        &[base, &[("b", b"only b, longer")]],
    );
    let c = image(30, &json!({}), &[base]);
    let (id_a, id_b, id_c) = (a.id().to_string(), b.id().to_string(), c.id().to_string());
    both.file("a.tar", &a.docker_archive(&["a:1"]));
    both.file("b.tar", &b.docker_archive(&["b:1", "b:2", "other/b:1"]));
    both.file("c.tar", &c.docker_archive(&[]));
    both.file("root.tar", &tar(base));
    for file in ["%/a.tar", "%/b.tar", "%/c.tar", "%/none.tar"] {
        both.same(&["load", "-q", "-i", file]);
    }
    for args in [
        &["images"][..],
        &["images", "-a"],
        &["images", "-q"],
        &["images", "--no-trunc"],
        &["images", "--digests"],
        &["images", "a"],
        &["images", "b"],
        &["images", "b:2"],
        &["images", "*"],
        &["images", "*/*"],
        &["images", "b*"],
        &["images", "nothing"],
        &["images", "-f", "reference=b:1", "-f", "reference=a"],
        &["images", "-f", "before=b:1"],
        &["images", "-f", "since=b:1"],
        &["images", "-f", "since=nothing"],
        &["images", "-f", "before=nothing"],
        &["images", "-f", "label=kind=a"],
        &["images", "-f", "label=kind"],
        &["images", "-f", "label=both=1", "-f", "label=kind=b"],
        &["images", "-f", "dangling=true"],
        &["images", "-f", "dangling=false"],
        &["images", "-f", "dangling=maybe"],
        &["images", "-f", "until=2026-01-02T03:04:25"],
        &["images", "-f", "until=2020-01-01"],
        &["images", "-f", "until=nonsense"],
        &["images", "-f", "nonsense=1"],
        &["images", "-f", "nonsense"],
        &[
            "images",
            "--format",
            "{{.Repository}}|{{.Tag}}|{{.ID}}|{{.Size}}|{{.Digest}}|{{.CreatedAt}}",
        ],
        &[
            "images",
            "--format",
            "table {{.ID}}\t{{.Tag}}\t{{.VirtualSize}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
        ],
        &["images", "--format", "json"],
        &["images", "--format", "{{.Nothing}}"],
        &["history", "a:1"],
        &["history", "--no-trunc", "a:1"],
        &["history", "-q", "b:2"],
        &["history", "--human=false", "a:1"],
        &["history", "--format", "json", "a:1"],
        &["history", "nothing"],
        &["image", "inspect", "nothing"],
        &[
            "image",
            "inspect",
            "-f",
            "{{.Id}} {{.RepoTags}} {{.Config.Env}} {{.Os}}/{{.Architecture}} {{len .RootFS.Layers}}",
            "a:1",
            "b:1",
        ],
        &["image", "inspect", "-f", "{{json .Config}}", "a:1"],
        &[
            "image",
            "inspect",
            "-f",
            "{{.RepoDigests}} {{.Parent}} {{.Size}} {{.Created}} {{.Author}} {{.Comment}}",
            "b",
        ],
        &["image", "inspect", "-f", "{{.Nothing}}", "a:1"],
        &["inspect", "nothing"],
        &["inspect", "--type", "image", "nothing"],
        &["inspect", "-f", "{{.Id}}", "a:1"],
        &["tag", "a:1", "x:1"],
        &["tag", "a:1", "x"],
        &["tag", "a:1", "X"],
        &["tag", "a:1", "x:"],
        &["tag", "a:1", "-x"],
        &[
            "tag",
            "a:1",
            "x@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ],
        &["tag", "nothing", "y"],
        &["tag", "nothing:1", "y"],
        &["tag", "b:1", "a:2"],
        &["images"],
        &["rmi", "nothing"],
        &["rmi", "nothing:1", "other"],
        &["rmi", "-f", "nothing"],
        &["rmi", "X"],
        &[
            "rmi",
            "sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ],
        &["rmi", "000000000000"],
        &["rmi", "a:2"],
        &["rmi", "x", "x:1"],
        &["images"],
        &["rmi", &id_b],
        &["rmi", &id_b["sha256:".len()..][..12]],
        &["rmi", &id_b["sha256:".len()..][..4]],
        &["images"],
    ] {
        match args {
            ["images", ..] => both.same_but(args, sorted),
            _ => both.same(args),
        }
    }
    for name in ["a:1", "b:1", &id_c] {
        both.same_but(&["image", "inspect", name], common);
    }
    both.container("stopped", &["create", "--name", "stopped", "a:1"]);
    both.container("other", &["create", "--name", "other", "b:1", "sh"]);
    for args in [
        &["images", "--format", "{{.Tag}} {{.Containers}}"][..],
        &["rmi", "a:1"],
        &["rmi", &id_a],
        &["tag", "a:1", "a:2"],
        &["rmi", "a:2"],
        &["rmi", "b:1"],
        &["rmi", "b:2"],
        &["rmi", "other/b:1"],
        &["images"],
        &["image", "prune", "-f"],
        &["image", "prune", "-af"],
        &["images"],
        &["rmi", "-f", "a:1"],
        &["images", "-a"],
        &["ps", "-a", "--format", "{{.Names}} {{.Image}}"],
        &["rmi", &id_a],
        &["rmi", "-f", &id_a],
        &["images", "-a"],
        &["rm", "stopped", "other"],
        &["load", "-q", "-i", "%/a.tar"],
        &["load", "-q", "-i", "%/b.tar"],
        &["load", "-q", "-i", "%/c.tar"],
        &["image", "prune", "-f", "--filter", "label=kind"],
        &["image", "prune", "-f", "--filter", "until=2020-01-01"],
        &["image", "prune", "-f", "--filter", "nonsense=1"],
        &["image", "prune", "-f", "--filter", "dangling=maybe"],
        &["image", "prune", "-f"],
        &["image", "prune", "-af", "--filter", "label!=kind=b"],
        &["image", "prune", "-af", "--filter", "label=kind=b"],
        &["images", "-a"],
        &["load", "-q", "-i", "%/b.tar"],
        &["rmi", "-f", &id_b],
        &["images", "-a"],
        &["load", "-q", "-i", "%/b.tar"],
        &["rmi", "b:1", "b:2", "other/b:1"],
        &["load", "-q", "-i", "%/a.tar"],
        &[
            "system",
            "df",
            "--format",
            "{{.Type}} {{.TotalCount}} {{.Active}}",
        ],
        &["save", "nothing"],
        &["save", "-o", "%/out/of/nowhere.tar", "a:1"],
        &["import", "%/none.tar"],
        &["import", "-c", "NONSENSE", "%/root.tar"],
        &["import", "%/root.tar", "X"],
    ] {
        match args {
            ["images", ..] => both.same_but(args, sorted),
            ["image", "prune", ..] => both.same_but(args, without_space),
            _ => both.same(args),
        }
    }
    both.finish();
}

#[test]
fn privileged_images_go_to_registries_and_come_as_with_docker() {
    let mut both = Both::new();
    let registry = Registry::start();
    let address = registry.address().to_owned();
    both.names.insert(address.clone(), "REGISTRY".to_owned());
    let base: &[(&str, &[u8])] = &[("etc/", b""), ("etc/base", b"base")];
    let a = image(10, &json!({ "kind": "a" }), &[base, &[("a", b"only a")]]);
    let b = image(
        20,
        &json!({ "kind": "b" }),
        &[base, &[("b", b"only b, longer")]],
    );
    let digest = registry.push("team/app", "1", &a).to_string();
    registry.push("team/app", "2", &b);
    let name = |rest: &str| format!("{address}/team/{rest}");
    both.file("b.tar", &b.docker_archive(&["b:1"]));
    both.file("root.tar", &tar(base));
    let since = both
        .berth
        .docker(&["info", "-f", "{{.SystemTime}}"])
        .ok()
        .to_owned();
    let id_a = a.id().to_string();
    let by_digest = name(&format!("app@{digest}"));
    for args in [
        &["pull", &name("app:1")][..],
        &["pull", &name("app:1")],
        &["images", "--digests", "--no-trunc"],
        &["pull", "-q", &name("app:2")],
        &["pull", &by_digest],
        &["images", "--digests", "--no-trunc"],
        &["pull", &name("app:none")],
        &["pull", &name("none:1")],
        &["pull", "X:1"],
        &[
            "pull",
            &format!("{address}/team/app@sha256:{}", "0".repeat(64)),
        ],
        &[
            "image",
            "inspect",
            "-f",
            "{{.RepoTags}} {{.RepoDigests}}",
            &name("app:1"),
        ],
        &["image", "inspect", "-f", "{{.RepoTags}}", &by_digest],
        &["rmi", &name("app:1")],
        &["images", "--digests", "--no-trunc"],
        &["rmi", &by_digest],
        &["images", "--digests", "--no-trunc"],
        &["pull", "-q", &by_digest],
        &["images", "--digests", "--no-trunc"],
        &[
            "images",
            "-a",
            "--format",
            "{{.Repository}} {{.Tag}} {{.ID}}",
        ],
        &["tag", &by_digest, "mine:1"],
        &["rmi", &by_digest],
        &["rmi", "mine:1"],
        &["images", "--digests", "--no-trunc"],
        &["pull", "-q", &name("app:1")],
        &["tag", &name("app:1"), &name("fork:1")],
        &["tag", &name("app:1"), "mine:1"],
        &["rmi", &id_a],
        &["push", &name("none:1")],
        &["push", &name("app:none")],
        &["push", &by_digest],
        &["push!", &name("fork:1")],
        &["rmi", "-f", &id_a],
        &["load", "-q", "-i", "%/b.tar"],
        &["save", "-o", "%/out.tar", "b:1", &name("app:2")],
        &["rmi", "b:1"],
        &["load", "-q", "-i", "%/out.tar"],
        &["rmi", "-f", "b:1", &name("app:2")],
        &["load", "-q", "-i", "%/b.tar"],
        &["image", "prune", "-af"],
        &["images", "-a"],
    ] {
        match args {
            ["push!", name] => both.push(name),
            // Layers come and go side by side.
            ["images" | "load" | "push", ..] => both.same_but(args, sorted),
            ["pull", _] => both.same_but(args, |text| sorted(&told_for_sure(text))),
            ["image", "prune", ..] => both.same_but(args, without_space),
            _ => both.same(args),
        }
    }
    let events = [
        "events",
        "--since",
        &since,
        "--until",
        "0s",
        "--filter",
        "type=image",
        "--format",
        "{{.Action}} {{.Actor.ID}} {{json .Actor.Attributes}}",
    ];
    // The command line asks for whole seconds only: until this one is over.
    eventually(PATIENCE, || {
        let (docker, berth) = both.runs(&events);
        [docker, berth]
            .iter()
            .all(|run| run.stdout.contains("reclaimed"))
    });
    both.same_but(&events, |text| {
        let lines = text.lines();
        let lines = lines.map(|line| match line.contains("reclaimed") {
            true => "prune\n".to_owned(),
            false => format!("{line}\n"),
        });
        lines.collect()
    });
    both.finish();
}

#[test]
fn privileged_templates_know_gos_names_with_both_command_lines() {
    let host = Host::with_flags(&["--http-proxy", "http://127.0.0.1:1"]);
    host.import_busybox();
    let flags = [
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--dns",
        "127.0.0.1",
        "-p",
        "127.0.0.1::80",
    ];
    let create = ["create", "--name", "one", "--network", "bridge"];
    let command = ["busybox", "sleep", "1000"];
    host.berth(&[&create[..], &flags, &command].concat()).ok();
    let mut differences = Vec::new();
    for args in [
        &[
            "info",
            "-f",
            "{{.HTTPProxy}}|{{.HTTPSProxy}}|{{.NCPU}}|{{.OSType}}|{{.ID}}",
        ][..],
        &[
            "info",
            "-f",
            "{{.CPUCfsPeriod}} {{.CPUCfsQuota}} {{.CPUShares}} {{.CPUSet}} {{.IPv4Forwarding}}",
        ],
        &[
            "info",
            "-f",
            "{{range .SecurityOptions}}[{{.}}]{{end}} {{.RuncCommit.ID}} {{len .Runtimes}}",
        ],
        &[
            "info",
            "-f",
            "{{range .RegistryConfig.InsecureRegistryCIDRs}}{{.}} {{end}}",
        ],
        &[
            "version",
            "-f",
            "{{.Server.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Os}} {{.Server.Version}}",
        ],
        &[
            "version",
            "-f",
            "{{range .Server.Components}}{{.Name}} {{end}}{{.Server.Platform.Name}}",
        ],
        &["version", "-f", "{{.Client.Os}} {{.Client.Arch}}"],
        &[
            "inspect",
            "-f",
            "{{.ID}} {{.Name}} {{.Path}} {{.Args}}",
            "one",
        ],
        &[
            "inspect",
            "-f",
            "{{.HostConfig.NanoCPUs}} {{.HostConfig.CPUShares}} {{.HostConfig.DNS}}",
            "one",
        ],
        &[
            "inspect",
            "-f",
            "{{.HostConfig.CPUPeriod}} {{.HostConfig.CPUQuota}} {{.HostConfig.CPURealtimePeriod}}",
            "one",
        ],
        &[
            "inspect",
            "-f",
            "{{range $k, $v := .HostConfig.PortBindings}}{{$k}}={{range $v}}{{.HostIP}}:{{.HostPort}}{{end}}{{end}}",
            "one",
        ],
        &[
            "inspect",
            "-f",
            "{{if and .State (not .State.Running)}}{{upper .State.Status}}{{else}}no{{end}}",
            "one",
        ],
        &[
            "inspect",
            "-f",
            "{{join .Config.Cmd \",\"}} {{title .Name}} {{split .Name \"/\"}} {{truncate .Path 4}} {{pad .Name 2 3}}|",
            "one",
        ],
        &[
            "inspect",
            "-f",
            "{{json .HostConfig.DNS}} {{len .Config.Env}} {{printf \"%s-%d\" .Name 3}} {{println .ID}}",
            "one",
        ],
        &[
            "inspect",
            "-f",
            "{{$n := .Name}}{{range .Config.Cmd}}{{$n}} {{.}} {{end}}{{eq .Name \"/one\"}} {{lt 1 2}}",
            "one",
        ],
        &["inspect", "-f", "{{.HostConfig.Nothing}}", "one"],
        &[
            "inspect",
            "-f",
            "{{.State.Health}} {{.NetworkSettings.IPAddress}} {{.HostConfig.Memory}}",
            "one",
        ],
        &[
            "image",
            "inspect",
            "-f",
            "{{.ID}} {{.RootFS.Type}} {{index .RootFS.Layers 0}} {{.Config.WorkingDir}}",
            "busybox",
        ],
        &[
            "network",
            "inspect",
            "-f",
            "{{.ID}} {{.EnableIPv6}} {{range .IPAM.Config}}{{.AuxAddress}}{{end}}",
            "bridge",
        ],
        &[
            "ps",
            "-a",
            "--format",
            "{{.ID}} {{.Names}} {{.Image}} {{.Ports}} {{.Networks}} {{.Label \"x\"}}",
        ],
    ] {
        let said = [host.docker(args), host.berth(args)];
        let [docker, berth] = said.map(|run| (run.code, run.stdout, run.stderr));
        if docker != berth {
            differences.push(format!("{args:?}\ndocker {docker:?}\nberth {berth:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    host.berth(&["rm", "one"]).ok();
}
