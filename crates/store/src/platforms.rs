//! Images of several platforms under one name.
//!
//! Each platform's image is an image of its own. What they have in common is the index that led to
//! them: images with the same index are siblings. A name stands with the sibling that suits this
//! host best; the others have no name, are found by name and platform, are no dangling images, and
//! go when the last sibling with a name goes.

use vocab::image::ImageConfig;
use vocab::{Digest, Platform, Reference};

use crate::images::{FindError, Image, RemoveError, Removed, User, conflict};
use crate::metadata::{MetadataError, Tables};
use crate::store::Store;

impl Store {
    /// The image that a user means, for a platform: the one of that name or id, or its sibling.
    pub fn find_image_for(&self, typed: &str, wanted: &Platform) -> Result<Image, FindError> {
        let image = self.find_image(typed)?;
        let mut best = image.config.platform().rank_on(wanted);
        let mut chosen = None;
        for sibling in self.siblings(&image)? {
            let rank = sibling.config.platform().rank_on(wanted);
            if rank.is_some_and(|rank| best.is_none_or(|best| rank < best)) {
                (best, chosen) = (rank, Some(sibling));
            }
        }
        match (best, chosen) {
            (_, Some(sibling)) => Ok(sibling),
            (Some(_), None) => Ok(image),
            (None, None) => Err(FindError::Platform {
                typed: typed.to_owned(),
                found: Box::new(image.config.platform()),
                wanted: Box::new(wanted.clone()),
            }),
        }
    }

    /// The images of other platforms that the same index led to and that are here.
    pub fn siblings(&self, image: &Image) -> Result<Vec<Image>, FindError> {
        let ids = self.tables().siblings(&image.id);
        let ids = ids.map_err(|source| FindError::Metadata {
            typed: image.id.to_string(),
            source,
        })?;
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.extend(self.find_image_by_id(&id)?);
        }
        Ok(found)
    }

    /// Removes what is here of an image for these platforms. Its names stay with what is left; if
    /// nothing is left, they go with the last.
    pub fn remove_platforms(
        &self,
        typed: &str,
        platforms: &[Platform],
        force: bool,
        users: &dyn Fn(&Digest) -> Vec<User>,
    ) -> Result<Vec<Removed>, RemoveError> {
        let mut records = Vec::new();
        for platform in platforms {
            let image = self.find_image_for(typed, platform)?;
            let mut left = self.siblings(&image)?;
            left.sort_by_key(|sibling| rank_here(&sibling.config));
            let Some(heir) = left.first() else {
                records.extend(self.remove_image(typed, force, false, users)?);
                continue;
            };
            if let Some(conflict) = conflict(&image.id, force, &[], &users(&image.id)) {
                return Err(conflict);
            }
            let failed = |source| RemoveError::Metadata {
                image: image.id.short().to_owned(),
                source,
            };
            self.tables()
                .move_names(&image.id, &heir.id)
                .map_err(failed)?;
            records.extend(self.delete(&image.id, &[]).map_err(failed)?);
        }
        Ok(records)
    }

    /// Which of the names of an image being put in it gets: those that a sibling better for this
    /// host has stay there.
    pub(crate) fn names_to_move(
        &self,
        tables: &Tables,
        id: &Digest,
        index: Option<&Digest>,
        names: Vec<Reference>,
    ) -> Result<Vec<Reference>, MetadataError> {
        let Some(index) = index else {
            return Ok(names);
        };
        let own = self.rank_here(id);
        let mut moved = Vec::with_capacity(names.len());
        for name in names {
            let stays = match tables.find_name(&name)? {
                Some(holder) if holder != *id => {
                    let indexes = tables.indexes_of(&holder)?;
                    indexes.iter().any(|known| known.digest == *index)
                        && self.rank_here(&holder) < own
                }
                _ => false,
            };
            if !stays {
                moved.push(name);
            }
        }
        Ok(moved)
    }

    /// How well an image suits this host; lower is better.
    fn rank_here(&self, id: &Digest) -> u8 {
        let config = self.find_blob(id).ok().flatten();
        let config = config.and_then(|file| {
            let mut bytes = Vec::new();
            let mut file = std::io::Read::take(file, crate::limits::CONFIG_BYTES);
            std::io::Read::read_to_end(&mut file, &mut bytes).ok()?;
            vocab::config::read::<ImageConfig>(&bytes).ok()
        });
        config.map_or(u8::MAX, |config| rank_here(&config))
    }
}

fn rank_here(config: &ImageConfig) -> u8 {
    let rank = config.platform().rank_on(&Platform::host());
    rank.unwrap_or(u8::MAX)
}

/// Whether an image is only here as the sibling of one that has a name.
pub(crate) fn is_hidden(tables: &Tables, id: &Digest) -> Result<bool, MetadataError> {
    if !tables.names_of(id)?.is_empty() {
        return Ok(false);
    }
    for sibling in tables.siblings(id)? {
        if !tables.names_of(&sibling)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
