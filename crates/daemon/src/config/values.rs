//! The command line and `daemon.json` become one set of values.
//!
//! An option that is given in both places is refused, since neither can be right; so is a key that
//! nobody knows.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use serde_json::Value as Json;
use vocab::{Failure, Kind};

use super::options::{Effect, Known, OPTIONS, Takes};

/// The most bytes of a configuration file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What an option was set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// One text.
    Text(String),
    /// True or false.
    Switch(bool),
    /// A whole number.
    Number(u64),
    /// Texts in order.
    List(Vec<String>),
    /// Texts by key.
    Map(BTreeMap<String, String>),
}

impl Value {
    /// The same as people write it.
    fn written(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Switch(on) => on.to_string(),
            Self::Number(number) => number.to_string(),
            Self::List(items) => items.join(","),
            Self::Map(items) => {
                let items: Vec<_> = items.iter().map(|(k, v)| format!("{k}={v}")).collect();
                items.join(",")
            }
        }
    }
}

/// What was set, by flag name (by key where there is no flag).
pub(crate) type Values = BTreeMap<&'static str, Value>;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line does not parse; the text is clap's.
    #[error("{0}")]
    CommandLine(String),
    /// Something about a file.
    #[error("unable to configure the daemon with file {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What.
        source: Box<ConfigError>,
    },
    /// The file cannot be read.
    #[error("read it")]
    Read(#[source] io::Error),
    /// The file is no JSON object.
    #[error(transparent)]
    Parse(#[from] serde_json::Error),
    /// The file is longer than any configuration.
    #[error("it is longer than {MAX_FILE_BYTES} bytes")]
    TooLong,
    /// Keys that nobody knows.
    #[error(
        "the following directives don't match any configuration option: {}",
        .0.join(", ")
    )]
    Unknown(Vec<String>),
    /// Given in both places.
    #[error(
        "the following directives are specified both as a flag and in the configuration file: {}",
        .0.join(", ")
    )]
    Twice(Vec<String>),
    /// It has no effect, or not this value.
    #[error("{option}: {sentence}")]
    Refused {
        /// As it was given.
        option: String,
        /// Why.
        sentence: String,
    },
    /// It takes another kind of value.
    #[error("{option}: {wanted} is wanted, not `{given}`")]
    Value {
        /// As it was given.
        option: String,
        /// What was given.
        given: String,
        /// What would be right.
        wanted: &'static str,
    },
}

impl Failure for ConfigError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

/// The command line, with every option of the table.
pub(crate) fn command() -> Command {
    let mut command = Command::new("berth daemon")
        .about("The engine: serves the Engine API on a unix socket, and on TCP if asked to")
        .disable_version_flag(true)
        .max_term_width(100);
    for known in OPTIONS.iter().filter(|known| !known.flag.is_empty()) {
        let mut arg = Arg::new(known.flag)
            .long(known.flag)
            .help(known.meaning)
            .hide(matches!(known.effect, Effect::Refused(_)));
        if let Some(short) = known.short {
            arg = arg.short(short);
        }
        arg = match known.takes {
            Takes::Switch => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .action(ArgAction::Set),
            Takes::Text | Takes::Number | Takes::Bytes => arg.action(ArgAction::Set),
            _ => arg.action(ArgAction::Append),
        };
        command = command.arg(arg);
    }
    command
}

/// Reads the command line (without the program's name).
pub(crate) fn from_command_line(args: &[OsString]) -> Result<Values, clap::Error> {
    let name = OsString::from("berth daemon");
    let matches = command().try_get_matches_from(std::iter::once(&name).chain(args))?;
    let mut values = Values::new();
    for known in OPTIONS.iter().filter(|known| !known.flag.is_empty()) {
        let Some(given) = matches.get_many::<String>(known.flag) else {
            continue;
        };
        let given: Vec<String> = given.cloned().collect();
        let value = from_words(known, given).map_err(|error| {
            clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("{error}\n"))
        })?;
        values.insert(known.flag, value);
    }
    Ok(values)
}

fn from_words(known: &Known, given: Vec<String>) -> Result<Value, ConfigError> {
    let option = || format!("--{}", known.flag);
    let wrong = |given: &str, wanted| ConfigError::Value {
        option: option(),
        given: given.to_owned(),
        wanted,
    };
    let last = given.last().cloned().unwrap_or_default();
    Ok(match known.takes {
        Takes::Text => Value::Text(last),
        Takes::Switch => match last.as_str() {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Value::Switch(true),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Value::Switch(false),
            other => return Err(wrong(other, "true or false")),
        },
        Takes::Number => Value::Number(last.parse().map_err(|_| wrong(&last, "a whole number"))?),
        Takes::Bytes => {
            Value::Number(parse_bytes(&last).ok_or_else(|| wrong(&last, "a size such as 64m"))?)
        }
        Takes::List | Takes::Ulimits | Takes::Pools | Takes::Mirrors | Takes::Anything => {
            Value::List(given)
        }
        Takes::Map => {
            let pairs = given.iter().map(|pair| {
                let (key, value) = pair
                    .split_once('=')
                    .ok_or_else(|| wrong(pair, "key=value"))?;
                Ok((key.to_owned(), value.to_owned()))
            });
            Value::Map(pairs.collect::<Result<_, ConfigError>>()?)
        }
    })
}

/// Reads `daemon.json`. A file that is not there says nothing, unless it was named (`must`).
pub(crate) fn from_file(path: &Path, must: bool) -> Result<Values, ConfigError> {
    let json = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must => return Ok(Values::new()),
        Err(error) => return Err(ConfigError::Read(error)),
        Ok(found) if found.len() > MAX_FILE_BYTES => return Err(ConfigError::TooLong),
        Ok(_) => std::fs::read(path).map_err(ConfigError::Read)?,
    };
    from_json(&json)
}

fn from_json(json: &[u8]) -> Result<Values, ConfigError> {
    // An empty file says nothing, as in dockerd.
    if json.iter().all(u8::is_ascii_whitespace) {
        return Ok(Values::new());
    }
    let object: BTreeMap<String, Json> = serde_json::from_slice(json)?;
    let mut values = Values::new();
    let mut unknown = Vec::new();
    for (key, value) in object {
        match OPTIONS
            .iter()
            .find(|known| known.key == key && !key.is_empty())
        {
            None => unknown.push(key),
            Some(known) => {
                let name = if known.flag.is_empty() {
                    known.key
                } else {
                    known.flag
                };
                values.insert(name, from_member(known, &value)?);
            }
        }
    }
    if unknown.is_empty() {
        Ok(values)
    } else {
        Err(ConfigError::Unknown(unknown))
    }
}

fn from_member(known: &Known, value: &Json) -> Result<Value, ConfigError> {
    let wrong = |wanted| ConfigError::Value {
        option: known.key.to_owned(),
        given: value.to_string(),
        wanted,
    };
    let text = |value: &Json, wanted| {
        value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| wrong(wanted))
    };
    Ok(match known.takes {
        Takes::Text => Value::Text(text(value, "a text")?),
        Takes::Switch => Value::Switch(value.as_bool().ok_or_else(|| wrong("true or false"))?),
        Takes::Number => Value::Number(value.as_u64().ok_or_else(|| wrong("a whole number"))?),
        Takes::Bytes => match value {
            Json::Number(number) => Value::Number(number.as_u64().ok_or_else(|| wrong("a size"))?),
            Json::String(text) => {
                Value::Number(parse_bytes(text).ok_or_else(|| wrong("a size such as 64m"))?)
            }
            _ => return Err(wrong("a size such as \"64m\"")),
        },
        Takes::List => {
            let items = value.as_array().ok_or_else(|| wrong("a list of texts"))?;
            let items = items.iter().map(|item| text(item, "a list of texts"));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Takes::Map => {
            let members = value
                .as_object()
                .ok_or_else(|| wrong("an object of texts"))?;
            let members = members
                .iter()
                .map(|(key, item)| Ok((key.clone(), text(item, "an object of texts")?)));
            Value::Map(members.collect::<Result<_, ConfigError>>()?)
        }
        Takes::Ulimits => {
            const WANTED: &str =
                "an object such as {\"nofile\":{\"Name\":\"nofile\",\"Soft\":1,\"Hard\":2}}";
            let members = value.as_object().ok_or_else(|| wrong(WANTED))?;
            let members = members.iter().map(|(name, limit)| {
                let number = |key: &str| limit.get(key).and_then(Json::as_i64);
                let soft = number("Soft").ok_or_else(|| wrong(WANTED))?;
                let hard = number("Hard").ok_or_else(|| wrong(WANTED))?;
                Ok(format!("{name}={soft}:{hard}"))
            });
            Value::List(members.collect::<Result<_, ConfigError>>()?)
        }
        Takes::Pools => {
            const WANTED: &str = "a list such as [{\"base\":\"10.10.0.0/16\",\"size\":24}]";
            let items = value.as_array().ok_or_else(|| wrong(WANTED))?;
            let items = items.iter().map(|pool| {
                let base = pool
                    .get("base")
                    .and_then(Json::as_str)
                    .ok_or_else(|| wrong(WANTED))?;
                let size = pool
                    .get("size")
                    .and_then(Json::as_u64)
                    .ok_or_else(|| wrong(WANTED))?;
                Ok(format!("base={base},size={size}"))
            });
            Value::List(items.collect::<Result<_, ConfigError>>()?)
        }
        Takes::Mirrors => {
            const WANTED: &str = "an object such as {\"*.example.com\":[\"https://mirror\"]}";
            let members = value.as_object().ok_or_else(|| wrong(WANTED))?;
            let mut items = Vec::new();
            for (pattern, addresses) in members {
                let addresses = match addresses {
                    Json::Array(addresses) => addresses.as_slice(),
                    single => std::slice::from_ref(single),
                };
                for address in addresses {
                    items.push(format!("{pattern}={}", text(address, WANTED)?));
                }
            }
            Value::List(items)
        }
        Takes::Anything => Value::Text(value.to_string()),
    })
}

/// Both sources as one, and nothing in it that has no effect.
pub(crate) fn merge(flags: Values, file: Values) -> Result<Values, ConfigError> {
    let twice: Vec<String> = flags
        .iter()
        .filter_map(|(name, flag)| {
            let known = find(name);
            let in_file = file.get(name)?;
            Some(format!(
                "{}: (from flag: {}, from file: {})",
                known.key,
                flag.written(),
                in_file.written()
            ))
        })
        .collect();
    if !twice.is_empty() {
        return Err(ConfigError::Twice(twice));
    }
    let refuse = |option: String, sentence: String| ConfigError::Refused { option, sentence };
    for (values, dashes) in [(&flags, "--"), (&file, "")] {
        for (name, value) in values {
            let known = find(name);
            let option = match dashes {
                "" => known.key.to_owned(),
                _ => format!("--{name}"),
            };
            match known.effect {
                Effect::Works => {}
                Effect::Only(only, _) if value.written() == only => {}
                Effect::Only(only, why) => {
                    return Err(refuse(
                        option,
                        format!("only {only} is possible, because {why}"),
                    ));
                }
                Effect::Refused(why) => return Err(refuse(option, why.to_owned())),
            }
        }
    }
    let mut merged = flags;
    merged.extend(file);
    Ok(merged)
}

fn find(name: &str) -> &'static Known {
    OPTIONS
        .iter()
        .find(|known| known.flag == name || (known.flag.is_empty() && known.key == name))
        .expect("values are only ever made from the table")
}

/// A size as Docker reads it: 1024-based units, of which only the letter counts (`64m`, `64MiB`).
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(words: &[&str]) -> Values {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        from_command_line(&words).unwrap()
    }

    fn file(json: &str) -> Result<Values, String> {
        from_json(json.as_bytes()).map_err(|error| error.to_string())
    }

    fn merged(words: &[&str], json: &str) -> Result<Values, String> {
        merge(flags(words), file(json)?).map_err(|error| error.to_string())
    }

    #[test]
    fn both_sources_say_the_same_things() {
        let from_flags = merged(
            &[
                "-D",
                "-H",
                "unix:///a",
                "--host=tcp://b:1",
                "--default-shm-size=64m",
                "--default-ulimit=nofile=1:2",
                "--log-opt",
                "max-size=1m",
                "--mtu=1400",
                "--default-address-pool",
                "base=10.0.0.0/8,size=24",
            ],
            "",
        );
        let from_file = merged(
            &[],
            r#"{"debug":true,"hosts":["unix:///a","tcp://b:1"],"default-shm-size":"64M",
                "default-ulimits":{"nofile":{"Name":"nofile","Soft":1,"Hard":2}},
                "log-opts":{"max-size":"1m"},"mtu":1400,
                "default-address-pools":[{"base":"10.0.0.0/8","size":24}]}"#,
        );
        assert_eq!(from_flags, from_file);
        assert_eq!(
            from_flags.unwrap()["default-shm-size"],
            Value::Number(64 << 20)
        );
    }

    #[test]
    fn what_is_given_in_both_places_is_refused() {
        let refusal = merged(&["--debug"], r#"{"debug":false}"#).unwrap_err();
        assert_eq!(
            refusal,
            "the following directives are specified both as a flag and in the configuration file: \
             debug: (from flag: true, from file: false)"
        );
        assert!(merged(&["--label", "a"], r#"{"labels":["b"]}"#).is_err());
    }

    #[test]
    fn a_key_that_nobody_knows_is_named() {
        let refusal = file(r#"{"nope":1,"debug":true,"label":[]}"#).unwrap_err();
        assert_eq!(
            refusal,
            "the following directives don't match any configuration option: label, nope"
        );
    }

    #[test]
    fn what_has_no_effect_is_refused_and_what_is_so_anyway_is_accepted() {
        let refusal = merged(&["--userns-remap=default"], "").unwrap_err();
        assert_eq!(
            refusal,
            "--userns-remap: berth has no user namespace remapping yet"
        );
        let refusal = merged(&[], r#"{"userland-proxy":true}"#).unwrap_err();
        assert!(
            refusal.starts_with("userland-proxy: only false is possible"),
            "{refusal}"
        );
        assert!(merged(&["--userland-proxy=false"], r#"{"live-restore":true}"#).is_ok());
        assert!(merged(&[], r#"{"runtimes":{}}"#).is_err());
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused() {
        for json in [
            r#"{"debug":"yes"}"#,
            r#"{"hosts":"unix:///a"}"#,
            r#"{"mtu":-1}"#,
            r#"{"mtu":1.5}"#,
            r#"{"log-opts":{"max-file":3}}"#,
            r#"{"default-ulimits":{"nofile":1}}"#,
            "[]",
            "{",
            r#"{"default-shm-size":"big"}"#,
            r#"{"labels":[1]}"#,
        ] {
            assert!(file(json).is_err(), "{json}");
        }
        for words in [
            &["--mtu=x"][..],
            &["--debug=maybe"],
            &["--log-opt=x"],
            &["--nope"],
            &["x"],
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert!(from_command_line(&words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("64m", Some(64 << 20)),
            ("64MiB", Some(64 << 20)),
            ("1 g", Some(1 << 30)),
            ("1kb", Some(1024)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1x", None),
            ("99999999999t", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
    }
}
