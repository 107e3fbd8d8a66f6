//! What a stranger's image may make the store hold or do.

/// Bytes of a manifest or index (the distribution project's own bound).
pub const MANIFEST_BYTES: u64 = 4 << 20;
/// How deep an index may lie in an index.
pub const INDEX_DEPTH: usize = 3;
/// Entries of an index and of those in it, from which on no further one is looked into.
pub const INDEX_ENTRIES: usize = 1000;
/// Attestations, artifacts and indexes that are kept with one image beside it.
pub const ATTACHED: usize = 64;
/// Bytes of all of those.
pub const ATTACHED_BYTES: u64 = 256 << 20;
/// Blobs of one of them.
pub const ATTACHED_BLOBS: usize = 64;
/// Bytes of an image configuration.
pub const CONFIG_BYTES: u64 = 8 << 20;
/// Layers of one image.
pub const LAYERS: usize = 500;
/// Images in one archive.
pub const ARCHIVE_IMAGES: usize = 1000;
/// Bytes of all documents in one archive.
pub const ARCHIVE_DOCUMENT_BYTES: u64 = 64 << 20;
/// Entries of an archive that are neither configuration nor layer.
pub const ARCHIVE_ENTRIES: usize = 100_000;
/// Entries of one layer.
pub const LAYER_ENTRIES: u64 = 1_000_000;
/// Uncompressed bytes of a layer that are accepted whatever it is compressed to.
pub const BOMB_FLOOR_BYTES: u64 = 64 << 20;
/// How many times larger than its compressed form a layer may be, above that floor. DEFLATE
/// itself ends at 1,032; real layers stay below 20.
pub const BOMB_RATIO: u64 = 200;
/// Bytes of one extended header (PAX record set, GNU long name).
pub const HEADER_BYTES: usize = 1 << 20;
/// Bytes of a path, as Linux takes it.
pub const PATH_BYTES: usize = 4095;
/// Bytes of the names, links, attributes and sparse maps of one layer.
pub const NAMES_BYTES: u64 = 256 << 20;
/// Bytes of a layer's EROFS index, which is put together in memory.
pub const INDEX_BYTES: u64 = 256 << 20;
/// The same with what is copied to it of sparse files whose pieces fit no block.
pub const INDEX_BYTES_COPIED: u64 = 4 << 30;
/// Pieces of one sparse file.
pub const SPARSE_PIECES: usize = 100_000;
