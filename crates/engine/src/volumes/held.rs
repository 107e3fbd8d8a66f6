//! Which volumes with a file system of their own are mounted, and for whom.
//!
//! ```text
//! nobody ──first holder──▶ mounted at <name>/_data ──last holder goes──▶ nobody
//! ```
//! A holder is a container that runs or is about to, or somebody who looks at the files of one that
//! does not. Nothing is written down: after a restart the containers that still run hold theirs
//! again, and what is mounted for nobody is taken away. A mount that lives on in a container's own
//! namespace is that container's.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use vocab::ContainerId;

use super::options::Own;
use crate::shared::lock;

/// Who holds each volume.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Each with a lock of its own: a server that does not answer keeps only its volume waiting.
    volumes: Mutex<HashMap<String, Arc<Mutex<BTreeSet<ContainerId>>>>>,
}

impl Held {
    fn of(&self, name: &str) -> Arc<Mutex<BTreeSet<ContainerId>>> {
        Arc::clone(lock(&self.volumes).entry(name.to_owned()).or_default())
    }

    /// Has it mounted. Blocks.
    pub(crate) fn hold(
        &self,
        name: &str,
        own: &Own,
        target: &Path,
        holder: ContainerId,
    ) -> io::Result<()> {
        let holders = self.of(name);
        let mut holders = lock(&holders);
        if holders.is_empty() {
            // What was left behind may be something else by now.
            runtime::host::unmount_all(target)?;
            own.mount(target)?;
        }
        holders.insert(holder);
        Ok(())
    }

    /// It is mounted for this one already.
    pub(crate) fn holds(&self, name: &str, holder: ContainerId) {
        lock(&self.of(name)).insert(holder);
    }

    /// Takes the mount away with its last holder. Doing it twice does no harm. Blocks.
    pub(crate) fn let_go(&self, name: &str, target: &Path, holder: ContainerId) -> io::Result<()> {
        let holders = self.of(name);
        let mut holders = lock(&holders);
        holders.remove(&holder);
        match holders.is_empty() {
            true => runtime::host::unmount_all(target),
            false => Ok(()),
        }
    }

    /// Takes the mount away unless somebody holds it; the volume may go then. Blocks.
    pub(crate) fn clear(&self, name: &str, target: &Path) -> io::Result<()> {
        let holders = self.of(name);
        let holders = lock(&holders);
        if !holders.is_empty() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        runtime::host::unmount_all(target)?;
        lock(&self.volumes).remove(name);
        Ok(())
    }
}
