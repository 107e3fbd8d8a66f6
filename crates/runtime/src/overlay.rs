//! Layers joined to one file system, as a mount that is attached nowhere.
//!
//! Linux 6.7 takes layer by layer. Before, all of them stand in one string of at most 255 bytes,
//! so there they are opened and named by their descriptors, from `/proc/self/fd`: `9:10:11`.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change,
    move_mount,
};
use rustix::process::fchdir;
use rustix::thread::UnshareFlags;

/// Layers could not be joined.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct OverlayError {
    /// What was being done, and what the file system said about it, if it said anything.
    pub what: String,
    /// The kernel's reason.
    pub source: io::Error,
}

/// The uppermost layer, and overlayfs's own directory beside it.
#[derive(Clone, Copy, Debug)]
pub struct Writable<'a> {
    /// Where changes go.
    pub upper: &'a Path,
    /// An empty directory on the same file system.
    pub work: &'a Path,
    /// With the rights of a user namespace only, which are too few for the attributes in which
    /// overlayfs otherwise notes what it did to files.
    pub as_user: bool,
}

/// Joins `lower`, the uppermost first. Before Linux 6.7 the calling thread gets a working directory
/// of its own, which is the same afterwards.
pub fn mount(
    lower: &[&Path],
    writable: Option<Writable<'_>>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, OverlayError> {
    let context = if takes_one_by_one() {
        one_by_one(lower, writable)?
    } else {
        in_one_string(lower, writable)?
    };
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|error| failed(MOUNT, None, error))
}

/// Layers that overlayfs takes in one mount (`OVL_MAX_STACK`).
const STACK_MAX: usize = 500;

/// Joins at least two layers to be read, the uppermost first, however many they are. Blocks.
pub fn mount_read_only(layers: &[&Path], more: MountAttrFlags) -> Result<OwnedFd, OverlayError> {
    let attributes = more | MountAttrFlags::MOUNT_ATTR_RDONLY;
    if layers.len() <= STACK_MAX {
        return mount(layers, None, attributes);
    }
    std::thread::scope(|scope| {
        let joined = scope.spawn(|| mount_in_two(layers, attributes)).join();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The lowest layers first, and all others on top of what they come to. An overlay is made of paths,
/// so that has to be somewhere: at the lowest layer, in a mount namespace that goes with the thread.
fn mount_in_two(layers: &[&Path], attributes: MountAttrFlags) -> Result<OwnedFd, OverlayError> {
    let (top, bottom) = layers.split_at(STACK_MAX - 1);
    let below = mount(bottom, None, attributes)?;
    let place = bottom[bottom.len() - 1];
    let attach = || -> io::Result<()> {
        sys::namespace::unshare(UnshareFlags::FS | UnshareFlags::NEWNS)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(&below, "", CWD, place, flags)?)
    };
    attach().map_err(|error| failed(use_layer(place), None, error))?;
    mount(&[top, &[place]].concat(), None, attributes)
}

/// Linux 6.7 or newer. Asking by a try would leave a complaint in the kernel's log each time.
fn takes_one_by_one() -> bool {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    (number(), number()) >= (Some(6), Some(7))
}

fn one_by_one(lower: &[&Path], writable: Option<Writable<'_>>) -> Result<OwnedFd, OverlayError> {
    let context = context()?;
    for layer in lower {
        fsconfig_set_string(&context, "lowerdir+", *layer)
            .map_err(|error| failed(use_layer(layer), Some(&context), error))?;
    }
    create(context, writable)
}

fn in_one_string(lower: &[&Path], writable: Option<Writable<'_>>) -> Result<OwnedFd, OverlayError> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut layers = Vec::with_capacity(lower.len());
    for path in lower {
        let opened = open(*path, directory, Mode::empty());
        layers.push(opened.map_err(|error| failed(use_layer(path), None, error))?);
    }
    let names: Vec<String> = layers.iter().map(|l| l.as_raw_fd().to_string()).collect();
    let names = names.join(":");

    let go = || -> io::Result<OwnedFd> {
        let back = open(".", directory, Mode::empty())?;
        sys::namespace::unshare(UnshareFlags::FS)?;
        fchdir(open("/proc/self/fd", directory, Mode::empty())?)?;
        Ok(back)
    };
    let back = go().map_err(|error| failed("go to `/proc/self/fd`", None, error))?;
    let created = context().and_then(|context| {
        fsconfig_set_string(&context, "lowerdir", &names).map_err(|error| {
            failed(
                format!("join {} layers", lower.len()),
                Some(&context),
                error,
            )
        })?;
        create(context, writable)
    });
    fchdir(back).map_err(|error| failed("go back from `/proc/self/fd`", None, error))?;
    created
}

fn use_layer(layer: &Path) -> String {
    format!("use the layer `{}`", layer.display())
}

pub(crate) fn context() -> Result<OwnedFd, OverlayError> {
    fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .and_then(|context| fsconfig_set_string(&context, "source", "overlay").map(|()| context))
        .map_err(|error| failed(MOUNT, None, error))
}

fn create(context: OwnedFd, writable: Option<Writable<'_>>) -> Result<OwnedFd, OverlayError> {
    let set = |writable: Writable<'_>| {
        fsconfig_set_string(&context, "upperdir", writable.upper)?;
        fsconfig_set_string(&context, "workdir", writable.work)?;
        if writable.as_user {
            fsconfig_set_flag(&context, "userxattr")?;
        }
        Ok(())
    };
    let created = writable
        .map_or(Ok(()), set)
        .and_then(|()| fsconfig_create(&context));
    match (created, writable) {
        (Ok(()), _) => Ok(context),
        (Err(error), None) => Err(failed(MOUNT, Some(&context), error)),
        (Err(error), Some(Writable { upper, .. })) => {
            let what = format!("{MOUNT} of `{}`", upper.display());
            Err(failed(what, Some(&context), error))
        }
    }
}

/// What most failures are about.
const MOUNT: &str = "mount the overlay";

fn failed(
    what: impl Into<String>,
    context: Option<&OwnedFd>,
    error: impl Into<io::Error>,
) -> OverlayError {
    let what = match context {
        Some(context) => explain(context, what.into()),
        None => what.into(),
    };
    OverlayError {
        what,
        source: error.into(),
    }
}

/// What a file system says about its own refusal (`read` on the context: one message each).
fn reason(context: &OwnedFd) -> Option<String> {
    let mut message = [0_u8; 512];
    let length = rustix::io::read(context, &mut message).ok()?;
    let text = String::from_utf8_lossy(message.get(2..length)?);
    Some(text.trim_end().to_owned())
}

/// `what`, and what a file system says about its own refusal.
pub(crate) fn explain(context: &OwnedFd, what: String) -> String {
    match reason(context) {
        Some(reason) => format!("{what} ({reason})"),
        None => what,
    }
}
