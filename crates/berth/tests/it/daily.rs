//! What people do every day, with both command lines.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};

use crate::client::CLIENTS;
use crate::host::Host;

#[test]
fn privileged_a_command_runs_and_its_exit_code_comes_back() {
    let host = Host::new();
    for client in CLIENTS {
        let said = client.run(&host, &["run", "--rm", "busybox", "echo", "hello"]);
        assert_eq!(said.ok(), "hello", "{client:?}");
        client
            .run(&host, &["run", "--rm", "busybox", "sh", "-c", "exit 7"])
            .fails(7);
        let killed = "sh -c 'kill -9 $$'; exit $?";
        client
            .run(&host, &["run", "--rm", "busybox", "sh", "-c", killed])
            .fails(137);
        let said = client.run(
            &host,
            &[
                "run",
                "--rm",
                "busybox",
                "sh",
                "-c",
                "echo out; echo err >&2",
            ],
        );
        assert_eq!(
            (said.stdout.as_str(), said.stderr.as_str()),
            ("out\n", "err\n"),
            "{client:?}"
        );
    }
    assert_eq!(host.berth(&["ps", "-aq"]).ok(), "");
}

#[test]
fn privileged_options_of_run_take_effect() {
    let host = Host::new();
    let shared = host.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("note"), "from the host\n").unwrap();
    let bind = format!("{}:/c:ro", shared.display());
    for client in CLIENTS {
        let run = |args: &[&str], script: &str| {
            let all = [&["run", "--rm"], args, &["busybox", "sh", "-c", script]].concat();
            client.run(&host, &all).ok().to_owned()
        };
        assert_eq!(
            run(&["-e", "A=b", "-e", "C=d e"], "echo $A; echo $C"),
            "b\nd e"
        );
        assert_eq!(run(&["-w", "/x/y"], "pwd"), "/x/y");
        assert_eq!(run(&["-u", "1000:1000"], "id -u; id -g"), "1000\n1000");
        assert_eq!(
            run(&["-u", "app"], "id -u; id -g; id -G; echo $HOME"),
            "1000\n1000\n1000 2000\n/home"
        );
        assert_eq!(
            run(&["--hostname", "h"], "hostname; cat /etc/hostname"),
            "h\nh"
        );
        assert_eq!(
            run(
                &["-v", &bind],
                "cat /c/note; echo x > /c/note 2>/dev/null || echo refused"
            ),
            "from the host\nrefused"
        );
        assert_eq!(
            run(&["--read-only"], "touch /x 2>/dev/null || echo refused"),
            "refused"
        );
        assert_eq!(
            run(
                &["--read-only", "--tmpfs", "/t:size=1m"],
                "touch /t/x && echo fine"
            ),
            "fine"
        );
        assert_eq!(run(&["--entrypoint", "/bin/echo"], "x"), "sh -c x");
        assert_eq!(run(&["--network", "none"], "ip -o link | wc -l"), "1");
        assert_eq!(
            run(
                &["--add-host", "db:10.1.2.3"],
                "grep -w db /etc/hosts | tr '\\t' ' '"
            ),
            "10.1.2.3 db"
        );
        assert_eq!(
            run(
                &["--dns", "10.9.9.9"],
                "grep -c 'nameserver 10.9.9.9' /etc/resolv.conf"
            ),
            "1"
        );
        assert_eq!(
            run(
                &["--cap-drop", "ALL"],
                "grep CapEff /proc/self/status | cut -f2"
            ),
            "0000000000000000"
        );
        assert_eq!(
            run(&[], "grep CapEff /proc/self/status | cut -f2"),
            "00000000a80425fb"
        );
        assert_eq!(run(&[], "grep Seccomp: /proc/self/status | cut -f2"), "2");
        assert_eq!(
            run(
                &["--security-opt", "seccomp=unconfined"],
                "grep Seccomp: /proc/self/status | cut -f2"
            ),
            "0"
        );
        assert_eq!(
            run(
                &["--security-opt", "no-new-privileges"],
                "grep NoNewPrivs /proc/self/status | cut -f2"
            ),
            "1"
        );
        assert_eq!(
            run(&["--ulimit", "nofile=123:456"], "ulimit -n; ulimit -Hn"),
            "123\n456"
        );
        assert_eq!(
            run(
                &["--sysctl", "net.ipv4.ip_unprivileged_port_start=99"],
                "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
            ),
            "99"
        );
        assert_eq!(
            run(
                &["--shm-size", "8m"],
                "df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d' ' -f2"
            ),
            "8192"
        );
        assert_eq!(
            run(
                &["--device", "/dev/null:/dev/zilch"],
                "echo x > /dev/zilch && echo fine"
            ),
            "fine"
        );
    }
}

#[test]
fn privileged_limits_reach_the_kernel() {
    let host = Host::new();
    for client in CLIENTS {
        let id = client
            .run(
                &host,
                &[
                    "run",
                    "-d",
                    "--memory",
                    "64m",
                    "--cpus",
                    "0.5",
                    "--pids-limit",
                    "50",
                    "busybox",
                    "sleep",
                    "1000",
                ],
            )
            .ok()
            .to_owned();
        let read = |names: &[&str]| {
            host.cgroups(&id)
                .iter()
                .flat_map(|folder| names.iter().map(|name| folder.join(name)))
                .find_map(|file| fs::read_to_string(file).ok())
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        assert_eq!(
            read(&["memory.limit_in_bytes", "memory.max"]),
            "67108864",
            "{client:?}"
        );
        assert!(
            ["50000", "50000 100000"].contains(&read(&["cpu.cfs_quota_us", "cpu.max"]).as_str())
        );
        assert_eq!(read(&["pids.max"]), "50");
        // A program that wants more than its memory is killed, and inspect says why.
        client.run(&host, &["rm", "-f", &id]).ok();
        client
            .run(
                &host,
                &[
                    "run",
                    "--name",
                    "greedy",
                    "--memory",
                    "16m",
                    "--memory-swap",
                    "16m",
                    "busybox",
                    "sh",
                    "-c",
                    "exec tail /dev/zero",
                ],
            )
            .fails(137);
        let killed = client.run(
            &host,
            &[
                "inspect",
                "--format",
                "{{.State.OOMKilled}} {{.State.ExitCode}}",
                "greedy",
            ],
        );
        assert_eq!(killed.ok(), "true 137");
        client.run(&host, &["rm", "greedy"]).ok();
        assert_eq!(host.cgroups(&id), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn privileged_a_published_port_answers_over_http() {
    let host = Host::new();
    for (client, port) in CLIENTS.into_iter().zip(["48080", "48081"]) {
        let publish = format!("127.0.0.1:{port}:80");
        let id = client
            .run(
                &host,
                &[
                    "run",
                    "-d",
                    "-p",
                    &publish,
                    "busybox",
                    "sh",
                    "-c",
                    "echo hello > /tmp/index.html; httpd -f -h /tmp",
                ],
            )
            .ok()
            .to_owned();
        let mut body = String::new();
        host.wait_until("the published port answers", || {
            body = http_get(&format!("127.0.0.1:{port}")).unwrap_or_default();
            body.ends_with("hello\n")
        });
        assert_eq!(
            client.run(&host, &["port", &id, "80"]).ok(),
            publish.rsplit_once(':').unwrap().0
        );
        let ports = client.run(&host, &["ps", "--format", "{{.Ports}}"]);
        assert_eq!(ports.ok(), format!("127.0.0.1:{port}->80/tcp"));
        client.run(&host, &["rm", "-f", &id]).ok();
        assert!(
            http_get(&format!("127.0.0.1:{port}")).is_err(),
            "the port is free again"
        );
    }
}

/// The options that people combine, in one command, and all seen from inside and outside at once.
#[test]
fn privileged_a_whole_service_is_one_command() {
    let host = Host::new();
    let shared = host.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("index.html"), "from the host\n").unwrap();
    let bind = format!("{}:/c:ro", shared.display());
    for (client, port) in CLIENTS.into_iter().zip(["48082", "48083"]) {
        let publish = format!("{port}:80");
        let script = "{ id -u; hostname; pwd; echo $A; } > /tmp/seen; exec httpd -f -h /c";
        let mut args = vec![
            "run", "-d", "-p", &publish, "--memory", "64m", "--cpus", "0.5",
        ];
        args.extend([
            "-e",
            "A=b",
            "-v",
            &bind,
            "-w",
            "/x",
            "-u",
            "1000:1000",
            "--hostname",
            "h",
        ]);
        args.extend(["busybox", "sh", "-c", script]);
        let id = client.run(&host, &args).ok().to_owned();
        host.wait_until("the service answers", || {
            http_get(&format!("127.0.0.1:{port}")).is_ok_and(|body| body == "from the host\n")
        });
        let seen = client.run(&host, &["exec", &id, "cat", "/tmp/seen"]);
        assert_eq!(seen.ok(), "1000\nh\n/x\nb", "{client:?}");
        let limits = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}";
        let limits = client.run(&host, &["inspect", "--format", limits, &id]);
        assert_eq!(limits.ok(), "67108864 500000000");
        client.run(&host, &["rm", "-f", &id]).ok();
    }
}

#[test]
fn privileged_containers_reach_each_other_on_the_bridge() {
    let host = Host::new();
    let id = host
        .berth(&[
            "run",
            "-d",
            "--name",
            "server",
            "busybox",
            "sh",
            "-c",
            "echo from the server > /tmp/index.html; httpd -f -h /tmp",
        ])
        .ok()
        .to_owned();
    let address = host
        .berth(&[
            "inspect",
            "-f",
            "{{.NetworkSettings.Networks.bridge.IPAddress}}",
            &id,
        ])
        .ok()
        .to_owned();
    let url = format!("http://{address}/");
    let script = format!("until wget -qO- {url} 2>/dev/null; do sleep 0.1; done");
    assert_eq!(
        host.berth(&["run", "--rm", "busybox", "sh", "-c", &script])
            .ok(),
        "from the server"
    );
}

#[test]
fn privileged_lists_inspect_and_formats_agree_between_clients() {
    let host = Host::new();
    let id = host
        .docker(&[
            "run",
            "-d",
            "--name",
            "one",
            "-l",
            "team=blue",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok()
        .to_owned();
    host.docker(&["create", "--name", "two", "busybox", "true"])
        .ok();
    host.docker(&["run", "--name", "three", "busybox", "sh", "-c", "exit 3"])
        .fails(3);
    for client in CLIENTS {
        let rows = |args: &[&str]| {
            let all = [&["ps", "--format", "{{.Names}} {{.State}}"], args].concat();
            client
                .run(&host, &all)
                .ok()
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(rows(&[]), ["one running"]);
        assert_eq!(
            rows(&["-a"]),
            ["three exited", "two created", "one running"]
        );
        assert_eq!(rows(&["-a", "--filter", "status=exited"]), ["three exited"]);
        assert_eq!(rows(&["-a", "--filter", "exited=3"]), ["three exited"]);
        assert_eq!(
            rows(&["-a", "--filter", "label=team=blue"]),
            ["one running"]
        );
        assert_eq!(rows(&["-a", "--filter", "name=tw"]), ["two created"]);
        assert_eq!(rows(&["-n", "2"]), ["three exited", "two created"]);
        assert_eq!(client.run(&host, &["ps", "-q", "--no-trunc"]).ok(), id);
        let format = "{{.Name}} {{.State.Status}} {{.Config.Image}} {{json .Config.Labels}} {{index .Config.Cmd 0}}";
        let said = client.run(&host, &["inspect", "--format", format, "one"]);
        assert_eq!(said.ok(), r#"/one running busybox {"team":"blue"} sleep"#);
        let status = client.run(
            &host,
            &[
                "ps",
                "-a",
                "--filter",
                "name=three",
                "--format",
                "{{.Status}}",
            ],
        );
        assert!(status.ok().starts_with("Exited (3) "), "{status:?}");
    }
    // The plain tables are the same to the letter.
    for args in [
        &["ps", "-a"][..],
        &["images"],
        &["ps", "--no-trunc"],
        &["volume", "ls"],
        &["network", "ls"],
    ] {
        let (ours, theirs) = (host.berth(args), host.docker(args));
        assert_eq!(steady(ours.ok()), steady(theirs.ok()), "{args:?}");
    }
}

/// Ages change between two calls.
fn steady(table: &str) -> String {
    table
        .replace("Less than a second ago", "1 second ago")
        .split('\n')
        .map(|line| {
            line.split("  ")
                .filter(|cell| {
                    !cell.is_empty() && !cell.contains("second") && !cell.contains("minute")
                })
                .map(str::trim)
                .collect::<Vec<_>>()
                .join("|")
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn privileged_logs_follow_until_the_container_ends() {
    let host = Host::new();
    for client in CLIENTS {
        let id = client
            .run(
                &host,
                &[
                    "run",
                    "-d",
                    "busybox",
                    "sh",
                    "-c",
                    "echo first; echo oops >&2; until [ -e /go ]; do sleep 0.05; done; echo last",
                ],
            )
            .ok()
            .to_owned();
        let mut following = client.spawn(&host, &["logs", "-f", &id]);
        let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "first");
        client.run(&host, &["exec", &id, "touch", "/go"]).ok();
        assert_eq!(lines.next().unwrap().unwrap(), "last");
        assert!(lines.next().is_none(), "the stream ends with the container");
        let mut complaints = String::new();
        following
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut complaints)
            .unwrap();
        assert_eq!(complaints, "oops\n");
        assert!(following.wait().unwrap().success());
        assert_eq!(
            client.run(&host, &["logs", "--tail", "1", &id]).ok(),
            "last"
        );
        let stamped = client.run(&host, &["logs", "-t", &id]);
        assert!(
            stamped
                .ok()
                .lines()
                .all(|line| line.split(' ').next().unwrap().len() == 30),
            "{stamped:?}"
        );
    }
}

#[test]
fn privileged_exec_runs_beside_the_main_process() {
    let host = Host::new();
    for client in CLIENTS {
        let id = client
            .run(
                &host,
                &["run", "-d", "-e", "A=1", "busybox", "sleep", "1000"],
            )
            .ok()
            .to_owned();
        let exec = |args: &[&str]| client.run(&host, &[&["exec"], args].concat());
        assert_eq!(exec(&[&id, "echo", "hi"]).ok(), "hi");
        assert_eq!(
            exec(&["-e", "B=2", &id, "sh", "-c", "echo $A$B"]).ok(),
            "12"
        );
        assert_eq!(exec(&["-w", "/tmp", &id, "pwd"]).ok(), "/tmp");
        assert_eq!(exec(&["-u", "app", &id, "id", "-u"]).ok(), "1000");
        exec(&[&id, "sh", "-c", "exit 9"]).fails(9);
        exec(&[&id, "nope"]).fails(127);
        exec(&[&id, "/etc/plain"]).fails(126);
        let fed = client.feed(&host, &["exec", "-i", &id, "cat"], b"through\nstdin\n");
        assert_eq!(fed.ok(), "through\nstdin");
        exec(&["-d", &id, "touch", "/made"]).ok();
        host.wait_until("the detached exec has run", || {
            exec(&[&id, "test", "-e", "/made"]).code == Some(0)
        });
        let top = client.run(&host, &["top", &id]);
        assert!(top.ok().contains("sleep 1000"), "{top:?}");
        client.run(&host, &["rm", "-f", &id]).ok();
    }
}

#[test]
fn privileged_standard_input_reaches_the_container_and_ends() {
    let host = Host::new();
    for client in CLIENTS {
        let big: Vec<u8> = (0..300_000u32)
            .flat_map(|n| format!("{n}\n").into_bytes())
            .collect();
        let said = client.feed(&host, &["run", "-i", "--rm", "busybox", "wc", "-c"], &big);
        assert_eq!(said.ok(), big.len().to_string(), "{client:?}");
        let said = client.feed(&host, &["run", "-i", "--rm", "busybox", "cat"], &big);
        assert_eq!(said.stdout.len(), big.len(), "{client:?}");
    }
}

#[test]
fn privileged_stop_kill_restart_rename_pause_wait() {
    let host = Host::new();
    for client in CLIENTS {
        let run = |args: &[&str]| client.run(&host, args);
        run(&[
            "run",
            "-d",
            "--name",
            "first",
            "busybox",
            "sh",
            "-c",
            "trap 'exit 5' TERM; while :; do sleep 0.05; done",
        ])
        .ok();
        assert_eq!(run(&["stop", "first"]).ok(), "first");
        assert_eq!(
            run(&[
                "inspect",
                "-f",
                "{{.State.Status}} {{.State.ExitCode}}",
                "first"
            ])
            .ok(),
            "exited 5"
        );
        assert_eq!(run(&["start", "first"]).ok(), "first");
        assert_eq!(run(&["pause", "first"]).ok(), "first");
        assert_eq!(
            run(&["inspect", "-f", "{{.State.Status}}", "first"]).ok(),
            "paused"
        );
        assert_eq!(run(&["unpause", "first"]).ok(), "first");
        assert_eq!(run(&["restart", "-t", "1", "first"]).ok(), "first");
        assert_eq!(run(&["rename", "first", "second"]).ok(), "");
        assert_eq!(run(&["kill", "-s", "KILL", "second"]).ok(), "second");
        // The end is recorded before the answer.
        let state = run(&[
            "inspect",
            "-f",
            "{{.State.Status}} {{.State.ExitCode}}",
            "second",
        ]);
        assert_eq!(state.ok(), "exited 137");
        assert_eq!(run(&["wait", "second"]).ok(), "137");
        run(&["kill", "second"]).fails(1);
        assert_eq!(run(&["rm", "second"]).ok(), "second");
    }
}

#[test]
fn privileged_stats_events_info_version_answer() {
    let host = Host::new();
    for client in CLIENTS {
        let name = format!("{client:?}").to_lowercase();
        let filter = format!("container={name}");
        let format = "{{.Type}} {{.Action}}";
        // From the beginning of time, so that nothing is missed while the subscription is made.
        let args = [
            "events",
            "--since",
            "1",
            "--format",
            format,
            "--filter",
            filter.as_str(),
        ];
        let mut events = client.spawn(&host, &args);
        let lines = BufReader::new(events.stdout.take().unwrap()).lines();
        let run = [
            "run",
            "-d",
            "--name",
            name.as_str(),
            "busybox",
            "sleep",
            "1000",
        ];
        client.run(&host, &run).ok();
        client.run(&host, &["rm", "-f", &name]).ok();
        let mut seen = Vec::new();
        for line in lines {
            seen.push(line.unwrap());
            if seen.last().is_some_and(|line| line == "container destroy") {
                break;
            }
        }
        let wanted = ["create", "start", "kill", "die", "destroy"]
            .map(|action| format!("container {action}"));
        assert_eq!(seen, wanted, "{client:?}");
        events.kill().unwrap();
        events.wait().unwrap();

        let id = client
            .run(&host, &["run", "-d", "busybox", "sleep", "1000"])
            .ok()
            .to_owned();
        let stats = client.run(
            &host,
            &[
                "stats",
                "--no-stream",
                "--format",
                "{{.ID}} {{.PIDs}} {{.MemUsage}}",
                &id,
            ],
        );
        assert!(
            stats.ok().starts_with(&format!("{} 1 ", &id[..12])),
            "{stats:?}"
        );
        let version = client.run(
            &host,
            &[
                "version",
                "--format",
                "{{.Server.APIVersion}} {{.Server.Os}}",
            ],
        );
        assert!(version.ok().ends_with(" linux"), "{version:?}");
        let info = client.run(
            &host,
            &["info", "--format", "{{.ContainersRunning}} {{.OSType}}"],
        );
        assert_eq!(info.ok(), "1 linux");
        client.run(&host, &["rm", "-f", &id]).ok();
    }
}

#[test]
fn privileged_images_are_imported_saved_loaded_tagged_and_removed() {
    let host = Host::new();
    for client in CLIENTS {
        let run = |args: &[&str]| client.run(&host, args);
        let id = run(&["images", "-q", "--no-trunc", "busybox"])
            .ok()
            .to_owned();
        run(&["tag", "busybox", "example.com/team/box:1"]).ok();
        let names = run(&["image", "inspect", "-f", "{{json .RepoTags}}", "busybox"]);
        assert!(names.ok().contains("example.com/team/box:1"), "{names:?}");
        let file = host.path().join("saved.tar");
        let file = file.to_str().unwrap();
        run(&["save", "-o", file, "example.com/team/box:1"]).ok();
        let removed = run(&["rmi", "example.com/team/box:1"]);
        assert_eq!(removed.ok(), "Untagged: example.com/team/box:1");
        let loaded = run(&["load", "-i", file]);
        assert!(
            loaded
                .ok()
                .ends_with("Loaded image: example.com/team/box:1"),
            "{loaded:?}"
        );
        assert_eq!(
            run(&["images", "-q", "--no-trunc", "example.com/team/box"]).ok(),
            id
        );
        run(&["rmi", "example.com/team/box:1"]).ok();
        let import = host.path().join("root.tar");
        fs::write(&import, crate::host::busybox_tar()).unwrap();
        let args = [
            "import",
            "-c",
            "CMD [\"echo\",\"changed\"]",
            "-c",
            "ENV A=b",
            import.to_str().unwrap(),
            "changed:1",
        ];
        assert!(run(&args).ok().starts_with("sha256:"));
        assert_eq!(run(&["run", "--rm", "changed:1"]).ok(), "changed");
        let removed = run(&["rmi", "changed:1"]);
        assert!(
            removed
                .ok()
                .contains("Untagged: changed:1\nDeleted: sha256:"),
            "{removed:?}"
        );
    }
}

#[test]
fn privileged_volumes_keep_what_was_written() {
    let host = Host::new();
    for client in CLIENTS {
        let run = |args: &[&str]| client.run(&host, args);
        run(&[
            "run",
            "--rm",
            "-v",
            "data:/d",
            "busybox",
            "sh",
            "-c",
            "echo kept > /d/f",
        ])
        .ok();
        assert_eq!(
            run(&["run", "--rm", "-v", "data:/d:ro", "busybox", "cat", "/d/f"]).ok(),
            "kept"
        );
        assert_eq!(run(&["volume", "ls", "-q"]).ok(), "data");
        assert_eq!(run(&["volume", "rm", "data"]).ok(), "data");
    }
}

#[test]
fn privileged_an_ended_container_leaves_nothing_behind() {
    let host = Host::new();
    let before = host.mounts().len();
    let id = host
        .berth(&[
            "run",
            "-d",
            "-p",
            "80",
            "-v",
            "/anonymous",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok()
        .to_owned();
    host.berth(&["rm", "-fv", &id]).ok();
    assert_eq!(host.cgroups(&id), Vec::<std::path::PathBuf>::new());
    host.wait_until("the monitor has gone", || {
        host.processes()
            .iter()
            .all(|line| !line.contains(" monitor "))
    });
    assert!(host.mounts().len() <= before + 1, "{:#?}", host.mounts());
    assert_eq!(host.berth(&["volume", "ls", "-q"]).ok(), "");
    let mut left = Vec::new();
    for folder in ["data/containers", "run/containers"] {
        left.extend(
            fs::read_dir(host.path().join(folder))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path()),
        );
    }
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

/// One HTTP/1.0 request; the whole answer's body.
pub(crate) fn http_get(address: &str) -> std::io::Result<String> {
    use std::io::Write as _;
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default())
}
