//! A proxy on loopback before a real registry, which spoils what passes through it.
//!
//! It speaks plain HTTP/1.1, one request for each connection, and answers under its own address:
//! images named by [`FaultProxy::address`] come from and go to the registry behind it. What is done
//! to a request is decided by the test, which sees it together with how many like it came before.
//! Clients may also use it as the HTTP proxy that it is, with `CONNECT` too; wherever they want to
//! go, they get to the registry.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// What is done to one request and its answer. Offsets count bytes of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it passes.
    None,
    /// The registry never sees it; this comes back.
    Answer {
        /// The status.
        status: u16,
        /// Further headers.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: String,
    },
    /// The connection ends in the middle of the answer.
    CutAnswer(usize),
    /// The connection ends in the middle of the request.
    CutRequest(usize),
    /// The registry did it, and nobody hears of it.
    LoseAnswer,
    /// Nothing more comes, and the connection stays.
    StallAnswer(usize),
    /// Nothing more is taken, and the connection stays.
    StallRequest(usize),
    /// One bit of the answer is another.
    CorruptAnswer(usize),
    /// One bit of the request is another.
    CorruptRequest(usize),
    /// Two blocks of a thousand bytes of the answer, the first at this offset, change places.
    ReorderAnswer(usize),
    /// A header of the answer says something else, the length included.
    Header(&'static str, String),
}

impl Fault {
    /// An answer without much in it.
    pub fn status(status: u16) -> Self {
        Self::Answer {
            status,
            headers: Vec::new(),
            body: String::new(),
        }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// By names in lower case.
    pub headers: HashMap<String, String>,
    /// How many with the same method and path, without the query, came before.
    pub before: usize,
}

impl Asked {
    /// Whether it is about a blob of this digest, or the upload of any.
    pub fn is_blob(&self, digest: &vocab::Digest) -> bool {
        self.target.ends_with(&format!("/blobs/{digest}"))
    }

    /// Whether it carries bytes of a blob.
    pub fn is_upload(&self) -> bool {
        matches!(self.method.as_str(), "PATCH" | "PUT") && self.target.contains("/blobs/uploads/")
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

type Decide = dyn Fn(&Asked) -> Fault + Send + Sync;

/// The proxy, gone with its value.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    registry: String,
    decide: Box<Decide>,
    asked: Mutex<Vec<Asked>>,
    /// Whether the proxy's value is gone.
    over: Mutex<bool>,
    told: Condvar,
}

impl FaultProxy {
    /// Stands before the registry at `registry` (`127.0.0.1:port`).
    pub fn start(registry: &str, decide: impl Fn(&Asked) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            registry: registry.to_owned(),
            decide: Box::new(decide),
            asked: Mutex::default(),
            over: Mutex::new(false),
            told: Condvar::new(),
        });
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve_all(&listener, &serving));
        Self {
            address,
            shared,
            listener: Some(thread),
        }
    }

    /// `127.0.0.1:port`, which is also a domain of images.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// All requests so far, in the order in which they came.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many requests so far were such.
    pub fn count(&self, such: impl Fn(&Asked) -> bool) -> usize {
        self.asked().iter().filter(|asked| such(asked)).count()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        *self.shared.over.lock().unwrap() = true;
        self.shared.told.notify_all();
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.listener.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the proxy panicked");
        }
    }
}

fn serve_all(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    for stream in listener.incoming() {
        if *shared.over.lock().unwrap() {
            break;
        }
        let stream = stream.unwrap();
        let ours = stream.try_clone().unwrap();
        let shared = Arc::clone(shared);
        let thread = std::thread::spawn(move || {
            // A client that hangs up is its own business.
            let _ = serve(&stream, &shared);
            // Dropping is not enough: there is a second descriptor of it.
            let _ = stream.shutdown(Shutdown::Both);
        });
        connections.push((ours, thread));
    }
    for (stream, thread) in connections {
        // Who does not read on must not hold us up.
        let _ = stream.shutdown(Shutdown::Both);
        thread.join().unwrap();
    }
}

/// The first line and the headers of a request or an answer.
struct Head {
    line: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self {
            line: line.trim_end().to_owned(),
            headers,
        })
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        to.write_all(text.as_bytes())
    }
}

fn serve(client: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut first = [0];
    // Who speaks TLS is hung up on, as a server of plain HTTP does.
    if client.peek(&mut first)? == 0 || first[0] == 0x16 {
        return Ok(());
    }
    let mut reader = BufReader::new(client);
    let mut request = Head::read(&mut reader)?;
    let fault = (shared.decide)(&shared.note(&request));
    if let Fault::Answer {
        status,
        headers,
        body,
    } = fault
    {
        let mut head = Head {
            line: format!("HTTP/1.1 {status} Fault"),
            headers: vec![("content-length".to_owned(), body.len().to_string())],
        };
        for (name, value) in headers {
            head.set(&name.to_ascii_lowercase(), &value);
        }
        head.set("connection", "close");
        let mut client = client;
        head.write(&mut client)?;
        client.write_all(body.as_bytes())?;
        // What was on its way must not cost the client the answer.
        client.shutdown(Shutdown::Write)?;
        io::copy(&mut reader, &mut io::sink())?;
        return Ok(());
    }
    if request.line.starts_with("CONNECT ") {
        return tunnel(client, &shared.registry);
    }
    let body = request
        .get("content-length")
        .map_or(0, |n| n.parse().unwrap());
    request.set("connection", "close");
    let registry = TcpStream::connect(&shared.registry)?;
    request.write(&mut &registry)?;
    let spoilt = match fault {
        Fault::CutRequest(at) => Spoilt::cut(at),
        Fault::StallRequest(at) => Spoilt::stall(at),
        Fault::CorruptRequest(at) => Spoilt::corrupt(at),
        _ => Spoilt::default(),
    };
    if !spoilt.pass(&mut reader.by_ref().take(body), &mut &registry, shared)? {
        return Ok(());
    }
    let mut answers = BufReader::new(&registry);
    let mut answer = Head::read(&mut answers)?;
    answer.set("connection", "close");
    if let Fault::Header(name, value) = &fault {
        answer.set(&name.to_ascii_lowercase(), value);
    }
    if fault == Fault::LoseAnswer {
        return Ok(());
    }
    let mut client = client;
    answer.write(&mut client)?;
    let spoilt = match fault {
        Fault::CutAnswer(at) => Spoilt::cut(at),
        Fault::StallAnswer(at) => Spoilt::stall(at),
        Fault::CorruptAnswer(at) => Spoilt::corrupt(at),
        Fault::ReorderAnswer(at) => {
            let mut whole = Vec::new();
            answers.read_to_end(&mut whole)?;
            let (first, second) = (at..at + 1000, at + 1000..at + 2000);
            let moved = [&whole[second], &whole[first]].concat();
            whole[at..at + 2000].copy_from_slice(&moved);
            return client.write_all(&whole);
        }
        _ => Spoilt::default(),
    };
    spoilt.pass(&mut answers, &mut client, shared).map(drop)
}

/// Passes bytes both ways until both sides have ended.
fn tunnel(client: &TcpStream, registry: &str) -> io::Result<()> {
    let registry = TcpStream::connect(registry)?;
    let (mut to_client, mut to_registry) = (client, &registry);
    to_client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Who hangs up ends the other direction as well.
            let _ = io::copy(&mut { client }, &mut to_registry);
            let _ = registry.shutdown(Shutdown::Write);
        });
        let copied = io::copy(&mut { &registry }, &mut to_client);
        client.shutdown(Shutdown::Both)?;
        copied.map(drop)
    })
}

impl Shared {
    fn wait_for_the_end(&self) {
        let over = self.over.lock().unwrap();
        drop(self.told.wait_while(over, |over| !*over).unwrap());
    }

    fn note(&self, request: &Head) -> Asked {
        let mut words = request.line.split_whitespace();
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let mut asked = Asked {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: request.headers.iter().cloned().collect(),
            before: 0,
        };
        let mut all = self.asked.lock().unwrap();
        let same = |other: &&Asked| other.method == asked.method && other.path() == asked.path();
        asked.before = all.iter().filter(same).count();
        all.push(asked.clone());
        asked
    }
}

/// How a body is spoilt on its way.
#[derive(Default)]
struct Spoilt {
    cut: Option<usize>,
    stall: bool,
    corrupt: Option<usize>,
}

impl Spoilt {
    fn cut(at: usize) -> Self {
        Self {
            cut: Some(at),
            ..Self::default()
        }
    }

    fn stall(at: usize) -> Self {
        Self {
            stall: true,
            ..Self::cut(at)
        }
    }

    fn corrupt(at: usize) -> Self {
        Self {
            corrupt: Some(at),
            ..Self::default()
        }
    }

    /// Whether everything went through.
    fn pass(&self, from: &mut impl Read, to: &mut impl Write, shared: &Shared) -> io::Result<bool> {
        let mut piece = [0; 64 << 10];
        let mut at = 0;
        loop {
            let most = self
                .cut
                .map_or(piece.len(), |cut| piece.len().min(cut - at));
            if most == 0 {
                if self.stall {
                    shared.wait_for_the_end();
                }
                return Ok(false);
            }
            let count = from.read(&mut piece[..most])?;
            if count == 0 {
                return Ok(true);
            }
            if let Some(bad) = self.corrupt.filter(|bad| (at..at + count).contains(bad)) {
                piece[bad - at] ^= 1;
            }
            to.write_all(&piece[..count])?;
            at += count;
        }
    }
}
