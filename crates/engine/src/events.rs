//! What happened, as a stream with a history.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use futures_util::StreamExt as _;
use tokio::sync::broadcast;

use crate::shared::lock;
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

/// Events that a slow reader may be behind before it misses some.
const BEHIND: usize = 4096;

/// Those who listen, and what they missed.
#[derive(Debug)]
pub(crate) struct Events {
    told: AtomicU64,
    history: Mutex<VecDeque<Arc<Event>>>,
    listeners: broadcast::Sender<Arc<Event>>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            told: AtomicU64::new(0),
            history: Mutex::new(VecDeque::with_capacity(HISTORY)),
            listeners: broadcast::channel(BEHIND).0,
        }
    }

    /// Tells everybody.
    pub(crate) fn publish(
        &self,
        kind: EventKind,
        action: String,
        id: String,
        attributes: BTreeMap<String, String>,
    ) {
        let event = Arc::new(Event {
            kind,
            action,
            id,
            attributes,
            time: SystemTime::now(),
        });
        self.told.fetch_add(1, Ordering::Relaxed);
        let mut history = lock(&self.history);
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(Arc::clone(&event));
        // Nobody listening is no failure. Under the lock, so that nobody hears it twice.
        let _ = self.listeners.send(event);
    }

    /// What was kept, and what comes.
    fn listen(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let history = lock(&self.history);
        (
            history.iter().cloned().collect(),
            self.listeners.subscribe(),
        )
    }
}

pub(crate) mod container {
    //! Events of containers and of their endpoints.

    use std::collections::BTreeMap;

    use vocab::ContainerId;

    use super::{EventKind, Events};
    use crate::containers::record::{Joined, Record};

    /// Something happened to a container; its labels come along.
    pub(crate) fn happened(
        events: &Events,
        action: &str,
        record: &Record,
        name: &str,
        more: &[(&str, String)],
    ) {
        let mut attributes = record.labels();
        attributes.insert("image".to_owned(), record.config.image.clone());
        attributes.insert("name".to_owned(), name.to_owned());
        for (key, value) in more {
            attributes.insert((*key).to_owned(), value.clone());
        }
        let id = record.id.to_string();
        events.publish(EventKind::Container, action.to_owned(), id, attributes);
    }

    /// A container joined or left a network.
    pub(crate) fn network(events: &Events, action: &str, joined: &Joined, id: &ContainerId) {
        let driver = match joined.network.as_str() {
            "host" => "host",
            "none" => "null",
            _ => "bridge",
        };
        let attributes = BTreeMap::from([
            ("container".to_owned(), id.to_string()),
            ("name".to_owned(), joined.network.clone()),
            ("type".to_owned(), driver.to_owned()),
        ]);
        let network = joined.network_id.to_string();
        events.publish(EventKind::Network, action.to_owned(), network, attributes);
    }
}

/// Keys that the filters of events may have.
pub const FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Which events a filter lets through.
#[derive(Debug)]
struct Sieve(Filters);

impl Sieve {
    fn new(filters: Filters) -> Result<Self, FilterError> {
        match filters.keys().find(|key| !FILTERS.contains(&key.as_str())) {
            Some(key) => Err(FilterError::Unknown(key.clone())),
            None => Ok(Self(filters)),
        }
    }

    fn passes(&self, event: &Event) -> bool {
        self.0.iter().all(|(key, values)| {
            if key == "label" {
                return values
                    .iter()
                    .all(|wanted| has_label(&event.attributes, wanted));
            }
            values.is_empty() || values.iter().any(|value| matches(event, key, value))
        })
    }
}

fn matches(event: &Event, key: &str, value: &str) -> bool {
    let named = |kind: EventKind, attribute: &str| {
        let name = event.attributes.get(attribute).map(String::as_str);
        event.kind == kind && (event.id.starts_with(value) || name == Some(value))
    };
    match key {
        "event" => {
            let prefixed = ["exec_create", "exec_start", "health_status"].contains(&value)
                && event.action.starts_with(value);
            event.action == value || prefixed
        }
        "type" => event.kind.name() == value,
        "scope" => value == "local",
        "container" => named(EventKind::Container, "name"),
        "network" => named(EventKind::Network, "name"),
        "volume" => named(EventKind::Volume, "name"),
        "daemon" => named(EventKind::Daemon, "name"),
        "image" => {
            // Of an image, or of a container made of it.
            let image = event
                .attributes
                .get("image")
                .or_else(|| event.attributes.get("name"));
            let bare = |text: &str| text.split(':').next().unwrap_or(text).to_owned();
            event.kind == EventKind::Image && event.id == value
                || image.is_some_and(|image| image == value || bare(image) == value)
        }
        _ => false,
    }
}

/// Whether the labels hold `key` or `key=value`.
pub(crate) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|own| own == value),
        None => labels.contains_key(wanted),
    }
}

impl Engine {
    /// How many events there were since the engine was opened.
    pub fn events_told(&self) -> u64 {
        self.shared.events.told.load(Ordering::Relaxed)
    }

    /// Says that the daemon has read its configuration anew.
    pub fn reloaded(&self, mut attributes: BTreeMap<String, String>) {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        attributes.insert("name".to_owned(), name.trim().to_owned());
        let (kind, id) = (EventKind::Daemon, self.shared.id.clone());
        self.shared
            .events
            .publish(kind, "reload".to_owned(), id, attributes);
    }

    /// Events as they happen, after those of the past that were asked for. What happens after
    /// this call returns is not missed.
    pub fn events(&self, options: EventOptions) -> Result<Stream<Event>, FilterError> {
        let sieve = Sieve::new(options.filters)?;
        let (history, listener) = self.shared.events.listen();
        let since = options.since;
        let past = history.into_iter().filter(move |event| {
            // Without `since` only the future is asked for, unless `until` is in the past.
            since.is_some_and(|since| event.time >= since)
        });
        let live = futures_util::stream::unfold(listener, |mut listener| async move {
            loop {
                match listener.recv().await {
                    Ok(event) => return Some((event, listener)),
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "a reader of events is too slow");
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        let until = options.until;
        // The past is told whole, however late it is.
        let live = match until {
            None => live.boxed(),
            Some(until) => {
                let left = until.duration_since(SystemTime::now()).unwrap_or_default();
                live.take_until(end_after(left)).boxed()
            }
        };
        let all = futures_util::stream::iter(past).chain(live);
        let wanted = all.filter_map(move |event| {
            let passes = sieve.passes(&event) && until.is_none_or(|until| event.time <= until);
            std::future::ready(passes.then(|| (*event).clone()))
        });
        Ok(wanted.boxed())
    }
}

/// Ends a stream after this time, but not before everything that is ready has been read.
async fn end_after(left: std::time::Duration) {
    tokio::time::sleep(left).await;
    tokio::task::yield_now().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, action: &str, attributes: &[(&str, &str)]) -> Event {
        Event {
            kind,
            action: action.to_owned(),
            id: "abc".to_owned(),
            attributes: attributes
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            time: SystemTime::now(),
        }
    }

    #[track_caller]
    fn check(filters: &[(&str, &str)], event: &Event, passes: bool) {
        let mut parsed = Filters::new();
        for (key, value) in filters {
            parsed
                .entry((*key).to_owned())
                .or_default()
                .push((*value).to_owned());
        }
        assert_eq!(
            Sieve::new(parsed).unwrap().passes(event),
            passes,
            "{filters:?}"
        );
    }

    #[test]
    fn filters_let_the_right_events_through() {
        let start = event(
            EventKind::Container,
            "exec_start: sh -c x",
            &[("name", "web"), ("image", "nginx:1"), ("a", "b")],
        );
        check(&[], &start, true);
        check(&[("type", "container"), ("container", "web")], &start, true);
        check(&[("type", "image")], &start, false);
        check(&[("event", "exec_start")], &start, true);
        check(&[("event", "start")], &start, false);
        check(&[("event", "start"), ("event", "exec_start")], &start, true);
        check(&[("label", "a=b"), ("label", "a")], &start, true);
        check(&[("label", "a=b"), ("label", "c")], &start, false);
        check(&[("image", "nginx")], &start, true);
        check(&[("container", "ab")], &start, true);
    }

    #[test]
    fn an_unknown_filter_is_refused() {
        let error = Sieve::new([("nope".to_owned(), Vec::new())].into()).unwrap_err();
        assert_eq!(error.to_string(), "invalid filter 'nope'");
    }
}
