//! `berth runtime` as a program: each command, and Podman and Docker that start containers with it.

mod bundle;
mod cgroups;
mod checkpoint;
mod commands;
pub(crate) mod docker;
mod driver;
mod exec;
mod interrupted;
pub(crate) mod podman;
mod rootless;
mod systemd;
mod terminal;
mod traced;
