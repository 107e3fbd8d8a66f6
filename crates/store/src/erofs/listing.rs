//! The entries of a directory in the order and in the blocks in which they are written.

use super::fields::Fields;
use super::image::BLOCK;
use super::names::Cursor;
use super::tree::{Id, Tree};
use crate::tree::UnpackError;

const DIRENT_BYTES: usize = 12;
#[expect(clippy::cast_possible_truncation, reason = "512")]
const BLOCK_BYTES: usize = BLOCK as usize;

/// All names of a directory, sorted; `.` and `..` are among them.
pub(super) struct Listing {
    cursor: Cursor,
    own: [(&'static [u8], Id); 2],
    /// How many of its own were shown.
    shown: usize,
    /// What comes next of the others.
    next: Option<Id>,
    name: Vec<u8>,
    /// Whether `next` was looked up.
    is_ahead: bool,
}

impl Listing {
    pub(super) fn of(tree: &mut Tree, id: Id, parent: Id) -> Result<Self, UnpackError> {
        Ok(Self {
            cursor: tree.list(id)?,
            own: [(b".", id), (b"..", parent)],
            shown: 0,
            next: None,
            name: Vec::new(),
            is_ahead: false,
        })
    }

    pub(super) fn next(&mut self, tree: &mut Tree) -> Result<Option<(&[u8], Id)>, UnpackError> {
        if !self.is_ahead {
            self.next = tree.next(&mut self.cursor, &mut self.name)?;
            self.is_ahead = true;
        }
        let own = self.own.get(self.shown);
        if let Some(&(name, id)) = own
            && (self.next.is_none() || name < self.name.as_slice())
        {
            self.shown += 1;
            return Ok(Some((name, id)));
        }
        self.is_ahead = false;
        Ok(self.next.map(|id| (self.name.as_slice(), id)))
    }
}

/// How long a listing is once it is cut into blocks.
#[derive(Default)]
pub(super) struct Length {
    full_blocks: u64,
    used: usize,
}

impl Length {
    pub(super) fn add(&mut self, name: &[u8]) {
        let wanted = DIRENT_BYTES + name.len();
        if self.used + wanted > BLOCK_BYTES {
            self.full_blocks += 1;
            self.used = 0;
        }
        self.used += wanted;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.full_blocks * BLOCK + self.used as u64
    }
}

/// One block of a listing. What is not full ends with a NUL, which is there because blocks begin as
/// zeros.
#[derive(Default)]
pub(super) struct Block {
    entries: Vec<(u64, u8, usize)>,
    names: Vec<u8>,
}

impl Block {
    /// Whether there was room.
    pub(super) fn add(&mut self, name: &[u8], number: u64, file_type: u8) -> bool {
        let used = self.entries.len() * DIRENT_BYTES + self.names.len();
        if used + DIRENT_BYTES + name.len() > BLOCK_BYTES {
            return false;
        }
        self.entries.push((number, file_type, name.len()));
        self.names.extend_from_slice(name);
        true
    }

    /// Its bytes; it begins anew.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut fields = Fields::default();
        let mut name_offset = self.entries.len() * DIRENT_BYTES;
        for (number, file_type, name_length) in self.entries.drain(..) {
            fields.u64(number);
            fields.u16(u16::try_from(name_offset).expect("a block is 512 bytes"));
            fields.u8(file_type);
            fields.u8(0);
            name_offset += name_length;
        }
        fields.0.append(&mut self.names);
        fields.0
    }
}
