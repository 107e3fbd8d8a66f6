//! `update`: other limits for a container that runs.

use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

use runtime::cgroup::CgroupError;
use runtime::cgroup::systemd::SystemdError;
use runtime::{CreateError, Status, oci};
use serde_json::{Map, Value, json};

use super::{Command, Outcome, locked};
use crate::Context;
use crate::arguments::{ArgumentError, Arguments, Flag};

pub(crate) const COMMAND: Command = Command::new(
    "update",
    "changes the limits of a container",
    "<container-id>",
    &[
        Flag::value(
            &["resources", "r"],
            "file with linux.resources of config.json, or - for standard input; instead of the others",
        ),
        Flag::value(&["blkio-weight"], "share of block devices, 10 to 1000"),
        Flag::value(
            &["cpu-period"],
            "period of the processor limit, in microseconds",
        ),
        Flag::value(
            &["cpu-quota"],
            "processor time in a period, in microseconds",
        ),
        Flag::value(
            &["cpu-burst"],
            "what may be saved up for a period, in microseconds",
        ),
        Flag::value(
            &["cpu-share"],
            "share of the processors against other containers",
        ),
        Flag::value(
            &["cpu-rt-period"],
            "period of the realtime limit, in microseconds",
        ),
        Flag::value(&["cpu-rt-runtime"], "realtime in a period, in microseconds"),
        Flag::value(&["cpuset-cpus"], "processors to use"),
        Flag::value(&["cpuset-mems"], "memory nodes to use"),
        Flag::value(&["kernel-memory"], "ignored: no kernel knows it any more"),
        Flag::value(
            &["kernel-memory-tcp"],
            "ignored: no kernel knows it any more",
        ),
        Flag::value(&["memory"], "memory, in bytes, with k, m or g"),
        Flag::value(
            &["cpu-idle"],
            "1: only when nobody else wants the processors",
        ),
        Flag::value(
            &["memory-reservation"],
            "memory to fall back to when it is short",
        ),
        Flag::value(
            &["memory-swap"],
            "memory and swap together; -1 for no limit",
        ),
        Flag::value(&["pids-limit"], "processes and threads"),
        Flag::value(&["l3-cache-schema"], "Intel RDT, not supported"),
        Flag::value(&["mem-bw-schema"], "Intel RDT, not supported"),
    ],
    run,
);

/// Numbers, and where each stands in `linux.resources`.
const NUMBERS: &[(&str, &str, &str)] = &[
    ("blkio-weight", "blockIO", "weight"),
    ("cpu-period", "cpu", "period"),
    ("cpu-quota", "cpu", "quota"),
    ("cpu-burst", "cpu", "burst"),
    ("cpu-share", "cpu", "shares"),
    ("cpu-rt-period", "cpu", "realtimePeriod"),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime"),
    ("cpu-idle", "cpu", "idle"),
    ("pids-limit", "pids", "limit"),
];

/// The same for sizes.
const SIZES: &[(&str, &str, &str)] = &[
    ("memory", "memory", "limit"),
    ("memory-reservation", "memory", "reservation"),
    ("memory-swap", "memory", "swap"),
];

#[derive(Debug, thiserror::Error)]
enum UpdateError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error("container not running")]
    Stopped,
    #[error("open {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Resources(CreateError),
    #[error("invalid value for {flag}: {value:?} is no number")]
    Number { flag: &'static str, value: String },
    #[error("invalid value for {flag}: {value:?} is no size")]
    Size { flag: &'static str, value: String },
    #[error("--{0} is not supported")]
    Unsupported(&'static str),
    #[error("the container has no cgroup")]
    NoCgroup,
    #[error("change the limits")]
    Update(#[source] CgroupError),
    #[error("have systemd change the limits")]
    Systemd(#[source] SystemdError),
}

fn run(context: &Context, arguments: &Arguments) -> Outcome {
    let container = locked(context, arguments)?;
    if container.status() == Status::Stopped {
        return Err(UpdateError::Stopped.into());
    }
    let resources = match arguments.value("resources") {
        Some(path) => {
            let mut json = Vec::new();
            let read = if path == "-" {
                io::stdin().read_to_end(&mut json).map(drop)
            } else {
                fs::read(path).map(|read| json = read)
            };
            read.map_err(|source| UpdateError::Read {
                path: path.into(),
                source,
            })?;
            let read = runtime::config::resources(&json).map_err(UpdateError::Resources)?;
            read.value
        }
        None => {
            for flag in ["kernel-memory", "kernel-memory-tcp"] {
                if arguments.value(flag).is_some_and(|value| !value.is_empty()) {
                    let said = "Kernel memory settings are ignored and will be removed";
                    context.log.warn(said);
                }
            }
            asked(arguments)?
        }
    };
    let cgroup = container.cgroup().ok_or(UpdateError::NoCgroup)?;
    if let Some(scope) = &container.record.scope {
        scope.update(&resources).map_err(UpdateError::Systemd)?;
    }
    cgroup.update(&resources).map_err(UpdateError::Update)?;
    Ok(ExitCode::SUCCESS)
}

/// What the flags say, as `linux.resources`.
fn asked(arguments: &Arguments) -> Result<oci::LinuxResources, UpdateError> {
    for flag in ["l3-cache-schema", "mem-bw-schema"] {
        if arguments.value(flag).is_some_and(|value| !value.is_empty()) {
            return Err(UpdateError::Unsupported(flag));
        }
    }
    let mut resources = Map::new();
    let mut set = |group: &str, name: &str, value: Value| {
        let members = resources
            .entry(group)
            .or_insert_with(|| Value::Object(Map::new()));
        members[name] = value;
    };
    for &(flag, group, name) in NUMBERS {
        if let Some(value) = arguments.text(flag)?.filter(|value| !value.is_empty()) {
            let number: i64 = value.parse().map_err(|_| UpdateError::Number {
                flag,
                value: value.to_owned(),
            })?;
            set(group, name, json!(number));
        }
    }
    for &(flag, group, name) in SIZES {
        if let Some(value) = arguments.text(flag)?.filter(|value| !value.is_empty()) {
            let bytes = size(value).ok_or_else(|| UpdateError::Size {
                flag,
                value: value.to_owned(),
            })?;
            set(group, name, json!(bytes));
        }
    }
    for (flag, name) in [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")] {
        if let Some(value) = arguments.text(flag)?.filter(|value| !value.is_empty()) {
            set("cpu", name, json!(value));
        }
    }
    let json = Value::Object(resources).to_string();
    let read = runtime::config::resources(json.as_bytes());
    Ok(read.map_err(UpdateError::Resources)?.value)
}

/// Bytes, with a unit of 1024; `-1` is no limit.
fn size(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Order, parse};

    fn resources(words: &[&str]) -> Result<Value, UpdateError> {
        let words = words.iter().map(Into::into);
        let arguments = parse(COMMAND.flags, Order::Mixed, words).unwrap();
        Ok(serde_json::to_value(asked(&arguments)?).unwrap())
    }

    #[test]
    fn flags_become_resources() {
        let resources = resources(&[
            "--memory",
            "64m",
            "--memory-swap=-1",
            "--cpu-quota",
            "5000",
            "--cpuset-cpus",
            "0-1",
            "--pids-limit",
            "7",
            "id",
        ])
        .unwrap();
        assert_eq!(
            resources,
            json!({
                "memory": {"limit": 64 << 20, "swap": -1},
                "cpu": {"quota": 5000, "cpus": "0-1"},
                "pids": {"limit": 7}
            })
        );
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("1024", Some(1024)),
            ("1k", Some(1024)),
            ("2M", Some(2 << 20)),
            ("1GiB", Some(1 << 30)),
            ("3 kb", Some(3 << 10)),
            ("-1", Some(-1)),
            ("10x", None),
            ("-2", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn what_has_no_effect_is_refused() {
        assert!(resources(&["--l3-cache-schema", "x"]).is_err());
        assert!(resources(&["--cpu-share", "many"]).is_err());
    }
}
