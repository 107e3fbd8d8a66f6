//! What an OCI runtime owes its callers, as data: `cases/*.toml`, and the program that holds any
//! runtime to it.
//!
//! ```text
//!  cases/mounts.toml ─▶ Case { name, config fragment, what the process then sees }
//!       base.json + fragment ─▶ bundle in a scratch directory, busybox as its root
//!       RUNTIME run │ create, start, exec, kill … ─▶ exit code, output, state, host
//!       compared, then the container is deleted: no state, cgroup or mount may be left
//! ```
//!
//! A case says what the runtime specification asks for. It is proved on runc and crun first; where
//! a runtime does otherwise, the case carries what it does and why ([`case::Difference`]), so that
//! a difference is a fact in the table and not a hole in it. `docs/compat.md` lists them.
//!
//! | module | holds |
//! |---|---|
//! | [`case`] | the form of the files |
//! | [`merge`] | how a fragment changes the base configuration |
//! | [`bundle`] | one case's scratch directory, and what may not be left of it |
//! | [`command`] | running programs with their output in files, and a limit of time |
//! | [`runtime`] | the program under test: path, family, version |
//! | [`hybrid`] | what crun needs of a host with both versions of control groups |
//! | [`run`] | a case against a runtime |
//! | [`report`] | tables for people |
//! | [`suite`] | the cases as tests of another crate, one test for each topic |
//!
//! Absent: anything of berth. The suite knows a runtime as a program on disk and nothing else.

pub mod bundle;
pub mod case;
pub mod command;
pub mod hybrid;
pub mod merge;
pub mod report;
pub mod run;
pub mod runtime;
pub mod suite;

pub use case::{Case, Topic};
pub use run::{Verdict, run};
pub use runtime::{Family, Runtime};
