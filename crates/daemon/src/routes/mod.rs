//! The routes: what a call means to the engine, and how its answer is told.
//!
//! A route reads the query and the body, asks the engine once, and renders what comes back.

pub(crate) mod archive;
pub(crate) mod attach;
pub(crate) mod containers;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod images;
pub(crate) mod load;
pub(crate) mod logs;
pub(crate) mod networks;
pub(crate) mod plugins;
pub(crate) mod push;
pub(crate) mod stats;
pub(crate) mod system;
pub(crate) mod transfer;
pub(crate) mod volumes;
pub(crate) mod websocket;

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::answer::Refusal;
use crate::server::Daemon;

/// What every route returns.
pub(crate) type Outcome = Result<crate::answer::Answer, Refusal>;

/// Items that are gathered into one piece of an answer when they are ready together.
const READY_AT_ONCE: usize = 256;

/// Bytes for an endless answer: items are written as they come, together when several are ready,
/// and the answer ends when the daemon does.
fn pieces<T: Send + 'static>(
    daemon: &Daemon,
    items: impl Stream<Item = T> + Send + 'static,
    write: impl Fn(&mut Vec<u8>, T) + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    items
        .take_until(daemon.stopping.clone().cancelled_owned())
        .ready_chunks(READY_AT_ONCE)
        .map(move |items| {
            let mut bytes = Vec::new();
            for item in items {
                write(&mut bytes, item);
            }
            Ok(bytes.into())
        })
}
