//! Which containers there are, by id and by name.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use vocab::ContainerId;

use super::FindError;
use super::owner::Request;
use super::record::{Course, Record};

/// What everybody may see of a container; replaced as a whole at each change.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) record: Arc<Record>,
    pub(crate) name: String,
    pub(crate) course: Course,
    /// Ends so far, of this engine's life.
    pub(crate) exits: u64,
    /// Whether it has been removed.
    pub(crate) gone: bool,
}

/// The way to a container's owner.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) id: ContainerId,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) view: watch::Receiver<Arc<View>>,
}

impl Handle {
    /// As it is now.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }
}

/// Which containers there are.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_id: BTreeMap<ContainerId, Handle>,
    /// Also of containers that are being made.
    names: HashMap<String, ContainerId>,
}

impl Index {
    /// Takes a name; answers with who has it.
    pub(crate) fn reserve(&mut self, name: &str, id: ContainerId) -> Result<(), ContainerId> {
        match self.names.get(name) {
            Some(owner) => Err(*owner),
            None => {
                self.names.insert(name.to_owned(), id);
                Ok(())
            }
        }
    }

    /// Gives a name back, if this container has it.
    pub(crate) fn release(&mut self, name: &str, id: ContainerId) {
        if self.names.get(name) == Some(&id) {
            self.names.remove(name);
        }
    }

    /// Makes a container known.
    pub(crate) fn insert(&mut self, handle: Handle) {
        self.by_id.insert(handle.id, handle);
    }

    /// Forgets a container and its names.
    pub(crate) fn remove(&mut self, id: &ContainerId) {
        self.by_id.remove(id);
        self.names.retain(|_, owner| owner != id);
    }

    /// By full id, name, or a prefix of the id that only it has.
    pub(crate) fn find(&self, typed: &str) -> Result<Handle, FindError> {
        let missing = || FindError::NotFound(typed.to_owned());
        if let Ok(id) = typed.parse::<ContainerId>()
            && let Some(handle) = self.by_id.get(&id)
        {
            return Ok(handle.clone());
        }
        let name = typed.strip_prefix('/').unwrap_or(typed);
        if let Some(id) = self.names.get(name) {
            return self.by_id.get(id).cloned().ok_or_else(missing);
        }
        let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if typed.is_empty() || typed.len() > 64 || !typed.bytes().all(hexadecimal) {
            return Err(missing());
        }
        let lowest: ContainerId = format!("{typed:0<64}").parse().map_err(|_| missing())?;
        let mut matches = self
            .by_id
            .range((Bound::Included(lowest), Bound::Unbounded))
            .take_while(|(id, _)| id.to_string().starts_with(typed));
        match (matches.next(), matches.next()) {
            (None, _) => Err(missing()),
            (Some((_, handle)), None) => Ok(handle.clone()),
            (Some(_), Some(_)) => Err(FindError::Ambiguous(typed.to_owned())),
        }
    }

    /// By id.
    pub(crate) fn get(&self, id: &ContainerId) -> Option<&Handle> {
        self.by_id.get(id)
    }

    /// All as they are now.
    pub(crate) fn views(&self) -> Vec<Arc<View>> {
        self.by_id.values().map(Handle::view).collect()
    }
}
