//! Pages that a process used once and does not need any more, given back to the kernel.

use std::ffi::c_void;
use std::fs;
use std::io;

/// Hands the free memory inside the C library's heap back. Does nothing where that is not its way.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim locks the heap as every allocation does, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Room that is left to the frames of the functions beneath the caller.
const STACK_MARGIN: usize = 8 << 10;

/// Hands back the pages of the stack that deeper calls once reached. Only the main thread may,
/// whose stack the kernel names.
pub fn release_stack() -> io::Result<()> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let stack = maps.lines().find(|line| line.ends_with("[stack]"));
    let bounds = stack.and_then(|line| line.split_once(' ')?.0.split_once('-'));
    let (lowest, highest) = bounds.ok_or(io::ErrorKind::NotFound)?;
    let bound = |text| usize::from_str_radix(text, 16).map_err(io::Error::other);
    let (lowest, highest) = (bound(lowest)?, bound(highest)?);

    let here = 0u8;
    let here = (&raw const here).addr();
    let page_bytes = page_bytes()?;
    let end = here.saturating_sub(STACK_MARGIN.max(page_bytes)) & !(page_bytes - 1);
    if !(lowest..highest).contains(&here) || end <= lowest {
        return Err(io::ErrorKind::NotFound.into());
    }
    let start = std::ptr::without_provenance_mut::<c_void>(lowest);
    // SAFETY: the range is a whole number of pages within the mapping that this frame is in, so it
    // is this thread's stack, and it ends below this frame: what is there is dead by the ABI.
    match unsafe { libc::madvise(start, end - lowest, libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn page_bytes() -> io::Result<usize> {
    // SAFETY: sysconf only looks a number up.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).map_err(io::Error::other)
}
