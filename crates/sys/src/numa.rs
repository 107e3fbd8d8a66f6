//! From which memory nodes the calling thread gets its memory.

use std::io;

/// Bits in a word of a node mask.
const WORD_BITS: usize = libc::c_ulong::BITS as usize;

/// A mode and its nodes, as `set_mempolicy(2)` takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    mode: u32,
    nodes: [libc::c_ulong; Self::MAX_NODES / WORD_BITS],
    empty: bool,
}

impl Policy {
    /// More nodes than any kernel is built for (`MAX_NUMNODES`).
    pub const MAX_NODES: usize = 1024;

    /// `mode` is one of `MPOL_*` with flags; each node is below [`Self::MAX_NODES`].
    pub fn new(mode: u32, nodes: &[usize]) -> Self {
        let mut mask = [0; Self::MAX_NODES / WORD_BITS];
        for node in nodes {
            mask[node / WORD_BITS] |= 1 << (node % WORD_BITS);
        }
        Self {
            mode,
            nodes: mask,
            empty: nodes.is_empty(),
        }
    }
}

/// Sets the policy of the calling thread.
pub fn set_policy(policy: &Policy) -> io::Result<()> {
    let (nodes, bits) = if policy.empty {
        (std::ptr::null(), 0)
    } else {
        // The kernel takes one bit less than it is told.
        (policy.nodes.as_ptr(), Policy::MAX_NODES + 1)
    };
    // SAFETY: `nodes` is null, with no bits, or covers the bits that the kernel reads, which it
    // copies. One bit more than there is means the same number of whole words.
    let rc = unsafe { libc::syscall(libc::SYS_set_mempolicy, policy.mode, nodes, bits) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
