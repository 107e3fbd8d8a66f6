//! Inodes as records of one size in pages.

use super::pages::{Heap, Number, PAGE_BYTES, Pages, Piece};
use super::tree::{Id, ROOT};
use crate::tree::{Content, Extent, Moment, UnpackError};

const RECORD_BYTES: usize = 81;
const RECORDS: usize = PAGE_BYTES / RECORD_BYTES;
/// Bytes of an extent in the heap.
const EXTENT_BYTES: usize = 16;

/// A file of any kind, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) body: Body,
    /// Of what it holds: a directory's is known when it has its place.
    pub(super) size: u64,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Moment,
    /// As they are written, without what overlayfs is told.
    pub(super) xattrs: Piece,
    pub(super) marks: Marks,
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Directory { parent: Id },
    File { position: u64, sparse: Piece },
    Symlink { target: Piece },
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// What overlayfs is told of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// That it hides what is beneath it.
    pub(super) is_opaque: bool,
    /// That it has whiteouts, so that they are not listed where no lower layer has the directory
    /// too.
    pub(super) has_whiteouts: bool,
}

/// What an inode is given once all of them are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) links: u32,
    /// The inode that lies behind it; none behind the last.
    pub(super) next: Option<Id>,
    /// Where it lies, which is its number on disk.
    pub(super) slot: u32,
    pub(super) xattr_bytes: u32,
    /// Where its data begins among the blocks of its kind.
    pub(super) block: u32,
    /// Blocks of a sparse file that are copied from the tar.
    pub(super) copied_blocks: u32,
    /// Log2 of the chunks of a file, in blocks.
    pub(super) chunk_bits: u8,
}

impl Inode {
    /// Root's, of 1970.
    pub(super) fn new(body: Body, size: u64, mode: u16) -> Self {
        Self {
            body,
            size,
            mode,
            uid: 0,
            gid: 0,
            mtime: Moment::default(),
            xattrs: Piece::NONE,
            marks: Marks::default(),
            place: Place::default(),
        }
    }

    /// What no entry names.
    pub(super) fn directory(parent: Id) -> Self {
        Self::new(Body::Directory { parent }, 0, 0o755)
    }

    pub(super) fn whiteout() -> Self {
        Self::new(Body::Character { major: 0, minor: 0 }, 0, 0)
    }

    pub(super) fn is_whiteout(&self) -> bool {
        matches!(self.body, Body::Character { major: 0, minor: 0 })
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory { .. })
    }

    /// Where the bytes of a file are; nothing of what is none.
    pub(super) fn content(
        &self,
        heap: &Heap,
        pages: &mut Pages,
    ) -> Result<Option<Content>, UnpackError> {
        let Body::File { position, sparse } = self.body else {
            return Ok(None);
        };
        let (stored, sparse) = match sparse {
            Piece::NONE => (self.size, None),
            piece => {
                let extents = read_extents(&heap.get(pages, piece)?);
                let stored = extents.iter().map(|extent| extent.length).sum();
                (stored, Some(extents))
            }
        };
        Ok(Some(Content {
            size: self.size,
            position,
            stored,
            sparse,
        }))
    }

    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut record = Record::default();
        let (kind, first, second) = match self.body {
            Body::File { position, sparse } => (1, position, sparse.number()),
            Body::Directory { parent } => (2, u64::from(parent), 0),
            Body::Character { major, minor } => (3, u64::from(major), u64::from(minor)),
            Body::Block { major, minor } => (4, u64::from(major), u64::from(minor)),
            Body::Fifo => (5, 0, 0),
            Body::Symlink { target } => (7, target.number(), 0),
        };
        record.put([kind]);
        record.put([u8::from(self.marks.is_opaque) | u8::from(self.marks.has_whiteouts) << 1]);
        record.put([self.place.chunk_bits]);
        record.put(self.mode.to_le_bytes());
        for number in [first, second, self.size, self.xattrs.number()] {
            record.put(number.to_le_bytes());
        }
        record.put(self.mtime.seconds.to_le_bytes());
        let place = &self.place;
        for number in [
            self.mtime.nanoseconds,
            self.uid,
            self.gid,
            place.links,
            place.next.unwrap_or(ROOT),
            place.slot,
            place.xattr_bytes,
            place.block,
            place.copied_blocks,
        ] {
            record.put(number.to_le_bytes());
        }
        record.bytes
    }

    fn decode(bytes: [u8; RECORD_BYTES]) -> Self {
        let mut record = Record { bytes, at: 0 };
        let [kind, marks, chunk_bits] = record.take();
        let mode = u16::from_le_bytes(record.take());
        let mut long = || u64::from_le_bytes(record.take());
        let (first, second, size, xattrs) = (long(), long(), long(), long());
        let seconds = i64::from_le_bytes(record.take());
        let mut short = || u32::from_le_bytes(record.take());
        let (nanoseconds, uid, gid) = (short(), short(), short());
        let place = Place {
            links: short(),
            next: Some(short()).filter(|next| *next != ROOT),
            slot: short(),
            xattr_bytes: short(),
            block: short(),
            copied_blocks: short(),
            chunk_bits,
        };
        let narrow = |number: u64| u32::try_from(number).expect("was written as such");
        let body = match kind {
            1 => Body::File {
                position: first,
                sparse: Piece::of_number(second),
            },
            2 => Body::Directory {
                parent: narrow(first),
            },
            3 => Body::Character {
                major: narrow(first),
                minor: narrow(second),
            },
            4 => Body::Block {
                major: narrow(first),
                minor: narrow(second),
            },
            5 => Body::Fifo,
            _ => Body::Symlink {
                target: Piece::of_number(first),
            },
        };
        Self {
            body,
            size,
            mode,
            uid,
            gid,
            mtime: Moment {
                seconds,
                nanoseconds,
            },
            xattrs: Piece::of_number(xattrs),
            marks: Marks {
                is_opaque: marks & 1 != 0,
                has_whiteouts: marks & 2 != 0,
            },
            place,
        }
    }
}

/// Fields one after the other.
struct Record {
    bytes: [u8; RECORD_BYTES],
    at: usize,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            bytes: [0; RECORD_BYTES],
            at: 0,
        }
    }
}

impl Record {
    fn put<const N: usize>(&mut self, field: [u8; N]) {
        self.bytes[self.at..self.at + N].copy_from_slice(&field);
        self.at += N;
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        field
    }
}

/// Extents as they are kept in the heap: never as nothing, for that would be no map at all.
pub(super) fn write_extents(extents: &[Extent]) -> Vec<u8> {
    if extents.is_empty() {
        return vec![0];
    }
    let mut bytes = Vec::with_capacity(extents.len() * EXTENT_BYTES);
    for extent in extents {
        bytes.extend_from_slice(&extent.offset.to_le_bytes());
        bytes.extend_from_slice(&extent.length.to_le_bytes());
    }
    bytes
}

fn read_extents(bytes: &[u8]) -> Vec<Extent> {
    let (numbers, _) = bytes.as_chunks::<8>();
    let (pairs, _) = numbers.as_chunks::<2>();
    pairs
        .iter()
        .map(|[offset, length]| Extent {
            offset: u64::from_le_bytes(*offset),
            length: u64::from_le_bytes(*length),
        })
        .collect()
}

/// All inodes of a tree.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    pages: Vec<Number>,
    count: u32,
}

impl Nodes {
    pub(super) fn add(&mut self, pages: &mut Pages, inode: &Inode) -> Result<Id, UnpackError> {
        let id = self.count;
        if (id as usize).is_multiple_of(RECORDS) {
            self.pages.push(pages.add()?);
        }
        self.count += 1;
        self.set(pages, id, inode)?;
        Ok(id)
    }

    pub(super) fn get(&self, pages: &mut Pages, id: Id) -> Result<Inode, UnpackError> {
        let (page, at) = self.find(id);
        let mut record = [0; RECORD_BYTES];
        record.copy_from_slice(&pages.read(page)?[at..at + RECORD_BYTES]);
        Ok(Inode::decode(record))
    }

    pub(super) fn set(&self, pages: &mut Pages, id: Id, inode: &Inode) -> Result<(), UnpackError> {
        let (page, at) = self.find(id);
        pages.write(page)?[at..at + RECORD_BYTES].copy_from_slice(&inode.encode());
        Ok(())
    }

    fn find(&self, id: Id) -> (Number, usize) {
        let id = id as usize;
        (self.pages[id / RECORDS], id % RECORDS * RECORD_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pages::Budget;
    use super::*;

    #[test]
    fn an_inode_is_read_as_it_was_written() {
        let mut pages = Pages::new(Budget::of(0), None);
        let mut nodes = Nodes::default();
        let mut heap = Heap::default();
        let piece = heap.put(&mut pages, b"something").unwrap();
        let bodies = [
            Body::Directory { parent: 7 },
            Body::File {
                position: u64::MAX,
                sparse: piece,
            },
            Body::Symlink { target: piece },
            Body::Character { major: 1, minor: 2 },
            Body::Block { major: 3, minor: 4 },
            Body::Fifo,
        ];
        let inode = |body| Inode {
            body,
            size: u64::MAX - 1,
            mode: 0o7777,
            uid: u32::MAX,
            gid: 5,
            mtime: Moment {
                seconds: i64::MIN,
                nanoseconds: 999_999_999,
            },
            xattrs: piece,
            marks: Marks {
                is_opaque: true,
                has_whiteouts: false,
            },
            place: Place {
                links: 1,
                next: Some(2),
                slot: 3,
                xattr_bytes: 4,
                block: 5,
                copied_blocks: u32::MAX,
                chunk_bits: 31,
            },
        };
        let ids = bodies.map(|body| nodes.add(&mut pages, &inode(body)).unwrap());
        for (id, body) in ids.into_iter().zip(bodies) {
            assert_eq!(nodes.get(&mut pages, id).unwrap(), inode(body));
        }
    }

    #[test]
    fn extents_are_read_as_they_were_written() {
        let extents = [(0, 1), (u64::MAX - 1, 1)].map(|(offset, length)| Extent { offset, length });
        assert_eq!(read_extents(&write_extents(&extents)), extents);
        assert_eq!(read_extents(&write_extents(&[])), []);
    }
}
