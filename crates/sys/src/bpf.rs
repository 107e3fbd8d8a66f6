//! `bpf(2)`, as much as a cgroup's device filter needs.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// `BPF_PROG_LOAD`, `BPF_PROG_ATTACH`, `BPF_PROG_DETACH`, `BPF_PROG_GET_FD_BY_ID`,
/// `BPF_PROG_QUERY` (linux/bpf.h).
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// `BPF_F_ALLOW_MULTI`.
const ALLOW_MULTI: u32 = 2;
/// `struct bpf_insn` is 8 bytes.
const INSTRUCTION_BYTES: usize = 8;
/// Programs asked for at once; systemd and a runtime are two.
const QUERY_PROGRAMS: usize = 64;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest as zeros.
#[repr(C)]
struct LoadAttr {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// For `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
struct AttachAttr {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replace: u32,
}

/// For `BPF_PROG_QUERY`. All of it, down to the last field: Linux 6.17 stores the revision there
/// whatever size it is told (opencontainers/runc#5403).
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// For `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

fn call<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is one of the structs above, valid for the command and of the size given;
    // what it points at outlives this call at each caller.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if rc == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(libc::c_int::try_from(rc).expect("bpf(2) answers an int"))
    }
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: a descriptor that bpf(2) has just made (close-on-exec), which nobody else knows.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn number(fd: RawFd) -> u32 {
    fd.cast_unsigned()
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program, an array of `struct bpf_insn`.
pub fn load_device_program(program: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        kind: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len() / INSTRUCTION_BYTES)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        instructions: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    call(PROG_LOAD, &mut attr).map(owned)
}

/// Has `program` judge every device access below `cgroup`, beside those attached above it.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = AttachAttr {
        target: number(cgroup.as_raw_fd()),
        program: number(program.as_raw_fd()),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
        replace: 0,
    };
    call(PROG_ATTACH, &mut attr).map(drop)
}

/// Undoes [`attach_device_program`].
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = AttachAttr {
        target: number(cgroup.as_raw_fd()),
        program: number(program.as_raw_fd()),
        kind: ATTACH_CGROUP_DEVICE,
        flags: 0,
        replace: 0,
    };
    call(PROG_DETACH, &mut attr).map(drop)
}

/// The ids of the device programs attached to `cgroup` itself.
pub fn device_program_ids(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; QUERY_PROGRAMS];
    let mut attr = QueryAttr {
        target: number(cgroup.as_raw_fd()),
        kind: ATTACH_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: u32::try_from(QUERY_PROGRAMS).expect("a small constant"),
        ..QueryAttr::default()
    };
    call(PROG_QUERY, &mut attr)?;
    Ok(ids.into_iter().take(attr.count as usize).collect())
}

/// Opens a loaded program.
pub fn open_program(id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr {
        id,
        next: 0,
        flags: 0,
    };
    call(PROG_GET_FD_BY_ID, &mut attr).map(owned)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// With less than the whole struct it failed on no kernel at hand: 6.18.44 minds the size again.
    #[test]
    fn privileged_the_kernel_stores_nothing_behind_a_query() {
        #[repr(C)]
        struct Guarded {
            attr: QueryAttr,
            behind: [u64; 16],
        }
        let directory = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let cgroup = directory
            .iter()
            .find(|path| std::path::Path::new(path).join("cgroup.procs").exists());
        let cgroup = File::open(cgroup.unwrap()).unwrap();
        let mut guarded = Guarded {
            attr: QueryAttr {
                target: number(cgroup.as_raw_fd()),
                kind: ATTACH_CGROUP_DEVICE,
                ..QueryAttr::default()
            },
            behind: [0; 16],
        };
        let size = size_of::<QueryAttr>();
        // SAFETY: `guarded` is more than the size that is told, and asks for no ids.
        let rc = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut guarded, size) };
        assert_eq!((rc, guarded.behind), (0, [0; 16]));
    }
}
