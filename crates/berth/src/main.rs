//! `berth`: argv decides which program this is, before any thread exists.
//!
//! | called as | becomes |
//! |---|---|
//! | `berth daemon …`, or `dockerd …` | the engine and its API ([`daemon`]) |
//! | `berth runtime …`, or `runc …`, or `berth-runtime …` | the OCI runtime ([`runc`]) |
//! | `berth monitor` (internal) | the fork server of the processes beside containers ([`monitor`]) |
//! | anything else, also as `docker …` | the command line ([`cli`]) |
//!
//! Absent: logic. Each role reads its own arguments.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// musl's own allocator is several times slower under load (DEPENDENCIES, "Build, size, tests").
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Which program this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Daemon,
    Monitor,
    Runtime,
    CommandLine,
}

/// The role, and the arguments that are left for it (the program's name first).
fn role(mut argv: Vec<OsString>) -> (Role, Vec<OsString>) {
    let called = argv
        .first()
        .and_then(|name| Path::new(name).file_name())
        .unwrap_or_default();
    match called.to_str() {
        Some("dockerd") => return (Role::Daemon, argv),
        Some("runc" | "berth-runtime") => return (Role::Runtime, argv),
        _ => {}
    }
    let role = match argv.get(1).and_then(|word| word.to_str()) {
        Some("daemon") => Role::Daemon,
        Some("monitor") => Role::Monitor,
        Some("runtime") => Role::Runtime,
        _ => return (Role::CommandLine, argv),
    };
    argv.remove(1);
    (role, argv)
}

fn main() -> ExitCode {
    match role(std::env::args_os().collect()) {
        (Role::Daemon, args) => daemon::run(args),
        (Role::Monitor, args) => monitor::run(args),
        (Role::Runtime, args) => runc::run(args),
        (Role::CommandLine, args) => cli::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(words: &[&str]) -> (Role, Vec<String>) {
        let (role, rest) = role(words.iter().map(OsString::from).collect());
        (
            role,
            rest.into_iter()
                .map(|word| word.into_string().unwrap())
                .collect(),
        )
    }

    #[test]
    fn argv_decides() {
        for (typed, role, rest) in [
            (
                &["berth", "daemon", "-D"][..],
                Role::Daemon,
                &["berth", "-D"][..],
            ),
            (
                &["/usr/bin/dockerd", "-D"],
                Role::Daemon,
                &["/usr/bin/dockerd", "-D"],
            ),
            (&["berth", "monitor"], Role::Monitor, &["berth"]),
            (
                &["berth", "runtime", "--root", "x", "list"],
                Role::Runtime,
                &["berth", "--root", "x", "list"],
            ),
            (
                &["/usr/bin/runc", "daemon"],
                Role::Runtime,
                &["/usr/bin/runc", "daemon"],
            ),
            (
                &["berth", "run", "daemon"],
                Role::CommandLine,
                &["berth", "run", "daemon"],
            ),
            (&["docker", "ps"], Role::CommandLine, &["docker", "ps"]),
            (&["berth"], Role::CommandLine, &["berth"]),
        ] {
            let rest: Vec<String> = rest.iter().map(ToString::to_string).collect();
            assert_eq!(roles(typed), (role, rest), "{typed:?}");
        }
    }
}
