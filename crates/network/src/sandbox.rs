//! Network namespaces, made and entered on threads that live for nothing else.
//!
//! A thread's namespace decides where its sockets and `/proc/sys/net` lead, so a thread that
//! others use must never change it: not even briefly, since changing back may fail.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::error::SandboxError;
use crate::links::Links;
use crate::sysctl;

/// Enough for the few frames that run on these threads.
const STACK_BYTES: usize = 128 << 10;

/// A new namespace with `lo` up.
pub(crate) fn open() -> Result<OwnedFd, SandboxError> {
    let step = |step| move |source| SandboxError::Step { step, source };
    on_own_thread(move || {
        sys::namespace::unshare(UnshareFlags::NEWNET).map_err(step("make a namespace"))?;
        let links = Links::open().map_err(step("open a netlink socket"))?;
        links.raise("lo").map_err(step("raise `lo`"))?;
        // Networks have no IPv6 yet: no stray link-local addresses on what comes later; `lo`
        // keeps `::1`.
        sysctl::write_if_there("net/ipv6/conf/default/disable_ipv6", "1")
            .map_err(step("write `net.ipv6.conf.default.disable_ipv6`"))?;
        let own = File::open("/proc/thread-self/ns/net").map_err(step("open the namespace"))?;
        Ok(own.into())
    })
    .map_err(step("start a thread"))?
}

/// Runs `work` inside a namespace. The outer error is about getting there.
pub(crate) fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_own_thread(move || {
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
        work()
    })?
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
