//! An EROFS image that indexes a tar: names, attributes and times are in the image, the bytes of
//! the files stay where they are in the tar, which is the image's only extra device.
//!
//! The same tar always gives the same image: nothing of the host, the clock or chance is in it.
//! It is read by Linux 6.4 and later (blocks below the page size; Debian's 6.1 too), through `fsopen` with
//! `source=IMAGE` and `device=TAR`.
//!
//! ```text
//! 0      nothing (room for a boot sector)
//! 1024   superblock, 128 bytes          block size 512, CRC-32C
//! 1152   device table: one slot of 128 bytes, the tar
//! 1536   inodes, each 64 bytes at a multiple of 32 (its number is offset / 32), followed by
//!          its extended attributes, and then by one of
//!          · chunk entries, 8 bytes each: block in the tar, or a hole     (files)
//!          · the last, partial block of its data, if that ends in the same block
//! …      data that fits beside no inode: long directories and links
//! …      chunks of sparse files whose pieces do not begin and end at blocks: copied from the tar
//! ```
//!
//! A directory is a row of blocks of 512 bytes, each with its entries sorted and the names behind
//! them; `.` and `..` are sorted among the others. Whiteouts are character devices 0:0 and an
//! opaque directory has `trusted.overlay.opaque`, as overlayfs reads them.
//!
//! What is known of the tar until its end is in pages (`pages`: where they go; `nodes`: inodes,
//! `names`: who is called what where), and the image is written as a stream: a layer of a million
//! entries takes no more memory than one of some ten thousand.
//!
//! The format is that of the kernel's `fs/erofs/erofs_fs.h` and its documentation; the reference
//! is `fsck.erofs` and `mkfs.erofs --tar=i`, against which the tests hold this writer. What it
//! leaves out: compression, shared attributes, compact inodes (they save a fifth of 1 MB and lose
//! owners above 65,535 and times of their own).

mod chunks;
mod fields;
mod image;
mod listing;
mod names;
mod nodes;
mod pages;
mod tree;
mod xattrs;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) use pages::Budget;
pub(crate) use tree::Tree;

use crate::tree::{Splitter, UnpackError};

/// Why a tar has no index.
#[derive(Debug, thiserror::Error)]
#[error("index the tar: {0}")]
pub struct IndexError(String);

impl From<UnpackError> for IndexError {
    fn from(error: UnpackError) -> Self {
        Self(vocab::failure::chain(&error))
    }
}

/// The image that indexes a whole, plain tar; all of it in memory.
pub fn index(tar: &File) -> Result<Vec<u8>, IndexError> {
    let mut image = Vec::new();
    let tree = Tree::new(Budget::of(0), None)?;
    index_to(tar, tree, &mut image)?;
    Ok(image)
}

/// The same image, written to a file, with as little memory as will do: what does not fit there is
/// for a while in files under `scratch`.
pub fn index_frugally(tar: &File, scratch: &Path, image: &mut File) -> Result<(), IndexError> {
    let tree = Tree::new(Budget::of(0), Some(scratch.to_owned()))?;
    index_to(tar, tree, image)
}

fn index_to(tar: &File, mut tree: Tree, image: &mut dyn Target) -> Result<(), IndexError> {
    let mut splitter = Splitter::new();
    let mut buffer = vec![0; crate::store::COPY_BYTES];
    let length = tar
        .metadata()
        .map_err(|error| IndexError(error.to_string()))?
        .len();
    let mut position = 0;
    loop {
        let count = tar
            .read_at(&mut buffer, position)
            .map_err(|error| IndexError(error.to_string()))?;
        if count == 0 {
            break;
        }
        splitter.push(&buffer[..count], &mut tree)?;
        position += count as u64;
        position += splitter.pass_over(&mut tree, length.saturating_sub(position))?;
    }
    splitter.finish()?;
    Ok(tree.write_image(tar, image)?)
}

/// What an image is written to.
pub(crate) trait Target {
    /// Comes first: as many zeros.
    fn set_length(&mut self, bytes: u64) -> io::Result<()>;
    /// Bytes within that length.
    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
}

impl Target for File {
    fn set_length(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }
}

impl Target for Vec<u8> {
    fn set_length(&mut self, bytes: u64) -> io::Result<()> {
        // Made as zeros, so that what stays zeros takes no memory.
        *self = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        Ok(())
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        self[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}
