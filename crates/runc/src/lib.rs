//! `berth runtime`: runc's command line over the library `runtime`.
//!
//! Podman, containerd and Docker start containers through a program like this one. It is called
//! once for each step, does it and ends; what must be remembered between two calls is in the
//! [state directory](state).
//!
//! ```text
//!  argv ─▶ arguments ─▶ commands ──▶ launch      a bundle becomes a waiting or running process
//!                           │           └▶ attend   stays with it in the foreground
//!                           └──▶ state           finds it again in the next call
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `commands` | one file for each command, and the table of all |
//! | `launch` | what `create`, `run` and `exec` have in common |
//! | `attend` | a process in the foreground: signals, terminal, exit code |
//! | [`state`] | the state directory: records, locks, what is alive |
//! | `log` | `--log` and `--log-format` |
//!
//! Output, exit codes and the texts that tools look for are runc's. Absent: threads, tokio, images.

mod arguments;
mod attend;
mod commands;
mod help;
mod launch;
mod log;
pub mod state;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use vocab::failure::chain;

use arguments::{ArgumentError, Arguments, Flag, Order, parse};
use commands::{COMMANDS, Command};
use log::{Format, Log};
use state::Containers;

/// What comes before the command.
const GLOBAL: &[Flag] = &[
    Flag::switch(&["debug"], "log more"),
    Flag::value(
        &["log"],
        "file to write the log to, standard error by default",
    ),
    Flag::value(&["log-format"], "form of the log: text (default) or json"),
    Flag::value(
        &["root"],
        "directory of the containers' state, on a tmpfs (default /run/berth/runtime, or \
         $XDG_RUNTIME_DIR/berth/runtime without root)",
    ),
    Flag::switch(
        &["systemd-cgroup"],
        "have systemd make cgroups; cgroupsPath is then slice:prefix:name",
    ),
    Flag::value(
        &["rootless"],
        "go on without cgroups that may not be made: true, false or auto (default)",
    ),
    Flag::switch(&["help", "h"], "show this help"),
    Flag::switch(&["version", "v"], "print the version"),
];

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) containers: Containers,
    pub(crate) log: Log,
    pub(crate) systemd_cgroup: bool,
}

/// Why the program does not even come to a command.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error("invalid log-format: {0}")]
    LogFormat(String),
    #[error("invalid value {0:?} for rootless: true, false or auto")]
    Rootless(String),
    #[error("open {path}")]
    Log { path: PathBuf, source: io::Error },
}

/// The exit code of a command that is not known.
const NO_SUCH_COMMAND: u8 = 3;

/// What the binary's main calls for `berth runtime ARGS`; `args` begins with the program's name,
/// the role's is taken out. Must be called before any thread exists.
pub fn run(args: Vec<OsString>) -> ExitCode {
    // Run from a descriptor, it would be called by the number of that.
    let _ = rustix::thread::set_name(c"berth-runtime");
    let words = args.into_iter().skip(1);
    match parse(GLOBAL, Order::FlagsFirst, words) {
        Ok(global) => dispatch(global).unwrap_or_else(|error| misused(&error)),
        Err(error) => misused(&error.into()),
    }
}

fn misused(error: &UsageError) -> ExitCode {
    // As runc: what a known flag is given explains itself.
    if let UsageError::Argument(_) = error {
        print(&format!("Incorrect Usage. {error}\n\n{}", help::program()));
    }
    Log::default().error(&chain(error));
    ExitCode::FAILURE
}

fn dispatch(mut global: Arguments) -> Result<ExitCode, UsageError> {
    if global.switch("version")? {
        print(&format!(
            "berth runtime version {}\nspec: {}\n",
            env!("CARGO_PKG_VERSION"),
            runtime::state::OCI_VERSION
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let mut words = std::mem::take(&mut global.operands).into_iter();
    let name = words.next();
    if global.switch("help")? || name.as_deref().is_none_or(is_help) {
        let about = words.next().and_then(|name| find(&name));
        print(&about.map_or_else(help::program, help::command));
        return Ok(ExitCode::SUCCESS);
    }
    let context = context(&global)?;
    let name = name.unwrap_or_default();
    match find(&name) {
        Some(command) => Ok(command.call(&context, words)),
        None => {
            let name = name.to_string_lossy();
            context.log.error(&format!("No help topic for '{name}'\n"));
            Ok(ExitCode::from(NO_SUCH_COMMAND))
        }
    }
}

fn is_help(name: &OsStr) -> bool {
    name == "help" || name == "h"
}

fn find(name: &OsStr) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| name == command.name)
}

fn context(global: &Arguments) -> Result<Context, UsageError> {
    let format = match global.text("log-format")? {
        None | Some("" | "text") => Format::Text,
        Some("json") => Format::Json,
        Some(other) => return Err(UsageError::LogFormat(other.to_owned())),
    };
    match global.text("rootless")? {
        None | Some("auto" | "true" | "false" | "1" | "0") => {}
        Some(other) => return Err(UsageError::Rootless(other.to_owned())),
    }
    let path = global.value("log");
    let log = Log::open(path, format, global.switch("debug")?);
    let log = log.map_err(|source| UsageError::Log {
        path: path.unwrap_or_default().into(),
        source,
    })?;
    let root = global.value("root").filter(|root| !root.is_empty());
    let root = root.map_or_else(default_root, PathBuf::from);
    Ok(Context {
        containers: Containers::new(root),
        log,
        systemd_cgroup: global.switch("systemd-cgroup")?,
    })
}

fn default_root() -> PathBuf {
    let user = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    match user {
        Some(dir) if is_of_user() => PathBuf::from(dir).join("berth/runtime"),
        _ => PathBuf::from("/run/berth/runtime"),
    }
}

/// Whether `$XDG_RUNTIME_DIR` is the caller's own. Root of a user namespace is some user (Podman
/// without root calls from there), unless said to be root; that is how runc tells.
fn is_of_user() -> bool {
    let named_root = || std::env::var_os("USER").is_some_and(|user| user == "root");
    !rustix::process::geteuid().is_root() || (runtime::is_in_user_namespace() && !named_root())
}

/// Prints to standard output. That it is closed is no error of ours.
pub(crate) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
