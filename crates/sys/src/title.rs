//! What `ps` shows of a process: its command line.

use std::io;
use std::ptr;

/// Where the kernel finds the parts of a program (`struct prctl_mm_map`, linux/prctl.h).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// First byte of its code.
    pub start_code: u64,
    /// First byte after it.
    pub end_code: u64,
    /// First byte of its data.
    pub start_data: u64,
    /// First byte after it.
    pub end_data: u64,
    /// Where its heap begins.
    pub start_brk: u64,
    /// Where its heap ends.
    pub brk: u64,
    /// Where its stack began.
    pub start_stack: u64,
    /// First byte of its command line.
    pub arg_start: u64,
    /// First byte after it.
    pub arg_end: u64,
    /// First byte of its environment.
    pub env_start: u64,
    /// First byte after it.
    pub env_end: u64,
    auxv: u64,
    auxv_bytes: u32,
    exe: u32,
}

impl Map {
    /// Of no place yet. The auxiliary vector and the file of the program stay as they are.
    pub const NOWHERE: Self = Self {
        start_code: 0,
        end_code: 0,
        start_data: 0,
        end_data: 0,
        start_brk: 0,
        brk: 0,
        start_stack: 0,
        arg_start: 0,
        arg_end: 0,
        env_start: 0,
        env_end: 0,
        auxv: 0,
        auxv_bytes: 0,
        exe: u32::MAX,
    };
}

/// The end of the heap now.
pub fn end_of_heap() -> u64 {
    // SAFETY: moves nothing, and asks where the end is.
    unsafe { libc::sbrk(0) as u64 }
}

/// Tells the kernel where the parts of this program are. They are only looked at by whoever reads
/// about the process, which needs no more than that they are mapped.
pub fn set(map: &Map) -> io::Result<()> {
    let none = ptr::null::<u8>();
    // SAFETY: `map` is laid out as the kernel wants it, outlives the call, and is only read.
    let rc = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            libc::PR_SET_MM_MAP,
            ptr::from_ref(map),
            size_of::<Map>(),
            none,
        )
    };
    match rc {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
