//! An overlay for a container in a user namespace, mounted with the caller's rights.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsmount};
use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

use crate::bundle::Overlay;
use crate::child::view;
use crate::error::{During as _, SetupError, Step};
use crate::overlay::{self, explain};

/// Mounts it with each layer showing its ids through the mapping of `user_namespace`, so that
/// what is root's on disk is the container's root's in there, and what is written stays so.
/// `owner` is that root as the caller counts, as whom overlayfs then works in its layers.
///
/// Needs Linux 6.15, whose overlayfs takes layers that are attached nowhere.
pub(crate) fn mount(
    layers: &Overlay,
    user_namespace: BorrowedFd<'_>,
    (uid, gid): (u32, u32),
) -> Result<OwnedFd, SetupError> {
    let what = || format!("mount the overlay of `{}`", layers.upper.display());
    let mapped = |path: &Path| {
        let tree = view::clone_tree(CWD, path, false).during(Step::Root, || {
            format!("open the layer `{}`", path.display())
        })?;
        sys::mount::map_ids(tree.as_fd(), false, user_namespace).during(Step::Root, || {
            format!("map the ids of `{}`", path.display())
        })?;
        Ok(tree)
    };
    let fs = overlay::context()
        .map_err(|error| SetupError::new(Step::Root, error.what, Some(&error.source)))?;
    // A layer's mount lasts as long as its descriptor, until overlayfs has made its own of it.
    let lower = layers.lower.iter().map(|path| Ok((path, mapped(path)?)));
    let lower = lower.collect::<Result<Vec<_>, SetupError>>()?;
    for (path, tree) in &lower {
        fsconfig_set_fd(&fs, "lowerdir+", tree).during(Step::Root, || {
            explain(&fs, format!("use the layer `{}`", path.display()))
        })?;
    }
    // Both must be on one mount.
    let (parent, upper, work) = side_by_side(layers)?;
    let tree = mapped(parent)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for (key, path) in [("upperdir", upper), ("workdir", work)] {
        let directory = openat(&tree, path, flags, Mode::empty()).during(Step::Root, what)?;
        fsconfig_set_fd(&fs, key, &directory).during(Step::Root, || explain(&fs, what()))?;
    }
    let owner = FileOwner::assume(uid, gid).during(Step::Root, what)?;
    let mounted = finish(&fs, what);
    owner.end().during(Step::Root, what)?;
    mounted
}

/// The directory that holds both upper and work directory, and their paths in there.
fn side_by_side(layers: &Overlay) -> Result<(&Path, &Path, &Path), SetupError> {
    let parent = layers.upper.parent().unwrap_or_else(|| Path::new("/"));
    match (layers.upper.file_name(), layers.work.strip_prefix(parent)) {
        (Some(upper), Ok(work)) => Ok((parent, Path::new(upper), work)),
        _ => {
            let what = "overlay: `work` is not beside `upper`";
            Err(SetupError::new(Step::Root, what, None))
        }
    }
}

/// This thread while it reaches files as another user, with all its capabilities.
struct FileOwner {
    before: (u32, u32),
    capabilities: CapabilitySets,
}

impl FileOwner {
    fn assume(uid: u32, gid: u32) -> io::Result<Self> {
        let held = capabilities(None)?;
        let before = (
            sys::credentials::set_fs_uid(uid)?,
            sys::credentials::set_fs_gid(gid)?,
        );
        set_capabilities(None, held)?;
        Ok(Self {
            before,
            capabilities: held,
        })
    }

    fn end(self) -> io::Result<()> {
        sys::credentials::set_fs_uid(self.before.0)?;
        sys::credentials::set_fs_gid(self.before.1)?;
        Ok(set_capabilities(None, self.capabilities)?)
    }
}

fn finish(fs: &OwnedFd, what: impl Fn() -> String) -> Result<OwnedFd, SetupError> {
    fsconfig_create(fs).during(Step::Root, || explain(fs, what()))?;
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).during(Step::Root, what)
}
