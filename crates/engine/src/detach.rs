//! Keys that let a client leave a terminal without ending what runs in it.

/// Ctrl-P Ctrl-Q.
const DEFAULT: [u8; 2] = [0x10, 0x11];

/// The text names no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid detach keys ({0}) provided")]
pub struct KeysError(pub String);

/// A sequence of keys, and how much of it has been typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    typed: usize,
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q`, `a,b`; the default for nothing.
    pub(crate) fn read(text: Option<&str>) -> Result<Self, KeysError> {
        let keys = match text.filter(|text| !text.is_empty()) {
            None => DEFAULT.to_vec(),
            Some(text) => text
                .split(',')
                .map(key)
                .collect::<Option<_>>()
                .ok_or_else(|| KeysError(text.to_owned()))?,
        };
        Ok(Self { keys, typed: 0 })
    }

    /// What goes on to the process, and whether the sequence is complete. A beginning is held back
    /// until it is clear whether it is one.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte == self.keys[self.typed] {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    self.typed = 0;
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.typed]);
            self.typed = 0;
            if *byte == self.keys[0] {
                self.typed = 1;
                if self.keys.len() == 1 {
                    self.typed = 0;
                    return (passed, true);
                }
            } else {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

fn key(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] => Some(*byte),
        _ => match text.strip_prefix("ctrl-")?.as_bytes() {
            [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
            [b'@'] => Some(0),
            [b'['] => Some(27),
            [b'\\'] => Some(28),
            [b']'] => Some(29),
            [b'^'] => Some(30),
            [b'_'] => Some(31),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(keys: &str, pieces: &[&str], passed: &str, detached: bool) {
        let mut keys = DetachKeys::read(Some(keys)).unwrap();
        let mut seen = Vec::new();
        let mut over = false;
        for piece in pieces {
            let (bytes, done) = keys.pass(piece.as_bytes());
            seen.extend(bytes);
            over |= done;
        }
        assert_eq!(
            (String::from_utf8(seen).unwrap().as_str(), over),
            (passed, detached)
        );
    }

    #[test]
    fn the_sequence_is_found_wherever_it_is_cut() {
        check("", &["ab\x10\x11"], "ab", true);
        check("", &["ab\x10", "\x11"], "ab", true);
        check("", &["\x10", "x\x10"], "\x10x", false);
        check("", &["\x10\x10\x11"], "\x10", true);
        check("ctrl-a,x", &["\x01", "x"], "", true);
        check("q", &["abq"], "ab", true);
        check("ctrl-a,x", &["abc"], "abc", false);
    }

    #[test]
    fn what_names_no_keys_is_refused() {
        for text in ["ctrl-", "ctrl-ab", "ab", "a,,b", "ctrl-1"] {
            assert!(DetachKeys::read(Some(text)).is_err(), "{text}");
        }
    }
}
