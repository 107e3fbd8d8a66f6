//! Pages of a tree that may be larger than what there is memory for.
//!
//! All trees that are being put together share one [`Budget`] of page frames. While there are free
//! ones a tree takes what it wants and touches no disk, which is how it is for most layers. After
//! that each tree has its fair share at most, and a page that has not been used for a while makes
//! way for the next: it is written to a file of the tree's own, which is made when it is first
//! wanted and vanishes with the tree. Nobody waits for anybody: even where others hold all frames,
//! a tree has [`FRAMES_MIN`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::files::Staged;
use crate::tree::UnpackError;

/// Bytes of a page, which are read and written at once.
pub(super) const PAGE_BYTES: usize = 4096;
/// Frames that every tree has: enough for one way through its names and some of its records.
const FRAMES_MIN: usize = 64;

pub(super) type Page = [u8; PAGE_BYTES];
/// Where a page stands among those of its tree.
pub(super) type Number = u32;

/// Page frames that several trees share.
#[derive(Debug)]
pub(crate) struct Budget {
    frames: usize,
    taken: AtomicUsize,
    trees: AtomicUsize,
}

impl Budget {
    /// For as many bytes of pages.
    pub(crate) fn of(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            frames: bytes / PAGE_BYTES,
            taken: AtomicUsize::new(0),
            trees: AtomicUsize::new(0),
        })
    }

    /// One more frame for a tree that has so many, if it may have it.
    fn take(&self, has: usize) -> bool {
        if has >= FRAMES_MIN
            && (has >= self.share() || self.taken.load(Ordering::Relaxed) >= self.frames)
        {
            return false;
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn share(&self) -> usize {
        self.frames / self.trees.load(Ordering::Relaxed).max(1)
    }

    fn give_back(&self, frames: usize) {
        self.taken.fetch_sub(frames, Ordering::Relaxed);
    }
}

/// The pages of one tree.
#[derive(Debug)]
pub(super) struct Pages {
    budget: Arc<Budget>,
    /// Where the file is made; nowhere if everything has to stay in memory.
    scratch: Option<PathBuf>,
    file: Option<(Staged, File)>,
    /// For each page the frame it is in, or [`ABSENT`].
    places: Vec<u32>,
    frames: Vec<Frame>,
    /// Where the search for the next page that makes way goes on.
    hand: usize,
}

/// A page that is in no frame.
const ABSENT: u32 = u32::MAX;

#[derive(Debug)]
struct Frame {
    page: Number,
    /// Since the hand came by last.
    is_used: bool,
    /// Since it was last written.
    is_changed: bool,
    bytes: Box<Page>,
}

impl Pages {
    pub(super) fn new(budget: Arc<Budget>, scratch: Option<PathBuf>) -> Self {
        budget.trees.fetch_add(1, Ordering::Relaxed);
        Self {
            budget,
            scratch,
            file: None,
            places: Vec::new(),
            frames: Vec::new(),
            hand: 0,
        }
    }

    /// A new page of zeros.
    pub(super) fn add(&mut self) -> Result<Number, UnpackError> {
        let page = Number::try_from(self.places.len())
            .ok()
            .filter(|page| *page < ABSENT)
            .ok_or_else(|| UnpackError::Malformed("its tree is too large".to_owned()))?;
        let frame = self.free_frame(page)?;
        self.frames[frame].bytes.fill(0);
        self.frames[frame].is_changed = true;
        self.places.push(place(frame));
        Ok(page)
    }

    pub(super) fn read(&mut self, page: Number) -> Result<&Page, UnpackError> {
        let frame = self.frame_of(page)?;
        Ok(&self.frames[frame].bytes)
    }

    pub(super) fn write(&mut self, page: Number) -> Result<&mut Page, UnpackError> {
        let frame = self.frame_of(page)?;
        let frame = &mut self.frames[frame];
        frame.is_changed = true;
        Ok(&mut frame.bytes)
    }

    fn frame_of(&mut self, page: Number) -> Result<usize, UnpackError> {
        let at = page as usize;
        if self.places[at] != ABSENT {
            let frame = self.places[at] as usize;
            self.frames[frame].is_used = true;
            return Ok(frame);
        }
        let frame = self.free_frame(page)?;
        let (_, file) = self.file.as_ref().expect("absent pages were written");
        file.read_exact_at(&mut self.frames[frame].bytes[..], offset(page))
            .map_err(spilling)?;
        self.frames[frame].is_changed = false;
        self.places[at] = place(frame);
        Ok(frame)
    }

    /// A frame for a page: a new one, or that of one that makes way.
    fn free_frame(&mut self, page: Number) -> Result<usize, UnpackError> {
        if self.scratch.is_none() || self.budget.take(self.frames.len()) {
            self.frames.push(Frame {
                page,
                is_used: true,
                is_changed: false,
                bytes: Box::new([0; PAGE_BYTES]),
            });
            return Ok(self.frames.len() - 1);
        }
        // One who came later is to have its share as well.
        if self.frames.len() > self.budget.share().max(FRAMES_MIN) {
            let last = self.frames.len() - 1;
            self.write_out(last)?;
            self.frames.pop();
            self.budget.give_back(1);
        }
        let frame = loop {
            self.hand = (self.hand + 1) % self.frames.len();
            let next = &mut self.frames[self.hand];
            if !std::mem::take(&mut next.is_used) {
                break self.hand;
            }
        };
        self.write_out(frame)?;
        self.frames[frame].page = page;
        self.frames[frame].is_used = true;
        Ok(frame)
    }

    /// Puts a page into the file, if it is not there as it is now.
    fn write_out(&mut self, frame: usize) -> Result<(), UnpackError> {
        let frame = &mut self.frames[frame];
        if frame.is_changed {
            if self.file.is_none() {
                let scratch = self.scratch.as_deref().expect("only trees with one spill");
                self.file = Some(Staged::file(scratch).map_err(spilling)?);
            }
            let (_, file) = self.file.as_ref().expect("made just now");
            file.write_all_at(&frame.bytes[..], offset(frame.page))
                .map_err(spilling)?;
            frame.is_changed = false;
        }
        self.places[frame.page as usize] = ABSENT;
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.scratch.is_some() {
            self.budget.give_back(self.frames.len());
        }
        self.budget.trees.fetch_sub(1, Ordering::Relaxed);
    }
}

fn place(frame: usize) -> u32 {
    u32::try_from(frame).expect("there are no more frames than pages")
}

fn offset(page: Number) -> u64 {
    u64::from(page) * PAGE_BYTES as u64
}

fn spilling(source: io::Error) -> UnpackError {
    UnpackError::Io {
        what: "keep",
        path: "the layer's tree".to_owned(),
        source,
    }
}

/// Bytes one after the other, in pages: things that lie together are read together.
#[derive(Debug, Default)]
pub(super) struct Heap {
    pages: Vec<Number>,
    length: u64,
}

/// Where something lies in a heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece(u64);

impl Piece {
    /// Nothing, which lies nowhere.
    pub(super) const NONE: Self = Self(0);

    pub(super) fn number(self) -> u64 {
        self.0
    }

    pub(super) fn of_number(number: u64) -> Self {
        Self(number)
    }
}

impl Heap {
    /// Keeps bytes; no bytes are [`Piece::NONE`].
    pub(super) fn put(&mut self, pages: &mut Pages, bytes: &[u8]) -> Result<Piece, UnpackError> {
        if bytes.is_empty() {
            return Ok(Piece::NONE);
        }
        let length = u32::try_from(bytes.len()).expect("headers are bounded");
        // The first one is not at 0, which means nothing.
        let piece = Piece(self.length + 1);
        self.append(pages, &length.to_le_bytes())?;
        self.append(pages, bytes)?;
        Ok(piece)
    }

    pub(super) fn get(&self, pages: &mut Pages, piece: Piece) -> Result<Vec<u8>, UnpackError> {
        let Some(at) = piece.0.checked_sub(1) else {
            return Ok(Vec::new());
        };
        let mut length = [0; 4];
        self.copy(pages, at, &mut length)?;
        let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
        self.copy(pages, at + 4, &mut bytes)?;
        Ok(bytes)
    }

    fn append(&mut self, pages: &mut Pages, mut bytes: &[u8]) -> Result<(), UnpackError> {
        while !bytes.is_empty() {
            let (number, within) = split(self.length);
            if number == self.pages.len() {
                self.pages.push(pages.add()?);
            }
            let take = bytes.len().min(PAGE_BYTES - within);
            pages.write(self.pages[number])?[within..within + take].copy_from_slice(&bytes[..take]);
            self.length += take as u64;
            bytes = &bytes[take..];
        }
        Ok(())
    }

    fn copy(&self, pages: &mut Pages, mut at: u64, to: &mut [u8]) -> Result<(), UnpackError> {
        let mut done = 0;
        while done < to.len() {
            let (number, within) = split(at);
            let take = (to.len() - done).min(PAGE_BYTES - within);
            let page = pages.read(self.pages[number])?;
            to[done..done + take].copy_from_slice(&page[within..within + take]);
            at += take as u64;
            done += take;
        }
        Ok(())
    }
}

/// A position as a page and an offset in it.
fn split(at: u64) -> (usize, usize) {
    let at = usize::try_from(at).expect("a heap is bounded by what names may have");
    (at / PAGE_BYTES, at % PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_way_is_read_back() {
        let scratch = tempfile::tempdir().unwrap();
        let budget = Budget::of(0);
        let mut pages = Pages::new(Arc::clone(&budget), Some(scratch.path().to_owned()));
        let count = 640;
        for number in 0..count {
            let page = pages.add().unwrap();
            assert_eq!(page, number);
            pages.write(page).unwrap()[..4].copy_from_slice(&number.to_le_bytes());
        }
        assert_eq!(pages.frames.len(), FRAMES_MIN);
        for number in (0..count).rev() {
            let page = pages.read(number).unwrap();
            assert_eq!(page[..4], number.to_le_bytes());
            assert_eq!(page[4..], [0; PAGE_BYTES - 4]);
        }
        drop(pages);
        assert_eq!(budget.taken.load(Ordering::Relaxed), 0);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_one_who_comes_later_gets_its_share() {
        let scratch = tempfile::tempdir().unwrap();
        let budget = Budget::of(1000 * PAGE_BYTES);
        let open = || Pages::new(Arc::clone(&budget), Some(scratch.path().to_owned()));
        let fill = |pages: &mut Pages| (0..2000).for_each(|_| assert!(pages.add().is_ok()));
        let mut first = open();
        fill(&mut first);
        assert_eq!(first.frames.len(), 1000);
        let mut second = open();
        fill(&mut second);
        assert_eq!(second.frames.len(), FRAMES_MIN);
        fill(&mut first);
        assert_eq!(first.frames.len(), 500);
        fill(&mut second);
        assert_eq!(second.frames.len(), 500);
    }

    #[test]
    fn pieces_go_across_pages() {
        let mut pages = Pages::new(Budget::of(0), None);
        let mut heap = Heap::default();
        let of = |length: usize| b"piece".repeat(length / 5 + 1)[..length].to_vec();
        let lengths = [0, 1, PAGE_BYTES, 4095, 3 * PAGE_BYTES + 7];
        let pieces = lengths.map(|length| heap.put(&mut pages, &of(length)).unwrap());
        assert_eq!(pieces[0], Piece::NONE);
        for (piece, length) in pieces.into_iter().zip(lengths) {
            assert_eq!(heap.get(&mut pages, piece).unwrap(), of(length));
        }
    }
}
