//! Tables for people: of one run, and of the differences that `docs/compat.md` shows.

use std::fmt::Write as _;

use crate::case::{Case, Difference, Topic};
use crate::run::Verdict;
use crate::runtime::Family;

/// One line for a case, and below it what was seen if it failed.
pub fn line(topic: &Topic, case: &Case, verdict: &Verdict) -> String {
    let (word, detail) = match verdict {
        Verdict::Passed => ("ok", String::new()),
        Verdict::Differs => ("differs", String::new()),
        Verdict::NotHere(need) => ("not here", format!(" ({need:?})")),
        Verdict::Failed(why) => ("FAILED", format!("\n         {why}")),
    };
    format!("{word:<8} {}: {}{detail}", topic.name, case.name)
}

/// The section of `docs/compat.md`.
pub fn section(topics: &[Topic]) -> String {
    let total: usize = topics.iter().map(|topic| topic.cases.len()).sum();
    let mut text = format!("{total} cases: ");
    let counts: Vec<String> = topics
        .iter()
        .map(|topic| format!("{} {}", topic.name, topic.cases.len()))
        .collect();
    writeln!(text, "{}.", counts.join(", ")).unwrap_or_default();
    for (family, head) in [
        (Family::Berth, "berth does otherwise than the cases say"),
        (Family::Runc, "runc does otherwise"),
        (Family::Crun, "crun does otherwise"),
    ] {
        let rows = rows(topics, family);
        if rows.is_empty() {
            write!(text, "\n{head}: nowhere.\n").unwrap_or_default();
        } else {
            write!(text, "\n{head}:\n\n| Case | Because |\n|---|---|\n{rows}").unwrap_or_default();
        }
    }
    text
}

fn rows(topics: &[Topic], family: Family) -> String {
    let mut rows = String::new();
    for (topic, case) in topics
        .iter()
        .flat_map(|topic| topic.cases.iter().map(move |case| (topic, case)))
    {
        let mut reasons: Vec<&str> = Vec::new();
        for (_, Difference { reason, .. }) in case.differences().filter(|(of, _)| *of == family) {
            if !reasons.contains(&reason.as_str()) {
                reasons.push(reason);
            }
        }
        if !reasons.is_empty() {
            writeln!(
                rows,
                "| {}: {} | {} |",
                topic.name,
                case.name,
                reasons.join("; ")
            )
            .unwrap_or_default();
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::case;

    #[test]
    fn the_page_of_compatibility_says_what_the_cases_say() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compat.md");
        let topics = case::load(&case::folder()).unwrap();
        testkit::page::check_section(&page, "OCI runtime", &super::section(&topics));
    }
}
