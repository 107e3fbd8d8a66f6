//! A program that containers are started from cannot be written through its process.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

/// What opening the program for writing comes to, by a handle that outlives its process: the last
/// step of CVE-2019-5736.
fn overwrite(program: &Path) -> std::io::Result<File> {
    #[expect(clippy::disallowed_methods, reason = "a program to attack")]
    let mut victim = std::process::Command::new(program)
        .arg("1000")
        .spawn()
        .unwrap();
    let path = format!("/proc/{}/exe", victim.id());
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .unwrap();
    // Killed in the middle of its exec, Linux 6.1 would keep counting its program as busy.
    testkit::eventually(Duration::from_secs(10), || {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", victim.id())).unwrap();
        status.contains("(sleep) S ")
    });
    victim.kill().unwrap();
    victim.wait().unwrap();
    let handle = format!("/proc/self/fd/{}", handle.as_raw_fd());
    // The kernel takes a moment to count the ended process out.
    let mut opened = OpenOptions::new().write(true).open(&handle);
    testkit::eventually(Duration::from_secs(10), || {
        let busy = matches!(&opened, Err(error) if error.raw_os_error() == Some(libc::ETXTBSY));
        if busy {
            opened = OpenOptions::new().write(true).open(&handle);
        }
        !busy
    });
    opened
}

#[test]
fn privileged_a_sealed_program_runs_and_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("sleep");
    std::fs::copy(testkit::tool("busybox"), &program).unwrap();
    // The attack works on the file itself; that is what it is sealed against.
    overwrite(&program).unwrap();

    // busybox knows by its name what to do, and this one ends in `/sleep`.
    let sealed = runtime::sealed(&program).unwrap();
    let link = dir.path().join("run").join("sleep");
    std::fs::create_dir(dir.path().join("run")).unwrap();
    let target = format!("/proc/{}/fd/{}", std::process::id(), sealed.as_raw_fd());
    std::os::unix::fs::symlink(target, &link).unwrap();
    let refused = overwrite(&link).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
}
