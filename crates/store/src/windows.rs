//! How far back a zstd stream may refer: the decoder keeps that much of what it made.
//!
//! `zstd --ultra` and `--long` ask for more than the 8 MiB that RFC 8878 wants every decoder to have,
//! up to 2 GiB. What is over that is decoded one layer at a time, and what is over
//! [`WIDEST_BYTES`](Width::WIDEST_BYTES) not at all, so that memory is bounded however many layers come.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The longest head of a frame, with its magic (RFC 8878, 3.1.1.1).
const HEAD_BYTES: usize = 18;
/// Of a frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The right to decode a wide layer, of which there is one.
#[derive(Debug, Default)]
pub(crate) struct Wide {
    taken: Mutex<bool>,
    freed: Condvar,
}

/// Has the right, until it is dropped.
#[derive(Debug)]
struct Turn(Arc<Wide>);

impl Wide {
    fn take(self: &Arc<Self>) -> Turn {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_while(taken, |taken| *taken);
        *waited.unwrap_or_else(PoisonError::into_inner) = true;
        Turn(Arc::clone(self))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Wide { taken, freed } = &*self.0;
        *taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        freed.notify_one();
    }
}

/// Watches the heads of a stream's frames.
#[derive(Debug)]
pub(crate) struct Width {
    wide: Arc<Wide>,
    turn: Option<Turn>,
    /// The head of the frame that begins, as far as it is there; nothing within a frame.
    head: Option<Vec<u8>>,
}

impl Width {
    /// What any decoder has.
    const COMMON_BYTES: u64 = 8 << 20;
    /// What is decoded at all.
    pub(crate) const WIDEST_BYTES: u64 = 32 << 20;

    pub(crate) fn new(wide: &Arc<Wide>) -> Self {
        Self {
            wide: Arc::clone(wide),
            turn: None,
            head: Some(Vec::with_capacity(HEAD_BYTES)),
        }
    }

    /// The last frame is complete.
    pub(crate) fn ended(&mut self) {
        self.head.get_or_insert_default();
    }

    /// Judges the head of a frame before the decoder sees the bytes that complete it. A wide one
    /// waits for its turn.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(head) = &mut self.head else {
            return Ok(());
        };
        let room = HEAD_BYTES - head.len();
        head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let Some(window) = window(head) else {
            return Ok(());
        };
        self.head = None;
        if window > Self::WIDEST_BYTES {
            let (window, widest) = (window >> 20, Self::WIDEST_BYTES >> 20);
            let text = format!(
                "it was compressed with a window of {window} MiB, more than the {widest} MiB accepted; compress it with less than `zstd --ultra -21` or `--long=26`"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if window > Self::COMMON_BYTES && self.turn.is_none() {
            self.turn = Some(self.wide.take());
        }
        Ok(())
    }
}

/// The window that the head of a frame asks for; none of what is no frame. Nothing if more is needed.
fn window(head: &[u8]) -> Option<u64> {
    let magic = head.first_chunk::<4>()?;
    if *magic != MAGIC {
        return Some(0);
    }
    let descriptor = *head.get(4)?;
    if descriptor & 0x20 == 0 {
        let byte = u64::from(*head.get(5)?);
        let base = 1 << (10 + (byte >> 3));
        return Some(base + base / 8 * (byte & 7));
    }
    // A single segment: its window is all of it.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let field = head.get(5 + dictionary..5 + dictionary + length)?;
    let value = field.iter().rev();
    let value = value.fold(0, |value, byte| value << 8 | u64::from(*byte));
    Some(if length == 2 { value + 256 } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(level: i32, log: Option<u32>, bytes: usize, pledged: bool) -> Vec<u8> {
        use std::io::Write as _;
        let mut encoder = zstd::Encoder::new(Vec::new(), level).unwrap();
        if let Some(log) = log {
            encoder.window_log(log).unwrap();
        }
        if pledged {
            encoder.set_pledged_src_size(Some(bytes as u64)).unwrap();
            encoder.include_contentsize(true).unwrap();
        }
        encoder.write_all(&vec![7; bytes]).unwrap();
        let mut made = encoder.finish().unwrap();
        made.truncate(HEAD_BYTES);
        made
    }

    #[test]
    fn the_window_of_a_frame_is_what_its_encoder_used() {
        for (log, bytes) in [
            (10, 1 << 10),
            (23, 8 << 20),
            (25, 32 << 20),
            (27, 128 << 20),
        ] {
            assert_eq!(window(&head(1, Some(log), 1 << 20, false)), Some(bytes));
        }
        for bytes in [100, 300, 70_000, 1 << 20] {
            assert_eq!(window(&head(19, None, bytes, true)), Some(bytes as u64));
        }
    }

    #[test]
    fn a_head_may_come_in_pieces_and_after_another_frame() {
        let wide = Arc::new(Wide::default());
        let mut width = Width::new(&wide);
        let narrow = head(1, Some(20), 1 << 20, false);
        for byte in &narrow {
            width.pass(&[*byte]).unwrap();
        }
        assert!(width.turn.is_none());
        width.ended();
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];
        width.pass(&skippable).unwrap();
        width.ended();
        let last = head(1, Some(27), 1 << 20, false);
        let error = last.iter().find_map(|byte| width.pass(&[*byte]).err());
        let error = error.unwrap().to_string();
        assert!(error.contains("window of 128 MiB"), "{error}");
    }

    #[test]
    fn wide_ones_take_turns() {
        let wide = Arc::new(Wide::default());
        let head = head(1, Some(25), 1 << 20, false);
        let mut first = Width::new(&wide);
        first.pass(&head).unwrap();
        assert!(*wide.taken.lock().unwrap());
        let other = std::thread::spawn({
            let wide = Arc::clone(&wide);
            move || Width::new(&wide).pass(&head)
        });
        drop(first);
        other.join().unwrap().unwrap();
        assert!(!*wide.taken.lock().unwrap());
    }
}
