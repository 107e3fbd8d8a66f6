//! What users see of containers, and which of them a filter means.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use regex::Regex;
use vocab::time::{human_duration, parse_when};

use super::health::HealthStatus;
use super::index::View;
use super::record::{MountKind, Mounted, Record};
use super::{Details, InspectError, ListOptions, MountPoint, Size, State, Status, Summary, ports};
use crate::events::has_label;
use crate::shared::Shared;
use crate::{Engine, FilterError, Filters};

/// Keys that the filters of a list may have.
pub const LIST_FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// What `ps` prints.
pub(crate) fn sentence(state: &State, now: SystemTime) -> String {
    let since = |moment: Option<SystemTime>| {
        let passed = moment.and_then(|moment| now.duration_since(moment).ok());
        human_duration(passed.unwrap_or_default())
    };
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => {
            let health = match state.health.as_ref().map(|health| health.status) {
                None => "",
                Some(HealthStatus::Starting) => " (health: starting)",
                Some(HealthStatus::Healthy) => " (healthy)",
                Some(HealthStatus::Unhealthy) => " (unhealthy)",
            };
            format!("Up {}{health}", since(state.started_at))
        }
        Status::Paused => format!("Up {} (Paused)", since(state.started_at)),
        Status::Restarting => {
            format!(
                "Restarting ({}) {} ago",
                state.exit_code,
                since(state.finished_at)
            )
        }
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Exited => format!(
            "Exited ({}) {} ago",
            state.exit_code,
            since(state.finished_at)
        ),
        Status::Dead => "Dead".to_owned(),
    }
}

impl Shared {
    fn summary(&self, view: &View, now: SystemTime) -> Summary {
        let record = &view.record;
        let state = view.course.state();
        Summary {
            id: record.id,
            name: view.name.clone(),
            image: record.config.image.clone(),
            image_id: record.image.clone(),
            command: command(record),
            created: record.created,
            ports: ports::list(&record.config, &view.course.endpoints),
            size: None,
            labels: record.labels(),
            status: sentence(&state, now),
            state,
            network_mode: record.host.network_mode.clone(),
            annotations: record.host.annotations.clone(),
            networks: crate::endpoints::settings(
                record,
                &view.name,
                &view.course.endpoints,
                &self.networks(),
            ),
            mounts: mount_points(record),
        }
    }
}

fn command(record: &Record) -> String {
    let mut text = record.path.clone();
    for argument in &record.args {
        if argument.contains(' ') {
            text.push_str(&format!(" '{argument}'"));
        } else {
            text.push(' ');
            text.push_str(argument);
        }
    }
    text
}

fn mount_points(record: &Record) -> Vec<MountPoint> {
    record
        .mounts
        .iter()
        // Docker shows a tmpfs only when it came in the long form.
        .filter(|mounted| mounted.kind != MountKind::Tmpfs || mounted.long_form)
        .map(mount_point)
        .collect()
}

fn mount_point(mounted: &Mounted) -> MountPoint {
    MountPoint {
        kind: mounted.kind.name().to_owned(),
        name: mounted.volume.clone(),
        source: mounted.source.clone(),
        destination: mounted.destination.clone(),
        driver: match mounted.kind {
            MountKind::Volume if mounted.driver.is_empty() => "local".to_owned(),
            MountKind::Volume => mounted.driver.clone(),
            _ => String::new(),
        },
        mode: mounted.mode.clone(),
        writable: !mounted.read_only,
        propagation: mounted.propagation.clone(),
    }
}

impl Engine {
    /// Containers, newest first.
    pub async fn list(&self, options: ListOptions) -> Result<Vec<Summary>, FilterError> {
        let sieve = Sieve::new(&self.shared, &options.filters).await?;
        let all = options.all || options.limit.is_some() || options.filters.contains_key("status");
        let mut views = self.shared.index().views();
        views.sort_by_key(|view| std::cmp::Reverse((view.record.created, view.record.id)));
        let now = SystemTime::now();
        let mut listed: Vec<Summary> = views
            .iter()
            .filter(|view| !view.gone && (all || view.course.state().is_running()))
            .filter(|view| sieve.passes(view))
            .take(options.limit.unwrap_or(usize::MAX))
            .map(|view| self.shared.summary(view, now))
            .collect();
        self.name_images(&mut listed).await;
        if options.size {
            for summary in &mut listed {
                summary.size = Some(self.size(summary.id, &summary.image_id).await);
            }
        }
        Ok(listed)
    }

    /// A name that is gone, or means another image by now, is no name of a container's image.
    async fn name_images(&self, listed: &mut [Summary]) {
        let names = listed.iter().map(|summary| summary.image.clone());
        let names: std::collections::BTreeSet<String> = names.collect();
        let store = Arc::clone(&self.shared.store);
        let ids = tasks::blocking(move || {
            let found = names.into_iter().map(|name| {
                let id = store.find_image_id(&name).ok();
                (name, id)
            });
            found.collect::<BTreeMap<_, _>>()
        })
        .await;
        for summary in listed {
            let meant = ids.get(&summary.image).and_then(Option::as_ref);
            if meant != Some(&summary.image_id) {
                summary.image = summary.image_id.to_string();
            }
        }
    }

    /// Everything about one container.
    pub async fn inspect(&self, typed: &str, size: bool) -> Result<Details, InspectError> {
        let view = self.shared.index().find(typed)?.view();
        let record = &view.record;
        let files = self.shared.data_dir(&record.id);
        let started = view.course.started_at.is_some() || view.course.phase.has_process();
        let file = |name: &str| match started {
            true => files.join(name),
            false => std::path::PathBuf::new(),
        };
        let size = match size {
            true => Some(self.size(record.id, &record.image).await),
            false => None,
        };
        Ok(Details {
            id: record.id,
            name: view.name.clone(),
            created: record.created,
            path: record.path.clone(),
            args: record.args.clone(),
            state: view.course.state(),
            image: record.image.clone(),
            resolv_conf_path: file("resolv.conf"),
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            log_path: match record.host.log_config.kind.as_str() {
                "json-file" => self.shared.log_path(&record.id),
                _ => std::path::PathBuf::new(),
            },
            restart_count: view.course.restart_count,
            driver: self.shared.store.driver().name().to_owned(),
            platform: record.os.clone(),
            execs: self.shared.execs.running_in(&record.id),
            host: record.host.clone(),
            config: record.config.clone(),
            mounts: mount_points(record),
            sandbox_id: match view.course.phase.has_process() {
                true => record.id.to_string(),
                false => String::new(),
            },
            ports: match view.course.phase.has_process() {
                true => ports::published(&record.config, &view.course.endpoints),
                false => BTreeMap::new(),
            },
            networks: crate::endpoints::settings(
                record,
                &view.name,
                &view.course.endpoints,
                &self.shared.networks(),
            ),
            size,
        })
    }

    async fn size(&self, id: vocab::ContainerId, image: &vocab::Digest) -> Size {
        let writable_bytes = self.writable_bytes(id).await;
        let (store, image) = (Arc::clone(&self.shared.store), image.clone());
        let found = tasks::blocking(move || store.find_image_by_id(&image)).await;
        let beneath = found.ok().flatten().map_or(0, |image| image.size_bytes);
        Size {
            writable_bytes,
            root_bytes: writable_bytes + beneath,
        }
    }
}

/// What a container's `status` may be, in Docker's order.
const STATES: [&str; 7] = [
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];

/// What its `health` may be, in Docker's order.
const HEALTHS: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];

/// Refuses another value than these.
fn one_of(key: &str, what: &str, value: &str, known: &[&str]) -> Result<(), FilterError> {
    if known.contains(&value) {
        return Ok(());
    }
    Err(FilterError::Because {
        key: key.to_owned(),
        value: value.to_owned(),
        why: format!(
            "invalid value for {what} ({value}): must be one of {}",
            known.join(", ")
        ),
    })
}

/// Which containers a filter lets through.
struct Sieve {
    filters: Filters,
    names: Vec<Regex>,
    /// Images that `ancestor` means, and the words themselves.
    ancestors: Vec<(Option<vocab::Digest>, String)>,
    /// Of the containers in `before` and `since`.
    before: Option<SystemTime>,
    since: Option<SystemTime>,
}

impl Sieve {
    async fn new(shared: &Arc<Shared>, filters: &Filters) -> Result<Self, FilterError> {
        if let Some(key) = filters
            .keys()
            .find(|key| !LIST_FILTERS.contains(&key.as_str()))
        {
            return Err(FilterError::Unknown(key.clone()));
        }
        let values = |key: &str| filters.get(key).into_iter().flatten();
        let wrong = |key: &str, value: &str| FilterError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        for value in values("status") {
            one_of("status", "state", value, &STATES)?;
        }
        for value in values("exited") {
            value.parse::<i32>().map_err(|error| FilterError::Because {
                key: "exited".to_owned(),
                value: value.clone(),
                why: format!(
                    "strconv.Atoi: parsing {value:?}: {}",
                    vocab::failure::go_reason(&error)
                ),
            })?;
        }
        for value in values("health") {
            one_of("health", "health", value, &HEALTHS)?;
        }
        let names = values("name")
            .map(|value| Regex::new(value).map_err(|_| wrong("name", value)))
            .collect::<Result<_, _>>()?;
        let mut ancestors = Vec::new();
        for value in values("ancestor") {
            let (store, typed) = (Arc::clone(&shared.store), value.clone());
            let found = tasks::blocking(move || store.find_image(&typed)).await;
            ancestors.push((found.ok().map(|image| image.id), value.clone()));
        }
        let moment = |key: &str| match values(key).next() {
            None => Ok(None),
            Some(typed) => match shared.index().find(typed) {
                Ok(handle) => Ok(Some(handle.view().record.created)),
                Err(_) => Err(wrong(key, typed)),
            },
        };
        Ok(Self {
            before: moment("before")?,
            since: moment("since")?,
            filters: filters.clone(),
            names,
            ancestors,
        })
    }

    fn passes(&self, view: &View) -> bool {
        let created = view.record.created;
        let in_time = self.before.is_none_or(|before| created < before)
            && self.since.is_none_or(|since| created > since);
        in_time
            && self
                .filters
                .iter()
                .all(|(key, values)| self.matches(view, key, values))
    }

    fn matches(&self, view: &View, key: &str, values: &[String]) -> bool {
        let record = &view.record;
        let any = |test: &dyn Fn(&str) -> bool| values.iter().any(|value| test(value));
        match key {
            "id" => any(&|value| record.id.to_string().starts_with(value)),
            "name" => {
                let slashed = format!("/{}", view.name);
                let hit = |name: &Regex| name.is_match(&slashed) || name.is_match(&view.name);
                self.names.iter().any(hit)
            }
            "label" => {
                let labels = record.labels();
                values.iter().all(|wanted| has_label(&labels, wanted))
            }
            "status" => any(&|value| view.course.state().status.name() == value),
            "exited" => {
                let state = view.course.state();
                state.status == Status::Exited && any(&|value| value.parse() == Ok(state.exit_code))
            }
            "health" => {
                let health = view.course.health.as_ref();
                let word = health.map_or("none", |health| health.status.name());
                any(&|value| value == word)
            }
            "is-task" => any(&|value| matches!(value, "false" | "0")),
            "ancestor" => self.ancestors.iter().any(|(id, typed)| {
                id.as_ref() == Some(&record.image) || record.config.image == *typed
            }),
            "network" => any(&|value| {
                let joined = &view.course.endpoints;
                record.networks.iter().any(|(name, _)| name == value)
                    || joined
                        .iter()
                        .any(|joined| joined.network_id.to_string().starts_with(value))
            }),
            "volume" => any(&|value| {
                let mut mounts = record.mounts.iter();
                mounts.any(|mounted| mounted.volume == value || mounted.destination == value)
            }),
            "publish" => any(&|value| {
                let listed = ports::list(&record.config, &view.course.endpoints);
                listed
                    .iter()
                    .any(|port| port.host.is_some() && port_matches(port, value))
            }),
            "expose" => any(&|value| {
                let listed = ports::list(&record.config, &view.course.endpoints);
                listed.iter().any(|port| port_matches(port, value))
            }),
            // Answered above, or the same for all.
            _ => true,
        }
    }
}

/// `80`, `80/tcp`, `80-90/tcp`.
fn port_matches(port: &super::Port, wanted: &str) -> bool {
    let (numbers, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
        return false;
    };
    port.protocol == protocol && (first..=last).contains(&port.container)
}

/// Which things a prune takes.
pub(crate) struct Prune {
    until: Option<SystemTime>,
    labels: Vec<String>,
    without: Vec<String>,
}

impl Prune {
    pub(crate) fn new(filters: &Filters) -> Result<Self, FilterError> {
        let mut prune = Self {
            until: None,
            labels: Vec::new(),
            without: Vec::new(),
        };
        for (key, values) in filters {
            match key.as_str() {
                "label" => prune.labels.clone_from(values),
                "label!" => prune.without.clone_from(values),
                "until" => {
                    for value in values {
                        let moment = parse_when(value);
                        let moment = moment.ok_or_else(|| FilterError::Moment(value.clone()))?;
                        prune.until = Some(moment);
                    }
                }
                _ => return Err(FilterError::Unknown(key.clone())),
            }
        }
        Ok(prune)
    }

    pub(crate) fn takes(&self, labels: &BTreeMap<String, String>, created: SystemTime) -> bool {
        self.until.is_none_or(|until| created < until)
            && self.labels.iter().all(|wanted| has_label(labels, wanted))
            && !self
                .without
                .iter()
                .any(|unwanted| has_label(labels, unwanted))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_state_becomes_a_sentence() {
        let now = SystemTime::now();
        let state = |status, code| State {
            status,
            oom_killed: false,
            pid: 0,
            exit_code: code,
            error: String::new(),
            started_at: Some(now - Duration::from_secs(120)),
            finished_at: Some(now - Duration::from_secs(5)),
            health: None,
        };
        assert_eq!(sentence(&state(Status::Running, 0), now), "Up 2 minutes");
        assert_eq!(
            sentence(&state(Status::Paused, 0), now),
            "Up 2 minutes (Paused)"
        );
        assert_eq!(
            sentence(&state(Status::Exited, 3), now),
            "Exited (3) 5 seconds ago"
        );
    }
}
