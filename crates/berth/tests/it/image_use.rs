//! Images that containers use, beside Docker: what is refused, what happens to them, what containers
//! leave in their files, and what is told about all of it.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

use crate::client::{Client, Run};
use crate::likeness::{Both, sorted, without_space};

/// A root with nothing but a program: not even `/etc` is there.
fn bare() -> Vec<u8> {
    let program = fs::read(testkit::tool("busybox")).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    tar.append_data(&mut header, "bin/busybox", program.as_slice())
        .unwrap();
    tar.into_inner().unwrap()
}

/// Imports it as `a:1` at both.
fn import(both: &mut Both, name: &str, seconds: &str) {
    let change = format!("CMD [\"/bin/busybox\", \"sleep\", \"{seconds}\"]");
    let (docker, berth) = both.runs(&["import", "-c", &change, "%/root.tar", name]);
    remember(both, "image", [docker, berth]);
}

/// Names what differs at both.
fn remember(both: &mut Both, name: &str, runs: [Run; 2]) {
    for run in runs {
        let digest = run.ok().to_owned();
        let hex = digest.trim_start_matches("sha256:").to_owned();
        let stands = format!("<{name}>");
        both.names.insert(hex[..12].to_owned(), stands.clone());
        both.names.insert(hex, stands);
    }
}

#[test]
fn privileged_images_in_use_are_kept_and_removed_as_by_docker() {
    let mut both = Both::new();
    both.file("root.tar", &bare());
    let since = both.berth.docker(&["info", "-f", "{{.SystemTime}}"]);
    let since = since.ok().to_owned();
    import(&mut both, "a:1", "1000");
    let ids = both.runs(&["images", "-q", "--no-trunc", "a:1"]);
    let ids = [ids.0.ok().to_owned(), ids.1.ok().to_owned()];
    // Commands that name the image by its id name another at each.
    let by_id = |both: &mut Both, args: &[&str]| {
        let [docker, berth] = [0, 1].map(|which| {
            let short = &ids[which]["sha256:".len()..][..12];
            let args: Vec<String> = args
                .iter()
                .map(|arg| arg.replace("ID", &ids[which]).replace("SHORT", short))
                .collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            match which {
                0 => both.docker.run(&args),
                _ => both.berth.docker(&args),
            }
        });
        let told = |run: &Run, id: &str| {
            let text = format!("{:?} {} {}", run.code, run.stdout, run.stderr);
            let short = &id["sha256:".len()..];
            let text = text.replace(short, "ID").replace(&short[..12], "SHORT");
            both.names
                .iter()
                .rev()
                .fold(text, |text, (from, to)| text.replace(from, to))
        };
        assert_eq!(told(&berth, &ids[1]), told(&docker, &ids[0]), "{args:?}");
    };
    let create = ["run", "-d", "--name", "up", "--network", "none", "a:1"];
    both.same(&["tag", "a:1", "a:2"]);
    both.container("up", &create);
    for args in [
        &["rmi", "a:2"][..],
        &["rmi", "a:1"],
        &["tag", "a:1", "a:2"],
        &["rmi", "a:1", "a:2"],
        &["tag", "a:1", "a:2"],
    ] {
        both.same(args);
    }
    by_id(&mut both, &["rmi", "ID"]);
    by_id(&mut both, &["rmi", "SHORT"]);
    by_id(&mut both, &["rmi", "-f", "ID"]);
    by_id(&mut both, &["rmi", "-f", "SHORT"]);
    for args in [
        &["rmi", "-f", "a:1"][..],
        &[
            "images",
            "-a",
            "--format",
            "{{.Repository}}:{{.Tag}} {{.ID}}",
        ],
        &["ps", "-a", "--format", "{{.Names}} {{.Image}}"],
    ] {
        both.same(args);
    }
    by_id(&mut both, &["tag", "ID", "a:1"]);
    by_id(&mut both, &["tag", "SHORT", "a:3"]);
    for args in [
        &["rmi", "--no-prune", "a:3"][..],
        &["rmi", "-f", "a:1"],
        &["kill", "up"],
        &["wait", "up"],
        &["image", "prune", "-f"],
    ] {
        both.same(args);
    }
    by_id(&mut both, &["rmi", "ID"]);
    by_id(&mut both, &["rmi", "-f", "ID"]);
    for args in [
        &["ps", "-a", "--format", "{{.Names}} {{.Image}}"][..],
        &["rm", "up"],
        &["images", "-aq"],
    ] {
        both.same(args);
    }
    // A name goes to another image while a container has the first. It is none that could begin
    // an id.
    import(&mut both, "moved:1", "1");
    both.container("made", &["create", "--name", "made", "moved:1"]);
    import(&mut both, "moved:1", "2");
    for args in [
        &[
            "images",
            "-a",
            "--format",
            "{{.Repository}}:{{.Tag}} {{.ID}}",
        ][..],
        &["ps", "-a", "--format", "{{.Names}} {{.Image}}"],
        &["rmi", "moved"],
        &["rmi", "moved:1"],
        &["image", "prune", "-f"],
        &[
            "images",
            "-a",
            "--format",
            "{{.Repository}}:{{.Tag}} {{.ID}}",
        ],
        &["rm", "made"],
        &["image", "prune", "-f"],
        &["images", "-aq"],
    ] {
        match args {
            ["image", "prune", ..] => both.same_but(args, without_space),
            // Those of one second have no order.
            ["images", "-a", ..] => both.same_but(args, sorted),
            _ => both.same(args),
        }
    }
    let until = both.berth.docker(&["info", "-f", "{{.SystemTime}}"]);
    both.same_but(
        &[
            "events",
            "--since",
            &since,
            "--until",
            until.ok(),
            "--filter",
            "type=image",
            "--format",
            "{{.Action}} {{.Actor.ID}} {{json .Actor.Attributes}}",
        ],
        |text| {
            let lines = text.lines().map(|line| match line.starts_with("prune") {
                true => "prune\n".to_owned(),
                false => format!("{line}\n"),
            });
            lines.collect()
        },
    );
    both.finish();
}

/// The files of each layer of the images in an archive that `docker save` has written.
fn layers(archive: &Path) -> Vec<Vec<String>> {
    let read = |name: &str| -> Vec<u8> {
        let mut tar = tar::Archive::new(fs::File::open(archive).unwrap());
        let mut entries = tar.entries().unwrap().map(Result::unwrap);
        let mut entry = entries
            .find(|entry| entry.path().unwrap() == Path::new(name))
            .unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let manifest: Value = serde_json::from_slice(&read("manifest.json")).unwrap();
    let images = manifest.as_array().unwrap().iter();
    let layers = images.flat_map(|image| image["Layers"].as_array().unwrap().clone());
    layers
        .map(|layer| {
            let bytes = read(layer.as_str().unwrap());
            let mut tar = tar::Archive::new(bytes.as_slice());
            let entries = tar.entries().unwrap().map(Result::unwrap);
            let told = entries.map(|entry| {
                let path = entry.path().unwrap().display().to_string();
                format!("{} {:o}", path, entry.header().mode().unwrap())
            });
            told.collect()
        })
        .collect()
}

#[test]
fn privileged_containers_leave_in_images_what_they_leave_with_docker() {
    let mut both = Both::new();
    both.file("root.tar", &bare());
    import(&mut both, "a:1", "1000");
    let shell = ["--network", "none", "a:1", "/bin/busybox", "sh", "-c"];
    let create = |name: &'static str, script: &'static str| {
        [&["run", "--name", name], &shell[..], &[script]].concat()
    };
    let marks = "ls() { /bin/busybox ls \"$@\"; }; ls -A /; ls -A /etc; ls /.dockerenv; \
                 /bin/busybox readlink /etc/mtab";
    for args in [
        &create("marks", marks)[..],
        &create(
            "files",
            "echo x > /new; /bin/busybox mkdir /etc/own; echo y > /etc/own/y",
        ),
        &create("none", "true"),
        &["diff", "marks"],
        &["diff", "none"],
    ] {
        both.same(args);
    }
    // Docker tells them in another order.
    both.same_but(&["diff", "files"], sorted);
    for name in ["files", "none"] {
        let (docker, berth) = both.runs(&["commit", name, &format!("{name}:1")]);
        remember(&mut both, name, [docker, berth]);
    }
    let history = "{{.Size}} {{.CreatedBy}} {{.Comment}}";
    for args in [
        &["history", "-q", "--no-trunc", "a:1"][..],
        &["history", "--format", history, "files:1"],
        &["history", "--format", history, "none:1"],
        &[
            "image",
            "inspect",
            "-f",
            "{{json .Config}} {{len .RootFS.Layers}}",
            "none:1",
        ],
        &["save", "-o", "%/saved.tar", "files:1", "none:1"],
        &["rm", "marks", "files", "none"],
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "--read-only",
            "files:1",
            "/bin/busybox",
            "ls",
            "-A",
            "/",
        ],
    ] {
        both.same(args);
    }
    let saved = layers(&both.berth.path().join("saved.tar"));
    assert_eq!(saved, layers(&both.docker.path().join("saved.tar")));
    assert!(
        saved.iter().flatten().any(|file| file == "etc/own/y 644"),
        "{saved:?}"
    );
    both.finish();
}

/// Without how long ago that was, the room it takes in a table, and a member of later versions.
fn timeless(text: &str) -> String {
    let mut text = text.replace("Less than a second ago", "some time ago");
    for seconds in 1..120 {
        for unit in ["second", "seconds"] {
            text = text.replace(&format!("{seconds} {unit} ago"), "some time ago");
        }
    }
    for health in ["", "none"] {
        text = text.replace(&format!("\"HealthStatus\":\"{health}\","), "");
    }
    text.split_inclusive('\n')
        .map(|line| {
            line.split_inclusive("  ")
                .map(str::trim_end)
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("  ")
                + "\n"
        })
        .collect()
}

/// Sizes and ids differ between daemons; what `berth` makes of the same answer does not.
#[test]
fn privileged_the_use_of_the_disk_is_shown_by_both_command_lines_alike() {
    let host = crate::host::Host::new();
    host.berth(&[
        "run",
        "--name",
        "one",
        "-v",
        "kept:/kept",
        "busybox",
        "sh",
        "-c",
        "echo 1 > /kept/1",
    ])
    .ok();
    let mut differences = Vec::new();
    for args in [
        &["system", "df", "-v"][..],
        &["system", "df", "-v", "--format", "json"],
        &["system", "df", "-v", "--format", "{{json .}}"],
        &["system", "df", "-v", "--format", "table"],
        &[
            "system",
            "df",
            "-v",
            "--format",
            "{{range .Images}}{{.Repository}} {{.UniqueSize}} {{end}}{{len .Volumes}}",
        ],
        &[
            "system",
            "df",
            "-v",
            "--format",
            "{{range .Containers}}{{.Names}}{{.LocalVolumes}}{{end}}",
        ],
        &[
            "system",
            "df",
            "-v",
            "--format",
            "{{range .Volumes}}{{.Name}} {{.Links}} {{.Size}}{{end}}",
        ],
        &["system", "df", "-v", "--format", "{{.Nothing}}"],
        &["system", "df", "-v", "--format", "{{"],
        &["system", "df", "-v", "--format", "raw"],
        &[
            "system",
            "df",
            "--format",
            "{{.Type}} {{.TotalCount}} {{.Active}}",
        ],
        &["images", "--format", "raw"],
        &["images", "--format", "raw", "-q"],
        &["images", "--format", "raw", "--digests"],
    ] {
        let [docker, berth] = [Client::Docker, Client::Berth].map(|client| {
            let run = client.run(&host, args);
            // Berth tells more, after all that docker tells.
            let out = match run.stdout.split_once("\nData root usage:") {
                Some((before, _)) => before.to_owned(),
                None => run.stdout,
            };
            (run.code, timeless(&out), run.stderr)
        });
        if docker != berth {
            differences.push(format!("{args:?}\ndocker {docker:?}\nberth  {berth:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    host.berth(&["rm", "one"]).ok();
}
