//! Any file of the store, damaged in any way: it opens, what is whole is whole, and what is not is
//! told, verified as such, and whole again once it has come again.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use store::{Document, Driver, NewImage, Store};
use vocab::ContainerId;

use crate::scratch::{Place, Scratch, Tar, config, digest, gzip, noise, reference};

/// The names of the images that are there, and a file of each.
const NAMES: [&str; 3] = ["plain", "packed", "both"];

/// What was there before the damage.
struct Before {
    /// All images as one archive.
    archive: Vec<u8>,
    owner: ContainerId,
}

/// Three images that share layers, one with a manifest, and a container that wrote something.
fn fill(scratch: &Scratch) -> Before {
    let plain = Tar::new().file("plain", &noise(20_000)).bytes();
    let packed = gzip(&Tar::new().file("packed", &noise(30_000)).bytes());
    let both = gzip(&Tar::new().file("both", &noise(10_000)).bytes());
    scratch.image(std::slice::from_ref(&plain), "plain");
    for (name, tars) in [("packed", vec![&packed]), ("both", vec![&packed, &both])] {
        let layers: Vec<_> = tars.iter().map(|tar| scratch.layer(tar).unwrap()).collect();
        let config = config(&layers);
        let blob = |media_type: &str, bytes: &[u8]| serde_json::json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() });
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("application/vnd.oci.image.config.v1+json", &config),
            "layers": tars.iter().map(|tar| blob("application/vnd.oci.image.layer.v1.tar+gzip", tar)).collect::<Vec<_>>(),
        });
        let manifest = Document {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            bytes: manifest.to_string().into_bytes(),
        };
        scratch
            .put_image(NewImage {
                config,
                manifest: Some(manifest),
                layers,
                names: vec![reference(name)],
                ..NewImage::default()
            })
            .unwrap();
    }
    let owner = ContainerId::random();
    let both = scratch.find_image("both").unwrap();
    scratch.create_snapshot(&owner, &both.id).unwrap();
    let upper = scratch.mount_snapshot(&owner).unwrap().upper;
    fs::write(upper.join("written"), b"by the container").unwrap();
    let mut archive = Vec::new();
    let names = NAMES.map(str::to_owned);
    scratch.save(&names, &mut archive).unwrap();
    Before { archive, owner }
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false => drop(fs::copy(&path, &to).unwrap()),
        }
    }
}

/// Numbers that are the same each time (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// Damages a file; says how.
fn damage(path: &Path, dice: &mut Dice) -> String {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let length = file.metadata().unwrap().len();
    let at = dice.below(length.max(1));
    match dice.below(8) {
        0 => {
            fs::remove_file(path).unwrap();
            "removed".to_owned()
        }
        1 => {
            file.set_len(at).unwrap();
            format!("cut at {at}")
        }
        2 => {
            file.set_len(0).unwrap();
            "emptied".to_owned()
        }
        3 => {
            file.write_all_at(&[0; 600], at).unwrap();
            format!("zeros at {at}")
        }
        _ => {
            let bit = 1 << dice.below(8);
            let mut byte = [0];
            if file.read_at(&mut byte, at).unwrap() == 1 {
                file.write_all_at(&[byte[0] ^ bit], at).unwrap();
            }
            format!("bit {bit} at {at}")
        }
    }
}

/// Each image as it was, or damaged in so many words.
fn check(store: &Store, root: &Path, before: &Before, what: &str) {
    let images = store.images().unwrap();
    for name in NAMES {
        let named = images
            .iter()
            .find(|image| image.names.contains(&reference(name)));
        let Some(image) = named else {
            assert!(
                !store.told().is_empty(),
                "{what}: {name} is gone without a word"
            );
            continue;
        };
        let verified = store.verify(image).unwrap();
        assert!(
            verified
                .damage
                .iter()
                .all(|damage| !damage.reason.is_empty()),
            "{what}"
        );
        if verified.damage.iter().all(|damage| damage.mended) {
            readable(store, name, what);
        }
    }
    let kept = ["snapshots", "quarantine"].map(|below| {
        let path = format!("{below}/{}/upper/written", before.owner);
        fs::read(root.join(path)).is_ok_and(|bytes| bytes == b"by the container")
    });
    assert!(
        kept.contains(&true),
        "{what}: what the container wrote is gone"
    );
}

fn readable(store: &Store, name: &str, what: &str) {
    let image = store.find_image(name).unwrap();
    let owner = ContainerId::random();
    store.create_snapshot(&owner, &image.id).unwrap();
    let lower = store.mount_snapshot(&owner).unwrap().lower;
    let length = match name {
        "plain" => 20_000,
        "packed" => 30_000,
        _ => 10_000,
    };
    let found = fs::read(lower[0].join(name)).unwrap();
    assert!(found == noise(length), "{what}: {name} is not what it was");
    store.remove_snapshot(&owner).unwrap();
}

/// Damages one of the files that `chosen` picks, for each seed, in a copy of a store.
fn torn(seeds: std::ops::Range<u64>, chosen: fn(&Path) -> bool) {
    let scratch = Scratch::new(Driver::Erofs);
    let before = fill(&scratch);
    for seed in seeds {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        // Taken while it is open: with all that SQLite has not put into the database yet.
        copy(&scratch.root(), &root);
        let mut files = files(&root);
        files.retain(|file| chosen(file.strip_prefix(&root).unwrap()));
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let file = &files[usize::try_from(dice.below(files.len() as u64)).unwrap()];
        let how = damage(file, &mut dice);
        let what = format!(
            "seed {seed}: {} {how}",
            file.strip_prefix(&root).unwrap().display()
        );
        let open = || {
            let options = store::Options {
                driver: Some(Driver::Erofs),
            };
            let store = Store::open(&root, &directory.path().join("run"), &options);
            store.unwrap_or_else(|error| panic!("{what}: {}", vocab::failure::chain(&error)))
        };
        let store = open();
        check(&store, &root, &before, &what);
        // No more than bringing them again is needed.
        store.load(&mut &before.archive[..], &mut |_| {}).unwrap();
        for name in NAMES {
            let image = store.find_image(name).unwrap();
            assert_eq!(store.verify(&image).unwrap().damage, [], "{what}: {name}");
            readable(&store, name, &what);
        }
        drop(store);
        let store = open();
        assert!(store.told().is_empty(), "{what}: {:?}", store.told());
        for name in NAMES {
            let removed = store.remove_image(name, true, false, &|_| Vec::new());
            removed.unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
        }
    }
}

#[test]
fn privileged_damaged_tables_do_not_stop_the_store() {
    torn(0..30, |file| {
        file.starts_with("metadata.db") || file.starts_with("metadata.db-wal")
    });
}

#[test]
fn privileged_damaged_copies_of_tables_do_not_stop_the_store() {
    torn(100..115, |file| {
        file.starts_with("records") || file.ends_with("base")
    });
}

#[test]
fn privileged_damaged_content_does_not_stop_the_store() {
    torn(200..230, |file| {
        file.starts_with("blobs") || file.starts_with("layers") || file.starts_with("lock")
    });
}

#[test]
fn privileged_without_tables_and_copies_images_are_found_by_their_manifests() {
    let mut scratch = Scratch::new(Driver::Erofs);
    let before = fill(&scratch);
    scratch.store = None;
    fs::write(
        scratch.root().join("metadata.db"),
        b"no database, but long enough to be told from none",
    )
    .unwrap();
    fs::remove_dir_all(scratch.root().join("records")).unwrap();
    scratch.reopen();
    let told = scratch.told().join("\n");
    assert!(
        told.contains("was damaged (file is not a database)"),
        "{told}"
    );
    assert!(
        told.contains("3 more images were found by their manifests; they have lost their names"),
        "{told}"
    );
    let images = scratch.images().unwrap();
    assert_eq!(images.len(), 3);
    for image in &images {
        assert_eq!(scratch.verify(image).unwrap().damage, []);
        assert!(image.names.is_empty());
    }
    assert_eq!(
        images
            .iter()
            .filter(|image| image.manifest.is_some())
            .count(),
        2
    );
    // What a container stands on is told by what lies beside its files.
    let mounts = scratch.mount_snapshot(&before.owner).unwrap();
    assert_eq!(
        fs::read(mounts.lower[0].join("both")).unwrap(),
        noise(10_000)
    );
}

#[test]
fn privileged_an_image_without_its_configuration_is_seen_and_removed() {
    for place in [Place::Usual(Driver::Overlay), Place::Usual(Driver::Erofs)] {
        let mut scratch = Scratch::new(place);
        fill(&scratch);
        let image = scratch.find_image("packed").unwrap();
        fs::remove_file(scratch.root().join("blobs/sha256").join(image.id.hex())).unwrap();
        let error = scratch.find_image("packed").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("read the configuration of image sha256:"),
            "{error}"
        );
        scratch.reopen();
        let told = scratch.told();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].ends_with("(packed:latest) is missing: pull, load or remove it"),
            "{told:?}"
        );
        let torn = scratch.find_image_or_torn("packed").unwrap();
        assert_eq!(torn.names, image.names);
        assert!(
            scratch
                .images()
                .unwrap()
                .iter()
                .any(|found| found.id == image.id)
        );
        let damage = scratch.verify(&torn).unwrap().damage;
        assert_eq!(damage.len(), 1, "{damage:?}");
        let mut archive = Vec::new();
        let error = scratch
            .save(&["packed".to_owned()], &mut archive)
            .unwrap_err();
        assert_eq!(error.to_string(), format!("read blob {}", image.id));
        scratch
            .remove_image("packed", false, false, &|_| Vec::new())
            .unwrap();
        assert!(scratch.find_image_or_torn("packed").is_err());
        scratch.reopen();
        assert_eq!(scratch.told(), [] as [String; 0]);
    }
}
