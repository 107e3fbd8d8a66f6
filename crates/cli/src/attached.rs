//! A process whose stdio is here: bytes in both directions, the terminal's size, signals.
//!
//! ```text
//! stdin  ─▶ detach keys ─▶ connection        half-closed at the end of stdin
//! stdout ◀─ frames, or bytes of a terminal ◀─ connection
//! SIGWINCH ─▶ resize     other signals ─▶ kill
//! ```
//!
//! Three futures run at once and the output decides: when it ends, the process has let go of its
//! streams. Standard input is read only when it has something, so no thread is left behind in a
//! read that never ends.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use api::Client;
use api::client::{Hijacked, Input, Output};
use api::stream::{Decoder, Stream};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, Result};
use crate::output;
use crate::terminal::{self, Detach};

/// Bytes moved at a time.
const PIECE: usize = 32 * 1024;

/// What to do with a connection that was taken over.
pub struct Plan {
    /// Whether what comes out are bytes of a terminal rather than frames.
    pub terminal: bool,
    /// Whether standard input goes in.
    pub stdin: bool,
    /// The keys that detach, where there are any.
    pub detach: Option<Detach>,
    /// Where signals go: `/containers/ID/kill`.
    pub signals: Option<String>,
    /// Where the terminal's size goes: `/containers/ID/resize`.
    pub resize: Option<String>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process's streams are closed.
    Output,
    /// The user typed the keys that detach.
    Detached,
    /// A signal that was not to be forwarded.
    Signal(i32),
}

/// Signals that a program may be sent and forward.
const FORWARDED: [(i32, &str); 11] = [
    (libc_signal::HUP, "HUP"),
    (libc_signal::INT, "INT"),
    (libc_signal::QUIT, "QUIT"),
    (libc_signal::USR1, "USR1"),
    (libc_signal::USR2, "USR2"),
    (libc_signal::ALRM, "ALRM"),
    (libc_signal::TERM, "TERM"),
    (libc_signal::CONT, "CONT"),
    (libc_signal::TSTP, "TSTP"),
    (libc_signal::TTIN, "TTIN"),
    (libc_signal::TTOU, "TTOU"),
];

mod libc_signal {
    //! Numbers of signals, the same on every Linux that berth runs on.
    pub(super) const HUP: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const QUIT: i32 = 3;
    pub(super) const USR1: i32 = 10;
    pub(super) const USR2: i32 = 12;
    pub(super) const ALRM: i32 = 14;
    pub(super) const TERM: i32 = 15;
    pub(super) const CONT: i32 = 18;
    pub(super) const TSTP: i32 = 20;
    pub(super) const TTIN: i32 = 21;
    pub(super) const TTOU: i32 = 22;
}

/// Signals of this process, caught from the moment this exists.
///
/// Made before the container starts, so that none is lost between.
pub struct Signals {
    caught: Vec<(Signal, i32, &'static str)>,
    resized: Signal,
}

impl Signals {
    /// Catches those that are forwarded, or only those that end a program.
    pub fn catch(forward: bool) -> Result<Self> {
        let failed = |error: io::Error| Failure::new(format!("catch signals: {error}"));
        let ends = |number: i32| {
            matches!(
                number,
                libc_signal::HUP | libc_signal::INT | libc_signal::TERM
            )
        };
        let caught = FORWARDED
            .iter()
            .filter(|(number, _)| forward || ends(*number))
            .map(|(number, name)| {
                signal(SignalKind::from_raw(*number))
                    .map(|signal| (signal, *number, *name))
                    .map_err(failed)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            caught,
            resized: signal(SignalKind::window_change()).map_err(failed)?,
        })
    }

    /// The next signal, its number and its name.
    async fn next(&mut self) -> (i32, &'static str) {
        std::future::poll_fn(|context| {
            for (signal, number, name) in &mut self.caught {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready((*number, *name));
                }
            }
            if self.resized.poll_recv(context).is_ready() {
                return std::task::Poll::Ready((0, "WINCH"));
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// Moves bytes until the output ends, the user detaches or a signal ends it.
pub async fn carry(
    client: &Client,
    connection: Hijacked,
    plan: Plan,
    signals: &mut Signals,
) -> Result<End> {
    let Hijacked { output, input, .. } = connection;
    let mut detached = std::pin::pin!(async {
        let input = if plan.stdin {
            feed(input, plan.detach).await?
        } else {
            false
        };
        if input {
            Ok(End::Detached)
        } else {
            // The end of standard input ends nothing.
            std::future::pending().await
        }
    });
    let mut shown = std::pin::pin!(show(output, plan.terminal));
    loop {
        tokio::select! {
            outcome = &mut shown => return outcome.map(|()| End::Output),
            outcome = &mut detached => return outcome,
            (number, name) = signals.next() => {
                if number == 0 {
                    if let Some(path) = &plan.resize {
                        resize(client, path).await;
                    }
                } else if let Some(path) = &plan.signals {
                    // The container may have ended already; then there is nobody to tell.
                    let _ = client.post(path).query("signal", name).done().await;
                } else {
                    return Ok(End::Signal(number));
                }
            }
        }
    }
}

/// Tells the size of the caller's terminal. Failures are not worth a word: the process may not run
/// yet, or no longer.
pub async fn resize(client: &Client, path: &str) {
    if let Some((rows, columns)) = terminal::size() {
        tell_size(client, path, rows, columns).await;
    }
}

/// Tells a size that is not the terminal's, for a moment.
pub async fn nudge(client: &Client, path: &str) {
    if let Some((rows, columns)) = terminal::size() {
        tell_size(
            client,
            path,
            rows.saturating_add(1),
            columns.saturating_add(1),
        )
        .await;
    }
}

async fn tell_size(client: &Client, path: &str, rows: u16, columns: u16) {
    let _ = client
        .post(path)
        .query("h", rows)
        .query("w", columns)
        .done()
        .await;
}

/// Copies the output to standard output and standard error.
async fn show(mut from: Output, terminal: bool) -> Result {
    let mut buffer = vec![0; PIECE];
    let mut decoder = Decoder::new();
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            // The daemon went away; what it sent before was shown.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(Failure::new(format!("read from the daemon: {error}"))),
        };
        if terminal {
            output::bytes(&buffer[..count])?;
        } else {
            decoder.push(&buffer[..count]);
            show_frames(&mut decoder)?;
        }
    }
}

/// Writes every frame that is complete.
pub fn show_frames(decoder: &mut Decoder) -> Result {
    while let Some((stream, payload)) = decoder
        .take()
        .map_err(|error| Failure::new(format!("understand the daemon's output: {error}")))?
    {
        match stream {
            Stream::Stdin | Stream::Stdout => output::bytes(&payload)?,
            Stream::Stderr => output::error_bytes(&payload),
            Stream::Failure => {
                return Err(Failure::new(format!(
                    "error from daemon in stream: {}",
                    String::from_utf8_lossy(&payload)
                )));
            }
        }
    }
    Ok(())
}

/// Sends standard input until it ends (false) or the user detaches (true).
async fn feed(mut to: Input, mut detach: Option<Detach>) -> Result<bool> {
    let stdin = Stdin::open()?;
    let mut buffer = vec![0; PIECE];
    loop {
        let count = stdin.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            if let Some(detach) = &mut detach {
                let _ = to.write_all(&detach.rest()).await;
            }
            let _ = to.close().await;
            return Ok(false);
        }
        let outcome = match &mut detach {
            None => to.write_all(&buffer[..count]).await,
            Some(detach) => {
                let (send, end) = detach.filter(&buffer[..count]);
                if end {
                    return Ok(true);
                }
                to.write_all(&send).await
            }
        };
        // A process that closed its standard input does not want more.
        if outcome.is_err() {
            return Ok(false);
        }
    }
}

/// Standard input, read only when there is something to read.
pub enum Stdin {
    /// A terminal, a pipe or a socket.
    Polled(AsyncFd<OwnedFd>),
    /// A file or a device, where reading does not wait.
    Plain(OwnedFd),
}

impl Stdin {
    /// A descriptor of its own on standard input.
    pub fn open() -> Result<Self> {
        let failed = |error: io::Error| Failure::new(format!("read standard input: {error}"));
        let clone = || rustix::stdio::stdin().try_clone_to_owned().map_err(failed);
        #[expect(
            deprecated,
            reason = "its successor is unsafe; the descriptor is owned by what it returns, and stays open"
        )]
        let polled = AsyncFd::with_interest(clone()?, tokio::io::Interest::READABLE);
        match polled {
            Ok(polled) => Ok(Self::Polled(polled)),
            // epoll refuses regular files.
            Err(_) => Ok(Self::Plain(clone()?)),
        }
    }

    /// Waits for bytes; 0 is the end.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let polled = match self {
            Self::Plain(file) => return Ok(rustix::io::read(file, buffer)?),
            Self::Polled(polled) => polled,
        };
        loop {
            let mut ready = polled.readable().await?;
            // The descriptor may block (others share it), so ask before each read.
            if is_readable(polled.get_ref().as_fd())? {
                match rustix::io::read(polled.get_ref(), &mut *buffer) {
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => ready.clear_ready(),
                    Err(rustix::io::Errno::IO) => return Ok(0),
                    outcome => return Ok(outcome?),
                }
            } else {
                ready.clear_ready();
            }
        }
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(rustix::event::poll(&mut fds, Some(&now))? > 0)
}
