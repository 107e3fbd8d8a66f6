//! Whether a container is well: what is checked, how often, and what follows from it.
//!
//! ```text
//!              success                 as many failures in a row as `retries`
//!   starting ─────────▶ healthy ◀──────────────────────────────────▶ unhealthy
//!      │                              success
//!      └── failures count only once the start period is over ──────────▶
//! ```
//!
//! A check is a command in the container like any other. The owner decides when; a container that
//! is paused or that has ended is not checked. Verdicts are recorded with the container, so they
//! outlive the daemon.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use vocab::ContainerId;
use vocab::config::{ContainerConfig, Healthcheck};
use vocab::failure;

use super::record::nanos;
use crate::exec::{self, CreateExec, StartExec};
use crate::shared::Shared;

/// Docker's figures, where the check names none.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// Checks that are remembered (Docker's figure).
const LOG_ENTRIES: usize = 5;
/// Bytes of output that are remembered of each (Docker's figure).
const OUTPUT_BYTES: usize = 4096;

/// The exit code of a check that never ran, or did not end in time.
const NO_CODE: i32 = -1;

/// How well a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Nothing is known yet.
    Starting,
    /// The last check succeeded.
    Healthy,
    /// The last checks failed.
    Unhealthy,
}

impl HealthStatus {
    /// The API's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// When it began.
    #[serde(with = "nanos")]
    pub start: SystemTime,
    /// When it ended.
    #[serde(with = "nanos")]
    pub end: SystemTime,
    /// 0 is well.
    pub exit_code: i32,
    /// The first bytes of what it printed.
    pub output: String,
}

/// How well a container is, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// In a word.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last checks, the oldest first.
    pub log: VecDeque<Checked>,
}

impl Health {
    /// Of a container that begins to run.
    pub(crate) fn starting() -> Self {
        Self {
            status: HealthStatus::Starting,
            failing_streak: 0,
            log: VecDeque::new(),
        }
    }

    /// A check has ended. Answers whether the word changed.
    pub(crate) fn take(
        &mut self,
        plan: &Plan,
        checked: Checked,
        started: Option<SystemTime>,
    ) -> bool {
        let before = self.status;
        if checked.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else {
            let ran = started.and_then(|started| checked.start.duration_since(started).ok());
            let in_start_period = ran.unwrap_or_default() < plan.start_period;
            if before != HealthStatus::Starting || !in_start_period {
                self.failing_streak += 1;
                if self.failing_streak >= plan.retries {
                    self.status = HealthStatus::Unhealthy;
                }
            }
        }
        while self.log.len() >= LOG_ENTRIES {
            self.log.pop_front();
        }
        self.log.push_back(checked);
        self.status != before
    }
}

/// What is checked, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    command: Vec<String>,
    interval: Duration,
    pub(crate) timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Plan {
    /// `None` when nothing is checked.
    pub(crate) fn of(config: &ContainerConfig) -> Option<Self> {
        let check = config.healthcheck.as_ref()?;
        let test = check.test.as_deref().unwrap_or_default();
        let (kind, words) = test.split_first()?;
        let command = match (kind.as_str(), words) {
            ("CMD", words) if !words.is_empty() => words.to_vec(),
            ("CMD-SHELL", [line, ..]) => {
                let shell = config.shell.clone().filter(|shell| !shell.is_empty());
                let mut command =
                    shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
                command.push(line.clone());
                command
            }
            _ => return None,
        };
        let or = |nanos: i64, default| match u64::try_from(nanos) {
            Ok(nanos @ 1..) => Duration::from_nanos(nanos),
            _ => default,
        };
        Some(Self {
            command,
            interval: or(check.interval, INTERVAL),
            timeout: or(check.timeout, TIMEOUT),
            start_period: or(check.start_period, Duration::ZERO),
            start_interval: or(check.start_interval, START_INTERVAL),
            retries: u32::try_from(check.retries)
                .ok()
                .filter(|retries| *retries > 0)
                .unwrap_or(RETRIES),
        })
    }

    /// How long to wait before the next check.
    pub(crate) fn pause(&self, status: HealthStatus, started: Option<SystemTime>) -> Duration {
        let ran = started.and_then(|started| started.elapsed().ok());
        let early = ran.unwrap_or_default() < self.start_period;
        match status {
            HealthStatus::Starting if early => self.start_interval,
            _ => self.interval,
        }
    }

    /// Runs one check to its end, or to the end of its time.
    pub(crate) async fn check(&self, shared: &Arc<Shared>, container: ContainerId) -> Checked {
        let start = SystemTime::now();
        let mut output = Vec::new();
        let run = run(shared, container, &self.command, &mut output);
        let exit_code = match tokio::time::timeout(self.timeout, run).await {
            Ok(Ok(code)) => code,
            Ok(Err(reason)) => {
                output = reason.into_bytes();
                NO_CODE
            }
            Err(_) => {
                let time = vocab::time::go_duration(self.timeout);
                let mut text = format!("Health check exceeded timeout ({time})").into_bytes();
                if !output.is_empty() {
                    text.extend_from_slice(b": ");
                    text.append(&mut output);
                }
                output = text;
                NO_CODE
            }
        };
        if output.len() > OUTPUT_BYTES {
            output.truncate(OUTPUT_BYTES);
            output.extend_from_slice(b"...");
        }
        Checked {
            start,
            end: SystemTime::now(),
            exit_code,
            output: String::from_utf8_lossy(&output).into_owned(),
        }
    }
}

/// Runs a command in the container, and answers its exit code. One that is given up is killed.
async fn run(
    shared: &Arc<Shared>,
    container: ContainerId,
    command: &[String],
    output: &mut Vec<u8>,
) -> Result<i32, String> {
    let wanted = CreateExec {
        cmd: command.to_vec(),
        attach_stdout: true,
        attach_stderr: true,
        ..CreateExec::default()
    };
    let typed = container.to_string();
    let id = exec::create(shared, &typed, wanted).map_err(|error| failure::chain(&error))?;
    let _killed = exec::Killed::new(shared, container, id);
    let started = exec::start(shared, &id.to_string(), StartExec::default()).await;
    let attached = started.map_err(|error| failure::chain(&error))?;
    if let Some(mut attached) = attached {
        while let Some(piece) = attached.output.next().await {
            let piece = piece.map_err(|error| error.to_string())?;
            // One more than is kept, to know that there was more.
            let room = (OUTPUT_BYTES + 1).saturating_sub(output.len());
            output.extend_from_slice(&piece.bytes[..piece.bytes.len().min(room)]);
        }
    }
    let code = exec::exit_code(shared, &id);
    code.ok_or_else(|| "the check's end was not told".to_owned())
}

/// What a container does not say of its check, its image does.
pub(crate) fn inherit(own: &mut Option<Healthcheck>, image: Option<&Healthcheck>) {
    let Some(image) = image else { return };
    let Some(own) = own else {
        *own = Some(image.clone());
        return;
    };
    if own.test.as_ref().is_none_or(Vec::is_empty) {
        own.test.clone_from(&image.test);
    }
    for (own, image) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ] {
        if *own == 0 {
            *own = image;
        }
    }
}

/// Why a check cannot be.
pub(crate) fn reason_against(check: &Healthcheck) -> Option<String> {
    const LEAST: i64 = 1_000_000;
    for (name, value) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if value != 0 && value < LEAST {
            return Some(format!("{name} in Healthcheck cannot be less than 1ms"));
        }
    }
    (check.retries < 0).then(|| "Retries in Healthcheck cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn config(test: &[&str], retries: i64, start_period: i64) -> ContainerConfig {
        ContainerConfig {
            healthcheck: Some(Healthcheck {
                test: Some(test.iter().map(ToString::to_string).collect()),
                retries,
                start_period,
                ..Healthcheck::default()
            }),
            ..ContainerConfig::default()
        }
    }

    #[test]
    fn every_form_of_a_check_becomes_a_command_or_none() {
        for (test, wanted) in [
            (
                &["CMD", "/bin/true", "x"][..],
                Some(&["/bin/true", "x"][..]),
            ),
            (&["CMD-SHELL", "a | b"], Some(&["/bin/sh", "-c", "a | b"])),
            (&["NONE"], None),
            (&["CMD"], None),
            (&["WHAT", "x"], None),
            (&[], None),
        ] {
            let plan = Plan::of(&config(test, 0, 0));
            let command = plan.as_ref().map(|plan| plan.command.as_slice());
            let wanted: Option<Vec<String>> =
                wanted.map(|words| words.iter().map(ToString::to_string).collect());
            assert_eq!(command, wanted.as_deref(), "{test:?}");
        }
    }

    #[test]
    fn verdicts_follow_from_checks() {
        let began = SystemTime::UNIX_EPOCH;
        let plan = Plan::of(&config(&["CMD", "x"], 2, 10 * SECOND)).unwrap();
        let mut health = Health::starting();
        let mut check = |seconds, exit_code| {
            let start = began + Duration::from_secs(seconds);
            let checked = Checked {
                start,
                end: start,
                exit_code,
                output: String::new(),
            };
            let changed = health.take(&plan, checked, Some(began));
            (health.status.name(), health.failing_streak, changed)
        };
        // Within the start period failures do not count …
        assert_eq!(check(1, 1), ("starting", 0, false));
        assert_eq!(check(2, -1), ("starting", 0, false));
        assert_eq!(check(11, 1), ("starting", 1, false));
        assert_eq!(check(12, 1), ("unhealthy", 2, true));
        assert_eq!(check(13, 0), ("healthy", 0, true));
        // … until the first success.
        assert_eq!(check(3, 1), ("healthy", 1, false));
        assert_eq!(check(4, 1), ("unhealthy", 2, true));
        assert_eq!(health.log.len(), LOG_ENTRIES);
    }

    #[test]
    fn what_is_not_said_is_the_images() {
        let image = config(&["CMD", "x"], 7, 3 * SECOND).healthcheck;
        let mut own = Some(Healthcheck {
            interval: SECOND,
            ..Healthcheck::default()
        });
        inherit(&mut own, image.as_ref());
        let own = own.unwrap();
        assert_eq!(own.test, image.as_ref().unwrap().test);
        assert_eq!((own.interval, own.retries), (SECOND, 7));
        let mut none = None;
        inherit(&mut none, image.as_ref());
        assert_eq!(none, image);
    }
}
