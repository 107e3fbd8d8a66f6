//! Files between containers and the host, with both command lines.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use crate::client::{CLIENTS, Client};
use crate::host::Host;

/// Runs, with a volume, a tmpfs and a bind of the host.
fn start_box(host: &Host, name: &str, more: &[&str]) {
    let run = [
        &["run", "-d", "--name", name, "-v", "data:/data"][..],
        &["--tmpfs", "/scratch"][..],
        more,
        &["busybox", "sleep", "1000"],
    ]
    .concat();
    host.berth(&run).ok();
}

#[test]
fn privileged_files_go_into_containers_and_come_back() {
    let host = Host::new();
    start_box(&host, "runs", &[]);
    let stopped = [
        "create",
        "--name",
        "rests",
        "-v",
        "other:/data",
        "busybox",
        "true",
    ];
    host.berth(&stopped).ok();
    let local = host.path().join("local");
    fs::create_dir_all(local.join("sub")).unwrap();
    fs::write(local.join("file"), "content\n").unwrap();
    fs::write(local.join("sub/deep"), "deep\n").unwrap();
    symlink("file", local.join("link")).unwrap();
    let path = |name: &str| local.join(name).to_str().unwrap().to_owned();
    for client in CLIENTS {
        for (container, places) in [
            ("runs", &["/data", "/scratch"][..]),
            ("rests", &["/tmp", "/data"][..]),
        ] {
            for place in places {
                let back = tempfile::tempdir().unwrap();
                let back = |name: &str| back.path().join(name).to_str().unwrap().to_owned();
                let cp = |from: &str, to: &str| client.run(&host, &["cp", from, to]);
                let inside = |name: &str| format!("{container}:{place}/{name}");
                // A file under its own name, under another, and over what is there.
                cp(&path("file"), &format!("{container}:{place}")).ok();
                cp(&path("file"), &inside("renamed")).ok();
                cp(&path("sub/deep"), &inside("renamed")).ok();
                cp(&inside("file"), &back("f")).ok();
                cp(&inside("renamed"), &back("g")).ok();
                assert_eq!(fs::read_to_string(back("f")).unwrap(), "content\n");
                assert_eq!(fs::read_to_string(back("g")).unwrap(), "deep\n");
                // A directory under its own name, and what is in it alone.
                cp(&path(""), &inside("made")).ok();
                cp(&path("sub/."), &format!("{container}:{place}")).ok();
                cp(&inside("made"), &back("d")).ok();
                cp(&inside("deep"), &back("e")).ok();
                assert_eq!(fs::read_to_string(back("d/sub/deep")).unwrap(), "deep\n");
                assert_eq!(fs::read_to_string(back("e")).unwrap(), "deep\n");
                let link = fs::read_link(back("d/link")).unwrap();
                assert_eq!(link.to_str(), Some("file"));
                // A link as itself, and as what it leads to.
                cp(&inside("made/link"), &back("l")).ok();
                assert!(fs::symlink_metadata(back("l")).unwrap().is_symlink());
                let follow = ["cp", "-L", &inside("made/link"), &back("m")];
                client.run(&host, &follow).ok();
                assert_eq!(fs::read_to_string(back("m")).unwrap(), "content\n");
                // Into what a link of the container leads to.
                if container == "runs" {
                    let made = format!("rm -rf {place}/way && ln -s {place}/made/sub {place}/way");
                    host.berth(&["exec", "runs", "sh", "-c", &made]).ok();
                    cp(&path("file"), &inside("way")).ok();
                    cp(&inside("made/sub/file"), &back("w")).ok();
                    assert_eq!(fs::read_to_string(back("w")).unwrap(), "content\n");
                }
            }
        }
    }
    // What was put into the one that rests is there when it runs.
    let seen = host.berth(&[
        "run",
        "--rm",
        "-v",
        "other:/data",
        "busybox",
        "cat",
        "/data/deep",
    ]);
    assert_eq!(seen.ok(), "deep");
}

#[test]
fn privileged_tars_go_through_standard_streams() {
    let host = Host::new();
    start_box(&host, "box", &[]);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o4750);
    header.set_uid(1234);
    header.set_gid(4321);
    header.set_mtime(1_500_000_000);
    tar.append_data(&mut header, "dir/file", &b"bytes"[..])
        .unwrap();
    let tar = tar.into_inner().unwrap();
    for client in CLIENTS {
        client.feed(&host, &["cp", "-", "box:/data"], &tar).ok();
        let shown = ["exec", "box", "stat", "-c", "%a %u %g %Y", "/data/dir/file"];
        assert_eq!(client.run(&host, &shown).ok(), "4750 1234 4321 1500000000");
        let output = client
            .command(&host, &["cp", "box:/data/dir", "-"])
            .output()
            .unwrap();
        let mut names: Vec<String> = tar::Archive::new(output.stdout.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["dir/", "dir/file"]);
        let said = client.feed(&host, &["cp", "-", "box:/data/dir/file"], &tar);
        assert_eq!(
            said.fails(1),
            "destination \"box:/data/dir/file\" must be a directory"
        );
    }
    // The root without what the kernel shows of itself.
    let output = Client::Berth
        .command(&host, &["cp", "box:/", "-"])
        .output()
        .unwrap();
    let mut seen = 0;
    for entry in tar::Archive::new(output.stdout.as_slice())
        .entries()
        .unwrap()
    {
        let path = entry.unwrap().path().unwrap().to_str().unwrap().to_owned();
        assert!(
            !path.trim_start_matches('/').starts_with("proc/1"),
            "{path}"
        );
        seen += u32::from(path.ends_with("bin/busybox"));
    }
    assert_eq!(seen, 1);
}

#[test]
fn privileged_owners_are_kept_or_become_the_users() {
    let host = Host::new();
    start_box(&host, "box", &["-u", "app"]);
    let file = host.path().join("file");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&file, Some(77), Some(78)).unwrap();
    let file = file.to_str().unwrap();
    for client in CLIENTS {
        let shown = |name: &str| {
            let stat = ["exec", "-u", "0", "box", "stat", "-c", "%a %u %g"];
            client
                .run(&host, &[&stat[..], &[name]].concat())
                .ok()
                .to_owned()
        };
        client.run(&host, &["cp", file, "box:/tmp/plain"]).ok();
        assert_eq!(shown("/tmp/plain"), "640 77 78");
        client
            .run(&host, &["cp", "-a", file, "box:/tmp/users"])
            .ok();
        assert_eq!(shown("/tmp/users"), "640 1000 1000");
        let back = tempfile::tempdir().unwrap();
        let place = back.path().join("back");
        client
            .run(&host, &["cp", "box:/tmp/plain", place.to_str().unwrap()])
            .ok();
        let found = fs::metadata(&place).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid()), (0o640, 0));
    }
}

#[test]
fn privileged_what_cannot_be_copied_is_refused_in_dockers_words() {
    let host = Host::new();
    let shared = host.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let bind = format!("{}:/ro:ro", shared.display());
    start_box(&host, "box", &["--read-only", "-v", &bind]);
    host.berth(&[
        "create",
        "--name",
        "rests",
        "--read-only",
        "-v",
        &bind,
        "busybox",
        "true",
    ])
    .ok();
    let file = host.path().join("file");
    fs::write(&file, "x").unwrap();
    let directory = host.path().join("directory");
    fs::create_dir(&directory).unwrap();
    let (file, directory) = (file.to_str().unwrap(), directory.to_str().unwrap());
    host.berth(&["cp", file, "box:/data/file"]).ok();
    for client in CLIENTS {
        let check = |arguments: &[&str], wanted: &str| {
            let said = client.run(&host, &[&["cp"], arguments].concat());
            // Docker sometimes complains first that nobody reads its tar any more.
            let complaint = said.fails(1).lines().last();
            assert_eq!(complaint, Some(wanted), "{client:?}");
        };
        for name in ["box", "rests"] {
            check(
                &[&format!("{name}:/nope"), directory],
                &format!(
                    "Error response from daemon: Could not find the file /nope in container {name}"
                ),
            );
            check(
                &[file, &format!("{name}:/tmp")],
                "Error response from daemon: container rootfs is marked read-only",
            );
            check(
                &[file, &format!("{name}:/ro")],
                "Error response from daemon: mounted volume is marked read-only",
            );
            check(
                &[file, &format!("{name}:/etc/passwd/x")],
                "Error response from daemon: extraction point is not a directory",
            );
        }
        check(&[directory, "box:/data/file"], "cannot copy directory");
        check(
            &["box:/data", "rests:/data"],
            "copying between containers is not supported",
        );
        check(
            &[file, directory],
            "must specify at least one container source",
        );
        check(&[file, "box:/nope/"], "no such directory");
        check(&["box:/data", file], "cannot copy directory");
        check(
            &["box:/data", "/nope/nope/x"],
            "invalid output path: directory \"/nope/nope\" does not exist",
        );
        check(
            &["nobox:/x", directory],
            "Error response from daemon: No such container: nobox",
        );
    }
}

/// Docker's figures: a container that only ran has changed nothing.
#[test]
fn privileged_what_a_container_changed_is_told() {
    let host = Host::new();
    host.berth(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])
        .ok();
    for client in CLIENTS {
        assert_eq!(client.run(&host, &["diff", "box"]).ok(), "");
    }
    let script = "echo x > /etc/plain; mkdir /new; touch /new/file; rm /etc/group; \
                  rm -r /var; mkdir /var; touch /tmp/t; rm /tmp/t";
    host.berth(&["exec", "box", "sh", "-c", script]).ok();
    let wanted = "C /etc\nD /etc/group\nC /etc/plain\nA /new\nA /new/file\nC /tmp\nC /var";
    for client in CLIENTS {
        assert_eq!(client.run(&host, &["diff", "box"]).ok(), wanted);
        assert_eq!(
            client.run(&host, &["diff", "nobox"]).fails(1),
            "Error response from daemon: No such container: nobox"
        );
    }
    host.berth(&["rm", "-f", "box"]).ok();
}
