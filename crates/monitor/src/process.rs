//! One process of the container: its descriptors, its input, its end.
//!
//! ```text
//!  Planned ──start──▶ Starting ──exec──▶ Running ──pidfd──▶ Ended ──outputs drained, or after a grace──▶ Over
//! ```
//! The container's own process begins as Running; that it waits at the runtime's gate is no
//! concern of its streams.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use runtime::{ExecProcess, Executing, Stdio, Streams};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use vocab::ExecId;

use crate::log::Stream;

/// Where in its life it is.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Described, not started.
    Planned(Box<Plan>),
    /// Told to run, and on its way: its program may be on a file system that does not answer.
    Starting(Box<Executing>),
    /// There.
    Running,
    /// Reaped; its output may not all be read.
    Ended {
        /// Its exit code.
        code: i32,
        /// When it was reaped.
        since: Instant,
    },
    /// Its exit has been told.
    Over {
        /// Its exit code.
        code: i32,
    },
}

/// What a command is to be.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) process: ExecProcess,
    pub(crate) terminal: Option<(u16, u16)>,
    pub(crate) stdin: bool,
}

/// What reading from an output gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// It was closed by all who had it.
    End,
}

#[derive(Debug)]
pub(crate) struct Process {
    /// Its name; `None` is the container's own.
    pub(crate) exec: Option<ExecId>,
    /// As the host numbers it; 0 before its start.
    pub(crate) pid: i32,
    pub(crate) stage: Stage,
    /// Until it is reaped.
    pidfd: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    console: Option<OwnedFd>,
    /// The terminal's other side, held open while the process lives: a program that closes its
    /// terminal to open it again later must not make it look ended.
    _peer: Option<OwnedFd>,
    /// Input that it has not taken yet.
    input: Vec<u8>,
    /// So much of `input` was taken.
    taken: usize,
    /// Close its input when it has taken all.
    input_ends: bool,
    /// Nobody will ask for it again; it is kept only while somebody else holds its output.
    pub(crate) forgotten: bool,
}

/// Which of two ways to give streams to a process.
pub(crate) fn stdio(terminal: Option<(u16, u16)>, stdin: bool) -> Stdio {
    match terminal {
        Some((rows, columns)) => Stdio::Terminal {
            rows,
            columns,
            carriage_returns: true,
        },
        None => Stdio::Pipes { stdin },
    }
}

impl Process {
    /// A command to be started later.
    pub(crate) fn plan(exec: ExecId, plan: Plan) -> Self {
        Self::bare(Some(exec), 0, Stage::Planned(Box::new(plan)))
    }

    /// One that is there.
    pub(crate) fn running(pid: i32, pidfd: OwnedFd, streams: Streams) -> io::Result<Self> {
        let mut process = Self::bare(None, pid, Stage::Running);
        process.pidfd = Some(pidfd);
        process.take_streams(streams)?;
        Ok(process)
    }

    /// One without descriptors.
    fn bare(exec: Option<ExecId>, pid: i32, stage: Stage) -> Self {
        Self {
            exec,
            pid,
            stage,
            pidfd: None,
            stdin: None,
            stdout: None,
            stderr: None,
            console: None,
            _peer: None,
            input: Vec::new(),
            taken: 0,
            input_ends: false,
            forgotten: false,
        }
    }

    /// The planned one is there now.
    pub(crate) fn started(&mut self, pid: i32, pidfd: OwnedFd, streams: Streams) -> io::Result<()> {
        self.pid = pid;
        self.pidfd = Some(pidfd);
        self.stage = Stage::Running;
        self.take_streams(streams)
    }

    fn take_streams(&mut self, streams: Streams) -> io::Result<()> {
        let Streams {
            stdin,
            stdout,
            stderr,
            console,
        } = streams;
        for fd in [&stdin, &stdout, &stderr, &console].into_iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        if let Some(console) = &console {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            self._peer = rustix::pty::ioctl_tiocgptpeer(console, flags).ok();
        }
        (self.stdin, self.stdout, self.stderr, self.console) = (stdin, stdout, stderr, console);
        self.push_input();
        Ok(())
    }

    /// Readable when it ends.
    pub(crate) fn exit_fd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(OwnedFd::as_fd)
    }

    /// Where an output is read, while it is open.
    pub(crate) fn output_fd(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        let fd = match stream {
            Stream::Stdout => self.stdout.as_ref().or(self.console.as_ref()),
            Stream::Stderr => self.stderr.as_ref(),
        };
        fd.map(OwnedFd::as_fd)
    }

    /// Where input is written, while that is possible.
    pub(crate) fn input_fd(&self) -> Option<BorrowedFd<'_>> {
        self.stdin
            .as_ref()
            .or(self.console.as_ref())
            .map(OwnedFd::as_fd)
    }

    /// Whether it runs, or waits at its gate.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Starting(_) | Stage::Running)
    }

    /// Readable when more is to be heard of its start.
    pub(crate) fn starting_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.stage {
            Stage::Starting(executing) => Some(executing.as_fd()),
            _ => None,
        }
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match &self.pidfd {
            Some(pidfd) => sys::pidfd::send_signal(pidfd.as_fd(), signal),
            None => Err(Errno::SRCH.into()),
        }
    }

    pub(crate) fn resize(&mut self, rows: u16, columns: u16) -> io::Result<()> {
        if let Stage::Planned(plan) = &mut self.stage
            && let Some(size) = &mut plan.terminal
        {
            *size = (rows, columns);
            return Ok(());
        }
        let console = self.console.as_ref().ok_or(Errno::NOTTY)?;
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(rustix::termios::tcsetwinsize(console, size)?)
    }

    /// Reads from an output, and closes it at its end.
    pub(crate) fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Output {
        let Some(fd) = self.output_fd(stream) else {
            return Output::End;
        };
        match rustix::io::read(fd, buffer) {
            Ok(bytes) if bytes > 0 => return Output::Bytes(bytes),
            Err(Errno::AGAIN | Errno::INTR) => return Output::Nothing,
            // A terminal says EIO when its other side was closed by all.
            Ok(_) | Err(_) => {}
        }
        self.close_output(stream);
        Output::End
    }

    fn close_output(&mut self, stream: Stream) {
        match stream {
            Stream::Stdout => (self.stdout, self.console) = (None, None),
            Stream::Stderr => self.stderr = None,
        }
    }

    /// Whether all of its output was read.
    pub(crate) fn is_drained(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none() && self.console.is_none()
    }

    /// Whether more input may be given to it now. What nobody will read any more is taken too.
    pub(crate) fn takes_input(&self) -> bool {
        self.input.is_empty() && !matches!(self.stage, Stage::Planned(_) | Stage::Starting(_))
    }

    /// Whether it has yet to take input, or its end.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty() && self.input_fd().is_some()
    }

    /// Gives it input.
    pub(crate) fn give(&mut self, bytes: &[u8]) {
        if self.input_fd().is_some() {
            self.input.extend_from_slice(bytes);
            self.push_input();
        }
    }

    /// Its input ends after what was given to it. A terminal's never does.
    pub(crate) fn end_input(&mut self) {
        self.input_ends = true;
        self.push_input();
    }

    /// Writes the input that it has not taken yet.
    pub(crate) fn push_input(&mut self) {
        while self.taken < self.input.len() {
            let Some(fd) = self.input_fd() else {
                break;
            };
            match rustix::io::write(fd, &self.input[self.taken..]) {
                Ok(bytes) => self.taken += bytes,
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => {
                    // Nobody will read it.
                    self.stdin = None;
                    break;
                }
            }
        }
        self.input = Vec::new();
        self.taken = 0;
        if self.input_ends && !matches!(self.stage, Stage::Planned(_)) {
            self.stdin = None;
        }
    }

    /// Reaps it if it has ended, and gives its exit code, 128 + n for a signal.
    pub(crate) fn reap(&mut self) -> Option<i32> {
        let pidfd = self.pidfd.as_ref()?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let code = match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {
            Ok(None) | Err(Errno::INTR) => return None,
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => code,
                (None, Some(signal)) => 128 + signal,
                (None, None) => 255,
            },
            // Not ours to wait for: it is gone and nobody can tell how.
            Err(_) => 255,
        };
        self.pidfd = None;
        self._peer = None;
        self.stdin = None;
        self.stage = Stage::Ended {
            code,
            since: Instant::now(),
        };
        Some(code)
    }
}
