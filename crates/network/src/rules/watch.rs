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

    /// Whether anything of the table was removed by others since this was last asked; true as well
    /// where too much happened to tell.
    pub(crate) fn is_disturbed(&self) -> io::Result<bool> {
        let mut disturbed = false;
        self.listener.hear(|heard| {
            disturbed |= match heard {
                Heard::Lost => true,
                Heard::Change {
                    kind,
                    port,
                    payload,
                } => port != self.own && removes(kind) && self.is_ours(payload),
            };
        })?;
        Ok(disturbed)
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
