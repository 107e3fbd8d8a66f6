//! `berth runtime` as a program: each command, and Podman, Docker and containerd that start containers
//! with it.

mod beside_runc;
mod bundle;
mod cgroups;
mod checkpoint;
mod checkpoint_options;
mod commands;
mod containerd;
pub(crate) mod docker;
mod driver;
mod exec;
mod interrupted;
pub(crate) mod podman;
mod rootless;
mod rootless_podman;
mod systemd;
mod terminal;
mod traced;
