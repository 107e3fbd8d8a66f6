//! What the daemon is told: checked beforehand, and read anew while it runs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use testkit::tool;

use crate::host::{Host, scratch};

/// `berth daemon --validate` on this file: exit code and what it says.
fn validate(json: &str, flags: &[&str]) -> (i32, String) {
    let root = scratch();
    let path = root.path().join("daemon.json");
    fs::write(&path, json).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args([
            "daemon",
            "--validate",
            "--config-file",
            path.to_str().unwrap(),
        ])
        .args(flags)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    let text = text.replace(path.to_str().unwrap(), "FILE");
    (output.status.code().unwrap(), text.trim().to_owned())
}

#[test]
fn a_configuration_is_checked_without_a_daemon() {
    let file = "berth daemon: unable to configure the daemon with file FILE: ";
    for (json, flags, code, wanted) in [
        (
            r#"{"debug":true,"labels":["a=b"],"tlsverify":true}"#,
            &[][..],
            0,
            "configuration OK",
        ),
        ("", &[], 0, "configuration OK"),
        (
            r#"{"nope":1}"#,
            &[],
            1,
            &*format!("{file}the following directives don't match any configuration option: nope"),
        ),
        (
            r#"{"debug":true}"#,
            &["--debug=false"],
            1,
            &*format!(
                "{file}the following directives are specified both as a flag and in the \
                 configuration file: debug: (from flag: false, from file: true)"
            ),
        ),
        (
            r#"{"userns-remap":"default"}"#,
            &[],
            1,
            &*format!("{file}userns-remap: berth has no user namespace remapping yet"),
        ),
        (
            "{",
            &[],
            1,
            &*format!("{file}EOF while parsing an object at line 1 column 1"),
        ),
    ] {
        assert_eq!(validate(json, flags), (code, wanted.to_owned()), "{json}");
    }
}

#[test]
fn privileged_a_reload_changes_what_may_change_and_says_so() {
    let root = scratch();
    let file = root.path().join("daemon.json");
    fs::write(&file, r#"{"labels":["a=1"],"mtu":1400}"#).unwrap();
    let host = Host::on(root, &["--config-file", file.to_str().unwrap()]);
    let told = |what: &str| host.docker(&["info", "--format", what]).ok().to_owned();
    let hangup = || {
        Command::new("kill")
            .args(["-HUP", &host.daemon_id().to_string()])
            .status()
            .unwrap();
    };
    assert_eq!(told("{{.Labels}} {{.Debug}}"), "[a=1] false");

    let json = r#"{"labels":["a=2"],"debug":true,"mtu":1300,"insecure-registries":["r.example"],
        "registry-mirrors":["http://m.example"],"shutdown-timeout":7}"#;
    fs::write(&file, json).unwrap();
    hangup();
    host.wait_until("the labels are new", || {
        told("{{.Labels}} {{.Debug}}") == "[a=2] true"
    });
    let registries = told("{{json .RegistryConfig}}");
    assert!(
        registries.contains("r.example") && registries.contains("http://m.example"),
        "{registries}"
    );
    assert!(
        host.log()
            .contains("a restart is needed for these options=\"mtu\""),
        "{}",
        host.log()
    );
    host.docker(&["inspect", "nothing"]);
    host.wait_until("the log is more detailed", || host.log().contains("DEBUG"));

    // Docker asks for whole seconds, and the event may be of the one that is not over.
    let args = [
        "events",
        "--since",
        "1",
        "--until",
        "0s",
        "--format",
        "{{json .}}",
    ];
    let mut event = String::new();
    host.wait_until("the event can be read", || {
        let past = host.docker(&args).ok().to_owned();
        let found = past.lines().find(|line| line.contains("reload"));
        found.unwrap_or_default().clone_into(&mut event);
        !event.is_empty()
    });
    for part in [
        r#""Type":"daemon""#,
        r#""Action":"reload""#,
        r#""labels":"[\"a=2\"]""#,
        r#""debug":"true""#,
        r#""insecure-registries":"[\"r.example\"]""#,
        r#""shutdown-timeout":"7""#,
        r#""live-restore":"true""#,
        r#""name":"#,
    ] {
        assert!(event.contains(part), "{part}: {event}");
    }

    fs::write(&file, "{").unwrap();
    hangup();
    host.wait_until("the broken file is told of", || {
        host.log().contains("the configuration is as before")
    });
    assert_eq!(told("{{.Labels}} {{.Debug}}"), "[a=2] true");
}

#[test]
fn privileged_prometheus_and_probes_are_answered_on_an_address_of_their_own() {
    let host = Host::with_flags(&["--metrics-addr", "127.0.0.1:0"]);
    host.import_busybox();
    host.berth(&["create", "busybox", "true"]).ok();
    let log = host.log();
    let line = log
        .lines()
        .find(|line| line.contains("metrics listen"))
        .unwrap();
    let address = line.split("address=").nth(1).unwrap().trim_matches('"');
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
    };
    let ok = ("200".to_owned(), "ok\n".to_owned());
    assert_eq!((get("/healthz"), get("/readyz")), (ok.clone(), ok));
    assert_eq!(get("/info").0, "404");
    let (status, text) = get("/metrics");
    assert_eq!(status, "200");
    for line in [
        "engine_daemon_container_states_containers{state=\"stopped\"} 1",
        "engine_daemon_container_states_containers{state=\"running\"} 0",
        "berth_api_requests_total{code=\"201\"} 1",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let mut promtool = Command::new(tool("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let judged = promtool.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success(), "{complaint}\n{text}");
}
