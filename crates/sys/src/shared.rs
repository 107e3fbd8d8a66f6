//! Memory that two processes share, for what must be told without a system call.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

use rustix::fs::{MemfdFlags, SealFlags};

/// One number, in a file of its own that whoever gets its descriptor can map too.
#[derive(Debug)]
pub struct SharedWord {
    file: OwnedFd,
    at: NonNull<AtomicU32>,
}

impl SharedWord {
    /// A new one, 0.
    pub fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("word", flags)?;
        rustix::fs::ftruncate(&file, size_of::<AtomicU32>() as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::SEAL)?;
        Self::map(file)
    }

    /// The one behind a descriptor of another's.
    pub fn map(file: OwnedFd) -> io::Result<Self> {
        let length = size_of::<AtomicU32>();
        let size = rustix::fs::fstat(&file)?.st_size;
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let stays = seals.contains(SealFlags::SHRINK);
        if size < 0 || size.cast_unsigned() < length as u64 || !stays {
            // Touching it would be a SIGBUS, now or once it has shrunk.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let raw = file.as_raw_fd();
        // SAFETY: a new mapping at a place of the kernel's choice, of a file that is open.
        let at = unsafe { libc::mmap(ptr::null_mut(), length, access, libc::MAP_SHARED, raw, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { file, at })
    }

    /// The number.
    pub fn word(&self) -> &AtomicU32 {
        // SAFETY: the mapping is page-aligned, covers the number, which any bits are valid for, and
        // lives as long as `self`; both processes go through atomics only.
        unsafe { self.at.as_ref() }
    }
}

impl AsFd for SharedWord {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: `map` made the mapping, of this length, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast::<c_void>(), size_of::<AtomicU32>()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn both_mappings_see_the_number() {
        let one = SharedWord::new().unwrap();
        let other = SharedWord::map(one.as_fd().try_clone_to_owned().unwrap()).unwrap();
        one.word().store(7, Ordering::Release);
        assert_eq!(other.word().load(Ordering::Acquire), 7);
    }

    #[test]
    fn a_file_that_is_too_short_or_may_become_so_is_refused() {
        let memory = || rustix::fs::memfd_create("empty", MemfdFlags::ALLOW_SEALING).unwrap();
        let empty = memory();
        rustix::fs::fcntl_add_seals(&empty, SealFlags::SHRINK).unwrap();
        assert!(SharedWord::map(empty).is_err());
        let open = memory();
        rustix::fs::ftruncate(&open, 4096).unwrap();
        assert!(SharedWord::map(open).is_err());
    }
}
