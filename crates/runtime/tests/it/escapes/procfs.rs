//! The `/proc` of a container is what masks, kernel parameters and labels rely on: it must be the
//! kernel's, and stay so while it is relied on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use super::{bind, mounts, names, outside, refusals, while_exchanging, without_mounts};
use crate::kit::{Container, Step};

fn refused(container: &Container) -> String {
    container
        .script(&[Step::Start, Step::Wait])
        .expect_err("it was created")
}

/// CVE-2019-16884: an image with `VOLUME /proc` had the volume mounted over `/proc`, and the label
/// of the security module was written to a file of the volume.
///
/// Taken out: `spare_proc` and the check in `plan::mount`. Seen: the container was created.
#[test]
fn privileged_nothing_but_a_procfs_is_mounted_at_proc() {
    let tmpfs = json!({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"});
    assert_eq!(
        refused(&Container::sh("true").add("/mounts", tmpfs)),
        "invalid specification: mounts[7].destination: only a procfs can be mounted at `/proc`"
    );
    let container = Container::sh("true");
    let volume = container.dir.path().join("volume");
    fs::create_dir_all(volume.join("self/attr")).unwrap();
    let refusal = refused(&container.add("/mounts", bind(&volume, "/proc")));
    let why = "only a procfs can be mounted at `/proc`";
    assert_eq!(
        refusal,
        format!("bind `{}` to `/proc`: {why}", volume.display())
    );
    // Nor a piece of one.
    let refusal =
        refused(&Container::sh("true").add("/mounts", bind("/proc/self".as_ref(), "/proc")));
    assert_eq!(refusal, format!("bind `/proc/self` to `/proc`: {why}"));
    // The host's own is somebody's wish, and no deceit.
    let host = Container::sh("readlink /proc/1/exe >/dev/null; echo $?");
    let host = host.add("/mounts", bind("/proc".as_ref(), "/proc"));
    assert_eq!(host.output().lines().count(), 1);
}

/// CVE-2019-16884 again, by a link of the image instead of by the specification; and what
/// CVE-2025-52881 adds to it: that what is brought may be a file of a procfs itself.
///
/// Taken out: `spare_proc`. Seen: the containers were created.
#[test]
fn privileged_links_of_the_image_lead_no_mount_into_proc() {
    let linked = |mount: Value| {
        let container = Container::sh("true");
        symlink("/proc/1", container.file("/link")).unwrap();
        symlink("/proc", container.file("/root-of-proc")).unwrap();
        refused(&container.add("/mounts", mount))
    };
    let tmp = std::env::temp_dir();
    for (source, destination) in [
        (tmp.as_path(), "/link/attr"),
        (tmp.as_path(), "/root-of-proc"),
        (Path::new("/proc/self/sched"), "/link/attr/exec"),
    ] {
        let wanted = format!("bind `{}` to `{destination}`", source.display());
        assert_eq!(
            linked(bind(source, destination)),
            format!("{wanted}: the destination leads into /proc")
        );
    }
    for kind in ["tmpfs", "cgroup"] {
        let refusal = linked(json!({"destination": "/root-of-proc", "type": kind, "source": kind}));
        assert!(
            refusal.ends_with("the destination leads into /proc"),
            "{refusal}"
        );
    }
}

/// CVE-2023-27561: `/proc` or `/sys` is a link in the image, so that the file system is mounted
/// where the image wants it and the masks are not.
///
/// Taken out: `NO_SYMLINKS` in `view::new`. Seen: the containers were created.
#[test]
fn privileged_proc_and_sys_of_the_image_may_not_be_links() {
    for place in ["/proc", "/sys"] {
        let container = Container::sh("true");
        fs::remove_dir(container.file(place)).unwrap();
        symlink("/tmp", container.file(place)).unwrap();
        let refusal = refused(&container);
        assert!(
            refusal.contains(&format!("at `{place}`: prepare the mount point")),
            "{refusal}"
        );
    }
}

/// Masks and read-only paths on the procfs of a container, from outside.
fn protections(mountinfo: &str) -> usize {
    let mounts = mounts(mountinfo);
    let procfs = mounts
        .iter()
        .find(|mount| mount.kind == "proc" && mount.root == "/")
        .expect("no procfs");
    mounts
        .iter()
        .filter(|mount| mount.parent == procfs.id)
        .count()
}

/// CVE-2019-19921: two containers share a root (a volume that holds it). The second exchanges the
/// directory `proc` of the first for one of its own after procfs was mounted there: masks are
/// made in the wrong one, and are gone once the names are exchanged again. CVE-2025-52881: kernel
/// parameters are written into it as well.
///
/// Taken out: `Root::within` in `hide::find`. Seen: a procfs at `/fake`, and nothing mounted on it.
/// Taken out: `private_proc` in `hide::write_parameters`, for the root's own `/proc`. Seen: starts
/// that failed, since the parameter's path was gone.
#[test]
fn privileged_a_proc_that_is_exchanged_meanwhile_is_protected_all_the_same() {
    let mut container = Container::new(&["/bin/sleep", "1000"])
        .set("/linux/sysctl", json!({"kernel.shm_rmid_forced": "1"}));
    container.directory = true;
    let steps = [
        Step::Start,
        Step::Read("/proc/{pid}/mountinfo".into()),
        Step::Signal(9),
        Step::Wait,
    ];
    let undisturbed = container.script(&steps).unwrap();
    let wanted = protections(&undisturbed[1].out);
    assert!(wanted > 5, "{undisturbed:?}");

    let parameter = container.file("/fake/sys/kernel/shm_rmid_forced");
    fs::create_dir_all(parameter.parent().unwrap()).unwrap();
    fs::write(&parameter, "0\n").unwrap();
    let (real, fake) = (container.file("/proc"), container.file("/fake"));
    let outcomes = while_exchanging(&real, &fake, || container.repeat(40, &steps));
    assert_eq!(refusals(&outcomes), [""; 0]);
    for answers in outcomes.iter().flatten() {
        assert_eq!(protections(&answers[1].out), wanted, "{}", answers[1].out);
    }
    let written: Vec<String> = ["/proc", "/fake"]
        .iter()
        .filter_map(|at| {
            fs::read_to_string(container.file(at).join("sys/kernel/shm_rmid_forced")).ok()
        })
        .collect();
    assert_eq!(written, ["0\n"]);
}

/// CVE-2025-52881 without a race: there is no procfs, and the image brings files of the same names.
///
/// Taken out: `private_proc` in `hide::write_parameters`, for the root's own `/proc`. Seen: `1` in
/// the file of the image, 0 in the kernel.
#[test]
fn privileged_kernel_parameters_are_not_written_to_files_of_the_image() {
    let mut container = Container::sh("cat /real/sys/kernel/shm_rmid_forced");
    container.directory = true;
    let container = without_mounts(container, &["/proc"])
        .add(
            "/mounts",
            json!({"destination": "/real", "type": "proc", "source": "proc"}),
        )
        .set("/linux/sysctl", json!({"kernel.shm_rmid_forced": "1"}))
        .set("/linux/maskedPaths", json!([]));
    let fake = container.file("/proc/sys/kernel/shm_rmid_forced");
    fs::create_dir_all(fake.parent().unwrap()).unwrap();
    fs::write(&fake, "fake\n").unwrap();
    assert_eq!(container.output(), "1");
    assert_eq!(fs::read_to_string(fake).unwrap(), "fake\n");
}

/// What a container could use to run a program on the host is read-only, masked or absent.
///
/// Taken out: `hide::make_readonly` and `ro` of the cgroup mounts. Seen: `core_pattern`,
/// `panic_on_oom` and `default_smp_affinity` were writable, cgroups could be made.
#[test]
fn privileged_the_kernels_handles_are_out_of_reach() {
    let script = "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe \
                  /proc/sysrq-trigger /proc/sys/vm/panic_on_oom /proc/irq/default_smp_affinity \
                  /sys/kernel/uevent_helper; do ( : >> $f ) 2>/dev/null && echo writable $f; done; \
                  for m in cgroup cgroup2 proc sysfs; do mount -t $m x /tmp 2>/dev/null && echo $m; done; \
                  mount -o remount,rw /proc/sys 2>/dev/null && echo remounted; \
                  for d in /sys/fs/cgroup /sys/fs/cgroup/*; do \
                  mkdir $d/x 2>/dev/null && echo made $d; \
                  test -e $d/release_agent && echo release_agent in $d; done; true";
    assert_eq!(Container::sh(script).output(), "");
}

/// CVE-2023-25809: without a cgroup namespace of its own the container saw the host's hierarchy,
/// and `ro` of its mounts was forgotten on the way.
///
/// Taken out: `apply` in `view::cgroups`. Seen: cgroups could be made, limits written.
#[test]
fn privileged_cgroups_are_read_only_without_a_namespace_too() {
    let script = "cd /sys/fs/cgroup; for d in . *; do \
                  mkdir $d/x 2>/dev/null && echo made $d; \
                  for f in $d/cgroup.procs $d/pids.max $d/notify_on_release; do \
                  test -e $f && ( : >> $f ) 2>/dev/null && echo writable $f; done; done; \
                  test -e cgroup.procs -o -e pids/cgroup.procs && echo there";
    let shared = json!([{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"},
                        {"type": "network"}]);
    for container in [
        Container::sh(script),
        Container::sh(script).set("/linux/namespaces", shared),
    ] {
        assert_eq!(container.output(), "there");
    }
}

/// Links in masked paths stay inside: what the image points to elsewhere is not the host's.
///
/// Taken out: `IN_ROOT` in `inside::open`. Seen: the 16 bytes of the file.
#[test]
fn privileged_a_mask_follows_links_inside_the_root_only() {
    let container = Container::sh("wc -c < /etc/secret; ls /outside");
    let outside = outside(&container);
    fs::write(outside.join("secret"), "of the host").unwrap();
    let inside = container.file(outside.to_str().unwrap());
    fs::create_dir_all(&inside).unwrap();
    fs::write(inside.join("secret"), "of the container").unwrap();
    symlink(outside.join("secret"), container.file("/etc/secret")).unwrap();
    symlink(&outside, container.file("/outside")).unwrap();
    let container = container.set("/linux/maskedPaths", json!(["/etc/secret"]));
    assert_eq!(container.output(), "0\nsecret");
    assert_eq!(names(&outside), ["secret"]);
}
