//! The daemon's own log, whose level may change.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config;

/// The log.
#[derive(Clone, Debug)]
pub(crate) struct Log(reload::Handle<LevelFilter, Registry>);

impl Log {
    /// Begins to write to stderr.
    pub(crate) fn start(wanted: config::Log) -> Self {
        let colours = wanted.colours && io::stderr().is_terminal();
        let (level, handle) = reload::Layer::new(LevelFilter::from_level(wanted.level));
        let lines = fmt::layer().with_writer(io::stderr).with_ansi(colours);
        let lines = if wanted.json {
            lines.json().boxed()
        } else {
            lines.boxed()
        };
        // Only a second daemon in one process could fail here, and it logs where the first does.
        let _ = tracing_subscriber::registry()
            .with(level)
            .with(lines)
            .try_init();
        Self(handle)
    }

    /// From which level on.
    pub(crate) fn set_level(&self, level: LevelFilter) {
        // It fails when the log is gone, which is with the process.
        let _ = self.0.reload(level);
    }
}
