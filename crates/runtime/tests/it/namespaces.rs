//! User, time and joined namespaces: whose ids, clocks and resources a container has.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use serde_json::json;

use crate::kit::{Answer, Container, Step, Streaming, exec_in, process};

/// Where the ids of the containers here begin on the host. Nobody else has them.
const BASE: u32 = 1_640_000_000;

/// With 65536 ids of its own.
fn mapped(container: Container) -> Container {
    let mapping = json!([{"containerID": 0, "hostID": BASE, "size": 65536}]);
    container
        .add("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", mapping.clone())
        .set("/linux/gidMappings", mapping)
}

#[test]
fn privileged_a_user_namespace_has_the_ids_that_are_mapped() {
    let container = mapped(Container::sh(
        "cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g; cat /proc/self/setgroups; \
         grep -E 'Groups|CapEff|CapBnd' /proc/self/status",
    ));
    let out = container.output();
    let map = format!("0 {BASE} 65536");
    let words: Vec<String> = out
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        words,
        [
            &*map,
            &map,
            "0",
            "0",
            "allow",
            "Groups:",
            "CapEff: 00000000a80425fb",
            "CapBnd: 00000000a80425fb"
        ],
    );
}

#[test]
fn privileged_its_root_is_not_the_hosts() {
    // A file of the host that only root may read; and the process, as the host sees it.
    let container = mapped(Container::sh("cat /secret; echo $?; sleep 1000"));
    let secret = container.dir.path().join("secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let container = container.add(
        "/mounts",
        json!({"destination": "/secret", "type": "bind", "source": secret.to_str(),
               "options": ["bind"]}),
    );
    let steps = [
        Step::Start,
        Step::Until("1\n".into()),
        Step::Read("/proc/{pid}/status".into()),
        Step::Signal(9),
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    let status = &answers[2].out;
    let ids = format!("Uid:\t{BASE}\t{BASE}\t{BASE}\t{BASE}");
    assert!(status.contains(&ids), "{status}");
    assert!(answers[4].err.contains("Permission denied"), "{answers:?}");
}

#[test]
fn privileged_its_namespaces_belong_to_it() {
    // Only who owns them may do this.
    let script = "hostname other && hostname; ip link set lo up && cat /sys/class/net/lo/flags; \
                  ls /dev/mqueue /dev/shm; ls -d /proc/1; stat -c %T -f /sys /dev/pts";
    let capabilities = json!(["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
    let container = mapped(Container::sh(script)).set(
        "/process/capabilities",
        json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities}),
    );
    let out = container.output();
    assert!(out.starts_with("other\n0x9\n"), "{out}");
    assert!(out.contains("/proc/1\nsysfs\ndevpts"), "{out}");
}

#[test]
fn privileged_files_of_the_image_keep_their_owners_in_it() {
    let container = mapped(Container::sh(
        "stat -c '%u %g %n' /etc/passwd /var/www/page; echo y > /new; chown 33:34 /new; \
         echo x > /etc/passwd; stat -c '%u %g' /etc/passwd /new; rm /bin/tty; ls /bin/tty 2>&1; true",
    ));
    let page = container.file("/var/www/page");
    fs::write(&page, "").unwrap();
    std::os::unix::fs::chown(&page, Some(33), Some(33)).unwrap();
    link(&container, &["rm", "chown"]);
    assert_eq!(
        container.output(),
        "0 0 /etc/passwd\n33 33 /var/www/page\n0 0\n33 34\nls: /bin/tty: No such file or directory"
    );
    // On disk too: the writable layer can be another image's.
    let upper = container.dir.path().join("upper");
    let ids = |path: &str| {
        let status = fs::metadata(upper.join(path)).unwrap();
        (status.uid(), status.gid())
    };
    assert_eq!([ids("etc/passwd"), ids("new")], [(0, 0), (33, 34)]);
    assert!(container.file("/bin/tty").exists());
}

fn link(container: &Container, applets: &[&str]) {
    let busybox = container.file("/bin/busybox");
    for applet in applets {
        fs::hard_link(&busybox, container.file("/bin").join(applet)).unwrap();
    }
}

#[test]
fn privileged_a_directory_as_the_root_is_taken_with_the_callers_rights() {
    // Nobody but root gets there: the container's root least of all.
    let mut container = mapped(Container::sh(
        "id -u; cat /etc/passwd > /dev/null && echo read",
    ));
    container.directory = true;
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(container.dir.path(), mode).unwrap();
    assert_eq!(container.output(), "0\nread");
}

#[test]
fn privileged_devices_of_a_user_namespace_are_the_hosts() {
    let script = "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' $d; done; \
                  head -c 4 zero | wc -c; echo x > null; mknod /x c 1 3 2>&1; readlink fd; readlink ptmx";
    assert_eq!(
        mapped(Container::sh(script)).output(),
        "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n4\n\
         mknod: /x: Operation not permitted\n/proc/self/fd\npts/ptmx"
    );
}

#[test]
fn privileged_another_user_of_the_user_namespace_has_its_streams_and_terminal() {
    let user = json!({"uid": 33, "gid": 34, "additionalGids": [100, 101]});
    let script = "id -u; id -g; id -G; echo out > /dev/stdout; echo err > /dev/stderr";
    let container = mapped(Container::sh(script)).set("/process/user", user.clone());
    let answer = container.run();
    assert_eq!((answer.code, answer.err.as_str()), (0, "err\n"));
    assert_eq!(answer.out, "33\n34\n34 100 101\nout\n");
    let container = mapped(Container::sh("tty; stat -c %u $(tty); echo x > /dev/tty"))
        .set("/process/user", user)
        .with(Streaming::Terminal(24, 80));
    assert_eq!(container.output().replace('\r', ""), "/dev/pts/0\n33\nx");
}

#[test]
fn privileged_limits_and_the_oom_score_are_set_by_the_caller() {
    let container = mapped(Container::sh(
        "ulimit -n; ulimit -H -n; cat /proc/self/oom_score_adj",
    ))
    .set(
        "/process/rlimits",
        json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]),
    )
    .set("/process/oomScoreAdj", json!(321));
    assert_eq!(container.output(), "100\n200\n321");
}

#[test]
fn privileged_parameters_and_hidden_paths_work_in_a_user_namespace() {
    let container = mapped(Container::sh(
        "cat /proc/sys/net/ipv4/ip_forward; wc -c < /proc/interrupts; ls /proc/acpi | wc -l; \
         echo 1 > /proc/sys/net/ipv4/ip_forward",
    ))
    .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    let answer = container.run();
    assert!(answer.out.starts_with("1\n0\n"), "{answer:?}");
    assert!(answer.err.contains("Read-only file system"), "{answer:?}");
}

#[test]
fn privileged_ids_that_are_not_mapped_are_refused_by_their_path() {
    for (pointer, value, expected) in [
        (
            "/process/user",
            json!({"uid": 65536, "gid": 0}),
            "process.user.uid: user 65536 is not mapped in linux.uidMappings",
        ),
        (
            "/process/user",
            json!({"uid": 0, "gid": 0, "additionalGids": [1, 70000]}),
            "process.user.additionalGids[1]: group 70000 is not mapped in linux.gidMappings",
        ),
        (
            "/mounts",
            json!([{"destination": "/t", "type": "tmpfs", "options": ["uid=70000"]}]),
            "mounts[0].options: `uid=70000`: user 70000 is not mapped in linux.uidMappings",
        ),
    ] {
        let container = mapped(Container::sh("true")).set(pointer, value);
        let said = container
            .script(&[Step::Start])
            .expect_err("it was created");
        assert_eq!(said, format!("invalid specification: {expected}"));
    }
}

#[test]
fn privileged_a_shared_network_or_pid_namespace_shows_through_the_hosts_files() {
    let container = mapped(Container::sh(
        "ls /sys/class/net/lo > /dev/null && echo net; touch /sys/x 2>&1; readlink /proc/self/ns/net",
    ))
    .set(
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
               {"type": "user"}, {"type": "cgroup"}]),
    );
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let own = own.to_str().unwrap();
    let expected = format!("net\ntouch: /sys/x: Read-only file system\n{own}");
    assert_eq!(container.output(), expected);
}

#[test]
fn privileged_clocks_of_a_time_namespace_are_ahead() {
    let uptime = |container: Container| -> f64 {
        let out = container.output();
        out.split_whitespace().next().unwrap().parse().unwrap()
    };
    let plain = uptime(Container::sh("cat /proc/uptime"));
    let offsets = json!({"boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": 7}});
    let ahead = || {
        Container::sh("cat /proc/uptime; cat /proc/self/timens_offsets")
            .add("/linux/namespaces", json!({"type": "time"}))
            .set("/linux/timeOffsets", offsets.clone())
    };
    for container in [ahead(), mapped(ahead())] {
        let out = container.output();
        assert!(out.contains("monotonic           7         0"), "{out}");
        assert!(out.contains("boottime      1000000         5"), "{out}");
        assert!(uptime(container) - plain >= 1_000_000.0);
    }
}

#[test]
fn privileged_an_exec_is_in_user_and_time_namespace() {
    let container = || {
        mapped(Container::sh(""))
            .add("/linux/namespaces", json!({"type": "time"}))
            .set("/linux/timeOffsets", json!({"boottime": {"secs": 1000}}))
    };
    let namespaces = process(&[
        "/bin/sh",
        "-c",
        "for n in mnt uts ipc pid net cgroup user time; do \
         [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] && echo same; done",
    ]);
    let answer = exec_in(container(), namespaces, Streaming::Pipes);
    assert_eq!(answer.out, "same\n".repeat(8), "{answer:?}");

    let mut process = process(&[
        "/bin/sh",
        "-c",
        "id -u; id -G; ulimit -n; echo err > /dev/stderr",
    ]);
    process["user"] = json!({"uid": 33, "gid": 34, "additionalGids": [7]});
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}]);
    let answer = exec_in(container(), process.clone(), Streaming::Pipes);
    assert_eq!(
        (answer.out.as_str(), answer.err.as_str()),
        ("33\n34 7\n64\n", "err\n")
    );
    process["args"] = json!(["/bin/sh", "-c", "tty; stat -c %u $(tty)"]);
    let answer = exec_in(container(), process, Streaming::Terminal(24, 80));
    assert_eq!(answer.out.replace('\r', ""), "/dev/pts/0\n33\n");
}

/// Runs `sh -c script` beside a container that sleeps, in its namespaces `joined` and in new ones
/// of the other kinds; both have user namespaces if `user`. Gives the answer and the links of the
/// first one's namespaces.
fn beside(first: Container, other: &Container, joined: &[&str]) -> (Answer, String) {
    let first = first.set(
        "/process/args",
        json!([
            "/bin/sh",
            "-c",
            "for n in mnt uts ipc pid net cgroup user time; do readlink /proc/self/ns/$n; done; \
             echo ready; exec sleep 1000"
        ]),
    );
    let mut spec = other.spec.clone();
    spec["linux"]
        .as_object_mut()
        .unwrap()
        .retain(|key, _| key != "cgroupsPath" && key != "resources");
    for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
        let kind = namespace["type"].as_str().unwrap();
        if joined.contains(&kind) {
            let file = match kind {
                "mount" => "mnt",
                "network" => "net",
                other => other,
            };
            namespace["path"] = json!(format!("/proc/{{pid}}/ns/{file}"));
        }
    }
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Beside(Box::new(spec)),
        Step::Signal(9),
        Step::Wait,
    ];
    let answers = first.script(&steps).unwrap();
    (answers[2].clone(), answers[1].out.clone())
}

/// The kinds, in the order in which [`beside`] and [`SHOW`] print them.
const KINDS: [&str; 8] = [
    "mount", "uts", "ipc", "pid", "network", "cgroup", "user", "time",
];

const SHOW: &str =
    "for n in mnt uts ipc pid net cgroup user time; do readlink /proc/self/ns/$n; done";

/// That exactly `joined` are those of the first container.
#[track_caller]
fn check_joined(user: bool, joined: &[&str]) {
    let make = |script: &str| {
        let container = Container::sh(script).add("/linux/namespaces", json!({"type": "time"}));
        if user { mapped(container) } else { container }
    };
    let mut other = make(SHOW);
    if joined.contains(&"user") {
        // The mapping is the one that the namespace has; it need not be said again.
        let linux = other.spec["linux"].as_object_mut().unwrap();
        linux.retain(|key, _| !key.ends_with("Mappings"));
    }
    if joined.contains(&"network") && !joined.contains(&"user") {
        // It would show a network that is not its user namespace's.
        let mounts = other.spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/sys"));
    }
    if joined.contains(&"uts") {
        other = other.without("hostname");
    }
    let (answer, first) = beside(make(""), &other, joined);
    assert_eq!(answer.code, 0, "{answer:?}");
    let same: Vec<&str> = KINDS
        .into_iter()
        .zip(first.lines().zip(answer.out.lines()))
        .filter(|(kind, (first, other))| first == other && (user || *kind != "user"))
        .map(|(kind, _)| kind)
        .collect();
    let expected: Vec<&str> = KINDS
        .into_iter()
        .filter(|kind| joined.contains(kind))
        .collect();
    assert_eq!(same, expected, "{answer:?}\n{first}");
}

#[test]
fn privileged_each_kind_of_namespace_can_be_joined_by_path() {
    for kind in ["uts", "ipc", "pid", "network", "cgroup", "time"] {
        check_joined(false, &[kind]);
    }
    check_joined(false, &["uts", "ipc", "pid", "network", "cgroup", "time"]);
}

#[test]
fn privileged_a_user_namespace_can_be_joined_with_what_belongs_to_it() {
    check_joined(true, &["user"]);
    check_joined(true, &["user", "network"]);
    check_joined(true, &["user", "pid", "ipc"]);
    check_joined(
        true,
        &["user", "uts", "ipc", "pid", "network", "cgroup", "time"],
    );
}

#[test]
fn privileged_a_new_user_namespace_can_meet_namespaces_that_are_not_its_own() {
    check_joined(true, &["network"]);
    check_joined(true, &["time", "uts"]);
}

#[test]
fn privileged_what_shows_another_user_namespaces_resources_says_why_it_cannot() {
    let joining = |kind: &'static str| {
        let other = mapped(Container::sh("true"));
        let (answer, _) = beside(mapped(Container::sh("")), &other, &[kind]);
        answer.error.unwrap()
    };
    assert_eq!(
        joining("network"),
        "mount `sysfs` at `/sys` (the network namespace that it shows must belong to the \
         container's user namespace): operation not permitted"
    );
    assert_eq!(
        joining("pid"),
        "mount `proc` at `/proc` (the pid namespace that it shows must belong to the \
         container's user namespace): operation not permitted"
    );
}

#[test]
fn privileged_a_mount_namespace_can_be_given() {
    // A thread holds it; what runs the container is not in it, and keeps its own view.
    let (tell, told) = std::sync::mpsc::channel();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let holder = std::thread::spawn(move || {
        use rustix::thread::UnshareFlags;
        sys::namespace::unshare(UnshareFlags::FS | UnshareFlags::NEWNS).unwrap();
        let (pid, tid) = (std::process::id(), rustix::thread::gettid());
        let path = format!("/proc/{pid}/task/{}/ns/mnt", tid.as_raw_nonzero());
        tell.send(path).unwrap();
        // The end of the test is its end.
        let _ = wait.recv();
    });
    let path = told.recv().unwrap();
    let container = Container::sh("cat /etc/passwd | wc -l; readlink /proc/self/ns/mnt").set(
        "/linux/namespaces",
        json!([{"type": "mount", "path": path}, {"type": "pid"}, {"type": "ipc"},
               {"type": "uts"}, {"type": "network"}]),
    );
    let given = fs::read_link(&path).unwrap();
    assert_eq!(
        container.output(),
        format!("2\n{}", given.to_str().unwrap())
    );
    drop(done);
    holder.join().unwrap();
}

#[test]
fn privileged_a_joined_user_namespace_has_the_mapping_that_is_said() {
    let other = mapped(Container::sh("id -u"));
    let (answer, _) = beside(mapped(Container::sh("")), &other, &["user"]);
    assert_eq!((answer.out.as_str(), answer.code), ("0\n", 0));
    let mapping = json!([{"containerID": 0, "hostID": BASE, "size": 3}]);
    let other = other.set("/linux/uidMappings", mapping);
    let (answer, _) = beside(mapped(Container::sh("")), &other, &["user"]);
    assert_eq!(
        answer.error.as_deref(),
        Some(
            "linux.namespaces: the user namespace that is joined has another mapping than \
             linux.uidMappings and linux.gidMappings say"
        )
    );
}
