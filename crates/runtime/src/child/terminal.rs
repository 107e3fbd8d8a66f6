//! The standard streams and the controlling terminal.
//!
//! The pseudo-terminal is one of the container's own devpts, opened through descriptors only:
//! nothing in the image can stand in for `/dev/ptmx` or the other side (CVE-2025-52565).

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Uid, fchown, fstat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, OutputModes, Winsize};

use super::{ChildStdio, Common, dev, inside, view};
use crate::error::{During as _, SetupError, Step};

/// `DEVPTS_SUPER_MAGIC` (linux/magic.h).
const DEVPTS_MAGIC: rustix::fs::FsWord = 0x1cd1;

/// What a terminal shall be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
    pub(crate) carriage_returns: bool,
}

/// Both sides of a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

/// Opens a terminal of the devpts below `root`; with `console` it is also found at `/dev/console`.
pub(crate) fn open_in(
    root: BorrowedFd<'_>,
    wanted: &Wanted,
    console: bool,
) -> Result<Terminal, SetupError> {
    let terminal = open(root, wanted).during(Step::Console, || "open a terminal")?;
    if console {
        let slave = terminal.slave.as_fd();
        show_console(root, slave)
            .during(Step::Console, || "bind the terminal to `/dev/console`")?;
    }
    Ok(terminal)
}

fn open(root: BorrowedFd<'_>, wanted: &Wanted) -> io::Result<Terminal> {
    let Wanted { rows, columns, .. } = *wanted;
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let ptmx = Path::new("/dev/pts/ptmx");
    let master = inside::open(root, ptmx, flags, ResolveFlags::NO_SYMLINKS)?;
    if rustix::fs::fstatfs(&master)?.f_type != DEVPTS_MAGIC {
        return Err(io::Error::other("`/dev/pts` is no devpts"));
    }
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    if (rows, columns) != (0, 0) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&master, size)?;
    }
    if !wanted.carriage_returns {
        let mut modes = rustix::termios::tcgetattr(&slave)?;
        modes.output_modes.remove(OutputModes::ONLCR);
        rustix::termios::tcsetattr(&slave, OptionalActions::Now, &modes)?;
    }
    Ok(Terminal { master, slave })
}

fn show_console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> io::Result<()> {
    let target = inside::make_file(root, Path::new("/dev/console"))?;
    let mount = view::clone_of(slave, false)?;
    Ok(view::attach(&mount, target.as_fd())?)
}

/// Starts a session, and has the standard streams be what the caller chose. They belong to the
/// user who runs the program, so that `/dev/stdout` can be opened by them.
pub(crate) fn adopt(
    common: &Common<'_>,
    terminal: Option<Terminal>,
    uid: u32,
) -> Result<(), SetupError> {
    match rustix::process::setsid() {
        Ok(_) | Err(Errno::PERM) => {}
        Err(error) => return Err(error).during(Step::Console, || "start a session"),
    }
    match (common.stdio, terminal) {
        (
            ChildStdio::Files {
                stdin,
                stdout,
                stderr,
            },
            _,
        ) => {
            adopt_files([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
                .during(Step::Channel, || "take the standard streams")?;
        }
        (_, Some(Terminal { master, slave })) => {
            common
                .channel
                .send_terminal(master.as_fd())
                .during(Step::Channel, || "hand over the terminal")?;
            rustix::process::ioctl_tiocsctty(&slave)
                .during(Step::Console, || "take the terminal")?;
            adopt_files([slave.as_fd(); 3]).during(Step::Console, || "use the terminal")?;
        }
        _ => {}
    }
    replace_null().during(Step::Channel, || "open the container's null device")?;
    for stream in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        give(stream, uid).during(Step::User, || "give the standard streams to the user")?;
    }
    Ok(())
}

fn adopt_files([stdin, stdout, stderr]: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    Ok(())
}

/// The host's null device among the streams gives way to one of the container: it is a file of the
/// host, whose mode and owner root in the container could change through `/proc/self/fd`.
fn replace_null() -> io::Result<()> {
    let hosts = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ]
    .map(dev::is_null);
    if !hosts.contains(&true) {
        return Ok(());
    }
    let own = own_null()?;
    if hosts[0] {
        rustix::stdio::dup2_stdin(&own)?;
    }
    if hosts[1] {
        rustix::stdio::dup2_stdout(&own)?;
    }
    if hosts[2] {
        rustix::stdio::dup2_stderr(&own)?;
    }
    Ok(())
}

/// The container's `/dev/null` if that is what it is (CVE-2026-88265); else one of our own.
fn own_null() -> io::Result<OwnedFd> {
    let root = inside::open_root()?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    let (path, links) = (Path::new("/dev/null"), ResolveFlags::NO_SYMLINKS);
    match inside::open(root.as_fd(), path, flags, links) {
        Ok(found) if dev::is_null(found.as_fd()) => {
            rustix::fs::fcntl_setfl(&found, OFlags::empty())?;
            Ok(found)
        }
        _ => {
            let tmpfs = view::small_tmpfs(MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
            let mode = Mode::from_bits_truncate(0o666);
            rustix::fs::mknodat(&tmpfs, "null", FileType::CharacterDevice, mode, dev::null())?;
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(&tmpfs, "null", flags, Mode::empty())?)
        }
    }
}

/// Pipes and terminals change hands; anything else (a file, a device of the host) does not.
fn give(stream: BorrowedFd<'_>, uid: u32) -> io::Result<()> {
    let Ok(status) = fstat(stream) else {
        return Ok(());
    };
    let ours = match FileType::from_raw_mode(status.st_mode) {
        FileType::Fifo => true,
        FileType::CharacterDevice => rustix::fs::fstatfs(stream)?.f_type == DEVPTS_MAGIC,
        _ => false,
    };
    if !ours || status.st_uid == uid {
        return Ok(());
    }
    match fchown(stream, Some(Uid::from_raw(uid)), None) {
        // The caller's own pipe from another user, or a read-only file system.
        Err(Errno::PERM | Errno::ROFS | Errno::INVAL) => Ok(()),
        other => Ok(other?),
    }
}
