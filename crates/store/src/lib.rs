//! Blobs, images, layers and snapshots: everything under `DATA/store`, and its one collector.
//!
//! The store keeps bytes by digest, knows which of them make an image, turns layers into
//! directories that overlayfs can stack, and gives each container a writable layer on top. It is
//! used from several threads at once and blocks; nothing in it is async. What you will not find:
//! HTTP, containers, policy about whom to trust.
//!
//! What it promises:
//! * A name, an image, a layer or a blob is either whole or not there, whatever kills the process
//!   or the host. Work in progress lives under `ingest/`, is moved into place by one rename, and
//!   what a killed process left there is deleted by the next [`Store::open`]. Layers whose digest
//!   was known beforehand are the exception: they wait in `partial/` for the rest of their bytes.
//! * Every byte is hashed while it streams in; a blob that is there has the content its name says.
//! * Nothing is removed that an image, a snapshot or a living [`Layer`] still needs.
//! * A stranger's tar touches nothing outside the directory it is unpacked into.
//!
//! ```text
//! DATA/store/
//!   metadata.db              images, names, layers, snapshots (SQLite, WAL)
//!   lock                     held by the one process that has the store open
//!   blobs/sha256/<hex>       configs, manifests, indexes, layers as they came
//!   ingest/<random>          not yet verified; deleted at open
//!   partial/<algorithm>-<hex>   the first bytes of a layer whose transfer broke off
//!   layers/overlay/<hex>/    driver `overlay`: one unpacked layer
//!   layers/erofs/<hex>.tar   driver `erofs`: one layer's plain tar, when no blob is it already
//!   layers/erofs/<hex>.index …and the EROFS metadata that indexes it
//!   snapshots/<id>/upper     a container's writable layer
//!   snapshots/<id>/work      overlayfs' scratch space beside it
//!   snapshots/<id>/base      what it stands on, a copy
//!   records/<hex>            what the tables say of an image, a copy
//!   quarantine/              blobs and tables that turned out to be damaged
//!   empty/                   the lower directory of an image without layers
//! RUN/layers/<hex>/          driver `erofs`: where that layer is mounted, read-only
//! RUN/epoch                  what was written since the host came up, see `durable`
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`store`](Store) | opening, and what all modules share |
//! | `durable` | what a power cut may take |
//! | `collect` | the collector |
//! | `reaper` | deleting what has vanished already |
//! | `lease` | what it leaves alone: [`Lease`] |
//! | `fsck` | checking at open, verifying on demand, quarantine |
//! | `blobs` | content by digest; [`Ingest`] |
//! | `incoming` | files being filled, and partial ones that are taken up again |
//! | `metadata` | the tables |
//! | `layers` | one pass over a layer's bytes; [`LayerIngest`] |
//! | `compress` | plain layers in the form in which they travel |
//! | `images` | lookup, names, removal by Docker's rules |
//! | `archive` | load, import and save of whole images |
//! | `bundle` | an index, and what of its members is here |
//! | `platforms` | images of several platforms under one name |
//! | `records` | copies of what the tables say, and sums of it |
//! | `recovery` | new tables where the old ones are damaged |
//! | `pack` | directory trees as tars: export, commit, copy |
//! | `difference` | what a writable layer changes of those beneath it |
//! | `directories` | times of directories, which are set last |
//! | `filling` | a file whose bytes come out of a tar |
//! | `unpack` | tars put into directories that others change: copy |
//! | `compression` | what bytes are compressed with |
//! | `explain` | what is in an image, and what of it is in vain |
//! | `usage` | what all of it occupies |
//! | [`changes`] | Dockerfile instructions of import and commit |
//! | `snapshots` | the [`Layers`](snapshots::Layers) trait, its drivers, writable layers |
//! | [`erofs`] | the index of a tar, as a file system image |
//! | `attached` | what an index leads to beside images |
//! | `windows` | how much memory a zstd layer may ask for |
//! | `acl` | access control lists as archivers write them |
//! | `tree` | a tar entry as a checked, typed thing; what all drivers read |

mod acl;
mod archive;
mod attached;
mod blobs;
mod bundle;
pub mod changes;
mod collect;
mod compress;
mod compression;
mod difference;
mod directories;
mod durable;
pub mod erofs;
mod explain;
mod files;
mod filling;
mod fsck;
mod hash;
mod images;
mod incoming;
mod layers;
mod lease;
pub mod limits;
mod metadata;
mod pack;
mod platforms;
mod reaper;
mod records;
mod recovery;
mod snapshots;
mod store;
mod tree;
mod unpack;
mod usage;
mod windows;

pub use archive::{Import, ImportError, LoadError, Loaded, Progress, SaveError, Saved};
pub use attached::HeldBlob;
pub use blobs::{Ingest, IngestError};
pub use bundle::{Bundle, Content, Member, attests};
pub use difference::{Difference, differences};
pub use explain::{ExplainError, Explained, ExplainedLayer, NamedFile};
pub use files::disk_bytes;
pub use fsck::{Damage, Verified, VerifyError};
pub use hash::digest;
pub use images::{
    Document, FindError, Image, NewImage, PutError, RemoveError, Removed, TagError, User,
};
pub use layers::{Layer, LayerBlob, LayerIngest, ReceiveError};
pub use lease::Lease;
pub use metadata::MetadataError;
pub use pack::{FileId, PackError, pack, pack_one};
pub use snapshots::{CommitError, Driver, Mounts, ParseDriverError, SnapshotError};
pub use store::{OpenError, Options, Store};
pub use unpack::{UnpackIntoError, Unpacking, unpack};
pub use usage::{DiskUsage, Usage, UsageError};
