//! `list`: every container of the root.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::state::Shown;
use super::{Command, Outcome, word};
use crate::arguments::{Arguments, Flag};
use crate::state::Container;
use crate::{Context, print};

pub(crate) const COMMAND: Command = Command::new(
    "list",
    "lists the containers of the root",
    "",
    &[
        Flag::value(&["format", "f"], "table (default) or json"),
        Flag::switch(&["quiet", "q"], "print ids only"),
    ],
    run,
)
.operands(0, 0);

#[derive(Debug, thiserror::Error)]
#[error("invalid format option")]
struct FormatError;

fn run(context: &Context, arguments: &Arguments) -> Outcome {
    let mut containers = Vec::new();
    for found in context.containers.all()? {
        match found {
            Ok(container) => containers.push(container),
            Err(error) => context.log.warn(&vocab::failure::chain(&error)),
        }
    }
    if arguments.switch("quiet")? {
        let ids = containers.iter().map(|container| &container.record.id);
        print(&ids.fold(String::new(), |text, id| text + id + "\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let shown = |container| Shown::new(container, owner(container, &users));
    let shown: Vec<Shown<'_>> = containers.iter().map(shown).collect();
    match arguments.text("format")? {
        None | Some("table") => print(&table(&shown)),
        // A list that Go never made.
        Some("json") if shown.is_empty() => print("null\n"),
        Some("json") => print(&(serde_json::to_string(&shown)? + "\n")),
        Some(_) => return Err(FormatError.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// The owner's name, or `#` and the number of one without.
fn owner(container: &Container, users: &str) -> String {
    let uid = container.directory.owner();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

/// Columns as Go's tabwriter makes them: at least 12 wide, 3 blanks between.
fn table(shown: &[Shown<'_>]) -> String {
    const LEAST: usize = 12;
    const BETWEEN: usize = 3;
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from)];
    rows.extend(shown.iter().map(|one| {
        [
            one.id.to_owned(),
            one.pid.to_string(),
            word(one.status).to_owned(),
            one.bundle.clone(),
            one.created.to_owned(),
            one.owner.clone(),
        ]
    }));
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].chars().count()).max();
        (longest.unwrap_or(0) + BETWEEN).max(LEAST)
    };
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            write!(text, "{cell:width$}").expect("writing to a string cannot fail");
        }
        text.push_str(&row[5]);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use runtime::Status;

    use super::*;

    #[test]
    fn the_table_is_runcs() {
        let one = Shown {
            oci_version: "1.2.1",
            id: "c1",
            pid: 12456,
            status: Status::Created,
            bundle: String::from("/run/rb/b"),
            rootfs: String::new(),
            created: "2026-11-21T05:19:41.376304283Z",
            annotations: &BTreeMap::new(),
            owner: String::from("root"),
        };
        assert_eq!(
            table(&[one]),
            "ID          PID         STATUS      BUNDLE      CREATED                          OWNER\n\
             c1          12456       created     /run/rb/b   2026-11-21T05:19:41.376304283Z   root\n"
        );
        assert_eq!(
            table(&[]),
            "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
        );
    }
}
