//! Every target over its corpus, and over changed copies of it.

#![expect(
    clippy::unwrap_used,
    reason = "tests panic; the message and the line are what they tell"
)]

use std::fs;
use std::path::{Path, PathBuf};

use fuzzing::mutate::{Dice, change};
use fuzzing::{TARGETS, Target};

/// Changed copies for each target; the same in every run.
const CHANGED: u64 = 5_000;

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(name);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

fn check(name: &str) {
    let (_, target): &Target = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let corpus = corpus(name);
    for (_, bytes) in &corpus {
        target(bytes);
    }
    for seed in 0..CHANGED {
        let mut dice = Dice::new(seed);
        let (path, bytes) = &corpus[dice.below(corpus.len())];
        let (_, other) = &corpus[dice.below(corpus.len())];
        let changed = change(bytes, other, &mut dice);
        if std::panic::catch_unwind(|| target(&changed)).is_err() {
            let kept = std::env::temp_dir().join(format!("berth-fuzz-{name}-{seed}"));
            fs::write(&kept, &changed).unwrap();
            panic!(
                "seed {seed}, a change of {}: kept as {}",
                path.display(),
                kept.display()
            );
        }
    }
}

#[test]
fn no_header_of_a_registry_breaks_its_reader() {
    check("authenticate");
}

#[test]
fn no_configuration_breaks_its_reader() {
    check("config");
}

#[test]
fn no_tar_breaks_the_writer_of_layers() {
    check("erofs");
}

#[test]
fn no_manifest_breaks_its_reader() {
    check("manifest");
}

#[test]
fn no_name_of_an_image_breaks_its_reader() {
    check("reference");
}

#[test]
fn no_question_for_a_name_breaks_its_reader() {
    check("names");
}

#[test]
fn no_state_breaks_its_reader() {
    check("state");
}

/// `cargo fuzz` has the same targets.
#[test]
fn every_target_is_one_of_cargo_fuzz() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!(
            "name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\""
        )));
        let source = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            source.contains(&format!("fuzzing::{name}(bytes)")),
            "{name}"
        );
    }
}
