//! The tree on disk: first every inode gets its place, then all is written, in two streams, so that
//! neither the image nor the places have to be in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Target;
use super::chunks::{self, Chunk, Place as ChunkPlace};
use super::fields::Fields;
use super::listing::{Block, Length, Listing};
use super::nodes::{Body, Inode};
use super::tree::{Id, ROOT, Tree};
use super::xattrs;
use crate::limits;
use crate::store::COPY_BYTES;
use crate::tree::{Content, UnpackError};

/// 512, so that whatever a tar aligns is aligned here too.
pub(super) const BLOCK_BITS: u32 = 9;
pub(super) const BLOCK: u64 = 1 << BLOCK_BITS;
/// The image begins with as much as superblock and device table take.
const FIRST_INODE: u64 = 1536;
const SUPER_OFFSET: usize = 1024;
const SUPER_BYTES: usize = 128;
const SUPER_MAGIC: u32 = 0xE0F5_E1E2;
const DEVICE_SLOT: u64 = 128;
/// An inode's number is its offset in these.
const SLOT: u64 = 32;
const INODE_BYTES: u64 = 64;
const CHUNK_ENTRY_BYTES: u64 = 8;

/// The superblock has a checksum.
const COMPAT_CHECKSUM: u32 = 1;
/// Inodes have times of their own.
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED: u32 = 4;
const INCOMPAT_DEVICES: u32 = 8;

const LAYOUT_PLAIN: u16 = 0;
const LAYOUT_INLINE: u16 = 2;
const LAYOUT_CHUNKS: u16 = 4;
/// Chunk entries name a device.
const CHUNK_INDEXES: u16 = 0x20;
/// A chunk that is not stored.
const HOLE: u32 = u32::MAX;
/// Extended attributes of one inode.
const XATTR_BYTES_MAX: usize = 128 << 10;
/// Bytes that are written at once.
const STREAM_BYTES: usize = 64 << 10;

/// A tree whose inodes have places.
pub(super) struct Image<'a> {
    tree: &'a mut Tree,
    /// Whole blocks of the tar.
    tar_blocks: u64,
    /// Inodes that still have a name.
    count: u64,
    /// Blocks of the inodes and what lies beside them; behind them lies other data.
    inode_blocks: u64,
    /// Blocks of inodes and that data; behind them lie the chunks that are copied.
    head_blocks: u64,
    blocks: u64,
}

/// Where an inode's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    /// Devices, fifos, empty files.
    None,
    /// In the tar, but for what is copied to the image.
    Chunks,
    /// All of it in whole blocks of the image.
    Plain,
    /// In whole blocks, and the rest behind the inode.
    Inline,
}

impl<'a> Image<'a> {
    pub(super) fn of(tree: &'a mut Tree, tar_bytes: u64) -> Result<Self, UnpackError> {
        let mut image = Self {
            tree,
            tar_blocks: tar_bytes / BLOCK,
            count: 1,
            inode_blocks: 0,
            head_blocks: 0,
            blocks: 0,
        };
        image.order()?;
        image.place()?;
        Ok(image)
    }

    /// Links all that has a name, breadth first, so that what one listing needs lies together;
    /// counts links and measures directories on the way.
    fn order(&mut self) -> Result<(), UnpackError> {
        let mut last = ROOT;
        let mut next = Some(ROOT);
        while let Some(id) = next {
            let inode = self.tree.inode(id)?;
            if let Body::Directory { parent } = inode.body {
                self.order_children(id, parent, &mut last)?;
            }
            next = self.tree.inode(id)?.place.next;
        }
        Ok(())
    }

    fn order_children(&mut self, id: Id, parent: Id, last: &mut Id) -> Result<(), UnpackError> {
        let mut length = Length::default();
        // `.` of its own, and `..` of each directory in it; its name is counted by its parent.
        let mut links = if id == ROOT { 2 } else { 0 };
        let mut listing = Listing::of(self.tree, id, parent)?;
        while let Some((name, child)) = listing.next(self.tree)? {
            length.add(name);
            if matches!(name, b"." | b"..") {
                continue;
            }
            let (is_new, is_directory) = self.tree.change(child, |inode| {
                let is_new = inode.place.links == 0;
                inode.place.links += if inode.is_directory() { 2 } else { 1 };
                (is_new, inode.is_directory())
            })?;
            if is_new {
                self.tree
                    .change(*last, |inode| inode.place.next = Some(child))?;
                *last = child;
                self.count += 1;
            }
            links += u32::from(is_directory);
        }
        self.tree.change(id, |inode| {
            inode.place.links += links;
            inode.size = length.bytes();
        })
    }

    fn place(&mut self) -> Result<(), UnpackError> {
        let mut end = FIRST_INODE;
        let (mut data_blocks, mut copied_blocks) = (0_u64, 0_u64);
        let mut next = Some(ROOT);
        while let Some(id) = next {
            let mut inode = self.tree.inode(id)?;
            self.measure(&mut inode)?;
            let size = inode.size;
            let mut offset = end.next_multiple_of(SLOT);
            let body = INODE_BYTES + u64::from(inode.place.xattr_bytes);
            let mut blocks = 0;
            end = match data(&inode) {
                Data::Inline => {
                    blocks = size / BLOCK;
                    let tail = size % BLOCK;
                    // What is inline ends in the block in which it begins.
                    if (offset + body) / BLOCK != (offset + body + tail - 1) / BLOCK {
                        let begin = (offset + body).next_multiple_of(BLOCK);
                        offset = (begin - body).next_multiple_of(SLOT);
                    }
                    offset + body + tail
                }
                Data::Chunks => {
                    let count = size.div_ceil(BLOCK << inode.place.chunk_bits);
                    (offset + body).next_multiple_of(CHUNK_ENTRY_BYTES) + count * CHUNK_ENTRY_BYTES
                }
                Data::Plain => {
                    blocks = size.div_ceil(BLOCK);
                    offset + body
                }
                Data::None => offset + body,
            };
            if end > limits::INDEX_BYTES {
                return Err(too_large(end, "more than "));
            }
            inode.place.slot = narrow(offset / SLOT);
            if inode.place.copied_blocks > 0 {
                inode.place.block = narrow(copied_blocks);
                copied_blocks += u64::from(inode.place.copied_blocks);
            } else if blocks > 0 {
                inode.place.block = narrow(data_blocks);
                data_blocks += blocks;
            }
            next = inode.place.next;
            self.tree.set(id, &inode)?;
        }
        self.inode_blocks = end.div_ceil(BLOCK);
        self.head_blocks = self.inode_blocks + data_blocks;
        self.blocks = self.head_blocks + copied_blocks;
        let bytes = self.blocks * BLOCK;
        if self.head_blocks * BLOCK > limits::INDEX_BYTES || bytes > limits::INDEX_BYTES_COPIED {
            return Err(too_large(bytes, ""));
        }
        Ok(())
    }

    /// How much of what an inode has.
    fn measure(&mut self, inode: &mut Inode) -> Result<(), UnpackError> {
        let xattr_bytes = self.xattrs(inode)?.len();
        if xattr_bytes > XATTR_BYTES_MAX {
            return Err(UnpackError::Malformed(format!(
                "it has a file with {xattr_bytes} bytes of extended attributes"
            )));
        }
        inode.place.xattr_bytes = narrow(xattr_bytes as u64);
        let Some(content) = self.tree.content(inode)? else {
            return Ok(());
        };
        if content.size == 0 {
            return Ok(());
        }
        let bits = chunks::bits(&content, self.tar_blocks);
        if content.size.div_ceil(BLOCK << bits) > chunks::COUNT_MAX {
            let reason = format!("it has a sparse file of {} bytes", content.size);
            return Err(UnpackError::Malformed(reason));
        }
        let last = content
            .position
            .saturating_add(content.stored)
            .div_ceil(BLOCK);
        if last >= u64::from(HOLE) {
            return Err(UnpackError::Malformed("it is above 2 TiB".to_owned()));
        }
        let copied: u64 = chunks::of(&content, bits, self.tar_blocks)
            .filter(|chunk| matches!(chunk.place, ChunkPlace::Copied { .. }))
            .map(|chunk| chunk.bytes().div_ceil(BLOCK))
            .sum();
        inode.place.chunk_bits = u8::try_from(bits).expect("below 32");
        // More is refused with all the others.
        inode.place.copied_blocks = u32::try_from(copied).unwrap_or(u32::MAX);
        Ok(())
    }

    /// What stands behind an inode of its attributes.
    fn xattrs(&mut self, inode: &Inode) -> Result<Vec<u8>, UnpackError> {
        let encoded = self.tree.piece(inode.xattrs)?;
        Ok(xattrs::behind(encoded, inode.marks))
    }

    /// Writes the image to `target`; `tar` is what the tree came from.
    pub(super) fn write(mut self, tar: &File, target: &mut dyn Target) -> Result<(), UnpackError> {
        target
            .set_length(self.blocks * BLOCK)
            .map_err(failed("write", INDEX))?;
        self.write_head(target)?;
        if self.blocks > self.head_blocks {
            self.copy_chunks(tar, target)?;
        }
        Ok(())
    }

    /// All but the chunks that are copied.
    fn write_head(&mut self, target: &mut dyn Target) -> Result<(), UnpackError> {
        let superblock = self.superblock()?;
        let mut inodes = Stream::at(SUPER_OFFSET as u64);
        inodes.put(target, SUPER_OFFSET as u64, &superblock)?;
        let mut blocks = Stream::at(self.inode_blocks * BLOCK);
        let mut next = Some(ROOT);
        let mut number = 0;
        while let Some(id) = next {
            let inode = self.tree.inode(id)?;
            number += 1;
            let place = &inode.place;
            let offset = u64::from(place.slot) * SLOT;
            inodes.put(target, offset, &self.header(&inode, number))?;
            let xattrs = self.xattrs(&inode)?;
            inodes.put(target, offset + INODE_BYTES, &xattrs)?;
            let behind = offset + INODE_BYTES + u64::from(place.xattr_bytes);
            match data(&inode) {
                Data::None => {}
                Data::Chunks => {
                    let behind = behind.next_multiple_of(CHUNK_ENTRY_BYTES);
                    self.write_chunk_entries(&inode, behind, &mut inodes, target)?;
                }
                Data::Plain | Data::Inline => {
                    let block = (self.inode_blocks + u64::from(place.block)) * BLOCK;
                    let mut out = Out {
                        target: &mut *target,
                        blocks: (&mut blocks, block),
                        inline: (&mut inodes, behind),
                        left: inode.size,
                        is_inline: data(&inode) == Data::Inline,
                    };
                    match inode.body {
                        Body::Symlink { target } => out.put(&self.tree.piece(target)?)?,
                        Body::Directory { parent } => self.write_directory(id, parent, &mut out)?,
                        _ => {}
                    }
                }
            }
            next = place.next;
        }
        inodes.finish(target)?;
        blocks.finish(target)
    }

    fn write_chunk_entries(
        &mut self,
        inode: &Inode,
        mut at: u64,
        out: &mut Stream,
        target: &mut dyn Target,
    ) -> Result<(), UnpackError> {
        let Some(content) = self.tree.content(inode)? else {
            return Ok(());
        };
        let mut next_copy = self.copied_from(inode);
        for chunk in chunks::of(&content, inode.place.chunk_bits.into(), self.tar_blocks) {
            // The tar is device 1, the image itself device 0.
            let (device, block) = match chunk.place {
                ChunkPlace::Hole => (0, u64::from(HOLE)),
                ChunkPlace::Tar { block } => (1, block),
                ChunkPlace::Copied { .. } => {
                    let block = next_copy;
                    next_copy += chunk.bytes().div_ceil(BLOCK);
                    (0, block)
                }
            };
            let mut fields = Fields::default();
            fields.u16(0);
            fields.u16(device);
            fields.u32(u32::try_from(block).expect("bounded when measured"));
            out.put(target, at, &fields.0)?;
            at += CHUNK_ENTRY_BYTES;
        }
        Ok(())
    }

    /// The first block of what is copied of a file.
    fn copied_from(&self, inode: &Inode) -> u64 {
        self.head_blocks + u64::from(inode.place.block)
    }

    fn write_directory(
        &mut self,
        id: Id,
        parent: Id,
        out: &mut Out<'_>,
    ) -> Result<(), UnpackError> {
        let mut block = Block::default();
        let mut listing = Listing::of(self.tree, id, parent)?;
        while let Some((name, child)) = listing.next(self.tree)? {
            let inode = self.tree.inode(child)?;
            let (number, file_type) = (inode.place.slot.into(), file_type(&inode.body));
            if !block.add(name, number, file_type) {
                let mut full = block.take();
                full.resize(index(BLOCK), 0);
                out.put(&full)?;
                block.add(name, number, file_type);
            }
        }
        out.put(&block.take())
    }

    fn copy_chunks(&mut self, tar: &File, target: &mut dyn Target) -> Result<(), UnpackError> {
        let mut buffer = vec![0; COPY_BYTES];
        let mut next = Some(ROOT);
        while let Some(id) = next {
            let inode = self.tree.inode(id)?;
            next = inode.place.next;
            if inode.place.copied_blocks == 0 {
                continue;
            }
            let Some(content) = self.tree.content(&inode)? else {
                continue;
            };
            let mut at = self.copied_from(&inode) * BLOCK;
            for chunk in chunks::of(&content, inode.place.chunk_bits.into(), self.tar_blocks) {
                if matches!(chunk.place, ChunkPlace::Copied { .. }) {
                    copy(&content, &chunk, at, tar, &mut buffer, target)?;
                    at += chunk.bytes().next_multiple_of(BLOCK);
                }
            }
        }
        Ok(())
    }

    /// Superblock and device table.
    fn superblock(&mut self) -> Result<Vec<u8>, UnpackError> {
        let root = self.tree.inode(ROOT)?.place.slot;
        let mut fields = Fields::default();
        fields.u32(SUPER_MAGIC);
        fields.u32(0); // checksum, put in last
        fields.u32(COMPAT_CHECKSUM | COMPAT_MTIME);
        fields.u8(9); // log2 of the block size
        fields.u8(0); // slots behind the superblock
        fields.u16(u16::try_from(root).expect("the root comes first"));
        fields.u64(self.count);
        fields.u64(0); // time of building
        fields.u32(0);
        fields.u32(u32::try_from(self.blocks).unwrap_or(u32::MAX));
        fields.u32(0); // inodes are counted from the beginning
        fields.u32(0); // no shared attributes
        fields.0.extend_from_slice(&[0; 16]); // uuid
        fields.0.extend_from_slice(&[0; 16]); // volume name
        fields.u32(INCOMPAT_CHUNKED | INCOMPAT_DEVICES);
        fields.u16(0); // compression
        fields.u16(1); // extra devices
        let slot = (SUPER_OFFSET as u64 + SUPER_BYTES as u64) / DEVICE_SLOT;
        fields.u16(u16::try_from(slot).expect("the table follows the superblock"));
        fields.0.resize(SUPER_BYTES, 0);
        fields.0.append(&mut device_slot(self.tar_blocks));
        fields.0.resize(index(BLOCK), 0);
        let sum = crc32c(&fields.0);
        fields.0[4..8].copy_from_slice(&sum.to_le_bytes());
        Ok(fields.0)
    }

    fn header(&self, inode: &Inode, number: u32) -> Vec<u8> {
        let place = &inode.place;
        let block = |blocks: u64| block32(self.inode_blocks + blocks);
        let (layout, size, union) = match data(inode) {
            Data::None => (LAYOUT_PLAIN, 0, [0; 4]),
            Data::Plain => (LAYOUT_PLAIN, inode.size, block(place.block.into())),
            // Without whole blocks it names none.
            Data::Inline if inode.size < BLOCK => (LAYOUT_INLINE, inode.size, [0; 4]),
            Data::Inline => (LAYOUT_INLINE, inode.size, block(place.block.into())),
            Data::Chunks => {
                let format = CHUNK_INDEXES | u16::from(place.chunk_bits);
                let [low, high] = format.to_le_bytes();
                (LAYOUT_CHUNKS, inode.size, [low, high, 0, 0])
            }
        };
        let (kind, union) = match inode.body {
            Body::Directory { .. } => (libc_mode::DIRECTORY, union),
            Body::File { .. } => (libc_mode::FILE, union),
            Body::Symlink { .. } => (libc_mode::SYMLINK, union),
            Body::Character { major, minor } => (libc_mode::CHARACTER, device(major, minor)),
            Body::Block { major, minor } => (libc_mode::BLOCK, device(major, minor)),
            Body::Fifo => (libc_mode::FIFO, union),
        };
        // Symbolic links show 0777 everywhere, whatever the tar says.
        let permissions = match inode.body {
            Body::Symlink { .. } => 0o777,
            _ => inode.mode,
        };
        let mut fields = Fields::default();
        fields.u16(1 | layout << 1); // the 64-byte form
        fields.u16(xattrs::count(place.xattr_bytes));
        fields.u16(kind | permissions);
        fields.u16(0);
        fields.u64(size);
        fields.0.extend_from_slice(&union);
        fields.u32(number);
        fields.u32(inode.uid);
        fields.u32(inode.gid);
        fields.u64(inode.mtime.seconds.cast_unsigned());
        fields.u32(inode.mtime.nanoseconds);
        fields.u32(place.links);
        fields.0.resize(index(INODE_BYTES), 0);
        fields.0
    }
}

/// Where the data of an inode is, once it is measured.
fn data(inode: &Inode) -> Data {
    let tail = inode.size % BLOCK;
    // Inline data has to begin somewhere in a block and end in it.
    let begin = (INODE_BYTES + u64::from(inode.place.xattr_bytes)) % SLOT;
    match inode.body {
        _ if inode.size == 0 => Data::None,
        Body::File { .. } => Data::Chunks,
        _ if tail == 0 || begin + tail > BLOCK => Data::Plain,
        _ => Data::Inline,
    }
}

/// How errors call what is written.
const INDEX: &str = "the layer's index";

fn too_large(bytes: u64, more: &str) -> UnpackError {
    UnpackError::Malformed(format!("its index would have {more}{bytes} bytes"))
}

/// Numbers of blocks and slots; what does not fit is refused with all that lies before it.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Bytes that are put one after the other, with small gaps of zeros.
struct Stream {
    begin: u64,
    bytes: Vec<u8>,
}

impl Stream {
    fn at(begin: u64) -> Self {
        Self {
            begin,
            bytes: Vec::with_capacity(STREAM_BYTES),
        }
    }

    fn put(&mut self, target: &mut dyn Target, at: u64, bytes: &[u8]) -> Result<(), UnpackError> {
        if self.bytes.len() + bytes.len() > STREAM_BYTES {
            self.finish(target)?;
            self.begin = at;
        }
        self.bytes.resize(index(at - self.begin), 0);
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self, target: &mut dyn Target) -> Result<(), UnpackError> {
        let written = target.put(self.begin, &self.bytes);
        self.begin += self.bytes.len() as u64;
        self.bytes.clear();
        written.map_err(failed("write", INDEX))
    }
}

/// Where the data of an inode goes: first whole blocks, then what is inline.
struct Out<'a> {
    target: &'a mut dyn Target,
    blocks: (&'a mut Stream, u64),
    inline: (&'a mut Stream, u64),
    left: u64,
    is_inline: bool,
}

impl Out<'_> {
    /// Takes the next bytes: whole blocks, but for the last ones.
    fn put(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let whole = match self.is_inline {
            true => usize::try_from(self.left / BLOCK * BLOCK).unwrap_or(usize::MAX),
            false => usize::MAX,
        };
        let (whole, tail) = bytes.split_at(whole.min(bytes.len()));
        self.left -= bytes.len() as u64;
        if !whole.is_empty() {
            let (stream, at) = &mut self.blocks;
            stream.put(self.target, *at, whole)?;
            *at += whole.len() as u64;
        }
        if !tail.is_empty() {
            let (stream, at) = &mut self.inline;
            stream.put(self.target, *at, tail)?;
            *at += tail.len() as u64;
        }
        Ok(())
    }
}

fn file_type(body: &Body) -> u8 {
    match body {
        Body::File { .. } => 1,
        Body::Directory { .. } => 2,
        Body::Character { .. } => 3,
        Body::Block { .. } => 4,
        Body::Fifo => 5,
        Body::Symlink { .. } => 7,
    }
}

/// The type bits of a mode.
mod libc_mode {
    pub(super) const FIFO: u16 = 0o010_000;
    pub(super) const CHARACTER: u16 = 0o020_000;
    pub(super) const DIRECTORY: u16 = 0o040_000;
    pub(super) const BLOCK: u16 = 0o060_000;
    pub(super) const FILE: u16 = 0o100_000;
    pub(super) const SYMLINK: u16 = 0o120_000;
}

fn block32(block: u64) -> [u8; 4] {
    u32::try_from(block).unwrap_or(u32::MAX).to_le_bytes()
}

/// A device number as the kernel's `new_encode_dev` writes it.
fn device(major: u32, minor: u32) -> [u8; 4] {
    ((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)).to_le_bytes()
}

/// For `map_err`.
fn failed(what: &'static str, path: &str) -> impl FnOnce(io::Error) -> UnpackError {
    let path = path.to_owned();
    move |source| UnpackError::Io { what, path, source }
}

/// Copies what is stored of a chunk to the image, where it begins at `to`.
fn copy(
    content: &Content,
    chunk: &Chunk,
    to: u64,
    tar: &File,
    buffer: &mut [u8],
    target: &mut dyn Target,
) -> Result<(), UnpackError> {
    for (offset, position, length) in chunks::stored(content, chunk) {
        let mut done = 0;
        while done < length {
            let take =
                usize::try_from(length - done).map_or(buffer.len(), |left| left.min(buffer.len()));
            let piece = &mut buffer[..take];
            tar.read_exact_at(piece, position + done)
                .map_err(failed("read", "the layer's tar"))?;
            target
                .put(to + (offset - chunk.begin) + done, piece)
                .map_err(failed("write", INDEX))?;
            done += take as u64;
        }
    }
    Ok(())
}

fn device_slot(blocks: u64) -> Vec<u8> {
    let mut fields = Fields::default();
    // The tag is what would be mounted if nobody said what to mount.
    fields.0.extend_from_slice(b"layer.tar");
    fields.0.resize(64, 0);
    fields.u32(u32::try_from(blocks).unwrap_or(u32::MAX));
    fields.u32(0); // has no place among the blocks of the image
    fields.0.resize(index(DEVICE_SLOT), 0);
    fields.0
}

/// Offsets within what is in memory.
fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("it is in memory")
}

/// CRC-32C as the kernel computes it: from all ones, without the last inversion.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_field() {
        // RFC 3720, appendix B.4, without its last inversion.
        assert_eq!(!crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(!crc32c(&[0xff; 32]), 0x62A8_AB43);
    }
}
