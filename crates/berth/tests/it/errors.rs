//! Bad input gets one clear sentence, the right exit code, and leaves nothing behind.

use std::process::Command;

use crate::client::CLIENTS;
use crate::host::{Host, scratch};

#[test]
fn privileged_an_unknown_image_names_what_is_missing() {
    let host = Host::new();
    for client in CLIENTS {
        // Port 1 on loopback is closed: a registry that cannot be reached.
        let said = client.run(
            &host,
            &["run", "--rm", "127.0.0.1:1/nothing/here:1", "true"],
        );
        let text = said.fails(125).to_owned();
        assert!(
            text.contains("127.0.0.1:1") && text.contains("refused"),
            "{text}"
        );
        let said = client.run(&host, &["image", "inspect", "nothing-here"]);
        assert!(
            said.fails(1)
                .to_lowercase()
                .contains("no such image: nothing-here"),
            "{said:?}"
        );
        let said = client.run(&host, &["rmi", "nothing-here"]);
        assert!(
            said.fails(1).contains("No such image: nothing-here"),
            "{said:?}"
        );
        let said = client.run(&host, &["run", "team/UPPER"]);
        assert!(said.fails(125).contains("must be lowercase"), "{said:?}");
        let said = client.run(&host, &["run", "--pull", "never", "nothing-here"]);
        assert!(
            said.fails(125)
                .contains("No such image: nothing-here:latest"),
            "{said:?}"
        );
    }
    assert_eq!(host.berth(&["ps", "-aq"]).ok(), "");
}

#[test]
fn privileged_a_command_that_is_missing_or_no_program_has_its_own_code() {
    let host = Host::new();
    for client in CLIENTS {
        let run = |command: &str| client.run(&host, &["run", "--rm", "busybox", command]);
        let said = run("nope");
        assert!(
            said.fails(127)
                .contains("exec: \"nope\": executable file not found in $PATH"),
            "{said:?}"
        );
        let said = run("/nope");
        assert!(
            said.fails(127).contains("no such file or directory"),
            "{said:?}"
        );
        let said = run("/etc/plain");
        assert!(
            said.fails(126)
                .contains("exec: \"/etc/plain\": permission denied"),
            "{said:?}"
        );
        let said = run("/etc");
        assert!(
            said.fails(126).contains("permission denied") || said.stderr.contains("is a directory"),
            "{said:?}"
        );
    }
    assert_eq!(
        host.berth(&["ps", "-aq"]).ok(),
        "",
        "--rm also holds for what never started"
    );
    assert_eq!(
        host.docker(&["run", "--name", "kept", "busybox", "nope"])
            .code,
        Some(127)
    );
    let kept = host.berth(&[
        "inspect",
        "-f",
        "{{.State.Status}} {{.State.ExitCode}}",
        "kept",
    ]);
    assert_eq!(kept.ok(), "created 127");
}

#[test]
fn privileged_names_and_ports_in_use_say_who_has_them() {
    let host = Host::new();
    let id = host
        .berth(&[
            "run",
            "-d",
            "--name",
            "first",
            "-p",
            "127.0.0.1:48092:80",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok()
        .to_owned();
    for client in CLIENTS {
        let said = client.run(&host, &["run", "--name", "first", "busybox", "true"]);
        let wanted = format!(
            "Conflict. The container name \"/first\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
        );
        assert!(said.fails(125).contains(&wanted), "{said:?}");
        let said = client.run(
            &host,
            &["run", "-p", "127.0.0.1:48092:80", "busybox", "true"],
        );
        assert!(
            said.fails(125)
                .contains("Bind for 127.0.0.1:48092 failed: port is already allocated"),
            "{said:?}"
        );
        // A port that some other program has.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let publish = format!("127.0.0.1:{}:80", listener.local_addr().unwrap().port());
        let said = client.run(&host, &["run", "-p", &publish, "busybox", "true"]);
        assert!(
            said.fails(125).contains("address already in use")
                || said.stderr.contains("already allocated"),
            "{said:?}"
        );
        client.run(&host, &["rm", "-f", "nobody"]).ok();
        let said = client.run(&host, &["rm", "nobody"]);
        assert!(
            said.fails(1).contains("No such container: nobody"),
            "{said:?}"
        );
        let said = client.run(&host, &["exec", "nobody", "true"]);
        assert!(
            said.fails(1).contains("No such container: nobody"),
            "{said:?}"
        );
        let said = client.run(&host, &["rm", "first"]);
        assert!(
            said.fails(1).contains("cannot remove container"),
            "{said:?}"
        );
    }
}

#[test]
fn privileged_flags_that_contradict_each_other_are_refused() {
    let host = Host::new();
    let mut wrong = Vec::new();
    for client in CLIENTS {
        for (args, wanted) in [
            (
                &["--rm", "--restart", "always"][..],
                "conflicting options: cannot specify both --restart and --rm",
            ),
            (
                &["--cpus", "1", "--cpu-quota", "1000"],
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
            ),
            (&["--memory", "1m"], "Minimum memory limit allowed is 6MB"),
            (&["--memory", "lots"], "invalid argument \"lots\""),
            (&["-p", "99999:80"], "invalid hostPort: 99999"),
            (
                &["-v", "/a:relative"],
                "invalid mount path: 'relative' mount path must be absolute",
            ),
            (
                &["--network", "host", "--network", "none"],
                "container cannot be connected to multiple networks with one of the networks in private (none) or host mode",
            ),
            (&["--network", "nowhere"], "network nowhere not found"),
            (&["--security-opt", "nonsense=1"], "nonsense"),
            (
                &["--cap-add", "NONSENSE"],
                "unknown capability: \"CAP_NONSENSE\"",
            ),
            (
                &["--runtime", "nonsense"],
                "unknown or invalid runtime name: nonsense",
            ),
            (
                &["-w", "relative"],
                "the working directory 'relative' is invalid, it needs to be an absolute path",
            ),
            (&["--nonsense"], "unknown flag: --nonsense"),
            (
                &["-u", "nobody-here"],
                "unable to find user nobody-here: no matching entries in passwd file",
            ),
        ] {
            let said = client.run(&host, &[&["run"], args, &["busybox", "true"]].concat());
            if said.code != Some(125)
                || !said.stderr.to_lowercase().contains(&wanted.to_lowercase())
            {
                wrong.push(format!("wanted {wanted:?}: {said:?}"));
            }
            let left = host.berth(&["ps", "-aq"]).ok().to_owned();
            if !left.is_empty() {
                host.berth(&["rm", "-f", &left]).ok();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn privileged_torn_archives_are_refused_and_leave_nothing() {
    let host = Host::empty();
    let whole = crate::host::busybox_tar();
    for (name, bytes) in [
        ("cut", &whole[..whole.len() / 2]),
        (
            "noise",
            &b"this is no archive at all, and long enough to be looked at".repeat(100)[..],
        ),
    ] {
        let file = host.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        for client in CLIENTS {
            let said = client.run(&host, &["load", "-i", file.to_str().unwrap()]);
            assert_eq!(said.code, Some(1), "{said:?}");
            let said = client.run(&host, &["import", file.to_str().unwrap(), "torn:1"]);
            assert_eq!(said.code, Some(1), "{said:?}");
            assert!(said.stderr.lines().count() <= 2, "{said:?}");
        }
    }
    assert_eq!(host.berth(&["images", "-aq"]).ok(), "");
}

#[test]
fn privileged_a_full_disk_is_said_and_leaves_no_debris() {
    let root = scratch();
    let size = "size=24m";
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", size, "tmpfs"])
        .arg(root.path())
        .status()
        .unwrap();
    assert!(mounted.success());
    let point = root.path().to_owned();
    let outcome = std::panic::catch_unwind(|| {
        let host = Host::on(root, &[]);
        host.import_busybox();
        let before = used(host.path());
        let outside = scratch();
        let big = outside.path().join("big.tar");
        let mut tar = tar::Builder::new(std::fs::File::create(&big).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(64 << 20);
        header.set_mode(0o644);
        tar.append_data(
            &mut header,
            "big",
            std::io::Read::take(std::io::repeat(7), 64 << 20),
        )
        .unwrap();
        tar.into_inner().unwrap();
        for client in CLIENTS {
            let said = client.run(&host, &["import", big.to_str().unwrap(), "big:1"]);
            assert!(
                said.fails(1).contains("no space left on device"),
                "{said:?}"
            );
        }
        assert!(
            used(host.path()) <= before + (1 << 20),
            "what was begun is removed"
        );
        assert_eq!(
            host.berth(&["run", "--rm", "busybox", "echo", "works on"])
                .ok(),
            "works on"
        );
    });
    let _ = Command::new("umount").arg("-l").arg(&point).status();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Bytes in use on the file system of a folder.
fn used(path: &std::path::Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

/// A manifest whose one layer is told to be what it is not.
fn push_lying(
    registry: &testkit::Registry,
    tag: &str,
    blob: Vec<u8>,
    diff_id: &vocab::Digest,
) -> String {
    use testkit::image::{Image, Layer, sha256};
    let layer = Layer {
        media_type: format!("{}+gzip", vocab::manifest::media_type::OCI_LAYER),
        digest: sha256(&blob),
        diff_id: diff_id.clone(),
        blob,
    };
    let config = serde_json::json!({ "Cmd": ["true"] });
    let image = Image::with_config(vec![layer], &vocab::Platform::host(), &config);
    registry.push("lies", tag, &image);
    format!("{}/lies:{tag}", registry.address())
}

#[test]
fn privileged_layers_that_are_not_what_they_say_are_refused() {
    use testkit::image::{Compression, busybox_tar, compress, sha256};
    let host = Host::empty();
    let registry = testkit::Registry::start();
    let tar = busybox_tar();
    let whole = compress(&tar, Compression::Gzip);
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    let names = [
        push_lying(
            &registry,
            "truncated",
            whole[..whole.len() / 2].to_vec(),
            &sha256(&tar),
        ),
        push_lying(&registry, "corrupt", flipped, &sha256(&tar)),
        push_lying(
            &registry,
            "wrong-diff-id",
            whole,
            &sha256(b"something else"),
        ),
        push_lying(&registry, "noise", b"no archive".to_vec(), &sha256(&tar)),
    ];
    for client in CLIENTS {
        for name in &names {
            let said = client.run(&host, &["pull", name]);
            let complaint = said.fails(1);
            assert_eq!(complaint.lines().count(), 1, "one sentence: {said:?}");
            assert!(
                complaint.contains("layer") && complaint.contains("sha256:"),
                "{said:?}"
            );
        }
    }
    assert_eq!(host.berth(&["images", "-aq"]).ok(), "");
}

#[test]
fn privileged_registries_that_want_credentials_say_so() {
    let host = Host::empty();
    let registry = testkit::Registry::start_protected();
    let name = format!("{}/secret/thing:1", registry.address());
    for client in CLIENTS {
        let said = client.run(&host, &["pull", &name]);
        let text = said.fails(1).to_lowercase();
        assert!(
            text.contains("no basic auth credentials") || text.contains("unauthorized"),
            "{said:?}"
        );
        let said = client.run(&host, &["run", "--rm", &name]);
        said.fails(125);
    }
}
