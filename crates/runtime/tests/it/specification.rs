//! What cannot be in a specification: each with its JSON path and the reason, found before anything
//! is made. What cannot even be read is in `config`'s own tests.

use std::path::PathBuf;

use runtime::{Bundle, Rootfs};
use serde_json::{Value, json};

/// What is said about a specification that is changed so; `None` if it is not refused.
fn said(change: impl FnOnce(&mut Value)) -> Option<String> {
    let mut spec = json!({
        "ociVersion": "1.3.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["x"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}
    });
    change(&mut spec);
    let spec = runtime::config::spec(&serde_json::to_vec(&spec).unwrap()).unwrap();
    let bundle = Bundle {
        id: String::from("box"),
        directory: PathBuf::from("/bundle"),
        spec: spec.value,
        rootfs: Rootfs::Directory(PathBuf::from("/bundle/rootfs")),
        seccomp: None,
        extras: runtime::Extras::default(),
    };
    let error = runtime::check(&bundle).err()?.to_string();
    let said = error.strip_prefix("invalid specification: ");
    Some(said.unwrap_or_else(|| panic!("{error}")).to_owned())
}

/// The same with the value at a JSON pointer changed to `value`.
fn refused(pointer: &str, value: Value) -> String {
    let change = |spec: &mut Value| {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = spec.pointer_mut(parent).unwrap();
        parent
            .as_object_mut()
            .unwrap()
            .insert(key.to_owned(), value);
    };
    said(change).expect(pointer)
}

#[track_caller]
fn check(cases: &[(&str, Value, &str)]) {
    for (pointer, value, expected) in cases {
        assert_eq!(refused(pointer, value.clone()), *expected, "{pointer}");
    }
}

#[test]
fn a_process_that_cannot_be_is_refused() {
    check(&[
        ("/process/args", json!([]), "process.args: is empty"),
        (
            "/process/args",
            json!(["a\u{0}b"]),
            "process.args[0]: contains a NUL byte",
        ),
        (
            "/process/env",
            json!(["A=1", "B=\u{0}"]),
            "process.env[1]: contains a NUL byte",
        ),
        (
            "/process/cwd",
            json!("tmp"),
            "process.cwd: `tmp` is not an absolute path",
        ),
        (
            "/process/oomScoreAdj",
            json!(1001),
            "process.oomScoreAdj: 1001 is not between -1000 and 1000",
        ),
        (
            "/process/user/umask",
            json!(0o1000),
            "process.user.umask: 512 (01000) is more than 511 (0777)",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]),
            "process.rlimits[0]: the soft limit 2 is above the hard limit 1",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 1},
                   {"type": "RLIMIT_CORE", "soft": 1, "hard": 1}]),
            "process.rlimits[1].type: RLIMIT_CORE is listed twice",
        ),
    ]);
}

#[test]
fn scheduling_that_cannot_be_is_refused() {
    let scheduler = "/process/scheduler";
    check(&[
        (
            scheduler,
            json!({"policy": "SCHED_OTHER", "nice": 20}),
            "process.scheduler.nice: 20 is not between -20 and 19",
        ),
        (
            scheduler,
            json!({"policy": "SCHED_FIFO"}),
            "process.scheduler.priority: 0 is not between 1 and 99",
        ),
        (
            scheduler,
            json!({"policy": "SCHED_RR", "priority": 100}),
            "process.scheduler.priority: 100 is not between 1 and 99",
        ),
        (
            scheduler,
            json!({"policy": "SCHED_BATCH", "priority": 1}),
            "process.scheduler.priority: SCHED_BATCH has no priorities",
        ),
        (
            scheduler,
            json!({"policy": "SCHED_OTHER", "period": 1}),
            "process.scheduler.period: SCHED_OTHER has no deadlines",
        ),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "process.ioPriority.priority: 8 is not between 0 and 7",
        ),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": -1}),
            "process.ioPriority.priority: -1 is not between 0 and 7",
        ),
        (
            "/process/execCPUAffinity",
            json!({"final": "3-1"}),
            "process.execCPUAffinity.final: `3-1` ends before it begins",
        ),
        (
            "/process/execCPUAffinity",
            json!({"initial": "0,1024"}),
            "process.execCPUAffinity.initial: 1024 is too large, the last is 1023",
        ),
        (
            "/linux/personality",
            json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}),
            "linux.personality.flags[0]: unknown flag `ADDR_NO_RANDOMIZE`",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND"}),
            "linux.memoryPolicy.nodes: MPOL_BIND needs nodes",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_DEFAULT", "nodes": "0"}),
            "linux.memoryPolicy.nodes: MPOL_DEFAULT has no nodes",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "first"}),
            "linux.memoryPolicy.nodes: `first` is not a list such as `0-3,7`",
        ),
    ]);
}

#[test]
fn a_view_that_cannot_be_is_refused() {
    check(&[
        (
            "/domainname",
            json!("example.org"),
            "domainname: needs a UTS namespace of the container's own",
        ),
        (
            "/hostname",
            json!("box"),
            "hostname: needs a UTS namespace of the container's own",
        ),
        (
            "/linux/namespaces",
            json!([]),
            "linux.namespaces: a new mount namespace is required",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "mount"}]),
            "linux.namespaces[1]: this type of namespace is listed twice",
        ),
        (
            "/linux/rootfsPropagation",
            json!("sideways"),
            "linux.rootfsPropagation: unknown value \"sideways\"",
        ),
        (
            "/linux/maskedPaths",
            json!(["/a", "etc"]),
            "linux.maskedPaths[1]: `etc` is not absolute",
        ),
        (
            "/linux/readonlyPaths",
            json!(["etc"]),
            "linux.readonlyPaths[0]: `etc` is not absolute",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.panic": "1"}),
            "linux.sysctl[\"kernel.panic\"]: is not in a namespace of its own",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "a", "major": 1, "minor": 1}]),
            "linux.devices[0].type: `a` is not a device",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": -1, "minor": 1}]),
            "linux.devices[0].major: is no device number",
        ),
        (
            "/linux/netDevices",
            json!({"eth0": {}}),
            "linux.netDevices[\"eth0\"]: needs a network namespace of the container's own",
        ),
        (
            "/linux/netDevices",
            json!({"eth0": {"name": "a/b"}}),
            "linux.netDevices[\"eth0\"].name: `a/b` is not a device's name",
        ),
        (
            "/linux/netDevices",
            json!({"eth%d": {}}),
            "linux.netDevices[\"eth%d\"]: `eth%d` is not a device's name",
        ),
        (
            "/linux/netDevices",
            json!({"eth0": {"name": "sixteen-letters-"}}),
            "linux.netDevices[\"eth0\"].name: `sixteen-letters-` is longer than 15 bytes",
        ),
        (
            "/linux/resources",
            json!({"memory": {"limit": 8_388_608, "swap": 4_194_304}}),
            "linux.resources.memory.swap: 4194304, memory and swap together, \
             is below the memory limit 8388608",
        ),
        (
            "/linux/resources",
            json!({"memory": {"swappiness": 101}}),
            "linux.resources.memory.swappiness: 101 is above 100",
        ),
        (
            "/linux/resources",
            json!({"devices": [{"allow": true, "access": "rx"}]}),
            "linux.resources.devices[0].access: `rx` is not made of `r`, `w` and `m`",
        ),
        (
            "/linux/intelRdt",
            json!({"closID": "x"}),
            "linux.intelRdt: is not supported",
        ),
        (
            "/mounts",
            json!([{"destination": "/x"}]),
            "mounts[0].type: is missing",
        ),
        (
            "/mounts",
            json!([{"destination": "/x", "type": "tmpfs"},
                   {"destination": "/proc/self", "type": "tmpfs"}]),
            "mounts[1].destination: `/proc/self` is inside /proc",
        ),
    ]);
}

#[test]
fn a_host_name_that_is_too_long_is_refused() {
    let long = |spec: &mut Value| {
        spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}]);
        spec["hostname"] = json!("x".repeat(65));
    };
    assert_eq!(
        said(long),
        Some(String::from("hostname: is longer than 64 bytes"))
    );
    // An empty one is none.
    assert_eq!(said(|spec| spec["hostname"] = json!("")), None);
}

#[test]
fn a_filter_that_cannot_be_is_refused() {
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    check(&[
        (
            "/linux/seccomp",
            rule(
                json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [
                {"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}),
            ),
            "linux.seccomp.syscalls[0].args[0].index: there is no argument 6, the last is 5",
        ),
        (
            "/linux/seccomp",
            rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})),
            "linux.seccomp.listenerPath: is missing, and SCMP_ACT_NOTIFY needs somebody who answers",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": vec![json!({
                "names": ["read"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}); 1000]}),
            "linux.seccomp.syscalls: come to 5012 instructions, the kernel loads 4096",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
            "linux.seccomp.defaultErrnoRet: SCMP_ACT_ALLOW returns no errno",
        ),
    ]);
}

#[test]
fn hooks_that_cannot_be_are_refused() {
    check(&[
        (
            "/hooks",
            json!({"poststop": [{"path": "hook"}]}),
            "hooks.poststop[0].path: `hook` is not an absolute path",
        ),
        (
            "/hooks",
            json!({"prestart": [{"path": "/a"}, {"path": "/b", "timeout": 0}]}),
            "hooks.prestart[1].timeout: 0 is not a number of seconds above 0",
        ),
        (
            "/hooks",
            json!({"startContainer": [{"path": "/a", "env": ["A=1", "B=\u{0}"]}]}),
            "hooks.startContainer[0].env[1]: contains a NUL byte",
        ),
    ]);
}
