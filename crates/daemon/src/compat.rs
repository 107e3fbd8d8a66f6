//! `docs/compat.md` says what the tables say: its sections "Engine API" and "Daemon options" are
//! made of them. `SNAPSHOTS=overwrite cargo test -p daemon compat` renews the page.

use std::fmt::Write as _;
use std::path::Path;

use engine::spec::fields::{Effect as Field, FIELDS};

use crate::config::options::{Effect, OPTIONS};
use crate::router::{Does, OPERATIONS};

fn engine_api() -> String {
    let count = |wanted: fn(&Does) -> bool| {
        let all = OPERATIONS.iter();
        all.filter(|operation| wanted(&operation.does)).count()
    };
    let mut rows = format!(
        "{} operations: {} work, {} in part, {} not yet (those answer 501 with their name).\n\n\
         | Method | Path | Meaning | State |\n|---|---|---|---|\n",
        OPERATIONS.len(),
        count(|does| matches!(does, Does::Works(_))),
        count(|does| matches!(does, Does::Partly(..))),
        count(|does| matches!(does, Does::NotYet)),
    );
    for operation in OPERATIONS {
        let state = match operation.does {
            Does::Works(_) => "works".to_owned(),
            Does::Partly(_, lacks) => format!("partial; not yet: {lacks}"),
            Does::NotYet => "not yet".to_owned(),
        };
        let (method, path, meaning) = (&operation.method, operation.path.0, operation.meaning);
        writeln!(rows, "| {method} | `{path}` | {meaning} | {state} |").unwrap();
    }
    rows
}

fn daemon_options() -> String {
    let mut rows = "An option that has no effect is refused with the sentence in its row.\n\n\
                    | Flag | Key in daemon.json | Meaning | State |\n|---|---|---|---|\n"
        .to_owned();
    let code = |prefix: &str, name: &str| match name {
        "" => "–".to_owned(),
        name => format!("`{prefix}{name}`"),
    };
    for known in OPTIONS {
        let state = match known.effect {
            Effect::Works => "works".to_owned(),
            Effect::Only(only, why) => format!("only `{only}`: {why}"),
            Effect::Refused(why) => format!("not yet: {why}"),
        };
        let (flag, key) = (code("--", known.flag), code("", known.key));
        writeln!(rows, "| {flag} | {key} | {} | {state} |", known.meaning).unwrap();
    }
    rows
}

fn container_options() -> String {
    let mut rows = "Members of `HostConfig`; of `ContainerConfig` none is refused.\n\n\
                    | Member | State |\n|---|---|\n"
        .to_owned();
    for field in FIELDS {
        let state = match field.effect {
            Field::Works => "works".to_owned(),
            Field::Partly(what) => format!("works; {what}"),
            Field::Warns(text) => format!("no effect, and a warning says so: {text}"),
            Field::Refused(text) => format!("refused: {text}"),
        };
        writeln!(rows, "| `{}` | {state} |", field.key).unwrap();
    }
    rows
}

#[test]
fn the_page_of_compatibility_says_what_the_tables_say() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compat.md");
    testkit::page::check_section(&page, "Engine API", &engine_api());
    testkit::page::check_section(&page, "Container options", &container_options());
    testkit::page::check_section(&page, "Daemon options", &daemon_options());
}
