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
mod render;
mod router;
mod routes;
mod server;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;
use vocab::failure::chain;
use vocab::{Failure, Kind};

use config::{Log, Settings, Wanted};
use listen::{DirectoryLock, ListenError, Listener, Pidfile};
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
    start_log(settings.log);
    let outcome = if rustix::process::geteuid().is_root() {
        serve(settings)
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

fn start_log(log: Log) {
    let colours = log.colours && io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(colours)
        .with_max_level(LevelFilter::from_level(log.level));
    // Only a second daemon in one process could fail here, and it logs where the first does.
    let _ = if log.json {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
}

fn serve(settings: Settings) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("berth")
        .build()
        .map_err(RunError::Runtime)?;
    let outcome = runtime.block_on(async {
        let stop = Cancel::new();
        let signals = Group::new();
        watch_signals(&signals, &stop)?;
        let outcome = serve_until(settings, stop).await;
        signals.finish().await;
        outcome
    });
    // Reads of clients' uploads may be stuck on the blocking pool; they hold nothing that matters.
    runtime.shutdown_background();
    outcome
}

/// SIGTERM and SIGINT stop the daemon. SIGHUP, which means "reload" to dockerd, says that it does
/// nothing yet rather than ending the daemon.
fn watch_signals(group: &Group, stop: &Cancel) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
    let stop = stop.clone();
    group.spawn("signals", async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => tracing::warn!("berth does not reload its configuration yet"),
            }
        }
        tracing::info!("stopping; containers go on");
        stop.cancel();
    });
    Ok(())
}

/// Runs a daemon until `stop`: the whole of it, for `main` and for tests.
pub async fn serve_until(settings: Settings, stop: Cancel) -> Result<(), RunError> {
    // Held until the end; the kernel lets go of them however that comes.
    let _locks = [
        DirectoryLock::take(&settings.engine.data_root)?,
        DirectoryLock::take(&settings.engine.exec_root)?,
    ];
    let _pidfile = Pidfile::write(&settings.pidfile)?;
    // Before the engine, so that a daemon that cannot be reached does not touch any state.
    let mut listeners = Vec::new();
    for host in &settings.hosts {
        let listener = Listener::bind(host, settings.group.as_deref()).await?;
        if matches!(listener, Listener::Tcp(_)) {
            tracing::warn!(
                address = listener.address(),
                "whoever reaches this address is root on this host: it has no TLS"
            );
        }
        listeners.push(listener);
    }
    let registry = registry::Client::new(settings.engine.registry.clone())?;
    let engine = engine::Engine::open(settings.engine.clone()).await?;
    for listener in &listeners {
        tracing::info!(address = listener.address(), "API listens");
    }
    let grace = settings.shutdown_timeout;
    let storage_driver = engine.info().await.storage_driver;
    let daemon = Arc::new(Daemon {
        engine: engine.clone(),
        registry,
        settings,
        storage_driver,
        sessions: Group::new(),
        stopping: stop,
    });
    server::serve(daemon, listeners).await;
    engine.shutdown(grace).await;
    tracing::info!("stopped");
    Ok(())
}
