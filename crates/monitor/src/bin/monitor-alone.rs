//! The monitor's role as a program of its own, and a daemon to be killed: for this crate's tests,
//! which run before there is a `berth`.
//!
//! ```text
//! monitor-alone monitor                 what `berth monitor` does
//! monitor-alone hold DIR                spawns from DIR/wanted.json, starts, attaches, and stays
//! ```

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use monitor::client;
use monitor::protocol::Request;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    match args.get(1).and_then(|role| role.to_str()) {
        Some("monitor") => {
            args.remove(1);
            monitor::run(args)
        }
        Some("hold") if args.len() == 3 => match hold(args[2].as_ref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "{error}");
                ExitCode::FAILURE
            }
        },
        _ => ExitCode::FAILURE,
    }
}

fn hold(dir: &Path) -> io::Result<()> {
    let setup = serde_json::from_slice(&std::fs::read(dir.join("wanted.json"))?)?;
    let program = std::env::current_exe()?;
    let launcher = monitor::Launcher::new(program);
    let spawned = launcher
        .spawn(dir, &setup, None)
        .map_err(io::Error::other)?;
    let attached = monitor::connect(dir)?;
    let attach = Request::Attach {
        exec: None,
        stdin: true,
        stdout: true,
        stderr: true,
    };
    client::ask(&attached, &attach)?;
    client::ask(&spawned.control, &Request::Start)?;
    io::stdout().write_all(b"started\n")?;
    // Until it is killed; the control socket says nothing more while the container lives.
    client::receive(&spawned.control)
}
