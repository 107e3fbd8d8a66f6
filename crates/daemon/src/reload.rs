//! SIGHUP: what the daemon was told is read anew, and what may change while it runs changes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::mem;
use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;
use tracing_subscriber::filter::LevelFilter;
use vocab::failure::chain;

use crate::config::{self, Settings, Wanted};
use crate::log::Log;
use crate::server::Daemon;

/// Options that take effect without a restart, by flag.
const AT_ONCE: [&str; 11] = [
    "debug",
    "insecure-registry",
    "label",
    "live-restore",
    "log-level",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "mirror",
    "registry-mirror",
    "shutdown-timeout",
];

/// What the daemon was told last, and what follows from it.
#[derive(Debug)]
pub(crate) struct Told(RwLock<(Arc<Settings>, registry::Client)>);

impl Told {
    pub(crate) fn new(settings: Settings) -> Result<Self, registry::NewClientError> {
        let registry = registry::Client::new(settings.engine.registry.clone())?;
        Ok(Self(RwLock::new((Arc::new(settings), registry))))
    }

    /// All of it.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .clone()
    }

    /// Asks registries on behalf of users.
    pub(crate) fn registry(&self) -> registry::Client {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clone()
    }

    /// Takes over what may change while the daemon runs. Returns the options that may not.
    fn change(&self, next: Settings) -> Result<Vec<&'static str>, registry::NewClientError> {
        let mut settings = Settings::clone(&self.settings());
        let mut later = Vec::new();
        for (name, value) in &next.values {
            if settings.values.get(name) != Some(value) && !AT_ONCE.contains(name) {
                later.push(*name);
            }
        }
        let gone = settings
            .values
            .keys()
            .filter(|name| !next.values.contains_key(*name));
        later.extend(gone.filter(|name| !AT_ONCE.contains(name)));
        settings.values.retain(|name, _| !AT_ONCE.contains(name));
        let at_once = next
            .values
            .into_iter()
            .filter(|(name, _)| AT_ONCE.contains(name));
        settings.values.extend(at_once);

        settings.engine.labels = next.engine.labels;
        settings.log.level = next.log.level;
        settings.shutdown_timeout = next.shutdown_timeout;
        let old = mem::replace(&mut settings.engine.registry, next.engine.registry);
        // These belong to the start of the daemon.
        settings.engine.registry.proxies = old.proxies;
        settings.engine.registry.certs_dirs = old.certs_dirs;

        let registry = registry::Client::new(settings.engine.registry.clone())?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = (Arc::new(settings), registry);
        Ok(later)
    }
}

/// Reads the command line and the file it names anew. What cannot be right changes nothing.
pub(crate) fn reload(daemon: &Daemon, args: &[OsString], log: &Log) {
    let next = match config::read(args) {
        Ok(Wanted::Run(next)) => next,
        Ok(_) => return,
        Err(error) => {
            tracing::error!("the configuration is as before: {}", chain(&error));
            return;
        }
    };
    match daemon.told.change(next) {
        Ok(later) if later.is_empty() => {}
        Ok(later) => tracing::warn!(options = later.join(", "), "a restart is needed for these"),
        Err(error) => {
            tracing::error!("the configuration is as before: {}", chain(&error));
            return;
        }
    }
    let settings = daemon.told.settings();
    log.set_level(LevelFilter::from_level(settings.log.level));
    tracing::info!("the configuration was read anew");
    daemon.engine.reloaded(attributes(&settings));
}

/// What the event tells, with Docker's keys.
fn attributes(settings: &Settings) -> BTreeMap<String, String> {
    fn list(items: &impl Serialize) -> String {
        serde_json::to_string(items).unwrap_or_default()
    }
    let registry = &settings.engine.registry;
    let debug = settings.log.level >= tracing::Level::DEBUG;
    [
        ("debug", debug.to_string()),
        ("default-runtime", "berth".to_owned()),
        ("insecure-registries", list(&registry.insecure)),
        ("labels", list(&settings.engine.labels)),
        ("live-restore", "true".to_owned()),
        (
            "max-concurrent-downloads",
            registry.max_concurrent_downloads.to_string(),
        ),
        (
            "max-concurrent-uploads",
            registry.max_concurrent_uploads.to_string(),
        ),
        ("max-download-attempts", registry.max_attempts.to_string()),
        ("registry-mirrors", list(&registry.mirrors)),
        (
            "shutdown-timeout",
            settings.shutdown_timeout.as_secs().to_string(),
        ),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
