//! A file whose bytes come out of a tar, with holes where the tar says so.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::tree::{Content, Entry, Extent, Node, UnpackError, Visit, shown};

/// Who makes files of entries.
pub(crate) trait Fill {
    /// An entry begins. If it is a file, [`filling`](Self::filling) is that from now on.
    fn begin(&mut self, entry: Entry) -> Result<(), UnpackError>;
    /// The file whose data is coming.
    fn filling(&mut self) -> &mut Option<Filling>;
    /// A file has all of its bytes; its attributes are still to be set.
    fn filled(&mut self, entry: &Entry, file: &File) -> Result<(), UnpackError>;
}

impl<T: Fill> Visit for T {
    fn entry(&mut self, entry: Entry) -> Result<(), UnpackError> {
        self.begin(entry)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let filling = self.filling().as_mut();
        filling.expect("data follows a file").push(bytes)
    }

    fn end(&mut self) -> Result<(), UnpackError> {
        match self.filling().take() {
            Some(filling) => {
                let (entry, file) = filling.finish()?;
                self.filled(&entry, &file)
            }
            None => Ok(()),
        }
    }
}

/// The file whose data is coming.
pub(crate) struct Filling {
    pub(crate) entry: Entry,
    file: File,
    extents: Vec<Extent>,
    /// Which extent, and how far in it.
    at: (usize, u64),
}

impl Filling {
    /// The empty `file` becomes what `entry`, of this content, is.
    pub(crate) fn new(entry: Entry, file: File) -> Self {
        let extents = match &entry.node {
            Node::File(Content {
                sparse: Some(extents),
                ..
            }) => extents.clone(),
            Node::File(content) => vec![Extent {
                offset: 0,
                length: content.size,
            }],
            _ => Vec::new(),
        };
        Self {
            entry,
            file,
            extents,
            at: (0, 0),
        }
    }

    /// The next bytes.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), UnpackError> {
        while !bytes.is_empty() {
            let (index, within) = self.at;
            let Some(extent) = self.extents.get(index) else {
                return Err(UnpackError::Malformed(format!(
                    "`{}` has more data than its sparse map",
                    shown(&self.entry.path)
                )));
            };
            let left = extent.length - within;
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            self.file
                .write_all_at(&bytes[..take], extent.offset + within)
                .map_err(|source| UnpackError::Io {
                    what: "write",
                    path: shown(&self.entry.path),
                    source,
                })?;
            bytes = &bytes[take..];
            self.at = if take as u64 == left {
                (index + 1, 0)
            } else {
                (index, within + take as u64)
            };
        }
        Ok(())
    }

    /// All bytes came.
    pub(crate) fn finish(self) -> Result<(Entry, File), UnpackError> {
        if let Node::File(Content {
            size,
            sparse: Some(_),
            ..
        }) = &self.entry.node
        {
            let path = || shown(&self.entry.path);
            self.file.set_len(*size).map_err(|source| UnpackError::Io {
                what: "extend",
                path: path(),
                source,
            })?;
        }
        Ok((self.entry, self.file))
    }
}
