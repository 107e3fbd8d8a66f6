//! `WWW-Authenticate`: what a registry wants as a proof (RFC 9110 §11.6.1).
//!
//! The header is a stranger's. A reader takes what it understands, in bounds, and stops at the first
//! thing that it does not; nothing that follows is guessed at.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// Bytes of one header that are looked at; real ones have a few hundred.
const HEADER_BYTES: usize = 8 * 1024;
/// Challenges that are looked at, over all headers.
const CHALLENGES: usize = 16;
/// Parameters of one challenge that are kept.
const PARAMETERS: usize = 16;

/// One way to prove oneself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// `bearer`, `basic`, …: in lower case.
    pub(super) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// All that the headers hold, in their order.
    pub(super) fn all(headers: &HeaderMap) -> Vec<Self> {
        let mut found = Vec::new();
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let bytes = value.as_bytes();
            let mut reader = Reader {
                rest: &bytes[..bytes.len().min(HEADER_BYTES)],
            };
            while found.len() < CHALLENGES && reader.read_into(&mut found).is_some() {}
        }
        found.truncate(CHALLENGES);
        found
    }

    /// A parameter by its name in lower case; the first, if it is there twice.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let mut parameters = self.parameters.iter();
        parameters
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    /// Reads the next word: a scheme, or a parameter of the last challenge. `None` at the end or
    /// where it does not understand.
    fn read_into(&mut self, found: &mut Vec<Challenge>) -> Option<()> {
        self.skip(|b| matches!(b, b' ' | b'\t' | b','));
        let word = self.take(is_word)?.to_ascii_lowercase();
        self.skip(is_blank);
        if self.rest.first() != Some(&b'=') {
            found.push(Challenge {
                scheme: word,
                parameters: Vec::new(),
            });
            return Some(());
        }
        self.rest = &self.rest[1..];
        self.skip(is_blank);
        let value = match self.rest.first() {
            Some(b'"') => self.quoted()?,
            // The padding of a token68, which no scheme known here has.
            None | Some(b'=' | b',') => {
                self.skip(|b| b == b'=');
                return Some(());
            }
            Some(_) => self.take(|b| is_word(b) || b"/:+".contains(&b))?,
        };
        let challenge = found.last_mut()?;
        if challenge.parameters.len() < PARAMETERS {
            challenge.parameters.push((word, value));
        }
        Some(())
    }

    fn skip(&mut self, wanted: impl Fn(u8) -> bool) {
        let count = self.rest.iter().take_while(|b| wanted(**b)).count();
        self.rest = &self.rest[count..];
    }

    fn take(&mut self, wanted: impl Fn(u8) -> bool) -> Option<String> {
        let count = self.rest.iter().take_while(|b| wanted(**b)).count();
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        (count > 0).then(|| String::from_utf8_lossy(taken).into_owned())
    }

    fn quoted(&mut self) -> Option<String> {
        let mut text = Vec::new();
        let mut bytes = self.rest[1..].iter().enumerate();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    // One for the quote before, one for this one.
                    self.rest = &self.rest[at + 2..];
                    return Some(String::from_utf8_lossy(&text).into_owned());
                }
                b'\\' => text.push(*bytes.next()?.1),
                other => text.push(*other),
            }
        }
        None
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// What tokens are made of.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn read(texts: &[&[u8]]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(text).unwrap());
        }
        Challenge::all(&headers)
    }

    fn check(text: &str, expected: &[(&str, &[(&str, &str)])]) {
        let read = read(&[text.as_bytes()]);
        let read: Vec<(&str, Vec<(&str, &str)>)> = read
            .iter()
            .map(|challenge| {
                let parameters = challenge.parameters.iter();
                let parameters = parameters.map(|(k, v)| (k.as_str(), v.as_str()));
                (challenge.scheme.as_str(), parameters.collect())
            })
            .collect();
        let expected: Vec<_> = expected.iter().map(|(s, p)| (*s, p.to_vec())).collect();
        assert_eq!(read, expected, "{text}");
    }

    #[test]
    fn what_registries_send_is_understood() {
        check(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull,push""#,
            &[(
                "bearer",
                &[
                    ("realm", "https://auth.docker.io/token"),
                    ("service", "registry.docker.io"),
                    ("scope", "repository:library/x:pull,push"),
                ],
            )],
        );
        check(
            r#"Basic realm="Registry Realm""#,
            &[("basic", &[("realm", "Registry Realm")])],
        );
        check("BASIC realm=x", &[("basic", &[("realm", "x")])]);
        check(
            r#"Negotiate, Basic realm="a \"b\"" , Bearer realm = https://x:1/y,service="z""#,
            &[
                ("negotiate", &[]),
                ("basic", &[("realm", "a \"b\"")]),
                ("bearer", &[("realm", "https://x:1/y"), ("service", "z")]),
            ],
        );
    }

    #[test]
    fn a_token_after_a_scheme_hides_no_later_challenge() {
        let found = read(&[b"Negotiate YII+/a==, Basic realm=\"x\""]);
        assert_eq!(found.last().unwrap().scheme, "basic");
        assert_eq!(found.last().unwrap().parameter("realm"), Some("x"));
    }

    #[test]
    fn reading_stops_where_it_makes_no_sense() {
        check("", &[]);
        check("realm=\"x\"", &[]);
        check(r#"Basic realm="x"#, &[("basic", &[])]);
        check(r#"Basic realm="x\"#, &[("basic", &[])]);
        check("Basic (realm)", &[("basic", &[])]);
    }

    #[test]
    fn strangers_cannot_make_it_grow() {
        let many = "a,".repeat(10_000);
        assert!(read(&[many.as_bytes(), many.as_bytes()]).len() <= CHALLENGES);
        let wide = format!("a {}", "b=c,".repeat(10_000));
        assert!(read(&[wide.as_bytes()])[0].parameters.len() <= PARAMETERS);
        let long = format!("a b=\"{}\"", "c".repeat(100_000));
        assert_eq!(read(&[long.as_bytes()])[0].parameter("b"), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.append(WWW_AUTHENTICATE, value);
                let _ = Challenge::all(&headers);
            }
        }

        #[test]
        fn a_quoted_value_is_read_back(value in "[ -~]{0,80}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let found = read(&[format!("Bearer realm=\"{quoted}\"").as_bytes()]);
            prop_assert_eq!(found[0].parameter("realm"), Some(value.as_str()));
        }
    }
}
