//! `spec`: a `config.json` to begin with.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize as _;
use serde_json::{Value, json};

use super::{Command, Outcome};
use crate::Context;
use crate::arguments::{Arguments, Flag};

pub(crate) const COMMAND: Command = Command::new(
    "spec",
    "makes a config.json to begin with",
    "",
    &[
        Flag::value(&["bundle", "b"], "the bundle's directory"),
        Flag::switch(&["rootless"], "for an ordinary user"),
    ],
    run,
)
.operands(0, 0);

/// What runc makes, key for key.
const TEMPLATE: &str = include_str!("spec.json");

#[derive(Debug, thiserror::Error)]
enum SpecError {
    #[error("File config.json exists. Remove it first")]
    Exists,
    #[error("write `{path}`")]
    Write { path: PathBuf, source: io::Error },
}

fn run(_: &Context, arguments: &Arguments) -> Outcome {
    let bundle = arguments.value("bundle").unwrap_or_default();
    let path = Path::new(bundle).join("config.json");
    let text = if arguments.switch("rootless")? {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        rootless(uid.as_raw(), gid.as_raw())?
    } else {
        TEMPLATE.to_owned()
    };
    let written = File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(SpecError::Exists.into()),
        Err(source) => Err(SpecError::Write { path, source }.into()),
    }
}

/// A user namespace of one's own, no limits, no network of one's own, and what that forbids.
fn rootless(uid: u32, gid: u32) -> Result<String, serde_json::Error> {
    let mut spec: Value = serde_json::from_str(TEMPLATE)?;
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        for mount in mounts {
            let options = mount["options"].as_array().cloned().unwrap_or_default();
            let kept = options.into_iter().filter(|option| {
                let option = option.as_str().unwrap_or_default();
                !option.starts_with("gid=") && !option.starts_with("uid=")
            });
            mount["options"] = kept.collect();
            if mount["type"] == "sysfs" {
                *mount = json!({
                    "destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]
                });
            }
        }
    }
    let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1}]);
    let linux = &mut spec["linux"];
    linux["uidMappings"] = map(uid);
    linux["gidMappings"] = map(gid);
    if let Some(members) = linux.as_object_mut() {
        members.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    spec.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_specifications() {
        for text in [TEMPLATE.to_owned(), rootless(1000, 1000).unwrap()] {
            let read = runtime::config::spec(text.as_bytes()).unwrap();
            assert!(read.warnings.is_empty());
        }
        let rootless: Value = serde_json::from_str(&rootless(1000, 100).unwrap()).unwrap();
        assert_eq!(rootless["linux"]["gidMappings"][0]["hostID"], 100);
        assert!(rootless["linux"]["resources"].is_null());
    }
}
