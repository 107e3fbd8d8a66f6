//! `berth …`: the command line.
pub mod flags;
pub mod human;
pub mod table;
pub mod template;
