//! A loopback server whose answers a test writes itself, for what no real registry does.
//!
//! One connection carries one request. Who speaks TLS to it is hung up on, as a server of plain HTTP
//! does.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use testkit::image::Image;
use vocab::manifest::media_type;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// By names in lower case.
    headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Where a `Range` header begins.
    pub(crate) fn range(&self) -> Option<usize> {
        self.segment().map(|(from, _)| from)
    }

    /// The first byte and the last one, if it is named, of a `Range` header.
    pub(crate) fn segment(&self) -> Option<(usize, Option<usize>)> {
        let range = self.header("range")?.strip_prefix("bytes=")?;
        let (from, last) = range.split_once('-')?;
        Some((from.parse().unwrap(), last.parse().ok()))
    }

    pub(crate) fn is_blob(&self) -> bool {
        self.target.contains("/blobs/")
    }
}

/// What it answers.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// How much of the body is sent before the connection is cut.
    cut: Option<usize>,
    /// Whether the length is told.
    length: bool,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
            length: true,
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    pub(crate) fn without_length(mut self) -> Self {
        self.length = false;
        self
    }

    pub(crate) fn redirect(to: String) -> Self {
        Self::new(307, "").with("Location", to)
    }
}

type Answers = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A server, gone with its value.
pub(crate) struct Stub {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stub {
    pub(crate) fn start(answers: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let answers: Arc<Answers> = Arc::new(answers);
        let thread = {
            let (asked, stop) = (Arc::clone(&asked), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut connections = Vec::new();
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let (asked, answers) = (Arc::clone(&asked), Arc::clone(&answers));
                    let stream = stream.unwrap();
                    let ours = stream.try_clone().unwrap();
                    let thread = std::thread::spawn(move || {
                        // A client that hangs up is its own business.
                        let _ = serve(&stream, &asked, &*answers);
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
            })
        };
        Self {
            address,
            asked,
            stop,
            thread: Some(thread),
        }
    }

    /// `127.0.0.1:port`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the stub panicked");
        }
    }
}

fn serve(
    mut stream: &TcpStream,
    asked: &Mutex<Vec<Asked>>,
    answers: &Answers,
) -> std::io::Result<()> {
    let mut first = [0];
    if stream.peek(&mut first)? == 0 || first[0] == 0x16 {
        return Ok(());
    }
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = Asked {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body: String::from_utf8(body).unwrap(),
    };
    asked.lock().unwrap().push(request.clone());
    let answer = answers(&request);
    let mut head = format!("HTTP/1.1 {} Stub\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if answer.length {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        let sent = answer.cut.unwrap_or(answer.body.len());
        stream.write_all(&answer.body[..sent])?;
    }
    Ok(())
}

/// An honest registry of one image, for a test to be dishonest about.
pub(crate) struct Shelf {
    documents: HashMap<String, (String, Vec<u8>)>,
    blobs: HashMap<String, Vec<u8>>,
}

impl Shelf {
    /// With this image under the tag `latest` of every repository.
    pub(crate) fn new(image: &Image) -> Self {
        let document = (image.media_type.clone(), image.manifest.clone());
        let layers = image.layers.iter();
        let blobs = layers.map(|layer| (layer.digest.to_string(), layer.blob.clone()));
        Self {
            documents: HashMap::from([
                ("latest".to_owned(), document.clone()),
                (image.digest().to_string(), document),
            ]),
            blobs: blobs
                .chain([(image.id().to_string(), image.config.clone())])
                .collect(),
        }
    }

    /// With this document under the tag `latest`, and nothing else.
    pub(crate) fn of_document(media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let document = (media_type.to_owned(), bytes.into());
        Self {
            documents: HashMap::from([("latest".to_owned(), document)]),
            blobs: HashMap::new(),
        }
    }

    pub(crate) fn answer(&self, asked: &Asked) -> Answer {
        let (_, last) = asked.target.rsplit_once('/').unwrap();
        if asked.is_blob() {
            let Some(blob) = self.blobs.get(last) else {
                return unknown("BLOB_UNKNOWN");
            };
            return match asked.segment() {
                Some((from, last)) => {
                    let last = last.unwrap_or(blob.len() - 1);
                    Answer::new(206, &blob[from..=last]).with(
                        "Content-Range",
                        format!("bytes {from}-{last}/{}", blob.len()),
                    )
                }
                None => Answer::new(200, blob.as_slice()),
            };
        }
        match self.documents.get(last) {
            Some((media_type, bytes)) => Answer::new(200, bytes.as_slice())
                .with("Content-Type", media_type)
                .with(
                    "Docker-Content-Digest",
                    testkit::image::sha256(bytes).to_string(),
                ),
            None => unknown("MANIFEST_UNKNOWN"),
        }
    }
}

pub(crate) fn unknown(code: &str) -> Answer {
    let said = code.to_lowercase().replace('_', " ");
    Answer::new(
        404,
        format!(r#"{{"errors":[{{"code":"{code}","message":"{said}"}}]}}"#),
    )
}

/// What an empty document is called when it is to be refused.
pub(crate) const SCHEMA1: &str = media_type::DOCKER_SCHEMA1;
