//! What is refused, in which words, and that nothing of it is left (`script` checks that).

use serde_json::{Value, json};

use crate::kit::{Container, Step};

fn refused(container: &Container) -> String {
    container
        .script(&[Step::Start, Step::Wait])
        .expect_err("it was created")
}

#[test]
fn privileged_what_cannot_be_is_refused_and_leaves_nothing() {
    // The table of all that cannot be is in `specification`.
    let said = refused(&Container::sh("true").set("/process/args", json!([])));
    assert_eq!(said, "invalid specification: process.args: is empty");
}

#[test]
fn privileged_parameters_of_the_hosts_network_are_not_set() {
    let container = Container::sh("true")
        .set(
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "uts"}, {"type": "pid"}]),
        )
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    assert_eq!(
        refused(&container),
        "invalid specification: linux.sysctl[\"net.ipv4.ip_forward\"]: \
         needs a namespace of the container's own, which it shares with the host"
    );
}

#[test]
fn privileged_a_mount_that_fails_says_which_and_why() {
    let with = |mount: Value| refused(&Container::sh("true").add("/mounts", mount));
    assert_eq!(
        with(
            json!({"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]})
        ),
        "bind `/no/such` to `/x`: open the source: no such file or directory"
    );
    assert_eq!(
        with(json!({"destination": "/x", "type": "nofs", "source": "x"})),
        "mount `nofs` at `/x`: no such device"
    );
    let said = with(json!({"destination": "/x", "type": "tmpfs", "options": ["size=lots"]}));
    assert!(
        said.starts_with("mount `tmpfs` at `/x`: option `size=lots`"),
        "{said}"
    );
}

#[test]
fn privileged_limits_that_cannot_be_are_refused() {
    let with =
        |resources: Value| refused(&Container::sh("true").set("/linux/resources", resources));
    assert_eq!(
        with(json!({"memory": {"limit": 8_388_608, "swap": 4_194_304}})),
        "invalid specification: linux.resources.memory.swap: 4194304, memory and swap together, \
         is below the memory limit 8388608"
    );
    let said = with(json!({"cpu": {"cpus": "77"}}));
    assert!(
        said.starts_with("prepare the cgroup: write \"77\" to `/sys/fs/cgroup/")
            && said.contains("cpuset.cpus`: "),
        "{said}"
    );
    assert_eq!(
        with(json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]})),
        "prepare the cgroup: the kernel's `hugetlb` cgroup controller is not available, needed for the huge page limit"
    );
}

#[test]
fn privileged_a_filter_that_cannot_be_is_refused_with_its_place() {
    for (filter, expected) in [
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "linux.seccomp.listenerPath: is missing, and SCMP_ACT_NOTIFY needs somebody who answers",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "agent", "syscalls": [
                {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
            "linux.seccomp.listenerPath: is not an absolute path",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir"], "action": "SCMP_ACT_LOG", "errnoRet": 1}]}),
            "linux.seccomp.syscalls[0].errnoRet: SCMP_ACT_LOG returns no errno",
        ),
    ] {
        let said = refused(&Container::sh("true").set("/linux/seccomp", filter));
        assert_eq!(said, format!("invalid specification: {expected}"));
    }
}

#[test]
fn privileged_a_root_that_is_not_there_is_named() {
    let container = Container::sh("true");
    std::fs::remove_dir_all(container.dir.path().join("lower")).unwrap();
    let said = refused(&container);
    assert!(
        said.contains("use the layer `") || said.contains("mount the overlay"),
        "{said}"
    );
    assert!(said.contains("no such file or directory"), "{said}");
}
