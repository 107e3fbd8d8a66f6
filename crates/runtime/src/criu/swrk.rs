//! The program `criu`, started for one request (`criu swrk FD`) and talked to over a socket.

use std::ffi::CString;
use std::io;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use prost::Message as _;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType, recvmsg, socketpair,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::UnshareFlags;
use sys::clone::Child;

use super::rpc::{Answer, Features, Kind, Notice, Request};
use crate::channel::{self, Word};
use crate::error::{During as _, SetupError, Step};

/// The exit code of a child that could not become `criu`; nobody sees it, the reason is told.
const NOT_RUN: i32 = 127;
const CRIU: &str = "criu";
/// No message of CRIU's is longer.
const MAX_MESSAGE: usize = 40 << 10;
/// As many errors of its log are told, from the first on: those that follow are its consequences.
const TOLD_ERRORS: usize = 3;
/// Errors that CRIU goes on after: it looks for what the kernel has, and raises limits as it may.
const HARMLESS: [&str; 3] = ["tun: ", "rlimit: ", "exited, status="];

/// Why CRIU did not do it.
#[derive(Debug, thiserror::Error)]
pub enum CriuError {
    /// It is not there.
    #[error(
        "CRIU is not installed: there is no `criu` in $PATH (install the package `criu` of your \
         distribution, or see https://criu.org)"
    )]
    Missing,
    /// It could not be run.
    #[error("run `criu`")]
    Run(#[source] io::Error),
    /// Something before that, such as a mount.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The socket.
    #[error("talk to `criu`")]
    Talk(#[source] io::Error),
    /// It ended without an answer.
    #[error("criu ended without an answer{}", told(log))]
    Silent {
        /// Its log.
        log: PathBuf,
    },
    /// It said no. The beginning is runc's.
    #[error("criu failed: type {kind} errno {errno}{}", told(log))]
    Failed {
        /// What it was at.
        kind: &'static str,
        /// Its own number for the reason.
        errno: i32,
        /// Its log.
        log: PathBuf,
    },
    /// A message that means nothing.
    #[error("criu said what berth does not understand: {0}")]
    Nonsense(String),
    /// This kernel, or this version of CRIU, cannot do it.
    #[error("CRIU is missing features: neither it nor the kernel can have changed to {0}")]
    Feature(&'static str),
}

/// The first errors of a log, and where more is.
fn told(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let errors = text.lines().filter_map(error_of);
    let serious = errors.filter(|error| !HARMLESS.iter().any(|start| error.starts_with(start)));
    let mut told: String = serious
        .take(TOLD_ERRORS)
        .map(|error| format!(": {error}"))
        .collect();
    if !text.is_empty() {
        told += &format!(" (log file: {})", log.display());
    }
    told
}

/// `(00.036559) Error (criu/util.c:1534): rlimit: Can't …`
fn error_of(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("Error (")?;
    let (_, error) = rest.split_once("): ")?;
    Some(error.trim())
}

/// Is told of each point that it reaches, with the descriptor that came.
pub(super) type Listener<'a, E> = dyn FnMut(&Notice, Option<OwnedFd>) -> Result<(), E> + 'a;

/// How `criu` is to find itself.
pub(super) struct Seat<'a> {
    /// Made for it.
    pub(super) namespaces: UnshareFlags,
    /// Done in the fork, before it is `criu`.
    pub(super) prepare: &'a dyn Fn() -> Result<(), SetupError>,
    /// It gets them by their own numbers, which are above 2.
    pub(super) inherited: Vec<BorrowedFd<'a>>,
    /// Its standard streams are ours, and not `/dev/null`.
    pub(super) own_streams: bool,
}

/// The program, waiting for a request. It ends when this does.
pub(super) struct Criu {
    child: Child,
    socket: Option<OwnedFd>,
    ended: bool,
}

impl Criu {
    pub(super) fn start(seat: &Seat<'_>) -> Result<Self, CriuError> {
        let path = find(CRIU).ok_or(CriuError::Missing)?;
        let (socket, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| CriuError::Talk(error.into()))?;
        let (failed, failure) = channel::pair().map_err(CriuError::Talk)?;
        let child = sys::clone::spawn(seat.namespaces, None, || {
            if let Err(error) = become_criu(seat, &path, &theirs) {
                // A caller that is gone does not hear it.
                let _ = failure.send_failure(&error);
            }
            NOT_RUN
        })
        .map_err(CriuError::Run)?;
        drop((theirs, failure));
        let criu = Self {
            child,
            socket: Some(socket),
            ended: false,
        };
        match failed.next().map_err(CriuError::Talk)? {
            // The exec closed it.
            None => Ok(criu),
            Some(Word::Failed(failure)) => Err(failure.into()),
            Some(_) => Err(CriuError::Talk(io::ErrorKind::InvalidData.into())),
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Has it do something. Where `heard` fails, so does the request.
    pub(super) fn ask<E: From<CriuError>>(
        &mut self,
        request: &Request,
        log: &Path,
        heard: &mut Listener<'_, E>,
    ) -> Result<Answer, E> {
        self.send(request)?;
        loop {
            let (answer, fd) = self.receive(log)?;
            let kind = Kind::try_from(answer.kind);
            if !answer.success {
                self.end();
                return Err(E::from(CriuError::Failed {
                    kind: kind.map_or("UNKNOWN", Kind::name),
                    errno: answer.errno.unwrap_or(0),
                    log: log.to_owned(),
                }));
            }
            if kind != Ok(Kind::Notify) {
                return Ok(answer);
            }
            let heard = heard(&answer.notice.unwrap_or_default(), fd);
            let mut reply = Request::of(Kind::Notify);
            reply.notify_success = Some(heard.is_ok());
            let replied = self.send(&reply);
            heard?;
            replied?;
        }
    }

    fn send(&self, request: &Request) -> Result<(), CriuError> {
        let packet = request.encode_to_vec();
        let socket = self.socket.as_ref().ok_or_else(closed)?;
        rustix::io::retry_on_intr(|| rustix::net::send(socket, &packet, SendFlags::NOSIGNAL))
            .map_err(|error| CriuError::Talk(error.into()))?;
        Ok(())
    }

    fn receive(&self, log: &Path) -> Result<(Answer, Option<OwnedFd>), CriuError> {
        let socket = self.socket.as_ref().ok_or_else(closed)?;
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let mut packet = [IoSliceMut::new(&mut bytes)];
            recvmsg(socket, &mut packet, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        });
        let length = match received {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(error) => return Err(CriuError::Talk(error.into())),
        };
        if length == 0 {
            return Err(CriuError::Silent {
                log: log.to_owned(),
            });
        }
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let answer = Answer::decode(&bytes[..length]);
        let answer = answer.map_err(|error| CriuError::Nonsense(error.to_string()))?;
        Ok((answer, fd))
    }

    /// Lets it end, and waits for that.
    pub(super) fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            // What it was at it gives up, and takes back, when nobody listens.
            self.socket = None;
            let pidfd = self.child.pidfd.as_fd();
            let _ =
                rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED));
        }
    }
}

fn closed() -> CriuError {
    CriuError::Talk(io::ErrorKind::NotConnected.into())
}

impl Drop for Criu {
    fn drop(&mut self) {
        self.end();
    }
}

impl Request {
    pub(super) fn of(kind: Kind) -> Self {
        Self {
            kind: kind.into(),
            ..Self::default()
        }
    }
}

/// What it can do on this kernel.
pub(super) fn features(asked: Features) -> Result<Features, CriuError> {
    let nothing = || Ok(());
    let mut criu = Criu::start(&Seat {
        namespaces: UnshareFlags::empty(),
        prepare: &nothing,
        inherited: Vec::new(),
        own_streams: false,
    })?;
    let request = Request {
        features: Some(asked),
        ..Request::of(Kind::FeatureCheck)
    };
    let answer: Result<Answer, CriuError> = criu.ask(&request, Path::new(""), &mut |_, _| Ok(()));
    Ok(answer?.features.unwrap_or_default())
}

/// Whether there is a `criu` at all.
pub(super) fn check_installed() -> Result<(), CriuError> {
    find(CRIU).map(drop).ok_or(CriuError::Missing)
}

/// Where a program is, by `$PATH`.
pub(super) fn find(program: &str) -> Option<CString> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| {
            path.is_file() && accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
        })?;
    CString::new(found.into_os_string().into_vec()).ok()
}

/// Runs in the fork; returns only if it failed.
fn become_criu(seat: &Seat<'_>, path: &CString, socket: &OwnedFd) -> Result<(), SetupError> {
    (seat.prepare)()?;
    let socket = settle(seat, socket).during(Step::Exec, || "prepare the descriptors of `criu`")?;
    let number = socket.as_raw_fd().to_string();
    let arguments = [CRIU, "swrk", &number].map(|word| CString::new(word).unwrap_or_default());
    let environment: Vec<CString> = std::env::vars_os()
        .filter_map(|(key, value)| {
            CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        })
        .collect();
    Err(sys::exec::execve(path, &arguments, &environment))
        .during(Step::Exec, || format!("run `{}`", path.to_string_lossy()))
}

/// Signals and descriptors as `criu` is to find them; returns its end of the socket.
fn settle(seat: &Seat<'_>, socket: &OwnedFd) -> io::Result<OwnedFd> {
    sys::signals::restore_all();
    sys::signals::unblock_all()?;
    // Away from 0, 1 and 2, where a caller without standard streams may have got it.
    let socket = fcntl_dupfd_cloexec(socket, 3)?;
    if !seat.own_streams {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, Mode::empty())?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
    }
    sys::descriptors::close_on_exec_from(3)?;
    for fd in seat.inherited.iter().copied().chain([socket.as_fd()]) {
        fcntl_setfd(fd, FdFlags::empty())?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_serious_errors_of_a_log_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("dump.log");
        assert_eq!(told(&log), "");
        let line = |what: &str| format!("(00.000001)      1: Error (criu/x.c:1): {what}\n");
        let text =
            line("tun: Unable") + &line("one") + "(00.000002) Warn (x): not\n" + &line("two");
        std::fs::write(&log, text.clone() + &line("three") + &line("four")).unwrap();
        let end = format!(": one: two: three (log file: {})", log.display());
        assert_eq!(told(&log), end);
    }
}
