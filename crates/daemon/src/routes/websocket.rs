//! Attaching over a websocket (RFC 6455): what browsers and a few libraries use.
//!
//! Each piece of output is a binary message (a text before API 1.28), stdout and stderr in one, as
//! Docker sends them. What the client sends, in messages of any size, is stdin.

use std::io;
use std::pin::pin;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::attach::{Attached, Input, Written};
use futures_util::StreamExt as _;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::Outcome;
use super::attach::attach_as_asked;
use crate::answer::{self, Refusal};
use crate::call::Call;
use crate::listen::Peer;

/// What is appended to the client's key (RFC 6455, section 1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes of stdin taken at a time.
const INPUT_BYTES: usize = 32 << 10;
/// Bytes of a control message at most (section 5.5).
const CONTROL_BYTES: u64 = 125;
/// Answers to control messages that wait to be sent.
const CONTROLS: usize = 8;
/// How long the daemon reads on after its last byte.
const LINGER: Duration = Duration::from_secs(5);

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// `GET /containers/{id}/attach/ws`.
pub(crate) async fn attach(call: Call) -> Outcome {
    let accept = handshake(&call)?;
    let kind = if call.speaks(28) { BINARY } else { TEXT };
    let attached = attach_as_asked(&call).await?;
    call.daemon.sessions.spawn(
        "websocket",
        converse(call.upgrade, call.peer, attached, kind),
    );
    let mut answer = answer::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(answer)
}

/// What proves to the client that its request was understood.
fn handshake(call: &Call) -> Result<HeaderValue, Refusal> {
    let upgrade = call.header(UPGRADE.as_str()).unwrap_or_default();
    let version = call.header(SEC_WEBSOCKET_VERSION.as_str());
    let key = call.header(SEC_WEBSOCKET_KEY.as_str());
    let (Some(key), true, Some("13")) = (key, upgrade.eq_ignore_ascii_case("websocket"), version)
    else {
        return Err(Refusal::invalid(
            "this is for websockets of version 13: Upgrade, Sec-WebSocket-Key and \
             Sec-WebSocket-Version are wanted",
        ));
    };
    let accept = accept_of(key);
    Ok(HeaderValue::from_str(&accept).expect("base64 is ASCII"))
}

fn accept_of(key: &str) -> String {
    let text = format!("{key}{MAGIC}");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Carries messages both ways until the output ends or the client is gone.
async fn converse(upgrade: OnUpgrade, peer: Option<Peer>, attached: Attached, kind: u8) {
    let connection = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => {
            tracing::debug!(%error, "a client left before its connection was taken over");
            return;
        }
    };
    let (mut from_client, mut to_client) = tokio::io::split(connection);
    if let Some(peer) = peer {
        peer.has_read().await;
    }
    let Attached {
        mut output, input, ..
    } = attached;
    {
        let (replies, mut controls) = mpsc::channel(CONTROLS);
        let mut taking = pin!(take_messages(&mut from_client, input, replies));
        loop {
            let (kind, bytes) = tokio::select! {
                outcome = &mut taking => {
                    if let Err(error) = outcome {
                        tracing::debug!(%error, "a websocket broke off");
                    }
                    break;
                }
                Some(pong) = controls.recv() => (PONG, bytes::Bytes::from(pong)),
                chunk = output.next() => match chunk {
                    Some(Ok(chunk)) => (kind, chunk.bytes),
                    Some(Err(_)) | None => break,
                },
            };
            if send(&mut to_client, kind, &bytes).await.is_err() {
                return;
            }
        }
    }
    const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();
    if send(&mut to_client, CLOSE, &NORMAL).await.is_ok() && to_client.shutdown().await.is_ok() {
        let mut rest = tokio::io::sink();
        let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut from_client, &mut rest)).await;
    }
}

async fn send(client: &mut (impl AsyncWrite + Unpin), kind: u8, bytes: &[u8]) -> io::Result<()> {
    client.write_all(&header(kind, bytes.len())).await?;
    client.write_all(bytes).await?;
    client.flush().await
}

/// The header of a whole message from us, which is never masked.
fn header(kind: u8, length: usize) -> Vec<u8> {
    let mut header = vec![0x80 | kind];
    match length {
        0..126 => header.push(u8::try_from(length).unwrap_or_default()),
        126..0x1_0000 => {
            header.push(126);
            let length = u16::try_from(length).unwrap_or_default();
            header.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            header.push(127);
            header.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    header
}

/// A part of a message from the client.
struct Part {
    kind: u8,
    length: u64,
    mask: [u8; 4],
}

async fn read_header(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Part> {
    let wrong = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let [first, second] = {
        let mut bytes = [0; 2];
        client.read_exact(&mut bytes).await?;
        bytes
    };
    let (kind, is_last) = (first & 0x0f, first & 0x80 != 0);
    let length = match second & 0x7f {
        126 => client.read_u16().await?.into(),
        127 => client.read_u64().await?,
        length => length.into(),
    };
    if second & 0x80 == 0 {
        return wrong("the client's message is not masked");
    }
    if first & 0x70 != 0 {
        return wrong("an extension that was not agreed on");
    }
    if kind >= CLOSE && (length > CONTROL_BYTES || !is_last) {
        return wrong("a control message that is long or in parts");
    }
    let mut mask = [0; 4];
    client.read_exact(&mut mask).await?;
    Ok(Part { kind, length, mask })
}

/// Passes what the client sends on to stdin, until it closes. Without stdin it is read all the
/// same: a client's bytes must not fill the socket.
async fn take_messages(
    client: &mut (impl AsyncRead + Unpin),
    mut input: Option<Input>,
    replies: mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        let part = match read_header(client).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            other => other?,
        };
        let (mut left, mut at, mut control) = (part.length, 0, Vec::new());
        while left > 0 {
            let want = usize::try_from(left)
                .unwrap_or(INPUT_BYTES)
                .min(INPUT_BYTES);
            let count = client.read(&mut buffer[..want]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= count as u64;
            let bytes = &mut buffer[..count];
            unmask(bytes, part.mask, &mut at);
            if part.kind >= CLOSE {
                control.extend_from_slice(bytes);
                continue;
            }
            if let Some(open) = &mut input {
                match open.write(bytes).await {
                    Ok(Written::All) => {}
                    Ok(Written::Detached | Written::Closed) | Err(_) => input = None,
                }
            }
        }
        match part.kind {
            CLOSE => break,
            // A client that pings faster than it reads gets fewer answers.
            PING => drop(replies.try_send(control)),
            _ => {}
        }
    }
    if let Some(open) = input {
        open.close().await?;
    }
    Ok(())
}

fn unmask(bytes: &mut [u8], mask: [u8; 4], at: &mut usize) {
    for byte in bytes {
        *byte ^= mask[*at % 4];
        *at = (*at + 1) % 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455, section 1.3.
    #[test]
    fn keys_are_accepted_as_the_rfc_says() {
        let accept = accept_of("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn lengths_are_written_in_one_two_or_eight_bytes() {
        assert_eq!(header(BINARY, 125), [0x82, 125]);
        assert_eq!(header(TEXT, 126), [0x81, 126, 0, 126]);
        let long = header(BINARY, 0x1_0000);
        assert_eq!(long, [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let read = async |bytes: &[u8]| {
            let mut bytes = bytes;
            read_header(&mut bytes).await.map(|part| part.length)
        };
        assert_eq!(read(&[0x82, 0x85, 1, 2, 3, 4]).await.unwrap(), 5);
        assert!(read(&[0x82, 5]).await.is_err());
        assert!(read(&[0xc2, 0x85, 1, 2, 3, 4]).await.is_err());
        assert!(read(&[0x89, 0xfe, 1, 0, 1, 2, 3, 4]).await.is_err());
        assert!(read(&[0x09, 0x81, 1, 2, 3, 4]).await.is_err());
    }
}
