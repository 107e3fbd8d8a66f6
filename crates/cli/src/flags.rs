//! Flags as Docker's command line reads them, from a table for each command.
//!
//! Docker's parser is Go's `pflag`, and its rules and messages are part of what people script
//! against: `-it` and `-p80:80`, `--flag=false` for truth values only, `unknown shorthand flag: 'Z'
//! in -Z`, and no more flags after the image name. The tables are constants: a command costs
//! nothing until it is chosen, and help and parsing cannot disagree.

use std::fmt::Write as _;

use crate::template::print::quote;

/// What a flag takes.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A truth value, false unless said.
    Switch,
    /// The same, true unless said.
    On,
    /// Any text, once.
    Text,
    /// Any text, as often as wanted; the word is its type in help.
    Many(&'static str),
    /// A text that a function checks, once.
    Checked(&'static str, fn(&str) -> Result<(), String>),
    /// Texts that a function checks.
    ManyChecked(&'static str, fn(&str) -> Result<(), String>),
    /// A signed integer.
    Integer(&'static str),
    /// An unsigned integer of so many bits.
    Unsigned(u32),
}

/// One line of a command's table.
#[derive(Clone, Copy)]
pub struct Flag {
    /// Without its dashes.
    pub name: &'static str,
    /// The letter, if it has one.
    pub short: Option<char>,
    /// What it takes.
    pub kind: Kind,
    /// What it does; empty hides the flag from help.
    pub help: &'static str,
    /// Shown as `(default …)`; empty shows nothing.
    pub default: &'static str,
}

impl Flag {
    /// With a letter.
    #[must_use]
    pub const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    /// With a default that help shows.
    #[must_use]
    pub const fn default(mut self, text: &'static str) -> Self {
        self.default = text;
        self
    }

    fn shown(&self) -> String {
        match self.short {
            Some(letter) => format!("-{letter}, --{}", self.name),
            None => format!("--{}", self.name),
        }
    }
}

const fn flag(name: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag {
        name,
        short: None,
        kind,
        help,
        default: "",
    }
}

/// A truth value.
pub const fn switch(name: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Switch, help)
}

/// A truth value that is true unless said.
pub const fn on(name: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::On, help)
}

/// One text.
pub const fn text(name: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Text, help)
}

/// Texts.
pub const fn many(name: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Many("list"), help)
}

/// Texts whose type has a name of its own in help.
pub const fn many_of(name: &'static str, kind: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Many(kind), help)
}

/// An integer of Docker's type `int`.
pub const fn integer(name: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Integer("int"), help)
}

/// An integer whose type has a name of its own in help.
pub const fn long(name: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Integer("int"), help)
}

/// A text of a grammar.
pub const fn checked(
    name: &'static str,
    kind: &'static str,
    check: fn(&str) -> Result<(), String>,
    help: &'static str,
) -> Flag {
    flag(name, Kind::Checked(kind, check), help)
}

/// Texts of a grammar.
pub const fn many_checked(
    name: &'static str,
    kind: &'static str,
    check: fn(&str) -> Result<(), String>,
    help: &'static str,
) -> Flag {
    flag(name, Kind::ManyChecked(kind, check), help)
}

/// Bytes: `64m`.
pub const fn bytes(name: &'static str, help: &'static str) -> Flag {
    checked(name, "bytes", check_size, help)
}

/// A Go duration: `1m30s`.
pub const fn duration(name: &'static str, help: &'static str) -> Flag {
    checked(name, "duration", check_duration, help)
}

/// How a list is printed.
pub const TABLE: Flag = text(
    "format",
    "Format: `table`, `table TEMPLATE`, `json`, or a Go template",
);

/// Prune without a question.
pub const UNASKED: Flag = switch("force", "Do not ask").short('f');

/// Prune images that have a name, too.
pub const ALL_IMAGES: Flag = switch(
    "all",
    "All images that no container uses, not only those without a name",
)
.short('a');

/// `key=value` for a list.
pub const fn filter() -> Flag {
    many_checked(
        "filter",
        "filter",
        check_filter,
        "Show only what matches `key=value`",
    )
}

fn check_size(text: &str) -> Result<(), String> {
    crate::human::parse_size(text)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn check_duration(text: &str) -> Result<(), String> {
    crate::human::parse_duration(text).map(drop)
}

fn check_filter(text: &str) -> Result<(), String> {
    if text.is_empty() || text.contains('=') {
        Ok(())
    } else {
        Err("bad format of filter (expected name=value)".to_owned())
    }
}

/// What was typed, in the order it was typed.
#[derive(Clone, Debug, Default)]
pub struct Typed {
    values: Vec<(&'static str, String)>,
    /// What is no flag.
    pub words: Vec<String>,
    /// Whether `--help` was among them.
    pub help: bool,
}

impl Typed {
    /// As if only `--help` had been typed.
    pub fn help() -> Self {
        Self {
            help: true,
            ..Self::default()
        }
    }

    /// Whether the flag was typed at all.
    pub fn has(&self, name: &str) -> bool {
        self.values.iter().any(|(flag, _)| *flag == name)
    }

    /// The last value of a flag.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values
            .iter()
            .rev()
            .find(|(flag, _)| *flag == name)
            .map(|(_, value)| value.as_str())
    }

    /// The same, where nothing typed means an empty text.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// All values of a flag.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.values
            .iter()
            .filter(move |(flag, _)| *flag == name)
            .map(|(_, value)| value.as_str())
    }

    /// All values of a flag, owned.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.all(name).map(str::to_owned).collect()
    }

    /// Whether a switch is on.
    pub fn on(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// Whether a switch that is on by itself was not turned off.
    pub fn not_off(&self, name: &str) -> bool {
        self.get(name) != Some("false")
    }

    /// An integer, if typed; the table has checked it.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(|value| parse_integer(value).ok())
    }

    /// Bytes, if typed; the table has checked them.
    pub fn bytes(&self, name: &str) -> Option<i64> {
        self.get(name)
            .and_then(|value| crate::human::parse_size(value).ok())
    }

    /// Nanoseconds, if typed; the table has checked them.
    pub fn duration(&self, name: &str) -> Option<i64> {
        self.get(name)
            .and_then(|value| crate::human::parse_duration(value).ok())
    }
}

/// Go's integers: base by prefix, as `strconv.ParseInt(text, 0, 64)`.
pub fn parse_integer(text: &str) -> Result<i64, String> {
    let invalid = |why: &str| format!("strconv.ParseInt: parsing {}: {why}", quote(text));
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(invalid("invalid syntax"));
    }
    let magnitude =
        i128::from_str_radix(digits, radix).map_err(|_| invalid("value out of range"))?;
    i64::try_from(if negative { -magnitude } else { magnitude })
        .map_err(|_| invalid("value out of range"))
}

pub(crate) fn parse_truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!(
            "strconv.ParseBool: parsing {}: invalid syntax",
            quote(text)
        )),
    }
}

/// Reads `arguments` by `table`. With `interspersed` flags may follow words; without, the first
/// word ends them. The error is one line in pflag's words.
pub fn parse(table: &[Flag], arguments: &[String], interspersed: bool) -> Result<Typed, String> {
    let mut typed = Typed::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            typed.words.extend(rest.cloned());
            break;
        }
        if let Some(long) = argument.strip_prefix("--") {
            read_long(table, long, &mut rest, &mut typed)?;
        } else if argument.len() > 1 && argument.starts_with('-') {
            read_shorts(table, &argument[1..], &mut rest, &mut typed)?;
        } else {
            typed.words.push(argument.clone());
            if !interspersed {
                typed.words.extend(rest.cloned());
                break;
            }
        }
    }
    Ok(typed)
}

fn read_long(
    table: &[Flag],
    long: &str,
    rest: &mut std::slice::Iter<'_, String>,
    typed: &mut Typed,
) -> Result<(), String> {
    let (name, value) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (long, None),
    };
    if name.is_empty() || name.starts_with('-') {
        return Err(format!("bad flag syntax: --{long}"));
    }
    let Some(flag) = table.iter().find(|flag| flag.name == name) else {
        if name == "help" {
            typed.help = true;
            return Ok(());
        }
        return Err(format!("unknown flag: --{name}"));
    };
    let value = match (value, flag.kind) {
        (Some(value), _) => value.to_owned(),
        (None, Kind::Switch | Kind::On) => "true".to_owned(),
        (None, _) => rest
            .next()
            .ok_or_else(|| format!("flag needs an argument: --{name}"))?
            .clone(),
    };
    store(flag, &value, typed)
}

fn read_shorts(
    table: &[Flag],
    cluster: &str,
    rest: &mut std::slice::Iter<'_, String>,
    typed: &mut Typed,
) -> Result<(), String> {
    let mut letters = cluster;
    while let Some(letter) = letters.chars().next() {
        let after = &letters[letter.len_utf8()..];
        let Some(flag) = table.iter().find(|flag| flag.short == Some(letter)) else {
            if letter == 'h' {
                typed.help = true;
                return Ok(());
            }
            return Err(format!("unknown shorthand flag: '{letter}' in -{letters}"));
        };
        if let Some(value) = after.strip_prefix('=') {
            return store(flag, value, typed);
        }
        if matches!(flag.kind, Kind::Switch | Kind::On) {
            store(flag, "true", typed)?;
            letters = after;
            continue;
        }
        let value = if after.is_empty() {
            rest.next()
                .ok_or_else(|| format!("flag needs an argument: '{letter}' in -{letters}"))?
                .clone()
        } else {
            after.to_owned()
        };
        return store(flag, &value, typed);
    }
    Ok(())
}

fn store(flag: &Flag, value: &str, typed: &mut Typed) -> Result<(), String> {
    let checked = match flag.kind {
        Kind::Switch | Kind::On => parse_truth(value).map(|truth| truth.to_string()),
        Kind::Text | Kind::Many(_) => Ok(value.to_owned()),
        Kind::Checked(_, check) | Kind::ManyChecked(_, check) => {
            check(value).map(|()| value.to_owned())
        }
        Kind::Integer(_) => parse_integer(value).map(|number| number.to_string()),
        Kind::Unsigned(bits) => match parse_integer(value) {
            Ok(number) if number >= 0 && (bits >= 63 || number >> bits == 0) => {
                Ok(number.to_string())
            }
            outcome => {
                let why = match outcome {
                    Err(error) if error.ends_with("syntax") => "invalid syntax",
                    Ok(number) if number < 0 => "invalid syntax",
                    _ => "value out of range",
                };
                Err(format!(
                    "strconv.ParseUint: parsing {}: {why}",
                    quote(value)
                ))
            }
        },
    };
    let value = checked.map_err(|why| {
        format!(
            "invalid argument {} for \"{}\" flag: {why}",
            quote(value),
            flag.shown()
        )
    })?;
    typed.values.push((flag.name, value));
    Ok(())
}

/// Columns that help text is folded to.
const HELP_COLUMNS: usize = 80;

/// The `Options:` block of a command's help, as wide as Docker's.
pub fn options(table: &[Flag]) -> String {
    let mut lines: Vec<(&'static str, String, String)> = table
        .iter()
        .filter(|flag| !flag.help.is_empty())
        .map(|flag| {
            let kind = match flag.kind {
                Kind::Switch | Kind::On => "",
                Kind::Text => "string",
                Kind::Many(kind)
                | Kind::Checked(kind, _)
                | Kind::ManyChecked(kind, _)
                | Kind::Integer(kind) => kind,
                Kind::Unsigned(16) => "uint16",
                Kind::Unsigned(_) => "uint",
            };
            let head = match flag.short {
                Some(letter) => format!("  -{letter}, --{} {kind}", flag.name),
                None => format!("      --{} {kind}", flag.name),
            };
            let mut help = flag.help.to_owned();
            let default = match (flag.default, flag.kind) {
                ("", Kind::On) => "true",
                (default, _) => default,
            };
            if !default.is_empty() {
                write!(help, " (default {default})").expect("writing to a string cannot fail");
            }
            (flag.name, head.trim_end().to_owned(), help)
        })
        .collect();
    lines.sort_by_key(|(name, _, _)| *name);
    let width = lines
        .iter()
        .map(|(_, head, _)| head.len())
        .max()
        .unwrap_or(0)
        + 3;
    let mut out = String::new();
    for (_, head, help) in &lines {
        let folded = fold(help, HELP_COLUMNS.saturating_sub(width).max(20));
        for (index, line) in folded.iter().enumerate() {
            let left = if index == 0 { head.as_str() } else { "" };
            writeln!(out, "{left:width$}{line}").expect("writing to a string cannot fail");
        }
    }
    out
}

fn fold(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > columns {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Flag] = &[
        switch("detach", "Run in the background").short('d'),
        switch("interactive", "Keep stdin open").short('i'),
        switch("tty", "Allocate a terminal").short('t'),
        on("sig-proxy", "Forward signals"),
        text("name", "Name it"),
        many("publish", "Publish a port").short('p'),
        many("env", "Set a variable").short('e'),
        bytes("memory", "Limit memory").short('m'),
        integer("stop-timeout", "Seconds"),
        duration("health-interval", "Time between checks"),
        flag("blkio-weight", Kind::Unsigned(16), "Weight"),
        text("secret", ""),
    ];

    fn read(line: &str) -> Result<Typed, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(TABLE, &words, false)
    }

    fn check(line: &str, expected: &str) {
        let typed = read(line).unwrap();
        let mut shown: Vec<String> = typed
            .values
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        shown.extend(typed.words.iter().map(|word| format!("[{word}]")));
        assert_eq!(shown.join(" "), expected, "{line}");
    }

    #[test]
    fn flags_are_read_as_pflag_reads_them() {
        check(
            "-itd img -d",
            "interactive=true tty=true detach=true [img] [-d]",
        );
        check(
            "-p80:80 -p=81:81 -p 82:82 x",
            "publish=80:80 publish=81:81 publish=82:82 [x]",
        );
        check("--name=a --name b", "name=a name=b");
        check("--detach=false -t=0", "detach=false tty=false");
        check("--sig-proxy=F", "sig-proxy=false");
        check("-e A=b=c --env=D", "env=A=b=c env=D");
        check("-itm 64m x", "interactive=true tty=true memory=64m [x]");
        check("-itm64m x", "interactive=true tty=true memory=64m [x]");
        check("-- -d", "[-d]");
        check("- x", "[-] [x]");
        check("--name= x", "name= [x]");
        check("--stop-timeout -1 x", "stop-timeout=-1 [x]");
        check("--stop-timeout 0x10", "stop-timeout=16");
    }

    #[test]
    fn words_may_stand_between_flags_where_docker_lets_them() {
        let words: Vec<String> = ["a", "-d", "b", "--name", "c", "--", "-x"]
            .map(str::to_owned)
            .into();
        let typed = parse(TABLE, &words, true).unwrap();
        assert_eq!(typed.words, ["a", "b", "-x"]);
        assert!(typed.on("detach"));
        assert_eq!(typed.text("name"), "c");
    }

    #[test]
    fn help_is_seen() {
        assert!(read("--help").unwrap().help);
        assert!(read("-dh").unwrap().help);
    }

    #[test]
    fn mistakes_are_told_as_pflag_tells_them() {
        for (line, wanted) in [
            ("--foo", "unknown flag: --foo"),
            ("--foo=1", "unknown flag: --foo"),
            ("-Z", "unknown shorthand flag: 'Z' in -Z"),
            ("-dZt", "unknown shorthand flag: 'Z' in -Zt"),
            ("--name", "flag needs an argument: --name"),
            ("-dp", "flag needs an argument: 'p' in -p"),
            ("--=x", "bad flag syntax: --=x"),
            ("---x", "bad flag syntax: ---x"),
            (
                "--detach=maybe",
                "invalid argument \"maybe\" for \"-d, --detach\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            (
                "-m x",
                "invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'",
            ),
            (
                "--stop-timeout x",
                "invalid argument \"x\" for \"--stop-timeout\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                "--stop-timeout 99999999999999999999",
                "invalid argument \"99999999999999999999\" for \"--stop-timeout\" flag: strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
            ),
            (
                "--health-interval x",
                "invalid argument \"x\" for \"--health-interval\" flag: time: invalid duration \"x\"",
            ),
            (
                "--blkio-weight 70000",
                "invalid argument \"70000\" for \"--blkio-weight\" flag: strconv.ParseUint: parsing \"70000\": value out of range",
            ),
            (
                "--blkio-weight -1",
                "invalid argument \"-1\" for \"--blkio-weight\" flag: strconv.ParseUint: parsing \"-1\": invalid syntax",
            ),
        ] {
            assert_eq!(read(line).unwrap_err(), wanted, "{line}");
        }
    }

    #[test]
    fn help_is_sorted_and_folded() {
        let help = options(TABLE);
        assert!(
            help.starts_with("      --blkio-weight uint16        Weight\n  -d, --detach "),
            "{help}"
        );
        assert!(
            help.contains("--sig-proxy                  Forward signals (default true)\n"),
            "{help}"
        );
        assert!(!help.contains("secret"));
        assert!(help.lines().all(|line| line.len() <= HELP_COLUMNS));
    }
}
