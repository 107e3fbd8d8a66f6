//! Rules that the compiler cannot hold: who may use whom, and that the documents name what is there.
//!
//! [`USES`] is the drawing of STYLE and ARCHITECTURE.md as data. A new line in it is a design
//! change: it has a commit of its own, together with ARCHITECTURE.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Each crate, and the crates of ours that it may use.
const USES: &[(&str, &[&str])] = &[
    ("vocab", &[]),
    ("sys", &[]),
    ("netlink", &["sys"]),
    ("tasks", &[]),
    ("runtime", &["netlink", "sys", "vocab"]),
    ("monitor", &["runtime", "sys", "vocab"]),
    ("runc", &["runtime", "sys", "vocab"]),
    ("store", &["sys", "vocab"]),
    ("network", &["netlink", "sys", "tasks", "vocab"]),
    ("registry", &["store", "sys", "tasks", "vocab"]),
    ("sinks", &["vocab"]),
    (
        "engine",
        &[
            "monitor", "network", "registry", "runtime", "sinks", "store", "sys", "tasks", "vocab",
        ],
    ),
    ("api", &["vocab"]),
    (
        "daemon",
        &["api", "engine", "registry", "sys", "tasks", "vocab"],
    ),
    ("cli", &["api", "sys", "vocab"]),
    (
        "berth",
        &["cli", "daemon", "monitor", "runc", "runtime", "sys"],
    ),
    ("testkit", &["sys", "vocab"]),
    ("conformance", &[]),
    (
        "fuzzing",
        &["network", "registry", "runc", "runtime", "store", "vocab"],
    ),
];

/// Crates that block, and therefore know no async runtime.
const NO_TOKIO: &[&str] = &[
    "vocab", "sys", "netlink", "runtime", "runc", "monitor", "store",
];

/// Checks everything and reports all that is wrong at once.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    let crates = crates(root)?;
    layers(root, &crates, &mut wrong)?;
    heads(root, &mut wrong)?;
    architecture(root, &crates, &mut wrong)?;
    unsafe_stays_in_sys(root, &mut wrong)?;
    if !wrong.is_empty() {
        bail!("tidy:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

/// The folders of `crates/`.
fn crates(root: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root.join("crates")).context("read crates/")? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").exists() {
            names.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// Every crate stands in [`USES`], and uses only what its line allows.
fn layers(root: &Path, crates: &BTreeSet<String>, wrong: &mut Vec<String>) -> Result<()> {
    for name in crates {
        let Some((_, allowed)) = USES.iter().find(|(known, _)| known == name) else {
            wrong.push(format!("crate `{name}` has no line in xtask/src/tidy.rs"));
            continue;
        };
        let manifest = root.join("crates").join(name).join("Cargo.toml");
        let text = fs::read_to_string(&manifest)
            .with_context(|| format!("read `{}`", manifest.display()))?;
        for used in dependencies(&text) {
            let ours = crates.contains(used) && used != "testkit";
            if ours && !allowed.contains(&used) {
                wrong.push(format!("crate `{name}` may not use `{used}`"));
            }
            if NO_TOKIO.contains(&name.as_str()) && used.starts_with("tokio") {
                wrong.push(format!("crate `{name}` blocks and may not use `{used}`"));
            }
        }
    }
    Ok(())
}

/// Names in `[dependencies]` and its target-specific forms; what tests use is free.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    manifest.lines().filter_map(move |line| {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end_matches(']').ends_with("dependencies")
                && !section.starts_with("dev-");
            return None;
        }
        let name = line.split(['.', ' ', '=']).next()?;
        (inside && !name.is_empty() && !name.starts_with('#')).then_some(name)
    })
}

/// Every Rust file opens by saying what it is.
fn heads(root: &Path, wrong: &mut Vec<String>) -> Result<()> {
    for file in sources(root)? {
        let text = fs::read_to_string(&file)?;
        if !text.starts_with("//!") {
            wrong.push(format!(
                "{} does not open with `//!`",
                relative(root, &file)
            ));
        }
    }
    Ok(())
}

/// The architecture page names exactly the crates that are there.
fn architecture(root: &Path, crates: &BTreeSet<String>, wrong: &mut Vec<String>) -> Result<()> {
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).context("read ARCHITECTURE.md")?;
    let named: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `")?
                .split_once('`')
                .map(|(name, _)| name)
        })
        .collect();
    for name in crates {
        if !named.contains(name.as_str()) {
            wrong.push(format!("ARCHITECTURE.md has no row for crate `{name}`"));
        }
    }
    for (name, _) in USES {
        if !crates.contains(*name) {
            wrong.push(format!(
                "xtask/src/tidy.rs names crate `{name}`, which is not there"
            ));
        }
    }
    Ok(())
}

/// `unsafe` is opened by one crate only.
fn unsafe_stays_in_sys(root: &Path, wrong: &mut Vec<String>) -> Result<()> {
    // Built from two halves, so that this file does not find itself.
    let opening = concat!("(unsafe", "_code");
    for file in sources(root)? {
        let ours = file.starts_with(root.join("crates/sys"));
        if !ours && fs::read_to_string(&file)?.contains(opening) {
            wrong.push(format!(
                "{} opens `unsafe`; only `sys` may",
                relative(root, &file)
            ));
        }
    }
    Ok(())
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("xtask")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                if path
                    .file_name()
                    .is_some_and(|name| name != "target" && name != "testdata")
                {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn relative(root: &Path, file: &Path) -> String {
    file.strip_prefix(root)
        .unwrap_or(file)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_a_manifest() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\nsys.workspace = true\n\
            [target.'cfg(unix)'.dependencies]\nlibc = \"1\"\n[dev-dependencies]\ntestkit.workspace = true\n";
        assert_eq!(dependencies(manifest).collect::<Vec<_>>(), ["sys", "libc"]);
    }

    #[test]
    fn the_tree_is_tidy() {
        run(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap();
    }
}
