//! Ids: 32 random bytes, printed as 64 hexadecimal digits, and what users type for them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Digits in the short form that lists print.
pub const SHORT_DIGITS: usize = 12;

/// The text was not 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an id: 64 hexadecimal digits are wanted")]
pub struct ParseIdError(pub String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            /// A new id from the kernel's random source.
            ///
            /// Its first twelve digits are never all decimal, because the short form also serves
            /// as a host name and a purely numeric one is not accepted everywhere.
            pub fn random() -> Self {
                loop {
                    let mut bytes = [0; 32];
                    getrandom::fill(&mut bytes).expect("the kernel's random source is always there");
                    let id = Self(bytes);
                    if id.short().bytes().any(|digit| digit.is_ascii_alphabetic()) {
                        return id;
                    }
                }
            }

            /// The first twelve digits, as lists print them.
            pub fn short(&self) -> String {
                let mut text = hex::encode(&self.0[..SHORT_DIGITS / 2]);
                text.truncate(SHORT_DIGITS);
                text
            }

            /// The 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; 32];
                let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) if lower => Ok(Self(bytes)),
                    _ => Err(ParseIdError(text.to_owned())),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

id!(
    /// A container.
    ContainerId
);
id!(
    /// A command started inside a running container.
    ExecId
);
id!(
    /// A network.
    NetworkId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_and_parses_as_64_digits() {
        let id = ContainerId::random();
        assert_eq!(id.to_string().len(), 64);
        assert_eq!(id.to_string().parse::<ContainerId>(), Ok(id));
        assert!(id.to_string().starts_with(&id.short()));
        assert_eq!(id.short().len(), SHORT_DIGITS);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "abc", &"A".repeat(64), &"g".repeat(64), &"a".repeat(65)] {
            assert!(text.parse::<ContainerId>().is_err(), "{text}");
        }
    }
}
