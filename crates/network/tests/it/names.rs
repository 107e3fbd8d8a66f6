//! Containers ask for names, and a name server on the LAN is asked for what is not theirs.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use network::dns::{ADDRESS, Asking};
use network::{Bridge, Config, Networks};

use crate::lab::{Container, LAN, Lab, PATIENCE, bridge, inside, lan, on_a_host, wanted};

/// A name server on the LAN: it knows every name below `example.`, refuses none, counts.
struct NameServer {
    asked: Arc<AtomicUsize>,
}

/// The address of every name that the server knows.
const KNOWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

impl NameServer {
    fn start(netns: &OwnedFd) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let (datagrams, connections) = inside(netns, || {
            (
                UdpSocket::bind((LAN, 53)).unwrap(),
                TcpListener::bind((LAN, 53)).unwrap(),
            )
        });
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            let mut query = [0; 4096];
            while let Ok((length, from)) = datagrams.recv_from(&mut query) {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = datagrams.send_to(&answer(&query[..length], true), from);
            }
        });
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            while let Ok((mut stream, _)) = connections.accept() {
                count.fetch_add(1, Ordering::SeqCst);
                let mut query = vec![0; usize::from(read_length(&mut stream))];
                stream.read_exact(&mut query).unwrap();
                let answer = answer(&query, false);
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length[..], &answer].concat()).unwrap();
            }
        });
        Self { asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn read_length(stream: &mut TcpStream) -> u16 {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    u16::from_be_bytes(length)
}

/// `long.example.` does not fit into a datagram.
fn answer(query: &[u8], datagram: bool) -> Vec<u8> {
    let query = Message::from_vec(query).unwrap();
    let name = query.queries[0].name().clone();
    let text = name.to_ascii();
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.queries.clone_from(&query.queries);
    if !text.ends_with("example.") {
        reply.metadata.response_code = ResponseCode::NXDomain;
    } else if text == "long.example." && datagram {
        reply.metadata.truncation = true;
    } else {
        let record = Record::from_rdata(name, 300, RData::A(A(KNOWN)));
        reply.answers = vec![record; if text == "long.example." { 200 } else { 1 }];
    }
    reply.to_vec().unwrap()
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut query = Message::new(4711, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    query.to_vec().unwrap()
}

/// Asks from inside a container, by UDP.
fn ask(container: &Container, name: &str, kind: RecordType) -> Message {
    let socket = inside(&container.netns, || {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
    });
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // Connected: an answer from any other address or port is not taken.
    socket.connect((ADDRESS, 53)).unwrap();
    socket.send(&question(name, kind)).unwrap();
    let mut reply = [0; 4096];
    let length = socket.recv(&mut reply).unwrap();
    let reply = Message::from_vec(&reply[..length]).unwrap();
    assert_eq!(reply.metadata.id, 4711);
    reply
}

fn ask_by_tcp(container: &Container, name: &str) -> Message {
    inside(&container.netns, || {
        let mut stream = TcpStream::connect((ADDRESS, 53)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let query = question(name, RecordType::A);
        let length = u16::try_from(query.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &query].concat()).unwrap();
        let mut reply = vec![0; usize::from(read_length(&mut stream))];
        stream.read_exact(&mut reply).unwrap();
        Message::from_vec(&reply).unwrap()
    })
}

fn addresses(reply: &Message) -> Vec<String> {
    reply
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

async fn called(lab: &Lab, bridge: &Bridge, names: &[&str]) -> Container {
    let netns = lab.networks.open_sandbox().await.unwrap();
    let mut wanted = wanted(bridge, &[]);
    wanted.names = names.iter().map(|&name| name.to_owned()).collect();
    let container = wanted.container;
    let endpoint = lab.networks.attach(netns.as_fd(), wanted).await.unwrap();
    let asking = Asking::default();
    lab.networks
        .hear(container, netns.as_fd(), asking, true)
        .await
        .unwrap();
    Container { netns, endpoint }
}

/// A lab whose host asks the name server on its LAN, and the file that says so.
async fn lab(host: &str) -> (Lab, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), host).unwrap();
    let config = Config {
        resolv_conf: file.path().to_owned(),
        ..Config::new("")
    };
    let networks = Networks::open(config).unwrap();
    let bridge = bridge("berth0", "172.17.0.0/16");
    networks.ensure_bridge(&bridge).await.unwrap();
    let lan = lan(&networks).await;
    let lab = Lab {
        networks,
        bridge,
        lan,
    };
    (lab, file)
}

/// Runs blocking work while the lab's runtime goes on answering.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tasks::blocking(work).await
}

async fn asked(container: &Arc<Container>, name: &'static str, kind: RecordType) -> Message {
    let container = Arc::clone(container);
    apart(move || ask(&container, name, kind)).await
}

#[test]
fn privileged_a_container_asks_the_daemon_for_names_at_port_53() {
    on_a_host(async || {
        let (lab, _file) = lab("").await;
        let one = Arc::new(called(&lab, &lab.bridge, &["one", "svc"]).await);
        let two = called(&lab, &lab.bridge, &["two", "svc"]).await;
        let found = asked(&one, "two.", RecordType::A).await;
        assert_eq!(addresses(&found), ["172.17.0.3"]);
        let mut both = addresses(&asked(&one, "SVC.", RecordType::A).await);
        both.sort();
        assert_eq!(both, ["172.17.0.2", "172.17.0.3"]);
        let empty = asked(&one, "two.", RecordType::AAAA).await;
        assert_eq!(empty.metadata.response_code, ResponseCode::NoError);
        assert!(empty.answers.is_empty());
        let named = asked(&one, "3.0.17.172.in-addr.arpa.", RecordType::PTR).await;
        assert_eq!(addresses(&named), ["two.berth0."]);
        let inner = Arc::clone(&one);
        let by_tcp = apart(move || ask_by_tcp(&inner, "two.")).await;
        assert_eq!(addresses(&by_tcp), ["172.17.0.3"]);

        // Its own programs may have port 53.
        let own = inside(&one.netns, || {
            (
                UdpSocket::bind("0.0.0.0:53").unwrap(),
                TcpListener::bind("0.0.0.0:53").unwrap(),
            )
        });
        let found = asked(&one, "two.", RecordType::A).await;
        assert_eq!(addresses(&found), ["172.17.0.3"]);
        drop(own);

        // Whoever leaves is not found, and heard no more.
        lab.networks.ignore(&two.endpoint.container);
        lab.networks.detach(&two.endpoint).await.unwrap();
        let gone = asked(&one, "svc.", RecordType::A).await;
        assert_eq!(addresses(&gone), ["172.17.0.2"]);
        // A daemon that comes later opens its own sockets.
        let asking = Asking::default();
        let container = one.endpoint.container;
        lab.networks
            .hear(container, one.netns.as_fd(), asking, false)
            .await
            .unwrap();
        let found = asked(&one, "one.", RecordType::A).await;
        assert_eq!(addresses(&found), ["172.17.0.2"]);
    });
}

#[test]
fn privileged_what_is_not_ours_is_asked_outside_and_kept() {
    on_a_host(async || {
        let (lab, file) = lab(&format!("nameserver {LAN}\n")).await;
        let server = NameServer::start(&lab.lan);
        let one = Arc::new(called(&lab, &lab.bridge, &["one"]).await);
        for _ in 0..3 {
            let found = asked(&one, "www.example.", RecordType::A).await;
            assert_eq!(addresses(&found), [KNOWN.to_string()]);
        }
        assert_eq!(server.asked(), 1);
        let none = asked(&one, "nobody.invalid.", RecordType::A).await;
        assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);

        // What is too long for a datagram says so, and comes whole by TCP.
        let cut = asked(&one, "long.example.", RecordType::A).await;
        assert!(cut.metadata.truncation);
        let inner = Arc::clone(&one);
        let whole = apart(move || ask_by_tcp(&inner, "long.example.")).await;
        assert_eq!(whole.answers.len(), 200);

        // What is ours is never asked outside, whatever its type.
        let before = server.asked();
        asked(&one, "one.", RecordType::MX).await;
        assert_eq!(server.asked(), before);

        // The host's file is looked at again when it has changed.
        std::fs::write(file.path(), "").unwrap();
        let failed = asked(&one, "other.example.", RecordType::A).await;
        assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
        std::fs::write(file.path(), format!("nameserver {LAN}\n")).unwrap();
        let found = asked(&one, "other.example.", RecordType::A).await;
        assert_eq!(addresses(&found), [KNOWN.to_string()]);
    });
}

#[test]
fn privileged_an_internal_network_never_asks_outside() {
    on_a_host(async || {
        let (lab, _file) = lab(&format!("nameserver {LAN}\n")).await;
        let server = NameServer::start(&lab.lan);
        let inner = Bridge {
            internal: true,
            ..bridge("br-inner", "172.18.0.0/16")
        };
        lab.networks.ensure_bridge(&inner).await.unwrap();
        let one = Arc::new(called(&lab, &inner, &["one"]).await);
        let refused = asked(&one, "www.example.", RecordType::A).await;
        assert_eq!(refused.metadata.response_code, ResponseCode::NXDomain);
        let found = asked(&one, "one.", RecordType::A).await;
        assert_eq!(
            addresses(&found),
            [IpAddr::from([172, 18, 0, 2]).to_string()]
        );
        assert_eq!(server.asked(), 0);
    });
}

#[test]
fn privileged_the_next_server_is_asked_where_one_is_not_there() {
    on_a_host(async || {
        let (lab, _file) = lab(&format!("nameserver 127.0.0.1\nnameserver {LAN}\n")).await;
        let _server = NameServer::start(&lab.lan);
        let one = Arc::new(called(&lab, &lab.bridge, &["one"]).await);
        // Nobody listens on the host's loopback, which refuses at once.
        let found = asked(&one, "www.example.", RecordType::A).await;
        assert_eq!(addresses(&found), [KNOWN.to_string()]);
    });
}
