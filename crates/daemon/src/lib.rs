//! The daemon: configuration, sockets, and every route of the Engine API onto the engine.
//!
//! ```text
//!  config ─▶ Settings ─▶ engine::Engine::open
//!  listen ─▶ server ─▶ router ─▶ routes ─▶ engine         a request goes down …
//!                        answer ◀─ render ◀─ records      … and its answer comes up
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | dockerd's flags and daemon.json's keys, as one table |
//! | `scope`, `tls` | what may be asked for on a socket, and who may come to it |
//! | `listen` | unix and TCP sockets, the lock of the data root, the pidfile |
//! | `server` | connections, and their end |
//! | `router` | the table of all operations, versions, what every answer has in common |
//! | `call`, `json`, `answer` | a request as routes see it, and what they say back |
//! | `routes` | one file for each area of the API |
//! | `render` | the engine's records as JSON, with the differences between API versions |
//!
//! What you will not find: a rule about containers. The sentences of refusals come from the
//! engine's errors; only where a route owes Docker's own words are they written beside it.

mod answer;
mod call;
#[cfg(test)]
mod compat;
pub mod config;
mod json;
mod listen;
mod log;
mod metrics;
mod reload;
mod render;
mod router;
mod routes;
mod scope;
mod server;
mod supervisor;
mod tls;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use vocab::failure::chain;
use vocab::{Failure, Kind};

use config::{Settings, Wanted};
use listen::{DirectoryLock, ListenError, Pidfile};
use reload::Told;
use server::Daemon;
use tasks::{Cancel, Group};

/// Why the daemon did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Namespaces, mounts and networks are root's.
    #[error("the daemon needs to run as root")]
    NotRoot,
    /// The runtime.
    #[error("start the daemon's threads")]
    Runtime(#[source] io::Error),
    /// Signals.
    #[error("listen for signals")]
    Signals(#[source] io::Error),
    /// A socket or a lock.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The engine.
    #[error("open the engine")]
    Engine(#[from] engine::OpenError),
    /// The registry client.
    #[error("prepare for registries")]
    Registry(#[from] registry::NewClientError),
}

impl Failure for RunError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotRoot => Kind::Forbidden,
            Self::Runtime(_) | Self::Signals(_) => Kind::Internal,
            Self::Listen(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::Registry(_) => Kind::InvalidArgument,
        }
    }
}

/// `berth daemon …`: what the binary's main calls for that role. `args` begin with the program's
/// name; the word `daemon` is not among them.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that every role has"
)]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let say = |text: &str| {
        // A closed stdout is no reason to fail.
        let _ = writeln!(io::stdout(), "{}", text.trim_end());
    };
    let settings = match config::read(args.get(1..).unwrap_or_default()) {
        Ok(Wanted::Run(settings)) => settings,
        Ok(Wanted::Validated) => {
            say("configuration OK");
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::Version) => {
            say(concat!("berth version ", env!("CARGO_PKG_VERSION")));
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::Print(text)) => {
            say(&text);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "berth daemon: {}", chain(&error));
            return ExitCode::FAILURE;
        }
    };
    let again = Again {
        args: args.get(1..).unwrap_or_default().to_vec(),
        log: log::Log::start(settings.log),
        asked: Notify::new(),
    };
    let outcome = if rustix::process::geteuid().is_root() {
        serve(settings, again)
    } else {
        Err(RunError::NotRoot)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// How the configuration is read anew.
struct Again {
    args: Vec<OsString>,
    log: log::Log,
    asked: Notify,
}

fn serve(settings: Settings, again: Again) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("berth")
        .build()
        .map_err(RunError::Runtime)?;
    let outcome = runtime.block_on(async {
        let stop = Cancel::new();
        let signals = Group::new();
        let again = Arc::new(again);
        watch_signals(&signals, &stop, again.clone())?;
        let outcome = serve_until(settings, stop, &again).await;
        signals.finish().await;
        outcome
    });
    // Reads of clients' uploads may be stuck on the blocking pool; they hold nothing that matters.
    runtime.shutdown_background();
    outcome
}

/// SIGTERM and SIGINT stop the daemon; SIGHUP lets it read its configuration anew.
fn watch_signals(group: &Group, stop: &Cancel, again: Arc<Again>) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
    let stop = stop.clone();
    group.spawn("signals", async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => again.asked.notify_one(),
            }
        }
        tracing::info!("stopping; containers go on");
        supervisor::tell("STOPPING=1");
        stop.cancel();
    });
    Ok(())
}

/// Runs a daemon until `stop`.
async fn serve_until(settings: Settings, stop: Cancel, again: &Again) -> Result<(), RunError> {
    // Held until the end; the kernel lets go of them however that comes.
    let _locks = [
        DirectoryLock::take(&settings.engine.data_root)?,
        DirectoryLock::take(&settings.engine.exec_root)?,
    ];
    let _pidfile = Pidfile::write(&settings.pidfile)?;
    // Before the engine, so that a daemon that cannot be reached does not touch any state.
    let (group, tls) = (settings.group.as_deref(), settings.tls.as_ref());
    let listeners = listen::bind_all(&settings.hosts, group, tls).await?;
    for open in listeners.iter().filter(|listener| listener.is_open()) {
        tracing::warn!(
            address = open.address(),
            "whoever reaches this address is root on this host: it has no TLS"
        );
    }
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let started = metrics::Started::default();
    let telling = Group::new();
    if let Some(address) = &settings.metrics {
        let listener = listen::bind_tcp(address).await?;
        let shown = listener.local_addr().map(|address| address.to_string());
        tracing::info!(address = shown.unwrap_or_default(), "metrics listen");
        telling.spawn("metrics", metrics::serve(listener, started.clone()));
    }
    let engine = engine::Engine::open(settings.engine.clone()).await?;
    for listener in &listeners {
        tracing::info!(address = listener.address(), "API listens");
    }
    let storage_driver = engine.info().await.storage_driver;
    let daemon = Arc::new(Daemon {
        engine: engine.clone(),
        answered: metrics::Answered::default(),
        told: Told::new(settings)?,
        storage_driver,
        sessions: Group::new(),
        stopping: stop,
    });
    // Nobody else sets it.
    let _ = started.set(daemon.clone());
    supervisor::tell("READY=1");
    let reloading = async {
        loop {
            again.asked.notified().await;
            reload::reload(&daemon, &again.args, &again.log);
        }
    };
    tokio::select! {
        () = server::serve(daemon.clone(), listeners) => {}
        () = reloading => {}
    }
    engine
        .shutdown(daemon.told.settings().shutdown_timeout)
        .await;
    tracing::info!("stopped");
    Ok(())
}
