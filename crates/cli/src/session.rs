//! Who is asked: the daemon's address, its start if need be, and the caller's settings.
//!
//! ```text
//! --host  >  --context  >  BERTH_HOST  >  DOCKER_HOST  >  DOCKER_CONTEXT
//!         >  currentContext of config.json  >  unix:///run/berth.sock
//! ```
//!
//! Only on the default socket, and only for root, a daemon that is not there is started. Nothing
//! here happens before a command asks for the daemon, so help and mistakes cost no connection.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::Client;
use api::client::{CallError, DEFAULT_HOST};

use crate::contexts::{Contexts, DEFAULT};
use crate::credentials::Config;
use crate::failure::{Failure, Result};
use crate::output;

/// Where a daemon that the command line starts writes what it has to say.
const DAEMON_LOG: &str = "/var/log/berth.log";

/// How long a daemon that was just started may take to answer.
const DAEMON_START: Duration = Duration::from_secs(20);

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The caller's settings.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// `berth`, or `docker` when called so.
    pub program: String,
    /// The daemon, if one was named.
    pub host: Option<String>,
    /// `--context`, if given.
    pub context: Option<String>,
    /// `--config`, if given.
    pub config: Option<PathBuf>,
}

impl Session {
    /// The daemon's address.
    pub fn address(&self) -> Result<String> {
        let name = self.context();
        if name == DEFAULT {
            return Ok(self.default_address());
        }
        let context = Contexts::of(&self.config_directory()).find(&name);
        let context = context.map_err(|failure| {
            Failure::new(format!(
                "Failed to initialize: unable to resolve docker endpoint: {}",
                failure.message
            ))
        })?;
        match context.host() {
            "" => Ok(self.default_address()),
            host => Ok(host.to_owned()),
        }
    }

    /// Where the daemon is when no context says it.
    pub fn default_address(&self) -> String {
        self.host
            .clone()
            .or_else(|| self.host_variable())
            .unwrap_or_else(|| DEFAULT_HOST.to_owned())
    }

    /// The daemon's address in the environment.
    pub fn host_variable(&self) -> Option<String> {
        variable("BERTH_HOST").or_else(|| variable("DOCKER_HOST"))
    }

    /// The name of the context in use.
    pub fn context(&self) -> String {
        if let Some(context) = &self.context {
            return context.clone();
        }
        if self.host.is_some() || self.host_variable().is_some() {
            return DEFAULT.to_owned();
        }
        if let Some(context) = variable("DOCKER_CONTEXT") {
            return context;
        }
        let current = Config::load(self).current_context;
        match current.is_empty() {
            true => DEFAULT.to_owned(),
            false => current,
        }
    }

    /// The directory of the client's configuration.
    pub fn config_directory(&self) -> PathBuf {
        self.config
            .clone()
            .or_else(|| std::env::var_os("DOCKER_CONFIG").map(PathBuf::from))
            .unwrap_or_else(|| {
                PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker")
            })
    }

    /// A daemon that answered.
    pub async fn client(&self) -> Result<Client> {
        let address = self.address()?;
        let wrong = |error: CallError| match error {
            CallError::Address(text) => Failure::new(format!(
                "`{text}` names no daemon: unix:///path or tcp://host:port is wanted"
            )),
            other => other.into(),
        };
        if let Some(version) = std::env::var("DOCKER_API_VERSION")
            .ok()
            .filter(|version| !version.is_empty())
        {
            let version = version
                .trim_start_matches('v')
                .parse()
                .map_err(|error| Failure::new(format!("DOCKER_API_VERSION: {error}")))?;
            let address = address.parse().map_err(wrong)?;
            return Ok(Client::new(address, version));
        }
        match Client::connect(&address).await {
            Err(CallError::Connect { source, .. })
                if address == DEFAULT_HOST
                    && matches!(
                        source.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                    )
                    && rustix::process::geteuid().is_root() =>
            {
                start_daemon(&self.program).await
            }
            outcome => outcome.map_err(wrong),
        }
    }
}

/// Starts `berth daemon` on its own and waits until it answers.
async fn start_daemon(program: &str) -> Result<Client> {
    let failed = |what: &str, error: io::Error| {
        Failure::new(format!("start the berth daemon: {what}: {error}"))
    };
    let log = File::options()
        .create(true)
        .append(true)
        .open(DAEMON_LOG)
        .map_err(|error| failed(DAEMON_LOG, error))?;
    let before = log.metadata().map_or(0, |metadata| metadata.len());
    let nothing = File::open("/dev/null").map_err(|error| failed("/dev/null", error))?;
    let child = match sys::daemonise::fork().map_err(|error| failed("fork", error))? {
        sys::daemonise::Forked::Parent { child } => child,
        sys::daemonise::Forked::Child => become_daemon(&nothing, &log),
    };
    output::error(format!(
        "{program}: no daemon answers at {DEFAULT_HOST}; starting one (log: {DAEMON_LOG})"
    ));
    let deadline = Instant::now() + DAEMON_START;
    loop {
        match Client::connect(DEFAULT_HOST).await {
            Ok(client) => return Ok(client),
            Err(CallError::Connect { .. }) => {}
            Err(other) => return Err(other.into()),
        }
        let pid = rustix::process::Pid::from_raw(child);
        let ended = rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG);
        if matches!(ended, Ok(Some(_))) {
            return Err(Failure::new(format!(
                "the berth daemon that was just started has ended: {}",
                last_line(before)
            )));
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!(
                "the berth daemon that was just started (process {child}) does not answer; see {DAEMON_LOG}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// In the child: a session of its own, no terminal, no descriptor of ours, and then the daemon.
#[expect(clippy::exit, reason = "a fork must not return into its parent's code")]
fn become_daemon(nothing: &File, log: &File) -> ! {
    let become_it = || -> io::Result<io::Error> {
        rustix::process::setsid()?;
        rustix::stdio::dup2_stdin(nothing)?;
        rustix::stdio::dup2_stdout(log)?;
        rustix::stdio::dup2_stderr(log)?;
        rustix::process::chdir("/")?;
        sys::daemonise::close_from(3)?;
        let path = CString::new("/proc/self/exe")?;
        let arguments = [CString::new("berth")?, CString::new("daemon")?];
        let environment: Vec<CString> = std::env::vars_os()
            .filter_map(|(name, value)| {
                let mut pair = name.into_vec();
                pair.push(b'=');
                pair.extend(value.into_vec());
                CString::new(pair).ok()
            })
            .collect();
        Ok(sys::exec::execve(&path, &arguments, &environment))
    };
    let error = become_it().unwrap_or_else(|error| error);
    output::error(format!("start the berth daemon: {error}"));
    std::process::exit(1);
}

/// What the daemon said last, after the log had `before` bytes.
fn last_line(before: u64) -> String {
    let read = || -> io::Result<String> {
        let mut log = File::open(DAEMON_LOG)?;
        log.seek(io::SeekFrom::Start(before))?;
        let mut text = String::new();
        log.take(1 << 20).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => line.to_owned(),
        None => format!("see {DAEMON_LOG}"),
    }
}
