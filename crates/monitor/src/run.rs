//! The role `berth monitor`.

use std::ffi::OsString;
use std::process::ExitCode;

/// What the binary's main calls for `berth monitor ARGS`; `args` begins after the role's name.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let _ = args;
    todo!()
}
