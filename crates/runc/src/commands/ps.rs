//! `ps`: the processes of a container, as the host sees them.

use std::process::ExitCode;

use runtime::cgroup::CgroupError;

use super::{Command, Outcome, container};
use crate::arguments::{Arguments, Flag};
use crate::{Context, print};

pub(crate) const COMMAND: Command = Command::new(
    "ps",
    "displays the processes of a container",
    "<container-id> [ps options]",
    &[Flag::value(&["format", "f"], "table (default) or json")],
    run,
)
.operands(1, usize::MAX)
.flags_first();

#[derive(Debug, thiserror::Error)]
enum PsError {
    #[error("invalid format option")]
    Format,
    #[error("the container has no cgroup that names its processes")]
    NoCgroup,
    #[error("list the container's processes")]
    List(#[source] CgroupError),
    #[error("run `ps`")]
    Run(#[source] std::io::Error),
    #[error("ps: {0}")]
    Failed(String),
    #[error("couldn't find PID field in ps output")]
    NoPid,
}

fn run(context: &Context, arguments: &Arguments) -> Outcome {
    // `ps ID --format json` is understood too, as everybody types it.
    let (format, options) = match arguments.operands.get(1..).unwrap_or_default() {
        [flag, value, rest @ ..] if flag == "--format" || flag == "-f" => (value.to_str(), rest),
        rest => (arguments.text("format")?, rest),
    };
    let container = container(context, arguments)?;
    let cgroup = container.cgroup().ok_or(PsError::NoCgroup)?;
    let pids = match cgroup.pids() {
        Err(error) if error.is_gone() => Vec::new(),
        other => other.map_err(PsError::List)?,
    };
    match format {
        None | Some("table") => {}
        Some("json") if pids.is_empty() => {
            print("null\n");
            return Ok(ExitCode::SUCCESS);
        }
        Some("json") => {
            print(&(serde_json::to_string(&pids)? + "\n"));
            return Ok(ExitCode::SUCCESS);
        }
        Some(_) => return Err(PsError::Format.into()),
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "one program, from a process without threads"
    )]
    let mut ps = std::process::Command::new("ps");
    if options.is_empty() {
        ps.arg("-ef");
    } else {
        ps.args(options);
    }
    let ps = ps.output().map_err(PsError::Run)?;
    if !ps.status.success() {
        let said = String::from_utf8_lossy(&ps.stderr).trim().to_owned();
        return Err(PsError::Failed(said).into());
    }
    print(&only(&String::from_utf8_lossy(&ps.stdout), &pids)?);
    Ok(ExitCode::SUCCESS)
}

/// The title, and the lines whose PID is one of ours.
fn only(table: &str, pids: &[i32]) -> Result<String, PsError> {
    let mut lines = table.lines();
    let title = lines.next().unwrap_or_default();
    let place = title.split_whitespace().position(|word| word == "PID");
    let place = place.ok_or(PsError::NoPid)?;
    let ours = lines.filter(|line| {
        let pid = line.split_whitespace().nth(place);
        pid.and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
    });
    Ok(ours.fold(format!("{title}\n"), |text, line| text + line + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_others_are_left_out() {
        let table = "UID  PID CMD\nroot 1 init\nroot 12 sleep 1\nroot 2 x\n";
        assert_eq!(
            only(table, &[2, 12]).unwrap(),
            "UID  PID CMD\nroot 12 sleep 1\nroot 2 x\n"
        );
        assert!(matches!(only("CMD\n", &[1]), Err(PsError::NoPid)));
    }
}
