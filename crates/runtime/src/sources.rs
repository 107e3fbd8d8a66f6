//! What of the host's files goes into a container, taken with the caller's own rights.
//!
//! A child in another user namespace has no rights on the host, and must not act with those that
//! are left to it. So the caller takes what is to be mounted, as mounts that are attached nowhere,
//! and the child inherits the descriptors. An ordinary user may not take a mount out of the host's
//! namespace; then the child does, with no more rights than the user.
//!
//! Ids are mapped here too, because only the owner of a file system may do it.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

use crate::bundle::Rootfs;
use crate::child::view;
use crate::create::open_cloexec;
use crate::error::{During as _, SetupError, Step};
use crate::mapped_overlay;
use crate::mapping::Mappings;
use crate::namespaces::UserNamespace;
use crate::origin::{self, Origin};
use crate::plan::{Ids, MountKind, Plan};
use crate::user_namespace;

/// Mounts that are attached nowhere yet.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The root, if it is a directory.
    pub(crate) root: Option<OwnedFd>,
    /// Bind sources, by the mount's place in the plan.
    pub(crate) binds: HashMap<usize, OwnedFd>,
}

impl Sources {
    /// Takes what the child may not. Nothing for most containers: those in the caller's own user
    /// namespace, with no ids mapped.
    pub(crate) fn take(plan: &Plan) -> Result<Self, SetupError> {
        let mut sources = Self::default();
        let foreign = !plan.namespaces.user.is_callers();
        let mut namespaces = Vec::new();
        for (place, mount) in plan.mounts.iter().enumerate() {
            let MountKind::Bind { source, recursive } = &mount.kind else {
                continue;
            };
            let mapped = mount.ids.is_some();
            if !mapped && (!(foreign && is_root()) || plan.own_source(mount).is_some()) {
                continue;
            }
            let what = |done: &str| {
                let destination = mount.destination.display();
                format!("bind `{}` to `{destination}`: {done}", source.display())
            };
            if !is_root() {
                let what = what("map its ids, which an ordinary user may not");
                return Err(SetupError::new(Step::Mount, what, None));
            }
            let tree = take(plan, source, mount.origin.as_ref(), *recursive)
                .during(Step::Mount, || what("open the source"))?;
            if let Some(Ids {
                mappings: Some(mappings),
                recursive,
            }) = &mount.ids
            {
                let namespace = namespace_of(&mut namespaces, mappings)?;
                sys::mount::map_ids(tree.as_fd(), *recursive, namespace)
                    .during(Step::Mount, || what(MAP_IDS))?;
            }
            sources.binds.insert(place, tree);
        }
        if let Rootfs::Directory(directory) = &plan.root.source
            && foreign
            && is_root()
        {
            let what = || format!("open the root `{}`", directory.display());
            sources.root = Some(take(plan, directory, None, true).during(Step::Root, what)?);
        }
        Ok(sources)
    }

    /// Maps the ids of mounts as the container's user namespace has them, which is that of `pid`.
    pub(crate) fn map_as_container(&self, plan: &Plan, pid: i32) -> Result<(), SetupError> {
        self.map_as(plan, &|| user_namespace::of(pid))
    }

    /// The same before there is a process in it.
    pub(crate) fn map_as_planned(&self, plan: &Plan) -> Result<(), SetupError> {
        self.map_as(plan, &|| {
            if let UserNamespace::New(mappings) = &plan.namespaces.user {
                return user_namespace::make(mappings);
            }
            let joined = plan.namespaces.joined.iter();
            let mut joined = joined.filter(|(kind, _)| *kind == UnshareFlags::NEWUSER);
            let own = Path::new("/proc/self/ns/user");
            let path = joined.next().map_or(own, |(_, path)| path);
            open_cloexec(path).during(Step::Namespace, || format!("open `{}`", path.display()))
        })
    }

    fn map_as(
        &self,
        plan: &Plan,
        of: &dyn Fn() -> Result<OwnedFd, SetupError>,
    ) -> Result<(), SetupError> {
        let mut namespace = None;
        for (place, mount) in plan.mounts.iter().enumerate() {
            if let (Some(ids), Some(tree)) = (&mount.ids, self.binds.get(&place))
                && ids.mappings.is_none()
            {
                let namespace = match &namespace {
                    Some(namespace) => namespace,
                    None => namespace.insert(of()?),
                };
                sys::mount::map_ids(tree.as_fd(), ids.recursive, namespace.as_fd())
                    .during(Step::Mount, || {
                        format!("mount `{}`: {MAP_IDS}", mount.destination.display())
                    })?;
            }
        }
        Ok(())
    }

    /// Mounts the overlay of a container whose user namespace is that of `pid`, with the caller's
    /// rights. Its layers, the writable one too, keep the ids that the image has: they are mapped.
    pub(crate) fn mount_root(&self, plan: &Plan, pid: i32) -> Result<Option<OwnedFd>, SetupError> {
        let Rootfs::Overlay(overlay) = &plan.root.source else {
            return Ok(None);
        };
        if !is_root() {
            return Ok(None);
        }
        let user = user_namespace::of(pid)?;
        let owner = user_namespace::root_of(pid)?;
        mapped_overlay::mount(overlay, user.as_fd(), owner).map(Some)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none() && self.binds.is_empty()
    }

    /// What a child must not close.
    pub(crate) fn raw(&self) -> impl Iterator<Item = RawFd> + '_ {
        let all = self.binds.values().chain(&self.root);
        all.map(|fd| fd.as_raw_fd())
    }
}

const MAP_IDS: &str = "map its ids (which the file system must allow, and takes the rights of who \
                       mounted it)";

/// A user namespace of this mapping, made once for all mounts that want it.
fn namespace_of<'a>(
    made: &'a mut Vec<(Mappings, OwnedFd)>,
    mappings: &Mappings,
) -> Result<BorrowedFd<'a>, SetupError> {
    let place = match made.iter().position(|(of, _)| of == mappings) {
        Some(place) => place,
        None => {
            made.push((mappings.clone(), user_namespace::make(mappings)?));
            made.len() - 1
        }
    };
    Ok(made[place].1.as_fd())
}

/// Whether the caller is root in its user namespace.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A copy of a mount of the host, with the propagation that the child gives all of them. Nothing
/// of another user namespace goes back to the host: the kernel sees to that too when it copies a
/// mount namespace for one.
fn take(
    plan: &Plan,
    path: &Path,
    origin: Option<&Origin>,
    recursive: bool,
) -> std::io::Result<OwnedFd> {
    let tree = origin::open_tree(path, origin, recursive)?;
    let propagation = match plan.root.host_propagation {
        MountPropagationFlags::SHARED if !plan.namespaces.user.is_callers() => {
            MountPropagationFlags::DOWNSTREAM
        }
        other => other,
    };
    view::set(
        tree.as_fd(),
        true,
        &sys::mount::Change {
            propagation,
            ..sys::mount::Change::NONE
        },
    )?;
    Ok(tree)
}
