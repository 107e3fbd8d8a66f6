//! A process in the foreground: signals go to it, its terminal is that of the caller, and its exit
//! code is ours.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, wait};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr,
    tcsetwinsize,
};

/// As much is copied at a time.
const COPY_BYTES: usize = 16 << 10;

/// Why nobody could stay with the process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttendError {
    #[error("wait for signals")]
    Signals(#[source] io::Error),
    #[error("take over orphans")]
    Subreaper(#[source] io::Error),
    #[error("wait for the process")]
    Wait(#[source] io::Error),
    #[error("use the terminal")]
    Terminal(#[source] io::Error),
}

/// Reads the signals of this program from its making on.
#[derive(Debug)]
pub(crate) struct Attendant {
    signals: OwnedFd,
}

impl Attendant {
    /// Signals wait from now on. A `subreaper` becomes the parent of the container's orphans.
    pub(crate) fn new(subreaper: bool) -> Result<Self, AttendError> {
        if subreaper {
            let this = Some(rustix::process::getpid());
            rustix::process::set_child_subreaper(this)
                .map_err(|error| AttendError::Subreaper(error.into()))?;
        }
        sys::signalfd::block_all().map_err(AttendError::Signals)?;
        let signals = sys::signalfd::open().map_err(AttendError::Signals)?;
        Ok(Self { signals })
    }

    /// Stays with the process `pid` to its end; returns its exit code, or 128 and its signal.
    pub(crate) fn attend(
        &self,
        pid: i32,
        pidfd: BorrowedFd<'_>,
        console: Option<OwnedFd>,
    ) -> Result<u8, AttendError> {
        let proxy = console.map(Proxy::new).transpose();
        let mut proxy = proxy.map_err(AttendError::Terminal)?;
        loop {
            // It may have ended before its signal was looked for.
            if let Some(code) = reap(pid)? {
                if let Some(proxy) = proxy.as_mut() {
                    proxy.finish();
                }
                return Ok(code);
            }
            self.wait(proxy.as_mut())?;
            while let Some(signal) =
                sys::signalfd::read(self.signals.as_fd()).map_err(AttendError::Signals)?
            {
                forward(signal, pidfd, proxy.as_ref());
            }
        }
    }

    /// Until a signal came; copies between the terminals meanwhile.
    fn wait(&self, proxy: Option<&mut Proxy>) -> Result<(), AttendError> {
        let Some(proxy) = proxy else {
            return wait_for(&mut [PollFd::new(&self.signals, PollFlags::IN)])
                .map_err(AttendError::Wait);
        };
        loop {
            let (signalled, ready) = proxy
                .poll(self.signals.as_fd())
                .map_err(AttendError::Wait)?;
            proxy.copy(ready);
            if signalled {
                return Ok(());
            }
        }
    }
}

fn wait_for(fds: &mut [PollFd<'_>]) -> io::Result<()> {
    rustix::io::retry_on_intr(|| poll(fds, None))?;
    Ok(())
}

/// Reaps what has ended; the exit code if our process is among it.
fn reap(pid: i32) -> Result<Option<u8>, AttendError> {
    let mut code = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((ended, status))) if ended.as_raw_nonzero().get() == pid => {
                code = Some(exit_code(status));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(code),
            Err(error) => return Err(AttendError::Wait(error.into())),
        }
    }
}

fn exit_code(status: WaitStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    let code = status.exit_status().or(signal);
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255)
}

/// All but what concerns this program alone.
fn forward(signal: i32, pidfd: BorrowedFd<'_>, proxy: Option<&Proxy>) {
    match signal {
        // SIGURG and SIGPIPE mean nothing to anybody else either.
        libc::SIGCHLD | libc::SIGURG | libc::SIGPIPE => {}
        libc::SIGWINCH => {
            if let Some(proxy) = proxy {
                proxy.resize();
            }
        }
        signal => {
            // It may have ended.
            let _ = sys::pidfd::send_signal(pidfd, signal);
        }
    }
}

/// The size of whichever of our streams is a terminal.
pub(crate) fn own_size() -> Option<Winsize> {
    let ours = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    ours.into_iter().find_map(|fd| tcgetwinsize(fd).ok())
}

/// Copies between the caller's terminal and the process's.
#[derive(Debug)]
struct Proxy {
    console: OwnedFd,
    /// What the caller's terminal was like, to be so again.
    before: Option<Termios>,
    /// Read from the caller, and not yet taken by the process.
    typed: Vec<u8>,
    input_open: bool,
    output_open: bool,
}

/// What can be done without waiting.
#[derive(Clone, Copy, Debug)]
struct Ready {
    typed: bool,
    shown: bool,
    taken: bool,
}

impl Proxy {
    fn new(console: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&console)?;
        rustix::fs::fcntl_setfl(&console, flags | rustix::fs::OFlags::NONBLOCK)?;
        let stdin = rustix::stdio::stdin();
        let before = if isatty(stdin) {
            let before = tcgetattr(stdin)?;
            let mut raw = before.clone();
            raw.make_raw();
            raw.output_modes.insert(OutputModes::OPOST);
            tcsetattr(stdin, OptionalActions::Now, &raw)?;
            Some(before)
        } else {
            None
        };
        Ok(Self {
            console,
            before,
            typed: Vec::new(),
            input_open: true,
            output_open: true,
        })
    }

    fn resize(&self) {
        if let Some(size) = own_size() {
            // One that has ended has no size.
            let _ = tcsetwinsize(&self.console, size);
        }
    }

    /// Waits for a signal, or for something to copy.
    fn poll(&self, signals: BorrowedFd<'_>) -> io::Result<(bool, Ready)> {
        let stdin = rustix::stdio::stdin();
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.output_open);
        wanted.set(PollFlags::OUT, !self.typed.is_empty());
        let mut fds = vec![PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        if self.output_open {
            fds.push(PollFd::new(&self.console, wanted));
        }
        if self.input_open && self.typed.is_empty() {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        wait_for(&mut fds)?;
        let mut seen = fds.iter().map(PollFd::revents);
        let signalled = seen.next().is_some_and(|seen| !seen.is_empty());
        let console = if self.output_open { seen.next() } else { None };
        let console = console.unwrap_or(PollFlags::empty());
        let ready = Ready {
            typed: seen.next().is_some_and(|seen| !seen.is_empty()),
            shown: console.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            taken: console.contains(PollFlags::OUT),
        };
        Ok((signalled, ready))
    }

    fn copy(&mut self, ready: Ready) {
        if ready.typed {
            let mut bytes = [0; COPY_BYTES];
            match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
                Ok(0) => self.input_open = false,
                Ok(length) => self.typed.extend_from_slice(&bytes[..length]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => self.input_open = false,
            }
        }
        if ready.taken || (ready.typed && !self.typed.is_empty()) {
            match rustix::io::write(&self.console, &self.typed) {
                Ok(length) => {
                    self.typed.drain(..length);
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => {
                    self.typed.clear();
                    self.input_open = false;
                }
            }
        }
        if ready.shown {
            self.show();
        }
    }

    /// Copies what the process printed; whether there was anything.
    fn show(&mut self) -> bool {
        let mut bytes = [0; COPY_BYTES];
        match rustix::io::read(&self.console, &mut bytes) {
            Ok(length) if length > 0 => {
                // Nobody may be left to see it.
                let _ = io::stdout().write_all(&bytes[..length]);
                let _ = io::stdout().flush();
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // EIO: nobody holds the other side.
            Ok(_) | Err(_) => {
                self.output_open = false;
                false
            }
        }
    }

    /// What was printed before the end, and is not read yet.
    fn finish(&mut self) {
        while self.output_open && self.show() {}
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nothing more can be done for the caller's terminal.
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}
