//! The commands, one file each, and the table of all.

mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod ps;
mod restore;
mod run;
mod spec;
mod start;
mod state;
mod update;

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use runtime::Status;
use vocab::failure::chain;

use crate::arguments::{Arguments, Flag, Order, parse};
use crate::state::{Container, StateError};
use crate::{Context, help, print};

/// What a command comes to. Each has errors of its own; here they are only printed.
pub(crate) type Outcome = Result<ExitCode, Box<dyn Error>>;

/// One command.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// As the help shows them.
    pub(crate) operands: &'static str,
    pub(crate) flags: &'static [Flag],
    /// How many operands, at least and at most.
    count: (usize, usize),
    order: Order,
    /// What stands before the text of an error.
    failed: &'static str,
    /// What it exits with then.
    code: u8,
    run: fn(&Context, &Arguments) -> Outcome,
}

impl Command {
    const fn new(
        name: &'static str,
        about: &'static str,
        operands: &'static str,
        flags: &'static [Flag],
        run: fn(&Context, &Arguments) -> Outcome,
    ) -> Self {
        Self {
            name,
            about,
            operands,
            flags,
            count: (1, 1),
            order: Order::Mixed,
            failed: "",
            code: 1,
            run,
        }
    }

    const fn operands(mut self, least: usize, most: usize) -> Self {
        self.count = (least, most);
        self
    }

    const fn flags_first(mut self) -> Self {
        self.order = Order::FlagsFirst;
        self
    }

    const fn fails_with(mut self, failed: &'static str, code: u8) -> Self {
        self.failed = failed;
        self.code = code;
        self
    }

    /// Reads its arguments and runs it.
    pub(crate) fn call(
        &self,
        context: &Context,
        words: impl Iterator<Item = OsString>,
    ) -> ExitCode {
        // Two more that every command knows.
        let words: Vec<OsString> = words.collect();
        let asks = |word: &OsString| word == "--help" || word == "-h";
        if words.iter().take_while(|word| *word != "--").any(asks) && self.wants_help(&words) {
            print(&help::command(self));
            return ExitCode::SUCCESS;
        }
        let arguments = match parse(self.flags, self.order, words) {
            Ok(arguments) => arguments,
            Err(error) => {
                print(&format!(
                    "Incorrect Usage: {error}\n\n{}",
                    help::command(self)
                ));
                context.log.error(&chain(&error));
                return ExitCode::FAILURE;
            }
        };
        let (least, most) = self.count;
        let given = arguments.operands.len();
        if given < least || given > most {
            print(&format!("Incorrect Usage.\n\n{}", help::command(self)));
            let much = match (least, most) {
                (least, most) if least == most => format!("exactly {least}"),
                (least, _) if given < least => format!("a minimum of {least}"),
                (_, most) => format!("a maximum of {most}"),
            };
            let error = format!("berth runtime: {:?} requires {much} argument(s)", self.name);
            context.log.error(&error);
            return ExitCode::FAILURE;
        }
        context.log.debug(|| {
            let operands = arguments.operands.iter().map(|word| word.to_string_lossy());
            let operands: Vec<_> = operands.collect();
            format!("{} {}", self.name, operands.join(" "))
        });
        (self.run)(context, &arguments).unwrap_or_else(|error| {
            context
                .log
                .error(&format!("{}{}", self.failed, chain(error.as_ref())));
            ExitCode::from(self.code)
        })
    }

    /// Behind the first operand of `exec` and `ps`, words belong to another program.
    fn wants_help(&self, words: &[OsString]) -> bool {
        let first = words.first().map(|word| word.as_encoded_bytes());
        self.order == Order::Mixed || first.is_some_and(|word| word.starts_with(b"-"))
    }
}

/// All of them, in the order of the help.
pub(crate) const COMMANDS: &[Command] = &[
    checkpoint::COMMAND,
    create::COMMAND,
    delete::COMMAND,
    events::COMMAND,
    exec::COMMAND,
    features::COMMAND,
    kill::COMMAND,
    list::COMMAND,
    pause::PAUSE,
    ps::COMMAND,
    restore::COMMAND,
    pause::RESUME,
    run::COMMAND,
    spec::COMMAND,
    start::COMMAND,
    state::COMMAND,
    update::COMMAND,
];

/// The container that the first operand names.
fn container(context: &Context, arguments: &Arguments) -> Result<Container, StateError> {
    context.containers.find(id(arguments)?)
}

/// The same, locked.
fn locked(context: &Context, arguments: &Arguments) -> Result<Container, StateError> {
    context.containers.find_locked(id(arguments)?)
}

fn id(arguments: &Arguments) -> Result<&str, StateError> {
    let id = arguments.operands.first();
    crate::state::id(id.map(OsString::as_os_str).unwrap_or_default())
}

/// The word for a state.
fn word(status: Status) -> &'static str {
    match status {
        Status::Creating => "creating",
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Stopped => "stopped",
    }
}
