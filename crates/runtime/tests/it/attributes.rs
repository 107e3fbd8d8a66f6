//! How a process is scheduled, where its memory comes from, on which processors it runs, its labels.

use serde_json::{Value, json};

use crate::kit::{Answer, Container, Step, Streaming, process};

/// Nice value, real-time priority and policy of a process that the scheduler is set for.
fn scheduled(scheduler: Value) -> Vec<String> {
    let mut container =
        Container::new(&["/bin/cat", "/proc/self/stat"]).set("/process/scheduler", scheduler);
    // Whether a group has real-time budget is the host's matter.
    container.spec["linux"]
        .as_object_mut()
        .unwrap()
        .remove("cgroupsPath");
    container.spec["linux"]
        .as_object_mut()
        .unwrap()
        .remove("resources");
    scheduling(&container.output())
}

/// proc_pid_stat(5) counts from 1; the name may hold blanks.
fn scheduling(stat: &str) -> Vec<String> {
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    [19, 40, 41]
        .map(|field| fields[field - 3].to_owned())
        .to_vec()
}

#[test]
fn privileged_a_process_is_scheduled_as_asked() {
    for (scheduler, expected) in [
        (json!({"policy": "SCHED_OTHER", "nice": 7}), ["7", "0", "0"]),
        (
            json!({"policy": "SCHED_BATCH", "nice": -3}),
            ["-3", "0", "3"],
        ),
        (json!({"policy": "SCHED_IDLE"}), ["0", "0", "5"]),
        (
            json!({"policy": "SCHED_FIFO", "priority": 10}),
            ["0", "10", "1"],
        ),
        (
            json!({"policy": "SCHED_RR", "priority": 99, "flags": ["SCHED_RESET_ON_FORK"]}),
            ["0", "99", "2"],
        ),
        (
            json!({"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 100_000_000,
                   "period": 100_000_000}),
            ["0", "0", "6"],
        ),
    ] {
        let found = scheduled(scheduler.clone());
        assert_eq!(found, expected, "{scheduler}");
    }
}

#[test]
fn privileged_input_and_output_have_the_priority_asked_for() {
    for (class, priority, expected) in [
        ("IOPRIO_CLASS_RT", 3, "realtime: prio 3"),
        ("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"),
        ("IOPRIO_CLASS_IDLE", 0, "idle"),
    ] {
        let container = Container::new(&["/bin/busybox", "ionice"]).set(
            "/process/ioPriority",
            json!({"class": class, "priority": priority}),
        );
        assert_eq!(container.output(), expected);
    }
}

#[test]
fn privileged_the_execution_domain_is_the_one_asked_for() {
    for (domain, expected) in [("LINUX", "00000000"), ("LINUX32", "00000008")] {
        let container = Container::new(&["/bin/cat", "/proc/self/personality"])
            .set("/linux/personality", json!({"domain": domain}));
        assert_eq!(container.output(), expected);
    }
}

#[test]
fn privileged_memory_comes_from_the_nodes_asked_for() {
    let first = |policy: Value| {
        let container = Container::sh("head -n 1 /proc/self/numa_maps");
        let line = container.set("/linux/memoryPolicy", policy).output();
        line.split(' ').nth(1).unwrap().to_owned()
    };
    for (policy, expected) in [
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
        (
            json!({"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}),
            "prefer (many):0",
        ),
        (
            json!({"mode": "MPOL_INTERLEAVE", "nodes": "0-0", "flags": ["MPOL_F_STATIC_NODES"]}),
            "interleave=static:0",
        ),
        (
            json!({"mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "0"}),
            "weighted interleave:0",
        ),
    ] {
        let expected = expected.split(' ').next().unwrap();
        assert_eq!(first(policy.clone()), expected, "{policy}");
    }
}

fn executed(change: impl FnOnce(&mut Value), args: &[&str]) -> Answer {
    let mut process = process(args);
    change(&mut process);
    let container = Container::sh("echo ready; read end").with(Streaming::Input);
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Exec(Box::new(process), Streaming::Pipes, None),
        Step::Input("\n".into()),
        Step::Wait,
    ];
    container.script(&steps).unwrap()[2].clone()
}

/// Of the text of `/proc/PID/status`, as it lists them.
fn processors(status: &str) -> String {
    let line = |line: &str| Some(line.strip_prefix("Cpus_allowed_list:\t")?.to_owned());
    status.lines().find_map(line).unwrap()
}

#[test]
fn privileged_processes_are_not_bound_to_the_processor_of_the_caller() {
    let own = processors(&std::fs::read_to_string("/proc/self/status").unwrap());
    let words = ["/bin/cat", "/proc/self/status"];
    let bound = std::thread::spawn(move || {
        let mut first = rustix::thread::CpuSet::new();
        first.set(0);
        rustix::thread::sched_setaffinity(None, &first).unwrap();
        let here = processors(&std::fs::read_to_string("/proc/thread-self/status").unwrap());
        let another = executed(|_| {}, &words).out;
        [
            here,
            processors(&Container::new(&words).output()),
            processors(&another),
        ]
    });
    assert_eq!(bound.join().unwrap(), ["0", &own, &own]);
}

#[test]
fn privileged_a_process_that_is_executed_runs_on_the_processors_asked_for() {
    let on = |affinity: Value| {
        let answer = executed(
            |process| process["execCPUAffinity"] = affinity,
            &["/bin/grep", "Cpus_allowed_list", "/proc/self/status"],
        );
        assert_eq!(answer.error, None);
        answer
            .out
            .trim_end()
            .rsplit('\t')
            .next()
            .unwrap()
            .to_owned()
    };
    let own = processors(&std::fs::read_to_string("/proc/self/status").unwrap());
    assert_eq!(on(json!({})), own);
    assert_eq!(on(json!({"final": "0"})), "0");
    assert_eq!(on(json!({"initial": "0", "final": own})), own);
    let none = executed(
        |process| process["execCPUAffinity"] = json!({"final": "1000-1023"}),
        &["/bin/true"],
    );
    assert_eq!(
        none.error.as_deref(),
        Some("set process.execCPUAffinity.final: invalid argument")
    );
}

#[test]
fn privileged_the_first_process_runs_where_the_caller_may() {
    // config.md: for the first process the setting means nothing.
    let container = Container::sh("true").set("/process/execCPUAffinity", json!({"final": "1023"}));
    assert_eq!(container.run().code, 0);
}

#[test]
fn privileged_a_process_that_is_executed_is_scheduled_too() {
    let answer = executed(
        |process| process["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 4}),
        &["/bin/cat", "/proc/self/stat"],
    );
    assert_eq!(scheduling(&answer.out), ["4", "0", "3"]);
}

#[test]
fn privileged_without_the_rights_the_kernel_says_no_and_nothing_is_left() {
    // Two nodes that do not exist.
    let container = Container::sh("true").set(
        "/linux/memoryPolicy",
        json!({"mode": "MPOL_BIND", "nodes": "1022,1023"}),
    );
    assert_eq!(
        container.script(&[]).unwrap_err(),
        "set linux.memoryPolicy: invalid argument"
    );
}

fn apparmor(profile: &str, script: &str) -> Container {
    Container::sh(script).set("/process/apparmorProfile", json!(profile))
}

#[test]
fn privileged_a_profile_of_apparmor_is_applied_or_refused() {
    let container = apparmor("berth-none", "true");
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
    if enabled.is_ok_and(|text| text.starts_with(b"Y")) {
        let answers = container.script(&[Step::Start, Step::Wait]).unwrap();
        assert_eq!(
            answers[0].error.as_deref(),
            Some("apply the AppArmor profile `berth-none`: no such file or directory")
        );
        let free = apparmor("unconfined", "cat /proc/self/attr/current");
        assert_eq!(free.output(), "unconfined");
        let loaded = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles");
        // In the guest of `guest::slow_profiles_of_apparmor_are_put_on` it is.
        if loaded.is_ok_and(|loaded| loaded.contains("berth-test")) {
            let script = "cat /proc/self/attr/current; cat /secret || echo denied";
            let confined =
                apparmor("berth-test", script).set("/process/user", json!({"uid": 33, "gid": 33}));
            std::fs::write(confined.file("/secret"), "secret").unwrap();
            assert_eq!(confined.output(), "berth-test (enforce)\ndenied");
            the_image_does_not_get_the_profile();
        }
    } else {
        assert_eq!(
            container.script(&[]).unwrap_err(),
            "invalid specification: process.apparmorProfile: `berth-none` cannot be applied: \
             AppArmor is not enabled on this host"
        );
        // Which everything is without AppArmor.
        assert_eq!(apparmor("unconfined", "true").run().code, 0);
    }
}

/// CVE-2025-62596: a label goes to the kernel, not to a file that the image brings of that name.
fn the_image_does_not_get_the_profile() {
    let mut confined = apparmor("berth-test", "cat /real/self/attr/current").add(
        "/mounts",
        json!({"destination": "/real", "type": "proc", "source": "proc"}),
    );
    confined.directory = true;
    let mounts = confined.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/proc");
    confined.spec["linux"]["maskedPaths"] = json!([]);
    confined.spec["linux"]["readonlyPaths"] = json!([]);
    let fakes = ["self", "thread-self", "1"].map(|process| {
        ["attr/exec", "attr/apparmor/exec"].map(|file| {
            let fake = confined.file("/proc").join(process).join(file);
            std::fs::create_dir_all(fake.parent().unwrap()).unwrap();
            std::fs::write(&fake, "fake").unwrap();
            fake
        })
    });
    assert_eq!(confined.output(), "berth-test (enforce)");
    for fake in fakes.iter().flatten() {
        assert_eq!(std::fs::read(fake).unwrap(), b"fake");
    }
}

#[test]
fn privileged_labels_of_selinux_are_applied_or_refused() {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        let container = Container::sh("cat /proc/self/attr/current");
        let container = container.set("/process/selinuxLabel", json!("no:such:label"));
        let answers = container.script(&[Step::Start, Step::Wait]).unwrap();
        match &answers[0].error {
            Some(said) => {
                assert_eq!(
                    said,
                    "apply the SELinux label `no:such:label`: invalid argument"
                );
            }
            // A kernel without a policy takes every label for its own.
            None => assert_eq!(answers[1].out.trim_end_matches(['\0', '\n']), "kernel"),
        }
        return;
    }
    for (pointer, path) in [
        ("/process/selinuxLabel", "process.selinuxLabel"),
        ("/linux/mountLabel", "linux.mountLabel"),
    ] {
        let container = Container::sh("true").set(pointer, json!("a:b:c"));
        assert_eq!(
            container.script(&[]).unwrap_err(),
            format!(
                "invalid specification: {path}: `a:b:c` cannot be applied: \
                 SELinux is not enabled on this host"
            )
        );
    }
}
