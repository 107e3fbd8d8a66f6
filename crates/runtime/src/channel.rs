//! What caller and child tell each other between clone and exec.
//!
//! A pair of `SOCK_SEQPACKET` sockets, close-on-exec: a message is a packet, and the end of the
//! file is the exec (or the death) of the child, or the death of the caller.
//!
//! | from | packet | means |
//! |---|---|---|
//! | caller | `S` | start; in answer to `M`: go on; in answer to `L`: the agent has the listener |
//! | caller | `W` | go and wait at the [`gate`](crate::gate) for somebody else's `S` |
//! | child | `T` + descriptor | the terminal's master |
//! | child | `M` | the mounts stand, waiting for `S`: hooks may run, devices come |
//! | child | `R` | all set up, waiting for `S` |
//! | child | `L` + 3 descriptors | a seccomp listener is coming, see [`listener`](crate::listener) |
//! | child | `E` | its next act is to become the program: an end without this is its death |
//! | child | `F` + JSON of [`SetupError`] | this failed |

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use rustix::cmsg_space;
use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::error::SetupError;
use crate::listener::Coming;

/// No packet carries more.
const MAX_DESCRIPTORS: usize = 3;
/// No packet is longer. A failure whose text would be is cut.
const PACKET_BYTES: usize = 8 << 10;

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the caller says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Start,
    Wait,
}

/// What the child says.
#[derive(Debug)]
pub(crate) enum Word {
    Born { pid: i32, pidfd: OwnedFd },
    Terminal(OwnedFd),
    Mounted,
    Ready,
    Listener(Coming),
    Program,
    Failed(SetupError),
}

/// Both ends: the caller's and the child's.
pub(crate) fn pair() -> io::Result<(Channel, Channel)> {
    let (a, b) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    Ok((Channel(a), Channel(b)))
}

impl Channel {
    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(crate) fn send_order(&self, order: Order) -> io::Result<()> {
        match order {
            Order::Start => self.send(b"S", &[]),
            Order::Wait => self.send(b"W", &[]),
        }
    }

    /// Waits for the caller's word. An error if it is gone.
    pub(crate) fn order(&self) -> io::Result<Order> {
        let mut packet = [0_u8; 1];
        let (length, _) = self.receive(&mut packet)?;
        order(&packet[..length])
    }

    /// The same by `read` alone, for a process whose other system calls may be somebody else's to
    /// answer.
    pub(crate) fn read_order(&self) -> io::Result<Order> {
        let mut packet = [0_u8; 1];
        let length = retry_on_intr(|| rustix::io::read(&self.0, &mut packet))?;
        order(&packet[..length])
    }

    pub(crate) fn send_admitted(&self, root: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send(b"A", root.as_slice())
    }

    /// Waits until the caller has given the user namespace its users; gives the root, if the
    /// caller had to mount it.
    pub(crate) fn expect_admitted(&self) -> io::Result<Option<OwnedFd>> {
        let mut packet = [0_u8; 1];
        match self.receive(&mut packet)? {
            (1, [root, ..]) if packet == *b"A" => Ok(root),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    pub(crate) fn send_born(&self, pid: i32, pidfd: BorrowedFd<'_>) -> io::Result<()> {
        let mut packet = b"B".to_vec();
        packet.extend(pid.to_ne_bytes());
        self.send(&packet, &[pidfd])
    }

    pub(crate) fn send_terminal(&self, master: BorrowedFd<'_>) -> io::Result<()> {
        self.send(b"T", &[master])
    }

    pub(crate) fn send_mounted(&self) -> io::Result<()> {
        self.send(b"M", &[])
    }

    pub(crate) fn send_ready(&self) -> io::Result<()> {
        self.send(b"R", &[])
    }

    pub(crate) fn send_listener(&self, fds: [BorrowedFd<'_>; 3]) -> io::Result<()> {
        self.send(b"L", &fds)
    }

    pub(crate) fn send_program(&self) -> io::Result<()> {
        self.send(b"E", &[])
    }

    pub(crate) fn send_failure(&self, failure: &SetupError) -> io::Result<()> {
        let packet = |failure: &SetupError| {
            let mut packet = b"F".to_vec();
            serde_json::to_writer(&mut packet, failure).map(|()| packet)
        };
        let mut whole = packet(failure)?;
        if whole.len() > PACKET_BYTES {
            let mut cut = failure.clone();
            cut.what = cut.what.chars().take(PACKET_BYTES / 16).collect();
            whole = packet(&cut)?;
        }
        self.send(&whole, &[])
    }

    /// The child's next word; `None` once it has exec'd or ended.
    pub(crate) fn next(&self) -> io::Result<Option<Word>> {
        let mut packet = [0_u8; PACKET_BYTES];
        let (length, fds) = match self.receive(&mut packet) {
            // The child ended with an order of ours unread.
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(None),
            other => other?,
        };
        let word = match (&packet[..length], fds) {
            ([], _) => return Ok(None),
            ([b'B', pid @ ..], [Some(pidfd), _, _]) => {
                let pid = pid.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
                let pid = i32::from_ne_bytes(pid);
                Word::Born { pid, pidfd }
            }
            (b"T", [Some(master), _, _]) => Word::Terminal(master),
            (b"L", [Some(word), Some(process), Some(text)]) => {
                Word::Listener([word, process, text])
            }
            (b"M", _) => Word::Mounted,
            (b"R", _) => Word::Ready,
            (b"E", _) => Word::Program,
            ([b'F', json @ ..], _) => Word::Failed(serde_json::from_slice(json)?),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(Some(word))
    }

    fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let packet = [IoSlice::new(packet)];
        retry_on_intr(|| sendmsg(&self.0, &packet, &mut ancillary, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    fn receive(
        &self,
        packet: &mut [u8],
    ) -> io::Result<(usize, [Option<OwnedFd>; MAX_DESCRIPTORS])> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut packet = [IoSliceMut::new(packet)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length =
            retry_on_intr(|| recvmsg(self.0.as_fd(), &mut packet, &mut ancillary, flags))?.bytes;
        let mut received = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let mut received = received.by_ref().flatten();
        Ok((length, std::array::from_fn(|_| received.next())))
    }
}

fn order(packet: &[u8]) -> io::Result<Order> {
    match packet {
        b"S" => Ok(Order::Start),
        b"W" => Ok(Order::Wait),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Step;

    #[test]
    fn a_failure_that_is_too_long_is_cut_and_arrives() {
        let (caller, child) = pair().unwrap();
        child
            .send_failure(&SetupError::new(Step::Mount, "x".repeat(1 << 20), None))
            .unwrap();
        let Some(Word::Failed(failure)) = caller.next().unwrap() else {
            panic!("no failure")
        };
        assert_eq!(failure.what.len(), PACKET_BYTES / 16);
        assert_eq!(failure.step, Step::Mount);
    }

    #[test]
    fn the_end_of_the_other_side_is_seen() {
        let (caller, child) = pair().unwrap();
        drop(child);
        assert!(caller.next().unwrap().is_none());
        let (caller, child) = pair().unwrap();
        drop(caller);
        assert!(child.order().is_err());
        assert!(child.read_order().is_err());
    }

    #[test]
    fn a_descriptor_travels() {
        let (caller, child) = pair().unwrap();
        child.send_terminal(child.0.as_fd()).unwrap();
        assert!(matches!(caller.next().unwrap(), Some(Word::Terminal(_))));
    }
}
