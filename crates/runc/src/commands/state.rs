//! `state`: what is known about a container, in JSON.

use std::collections::BTreeMap;
use std::process::ExitCode;

use runtime::Status;
use serde::Serialize;

use super::{Command, Outcome, container};
use crate::arguments::Arguments;
use crate::state::Container;
use crate::{Context, print};

pub(crate) const COMMAND: Command = Command::new(
    "state",
    "output the state of a container",
    "<container-id>",
    &[],
    run,
);

/// As runc prints it, here and in `list`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown<'a> {
    pub(super) oci_version: &'a str,
    pub(super) id: &'a str,
    pub(super) pid: i32,
    pub(super) status: Status,
    pub(super) bundle: String,
    pub(super) rootfs: String,
    pub(super) created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: &'a BTreeMap<String, String>,
    pub(super) owner: String,
}

impl<'a> Shown<'a> {
    pub(super) fn new(container: &'a Container, owner: String) -> Self {
        let record = &container.record;
        let status = container.status();
        Self {
            oci_version: &record.oci_version,
            id: &record.id,
            pid: if status == Status::Stopped {
                0
            } else {
                record.pid
            },
            status,
            bundle: record.bundle.to_string_lossy().into_owned(),
            rootfs: record.rootfs.to_string_lossy().into_owned(),
            created: &record.created,
            annotations: &record.annotations,
            owner,
        }
    }
}

fn run(context: &Context, arguments: &Arguments) -> Outcome {
    let container = container(context, arguments)?;
    // runc leaves the owner to `list`.
    let shown = Shown::new(&container, String::new());
    print(&serde_json::to_string_pretty(&shown)?);
    Ok(ExitCode::SUCCESS)
}
