//! Processes by number and birth, so that a number that is used again is not mistaken.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A process: its number, and when it began in clock ticks since boot. Two of the same number
/// never begin at the same tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
}

/// What `/proc/<pid>/stat` says that matters here.
struct Stat {
    start_time: u64,
    /// A zombie, or less.
    over: bool,
}

impl Life {
    /// Of a process that is there; of one that is not, a life that never was.
    pub(crate) fn of(pid: i32) -> Self {
        let start_time = stat(pid).map_or(0, |stat| stat.start_time);
        Self { pid, start_time }
    }

    /// Whether it still runs.
    pub(crate) fn is_running(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start_time == self.start_time && !stat.over)
    }

    /// A handle on it, if it runs.
    pub(crate) fn open(self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Looked at after it was opened: what is meant by the handle can no longer change.
        self.is_running().then_some(pidfd)
    }
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (name) state …`, where the name may hold anything, and the 22nd field is the start time.
fn parse(stat: &str) -> Option<Stat> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    Some(Stat {
        start_time: fields.nth(18)?.parse().ok()?,
        over: matches!(state, "Z" | "X" | "x"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) Z (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        let stat = parse(stat).unwrap();
        assert_eq!((stat.start_time, stat.over), (4711, false));
    }
}
