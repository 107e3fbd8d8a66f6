//! What happened, as a stream with a history.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::{Engine, FilterError, Filters, Stream};

/// Events kept for those who ask for the past (Docker keeps as many).
pub const HISTORY: usize = 256;

/// What kind of thing it happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A container.
    Container,
    /// The daemon.
    Daemon,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

impl EventKind {
    /// The API's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Daemon => "daemon",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// To what kind of thing.
    pub kind: EventKind,
    /// What: `start`, `exec_create: sh -c …`.
    pub action: String,
    /// To which thing: its id, or its name.
    pub id: String,
    /// More about it: name, image, labels, exit code.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub time: SystemTime,
}

/// Which events.
#[derive(Clone, Debug, Default)]
pub struct EventOptions {
    /// Also the kept ones from then on.
    pub since: Option<SystemTime>,
    /// Only up to then; the stream ends at that moment.
    pub until: Option<SystemTime>,
    /// What must match.
    pub filters: Filters,
}

impl Engine {
    /// Events as they happen, after those of the past that were asked for. What happens after
    /// this call returns is not missed.
    pub fn events(&self, _options: EventOptions) -> Result<Stream<Event>, FilterError> {
        todo!()
    }
}
