//! What is in an image, layer by layer, and what of it is in vain.
//!
//! The layers' tars are read once, from the lowest to the topmost, as a container sees them: a file
//! that a later layer replaces or removes is wasted, since everybody transfers and keeps it and
//! nobody sees it; files of the same content that stay visible are duplicates.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

use vocab::{Digest, Failure, Kind};

use crate::compression;
use crate::hash::Hasher;
use crate::images::Image;
use crate::metadata::MetadataError;
use crate::store::{COPY_BYTES, Store};
use crate::tree::{Entry, Node, Splitter, UnpackError, Visit, shown};

/// Files that a report names at most, in each of its lists.
const NAMED_FILES: usize = 20;
/// Files below this size are no duplicates worth a line.
const DUPLICATE_BYTES_MIN: u64 = 4096;

/// What is in an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explained {
    /// Lowest first.
    pub layers: Vec<ExplainedLayer>,
    /// Bytes that later layers hide.
    pub wasted_bytes: u64,
    /// Bytes that visible files have in common with other visible files.
    pub duplicate_bytes: u64,
    /// The largest visible files, largest first.
    pub largest: Vec<NamedFile>,
    /// Files that were hidden, the largest first.
    pub wasted: Vec<NamedFile>,
    /// Groups of visible files with the same content, those that cost most first.
    pub duplicates: Vec<Vec<NamedFile>>,
}

/// One layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExplainedLayer {
    /// Bytes of its files.
    pub size_bytes: u64,
    /// Its files, links and devices.
    pub files: u64,
    /// Bytes of it that later layers hide.
    pub wasted_bytes: u64,
    /// Bytes of lower layers that it hides.
    pub hides_bytes: u64,
}

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedFile {
    /// Bytes.
    pub size_bytes: u64,
    /// From the root, fit to be printed.
    pub path: String,
    /// Which layer brought it: 0 is the lowest.
    pub layer: usize,
}

/// Why an image was not explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// A layer cannot be read.
    #[error("read layer {layer}")]
    Read {
        /// Which.
        layer: Digest,
        /// What the system or the decoder said.
        source: io::Error,
    },
    /// A layer is no sound tar any more.
    #[error("layer {layer} is not a sound tar: {reason}")]
    Malformed {
        /// Which.
        layer: Digest,
        /// What is wrong.
        reason: String,
    },
    /// The tables.
    #[error("explain image")]
    Metadata(#[from] MetadataError),
}

impl Failure for ExplainError {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

impl Store {
    /// Reads an image through.
    pub fn explain(&self, image: &Image) -> Result<Explained, ExplainError> {
        let _lease = self.hold_image(image)?;
        let mut reading = Reading::default();
        for diff_id in &image.config.rootfs.diff_ids {
            reading.begin();
            self.read_layer_into(diff_id, &mut reading)?;
        }
        Ok(reading.finish())
    }

    fn read_layer_into(&self, diff_id: &Digest, reading: &mut Reading) -> Result<(), ExplainError> {
        let read = |source| ExplainError::Read {
            layer: diff_id.clone(),
            source,
        };
        let unsound = |error: UnpackError| ExplainError::Malformed {
            layer: diff_id.clone(),
            reason: error.to_string(),
        };
        let mut tar = self.plain_layer(diff_id)?.map_err(read)?;
        let mut splitter = Splitter::new();
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            match tar.read(&mut buffer).map_err(read)? {
                0 => break,
                count => splitter.push(&buffer[..count], reading).map_err(unsound)?,
            }
        }
        splitter.finish().map_err(unsound)
    }

    /// The plain tar of a layer: its own, or its blob's, decompressed.
    pub(crate) fn plain_layer(
        &self,
        diff_id: &Digest,
    ) -> Result<io::Result<Box<dyn Read>>, MetadataError> {
        let forms = self.tables().find_layer(diff_id)?;
        let forms = forms.map(|(_, forms)| forms).unwrap_or_default();
        let open = || {
            if let Some(tar) = self.layers().open_tar(diff_id)? {
                return Ok(Box::new(tar) as Box<dyn Read>);
            }
            for form in forms {
                if let Some(blob) = self.find_blob(&form.digest)? {
                    return compression::reader(blob);
                }
            }
            Err(io::ErrorKind::NotFound.into())
        };
        Ok(open())
    }
}

/// Where a file of the tree so far came from.
#[derive(Clone, Debug)]
struct Seen {
    layer: usize,
    size_bytes: u64,
    /// Of what is stored of it; nothing for what is no file.
    content: Option<Digest>,
}

#[derive(Default)]
struct Reading {
    layers: Vec<ExplainedLayer>,
    tree: BTreeMap<Vec<u8>, Seen>,
    wasted: Vec<NamedFile>,
    /// The file whose data comes.
    current: Option<(Vec<u8>, Hasher)>,
}

impl Reading {
    fn begin(&mut self) {
        self.layers.push(ExplainedLayer::default());
    }

    fn number(&self) -> usize {
        self.layers.len() - 1
    }

    /// A file of a lower layer is no longer seen.
    fn hide(&mut self, path: &[u8], seen: &Seen) {
        let number = self.number();
        // Replacing its own file wastes the tar's bytes too, but no other layer is to blame.
        if seen.layer != number {
            self.layers[number].hides_bytes += seen.size_bytes;
        }
        self.layers[seen.layer].wasted_bytes += seen.size_bytes;
        if seen.size_bytes > 0 {
            self.wasted.push(NamedFile {
                size_bytes: seen.size_bytes,
                path: printed(path),
                layer: seen.layer,
            });
        }
    }

    /// All of lower layers beneath a directory is gone.
    fn hide_beneath(&mut self, directory: &[u8]) {
        let number = self.number();
        let mut begin = directory.to_vec();
        if !begin.is_empty() {
            begin.push(b'/');
        }
        let gone: Vec<Vec<u8>> = self
            .tree
            .range(begin.clone()..)
            .take_while(|(path, _)| path.starts_with(&begin))
            .filter(|(_, seen)| seen.layer != number)
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            if let Some(seen) = self.tree.remove(&path) {
                self.hide(&path, &seen);
            }
        }
    }

    fn replace(&mut self, path: &[u8], new: Option<Seen>) {
        let old = match new {
            Some(new) => self.tree.insert(path.to_vec(), new),
            None => self.tree.remove(path),
        };
        if let Some(old) = old {
            self.hide(path, &old);
        }
    }

    fn finish(self) -> Explained {
        let Self {
            layers,
            tree,
            mut wasted,
            ..
        } = self;
        let mut files: Vec<NamedFile> = Vec::new();
        let mut contents: HashMap<Digest, Vec<NamedFile>> = HashMap::new();
        for (path, seen) in tree {
            if seen.size_bytes == 0 {
                continue;
            }
            let file = NamedFile {
                size_bytes: seen.size_bytes,
                path: printed(&path),
                layer: seen.layer,
            };
            if let Some(content) = seen.content {
                contents.entry(content).or_default().push(file.clone());
            }
            files.push(file);
        }
        let mut duplicates: Vec<Vec<NamedFile>> = contents
            .into_values()
            .filter(|same| same.len() > 1 && same[0].size_bytes >= DUPLICATE_BYTES_MIN)
            .collect();
        let cost = |same: &[NamedFile]| (same.len() as u64 - 1) * same[0].size_bytes;
        let duplicate_bytes = duplicates.iter().map(|same| cost(same)).sum();
        duplicates.sort_by(|a, b| cost(b).cmp(&cost(a)).then_with(|| a.cmp(b)));
        duplicates.truncate(NAMED_FILES);
        let largest_first = |files: &mut Vec<NamedFile>| {
            files.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.cmp(b)));
            files.truncate(NAMED_FILES);
        };
        largest_first(&mut files);
        largest_first(&mut wasted);
        Explained {
            wasted_bytes: layers.iter().map(|layer| layer.wasted_bytes).sum(),
            duplicate_bytes,
            layers,
            largest: files,
            wasted,
            duplicates,
        }
    }
}

fn printed(path: &[u8]) -> String {
    format!("/{}", shown(path))
}

impl Visit for Reading {
    fn entry(&mut self, entry: Entry) -> Result<(), UnpackError> {
        let layer = self.number();
        match &entry.node {
            Node::Opaque => self.hide_beneath(&entry.path),
            Node::Whiteout => {
                // A layer's own files are not hidden by its own whiteouts.
                if self
                    .tree
                    .get(&entry.path)
                    .is_some_and(|seen| seen.layer != layer)
                {
                    self.replace(&entry.path, None);
                }
                self.hide_beneath(&entry.path);
            }
            Node::Directory => {}
            Node::File(content) => {
                self.layers[layer].files += 1;
                self.layers[layer].size_bytes += content.size;
                let seen = Seen {
                    layer,
                    size_bytes: content.size,
                    content: None,
                };
                self.replace(&entry.path, Some(seen));
                self.current = Some((entry.path, Hasher::new(vocab::Algorithm::Sha256)));
            }
            _ => {
                self.layers[layer].files += 1;
                let seen = Seen {
                    layer,
                    size_bytes: 0,
                    content: None,
                };
                self.replace(&entry.path, Some(seen));
            }
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        if let Some((_, hasher)) = &mut self.current {
            hasher.update(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), UnpackError> {
        if let Some((path, hasher)) = self.current.take()
            && let Some(seen) = self.tree.get_mut(&path)
        {
            seen.content = Some(hasher.finish());
        }
        Ok(())
    }
}
