//! cgroups that systemd makes: `cgroupsPath` is `slice:prefix:name`, and the container's cgroup is
//! that of a transient scope, `prefix-name.scope` in that slice.
//!
//! ```text
//! Scope::start   a placeholder process ── StartTransientUnit(PIDs, Delegate, limits) ─▶ systemd
//!                path of the cgroup, for `cgroupsPath` of `create`
//! create         makes the container in it, and writes all limits (systemd knows only some)
//! Started drops  the placeholder ends; the scope lives as long as anybody is in it
//! Scope::stop    what is left of the unit is forgotten
//! ```
//!
//! Only where version 2 is mounted alone: on version 1 systemd would put its own device rules in
//! place of ours whenever it reloads. systemd itself has given up version 1.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

pub use super::annotated::Properties;
use super::dbus::{CallError, Connection, Encoder, Value};
use super::host::Layout;
use super::plan::{given, memory_and_swap};
use super::{CgroupError, v2};
use crate::oci;

/// systemd did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// `cgroupsPath` is not what it is with this driver.
    #[error(
        "linux.cgroupsPath: {given:?} is not of the form slice:prefix:name, which systemd's cgroups need"
    )]
    Path {
        /// What was given.
        given: String,
    },
    /// A property that the annotations ask for.
    #[error("annotations[{key:?}]: {reason}")]
    Annotation {
        /// `org.systemd.property.…`.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name of a slice that cannot be.
    #[error("linux.cgroupsPath: {0:?} is no name of a slice")]
    Slice(String),
    /// Version 1 is mounted, alone or beside version 2.
    #[error("systemd's cgroups need a host with cgroup version 2 alone")]
    Layout,
    /// No manager listens.
    #[error("reach systemd at `{socket}`")]
    Unreachable {
        /// Its private socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A method of the manager failed.
    #[error("{what} `{unit}`")]
    Call {
        /// Such as `start the unit`.
        what: &'static str,
        /// Which unit.
        unit: String,
        /// What systemd said.
        source: io::Error,
    },
    /// The unit's job ended, but not well.
    #[error("systemd could not start the unit `{unit}`: {result}")]
    Job {
        /// Which unit.
        unit: String,
        /// `failed`, `timeout`, …
        result: String,
    },
    /// The process that keeps the scope until the container's is there.
    #[error("hold the unit's cgroup")]
    Placeholder(#[source] io::Error),
    /// Limits, or what is mounted.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// A transient scope. Serialisable, for whoever stops it later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    unit: String,
    slice: String,
    user: bool,
}

/// A scope whose cgroup exists. Dropping it ends the placeholder, so do it when the container's
/// process is there, or never will be.
#[derive(Debug)]
pub struct Started {
    /// The cgroup, absolute below the mount.
    pub path: String,
    placeholder: OwnedFd,
}

impl Drop for Started {
    fn drop(&mut self) {
        crate::create::end(self.placeholder.as_fd());
    }
}

impl Scope {
    /// From `cgroupsPath`; where it is empty, the scope of the container `id` in the usual slice.
    /// An ordinary user's is made by the manager of that user.
    pub fn parse(cgroups_path: &str, id: &str) -> Result<Self, SystemdError> {
        let user = !rustix::process::geteuid().is_root();
        let parts: Vec<&str> = match cgroups_path {
            "" => vec!["", "berth", id],
            path => path.split(':').collect(),
        };
        let [slice, prefix, name] = parts[..] else {
            return Err(SystemdError::Path {
                given: cgroups_path.to_owned(),
            });
        };
        let plain = |text: &str| !text.contains('/') && !text.contains('\0');
        if name.is_empty() || name.ends_with(".slice") || !plain(name) || !plain(prefix) {
            return Err(SystemdError::Path {
                given: cgroups_path.to_owned(),
            });
        }
        let slice = match slice {
            "" if user => "user.slice",
            "" => "system.slice",
            slice => slice,
        };
        check_slice(slice)?;
        let unit = if prefix.is_empty() {
            format!("{name}.scope")
        } else {
            format!("{prefix}-{name}.scope")
        };
        Ok(Self {
            unit,
            slice: slice.to_owned(),
            user,
        })
    }

    /// The name of the unit.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Has systemd make the scope, with those limits that it knows, and with `more`, which has the
    /// last word.
    ///
    /// Forks the calling thread: call it from a program with one thread.
    pub fn start(
        &self,
        resources: Option<&oci::LinuxResources>,
        more: &Properties,
    ) -> Result<Started, SystemdError> {
        if Layout::detect()? != Layout::V2 {
            return Err(SystemdError::Layout);
        }
        let limits = resources.map(properties).transpose()?.unwrap_or_default();
        let mut manager = self.manager()?;
        let child = sys::clone::spawn(UnshareFlags::empty(), None, hold);
        let child = child.map_err(SystemdError::Placeholder)?;
        let mut started = Started {
            path: String::new(),
            placeholder: child.pidfd,
        };
        let mut all = vec![
            (
                "Description",
                Value::Text(format!("berth container {}", self.unit)),
            ),
            ("Slice", Value::Text(self.slice.clone())),
            ("Delegate", Value::Bool(true)),
            ("DefaultDependencies", Value::Bool(false)),
            ("MemoryAccounting", Value::Bool(true)),
            ("CPUAccounting", Value::Bool(true)),
            ("IOAccounting", Value::Bool(true)),
            ("TasksAccounting", Value::Bool(true)),
            ("PIDs", Value::Pids(vec![child.pid.cast_unsigned()])),
        ];
        all.extend(limits);
        all.extend(
            more.0
                .iter()
                .map(|(name, value)| (name.as_str(), value.clone())),
        );
        let mut body = Encoder::default();
        body.text(&self.unit)
            .text("replace")
            .properties(&all)
            .no_further_units();
        let mut ask = || manager.call("StartTransientUnit", "ssa(sv)a(sa(sv))", &body);
        let answer = match ask() {
            // A scope of that name failed, and systemd keeps it to be looked at.
            Err(CallError::Refused { name, .. }) if name.ends_with(".UnitExists") => {
                self.forget()?;
                ask()
            }
            other => other,
        };
        let job = answer
            .map_err(self.failed("start the unit"))?
            .unwrap_or_default();
        let result = manager
            .job(&job)
            .map_err(|source| self.failed("start the unit")(source.into()))?;
        if result != "done" {
            return Err(SystemdError::Job {
                unit: self.unit.clone(),
                result,
            });
        }
        started.path = v2::path_of(child.pid)?;
        Ok(started)
    }

    /// Changes the limits that systemd knows, so that it does not bring the old ones back. The
    /// cgroup itself is updated by [`super::Cgroup::update`].
    pub fn update(&self, resources: &oci::LinuxResources) -> Result<(), SystemdError> {
        let limits = properties(resources)?;
        let mut body = Encoder::default();
        // Until the next boot: the unit is gone then anyway.
        body.text(&self.unit).boolean(true).properties(&limits);
        let answer = self.manager()?.call("SetUnitProperties", "sba(sv)", &body);
        answer.map(drop).map_err(self.failed("change the unit"))
    }

    /// Ends what is left of the unit. That it is gone already is no error.
    pub fn stop(&self) -> Result<(), SystemdError> {
        let mut manager = self.manager()?;
        let mut body = Encoder::default();
        body.text(&self.unit).text("replace");
        match manager.call("StopUnit", "ss", &body) {
            Ok(job) => {
                let job = manager.job(&job.unwrap_or_default());
                job.map_err(|source| self.failed("stop the unit")(source.into()))?;
            }
            Err(CallError::Refused { name, .. }) if name.ends_with(".NoSuchUnit") => return Ok(()),
            Err(error) => return Err(self.failed("stop the unit")(error)),
        }
        self.forget()
    }

    /// Drops the state of a unit that failed.
    fn forget(&self) -> Result<(), SystemdError> {
        let mut body = Encoder::default();
        body.text(&self.unit);
        match self.manager()?.call("ResetFailedUnit", "s", &body) {
            Err(CallError::Refused { name, .. }) if name.ends_with(".NoSuchUnit") => Ok(()),
            other => other.map(drop).map_err(self.failed("forget the unit")),
        }
    }

    fn manager(&self) -> Result<Connection, SystemdError> {
        let run = match std::env::var_os("XDG_RUNTIME_DIR").filter(|_| self.user) {
            Some(own) => PathBuf::from(own),
            None => PathBuf::from("/run"),
        };
        let socket = run.join("systemd/private");
        Connection::open(&socket).map_err(|source| SystemdError::Unreachable { socket, source })
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(CallError) -> SystemdError {
        let unit = self.unit.clone();
        move |error| SystemdError::Call {
            what,
            unit,
            source: match error {
                CallError::Connection(source) => source,
                refused @ CallError::Refused { .. } => io::Error::other(refused),
            },
        }
    }
}

/// The placeholder: there until it is killed, or its parent is gone.
fn hold() -> i32 {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    loop {
        super::files::wait(std::time::Duration::from_secs(3600));
    }
}

/// `a-b.slice`: no part may be empty, and there is no path in it. `-.slice` is the root.
fn check_slice(slice: &str) -> Result<(), SystemdError> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty());
    let good = |name: &str| {
        name == "-" || (!name.contains(['/', '\0']) && name.split('-').all(|part| !part.is_empty()))
    };
    match name {
        Some(name) if good(name) => Ok(()),
        _ => Err(SystemdError::Slice(slice.to_owned())),
    }
}

/// The limits that systemd has properties for; without them it would undo ours when it reloads.
fn properties(resources: &oci::LinuxResources) -> Result<Vec<(&'static str, Value)>, CgroupError> {
    let mut all = Vec::new();
    let mut add = |name, value| all.push((name, value));
    // Negative is unlimited, which systemd writes as the largest number.
    let bytes = |limit: i64| Value::Number(u64::try_from(limit).unwrap_or(u64::MAX));
    if let Some(memory) = resources.memory() {
        if let Some(limit) = given(memory.limit()) {
            add("MemoryMax", bytes(limit));
        }
        if let Some(reservation) = given(memory.reservation()) {
            add("MemoryLow", bytes(reservation));
        }
        if let Some(sum) = memory_and_swap(memory) {
            let swap = v2::swap_alone(given(memory.limit()), sum)?;
            add(
                "MemorySwapMax",
                Value::Number(swap.parse().unwrap_or(u64::MAX)),
            );
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = given(cpu.shares()) {
            add("CPUWeight", Value::Number(v2::weight_of_shares(shares)));
        }
        let period = given(cpu.period());
        if let Some(period) = period {
            add("CPUQuotaPeriodUSec", Value::Number(period));
        }
        if let Some(quota) = given(cpu.quota()) {
            let quota = quota_of_a_second(quota, period.unwrap_or(DEFAULT_PERIOD_MICROS));
            add("CPUQuotaPerSecUSec", Value::Number(quota));
        }
        for (name, set) in [
            ("AllowedCPUs", cpu.cpus()),
            ("AllowedMemoryNodes", cpu.mems()),
        ] {
            if let Some(set) = set.as_ref().filter(|set| !set.is_empty()) {
                add(name, Value::Bytes(bit_mask(set)?));
            }
        }
    }
    let pids = resources.pids().as_ref().map(oci::LinuxPids::limit);
    if let Some(limit) = given(pids) {
        add("TasksMax", bytes(limit));
    }
    Ok(all)
}

/// The kernel's default (`cpu.max`).
const DEFAULT_PERIOD_MICROS: u64 = 100_000;
/// systemd keeps whole percents of a second.
const PERCENT_MICROS: u64 = 10_000;

/// In microseconds, rounded up to what systemd can say, so that the cgroup's own quota fits.
fn quota_of_a_second(quota: i64, period: u64) -> u64 {
    match u64::try_from(quota) {
        Ok(quota) => (quota.saturating_mul(1_000_000) / period.max(1))
            .checked_next_multiple_of(PERCENT_MICROS)
            .unwrap_or(u64::MAX),
        Err(_) => u64::MAX,
    }
}

/// The most processors of a kernel (`CONFIG_NR_CPUS`).
const MAX_CPUS: usize = 8192;

/// `0-2,8` as the bytes 0x07 0x01: processor n is bit n.
fn bit_mask(list: &str) -> Result<Vec<u8>, CgroupError> {
    let wrong = || super::plan::invalid("the set of CPUs or memory nodes", list);
    let number = |text: &str| text.trim().parse().ok().filter(|n: &usize| *n < MAX_CPUS);
    let mut mask = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
        for bit in first..=last {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0_u8);
            }
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_slice_and_scope() {
        let scope = Scope::parse("machine.slice:libpod:abc", "x").unwrap();
        assert_eq!(
            (scope.unit(), scope.slice.as_str()),
            ("libpod-abc.scope", "machine.slice")
        );
        assert_eq!(
            Scope::parse("a-b.slice::abc", "x").unwrap().unit(),
            "abc.scope"
        );
        assert_eq!(Scope::parse("", "x").unwrap().unit(), "berth-x.scope");
        for wrong in [
            "/a/b",
            "a:b",
            "a:b:c",
            "a.slice:b:",
            "a.slice:b:../c",
            "a--b.slice:p:n",
        ] {
            assert!(Scope::parse(wrong, "x").is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_become_properties() {
        let resources = r#"{"memory":{"limit":64,"swap":96,"reservation":32},
            "cpu":{"shares":1024,"quota":50500,"period":100000,"cpus":"0-2,8"},"pids":{"limit":-1}}"#;
        let resources = serde_json::from_str(resources).unwrap();
        let number = Value::Number;
        assert_eq!(
            properties(&resources).unwrap(),
            [
                ("MemoryMax", number(64)),
                ("MemoryLow", number(32)),
                ("MemorySwapMax", number(32)),
                ("CPUWeight", number(100)),
                ("CPUQuotaPeriodUSec", number(100_000)),
                ("CPUQuotaPerSecUSec", number(510_000)),
                ("AllowedCPUs", Value::Bytes(vec![7, 1])),
                ("TasksMax", number(u64::MAX)),
            ]
        );
        assert!(bit_mask("0-99999999").is_err());
    }
}
