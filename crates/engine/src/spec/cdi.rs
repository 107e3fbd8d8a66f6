//! Devices that their vendors describe (Container Device Interface, SPEC.md 1.1): what has to be
//! changed in a container so that it can use one.
//!
//! ```text
//! /etc/cdi/*.json|yaml, /var/run/cdi/*.json|yaml      one kind (`vendor.com/class`), its devices, and
//!                                                      the edits of each and of all
//! vendor.com/class=name                                one device of them
//! ```
//! The same device in a later directory takes the place of one in an earlier; twice in one directory
//! it is nobody's. A description that cannot be read takes its own devices away, and is named to
//! whoever wants one that is missing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use vocab::config::DeviceRequest;
use vocab::{Failure, Kind};

/// Of one description.
const MAX_BYTES: u64 = 1 << 20;

/// Of one kind; NVIDIA's hosts have dozens.
const MAX_FILES: usize = 1024;

/// The driver under which clients ask for devices by name.
const DRIVER: &str = "cdi";

/// Why a device is not there.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// No description has it.
    #[error("CDI device injection failed: unresolvable CDI devices {}{}", .names.join(", "), because(.broken))]
    Unresolvable {
        /// As they were asked for.
        names: Vec<String>,
        /// What could not be read.
        broken: Vec<String>,
    },
    /// Nothing gives what is asked for.
    #[error("could not select device driver {driver:?} with capabilities: [{}]: {why}", go_lists(.capabilities))]
    Driver {
        /// As it was asked for.
        driver: String,
        /// What it should be able to.
        capabilities: Vec<Vec<String>>,
        /// What was looked at.
        why: String,
    },
    /// A description asks for what berth does not do.
    #[error("CDI device injection failed: {file} wants {what}, which berth does not do yet")]
    NotYet {
        /// The description.
        file: String,
        /// What it wants.
        what: &'static str,
    },
}

impl Failure for CdiError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotYet { .. } => Kind::NotImplemented,
            _ => Kind::InvalidArgument,
        }
    }
}

fn because(broken: &[String]) -> String {
    match broken {
        [] => String::new(),
        broken => format!(" (not read: {})", broken.join("; ")),
    }
}

/// As Go prints a list of lists.
fn go_lists(wanted: &[Vec<String>]) -> String {
    let inner = wanted.iter().map(|set| format!("[{}]", set.join(" ")));
    inner.collect::<Vec<_>>().join(" ")
}

/// What has to be changed in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Edits {
    pub(crate) env: Vec<String>,
    pub(crate) device_nodes: Vec<Node>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) additional_gids: Vec<u32>,
    intel_rdt: Option<serde_json::Value>,
    net_devices: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Node {
    pub(crate) path: String,
    pub(crate) host_path: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) file_mode: Option<u32>,
    pub(crate) permissions: String,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Mount {
    pub(crate) host_path: String,
    pub(crate) container_path: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) options: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Hook {
    pub(crate) hook_name: String,
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) timeout: Option<i64>,
}

/// One file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Description {
    #[serde(rename = "cdiVersion")]
    _version: String,
    kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

/// A device, and of which description.
#[derive(Clone, Debug)]
struct Found {
    directory: usize,
    file: usize,
    device: usize,
    /// Whether another file of the same directory has it too.
    contested: bool,
}

/// All devices that are described on this host.
#[derive(Debug, Default)]
struct Registry {
    files: Vec<(PathBuf, Description)>,
    devices: BTreeMap<String, Found>,
    broken: Vec<String>,
}

/// What the requests come to. Blocks.
pub(crate) fn resolve(
    requests: &[DeviceRequest],
    directories: &[PathBuf],
) -> Result<Edits, CdiError> {
    if requests.is_empty() {
        return Ok(Edits::default());
    }
    let registry = Registry::read(directories);
    let mut names = Vec::new();
    for request in requests {
        let wanted = match request.driver.as_str() {
            DRIVER => request.device_ids.clone().unwrap_or_default(),
            _ => registry.gpus(request, directories)?,
        };
        for name in wanted {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    registry.edits(&names)
}

impl Registry {
    fn read(directories: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for (number, directory) in directories.iter().enumerate() {
            for path in descriptions(directory) {
                match parse(&path) {
                    Ok(description) => registry.add(number, path, description),
                    Err(error) => registry.broken.push(format!("{}: {error}", path.display())),
                }
            }
        }
        registry
    }

    fn add(&mut self, directory: usize, path: PathBuf, description: Description) {
        let file = self.files.len();
        for (device, described) in description.devices.iter().enumerate() {
            let name = format!("{}={}", description.kind, described.name);
            let contested = self
                .devices
                .get(&name)
                .is_some_and(|other| other.directory == directory);
            if contested {
                let path = path.display();
                self.broken.push(format!("{path}: {name} is there twice"));
            }
            let found = Found {
                directory,
                file,
                device,
                contested,
            };
            self.devices.insert(name, found);
        }
        self.files.push((path, description));
    }

    /// The edits of these devices, each description's own once.
    fn edits(&self, names: &[String]) -> Result<Edits, CdiError> {
        let found = |name: &String| self.devices.get(name).filter(|found| !found.contested);
        let missing: Vec<String> = names
            .iter()
            .filter(|name| found(name).is_none())
            .cloned()
            .collect();
        if !missing.is_empty() {
            return Err(CdiError::Unresolvable {
                names: missing,
                broken: self.broken.clone(),
            });
        }
        let mut edits = Edits::default();
        let mut files = Vec::new();
        for found in names.iter().filter_map(found) {
            let (path, description) = &self.files[found.file];
            if !files.contains(&found.file) {
                files.push(found.file);
                edits.append(path, &description.container_edits)?;
            }
            edits.append(path, &description.devices[found.device].container_edits)?;
        }
        Ok(edits)
    }

    /// Names of the GPUs that are asked for.
    fn gpus(
        &self,
        request: &DeviceRequest,
        directories: &[PathBuf],
    ) -> Result<Vec<String>, CdiError> {
        let refused = |why: String| CdiError::Driver {
            driver: request.driver.clone(),
            capabilities: request.capabilities.clone().unwrap_or_default(),
            why,
        };
        let mut sets = request.capabilities.iter().flatten();
        if !sets.any(|set| set.iter().any(|word| word == "gpu")) {
            return Err(refused("berth knows the driver `cdi`, and GPUs".to_owned()));
        }
        let vendor = match request.driver.as_str() {
            "" => None,
            driver => Some(format!("{driver}.com/gpu")),
        };
        let kinds = self.files.iter().map(|(_, file)| file.kind.as_str());
        let mut kinds: Vec<&str> = kinds
            .filter(|kind| match &vendor {
                Some(vendor) => kind == vendor,
                None => kind.ends_with("/gpu"),
            })
            .collect();
        kinds.sort_unstable();
        let kind = kinds.iter().find(|kind| **kind == "nvidia.com/gpu");
        let Some(kind) = kind.or_else(|| kinds.first()) else {
            let places: Vec<_> = directories
                .iter()
                .map(|d| d.display().to_string())
                .collect();
            let wanted = vendor.unwrap_or_else(|| "a kind of class gpu".to_owned());
            let (places, broken) = (places.join(" or "), because(&self.broken));
            return Err(refused(format!(
                "no CDI file in {places} describes {wanted}{broken}"
            )));
        };
        let name = |id: &dyn std::fmt::Display| format!("{kind}={id}");
        if let Some(ids) = request.device_ids.as_ref().filter(|ids| !ids.is_empty()) {
            return Ok(ids.iter().map(|id| name(id)).collect());
        }
        let all = name(&"all");
        if request.count < 0 {
            if self.devices.contains_key(&all) {
                return Ok(vec![all]);
            }
            let own = self.devices.keys();
            let own = own.filter(|device| device.split_once('=').is_some_and(|(k, _)| k == *kind));
            return Ok(own.cloned().collect());
        }
        Ok((0..request.count).map(|number| name(&number)).collect())
    }
}

impl Edits {
    fn append(&mut self, path: &Path, other: &Self) -> Result<(), CdiError> {
        for (set, what) in [
            (other.intel_rdt.is_some(), "intelRdt"),
            (other.net_devices.is_some(), "netDevices"),
        ] {
            if set {
                return Err(CdiError::NotYet {
                    file: path.display().to_string(),
                    what,
                });
            }
        }
        self.env.extend_from_slice(&other.env);
        self.device_nodes.extend_from_slice(&other.device_nodes);
        self.hooks.extend_from_slice(&other.hooks);
        self.mounts.extend_from_slice(&other.mounts);
        self.additional_gids
            .extend_from_slice(&other.additional_gids);
        Ok(())
    }
}

/// The files of a directory that describe devices, in the order of their names.
fn descriptions(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| {
        let kind = path.extension().and_then(|kind| kind.to_str());
        matches!(kind, Some("json" | "yaml" | "yml"))
    });
    let mut paths: Vec<PathBuf> = paths.take(MAX_FILES).collect();
    paths.sort();
    paths
}

fn parse(path: &Path) -> Result<Description, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let description: Description = if path.extension().is_some_and(|kind| kind == "json") {
        serde_json::from_str(&text).map_err(|error| error.to_string())?
    } else {
        serde_saphyr::from_str(&text).map_err(|error| error.to_string())?
    };
    match description.kind.split_once('/') {
        Some((vendor, class)) if !vendor.is_empty() && !class.is_empty() => Ok(description),
        _ => Err(format!("kind: `{}` is not vendor/class", description.kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directories(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let root = tempfile::tempdir().unwrap();
        let directories = ["etc", "run"].map(|name| root.path().join(name)).to_vec();
        for directory in &directories {
            fs::create_dir(directory).unwrap();
        }
        for (name, text) in files {
            fs::write(root.path().join(name), text).unwrap();
        }
        (root, directories)
    }

    fn by_name(names: &[&str]) -> Vec<DeviceRequest> {
        vec![DeviceRequest {
            driver: "cdi".to_owned(),
            device_ids: Some(names.iter().map(|&name| name.to_owned()).collect()),
            ..DeviceRequest::default()
        }]
    }

    fn gpus(driver: &str, count: i64, ids: &[&str]) -> Vec<DeviceRequest> {
        vec![DeviceRequest {
            driver: driver.to_owned(),
            count,
            device_ids: Some(ids.iter().map(|&id| id.to_owned()).collect()),
            capabilities: Some(vec![vec!["gpu".to_owned()]]),
            ..DeviceRequest::default()
        }]
    }

    const JSON: &str = r#"{"cdiVersion":"0.6.0","kind":"acme.com/card","containerEdits":{"env":["ALL=1"]},
        "devices":[{"name":"a","containerEdits":{"env":["A=1"]}},
                   {"name":"b","containerEdits":{"env":["B=1"],"additionalGids":[7]}}]}"#;
    const YAML: &str = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  \
        containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n      fileMode: 438\n- name: all\n  \
        containerEdits:\n    env: [\"GPUS=all\"]\n";

    #[test]
    fn edits_of_a_file_come_once_and_before_those_of_its_devices() {
        let (_root, directories) = directories(&[("etc/card.json", JSON)]);
        let edits = resolve(
            &by_name(&["acme.com/card=b", "acme.com/card=a"]),
            &directories,
        );
        let edits = edits.unwrap();
        assert_eq!(edits.env, ["ALL=1", "B=1", "A=1"]);
        assert_eq!(edits.additional_gids, [7]);
    }

    #[test]
    fn gpus_are_found_by_count_and_id() {
        let (_root, directories) = directories(&[("run/gpu.yaml", YAML)]);
        let env = |requests: &[DeviceRequest]| resolve(requests, &directories).unwrap().env;
        assert_eq!(env(&gpus("", -1, &[])), ["GPUS=all"]);
        assert_eq!(env(&gpus("nvidia", 0, &["all"])), ["GPUS=all"]);
        let one = resolve(&gpus("", 1, &[]), &directories).unwrap();
        assert_eq!(one.device_nodes[0].file_mode, Some(0o666));
        let error = resolve(&gpus("", 2, &[]), &directories).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("unresolvable CDI devices nvidia.com/gpu=1")
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let (_root, directories) = directories(&[("etc/bad.yaml", "kind: [")]);
        let error = resolve(&by_name(&["acme.com/card=a"]), &directories).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(
                "CDI device injection failed: unresolvable CDI devices acme.com/card=a (not read: "
            ) && text.contains("bad.yaml"),
            "{text}"
        );
        let text = resolve(&gpus("", -1, &[]), &directories)
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with(
                "could not select device driver \"\" with capabilities: [[gpu]]: no CDI file"
            ),
            "{text}"
        );
        let text = resolve(&gpus("amd", -1, &[]), &directories)
            .unwrap_err()
            .to_string();
        assert!(text.contains("describes amd.com/gpu"), "{text}");
    }

    #[test]
    fn later_directories_take_the_place_and_twice_in_one_is_nobodys() {
        let other = JSON.replace("ALL=1", "ALL=2");
        let files = [("etc/a.json", JSON), ("run/b.json", &other)];
        let (_root, found) = directories(&files);
        assert_eq!(
            resolve(&by_name(&["acme.com/card=a"]), &found).unwrap().env,
            ["ALL=2", "A=1"]
        );
        let (_root, found) = directories(&[("etc/a.json", JSON), ("etc/b.json", &other)]);
        let error = resolve(&by_name(&["acme.com/card=a"]), &found)
            .unwrap_err()
            .to_string();
        assert!(error.contains("acme.com/card=a is there twice"), "{error}");
    }

    #[test]
    fn what_berth_does_not_do_is_named() {
        let text = JSON.replace("\"additionalGids\":[7]", "\"intelRdt\":{}");
        let (_root, directories) = directories(&[("etc/a.json", &text)]);
        resolve(&by_name(&["acme.com/card=a"]), &directories).unwrap();
        let error = resolve(&by_name(&["acme.com/card=b"]), &directories).unwrap_err();
        assert!(
            error.to_string().contains("a.json wants intelRdt"),
            "{error}"
        );
    }
}
