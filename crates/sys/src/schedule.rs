//! How the kernel schedules the calling thread: its processor time, and its input and output.

use std::io;

/// `struct sched_attr` (linux/sched/types.h), version 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerAttributes {
    /// Filled in by [`set_scheduler`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For the policies that share time: -20 to 19.
    pub nice: i32,
    /// For the real-time policies: 1 to 99.
    pub priority: u32,
    /// For deadlines, as the next two: nanoseconds of work.
    pub runtime: u64,
    /// Nanoseconds until it is done.
    pub deadline: u64,
    /// Nanoseconds until there is more.
    pub period: u64,
}

/// Schedules the calling thread that way.
pub fn set_scheduler(attributes: &SchedulerAttributes) -> io::Result<()> {
    let mut attributes = *attributes;
    attributes.size = u32::try_from(size_of::<SchedulerAttributes>()).expect("48 bytes");
    let (own, no_flags) = (0, 0);
    // SAFETY: `attributes` outlives the call and says its own size; the kernel copies it.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            own,
            &raw const attributes,
            no_flags,
        )
    };
    answer(rc)
}

/// Sets the calling thread's `IOPRIO_PRIO_VALUE`.
pub fn set_io_priority(value: u32) -> io::Result<()> {
    /// `IOPRIO_WHO_PROCESS` (linux/ioprio.h).
    const PROCESS: libc::c_int = 1;
    let own = 0;
    // SAFETY: takes no pointers.
    answer(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, own, value) })
}

/// Sets the calling process's execution domain, `PER_*` (sys/personality.h).
pub fn set_personality(domain: libc::c_ulong) -> io::Result<()> {
    // SAFETY: takes no pointers.
    answer(unsafe { libc::personality(domain) }.into())
}

fn answer(rc: libc::c_long) -> io::Result<()> {
    if rc == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
