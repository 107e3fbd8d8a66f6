//! Standard output and standard error of the command line.
//!
//! The only place that writes to them. A reader that went away ends the command without a word, as
//! SIGPIPE would.

use std::io::{self, Write as _};

use crate::failure::{Failure, Result};

/// The exit code of a process that SIGPIPE ended.
const PIPE_CLOSED: u8 = 141;

/// Writes text to standard output.
pub fn out(text: &str) -> Result {
    bytes(text.as_bytes())
}

/// Writes a line to standard output.
pub fn line(text: impl std::fmt::Display) -> Result {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes bytes to standard output.
pub fn bytes(bytes: &[u8]) -> Result {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::silent(PIPE_CLOSED),
            _ => Failure::new(format!("write to standard output: {error}")),
        })
}

/// Writes bytes to standard error; whoever closed it does not want to know.
pub fn error_bytes(bytes: &[u8]) {
    let _ = io::stderr().lock().write_all(bytes);
}

/// Writes a line to standard error.
pub fn error(text: impl std::fmt::Display) {
    error_bytes(format!("{text}\n").as_bytes());
}
