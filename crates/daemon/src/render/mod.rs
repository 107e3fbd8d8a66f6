//! The engine's records as the API's documents, with what differs between versions.
//!
//! Everything here is a plain function of a record and a version: no I/O, no engine.

mod containers;
mod images;
mod manifests;
mod others;

use serde::Serialize;

pub(crate) use containers::{container_inspect, container_summary, stats};
pub(crate) use images::{
    history_item, image_explained, image_inspect, image_removed, image_summary, image_verified,
};
pub(crate) use manifests::{attestation, identity, manifests};
pub(crate) use others::{event, network, places, volume, volume_with_usage};

/// Appends a document and a newline, as Go's encoder does.
pub(crate) fn line(bytes: &mut Vec<u8>, document: &impl Serialize) {
    // Only a map with keys that are no texts can fail, and no type of ours has one.
    let written = serde_json::to_writer(&mut *bytes, document);
    debug_assert!(written.is_ok(), "{written:?}");
    bytes.push(b'\n');
}

/// Bytes as Go counts them.
pub(crate) fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A number of things as Go counts them.
pub(crate) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A moment, or Go's "never".
fn moment(moment: Option<std::time::SystemTime>) -> String {
    moment.map_or_else(|| vocab::time::ZERO.to_owned(), vocab::time::rfc3339_nano)
}

/// Seconds since 1970.
fn seconds(moment: std::time::SystemTime) -> i64 {
    i64::try_from(nanoseconds(moment).div_euclid(1_000_000_000)).unwrap_or(0)
}

/// Nanoseconds since 1970.
fn nanoseconds(moment: std::time::SystemTime) -> i128 {
    let signed = |since: std::time::Duration| i128::try_from(since.as_nanos()).unwrap_or(0);
    match moment.duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => signed(since),
        Err(before) => -signed(before.duration()),
    }
}
