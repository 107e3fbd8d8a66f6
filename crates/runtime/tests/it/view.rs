//! What the container sees: its root, mounts, devices, hidden paths, namespaces.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::kit::{Container, Step};

#[test]
fn privileged_the_root_is_an_overlay_and_writes_go_to_its_upper_layer() {
    let container = Container::sh("echo changed > /etc/passwd; grep ' / ' /proc/self/mountinfo");
    let out = container.output();
    assert!(out.contains(" - overlay overlay rw"), "{out}");
    let lower = fs::read_to_string(container.file("/etc/passwd")).unwrap();
    assert!(lower.starts_with("root:"));
    let upper = container.dir.path().join("upper/etc/passwd");
    assert_eq!(fs::read_to_string(upper).unwrap(), "changed\n");
}

#[test]
fn privileged_a_directory_can_be_the_root() {
    let mut container = Container::sh("echo x > /made; ls /.old /oldroot 2>/dev/null; cat /made");
    container.directory = true;
    assert_eq!(container.output(), "x");
    assert!(container.file("/made").exists());
}

#[test]
fn privileged_nothing_of_the_host_is_mounted() {
    let out = Container::sh("cat /proc/self/mountinfo").output();
    // Mount points, without those that hide or protect.
    let mut points: Vec<&str> = out
        .lines()
        .map(|line| line.split(' ').nth(4).unwrap())
        .collect();
    points.retain(|point| !point.starts_with("/proc/") && !point.starts_with("/sys/"));
    assert_eq!(
        points,
        [
            "/",
            "/proc",
            "/dev",
            "/dev/pts",
            "/sys",
            "/dev/mqueue",
            "/dev/shm"
        ]
    );
    assert!(!out.contains("shared:"), "{out}");
}

#[test]
fn privileged_a_read_only_root_is_read_only_but_for_its_mounts() {
    let script = "touch /x 2>&1; touch /etc/x 2>&1; touch /dev/shm/x && echo writable";
    let container = Container::sh(script).set("/root/readonly", json!(true));
    assert_eq!(
        container.output(),
        "touch: /x: Read-only file system\ntouch: /etc/x: Read-only file system\nwritable"
    );
}

#[test]
fn privileged_namespaces_are_the_containers_own() {
    let script = "for n in mnt uts ipc pid net cgroup; do readlink /proc/self/ns/$n; done";
    let inside = Container::sh(script).output();
    let kinds = ["mnt", "uts", "ipc", "pid", "net", "cgroup"];
    for (line, kind) in inside.lines().zip(kinds) {
        let own = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(line, own.to_str().unwrap());
    }
    assert_eq!(
        // Not piped: whether `ps` sees the other end of a pipe is chance.
        Container::sh("ip -o link | wc -l; ps > /ps; wc -l < /ps").output(),
        "1\n3"
    );
}

#[test]
fn privileged_namespaces_that_are_not_listed_are_the_hosts() {
    let container = Container::sh("readlink /proc/self/ns/net; readlink /proc/self/ns/uts").set(
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}]),
    );
    let container = container.without("hostname");
    let own = ["net", "uts"].map(|kind| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap());
    let out = container.output();
    assert_eq!(
        out.lines().collect::<Vec<_>>(),
        own.map(|o| o.to_str().unwrap().to_owned())
    );
}

#[test]
fn privileged_a_network_namespace_can_be_given() {
    // The namespace of another container that runs: by path, and by descriptor.
    let first = Container::sh("echo ready; sleep 1000");
    let netns = first.dir.path().join("netns");
    fs::write(&netns, "").unwrap();
    let script = format!("readlink /proc/self/ns/net; : {}", netns.display());
    let other = Container::sh(&script);
    // A namespace lives as long as somebody holds it: here a thread of this test.
    let (given, found) = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::namespace::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
            let path = format!(
                "/proc/self/task/{}/ns/net",
                rustix::thread::gettid().as_raw_nonzero()
            );
            let path = path.replace("self", &std::process::id().to_string());
            let given = fs::read_link(&path).unwrap();
            let answers = other
                .script_in(Some(path.as_ref()), &[Step::Start, Step::Wait])
                .unwrap();
            let by_path = Container::sh("readlink /proc/self/ns/net").set(
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                       {"type": "network", "path": path}]),
            );
            (
                given.to_str().unwrap().to_owned(),
                [answers[1].out.trim().to_owned(), by_path.output()],
            )
        });
        thread.join().unwrap()
    });
    assert_eq!(found, [given.clone(), given]);
}

#[test]
fn privileged_pid_namespaces_can_be_shared() {
    let own = format!("/proc/{}/ns/pid", std::process::id());
    let host = Container::sh("echo $$").set(
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
               {"type": "pid", "path": own}]),
    );
    assert_ne!(host.output(), "1");
}

#[test]
fn privileged_devices_are_there_and_work() {
    let script = "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' $d; done; \
                  head -c 4 zero | wc -c; echo x > null; for l in fd stdin stdout stderr ptmx; do readlink $l; done";
    assert_eq!(
        Container::sh(script).output(),
        "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n4\n\
         /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx"
    );
}

#[test]
fn privileged_a_device_that_was_not_allowed_cannot_be_opened() {
    // mknod itself is allowed, reading is what counts. 1:1 is /dev/mem, 10:200 /dev/net/tun.
    let script = "mknod /dev/x c 10 200 && head -c 1 /dev/x; echo $?";
    let answer = Container::sh(script).run();
    assert!(answer.err.contains("Operation not permitted"), "{answer:?}");
}

#[test]
fn privileged_more_devices_can_be_given() {
    let device = json!({"path": "/dev/net/tun2", "type": "c", "major": 1, "minor": 5,
                        "fileMode": 384, "uid": 33, "gid": 34});
    let container =
        Container::sh("stat -c '%t:%T %a %u %g' /dev/net/tun2; head -c 2 /dev/net/tun2 | wc -c")
            .set("/linux/devices", json!([device]));
    assert_eq!(container.output(), "1:5 600 33 34\n2");
}

#[test]
fn privileged_masked_paths_are_empty_and_stay_so() {
    let script = "wc -c < /proc/interrupts; cat /proc/keys /proc/timer_list 2>/dev/null; \
                  ls /sys/firmware /proc/acpi | wc -l; chmod 0 /proc/interrupts 2>&1; \
                  ls -ld /proc/interrupts | head -c 10; echo x > /proc/interrupts";
    assert_eq!(
        Container::sh(script).output(),
        "0\n3\nchmod: /proc/interrupts: Read-only file system\ncrw-rw-rw-",
        "the two directories print their names and an empty line"
    );
}

#[test]
fn privileged_read_only_paths_cannot_be_written() {
    let script =
        "echo 1 > /proc/sys/kernel/domainname; echo f > /proc/irq/default_smp_affinity; echo end";
    let answer = Container::sh(script).run();
    assert_eq!(
        answer.err.matches("Read-only file system").count(),
        2,
        "{}",
        answer.err
    );
    assert_eq!(answer.out, "end\n");
}

#[test]
fn privileged_kernel_parameters_are_set() {
    let parameters = json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1",
                            "net.ipv4.ping_group_range": "0 7"});
    let container = Container::sh(
        "cd /proc/sys; cat net/ipv4/ip_forward kernel/shm_rmid_forced net/ipv4/ping_group_range",
    )
    .set("/linux/sysctl", parameters);
    assert_eq!(container.output(), "1\n1\n0\t7");
}

#[test]
fn privileged_a_host_directory_can_be_bound() {
    let container = Container::sh("cat /data/deep/file; echo out > /data/new; touch /ro/x 2>&1");
    let host = container.dir.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "from the host").unwrap();
    let container = container
        .add(
            "/mounts",
            json!({"destination": "/data/deep", "type": "bind",
            "source": host.to_str(), "options": ["rbind", "rprivate"]}),
        )
        .add(
            "/mounts",
            json!({"destination": "/ro", "source": host.to_str(),
            "options": ["bind", "ro"]}),
        )
        .set(
            "/process/args",
            json!([
                "/bin/sh",
                "-c",
                "cat /data/deep/file; echo out > /data/deep/new; touch /ro/x 2>&1; true"
            ]),
        );
    assert_eq!(
        container.output(),
        "from the hosttouch: /ro/x: Read-only file system"
    );
    assert_eq!(fs::read_to_string(host.join("new")).unwrap(), "out\n");
}

#[test]
fn privileged_a_host_file_can_be_bound_over_one_that_is_missing() {
    let container = Container::sh("cat /etc/resolv.conf /a/b");
    let file = container.dir.path().join("resolv.conf");
    fs::write(&file, "nameserver ::1\n").unwrap();
    let bind = |destination| {
        json!({"destination": destination, "type": "bind",
        "source": file.to_str(), "options": ["rbind", "rprivate"]})
    };
    let container = container
        .add("/mounts", bind("/etc/resolv.conf"))
        .add("/mounts", bind("/a/b"));
    assert_eq!(container.output(), "nameserver ::1\nnameserver ::1");
}

#[test]
fn privileged_a_recursively_read_only_bind_is_so_below_too() {
    // Something is mounted below the source, for this test's own eyes: in a thread's namespace.
    let out = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::namespace::unshare(
                rustix::thread::UnshareFlags::FS | rustix::thread::UnshareFlags::NEWNS,
            )
            .unwrap();
            use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let container =
                Container::sh("touch /all/below/x 2>&1; touch /top/below/x && echo written");
            let host = container.dir.path().join("host");
            fs::create_dir_all(host.join("below")).unwrap();
            mount(
                "tmpfs",
                host.join("below"),
                "tmpfs",
                MountFlags::empty(),
                None,
            )
            .unwrap();
            let bind = |destination, option| {
                json!({"destination": destination, "type": "bind",
                "source": host.to_str(), "options": ["rbind", option]})
            };
            let container = container
                .add("/mounts", bind("/all", "rro"))
                .add("/mounts", bind("/top", "ro"));
            let answers = container
                .script_unclean(&[Step::Start, Step::Wait])
                .unwrap();
            rustix::mount::unmount(host.join("below"), rustix::mount::UnmountFlags::DETACH)
                .unwrap();
            answers[1].out.clone()
        });
        thread.join().unwrap()
    });
    assert_eq!(out, "touch: /all/below/x: Read-only file system\nwritten\n");
}

#[test]
fn privileged_a_tmpfs_has_its_options_and_can_be_filled() {
    let container =
        Container::sh("stat -f -c %T /t; stat -c %a /t; stat -c '%n %u' /www/*; cat /www/page");
    fs::write(container.file("/var/www/page"), "hello").unwrap();
    std::os::unix::fs::chown(container.file("/var/www/page"), Some(33), None).unwrap();
    let container = container
        .add("/mounts", json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs",
            "options": ["mode=1750", "size=1m", "noexec"]}))
        .add("/mounts", json!({"destination": "/var/www", "type": "tmpfs", "source": "tmpfs",
            "options": ["tmpcopyup", "ro"]}))
        .set("/process/args", json!(["/bin/sh", "-c",
            "stat -f -c %T /t; stat -c %a /t; stat -c '%n %u' /var/www/page; cat /var/www/page; \
             touch /var/www/x 2>&1; grep -c ' /t .*noexec.*size=1024k' /proc/self/mountinfo"]));
    assert_eq!(
        container.output(),
        "tmpfs\n1750\n/var/www/page 33\nhellotouch: /var/www/x: Read-only file system\n1"
    );
}

#[test]
fn privileged_links_of_the_image_do_not_lead_out() {
    let container = Container::sh("ls /evil | head -1; cat /evil/file");
    let host = container.dir.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "bound").unwrap();
    // The mount point is a link to a directory of the host: inside, it is one of the container.
    let outside = container.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, container.file("/evil")).unwrap();
    let container = container.add(
        "/mounts",
        json!({"destination": "/evil", "type": "bind",
        "source": host.to_str(), "options": ["bind"]}),
    );
    assert_eq!(container.output(), "file\nbound");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

#[test]
fn privileged_what_is_mounted_later_on_the_host_is_not_seen() {
    let out = Container::sh("grep -c master /proc/self/mountinfo; true").output();
    assert_eq!(out, "0");
}

#[test]
fn privileged_cgroups_are_seen_from_their_own_root() {
    // Directories are hierarchies of version 1; of version 2 alone there is one, at the mount.
    let script = "cat /proc/self/cgroup | grep -v ':/$'; \
                  for c in /sys/fs/cgroup /sys/fs/cgroup/*; do \
                  test -d $c && mkdir $c/x; done 2>&1 | grep -vc Read-only";
    let answer = Container::sh(script).run();
    assert_eq!(answer.out, "0\n", "{answer:?}");
    assert!(!answer.out.contains("berth-test"), "{answer:?}");
}
