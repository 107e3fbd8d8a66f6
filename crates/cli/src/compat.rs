//! `docs/compat.md` says what the commands say: its section "Command line" is made of
//! [`crate::commands`]. `SNAPSHOTS=overwrite cargo test -p cli compat` renews the page.

use std::fmt::Write as _;
use std::path::Path;

use crate::State;

fn command_line() -> String {
    let mut commands: Vec<_> = crate::commands().collect();
    commands.sort_unstable_by_key(|(name, ..)| *name);
    let count = |wanted: State| {
        commands
            .iter()
            .filter(|(_, state, _)| *state == wanted)
            .count()
    };
    let mut rows = format!(
        "{} names: {} work, {} in part, {} not yet (those say so and exit with 1).\n\n\
         | Command | State |\n|---|---|\n",
        commands.len(),
        count(State::Works),
        count(State::Partial),
        count(State::NotYet),
    );
    for (name, state, note) in &commands {
        let state = match state {
            State::Works => "works".to_owned(),
            State::Partial => format!("partial; {note}"),
            State::NotYet => "not yet".to_owned(),
        };
        writeln!(rows, "| `{name}` | {state} |").unwrap();
    }
    rows
}

#[test]
fn the_page_of_compatibility_says_what_the_commands_say() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compat.md");
    testkit::page::check_section(&page, "Command line", &command_line());
}
