//! Mount points, device nodes and directories are made in a root that the image, or another
//! container, decides about: none of it is made, mounted or changed elsewhere.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::json;

use super::{
    bind, mounts, names, outside, refusals, while_exchanging, while_exchanging_at,
    with_dev_of_the_image,
};
use crate::kit::{Container, Step};

/// CVE-2021-30465, CVE-2024-45310: another container that shares a volume exchanges a directory in
/// it for a link to the host, while below it a mount point, a device and the working directory are
/// made (CVE-2026-55686): directories and files appeared on the host, and the mount went there.
///
/// Taken out: `IN_ROOT` in `inside::open`, so that links are followed as the host would. Seen:
/// `outside` had `deep`, `node` and `work` in it, and the container lacked its mount.
#[test]
fn privileged_a_directory_exchanged_for_a_link_leads_nowhere() {
    let mut container = Container::new(&["/bin/sleep", "1000"]);
    container.directory = true;
    let outside = outside(&container);
    let path = container.dir.path();
    let (volume, data) = (path.join("volume"), path.join("data"));
    fs::create_dir_all(volume.join("a")).unwrap();
    fs::create_dir(&data).unwrap();
    symlink(&outside, volume.join("link")).unwrap();
    let container = container
        .add("/mounts", bind(&volume, "/volume"))
        .add("/mounts", bind(&data, "/volume/a/deep/data"))
        .set("/process/cwd", json!("/volume/a/work"))
        .set(
            "/linux/devices",
            json!([{"path": "/volume/a/node", "type": "c", "major": 1, "minor": 3}]),
        );
    let steps = [
        Step::Start,
        Step::Read("/proc/{pid}/mountinfo".into()),
        Step::Signal(9),
        Step::Wait,
    ];
    let (a, link) = (volume.join("a"), volume.join("link"));
    let outcomes = while_exchanging(&a, &link, || container.repeat(40, &steps));
    assert_eq!(names(&outside), [""; 0]);
    let mut created = 0;
    for answers in outcomes.iter().flatten() {
        // A start may fail, where the working directory has just become another.
        if answers[0].error.is_none() {
            created += 1;
            let mounts = mounts(&answers[1].out);
            let found = mounts.iter().filter(|mount| mount.root.ends_with("/data"));
            assert_eq!(found.count(), 1, "{}", answers[1].out);
        }
    }
    assert!(created > 0, "{:?}", refusals(&outcomes));
}

/// A node that is there already had its mode set by name: exchanged for a link, a file of the host
/// got the mode of the device.
///
/// Taken out: `chmodat` was put back after `mknodat` in `dev::node`. Seen: mode 666 outside.
#[test]
fn privileged_a_device_exchanged_for_a_link_changes_no_file() {
    let mut container = Container::new(&["/bin/true"]);
    container.directory = true;
    let outside = outside(&container);
    let secret = outside.join("secret");
    fs::write(&secret, "").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let volume = container.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let (node, link) = (volume.join("node"), volume.join("link"));
    let mode = Mode::from_bits_truncate(0o666);
    mknodat(CWD, &node, FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    symlink(&secret, &link).unwrap();
    let container = container.add("/mounts", bind(&volume, "/volume")).set(
        "/linux/devices",
        json!([{"path": "/volume/node", "type": "c", "major": 1, "minor": 3, "fileMode": 438}]),
    );
    let steps = [Step::Start, Step::Wait];
    let outcomes = while_exchanging(&node, &link, || container.repeat(40, &steps));
    let mode = fs::metadata(&secret).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        refusals(&outcomes).len() < outcomes.len(),
        "none was created: {outcomes:?}"
    );
}

/// CVE-2026-41579: `/dev` of the image is a link to a directory of the host, in which `ptmx` was
/// removed and `fd`, `stdin` and their like were made. With and without a mount at `/dev`.
///
/// Taken out: `IN_ROOT` in `inside::open`. Seen: `fd`, `full`, `null`, … in the directory.
#[test]
fn privileged_a_dev_that_is_a_link_changes_nothing_on_the_host() {
    let script = "test -c /dev/null && test -L /dev/ptmx && echo there";
    for mounted in [false, true] {
        let mut container = Container::sh(script);
        container.directory = true;
        let outside = outside(&container);
        fs::write(outside.join("ptmx"), "").unwrap();
        fs::remove_dir(container.file("/dev")).unwrap();
        symlink(&outside, container.file("/dev")).unwrap();
        let container = if mounted {
            container
        } else {
            with_dev_of_the_image(container)
        };
        let answer = container.run();
        assert_eq!(names(&outside), ["ptmx"]);
        assert_eq!(answer.out, "there\n", "{answer:?}");
        // Made where the link leads inside.
        let inside = container.file(outside.to_str().unwrap());
        assert_eq!(inside.join("fd").is_symlink(), !mounted);
    }
}

/// A tmpfs that is filled from the image reads no fifo and no device that took a file's place.
///
/// Taken out: `NONBLOCK` and the check after it in `copy_up::directory`. Seen: the test hung.
#[test]
fn privileged_a_file_exchanged_for_a_fifo_does_not_hold_a_start_up() {
    let mut container = Container::new(&["/bin/true"]);
    container.directory = true;
    let (file, fifo) = (container.file("/var/www/file"), container.file("/fifo"));
    fs::write(&file, "content").unwrap();
    mknodat(
        CWD,
        &fifo,
        FileType::Fifo,
        Mode::from_bits_truncate(0o600),
        0,
    )
    .unwrap();
    let container = container.add(
        "/mounts",
        json!({"destination": "/var/www", "type": "tmpfs", "source": "tmpfs",
               "options": ["tmpcopyup"]}),
    );
    let steps = [Step::Start, Step::Wait];
    let outcomes = while_exchanging_at(Duration::ZERO, &file, &fifo, || {
        container.repeat(40, &steps)
    });
    for refusal in refusals(&outcomes) {
        assert!(refusal.contains("copy what it covers"), "{refusal}");
    }
}
