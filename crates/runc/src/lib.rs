//! `berth runtime`: runc's command line over the library `runtime`.
//!
//! Podman, containerd and Docker start containers through a program like this one. It is called
//! once for each step, does it and ends; what must be remembered between two calls is in the state
//! directory.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

/// What the binary's main calls for `berth runtime ARGS`; `args` begins with the program's name,
/// the role's is taken out. Must be called before any thread exists.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let command = args.into_iter().nth(1);
    let command = command.as_ref().map(|arg| arg.to_string_lossy());
    match command.as_deref() {
        Some("--version" | "-v") => {
            let version = env!("CARGO_PKG_VERSION");
            // Nobody is there to hear that the output is closed.
            let _ = writeln!(
                std::io::stdout(),
                "berth runtime version {version}\nspec: 1.3.0"
            );
            ExitCode::SUCCESS
        }
        other => {
            let _ = writeln!(
                std::io::stderr(),
                "No help topic for '{}'",
                other.unwrap_or_default()
            );
            ExitCode::from(3)
        }
    }
}
