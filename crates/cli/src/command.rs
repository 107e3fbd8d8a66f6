//! What a command is: its names, its help, its flags and what it does; and which one is meant.

use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;

use crate::failure::{Failure, Result};
use crate::flags::{self, Flag, Typed};
use crate::session::Session;

/// A command at work: ends with its exit code.
pub type Run = Pin<Box<dyn Future<Output = Result<u8>>>>;

/// A command.
pub struct Command {
    /// Full names, without the program; the first is where it belongs.
    pub names: &'static [&'static str],
    /// What follows the name in a usage line.
    pub usage: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Its flags, in tables that commands share.
    pub flags: &'static [&'static [Flag]],
    /// The fewest and the most words it takes.
    pub words: (usize, usize),
    /// Whether the first word ends the flags.
    pub stops: bool,
    /// What it does.
    pub run: fn(Invocation) -> Run,
}

/// A command that was typed.
pub struct Invocation {
    /// The daemon and the caller's settings.
    pub session: Session,
    /// Flags and words.
    pub typed: Typed,
    /// The command with the program, as it was typed: `berth run`.
    pub name: String,
}

impl Invocation {
    /// The word at `index`; the table has made sure that there is one.
    pub fn word(&self, index: usize) -> &str {
        self.typed.words.get(index).map_or("", String::as_str)
    }
}

/// Any number of words.
pub const ANY: usize = usize::MAX;

impl Command {
    /// Whether it belongs to the daemon's containers, where failures exit with 125.
    pub fn exits_125(&self) -> bool {
        matches!(self.names[0], "container run" | "container create")
            && self.names[0] == "container run"
    }

    fn usage_line(&self, name: &str) -> String {
        let space = if self.usage.is_empty() { "" } else { " " };
        format!("Usage:  {name}{space}{}", self.usage)
    }

    /// What `--help` prints.
    pub fn help(&self, program: &str, name: &str) -> String {
        let mut out = format!("{}\n\n{}\n", self.usage_line(name), self.about);
        if self.names.len() > 1 {
            let names: Vec<String> = self
                .names
                .iter()
                .map(|n| format!("{program} {n}"))
                .collect();
            write!(out, "\nAliases:\n  {}\n", names.join(", "))
                .expect("writing to a string cannot fail");
        }
        let options = flags::options(&self.flags.concat());
        if !options.is_empty() {
            write!(out, "\nOptions:\n{options}").expect("writing to a string cannot fail");
        }
        out
    }

    /// Reads what follows the name.
    pub fn read(&self, program: &str, name: &str, arguments: &[String]) -> Result<Typed> {
        let code = if self.exits_125() { 125 } else { 1 };
        let usage = self.usage_line(name);
        let typed = flags::parse(&self.flags.concat(), arguments, !self.stops).map_err(|why| {
            Failure::new(format!(
                "{why}\n\n{usage}\n\nRun '{name} --help' for more information"
            ))
            .code(125)
        })?;
        if typed.help {
            return Ok(typed);
        }
        let count = typed.words.len();
        let (least, most) = self.words;
        if (least..=most).contains(&count) {
            return Ok(typed);
        }
        let plural = |n: usize| if n == 1 { "argument" } else { "arguments" };
        let wants = match (least, most) {
            (0, 0) => "accepts no arguments".to_owned(),
            (n, m) if n == m => format!("requires {n} {}", plural(n)),
            (0, m) => format!("requires at most {m} {}", plural(m)),
            (n, ANY) => format!("requires at least {n} {}", plural(n)),
            (n, m) => format!("requires at least {n} and at most {m} {}", plural(m)),
        };
        let verb = if most == ANY { "See" } else { "Run" };
        Err(Failure::new(format!(
            "{program}: '{name}' {wants}\n\n{usage}\n\n{verb} '{name} --help' for more information"
        ))
        .code(if code == 125 { 1 } else { code }))
    }
}
