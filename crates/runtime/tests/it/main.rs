//! Containers run for real: busybox in namespaces and cgroups of its own.
//!
//! | module | shows |
//! |---|---|
//! | `process` | exit codes, signals, streams, terminals, environment, failures to start |
//! | `identity` | users, groups, capabilities, limits, seccomp, `no_new_privs` |
//! | `attributes` | scheduling, memory policy, processors, execution domain |
//! | `specification` | what cannot be in a specification, in exact words |
//! | `view` | root, mounts, devices, masked and read-only paths, namespaces |
//! | `mounts` | options, mapped ids, propagation, cgroup file systems |
//! | `namespaces` | user, time and joined namespaces |
//! | `cgroups` | limits in files and in effect, freezing, killing, counting, out of memory |
//! | `exec` | more processes in a running container |
//! | `features` | the features document says what the runtime does |
//! | `filters` | system call filters: every action, and agents that answer calls |
//! | `hooks` | all six kinds: where they run, in which order, what they are told, how they fail |
//! | `escapes` | the published ways out of a container, tried |
//! | `guest` | `cgroups`, `exec` and `process` again where only version 2, or only version 1, is mounted |
//! | `netdevices` | devices of the host's network that a container is given |
//! | `systemd` | a scope that systemd makes, in a guest that it runs |
//! | `sealed` | the caller's own program stays as it is |
//! | `rootless` | containers of an ordinary user |
//! | `refusals` | what is refused before or while a container is made, and what is then left |

#![expect(
    clippy::unwrap_used,
    reason = "tests panic; the message and the line are what they tell"
)]

mod attributes;
mod cgroups;
mod escapes;
mod exec;
mod features;
mod filters;
mod guest;
mod hooks;
mod identity;
mod kit;
mod mounts;
mod namespaces;
mod netdevices;
mod process;
mod refusals;
mod rootless;
mod sealed;
mod specification;
mod systemd;
mod view;
