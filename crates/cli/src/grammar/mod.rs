//! The small languages inside flag values, with Docker's messages.
//!
//! | module | holds |
//! |---|---|
//! | [`ports`] | `-p`, `--expose` |
//! | [`mounts`] | `-v`, `--mount`, `--tmpfs` |
//! | [`networks`] | `--network` in its short and long form |
//! | [`devices`] | `--device`, `--gpus`, `--device-*-bps`, `--blkio-weight-device` |
//! | [`pairs`] | `-e`, `--env-file`, `--label`, `key=value` in general |
//! | [`limits`] | `--ulimit`, `--cpus`, `--memory-swap`, `--restart` |
//! | [`csv`] | the comma-separated fields that several of them are made of |

pub mod csv;
pub mod devices;
pub mod limits;
pub mod mounts;
pub mod networks;
pub mod pairs;
pub mod ports;
