//! Flags as runc reads them, which is as Go's `flag` package does: one dash or two, `--name value`
//! or `--name=value`, a switch alone or with `=true`. Tables of [`Flag`] say what a command knows;
//! its help is written from the same tables.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// One flag.
#[derive(Debug)]
pub(crate) struct Flag {
    /// Long, and perhaps a letter.
    pub(crate) names: &'static [&'static str],
    /// A switch takes no value.
    pub(crate) takes_value: bool,
    pub(crate) help: &'static str,
}

impl Flag {
    pub(crate) const fn switch(names: &'static [&'static str], help: &'static str) -> Self {
        Self {
            names,
            takes_value: false,
            help,
        }
    }

    pub(crate) const fn value(names: &'static [&'static str], help: &'static str) -> Self {
        Self {
            names,
            takes_value: true,
            help,
        }
    }
}

/// Why the words mean nothing. Texts are those of Go's `flag` package.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    #[error("invalid boolean value {value:?} for -{flag}: parse error")]
    Switch { flag: String, value: String },
    #[error("invalid value {value:?} for flag -{flag}: {reason}")]
    Value {
        flag: &'static str,
        value: String,
        reason: String,
    },
    #[error("{0:?} is not text")]
    NotText(OsString),
}

/// What was typed, sorted.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    flags: Vec<(&'static str, OsString)>,
    /// What is no flag.
    pub(crate) operands: Vec<OsString>,
}

/// Where flags may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Only before the first operand: what follows belongs to somebody else.
    FlagsFirst,
    /// Anywhere.
    Mixed,
}

/// Sorts `words` by what `known` says.
pub(crate) fn parse(
    known: &[Flag],
    order: Order,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Arguments, ArgumentError> {
    let mut arguments = Arguments::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let Some(name) = flag_name(&word) else {
            arguments.operands.push(word);
            if order == Order::FlagsFirst {
                break;
            }
            continue;
        };
        if name.is_empty() {
            break;
        }
        let (name, attached) = split_value(name);
        let said = name.to_string_lossy().into_owned();
        let known = known.iter();
        let flag = known
            .into_iter()
            .find(|flag| flag.names.iter().any(|known| name == *known))
            .ok_or_else(|| ArgumentError::Unknown(said.clone()))?;
        let value = match (flag.takes_value, attached) {
            (_, Some(value)) => value,
            (false, None) => OsString::from("true"),
            (true, None) => words.next().ok_or(ArgumentError::NoValue(said))?,
        };
        arguments.flags.push((flag.names[0], value));
    }
    arguments.operands.extend(words);
    Ok(arguments)
}

/// What follows the dashes; empty for `--`. A lone dash is an operand.
fn flag_name(word: &OsStr) -> Option<&OsStr> {
    let rest = word.as_bytes().strip_prefix(b"-")?;
    if rest.is_empty() {
        return None;
    }
    Some(OsStr::from_bytes(rest.strip_prefix(b"-").unwrap_or(rest)))
}

fn split_value(name: &OsStr) -> (&OsStr, Option<OsString>) {
    let bytes = name.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (
            OsStr::from_bytes(&bytes[..at]),
            Some(OsString::from_vec(bytes[at + 1..].to_vec())),
        ),
        None => (name, None),
    }
}

impl Arguments {
    /// The value of a flag that is given once; of several the last.
    pub(crate) fn value(&self, name: &str) -> Option<&OsStr> {
        self.values(name).next_back()
    }

    /// The values of a flag that may be given often, in their order.
    pub(crate) fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &OsStr> {
        let given = self.flags.iter().filter(move |(known, _)| *known == name);
        given.map(|(_, value)| value.as_os_str())
    }

    /// [`Self::value`], which must be UTF-8.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, ArgumentError> {
        self.value(name).map(text).transpose()
    }

    /// [`Self::values`], which must be UTF-8.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<&str>, ArgumentError> {
        self.values(name).map(text).collect()
    }

    /// Whether a switch is on.
    pub(crate) fn switch(&self, name: &str) -> Result<bool, ArgumentError> {
        Ok(self.choice(name)?.unwrap_or(false))
    }

    /// Whether a switch is on, off, or not given.
    pub(crate) fn choice(&self, name: &str) -> Result<Option<bool>, ArgumentError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match value.to_str() {
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            _ => Err(ArgumentError::Switch {
                flag: name.to_owned(),
                value: value.to_string_lossy().into_owned(),
            }),
        }
    }

    /// A flag whose value is a number, or anything else that is read from text.
    pub(crate) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, ArgumentError> {
        let Some(value) = self.text(name)? else {
            return Ok(None);
        };
        match value.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(reason) => Err(ArgumentError::Value {
                flag: name,
                value: value.to_owned(),
                reason: T::Err::to_string(&reason),
            }),
        }
    }
}

pub(crate) fn text(value: &OsStr) -> Result<&str, ArgumentError> {
    value
        .to_str()
        .ok_or_else(|| ArgumentError::NotText(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag::value(&["bundle", "b"], ""),
        Flag::value(&["env", "e"], ""),
        Flag::switch(&["detach", "d"], ""),
    ];

    fn parsed(order: Order, words: &[&str]) -> Result<Arguments, ArgumentError> {
        parse(FLAGS, order, words.iter().map(OsString::from))
    }

    #[test]
    fn every_spelling_of_a_flag_is_read() {
        for words in [
            &["--bundle", "x"][..],
            &["--bundle=x"],
            &["-bundle", "x"],
            &["-b", "x"],
            &["-b=x"],
            &["--b", "x"],
            &["-b", "y", "-b", "x"],
        ] {
            let arguments = parsed(Order::Mixed, words).unwrap();
            assert_eq!(arguments.value("bundle").unwrap(), "x", "{words:?}");
        }
    }

    #[test]
    fn flags_are_found_behind_operands_where_nothing_else_follows() {
        let arguments = parsed(Order::Mixed, &["id", "-d", "--", "-b"]).unwrap();
        assert_eq!(arguments.operands, ["id", "-b"]);
        assert_eq!(arguments.switch("detach"), Ok(true));
        let arguments = parsed(Order::FlagsFirst, &["-d", "id", "ls", "-b"]).unwrap();
        assert_eq!(arguments.operands, ["id", "ls", "-b"]);
    }

    #[test]
    fn a_flag_may_be_given_often() {
        let arguments = parsed(Order::FlagsFirst, &["-e", "A=1", "--env=B=2"]).unwrap();
        assert_eq!(arguments.texts("env").unwrap(), ["A=1", "B=2"]);
    }

    #[test]
    fn what_means_nothing_is_refused_in_gos_words() {
        let said = |words| parsed(Order::Mixed, words).unwrap_err().to_string();
        assert_eq!(said(&["--foo"]), "flag provided but not defined: -foo");
        assert_eq!(said(&["-b"]), "flag needs an argument: -b");
        let arguments = parsed(Order::Mixed, &["-d=maybe"]).unwrap();
        assert_eq!(
            arguments.switch("detach").unwrap_err().to_string(),
            "invalid boolean value \"maybe\" for -detach: parse error"
        );
        assert_eq!(
            parsed(Order::Mixed, &["-d=false"])
                .unwrap()
                .switch("detach"),
            Ok(false)
        );
    }
}
