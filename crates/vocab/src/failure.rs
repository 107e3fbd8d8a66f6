//! What a failure means, apart from what it says.
//!
//! Each operation has an error enum of its own; [`Failure::kind`] is all that the faces need to
//! choose a status or an exit code. Docker's own sentences are written beside the route that owes
//! them, never here.

use std::error::Error;
use std::fmt::Write as _;

/// Why a text is no number, as Go's `strconv` says it.
pub fn go_reason(error: &std::num::ParseIntError) -> &'static str {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

/// What a failure means to whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request itself cannot be right (HTTP 400).
    InvalidArgument,
    /// No credentials, or wrong ones (401).
    Unauthorized,
    /// Known, and not allowed (403).
    Forbidden,
    /// What was named is not there (404).
    NotFound,
    /// The state of something forbids it (409).
    Conflict,
    /// Already as asked (304).
    NotModified,
    /// Berth does not do this (501).
    NotImplemented,
    /// Cannot now, may later (503).
    Unavailable,
    /// Everything else: the host, the disk, a bug (500).
    Internal,
}

/// An error that knows what it means.
pub trait Failure: Error {
    /// What this failure means to the caller.
    fn kind(&self) -> Kind;
}

/// The whole chain of causes on one line, joined by `: `, the way users read it.
///
/// A cause that repeats the text of what it caused is left out, since some libraries print their
/// source inside their own message.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = said(error);
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = said(inner);
        if !text.ends_with(&said) {
            write!(text, ": {said}").expect("writing to a string cannot fail");
        }
        cause = inner.source();
    }
    text
}

/// One link of the chain; what the kernel said is put the way everybody else prints it: `no space
/// left on device` rather than `No space left on device (os error 28)`.
fn said(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    let Some((words, number)) = text
        .strip_suffix(')')
        .and_then(|rest| rest.rsplit_once(" (os error "))
    else {
        return text;
    };
    if number.is_empty() || !number.bytes().all(|digit| digit.is_ascii_digit()) {
        return text;
    }
    // Only a text that is the kernel's alone: in a longer one the capital is somebody else's.
    let mut letters = words.chars();
    match letters.next() {
        Some(first) if !words.contains(": ") => first.to_lowercase().chain(letters).collect(),
        _ => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_printed_as_go_prints_them() {
        let full = Outer(std::io::Error::from_raw_os_error(28));
        assert_eq!(chain(&full), "open `/x`: no space left on device");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("open `/x`")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_is_printed_once() {
        let inner = std::io::Error::other("no space left on device");
        assert_eq!(chain(&Outer(inner)), "open `/x`: no space left on device");
    }
}
