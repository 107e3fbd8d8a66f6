//! Logs that go on to a sink elsewhere, and what a sink that is away or slow does to whom.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};

use engine::containers::WaitCondition;
use vocab::failure::chain;

use crate::place::{LONG, Place};

/// A sink that a test reads when it wants to.
struct Sink {
    listener: TcpListener,
}

impl Sink {
    fn new() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        // What is on its way fills up soon.
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 4096).unwrap();
        Self { listener }
    }

    fn address(&self) -> String {
        format!("tcp://{}", self.listener.local_addr().unwrap())
    }

    /// What comes, over however many connections, until `last`; without syslog's head.
    async fn lines_to(&self, last: &str) -> Vec<String> {
        let (listener, last) = (self.listener.try_clone().unwrap(), last.to_owned());
        let reading = tasks::blocking(move || {
            let mut lines = Vec::new();
            loop {
                let (connection, _): (TcpStream, _) = listener.accept().unwrap();
                for line in BufReader::new(connection).lines() {
                    let line = line.unwrap();
                    let (_, text) = line.split_once("]: ").unwrap();
                    lines.push(text.to_owned());
                    if text == last {
                        return lines;
                    }
                }
            }
        });
        tokio::time::timeout(LONG, reading).await.unwrap()
    }
}

async fn create(place: &Place, name: &str, script: &str, options: &[(&str, &str)]) {
    place
        .create_as(name, &["sh", "-c", script], |_, host| {
            host.log_config.kind = "syslog".to_owned();
            let options = options.iter();
            let options = options.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            host.log_config.config = Some(options.collect());
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_every_line_is_delivered_also_those_of_the_time_without_an_engine() {
    let mut place = Place::new().await;
    let sink = Sink::new();
    let script = "echo first; while [ ! -e /go ]; do sleep 0.02; done; \
                  for i in $(seq 1 100); do echo line $i; done; echo last";
    create(
        &place,
        "told",
        script,
        &[("syslog-address", &sink.address())],
    )
    .await;
    place.start("told").await;
    assert_eq!(sink.lines_to("first").await, ["first"]);
    // It goes on, and ends, while nobody is there.
    let inspected = place.engine().inspect("told", false).await.unwrap();
    let root = format!("/proc/{}/root", inspected.state.pid);
    place.drop_engine().await;
    std::fs::write(format!("{root}/go"), "").unwrap();
    testkit::eventually(LONG, || !std::path::Path::new(&root).exists());
    place.reopen().await;
    let lines = sink.lines_to("last").await;
    let numbered: Vec<String> = (1..=100).map(|number| format!("line {number}")).collect();
    assert_eq!(lines[lines.len() - 101..lines.len() - 1], numbered);
    let logged = place.logged("told").await;
    assert_eq!(
        logged,
        format!("first\n{}\nlast\n", numbered.join("\n")),
        "read here, too"
    );
    place.remove("told").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_removal_waits_for_the_rest_to_be_delivered() {
    let place = Place::new().await;
    let sink = Sink::new();
    let script = "seq 1 20000; echo last";
    create(
        &place,
        "brief",
        script,
        &[("syslog-address", &sink.address())],
    )
    .await;
    place.run("brief").await;
    let (lines, ()) = tokio::join!(sink.lines_to("last"), place.remove("brief"));
    assert_eq!(lines.len(), 20_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_sink_that_is_not_there_fails_the_start() {
    let place = Place::new().await;
    let sink = Sink::new();
    let address = sink.address();
    drop(sink);
    create(&place, "alone", "true", &[("syslog-address", &address)]).await;
    let error = chain(&place.engine().start("alone").await.unwrap_err());
    let host = address.trim_start_matches("tcp://");
    let wanted = format!(
        "failed to create task for container: failed to initialize logging driver: dial tcp {host}: "
    );
    assert!(error.starts_with(&wanted), "{error}");
    place.remove("alone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_sink_that_does_not_read_holds_up_only_who_wants_to_wait() {
    let place = Place::new().await;
    let (slow, dropping) = (Sink::new(), Sink::new());
    let script = "yes 0123456789012345678901234567890123456789 | head -c 8200000; echo last";
    let small = [("cache-max-size", "500k"), ("cache-max-file", "2")];
    let address = slow.address();
    let options = [small.as_slice(), &[("syslog-address", &address)]].concat();
    create(&place, "waits", script, &options).await;
    let address = dropping.address();
    let mode = [("mode", "non-blocking"), ("max-buffer-size", "100k")];
    let options = [small.as_slice(), &mode, &[("syslog-address", &address)]].concat();
    create(&place, "drops", script, &options).await;
    place.start("waits").await;
    // Comes to its end though nobody reads what it says.
    assert_eq!(place.run("drops").await.code, 0);
    let lines = dropping.lines_to("last").await;
    assert!(lines.len() < 200_001, "{}", lines.len());
    let told = |line: &&String| line.starts_with("berth: ") && line.contains("were dropped");
    let dropped: usize = lines
        .iter()
        .filter(told)
        .map(|line| line.split(' ').nth(1).unwrap().parse::<usize>().unwrap())
        .sum();
    let notes = lines.iter().filter(told).count();
    assert_eq!(
        lines.len() - notes + dropped,
        200_001,
        "each is sent or counted"
    );
    // The other one waits for its reader, and loses nothing.
    let engine = place.engine();
    let end = engine
        .wait("waits", WaitCondition::NotRunning)
        .await
        .unwrap();
    assert!(engine.inspect("waits", false).await.unwrap().state.pid > 0);
    let (lines, end) = tokio::join!(slow.lines_to("last"), end.outcome());
    assert_eq!((lines.len(), end.code), (200_001, 0));
}
