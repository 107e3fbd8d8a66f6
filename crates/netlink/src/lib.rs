//! Netlink without a library: messages, a socket, and the kernel's answers.
//!
//! Two facts make this small. The kernel works on a request inside `send`, so that its answer lies
//! in the socket when `send` returns: nothing here waits, and no task serves a socket. And errors
//! come whether or not an acknowledgement was asked for, so a batch of any length that succeeds is
//! one system call and one look at an empty queue.
//!
//! ```text
//! message:   u32 length · u16 type · u16 flags · u32 sequence · u32 port · family header · attributes
//! attribute: u16 length · u16 type · payload, padded to 4 bytes; a nest is a payload of attributes
//! refusal:   message of type NLMSG_ERROR: i32 -errno · header of the refused message · attributes
//! ```
//!
//! What you will not find: generic netlink, knowledge of any one family.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt,
};

/// Bytes of a message's own header.
const HEADER: usize = 16;
/// Largest answer the kernel composes for one `recv` (its dump buffer is 32 KiB).
const ANSWER_BYTES: usize = 64 << 10;
/// A dump that the host's changes interrupt is begun anew this often.
const DUMP_ATTEMPTS: usize = 8;
/// The attribute's payload consists of attributes.
pub const NESTED: u16 = 1 << 15;
/// Attribute of a refusal: a sentence.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = flag(libc::NLM_F_REQUEST);
/// `NLM_F_CREATE`.
pub const CREATE: u16 = flag(libc::NLM_F_CREATE);
/// `NLM_F_EXCL`.
pub const EXCLUSIVE: u16 = flag(libc::NLM_F_EXCL);
/// `NLM_F_REPLACE`.
pub const REPLACE: u16 = flag(libc::NLM_F_REPLACE);
/// `NLM_F_APPEND`.
pub const APPEND: u16 = flag(libc::NLM_F_APPEND);
const DUMP: u16 = flag(libc::NLM_F_DUMP);

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "16-bit flags"
)]
const fn flag(bits: libc::c_int) -> u16 {
    bits as u16
}

/// The side of the kernel that a socket talks to.
#[derive(Clone, Copy, Debug)]
pub enum Family {
    /// Links, addresses, routes.
    Route,
    /// nftables and connection tracking.
    Netfilter,
}

impl Family {
    fn protocol(self) -> Option<Protocol> {
        match self {
            // Protocol 0, which rustix spells as the family's default.
            Self::Route => None,
            Self::Netfilter => Some(netlink::NETFILTER),
        }
    }
}

/// Messages that are sent together.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    messages: u32,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many messages.
    pub fn count(&self) -> u32 {
        self.messages
    }

    /// Adds a message; its sequence number is its place in the batch, counted from 0.
    pub fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family_header: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&self.messages.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(family_header);
        pad(&mut self.bytes);
        attributes(&mut Attributes {
            bytes: &mut self.bytes,
        });
        let length = u32::try_from(self.bytes.len() - start).expect("messages are far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.messages += 1;
    }
}

/// Writes the attributes of a message or nest.
#[derive(Debug)]
pub struct Attributes<'b> {
    bytes: &'b mut Vec<u8>,
}

impl Attributes<'_> {
    /// Any payload.
    pub fn bytes(&mut self, kind: u16, payload: &[u8]) {
        self.write(kind, |bytes| bytes.extend_from_slice(payload));
    }

    /// Zero-terminated, as the kernel wants names.
    pub fn text(&mut self, kind: u16, text: &str) {
        self.write(kind, |bytes| {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        });
    }

    /// In the host's byte order, as rtnetlink wants numbers.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// In network byte order, as netfilter wants numbers.
    pub fn u32_be(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A payload of attributes.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes<'_>)) {
        self.write(kind | NESTED, |bytes| {
            inner(&mut Attributes { bytes });
        });
    }

    /// A nest that begins with a fixed header, such as the peer of a veth pair.
    pub fn nest_with_header(
        &mut self,
        kind: u16,
        header: &[u8],
        inner: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.write(kind | NESTED, |bytes| {
            bytes.extend_from_slice(header);
            pad(bytes);
            inner(&mut Attributes { bytes });
        });
    }

    fn write(&mut self, kind: u16, payload: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        payload(self.bytes);
        let length = u16::try_from(self.bytes.len() - start)
            .expect("lists are split so that no attribute reaches 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        pad(self.bytes);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The kernel refused a message.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", io::Error::from(*errno), text.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
pub struct Refusal {
    errno: Errno,
    /// The kernel's sentence, when it has one.
    text: Option<String>,
    /// Which message of the batch.
    pub message: u32,
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(Self::from(refusal.errno).kind(), refusal)
    }
}

/// The `errno` behind an error of this module.
pub fn errno(error: &io::Error) -> Option<Errno> {
    let refusal = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Refusal>());
    match refusal {
        Some(refusal) => Some(refusal.errno),
        None => Errno::from_io_error(error),
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens one.
    pub fn open(family: Family) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            family.protocol(),
        )?;
        // Sentences in refusals, and only the header of what was refused.
        sys::netlink::enable(socket.as_fd(), libc::NETLINK_EXT_ACK)?;
        sys::netlink::enable(socket.as_fd(), libc::NETLINK_CAP_ACK)?;
        Ok(Self(socket))
    }

    /// Sends a batch that answers nothing but refusals; the first one is returned.
    pub fn run(&self, batch: &Batch) -> io::Result<()> {
        if batch.bytes.is_empty() {
            return Ok(());
        }
        self.send(batch)?;
        let mut answer = vec![0; ANSWER_BYTES];
        loop {
            let length = match rustix::net::recv(&self.0, &mut *answer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for message in Messages(&answer[..length]) {
                if let Some(refusal) = message.refusal() {
                    self.discard();
                    return Err(refusal.into());
                }
            }
        }
    }

    /// Sends one request and hands every message of the answer to `each`: its type and what
    /// follows the header.
    pub fn query(&self, batch: &Batch, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.send(batch)?;
        let mut answer = vec![0; ANSWER_BYTES];
        let (length, _) = rustix::net::recv(&self.0, &mut *answer, RecvFlags::DONTWAIT)?;
        for message in Messages(&answer[..length]) {
            if let Some(refusal) = message.refusal() {
                return Err(refusal.into());
            }
            if i32::from(message.kind) >= libc::NLMSG_MIN_TYPE {
                each(message.kind, message.payload);
            }
        }
        Ok(())
    }

    /// Lists everything of a kind; `collect` makes an item of a message, or `None` to pass it over.
    pub fn dump<T>(
        &self,
        kind: u16,
        family_header: &[u8],
        collect: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut batch = Batch::new();
        batch.message(kind, DUMP, family_header, |_| {});
        let mut answer = vec![0; ANSWER_BYTES];
        for _ in 0..DUMP_ATTEMPTS {
            self.send(&batch)?;
            let mut items = Vec::new();
            let mut interrupted = false;
            'answers: loop {
                let length = match rustix::net::recv(&self.0, &mut *answer, RecvFlags::empty()) {
                    Ok((length, _)) => length,
                    Err(Errno::INTR) => continue,
                    Err(errno) => return Err(errno.into()),
                };
                for message in Messages(&answer[..length]) {
                    interrupted |= message.flags & flag(libc::NLM_F_DUMP_INTR) != 0;
                    if i32::from(message.kind) == libc::NLMSG_DONE {
                        break 'answers;
                    }
                    if let Some(refusal) = message.refusal() {
                        self.discard();
                        return Err(refusal.into());
                    }
                    items.extend(collect(message.payload));
                }
            }
            if !interrupted {
                return Ok(items);
            }
        }
        Err(Errno::INTR.into())
    }

    /// What the kernel calls this socket; what others hear of its requests bears it. Never zero:
    /// a socket that has not sent yet is named by this.
    pub fn port(&self) -> io::Result<u32> {
        let named = || {
            let address = rustix::net::getsockname(&self.0)?;
            Ok(SocketAddrNetlink::try_from(address)?.pid())
        };
        match named() {
            Ok(0) => {
                rustix::net::bind(&self.0, &SocketAddrNetlink::new(0, 0))?;
                named()
            }
            port => port,
        }
    }

    fn send(&self, batch: &Batch) -> io::Result<()> {
        // A send above the buffer is refused as a whole; the default is about 200 kB.
        if batch.bytes.len() > sockopt::socket_send_buffer_size(&self.0)? / 2 {
            sockopt::set_socket_send_buffer_size_force(&self.0, batch.bytes.len() * 2)?;
        }
        rustix::net::send(&self.0, &batch.bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Empties the queue, so that the next answer is read from its beginning.
    fn discard(&self) {
        let mut rest = [0; 64];
        while rustix::net::recv(&self.0, &mut rest, RecvFlags::DONTWAIT).is_ok() {}
    }
}

/// What a [`Listener`] can keep at most until it is asked: changes of some ten thousand elements.
const HEARD_BYTES: usize = 8 << 20;

/// A socket that hears what anybody changes, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// What a [`Listener`] heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A change: the type of its message, the [`Socket::port`] of who made it, and what follows the
    /// header.
    Change {
        /// The message's type.
        kind: u16,
        /// Who made it.
        port: u32,
        /// Family header and attributes.
        payload: &'a [u8],
    },
    /// More than could be kept: what changed is not known.
    Lost,
}

impl Listener {
    /// Listens to a multicast group of the family, 1 to 32.
    pub fn open(family: Family, group: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            flags,
            family.protocol(),
        )?;
        let groups = group.checked_sub(1).and_then(|bit| 1_u32.checked_shl(bit));
        let groups = groups.ok_or(io::ErrorKind::InvalidInput)?;
        // Where that is refused, the host's default stays, and more is lost.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, HEARD_BYTES);
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self(socket))
    }

    /// Hands what was heard since to `each`; does not wait.
    pub fn hear(&self, mut each: impl FnMut(Heard<'_>)) -> io::Result<()> {
        let mut bytes = vec![0; ANSWER_BYTES];
        loop {
            let length = match rustix::net::recv(&self.0, &mut *bytes, RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::NOBUFS) => {
                    each(Heard::Lost);
                    continue;
                }
                Err(errno) => return Err(errno.into()),
            };
            for message in Messages(&bytes[..length]) {
                each(Heard::Change {
                    kind: message.kind,
                    port: message.port,
                    payload: message.payload,
                });
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One message of an answer.
#[derive(Debug)]
struct Message<'a> {
    kind: u16,
    port: u32,
    flags: u16,
    payload: &'a [u8],
}

impl Message<'_> {
    fn refusal(&self) -> Option<Refusal> {
        if i32::from(self.kind) != libc::NLMSG_ERROR {
            return None;
        }
        let code = i32::from_ne_bytes(*self.payload.first_chunk()?);
        if code == 0 {
            return None;
        }
        let refused = self.payload.get(4..).unwrap_or_default();
        let text = find(refused.get(HEADER..).unwrap_or_default(), NLMSGERR_ATTR_MSG);
        Some(Refusal {
            errno: Errno::from_raw_os_error(-code),
            text: text.map(text_of),
            message: word(refused, 8).unwrap_or_default(),
        })
    }
}

/// Walks the messages of an answer; ends at the first that does not fit.
#[derive(Debug)]
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(word(self.0, 0)?).ok()?;
        let message = Message {
            kind: half(self.0, 4)?,
            flags: half(self.0, 6)?,
            port: word(self.0, 12)?,
            payload: self.0.get(HEADER..length)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// Walks the attributes of an answer: type (without flags) and payload.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)? & 0x3fff;
        let payload = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// The payload of the first attribute of a type.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, payload)| payload)
}

/// A zero-terminated text.
pub fn text_of(payload: &[u8]) -> String {
    let end = payload
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(payload.len());
    String::from_utf8_lossy(&payload[..end]).into_owned()
}

/// The number at a place, in the host's byte order.
pub fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..)?
        .first_chunk()
        .map(|chunk| u32::from_ne_bytes(*chunk))
}

fn half(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes
        .get(offset..)?
        .first_chunk()
        .map(|chunk| u16::from_ne_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut batch = Batch::new();
        batch.message(100, CREATE, &[1, 2, 3, 4], |message| {
            message.text(1, "berth0");
            message.nest(2, |inner| inner.u32(3, 7));
        });
        batch.message(101, 0, &[], |_| {});
        assert_eq!(batch.count(), 2);
        let messages: Vec<_> = Messages(&batch.bytes).collect();
        assert_eq!((messages[0].kind, messages[1].kind), (100, 101));
        let attributes = &messages[0].payload[4..];
        assert_eq!(find(attributes, 1).map(text_of).as_deref(), Some("berth0"));
        assert_eq!(
            word(find(find(attributes, 2).unwrap(), 3).unwrap(), 0),
            Some(7)
        );
    }

    #[test]
    fn a_socket_that_has_not_sent_has_a_name() {
        let socket = Socket::open(Family::Netfilter).unwrap();
        let port = socket.port().unwrap();
        assert_ne!(port, 0);
        assert_eq!(socket.port().unwrap(), port);
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic_or_loop(bytes: Vec<u8>) {
            for message in Messages(&bytes) {
                let _ = message.refusal();
                prop_assert!(attributes(message.payload).count() <= message.payload.len());
            }
        }
    }
}
