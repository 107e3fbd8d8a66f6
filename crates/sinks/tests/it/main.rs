//! Lines arrive where they were sent: at rsyslog, at systemd's journal, and at receivers that take
//! GELF and fluentd's MessagePack apart with libraries of their own.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests panic, and start the programs that they need"
)]

mod receivers;

use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use sinks::{Line, Options, Origin, Part, Sink, Target};

use receivers::{Journal, Receiver, Rsyslog};

fn options(pairs: &[(&str, &str)]) -> Options {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn sink(driver: &str, pairs: &[(&str, &str)]) -> Sink {
    let origin = Origin {
        id: "0123456789abcdef".repeat(4),
        name: "web".to_owned(),
        image_id: "sha256:0".to_owned(),
        image_name: "nginx:1".to_owned(),
        command: "sh -c x".to_owned(),
        created: "2023-12-02T06:53:20Z".to_owned(),
        host: "there".to_owned(),
        tag: "tag".to_owned(),
        attributes: [("a.b".to_owned(), "c".to_owned())].into(),
    };
    Sink::new(
        Target::parse(driver, &options(pairs)).unwrap().unwrap(),
        &origin,
    )
}

fn line(text: &[u8], stderr: bool) -> Line<'_> {
    Line {
        stderr,
        time: UNIX_EPOCH + Duration::new(1_701_500_000, 123_456_789),
        text,
        part: None,
    }
}

/// Two lines of each stream, and the parts of a long one.
async fn send(sink: &mut Sink) {
    sink.add(&line(b"one", false));
    sink.add(&line(b"two", true));
    sink.add(&Line {
        part: Some(Part {
            id: "p",
            ordinal: 1,
            last: false,
        }),
        ..line(&[b'x'; 9000], false)
    });
    sink.send().await.unwrap();
}

#[tokio::test]
async fn rsyslog_understands_every_format_over_every_transport() {
    let rsyslog = Rsyslog::start();
    for (format, transport, wanted) in [
        ("", "tcp", "142|tag|"),
        ("rfc3164", "udp", "142|tag|"),
        ("rfc5424", "tcp", "142|tag|2023-12-02T06:53:20Z"),
        ("rfc5424micro", "udp", "142|tag|2023-12-02T06:53:20.123456Z"),
    ] {
        let address = format!("{transport}://127.0.0.1:{}", rsyslog.port);
        let mut sink = sink(
            "syslog",
            &[
                ("syslog-address", &address),
                ("syslog-format", format),
                ("syslog-facility", "local1"),
            ],
        );
        let text = format!("marked {format}.{transport}");
        sink.add(&line(text.as_bytes(), false));
        sink.send().await.unwrap();
        let found = rsyslog.line_with(&text);
        // PRI | tag | time as it was sent, which only RFC 5424 tells whole | text
        assert!(found.starts_with(wanted), "{format} {transport}: {found}");
    }
}

#[tokio::test]
async fn a_stream_that_was_cut_is_taken_up_again() {
    let mut rsyslog = Rsyslog::start();
    let address = format!("tcp://127.0.0.1:{}", rsyslog.port);
    let mut sink = sink("syslog", &[("syslog-address", &address)]);
    sink.add(&line(b"before", false));
    sink.send().await.unwrap();
    rsyslog.line_with("before");
    rsyslog.stop();
    sink.add(&line(b"after", false));
    testkit::eventually(Duration::from_secs(30), || {
        std::net::TcpStream::connect(("127.0.0.1", rsyslog.port)).is_err()
    });
    assert!(sink.send().await.is_err(), "nobody is there");
    rsyslog.start_again();
    sink.send().await.unwrap();
    rsyslog.line_with("after");
}

#[tokio::test]
async fn privileged_the_journal_has_the_fields_that_docker_writes() {
    let journal = Journal::start();
    let mut sink = sink("journald", &[]).with_journal(&journal.socket());
    send(&mut sink).await;
    let entries = journal.entries(3);
    let field = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let wanted = [
        ("MESSAGE", "one"),
        ("PRIORITY", "6"),
        ("CONTAINER_ID", "0123456789ab"),
        ("CONTAINER_NAME", "web"),
        ("CONTAINER_TAG", "tag"),
        ("IMAGE_NAME", "nginx:1"),
        ("SYSLOG_IDENTIFIER", "tag"),
        ("A_B", "c"),
    ];
    for (key, value) in wanted {
        assert_eq!(field(&entries[0], key), value, "{key}");
    }
    assert_eq!(field(&entries[1], "PRIORITY"), "3");
    assert_eq!(field(&entries[2], "CONTAINER_PARTIAL_MESSAGE"), "true");
    assert_eq!(field(&entries[2], "CONTAINER_PARTIAL_ORDINAL"), "1");
}

fn check_gelf(messages: &[Value]) {
    assert_eq!(messages[0]["version"], "1.1");
    assert_eq!(messages[0]["host"], "there");
    assert_eq!(messages[0]["short_message"], "one");
    assert_eq!(messages[0]["level"], 6);
    assert_eq!(messages[0]["timestamp"], 1_701_500_000.123);
    assert_eq!(messages[0]["_container_name"], "web");
    assert_eq!(messages[0]["_a.b"], "c");
    assert_eq!(messages[1]["level"], 3);
    assert_eq!(messages[2]["short_message"].as_str().unwrap().len(), 9000);
}

#[tokio::test]
async fn gelf_arrives_compressed_chunked_and_over_tcp() {
    for kind in ["gzip", "zlib", "none"] {
        let receiver = Receiver::start("gelf-udp");
        let mut sink = sink(
            "gelf",
            &[
                ("gelf-address", &receiver.address("udp")),
                ("gelf-compression-type", kind),
            ],
        );
        send(&mut sink).await;
        check_gelf(&receiver.messages(3));
    }
    let receiver = Receiver::start("gelf-tcp");
    let mut sink = sink("gelf", &[("gelf-address", &receiver.address("tcp"))]);
    send(&mut sink).await;
    check_gelf(&receiver.messages(3));
}

#[tokio::test]
async fn fluentd_gets_records_and_acknowledges_them() {
    for (precise, acknowledged) in [("false", "false"), ("true", "true")] {
        let receiver = Receiver::start("fluentd");
        let mut sink = sink(
            "fluentd",
            &[
                ("fluentd-address", &receiver.address("tcp")),
                ("fluentd-sub-second-precision", precise),
                ("fluentd-request-ack", acknowledged),
            ],
        );
        send(&mut sink).await;
        let messages = receiver.messages(3);
        assert_eq!(messages[0]["tag"], "tag");
        let nanos = if precise == "true" { 123_456_789 } else { 0 };
        assert_eq!(
            messages[0]["time"],
            serde_json::json!([1_701_500_000, nanos])
        );
        let record = &messages[0]["record"];
        assert_eq!(record["log"], "one");
        assert_eq!(record["source"], "stdout");
        assert_eq!(record["container_name"], "/web");
        assert_eq!(record["a.b"], "c");
        assert_eq!(messages[1]["record"]["source"], "stderr");
        let part = &messages[2]["record"];
        assert_eq!(part["partial_message"], "true");
        assert_eq!(part["partial_id"], "p");
        assert_eq!(part["partial_last"], "false");
    }
}
