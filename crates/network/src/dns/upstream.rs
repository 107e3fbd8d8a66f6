//! What is asked of others, and for how long an answer is kept.
//!
//! A query goes on as it came, from a socket of its own in the container's namespace and with a
//! number of its own; its reply comes back as it is. Name servers on the host's loopback, such as
//! systemd-resolved's stub with its split DNS, are asked from the host's namespace: only those that
//! the host itself is set up with, never one that a container names.
//!
//! Answers are kept for each container by itself: what a name server of one network says, or who
//! stands in its place there, is nothing to others.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::answer;
use crate::{files, sandbox};

/// Port of name servers.
const PORT: u16 = 53;
/// Servers that are asked at most (`resolv.conf(5)`).
const SERVERS: usize = 3;
/// How often all of them are asked, and how long one is waited for.
const ROUNDS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(2);
/// Largest reply by UDP that is taken; a larger one is told to be cut off.
const DATAGRAM_BYTES: usize = 4096;
/// Answers kept for one container.
const KEPT: usize = 128;
/// Longest that an answer, or that there is none, is kept.
const KEEP: u32 = 600;
const KEEP_NONE: u32 = 60;
/// The bit of a reply that says it is cut off.
const TRUNCATED: u8 = 0x02;

/// The host's name servers, looked at again whenever the file is another.
#[derive(Debug)]
pub(super) struct Host {
    path: PathBuf,
    known: Mutex<(Option<Stamp>, Vec<IpAddr>)>,
}

/// What tells one state of a file from another: device, inode, size, change in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl Host {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            known: Mutex::default(),
        }
    }

    /// The servers as the file has them now; those it had, while it cannot be read.
    fn servers(&self) -> Vec<IpAddr> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = fs::metadata(&self.path).ok().map(|file| {
            let (seconds, nanos) = (file.ctime(), file.ctime_nsec());
            (file.dev(), file.ino(), file.size(), seconds, nanos)
        });
        if stamp.is_some()
            && stamp != known.0
            && let Ok(text) = fs::read_to_string(&self.path)
        {
            *known = (stamp, files::name_servers(&text));
        }
        known.1.clone()
    }
}

/// Who a container's queries go on to.
#[derive(Clone, Debug)]
pub(super) enum Servers {
    /// Those that were asked for.
    Own(Vec<IpAddr>),
    /// The host's.
    Host(Arc<Host>),
}

/// One container's way to others.
#[derive(Debug)]
pub(super) struct Upstream {
    netns: Arc<OwnedFd>,
    servers: Servers,
    kept: Mutex<Kept>,
}

/// A socket that leads to one server.
enum Path {
    Datagram(UdpSocket, SocketAddr),
    Stream(TcpStream, SocketAddr),
}

impl Upstream {
    pub(super) fn new(netns: Arc<OwnedFd>, servers: Servers) -> Self {
        Self {
            netns,
            servers,
            kept: Mutex::default(),
        }
    }

    /// The reply to a query, within some seconds: at worst that nobody could be asked.
    pub(super) async fn reply(
        &self,
        query: &Message,
        bytes: &[u8],
        datagram: bool,
    ) -> Option<Vec<u8>> {
        let limit = answer::limit(query, datagram);
        if let Some(reply) = self.kept().find(query) {
            return answer::encode(reply, limit);
        }
        match self.ask(bytes, datagram).await {
            Some(reply) => {
                self.keep(query, &reply);
                Some(reply)
            }
            None => {
                let refusal = answer::respond(query, ResponseCode::ServFail, Vec::new());
                answer::encode(refusal, limit)
            }
        }
    }

    /// Asks the servers in turn. One that fails or refuses has no say while others are left.
    async fn ask(&self, query: &[u8], datagram: bool) -> Option<Vec<u8>> {
        let mut refused = None;
        for _ in 0..ROUNDS {
            for path in self.paths(datagram).await {
                let asked = tokio::time::timeout(PATIENCE, exchange(path, query));
                match asked.await {
                    Ok(Ok(reply)) if is_final(&reply) => return Some(reply),
                    Ok(Ok(reply)) => refused = Some(reply),
                    Ok(Err(error)) => tracing::debug!(%error, "a name server cannot be asked"),
                    Err(_) => tracing::debug!("a name server does not answer"),
                }
            }
            if refused.is_some() {
                break;
            }
        }
        refused
    }

    /// A socket for each server. Opening takes a thread that enters the namespace, once for all.
    async fn paths(&self, datagram: bool) -> Vec<Path> {
        let (netns, servers) = (Arc::clone(&self.netns), self.servers.clone());
        let (servers, paths) = tasks::blocking(move || {
            let (servers, trusted) = match servers {
                Servers::Own(servers) => (servers, false),
                Servers::Host(host) => (host.servers(), true),
            };
            let (here, there): (Vec<_>, Vec<_>) = servers
                .iter()
                .take(SERVERS)
                .map(|server| SocketAddr::new(*server, PORT))
                .partition(|server| trusted && server.ip().is_loopback());
            let mut paths = open_all(&here, datagram);
            if !there.is_empty() {
                let opened = sandbox::inside(netns.as_fd(), || Ok(open_all(&there, datagram)));
                paths.extend(opened.unwrap_or_default());
            }
            (servers, paths)
        })
        .await;
        self.kept().asked(&servers);
        paths
    }

    fn keep(&self, query: &Message, reply: &[u8]) {
        if let Ok(reply) = Message::from_vec(reply) {
            self.kept().keep(query, reply);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_all(servers: &[SocketAddr], datagram: bool) -> Vec<Path> {
    let open = |server: &SocketAddr| -> io::Result<Path> {
        let family = match server {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let kind = match datagram {
            true => SocketType::DGRAM,
            false => SocketType::STREAM,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, kind, flags, None)?;
        Ok(match datagram {
            true => Path::Datagram(socket.into(), *server),
            false => Path::Stream(socket.into(), *server),
        })
    };
    servers
        .iter()
        .filter_map(|server| open(server).ok())
        .collect()
}

/// Asks one server.
async fn exchange(path: Path, query: &[u8]) -> io::Result<Vec<u8>> {
    // A number of our own: it is what keeps others from guessing it.
    let number = u16::to_be_bytes(u16::try_from(getrandom::u32()? & 0xffff).unwrap_or_default());
    let mut asked = query.to_vec();
    let (Some(own), Some(theirs)) = (asked.first_chunk_mut::<2>(), query.first_chunk::<2>()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    *own = number;
    let fits = |reply: &[u8]| {
        reply.starts_with(&number)
            && reply.get(2).is_some_and(|flags| flags & 0x80 != 0)
            && same_question(reply, query)
    };
    let mut reply = match path {
        Path::Datagram(socket, server) => {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            socket.connect(server).await?;
            socket.send(&asked).await?;
            let mut reply = vec![0; DATAGRAM_BYTES];
            loop {
                let length = socket.recv(&mut reply).await?;
                if fits(&reply[..length]) {
                    if length == reply.len() {
                        reply[2] |= TRUNCATED;
                    }
                    reply.truncate(length);
                    break reply;
                }
            }
        }
        Path::Stream(socket, server) => {
            let socket = tokio::net::TcpSocket::from_std_stream(socket);
            let mut stream = socket.connect(server).await?;
            let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
            stream
                .write_all(&[&length.to_be_bytes()[..], &asked].concat())
                .await?;
            let length = stream.read_u16().await?;
            let mut reply = vec![0; usize::from(length)];
            stream.read_exact(&mut reply).await?;
            if !fits(&reply) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            reply
        }
    };
    reply[..2].copy_from_slice(theirs);
    Ok(reply)
}

/// What is told to who asks `query` again after a name server's `reply` to it, if that is taken and
/// kept: strangers' bytes on their way through everything that reads them.
pub fn retold(query: &[u8], reply: &[u8]) -> Option<Vec<u8>> {
    if !same_question(reply, query) || !is_final(reply) {
        return None;
    }
    let (query, reply) = (
        Message::from_vec(query).ok()?,
        Message::from_vec(reply).ok()?,
    );
    let mut kept = Kept::default();
    kept.keep(&query, reply);
    answer::encode(kept.find(&query)?, answer::limit(&query, true))
}

/// Whether a reply is about what was asked; who does not repeat the question says nothing.
fn same_question(reply: &[u8], query: &[u8]) -> bool {
    match (question(reply), question(query)) {
        (Some(reply), Some(query)) => reply.eq_ignore_ascii_case(query),
        _ => false,
    }
}

/// The bytes of a message's first question.
fn question(message: &[u8]) -> Option<&[u8]> {
    const HEADER: usize = 12;
    const TYPE_AND_CLASS: usize = 4;
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => return message.get(HEADER..at + 1 + TYPE_AND_CLASS),
            // A first question has nothing to point back to.
            length @ 1..=63 => at += 1 + length,
            _ => return None,
        }
    }
}

/// Whether a reply settles it: the name has this, or there is no such name.
fn is_final(reply: &[u8]) -> bool {
    let code = reply.get(3).map(|flags| flags & 0x0f);
    matches!(code, Some(0 | 3))
}

/// Answers that are kept, each until it is too old.
#[derive(Debug, Default)]
struct Kept {
    /// Who gave them.
    servers: Vec<IpAddr>,
    answers: HashMap<(String, RecordType), Answer>,
}

#[derive(Debug)]
struct Answer {
    code: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    since: Instant,
    seconds: u32,
}

impl Kept {
    /// Others are asked now: what those before said is forgotten.
    fn asked(&mut self, servers: &[IpAddr]) {
        if self.servers != servers {
            self.servers = servers.to_vec();
            self.answers.clear();
        }
    }

    fn find(&self, query: &Message) -> Option<Message> {
        let kept = self.answers.get(&key(query)?)?;
        let age = u32::try_from(kept.since.elapsed().as_secs()).unwrap_or(u32::MAX);
        if age >= kept.seconds {
            return None;
        }
        let aged = |records: &[Record]| -> Vec<Record> {
            let records = records.iter().cloned();
            records
                .map(|mut record| {
                    record.ttl = record.ttl.saturating_sub(age);
                    record
                })
                .collect()
        };
        let mut reply = answer::respond(query, kept.code, aged(&kept.answers));
        reply.authorities = aged(&kept.authorities);
        Some(reply)
    }

    fn keep(&mut self, query: &Message, reply: Message) {
        let Some(key) = key(query) else {
            return;
        };
        let Some(seconds) = lifetime(&reply).filter(|seconds| *seconds > 0) else {
            return;
        };
        if self.answers.len() >= KEPT && !self.answers.contains_key(&key) {
            let age = |kept: &Answer| kept.since.elapsed().as_secs() >= u64::from(kept.seconds);
            self.answers.retain(|_, kept| !age(kept));
            let oldest = self.answers.iter().min_by_key(|(_, kept)| kept.since);
            let oldest = oldest.map(|(key, _)| key.clone());
            if let Some(oldest) = oldest.filter(|_| self.answers.len() >= KEPT) {
                self.answers.remove(&oldest);
            }
        }
        let kept = Answer {
            code: reply.metadata.response_code,
            answers: reply.answers,
            authorities: reply.authorities,
            since: Instant::now(),
            seconds,
        };
        self.answers.insert(key, kept);
    }
}

/// What answers are kept under: only plain questions for addresses, which is nearly all that
/// programs ask again and again.
fn key(query: &Message) -> Option<(String, RecordType)> {
    let [question] = query.queries.as_slice() else {
        return None;
    };
    let plain = !query.metadata.checking_disabled
        && query.metadata.recursion_desired
        && query.metadata.message_type == MessageType::Query
        && query
            .edns
            .as_ref()
            .is_none_or(|edns| !edns.flags().dnssec_ok);
    let kind = question.query_type();
    let addresses = matches!(kind, RecordType::A | RecordType::AAAA);
    (plain && addresses).then(|| (question.name().to_lowercase().to_ascii(), kind))
}

/// Seconds that a reply may be kept; none where it says nothing about that.
fn lifetime(reply: &Message) -> Option<u32> {
    if reply.metadata.truncation {
        return None;
    }
    match reply.metadata.response_code {
        ResponseCode::NoError if !reply.answers.is_empty() => {
            let shortest = reply.answers.iter().map(|record| record.ttl).min();
            shortest.map(|seconds| seconds.min(KEEP))
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            // RFC 2308: the zone says for how long it has no such name.
            let zone = reply
                .authorities
                .iter()
                .find_map(|record| match &record.data {
                    RData::SOA(zone) => Some(record.ttl.min(zone.minimum)),
                    _ => None,
                });
            zone.map(|seconds| seconds.min(KEEP_NONE))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{OpCode, Query};
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::A;
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str) -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        query
    }

    fn answered(query: &Message, ttl: u32) -> Message {
        let name = query.queries[0].name().clone();
        let address = RData::A(A::new(192, 0, 2, 1));
        answer::respond(
            query,
            ResponseCode::NoError,
            vec![Record::from_rdata(name, ttl, address)],
        )
    }

    #[test]
    fn an_answer_is_kept_as_long_as_it_says_and_for_whoever_asks_the_same() {
        let mut kept = Kept::default();
        let asked = query("a.example.");
        kept.keep(&asked, answered(&asked, 100));
        let found = kept.find(&query("A.Example.")).unwrap();
        assert_eq!(found.answers.len(), 1);
        assert_eq!(found.queries[0].name().to_ascii(), "A.Example.");
        assert!(kept.find(&query("b.example.")).is_none());
        let none = query("none.example.");
        kept.keep(&none, answered(&none, 0));
        assert!(kept.find(&none).is_none());
        kept.asked(&[IpAddr::from([192, 0, 2, 53])]);
        assert!(kept.find(&asked).is_none());
    }

    #[test]
    fn only_so_many_answers_are_kept() {
        let mut kept = Kept::default();
        for number in 0..KEPT + 50 {
            let asked = query(&format!("n{number}.example."));
            kept.keep(&asked, answered(&asked, 100));
        }
        assert_eq!(kept.answers.len(), KEPT);
        assert!(kept.find(&query("n0.example.")).is_none());
        let last = format!("n{}.example.", KEPT + 49);
        assert!(kept.find(&query(&last)).is_some());
    }

    #[test]
    fn a_refusal_and_a_reply_that_is_cut_off_are_not_kept() {
        let asked = query("a.example.");
        let mut cut = answered(&asked, 100);
        cut.metadata.truncation = true;
        let failed = answer::respond(&asked, ResponseCode::ServFail, Vec::new());
        let unsaid = answer::respond(&asked, ResponseCode::NXDomain, Vec::new());
        for reply in [cut, failed, unsaid] {
            assert_eq!(lifetime(&reply), None);
        }
    }

    #[test]
    fn a_reply_to_another_question_is_none() {
        let (one, other) = (query("a.example."), query("b.example."));
        let reply = answered(&one, 1).to_vec().unwrap();
        assert!(same_question(&reply, &one.to_vec().unwrap()));
        assert!(!same_question(&reply, &other.to_vec().unwrap()));
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_question_or_none(bytes: Vec<u8>) {
            let _ = question(&bytes);
        }
    }
}
