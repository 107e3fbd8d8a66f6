//! What stands between a user and a registry, as Debian packages it: a password store behind docker's
//! credential helper, and an HTTP proxy that asks for a name.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use testkit::image::{Compression, Image, tar};
use testkit::registry::{PASSWORD, USER};
use testkit::{Registry, eventually, tool};
use vocab::Platform;

use crate::client::{CLIENTS, Client, Run};
use crate::host::{Host, PATIENCE};

fn image() -> Image {
    let layers = [(tar(&[("a", b"a")]), Compression::Gzip)];
    Image::new(&layers, &Platform::host())
}

/// `pass` with a key of its own, behind `docker-credential-pass`. Its agent ends with it.
struct PasswordStore {
    home: PathBuf,
}

impl PasswordStore {
    fn new(home: &Path) -> Self {
        let home = home.to_owned();
        for name in ["gnupg", "bin"] {
            fs::create_dir(home.join(name)).unwrap();
        }
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(home.join("gnupg"), mode).unwrap();
        let store = Self { home };
        let key = ["--quick-gen-key", "berth", "default", "default", "never"];
        store.run(&[&["gpg", "--batch", "--quiet", "--passphrase", ""], &key[..]].concat());
        store.run(&["pass", "init", "berth"]);
        // By its whole path: this file is found by its name.
        let text = format!(
            "#!/bin/sh\nexport {}\nexec {} /usr/bin/docker-credential-pass \"$@\"\n",
            store
                .variables()
                .map(|(name, value)| format!("{name}={value}"))
                .join(" "),
            tool("among").display()
        );
        let helper = store.home.join("bin/docker-credential-pass");
        fs::write(&helper, text).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        store
    }

    fn variables(&self) -> [(&'static str, String); 3] {
        let at = |name: &str| self.home.join(name).display().to_string();
        [
            ("HOME", at("")),
            ("GNUPGHOME", at("gnupg")),
            ("PASSWORD_STORE_DIR", at("store")),
        ]
    }

    fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new(tool("among"));
        let output = command.args(args).envs(self.variables()).output().unwrap();
        assert!(output.status.success(), "{args:?} {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for PasswordStore {
    fn drop(&mut self) {
        let _ = Command::new(tool("among"))
            .args(["gpgconf", "--kill", "all"])
            .envs(self.variables())
            .output();
    }
}

#[test]
fn privileged_a_password_store_keeps_what_both_command_lines_log_in_with() {
    let registry = Registry::start_protected();
    let address = registry.address();
    registry.push("team/app", "1", &image());
    let name = format!("{address}/team/app:1");
    let host = Host::empty();
    let home = host.path().join("home");
    fs::create_dir(&home).unwrap();
    let store = PasswordStore::new(&home);
    fs::write(home.join("config.json"), r#"{"credsStore":"pass"}"#).unwrap();
    let run = |client: Client, args: &[&str], input: &str| -> Run {
        let mut path = home.join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = client.command(&host, args);
        command.env("DOCKER_CONFIG", &home).env("PATH", path);
        client.feed_command(command, args, input.as_bytes())
    };
    // What one of them has put there, the other finds.
    let [docker, berth] = CLIENTS;
    for (one, other) in [(docker, berth), (berth, docker)] {
        let login = ["login", "-u", USER, "--password-stdin", address];
        let said = run(one, &login, PASSWORD);
        assert!(said.ok().contains("Login Succeeded"), "{said:?}");
        assert!(
            store
                .run(&["pass", "ls"])
                .contains("docker-credential-helpers")
        );
        let file = fs::read_to_string(home.join("config.json")).unwrap();
        assert!(
            !file.contains("\"auth\":") && !file.contains(PASSWORD),
            "{file}"
        );
        for client in CLIENTS {
            run(client, &["pull", "-q", &name], "").ok();
            run(client, &["rmi", &name], "").ok();
        }
        run(other, &["logout", address], "").ok();
        run(one, &["pull", "-q", &name], "").fails(1);
    }
}

/// An HTTP proxy that only [`USER`] may use and that knows one name: the registry's.
struct Proxy {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Proxy {
    fn start(directory: &Path, registry: &Registry) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let (config, log) = (directory.join("proxy.conf"), directory.join("proxy.log"));
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nLogFile \"{}\"\nLogLevel Info\nMaxClients 50\n\
             BasicAuth {USER} {PASSWORD}\nUpstream http {} \"plain.test\"\n",
            log.display(),
            registry.address(),
        );
        fs::write(&config, text).unwrap();
        let child = Command::new(tool("among"))
            .args(["tinyproxy", "-d", "-c"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually(PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { child, port, log }
    }

    fn url(&self, account: &str) -> String {
        format!("http://{account}127.0.0.1:{}", self.port)
    }

    /// Whether something was asked of it that has these words.
    fn was_asked(&self, words: &str) -> bool {
        fs::read_to_string(&self.log).unwrap().contains(words)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn privileged_images_come_and_go_through_a_proxy_that_asks_for_a_name() {
    let registry = Registry::start();
    registry.push("team/app", "1", &image());
    let directory = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(directory.path(), &registry);
    let known = proxy.url(&format!("{USER}:{PASSWORD}@"));
    let insecure = [
        "--insecure-registry",
        "plain.test",
        "--insecure-registry",
        "direct.test",
    ];
    let by_flags = |url: &str| {
        let proxies = [
            "--http-proxy",
            url,
            "--https-proxy",
            url,
            "--no-proxy",
            "direct.test",
        ];
        Host::with_flags(&[&insecure[..], &proxies].concat())
    };
    let variables = [
        ("HTTP_PROXY", known.as_str()),
        ("HTTPS_PROXY", &known),
        ("NO_PROXY", "localhost,direct.test"),
    ];
    let by_environment = || Host::with_environment(&insecure, &variables);
    for host in [by_flags(&known), by_environment()] {
        for client in CLIENTS {
            let (name, repository) = ("plain.test/team/app:1", testkit::unique("copy"));
            let copy = format!("plain.test/{repository}:1");
            client.run(&host, &["pull", "-q", name]).ok();
            client.run(&host, &["tag", name, &copy]).ok();
            client.run(&host, &["push", "-q", &copy]).ok();
            let there = registry.manifest(&repository, "1");
            assert_eq!(there, registry.manifest("team/app", "1"));
            host.berth(&["rmi", name, &copy]).ok();
            client
                .run(&host, &["pull", "direct.test/team/app:1"])
                .fails(1);
        }
    }
    assert!(
        proxy.was_asked("CONNECT plain.test:443"),
        "TLS is tried first"
    );
    assert!(proxy.was_asked("http://plain.test/v2/team/app/manifests/1"));
    assert!(!proxy.was_asked("direct.test"));
    // Without a name it refuses.
    let stranger = by_flags(&proxy.url(""));
    for client in CLIENTS {
        let said = client.run(&stranger, &["pull", "plain.test/team/app:1"]);
        assert!(said.fails(1).contains("407"), "{said:?}");
    }
}
