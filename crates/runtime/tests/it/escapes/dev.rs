//! The null device that hides files, the console, and the devices behind standard streams.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::json;

use super::{
    bind, mounts, names, outside, refusals, while_exchanging, with_dev_of_the_image, without_mounts,
};
use crate::kit::{Container, Step, Streaming, process};

/// Says what hides two files.
const HIDDEN: &str = "stat -c '%F %t:%T' /proc/interrupts /proc/timer_list";
const NULL: &str = "character special file 1:3\ncharacter special file 1:3";

/// CVE-2025-31133, CVE-2025-62161: `/dev/null` of the image is a link into procfs, which is then
/// bound over the masked files, to be written at will.
///
/// Taken out: `dev::is_null` and `NO_SYMLINKS` in `hide::null_device`. Seen: `regular empty file 0:0`.
#[test]
fn privileged_masks_are_null_devices_whatever_dev_null_is() {
    // Where /dev is the image's, a false /dev/null is refused at once.
    let container = with_dev_of_the_image(Container::sh(HIDDEN));
    symlink("/proc/sys/kernel/hostname", container.file("/dev/null")).unwrap();
    let refusal = container.script(&[Step::Start]).unwrap_err();
    assert_eq!(refusal, "make the device `/dev/null`: file exists");

    // Where it was brought by a volume, nothing is made in it.
    let container = Container::sh(HIDDEN);
    let dev = container.dir.path().join("dev");
    fs::create_dir(&dev).unwrap();
    symlink("/proc/sys/kernel/hostname", dev.join("null")).unwrap();
    let places = ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"];
    let container = without_mounts(container, &places).add("/mounts", bind(&dev, "/dev"));
    assert_eq!(container.output(), NULL);

    // Or it is not there at all, which is no reason to hide nothing.
    fs::remove_file(dev.join("null")).unwrap();
    assert_eq!(container.output(), NULL);
}

/// The same as a race: another container that shares the volume exchanges the two.
///
/// Taken out: as above. Seen: `regular empty file 0:0` in the first start.
#[test]
fn privileged_masks_are_null_devices_while_dev_null_is_exchanged() {
    let container = Container::sh(HIDDEN);
    let dev = container.dir.path().join("dev");
    fs::create_dir(&dev).unwrap();
    let (null, link) = (dev.join("null"), dev.join("link"));
    symlink("/proc/sys/kernel/hostname", &link).unwrap();
    let mode = Mode::from_bits_truncate(0o666);
    mknodat(CWD, &null, FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    let places = ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"];
    let container = without_mounts(container, &places).add("/mounts", bind(&dev, "/dev"));
    let steps = [Step::Start, Step::Wait];
    let outcomes = while_exchanging(&null, &link, || container.repeat(40, &steps));
    assert_eq!(refusals(&outcomes), [""; 0]);
    for answers in outcomes.iter().flatten() {
        assert_eq!(answers[1].out.trim_end(), NULL);
    }
}

/// CVE-2025-52565: the other side of the terminal was opened by name and bound over
/// `/dev/console`, before masks were made: a link there brought any file of procfs. Its first
/// related issue, CVE-2026-88264: `/dev/console` itself is a link, and a file of the host is made.
///
/// Taken out: `EXCL` and `NOFOLLOW` in `inside::file`. Seen: `made` outside.
#[test]
fn privileged_a_console_that_is_a_link_makes_nothing_on_the_host() {
    let script = "stat -f -c %T /dev/console; test -t 0 && echo terminal";
    let container = with_dev_of_the_image(Container::sh(script))
        .with(Streaming::Terminal(24, 80))
        .add(
            "/mounts",
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                   "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}),
        );
    let outside = outside(&container);
    symlink(outside.join("made"), container.file("/dev/console")).unwrap();
    let inside = container.file(outside.to_str().unwrap());
    fs::create_dir_all(inside).unwrap();
    let answer = container.run();
    assert_eq!(names(&outside), [""; 0]);
    assert_eq!(answer.out.replace('\r', ""), "devpts\nterminal\n");
}

/// CVE-2025-52565 itself: `/dev/pts` is exchanged for a directory in which the terminal's name is
/// a link into procfs.
///
/// Taken out: the other side was opened by its name in `/dev/pts` instead of `TIOCGPTPEER`. Seen:
/// a `proc` at `/dev/console`.
#[test]
fn privileged_the_console_is_the_terminal_while_its_directory_is_exchanged() {
    let mut container = with_dev_of_the_image(Container::new(&["/bin/sleep", "1000"]))
        .with(Streaming::Terminal(24, 80))
        .add(
            "/mounts",
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                   "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}),
        );
    container.directory = true;
    let (pts, fake) = (container.file("/dev/pts"), container.file("/dev/fake"));
    fs::create_dir(&pts).unwrap();
    fs::create_dir(&fake).unwrap();
    for terminal in 0..100 {
        symlink("/proc/version", fake.join(terminal.to_string())).unwrap();
    }
    fs::write(fake.join("ptmx"), "").unwrap();
    let steps = [
        Step::Start,
        Step::Read("/proc/{pid}/mountinfo".into()),
        Step::Signal(9),
        Step::Wait,
    ];
    let outcomes = while_exchanging(&pts, &fake, || container.repeat(40, &steps));
    for answers in outcomes.iter().flatten() {
        let mounts = mounts(&answers[1].out);
        let console = mounts.iter().find(|mount| mount.at == "/dev/console");
        assert_eq!(console.unwrap().kind, "devpts", "{}", answers[1].out);
    }
    let refusals = refusals(&outcomes);
    assert!(refusals.len() < outcomes.len(), "{refusals:?}");
    // The false one is told from its file system.
    for refusal in refusals {
        assert!(refusal.starts_with("open a terminal: "), "{refusal}");
    }
}

/// The device number and inode of what a descriptor is.
const STREAMS: &str = "stat -L -c '%d:%i %F' /proc/self/fd/0 /dev/null";

/// A stream to the host's `/dev/null` was a file of the host, whose mode and owner root in the
/// container could change through `/proc/self/fd`: all of the host lost its null device.
///
/// Taken out: `replace_null` in `terminal::adopt`. Seen: the host's device and inode.
#[test]
fn privileged_a_stream_to_nowhere_is_no_file_of_the_host() {
    let host = fs::metadata("/dev/null").unwrap();
    let host = format!("{}:{} ", host.dev(), host.ino());
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Exec(
            Box::new(process(&["/bin/sh", "-c", STREAMS])),
            Streaming::Pipes,
            None,
        ),
        Step::Signal(9),
        Step::Wait,
    ];
    let script = format!("{STREAMS}; echo ready; exec sleep 1000");
    let answers = Container::sh(&script).script(&steps).unwrap();
    for found in [&answers[1].out, &answers[2].out] {
        let lines: Vec<&str> = found.lines().collect();
        assert_eq!(lines[0], lines[1], "{found}");
        assert!(lines[0].ends_with(" character special file"), "{found}");
        assert!(!lines[0].starts_with(&host), "{found}");
    }

    // A container that has lost its own, or put something else there, gets another (CVE-2026-88265).
    for instead in [
        "true",
        "echo x > /dev/null",
        "ln -s /proc/sys/kernel/hostname /dev/null",
    ] {
        let script =
            format!("busybox rm /dev/null; busybox {instead}; echo ready; exec sleep 1000");
        let probe = "stat -L -c '%d:%i %t:%T' /proc/self/fd/0";
        let mut steps = steps.clone();
        steps[2] = Step::Exec(
            Box::new(process(&["/bin/sh", "-c", probe])),
            Streaming::Pipes,
            None,
        );
        let answers = Container::sh(&script).script(&steps).unwrap();
        let found = &answers[2].out;
        assert!(
            found.ends_with(" 1:3\n") && !found.starts_with(&host),
            "{answers:?}"
        );
    }
}
