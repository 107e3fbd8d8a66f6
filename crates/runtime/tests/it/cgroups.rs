//! Limits: in the kernel's files, and in effect.

use runtime::cgroup::Layout;
use serde_json::json;

use crate::kit::{Container, Step};

fn layout() -> Layout {
    Layout::detect().unwrap()
}

/// Where the kernel keeps a file of the container's cgroup, such as `memory.max`.
fn path(container: &Container, file: &str) -> String {
    let (controller, _) = file.split_once('.').unwrap();
    let hierarchy = match (layout(), controller) {
        (Layout::V2, _) => String::new(),
        (_, "cgroup") => String::from("/unified"),
        (_, controller) => format!("/{controller}"),
    };
    format!("/sys/fs/cgroup{hierarchy}{}/{file}", container.cgroup())
}

/// Runs with limits and reads files of the container's cgroup.
fn files(resources: serde_json::Value, files: &[&str]) -> Vec<String> {
    let container = Container::sh("echo ready; exec sleep 1000").set("/linux/resources", resources);
    let mut steps = vec![Step::Start, Step::Until("ready".into())];
    steps.extend(files.iter().map(|file| Step::Read(path(&container, file))));
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

/// What the files of version 1 or 2, whichever limits here, say under these limits.
#[track_caller]
fn check(resources: serde_json::Value, v1: &[(&str, &str)], v2: &[(&str, &str)]) {
    let expected = if layout() == Layout::V2 { v2 } else { v1 };
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let found = files(resources, &names);
    let found: Vec<(&str, &str)> = names
        .into_iter()
        .zip(found.iter().map(String::as_str))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn privileged_limits_are_in_the_kernels_files() {
    check(
        json!({
            "memory": {"limit": 67_108_864, "swap": 134_217_728, "reservation": 33_554_432},
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"},
            "pids": {"limit": 17}
        }),
        &[
            ("memory.limit_in_bytes", "67108864"),
            ("memory.memsw.limit_in_bytes", "134217728"),
            ("memory.soft_limit_in_bytes", "33554432"),
            ("cpu.shares", "512"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.cfs_period_us", "100000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "17"),
        ],
        &[
            ("memory.max", "67108864"),
            ("memory.swap.max", "67108864"),
            ("memory.low", "33554432"),
            ("cpu.weight", "20"),
            ("cpu.max", "50000 100000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "17"),
        ],
    );
}

#[test]
fn privileged_devices_are_those_of_the_rules() {
    // Neither device exists, which is only said to those who may use it.
    let script = "for minor in 2 10; do mknod /dev/x c 1 $minor; head /dev/x; rm /dev/x; done 2>&1";
    let tried = |rules: serde_json::Value| {
        let container = Container::sh(script).set("/linux/resources", json!({"devices": rules}));
        let out = container.output();
        let answers = out.lines().map(|line| line.rsplit(": ").next().unwrap());
        answers.map(str::to_owned).collect::<Vec<_>>()
    };
    let (missing, refused) = ("No such device or address", "Operation not permitted");
    let one = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 2, "access": "rw"}]);
    assert_eq!(tried(one), [missing, refused]);
    let all = json!([{"allow": true, "access": "rwm"}]);
    assert_eq!(tried(all), [missing, missing]);
    let all_but_one = json!([
        {"allow": true, "access": "rwm"},
        {"allow": false, "type": "c", "major": 1, "minor": 2, "access": "r"}]);
    assert_eq!(tried(all_but_one), [refused, missing]);
}

#[test]
fn privileged_limits_can_be_changed_while_it_runs() {
    let container = Container::sh("echo ready; exec sleep 1000").set(
        "/linux/resources",
        json!({"memory": {"limit": 67_108_864, "swap": 67_108_864}}),
    );
    let [limit, swap] = match layout() {
        Layout::V2 => ["memory.max", "memory.swap.max"],
        _ => ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
    }
    .map(|file| Step::Read(path(&container, file)));
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Update(json!({"memory": {"limit": 134_217_728, "swap": 134_217_728}})),
        limit.clone(),
        Step::Update(json!({"memory": {"limit": 33_554_432, "swap": 67_108_864}})),
        limit,
        swap,
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
    // Version 2 counts swap alone.
    let swap = match layout() {
        Layout::V2 => "33554432",
        _ => "67108864",
    };
    assert_eq!(limits, ["134217728", "33554432", swap]);
}

#[test]
fn privileged_too_much_memory_ends_the_process_and_is_counted() {
    let container = Container::sh("read go; dd if=/dev/zero of=/dev/null bs=200M count=1")
        .with(crate::kit::Streaming::Input)
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
    let (file, frozen, thawed) = match layout() {
        Layout::V1 => ("freezer.state", "FROZEN", "THAWED"),
        Layout::V2 | Layout::Hybrid => ("cgroup.events", "frozen 1", "frozen 0"),
    };
    let state = Step::Read(path(&container, file));
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Freeze,
        state.clone(),
        Step::Thaw,
        state,
        Step::Freeze,
        Step::KillAll,
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    assert!(answers[3].out.contains(frozen), "{:?}", answers[3]);
    assert!(answers[5].out.contains(thawed), "{:?}", answers[5]);
    assert_eq!(answers[8].code, 137, "{answers:?}");
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
    let cache = match layout() {
        Layout::V2 => "\"file\"",
        _ => "\"cache\"",
    };
    assert!(
        stats.contains(cache) && !stats.contains("usage_bytes: 0,"),
        "{stats}"
    );
}

#[test]
fn privileged_the_device_program_is_accepted_by_the_kernel() {
    // Where version 2 stands beside version 1, it owns no controller but takes programs all the same.
    let mount = match layout() {
        Layout::V1 => return,
        Layout::Hybrid => "/sys/fs/cgroup/unified",
        Layout::V2 => "/sys/fs/cgroup",
    };
    let path = format!("{mount}/berth-test-bpf-{}", std::process::id());
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
