//! What a mount does with its options: flags here and below, mapped ids, propagation, cgroups.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

use crate::kit::{Answer, Container, Step};

/// A directory of the host that holds a file of user 5 and group 6.
fn host(container: &Container) -> PathBuf {
    let host = container.dir.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "x").unwrap();
    chown(host.join("file"), Some(5), Some(6)).unwrap();
    host
}

fn bind(source: &Path, options: &[&str]) -> Value {
    json!({"destination": "/m", "type": "bind", "source": source.to_str(), "options": options})
}

fn mapping(inside: u32, outside: u32, size: u32) -> Value {
    json!([{"containerID": inside, "hostID": outside, "size": size}])
}

const OWNERS: &str = "stat -c '%u %g' /m/file; echo x > /m/new; echo $?";

#[test]
fn privileged_a_mount_shows_ids_through_a_mapping_of_its_own() {
    let container = Container::sh(OWNERS);
    let host = host(&container);
    let mut mount = bind(&host, &["bind"]);
    mount["uidMappings"] = mapping(0, 100, 10);
    mount["gidMappings"] = mapping(0, 200, 10);
    // Root has no id on it, so nothing of root's can be made there.
    let first = container.add("/mounts", mount);
    let answer = first.run();
    assert_eq!(answer.out, "105 206\n1\n");
    assert!(answer.err.contains("Value too large"), "{answer:?}");

    let container = Container::sh(OWNERS).set("/process/user", json!({"uid": 103, "gid": 203}));
    let mut mount = bind(&host, &["bind"]);
    mount["uidMappings"] = mapping(0, 100, 10);
    mount["gidMappings"] = mapping(0, 200, 10);
    fs::set_permissions(&host, fs::Permissions::from_mode(0o777)).unwrap();
    let container = container.add("/mounts", mount);
    assert_eq!(container.output(), "105 206\n0");
    let made = fs::metadata(host.join("new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (3, 3));
}

#[test]
fn privileged_a_mount_shows_ids_as_the_containers_user_namespace_has_them() {
    let base = 1_650_000_000;
    let container = Container::sh(OWNERS)
        .add("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", mapping(0, base, 1000))
        .set("/linux/gidMappings", mapping(0, base, 1000));
    let host = host(&container);
    let plain = container.spec.clone();
    let container = container.add("/mounts", bind(&host, &["bind", "idmap"]));
    assert_eq!(container.output(), "5 6\n0");
    let made = fs::metadata(host.join("new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0));
    // And without a word it does not: the ids are nobody's.
    let mut other = Container::sh(OWNERS);
    other.spec["linux"] = plain["linux"].clone();
    other.spec["linux"]["cgroupsPath"] = json!(other.cgroup());
    let answer = other.add("/mounts", bind(&host, &["bind"])).run();
    assert_eq!(answer.out, "65534 65534\n1\n");
}

#[test]
fn privileged_ids_of_mounts_that_cannot_be_mapped_are_refused() {
    let container = |mount: Value| Container::sh("true").add("/mounts", mount);
    let refused = |container: Container| container.script(&[Step::Start]).expect_err("created");
    let mut no_bind = json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs"});
    no_bind["uidMappings"] = mapping(0, 1, 1);
    no_bind["gidMappings"] = mapping(0, 1, 1);
    assert_eq!(
        refused(container(no_bind)),
        "invalid specification: mounts[7]: only a bind mount can have mapped ids"
    );
    assert_eq!(
        refused(container(bind(Path::new("/tmp"), &["bind", "idmap"]))),
        "invalid specification: mounts[7].options: without uidMappings and gidMappings ids are \
         mapped as in the container's user namespace, and it has none"
    );
    let mut proc = bind(Path::new("/sys"), &["bind"]);
    proc["uidMappings"] = mapping(0, 1, 1);
    proc["gidMappings"] = mapping(0, 1, 1);
    assert_eq!(
        refused(container(proc)),
        "bind `/sys` to `/m`: map its ids (which the file system must allow, and takes the rights \
         of who mounted it): invalid argument"
    );
}

/// Runs `test` in a thread with a mount namespace of its own, where a tmpfs is mounted at `below`
/// in the directory `host` of the container.
fn with_mount_below<T: Send>(
    container: Container,
    propagation: MountPropagationFlags,
    test: impl FnOnce(Container, &Path) -> T + Send,
) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::namespace::unshare(UnshareFlags::FS | UnshareFlags::NEWNS).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            let host = host(&container);
            rustix::mount::mount_bind(&host, &host).unwrap();
            let below = host.join("below");
            fs::create_dir(&below).unwrap();
            rustix::mount::mount("tmpfs", &below, "tmpfs", MountFlags::empty(), None).unwrap();
            fs::write(below.join("file"), "").unwrap();
            chown(below.join("file"), Some(5), Some(6)).unwrap();
            rustix::mount::mount_change(&host, propagation | MountPropagationFlags::REC).unwrap();
            let result = test(container, &host);
            rustix::mount::unmount(&host, UnmountFlags::DETACH).unwrap();
            result
        });
        thread.join().unwrap()
    })
}

/// The flags of `/m` and of `/m/below` for these options.
fn flags(options: &[&str]) -> [String; 2] {
    let script = "for p in /m /m/below; do grep \" $p \" /proc/self/mountinfo; done";
    let out = with_mount_below(
        Container::sh(script),
        MountPropagationFlags::PRIVATE,
        |container, host| {
            let container = container.add("/mounts", bind(host, options));
            let answers = container
                .script_unclean(&[Step::Start, Step::Wait])
                .unwrap();
            answers[1].out.clone()
        },
    );
    let flags = |line: &str| line.split(' ').nth(5).unwrap().to_owned();
    let mut lines = out.lines().map(flags);
    [lines.next().unwrap(), lines.next().unwrap()]
}

#[test]
fn privileged_attributes_with_an_r_reach_the_mounts_below() {
    for (option, flag) in [
        ("rro", "ro,relatime"),
        ("rnosuid", "rw,nosuid,relatime"),
        ("rnodev", "rw,nodev,relatime"),
        ("rnoexec", "rw,noexec,relatime"),
        ("rnoatime", "rw,noatime"),
        ("rstrictatime", "rw"),
        ("rrelatime", "rw,relatime"),
        ("rnodiratime", "rw,nodiratime,relatime"),
        ("rnosymfollow", "rw,relatime,nosymfollow"),
    ] {
        assert_eq!(flags(&["rbind", option]), [flag, flag], "{option}");
    }
    assert_eq!(
        flags(&["rbind", "ro", "noexec", "rnosuid"]),
        ["ro,nosuid,noexec,relatime", "rw,nosuid,relatime"]
    );
    assert_eq!(
        flags(&["rbind", "rro", "rw", "rnoatime", "rstrictatime"]),
        ["rw", "ro"]
    );
}

#[test]
fn privileged_ridmap_maps_the_mounts_below_and_idmap_does_not() {
    let owners = |option: &str| {
        let script = "stat -c '%u %g' /m/file /m/below/file";
        with_mount_below(
            Container::sh(script),
            MountPropagationFlags::PRIVATE,
            |container, host| {
                let mut mount = bind(host, &["rbind", option]);
                mount["uidMappings"] = mapping(0, 100, 10);
                mount["gidMappings"] = mapping(0, 200, 10);
                let container = container.add("/mounts", mount);
                let answers = container
                    .script_unclean(&[Step::Start, Step::Wait])
                    .unwrap();
                answers[1].out.clone()
            },
        )
    };
    assert_eq!(owners("ridmap"), "105 206\n105 206\n");
    assert_eq!(owners("idmap"), "105 206\n5 6\n");
}

/// The optional fields of mountinfo for `/` and `/m`, without the numbers of groups.
fn propagation(root: Option<&str>, options: &[&str], user: bool) -> [String; 2] {
    let script = "for p in / /m; do grep -E \"^([^ ]+ ){4}$p \" /proc/self/mountinfo; done";
    let mut container = Container::sh(script);
    if let Some(root) = root {
        container = container.set("/linux/rootfsPropagation", json!(root));
    }
    if user {
        container = container
            .add("/linux/namespaces", json!({"type": "user"}))
            .set("/linux/uidMappings", mapping(0, 1_650_000_000, 1000))
            .set("/linux/gidMappings", mapping(0, 1_650_000_000, 1000));
    }
    let out = with_mount_below(
        container,
        MountPropagationFlags::SHARED,
        |container, host| {
            let container = container.add("/mounts", bind(host, options));
            let answers = container
                .script_unclean(&[Step::Start, Step::Wait])
                .unwrap();
            answers[1].out.clone()
        },
    );
    let fields = |line: &str| -> String {
        let fields = line.split(' ').skip(6).take_while(|field| *field != "-");
        let names: Vec<&str> = fields
            .map(|field| field.split(':').next().unwrap())
            .collect();
        names.join(" ")
    };
    let mut lines = out.lines().map(fields);
    [lines.next().unwrap(), lines.next().unwrap()]
}

#[test]
fn privileged_propagation_is_what_root_and_mount_say() {
    for (root, options, expected) in [
        (None, &["rbind"][..], ["", "master"]),
        (None, &["rbind", "rprivate"], ["", ""]),
        (None, &["bind", "slave"], ["", "master"]),
        (None, &["rbind", "rshared"], ["", "shared master"]),
        (None, &["rbind", "unbindable"], ["", "unbindable"]),
        (Some("private"), &["rbind"], ["", ""]),
        (Some("shared"), &["rbind", "rshared"], ["shared", "shared"]),
        (Some("unbindable"), &["rbind"], ["unbindable", "master"]),
    ] {
        let found = propagation(root, options, false);
        assert_eq!(found, expected, "{root:?} {options:?}");
    }
    // Nothing goes from another user namespace to the host, whatever is asked for.
    assert_eq!(
        propagation(Some("shared"), &["rbind", "rshared"], true),
        ["shared", "shared master"]
    );
    assert_eq!(propagation(None, &["rbind"], true), ["", "master"]);
}

#[test]
fn privileged_a_mount_that_is_there_can_be_changed() {
    let remount = |destination: &str, options: &[&str]| json!({"destination": destination, "type": "none", "options": options});
    let container = Container::sh(
        "for p in /dev/shm /m /proc; do grep \" $p \" /proc/self/mountinfo; done; \
         touch /dev/shm/x /m/x 2>&1",
    );
    let host = host(&container);
    let container = container
        .add("/mounts", bind(&host, &["bind"]))
        .add(
            "/mounts",
            remount("/dev/shm", &["remount", "size=1m", "nosuid", "noexec"]),
        )
        .add("/mounts", remount("/m", &["remount", "bind", "ro"]))
        .add(
            "/mounts",
            remount("/proc", &["remount", "bind", "nodiratime"]),
        );
    let answer = container.run();
    let lines: Vec<&str> = answer.out.lines().collect();
    assert!(lines[0].contains("size=1024k"), "{answer:?}");
    assert!(lines[1].contains(" ro,"), "{answer:?}");
    assert!(lines[2].contains("nodiratime"), "{answer:?}");
    assert_eq!(lines[3], "touch: /m/x: Read-only file system");
    // The host's own mount stays as it is, and so does the protection of /proc.
    fs::write(host.join("y"), "").unwrap();
}

/// The first field of the cgroup files of each hierarchy, as `namespace` sees them.
fn cgroups(options: &[&str], own_namespace: bool, script: &str) -> Answer {
    let mut container = Container::sh(script);
    let mounts = container.spec["mounts"].as_array_mut().unwrap();
    for mount in mounts.iter_mut().filter(|mount| mount["type"] == "cgroup") {
        mount["options"] = json!(options);
    }
    if !own_namespace {
        let namespaces = container.spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
    }
    container.run()
}

#[test]
fn privileged_the_cgroups_that_are_mounted_are_the_containers_own() {
    // Each hierarchy of the host, by the names of its controllers or its own; with the process in it.
    let script = "cd /sys/fs/cgroup; if [ -e cgroup.procs ]; then cat cgroup.procs; else \
                  for d in *; do [ -L $d ] || grep -qx 1 $d/cgroup.procs || echo $d; done; fi";
    for own_namespace in [true, false] {
        let answer = cgroups(&["ro", "nosuid"], own_namespace, script);
        let expected = if Path::new("/sys/fs/cgroup/cgroup.procs").exists() {
            "1\n"
        } else {
            ""
        };
        assert_eq!(
            (answer.out.as_str(), answer.code == 0),
            (expected, !expected.is_empty() || answer.code == 0),
            "{answer:?}"
        );
    }
}

#[test]
fn privileged_cgroups_can_be_made_where_they_are_mounted_writable() {
    let script = "cd /sys/fs/cgroup; [ -e cgroup.procs ] || cd unified; mkdir x && ls -d x; rmdir x; \
                  mkdir /sys/fs/cgroup/y 2>&1";
    let answer = cgroups(&["rw", "nosuid"], true, script);
    assert!(answer.out.starts_with("x\n"), "{answer:?}");
    let answer = cgroups(&["ro", "nosuid"], true, script);
    assert!(answer.err.contains("Read-only file system"), "{answer:?}");
}

#[test]
fn privileged_a_user_namespace_sees_its_cgroups_and_cannot_change_them() {
    let mut container = Container::sh(
        "grep -vc ':/$' /proc/self/cgroup; cd /sys/fs/cgroup; [ -e cgroup.procs ] || cd unified; \
         cat cgroup.procs; mkdir x; echo max > pids.max; true",
    )
    .add("/linux/namespaces", json!({"type": "user"}))
    .set("/linux/uidMappings", mapping(0, 1_650_000_000, 1000))
    .set("/linux/gidMappings", mapping(0, 1_650_000_000, 1000));
    let mounts = container.spec["mounts"].as_array_mut().unwrap();
    for mount in mounts.iter_mut().filter(|mount| mount["type"] == "cgroup") {
        mount["options"] = json!(["rw"]);
    }
    let answer = container.run();
    // The first process, and the one that reads.
    assert!(answer.out.starts_with("0\n1\n"), "{answer:?}");
    assert!(answer.err.contains("x': Permission denied"), "{answer:?}");
}
