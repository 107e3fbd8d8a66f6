//! Ways out of a container that begin with an image or a command, tried against the whole product.
//! What only the runtime can be asked is in `crates/runtime/tests/it/escapes/`; SECURITY.md lists all.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use testkit::image::{Compression, Image, Layer};
use vocab::Platform;

use crate::client::{CLIENTS, Client};
use crate::host::{Host, busybox_tar};

/// What an evil image has on top of busybox.
enum Entry<'a> {
    Link(&'a str, &'a str),
    File(&'a str, &'a str),
}

/// Loads `evil:latest`.
fn load(host: &Host, entries: &[Entry<'_>], config: &Value) {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        match entry {
            Entry::Link(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, path, target).unwrap();
            }
            Entry::File(path, text) => {
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, path, text.as_bytes()).unwrap();
            }
        }
    }
    let layers = [busybox_tar(), tar.into_inner().unwrap()];
    let layers = layers
        .map(|tar| Layer::new(&tar, Compression::Plain))
        .to_vec();
    let image = Image::with_config(layers, &Platform::host(), config);
    let archive = host.path().join("evil.tar");
    fs::write(&archive, image.docker_archive(&["evil:latest"])).unwrap();
    host.berth(&["load", "-i", archive.to_str().unwrap()]).ok();
}

/// A directory of the host with one file, which no container has any business in.
fn outside(host: &Host) -> PathBuf {
    let outside = host.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "of the host").unwrap();
    outside
}

fn names(directory: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// CVE-2019-5736: a process of the container is berth's own program, until it has become the
/// container's or by `/proc/self/exe`. Another opens it, and changes it. (Its mode, since as long
/// as the daemon runs its content is busy.)
///
/// Taken out: the fork server ran the program itself instead of `runtime::sealed`. Seen: `changed`.
#[test]
fn privileged_berths_program_cannot_be_written_from_a_container() {
    let host = Host::new();
    // The program needs its libraries, which an attacker would bring.
    let mut run = vec![
        "run",
        "-d",
        "--name",
        "box",
        "-e",
        "DOCKER_HOST=tcp://127.0.0.1:1",
    ];
    for library in ["/lib:/lib:ro", "/lib64:/lib64:ro", "/usr/lib:/usr/lib:ro"] {
        run.extend(["-v", library]);
    }
    run.extend(["busybox", "sleep", "1000"]);
    host.berth(&run).ok();

    // Reads its standard input, and so lives as long as that.
    let own = [
        "exec",
        "-i",
        "box",
        "/proc/self/exe",
        "login",
        "-u",
        "x",
        "--password-stdin",
        "x",
    ];
    let mut victim = Client::Docker
        .command(&host, &own)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let script = "while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in \
                  ''|*busybox) ;; *) exec 3<$p/exe && break 2;; esac; done; done; echo open; \
                  read end; chmod 755 /proc/self/fd/3 2>&1 && echo changed; true";
    let mut attacker = Client::Docker
        .command(&host, &["exec", "-i", "box", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(attacker.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "open");
    drop(victim.stdin.take());
    victim.wait().unwrap();
    drop(attacker.stdin.take());
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    attacker.wait().unwrap();
    assert!(
        said.len() == 1 && said[0].contains("Read-only file system"),
        "{said:?}"
    );
}

/// CVE-2019-16884: `VOLUME /proc`.
///
/// Taken out: `view::spare_proc`. Seen: the container ran.
#[test]
fn privileged_an_image_with_a_volume_at_proc_does_not_run() {
    let host = Host::new();
    load(
        &host,
        &[],
        &json!({"Cmd": ["true"], "Volumes": {"/proc": {}}}),
    );
    for client in CLIENTS {
        let said = client.run(&host, &["run", "--rm", "evil"]);
        assert_ne!(said.code, Some(0));
        assert!(
            said.stderr
                .contains("only a procfs can be mounted at `/proc`"),
            "{said:?}"
        );
    }
}

/// CVE-2022-36109: the main group was not among the supplementary ones, so that what is denied to
/// that group was allowed. CVE-2022-24769, CVE-2022-29162: inheritable capabilities were not empty.
///
/// Taken out: `identity.groups.insert` in `spec::user::find`. Seen: no group. Taken out:
/// `inheritable` in `identity::limit_to` was what is permitted. Seen: `00000000a80425fb`.
#[test]
fn privileged_groups_and_capabilities_are_dockers() {
    let host = Host::new();
    let status = "grep -E '^(Groups|CapInh|CapAmb|CapBnd):' /proc/self/status";
    let wanted = "Groups:\t50 \nCapInh:\t0000000000000000\nCapBnd:\t00000000a80425fb\n\
                  CapAmb:\t0000000000000000";
    host.berth(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])
        .ok();
    for client in CLIENTS {
        let user = ["-u", "1000:50"];
        let run = [
            &["run", "--rm"],
            &user[..],
            &["busybox", "sh", "-c", status],
        ]
        .concat();
        assert_eq!(client.run(&host, &run).ok(), wanted);
        let exec = [&["exec"], &user[..], &["box", "sh", "-c", status]].concat();
        assert_eq!(client.run(&host, &exec).ok(), wanted);
    }
    let privileged = "grep CapInh /proc/self/status";
    let run = [
        "run",
        "--rm",
        "--privileged",
        "busybox",
        "sh",
        "-c",
        privileged,
    ];
    assert_eq!(host.berth(&run).ok(), "CapInh:\t0000000000000000");
}

/// CVE-2024-21626: `WORKDIR /proc/self/fd/7`, and the same at exec. A link of the image to it, too.
///
/// Taken out: see `descriptors` in the runtime's tests; here it was checked that the refusal is told.
#[test]
fn privileged_a_descriptor_is_no_working_directory() {
    let host = Host::new();
    host.berth(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])
        .ok();
    load(
        &host,
        &[Entry::Link("work", "/proc/self/fd/7")],
        &json!({"Cmd": ["ls"], "WorkingDir": "/work"}),
    );
    let said = host.docker(&["run", "--rm", "evil"]);
    assert!(said.code != Some(0) && said.stdout.is_empty(), "{said:?}");
    for fd in 3..12 {
        let cwd = format!("/proc/self/fd/{fd}");
        for args in [["exec", "-w", &cwd, "box"], ["run", "-w", &cwd, "busybox"]] {
            let said = host.berth(&[&args[..], &["ls"]].concat());
            assert!(
                said.code != Some(0) && !said.stdout.contains("bin\n"),
                "{said:?}"
            );
            let told = [said.stdout.as_str(), &said.stderr].concat();
            assert!(told.contains("directory"), "{said:?}");
        }
    }
}

/// CVE-2026-55686, CVE-2026-41579, CVE-2018-15664 and their like: directories of the image are
/// links to the host, where working directory, devices, mount points, and copies for volumes go to
/// or come from.
///
/// Taken out: `IN_ROOT` in `inside::open`, and in `volumes::open_inside`. Seen: `secret` in the
/// volume and directories outside.
#[test]
fn privileged_links_of_an_image_lead_nowhere_on_the_host() {
    let host = Host::new();
    let outside = outside(&host);
    let target = outside.to_str().unwrap();
    let links = ["work", "data", "dev", "mnt"].map(|path| Entry::Link(path, target));
    load(
        &host,
        &links,
        &json!({"Cmd": ["ls", "/data"], "WorkingDir": "/work/deep", "Volumes": {"/data": {}}}),
    );
    let note = host.path().join("note");
    fs::write(&note, "").unwrap();
    let bind = format!("{}:/mnt/note", note.display());
    for client in CLIENTS {
        let run = ["run", "--rm", "-v", &bind, "-v", "named:/data", "evil"];
        let said = client.run(&host, &run);
        assert!(!said.ok().contains("secret"), "{said:?}");
        assert_eq!(names(&outside), ["secret"]);
    }
}

/// The accounts of an image decide who a name is: not the host's, by a link; not root's, by a name
/// that looks like a number (CVE-2024-40635, CVE-2026-46680); and a device there is not opened.
///
/// Taken out: `IN_ROOT` in `cache::read_inside`, and `user::number`. Seen: both ran.
#[test]
fn privileged_accounts_are_the_images_own() {
    let host = Host::new();
    let accounts = host.path().join("accounts");
    fs::write(&accounts, "somebody:x:0:0::/:\n").unwrap();
    let config = json!({"Cmd": ["id"], "User": "somebody"});
    load(
        &host,
        &[Entry::Link("etc/passwd", accounts.to_str().unwrap())],
        &config,
    );
    let said = host.docker(&["run", "--rm", "evil"]);
    assert!(
        said.stderr.contains("unable to find user somebody"),
        "{said:?}"
    );

    let config = json!({"Cmd": ["id"], "User": "4294967296"});
    load(
        &host,
        &[Entry::File("etc/passwd", "4294967296:x:0:0::/:\n")],
        &config,
    );
    let said = host.docker(&["run", "--rm", "evil"]);
    let range = "uids and gids must be in range 0-2147483647";
    assert!(said.stderr.contains(range), "{said:?}");

    // A fifo is not waited for.
    let script = "rm /etc/passwd; busybox mknod /etc/passwd p; sleep 1000";
    host.berth(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script])
        .ok();
    host.wait_until("the fifo is there", || {
        host.berth(&["exec", "box", "test", "-p", "/etc/passwd"])
            .code
            == Some(0)
    });
    assert_eq!(host.berth(&["exec", "box", "echo", "said"]).ok(), "said");
}

/// Who can talk to the daemon or to a monitor is root on the host: nobody else may, and nothing of
/// a container's state is open to others.
///
/// Taken out: `keep_private` in `db`. Seen: `engine.db`, with the environments of all containers,
/// was open to all.
#[test]
fn privileged_sockets_and_state_are_for_root_alone() {
    let host = Host::new();
    host.berth(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])
        .ok();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let socket = fs::metadata(host.socket()).unwrap();
    assert_eq!((mode(&host.socket()), socket.uid()), (0o660, 0));

    // A socket is reached only by who may pass every directory above it.
    let mut found = 0;
    let mut folders = vec![
        (host.path().join("run"), false),
        (host.path().join("data"), false),
    ];
    while let Some((folder, closed)) = folders.pop() {
        let closed = closed || mode(&folder) & 0o007 == 0;
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                folders.push((path, closed));
            } else if !kind.is_symlink() && mode(&path) & 0o007 != 0 {
                found += 1;
                assert!(closed, "open to all: {}", path.display());
            }
        }
    }
    assert!(found > 0, "nothing was looked at");
}

/// CVE-2018-15664: a container exchanges a directory for a link to the host while it is copied from
/// and to. And without haste: links that are there before.
///
/// Taken out: `ResolveFlags::IN_ROOT` in `engine::archive` and `store::unpack`. Seen: `of the host`,
/// and files outside.
#[test]
fn privileged_links_of_a_container_lead_no_copy_to_the_host() {
    let host = Host::new();
    let outside = outside(&host);
    let place = outside.to_str().unwrap();
    let script = format!(
        "mkdir -p /real /copies; echo inside > /real/secret; ln -s {place} /out; \
         while :; do rm -f /way; ln -s {place} /way; rm -f /way; mkdir /way 2>/dev/null; \
         echo inside > /way/secret; rm -rf /way; done"
    );
    let run = ["run", "-d", "--name", "box", "busybox", "sh", "-c", &script];
    host.berth(&run).ok();
    host.wait_until("the container has begun", || {
        host.berth(&["cp", "box:/out", "-"]).code == Some(0)
    });
    let file = host.path().join("file");
    fs::write(&file, "made").unwrap();
    let file = file.to_str().unwrap();
    for client in CLIENTS {
        for _ in 0..6 {
            for path in ["/way/secret", "/way/.", "/out/secret", "/out/", "/out/."] {
                let said = client.run(&host, &["cp", &format!("box:{path}"), "-"]);
                assert!(!said.stdout.contains("of the host"), "{path}: {said:?}");
            }
            for path in ["/way/made", "/way", "/out/made", "/out"] {
                // Whether it goes depends on the moment; where it goes does not.
                client.run(&host, &["cp", file, &format!("box:{path}")]);
            }
        }
    }
    host.berth(&["kill", "box"]).ok();
    host.berth(&["wait", "box"]).ok();
    for client in CLIENTS {
        let said = client.run(&host, &["cp", "box:/out/secret", "-"]);
        assert!(!said.stdout.contains("of the host"), "{said:?}");
        client.run(&host, &["cp", file, "box:/out/made"]);
    }
    assert_eq!(names(&outside), ["secret"]);
    let secret = fs::read_to_string(outside.join("secret")).unwrap();
    assert_eq!(secret, "of the host");
}

/// CVE-2019-14271: what copied was a process inside the container's root, which loaded the
/// container's own libraries. Here none is: a copy works where there is nothing that could run, and
/// a root that is all traps springs none.
#[test]
fn privileged_copying_runs_nothing_of_the_container() {
    let host = Host::new();
    let trap = "#!/bin/busybox sh\n/bin/busybox touch /sprung\n";
    load(
        &host,
        &[
            Entry::File("lib/libnss_files.so.2", trap),
            Entry::File("usr/bin/tar", trap),
            Entry::File("bin/gzip", trap),
            Entry::File("etc/nsswitch.conf", "passwd: files evil\n"),
        ],
        &json!({"Cmd": ["/bin/busybox", "sleep", "1000"], "User": "app"}),
    );
    host.berth(&["run", "-d", "--name", "box", "evil"]).ok();
    host.berth(&["create", "--name", "rests", "evil"]).ok();
    let file = host.path().join("file");
    fs::write(&file, "made").unwrap();
    let file = file.to_str().unwrap();
    for client in CLIENTS {
        for name in ["box", "rests"] {
            client
                .run(&host, &["cp", "-a", file, &format!("{name}:/tmp")])
                .ok();
            client
                .run(&host, &["cp", &format!("{name}:/tmp"), "-"])
                .ok();
            let changed = client.run(&host, &["diff", name]);
            assert!(!changed.ok().contains("sprung"), "{changed:?}");
        }
    }
}
