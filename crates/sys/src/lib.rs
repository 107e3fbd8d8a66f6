//! Linux calls behind safe, owning types: every `unsafe` of berth is in this crate.
//!
//! One call per wrapper and one file per topic; what `rustix` already offers is used from there.
//! What you will not find: a decision, a second call in one wrapper, a retry.
//!
//! | module | holds |
//! |---|---|
//! | [`bpf`] | loading and attaching a cgroup device program |
//! | [`clone`] | a forked child in new namespaces, with its pidfd |
//! | [`credentials`] | by which ids access to files is judged |
//! | [`daemonise`] | fork without threads, ignored signals, no inherited descriptors |
//! | [`descriptors`] | closing or marking ranges of descriptors |
//! | [`exec`] | replacing the process |
//! | [`inherited`] | sockets that systemd opened for this process |
//! | [`keyring`] | a session keyring of one's own |
//! | [`loop_device`] | a file as a block device |
//! | [`memory`] | pages given back to the kernel |
//! | [`mount`] | `mount_setattr` |
//! | [`namespace`] | leaving a namespace, and telling what one is |
//! | [`netlink`] | options of netlink sockets |
//! | [`numa`] | from which nodes memory comes |
//! | [`pidfd`] | signals without mistaking the process |
//! | [`queue`] | what is still on its way through a socket |
//! | [`schedule`] | how a thread is scheduled, and its execution domain |
//! | [`seccomp`] | loading a filter |
//! | [`shared`] | a number that two processes share |
//! | [`shutdown`] | a file system that writes nothing more |
//! | [`signalfd`] | signals as something to read |
//! | [`signals`] | dispositions and mask as a fresh process has them |
//! | [`title`] | what `ps` shows of a process |
//! | [`trace`] | another process step by step, for tests |
//! | [`writeback`] | dirty pages on their way to the disk |
#![expect(unsafe_code, reason = "the one crate that opens it")]

pub mod bpf;
pub mod clone;
pub mod credentials;
pub mod daemonise;
pub mod descriptors;
pub mod exec;
pub mod inherited;
pub mod keyring;
pub mod loop_device;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod numa;
pub mod pidfd;
pub mod queue;
pub mod schedule;
pub mod seccomp;
pub mod shared;
pub mod shutdown;
pub mod signalfd;
pub mod signals;
pub mod title;
pub mod trace;
pub mod writeback;
