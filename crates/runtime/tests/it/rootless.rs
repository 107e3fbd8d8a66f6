//! Containers of an ordinary user: what the user alone can do, what newuidmap and newgidmap add,
//! and what is said where neither will do.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;

use rustix::fs::{Gid, Uid};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

use crate::kit::{Container, Step, Streaming, exec_in, process};

/// The user, whom no machine has.
const CALLER: u32 = 1_660_000_000;
/// What `/etc/subuid` and `/etc/subgid` grant.
const SUBORDINATE: u32 = 1_661_000_000;
const GRANTED: u32 = 65_536;

/// The files that make `caller` a user, and give it what the test has.
pub(crate) fn prepare(directory: &Path, caller: u32) {
    let passwd = format!("root:x:0:0::/root:/bin/sh\nberth-test:x:{caller}:{caller}::/:/bin/sh\n");
    fs::write(directory.join("passwd"), passwd).unwrap();
    for name in ["subuid", "subgid"] {
        let text = format!("berth-test:{SUBORDINATE}:{GRANTED}\n");
        fs::write(directory.join(name), text).unwrap();
    }
    give(directory, caller);
}

fn give(path: &Path, owner: u32) {
    lchown(path, Some(owner), Some(owner)).unwrap();
    if fs::symlink_metadata(path).unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), owner);
        }
    }
}

/// Has the helper, which has one thread, go on as the user, where the user is known.
pub(crate) fn assume(directory: &Path, caller: u32) {
    sys::namespace::unshare(UnshareFlags::FS | UnshareFlags::NEWNS).unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).unwrap();
    for name in ["passwd", "subuid", "subgid"] {
        mount_bind(directory.join(name), Path::new("/etc").join(name)).unwrap();
    }
    let (uid, gid) = (Uid::from_raw(caller), Gid::from_raw(caller));
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
}

/// With these ids, by an ordinary user, in no cgroup of its own.
fn rootless(script: &str, mapping: Value) -> Container {
    let mut container = Container::sh(script)
        .add("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", mapping.clone())
        .set("/linux/gidMappings", mapping);
    let linux = container.spec["linux"].as_object_mut().unwrap();
    linux.retain(|key, _| key != "cgroupsPath" && key != "resources");
    let mounts = container.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["type"] != "cgroup");
    container.caller = Some(CALLER);
    container
}

/// With the user's own id alone, which takes nobody's help.
fn alone(script: &str) -> Container {
    let mut container = rootless(
        script,
        json!([{"containerID": 0, "hostID": CALLER, "size": 1}]),
    );
    // Group 5, the terminals', is not there.
    let mounts = container.spec["mounts"].as_array_mut().unwrap();
    for mount in mounts.iter_mut().filter(|mount| mount["type"] == "devpts") {
        mount["options"] = json!([
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620"
        ]);
    }
    container
}

/// With the user as root, and all that is granted beside.
fn granted(script: &str) -> Container {
    rootless(
        script,
        json!([{"containerID": 0, "hostID": CALLER, "size": 1},
               {"containerID": 1, "hostID": SUBORDINATE, "size": GRANTED}]),
    )
}

/// The directory as the root, and the overlay.
fn both(make: impl Fn() -> Container) -> [Container; 2] {
    let mut directory = make();
    directory.directory = true;
    [directory, make()]
}

#[test]
fn privileged_a_user_alone_runs_a_container_with_one_id() {
    let script = "sed 's/  */ /g' /proc/self/uid_map /proc/self/gid_map; cat /proc/self/setgroups; \
                  id -u; id -g; hostname; echo x > /new; stat -c '%u %g' /new /etc/passwd; \
                  head -c 4 /dev/zero | wc -c; ip -o link | wc -l; ls -d /proc/1 /sys/class/net/lo; \
                  rm /etc/passwd; ls /etc/passwd 2>&1";
    for container in both(|| alone(script)) {
        link_rm(&container);
        let map = format!(" 0 {CALLER} 1");
        let answer = container.run();
        assert_eq!(
            answer.out,
            format!(
                "{map}\n{map}\ndeny\n0\n0\nbox\n0 0\n0 0\n4\n1\n/proc/1\n/sys/class/net/lo\n\
                 ls: /etc/passwd: No such file or directory\n"
            ),
            "{answer:?}"
        );
        let made = if container.directory {
            "lower/new"
        } else {
            "upper/new"
        };
        let made = fs::metadata(container.dir.path().join(made)).unwrap();
        assert_eq!((made.uid(), made.gid()), (CALLER, CALLER));
    }
}

fn link_rm(container: &Container) {
    for applet in ["rm", "sed"] {
        let _ = fs::hard_link(
            container.file("/bin/busybox"),
            container.file("/bin").join(applet),
        );
    }
}

#[test]
fn privileged_with_newuidmap_a_container_has_all_ids_that_are_granted() {
    let script = "sed 's/  */ /g' /proc/self/uid_map /proc/self/gid_map; cat /proc/self/setgroups; \
                  id -u; id -g; id -G; echo x > /tmp/new; echo err > /dev/stderr; stat -c '%u %g' /tmp/new";
    for container in both(|| granted(script)) {
        link_rm(&container);
        let user = json!({"uid": 33, "gid": 34, "additionalGids": [100, 101]});
        let container = container.set("/process/user", user);
        let mode = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(container.file("/tmp"), mode).unwrap();
        let answer = container.run();
        let map = format!(" 0 {CALLER} 1\n 1 {SUBORDINATE} {GRANTED}\n");
        assert_eq!(
            (answer.out, answer.err),
            (
                format!("{map}{map}allow\n33\n34\n34 100 101\n33 34\n"),
                String::from("err\n")
            )
        );
        let made = if container.directory {
            "lower"
        } else {
            "upper"
        };
        let made = fs::metadata(container.dir.path().join(made).join("tmp/new")).unwrap();
        assert_eq!(
            (made.uid(), made.gid()),
            (SUBORDINATE + 32, SUBORDINATE + 33)
        );
    }
}

#[test]
fn privileged_more_processes_and_terminals_are_there_for_an_ordinary_user() {
    let mut wanted = process(&[
        "/bin/sh",
        "-c",
        "id -u; id -G; hostname; echo err > /dev/stderr",
    ]);
    let answer = exec_in(alone(""), wanted.clone(), Streaming::Pipes);
    assert_eq!(
        (answer.out.as_str(), answer.err.as_str()),
        ("0\n0\nbox\n", "err\n"),
        "{answer:?}"
    );
    wanted["user"] = json!({"uid": 33, "gid": 34, "additionalGids": [7]});
    let answer = exec_in(granted(""), wanted.clone(), Streaming::Pipes);
    assert_eq!(
        (answer.out.as_str(), answer.err.as_str()),
        ("33\n34 7\nbox\n", "err\n"),
        "{answer:?}"
    );
    wanted["args"] = json!([
        "/bin/sh",
        "-c",
        "tty; stat -c '%u %g' $(tty); echo x > /dev/tty"
    ]);
    let answer = exec_in(granted(""), wanted, Streaming::Terminal(24, 80));
    assert_eq!(
        answer.out.replace('\r', ""),
        "/dev/pts/0\n33 5\nx\n",
        "{answer:?}"
    );
    let container = granted("tty; stat -c '%u %g' $(tty)").with(Streaming::Terminal(24, 80));
    assert_eq!(container.output().replace('\r', ""), "/dev/pts/0\n0 5");
}

#[test]
fn privileged_without_a_delegated_cgroup_all_processes_stay_in_the_callers() {
    let mut container = alone("");
    container.spec["linux"]["cgroupsPath"] = json!(container.cgroup());
    let answer = exec_in(container, process(&["id", "-u"]), Streaming::Pipes);
    assert_eq!((answer.out.as_str(), answer.code), ("0\n", 0), "{answer:?}");
}

#[test]
fn privileged_bind_sources_are_opened_with_the_users_rights_and_no_more() {
    let make = || alone("cat /secret/file");
    let secret = tempfile::tempdir().unwrap();
    fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(secret.path().join("file"), "x").unwrap();
    let bind = |container: Container, source: &Path| {
        let mount = json!({"destination": "/secret", "type": "bind",
                           "source": source.to_str(), "options": ["rbind"]});
        container.add("/mounts", mount)
    };
    // Root's directory cannot be passed; itself it can be bound, and then not be read.
    let deep = secret.path().join("deep");
    fs::create_dir(&deep).unwrap();
    let said = bind(make(), &deep).script(&[Step::Start]).unwrap_err();
    let expected = format!(
        "bind `{}` to `/secret`: open the source: permission denied",
        deep.display()
    );
    assert_eq!(said, expected);
    let answer = bind(make(), secret.path()).run();
    assert!(answer.err.contains("Permission denied"), "{answer:?}");
    fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(bind(make(), secret.path()).output(), "x");
}

#[test]
fn privileged_what_an_ordinary_user_cannot_do_is_said() {
    let refused = |container: Container| {
        let error = container
            .script(&[Step::Start])
            .expect_err("it was created");
        error.lines().next().unwrap_or_default().to_owned()
    };
    let mut without = Container::sh("true");
    let linux = without.spec["linux"].as_object_mut().unwrap();
    linux.retain(|key, _| key != "cgroupsPath" && key != "resources");
    without.caller = Some(CALLER);
    assert_eq!(
        refused(without),
        "invalid specification: linux.namespaces: has no user namespace, without which an \
         ordinary user makes no other"
    );
    let foreign = rootless(
        "true",
        json!([{"containerID": 0, "hostID": SUBORDINATE + GRANTED, "size": 100}]),
    );
    let said = refused(foreign);
    assert!(said.starts_with("run newgidmap "), "{said}");
    assert!(said.contains("not allowed"), "{said}");
    let group = alone("true").set(
        "/process/user",
        json!({"uid": 0, "gid": 0, "additionalGids": [0]}),
    );
    assert_eq!(
        refused(group),
        "become user 0 of group 0: operation not permitted"
    );
    let score = alone("true").set("/process/oomScoreAdj", json!(-500));
    assert_eq!(
        refused(score),
        "set oom_score_adj to -500 (an ordinary user may only raise it): permission denied"
    );
    let mut mapped = alone("true");
    let source = mapped.dir.path().to_str().unwrap().to_owned();
    mapped.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/m", "type": "bind", "source": source, "options": ["bind", "idmap"]}));
    let said = refused(mapped);
    assert!(said.contains("an ordinary user"), "{said}");
    let terminals = rootless(
        "true",
        json!([{"containerID": 0, "hostID": CALLER, "size": 1}]),
    );
    assert_eq!(
        refused(terminals),
        "invalid specification: mounts[2].options: `gid=5`: group 5 is not mapped in \
         linux.gidMappings"
    );
    let device = alone("true").set(
        "/linux/devices",
        json!([{"path": "/dev/none", "type": "c", "major": 1, "minor": 3}]),
    );
    assert_eq!(
        refused(device),
        "make the device `/dev/none`: no such file or directory"
    );
}
