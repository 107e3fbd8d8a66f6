//! `checkpoint` and `restore`, which berth does not do yet: refused with their name, whatever the
//! flags, so that nobody takes a container for saved.

use std::process::ExitCode;

use super::{Command, Outcome, container};
use crate::Context;
use crate::arguments::{Arguments, Flag};

pub(crate) const CHECKPOINT: Command = Command::new(
    "checkpoint",
    "saves a running container (not supported yet)",
    "<container-id>",
    FLAGS,
    checkpoint,
)
.fails_with("checkpoint failed: ", 1);

pub(crate) const RESTORE: Command = Command::new(
    "restore",
    "restores a saved container (not supported yet)",
    "<container-id>",
    FLAGS,
    restore,
)
.fails_with("restore failed: ", 1);

/// Only to be understood.
const FLAGS: &[Flag] = &[
    Flag::value(&["image-path"], "directory of the saved state"),
    Flag::value(&["work-path"], "directory of logs"),
    Flag::value(&["parent-path"], "directory of an earlier pre-dump"),
    Flag::switch(&["leave-running"], "let the container go on"),
    Flag::switch(&["tcp-established"], "save open connections"),
    Flag::switch(&["tcp-skip-in-flight"], "skip connections in flight"),
    Flag::switch(&["link-remap"], "link unlinked files back"),
    Flag::switch(&["ext-unix-sk"], "allow external unix sockets"),
    Flag::switch(&["shell-job"], "allow shell jobs"),
    Flag::switch(&["lazy-pages"], "restore memory when it is touched"),
    Flag::value(&["status-fd"], "told when lazy pages are ready"),
    Flag::value(&["page-server"], "address of a page server"),
    Flag::switch(&["file-locks"], "save file locks"),
    Flag::switch(&["pre-dump"], "save memory only"),
    Flag::value(&["manage-cgroups-mode"], "soft, full, strict or ignore"),
    Flag::value(&["empty-ns"], "namespaces to leave empty"),
    Flag::switch(&["auto-dedup"], "drop what was saved twice"),
    Flag::value(
        &["console-socket"],
        "unix socket that receives the terminal",
    ),
    Flag::value(&["bundle", "b"], "the bundle's directory"),
    Flag::switch(&["detach", "d"], "do not wait for the process"),
    Flag::value(&["pid-file"], "file to write the process id to"),
    Flag::switch(&["no-subreaper"], "do not take over orphans"),
    Flag::switch(&["no-pivot"], "do without pivot_root"),
    Flag::value(&["lsm-profile"], "profile of a security module"),
    Flag::value(&["lsm-mount-context"], "mount context of a security module"),
];

#[derive(Debug, thiserror::Error)]
#[error("berth cannot save and restore containers (CRIU) yet")]
struct Unsupported;

fn checkpoint(context: &Context, arguments: &Arguments) -> Outcome {
    // A container that is not there is the more useful answer.
    container(context, arguments)?;
    Err(Unsupported.into())
}

fn restore(_: &Context, _: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    Err(Unsupported.into())
}
