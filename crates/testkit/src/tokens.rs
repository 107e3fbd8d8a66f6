//! A token server as the distribution's specification wants it: `docker-registry` sends who wants
//! something here, and believes what is signed here.
//!
//! It knows [`USER`] with [`PASSWORD`], and the one refresh token that it issues. What it grants is
//! signed with the key of [`CERTIFICATE`](crate::registry::CERTIFICATE), which the registry trusts.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::registry::{CERTIFICATE, KEY, PASSWORD, USER};

/// What the server and its registry call themselves.
pub const SERVICE: &str = "testkit";
/// What is kept in place of the password.
pub const REFRESH_TOKEN: &str = "kept-in-place-of-a-password";

/// A running server.
#[derive(Debug)]
pub struct TokenServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TokenServer {
    /// Starts one on a free loopback port; it ends with the process of the test.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = Arc::clone(&log);
                // A client that leaves early is no failure of the server.
                std::thread::spawn(move || drop(serve(&stream, &log)));
            }
        });
        Self { address, asked }
    }

    /// Where registries send their clients.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// What was asked for, each as method and grant (`GET password`, `POST refresh_token`).
    pub fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }
}

fn serve(stream: &TcpStream, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut basic, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => basic = value.strip_prefix("Basic ").map(str::to_owned),
            "content-length" => length = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let query = match method {
        "POST" => String::from_utf8_lossy(&body).into_owned(),
        _ => target.split_once('?').unwrap_or_default().1.to_owned(),
    };
    let query: Vec<(String, String)> = pairs_of(&query);
    let said = |name: &str| {
        let found = query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let account = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let (grant, known) = match (method, said("grant_type")) {
        ("POST", "refresh_token") => ("refresh_token", said("refresh_token") == REFRESH_TOKEN),
        ("POST", grant) => (
            grant,
            said("username") == USER && said("password") == PASSWORD,
        ),
        _ => match &basic {
            Some(basic) => ("password", *basic == account),
            None => ("nobody", false),
        },
    };
    log.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(format!("{method} {grant}"));
    let (status, answer) = match known {
        true => {
            let scopes = query.iter().filter(|(key, _)| key == "scope");
            let scopes: Vec<&str> = scopes.flat_map(|(_, scope)| scope.split(' ')).collect();
            let token = signed(&scopes);
            let mut answer = json!({ "token": token, "access_token": token, "expires_in": 300 });
            if said("offline_token") == "true" || method == "POST" {
                answer["refresh_token"] = REFRESH_TOKEN.into();
            }
            ("200 OK", answer)
        }
        false => {
            let reason = "incorrect username or password";
            let error = json!({ "code": "UNAUTHORIZED", "message": reason });
            ("401 Unauthorized", json!({ "errors": [error] }))
        }
    };
    let body = answer.to_string();
    let length = body.len();
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

/// The pairs of a query or form.
fn pairs_of(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
        while let [first, after @ ..] = rest {
            let coded = match (first, after) {
                (b'%', [a, b, ..]) => {
                    u8::from_str_radix(&format!("{}{}", *a as char, *b as char), 16).ok()
                }
                _ => None,
            };
            bytes.push(coded.unwrap_or(if *first == b'+' { b' ' } else { *first }));
            rest = if coded.is_some() { &after[2..] } else { after };
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (decoded(key), decoded(value)))
        .collect()
}

/// The bytes between the lines of a PEM file.
fn pem(text: &str) -> Vec<u8> {
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    STANDARD.decode(lines.collect::<String>()).unwrap()
}

/// A token that grants these scopes (`repository:name:pull,push`) for five minutes.
fn signed(scopes: &[&str]) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let access: Vec<Value> = scopes
        .iter()
        .filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let actions: Vec<&str> = actions.split(',').collect();
            Some(json!({ "type": kind, "name": name, "actions": actions }))
        })
        .collect();
    let head = json!({
        "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(pem(CERTIFICATE))],
    });
    let claims = json!({
        "iss": SERVICE, "sub": USER, "aud": SERVICE, "jti": format!("{now}"),
        "iat": now, "nbf": now - 60, "exp": now + 300, "access": access,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&head), part(&claims));
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pem(KEY)).unwrap();
    let signature = key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}
