//! `cargo x conformance --runtime PATH [--cases FOLDER] [--busybox PATH] [PART OF A NAME …]`:
//! every case against one runtime, as a table.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use conformance::{Runtime, Verdict, case, report};

const USAGE: &str =
    "usage: conformance --runtime PATH [--cases FOLDER] [--busybox PATH] [PART OF A NAME …]";

/// What was asked for.
struct Options {
    runtime: PathBuf,
    cases: PathBuf,
    busybox: PathBuf,
    parts: Vec<String>,
}

#[expect(clippy::print_stderr, reason = "a command-line tool")]
fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn options() -> Result<Options> {
    let (mut runtime, mut cases, mut busybox, mut parts) = (None, None, None, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let place = match word.as_str() {
            "--runtime" => &mut runtime,
            "--cases" => &mut cases,
            "--busybox" => &mut busybox,
            option if option.starts_with('-') => bail!("{USAGE}"),
            _ => {
                parts.push(word);
                continue;
            }
        };
        *place = Some(PathBuf::from(words.next().context(USAGE)?));
    }
    Ok(Options {
        runtime: runtime.context(USAGE)?,
        cases: cases.unwrap_or_else(case::folder),
        busybox: busybox.unwrap_or_else(|| testkit::tool("busybox")),
        parts,
    })
}

/// Whether nothing failed.
#[expect(clippy::print_stdout, reason = "a command-line tool")]
fn run(options: &Options) -> Result<bool> {
    let runtime = Runtime::at(&options.runtime)?;
    println!("{} ({})", runtime.path.display(), runtime.version);
    let topics = case::load(&options.cases)?;
    let (mut passed, mut differ, mut elsewhere, mut failed) = (0, 0, 0, 0);
    for topic in &topics {
        for case in &topic.cases {
            let full = format!("{}: {}", topic.name, case.name);
            if !options
                .parts
                .iter()
                .all(|part| full.contains(part.as_str()))
            {
                continue;
            }
            let verdict = conformance::run(case, &runtime, &options.busybox);
            println!("{}", report::line(topic, case, &verdict));
            match verdict {
                Verdict::Passed => passed += 1,
                Verdict::Differs => differ += 1,
                Verdict::NotHere(_) => elsewhere += 1,
                Verdict::Failed(_) => failed += 1,
            }
        }
    }
    println!(
        "{passed} passed, {differ} differ as known, {elsewhere} not for this host, {failed} failed"
    );
    Ok(failed == 0)
}
