//! Loop devices: a file as a block device (loop(4)).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `struct loop_info64` (linux/loop.h).
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    real_device: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` (linux/loop.h).
#[repr(C)]
struct Configuration {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const CTL_GET_FREE: libc::Ioctl = 0x4C82;
const CONFIGURE: libc::Ioctl = 0x4C0A;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;

/// The number of a device that nothing is attached to, made if there is none. Somebody else may be
/// told the same.
pub fn find_free(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: this request takes no argument and touches no memory.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Attaches a file to a device, read-only, until nobody has the device open or mounted any more.
/// Fails with `EBUSY` where something is attached already (Linux 5.8).
pub fn attach(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    let configuration = Configuration {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: 0,
        info: Info {
            device: 0,
            inode: 0,
            real_device: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: READ_ONLY | AUTOCLEAR,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the structure is the kernel's, whole and initialised, and outlives the call, which
    // only reads it.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const configuration) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
