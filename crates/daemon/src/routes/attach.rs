//! Connections that are taken over: attach, and attached commands.
//!
//! ```text
//!  client → POST, Connection: Upgrade, Upgrade: tcp
//!         ← HTTP/1.1 101 UPGRADED            flushed on its own
//!         ⇄ stdin as bytes · output as frames (as bytes with a terminal)
//! ```
//!
//! Whatever can be refused is refused before the 101. The client's half-close is the end of stdin;
//! at the end of the output the daemon half-closes its side, so that the client sees it. A client
//! that does not ask for an upgrade gets the output as a chunked body instead and sends stdin as
//! the body of its request.

use std::pin::pin;
use std::time::Duration;

use api::stream::Stream as Number;
use engine::attach::{AttachOptions, Attached, Chunk, Input, Written};
use futures_util::{Stream, StreamExt};
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::logs::{frame, media_type, of};
use super::{Outcome, pieces};
use crate::answer::{self, Refusal};
use crate::call::{Body, Call};
use crate::listen::Peer;

/// Bytes of stdin taken at a time.
const INPUT_BYTES: usize = 32 << 10;

/// How long the daemon reads on after its last byte. A socket that is closed with unread bytes in
/// it resets the connection, and the client may lose output that it has not read yet.
const LINGER: Duration = Duration::from_secs(5);

/// `POST /containers/{id}/attach`.
pub(crate) async fn attach(call: Call) -> Outcome {
    let attached = attach_as_asked(&call).await?;
    Ok(take_over(call, attached))
}

/// Attaches to what the query names.
pub(super) async fn attach_as_asked(call: &Call) -> Result<Attached, Refusal> {
    let query = &call.query;
    let options = AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
        detach_keys: query.said("detachKeys").map(str::to_owned),
    };
    Ok(call.engine().attach(call.name(), options).await?)
}

/// Hands the connection to the process and answers.
pub(super) fn take_over(call: Call, attached: Attached) -> answer::Answer {
    let tty = attached.tty;
    let media_type = media_type(&call, tty);
    if call.wants_upgrade() {
        let daemon = call.daemon.clone();
        daemon.sessions.spawn(
            "attached client",
            converse(call.upgrade, call.peer, attached),
        );
        return upgraded(media_type);
    }
    let daemon = call.daemon.clone();
    let output = pieces(&daemon, attached.output, move |bytes, chunk| {
        // A broken connection to the monitor ends the output, as the process's end does.
        if let Ok(chunk) = chunk {
            write_chunk(bytes, &chunk, tty);
        }
    });
    if let Some(input) = attached.input {
        daemon
            .sessions
            .spawn("client's input", feed_body(call.body, input));
    }
    answer::stream(media_type, output)
}

/// The 101 that lets the Go client go on.
fn upgraded(media_type: &'static str) -> answer::Answer {
    let mut answer = answer::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    let reason = ReasonPhrase::from_static(b"UPGRADED");
    answer.extensions_mut().insert(reason);
    answer
}

/// Answers 101 and sends one text as output: how a command that cannot be executed is told.
pub(super) fn take_over_to_say(call: Call, tty: bool, text: String) -> answer::Answer {
    let chunk = Chunk {
        source: engine::attach::Source::Stdout,
        bytes: text.into(),
    };
    let attached = Attached {
        tty,
        output: futures_util::stream::iter([Ok(chunk)]).boxed(),
        input: None,
    };
    take_over(call, attached)
}

fn write_chunk(bytes: &mut Vec<u8>, chunk: &Chunk, tty: bool) {
    if tty {
        bytes.extend_from_slice(&chunk.bytes);
    } else {
        frame(bytes, of(chunk.source), &chunk.bytes);
    }
}

/// Carries bytes both ways until the output ends or the client is gone.
async fn converse(upgrade: OnUpgrade, peer: Option<Peer>, attached: Attached) {
    let connection = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => {
            tracing::debug!(%error, "a client left before its connection was taken over");
            return;
        }
    };
    let (mut from_client, mut to_client) = tokio::io::split(connection);
    let tty = attached.tty;
    {
        let output = pin!(async {
            if let Some(peer) = peer {
                peer.has_read().await;
            }
            send_output(attached.output, &mut to_client, tty).await;
        });
        let input = pin!(take_input(&mut from_client, attached.input));
        let (mut output, mut input) = (output, input);
        let mut input_ended = false;
        loop {
            tokio::select! {
                () = &mut output => break,
                () = &mut input, if !input_ended => input_ended = true,
            }
        }
    }
    if to_client.shutdown().await.is_ok() {
        let mut rest = tokio::io::sink();
        let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut from_client, &mut rest)).await;
    }
}

/// Sends output until it ends or nobody reads it any more.
async fn send_output(
    output: impl Stream<Item = std::io::Result<Chunk>>,
    client: &mut (impl AsyncWrite + Unpin),
    tty: bool,
) {
    let mut output = pin!(output.ready_chunks(16));
    let mut bytes = Vec::new();
    while let Some(chunks) = output.next().await {
        bytes.clear();
        for chunk in chunks {
            match chunk {
                Ok(chunk) => write_chunk(&mut bytes, &chunk, tty),
                Err(error) if !tty => {
                    frame(&mut bytes, Number::Failure, error.to_string().as_bytes());
                }
                Err(error) => tracing::debug!(%error, "output broke off"),
            }
        }
        if client.write_all(&bytes).await.is_err() || client.flush().await.is_err() {
            return;
        }
    }
}

/// Passes stdin on until the client ends it. Without stdin it is read all the same: a client's
/// bytes must not fill the socket.
async fn take_input(client: &mut (impl AsyncRead + Unpin), mut input: Option<Input>) {
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        let length = match client.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        let Some(open) = &mut input else { continue };
        match open.write(&buffer[..length]).await {
            Ok(Written::All) => {}
            // Detached: the engine ends the output. Closed: the process reads no more.
            Ok(Written::Detached | Written::Closed) | Err(_) => input = None,
        }
    }
    if let Some(open) = input
        && let Err(error) = open.close().await
    {
        tracing::debug!(%error, "close stdin");
    }
}

/// The same for stdin that comes as the body of a request.
async fn feed_body(mut body: Body, mut input: Input) {
    while let Some(Ok(piece)) = body.next().await {
        if !matches!(input.write(&piece).await, Ok(Written::All)) {
            return;
        }
    }
    if let Err(error) = input.close().await {
        tracing::debug!(%error, "close stdin");
    }
}
