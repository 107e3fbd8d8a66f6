//! Limits: in the kernel's files, and in effect.

use serde_json::json;

use crate::kit::{Container, Step};

/// Runs with limits and reads files of the container's version 1 hierarchies.
fn files(resources: serde_json::Value, files: &[&str]) -> Vec<String> {
    let container = Container::sh("echo ready; exec sleep 1000").set("/linux/resources", resources);
    let mut steps = vec![Step::Start, Step::Until("ready".into())];
    for file in files {
        let (controller, _) = file.split_once('.').unwrap();
        let path = format!("/sys/fs/cgroup/{controller}{}/{file}", container.cgroup());
        steps.push(Step::Read(path));
    }
    steps.extend([Step::Signal(9), Step::Wait]);
    let answers = container.script(&steps).unwrap();
    answers[2..2 + files.len()]
        .iter()
        .map(|answer| {
            assert_eq!(answer.error, None);
            answer.out.trim().to_owned()
        })
        .collect()
}

#[test]
fn privileged_limits_are_in_the_kernels_files() {
    let resources = json!({
        "memory": {"limit": 67_108_864, "swap": 134_217_728, "reservation": 33_554_432},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 17}
    });
    let found = files(
        resources,
        &[
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.soft_limit_in_bytes",
            "cpu.shares",
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
            "cpuset.cpus",
            "pids.max",
        ],
    );
    assert_eq!(
        found,
        [
            "67108864",
            "134217728",
            "33554432",
            "512",
            "50000",
            "100000",
            "0",
            "17"
        ]
    );
}

#[test]
fn privileged_devices_are_those_of_the_rules() {
    let resources = json!({"devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]});
    let list = &files(resources, &["devices.list"])[0];
    assert!(
        list.contains("c 10:229 rw") && list.contains("c 1:3 rwm"),
        "{list}"
    );
    assert!(!list.contains("a *:* rwm"), "{list}");
    let all = json!({"devices": [{"allow": true, "access": "rwm"}]});
    assert_eq!(files(all, &["devices.list"]), ["a *:* rwm"]);
}

#[test]
fn privileged_limits_can_be_changed_while_it_runs() {
    let container = Container::sh("echo ready; exec sleep 1000").set(
        "/linux/resources",
        json!({"memory": {"limit": 67_108_864, "swap": 67_108_864}}),
    );
    let file = |name| {
        Step::Read(format!(
            "/sys/fs/cgroup/memory{}/{name}",
            container.cgroup()
        ))
    };
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Update(json!({"memory": {"limit": 134_217_728, "swap": 134_217_728}})),
        file("memory.limit_in_bytes"),
        Step::Update(json!({"memory": {"limit": 33_554_432, "swap": 67_108_864}})),
        file("memory.limit_in_bytes"),
        file("memory.memsw.limit_in_bytes"),
        Step::Update(json!({"memory": {"limit": -1, "swap": -1}})),
        Step::KillAll,
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    let errors: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.error.as_ref())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    let limits = [3, 5, 6].map(|step: usize| answers[step].out.trim());
    assert_eq!(limits, ["134217728", "33554432", "67108864"]);
}

#[test]
fn privileged_too_much_memory_ends_the_process_and_is_counted() {
    let container = Container::sh("echo ready; read go; head -c 200m /dev/zero | tail >/dev/null")
        .with(crate::kit::Streaming::Input)
        .set(
            "/process/args",
            json!([
                "/bin/sh",
                "-c",
                "read go; dd if=/dev/zero of=/dev/null bs=200M count=1"
            ]),
        )
        .set(
            "/linux/resources",
            json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}}),
        );
    let steps = [Step::Start, Step::Input("\n".into()), Step::Oom, Step::Wait];
    let answers = container.script(&steps).unwrap();
    assert_eq!(answers[2].out, "1", "{answers:?}");
    assert_eq!(answers[3].code, 137, "{answers:?}");
}

#[test]
fn privileged_too_many_processes_cannot_be_made() {
    let script = "for i in 1 2 3 4 5 6; do sleep 1000 & done; echo made";
    let container = Container::sh(script).set("/linux/resources", json!({"pids": {"limit": 4}}));
    let answer = container.run();
    assert!(answer.err.contains("fork"), "{answer:?}");
    assert_ne!(answer.code, 0);
}

#[test]
fn privileged_too_much_computing_is_held_back() {
    // A tenth of a processor: spinning for long enough must meet the quota.
    let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; read end";
    let container = Container::sh(script)
        .with(crate::kit::Streaming::Input)
        .set(
            "/linux/resources",
            json!({"cpu": {"quota": 10_000, "period": 100_000}}),
        );
    let steps = [
        Step::Start,
        Step::Until("done".into()),
        Step::Stats,
        Step::Input("\n".into()),
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    let stats = &answers[2].out;
    assert!(!stats.contains("throttled_periods: 0"), "{stats}");
    assert!(!stats.contains("usage_nanos: 0"), "{stats}");
}

#[test]
fn privileged_a_frozen_container_stands_still_and_can_be_killed() {
    let container = Container::sh("echo ready; exec sleep 1000");
    let state = format!("/sys/fs/cgroup/unified{}/cgroup.events", container.cgroup());
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Freeze,
        Step::Read(state.clone()),
        Step::Thaw,
        Step::Read(state),
        Step::Freeze,
        Step::KillAll,
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    assert!(answers[3].out.contains("frozen 1"), "{:?}", answers[3]);
    assert!(answers[5].out.contains("frozen 0"), "{:?}", answers[5]);
    assert_eq!(answers[8].code, 137);
}

#[test]
fn privileged_every_process_is_known_and_killed() {
    let container = Container::sh("sleep 1000 & sleep 1000 & echo ready; wait");
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Pids,
        Step::KillAll,
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    assert_eq!((answers[2].out.as_str(), answers[4].code), ("3", 137));
}

#[test]
fn privileged_what_is_used_is_counted() {
    let container = Container::sh("echo ready; exec sleep 1000").set(
        "/linux/resources",
        json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 9}}),
    );
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Stats,
        Step::KillAll,
        Step::Wait,
    ];
    let stats = container.script(&steps).unwrap()[2].out.clone();
    assert!(stats.contains("current: 1, limit: Some(9)"), "{stats}");
    assert!(stats.contains("limit_bytes: Some(67108864)"), "{stats}");
    assert!(
        stats.contains("\"cache\"") && !stats.contains("usage_bytes: 0,"),
        "{stats}"
    );
}

#[test]
fn privileged_the_device_program_is_accepted_by_the_kernel() {
    // Of version 2, which here owns no controller but takes programs all the same.
    let path = format!(
        "/sys/fs/cgroup/unified/berth-test-bpf-{}",
        std::process::id()
    );
    std::fs::create_dir(&path).unwrap();
    let rules = serde_json::from_value(json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": true, "type": "b", "major": 8, "access": "r"}]));
    let rules: Vec<runtime::oci::LinuxDeviceCgroup> = rules.unwrap();
    let attached = (0..3).map(|_| runtime::cgroup::filter_devices(path.as_ref(), Some(&rules)));
    let attached: Result<Vec<()>, _> = attached.collect();
    let directory = std::fs::File::open(&path).unwrap();
    let ids = sys::bpf::device_program_ids(std::os::fd::AsFd::as_fd(&directory));
    std::fs::remove_dir(&path).unwrap();
    attached.unwrap();
    assert_eq!(ids.unwrap().len(), 1, "a new program replaces the old one");
}
