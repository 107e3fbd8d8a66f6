//! Docker's profile format: a filter with conditions on capabilities, architecture and kernel.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Machine, ProfileError};
use crate::oci;

/// Docker's default profile (moby/profiles, seccomp/default.json, Apache-2.0).
pub(super) const DOCKER_DEFAULT: &[u8] = include_bytes!("docker-default.json");

/// A profile is a file that a user names; none is as large.
const MAX_PROFILE_BYTES: usize = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    /// The older of the two spellings.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// What conditions are judged by.
#[derive(Debug)]
pub(super) struct Situation<'a> {
    pub(super) capabilities: &'a [String],
    pub(super) machine: Machine,
    /// Version and patch level of the kernel.
    pub(super) kernel: (u32, u32),
}

impl Situation<'_> {
    /// Any of the capabilities held, or any of the architectures this, or a kernel at least so new.
    fn excludes(&self, condition: &Condition) -> bool {
        condition
            .arches
            .iter()
            .flatten()
            .any(|arch| arch == self.architecture())
            || condition.caps.iter().flatten().any(|cap| self.holds(cap))
            || condition
                .min_kernel
                .as_deref()
                .is_some_and(|version| self.is_at_least(version))
    }

    /// One of the architectures is this, all of the capabilities held, the kernel new enough.
    fn includes(&self, condition: &Condition) -> bool {
        let arches = condition.arches.as_deref().unwrap_or_default();
        (arches.is_empty() || arches.iter().any(|arch| arch == self.architecture()))
            && condition.caps.iter().flatten().all(|cap| self.holds(cap))
            && condition
                .min_kernel
                .as_deref()
                .is_none_or(|version| self.is_at_least(version))
    }

    fn holds(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|held| held == capability)
    }

    /// As Go names it.
    fn architecture(&self) -> &'static str {
        match self.machine {
            Machine::X86_64 => "amd64",
            Machine::Aarch64 => "arm64",
        }
    }

    fn native(&self) -> &'static str {
        match self.machine {
            Machine::X86_64 => "SCMP_ARCH_X86_64",
            Machine::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }

    fn is_at_least(&self, version: &str) -> bool {
        kernel_version(version).is_some_and(|wanted| self.kernel >= wanted)
    }
}

/// The first two numbers of `6.18.44-fc`.
pub(super) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Resolves a profile to a filter.
pub(super) fn resolve(
    json: &[u8],
    situation: &Situation<'_>,
) -> Result<oci::LinuxSeccomp, ProfileError> {
    if json.len() > MAX_PROFILE_BYTES {
        return Err(ProfileError::Conflict(format!(
            "is larger than {MAX_PROFILE_BYTES} bytes"
        )));
    }
    let profile: Profile = serde_json::from_slice(json).map_err(ProfileError::Json)?;
    let architectures = architectures(&profile, situation)?;
    let mut syscalls = Vec::new();
    for (i, rule) in profile.syscalls.into_iter().flatten().enumerate() {
        if situation.excludes(&rule.excludes) || !situation.includes(&rule.includes) {
            continue;
        }
        let names = match (rule.name, rule.names.unwrap_or_default()) {
            (Some(_), names) if !names.is_empty() => {
                let text = format!("syscalls[{i}]: `name` and `names` exclude each other");
                return Err(ProfileError::Conflict(text));
            }
            (Some(name), _) => vec![name],
            (None, names) if names.is_empty() => continue,
            (None, names) => names,
        };
        let mut resolved = json!({ "names": names });
        resolved["action"] = known::<oci::LinuxSeccompAction>(
            || format!("syscalls[{i}].action"),
            Value::String(rule.action),
        )?;
        if let Some(errno) = rule.errno_ret {
            resolved["errnoRet"] = errno.into();
        }
        if let Some(args) = rule.args.filter(|args| !args.is_empty()) {
            let args = args.into_iter().enumerate().map(|(j, arg)| {
                known::<oci::LinuxSeccompArg>(|| format!("syscalls[{i}].args[{j}]"), arg)
            });
            resolved["args"] = args.collect::<Result<_, _>>()?;
        }
        syscalls.push(resolved);
    }
    let default_action = known::<oci::LinuxSeccompAction>(
        || String::from("defaultAction"),
        Value::String(profile.default_action),
    )?;
    let mut filter = json!({
        "defaultAction": default_action,
        "architectures": architectures,
        "syscalls": syscalls,
    });
    if let Some(errno) = profile.default_errno_ret {
        filter["defaultErrnoRet"] = errno.into();
    }
    if let Some(flags) = profile.flags.filter(|flags| !flags.is_empty()) {
        let flags = flags.into_iter().map(|flag| {
            known::<oci::LinuxSeccompFilterFlag>(|| String::from("flags"), Value::String(flag))
        });
        filter["flags"] = flags.collect::<Result<_, _>>()?;
    }
    if let Some(path) = profile.listener_path.filter(|path| !path.is_empty()) {
        filter["listenerPath"] = path.into();
    }
    if let Some(metadata) = profile.listener_metadata.filter(|text| !text.is_empty()) {
        filter["listenerMetadata"] = metadata.into();
    }
    serde_json::from_value(filter).map_err(ProfileError::Json)
}

fn architectures(profile: &Profile, situation: &Situation<'_>) -> Result<Vec<Value>, ProfileError> {
    let listed = profile.architectures.as_deref().unwrap_or_default();
    let map = profile.arch_map.as_deref().unwrap_or_default();
    if !listed.is_empty() && !map.is_empty() {
        let text = "`architectures` and `archMap` exclude each other";
        return Err(ProfileError::Conflict(text.to_owned()));
    }
    let mut chosen: Vec<String> = listed.to_vec();
    if let Some(entry) = map
        .iter()
        .find(|entry| entry.architecture == situation.native())
    {
        chosen.push(entry.architecture.clone());
        chosen.extend(entry.sub_architectures.iter().flatten().cloned());
    }
    let known = |arch| known::<oci::Arch>(|| String::from("architectures"), Value::String(arch));
    chosen.into_iter().map(known).collect()
}

/// The value itself, if it is one of type `T`.
fn known<T: DeserializeOwned>(
    field: impl FnOnce() -> String,
    value: Value,
) -> Result<Value, ProfileError> {
    match serde_json::from_value::<T>(value.clone()) {
        Ok(_) => Ok(value),
        Err(_) => {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            Err(ProfileError::Unknown {
                field: field(),
                value: text,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn situation<'a>(capabilities: &'a [String], machine: Machine) -> Situation<'a> {
        Situation {
            capabilities,
            machine,
            kernel: (6, 1),
        }
    }

    fn allows(filter: &oci::LinuxSeccomp, name: &str) -> bool {
        let rules = filter.syscalls().iter().flatten();
        let mut rules = rules.filter(|rule| rule.names().iter().any(|n| n == name));
        rules.any(|rule| rule.action() == oci::LinuxSeccompAction::ScmpActAllow)
    }

    #[test]
    fn capabilities_open_what_they_are_for() {
        let none = resolve(DOCKER_DEFAULT, &situation(&[], Machine::X86_64)).unwrap();
        assert!(!allows(&none, "mount") && allows(&none, "read"));
        let admin = [String::from("CAP_SYS_ADMIN")];
        let admin = resolve(DOCKER_DEFAULT, &situation(&admin, Machine::X86_64)).unwrap();
        assert!(allows(&admin, "mount"));
    }

    #[test]
    fn each_machine_has_its_own_architectures_and_calls() {
        let x86 = resolve(DOCKER_DEFAULT, &situation(&[], Machine::X86_64)).unwrap();
        let arm = resolve(DOCKER_DEFAULT, &situation(&[], Machine::Aarch64)).unwrap();
        assert_eq!(x86.architectures().as_ref().unwrap().len(), 3);
        assert_eq!(arm.architectures().as_ref().unwrap().len(), 2);
        assert!(allows(&x86, "arch_prctl") && !allows(&arm, "arch_prctl"));
        assert!(allows(&arm, "set_tls") && !allows(&x86, "set_tls"));
    }

    #[test]
    fn the_kernels_version_decides() {
        assert_eq!(kernel_version("6.18.44-fc"), Some((6, 18)));
        let old = Situation {
            capabilities: &[],
            machine: Machine::X86_64,
            kernel: (4, 7),
        };
        let old = resolve(DOCKER_DEFAULT, &old).unwrap();
        let new = resolve(DOCKER_DEFAULT, &situation(&[], Machine::X86_64)).unwrap();
        assert!(!allows(&old, "ptrace") && allows(&new, "ptrace"));
    }

    #[test]
    fn nonsense_is_named() {
        let say = |json: &str| {
            let error = resolve(json.as_bytes(), &situation(&[], Machine::X86_64)).unwrap_err();
            vocab::failure::chain(&error)
        };
        assert_eq!(
            say(
                r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"X"}]}"#
            ),
            r#"seccomp profile: syscalls[0].action: unknown value "X""#
        );
        assert!(say("{").starts_with("decode the seccomp profile: "));
        assert!(
            say(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#)
                .contains("exclude each other")
        );
    }
}
