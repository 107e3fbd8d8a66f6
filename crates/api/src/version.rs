//! API versions: two numbers, and the range of them that berth serves.

use std::fmt;
use std::str::FromStr;

/// The newest version that berth speaks, and what a path without a version means.
pub const NEWEST: Version = Version::new(1, 55);

/// The oldest version that berth accepts.
pub const OLDEST: Version = Version::new(1, 24);

/// A version of the Engine API, such as 1.47.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    major: u16,
    minor: u16,
}

impl Version {
    /// `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// What a client that speaks up to `self` uses with a daemon that speaks up to `theirs`.
    ///
    /// A daemon that does not say is older than negotiation itself, and spoke 1.24.
    pub fn negotiate(self, theirs: Option<Self>) -> Self {
        self.min(theirs.unwrap_or(OLDEST))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The text was not two numbers with a dot between them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an API version such as {NEWEST}")]
pub struct ParseVersionError(pub String);

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let parse = || {
            let (major, minor) = text.split_once('.')?;
            let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
            (digits(major) && digits(minor))
                .then(|| Some(Self::new(major.parse().ok()?, minor.parse().ok()?)))?
        };
        parse().ok_or_else(|| ParseVersionError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number_not_by_text() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("1.9") < version("1.24"));
        assert!(version("1.55") < version("2.0"));
        assert_eq!(version("1.41").to_string(), "1.41");
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in [
            "",
            "1",
            "1.",
            ".1",
            "1.2.3",
            "v1.2",
            "1.+2",
            "1.99999999",
            "a.b",
        ] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_older_of_both_sides_is_spoken() {
        assert_eq!(
            NEWEST.negotiate(Some(Version::new(1, 47))),
            Version::new(1, 47)
        );
        assert_eq!(NEWEST.negotiate(Some(Version::new(1, 99))), NEWEST);
        assert_eq!(NEWEST.negotiate(None), OLDEST);
    }
}
