//! What developers run: `cargo x check | fix | test | ci | tidy | conformance`.
//!
//! `check` only reads, `fix` rewrites, `test` runs every test that this user may run, `ci` is what
//! CI runs after the tools are installed. [`tidy`] holds the rules that the compiler cannot.

mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "\
usage: cargo x <what>
  check    fmt, clippy, tidy, typos; changes nothing
  fix      fmt and what clippy can mend by itself
  test     every test, with the settings of CI
  tidy     only the rules in xtask/src/tidy.rs
  conformance --runtime PATH [PART OF A NAME …]
           the cases of crates/conformance against an OCI runtime, as a table
  ci       check, then test";

#[expect(clippy::print_stderr, reason = "a command-line tool")]
fn main() -> ExitCode {
    let what: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match what
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["check"] => check(),
        ["fix"] => fix(),
        ["test"] => test(),
        ["tidy"] => tidy::run(&root()),
        ["conformance", rest @ ..] => conformance(rest),
        ["ci"] => check().and_then(|()| test()),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
        .to_owned()
}

fn check() -> Result<()> {
    run("cargo", &["fmt", "--all", "--check"])?;
    tidy::run(&root())?;
    run("typos", &[]).context("typos (scripts/test.sh installs it)")?;
    run(
        "cargo",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
    )
}

fn fix() -> Result<()> {
    run("cargo", &["fmt", "--all"])?;
    run(
        "cargo",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--fix",
            "--allow-dirty",
        ],
    )
}

fn test() -> Result<()> {
    run(
        "cargo",
        &[
            "nextest",
            "run",
            "--workspace",
            "--locked",
            "--profile",
            "ci",
        ],
    )
}

fn conformance(arguments: &[&str]) -> Result<()> {
    let start = ["run", "-q", "-p", "conformance", "--"];
    run("cargo", &[&start, arguments].concat())
}

#[expect(
    clippy::disallowed_methods,
    reason = "running programs is what this tool is for"
)]
fn run(program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program)
        .args(args)
        .current_dir(root())
        .status()
        .with_context(|| format!("start `{program}`"))?;
    if !status.success() {
        bail!("`{program} {}` failed", args.join(" "));
    }
    Ok(())
}
