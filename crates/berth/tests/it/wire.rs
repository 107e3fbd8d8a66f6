//! The Engine API byte for byte, where clients depend on more than the JSON: header blocks, the
//! moment at which they come, half-closed connections, frames.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::host::{Host, PATIENCE};

/// A connection to a daemon.
struct Wire(UnixStream);

impl Wire {
    fn new(host: &Host) -> Self {
        let socket = UnixStream::connect(host.socket()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Sends a request; `headers` are whole lines.
    fn send(&mut self, line: &str, headers: &[&str], body: &str) {
        let mut text = format!("{line} HTTP/1.1\r\nHost: x\r\n");
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        if !body.is_empty() {
            text.push_str("Content-Type: application/json\r\n");
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Reads exactly the header block, and nothing after it.
    fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.exactly(1)[0]);
        }
        String::from_utf8(head).unwrap()
    }

    fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Reads what is left until the daemon half-closes.
    fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// One frame: its stream and its payload.
    fn frame(&mut self) -> (u8, String) {
        let head = self.exactly(8);
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        assert_eq!(&head[1..4], [0, 0, 0]);
        let payload = self.exactly(usize::try_from(length).unwrap());
        (head[0], String::from_utf8(payload).unwrap())
    }

    /// The next piece of a chunked body.
    fn chunk(&mut self) -> String {
        let mut size = Vec::new();
        while !size.ends_with(b"\r\n") {
            size.push(self.exactly(1)[0]);
        }
        let size = String::from_utf8(size).unwrap();
        let length = usize::from_str_radix(size.trim(), 16).unwrap();
        let piece = self.exactly(length + 2);
        String::from_utf8(piece[..length].to_vec()).unwrap()
    }
}

/// A whole exchange: status and body.
fn call(host: &Host, line: &str, body: &str) -> (u16, String) {
    let mut wire = Wire::new(host);
    wire.send(line, &["Connection: close"], body);
    let head = wire.head();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut body = String::from_utf8(wire.rest()).unwrap();
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        body = body.split("\r\n").skip(1).step_by(2).collect();
    }
    (status, body)
}

fn created(host: &Host, config: &Value) -> String {
    let (status, body) = call(host, "POST /v1.47/containers/create", &config.to_string());
    assert_eq!(status, 201, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    answer["Id"].as_str().unwrap().to_owned()
}

fn post(host: &Host, path: &str, wanted: u16) {
    let (status, body) = call(host, &format!("POST /v1.47{path}"), "");
    assert_eq!(status, wanted, "{path}: {body}");
}

const UPGRADE: &[&str] = &["Connection: Upgrade", "Upgrade: tcp"];

#[test]
fn privileged_an_attached_client_sees_every_byte_and_its_half_close_is_the_end_of_stdin() {
    let host = Host::new();
    let script = "echo out; echo err >&2; cat; echo end";
    let id = created(
        &host,
        &json!({"Image": "busybox", "Cmd": ["sh", "-c", script], "OpenStdin": true,
                "StdinOnce": true, "AttachStdin": true}),
    );
    let mut wire = Wire::new(&host);
    let target = format!("POST /v1.47/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
    wire.send(&target, UPGRADE, "");
    let head = wire.head();
    assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{head}");
    for header in [
        "Content-Type: application/vnd.docker.multiplexed-stream\r\n",
        "Connection: Upgrade\r\n",
        "Upgrade: tcp\r\n",
    ] {
        assert!(head.contains(header), "{head}");
    }
    assert!(!head.to_lowercase().contains("content-length"), "{head}");
    post(&host, &format!("/containers/{id}/start"), 204);
    let mut first = [wire.frame(), wire.frame()];
    first.sort();
    assert_eq!(first, [(1, "out\n".to_owned()), (2, "err\n".to_owned())]);
    wire.0.write_all(b"typed\n").unwrap();
    assert_eq!(wire.frame(), (1, "typed\n".to_owned()));
    wire.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(wire.frame(), (1, "end\n".to_owned()));
    assert_eq!(wire.rest(), b"");
}

#[test]
fn privileged_a_terminal_is_raw_and_old_clients_are_not_told_of_frames() {
    let host = Host::new();
    let attach = |version: &str, tty: bool| {
        let id = created(
            &host,
            &json!({"Image": "busybox", "Cmd": ["echo", "x"], "Tty": tty}),
        );
        let mut wire = Wire::new(&host);
        let target = format!("POST /{version}/containers/{id}/attach?stream=1&stdout=1");
        wire.send(&target, UPGRADE, "");
        let head = wire.head();
        post(&host, &format!("/containers/{id}/start"), 204);
        let output = wire.rest();
        (
            head.contains("Content-Type: application/vnd.docker.raw-stream\r\n"),
            output,
        )
    };
    assert_eq!(attach("v1.47", true), (true, b"x\r\n".to_vec()));
    assert_eq!(
        attach("v1.41", false),
        (true, b"\x01\0\0\0\0\0\0\x02x\n".to_vec())
    );
    assert!(!attach("v1.42", false).0);
}

#[test]
fn privileged_a_client_that_does_not_upgrade_reads_the_output_as_a_body() {
    let host = Host::new();
    let id = created(&host, &json!({"Image": "busybox", "Cmd": ["echo", "x"]}));
    let mut wire = Wire::new(&host);
    wire.send(
        &format!("POST /v1.47/containers/{id}/attach?stream=1&stdout=1"),
        &[],
        "",
    );
    assert!(wire.head().starts_with("HTTP/1.1 200 OK\r\n"));
    post(&host, &format!("/containers/{id}/start"), 204);
    assert_eq!(wire.chunk(), "\u{1}\0\0\0\0\0\0\u{2}x\n");
}

#[test]
fn privileged_wait_says_its_headers_before_the_container_starts() {
    let host = Host::new();
    let id = created(
        &host,
        &json!({"Image": "busybox", "Cmd": ["sh", "-c", "exit 7"], "HostConfig": {"AutoRemove": true}}),
    );
    let wait = |condition: &str| {
        let mut wire = Wire::new(&host);
        let target = format!("POST /v1.47/containers/{id}/wait?condition={condition}");
        wire.send(&target, &[], "");
        let head = wire.head();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("Content-Type: application/json\r\n"),
            "{head}"
        );
        wire
    };
    let (mut exit, mut removal) = (wait("next-exit"), wait("removed"));
    post(&host, &format!("/containers/{id}/start"), 204);
    assert_eq!(exit.chunk(), "{\"StatusCode\":7}\n");
    assert_eq!(removal.chunk(), "{\"StatusCode\":7}\n");
    let (status, body) = call(&host, &format!("GET /containers/{id}/json"), "");
    assert_eq!(status, 404);
    assert_eq!(
        body,
        format!("{{\"message\":\"No such container: {id}\"}}\n")
    );
}

#[test]
fn privileged_refusals_have_exactly_the_type_that_clients_compare() {
    let host = Host::new();
    for (line, body, status, message) in [
        (
            "GET /v1.47/containers/nope/json",
            "",
            404,
            "No such container: nope",
        ),
        (
            "POST /v1.47/containers/nope/wait?condition=never",
            "",
            400,
            "invalid condition: \"never\"",
        ),
        (
            "GET /v1.47/containers/json?filters=%7B%22x%22%3A%5B%22y%22%5D%7D",
            "",
            400,
            "invalid filter 'x'",
        ),
        (
            "GET /v1.47/images/nope/json",
            "",
            404,
            "No such image: nope:latest",
        ),
        (
            "GET /v1.47/exec/nope/json",
            "",
            404,
            "No such exec instance: nope",
        ),
        (
            "GET /v1.47/volumes/nope",
            "",
            404,
            "get nope: no such volume",
        ),
        (
            "GET /v1.47/networks/nope",
            "",
            404,
            "network nope not found",
        ),
        (
            "GET /v1.47/plugins/nope/json",
            "",
            404,
            "plugin \"nope\" not found",
        ),
        (
            "POST /v1.47/containers/create",
            "{} {",
            400,
            "unexpected content after JSON",
        ),
        (
            "POST /v1.47/containers/create?name=a",
            r#"{"Image":"nope"}"#,
            404,
            "No such image: nope:latest",
        ),
        (
            "GET /v1.47/containers/nope/logs",
            "",
            400,
            "Bad parameters: you must choose at least one stream",
        ),
    ] {
        let mut wire = Wire::new(&host);
        wire.send(line, &["Connection: close"], body);
        let head = wire.head();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{line}: {head}"
        );
        assert!(
            head.contains("\r\nContent-Type: application/json\r\n"),
            "{line}: {head}"
        );
        let said = String::from_utf8(wire.rest()).unwrap();
        assert_eq!(
            said,
            format!("{}\n", json!({ "message": message })),
            "{line}"
        );
    }
}

#[test]
fn privileged_a_command_that_cannot_run_is_told_in_the_stream() {
    let host = Host::new();
    let id = created(
        &host,
        &json!({"Image": "busybox", "Cmd": ["sleep", "1000"]}),
    );
    post(&host, &format!("/containers/{id}/start"), 204);
    for (program, code) in [("nope", 127), ("/etc/plain", 126)] {
        let exec = json!({"Cmd": [program], "AttachStdout": true, "AttachStderr": true});
        let (status, body) = call(
            &host,
            &format!("POST /v1.47/containers/{id}/exec"),
            &exec.to_string(),
        );
        assert_eq!(status, 201, "{body}");
        let exec: Value = serde_json::from_str(&body).unwrap();
        let exec = exec["Id"].as_str().unwrap();
        let mut wire = Wire::new(&host);
        wire.send(
            &format!("POST /v1.47/exec/{exec}/start"),
            UPGRADE,
            "{\"Detach\":false}",
        );
        assert!(wire.head().starts_with("HTTP/1.1 101 UPGRADED\r\n"));
        let (stream, text) = wire.frame();
        assert_eq!(stream, 1);
        assert!(
            text.starts_with("OCI runtime exec failed: exec failed: "),
            "{text}"
        );
        assert!(text.ends_with("\r\n") && text.contains(program), "{text}");
        assert_eq!(wire.rest(), b"");
        let (_, body) = call(&host, &format!("GET /v1.47/exec/{exec}/json"), "");
        let shown: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&shown["ExitCode"], &shown["Running"]),
            (&json!(code), &json!(false))
        );
    }
}

#[test]
fn privileged_events_and_logs_flush_their_headers_before_there_is_anything_to_say() {
    let host = Host::new();
    let id = created(
        &host,
        &json!({"Image": "busybox", "Cmd": ["sh", "-c", "echo hi"], "Labels": {"who": "me"}}),
    );
    let mut events = Wire::new(&host);
    let filter = "%7B%22container%22%3A%5B%22".to_owned() + &id + "%22%5D%7D";
    events.send(&format!("GET /v1.51/events?filters={filter}"), &[], "");
    let head = events.head();
    assert!(
        head.contains("Content-Type: application/json\r\n"),
        "{head}"
    );
    let mut modern = Wire::new(&host);
    modern.send(&format!("GET /events?filters={filter}"), &[], "");
    assert!(
        modern
            .head()
            .contains("Content-Type: application/jsonl\r\n")
    );
    post(&host, &format!("/containers/{id}/start"), 204);
    let event = |wire: &mut Wire| {
        let text = wire.chunk();
        let line = text.lines().next().unwrap();
        serde_json::from_str::<Value>(line).unwrap()
    };
    let started = event(&mut events);
    assert_eq!(started["Action"], "start");
    assert_eq!(started["status"], "start");
    assert_eq!(started["from"], "busybox");
    assert_eq!(started["Actor"]["Attributes"]["who"], "me");
    let started = event(&mut modern);
    assert_eq!(
        (&started["Action"], started.get("status")),
        (&json!("start"), None)
    );

    let mut logs = Wire::new(&host);
    logs.send(
        &format!("GET /v1.47/containers/{id}/logs?stdout=1&follow=1"),
        &[],
        "",
    );
    let head = logs.head();
    assert!(
        head.contains("Content-Type: application/vnd.docker.multiplexed-stream\r\n"),
        "{head}"
    );
    assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
    assert_eq!(logs.chunk(), "\u{1}\0\0\0\0\0\0\u{3}hi\n");
    assert_eq!(logs.chunk(), "", "the log ends with the container");
}

#[test]
fn privileged_progress_is_chunked_and_its_lines_end_in_cr_lf() {
    let host = Host::new();
    let tar = crate::host::busybox_tar();
    let mut wire = Wire::new(&host);
    let head = format!(
        "POST /v1.47/images/create?fromSrc=-&repo=again&tag=1&changes=CMD+true HTTP/1.1\r\nHost: x\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
        tar.len()
    );
    wire.0.write_all(head.as_bytes()).unwrap();
    wire.0.write_all(&tar).unwrap();
    let head = wire.head();
    assert!(
        head.contains("Content-Type: application/json\r\n"),
        "{head}"
    );
    assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
    let line = wire.chunk();
    assert!(
        line.starts_with("{\"status\":\"sha256:") && line.ends_with("\"}\r\n"),
        "{line}"
    );
    let (status, _) = call(&host, "GET /v1.47/images/again:1/json", "");
    assert_eq!(status, 200);
}

#[test]
fn privileged_an_upload_that_breaks_off_makes_no_image() {
    let host = Host::empty();
    let tar = crate::host::busybox_tar();
    let mut wire = Wire::new(&host);
    let head = format!(
        "POST /v1.47/images/create?fromSrc=-&repo=half HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        tar.len()
    );
    wire.0.write_all(head.as_bytes()).unwrap();
    wire.0.write_all(&tar[..tar.len() / 2]).unwrap();
    drop(wire);
    let (status, body) = call(&host, "GET /v1.47/images/json", "");
    assert_eq!((status, body.as_str()), (200, "[]\n"));
}

#[test]
fn privileged_a_request_is_read_to_its_end_before_it_is_answered() {
    let host = Host::new();
    let mut wire = Wire::new(&host);
    for path in ["/images/absent/tag?repo=other", "/containers/absent/start"] {
        // As docker's push: the body, which nobody wants, comes a moment after the headers.
        let headers = "Host: x\r\nContent-Type: application/json\r\nContent-Length: 2";
        let head = format!("POST {path} HTTP/1.1\r\n{headers}\r\n\r\n");
        wire.0.write_all(head.as_bytes()).unwrap();
        let mut other = Wire::new(&host);
        other.send("GET /containers/json", &[], "");
        assert!(other.head().starts_with("HTTP/1.1 200"));
        wire.0.write_all(b"{}").unwrap();
        let head = wire.head();
        assert!(head.starts_with("HTTP/1.1 404"), "{head}");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "));
        wire.exactly(length.unwrap().trim().parse().unwrap());
    }
    // The connection lives on.
    wire.send("GET /_ping", &[], "");
    assert!(wire.head().starts_with("HTTP/1.1 200"));
}

#[test]
fn privileged_names_take_any_case_and_forms_count_as_queries() {
    let host = Host::new();
    let (status, body) = call(
        &host,
        "POST /v1.47/containers/create?name=cased",
        r#"{"image":"busybox","cmd":["true"],"hostconfig":{"networkmode":"none"}}"#,
    );
    assert_eq!(status, 201, "{body}");
    let mut wire = Wire::new(&host);
    let form = "name=renamed";
    let request = format!(
        "POST /v1.47/containers/cased/rename HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    wire.0.write_all(request.as_bytes()).unwrap();
    assert!(wire.head().starts_with("HTTP/1.1 204 "));
    let (_, body) = call(&host, "GET /v1.47/containers/renamed/json", "");
    let shown: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(shown["Name"], "/renamed");
    assert_eq!(shown["HostConfig"]["NetworkMode"], "none");
}

/// A message of a client: masked, as the RFC demands.
fn masked(kind: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let mut bytes = vec![0x80 | kind, 0x80 | u8::try_from(payload.len()).unwrap()];
    bytes.extend_from_slice(&MASK);
    let mask = MASK.iter().cycle();
    bytes.extend(payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    bytes
}

#[test]
fn privileged_a_websocket_carries_input_and_output() {
    const BINARY: u8 = 2;
    const CLOSE: u8 = 8;
    const PING: u8 = 9;
    const PONG: u8 = 10;
    let host = Host::new();
    let id = created(
        &host,
        &json!({"Image": "busybox", "Cmd": ["cat"], "OpenStdin": true, "StdinOnce": true}),
    );
    post(&host, &format!("/containers/{id}/start"), 204);
    let path = format!("GET /containers/{id}/attach/ws?stream=1&stdin=1&stdout=1");
    let (status, text) = call(&host, &path, "");
    assert_eq!(status, 400, "{text}");

    let mut wire = Wire::new(&host);
    let upgrade = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    wire.send(&path, &upgrade, "");
    let head = wire.head().to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(
        head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
    let mut to = UnixStream::try_clone(&wire.0).unwrap();
    let mut message = || {
        let head = wire.exactly(2);
        let payload = wire.exactly(usize::from(head[1]));
        (head[0] & 0x0f, payload)
    };
    to.write_all(&masked(BINARY, b"said\n")).unwrap();
    assert_eq!(message(), (BINARY, b"said\n".to_vec()));
    to.write_all(&masked(PING, b"there?")).unwrap();
    assert_eq!(message(), (PONG, b"there?".to_vec()));
    // Goodbye ends stdin, and with it `cat`.
    to.write_all(&masked(CLOSE, &1000_u16.to_be_bytes()))
        .unwrap();
    assert_eq!(message(), (CLOSE, 1000_u16.to_be_bytes().to_vec()));
    let (_, waited) = call(&host, &format!("POST /containers/{id}/wait"), "");
    assert!(waited.contains("\"StatusCode\":0"), "{waited}");
}
