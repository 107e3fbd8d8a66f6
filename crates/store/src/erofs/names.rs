//! Who is called what in which directory: a B+ tree in pages, so that a directory is listed in
//! order and few pages are touched at once.
//!
//! ```text
//! 0   1 for a leaf, 0 for a branch
//! 2   how many cells it has: u16
//! 4   where the lowest cell begins: u16
//! 8   a leaf: the next one, or 0 · a branch: what is beneath all of its keys: u32
//! 12  where each cell begins, in the order of their keys: u16 each
//! …   cells, from the end of the page on downwards:
//!     the inode or, in a branch, the page in which the key is the first: u32; length: u16; key
//! ```
//!
//! A key is the number of the directory, big-endian, and the name. Nothing is ever taken out.

use super::pages::{Number, PAGE_BYTES, Page, Pages};
use super::tree::Id;
use crate::tree::UnpackError;

const SLOTS: usize = 12;
const SLOT_BYTES: usize = 2;
const CELL_HEADER: usize = 6;
/// Longer ones the splitter refuses.
const NAME_BYTES_MAX: usize = 255;
const KEY_BYTES_MAX: usize = 4 + NAME_BYTES_MAX;
/// The page of a tree that was just made.
const FIRST: Number = 0;

// A page that is split has room for one more cell on either side.
const _: () = assert!(4 * (CELL_HEADER + KEY_BYTES_MAX + SLOT_BYTES) < PAGE_BYTES - SLOTS);

/// The names of all directories.
#[derive(Debug)]
pub(super) struct Names {
    root: Number,
}

/// The place in a listing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    directory: Id,
    leaf: Number,
    cell: usize,
}

impl Names {
    /// In pages of which none is used yet: so no other leaf is ever page 0.
    pub(super) fn new(pages: &mut Pages) -> Result<Self, UnpackError> {
        let root = pages.add()?;
        debug_assert_eq!(root, FIRST);
        clear(pages.write(root)?, true);
        Ok(Self { root })
    }

    pub(super) fn find(
        &self,
        pages: &mut Pages,
        directory: Id,
        name: &[u8],
    ) -> Result<Option<Id>, UnpackError> {
        // Symbolic links lead to whatever they say.
        if name.len() > NAME_BYTES_MAX {
            return Ok(None);
        }
        let key = Key::of(directory, name);
        let leaf = self.leaf(pages, key.bytes(), |_| {})?;
        let page = pages.read(leaf)?;
        Ok(position(page, key.bytes()).ok().map(|at| value(page, at)))
    }

    /// Gives a name to an inode, whoever had it.
    pub(super) fn put(
        &mut self,
        pages: &mut Pages,
        directory: Id,
        name: &[u8],
        id: Id,
    ) -> Result<(), UnpackError> {
        let key = Key::of(directory, name);
        let mut way = Vec::new();
        let leaf = self.leaf(pages, key.bytes(), |branch| way.push(branch))?;
        let page = pages.write(leaf)?;
        let at = match position(page, key.bytes()) {
            Ok(at) => {
                set_value(page, at, id);
                return Ok(());
            }
            Err(at) => at,
        };
        let mut split = insert(pages, leaf, at, key.bytes(), id)?;
        // What was split off needs a key in the branch above, which may be split by that.
        while let Some((first, right)) = split {
            let Some(branch) = way.pop() else {
                let root = pages.add()?;
                let page = pages.write(root)?;
                clear(page, false);
                set_u32(page, 8, self.root);
                let added = put_cell(page, 0, &first, right);
                debug_assert!(added, "an empty page has room");
                self.root = root;
                break;
            };
            let page = pages.read(branch)?;
            let (Ok(at) | Err(at)) = position(page, &first);
            split = insert(pages, branch, at, &first, right)?;
        }
        Ok(())
    }

    /// The beginning of a directory.
    pub(super) fn list(&self, pages: &mut Pages, directory: Id) -> Result<Cursor, UnpackError> {
        let key = Key::of(directory, b"");
        let leaf = self.leaf(pages, key.bytes(), |_| {})?;
        let (Ok(cell) | Err(cell)) = position(pages.read(leaf)?, key.bytes());
        Ok(Cursor {
            directory,
            leaf,
            cell,
        })
    }

    /// The next inode of a listing, whose name comes to be in `name`.
    pub(super) fn next(
        pages: &mut Pages,
        cursor: &mut Cursor,
        name: &mut Vec<u8>,
    ) -> Result<Option<Id>, UnpackError> {
        loop {
            let page = pages.read(cursor.leaf)?;
            if cursor.cell < count(page) {
                let key = key(page, cursor.cell);
                let Some(found) = key.strip_prefix(&cursor.directory.to_be_bytes()) else {
                    return Ok(None);
                };
                name.clear();
                name.extend_from_slice(found);
                let id = value(page, cursor.cell);
                cursor.cell += 1;
                return Ok(Some(id));
            }
            match u32_at(page, 8) {
                FIRST => return Ok(None),
                next => (cursor.leaf, cursor.cell) = (next, 0),
            }
        }
    }

    /// The leaf that a key belongs in; the branches on the way are told.
    fn leaf(
        &self,
        pages: &mut Pages,
        key: &[u8],
        mut passed: impl FnMut(Number),
    ) -> Result<Number, UnpackError> {
        let mut here = self.root;
        loop {
            let page = pages.read(here)?;
            if is_leaf(page) {
                return Ok(here);
            }
            passed(here);
            here = match position(page, key) {
                Ok(at) => value(page, at),
                Err(0) => u32_at(page, 8),
                Err(at) => value(page, at - 1),
            };
        }
    }
}

/// A key without an allocation.
struct Key {
    bytes: [u8; KEY_BYTES_MAX],
    length: usize,
}

impl Key {
    fn of(directory: Id, name: &[u8]) -> Self {
        let mut bytes = [0; KEY_BYTES_MAX];
        let length = 4 + name.len();
        bytes[..4].copy_from_slice(&directory.to_be_bytes());
        bytes[4..length].copy_from_slice(name);
        Self { bytes, length }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Puts a cell into a page. Where that is full it is split: the first key of the new page on the
/// right, and that page.
fn insert(
    pages: &mut Pages,
    number: Number,
    at: usize,
    key: &[u8],
    id: u32,
) -> Result<Option<(Vec<u8>, Number)>, UnpackError> {
    if put_cell(pages.write(number)?, at, key, id) {
        return Ok(None);
    }
    let full = *pages.read(number)?;
    let right = pages.add()?;
    // Names mostly come in order: then the old page stays full, and the new one is for the next.
    let middle = if at == count(&full) {
        at
    } else {
        halfway(&full)
    };
    let mut pages_of = [*pages.read(right)?, full];
    let [new, old] = &mut pages_of;
    clear(new, is_leaf(&full));
    clear(old, is_leaf(&full));
    set_u32(new, 8, u32_at(&full, 8));
    set_u32(old, 8, u32_at(&full, 8));
    if is_leaf(&full) {
        set_u32(old, 8, right);
    }
    let mut first = None;
    for position in 0..=count(&full) {
        let side = |position: usize| position >= middle;
        if position == at {
            // The new cell stays with the one before it where it stands between the two.
            add(
                &mut pages_of,
                side(at) && (at > middle || at == count(&full)),
                key,
                id,
                &mut first,
            );
        }
        if position < count(&full) {
            let (key, id) = (self::key(&full, position), value(&full, position));
            add(&mut pages_of, side(position), key, id, &mut first);
        }
    }
    let [new, old] = pages_of;
    *pages.write(right)? = new;
    *pages.write(number)? = old;
    Ok(first.map(|first| (first, right)))
}

/// Appends a cell to the new page or to the old one. The first key of a new branch moves up, and
/// what is beneath it comes to be beneath all of that branch's keys.
fn add([new, old]: &mut [Page; 2], to_new: bool, key: &[u8], id: u32, first: &mut Option<Vec<u8>>) {
    let page = if to_new { new } else { old };
    if to_new && first.is_none() {
        *first = Some(key.to_vec());
        if !is_leaf(page) {
            set_u32(page, 8, id);
            return;
        }
    }
    let at = count(page);
    let added = put_cell(page, at, key, id);
    debug_assert!(added, "half a page and one more fit");
}

/// The cell before which half of the bytes are.
fn halfway(page: &Page) -> usize {
    let mut used = 0;
    let half = (PAGE_BYTES - SLOTS) / 2;
    (0..count(page))
        .find(|at| {
            used += CELL_HEADER + key(page, *at).len() + SLOT_BYTES;
            used > half
        })
        .unwrap_or_else(|| count(page))
}

/// Where a key is, or where it would be.
fn position(page: &Page, wanted: &[u8]) -> Result<usize, usize> {
    let (mut low, mut high) = (0, count(page));
    while low < high {
        let middle = low.midpoint(high);
        match key(page, middle).cmp(wanted) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Equal => return Ok(middle),
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    Err(low)
}

/// Whether there was room.
fn put_cell(page: &mut Page, at: usize, key: &[u8], value: u32) -> bool {
    let (count, lowest) = (count(page), usize::from(u16_at(page, 4)));
    let begin = lowest.saturating_sub(CELL_HEADER + key.len());
    let slots_end = SLOTS + count * SLOT_BYTES;
    if begin < slots_end + SLOT_BYTES {
        return false;
    }
    set_u32(page, begin, value);
    set_u16(page, begin + 4, key.len());
    page[begin + CELL_HEADER..lowest].copy_from_slice(key);
    let slot = SLOTS + at * SLOT_BYTES;
    page.copy_within(slot..slots_end, slot + SLOT_BYTES);
    set_u16(page, slot, begin);
    set_u16(page, 2, count + 1);
    set_u16(page, 4, begin);
    true
}

fn clear(page: &mut Page, is_leaf: bool) {
    page[0] = u8::from(is_leaf);
    set_u16(page, 2, 0);
    set_u16(page, 4, PAGE_BYTES);
    set_u32(page, 8, 0);
}

fn is_leaf(page: &Page) -> bool {
    page[0] == 1
}

fn count(page: &Page) -> usize {
    usize::from(u16_at(page, 2))
}

fn cell(page: &Page, at: usize) -> usize {
    usize::from(u16_at(page, SLOTS + at * SLOT_BYTES))
}

fn key(page: &Page, at: usize) -> &[u8] {
    let cell = cell(page, at);
    let begin = cell + CELL_HEADER;
    &page[begin..begin + usize::from(u16_at(page, cell + 4))]
}

fn value(page: &Page, at: usize) -> u32 {
    u32_at(page, cell(page, at))
}

fn set_value(page: &mut Page, at: usize, value: u32) {
    set_u32(page, cell(page, at), value);
}

fn u16_at(page: &Page, at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

fn u32_at(page: &Page, at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

fn set_u16(page: &mut Page, at: usize, value: usize) {
    let value = u16::try_from(value).expect("offsets in a page have 16 bits");
    page[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn set_u32(page: &mut Page, at: usize, value: u32) {
    page[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use testkit::Chance;

    use super::super::pages::Budget;
    use super::*;

    /// Does to a map what it does to the names, and compares all of it.
    fn check(entries: impl Iterator<Item = (Id, Vec<u8>)>) {
        let scratch = tempfile::tempdir().unwrap();
        let mut pages = Pages::new(Budget::of(0), Some(scratch.path().to_owned()));
        let mut names = Names::new(&mut pages).unwrap();
        let mut expected = BTreeMap::new();
        for (id, (directory, name)) in (1..).zip(entries) {
            let found = names.find(&mut pages, directory, &name).unwrap();
            assert_eq!(found, expected.get(&(directory, name.clone())).copied());
            names.put(&mut pages, directory, &name, id).unwrap();
            expected.insert((directory, name), id);
        }
        for directory in 0..=expected.last_key_value().unwrap().0.0 + 1 {
            let mut cursor = names.list(&mut pages, directory).unwrap();
            let mut name = Vec::new();
            let mut listed = Vec::new();
            while let Some(id) = Names::next(&mut pages, &mut cursor, &mut name).unwrap() {
                listed.push((name.clone(), id));
            }
            let of = expected.range((directory, Vec::new())..(directory + 1, Vec::new()));
            let of: Vec<_> = of.map(|((_, name), id)| (name.clone(), *id)).collect();
            assert!(listed == of, "directory {directory}");
        }
    }

    #[test]
    fn names_are_those_of_a_map() {
        for seed in 0..8 {
            let mut chance = Chance::new(seed);
            let entries = (0..20_000).map(|_| {
                let directory = Id::try_from(chance.below(1 << (seed * 2))).unwrap();
                let length = 1 + chance.below(if seed % 2 == 0 { 255 } else { 3 });
                let name = (0..length).map(|_| chance.below(256).to_le_bytes()[0]);
                let name = name.collect();
                (directory, name)
            });
            check(entries);
        }
    }

    #[test]
    fn names_in_order_fill_their_pages() {
        let name = |number: usize| format!("{number:08}").into_bytes();
        check((0..20_000).map(|number| (7, name(number))));
        check((0..20_000).rev().map(|number| (7, name(number))));
        let mut pages = Pages::new(Budget::of(0), None);
        let mut names = Names::new(&mut pages).unwrap();
        for number in 0..20_000 {
            names.put(&mut pages, 7, &name(number), 1).unwrap();
        }
        // 20 bytes each.
        let next = pages.add().unwrap() as usize;
        assert!(next < 20_000 * 20 / PAGE_BYTES + 4, "{next} pages");
    }
}
