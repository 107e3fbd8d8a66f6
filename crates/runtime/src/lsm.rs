//! Which security modules this kernel runs. Asked only where a label is.

use std::fs;

/// `SELINUX_MAGIC` (linux/magic.h).
const SELINUX_MAGIC: rustix::fs::FsWord = 0xf97c_ff8c;

/// AppArmor, as every tool finds out.
pub fn has_apparmor() -> bool {
    let enabled = fs::read("/sys/module/apparmor/parameters/enabled");
    enabled.is_ok_and(|text| text.starts_with(b"Y"))
}

/// SELinux, which is enabled where its file system is mounted.
pub fn has_selinux() -> bool {
    rustix::fs::statfs("/sys/fs/selinux").is_ok_and(|fs| fs.f_type == SELINUX_MAGIC)
}
