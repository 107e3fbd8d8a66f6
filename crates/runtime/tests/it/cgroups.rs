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
            ("cpu.weight", "59"),
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
    let memory = &stats[stats.find("memory: Memory").unwrap()..];
    assert!(
        memory.contains(cache) && !memory.starts_with("memory: Memory { usage_bytes: 0,"),
        "{stats}"
    );
    // Version 1 counts by processor, version 2 what was waited for.
    let special = match layout() {
        Layout::V2 => "pressure: Pressures { cpu: Some(",
        _ => "per_cpu_user_nanos: [",
    };
    assert!(
        stats.contains(special) && stats.contains("cpus: \"0"),
        "{stats}"
    );
}

/// The controllers that can limit here.
fn controllers() -> Vec<String> {
    let text = match layout() {
        Layout::V2 => std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap(),
        // The last field but two of a mount is its options, the controllers among them.
        _ => {
            let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
            let hierarchies = mounts.lines().filter(|line| line.contains(" cgroup rw,"));
            let options =
                hierarchies.map(|line| line.rsplit(' ').nth(2).unwrap().replace(',', " "));
            options.collect::<Vec<_>>().join(" ")
        }
    };
    text.split_whitespace().map(str::to_owned).collect()
}

/// Why a container with these limits is not made.
fn refused(resources: serde_json::Value) -> String {
    let container = Container::sh("true").set("/linux/resources", resources);
    container.script(&[Step::Start, Step::Wait]).unwrap_err()
}

#[test]
fn privileged_limits_of_rarer_controllers_are_set_or_the_missing_one_is_named() {
    let network = json!({"network": {"classID": 1_048_577}});
    for (controller, limit, resources, v1, v2) in [
        (
            "hugetlb",
            "the huge page limit",
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}),
            Some(("hugetlb.2MB.limit_in_bytes", "4194304")),
            Some(("hugetlb.2MB.max", "4194304")),
        ),
        (
            "net_cls",
            "the network class",
            network,
            Some(("net_cls.classid", "1048577")),
            None,
        ),
        (
            "misc",
            "the unified limits",
            json!({"unified": {"misc.max": "nothing 1"}}),
            None,
            None,
        ),
    ] {
        let expected = if layout() == Layout::V2 { v2 } else { v1 };
        match expected {
            Some(expected) if controllers().iter().any(|name| name == controller) => {
                check(resources, &[expected], &[expected]);
            }
            Some(_) => assert_eq!(
                refused(resources),
                format!(
                    "prepare the cgroup: the kernel's `{controller}` cgroup controller is not \
                     available, needed for {limit}"
                )
            ),
            // Only the other version has it, or there is no such thing.
            None => {
                let said = refused(resources);
                assert!(said.starts_with("prepare the cgroup: "), "{said}");
            }
        }
    }
}

#[test]
fn privileged_block_devices_are_throttled_and_weighed() {
    let device = std::fs::read_dir("/sys/block").unwrap().next().unwrap();
    let device = std::fs::read_to_string(device.unwrap().path().join("dev")).unwrap();
    let device = device.trim();
    let (major, minor) = device.split_once(':').unwrap();
    let (major, minor): (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
    let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let one = |number: u64| format!("{device} {number}");
    check(
        json!({"blockIO": {"weight": 500,
            "throttleReadBpsDevice": rate(1_048_576), "throttleWriteBpsDevice": rate(2_097_152),
            "throttleReadIOPSDevice": rate(100), "throttleWriteIOPSDevice": rate(200)}}),
        &[
            ("blkio.throttle.read_bps_device", &one(1_048_576)),
            ("blkio.throttle.write_bps_device", &one(2_097_152)),
            ("blkio.throttle.read_iops_device", &one(100)),
            ("blkio.throttle.write_iops_device", &one(200)),
            ("blkio.bfq.weight", "500"),
        ],
        &[
            (
                "io.max",
                &format!("{device} rbps=1048576 wbps=2097152 riops=100 wiops=200"),
            ),
            ("io.bfq.weight", "default 500"),
        ],
    );
    let said = refused(json!({"blockIO": {"throttleReadBpsDevice":
        [{"major": 4095, "minor": 7, "rate": 1}]}}));
    assert!(
        said.contains("4095:7") && said.ends_with("no such device"),
        "{said}"
    );
}

#[test]
fn privileged_a_version_2_file_can_be_named_where_there_is_only_version_2() {
    let resources = json!({"unified": {"memory.high": "33554432", "pids.max": "9"}});
    if layout() == Layout::V2 {
        check(
            resources,
            &[],
            &[("memory.high", "33554432"), ("pids.max", "9")],
        );
        let said = refused(json!({"unified": {"memory.nothing": "1"}}));
        assert_eq!(
            said,
            "prepare the cgroup: the kernel's `memory` cgroup controller has no `memory.nothing`, \
             needed for the unified limits"
        );
    } else {
        assert_eq!(
            refused(resources),
            "prepare the cgroup: invalid configuration: the unified limit `memory.high` cannot be set: \
             cgroup version 2 is not mounted alone here"
        );
    }
}

#[test]
fn privileged_less_memory_than_is_used_is_refused_if_the_caller_asks() {
    let container =
        Container::sh("head -c 20m /dev/zero > /dev/shm/x; echo ready; exec sleep 1000");
    let less = |check: bool| {
        Step::Update(json!({"memory": {"limit": 8_388_608, "checkBeforeUpdate": check}}))
    };
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        less(true),
        Step::Update(json!({"memory": {"limit": 67_108_864, "checkBeforeUpdate": true}})),
        Step::KillAll,
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    let said = answers[2].error.as_deref().unwrap();
    assert!(
        said.starts_with("the memory limit 8388608 is below what is in use: "),
        "{said}"
    );
    assert_eq!(answers[3].error, None);
}

#[test]
fn privileged_the_oom_killer_can_be_switched_off_on_version_1() {
    let resources = json!({"memory": {"limit": 67_108_864, "disableOOMKiller": true}});
    if layout() == Layout::V2 {
        let said = refused(resources);
        assert!(said.contains("only cgroup version 1 has it"), "{said}");
    } else {
        let found = &files(resources, &["memory.oom_control"])[0];
        assert!(found.starts_with("oom_kill_disable 1"), "{found}");
    }
}

/// Not a test of its own: what an ordinary user gets, told to [`an_ordinary_user`].
#[test]
fn ordinary() {
    let Ok(path) = std::env::var(ORDINARY) else {
        return;
    };
    let limit: runtime::oci::LinuxResources =
        serde_json::from_value(json!({"pids": {"limit": 5}})).unwrap();
    for resources in [None, Some(&limit)] {
        let made = runtime::cgroup::Cgroup::create(&path, resources);
        match made {
            Ok(Some(cgroup)) => {
                let stats = cgroup.stats().unwrap();
                println!("> made, limit {:?}", stats.pids.limit);
                cgroup.remove().unwrap();
            }
            Ok(None) => println!("> none"),
            Err(error) => println!("> {}", vocab::failure::chain(&error)),
        }
    }
}

const ORDINARY: &str = "BERTH_RUNTIME_TEST_ORDINARY";

/// What [`ordinary`] says about a cgroup at `path`, run as user 4321.
fn an_ordinary_user(path: &str) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The build directory may be closed to others.
    let program = dir.path().join("it");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "this very program, as another user"
    )]
    let mut ordinary = std::process::Command::new(program);
    let output = ordinary
        .args(["--exact", "cgroups::ordinary", "--nocapture"])
        .env(ORDINARY, path)
        .uid(4321)
        .gid(4321)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let lines = said.lines().filter_map(|line| line.strip_prefix("> "));
    lines.map(str::to_owned).collect()
}

#[test]
fn privileged_an_ordinary_user_has_no_cgroup_unless_it_was_delegated() {
    let name = testkit::unique("berth-test-ordinary");
    let said = an_ordinary_user(&format!("/{name}"));
    assert_eq!(said[0], "none");
    assert!(said[1].ends_with(": permission denied"), "{said:?}");

    if layout() == Layout::V2 {
        let delegated = format!("/sys/fs/cgroup/{name}");
        std::fs::create_dir(&delegated).unwrap();
        std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+pids").unwrap();
        for file in [
            "",
            "/cgroup.procs",
            "/cgroup.subtree_control",
            "/cgroup.threads",
        ] {
            std::os::unix::fs::chown(format!("{delegated}{file}"), Some(4321), Some(4321)).unwrap();
        }
        let said = an_ordinary_user(&format!("/{name}/mine"));
        std::fs::remove_dir(&delegated).unwrap();
        assert_eq!(said, ["made, limit None", "made, limit Some(5)"]);
    }
}

#[test]
fn privileged_the_device_program_is_accepted_by_the_kernel() {
    // Where version 2 stands beside version 1, it owns no controller but takes programs all the same.
    let mount = match layout() {
        Layout::V1 => return,
        Layout::Hybrid => "/sys/fs/cgroup/unified",
        Layout::V2 => "/sys/fs/cgroup",
    };
    let path = format!("{mount}/{}", testkit::unique("berth-test-bpf"));
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
