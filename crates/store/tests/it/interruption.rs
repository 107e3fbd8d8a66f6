//! Full disks, and processes that are killed in the middle.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use store::{Driver, NewImage, Options, Store};
use testkit::Chance;
use vocab::ContainerId;
use vocab::failure::chain;

use crate::scratch::{Scratch, Tar, config, digest, gzip, noise};

/// A file system of a few MiB.
struct Small(PathBuf);

impl Small {
    /// On tmpfs, which is quick.
    fn tmpfs(directory: &Path) -> Self {
        let path = directory.join("small");
        fs::create_dir(&path).unwrap();
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), c"size=4m").unwrap();
        Self(path)
    }

    /// On ext4 in a file: EROFS reads no files of tmpfs.
    fn ext4(directory: &Path) -> Self {
        let path = directory.join("small");
        fs::create_dir(&path).unwrap();
        let image = directory.join("image");
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        run(
            "mkfs.ext4",
            &["-q", "-O", "^has_journal", image.to_str().unwrap()],
        );
        run(
            "mount",
            &[
                "-o",
                "loop",
                image.to_str().unwrap(),
                path.to_str().unwrap(),
            ],
        );
        fs::remove_dir(path.join("lost+found")).unwrap();
        Self(path)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test may run the tools of its host"
)]
fn run(program: &str, arguments: &[&str]) {
    let status = std::process::Command::new(program)
        .args(arguments)
        .status()
        .unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

impl Drop for Small {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.0.join("run/layers"))
            .into_iter()
            .flatten()
        {
            let _ = unmount(entry.unwrap().path(), UnmountFlags::DETACH);
        }
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn used(path: &Path) -> u64 {
    let found = rustix::fs::statvfs(path).unwrap();
    (found.f_blocks - found.f_bfree) * found.f_frsize
}

fn full_disk(driver: Driver, small: &Small) {
    let options = Options {
        driver: Some(driver),
    };
    let store = Store::open(&small.0.join("store"), &small.0.join("run"), &options).unwrap();
    let before = used(&small.0);
    for bytes in [
        // The blob does not fit; the blob fits and what it unpacks to does not.
        Tar::new().file("big", &noise(8 << 20)).bytes(),
        gzip(&Tar::new().file("big", &vec![b'x'; 8 << 20]).bytes()),
    ] {
        let mut ingest = store.receive_layer(None, None, None).unwrap();
        let failed = bytes
            .chunks(64 << 10)
            .try_for_each(|portion| ingest.receive(portion));
        let error = failed.and_then(|()| ingest.commit()).map(drop).unwrap_err();
        let text = chain(&error);
        assert!(text.ends_with("no space left on device"), "{text}");
        assert_eq!(text.matches("no space").count(), 1, "{text}");
        assert_eq!(
            fs::read_dir(small.0.join("store/ingest")).unwrap().count(),
            0
        );
        // The database may have grown by its first pages.
        assert!(used(&small.0) <= before + (256 << 10), "debris");
    }
    // The store still works.
    let mut ingest = store.receive_layer(None, None, None).unwrap();
    ingest
        .receive(&Tar::new().file("small", b"x").bytes())
        .unwrap();
    ingest.commit().unwrap();
}

#[test]
fn privileged_a_full_disk_is_one_clear_error_and_no_debris() {
    let directory = tempfile::tempdir().unwrap();
    full_disk(Driver::Overlay, &Small::tmpfs(directory.path()));
}

#[test]
fn privileged_a_full_disk_is_one_clear_error_for_erofs_too() {
    let directory = tempfile::tempdir().unwrap();
    full_disk(Driver::Erofs, &Small::ext4(directory.path()));
}

/// What a killed process leaves, made by hand: every directory holds something that no row knows.
#[test]
fn privileged_what_a_killed_process_left_is_gone_after_the_next_open() {
    let mut scratch = Scratch::new(Driver::Overlay);
    let id = scratch.image(&[Tar::new().file("a", b"x").bytes()], "kept");
    let kept: Vec<Vec<String>> = ["blobs/sha256", "layers/overlay"]
        .iter()
        .map(|below| scratch.names(below))
        .collect();
    scratch.store = None;
    let hex = "ab".repeat(32);
    let root = scratch.root();
    fs::write(root.join("ingest/half-a-blob"), b"x").unwrap();
    fs::create_dir_all(root.join("ingest/half-a-layer/etc")).unwrap();
    fs::write(root.join("blobs/sha256").join(&hex), b"no row").unwrap();
    fs::create_dir_all(root.join("layers/overlay").join(&hex).join("etc")).unwrap();
    fs::create_dir_all(root.join("snapshots").join(&hex).join("upper")).unwrap();
    scratch.reopen();
    assert!(scratch.names("ingest").is_empty() && scratch.names("snapshots").is_empty());
    assert_eq!(scratch.names("blobs/sha256").len(), kept[0].len());
    assert_eq!(scratch.names("layers/overlay"), kept[1]);
    assert_eq!(scratch.find_image("kept").unwrap().id, id);
    assert_eq!(fs::read(scratch.mounted(&id)[0].join("a")).unwrap(), b"x");
}

#[test]
fn privileged_an_abandoned_layer_leaves_nothing() {
    let scratch = Scratch::new(Driver::Overlay);
    let mut ingest = scratch.receive_layer(None, None, None).unwrap();
    ingest
        .receive(&Tar::new().file("a", b"x").unfinished())
        .unwrap();
    assert!(!scratch.names("ingest").is_empty());
    drop(ingest);
    assert!(scratch.names("ingest").is_empty());
}

/// Threads that put in, read and remove the same layers leave every image whole.
#[test]
fn privileged_images_that_share_layers_come_and_go_together() {
    let scratch = Scratch::new(Driver::Overlay);
    let tar = Tar::new().file("shared", &noise(10_000)).bytes();
    let store: &Store = &scratch;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let tar = &tar;
            scope.spawn(move || {
                for round in 0..10 {
                    let mut ingest = store.receive_layer(None, None, None).unwrap();
                    ingest.receive(tar).unwrap();
                    let layer = ingest.commit().unwrap();
                    let own = Tar::new().file("own", &[thread, round]).bytes();
                    let mut ingest = store.receive_layer(None, None, None).unwrap();
                    ingest.receive(&own).unwrap();
                    let layers = vec![layer, ingest.commit().unwrap()];
                    let config = config(&layers);
                    let id = store
                        .put_image(NewImage {
                            config,
                            layers,
                            ..NewImage::default()
                        })
                        .unwrap();
                    let owner = ContainerId::random();
                    store.create_snapshot(&owner, &id).unwrap();
                    let lower = store.mount_snapshot(&owner).unwrap().lower;
                    assert_eq!(fs::read(lower[1].join("shared")).unwrap().len(), 10_000);
                    store.remove_snapshot(&owner).unwrap();
                    store
                        .remove_image(id.hex(), false, false, &|_| Vec::new())
                        .unwrap();
                }
            });
        }
    });
    assert!(scratch.images().unwrap().is_empty());
    for below in ["blobs/sha256", "layers/overlay", "ingest", "snapshots"] {
        assert!(scratch.names(below).is_empty(), "debris in {below}");
    }
}

/// Where the child of the next test works; it is this test binary, run again.
const CHILD_ROOT: &str = "BERTH_STORE_CHILD";

/// What seed and generation the child works with.
const CHILD_SEED: &str = "BERTH_STORE_CHILD_SEED";

/// One of a few images, so that what one child began the next goes on with.
struct Parts {
    layers: [Vec<u8>; 2],
    config: Vec<u8>,
}

impl Parts {
    fn new(number: u64) -> Self {
        let shared = Tar::new().file("shared", &noise(200_000)).bytes();
        let own = Tar::new()
            .file("own", &number.to_be_bytes())
            .file("more", &noise(50_000))
            .bytes();
        let diff_ids = [digest(&shared), digest(&own)];
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        Self {
            layers: [gzip(&shared), own],
            config: config.to_string().into_bytes(),
        }
    }

    /// As `docker save` writes it.
    fn archive(&self) -> Vec<u8> {
        let manifest = br#"[{"Config":"c.json","RepoTags":[],"Layers":["a.tar","b.tar"]}]"#;
        Tar::new()
            .file("a.tar", &self.layers[0])
            .file("b.tar", &self.layers[1])
            .file("c.json", &self.config)
            .file("manifest.json", manifest)
            .bytes()
    }

    /// As a pull does it: each layer from where the last one who fetched it ended.
    fn pull(&self, store: &Store) -> NewImage {
        let layers = self.layers.each_ref().map(|bytes| {
            let size = bytes.len() as u64;
            let mut ingest = store.resume_layer(&digest(bytes), size, None).unwrap();
            let rest = &bytes[usize::try_from(ingest.received_bytes()).unwrap()..];
            rest.chunks(8192)
                .for_each(|portion| ingest.receive(portion).unwrap());
            ingest.commit().unwrap()
        });
        NewImage {
            config: self.config.clone(),
            layers: layers.to_vec(),
            ..NewImage::default()
        }
    }
}

/// Loads, pulls, removes and collects until it is killed. Says `+id` when an image is in, and `-id`
/// before it removes one.
#[test]
#[ignore = "run by the test that kills it"]
fn privileged_child() {
    let root = PathBuf::from(std::env::var_os(CHILD_ROOT).unwrap());
    let seed = std::env::var(CHILD_SEED).unwrap().parse().unwrap();
    let driver = if root.join("overlay").exists() {
        Driver::Overlay
    } else {
        Driver::Erofs
    };
    let options = Options {
        driver: Some(driver),
    };
    let store = Store::open(&root.join("store"), &root.join("run"), &options).unwrap();
    let mut chance = Chance::new(seed);
    loop {
        let parts = Parts::new(chance.below(5));
        match chance.below(8) {
            0..=1 => {
                let archive = parts.archive();
                let loaded = store.load(&mut &archive[..], &mut |_| {}).unwrap();
                say(&format!("+{}", loaded[0].id.hex()));
            }
            2..=4 => {
                let image = parts.pull(&store);
                say(&format!("+{}", store.put_image(image).unwrap().hex()));
            }
            5..=6 => {
                let id = digest(&parts.config);
                if store.find_image_by_id(&id).unwrap().is_some() {
                    say(&format!("-{}", id.hex()));
                    store
                        .remove_image(id.hex(), false, false, &|_| Vec::new())
                        .unwrap();
                }
            }
            _ => drop(store.collect().unwrap()),
        }
    }
}

/// Past the test harness, which would keep the line to itself.
fn say(line: &str) {
    let line = format!("\n{line}\n");
    assert_eq!(
        rustix::io::write(rustix::stdio::stdout(), line.as_bytes()),
        Ok(line.len())
    );
}

/// Starts the child, lets it work for a moment, and kills it; `promised` is what it has said.
#[expect(
    clippy::disallowed_methods,
    reason = "only another process can be killed"
)]
fn live_and_die(root: &Path, chance: &mut Chance, promised: &mut BTreeSet<String>) {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "interruption::privileged_child",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD_ROOT, root)
        .env(CHILD_SEED, chance.below(1 << 30).to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut settle = |line: &str| match line.split_at_checked(1) {
        Some(("+", id)) => promised.insert(id.to_owned()),
        Some(("-", id)) => promised.remove(id),
        _ => false,
    };
    let mut left = 1 + chance.below(4);
    while left > 0 {
        let line = said.next().unwrap().unwrap();
        left -= u64::from(line.starts_with(['+', '-']));
        settle(&line);
    }
    // Somewhere in the next operations.
    let pause = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: i64::try_from(chance.below(8_000_000)).unwrap(),
    };
    rustix::event::poll(&mut [], Some(&pause)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    for line in said {
        settle(&line.unwrap());
    }
}

fn killed_often(driver: Driver, seed: u64, kills: usize) {
    let mut scratch = Scratch::new(driver);
    fs::write(scratch.path().join(driver.name()), b"").unwrap();
    let mut promised: BTreeSet<String> = BTreeSet::new();
    let mut chance = Chance::new(seed);
    for _ in 0..kills {
        scratch.store = None;
        live_and_die(scratch.path(), &mut chance, &mut promised);
        scratch.reopen();
        assert!(scratch.names("ingest").is_empty(), "debris");
        assert!(scratch.names("quarantine").is_empty(), "torn");
        let images = scratch.images().unwrap();
        for id in &promised {
            let is_there = images.iter().any(|image| image.id.hex() == id);
            assert!(is_there, "{id} is gone");
        }
        // What is seen is whole, whether it was promised or not …
        for image in &images {
            assert_eq!(scratch.verify(image).unwrap().damage, []);
        }
        promised = images
            .iter()
            .map(|image| image.id.hex().to_owned())
            .collect();
        // … and every byte belongs to something.
        let usage = scratch.disk_usage().unwrap();
        let sum =
            usage.images + usage.snapshots + usage.incoming + usage.quarantine + usage.metadata;
        assert_eq!(sum, store::disk_bytes(&scratch.root()).unwrap());
    }
    for image in scratch.images().unwrap() {
        let lower = scratch.mounted(&image.id);
        assert_eq!(fs::read(lower[1].join("shared")).unwrap(), noise(200_000));
        assert_eq!(fs::read(lower[0].join("more")).unwrap(), noise(50_000));
    }
    let owners = scratch.snapshot_owners().unwrap();
    owners
        .iter()
        .for_each(|owner| scratch.remove_snapshot(owner).unwrap());
    for image in scratch.images().unwrap() {
        let id = image.id.hex();
        scratch
            .remove_image(id, false, false, &|_| Vec::new())
            .unwrap();
    }
    scratch.collect().unwrap();
    for below in [
        "blobs/sha256",
        &format!("layers/{}", driver.name()),
        "ingest",
        "snapshots",
    ] {
        assert!(scratch.names(below).is_empty(), "debris in {below}");
    }
}

/// 200 instants and more, in portions that run side by side: most of their time is the disk's.
macro_rules! killed {
    ($($name:ident: $driver:expr, $seed:literal, $kills:literal;)*) => {
        $(#[test] fn $name() { killed_often($driver, $seed, $kills); })*
    };
}

killed! {
    privileged_a_store_that_is_killed_is_whole_with_overlay: Driver::Overlay, 1, 40;
    privileged_a_store_that_is_killed_is_whole_with_erofs: Driver::Erofs, 2, 40;
    privileged_a_store_that_is_killed_is_whole_another_time: Driver::Erofs, 3, 40;
    privileged_a_store_that_is_killed_is_whole_a_third_time: Driver::Erofs, 4, 40;
    privileged_a_store_that_is_killed_is_whole_a_fourth_time: Driver::Erofs, 5, 40;
}
