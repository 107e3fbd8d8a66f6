//! Whether somebody else took something of our table away.
//!
//! The kernel tells everybody of every change to its rules and who made it. Looking only at what
//! was removed from our table by others costs nothing while nobody does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink::{Family, Heard, Listener, find, text_of};

use super::wire::NFTA_TABLE_NAME;

/// `NFNLGRP_NFTABLES` of `linux/netfilter/nfnetlink.h`.
const GROUP: u32 = 7;
/// Bytes of `struct nfgenmsg`.
const HEADER: usize = 4;

/// Hears what happens to the table of a name.
#[derive(Debug)]
pub(crate) struct Watch {
    listener: Listener,
    table: String,
    /// The socket that makes our own changes.
    own: u32,
}

/// What others did to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Disturbance {
    /// Nothing that matters.
    None,
    /// More happened than could be kept; something of the table may be gone.
    Unknown,
    /// Something of the table is gone.
    Removed,
}

impl Watch {
    /// In the network namespace of the calling thread; `own` is who changes the table rightly.
    pub(crate) fn open(table: String, own: u32) -> io::Result<Self> {
        let listener = Listener::open(Family::Netfilter, GROUP)?;
        Ok(Self {
            listener,
            table,
            own,
        })
    }

    /// What others did to the table since this was last asked.
    pub(crate) fn heard(&self) -> io::Result<Disturbance> {
        let mut worst = Disturbance::None;
        self.listener.hear(|heard| {
            let disturbance = match heard {
                Heard::Lost => Disturbance::Unknown,
                Heard::Change {
                    kind,
                    port,
                    payload,
                } if port != self.own && removes(kind) && self.is_ours(payload) => {
                    Disturbance::Removed
                }
                Heard::Change { .. } => Disturbance::None,
            };
            worst = worst.max(disturbance);
        })?;
        Ok(worst)
    }

    fn is_ours(&self, payload: &[u8]) -> bool {
        let attributes = payload.get(HEADER..).unwrap_or_default();
        find(attributes, NFTA_TABLE_NAME).map(text_of).as_deref() == Some(&self.table)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

// What tokio still asks for beside `AsFd`.
impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_fd().as_raw_fd()
    }
}

/// Whether a message tells of something that is gone.
fn removes(kind: u16) -> bool {
    let [message, subsystem] = kind.to_le_bytes();
    let gone = [
        libc::NFT_MSG_DELTABLE,
        libc::NFT_MSG_DELCHAIN,
        libc::NFT_MSG_DELRULE,
        libc::NFT_MSG_DELSET,
        libc::NFT_MSG_DELSETELEM,
    ];
    i32::from(subsystem) == libc::NFNL_SUBSYS_NFTABLES && gone.contains(&i32::from(message))
}
