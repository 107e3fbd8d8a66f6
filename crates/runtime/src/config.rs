//! Reading `config.json`: bytes become a specification, or one sentence that names the place in
//! the document and what is wrong there.
//!
//! What is well-formed and yet cannot be is refused by [`crate::create`], in the same words and
//! before it makes anything.
//!
//! Most documents are read in one pass. Only one that this refuses is looked at again, with what the
//! specification allows and `oci_spec` does not put right: `null` for what is absent, a process
//! without a user, capabilities nobody knows (config.md: "MUST be logged as a warning").

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::CreateError;
use crate::{capability, oci};

/// No configuration is larger; Docker's are about 20 KiB.
pub const MAX_BYTES: usize = 16 << 20;

/// What was read, and what somebody should be told about it.
#[derive(Clone, Debug)]
pub struct Read<T> {
    /// The document.
    pub value: T,
    /// What was asked for and is left out, by its JSON path.
    pub warnings: Vec<String>,
}

/// Reads a whole `config.json`.
pub fn spec(json: &[u8]) -> Result<Read<oci::Spec>, CreateError> {
    let mut read: Read<oci::Spec> = read("config.json", json, mend_spec)?;
    check_version(read.value.version())?;
    match read.value.root().as_ref().map(oci::Root::path) {
        None => return Err(CreateError::invalid("root", "is missing")),
        Some(path) if path.as_os_str().is_empty() => {
            return Err(CreateError::invalid("root.path", "is missing"));
        }
        Some(_) => {}
    }
    let mut annotations = read.value.annotations().iter().flatten();
    if annotations.any(|(name, _)| name.is_empty()) {
        return Err(CreateError::invalid("annotations", "a name is empty"));
    }
    if let Some(process) = read.value.process() {
        warn_of_ambient("process.", process, &mut read.warnings);
    }
    Ok(read)
}

/// Reads a process alone, as `exec --process` takes it.
pub fn process(json: &[u8]) -> Result<Read<oci::Process>, CreateError> {
    let mut read = read("the process", json, |process, warnings| {
        mend_process("", process, warnings);
    })?;
    warn_of_ambient("", &read.value, &mut read.warnings);
    Ok(read)
}

/// A capability is ambient only while it is permitted and inheritable (capabilities(7)).
fn warn_of_ambient(at: &str, process: &oci::Process, warnings: &mut Vec<String>) {
    let Some(sets) = process.capabilities() else {
        return;
    };
    let within =
        |set: &Option<oci::Capabilities>, one| set.as_ref().is_some_and(|set| set.contains(one));
    for one in sets.ambient().iter().flatten() {
        for (name, set) in [
            ("permitted", sets.permitted()),
            ("inheritable", sets.inheritable()),
        ] {
            if !within(set, one) {
                warnings.push(format!(
                    "{at}capabilities.ambient: can't raise ambient capability CAP_{one}: it is \
                     not among the {name} ones"
                ));
                break;
            }
        }
    }
}

/// Reads resources alone, as `update --resources` takes them.
pub fn resources(json: &[u8]) -> Result<Read<oci::LinuxResources>, CreateError> {
    read("the resources", json, |_, _| {})
}

/// `name` is what the document as a whole is called.
fn read<T: DeserializeOwned>(
    name: &str,
    json: &[u8],
    mend: impl FnOnce(&mut Value, &mut Vec<String>),
) -> Result<Read<T>, CreateError> {
    if json.len() > MAX_BYTES {
        let reason = format!("is larger than {MAX_BYTES} bytes");
        return Err(CreateError::invalid(name, reason));
    }
    // To serde a list is a struct too, by the order of its fields.
    let is_object = json.trim_ascii_start().starts_with(b"{");
    if let Some(value) = is_object
        .then(|| serde_json::from_slice(json).ok())
        .flatten()
    {
        let warnings = Vec::new();
        return Ok(Read { value, warnings });
    }
    let mut document: Value = serde_json::from_slice(json)
        .map_err(|error| CreateError::invalid(name, format!("is not JSON: {error}")))?;
    if !document.is_object() {
        return Err(CreateError::invalid(name, "is not an object"));
    }
    let mut warnings = Vec::new();
    drop_nulls(&mut document);
    mend(&mut document, &mut warnings);
    match serde_path_to_error::deserialize(document) {
        Ok(value) => Ok(Read { value, warnings }),
        Err(error) => {
            let path = error.path().to_string();
            Err(at_path(name, &path, &error.inner().to_string()))
        }
    }
}

/// What serde says about a place, with the place of what is missing.
fn at_path(name: &str, path: &str, reason: &str) -> CreateError {
    let missing = reason
        .strip_prefix("missing field `")
        .and_then(|rest| rest.strip_suffix('`'));
    match (path, missing) {
        (".", Some(field)) => CreateError::invalid(field, "is missing"),
        (path, Some(field)) => CreateError::invalid(format!("{path}.{field}"), "is missing"),
        (".", None) => CreateError::invalid(name, reason),
        (path, None) => CreateError::invalid(path, reason),
    }
}

fn check_version(version: &str) -> Result<(), CreateError> {
    let refuse = |reason: String| Err(CreateError::invalid("ociVersion", reason));
    if version.is_empty() {
        return refuse(String::from("is missing"));
    }
    match version.split_once('.') {
        Some(("1", rest)) if rest.starts_with(|c: char| c.is_ascii_digit()) => Ok(()),
        _ => refuse(format!(
            "`{version}` is not a version 1 of the specification"
        )),
    }
}

/// A member that is `null` is one that is not there, to everybody who reads with Go.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Platforms whose settings mean nothing here.
const OTHER_PLATFORMS: [&str; 5] = ["solaris", "windows", "vm", "zos", "freebsd"];

fn mend_spec(spec: &mut Value, warnings: &mut Vec<String>) {
    if let Some(members) = spec.as_object_mut() {
        members.retain(|name, _| !OTHER_PLATFORMS.contains(&name.as_str()));
    }
    if let Some(process) = spec.get_mut("process") {
        mend_process("process.", process, warnings);
    }
}

fn mend_process(at: &str, process: &mut Value, warnings: &mut Vec<String>) {
    let Some(members) = process.as_object_mut() else {
        return;
    };
    members
        .entry("user")
        .or_insert_with(|| Value::Object(Default::default()));
    if let Some(sets) = members
        .get_mut("capabilities")
        .and_then(Value::as_object_mut)
    {
        for (set, names) in sets {
            let Some(names) = names.as_array_mut() else {
                continue;
            };
            names.retain(|name| {
                let known = name.as_str().is_none_or(capability::is_known);
                if !known {
                    warnings.push(format!(
                        "{at}capabilities.{set}: unknown capability {name} is left out"
                    ));
                }
                known
            });
        }
    }
    if let Some(flags) = process
        .pointer_mut("/scheduler/flags")
        .and_then(Value::as_array_mut)
    {
        flags.iter_mut().for_each(respell_flag);
    }
    if let Some(affinity) = process
        .get_mut("execCPUAffinity")
        .and_then(Value::as_object_mut)
    {
        // The specification allows blanks, and an empty list for none.
        for list in affinity.values_mut() {
            if let Some(text) = list.as_str() {
                *list = text.replace(' ', "").into();
            }
        }
        affinity.retain(|_, list| list != "");
    }
}

/// `oci_spec` spells two flags as nobody else does.
fn respell_flag(flag: &mut Value) {
    let own = match flag.as_str() {
        Some("SCHED_FLAG_DL_OVERRUN") => oci::LinuxSchedulerFlag::SchedFlagDLOverrun,
        Some("SCHED_FLAG_RESET_ON_FORK") => oci::LinuxSchedulerFlag::SchedResetOnFork,
        _ => return,
    };
    *flag = serde_json::to_value(own).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        let error = spec(json.as_bytes()).unwrap_err().to_string();
        let said = error.strip_prefix("invalid specification: ");
        said.unwrap_or_else(|| panic!("{error}")).to_owned()
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_path() {
        for (json, expected) in [
            (
                "",
                "config.json: is not JSON: EOF while parsing a value at line 1 column 0",
            ),
            ("3", "config.json: is not an object"),
            (
                "{\"ociVersion\": \"1.3.0\",\n}",
                "config.json: is not JSON: trailing comma at line 2 column 1",
            ),
            ("[]", "config.json: is not an object"),
            ("{}", "ociVersion: is missing"),
            (r#"{"ociVersion": "1.3.0"}"#, "root: is missing"),
            (
                r#"{"ociVersion": "1.3.0", "root": {"path": ""}}"#,
                "root.path: is missing",
            ),
            (
                r#"{"ociVersion": "1.3.0", "root": {"path": "x"}, "annotations": {"": ""}}"#,
                "annotations: a name is empty",
            ),
            (
                r#"{"ociVersion": "2.0.0"}"#,
                "ociVersion: `2.0.0` is not a version 1 of the specification",
            ),
            (
                r#"{"ociVersion": "1.x"}"#,
                "ociVersion: `1.x` is not a version 1 of the specification",
            ),
            (
                r#"{"process": {"cwd": "/", "args": "sh"}}"#,
                r#"process.args: invalid type: string "sh", expected a sequence"#,
            ),
            (r#"{"process": {"args": []}}"#, "process.cwd: is missing"),
            (
                r#"{"process": {"cwd": "/", "user": {"uid": -1}}}"#,
                "process.user.uid: invalid value: integer `-1`, expected u32",
            ),
            (
                r#"{"process": {"cwd": "/", "rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}}"#,
                "process.rlimits[0].type: unknown variant `RLIMIT_X`, expected one of \
                 `RLIMIT_CPU`, `RLIMIT_FSIZE`, `RLIMIT_DATA`, `RLIMIT_STACK`, `RLIMIT_CORE`, \
                 `RLIMIT_RSS`, `RLIMIT_NPROC`, `RLIMIT_NOFILE`, `RLIMIT_MEMLOCK`, `RLIMIT_AS`, \
                 `RLIMIT_LOCKS`, `RLIMIT_SIGPENDING`, `RLIMIT_MSGQUEUE`, `RLIMIT_NICE`, \
                 `RLIMIT_RTPRIO`, `RLIMIT_RTTIME`",
            ),
            (
                r#"{"process": {"cwd": "/", "ioPriority": {"class": "IOPRIO_CLASS_NONE"}}}"#,
                "process.ioPriority.class: unknown variant `IOPRIO_CLASS_NONE`, expected one of \
                 `IOPRIO_CLASS_RT`, `IOPRIO_CLASS_BE`, `IOPRIO_CLASS_IDLE`",
            ),
            (
                r#"{"process": {"cwd": "/", "execCPUAffinity": {"final": "0-x"}}}"#,
                "process.execCPUAffinity.final: Invalid execCPUAffinity format: 0-x",
            ),
            (
                r#"{"linux": {"namespaces": [{"type": "pid"}, {"type": "net"}]}}"#,
                "linux.namespaces[1].type: unknown variant `net`, expected one of `mount`, \
                 `cgroup`, `uts`, `ipc`, `user`, `pid`, `network`, `time`",
            ),
            (
                r#"{"linux": {"personality": {"domain": "BSD"}}}"#,
                "linux.personality.domain: unknown variant `BSD`, expected `LINUX` or `LINUX32`",
            ),
            (
                r#"{"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["a"], "action": "DENY"}]}}}"#,
                "linux.seccomp.syscalls[0].action: unknown variant `DENY`, expected one of \
                 `SCMP_ACT_KILL`, `SCMP_ACT_KILL_THREAD`, `SCMP_ACT_KILL_PROCESS`, \
                 `SCMP_ACT_TRAP`, `SCMP_ACT_ERRNO`, `SCMP_ACT_NOTIFY`, `SCMP_ACT_TRACE`, \
                 `SCMP_ACT_LOG`, `SCMP_ACT_ALLOW`",
            ),
            (
                r#"{"linux": {"resources": {"memory": {"limit": "1g"}}}}"#,
                r#"linux.resources.memory.limit: invalid type: string "1g", expected i64"#,
            ),
            (
                r#"{"hooks": {"poststop": [{"args": ["x"]}]}}"#,
                "hooks.poststop[0].path: is missing",
            ),
            (
                r#"{"mounts": [{"source": "/x"}]}"#,
                "mounts[0].destination: is missing",
            ),
            (
                r#"{"annotations": {"a": 1}}"#,
                "annotations.a: invalid type: integer `1`, expected a string",
            ),
        ] {
            assert_eq!(refused(json), expected, "{json}");
        }
        let large = vec![b' '; MAX_BYTES + 1];
        assert_eq!(
            spec(&large).unwrap_err().to_string(),
            "invalid specification: config.json: is larger than 16777216 bytes"
        );
    }

    #[test]
    fn what_the_specification_allows_is_read() {
        let json = r#"{"ociVersion": "1.0.2-dev", "root": {"path": "rootfs"}, "unknown": [{}], "windows": {"ignored": true},
            "mounts": null, "hooks": {"prestart": null},
            "process": {"cwd": "/", "args": ["x"], "terminal": null,
                "capabilities": {"bounding": ["CAP_KILL", "CAP_NEVER_HEARD", "CHOWN"]},
                "scheduler": {"policy": "SCHED_DEADLINE",
                              "flags": ["SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RECLAIM",
                                        "SCHED_FLAG_RESET_ON_FORK"]},
                "execCPUAffinity": {"initial": "", "final": "0, 2-3"}},
            "linux": {"namespaces": [{"type": "pid", "path": null}]}}"#;
        let read = spec(json.as_bytes()).unwrap();
        assert_eq!(
            read.warnings,
            [r#"process.capabilities.bounding: unknown capability "CAP_NEVER_HEARD" is left out"#]
        );
        let process = read.value.process().as_ref().unwrap();
        let bounding = process.capabilities().as_ref().unwrap().bounding();
        assert_eq!(bounding.as_ref().unwrap().len(), 2);
        let flags = process.scheduler().as_ref().unwrap().flags();
        assert_eq!(
            flags.as_ref().unwrap()[0],
            oci::LinuxSchedulerFlag::SchedFlagDLOverrun
        );
        let affinity = process.exec_cpu_affinity().as_ref().unwrap();
        assert_eq!(affinity.initial(), &None);
        assert_eq!(affinity.cpu_affinity_final().as_deref(), Some("0,2-3"));
    }

    #[test]
    fn a_process_and_resources_are_read_alone() {
        let read = process(br#"{"cwd": "/", "capabilities": {"ambient": ["X"]}}"#).unwrap();
        assert_eq!(
            read.warnings,
            [r#"capabilities.ambient: unknown capability "X" is left out"#]
        );
        let error = resources(br#"{"pids": {"limit": "many"}}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"invalid specification: pids.limit: invalid type: string "many", expected i64"#
        );
    }
}
