//! Standard input, output and error: what the process gets, and our ends of it.

use std::os::fd::OwnedFd;

/// What the process finds on descriptors 0, 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// `/dev/null`.
    Null,
    /// A pipe each for output and error; a pipe for input, or `/dev/null` without `stdin`.
    Pipes {
        /// Whether input is a pipe.
        stdin: bool,
    },
    /// A pseudo-terminal of the container's own devpts, controlling a session of its own.
    Terminal {
        /// Lines.
        rows: u16,
        /// Columns.
        columns: u16,
        /// Whether the end of a line is printed as carriage return and newline (ONLCR,
        /// termios(3)), as a new terminal does.
        carriage_returns: bool,
    },
    /// The caller's own three.
    Inherit,
}

/// Our ends of what the process got; all close-on-exec.
#[derive(Debug, Default)]
pub struct Streams {
    /// Written by us, read by the process.
    pub stdin: Option<OwnedFd>,
    /// Read by us.
    pub stdout: Option<OwnedFd>,
    /// Read by us.
    pub stderr: Option<OwnedFd>,
    /// The terminal's master side, both ways, instead of the three above.
    pub console: Option<OwnedFd>,
}
