//! Containers in whose eyes ids are others: those of a user namespace, and mounts that map ids.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::PrepareError;
use super::restore::RestoreError;
use crate::child::view;
use crate::error::{During as _, SetupError, Step};
use crate::mapping::outside;
use crate::namespaces::UserNamespace;
use crate::plan::{MountKind, Plan};
use crate::sources::Sources;

/// Binds that map ids. CRIU knows nothing of that and binds what is at their sources; so it finds
/// them there mapped already, in mounts that are its own.
pub(super) struct MappedBinds(Vec<(PathBuf, OwnedFd)>);

impl MappedBinds {
    pub(super) fn take(plan: &Plan) -> Result<Self, RestoreError> {
        if plan.mounts.iter().all(|mount| mount.ids.is_none()) {
            return Ok(Self(Vec::new()));
        }
        check_alone(plan)?;
        let mut sources = Sources::take(plan).map_err(RestoreError::Sources)?;
        sources
            .map_as_planned(plan)
            .map_err(RestoreError::Sources)?;
        let places = plan.mounts.iter().enumerate();
        let mapped = places.filter_map(|(place, mount)| match &mount.kind {
            MountKind::Bind { source, .. } if mount.ids.is_some() => {
                Some((source.clone(), sources.binds.remove(&place)?))
            }
            _ => None,
        });
        Ok(Self(mapped.collect()))
    }

    /// In the fork, whose mounts are its own.
    pub(super) fn cover(&self) -> Result<(), SetupError> {
        self.0.iter().try_for_each(|(source, tree)| {
            let attach = || {
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let place = rustix::fs::open(source, flags, Mode::empty())?;
                view::attach(tree, place.as_fd())
            };
            attach().during(Step::Mount, || {
                format!("map the ids of `{}` for CRIU", source.display())
            })
        })
    }
}

/// What covers a source is seen by every bind of it, and of what is in it.
fn check_alone(plan: &Plan) -> Result<(), RestoreError> {
    let binds = || {
        plan.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Bind { source, .. } => Some((source, mount)),
            _ => None,
        })
    };
    for (source, mount) in binds().filter(|(_, mount)| mount.ids.is_some()) {
        let other = binds().find(|(other, with)| {
            with.ids != mount.ids && (other.starts_with(source) || source.starts_with(other))
        });
        if let Some((_, other)) = other {
            return Err(RestoreError::MappedTwice {
                first: mount.destination.clone(),
                second: other.destination.clone(),
            });
        }
    }
    Ok(())
}

/// CRIU opens images as the first user and group of the container's namespace too, to whom the
/// directory, which is nobody else's, is closed.
pub(super) fn admit(plan: &Plan, images: &Path) -> Result<(), PrepareError> {
    let UserNamespace::New(mappings) = &plan.namespaces.user else {
        return Ok(());
    };
    let Some(group) = outside(&mappings.groups, 0) else {
        return Ok(());
    };
    let admitted = (|| {
        let found = fs::metadata(images)?;
        let (mode, own) = (found.mode(), found.gid() == group);
        if mode & 0o001 != 0 || (own && mode & 0o010 != 0) {
            return Ok(());
        }
        chown(images, None, Some(group))?;
        // What another group was allowed this one is not.
        let mode = (mode & 0o7707) | 0o010;
        fs::set_permissions(images, fs::Permissions::from_mode(mode))
    })();
    admitted.map_err(|source: io::Error| PrepareError::Admit {
        path: images.to_owned(),
        group,
        source,
    })
}
