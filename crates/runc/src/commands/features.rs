//! `features`: what this runtime can do, for programs that ask.

use std::process::ExitCode;

use serde::Serialize as _;

use super::{Command, Outcome};
use crate::arguments::Arguments;
use crate::{Context, print};

pub(crate) const COMMAND: Command =
    Command::new("features", "shows what this runtime can do", "", &[], run).operands(0, 0);

fn run(_: &Context, _: &Arguments) -> Outcome {
    let mut features = runtime::features();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let name = String::from("org.berth.runtime.version");
    features.annotations.insert(name, version);
    // Podman asks by runc's name for it.
    let name = String::from("org.opencontainers.runc.checkpoint.enabled");
    features.annotations.insert(name, String::from("true"));
    let mut text = Vec::new();
    let indented = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    features.serialize(&mut serde_json::Serializer::with_formatter(
        &mut text, indented,
    ))?;
    print(&(String::from_utf8_lossy(&text) + "\n"));
    Ok(ExitCode::SUCCESS)
}
