//! Where output goes beyond this host's files: syslog, journald, GELF and fluentd.
//!
//! What this crate hides: each protocol's bytes, its options and how it is reached. What you will
//! not find: containers, files, a retry; who sends decides when to try again.
//!
//! ```text
//! Target::parse(driver, options) ─▶ Sink::new(target, origin)
//!     add(line)…   encodes into a batch in memory, which the caller bounds
//!     send()       connects if need be, and hands the batch over; what failed stays in it
//! ```
//!
//! | module | speaks |
//! |---|---|
//! | `syslog` | RFC 3164 and RFC 5424, by datagram or stream, with TLS |
//! | `gelf` | GELF 1.1, in compressed and chunked datagrams or over TCP |
//! | `fluentd` | the forward protocol of fluentd and fluent-bit, with acknowledgements |
//! | `journald` | systemd's native protocol |
//! | `address` | what `proto://host:port` means |
//! | `transport` | sockets |

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

mod address;
mod fluentd;
mod gelf;
mod journald;
mod options;
mod syslog;
mod transport;

pub use transport::SendError;
use transport::{Address, Transport};

/// Options of a driver.
pub type Options = BTreeMap<String, String>;

/// The drivers there are.
pub const DRIVERS: [&str; 4] = ["fluentd", "gelf", "journald", "syslog"];

/// Options of a driver that cannot be, in Docker's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OptionError(pub String);

/// Where lines come from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The container.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its image, with the algorithm.
    pub image_id: String,
    /// As it was asked for.
    pub image_name: String,
    /// What it runs.
    pub command: String,
    /// When it was created (RFC 3339).
    pub created: String,
    /// The host's name.
    pub host: String,
    /// The tag, filled in.
    pub tag: String,
    /// Label and environment values.
    pub attributes: BTreeMap<String, String>,
}

/// A line, or a part of one.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Of standard error rather than standard output.
    pub stderr: bool,
    /// When.
    pub time: SystemTime,
    /// Without its newline.
    pub text: &'a [u8],
    /// Of a line that was too long for one message.
    pub part: Option<Part<'a>>,
}

/// Which part of a line.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The same for all of them.
    pub id: &'a str,
    /// From 1.
    pub ordinal: u32,
    /// No more come.
    pub last: bool,
}

/// A driver with its options.
#[derive(Clone, Debug)]
pub struct Target {
    kind: Kind,
    address: Address,
}

#[derive(Clone, Debug)]
enum Kind {
    Syslog(syslog::Settings),
    Gelf(gelf::Settings),
    Fluentd(fluentd::Settings),
    Journald,
}

impl Target {
    /// Understands the options that are the driver's own; `None` if it is none of ours.
    pub fn parse(driver: &str, options: &Options) -> Option<Result<Self, OptionError>> {
        Some(match driver {
            "syslog" => syslog::parse(options),
            "gelf" => gelf::parse(options),
            "fluentd" => fluentd::parse(options),
            "journald" => journald::parse(options),
            _ => return None,
        })
    }

    /// Whether a container may start before the other side answers.
    pub fn connects_later(&self) -> bool {
        matches!(&self.kind, Kind::Fluentd(settings) if settings.later)
    }
}

/// Messages that are to be sent.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each message ends.
    ends: Vec<usize>,
}

impl Batch {
    fn end_message(&mut self) {
        self.ends.push(self.bytes.len());
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// A connection to a target, and what waits for it.
#[derive(Debug)]
pub struct Sink {
    target: Target,
    format: Format,
    batch: Batch,
    transport: Option<Transport>,
}

#[derive(Debug)]
enum Format {
    Syslog(syslog::Format),
    Gelf(gelf::Format),
    Fluentd(fluentd::Format),
    Journald(journald::Format),
}

impl Sink {
    /// Nothing is connected yet.
    pub fn new(target: Target, origin: &Origin) -> Self {
        let format = match &target.kind {
            Kind::Syslog(settings) => Format::Syslog(syslog::Format::new(settings, origin)),
            Kind::Gelf(settings) => {
                Format::Gelf(gelf::Format::new(settings, &target.address, origin))
            }
            Kind::Fluentd(settings) => Format::Fluentd(fluentd::Format::new(settings, origin)),
            Kind::Journald => Format::Journald(journald::Format::new(origin)),
        };
        Self {
            target,
            format,
            batch: Batch::default(),
            transport: None,
        }
    }

    /// Speaks to a journal elsewhere than at its usual socket, as that of another mount namespace.
    #[must_use]
    pub fn with_journal(mut self, socket: &Path) -> Self {
        self.target.address = Address::Journal(socket.to_owned());
        self
    }

    /// Adds a line to the batch.
    pub fn add(&mut self, line: &Line<'_>) {
        let batch = &mut self.batch;
        match &mut self.format {
            Format::Syslog(format) => format.add(line, batch),
            Format::Gelf(format) => format.add(line, batch),
            Format::Fluentd(format) => format.add(line, batch),
            Format::Journald(format) => format.add(line, batch),
        }
    }

    /// Connects if there is no connection.
    pub async fn connect(&mut self) -> Result<(), SendError> {
        let gone = self.transport.as_ref().is_some_and(Transport::is_gone);
        if self.transport.is_none() || gone {
            self.transport = None;
            self.transport = Some(Transport::connect(&self.target.address).await?);
        }
        Ok(())
    }

    /// Hands the batch over. After a failure what was not taken is still in it.
    pub async fn send(&mut self) -> Result<(), SendError> {
        if let Format::Fluentd(format) = &mut self.format {
            format.finish(&mut self.batch);
        }
        if self.batch.ends.is_empty() {
            return Ok(());
        }
        self.connect().await?;
        let Some(transport) = &mut self.transport else {
            return Ok(());
        };
        let mut sent = transport
            .send(&mut self.batch.bytes, &mut self.batch.ends)
            .await;
        if sent.is_ok()
            && let Format::Fluentd(format) = &mut self.format
        {
            sent = format.acknowledged(transport).await;
        }
        if sent.is_err() {
            self.transport = None;
        } else {
            self.batch.clear();
        }
        sent
    }
}
