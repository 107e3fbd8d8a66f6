//! A program that containers are started from cannot be written through its process.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// What opening the program for writing comes to, by a handle that outlives its process: the last
/// step of CVE-2019-5736.
fn overwrite(program: &Path) -> std::io::Result<File> {
    #[expect(clippy::disallowed_methods, reason = "a program to attack")]
    let mut victim = std::process::Command::new(program);
    let victim = victim.arg("1000").spawn().unwrap();
    // Killed in the middle of its exec, Linux 6.1 would keep counting its program as busy.
    testkit::eventually(Duration::from_secs(10), || {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", victim.id())).unwrap();
        status.contains("(sleep) S ")
    });
    overwrite_running(victim)
}

fn overwrite_running(mut victim: Child) -> std::io::Result<File> {
    let path = format!("/proc/{}/exe", victim.id());
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .unwrap();
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

/// Whether this test binary is the program to attack, and of which kind.
const VICTIM: &str = "BERTH_RUNTIME_TEST_SEALED";

/// The program to attack: not a test.
#[test]
fn victim() {
    if std::env::var_os(VICTIM).is_some_and(|kind| kind == "sealed") {
        runtime::seal_self().unwrap();
    }
    if std::env::var_os(VICTIM).is_some() {
        println!("\nready");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }
}

fn start_victim(program: &Path, kind: &str) -> Child {
    #[expect(clippy::disallowed_methods, reason = "a program to attack")]
    let mut victim = std::process::Command::new(program)
        .args([
            "--exact",
            "sealed::victim",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(VICTIM, kind)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(victim.stdout.as_mut().unwrap());
    let mut lines = output.lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "ready"), "the victim ended");
    victim
}

/// CVE-2019-5736 against the command line runtime, which nobody starts sealed.
///
/// Taken out: `seal_self` in the victim, which is the first half of the test.
#[test]
fn privileged_a_program_that_seals_itself_cannot_be_written() {
    let (_dir, own) = own_program();
    assert!(overwrite_running(start_victim(&own, "plain")).is_ok());
    let refused = overwrite_running(start_victim(&own, "sealed")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
}

/// A copy of this test binary, which itself is busy while the test runs.
fn own_program() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("it");
    std::fs::copy(std::env::current_exe().unwrap(), &own).unwrap();
    (dir, own)
}

/// The same for a user who may not mount, with a program of theirs.
#[test]
fn privileged_a_users_program_seals_itself_as_a_copy() {
    let (dir, own) = own_program();
    let user = 4711;
    std::os::unix::fs::chown(&own, Some(user), Some(user)).unwrap();
    std::os::unix::fs::chown(dir.path(), Some(user), Some(user)).unwrap();
    let refused = std::thread::scope(|scope| {
        let as_user = || {
            let (uid, gid) = (
                rustix::process::Uid::from_raw(user),
                rustix::process::Gid::from_raw(user),
            );
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            assert!(overwrite_running(start_victim(&own, "plain")).is_ok());
            let mut copy = overwrite_running(start_victim(&own, "sealed")).unwrap();
            copy.write_all(b"x").unwrap_err()
        };
        scope.spawn(as_user).join().unwrap()
    });
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
}
