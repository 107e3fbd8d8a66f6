//! Where a container's cgroups are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use testkit::tool;

use super::bundle::Bundle;

/// In which cgroup of each hierarchy a process is; hierarchies by their directory.
pub(super) fn memberships(pid: &str) -> BTreeMap<PathBuf, PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let alone = text.lines().count() == 1;
    let split = |line: &str| {
        let (controllers, path) = line.split_once(':').unwrap().1.split_once(':').unwrap();
        let name = match controllers.trim_start_matches("name=") {
            "" if alone => "",
            "" => "unified",
            name => name,
        };
        // Without a slash at the end, which `join` would add.
        let place: PathBuf = Path::new("/sys/fs/cgroup")
            .join(name)
            .components()
            .collect();
        (place, PathBuf::from(path))
    };
    // What the kernel lists is not mounted everywhere.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is_mounted = |place: &Path| mounts.contains(&format!(" {} ", place.display()));
    let all = text.lines().map(split);
    all.filter(|(place, _)| is_mounted(place)).collect()
}

#[test]
fn privileged_a_cgroup_that_somebody_is_in_is_not_taken() {
    let bundle = Bundle::sh("exec sleep 1000");
    bundle.run(&["run", "-d", &bundle.id]).ok();
    let other = format!("{}-other", bundle.id);
    let refused = bundle.run(&["run", "-d", &other]);
    let said = "container's cgroup is not empty: 1 process(es) found";
    assert!(refused.fails(1).contains(said), "{refused:#?}");
    assert_eq!(bundle.status(), "running");
    assert_eq!(bundle.run(&["list", "-q"]).ok(), bundle.id);
}

#[test]
fn privileged_a_cgroup_that_somebody_is_in_in_one_hierarchy_alone_is_not_taken_either() {
    let bundle = Bundle::sh("exec sleep 1000");
    let mut somebody = Command::new(tool("busybox"));
    let mut somebody = somebody.args(["sleep", "1000"]).spawn().unwrap();
    for (place, _) in memberships(&somebody.id().to_string()) {
        let cgroup = place.join(&bundle.id);
        fs::create_dir(&cgroup).unwrap();
        // A cgroup of no processors takes nobody.
        if place.ends_with("cpuset") {
            fs::remove_dir(&cgroup).unwrap();
            continue;
        }
        fs::write(cgroup.join("cgroup.procs"), somebody.id().to_string()).unwrap();
        let refused = [&["run", "-d"][..], &["restore", "-d", "--image-path", "."]];
        let refused = refused.map(|command| bundle.run(&[command, &[&bundle.id]].concat()));
        fs::write(place.join("cgroup.procs"), somebody.id().to_string()).unwrap();
        fs::remove_dir(&cgroup).unwrap();
        for refused in refused {
            let said = "container's cgroup is not empty: 1 process(es) found";
            assert!(refused.fails(1).contains(said), "{refused:#?}");
        }
    }
    somebody.kill().unwrap();
    somebody.wait().unwrap();
    bundle.is_gone();
}

#[test]
fn privileged_a_cgroup_that_somebody_has_frozen_is_not_taken() {
    let bundle = Bundle::sh("exec sleep 1000");
    let mut frozen = 0;
    for (place, _) in memberships("self") {
        let cgroup = place.join(&bundle.id);
        fs::create_dir(&cgroup).unwrap();
        for (file, still) in [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")] {
            if fs::exists(cgroup.join(file)).unwrap() {
                fs::write(cgroup.join(file), still).unwrap();
                for command in ["run", "create"] {
                    let refused = bundle.run(&[command, &bundle.id]);
                    let said = "container's cgroup unexpectedly frozen";
                    assert!(refused.fails(1).contains(said), "{refused:#?}");
                }
                frozen += 1;
            }
        }
        fs::remove_dir(&cgroup).unwrap();
    }
    assert_ne!(frozen, 0);
    bundle.is_gone();
}

#[test]
fn privileged_a_cgroup_is_by_the_callers_own_if_its_path_is_relative() {
    for asked in ["", "/", "NAME/deep", "../NAME/./deep"] {
        let bundle = Bundle::sh("exec sleep 1000");
        let name = bundle.id.clone();
        let bundle = bundle.with(|spec| {
            let linux = spec["linux"].as_object_mut().unwrap();
            match asked {
                "" => drop(linux.remove("cgroupsPath")),
                asked => linux["cgroupsPath"] = json!(asked.replace("NAME", &name)),
            }
        });
        let below = match asked {
            "" | "/" => PathBuf::from(&name),
            _ => Path::new(&name).join("deep"),
        };
        bundle.run(&["run", "-d", &name]).ok();
        let (own, of) = (
            memberships("self"),
            memberships(&bundle.state()["pid"].to_string()),
        );
        for (hierarchy, path) in &of {
            let mut above = own[hierarchy].as_path();
            if of.len() == 1 {
                // A cgroup of version 2 that has processes hands no controllers down.
                above = above.parent().unwrap_or(above);
            }
            assert_eq!(path, &above.join(&below), "{}", hierarchy.display());
        }
        for command in [
            &["pause"][..],
            &["resume"],
            &["update", "--pids-limit", "77"],
        ] {
            bundle.run(&[command, &[&name]].concat()).ok();
        }
        let ran = bundle.run(&["exec", &name, "cat", "/proc/self/cgroup"]);
        assert_eq!(
            ran.ok(),
            bundle.run(&["exec", &name, "cat", "/proc/1/cgroup"]).ok()
        );
        bundle.run(&["kill", &name, "KILL"]).ok();
        bundle.wait_for("stopped");
        bundle.run(&["delete", &name]).ok();
        for (hierarchy, path) in &of {
            let directory = hierarchy.join(path.strip_prefix("/").unwrap());
            assert!(!directory.exists(), "{}", directory.display());
            if path.ends_with("deep") {
                // What is above is not the container's.
                fs::remove_dir(directory.parent().unwrap()).unwrap();
            }
        }
    }
}
