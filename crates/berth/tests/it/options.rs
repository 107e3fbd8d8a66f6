//! Options of `run` and `create`, looked at from inside the container.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::client::{CLIENTS, Client, Run};
use crate::host::Host;

/// Runs `script` in a container that goes afterwards.
fn run(client: Client, host: &Host, options: &[&str], script: &str) -> Run {
    let all = [&["run", "--rm"], options, &["busybox", "sh", "-c", script]].concat();
    client.run(host, &all)
}

/// A directory of the test on the host.
fn directory(host: &Host, name: &str) -> PathBuf {
    let path = host.path().join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn privileged_an_init_starts_reaps_forwards_and_ends_as_its_program_does() {
    let host = Host::new();
    for client in CLIENTS {
        let script = "cat /proc/1/cmdline | tr '\\0' ' '; cat /proc/1/comm; \
                      grep -E 'CapEff|Seccomp:|Threads' /proc/1/status";
        let said = run(client, &host, &["--init"], script);
        let lines: Vec<&str> = said.ok().lines().collect();
        assert!(
            lines[0].starts_with("/sbin/docker-init -- sh -c "),
            "{said:?}"
        );
        assert!(lines[0].ends_with("docker-init"), "{said:?}");
        // Nothing more than the program has, and no right to load filters is left.
        assert_eq!(
            lines[1..],
            ["Threads:\t1", "CapEff:\t00000000a80425fb", "Seccomp:\t2"]
        );
        let said = run(
            client,
            &host,
            &["--init", "-u", "app"],
            "grep Cap /proc/1/status",
        );
        assert!(said.ok().contains("CapEff:\t0000000000000000"), "{said:?}");
        assert_eq!(run(client, &host, &["--init"], "exit 7").code, Some(7));
        assert_eq!(
            run(client, &host, &["--init"], "kill -9 $$").code,
            Some(137)
        );
        let said = client.run(&host, &["run", "--rm", "--init", "busybox", "nope"]);
        said.fails(127);
        // Without one the program is the first.
        let said = run(client, &host, &["--init=false"], "echo $$");
        assert_eq!(said.ok(), "1");

        // Orphans are reaped, and output through the init's own descriptor is logged.
        let program = "(sh -c 'sleep 0.01 & exit' &); echo out >/proc/1/fd/1; exec sleep 1000";
        let args = [
            "run", "-d", "--init", "--name", "inited", "busybox", "sh", "-c", program,
        ];
        client.run(&host, &args).ok();
        let zombies = || {
            let said = host.berth(&["exec", "inited", "sh", "-c", "cat /proc/[0-9]*/stat"]);
            said.stdout
                .lines()
                .filter(|line| line.contains(") Z "))
                .count()
        };
        host.wait_until("the orphans are reaped", || zombies() == 0);
        host.wait_until("the output is logged", || {
            host.berth(&["logs", "inited"]).ok() == "out"
        });
        // The kernel hides what is waited for, so an init must not be taken for deaf.
        client.run(&host, &["stop", "inited"]).ok();
        let code = host.berth(&["inspect", "-f", "{{.State.ExitCode}}", "inited"]);
        assert_eq!(code.ok(), "143");
        client.run(&host, &["rm", "inited"]).ok();
        let joined = run(client, &host, &["--init", "--pid", "host"], "true");
        assert!(joined.ok().is_empty(), "{joined:?}");
        assert!(
            joined
                .stderr
                .contains("--init has no effect with --pid host"),
            "{joined:?}"
        );
    }
}

#[test]
fn privileged_every_container_has_an_init_if_the_daemon_says_so() {
    let host = Host::with_flags(&["--init"]);
    host.import_busybox();
    for client in CLIENTS {
        assert_ne!(run(client, &host, &[], "echo $$").ok(), "1");
        assert_eq!(run(client, &host, &["--init=false"], "echo $$").ok(), "1");
    }
}

#[test]
fn privileged_a_volume_may_be_a_file_system_of_its_own() {
    let mut host = Host::new();
    let data = directory(&host, "data/volumes");
    for client in CLIENTS {
        let create = |name: &str, options: &[&str]| {
            let options = options.iter().flat_map(|&option| ["-o", option]);
            let all: Vec<&str> = ["volume", "create"]
                .into_iter()
                .chain(options)
                .chain([name])
                .collect();
            client.run(&host, &all)
        };
        let mounted = |name: &str| {
            let place = data.join(name).join("_data").display().to_string();
            host.mounts()
                .iter()
                .filter(|line| line.contains(&place))
                .count()
        };
        create(
            "mem",
            &["type=tmpfs", "device=tmpfs", "o=size=1m,uid=1000,mode=700"],
        )
        .ok();
        let said = client.run(&host, &["volume", "inspect", "-f", "{{.Options.o}}", "mem"]);
        assert_eq!(said.ok(), "size=1m,uid=1000,mode=700");
        assert_eq!(mounted("mem"), 0);
        let args = [
            "run", "-d", "--name", "first", "-v", "mem:/m", "busybox", "sleep", "1000",
        ];
        client.run(&host, &args).ok();
        assert_eq!(mounted("mem"), 1);
        let said = client.run(
            &host,
            &[
                "exec",
                "first",
                "sh",
                "-c",
                "df /m | tail -1; stat -c %u:%a /m; echo x >/m/f",
            ],
        );
        assert!(
            said.ok().contains(" 1024 ") && said.stdout.ends_with("1000:700\n"),
            "{said:?}"
        );
        assert_eq!(run(client, &host, &["-v", "mem:/n"], "cat /n/f").ok(), "x");
        assert_eq!(mounted("mem"), 1);
        let copied = client.run(&host, &["volume", "rm", "mem"]);
        assert!(copied.fails(1).contains("volume is in use"), "{copied:?}");
        client.run(&host, &["rm", "-f", "first"]).ok();
        assert_eq!(mounted("mem"), 0);
        assert_eq!(run(client, &host, &["-v", "mem:/n"], "ls /n").ok(), "");
        // Docker never prunes what has options.
        client.run(&host, &["volume", "prune", "-af"]).ok();
        client.run(&host, &["volume", "rm", "mem"]).ok();

        let outside = directory(&host, "outside");
        fs::write(outside.join("kept"), "kept\n").unwrap();
        let device = format!("device={}", outside.display());
        create("bound", &["type=none", &device, "o=bind"]).ok();
        assert_eq!(
            run(
                client,
                &host,
                &["-v", "bound:/b"],
                "cat /b/kept; echo y >/b/new"
            )
            .ok(),
            "kept"
        );
        assert_eq!(fs::read_to_string(outside.join("new")).unwrap(), "y\n");
        // What is mounted in a container that does not run is seen all the same.
        client
            .run(
                &host,
                &[
                    "create", "--name", "idle", "-v", "bound:/b", "busybox", "true",
                ],
            )
            .ok();
        let said = client.run(
            &host,
            &["cp", "idle:/b/kept", host.path().to_str().unwrap()],
        );
        said.ok();
        assert_eq!(
            fs::read_to_string(host.path().join("kept")).unwrap(),
            "kept\n"
        );
        client.run(&host, &["rm", "idle"]).ok();
        client.run(&host, &["volume", "rm", "bound"]).ok();
        assert!(outside.join("kept").exists());

        create("none", &["type=none", "device=/nowhere", "o=bind"]).ok();
        let said = run(client, &host, &["-v", "none:/b"], "true");
        assert!(
            said.code != Some(0)
                && said.stderr.contains("error while mounting volume")
                && said
                    .stderr
                    .contains("failed to mount local volume: mount /nowhere:"),
            "{said:?}"
        );
        client.run(&host, &["volume", "rm", "none"]).ok();
        let said = create("bad", &["type=tmpfs"]);
        assert!(
            said.fails(1)
                .contains("missing required option: \"device\""),
            "{said:?}"
        );
        let said = create("bad", &["nonsense=1"]);
        assert!(
            said.fails(1).contains("invalid option: \"nonsense\""),
            "{said:?}"
        );
        let said = client.run(&host, &["volume", "create", "-d", "nope", "bad"]);
        assert!(
            said.fails(1).contains("plugin \"nope\" not found"),
            "{said:?}"
        );

        // Made by a mount, with its options and labels.
        let mount = "type=volume,source=made,target=/m,volume-opt=type=tmpfs,volume-opt=device=x,\
                     volume-opt=o=size=2m,volume-label=a=b";
        let said = run(client, &host, &["--mount", mount], "df /m | tail -1");
        assert!(said.ok().contains(" 2048 "), "{said:?}");
        let said = client.run(&host, &["volume", "ls", "-q", "--filter", "label=a=b"]);
        assert_eq!(said.ok(), "made");
        client.run(&host, &["volume", "rm", "made"]).ok();
    }
    // A daemon that was killed finds what is mounted for whom.
    let volume = [
        "volume",
        "create",
        "-o",
        "type=tmpfs",
        "-o",
        "device=x",
        "lasting",
    ];
    host.docker(&volume).ok();
    let args = ["run", "-d", "--name", "on", "-v", "lasting:/m", "busybox"];
    let program = ["sh", "-c", "echo there >/m/f; exec sleep 1000"];
    host.docker(&[&args[..], &program].concat()).ok();
    let seen = |host: &Host| run(Client::Docker, host, &["-v", "lasting:/m"], "cat /m/f");
    host.wait_until("the file is written", || seen(&host).stdout == "there\n");
    host.kill_daemon();
    host.start();
    assert_eq!(seen(&host).ok(), "there");
    host.kill_daemon();
    let place = data.join("lasting/_data");
    let mounted = |host: &Host| {
        host.mounts()
            .iter()
            .any(|line| line.contains(place.to_str().unwrap()))
    };
    assert!(mounted(&host));
    host.start();
    host.docker(&["rm", "-f", "on"]).ok();
    assert!(!mounted(&host));
}

#[test]
fn privileged_a_part_of_a_volume_is_mounted_and_nothing_else() {
    let host = Host::new();
    for client in CLIENTS {
        let script = "mkdir -p /v/a/b; echo b >/v/a/b/f; ln -s a/b /v/inner; ln -s /etc /v/out; \
                      ln -s ../.. /v/up; echo one >/v/file";
        run(client, &host, &["-v", "parts:/v"], script).ok();
        let part = |subpath: &str| {
            let mount = format!("type=volume,source=parts,target=/m,volume-subpath={subpath}");
            run(
                client,
                &host,
                &["--mount", &mount],
                "cat /m/f /m 2>/dev/null; ls /m; true",
            )
        };
        assert_eq!(part("a/b").ok(), "b\nf");
        assert_eq!(part("inner").ok(), "b\nf");
        assert!(part("file").ok().starts_with("one"));
        for (subpath, said) in [
            ("out", "leads out of it"),
            ("up", "leads out of it"),
            ("none", "No such file or directory"),
            ("../x", "subpath must be a relative path within the volume"),
            ("/a", "subpath must be a relative path within the volume"),
        ] {
            let refused = part(subpath);
            assert!(refused.fails(125).contains(said), "{subpath}: {refused:?}");
        }
        client.run(&host, &["volume", "rm", "parts"]).ok();
    }
    assert_eq!(host.docker(&["ps", "-aq"]).ok(), "");
}

#[test]
fn privileged_an_image_is_mounted_read_only() {
    let host = Host::new();
    for client in CLIENTS {
        let mount = "type=image,source=busybox,target=/i";
        let script = "cat /i/etc/plain; touch /i/x; /i/bin/busybox echo runs";
        let said = run(client, &host, &["--mount", mount], script);
        assert_eq!(said.ok(), "not a program\nruns");
        assert!(said.stderr.contains("Read-only file system"), "{said:?}");
        let mount = "type=image,source=busybox,target=/i,image-subpath=etc";
        assert_eq!(
            run(client, &host, &["--mount", mount], "cat /i/plain").ok(),
            "not a program"
        );
        let mount = "type=image,source=busybox,target=/i,image-subpath=none";
        let said = run(client, &host, &["--mount", mount], "true");
        assert!(
            said.fails(125).contains("No such file or directory"),
            "{said:?}"
        );
        let mount = "type=image,source=nothing-here,target=/i";
        let said = client.run(
            &host,
            &[
                "create", "--pull", "never", "--mount", mount, "busybox", "true",
            ],
        );
        assert!(
            said.fails(1).contains("No such image: nothing-here"),
            "{said:?}"
        );
        // Its layers stay while it is mounted, over a restart of the container too.
        let mount = "type=image,source=other,target=/i";
        client.run(&host, &["tag", "busybox", "other"]).ok();
        let args = [
            "run",
            "--name",
            "again",
            "--mount",
            mount,
            "busybox",
            "cat",
            "/i/etc/plain",
        ];
        client.run(&host, &args).ok();
        client.run(&host, &["rmi", "other"]).ok();
        assert_eq!(
            client.run(&host, &["start", "-a", "again"]).ok(),
            "not a program"
        );
        let said = client.run(
            &host,
            &["inspect", "-f", "{{(index .Mounts 0).Type}}", "again"],
        );
        assert_eq!(said.ok(), "image");
        client.run(&host, &["rm", "again"]).ok();
    }
}

#[test]
fn privileged_what_is_made_in_a_mapped_bind_belongs_to_the_user_outside() {
    let host = Host::new();
    for client in CLIENTS {
        let shared = directory(&host, &format!("mapped-{client:?}"));
        std::os::unix::fs::chown(&shared, Some(4000), Some(4001)).unwrap();
        let owner = |name: &str| {
            let found = fs::metadata(shared.join(name)).unwrap();
            (found.uid(), found.gid())
        };
        let bind = format!("{}:/m:map=4000/4001", shared.display());
        let said = run(
            client,
            &host,
            &["-v", &bind],
            "stat -c %u:%g /m; touch /m/root",
        );
        assert_eq!(said.ok(), "0:0");
        assert_eq!(owner("root"), (4000, 4001));
        let said = run(
            client,
            &host,
            &["-v", &bind, "-u", "app"],
            "stat -c %u:%g /m; touch /m/app",
        );
        assert_eq!(said.ok(), "1000:1000");
        assert_eq!(owner("app"), (4000, 4001));
        let bad = format!("{}:/m:map=nobody", shared.display());
        let said = run(client, &host, &["-v", &bad], "true");
        assert!(
            said.fails(125).contains("invalid mode: map=nobody"),
            "{said:?}"
        );
    }
    let shared = directory(&host, "mapped-long");
    std::os::unix::fs::chown(&shared, Some(4000), Some(4000)).unwrap();
    let mount = format!("type=bind,source={},target=/m,map=4000", shared.display());
    run(Client::Berth, &host, &["--mount", &mount], "touch /m/f").ok();
    assert_eq!(fs::metadata(shared.join("f")).unwrap().uid(), 4000);
}

#[test]
fn privileged_memory_is_shared_with_those_who_join() {
    let mut host = Host::new();
    for client in CLIENTS {
        let sleep = |host: &Host, name: &str, mode: &str| {
            let args = [
                "run",
                "-d",
                "--name",
                name,
                "--ipc",
                mode,
                "--shm-size",
                "3m",
            ];
            client
                .run(host, &[&args[..], &["busybox", "sleep", "1000"]].concat())
                .ok();
        };
        let seen = |host: &Host, options: &[&str]| {
            let script = "readlink /proc/self/ns/ipc; cat /dev/shm/f; df /dev/shm | tail -1";
            run(client, host, options, script)
        };
        sleep(&host, "donor", "shareable");
        client
            .run(
                &host,
                &["exec", "donor", "sh", "-c", "echo shared >/dev/shm/f"],
            )
            .ok();
        let namespace = client.run(&host, &["exec", "donor", "readlink", "/proc/self/ns/ipc"]);
        let joined = seen(&host, &["--ipc", "container:donor"]);
        let lines: Vec<&str> = joined.ok().lines().collect();
        assert_eq!(lines[..2], [namespace.ok(), "shared"]);
        assert!(lines[2].contains(" 3072 "), "{joined:?}");
        // After the daemon was killed too.
        host.kill_daemon();
        host.start();
        assert_eq!(seen(&host, &["--ipc", "container:donor"]).ok(), joined.ok());
        sleep(&host, "alone", "private");
        let refused = seen(&host, &["--ipc", "container:alone"]);
        assert!(
            refused.fails(125).contains(
                "non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
            ),
            "{refused:?}"
        );
        client.run(&host, &["rm", "-f", "donor", "alone"]).ok();
        let refused = seen(&host, &["--ipc", "container:donor"]);
        assert!(
            refused.fails(125).contains("No such container: donor"),
            "{refused:?}"
        );
        assert_eq!(
            host.mounts()
                .iter()
                .filter(|line| line.contains("/shm/"))
                .count(),
            0
        );
    }
}

/// A block device of this machine and its numbers.
fn block_device() -> (String, String) {
    let mut devices = fs::read_dir("/sys/block").unwrap().flatten();
    let found = devices.find_map(|entry| {
        let path = Path::new("/dev").join(entry.file_name());
        let numbers = fs::read_to_string(entry.path().join("dev")).ok()?;
        path.exists()
            .then(|| (path.display().to_string(), numbers.trim().to_owned()))
    });
    found.expect("a block device")
}

#[test]
fn privileged_limits_of_block_devices_reach_the_kernel() {
    let host = Host::new();
    let (device, numbers) = block_device();
    for client in CLIENTS {
        let rate = |rate: &str| format!("{device}:{rate}");
        let (read, write) = (rate("1mb"), rate("2mb"));
        let (reads, writes) = (rate("30"), rate("40"));
        let limits = [
            "--device-read-bps",
            &read,
            "--device-write-bps",
            &write,
            "--device-read-iops",
            &reads,
            "--device-write-iops",
            &writes,
        ];
        let script = "cd /sys/fs/cgroup; cat io.max 2>/dev/null || \
                      for f in read_bps write_bps read_iops write_iops; do \
                      cat blkio/blkio.throttle.${f}_device; done";
        let said = run(client, &host, &limits, script);
        let wanted = ["1048576", "2097152", "30", "40"];
        for value in wanted {
            assert!(
                said.ok().contains(value) && said.ok().contains(&numbers),
                "{said:?}"
            );
        }
        let said = run(
            client,
            &host,
            &["--device-read-bps", "/dev/null:1mb"],
            "true",
        );
        assert!(
            said.fails(125).contains("/dev/null: it is no block device"),
            "{said:?}"
        );
        let said = run(
            client,
            &host,
            &["--blkio-weight-device", "/dev/nope:100"],
            "true",
        );
        assert!(
            said.fails(125)
                .contains("cannot limit the device /dev/nope"),
            "{said:?}"
        );
    }
}

#[test]
fn privileged_what_a_host_without_a_security_module_cannot_do_is_said() {
    let host = Host::new();
    for client in CLIENTS {
        for option in ["apparmor=some-profile", "label=type:some_t"] {
            let said = run(client, &host, &["--security-opt", option], "true");
            let module = if option.starts_with('a') {
                "AppArmor"
            } else {
                "SELinux"
            };
            assert!(
                said.ok().is_empty() && said.stderr.contains(&format!("runs without {module}")),
                "{said:?}"
            );
        }
        for option in ["apparmor=unconfined", "label=disable"] {
            let said = run(client, &host, &["--security-opt", option], "true");
            assert!(said.ok().is_empty() && said.stderr.is_empty(), "{said:?}");
        }
        let said = run(
            client,
            &host,
            &["--security-opt", "no-new-privileges=false"],
            "grep NoNew /proc/self/status",
        );
        assert_eq!(said.ok(), "NoNewPrivs:\t0");
        let said = run(
            client,
            &host,
            &["--security-opt", "systempaths=unconfined"],
            "echo >/proc/sys/net/ipv4/ip_forward 1 && head -c1 /proc/kcore >/dev/null; mount | grep -c ' /proc/'",
        );
        assert_eq!(said.stdout.trim(), "0", "{said:?}");
    }
}

#[test]
fn privileged_mounts_of_others_are_taken_with_their_modes() {
    let host = Host::new();
    let shared = directory(&host, "shared");
    for client in CLIENTS {
        let bind = format!("{}:/b", shared.display());
        let args = [
            "create",
            "--name",
            "giver",
            "-v",
            "named:/v",
            "-v",
            &bind,
            "-v",
            "/anonymous",
            "busybox",
            "true",
        ];
        client.run(&host, &args).ok();
        let script = "touch /v/x /b/x /anonymous/x && echo written";
        assert_eq!(
            run(client, &host, &["--volumes-from", "giver"], script).ok(),
            "written"
        );
        let said = run(client, &host, &["--volumes-from", "giver:ro"], script);
        assert_eq!(
            said.stderr.matches("Read-only file system").count(),
            3,
            "{said:?}"
        );
        let said = run(client, &host, &["--volumes-from", "giver:nope"], "true");
        assert!(said.fails(125).contains("invalid mode"), "{said:?}");
        // A volume of another is not filled from this image.
        client
            .run(
                &host,
                &[
                    "create",
                    "--name",
                    "empty",
                    "-v",
                    "hollow:/etc:nocopy",
                    "busybox",
                    "true",
                ],
            )
            .ok();
        let said = client.run(
            &host,
            &[
                "run",
                "--rm",
                "--volumes-from",
                "empty",
                "busybox",
                "/bin/ls",
                "/etc",
            ],
        );
        assert!(!said.ok().contains("plain"), "{said:?}");
        client.run(&host, &["rm", "-v", "giver", "empty"]).ok();
        client.run(&host, &["volume", "rm", "named", "hollow"]).ok();
    }
}

#[test]
fn privileged_devices_that_vendors_describe_are_given_by_name() {
    let mut host = Host::empty();
    let descriptions = directory(&host, "cdi");
    host.restart_with(&["--cdi-spec-dir", descriptions.to_str().unwrap()]);
    host.import_busybox();
    let given = directory(&host, "given");
    fs::write(given.join("note"), "from the vendor\n").unwrap();
    let hook = host.path().join("hook");
    let seen = host.path().join("hook-saw");
    let script = format!(
        "#!/bin/sh\ncat >{0}; echo hooked >rootfs-of-hook\n",
        seen.display()
    );
    fs::write(&hook, script).unwrap();
    std::process::Command::new("chmod")
        .arg("755")
        .arg(&hook)
        .status()
        .unwrap();
    let description = format!(
        r#"{{"cdiVersion":"0.6.0","kind":"acme.com/card","containerEdits":{{"env":["CARDS=1"]}},
            "devices":[{{"name":"one","containerEdits":{{
              "deviceNodes":[{{"path":"/dev/card","hostPath":"/dev/full","permissions":"rw","fileMode":432}}],
              "mounts":[{{"hostPath":"{}","containerPath":"/given","options":["ro","bind"]}}],
              "hooks":[{{"hookName":"createContainer","path":"{}","args":["hook"]}}],
              "additionalGids":[4242]}}}}]}}"#,
        given.display(),
        hook.display()
    );
    fs::write(descriptions.join("acme.json"), description).unwrap();
    let yaml = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: all\n  containerEdits:\n    \
                env: [GPUS=all]\n";
    fs::write(descriptions.join("gpu.yaml"), yaml).unwrap();
    for client in CLIENTS {
        let script = "echo $CARDS; stat -c '%t:%T %a' /dev/card; cat /given/note; id -G; \
                      echo x >/dev/card; cat /rootfs-of-hook";
        let said = run(client, &host, &["--device", "acme.com/card=one"], script);
        assert_eq!(said.ok(), "1\n1:7 660\nfrom the vendor\n0 4242\nhooked");
        assert!(said.stderr.contains("No space left on device"), "{said:?}");
        assert!(
            fs::read_to_string(&seen)
                .unwrap()
                .contains("\"status\":\"creating\"")
        );
        let said = run(client, &host, &["--device", "acme.com/card=two"], "true");
        assert!(
            said.fails(125)
                .contains("unresolvable CDI devices acme.com/card=two"),
            "{said:?}"
        );
        assert_eq!(
            run(client, &host, &["--gpus", "all"], "echo $GPUS").ok(),
            "all"
        );
        let said = run(client, &host, &["--gpus", "driver=amd,count=all"], "true");
        assert!(
            said.fails(125)
                .contains("could not select device driver \"amd\" with capabilities: [[gpu]]"),
            "{said:?}"
        );
    }
    let said = host.docker(&["info", "-f", "{{.CDISpecDirs}}"]);
    assert_eq!(said.ok(), format!("[{}]", descriptions.display()));
}
