//! Pages of `docs/` whose sections are made of tables in the code.

use std::path::Path;

/// Checks that the section between `<!-- begin SECTION: … -->` and `<!-- end SECTION -->` is `rows`.
///
/// With `SNAPSHOTS=overwrite` the section is written instead.
///
/// # Panics
/// If the page differs, or has no such section.
#[track_caller]
pub fn check_section(page: &Path, section: &str, rows: &str) {
    let there = std::fs::read_to_string(page).unwrap();
    let begin = format!("<!-- begin {section}: ");
    let end = format!("<!-- end {section} -->\n");
    let line = there.find(&begin).expect(&begin);
    let start = line + there[line..].find('\n').expect("the line ends") + 1;
    let length = there[start..].find(&end).expect(&end);
    let mut wanted = there.clone();
    wanted.replace_range(start..start + length, &format!("\n{rows}\n"));
    if std::env::var_os("SNAPSHOTS").is_some_and(|value| value == "overwrite") {
        std::fs::write(page, &wanted).unwrap();
        return;
    }
    assert!(
        there == wanted,
        "`{}` is behind in section {section}: renew it with SNAPSHOTS=overwrite cargo test compat",
        page.display()
    );
}
