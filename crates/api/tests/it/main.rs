//! The client against a peer that says, byte for byte, what Docker's daemon says.

#![expect(
    clippy::unwrap_used,
    reason = "tests panic; the line is what they tell"
)]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use api::client::{Address, CallError, Client};
use api::types::{Event, Identified};
use api::version::NEWEST;
use api::{Filters, Version};
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A peer on a unix socket that does what a script says with each connection in turn.
struct Peer {
    directory: tempfile::TempDir,
    thread: JoinHandle<()>,
}

impl Peer {
    fn new(script: impl FnOnce(&UnixListener) + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let thread = std::thread::spawn(move || script(&listener));
        Self { directory, thread }
    }

    fn host(&self) -> String {
        format!("unix://{}/s", self.directory.path().display())
    }

    fn client(&self) -> Client {
        let address: Address = self.host().parse().unwrap();
        Client::new(address, Version::new(1, 47))
    }

    fn finish(self) {
        self.thread.join().unwrap();
    }
}

/// Reads the head of a request, and its body if it says how long that is.
fn request(socket: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&text).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    socket.read_exact(&mut body).unwrap();
    text.extend(body);
    String::from_utf8(text).unwrap()
}

fn accept(listener: &UnixListener) -> UnixStream {
    listener.accept().unwrap().0
}

#[tokio::test]
async fn the_version_of_an_older_daemon_is_spoken() {
    let peer = Peer::new(|listener| {
        let mut socket = accept(listener);
        assert!(request(&mut socket).starts_with("HEAD /_ping HTTP/1.1\r\n"));
        let answer = "HTTP/1.1 200 OK\r\nApi-Version: 1.43\r\nContent-Length: 0\r\n\r\n";
        socket.write_all(answer.as_bytes()).unwrap();
        let mut socket = accept(listener);
        assert!(request(&mut socket).starts_with("GET /v1.43/info?filters="));
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}\n";
        socket.write_all(answer.as_bytes()).unwrap();
    });
    let client = Client::connect(&peer.host()).await.unwrap();
    assert_eq!(client.version(), Version::new(1, 43));
    let mut filters = Filters::new();
    filters.add("label", "a=b");
    let info: serde_json::Value = client.get("/info").filters(&filters).read().await.unwrap();
    assert_eq!(info, serde_json::json!({}));
    peer.finish();
}

#[tokio::test]
async fn a_daemon_that_knows_only_get_is_asked_again() {
    let peer = Peer::new(|listener| {
        let mut socket = accept(listener);
        request(&mut socket);
        socket
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let mut socket = accept(listener);
        assert!(request(&mut socket).starts_with("GET /_ping"));
        socket
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
            .unwrap();
    });
    let client = Client::connect(&peer.host()).await.unwrap();
    assert_eq!(client.version(), api::version::OLDEST);
    peer.finish();
}

#[tokio::test]
async fn a_refusal_carries_the_daemons_words() {
    let peer = Peer::new(|listener| {
        for body in [r#"{"message":"No such container: x"}"#, "plain words\n", ""] {
            let mut socket = accept(listener);
            request(&mut socket);
            write!(
                socket,
                "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
        }
    });
    for words in ["No such container: x", "plain words", "404 Not Found"] {
        let error = peer
            .client()
            .delete("/containers/x")
            .done()
            .await
            .unwrap_err();
        assert_eq!(error.status(), Some(StatusCode::NOT_FOUND));
        assert_eq!(error.to_string(), words);
    }
    peer.finish();
}

#[tokio::test]
async fn nobody_listening_is_told_with_the_address() {
    let client = Client::new("unix:///nonexistent/berth.sock".parse().unwrap(), NEWEST);
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, CallError::Connect { .. }), "{error}");
    assert!(error.to_string().contains("unix:///nonexistent/berth.sock"));
}

#[tokio::test]
async fn a_body_goes_out_as_json_or_piece_by_piece() {
    let peer = Peer::new(|listener| {
        let mut socket = accept(listener);
        let text = request(&mut socket);
        assert!(
            text.contains("content-type: application/json\r\n"),
            "{text}"
        );
        assert!(text.ends_with("{\"Id\":\"i\"}"), "{text}");
        socket
            .write_all(b"HTTP/1.1 304 Not Modified\r\n\r\n")
            .unwrap();
        let mut socket = accept(listener);
        assert!(request(&mut socket).contains("transfer-encoding: chunked\r\n"));
        let wanted = b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        let mut body = [0; 18];
        socket.read_exact(&mut body).unwrap();
        assert_eq!(&body, wanted);
        socket
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
    });
    let id = Identified { id: "i".to_owned() };
    let status = peer.client().post("/x").json(&id).done().await.unwrap();
    assert_eq!(status, StatusCode::NOT_MODIFIED);
    let pieces = ["ab", "c"].map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
    let client = peer.client();
    let load = client.post("/images/load");
    load.body("application/x-tar", stream::iter(pieces))
        .done()
        .await
        .unwrap();
    peer.finish();
}

#[tokio::test]
async fn documents_come_one_by_one_however_they_are_cut() {
    let peer = Peer::new(|listener| {
        let mut socket = accept(listener);
        request(&mut socket);
        socket
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .unwrap();
        for piece in [
            "{\"Action\":\"a",
            "\"}\r\n{\"Action\":null}\n\x1e{\"Acti",
            "on\":\"c\"}",
        ] {
            write!(socket, "{:x}\r\n{piece}\r\n", piece.len()).unwrap();
        }
        socket.write_all(b"0\r\n\r\n").unwrap();
    });
    let answer = peer.client().get("/events").send().await.unwrap();
    let mut documents = answer.documents::<Event>();
    let mut actions = Vec::new();
    while let Some(event) = documents.next().await {
        actions.push(event.unwrap().action);
    }
    assert_eq!(actions, ["a", "", "c"]);
    peer.finish();
}

#[tokio::test]
async fn a_document_that_breaks_off_is_an_error() {
    let peer = Peer::new(|listener| {
        let mut socket = accept(listener);
        request(&mut socket);
        socket
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"Action\"")
            .unwrap();
    });
    let answer = peer.client().get("/events").send().await.unwrap();
    assert!(answer.documents::<Event>().next().await.unwrap().is_err());
    peer.finish();
}

#[tokio::test]
async fn a_connection_is_taken_over_and_half_closed() {
    let peer = Peer::new(|listener| {
        let mut socket = accept(listener);
        let text = request(&mut socket).to_lowercase();
        assert!(
            text.contains("connection: upgrade\r\n") && text.contains("upgrade: tcp\r\n"),
            "{text}"
        );
        // The first output comes together with the headers; nothing of it may be lost.
        let answer = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n\
                      Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly ";
        socket.write_all(answer.as_bytes()).unwrap();
        let mut input = String::new();
        socket.read_to_string(&mut input).unwrap();
        write!(socket, "got {input}").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
    });
    let mut taken = peer
        .client()
        .post("/containers/x/attach")
        .hijack()
        .await
        .unwrap();
    assert_eq!(taken.media_type, api::stream::RAW);
    taken.input.write_all(b"stdin").await.unwrap();
    taken.input.close().await.unwrap();
    let mut output = String::new();
    taken.output.read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "early got stdin");
    peer.finish();
}

#[tokio::test]
async fn a_refused_upgrade_is_a_refusal() {
    let peer = Peer::new(|listener| {
        let mut socket = accept(listener);
        request(&mut socket);
        let body = r#"{"message":"container x is not running"}"#;
        write!(
            socket,
            "HTTP/1.1 409 Conflict\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut socket = accept(listener);
        request(&mut socket);
        socket
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
    });
    let attach = || async {
        peer.client()
            .post("/exec/x/start")
            .hijack()
            .await
            .err()
            .unwrap()
    };
    assert_eq!(attach().await.to_string(), "container x is not running");
    assert_eq!(
        attach().await.to_string(),
        "unable to upgrade to tcp, received 200 OK"
    );
    peer.finish();
}
