//! The caller's terminal: raw mode that always ends, its size, and the keys that detach.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::termios::{self, OptionalActions, Termios};

use crate::failure::{Failure, Result};

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    termios::isatty(rustix::stdio::stdin())
}

/// Whether standard output is a terminal.
pub fn stdout_is_terminal() -> bool {
    termios::isatty(rustix::stdio::stdout())
}

/// Rows and columns of the terminal that output goes to, or input comes from.
pub fn size() -> Option<(u16, u16)> {
    [rustix::stdio::stdout(), rustix::stdio::stdin()]
        .into_iter()
        .find_map(|fd| termios::tcgetwinsize(fd).ok())
        .map(|size| (size.ws_row, size.ws_col))
        .filter(|(rows, columns)| *rows > 0 && *columns > 0)
}

/// Raw mode of the terminal at standard input; dropping it gives back what was before, on every
/// way out.
#[derive(Debug)]
pub struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Switches to raw mode. `None` if standard input is no terminal.
    pub fn enter() -> Result<Option<Self>> {
        if !stdin_is_terminal() {
            return Ok(None);
        }
        let failed =
            |error: rustix::io::Errno| Failure::new(format!("set up the terminal: {error}"));
        // A descriptor of its own, in case standard input is closed or replaced meanwhile.
        let terminal = rustix::stdio::stdin()
            .try_clone_to_owned()
            .map_err(|error| Failure::new(format!("set up the terminal: {error}")))?;
        let before = termios::tcgetattr(&terminal).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        // Docker leaves output processing on only for Windows; one byte wakes a read.
        raw.special_codes[termios::SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[termios::SpecialCodeIndex::VTIME] = 0;
        termios::tcsetattr(terminal.as_fd(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to give back.
        let _ = termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// The keys that detach, as Docker counts them unless told otherwise: ctrl-p, ctrl-q.
const DETACH: [u8; 2] = [16, 17];

/// Finds the keys that detach in what is typed, and holds back what may be their beginning.
#[derive(Clone, Debug)]
pub struct Detach {
    keys: Vec<u8>,
    matched: usize,
}

impl Detach {
    /// `keys` as after `--detach-keys`; empty text means the usual ones.
    pub fn new(keys: &str) -> Result<Self> {
        let keys = if keys.is_empty() {
            DETACH.to_vec()
        } else {
            parse_keys(keys).map_err(Failure::new)?
        };
        Ok(Self { keys, matched: 0 })
    }

    /// Takes what was typed; returns what to send, and whether to detach.
    pub fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut send = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte != self.keys[self.matched] {
                // What was held back was no beginning; this byte may be one.
                send.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (send, true);
                }
            } else {
                send.push(byte);
            }
        }
        (send, false)
    }

    /// What is held back, for the end of input.
    pub fn rest(&mut self) -> Vec<u8> {
        let rest = self.keys[..self.matched].to_vec();
        self.matched = 0;
        rest
    }
}

/// Reads `ctrl-p,ctrl-q` or plain characters.
pub fn parse_keys(text: &str) -> std::result::Result<Vec<u8>, String> {
    text.split(',')
        .map(|key| match key.strip_prefix("ctrl-") {
            Some(letter) => match letter.as_bytes() {
                [letter @ b'a'..=b'z'] => Ok(letter - b'a' + 1),
                [b'@'] => Ok(0),
                [b'['] => Ok(27),
                [b'\\'] => Ok(28),
                [b']'] => Ok(29),
                [b'^'] => Ok(30),
                [b'_'] => Ok(31),
                _ => Err(format!("unknown character: '{key}'")),
            },
            None => match key.as_bytes() {
                [byte] => Ok(*byte),
                _ => Err(format!("unknown character: '{key}'")),
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_understood() {
        assert_eq!(parse_keys("ctrl-p,ctrl-q"), Ok(vec![16, 17]));
        assert_eq!(parse_keys("a,ctrl-@,ctrl-["), Ok(vec![b'a', 0, 27]));
        for text in ["ctrl-", "ctrl-1", "ab", ""] {
            assert!(parse_keys(text).is_err(), "{text}");
        }
    }

    fn check(pieces: &[&[u8]], wanted: &[u8], detached: bool) {
        let mut detach = Detach::new("").unwrap();
        let mut sent = Vec::new();
        let mut done = false;
        for piece in pieces {
            let (send, end) = detach.filter(piece);
            sent.extend(send);
            done |= end;
        }
        assert_eq!((sent.as_slice(), done), (wanted, detached), "{pieces:?}");
    }

    #[test]
    fn keys_that_detach_are_found_and_others_pass() {
        check(&[b"ls\n"], b"ls\n", false);
        check(&[b"\x10\x11"], b"", true);
        check(&[b"\x10", b"\x11"], b"", true);
        check(&[b"a\x10", b"b"], b"a\x10b", false);
        check(&[b"\x10\x10\x11"], b"\x10", true);
        check(&[b"\x10"], b"", false);
        check(&[b"\x10x\x10\x11"], b"\x10x", true);
    }

    #[test]
    fn what_is_held_back_is_sent_at_the_end() {
        let mut detach = Detach::new("ctrl-a,b").unwrap();
        assert_eq!(detach.filter(b"\x01"), (vec![], false));
        assert_eq!(detach.rest(), [1]);
    }
}
