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
//! On version 1 systemd makes the cgroup in the hierarchies that it knows, and `create` in the others;
//! an ordinary user's manager has none of them to give away, so there it takes version 2 alone.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

pub use super::annotated::Properties;
use super::dbus::{CallError, Connection, Encoder, Value};
use super::host::Layout;
use super::{CgroupError, files, properties, v2};
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
    /// Version 1 is mounted, alone or beside version 2, and the caller is no root.
    #[error("systemd gives cgroups to ordinary users only on hosts with cgroup version 2 alone")]
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
        let layout = Layout::detect()?;
        if self.user && layout != Layout::V2 {
            return Err(SystemdError::Layout);
        }
        let limits = properties::of_start(layout, resources)?;
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
            ("PIDs", Value::Pids(vec![child.pid.cast_unsigned()])),
        ];
        all.extend(properties::accounting(layout));
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
        started.path = unit_of(child.pid)?;
        Ok(started)
    }

    /// Changes the limits that systemd knows, so that it does not bring the old ones back. The
    /// cgroup itself is updated by [`super::Cgroup::update`].
    pub fn update(&self, resources: &oci::LinuxResources) -> Result<(), SystemdError> {
        let limits = properties::of_update(Layout::detect()?, resources)?;
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

/// The cgroup of a process in the hierarchy of systemd's units, which it has beside the unified one
/// unless that is the only one.
fn unit_of(pid: i32) -> Result<String, CgroupError> {
    let file = format!("/proc/{pid}/cgroup");
    let lines = files::read(Path::new(&file))?;
    let named = |line: &str| Some(line.split_once(":name=systemd:")?.1.to_owned());
    lines
        .lines()
        .find_map(named)
        .map_or_else(|| v2::path_of(pid), Ok)
}

/// The placeholder: there until it is killed, or its parent is gone.
fn hold() -> i32 {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    loop {
        files::wait(std::time::Duration::from_secs(3600));
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
}
