//! Finding the program and becoming it. Words are runc's (and Go's `exec.LookPath`), because
//! tools read them.

use std::collections::HashSet;
use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::io;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, OFlags, ResolveFlags, accessat, fstat, stat};
use rustix::io::Errno;

use super::attributes;
use super::identity::Ready;
use super::{Common, Filter, init, inside};
use crate::channel::Channel;
use crate::error::{During as _, Reason, SetupError, Step};
use crate::listener;
use crate::plan::Process;

/// As much of `/etc/passwd` is read.
const MAX_PASSWD_BYTES: u64 = 1 << 20;

/// Where `/etc/passwd` of the container says the user is at home, unless the environment does.
pub(crate) fn home(process: &Process) -> Option<String> {
    if variable(process, "HOME").is_some_and(|home| !home.is_empty()) {
        return None;
    }
    let found = read_passwd().ok();
    let found = found.and_then(|text| home_of(&String::from_utf8_lossy(&text), process.uid));
    Some(found.unwrap_or_else(|| String::from("/")))
}

/// The container wrote this file, and may have made it anything: it is neither waited for (a fifo)
/// nor followed out of files (a link into `/proc/self/fd`).
fn read_passwd() -> io::Result<Vec<u8>> {
    let root = inside::open_root()?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let path = Path::new("/etc/passwd");
    let file = inside::open(root.as_fd(), path, flags, ResolveFlags::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL.into());
    }
    let mut text = Vec::new();
    std::fs::File::from(file)
        .take(MAX_PASSWD_BYTES)
        .read_to_end(&mut text)?;
    Ok(text)
}

/// `name:password:uid:gid:comment:home:shell`
fn home_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.nth(2)?.parse() == Ok(uid);
        let home = fields.nth(2)?;
        (found && home.starts_with('/')).then(|| home.to_owned())
    })
}

fn variable<'a>(process: &'a Process, name: &str) -> Option<&'a [u8]> {
    process.environment.iter().rev().find_map(|variable| {
        variable
            .as_bytes()
            .strip_prefix(name.as_bytes())?
            .strip_prefix(b"=")
    })
}

/// The environment of the program: that of the configuration, of a variable that is set more than
/// once the last, and a home.
pub(crate) fn environment(process: &Process, ready: &Ready) -> Vec<CString> {
    let home = ready
        .home
        .as_ref()
        .and_then(|home| CString::new(format!("HOME={home}")).ok());
    let given = process.environment.iter().chain(&home);
    let name = |variable: &CString| {
        let bytes = variable.as_bytes();
        let end = bytes.iter().position(|byte| *byte == b'=');
        bytes[..end.unwrap_or(bytes.len())].to_vec()
    };
    let mut seen = HashSet::new();
    let mut kept: Vec<CString> = given
        .rev()
        .filter(|variable| seen.insert(name(variable)))
        .cloned()
        .collect();
    kept.reverse();
    kept
}

/// Finds the program.
pub(crate) fn look_up(process: &Process) -> Result<PathBuf, SetupError> {
    let command = OsStr::from_bytes(process.arguments[0].as_bytes());
    find(command, variable(process, "PATH").unwrap_or_default())
}

/// Replaces this process by the container's program. `channel` leads to whoever starts it.
pub(crate) fn run(
    process: &Process,
    ready: &Ready,
    common: &Common<'_>,
    channel: &Channel,
) -> Result<Infallible, SetupError> {
    let path = look_up(process)?;
    let path = CString::new(path.into_os_string().into_encoded_bytes())
        .map_err(io::Error::from)
        .during(Step::Exec, || "exec")?;
    let environment = environment(process, ready);
    sys::descriptors::close_on_exec_from(3 + common.preserve_fds)
        .during(Step::Exec, || "close descriptors at exec")?;
    if let (Some(label), Some(proc)) = (&process.attributes.label, &ready.proc) {
        attributes::put_on(label, proc)?;
    }
    channel
        .send_program()
        .during(Step::Channel, || "tell that the program comes")?;
    if let Some(filter) = common.seccomp {
        load(filter, channel).during(Step::Seccomp, || "load the seccomp filter")?;
    }
    if process.init {
        init::stay(process)?;
    }
    let error = sys::exec::execve(&path, &process.arguments, &environment);
    Err(SetupError::new(
        Step::Exec,
        format!("exec {}", path.to_string_lossy()),
        Some(&error),
    ))
}

fn load(filter: &Filter, channel: &Channel) -> io::Result<()> {
    if let Some(listener) = &filter.listener {
        let prepared = listener::prepare(listener, channel)?;
        let fd = sys::seccomp::load_listening(&filter.program, filter.flags)?;
        return prepared.hand_over(fd);
    }
    match sys::seccomp::load(&filter.program, filter.flags) {
        // A flag that this kernel does not know; none changes what is allowed.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && filter.flags != 0 => {
            sys::seccomp::load(&filter.program, 0)
        }
        other => other,
    }
}

/// `exec.LookPath`, by this process's root, user and working directory.
fn find(command: &OsStr, search: &[u8]) -> Result<PathBuf, SetupError> {
    let quoted = format!("exec: {:?}", command.to_string_lossy());
    if command.as_bytes().contains(&b'/') {
        let path = PathBuf::from(command);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(Errno::NOENT) => {
                let what = format!("{quoted}: stat {}", path.display());
                Err(SetupError::new(
                    Step::NotFound,
                    what,
                    Some(&Errno::NOENT.into()),
                ))
            }
            Err(error) => Err(SetupError::new(
                Step::NotExecutable,
                quoted,
                Some(&error.into()),
            )),
        };
    }
    for directory in search.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() {
            b"."
        } else {
            directory
        };
        let path = Path::new(OsStr::from_bytes(directory)).join(command);
        if executable(&path).is_ok() {
            return Ok(path);
        }
    }
    let mut failure = SetupError::new(Step::NotFound, quoted, None);
    failure.reason = Some(Reason(String::from("executable file not found in $PATH")));
    Err(failure)
}

fn executable(path: &Path) -> Result<(), Errno> {
    let status = stat(path)?;
    if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_is_the_users_own() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:/sbin/nologin\n";
        assert_eq!(home_of(passwd, 33).as_deref(), Some("/var/www"));
        assert_eq!(home_of(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_of(passwd, 1), None);
    }

    #[test]
    fn failures_to_find_a_program_read_as_runcs_do() {
        let say =
            |command: &str| vocab::failure::chain(&find(command.as_ref(), b"/bin").unwrap_err());
        assert_eq!(
            say("nope"),
            "exec: \"nope\": executable file not found in $PATH"
        );
        assert_eq!(
            say("/x/y"),
            "exec: \"/x/y\": stat /x/y: no such file or directory"
        );
        assert_eq!(
            say("/etc/passwd"),
            "exec: \"/etc/passwd\": permission denied"
        );
        assert_eq!(say("/etc"), "exec: \"/etc\": is a directory");
        assert_eq!(say(""), "exec: \"\": executable file not found in $PATH");
    }
}
