//! Containers run for real: busybox in namespaces and cgroups of its own.

mod kit;
mod process;
