//! Log drivers and their options: what Docker takes is taken, what it refuses is refused in its
//! words, and what only other programs could do is refused by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use monitor::{LocalLog, Log};
use regex::Regex;
use sinks::{Origin, Sink};
use vocab::config::LogConfig;

use super::Place;
use super::tag::{self, Subject};
use crate::containers::record::Record;
use crate::shared::Shared;

/// The drivers there are, `none` aside.
pub fn drivers() -> Vec<&'static str> {
    let mut names = vec!["json-file", "local"];
    names.extend(sinks::DRIVERS);
    names.sort_unstable();
    names
}

/// The tag of lines that go to a remote sink, if nobody wants another.
const TAG: &str = "{{.ID}}";

/// Bytes that may wait for a sink in mode `non-blocking` (Docker's default).
const MAX_BUFFER_BYTES: u64 = 1_000_000;

/// Bytes of lines in a file of a local log whose options name no other size (Docker's default).
const LOCAL_MAX_BYTES: u64 = 20_000_000;

/// Files of a local log whose options name no other number (Docker's default).
const LOCAL_MAX_FILES: u32 = 5;

/// Options of every driver.
const MODES: [&str; 2] = ["mode", "max-buffer-size"];

/// Options of what is kept here of lines that go elsewhere.
const CACHE: [&str; 4] = [
    "cache-disabled",
    "cache-max-size",
    "cache-max-file",
    "cache-compress",
];

/// Options of all drivers that can tell attributes.
const ATTRIBUTES: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];

/// Options of drivers that keep files.
const FILES: [&str; 3] = ["max-size", "max-file", "compress"];

type Options = BTreeMap<String, String>;

/// Why a driver or its options are not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DriverError {
    /// They make no sense, in Docker's words.
    Invalid(String),
    /// Docker does it, berth does not.
    NotYet(String),
}

/// What files a log is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Files {
    max_bytes: Option<u64>,
    max_files: u32,
    compress: bool,
}

/// Checks a driver and its options.
pub(crate) fn check(config: &LogConfig) -> Result<(), DriverError> {
    let invalid = |text: String| Err(DriverError::Invalid(text));
    let none = Options::new();
    let options = config.config.as_ref().unwrap_or(&none);
    if config.kind == "none" {
        return Ok(());
    }
    check_mode(options).map_err(DriverError::Invalid)?;
    let mut known = Vec::from(MODES);
    known.extend(CACHE);
    known.extend(ATTRIBUTES);
    match config.kind.as_str() {
        "" | "json-file" | "local" => known.extend(FILES),
        "awslogs" | "gcplogs" | "splunk" | "etwlogs" | "logentries" => {
            return Err(DriverError::NotYet(format!(
                "the log driver {} (it speaks to a service that only its vendor runs)",
                config.kind
            )));
        }
        other => {
            let Some(parsed) = sinks::Target::parse(other, &own_options(options)) else {
                return invalid(format!(
                    "error looking up logging plugin {other}: plugin \"{other}\" not found"
                ));
            };
            let checked = parsed.map(drop).map_err(|error| error.to_string());
            let checked = checked.and_then(|()| read_files("local", "cache-", options).map(drop));
            let checked = checked.and_then(|()| check_attributes(options));
            return checked.map_err(DriverError::Invalid);
        }
    }
    if let Some(unknown) = options.keys().find(|key| !known.contains(&key.as_str())) {
        return invalid(match config.kind.as_str() {
            "local" => format!("unknown log opt '{unknown}' for log driver local"),
            kind => format!("unknown log opt '{unknown}' for {kind} log driver"),
        });
    }
    let checked = files(&config.kind, options).map(drop);
    let checked = checked.and_then(|()| check_attributes(options));
    checked.map_err(DriverError::Invalid)?;
    if config.kind == "json-file" && flag(options, "compress") == Ok(Some(true)) {
        return Err(DriverError::NotYet(
            "compress=true of the log driver json-file (the driver local compresses)".to_owned(),
        ));
    }
    Ok(())
}

fn check_mode(options: &Options) -> Result<(), String> {
    let mode = options.get("mode").map_or("", String::as_str);
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return Err(format!("logger: logging mode not supported: {mode}"));
    }
    if let Some(size) = options.get("max-buffer-size") {
        if mode != "non-blocking" {
            return Err(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
                    .to_owned(),
            );
        }
        size_of(size, 1024)
            .map_err(|text| format!("error parsing option max-buffer-size: {text}"))?;
    }
    match flag(options, "cache-disabled") {
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "invalid value for option cache-disabled: {}",
            options["cache-disabled"]
        )),
    }
}

fn check_attributes(options: &Options) -> Result<(), String> {
    for key in ["labels-regex", "env-regex"] {
        pattern(options, key)?;
    }
    if let Some(template) = options.get("tag") {
        tag::render(template, &Subject::default())?;
    }
    Ok(())
}

fn pattern(options: &Options, key: &str) -> Result<Option<Regex>, String> {
    let text = options.get(key).filter(|text| !text.is_empty());
    let compiled = text.map(|text| Regex::new(text));
    let why = |error: regex::Error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        format!("{key}: {}", last.trim_start_matches("error: "))
    };
    compiled.transpose().map_err(why)
}

/// Go's `strconv.ParseBool`; nothing where there is nothing.
fn flag(options: &Options, key: &str) -> Result<Option<bool>, String> {
    match options.get(key).map(String::as_str) {
        None | Some("") => Ok(None),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
        Some(other) => Err(format!(
            "strconv.ParseBool: parsing {other:?}: invalid syntax"
        )),
    }
}

/// Bytes of `10m`, `1.5gb`, `500k`, `500`, with prefixes of 1,000 or 1,024.
fn size_of(text: &str, thousand: u32) -> Result<u64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let number_ends = text.rfind(|character: char| character.is_ascii_digit() || character == '.');
    let (number, unit) = text.split_at(number_ends.map_or(0, |place| place + 1));
    let number: f64 = number.trim().parse().map_err(|_| invalid())?;
    let unit = unit.trim().to_ascii_lowercase();
    let letter = match unit.as_str() {
        "" | "b" => return whole(number).ok_or_else(invalid),
        other => other
            .strip_suffix("ib")
            .or_else(|| other.strip_suffix('b'))
            .unwrap_or(other),
    };
    let place = ["k", "m", "g", "t", "p"]
        .iter()
        .position(|prefix| *prefix == letter);
    let power = place.ok_or_else(|| format!("invalid suffix: '{unit}'"))? + 1;
    let power = i32::try_from(power).map_err(|_| invalid())?;
    whole(number * f64::from(thousand).powi(power)).ok_or_else(invalid)
}

fn whole(number: f64) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "what is below zero or beyond is sorted out before"
    )]
    (0.0..9e18).contains(&number).then_some(number as u64)
}

/// Options that belong to the driver alone.
fn own_options(options: &Options) -> Options {
    let own = |key: &str| !MODES.contains(&key) && !CACHE.contains(&key);
    let own = options.iter().filter(|(key, _)| own(key));
    own.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Whether lines go on to a sink that is none of this host's files.
fn is_remote(kind: &str) -> bool {
    sinks::DRIVERS.contains(&kind)
}

/// What the options say of files: of the driver's own, or of those that lines wait in.
fn files(kind: &str, options: &Options) -> Result<Files, String> {
    match is_remote(kind) {
        true => read_files("local", "cache-", options),
        false => read_files(kind, "", options),
    }
}

fn read_files(kind: &str, prefix: &str, options: &Options) -> Result<Files, String> {
    let option = |key: &str| options.get(&format!("{prefix}{key}"));
    let local = kind != "json-file" && !kind.is_empty();
    let max_bytes = match option("max-size") {
        None => local.then_some(LOCAL_MAX_BYTES),
        // Endless, as json-file is when it says nothing.
        Some(text) if text == "-1" => None,
        Some(text) => match size_of(text, 1000)? {
            0 => return Err("max-size must be a positive number".to_owned()),
            bytes => Some(bytes),
        },
    };
    let max_files = match option("max-file") {
        None if local => LOCAL_MAX_FILES,
        None => 1,
        Some(text) => match text.parse::<u32>() {
            Ok(0) => return Err("max-file cannot be less than 1".to_owned()),
            Ok(files) => files,
            Err(_) if text.parse::<i64>().is_ok_and(|files| files < 1) => {
                return Err("max-file cannot be less than 1".to_owned());
            }
            Err(_) => {
                return Err(format!("strconv.Atoi: parsing {text:?}: invalid syntax"));
            }
        },
    };
    let compress = flag(options, &format!("{prefix}compress"))?;
    if !local && compress == Some(true) && (max_files < 2 || max_bytes.is_none()) {
        return Err(
            "compress cannot be true when max-file is less than 2 or max-size is not set"
                .to_owned(),
        );
    }
    Ok(Files {
        max_bytes,
        max_files,
        compress: compress.unwrap_or(local),
    })
}

/// Gives a container what the daemon decides for those that do not: the driver, and options where
/// the driver is the same, or which no driver owns.
pub(crate) fn fill_in(config: &mut LogConfig, default: &LogConfig) {
    if config.kind.is_empty() {
        config.kind.clone_from(&default.kind);
    }
    let same = config.kind == default.kind;
    let own = config.config.get_or_insert_default();
    for (key, value) in default.config.iter().flatten() {
        if (same || CACHE.contains(&key.as_str())) && !own.contains_key(key) {
            own.insert(key.clone(), value.clone());
        }
    }
}

fn options(record: &Record) -> Options {
    record.host.log_config.config.clone().unwrap_or_default()
}

/// What a template can name of this container.
fn subject(record: &Record, name: &str) -> Subject {
    let mut command = vec![record.path.clone()];
    command.extend(record.args.iter().cloned());
    Subject {
        id: record.id.to_string(),
        name: name.to_owned(),
        image_id: record.image.hex().to_owned(),
        image_name: record.config.image.clone(),
        command: command.join(" "),
        labels: record.labels(),
    }
}

/// Label and environment values that the options ask for.
fn attributes(record: &Record, options: &Options) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let env = record.config.env.as_deref().unwrap_or_default();
    let env = env.iter().filter_map(|variable| variable.split_once('='));
    let env = env.map(|(key, value)| (key.to_owned(), value.to_owned()));
    for (key, values) in [("labels", record.labels()), ("env", env.collect())] {
        let words = options.get(key).map(String::as_str).unwrap_or_default();
        let words: Vec<&str> = words.split(',').collect();
        let pattern = pattern(options, &format!("{key}-regex")).ok().flatten();
        let wanted = |name: &str| {
            words.contains(&name)
                || pattern
                    .as_ref()
                    .is_some_and(|pattern| pattern.is_match(name))
        };
        found.extend(values.into_iter().filter(|(name, _)| wanted(name)));
    }
    found
}

/// The directory of a log in blocks.
fn local_dir(shared: &Shared, record: &Record) -> PathBuf {
    shared.data_dir(&record.id).join("local-logs")
}

/// Where the log can be read, if it can.
pub(super) fn place(shared: &Shared, record: &Record) -> Option<Place> {
    match record.host.log_config.kind.as_str() {
        "none" => None,
        kind if is_remote(kind) && flag(&options(record), "cache-disabled") == Ok(Some(true)) => {
            None
        }
        "json-file" => Some(Place::JsonFile(shared.log_path(&record.id))),
        _ => Some(Place::Local(local_dir(shared, record))),
    }
}

/// What the monitor of a container is told.
pub(crate) fn log(shared: &Shared, record: &Record, name: &str) -> Log {
    let kind = record.host.log_config.kind.as_str();
    if kind == "none" {
        return Log::None;
    }
    let options = options(record);
    let mut attrs = attributes(record, &options);
    if let Some(template) = options.get("tag").filter(|template| !template.is_empty())
        && let Ok(tag) = tag::render(template, &subject(record, name))
    {
        attrs.insert("tag".to_owned(), tag);
    }
    // They were checked when the container was made; what an older berth took is endless.
    let files = files(kind, &options).unwrap_or(Files {
        max_bytes: None,
        max_files: 1,
        compress: true,
    });
    if kind == "json-file" {
        return Log::JsonFile {
            path: shared.log_path(&record.id),
            max_bytes: files.max_bytes,
            max_files: files.max_files,
            attrs,
        };
    }
    Log::Local(LocalLog {
        dir: local_dir(shared, record),
        max_bytes: files.max_bytes,
        max_files: files.max_files,
        compress: files.compress,
        attrs,
        hold: is_remote(kind) && !drops(&options),
    })
}

/// Whether lines may be dropped rather than hold up the container.
fn drops(options: &Options) -> bool {
    options
        .get("mode")
        .is_some_and(|mode| mode == "non-blocking")
}

/// A log that goes on to a remote sink.
pub(super) struct Remote {
    /// Where its lines wait.
    pub(super) dir: PathBuf,
    pub(super) sink: Sink,
    /// Bytes that may wait; without a bound the container waits instead.
    pub(super) max_buffer: Option<u64>,
    /// Whether the container may start before the sink answers.
    pub(super) connects_later: bool,
}

/// The sink that a container's lines go to, if they go to one.
pub(super) fn remote(shared: &Shared, record: &Record, name: &str) -> Option<Remote> {
    let kind = record.host.log_config.kind.as_str();
    let options = options(record);
    // It was checked when the container was made.
    let target = sinks::Target::parse(kind, &own_options(&options))?.ok()?;
    let template = options.get("tag").map_or("", String::as_str);
    let template = if template.is_empty() { TAG } else { template };
    let subject = subject(record, name);
    let host = rustix::system::uname();
    let origin = Origin {
        tag: tag::render(template, &subject).unwrap_or_default(),
        id: subject.id,
        name: subject.name,
        image_id: record.image.to_string(),
        image_name: subject.image_name,
        command: subject.command,
        created: vocab::time::rfc3339_nano(record.created),
        host: host.nodename().to_string_lossy().into_owned(),
        attributes: attributes(record, &options),
    };
    let max_buffer = drops(&options).then(|| {
        let size = options
            .get("max-buffer-size")
            .map(|text| size_of(text, 1024));
        size.and_then(Result::ok).unwrap_or(MAX_BUFFER_BYTES)
    });
    Some(Remote {
        dir: local_dir(shared, record),
        connects_later: target.connects_later(),
        sink: Sink::new(target, &origin),
        max_buffer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(kind: &str, options: &[(&str, &str)]) -> Result<(), String> {
        let config = LogConfig {
            kind: kind.to_owned(),
            config: Some(
                options
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            ),
        };
        check(&config).map_err(|error| match error {
            DriverError::Invalid(text) | DriverError::NotYet(text) => text,
        })
    }

    #[test]
    fn options_are_refused_in_dockers_words() {
        let cases: &[(&str, &str, &str, &str)] = &[
            (
                "json-file",
                "nope",
                "1",
                "unknown log opt 'nope' for json-file log driver",
            ),
            (
                "local",
                "nope",
                "1",
                "unknown log opt 'nope' for log driver local",
            ),
            ("local", "max-size", "abc", "invalid size: 'abc'"),
            ("local", "max-size", "10x", "invalid suffix: 'x'"),
            (
                "json-file",
                "max-size",
                "0",
                "max-size must be a positive number",
            ),
            (
                "json-file",
                "max-file",
                "0",
                "max-file cannot be less than 1",
            ),
            (
                "json-file",
                "max-file",
                "x",
                "strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            (
                "json-file",
                "compress",
                "true",
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
            (
                "local",
                "compress",
                "2",
                "strconv.ParseBool: parsing \"2\": invalid syntax",
            ),
            (
                "local",
                "mode",
                "x",
                "logger: logging mode not supported: x",
            ),
            (
                "local",
                "max-buffer-size",
                "1m",
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            (
                "local",
                "cache-disabled",
                "x",
                "invalid value for option cache-disabled: x",
            ),
            (
                "x",
                "max-size",
                "1m",
                "error looking up logging plugin x: plugin \"x\" not found",
            ),
            (
                "splunk",
                "max-size",
                "1m",
                "the log driver splunk (it speaks to a service that only its vendor runs)",
            ),
        ];
        for (kind, key, value, text) in cases {
            let refused = checked(kind, &[(key, value)]);
            assert_eq!(
                refused.as_ref().err().map(String::as_str),
                Some(*text),
                "{key}={value}"
            );
        }
        let buffer = [("mode", "non-blocking"), ("max-buffer-size", "x")];
        assert_eq!(
            checked("local", &buffer),
            Err("error parsing option max-buffer-size: invalid size: 'x'".to_owned())
        );
        assert_eq!(
            checked("local", &[("labels-regex", "^a"), ("tag", "{{.Name}}")]),
            Ok(())
        );
        assert!(checked("local", &[("labels-regex", "(")]).is_err());
        assert!(checked("local", &[("tag", "{{.Nope}}")]).is_err());
        assert_eq!(checked("none", &[("anything", "1")]), Ok(()));
    }

    #[test]
    fn sizes_have_prefixes_of_a_thousand() {
        assert_eq!(size_of("10m", 1000), Ok(10_000_000));
        assert_eq!(size_of("1.5kb", 1000), Ok(1500));
        assert_eq!(size_of("500", 1000), Ok(500));
        assert_eq!(size_of("1mib", 1024), Ok(1 << 20));
        assert_eq!(size_of("2 G", 1024), Ok(2 << 30));
        assert!(size_of("-5", 1000).is_err());
        assert!(size_of("", 1000).is_err());
    }
}
