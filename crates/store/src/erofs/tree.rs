//! What a tar comes to: the tree after the last entry. All of it is in [`Pages`], so that it takes
//! no more memory than there is for it, however large the layer is.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::Target;
use super::image::Image;
use super::names::{Cursor, Names};
use super::nodes::{Body, Inode, Nodes, write_extents};
use super::pages::{Budget, Heap, Pages, Piece};
use super::xattrs;
use crate::tree::{Content, Entry, Node, UnpackError, Visit, shown, split};

/// The number of an inode, in the order in which they came.
pub(super) type Id = u32;
/// The root's.
pub(super) const ROOT: Id = 0;
/// Symbolic links that one path may lead through, as in the kernel (MAXSYMLINKS).
const LINKS_MAX: usize = 40;

/// The tree, as the entries so far leave it.
#[derive(Debug)]
pub(crate) struct Tree {
    pages: Pages,
    nodes: Nodes,
    names: Names,
    /// Targets of links, attributes, sparse maps.
    heap: Heap,
    /// The directory that the last entry was in.
    last: (Vec<u8>, Id),
    /// The attributes of the last entry that had any: often all have the same.
    last_xattrs: (Vec<u8>, Piece),
    size_bytes: u64,
}

impl Tree {
    /// Without `scratch` all of it stays in memory, however much that is.
    pub(crate) fn new(budget: Arc<Budget>, scratch: Option<PathBuf>) -> Result<Self, UnpackError> {
        let mut pages = Pages::new(budget, scratch);
        let names = Names::new(&mut pages)?;
        let mut nodes = Nodes::default();
        nodes.add(&mut pages, &Inode::directory(ROOT))?;
        Ok(Self {
            pages,
            nodes,
            names,
            heap: Heap::default(),
            last: (Vec::new(), ROOT),
            last_xattrs: (Vec::new(), Piece::NONE),
            size_bytes: 0,
        })
    }

    /// Bytes of the files so far.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Writes the image; `tar` is what the entries came from.
    pub(crate) fn write_image(
        mut self,
        tar: &File,
        target: &mut dyn Target,
    ) -> Result<(), UnpackError> {
        let length = tar.metadata().map_err(|source| UnpackError::Io {
            what: "look at",
            path: "the layer's tar".to_owned(),
            source,
        })?;
        Image::of(&mut self, length.len())?.write(tar, target)
    }

    pub(super) fn inode(&mut self, id: Id) -> Result<Inode, UnpackError> {
        self.nodes.get(&mut self.pages, id)
    }

    pub(super) fn set(&mut self, id: Id, inode: &Inode) -> Result<(), UnpackError> {
        self.nodes.set(&mut self.pages, id, inode)
    }

    pub(super) fn change<T>(
        &mut self,
        id: Id,
        change: impl FnOnce(&mut Inode) -> T,
    ) -> Result<T, UnpackError> {
        let mut inode = self.inode(id)?;
        let answer = change(&mut inode);
        self.set(id, &inode)?;
        Ok(answer)
    }

    pub(super) fn list(&mut self, directory: Id) -> Result<Cursor, UnpackError> {
        self.names.list(&mut self.pages, directory)
    }

    /// The next inode of a listing, whose name comes to be in `name`.
    pub(super) fn next(
        &mut self,
        cursor: &mut Cursor,
        name: &mut Vec<u8>,
    ) -> Result<Option<Id>, UnpackError> {
        Names::next(&mut self.pages, cursor, name)
    }

    pub(super) fn piece(&mut self, piece: Piece) -> Result<Vec<u8>, UnpackError> {
        self.heap.get(&mut self.pages, piece)
    }

    /// Where the bytes of a file are; nothing of what is none.
    pub(super) fn content(&mut self, inode: &Inode) -> Result<Option<Content>, UnpackError> {
        inode.content(&self.heap, &mut self.pages)
    }

    fn find(&mut self, parent: Id, name: &[u8]) -> Result<Option<(Id, Inode)>, UnpackError> {
        match self.names.find(&mut self.pages, parent, name)? {
            Some(id) => Ok(Some((id, self.inode(id)?))),
            None => Ok(None),
        }
    }

    fn put(&mut self, parent: Id, name: &[u8], inode: &Inode) -> Result<Id, UnpackError> {
        let id = self.nodes.add(&mut self.pages, inode)?;
        self.name(parent, name, id)?;
        Ok(id)
    }

    fn name(&mut self, parent: Id, name: &[u8], id: Id) -> Result<(), UnpackError> {
        self.names.put(&mut self.pages, parent, name, id)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<Piece, UnpackError> {
        self.heap.put(&mut self.pages, bytes)
    }

    /// The directory `path`, which is made if nothing named it. Symbolic links of this layer are
    /// followed, and never lead out of it.
    fn directory(&mut self, path: &[u8]) -> Result<Id, UnpackError> {
        if self.last.0 == path {
            return Ok(self.last.1);
        }
        let mut here = ROOT;
        let mut followed = 0;
        for (end, part) in parts(path) {
            let found = self.find(here, part)?;
            here = match self.step(here, found, &mut followed)? {
                Some(id) => id,
                None => match found {
                    Some((_, found)) if !found.is_whiteout() => {
                        return Err(UnpackError::Malformed(format!(
                            "`{}` leads through `{}`, which is no directory",
                            shown(path),
                            shown(&path[..end])
                        )));
                    }
                    whiteout => {
                        let mut made = Inode::directory(here);
                        made.marks.is_opaque = whiteout.is_some();
                        self.put(here, part, &made)?
                    }
                },
            };
        }
        self.last = (path.to_vec(), here);
        Ok(here)
    }

    /// The directory that what was found in a directory leads to, through links or not.
    fn step(
        &mut self,
        here: Id,
        found: Option<(Id, Inode)>,
        followed: &mut usize,
    ) -> Result<Option<Id>, UnpackError> {
        match found {
            Some((id, inode)) if inode.is_directory() => Ok(Some(id)),
            Some((_, inode)) => match inode.body {
                Body::Symlink { target } => self.follow(here, target, followed),
                _ => Ok(None),
            },
            None => Ok(None),
        }
    }

    /// The directory that a link in a directory leads to, as if the layer were all there is: `..`
    /// ends at its root, and so an absolute target begins there.
    fn follow(
        &mut self,
        from: Id,
        target: Piece,
        followed: &mut usize,
    ) -> Result<Option<Id>, UnpackError> {
        *followed += 1;
        if *followed > LINKS_MAX {
            return Ok(None);
        }
        let target = self.piece(target)?;
        let from = if target.starts_with(b"/") { ROOT } else { from };
        self.walk(from, &target, followed)
    }

    /// The directory that a path leads to from a directory, if it does.
    fn walk(
        &mut self,
        from: Id,
        path: &[u8],
        followed: &mut usize,
    ) -> Result<Option<Id>, UnpackError> {
        let mut here = from;
        for (_, part) in parts(path) {
            let next = match part {
                b"." => Some(here),
                b".." => match self.inode(here)?.body {
                    Body::Directory { parent } => Some(parent),
                    _ => None,
                },
                part => {
                    let found = self.find(here, part)?;
                    self.step(here, found, followed)?
                }
            };
            match next {
                Some(next) => here = next,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// What a hard link means: a file of this layer that is no directory. Links on the way are
    /// followed, and a link at the end is what is meant.
    fn target(&mut self, target: &[u8]) -> Result<Option<Id>, UnpackError> {
        let (parent, name) = split(target);
        let mut followed = 0;
        let Some(parent) = self.walk(ROOT, parent, &mut followed)? else {
            return Ok(None);
        };
        let found = self.find(parent, name)?;
        Ok(found
            .filter(|(_, inode)| !inode.is_directory() && !inode.is_whiteout())
            .map(|(id, _)| id))
    }

    /// Attributes of an entry; what overlayfs is told is not among them.
    fn settle(&mut self, inode: &mut Inode, entry: &Entry) -> Result<(), UnpackError> {
        inode.mode = u16::try_from(entry.mode).expect("modes have 12 bits");
        inode.uid = entry.uid;
        inode.gid = entry.gid;
        inode.mtime = entry.mtime;
        inode.xattrs = Piece::NONE;
        if !entry.xattrs.is_empty() {
            let encoded = xattrs::encode(&entry.xattrs);
            if self.last_xattrs.0 != encoded {
                let piece = self.keep(&encoded)?;
                self.last_xattrs = (encoded, piece);
            }
            inode.xattrs = self.last_xattrs.1;
        }
        Ok(())
    }

    /// Attributes of a directory that is there.
    fn settle_again(&mut self, id: Id, entry: &Entry) -> Result<(), UnpackError> {
        let mut inode = self.inode(id)?;
        self.settle(&mut inode, entry)?;
        self.set(id, &inode)
    }

    /// What this layer brings itself is not hidden by its own whiteout; only what lower layers have
    /// beneath it is.
    fn hide(
        &mut self,
        parent: Id,
        name: &[u8],
        existing: Option<(Id, Inode)>,
    ) -> Result<(), UnpackError> {
        match existing {
            Some((id, inode)) if inode.is_directory() => {
                self.change(id, |inode| inode.marks.is_opaque = true)
            }
            Some(_) => Ok(()),
            None => {
                self.put(parent, name, &Inode::whiteout())?;
                self.change(parent, |inode| inode.marks.has_whiteouts = true)
            }
        }
    }

    /// A new inode for an entry in this directory.
    fn inode_of(&mut self, parent: Id, node: &Node) -> Result<Inode, UnpackError> {
        let (body, size) = match node {
            Node::Directory => (Body::Directory { parent }, 0),
            Node::File(content) => {
                self.size_bytes += content.size;
                let sparse = match &content.sparse {
                    Some(extents) => self.keep(&write_extents(extents))?,
                    None => Piece::NONE,
                };
                let position = content.position;
                (Body::File { position, sparse }, content.size)
            }
            Node::Symlink(target) => {
                let kept = self.keep(target)?;
                (Body::Symlink { target: kept }, target.len() as u64)
            }
            &Node::Character { major, minor } => (Body::Character { major, minor }, 0),
            &Node::Block { major, minor } => (Body::Block { major, minor }, 0),
            Node::Fifo => (Body::Fifo, 0),
            Node::HardLink(_) | Node::Whiteout | Node::Opaque => {
                unreachable!("dealt with before")
            }
        };
        Ok(Inode::new(body, size, 0))
    }

    /// A directory, or a link to one, that is replaced must not be found again by its path.
    fn replace(&mut self, existing: Option<(Id, Inode)>) {
        let leads_on =
            |inode: Inode| matches!(inode.body, Body::Directory { .. } | Body::Symlink { .. });
        if existing.is_some_and(|(_, inode)| leads_on(inode)) {
            self.last = (Vec::new(), ROOT);
        }
    }
}

/// The components of a path, with where each ends.
fn parts(path: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut end = 0;
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty())
        .map(move |part| {
            if end > 0 {
                end += 1;
            }
            end += part.len();
            (end, part)
        })
}

impl Visit for Tree {
    fn entry(&mut self, entry: Entry) -> Result<(), UnpackError> {
        if let Node::Opaque = entry.node {
            let id = self.directory(&entry.path)?;
            return self.change(id, |inode| inode.marks.is_opaque = true);
        }
        if entry.path.is_empty() {
            return self.settle_again(ROOT, &entry);
        }
        let (parent_path, name) = split(&entry.path);
        let parent = self.directory(parent_path)?;
        let existing = self.find(parent, name)?;
        match &entry.node {
            Node::Whiteout => return self.hide(parent, name, existing),
            Node::HardLink(target) => {
                let Some(id) = self.target(target)? else {
                    return Err(UnpackError::Malformed(format!(
                        "`{}` is a hard link to `{}`, which is no file of this layer",
                        shown(&entry.path),
                        shown(target)
                    )));
                };
                self.replace(existing);
                return self.name(parent, name, id);
            }
            Node::Directory => {
                if let Some((id, inode)) = existing
                    && inode.is_directory()
                {
                    return self.settle_again(id, &entry);
                }
            }
            _ => {}
        }
        self.replace(existing);
        let mut inode = self.inode_of(parent, &entry.node)?;
        let hides = existing.is_some_and(|(_, inode)| inode.is_whiteout());
        inode.marks.is_opaque = hides && inode.is_directory();
        self.settle(&mut inode, &entry)?;
        self.put(parent, name, &inode)?;
        Ok(())
    }

    fn data(&mut self, _bytes: &[u8]) -> Result<(), UnpackError> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), UnpackError> {
        Ok(())
    }
}
