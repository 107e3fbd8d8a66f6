//! What the store says it occupies is what is there, whatever was done to it.

use std::fs;
use std::path::Path;

use store::{Driver, Store};
use vocab::ContainerId;

use crate::scratch::{Scratch, Tar, gzip, noise, reference};

/// Numbers that are the same each time (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % limit
    }
}

/// As the reference counts it.
#[expect(clippy::disallowed_methods, reason = "the reference tool is a program")]
fn du(path: &Path) -> u64 {
    let output = std::process::Command::new("du")
        .args(["--summarize", "--block-size=1"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn said(store: &Store) -> u64 {
    let usage = store.disk_usage().unwrap();
    usage.images + usage.snapshots + usage.incoming + usage.quarantine + usage.metadata
}

/// A tar of its own for each number.
fn tar(number: usize) -> Vec<u8> {
    let mut tar = Tar::new().directory("d", 0o755);
    for file in 0..=number % 7 {
        let content = noise(1 + number * 3331 % 40_000);
        tar = tar.file(&format!("d/{number}-{file}"), &content);
    }
    tar.sparse(
        "1.0",
        "sparse",
        1 << 20,
        &[(4096 * number as u64, &[1; 700])],
    )
    .bytes()
}

fn random_operations(driver: Driver, seed: u64) {
    let mut scratch = Scratch::new(driver);
    let mut dice = Dice(seed);
    let mut owners: Vec<ContainerId> = Vec::new();
    for step in 0..60 {
        let names: Vec<String> = scratch
            .images()
            .unwrap()
            .iter()
            .flat_map(|image| image.names.iter().map(ToString::to_string))
            .collect();
        let some = (!names.is_empty()).then(|| names[dice.below(names.len())].clone());
        let (kind, number) = (dice.below(10), dice.below(8));
        match (kind, some) {
            (0..=2, _) => {
                let tars: Vec<_> = (0..=dice.below(3))
                    .map(|layer| match layer % 2 {
                        0 => tar(number + layer),
                        _ => gzip(&tar(number + layer)),
                    })
                    .collect();
                scratch.image(&tars, &format!("image-{number}"));
            }
            (3, Some(name)) => {
                let image = scratch.find_image(&name).unwrap();
                scratch
                    .tag(&image.id, &reference(&format!("again-{number}")))
                    .unwrap();
            }
            (4, Some(name)) => {
                scratch
                    .remove_image(&name, true, false, &|_| Vec::new())
                    .unwrap();
            }
            (5, Some(name)) => {
                let owner = ContainerId::random();
                let image = scratch.find_image(&name).unwrap();
                scratch.create_snapshot(&owner, &image.id).unwrap();
                let upper = scratch.mount_snapshot(&owner).unwrap().upper;
                fs::write(upper.join("written"), noise(number * 7000)).unwrap();
                owners.push(owner);
            }
            (6, Some(name)) => {
                let mut archive = Vec::new();
                scratch.save(&[name], &mut archive).unwrap();
                scratch.load(&mut &archive[..], &mut |_| {}).unwrap();
            }
            (7, _) if !owners.is_empty() => {
                let owner = owners.swap_remove(dice.below(owners.len()));
                if number < 4 {
                    scratch.image_of(&[scratch.commit_snapshot(&owner, None).unwrap()]);
                }
                scratch.remove_snapshot(&owner).unwrap();
            }
            (8, _) => {
                let tar = gzip(&tar(number));
                let blob = crate::scratch::digest(&tar);
                let mut ingest = scratch.resume_layer(&blob, tar.len() as u64, None).unwrap();
                let _ = ingest.receive(&tar[..tar.len() / 2]);
            }
            (9, _) if number < 2 => scratch.reopen(),
            _ => drop(scratch.collect().unwrap()),
        }
        let (said, there) = (said(&scratch), du(&scratch.root()));
        assert!(
            said.abs_diff(there) * 100 <= there,
            "seed {seed}, step {step} ({kind}): it says {said}, du says {there}"
        );
    }
}

#[test]
fn privileged_the_sum_is_what_du_says_after_anything_with_erofs() {
    for seed in [1, 2] {
        random_operations(Driver::Erofs, seed);
    }
}

#[test]
fn privileged_the_sum_is_what_du_says_after_anything_with_overlay() {
    for seed in [3, 4] {
        random_operations(Driver::Overlay, seed);
    }
}
