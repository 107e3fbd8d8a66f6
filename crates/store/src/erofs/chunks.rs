//! Files cut into chunks of one size, as EROFS wants them, and where the bytes of each are.
//!
//! Most files are one chunk in the tar. Those of a sparse file are as large as the borders of its
//! pieces allow, or as the [`COUNT_MAX`] entries of the index do; what is then not in one piece, or
//! does not begin at a block of the tar, is copied to the image.

use std::borrow::Cow;

use super::image::{BLOCK, BLOCK_BITS};
use crate::tree::{Content, Extent};

/// Entries of one file: 8 MiB of them.
pub(super) const COUNT_MAX: u64 = 1 << 20;
/// The largest chunk is 2³¹ blocks.
const BITS_MAX: u32 = 31;

/// One chunk of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Where it begins in the file.
    pub(super) begin: u64,
    /// Where it ends: the last one with the file.
    pub(super) end: u64,
    pub(super) place: Place,
}

/// Where its bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: zeros.
    Hole,
    /// In the tar, from this block.
    Tar { block: u64 },
    /// In the image, which has a copy. What it is copied from begins with this extent, and that at
    /// this position in the tar.
    Copied { first: usize, position: u64 },
}

impl Chunk {
    pub(super) fn bytes(&self) -> u64 {
        self.end - self.begin
    }
}

/// Log2 of the chunk size in blocks.
pub(super) fn bits(content: &Content, tar_blocks: u64) -> u32 {
    let whole = content
        .size
        .div_ceil(BLOCK)
        .next_power_of_two()
        .trailing_zeros()
        .min(BITS_MAX);
    let natural = match &content.sparse {
        _ if !content.position.is_multiple_of(BLOCK) => 0,
        // A tar that ends without padding ends within the last block: only that is copied.
        None if (content.position + content.stored).div_ceil(BLOCK) > tar_blocks => 0,
        None => whole,
        Some(extents) => {
            let borders = extents.iter().fold(0, |borders, extent| {
                let end = extent.offset + extent.length;
                let end = if end == content.size { 0 } else { end };
                borders | extent.offset | end
            });
            borders.trailing_zeros().saturating_sub(BLOCK_BITS)
        }
    };
    let coarsest = content.size.div_ceil(COUNT_MAX).div_ceil(BLOCK);
    natural
        .max(coarsest.next_power_of_two().trailing_zeros())
        .min(whole)
}

/// The chunks of a file, in order.
pub(super) fn of(
    content: &Content,
    bits: u32,
    tar_blocks: u64,
) -> impl Iterator<Item = Chunk> + use<'_> {
    let size = BLOCK << bits;
    let extents = extents(content);
    let (mut begin, mut first, mut position) = (0, 0, content.position);
    std::iter::from_fn(move || {
        if begin >= content.size {
            return None;
        }
        let end = content.size.min(begin.saturating_add(size));
        while let Some(extent) = extents.get(first)
            && extent.offset + extent.length <= begin
        {
            first += 1;
            position += extent.length;
        }
        let place = match extents.get(first) {
            Some(extent) if extent.offset < end => {
                let whole = extent.offset <= begin && extent.offset + extent.length >= end;
                let from = position + begin.saturating_sub(extent.offset);
                let last = (from + (end - begin)).div_ceil(BLOCK);
                match whole && from.is_multiple_of(BLOCK) && last <= tar_blocks {
                    true => Place::Tar {
                        block: from / BLOCK,
                    },
                    false => Place::Copied { first, position },
                }
            }
            _ => Place::Hole,
        };
        let chunk = Chunk { begin, end, place };
        begin = end;
        Some(chunk)
    })
}

/// What is stored of a chunk that is copied: offset in the file, position in the tar, length.
pub(super) fn stored(
    content: &Content,
    chunk: &Chunk,
) -> impl Iterator<Item = (u64, u64, u64)> + use<> {
    let Chunk { begin, end, .. } = *chunk;
    let (first, mut position) = match chunk.place {
        Place::Copied { first, position } => (first, position),
        _ => (usize::MAX, 0),
    };
    let extents = extents(content);
    let pieces: Vec<Extent> = extents
        .get(first..)
        .unwrap_or_default()
        .iter()
        .copied()
        .take_while(|extent| extent.offset < end)
        .collect();
    pieces.into_iter().map(move |extent| {
        let from = extent.offset.max(begin);
        let to = (extent.offset + extent.length).min(end);
        let at = position + (from - extent.offset);
        position += extent.length;
        (from, at, to - from)
    })
}

/// The pieces of a file, which follow each other in the tar.
fn extents(content: &Content) -> Cow<'_, [Extent]> {
    match &content.sparse {
        Some(extents) => Cow::Borrowed(extents),
        None => Cow::Owned(vec![Extent {
            offset: 0,
            length: content.size,
        }]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(size: u64, sparse: &[(u64, u64)]) -> Content {
        let extent = |&(offset, length)| Extent { offset, length };
        Content {
            size,
            position: 1024,
            stored: match sparse {
                [] => size,
                pieces => pieces.iter().map(|(_, length)| length).sum(),
            },
            sparse: (!sparse.is_empty()).then(|| sparse.iter().map(extent).collect()),
        }
    }

    #[test]
    fn chunks_are_as_large_as_the_pieces_allow() {
        let bits = |size, sparse: &[_]| bits(&content(size, sparse), u64::MAX);
        assert_eq!(bits(1, &[]), 0);
        assert_eq!(bits(513, &[]), 1);
        assert_eq!(bits(4 << 30, &[]), 23);
        assert_eq!(bits(1 << 20, &[(4096, 8192)]), 3);
        assert_eq!(bits(1 << 20, &[(1 << 19, 1 << 19)]), 10);
        assert_eq!(bits(8192 + 3, &[(8192, 3)]), 4);
        assert_eq!(bits(8192, &[(100, 3)]), 0);
        // As many as may be, and no more.
        assert_eq!(bits(512 << 20, &[(512, 512)]), 0);
        assert_eq!(bits((512 << 20) + 1, &[(512, 512)]), 1);
    }

    #[test]
    fn what_fits_no_block_is_copied() {
        let content = content(4096, &[(512, 512), (1030, 10), (2048, 512)]);
        let place = |tar_blocks| of(&content, 0, tar_blocks).map(|chunk| chunk.place);
        let expected = [
            Place::Hole,
            Place::Tar { block: 2 },
            Place::Copied {
                first: 1,
                position: 1536,
            },
            Place::Hole,
            // It begins 10 bytes behind a block of the tar.
            Place::Copied {
                first: 2,
                position: 1546,
            },
            Place::Hole,
            Place::Hole,
            Place::Hole,
        ];
        assert!(place(u64::MAX).eq(expected));
        let first = of(&content, 2, u64::MAX).next().unwrap();
        let pieces: Vec<_> = stored(&content, &first).collect();
        assert_eq!(pieces, [(512, 1024, 512), (1030, 1536, 10)]);
    }

    #[test]
    fn the_end_of_a_tar_without_padding_is_copied() {
        let content = content(1025, &[]);
        let bits = bits(&content, 4);
        let places: Vec<Place> = of(&content, bits, 4).map(|chunk| chunk.place).collect();
        assert_eq!(
            places,
            [
                Place::Tar { block: 2 },
                Place::Tar { block: 3 },
                Place::Copied {
                    first: 0,
                    position: 1024,
                }
            ]
        );
    }
}
