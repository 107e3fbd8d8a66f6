//! Whether a stop signal can reach anybody.
//!
//! The kernel drops signals to the first process of a pid namespace for which it has no handler.
//! Such a process is not going to end for them, so waiting for it only costs time.

use std::fs;
use std::path::Path;

/// The signal sets of one thread, as `/proc/PID/status` prints them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signals {
    caught: u64,
    ignored: u64,
    blocked: u64,
    /// Whether it is the first of its pid namespace.
    is_first: bool,
}

impl Signals {
    fn read(status: &str) -> Self {
        let mut signals = Self::default();
        for line in status.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let set = || u64::from_str_radix(value.trim(), 16).unwrap_or(u64::MAX);
            match key {
                "SigCgt" => signals.caught = set(),
                "SigIgn" => signals.ignored = set(),
                "SigBlk" => signals.blocked = set(),
                "NSpid" => {
                    // One number for each namespace around it: with one alone it is the host's.
                    let numbers: Vec<_> = value.split_whitespace().collect();
                    signals.is_first = numbers.len() > 1 && numbers.last() == Some(&"1");
                }
                _ => {}
            }
        }
        signals
    }

    /// A handler takes it, `signalfd` or `sigwait` does (which block it), or it was ignored on
    /// purpose: somebody wants to end in an own time.
    fn minds(&self, bit: u64) -> bool {
        (self.caught | self.ignored | self.blocked) & bit != 0
    }

    /// Of the thread whose directory this is.
    fn of(thread: &Path) -> Option<Self> {
        let read = || Some(Self::read(&fs::read_to_string(thread.join("status")).ok()?));
        let before = read()?;
        let waits = fs::read_to_string(thread.join("syscall")).is_ok_and(|call| is_sigwait(&call));
        let mut signals = read().unwrap_or(before);
        signals.blocked |= before.blocked;
        if waits {
            signals.blocked = u64::MAX;
        }
        Some(signals)
    }
}

/// Whether a thread waits for signals: meanwhile the kernel does not show those as blocked for
/// which it waits. Inits are mostly there (tini, dumb-init, our own).
fn is_sigwait(call: &str) -> bool {
    let number = call
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    number == Some(SIGWAIT)
}

/// `rt_sigtimedwait` (asm/unistd.h).
#[cfg(target_arch = "x86_64")]
const SIGWAIT: u32 = 128;
/// The same where numbers are those of asm-generic/unistd.h.
#[cfg(not(target_arch = "x86_64"))]
const SIGWAIT: u32 = 137;

/// Whether the kernel would drop this signal to the first process of a container, whose number on
/// the host is `pid`. Blocks. What cannot be told is not so.
pub(super) fn is_deaf(pid: i32, signal: i32) -> bool {
    let bit = match u32::try_from(signal) {
        Ok(signal @ 1..=64) => 1 << (signal - 1),
        _ => return false,
    };
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let statuses: Vec<Signals> = threads
        .flatten()
        .filter_map(|thread| Signals::of(&thread.path()))
        .collect();
    let first = statuses.iter().any(|signals| signals.is_first);
    first && !statuses.iter().any(|signals| signals.minds(bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_sets_are_read_as_the_kernel_prints_them() {
        let status = "Name:\tsleep\nNSpid:\t4711\t1\nSigBlk:\t0000000000000000\n\
                      SigIgn:\t0000000000000004\nSigCgt:\t0000000180014a07\n";
        let signals = Signals::read(status);
        assert!(signals.is_first);
        let bit = |signal: u32| 1 << (signal - 1);
        assert!(signals.minds(bit(15)) && signals.minds(bit(3)) && signals.minds(bit(1)));
        assert!(!signals.minds(bit(13)));
        assert!(!Signals::read("NSpid:\t4711\n").is_first);
    }

    #[test]
    fn who_waits_for_signals_is_told_by_the_call() {
        assert!(is_sigwait(&format!(
            "{SIGWAIT} 0x7ffd1 0x0 0x0 0x8 0x0 0x0 0x7ffd0 0x401\n"
        )));
        assert!(!is_sigwait(
            "230 0x0 0x0 0x7ffd1 0x0 0x0 0x0 0x7ffd0 0x401\n"
        ));
        assert!(!is_sigwait("running\n"));
    }

    #[test]
    fn a_process_of_the_hosts_namespace_is_never_deaf() {
        // The kernel ends it by the signal's default.
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!is_deaf(own, 10));
        assert!(!is_deaf(own, 0));
    }
}
