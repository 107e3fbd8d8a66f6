//! Volumes: the local driver.
//!
//! ```text
//! <data root>/volumes/<name>/_data      what is mounted into containers
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use vocab::{Failure, Kind};

use crate::containers::Pruned;
use crate::{Engine, FilterError, Filters};

/// A volume that is wanted.
#[derive(Clone, Debug, Default)]
pub struct CreateVolume {
    /// Its name; made up when empty.
    pub name: String,
    /// `local`, or empty.
    pub driver: String,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// `local`.
    pub driver: String,
    /// On the host.
    pub mountpoint: PathBuf,
    /// When it was made.
    pub created: SystemTime,
    /// Driver options; `None` when none were given.
    pub options: Option<BTreeMap<String, String>>,
    /// Labels; `None` when none were given.
    pub labels: Option<BTreeMap<String, String>>,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Debug, thiserror::Error)]
        pub enum $name {}

        impl Failure for $name {
            fn kind(&self) -> Kind {
                match *self {}
            }
        }
    )* };
}

errors!(
    /// Why a volume was not created.
    CreateVolumeError,
    /// Why a volume was not found.
    FindVolumeError,
    /// Why a volume was not removed.
    RemoveVolumeError,
);

impl Engine {
    /// Makes a volume, or finds the one of that name.
    pub async fn create_volume(&self, _wanted: CreateVolume) -> Result<Volume, CreateVolumeError> {
        todo!()
    }

    /// Volumes by name.
    pub async fn list_volumes(&self, _filters: Filters) -> Result<Vec<Volume>, FilterError> {
        todo!()
    }

    /// One volume.
    pub async fn inspect_volume(&self, _name: &str) -> Result<Volume, FindVolumeError> {
        todo!()
    }

    /// Removes a volume that no container uses; `force` forgives that there is none.
    pub async fn remove_volume(&self, _name: &str, _force: bool) -> Result<(), RemoveVolumeError> {
        todo!()
    }

    /// Removes anonymous volumes that no container uses, or with `all=true` every such volume.
    pub async fn prune_volumes(&self, _filters: Filters) -> Result<Pruned, FilterError> {
        todo!()
    }
}
