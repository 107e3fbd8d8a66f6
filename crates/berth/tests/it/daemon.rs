//! The daemon as a program: first command, several side by side, rights, routes not done.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::client::CLIENTS;
use testkit::tool;

use crate::host::Host;

#[test]
fn privileged_several_daemons_live_side_by_side() {
    let (one, two) = (Host::new(), Host::new());
    let run = |host: &Host| {
        host.berth(&[
            "run", "-d", "--name", "same", "-p", "80", "busybox", "sleep", "1000",
        ])
        .ok()
        .to_owned()
    };
    let (first, second) = (run(&one), run(&two));
    assert_ne!(first, second);
    assert_eq!(one.docker(&["ps", "-q", "--no-trunc"]).ok(), first);
    assert_eq!(two.docker(&["ps", "-q", "--no-trunc"]).ok(), second);
    one.berth(&["rm", "-f", "same"]).ok();
    assert_eq!(
        two.berth(&["exec", "same", "echo", "untouched"]).ok(),
        "untouched"
    );
}

#[test]
fn privileged_a_second_daemon_on_the_same_roots_is_refused() {
    let host = Host::empty();
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args([
            "daemon",
            "-H",
            &format!("unix://{}/other.sock", host.path().display()),
            "--config-file",
            "/dev/null",
        ])
        .args(["--pidfile", &format!("{}/other.pid", host.path().display())])
        .arg("--data-root")
        .arg(host.path().join("data"))
        .arg("--exec-root")
        .arg(host.path().join("run"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("data") && text.contains("in use"), "{text}");
    host.berth(&["version"]).ok();
}

#[test]
fn privileged_the_socket_is_for_root_and_the_group_only() {
    let host = Host::empty();
    let mode = std::fs::metadata(host.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn privileged_an_ordinary_user_reads_what_to_do() {
    let host = Host::empty();
    let program = env!("CARGO_BIN_EXE_berth");
    // The build folder may be closed to others: run a copy that is not.
    let copy = host.path().join("berth");
    std::fs::copy(program, &copy).unwrap();
    std::fs::set_permissions(host.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = |args: &[&str]| {
        Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&copy)
            .args(args)
            .env("DOCKER_HOST", host.url())
            .output()
            .unwrap()
    };
    let output = run(&["ps"]);
    let text = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("permission denied") && text.contains("group"),
        "{text}"
    );
    let output = run(&[
        "daemon",
        "--data-root",
        "/tmp/never",
        "--exec-root",
        "/tmp/never",
    ]);
    let text = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert_ne!(output.status.code(), Some(0));
    assert!(text.contains("root"), "{text}");
}

#[test]
fn privileged_routes_that_are_not_done_say_so() {
    let host = Host::empty();
    let answer = host.raw("POST /v1.47/swarm/init HTTP/1.0\nHost: x\nContent-Length: 0\n\n");
    assert!(
        answer.starts_with("HTTP/1.0 501") || answer.starts_with("HTTP/1.1 501"),
        "{answer}"
    );
    assert!(answer.contains("/swarm/init"), "{answer}");
    let answer = host.raw("GET /nonsense HTTP/1.0\nHost: x\n\n");
    assert!(
        answer.contains(" 404 ") && answer.contains(r#"{"message":"page not found"}"#),
        "{answer}"
    );
    let answer = host.raw("GET /v9.99/version HTTP/1.0\nHost: x\n\n");
    assert!(
        answer.contains(" 400 ")
            && answer
                .contains("client version 9.99 is too new. Maximum supported API version is 1.5"),
        "{answer}"
    );
    let answer = host.raw("GET /v1.2/version HTTP/1.0\nHost: x\n\n");
    assert!(
        answer.contains(" 400 ") && answer.contains("client version 1.2 is too old"),
        "{answer}"
    );
    let answer = host.raw("GET /_ping HTTP/1.0\nHost: x\n\n").to_lowercase();
    for header in [
        "api-version: 1.",
        "ostype: linux",
        "docker-experimental: false",
        "server: docker/",
        "builder-version: ",
    ] {
        assert!(answer.contains(header), "{header}: {answer}");
    }
}

#[test]
fn privileged_wrong_configuration_is_named() {
    let host = Host::empty();
    let file = host.path().join("daemon.json");
    let validate = |text: &str, flags: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_berth"))
            .args([
                "daemon",
                "--validate",
                "--config-file",
                file.to_str().unwrap(),
            ])
            .args(flags)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout),
        )
    };
    assert_eq!(validate(r#"{"debug": true}"#, &[]).0, Some(0));
    let (code, text) = validate(r#"{"nonsense": 1}"#, &[]);
    assert!(code == Some(1) && text.contains("nonsense"), "{text}");
    let (code, text) = validate(r#"{"debug": tru"#, &[]);
    assert!(code == Some(1) && text.contains("daemon.json"), "{text}");
    let (code, text) = validate(r#"{"log-level": "info"}"#, &["--log-level", "debug"]);
    assert!(code == Some(1) && text.contains("log-level"), "{text}");
}

#[test]
fn privileged_tcp_is_served_when_asked() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("tcp://127.0.0.1:{port}");
    let host = Host::with_flags(&["-H", &address]);
    for client in CLIENTS {
        let said = client.run(
            &host,
            &["-H", &address, "version", "--format", "{{.Server.Os}}"],
        );
        assert_eq!(said.ok(), "linux", "{client:?}");
    }
}

/// In namespaces of its own, so that the default paths are free and the machine's stay untouched.
#[test]
fn privileged_the_very_first_command_starts_a_daemon_and_says_so() {
    let scratch = crate::host::scratch();
    let script = r#"
        set -e
        ip link set lo up
        for folder in /run /var/lib /var/log /etc; do
            mkdir -p "$SCRATCH/upper$folder" "$SCRATCH/work$folder"
            mount -t overlay overlay -o "lowerdir=$folder,upperdir=$SCRATCH/upper$folder,workdir=$SCRATCH/work$folder" "$folder"
        done
        rm -rf /run/berth /run/berth.sock /run/berth.pid /var/lib/berth /etc/berth
        "$BERTH" ps -q
        echo "second:"
        "$BERTH" version --format '{{.Server.Os}}'
        pid=$(cat /run/berth.pid)
        kill -TERM "$pid"
        while [ -d "/proc/$pid" ]; do :; done
        [ ! -e /run/berth.sock ] && echo "gone"
    "#;
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
        ])
        .env("BERTH", env!("CARGO_BIN_EXE_berth"))
        .env("SCRATCH", scratch.path())
        .env_remove("DOCKER_HOST")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said, "second:\nlinux\ngone\n", "{complained}");
    assert_eq!(
        complained.lines().count(),
        1,
        "one line says it: {complained}"
    );
    assert!(
        complained.contains("daemon") && complained.contains("/var/log/berth.log"),
        "{complained}"
    );
}

/// An image pushed by somebody else is pulled from a real registry, run, and removed.
#[test]
fn privileged_images_are_pulled_from_a_real_registry() {
    let source = Host::new();
    let registry = testkit::Registry::start();
    let archive = source.path().join("box.tar");
    source
        .berth(&["save", "-o", archive.to_str().unwrap(), "busybox:latest"])
        .ok();
    let name = format!("{}/team/box:1", registry.address());
    let copied = Command::new(tool("skopeo"))
        .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
        .arg(format!("docker-archive:{}", archive.display()))
        .arg(format!("docker://{name}"))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{copied:?}");
    for client in CLIENTS {
        let host = Host::empty();
        let said = client.run(&host, &["pull", &name]);
        assert!(
            said.ok()
                .contains(&format!("Status: Downloaded newer image for {name}")),
            "{said:?}"
        );
        assert!(said.stdout.contains("Digest: sha256:"), "{said:?}");
        let said = client.run(&host, &["pull", &name]);
        assert!(
            said.ok()
                .contains(&format!("Status: Image is up to date for {name}")),
            "{said:?}"
        );
        assert_eq!(
            client
                .run(&host, &["run", "--rm", &name, "echo", "pulled"])
                .ok(),
            "pulled"
        );
        let said = client.run(&host, &["rmi", &name]);
        assert!(
            said.ok().contains(&format!("Untagged: {name}"))
                && said.stdout.contains("Deleted: sha256:"),
            "{said:?}"
        );
        // A miss on run pulls by itself.
        let said = client.run(&host, &["run", "--rm", &name, "echo", "by itself"]);
        assert_eq!(said.ok(), "by itself");
        assert!(said.stderr.contains("Unable to find image"), "{said:?}");
        let said = client.run(
            &host,
            &["pull", &format!("{}/team/box:none", registry.address())],
        );
        assert!(
            said.fails(1).contains("manifest unknown") || said.stderr.contains("not found"),
            "{said:?}"
        );
    }
}

#[test]
fn privileged_all_tags_of_a_repository_are_pulled() {
    let registry = testkit::Registry::start();
    let layer = |text: &str| {
        let tar = testkit::image::tar(&[("a", text.as_bytes())]);
        (tar, testkit::image::Compression::Gzip)
    };
    let image = |text| testkit::image::Image::new(&[layer(text)], &vocab::Platform::host());
    let (one, two) = (image("one"), image("two"));
    let digests = [
        registry.push("team/app", "1", &one),
        registry.push("team/app", "1.0", &one),
        registry.push("team/app", "2", &two),
    ];
    let name = format!("{}/team/app", registry.address());
    for client in CLIENTS {
        let host = Host::empty();
        let said = client.run(&host, &["pull", "-a", &name]);
        let lines: Vec<&str> = said.ok().lines().collect();
        let short = |image: &testkit::image::Image| image.layers[0].digest.short().to_owned();
        for (line, wanted) in [
            (0, "1: Pulling from team/app".to_owned()),
            (1, format!("{}: Pulling fs layer", short(&one))),
        ] {
            assert_eq!(lines[line], wanted, "{said:?}");
        }
        let without_layers: Vec<&str> = lines
            .iter()
            .filter(|line| !line.starts_with(&short(&one)) && !line.starts_with(&short(&two)))
            .copied()
            .collect();
        assert_eq!(
            without_layers,
            [
                "1: Pulling from team/app",
                &format!("Digest: {}", digests[0]),
                "1.0: Pulling from team/app",
                &format!("Digest: {}", digests[1]),
                "2: Pulling from team/app",
                &format!("Digest: {}", digests[2]),
                &format!("Status: Downloaded newer image for {name}"),
                &name,
            ],
            "{said:?}"
        );
        let listed = host.berth(&["images", "--format", "{{.Tag}}", &name]);
        let mut listed: Vec<&str> = listed.ok().lines().collect();
        listed.sort_unstable();
        assert_eq!(listed, ["1", "1.0", "2"]);
        let again = client.run(&host, &["pull", "-a", &name]);
        assert!(
            again
                .ok()
                .contains(&format!("Status: Image is up to date for {name}")),
            "{again:?}"
        );
        let none = format!("{}/team/none", registry.address());
        let said = client.run(&host, &["pull", "-a", &none]);
        assert!(
            said.fails(1).ends_with(&format!(
                "repository {none} not found: name unknown: repository name not known to registry"
            )),
            "{said:?}"
        );
    }
}
