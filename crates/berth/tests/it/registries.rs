//! Images to and from real registries, with both command lines.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use testkit::image::{Compression, Image, tar};
use testkit::registry::{PASSWORD, USER};
use testkit::{Fault, FaultProxy, Registry, TokenServer, tool};
use vocab::Platform;

use crate::client::{CLIENTS, Client, Run};
use crate::host::Host;

fn skopeo(args: &[&str]) -> String {
    let output = Command::new(tool("skopeo"))
        .args(["--insecure-policy"])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn digest_there(name: &str) -> String {
    let name = format!("docker://{name}");
    skopeo(&[
        "inspect",
        "--tls-verify=false",
        "--format",
        "{{.Digest}}",
        &name,
    ])
}

/// The lines that a client printed, with twelve digits of an id as `ID`.
fn lines(said: &Run, id: &str) -> Vec<String> {
    said.ok()
        .lines()
        .map(|line| line.replace(id, "ID"))
        .collect()
}

#[test]
fn privileged_images_are_pushed() {
    for client in CLIENTS {
        let (host, registry) = (Host::new(), Registry::start());
        let app = format!("{}/team/app", registry.address());
        let one = format!("{app}:1");
        host.berth(&["tag", "busybox", &one]).ok();
        let layer = host.berth(&["inspect", "-f", "{{index .RootFS.Layers 0}}", &one]);
        let id = &layer.ok()["sha256:".len()..][..12];

        let said = client.run(&host, &["push", &one]);
        let digest = digest_there(&one);
        let size = registry.manifest("team/app", "1").len();
        let refers = format!("The push refers to repository [{app}]");
        assert_eq!(
            lines(&said, id),
            [
                refers.as_str(),
                "ID: Preparing",
                "ID: Pushed",
                &format!("1: digest: {digest} size: {size}"),
            ]
        );
        let known = host.berth(&["inspect", "-f", "{{join .RepoDigests \" \"}}", &one]);
        assert_eq!(known.ok(), format!("{app}@{digest}"));

        host.berth(&["tag", "busybox", &format!("{app}:2")]).ok();
        let said = client.run(&host, &["push", "-a", &app]);
        let there = |tag: &str| format!("{tag}: digest: {digest} size: {size}");
        assert_eq!(
            lines(&said, id),
            [
                refers.as_str(),
                "ID: Preparing",
                "ID: Layer already exists",
                &there("1"),
                "ID: Preparing",
                "ID: Layer already exists",
                &there("2"),
            ]
        );
        assert_eq!(digest_there(&format!("{app}:2")), digest);
        let said = client.run(&host, &["push", "-q", &one]);
        assert_eq!(said.ok(), one);

        // Into another repository of the same registry nothing is sent.
        let fork = format!("{}/fork/app:1", registry.address());
        host.berth(&["tag", "busybox", &fork]).ok();
        let said = client.run(&host, &["push", &fork]);
        assert!(said.ok().contains(": Mounted from team/app"), "{said:?}");
        assert_eq!(digest_there(&fork), digest);

        // What arrived runs elsewhere.
        let other = Host::empty();
        let said = client.run(&other, &["run", "--rm", &one, "echo", "there"]);
        assert_eq!(said.ok(), "there");
        assert!(said.stderr.contains(&digest), "{said:?}");
    }
}

#[test]
fn privileged_pushes_fail_as_dockers_do() {
    let (host, protected) = (Host::new(), Registry::start_protected());
    let name = format!("{}/team/app", protected.address());
    for client in CLIENTS {
        for (tagged, pushed, complaint) in [
            (
                None,
                "none/such:1",
                "An image does not exist locally with the tag: none/such".to_owned(),
            ),
            (
                Some(format!("{name}:1")),
                &format!("{name}:2"),
                format!("tag does not exist: {name}:2"),
            ),
            (
                Some(format!("{name}:1")),
                &format!("{name}:1"),
                "no basic auth credentials".to_owned(),
            ),
        ] {
            if let Some(tagged) = tagged {
                host.berth(&["tag", "busybox", &tagged]).ok();
            }
            let said = client.run(&host, &["push", pushed]);
            assert!(said.fails(1).ends_with(&complaint), "{said:?}");
            assert!(
                said.stdout.starts_with("The push refers to repository ["),
                "{said:?}"
            );
        }
    }
}

/// What others made goes through berth unchanged, whichever way it is compressed.
#[test]
fn privileged_what_is_pulled_and_pushed_keeps_its_digest() {
    let (one, two) = (Registry::start(), Registry::start());
    let layer = |name: &str, how| (tar(&[(name, name.as_bytes())]), how);
    let image = Image::new(
        &[
            layer("a", Compression::Gzip),
            layer("b", Compression::Zstd),
            layer("c", Compression::Plain),
        ],
        &Platform::host(),
    );
    let digest = one.push("app", "1", &image).to_string();
    for client in CLIENTS {
        let host = Host::empty();
        let from = format!("{}/app:1", one.address());
        let to = format!("{}/{client:?}/copy:1", two.address()).to_lowercase();
        client.run(&host, &["pull", "-q", &from]).ok();
        client.run(&host, &["tag", &from, &to]).ok();
        let said = client.run(&host, &["push", &to]);
        assert!(
            said.ok().contains(&format!("1: digest: {digest} size: ")),
            "{said:?}"
        );
        assert_eq!(digest_there(&to), digest);
        // Skopeo takes it out again, whole.
        let out = host.path().join("out");
        let out = format!("oci:{}:1", out.display());
        skopeo(&[
            "copy",
            "-q",
            "--preserve-digests",
            "--src-tls-verify=false",
            &format!("docker://{to}"),
            &out,
        ]);
        assert_eq!(
            skopeo(&["inspect", "--format", "{{.Digest}}", &out]),
            digest
        );
    }
}

/// Runs `docker login` and its like with a configuration folder and programs of its own.
fn with_home(client: Client, host: &Host, home: &Path, args: &[&str], input: &str) -> Run {
    let mut path = std::ffi::OsString::from(home);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = client.command(host, args);
    command.env("DOCKER_CONFIG", home).env("PATH", path);
    client.feed_command(command, args, input.as_bytes())
}

#[test]
fn privileged_users_log_in_and_out() {
    let registry = Registry::start_protected();
    registry.push(
        "team/app",
        "1",
        &Image::new(
            &[(tar(&[("a", b"a")]), Compression::Gzip)],
            &Platform::host(),
        ),
    );
    let name = format!("{}/team/app:1", registry.address());
    for client in CLIENTS {
        let host = Host::empty();
        let home = host.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let run = |args: &[&str], input: &str| with_home(client, &host, &home, args, input);
        let login = ["login", "-u", USER, "--password-stdin", registry.address()];
        let said = run(&login, "wrong\n");
        assert!(
            said.fails(1).contains(&format!(
                "login attempt to http://{}/v2/ failed with status: 401 Unauthorized",
                registry.address()
            )),
            "{said:?}"
        );
        let said = run(&login, &format!("{PASSWORD}\n"));
        assert!(said.ok().ends_with("Login Succeeded"), "{said:?}");
        let file = std::fs::read_to_string(home.join("config.json")).unwrap();
        assert!(file.contains(registry.address()), "{file}");
        run(&["pull", "-q", &name], "").ok();
        let copy = format!("{}/team/{client:?}:1", registry.address()).to_lowercase();
        run(&["tag", &name, &copy], "").ok();
        let said = run(&["push", &copy], "");
        assert!(said.ok().contains("Mounted from team/app"), "{said:?}");
        let said = run(&["logout", registry.address()], "");
        assert_eq!(
            said.ok(),
            format!("Removing login credentials for {}", registry.address())
        );
        let said = run(&["push", &copy], "");
        assert!(
            said.fails(1).ends_with("no basic auth credentials"),
            "{said:?}"
        );
    }
}

#[test]
fn privileged_tokens_of_a_token_server_are_got_kept_and_renewed() {
    let tokens = TokenServer::start();
    let registry = Registry::start();
    let files = tar(&[("a", b"a")]);
    let image = Image::new(&[(files, Compression::Gzip)], &Platform::host());
    registry.push("team/app", "1", &image);
    let registry = registry.into_tokens(&tokens);
    let address = registry.address();
    let name = format!("{address}/team/app:1");
    for client in CLIENTS {
        let host = Host::empty();
        let home = host.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let run = |args: &[&str], input: &str| with_home(client, &host, &home, args, input);
        run(&["pull", &name], "").fails(1);
        let login = ["login", "-u", USER, "--password-stdin", address];
        let said = run(&login, "wrong");
        assert!(
            said.fails(1).contains("incorrect username or password"),
            "{said:?}"
        );
        let said = run(&login, PASSWORD);
        assert!(said.ok().ends_with("Login Succeeded"), "{said:?}");
        // The token is kept, and the password is not.
        let file = std::fs::read_to_string(home.join("config.json")).unwrap();
        assert!(file.contains(testkit::tokens::REFRESH_TOKEN), "{file}");
        let account =
            base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
        assert!(
            !file.contains(&account) && !file.contains(PASSWORD),
            "{file}"
        );
        let before = tokens.asked().len();
        run(&["pull", "-q", &name], "").ok();
        let copy = format!("{address}/team/{client:?}:1").to_lowercase();
        run(&["tag", &name, &copy], "").ok();
        run(&["push", &copy], "").ok();
        let asked = tokens.asked();
        assert!(asked.len() > before, "{asked:?}");
        assert!(
            asked[before..]
                .iter()
                .all(|asked| asked == "POST refresh_token"),
            "{asked:?}"
        );
        run(&["logout", address], "").ok();
        run(&["push", &copy], "").fails(1);
    }
}

/// Keeps one account in a file beside itself, as the helpers' protocol wants.
const HELPER: &str = r#"#!/bin/sh
kept=$(dirname "$0")/kept
echo "$1" >> "$kept.asked"
case $1 in
  store) cat > "$kept" ;;
  get) if [ -s "$kept" ]; then cat "$kept"; else echo "credentials not found in native keychain"; exit 1; fi ;;
  erase) rm -f "$kept" ;;
  list) echo '{}' ;;
esac
"#;

#[test]
fn privileged_credentials_are_kept_by_helpers() {
    let registry = Registry::start_protected();
    let address = registry.address();
    registry.push(
        "team/app",
        "1",
        &Image::new(
            &[(tar(&[("a", b"a")]), Compression::Gzip)],
            &Platform::host(),
        ),
    );
    let name = format!("{address}/team/app:1");
    for client in CLIENTS {
        for config in [
            r#"{"credsStore":"test"}"#.to_owned(),
            format!(r#"{{"credHelpers":{{"{address}":"test"}}}}"#),
        ] {
            let host = Host::empty();
            let home = host.path().join("home");
            std::fs::create_dir(&home).unwrap();
            let helper = home.join("docker-credential-test");
            std::fs::write(&helper, HELPER).unwrap();
            std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::write(home.join("config.json"), config).unwrap();
            let run = |args: &[&str], input: &str| with_home(client, &host, &home, args, input);
            run(&["pull", &name], "").fails(1);
            let login = ["login", "-u", USER, "--password-stdin", address];
            run(&login, PASSWORD).ok();
            let kept = std::fs::read_to_string(home.join("kept")).unwrap();
            assert!(kept.contains(PASSWORD), "{kept}");
            let file = std::fs::read_to_string(home.join("config.json")).unwrap();
            assert!(!file.contains("\"auth\":"), "{file}");
            run(&["pull", "-q", &name], "").ok();
            run(&["logout", address], "").ok();
            assert!(!home.join("kept").exists());
            run(&["rmi", &name], "").ok();
            run(&["pull", &name], "").fails(1);
        }
    }
}

#[test]
fn privileged_credentials_are_checked_and_names_resolved_for_programs() {
    let (host, registry) = (Host::empty(), Registry::start_protected());
    let image = Image::new(
        &[(tar(&[("a", b"a")]), Compression::Gzip)],
        &Platform::host(),
    );
    let digest = registry.push("team/app", "1", &image);
    let address = registry.address();
    let account = |password: &str| {
        format!(r#"{{"username":"{USER}","password":"{password}","serveraddress":"{address}"}}"#)
    };
    let auth = |password: &str| {
        let body = account(password);
        let length = body.len();
        host.raw(
            &format!(
                "POST /v1.47/auth HTTP/1.0\nHost: x\nContent-Type: application/json\nContent-Length: {length}\n\n{body}"
            ),
        )
    };
    let right = auth(PASSWORD);
    assert!(
        right.contains(" 200 ") && right.contains(r#""Status":"Login Succeeded""#),
        "{right}"
    );
    let wrong = auth("wrong");
    assert!(
        wrong.contains(" 401 ") && wrong.contains("failed with status: 401"),
        "{wrong}"
    );

    let resolve = |header: &str| {
        host.raw(&format!(
            "GET /v1.47/distribution/{address}/team/app:1/json HTTP/1.0\nHost: x\n{header}\n"
        ))
    };
    let anonymous = resolve("");
    assert!(
        anonymous.contains(" 401 ") || anonymous.contains("no basic auth"),
        "{anonymous}"
    );
    let header = URL_SAFE.encode(account(PASSWORD));
    let resolved = resolve(&format!("X-Registry-Auth: {header}\n"));
    assert!(
        resolved.contains(" 200 ") && resolved.contains(&digest.to_string()),
        "{resolved}"
    );
    assert!(resolved.contains(r#""os":"linux""#), "{resolved}");
}

/// Stalls the first transfer of any layer, after the given number of bytes.
fn stalling(registry: &Registry, image: &Image, at: usize) -> FaultProxy {
    let layer = image.layers[0].digest.clone();
    FaultProxy::start(registry.address(), move |asked| {
        match asked.is_blob(&layer) && asked.before == 0 {
            true => Fault::StallAnswer(at),
            false => Fault::None,
        }
    })
}

#[test]
fn privileged_a_pull_goes_on_after_ctrl_c_and_after_a_killed_daemon() {
    let content: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
    let image = Image::new(
        &[(tar(&[("a", &content)]), Compression::Plain)],
        &Platform::host(),
    );
    let registry = Registry::start();
    registry.push("app", "1", &image);
    let half = image.layers[0].blob.len() / 2;
    for (client, killed) in [
        (Client::Docker, false),
        (Client::Berth, false),
        (Client::Docker, true),
    ] {
        let proxy = stalling(&registry, &image, half);
        let mut host = Host::empty();
        let name = format!("{}/app:1", proxy.address());
        let mut pull = client.spawn(&host, &["pull", &name]);
        let layer = &image.layers[0].digest;
        let partial = host
            .path()
            .join(format!("data/store/partial/sha256-{}", layer.hex()));
        let came = || std::fs::metadata(&partial).map_or(0, |found| found.len());
        host.wait_until("half of the layer is there", || came() == half as u64);
        if killed {
            host.kill_daemon();
        } else {
            let id = pull.id().to_string();
            assert!(
                Command::new("kill")
                    .args(["-INT", &id])
                    .status()
                    .unwrap()
                    .success()
            );
        }
        assert!(!pull.wait().unwrap().success());
        if killed {
            host.start();
        }
        let said = client.run(&host, &["pull", &name]);
        assert!(
            said.ok().contains("Status: Downloaded newer image"),
            "{said:?}"
        );
        let ranges: Vec<_> = proxy
            .asked()
            .into_iter()
            .filter(|asked| asked.is_blob(layer))
            .map(|asked| asked.headers.get("range").cloned())
            .collect();
        assert_eq!(ranges, [None, Some(format!("bytes={half}-"))]);
        assert!(!partial.exists());
    }
}

#[test]
fn privileged_mirrors_certificates_and_proxies_are_settings_of_the_daemon() {
    let image = Image::new(
        &[(tar(&[("a", b"a")]), Compression::Gzip)],
        &Platform::host(),
    );
    let registry = Registry::start();
    registry.push("team/app", "1", &image);
    let proxy = FaultProxy::start(registry.address(), |_| Fault::None);
    let mutual = Registry::start();
    mutual.push("team/app", "1", &image);
    let mutual = mutual.into_mutual_tls();
    let (_, port) = mutual.address().split_once(':').unwrap();
    let certs = tempfile::tempdir().unwrap();
    let of_host = certs.path().join(format!("[::ffff:7f00:1]:{port}"));
    std::fs::create_dir(&of_host).unwrap();
    for (name, content) in [
        ("ca.crt", testkit::registry::CERTIFICATE),
        ("client.cert", testkit::registry::CLIENT_CERTIFICATE),
        ("client.key", testkit::registry::CLIENT_KEY),
    ] {
        std::fs::write(of_host.join(name), content).unwrap();
    }
    let host = Host::with_flags(&[
        "--mirror",
        &format!("*.example.com=http://{}", proxy.address()),
        "--registry-certs",
        certs.path().to_str().unwrap(),
        "--insecure-registry",
        "plain.test",
        "--https-proxy",
        "http://127.0.0.1:1",
        "--http-proxy",
        &format!("http://ann:secret@{}", proxy.address()),
        "--no-proxy",
        "::ffff:127.0.0.1",
    ]);
    for client in CLIENTS {
        for name in [
            "hub.example.com/team/app:1",
            // TLS ends at a proxy that is not there: then plain HTTP.
            "plain.test/team/app:1",
            &format!("[::ffff:7f00:1]:{port}/team/app:1"),
        ] {
            client.run(&host, &["pull", "-q", name]).ok();
            client.run(&host, &["rmi", name]).ok();
        }
        let said = client.run(&host, &["info"]);
        let masked = format!(" HTTP Proxy: http://xxxxx:xxxxx@{}\n", proxy.address());
        assert!(said.ok().contains(&masked), "{said:?}");
    }
    let plain = "http://plain.test/v2/team/app/manifests/1";
    assert!(proxy.count(|asked| asked.target == plain) > 0);
}
