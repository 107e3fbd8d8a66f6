//! Help, written from the tables of flags.

use std::fmt::Write as _;

use crate::GLOBAL;
use crate::arguments::Flag;
use crate::commands::{COMMANDS, Command};

/// Of the program.
pub(crate) fn program() -> String {
    let mut text = format!(
        "NAME:\n   berth runtime - runs containers from OCI bundles\n\n\
         USAGE:\n   berth runtime [global options] command [command options] [arguments...]\n\n\
         VERSION:\n   {}\n\nCOMMANDS:\n",
        env!("CARGO_PKG_VERSION")
    );
    for command in COMMANDS {
        line(&mut text, command.name, command.about, 12);
    }
    text.push_str("\nGLOBAL OPTIONS:\n");
    options(&mut text, GLOBAL);
    text
}

/// Of one command.
pub(crate) fn command(command: &Command) -> String {
    let (name, about) = (command.name, command.about);
    let optional = if command.flags.is_empty() {
        ""
    } else {
        " [command options]"
    };
    let mut text = format!(
        "NAME:\n   berth runtime {name} - {about}\n\nUSAGE:\n   berth runtime {name}{optional} {}\n",
        command.operands
    );
    if !command.flags.is_empty() {
        text.push_str("\nOPTIONS:\n");
        options(&mut text, command.flags);
    }
    text
}

fn options(text: &mut String, flags: &[Flag]) {
    let names = |flag: &Flag| {
        let dashed = flag.names.iter().map(|name| {
            let dashes = if name.len() == 1 { "-" } else { "--" };
            let value = if flag.takes_value { " value" } else { "" };
            format!("{dashes}{name}{value}")
        });
        dashed.collect::<Vec<_>>().join(", ")
    };
    let width = flags.iter().map(|flag| names(flag).len()).max();
    for flag in flags {
        line(text, &names(flag), flag.help, width.unwrap_or(0) + 2);
    }
}

fn line(text: &mut String, left: &str, right: &str, width: usize) {
    writeln!(text, "   {left:width$}{right}").expect("writing to a string cannot fail");
}
