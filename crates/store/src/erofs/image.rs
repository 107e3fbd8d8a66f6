//! The tree on disk: first every inode gets its place, then all is written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Target;
use super::chunks::{self, Chunk, Place as ChunkPlace};
use super::tree::{Body, Id, Inode, ROOT, Tree};
use crate::limits;
use crate::store::COPY_BYTES;
use crate::tree::{Content, UnpackError};

/// 512, so that whatever a tar aligns is aligned here too.
pub(super) const BLOCK_BITS: u32 = 9;
pub(super) const BLOCK: u64 = 1 << BLOCK_BITS;
/// The image begins with as much as superblock and device table take.
const FIRST_INODE: u64 = 1536;
const SUPER_OFFSET: usize = 1024;
const SUPER_MAGIC: u32 = 0xE0F5_E1E2;
const DEVICE_SLOT: u64 = 128;
/// An inode's number is its offset in these.
const SLOT: u64 = 32;
const INODE_BYTES: u64 = 64;
const CHUNK_ENTRY_BYTES: u64 = 8;
const DIRENT_BYTES: usize = 12;

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
const XATTR_BYTES_MAX: u64 = 128 << 10;

/// A tree whose inodes have places.
pub(super) struct Image<'a> {
    tree: &'a Tree,
    /// In the order in which they lie; only those that still have a name.
    order: Vec<Id>,
    places: Vec<Option<Place>>,
    failure: Option<UnpackError>,
    /// Whole blocks of the tar.
    tar_blocks: u64,
    /// Blocks that are written at once; behind them lie the chunks that are copied.
    head_blocks: u64,
    blocks: u64,
}

#[derive(Clone, Debug)]
struct Place {
    offset: u64,
    links: u32,
    xattr_bytes: u64,
    data: Data,
}

/// Where an inode's data is.
#[derive(Clone, Debug)]
enum Data {
    /// Devices, fifos, empty files.
    None,
    /// In the tar, but for so many blocks that are copied to the image, from this one.
    Chunks {
        bits: u32,
        count: u64,
        copied_blocks: u64,
        block: u64,
    },
    /// All of it in whole blocks of the image, from this one.
    Plain { size: u64, block: u64 },
    /// Whole blocks from this one, the rest behind the inode.
    Inline { size: u64, block: u64 },
}

impl<'a> Image<'a> {
    pub(super) fn of(tree: &'a Tree, tar_bytes: u64) -> Self {
        let mut image = Self {
            tree,
            order: Vec::new(),
            places: vec![None; tree.nodes.len()],
            failure: None,
            tar_blocks: tar_bytes / BLOCK,
            head_blocks: 0,
            blocks: 0,
        };
        image.order();
        image.place();
        image
    }

    /// Breadth first, so that what one listing needs lies together; counts links on the way.
    fn order(&mut self) {
        let mut links = vec![0_u32; self.tree.nodes.len()];
        self.order.push(ROOT);
        links[ROOT] = 2;
        let mut next = 0;
        while let Some(&id) = self.order.get(next) {
            next += 1;
            let Body::Directory { children, .. } = &self.tree.nodes[id].body else {
                continue;
            };
            for &child in children.values() {
                let is_directory = matches!(self.tree.nodes[child].body, Body::Directory { .. });
                if links[child] == 0 {
                    self.order.push(child);
                }
                links[child] += if is_directory { 2 } else { 1 };
                if is_directory {
                    links[id] += 1;
                }
            }
        }
        for &id in &self.order {
            let place = Place {
                offset: 0,
                links: links[id],
                xattr_bytes: 0,
                data: Data::None,
            };
            self.places[id] = Some(place);
        }
    }

    fn place(&mut self) {
        let mut end = FIRST_INODE;
        for position in 0..self.order.len() {
            let id = self.order[position];
            let inode = &self.tree.nodes[id];
            let (xattr_bytes, data) = match self.measure(id, inode) {
                Ok(measured) => measured,
                Err(reason) => {
                    self.failure.get_or_insert(UnpackError::Malformed(reason));
                    return;
                }
            };
            let mut offset = end.next_multiple_of(SLOT);
            let body = INODE_BYTES + xattr_bytes;
            end = match &data {
                Data::Inline { size, .. } => {
                    let tail = size % BLOCK;
                    // What is inline ends in the block in which it begins.
                    if (offset + body) / BLOCK != (offset + body + tail - 1) / BLOCK {
                        let begin = (offset + body).next_multiple_of(BLOCK);
                        offset = (begin - body).next_multiple_of(SLOT);
                    }
                    offset + body + tail
                }
                Data::Chunks { count, .. } => {
                    (offset + body).next_multiple_of(CHUNK_ENTRY_BYTES) + count * CHUNK_ENTRY_BYTES
                }
                Data::Plain { .. } | Data::None => offset + body,
            };
            if end > limits::INDEX_BYTES {
                let reason = format!("its index would have more than {end} bytes");
                self.failure.get_or_insert(UnpackError::Malformed(reason));
                return;
            }
            let place = self.places[id]
                .as_mut()
                .expect("ordered inodes have places");
            place.offset = offset;
            place.xattr_bytes = xattr_bytes;
            place.data = data;
        }
        let mut next = end.div_ceil(BLOCK);
        self.give_blocks(&mut next, |data| match data {
            Data::Plain { size, block } => Some((size.div_ceil(BLOCK), block)),
            Data::Inline { size, block } => Some((*size / BLOCK, block)),
            _ => None,
        });
        self.head_blocks = next;
        self.give_blocks(&mut next, |data| match data {
            Data::Chunks {
                copied_blocks,
                block,
                ..
            } => Some((*copied_blocks, block)),
            _ => None,
        });
        self.blocks = next;
        let bytes = next.saturating_mul(BLOCK);
        if self.head_blocks * BLOCK > limits::INDEX_BYTES || bytes > limits::INDEX_BYTES_COPIED {
            let reason = format!("its index would have {bytes} bytes");
            self.failure.get_or_insert(UnpackError::Malformed(reason));
        }
    }

    /// Blocks of their own for those that `wanted` names.
    fn give_blocks(
        &mut self,
        next: &mut u64,
        wanted: impl Fn(&mut Data) -> Option<(u64, &mut u64)>,
    ) {
        for &id in &self.order {
            let place = self.places[id]
                .as_mut()
                .expect("ordered inodes have places");
            if let Some((count, block)) = wanted(&mut place.data)
                && count > 0
            {
                *block = *next;
                *next = next.saturating_add(count);
            }
        }
    }

    /// Bytes of attributes, and where the data will be; blocks are given later.
    fn measure(&self, id: Id, inode: &Inode) -> Result<(u64, Data), String> {
        let xattr_bytes = xattrs(inode).len() as u64;
        if xattr_bytes > XATTR_BYTES_MAX {
            return Err(format!(
                "it has a file with {xattr_bytes} bytes of extended attributes"
            ));
        }
        let stored = |size: u64| {
            let tail = size % BLOCK;
            // Inline data has to begin somewhere in a block and end in it.
            let begin = (INODE_BYTES + xattr_bytes) % SLOT;
            match size {
                0 => Data::None,
                _ if tail == 0 || begin + tail > BLOCK => Data::Plain { size, block: 0 },
                _ => Data::Inline { size, block: 0 },
            }
        };
        let data = match &inode.body {
            Body::Directory { .. } => stored(self.directory_size(id)),
            Body::Symlink(target) => stored(target.len() as u64),
            Body::File(content) if content.size == 0 => Data::None,
            Body::File(content) => {
                let bits = chunks::bits(content, self.tar_blocks);
                let count = content.size.div_ceil(BLOCK << bits);
                if count > chunks::COUNT_MAX {
                    return Err(format!("it has a sparse file of {} bytes", content.size));
                }
                let last = content
                    .position
                    .saturating_add(content.stored)
                    .div_ceil(BLOCK);
                if last >= u64::from(HOLE) {
                    return Err("it is above 2 TiB".to_owned());
                }
                let copied_blocks = chunks::of(content, bits, self.tar_blocks)
                    .filter(|chunk| matches!(chunk.place, ChunkPlace::Copied { .. }))
                    .map(|chunk| chunk.bytes().div_ceil(BLOCK))
                    .sum();
                Data::Chunks {
                    bits,
                    count,
                    copied_blocks,
                    block: 0,
                }
            }
            Body::Character { .. } | Body::Block { .. } | Body::Fifo => Data::None,
        };
        Ok((xattr_bytes, data))
    }

    /// Writes the image to `target`; `tar` is what the tree came from.
    pub(super) fn write(mut self, tar: &File, target: &mut dyn Target) -> Result<(), UnpackError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        target
            .set_length(self.blocks * BLOCK)
            .and_then(|()| target.put(0, &self.head()))
            .map_err(failed("write", "the layer's index"))?;
        let copied = self
            .order
            .iter()
            .filter_map(|&id| match self.placed(id).data {
                Data::Chunks {
                    bits,
                    copied_blocks: 1..,
                    block,
                    ..
                } => Some((&self.tree.nodes[id].body, bits, block)),
                _ => None,
            });
        let mut buffer = vec![0; COPY_BYTES];
        for (body, bits, block) in copied {
            let Body::File(content) = body else { continue };
            let mut at = block * BLOCK;
            for chunk in chunks::of(content, bits, self.tar_blocks) {
                if matches!(chunk.place, ChunkPlace::Copied { .. }) {
                    copy(content, &chunk, at, tar, &mut buffer, target)?;
                    at += chunk.bytes().next_multiple_of(BLOCK);
                }
            }
        }
        Ok(())
    }

    /// All but the chunks that are copied.
    fn head(&self) -> Vec<u8> {
        let mut bytes = vec![0; index(self.head_blocks * BLOCK)];
        for (number, &id) in (1_u32..).zip(&self.order) {
            let inode = &self.tree.nodes[id];
            let place = self.placed(id);
            put(&mut bytes, place.offset, &header(inode, place, number));
            put(&mut bytes, place.offset + INODE_BYTES, &xattrs(inode));
            let behind = place.offset + INODE_BYTES + place.xattr_bytes;
            let data = match (&place.data, &inode.body) {
                (Data::None, _) => continue,
                (Data::Chunks { bits, block, .. }, Body::File(content)) => {
                    let entries = self.chunk_entries(content, *bits, *block);
                    put(
                        &mut bytes,
                        behind.next_multiple_of(CHUNK_ENTRY_BYTES),
                        &entries,
                    );
                    continue;
                }
                (_, Body::Symlink(target)) => target.clone(),
                _ => self.directory_data(id),
            };
            match place.data {
                Data::Plain { block, .. } => put(&mut bytes, block * BLOCK, &data),
                Data::Inline { block, .. } => {
                    let (whole, tail) = data.split_at(data.len() - data.len() % index(BLOCK));
                    put(&mut bytes, block * BLOCK, whole);
                    put(&mut bytes, behind, tail);
                }
                _ => {}
            }
        }
        let devices = device_slot(self.tar_blocks);
        put(&mut bytes, SUPER_OFFSET as u64 + 128, &devices);
        let superblock = self.superblock();
        put(&mut bytes, SUPER_OFFSET as u64, &superblock);
        let sum = crc32c(&bytes[SUPER_OFFSET..SUPER_OFFSET + index(BLOCK)]);
        put(&mut bytes, SUPER_OFFSET as u64 + 4, &sum.to_le_bytes());
        bytes
    }

    fn chunk_entries(&self, content: &Content, bits: u32, first_copy: u64) -> Vec<u8> {
        let mut fields = Fields::default();
        let mut next_copy = first_copy;
        for chunk in chunks::of(content, bits, self.tar_blocks) {
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
            fields.u16(0);
            fields.u16(device);
            fields.u32(u32::try_from(block).expect("bounded when measured"));
        }
        fields.0
    }

    fn placed(&self, id: Id) -> &Place {
        self.places[id]
            .as_ref()
            .expect("only inodes with names are asked for")
    }

    fn number(&self, id: Id) -> u64 {
        self.placed(id).offset / SLOT
    }

    fn superblock(&self) -> Vec<u8> {
        let mut fields = Fields::default();
        fields.u32(SUPER_MAGIC);
        fields.u32(0); // checksum, put in last
        fields.u32(COMPAT_CHECKSUM | COMPAT_MTIME);
        fields.u8(9); // log2 of the block size
        fields.u8(0); // slots behind the superblock
        fields.u16(u16::try_from(self.number(ROOT)).expect("the root comes first"));
        fields.u64(self.order.len() as u64);
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
        let slot = (SUPER_OFFSET as u64 + 128) / DEVICE_SLOT;
        fields.u16(u16::try_from(slot).expect("the table follows the superblock"));
        fields.0
    }

    /// Names of a directory with their inode and type, sorted.
    fn names(&self, id: Id) -> Vec<(&[u8], Id)> {
        let Body::Directory { parent, children } = &self.tree.nodes[id].body else {
            return Vec::new();
        };
        let mut names: Vec<(&[u8], Id)> = Vec::with_capacity(children.len() + 2);
        names.push((b".", id));
        names.push((b"..", *parent));
        names.extend(
            children
                .iter()
                .map(|(name, child)| (name.as_slice(), *child)),
        );
        names.sort_unstable_by_key(|(name, _)| *name);
        names
    }

    fn directory_size(&self, id: Id) -> u64 {
        let names = self.names(id);
        let blocks = blocks_of(&names);
        let last = blocks.last().map_or(&[][..], |block| block);
        let full = blocks.len().saturating_sub(1) as u64 * BLOCK;
        full + last
            .iter()
            .map(|(name, _)| (DIRENT_BYTES + name.len()) as u64)
            .sum::<u64>()
    }

    fn directory_data(&self, id: Id) -> Vec<u8> {
        let names = self.names(id);
        let mut data = Vec::new();
        for block in blocks_of(&names) {
            data.resize(data.len().next_multiple_of(index(BLOCK)), 0);
            let mut fields = Fields::default();
            let mut name_offset = block.len() * DIRENT_BYTES;
            for (name, child) in block {
                fields.u64(self.number(*child));
                fields.u16(u16::try_from(name_offset).expect("a block is 512 bytes"));
                fields.u8(file_type(&self.tree.nodes[*child].body));
                fields.u8(0);
                name_offset += name.len();
            }
            for (name, _) in block {
                fields.0.extend_from_slice(name);
            }
            data.extend_from_slice(&fields.0);
        }
        data
    }
}

/// Names cut into what fits a block each. A block that is not full ends with a NUL, which is there
/// because blocks begin as zeros.
fn blocks_of<'a, 'b>(names: &'b [(&'a [u8], Id)]) -> Vec<&'b [(&'a [u8], Id)]> {
    let mut blocks = Vec::new();
    let (mut begin, mut used) = (0, 0);
    for (position, (name, _)) in names.iter().enumerate() {
        let wanted = DIRENT_BYTES + name.len();
        if used + wanted > index(BLOCK) {
            blocks.push(&names[begin..position]);
            (begin, used) = (position, 0);
        }
        used += wanted;
    }
    if begin < names.len() {
        blocks.push(&names[begin..]);
    }
    blocks
}

fn file_type(body: &Body) -> u8 {
    match body {
        Body::File(_) => 1,
        Body::Directory { .. } => 2,
        Body::Character { .. } => 3,
        Body::Block { .. } => 4,
        Body::Fifo => 5,
        Body::Symlink(_) => 7,
    }
}

fn header(inode: &Inode, place: &Place, number: u32) -> Vec<u8> {
    let (layout, size, union) = match &place.data {
        Data::None => (LAYOUT_PLAIN, 0, [0; 4]),
        Data::Plain { size, block } => (LAYOUT_PLAIN, *size, block32(*block)),
        Data::Inline { size, block } => (LAYOUT_INLINE, *size, block32(*block)),
        Data::Chunks { bits, .. } => {
            let Body::File(content) = &inode.body else {
                unreachable!("only files have chunks")
            };
            let format = CHUNK_INDEXES | u16::try_from(*bits).expect("below 32");
            let [low, high] = format.to_le_bytes();
            (LAYOUT_CHUNKS, content.size, [low, high, 0, 0])
        }
    };
    let (kind, union) = match &inode.body {
        Body::Directory { .. } => (libc_mode::DIRECTORY, union),
        Body::File(_) => (libc_mode::FILE, union),
        Body::Symlink(_) => (libc_mode::SYMLINK, union),
        Body::Character { major, minor } => (libc_mode::CHARACTER, device(*major, *minor)),
        Body::Block { major, minor } => (libc_mode::BLOCK, device(*major, *minor)),
        Body::Fifo => (libc_mode::FIFO, union),
    };
    // Symbolic links show 0777 everywhere, whatever the tar says.
    let permissions = match &inode.body {
        Body::Symlink(_) => 0o777,
        _ => inode.mode,
    };
    let icount = match place.xattr_bytes {
        0 => 0,
        bytes => (bytes - 12) / 4 + 1,
    };
    let mut fields = Fields::default();
    fields.u16(1 | layout << 1); // the 64-byte form
    fields.u16(u16::try_from(icount).expect("attributes are bounded"));
    fields.u16(u16::try_from(kind | permissions).expect("modes have 16 bits"));
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

/// The type bits of a mode.
mod libc_mode {
    pub(super) const FIFO: u32 = 0o010_000;
    pub(super) const CHARACTER: u32 = 0o020_000;
    pub(super) const DIRECTORY: u32 = 0o040_000;
    pub(super) const BLOCK: u32 = 0o060_000;
    pub(super) const FILE: u32 = 0o100_000;
    pub(super) const SYMLINK: u32 = 0o120_000;
}

fn block32(block: u64) -> [u8; 4] {
    u32::try_from(block).unwrap_or(u32::MAX).to_le_bytes()
}

/// A device number as the kernel's `new_encode_dev` writes it.
fn device(major: u32, minor: u32) -> [u8; 4] {
    ((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)).to_le_bytes()
}

/// Extended attributes behind an inode; nothing if there are none that EROFS can name.
fn xattrs(inode: &Inode) -> Vec<u8> {
    /// Prefixes that have a number of their own.
    const PREFIXES: [(&[u8], u8); 5] = [
        (b"user.", 1),
        (b"system.posix_acl_access", 2),
        (b"system.posix_acl_default", 3),
        (b"trusted.", 4),
        (b"security.", 6),
    ];
    let mut fields = Fields::default();
    for (name, value) in &inode.xattrs {
        let known = PREFIXES.iter().find_map(|(prefix, number)| {
            let rest = name.strip_prefix(*prefix)?;
            (rest.is_empty() == prefix.starts_with(b"system.")).then_some((rest, *number))
        });
        let (Some((rest, number)), Ok(value_bytes)) = (known, u16::try_from(value.len())) else {
            // No file system would show it either.
            continue;
        };
        fields.u8(u8::try_from(rest.len()).expect("names are at most 255 bytes"));
        fields.u8(number);
        fields.u16(value_bytes);
        fields.0.extend_from_slice(rest);
        fields.0.extend_from_slice(value);
        fields.0.resize(fields.0.len().next_multiple_of(4), 0);
    }
    if fields.0.is_empty() {
        return fields.0;
    }
    // No name filter, no shared attributes.
    [vec![0; 12], fields.0].concat()
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
                .map_err(failed("write", "the layer's index"))?;
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

/// Little-endian fields one after the other.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
}

fn put(bytes: &mut [u8], offset: u64, data: &[u8]) {
    let offset = index(offset);
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

/// Offsets within an image that is held in memory.
fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("the image is in memory")
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
