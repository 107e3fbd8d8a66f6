//! What a tar comes to: the tree after the last entry, in memory.

use std::collections::BTreeMap;
use std::fs::File;

use super::Target;
use super::image::Image;
use crate::tree::{Content, Entry, Moment, Node, UnpackError, Visit, shown, split};

/// Where a node stands in [`Tree::nodes`].
pub(super) type Id = usize;
/// The root's place.
pub(super) const ROOT: Id = 0;
/// Symbolic links that one path may lead through, as in the kernel (MAXSYMLINKS).
const LINKS_MAX: usize = 40;
/// What overlayfs reads on a directory that hides what is beneath it.
const OPAQUE: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");

/// What overlayfs reads on a directory that has whiteouts, so that it does not list them where no
/// lower layer has the directory too.
const ORIGIN: (&[u8], &[u8]) = (b"trusted.overlay.origin", b"");

/// The tree, as the entries so far leave it.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(super) nodes: Vec<Inode>,
    /// The directory that the last entry was in.
    last: (Vec<u8>, Id),
    size_bytes: u64,
}

/// A file of any kind, whatever it is called.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) body: Body,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Moment,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub(super) enum Body {
    Directory {
        parent: Id,
        children: BTreeMap<Vec<u8>, Id>,
    },
    File(Content),
    Symlink(Vec<u8>),
    Character {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
}

impl Inode {
    /// What no entry names: 0755, root's, of 1970.
    fn directory(parent: Id) -> Self {
        Self {
            body: Body::Directory {
                parent,
                children: BTreeMap::new(),
            },
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Moment::default(),
            xattrs: Vec::new(),
        }
    }

    fn whiteout() -> Self {
        Self {
            body: Body::Character { major: 0, minor: 0 },
            mode: 0,
            ..Self::directory(ROOT)
        }
    }

    fn is_whiteout(&self) -> bool {
        matches!(self.body, Body::Character { major: 0, minor: 0 })
    }

    fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory { .. })
    }

    fn make_opaque(&mut self) {
        self.mark(OPAQUE);
    }

    /// One of the attributes by which overlayfs is told something.
    fn mark(&mut self, (name, value): (&[u8], &[u8])) {
        self.xattrs.retain(|(known, _)| known != name);
        self.xattrs.push((name.to_vec(), value.to_vec()));
    }

    /// Attributes of an entry; what overlayfs is told is not among them.
    fn settle(&mut self, entry: Entry) {
        let marks = [OPAQUE, ORIGIN].map(|mark| {
            let marked = self.xattrs.iter().any(|(name, _)| name == mark.0);
            marked.then_some(mark)
        });
        self.mode = entry.mode;
        self.uid = entry.uid;
        self.gid = entry.gid;
        self.mtime = entry.mtime;
        self.xattrs = entry.xattrs;
        for mark in marks.into_iter().flatten() {
            self.mark(mark);
        }
    }
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self {
            nodes: vec![Inode::directory(ROOT)],
            last: (Vec::new(), ROOT),
            size_bytes: 0,
        }
    }

    /// Bytes of the files so far.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Writes the image; `tar` is what the entries came from.
    pub(crate) fn write_image(
        self,
        tar: &File,
        target: &mut dyn Target,
    ) -> Result<(), UnpackError> {
        let length = tar.metadata().map_err(|source| UnpackError::Io {
            what: "look at",
            path: "the layer's tar".to_owned(),
            source,
        })?;
        Image::of(&self, length.len()).write(tar, target)
    }

    fn find(&self, parent: Id, name: &[u8]) -> Option<Id> {
        match &self.nodes[parent].body {
            Body::Directory { children, .. } => children.get(name).copied(),
            _ => None,
        }
    }

    fn put(&mut self, parent: Id, name: &[u8], inode: Inode) -> Id {
        let id = self.nodes.len();
        self.nodes.push(inode);
        self.name(parent, name, id);
        id
    }

    fn name(&mut self, parent: Id, name: &[u8], id: Id) {
        match &mut self.nodes[parent].body {
            Body::Directory { children, .. } => {
                children.insert(name.to_vec(), id);
            }
            _ => unreachable!("a parent is a directory"),
        }
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
            here = match self.step(here, part, &mut followed) {
                Some(id) => id,
                None => match self.find(here, part) {
                    Some(id) if self.nodes[id].is_whiteout() => {
                        let made = self.put(here, part, Inode::directory(here));
                        self.nodes[made].make_opaque();
                        made
                    }
                    Some(_) => {
                        return Err(UnpackError::Malformed(format!(
                            "`{}` leads through `{}`, which is no directory",
                            shown(path),
                            shown(&path[..end])
                        )));
                    }
                    None => self.put(here, part, Inode::directory(here)),
                },
            };
        }
        self.last = (path.to_vec(), here);
        Ok(here)
    }

    /// The directory that a name in a directory leads to, through links or not.
    fn step(&self, here: Id, part: &[u8], followed: &mut usize) -> Option<Id> {
        let id = self.find(here, part)?;
        match &self.nodes[id].body {
            Body::Directory { .. } => Some(id),
            Body::Symlink(target) => self.follow(here, target, followed),
            _ => None,
        }
    }

    /// The directory that a link in a directory leads to, as if the layer were all there is: `..`
    /// ends at its root, and so an absolute target begins there.
    fn follow(&self, from: Id, target: &[u8], followed: &mut usize) -> Option<Id> {
        *followed += 1;
        if *followed > LINKS_MAX {
            return None;
        }
        let mut here = if target.starts_with(b"/") { ROOT } else { from };
        for (_, part) in parts(target) {
            here = match part {
                b"." => here,
                b".." => match &self.nodes[here].body {
                    Body::Directory { parent, .. } => *parent,
                    _ => return None,
                },
                part => self.step(here, part, followed)?,
            };
        }
        Some(here)
    }

    /// What a hard link means: a file of this layer that is no directory. Links on the way are
    /// followed, and a link at the end is what is meant.
    fn target(&self, target: &[u8]) -> Option<Id> {
        let (parent, name) = split(target);
        let mut followed = 0;
        let parent =
            parts(parent).try_fold(ROOT, |here, (_, part)| self.step(here, part, &mut followed))?;
        let found = self.find(parent, name)?;
        let inode = &self.nodes[found];
        (!inode.is_directory() && !inode.is_whiteout()).then_some(found)
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
            self.nodes[id].make_opaque();
            return Ok(());
        }
        if entry.path.is_empty() {
            self.nodes[ROOT].settle(entry);
            return Ok(());
        }
        let path = entry.path.clone();
        let (parent_path, name) = split(&path);
        let parent = self.directory(parent_path)?;
        let existing = self.find(parent, name);
        let body = match &entry.node {
            Node::Directory => {
                if let Some(id) = existing
                    && self.nodes[id].is_directory()
                {
                    self.nodes[id].settle(entry);
                    return Ok(());
                }
                let hides = existing.is_some_and(|id| self.nodes[id].is_whiteout());
                self.replace(existing);
                let id = self.put(parent, name, Inode::directory(parent));
                if hides {
                    self.nodes[id].make_opaque();
                }
                self.nodes[id].settle(entry);
                return Ok(());
            }
            Node::Whiteout => {
                // What this layer brings itself is not hidden by its own whiteout; only what
                // lower layers have beneath it is.
                match existing {
                    Some(id) if self.nodes[id].is_directory() => self.nodes[id].make_opaque(),
                    Some(_) => {}
                    None => {
                        self.put(parent, name, Inode::whiteout());
                        self.nodes[parent].mark(ORIGIN);
                    }
                }
                return Ok(());
            }
            Node::HardLink(target) => {
                let Some(id) = self.target(target) else {
                    return Err(UnpackError::Malformed(format!(
                        "`{}` is a hard link to `{}`, which is no file of this layer",
                        shown(&path),
                        shown(target)
                    )));
                };
                self.replace(existing);
                self.name(parent, name, id);
                return Ok(());
            }
            Node::File(content) => {
                self.size_bytes += content.size;
                Body::File(content.clone())
            }
            Node::Symlink(target) => Body::Symlink(target.clone()),
            Node::Character { major, minor } => Body::Character {
                major: *major,
                minor: *minor,
            },
            Node::Block { major, minor } => Body::Block {
                major: *major,
                minor: *minor,
            },
            Node::Fifo => Body::Fifo,
            Node::Opaque => unreachable!("dealt with above"),
        };
        self.replace(existing);
        let id = self.put(
            parent,
            name,
            Inode {
                body,
                ..Inode::directory(parent)
            },
        );
        self.nodes[id].settle(entry);
        Ok(())
    }

    fn data(&mut self, _bytes: &[u8]) -> Result<(), UnpackError> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), UnpackError> {
        Ok(())
    }
}

impl Tree {
    /// A directory, or a link to one, that is replaced must not be found again by its path.
    fn replace(&mut self, existing: Option<Id>) {
        let leads_on = |id: Id| {
            let body = &self.nodes[id].body;
            matches!(body, Body::Directory { .. } | Body::Symlink(_))
        };
        if existing.is_some_and(leads_on) {
            self.last = (Vec::new(), ROOT);
        }
    }
}
