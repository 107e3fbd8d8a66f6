//! An engine to be killed, and the program that its monitors are: for this crate's tests, which
//! run before there is a `berth`.
//!
//! ```text
//! engine-alone monitor …               what `berth monitor` does
//! engine-alone hold DIR NAME WORD…     opens the engine at DIR, creates and starts a container of
//!                                      the image `busybox` without network, and stays
//! ```

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use engine::containers::CreateContainer;
use engine::{Config, Engine};
use vocab::config::{ContainerConfig, HostConfig};
use vocab::failure;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    match args.get(1).and_then(|role| role.to_str()) {
        Some("monitor") => {
            args.remove(1);
            monitor::run(args)
        }
        Some("hold") if args.len() > 4 => {
            let words: Vec<String> = args[3..]
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect();
            match hold(args[2].as_ref(), &words) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    // There is nobody left to tell when stderr is closed.
                    let _ = writeln!(io::stderr(), "{error}");
                    ExitCode::FAILURE
                }
            }
        }
        _ => ExitCode::FAILURE,
    }
}

fn hold(dir: &Path, words: &[String]) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut config = Config::new(
            dir.join("data"),
            dir.join("run"),
            std::fs::read_to_string(dir.join("instance")).map_err(|error| error.to_string())?,
            std::env::current_exe().map_err(|error| error.to_string())?,
        );
        config.bridge.enabled = false;
        let engine = Engine::open(config)
            .await
            .map_err(|error| failure::chain(&error))?;
        let wanted = CreateContainer {
            name: Some(words[0].clone()),
            config: ContainerConfig {
                image: "busybox".to_owned(),
                cmd: Some(words[1..].to_vec()),
                ..ContainerConfig::default()
            },
            host: HostConfig {
                network_mode: "none".to_owned(),
                ..HostConfig::default()
            },
            ..CreateContainer::default()
        };
        engine
            .create(wanted)
            .await
            .map_err(|error| failure::chain(&error))?;
        engine
            .start(&words[0])
            .await
            .map_err(|error| failure::chain(&error))?;
        let mut out = io::stdout();
        out.write_all(b"started\n")
            .and_then(|()| out.flush())
            .map_err(|error| error.to_string())?;
        // Until it is killed.
        std::future::pending().await
    })
}
