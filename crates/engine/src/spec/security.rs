//! Capabilities, security options, masked paths.

use std::fs;
use std::path::Path;

use runtime::lsm;
use vocab::config::HostConfig;

use super::CheckError;

/// Which system call filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seccomp {
    /// Docker's default profile, or the daemon's.
    Default,
    /// None.
    Unconfined,
    /// This one, in Docker's format.
    Profile(String),
}

/// How a container is confined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Security {
    /// `CAP_…`.
    pub(crate) capabilities: Vec<String>,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Seccomp,
    pub(crate) masked_paths: Vec<String>,
    pub(crate) readonly_paths: Vec<String>,
    /// Of AppArmor; none where the kernel has no AppArmor.
    pub(crate) apparmor: Option<String>,
    /// Whether the container may change its own cgroups.
    pub(crate) writable_cgroups: bool,
    /// What was asked for and cannot be had on this host.
    pub(crate) warnings: Vec<String>,
}

/// What Docker hides from a container.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What Docker makes read-only.
const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

impl Security {
    /// What the host configuration says; `no_new_privileges` is the daemon's default.
    pub(crate) fn of(host: &HostConfig, no_new_privileges: bool) -> Result<Self, CheckError> {
        let mut security = Self {
            capabilities: capabilities(
                host.privileged,
                host.cap_add.as_deref().unwrap_or_default(),
                host.cap_drop.as_deref().unwrap_or_default(),
            )?,
            no_new_privileges,
            seccomp: if host.privileged {
                Seccomp::Unconfined
            } else {
                Seccomp::Default
            },
            masked_paths: paths(host.privileged, host.masked_paths.as_deref(), masked),
            readonly_paths: paths(host.privileged, host.readonly_paths.as_deref(), || {
                READONLY.map(str::to_owned).to_vec()
            }),
            apparmor: None,
            writable_cgroups: host.privileged,
            warnings: Vec::new(),
        };
        for option in host.security_opt.iter().flatten() {
            security.apply(option)?;
        }
        Ok(security)
    }

    fn apply(&mut self, option: &str) -> Result<(), CheckError> {
        let refused = || CheckError::SecurityOption(option.to_owned());
        // Both signs were in use; `=` is tried first, because profiles hold colons.
        let (key, value) = option
            .split_once('=')
            .or_else(|| option.split_once(':'))
            .unwrap_or((option, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => self.no_new_privileges = true,
            ("no-new-privileges", "false") => self.no_new_privileges = false,
            ("writable-cgroups", "" | "true") => self.writable_cgroups = true,
            ("writable-cgroups", "false") => self.writable_cgroups = false,
            ("seccomp", "unconfined") => self.seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin") => self.seccomp = Seccomp::Default,
            ("seccomp", profile) if profile.trim_start().starts_with('{') => {
                self.seccomp = Seccomp::Profile(profile.to_owned());
            }
            // Clients expand this one into the two lists; some send it all the same.
            ("systempaths", "unconfined") => {
                self.masked_paths.clear();
                self.readonly_paths.clear();
            }
            // Nothing of berth's is put on, so nothing is to be taken off.
            ("apparmor", "unconfined") | ("label", "disable") => {}
            ("apparmor", "") | ("label", "") => return Err(refused()),
            ("apparmor", profile) if lsm::has_apparmor() => {
                self.apparmor = Some(profile.to_owned());
            }
            ("apparmor", _) => self.without("AppArmor", option),
            ("label", label) if !is_label(label) => return Err(refused()),
            ("label", _) if lsm::has_selinux() => {
                return Err(CheckError::NotYet(format!("SELinux labels ({option})")));
            }
            ("label", _) => self.without("SELinux", option),
            _ => return Err(refused()),
        }
        Ok(())
    }
}

impl Security {
    fn without(&mut self, module: &str, option: &str) {
        self.warnings.push(format!(
            "--security-opt {option} has no effect: this host's kernel runs without {module}. \
             Discarded."
        ));
    }
}

/// `user:…`, `role:…`, `type:…`, `level:…`, `filetype:…`.
fn is_label(text: &str) -> bool {
    const PARTS: [&str; 5] = ["user", "role", "type", "level", "filetype"];
    text == "nested"
        || text
            .split_once(':')
            .is_some_and(|(part, _)| PARTS.contains(&part))
}

fn paths(
    privileged: bool,
    wanted: Option<&[String]>,
    default: impl FnOnce() -> Vec<String>,
) -> Vec<String> {
    match wanted {
        Some(paths) => paths.to_vec(),
        None if privileged => Vec::new(),
        None => default(),
    }
}

/// [`MASKED`], and what tells of the host by its processors' heat.
fn masked() -> Vec<String> {
    let mut masked = MASKED.map(str::to_owned).to_vec();
    masked.extend(throttles(Path::new("/sys/devices/system/cpu")));
    masked
}

/// `thermal_throttle` of each processor that counts it.
fn throttles(processors: &Path) -> Vec<String> {
    let entries = fs::read_dir(processors).into_iter().flatten().flatten();
    let throttle = |entry: fs::DirEntry| {
        let number: u32 = entry
            .file_name()
            .to_str()?
            .strip_prefix("cpu")?
            .parse()
            .ok()?;
        let path = entry.path().join("thermal_throttle");
        path.exists().then_some((number, path))
    };
    let mut found: Vec<_> = entries.filter_map(throttle).collect();
    found.sort();
    let paths = found.into_iter();
    paths
        .map(|(_, path)| path.to_string_lossy().into_owned())
        .collect()
}

/// Docker's arithmetic of capabilities (`caps.TweakCapabilities`).
pub(crate) fn capabilities(
    privileged: bool,
    add: &[String],
    drop: &[String],
) -> Result<Vec<String>, CheckError> {
    if privileged {
        return Ok(runtime::capability::all());
    }
    let add = normalise("CapAdd", add)?;
    let drop = normalise("CapDrop", drop)?;
    let all = |names: &[String]| names.iter().any(|name| name == ALL);
    let mut held = if all(&add) {
        runtime::capability::all()
    } else if all(&drop) {
        Vec::new()
    } else {
        runtime::capability::DEFAULT.map(str::to_owned).to_vec()
    };
    if !all(&drop) {
        held.retain(|name| !drop.contains(name));
    } else if all(&add) {
        // Dropping all and adding all leaves all, as in Docker.
    }
    for name in add {
        if name != ALL && !held.contains(&name) && !drop.contains(&name) {
            held.push(name);
        }
    }
    Ok(held)
}

const ALL: &str = "ALL";

fn normalise(list: &'static str, names: &[String]) -> Result<Vec<String>, CheckError> {
    names
        .iter()
        .map(|name| {
            let upper = name.to_uppercase();
            if upper == ALL {
                return Ok(upper);
            }
            let full = if upper.starts_with("CAP_") {
                upper
            } else {
                format!("CAP_{upper}")
            };
            if runtime::capability::NAMES.contains(&full.as_str()) {
                Ok(full)
            } else {
                Err(CheckError::Capability { list, name: full })
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], has: &[&str], lacks: &[&str]) {
        let list = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let held = capabilities(false, &list(add), &list(drop)).unwrap();
        for name in has {
            assert!(
                held.contains(&format!("CAP_{name}")),
                "{name} of {add:?} {drop:?}"
            );
        }
        for name in lacks {
            assert!(
                !held.contains(&format!("CAP_{name}")),
                "{name} of {add:?} {drop:?}"
            );
        }
    }

    #[test]
    fn the_heat_of_each_processor_is_hidden() {
        let processors = tempfile::tempdir().unwrap();
        for name in [
            "cpu10/thermal_throttle",
            "cpu2/thermal_throttle",
            "cpu3",
            "cpuidle/thermal_throttle",
        ] {
            fs::create_dir_all(processors.path().join(name)).unwrap();
        }
        let hidden = ["cpu2", "cpu10"].map(|name| {
            let path = processors.path().join(name).join("thermal_throttle");
            path.to_str().unwrap().to_owned()
        });
        assert_eq!(throttles(processors.path()), hidden);
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        check(&[], &[], &["CHOWN"], &["SYS_ADMIN"]);
        check(
            &["sys_admin"],
            &["CAP_CHOWN"],
            &["SYS_ADMIN", "KILL"],
            &["CHOWN"],
        );
        check(&["NET_ADMIN"], &["all"], &["NET_ADMIN"], &["CHOWN"]);
    }

    #[test]
    fn unknown_words_are_refused_by_name() {
        let error = capabilities(false, &["NOPE".to_owned()], &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid CapAdd: unknown capability: \"CAP_NOPE\""
        );
        let host = HostConfig {
            security_opt: Some(vec!["nonsense=1".to_owned()]),
            ..HostConfig::default()
        };
        assert!(Security::of(&host, false).is_err());
    }

    #[test]
    fn security_options_are_read_in_both_spellings() {
        let host = |option: &str| HostConfig {
            security_opt: Some(vec![option.to_owned()]),
            ..HostConfig::default()
        };
        for option in [
            "no-new-privileges",
            "no-new-privileges:true",
            "no-new-privileges=true",
        ] {
            assert!(
                Security::of(&host(option), false)
                    .unwrap()
                    .no_new_privileges
            );
        }
        let unconfined = Security::of(&host("seccomp:unconfined"), false).unwrap();
        assert_eq!(unconfined.seccomp, Seccomp::Unconfined);
    }
}
