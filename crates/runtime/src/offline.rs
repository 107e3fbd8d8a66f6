//! The files of a container that does not run, as a process of it would see them.
//!
//! A thread gets a mount namespace of its own, in which the container's layers are joined and what
//! is bound into the container is bound; it works there and takes the namespace along when it ends,
//! whatever became of it. Nobody else ever sees these mounts. Where something is to be mounted is
//! found inside the container's root, like all else of a container ([`crate::child`]).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, mount_change, move_mount,
};
use rustix::thread::UnshareFlags;
use sys::mount::Change;

use crate::bundle::Overlay;
use crate::child::{inside, view};
use crate::error::{During as _, SetupError, Step};
use crate::origin::{self, Origin};
use crate::overlay::{self, Writable};

/// Something of the host that the container has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// Where it comes from, where that does not say it all.
    pub origin: Option<Origin>,
    /// In the container.
    pub destination: PathBuf,
    /// Whether what is mounted below the source comes along.
    pub recursive: bool,
    /// Whether it cannot be written to.
    pub read_only: bool,
}

/// What may be done with the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only looked at. The container may start meanwhile.
    Read,
    /// Changed, except that the root can be read-only. The layers are the caller's alone.
    Write {
        /// Whether the root is.
        read_only_root: bool,
    },
}

/// Why the files were not reached.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A mount failed.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// There is nothing yet to mount this on, and with [`Access::Read`] nothing can be made.
    #[error("nothing is there to mount on at `{}`", .0.display())]
    NoMountPoint(PathBuf),
}

/// Runs `work` with the container's root.
pub fn within<T: Send>(
    overlay: &Overlay,
    binds: &[Bind],
    access: Access,
    work: impl FnOnce(BorrowedFd<'_>) -> T + Send,
) -> Result<T, OfflineError> {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let root = mount(overlay, binds, access)?;
            Ok(work(root.as_fd()))
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn mount(overlay: &Overlay, binds: &[Bind], access: Access) -> Result<OwnedFd, OfflineError> {
    sys::namespace::unshare(UnshareFlags::FS | UnshareFlags::NEWNS)
        .during(Step::Namespace, || "make a mount namespace")?;
    let own = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", own).during(Step::Root, || "separate the mounts from the host's")?;
    let mut trees = Vec::with_capacity(binds.len());
    for bind in binds {
        // The host is seen no more once the root is attached over it.
        let tree = origin::open_tree(&bind.source, bind.origin.as_ref(), bind.recursive)
            .during(Step::Mount, || describe(bind))?;
        trees.push(tree);
    }
    let root = join(overlay, access)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", CWD, "/", flags).during(Step::Root, || "attach the root")?;
    for (bind, tree) in binds.iter().zip(&trees) {
        attach(&root, bind, tree, access)?;
    }
    if let Access::Write {
        read_only_root: true,
    } = access
    {
        view::set(root.as_fd(), false, &READ_ONLY)
            .during(Step::Root, || "make the root read-only")?;
    }
    Ok(root)
}

const READ_ONLY: Change = Change {
    set: MountAttrFlags::MOUNT_ATTR_RDONLY,
    ..Change::NONE
};

fn join(overlay: &Overlay, access: Access) -> Result<OwnedFd, SetupError> {
    let mut layers: Vec<&Path> = overlay.lower.iter().map(PathBuf::as_path).collect();
    // Devices of the container are looked at, never used.
    let careful = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let joined = match access {
        Access::Read => {
            // One more lower directory: two overlays must not have the same writable one.
            layers.insert(0, &overlay.upper);
            overlay::mount_read_only(&layers, careful)
        }
        Access::Write { .. } => {
            let writable = Writable {
                upper: &overlay.upper,
                work: &overlay.work,
                as_user: false,
            };
            overlay::mount(&layers, Some(writable), careful)
        }
    };
    joined.map_err(|error| SetupError::new(Step::Root, error.what, Some(&error.source)))
}

fn describe(bind: &Bind) -> String {
    let (source, destination) = (bind.source.display(), bind.destination.display());
    format!("bind `{source}` to `{destination}`")
}

fn attach(root: &OwnedFd, bind: &Bind, tree: &OwnedFd, access: Access) -> Result<(), OfflineError> {
    let what = || describe(bind);
    let status = rustix::fs::fstat(tree).during(Step::Mount, what)?;
    let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
    let target = match inside::find(root.as_fd(), &bind.destination) {
        Err(Errno::NOENT | Errno::NOTDIR) if access == Access::Read => {
            return Err(OfflineError::NoMountPoint(bind.destination.clone()));
        }
        Err(Errno::NOENT) if is_directory => {
            inside::make_directory(root.as_fd(), &bind.destination, 0o755)
        }
        Err(Errno::NOENT) => inside::make_file(root.as_fd(), &bind.destination),
        other => other.map_err(std::io::Error::from),
    };
    let target = target.during(Step::Mount, what)?;
    if bind.read_only || access == Access::Read {
        view::set(tree.as_fd(), bind.recursive, &READ_ONLY).during(Step::Mount, what)?;
    }
    Ok(view::attach(tree, target.as_fd()).during(Step::Mount, what)?)
}
