//! `berth …`: Docker's command line, over the Engine API and nothing else.
//!
//! Arguments go in, API calls go out, text comes back: what a command means is decided by the
//! daemon, so the same command line works against Docker's. Names, flags, columns, messages and
//! exit codes are Docker's, because people and scripts know them; help is in our own words.
//!
//! ```text
//! argv ─▶ global flags ─▶ command table ─▶ flags ─▶ its function ─▶ exit code
//!                          commands/        flags    api::Client
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`flags`] | flags as `pflag` reads them, from tables that are also the help |
//! | [`grammar`] | the small languages inside flag values: ports, mounts, networks, devices … |
//! | [`create`] | the flags of `run` and `create` as an API request |
//! | [`template`] | Go templates, what `--format` takes |
//! | [`format`], [`table`], [`human`] | lists, columns, sizes and durations as Docker prints them |
//! | [`contexts`] | daemons by name |
//! | [`session`] | the daemon's address, and its start when there is none |
//! | [`attached`], [`terminal`] | stdio of a process: bytes, raw mode, size, signals, detach keys |
//! | [`progress`], [`credentials`] | pulls as they go; registry credentials |
//! | [`local`] | files of this host as tars, and out of them |
//! | [`commands`] | the commands |
//!
//! Nothing is done before a command is known: no configuration is read and no connection made for
//! help or for a mistake. The flag parser is ours rather than a general one because its rules and
//! messages are the interface. What you will not find: the engine, images, anything that decides.

pub mod attached;
pub mod command;
pub mod commands;
#[cfg(test)]
mod compat;
pub mod contexts;
pub mod create;
pub mod credentials;
pub mod failure;
pub mod flags;
pub mod format;
pub mod grammar;
pub mod human;
pub mod local;
pub mod output;
pub mod progress;
pub mod session;
pub mod table;
pub mod template;
pub mod terminal;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use command::{Command, Invocation};
use commands::{DONE, GROUPS, LATER};
use failure::{Failure, Result};
use flags::{Flag, Typed, many, switch, text};
use session::Session;

/// How far a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does what Docker's does.
    Works,
    /// It says what it does not do.
    Partial,
    /// It says that it is not there.
    NotYet,
}

/// Commands that leave something out, and what.
const PARTIAL: &[(&str, &str)] = &[
    ("container start", "--checkpoint is refused"),
    ("container run", "--use-api-socket is refused"),
    ("container create", "--use-api-socket is refused"),
    ("volume create", "flags of cluster volumes are refused"),
    ("inspect", "types of the swarm are refused"),
];

/// Every command of Docker under all its names, how far berth is with it, and a note.
/// `docs/compat.md` is made of this.
pub fn commands() -> impl Iterator<Item = (&'static str, State, &'static str)> {
    let done = DONE.iter().flat_map(|command| {
        let note = PARTIAL
            .iter()
            .find(|(name, _)| *name == command.names[0])
            .map(|(_, note)| *note);
        let state = if note.is_some() {
            State::Partial
        } else {
            State::Works
        };
        command
            .names
            .iter()
            .map(move |name| (*name, state, note.unwrap_or_default()))
    });
    done.chain(LATER.iter().map(|name| (*name, State::NotYet, "")))
}

const GLOBAL: &[Flag] = &[
    text("config", "Directory of the client's configuration").default("\"~/.docker\""),
    text("context", "Context: a daemon by its name").short('c'),
    switch("debug", "Accepted: this client keeps no log").short('D'),
    many("host", "Daemon to talk to: unix:///path or tcp://host:port").short('H'),
    text("log-level", "Accepted: this client keeps no log")
        .short('l')
        .default("\"info\""),
    switch("tls", ""),
    text("tlscacert", ""),
    text("tlscert", ""),
    text("tlskey", ""),
    switch("tlsverify", ""),
    switch("version", "Show the version").short('v'),
];

/// Runs the command line; `args` begin with the program's name.
pub fn run(args: Vec<OsString>) -> ExitCode {
    match dispatch(args) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.message.is_empty() {
                output::error(&failure);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(args: Vec<OsString>) -> Result<u8> {
    let mut args = args.into_iter();
    let program = args
        .next()
        .as_deref()
        .and_then(|name| Path::new(name).file_name())
        .filter(|name| *name == "docker")
        .map_or("berth", |_| "docker");
    let words = args
        .map(|word| {
            word.into_string().map_err(|word| {
                Failure::new(format!(
                    "{program}: argument is not UTF-8: {}",
                    word.display()
                ))
            })
        })
        .collect::<Result<Vec<String>>>()?;
    let usage = format!(
        "Usage:  {program} [OPTIONS] COMMAND [ARG...]\n\nRun '{program} --help' for more information"
    );
    let global = flags::parse(GLOBAL, &words, false)
        .map_err(|why| Failure::new(format!("{why}\n\n{usage}")).code(125))?;
    if global.on("version") {
        let version = env!("CARGO_PKG_VERSION");
        // Scripts that call `docker` cut the version out of Docker's sentence.
        output::line(if program == "docker" {
            format!("Docker version {version}, build berth")
        } else {
            format!("berth version {version}")
        })?;
        return Ok(0);
    }
    if global.help || global.words.is_empty() {
        output::out(&overview(program))?;
        return Ok(0);
    }
    let mut words = global.words.clone();
    let wants_help = words[0] == "help";
    if wants_help {
        words.remove(0);
        if words.is_empty() {
            output::out(&overview(program))?;
            return Ok(0);
        }
    }
    match find(&words) {
        Found::Command(command, used) => {
            let name = format!("{program} {}", words[..used].join(" "));
            let typed = if wants_help {
                Typed::help()
            } else {
                command.read(program, &name, &words[used..])?
            };
            if typed.help {
                output::out(&command.help(program, &name))?;
                return Ok(0);
            }
            let session = session(program, &global)?;
            let invocation = Invocation {
                session,
                typed,
                name,
            };
            work(command, invocation)
        }
        Found::Group(group) => {
            let help = words
                .get(1)
                .is_none_or(|word| matches!(word.as_str(), "--help" | "-h"));
            if help {
                output::out(&group_help(program, group))?;
                return Ok(0);
            }
            Err(Failure::new(format!(
                "{program}: unknown command: {program} {group} {}\n\nUsage:  {program} {group}\n\nRun '{program} {group} --help' for more information",
                words[1]
            )))
        }
        Found::Later(name) => Err(Failure::new(format!(
            "{program}: berth does not do `{name}` yet; docs/compat.md says what it does"
        ))),
        Found::Unknown if wants_help => Err(Failure::new(format!(
            "unknown help topic: {}",
            words.join(" ")
        ))),
        Found::Unknown => Err(Failure::new(format!(
            "{program}: unknown command: {program} {}\n\nRun '{program} --help' for more information",
            words[0]
        ))),
    }
}

enum Found {
    /// And how many words its name has.
    Command(&'static Command, usize),
    Group(&'static str),
    Later(&'static str),
    Unknown,
}

fn find(words: &[String]) -> Found {
    let named = |count: usize| -> Option<&'static Command> {
        let name = words.get(..count)?.join(" ");
        DONE.iter()
            .copied()
            .find(|command| command.names.contains(&name.as_str()))
    };
    if let Some(command) = named(2) {
        return Found::Command(command, 2);
    }
    if let Some(command) = named(1) {
        return Found::Command(command, 1);
    }
    let later = |count: usize| -> Option<&'static str> {
        let name = words.get(..count)?.join(" ");
        LATER.iter().copied().find(|known| *known == name)
    };
    if let Some(name) = later(3).or_else(|| later(2)) {
        return Found::Later(name);
    }
    if let Some((group, _)) = GROUPS.iter().find(|(group, _)| *group == words[0]) {
        return Found::Group(group);
    }
    later(1).map_or(Found::Unknown, Found::Later)
}

/// The caller's settings from the global flags.
fn session(program: &str, global: &Typed) -> Result<Session> {
    let context = global.text("context");
    if !context.is_empty() && global.has("host") {
        return Err(Failure::new(
            "conflicting options: cannot specify both --host and --context",
        ));
    }
    let verify = std::env::var_os("DOCKER_TLS_VERIFY").is_some_and(|value| !value.is_empty());
    if global.on("tls") || global.on("tlsverify") || verify {
        return Err(Failure::new(
            "berth does not talk TLS to a daemon yet; use a unix socket, or tcp:// inside a tunnel",
        ));
    }
    if global.all("host").count() > 1 {
        return Err(Failure::new("specify only one -H"));
    }
    Ok(Session {
        program: program.to_owned(),
        host: global
            .get("host")
            .filter(|host| !host.is_empty())
            .map(str::to_owned),
        context: Some(context.to_owned()).filter(|context| !context.is_empty()),
        config: global.get("config").map(PathBuf::from),
    })
}

/// Runs a command on one thread.
fn work(command: &Command, invocation: Invocation) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start the runtime: {error}")))?;
    let outcome = runtime.block_on((command.run)(invocation));
    // A look-up of a name may still be under way on a thread of its own.
    runtime.shutdown_background();
    outcome
}

/// Commands that most people need, in the order of a first day.
const COMMON: &[&str] = &[
    "run", "exec", "ps", "pull", "push", "images", "login", "logout", "version", "info",
];

fn overview(program: &str) -> String {
    let mut out = format!(
        "Usage:  {program} [OPTIONS] COMMAND [ARG...]\n\nRuns containers: Docker's command line, on berth\n\nCommon Commands:\n"
    );
    let mut row = |name: &str, about: &str| {
        writeln!(out, "  {name:<11} {about}").expect("writing to a string cannot fail");
    };
    let find = |name: &str| {
        DONE.iter()
            .find(|command| command.names.contains(&name))
            .map_or("", |command| command.about)
    };
    for name in COMMON {
        row(name, find(name));
    }
    row("daemon", "Run the daemon (see `berth daemon --help`)");
    out.push_str("\nManagement Commands:\n");
    for (group, about) in GROUPS {
        writeln!(out, "  {group:<11} {about}").expect("writing to a string cannot fail");
    }
    out.push_str("\nCommands:\n");
    let mut rest: Vec<(&str, &str)> = DONE
        .iter()
        .flat_map(|command| command.names.iter().map(|name| (*name, command.about)))
        .filter(|(name, _)| !name.contains(' ') && !COMMON.contains(name))
        .collect();
    rest.sort_unstable();
    for (name, about) in rest {
        writeln!(out, "  {name:<11} {about}").expect("writing to a string cannot fail");
    }
    write!(
        out,
        "\nGlobal Options:\n{}\nRun '{program} COMMAND --help' for more information on a command.\n",
        flags::options(GLOBAL)
    )
    .expect("writing to a string cannot fail");
    out
}

fn group_help(program: &str, group: &str) -> String {
    let about = GROUPS
        .iter()
        .find(|(name, _)| *name == group)
        .map_or("", |(_, about)| about);
    let mut out = format!("Usage:  {program} {group} COMMAND\n\n{about}\n\nCommands:\n");
    let mut rows: Vec<(&str, &str)> = DONE
        .iter()
        .filter_map(|command| {
            let (first, rest) = command.names[0].split_once(' ')?;
            (first == group).then_some((rest, command.about))
        })
        .collect();
    rows.sort_unstable();
    for (name, about) in rows {
        writeln!(out, "  {name:<11} {about}").expect("writing to a string cannot fail");
    }
    writeln!(
        out,
        "\nRun '{program} {group} COMMAND --help' for more information on a command."
    )
    .expect("writing to a string cannot fail");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_docker_is_known() {
        let reference = include_str!("testdata/commands.txt");
        let known: Vec<&str> = commands()
            .map(|(name, _, _)| name)
            .chain(GROUPS.iter().map(|(group, _)| *group))
            .collect();
        let missing: Vec<&str> = reference
            .lines()
            .filter(|name| !known.contains(name))
            .collect();
        assert_eq!(missing, Vec::<&str>::new());
    }

    #[test]
    fn no_name_is_taken_twice() {
        let mut names: Vec<&str> = commands().map(|(name, _, _)| name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn no_table_has_a_flag_twice() {
        for command in DONE {
            let table = command.flags.concat();
            for (index, flag) in table.iter().enumerate() {
                let twin = table[..index].iter().find(|other| {
                    other.name == flag.name || other.short.is_some() && other.short == flag.short
                });
                assert!(twin.is_none(), "{}: --{}", command.names[0], flag.name);
            }
        }
    }

    /// What a command line that never gets to a daemon says.
    fn refusal(line: &str) -> String {
        let words = std::iter::once("berth").chain(line.split_whitespace());
        match dispatch(words.map(OsString::from).collect()) {
            Ok(code) => format!("exit {code}"),
            Err(failure) => format!("{failure}\n[exit {}]", failure.code),
        }
    }

    #[test]
    fn mistakes_are_told_as_docker_tells_them() {
        let said: Vec<String> = [
            "foo",
            "--foo",
            "container foo",
            "run --foo x",
            "run -Z x",
            "run",
            "run --name",
            "run -p abc img",
            "run --restart always --rm img",
            "run -d -a stdout img",
            "run --pull foo img",
            "run UPPER",
            "run -m x img",
            "create -p abc img",
            "ps x",
            "ps --filter x",
            "ps --format {{",
            "-H unix:///none ps",
            "-H unix:///none run x",
            "-H foo://x ps",
            "stop",
            "stop -t x y",
            "rename a",
            "port",
            "inspect --type foo x",
            "inspect -f {{ x",
            "pull -a x:y",
            "tag a B",
            "logs -n",
            "start -a a b",
            "load -i /none",
            "diff x",
            "swarm init",
            "help foo",
            "-H unix:///x --context y ps",
        ]
        .iter()
        .map(|line| format!("$ berth {line}\n{}\n", refusal(line)))
        .collect();
        snapbox::assert_data_eq!(said.join("\n"), snapbox::file!["testdata/refusals.txt"]);
    }

    #[test]
    fn help_is_complete() {
        snapbox::assert_data_eq!(overview("berth"), snapbox::file!["testdata/overview.txt"]);
        snapbox::assert_data_eq!(
            group_help("berth", "container"),
            snapbox::file!["testdata/container.txt"]
        );
        let run = &commands::run::RUN;
        snapbox::assert_data_eq!(
            run.help("berth", "berth run"),
            snapbox::file!["testdata/run.txt"]
        );
        let stop = &commands::each::STOP;
        snapbox::assert_data_eq!(
            stop.help("berth", "berth stop"),
            snapbox::str![[r#"
Usage:  berth stop [OPTIONS] CONTAINER [CONTAINER...]

Stop running containers

Aliases:
  berth container stop, berth stop

Options:
  -s, --signal string   Signal to send
  -t, --timeout int     Seconds until it is killed

"#]]
        );
    }
}
