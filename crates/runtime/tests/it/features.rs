//! The features document says what the runtime does.

use std::path::PathBuf;

use runtime::{Bundle, Rootfs, oci};
use serde_json::{Value, json};

fn document() -> Value {
    serde_json::to_value(runtime::features()).unwrap()
}

/// Why a specification with this change is refused; `None` if it is not.
fn refused(change: impl FnOnce(&mut Value)) -> Option<String> {
    let mut spec = json!({
        "ociVersion": "1.3.0",
        "process": {"user": {}, "args": ["x"], "cwd": "/"}, "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "mount"}]}
    });
    change(&mut spec);
    let spec = match runtime::config::spec(&serde_json::to_vec(&spec).unwrap()) {
        Ok(read) => read.value,
        Err(error) => return Some(error.to_string()),
    };
    let bundle = Bundle {
        id: String::from("box"),
        directory: PathBuf::from("/bundle"),
        spec,
        rootfs: Rootfs::Directory(PathBuf::from("/bundle/rootfs")),
        seccomp: None,
        extras: runtime::Extras::default(),
    };
    runtime::check(&bundle).err().map(|error| error.to_string())
}

#[test]
fn it_is_a_features_document_and_complete() {
    let features: oci::Features = serde_json::from_value(document()).unwrap();
    assert_eq!(features.oci_version_min(), "1.0.0");
    assert_eq!(features.oci_version_max(), "1.3.0");
    assert_eq!(features.hooks().as_ref().unwrap().len(), 6);
    let linux = features.linux().as_ref().unwrap();
    assert_eq!(linux.capabilities().as_ref().unwrap().len(), 41);
    let seccomp = linux.seccomp().as_ref().unwrap();
    assert_eq!(seccomp.archs().as_ref().unwrap().len(), 23);
    assert_eq!(seccomp.known_flags().as_ref().unwrap().len(), 4);
}

#[test]
fn every_namespace_it_names_is_taken_and_no_other() {
    let document = document();
    let named = document["linux"]["namespaces"].as_array().unwrap();
    for kind in [
        "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
    ] {
        let refused = refused(|spec| {
            let mapping = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
            if kind == "user" {
                spec["linux"]["uidMappings"] = mapping.clone();
                spec["linux"]["gidMappings"] = mapping;
            }
            if kind != "mount" {
                let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.push(json!({"type": kind}));
            }
        });
        assert_eq!(
            refused.is_none(),
            named.contains(&json!(kind)),
            "{kind}: {refused:?}"
        );
    }
}

#[test]
fn every_setting_that_it_enables_is_taken_and_no_other() {
    let document = document();
    let linux = &document["linux"];
    for (feature, pointer, value) in [
        ("/intelRdt", "intelRdt", json!({"closID": "x"})),
        ("/netDevices", "netDevices", json!({"berth-none": {}})),
    ] {
        let refused = refused(|spec| {
            spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network"}]);
            spec["linux"][pointer] = value;
        });
        let enabled = linux.pointer(feature).unwrap()["enabled"] == true;
        assert_eq!(refused.is_none(), enabled, "{feature}: {refused:?}");
    }
    let idmapped = refused(|spec| {
        let mapping = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
        spec["mounts"] = json!([{"destination": "/x", "source": "/", "options": ["bind"],
            "type": "bind", "uidMappings": mapping, "gidMappings": mapping}]);
    });
    let enabled = linux["mountExtensions"]["idmap"]["enabled"] == true;
    assert_eq!(idmapped.is_none(), enabled, "{idmapped:?}");
}

#[test]
fn every_action_operator_and_architecture_that_it_names_is_compiled() {
    let document = document();
    let seccomp = &document["linux"]["seccomp"];
    let each = |name: &str| seccomp[name].as_array().unwrap().clone();
    for action in each("actions") {
        for operator in each("operators") {
            let refused = refused(|spec| {
                spec["linux"]["seccomp"] = json!({
                    "defaultAction": "SCMP_ACT_ALLOW", "architectures": seccomp["archs"],
                    "flags": seccomp["knownFlags"], "listenerPath": "/agent",
                    "syscalls": [{"names": ["read"], "action": action, "args": [
                        {"index": 0, "value": 1, "op": operator}]}]
                });
            });
            assert_eq!(refused, None, "{action} {operator}");
        }
    }
}

#[test]
fn every_memory_policy_that_it_names_is_taken() {
    let document = document();
    let policy = &document["linux"]["memoryPolicy"];
    for mode in policy["modes"].as_array().unwrap() {
        let nodes = match mode.as_str().unwrap() {
            "MPOL_DEFAULT" | "MPOL_LOCAL" => "",
            _ => "0",
        };
        let asked = json!({"mode": mode, "nodes": nodes, "flags": policy["flags"]});
        assert_eq!(refused(|spec| spec["linux"]["memoryPolicy"] = asked), None);
    }
}
