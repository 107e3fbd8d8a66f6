//! Full disks, and processes that are killed in the middle.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use store::{Driver, NewImage, Options, Store};
use vocab::ContainerId;
use vocab::failure::chain;

use crate::scratch::{Scratch, Tar, config, gzip, noise};

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

/// Puts images in and removes them until it is killed. Says `+id` when an image is in, and `-id`
/// before it removes one.
#[test]
#[ignore = "run by the test that kills it"]
fn privileged_child() {
    let root = PathBuf::from(std::env::var_os(CHILD_ROOT).unwrap());
    let driver = if root.join("overlay").exists() {
        Driver::Overlay
    } else {
        Driver::Erofs
    };
    let options = Options {
        driver: Some(driver),
    };
    let store = Store::open(&root.join("store"), &root.join("run"), &options).unwrap();
    let shared = gzip(&Tar::new().file("shared", &noise(200_000)).bytes());
    let mut kept = Vec::new();
    for round in 0_u64.. {
        let own = Tar::new().file("own", &std::process::id().to_be_bytes());
        let own = own
            .file("round", &round.to_be_bytes())
            .file("more", &noise(50_000))
            .bytes();
        let layers = [&shared, &own].map(|bytes| {
            let mut ingest = store.receive_layer(None, None, None).unwrap();
            bytes
                .chunks(4096)
                .for_each(|portion| ingest.receive(portion).unwrap());
            ingest.commit().unwrap()
        });
        let config = config(&layers);
        let layers = layers.to_vec();
        let id = store
            .put_image(NewImage {
                config,
                layers,
                ..NewImage::default()
            })
            .unwrap();
        say(&format!("+{}", id.hex()));
        kept.push(id);
        if kept.len() > 3 {
            let id = kept.remove(0);
            say(&format!("-{}", id.hex()));
            store
                .remove_image(id.hex(), false, false, &|_| Vec::new())
                .unwrap();
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

#[expect(
    clippy::disallowed_methods,
    reason = "only another process can be killed"
)]
fn killed_often(driver: Driver, rounds: u64) {
    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let mut scratch = Scratch::new(driver);
    fs::write(scratch.path().join(driver.name()), b"").unwrap();
    let mut promised: BTreeSet<String> = BTreeSet::new();
    for round in 0..rounds {
        scratch.store = None;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "interruption::privileged_child",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD_ROOT, scratch.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut settle = |line: &str| match line.split_at_checked(1) {
            Some(("+", id)) => promised.insert(id.to_owned()),
            Some(("-", id)) => promised.remove(id),
            _ => false,
        };
        // Somewhere after the second image: the pause is of another length each time.
        let mut seen = 0;
        while seen < 2 + round % 7 {
            let line = said.next().unwrap().unwrap();
            seen += u64::from(line.starts_with(['+', '-']));
            settle(&line);
        }
        let mut nothing = [];
        let pause = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(noise(64)[(round % 64) as usize]) * 40_000,
        };
        rustix::event::poll(&mut nothing, Some(&pause)).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        for line in said {
            settle(&line.unwrap());
        }
        scratch.reopen();
        assert!(scratch.names("ingest").is_empty(), "debris");
        let images = scratch.images().unwrap();
        for id in &promised {
            assert!(
                images.iter().any(|image| image.id.hex() == id),
                "{id} is gone"
            );
        }
        for image in &images {
            let owner = ContainerId::random();
            scratch.create_snapshot(&owner, &image.id).unwrap();
            let lower = scratch.mount_snapshot(&owner).unwrap().lower;
            assert_eq!(fs::read(lower[1].join("shared")).unwrap(), noise(200_000));
            assert_eq!(fs::read(lower[0].join("more")).unwrap(), noise(50_000));
            scratch.remove_snapshot(&owner).unwrap();
        }
        // One image goes through all the kills; nothing else is left when the others are removed.
        promised = promised.into_iter().take(1).collect();
        for image in images {
            if !promised.contains(image.id.hex()) {
                scratch
                    .remove_image(image.id.hex(), false, false, &|_| Vec::new())
                    .unwrap();
            }
        }
        scratch.collect().unwrap();
        assert_eq!(
            scratch.names("blobs/sha256").len(),
            3,
            "a configuration and two layers"
        );
        assert!(scratch.names("ingest").is_empty(), "debris");
    }
}

#[test]
fn privileged_a_store_that_is_killed_is_whole_with_overlay() {
    killed_often(Driver::Overlay, 8);
}

#[test]
fn privileged_a_store_that_is_killed_is_whole_with_erofs() {
    killed_often(Driver::Erofs, 8);
}

#[test]
fn slow_privileged_a_store_survives_two_hundred_kills() {
    killed_often(Driver::Erofs, 200);
}
