//! System call numbers by name.

use super::Machine;
use crate::oci::Arch;

/// Every known system call (see its head for the format).
const TABLE: &str = include_str!("syscalls.tsv");

/// An instruction set with its own numbers, as `seccomp_data.arch` tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Abi {
    /// The one that a machine is named for.
    pub(super) fn of(machine: Machine) -> Self {
        match machine {
            Machine::X86_64 => Self::X86_64,
            Machine::Aarch64 => Self::Aarch64,
        }
    }

    /// By the name in a specification; `None` if no machine of ours runs it.
    pub(super) fn new(arch: Arch) -> Option<Self> {
        match arch {
            Arch::ScmpArchX86_64 => Some(Self::X86_64),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            Arch::ScmpArchArm => Some(Self::Arm),
            Arch::ScmpArchNative => Some(Self::of(Machine::HOST)),
            _ => None,
        }
    }

    /// `AUDIT_ARCH_*` (linux/audit.h). x32 shares that of x86_64 and sets bit 30 of the number.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments are compared as 64 bits; those of x32 are pointers of 32 (libseccomp).
    pub(super) fn is_wide(self) -> bool {
        !matches!(self, Self::X86 | Self::X32 | Self::Arm)
    }

    /// Through which call `name` can be made too, and as which number there: x86 has `socketcall`
    /// (linux/net.h) and `ipc` (linux/ipc.h).
    pub(super) fn multiplexed(self, name: &str) -> Option<(u32, u64)> {
        if self != Self::X86 {
            return None;
        }
        let (via, call) = match name {
            "socket" => ("socketcall", 1),
            "bind" => ("socketcall", 2),
            "connect" => ("socketcall", 3),
            "listen" => ("socketcall", 4),
            "accept" => ("socketcall", 5),
            "getsockname" => ("socketcall", 6),
            "getpeername" => ("socketcall", 7),
            "socketpair" => ("socketcall", 8),
            "send" => ("socketcall", 9),
            "recv" => ("socketcall", 10),
            "sendto" => ("socketcall", 11),
            "recvfrom" => ("socketcall", 12),
            "shutdown" => ("socketcall", 13),
            "setsockopt" => ("socketcall", 14),
            "getsockopt" => ("socketcall", 15),
            "sendmsg" => ("socketcall", 16),
            "recvmsg" => ("socketcall", 17),
            "accept4" => ("socketcall", 18),
            "recvmmsg" => ("socketcall", 19),
            "sendmmsg" => ("socketcall", 20),
            "semop" => ("ipc", 1),
            "semget" => ("ipc", 2),
            "semctl" => ("ipc", 3),
            "semtimedop" => ("ipc", 4),
            "msgsnd" => ("ipc", 11),
            "msgrcv" => ("ipc", 12),
            "msgget" => ("ipc", 13),
            "msgctl" => ("ipc", 14),
            "shmat" => ("ipc", 21),
            "shmdt" => ("ipc", 22),
            "shmget" => ("ipc", 23),
            "shmctl" => ("ipc", 24),
            _ => return None,
        };
        Some((self.number(via)?, call))
    }

    fn column(self) -> usize {
        match self {
            Self::X86_64 => 0,
            Self::X86 => 1,
            Self::X32 => 2,
            Self::Aarch64 => 3,
            Self::Arm => 4,
        }
    }

    /// The number of `name`; `None` if there is no such call here.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let row = row(name)?;
        row.split('\t').nth(1 + self.column())?.parse().ok()
    }
}

/// The line of `name`, found by bisection: the lines are sorted.
fn row(name: &str) -> Option<&'static str> {
    let (mut low, mut high) = (0, TABLE.len());
    while low < high {
        // The line that covers the middle.
        let middle = usize::midpoint(low, high);
        let start = TABLE[low..middle]
            .rfind('\n')
            .map_or(low, |at| low + at + 1);
        let end = TABLE[middle..high]
            .find('\n')
            .map_or(high, |at| middle + at);
        let line = &TABLE[start..end];
        match name.cmp(line.split('\t').next().unwrap_or_default()) {
            std::cmp::Ordering::Equal => return Some(line),
            std::cmp::Ordering::Less => high = start,
            std::cmp::Ordering::Greater => low = (end + 1).min(high),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_found_by_its_name() {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
        let names: Vec<&str> = lines.map(|line| line.split('\t').next().unwrap()).collect();
        assert!(names.is_sorted() && names.len() > 450);
        for name in names {
            assert!(row(name).unwrap().starts_with(name), "{name}");
        }
        assert_eq!(row("nonsense"), None);
        assert_eq!(row(""), None);
    }

    #[test]
    fn numbers_are_those_of_the_kernel() {
        let all = |name| {
            [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm].map(|abi| abi.number(name))
        };
        assert_eq!(all("read"), [Some(0), Some(3), Some(0), Some(63), Some(3)]);
        assert_eq!(
            all("execve"),
            [Some(59), Some(11), Some(520), Some(221), Some(11)]
        );
        assert_eq!(
            all("keyctl"),
            [Some(250), Some(288), Some(250), Some(219), Some(311)]
        );
        assert_eq!(all("clone3"), [Some(435); 5]);
        assert_eq!(all("open"), [Some(2), Some(5), Some(2), None, Some(5)]);
        assert_eq!(all("set_tls"), [None, None, None, None, Some(0xf0005)]);
    }

    #[test]
    fn numbers_of_this_machine_agree_with_libc() {
        let abi = Abi::new(Arch::ScmpArchNative).unwrap();
        for (name, number) in [
            ("mount", libc::SYS_mount),
            ("seccomp", libc::SYS_seccomp),
            ("openat2", libc::SYS_openat2),
            ("setns", libc::SYS_setns),
            ("personality", libc::SYS_personality),
        ] {
            assert_eq!(abi.number(name).map(i64::from), Some(number), "{name}");
        }
    }
}
