//! Trees that become tars: what is exported and committed is what was there.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{FileType, Mode, XattrFlags};
use store::Driver;
use vocab::ContainerId;

use crate::scratch::{Merged, Scratch, Tar};

/// A bit of everything.
fn fill(root: &Path) {
    fs::create_dir_all(root.join("deep/er")).unwrap();
    fs::write(root.join("deep/er/file"), vec![7; 100_000]).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::hard_link(root.join("deep/er/file"), root.join("again")).unwrap();
    symlink("deep/er/file", root.join("link")).unwrap();
    symlink("x".repeat(300), root.join("long link")).unwrap();
    let long = root.join("n".repeat(200));
    fs::create_dir(&long).unwrap();
    fs::write(long.join("m".repeat(250)), b"long").unwrap();
    let owned = root.join("owned");
    fs::write(&owned, b"x").unwrap();
    std::os::unix::fs::chown(&owned, Some(3_000_000_000), Some(5)).unwrap();
    fs::set_permissions(&owned, fs::Permissions::from_mode(0o4751)).unwrap();
    let time = rustix::fs::Timespec {
        tv_sec: 1_700_000_000,
        tv_nsec: 123_456_789,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let cwd = rustix::fs::CWD;
    rustix::fs::utimensat(cwd, &owned, &times, rustix::fs::AtFlags::empty()).unwrap();
    rustix::fs::setxattr(&owned, "user.note", b"a\0b", XattrFlags::empty()).unwrap();
    let device = rustix::fs::makedev(1, 3);
    let (fifo, null) = (root.join("fifo"), root.join("null"));
    rustix::fs::mknodat(cwd, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    rustix::fs::mknodat(
        cwd,
        &null,
        FileType::CharacterDevice,
        Mode::from(0o666),
        device,
    )
    .unwrap();
}

/// Everything about a tree that a layer keeps.
fn facts(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let content = if about.is_file() {
                format!("{:?}", fs::read(&path).unwrap())
            } else if about.is_symlink() {
                format!("{:?}", fs::read_link(&path).unwrap())
            } else {
                String::new()
            };
            let mut note = [0; 10];
            let note = rustix::fs::lgetxattr(&path, "user.note", &mut note[..]).unwrap_or(0);
            found.push(format!(
                "{:?} {:o} {}:{} {} {}.{:09} links {} note {note} {content}",
                path.strip_prefix(root).unwrap(),
                about.mode(),
                about.uid(),
                about.gid(),
                about.rdev(),
                about.mtime(),
                about.mtime_nsec(),
                // Directories count theirs differently on each file system.
                if about.is_dir() { 0 } else { about.nlink() },
            ));
            if about.is_dir() {
                directories.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn privileged_a_tree_that_was_packed_is_the_same_as_a_layer() {
    for driver in [Driver::Overlay, Driver::Erofs] {
        let scratch = Scratch::new(driver);
        let tree = scratch.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fill(&tree);
        let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
        let mut tar = Vec::new();
        let root = fs::File::open(&tree).unwrap();
        store::pack(std::os::fd::AsFd::as_fd(&root), &mut tar).unwrap();
        let image = scratch.image(&[tar], "");
        // A socket is nothing without its program.
        fs::remove_file(tree.join("socket")).unwrap();
        assert_eq!(facts(&scratch.mounted(&image)[0]), facts(&tree));
    }
}

#[expect(clippy::disallowed_methods, reason = "the reference tool is a program")]
fn untar(tar: &Path, to: &Path) {
    let output = std::process::Command::new("tar")
        .args([
            "--extract",
            "--numeric-owner",
            "--xattrs",
            "--preserve-permissions",
        ])
        .args([Path::new("--file"), tar, Path::new("--directory"), to])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn privileged_the_reference_tool_reads_what_was_packed() {
    let scratch = Scratch::new(Driver::Overlay);
    let (tree, copy) = (scratch.path().join("tree"), scratch.path().join("copy"));
    fs::create_dir(&tree).unwrap();
    fs::create_dir(&copy).unwrap();
    fill(&tree);
    let tar = scratch.path().join("tar");
    let root = fs::File::open(&tree).unwrap();
    let mut out = fs::File::create(&tar).unwrap();
    store::pack(std::os::fd::AsFd::as_fd(&root), &mut out).unwrap();
    untar(&tar, &copy);
    assert_eq!(facts(&copy), facts(&tree));
}

#[test]
fn privileged_what_a_container_changed_becomes_a_layer() {
    for driver in [Driver::Overlay, Driver::Erofs] {
        let scratch = Scratch::new(driver);
        let below = Tar::new()
            .file("gone", b"x")
            .file("kept", b"x")
            .directory("hidden/", 0o755)
            .file("hidden/old", b"x")
            .bytes();
        let image = scratch.image(&[below], "base");
        let owner = ContainerId::random();
        scratch.create_snapshot(&owner, &image).unwrap();
        let upper = scratch.mount_snapshot(&owner).unwrap().upper;
        // As overlayfs leaves it: a whiteout, and a directory that was removed and made again.
        fs::write(upper.join("new"), b"new").unwrap();
        let cwd = rustix::fs::CWD;
        let gone = upper.join("gone");
        rustix::fs::mknodat(cwd, &gone, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        let hidden = upper.join("hidden");
        fs::create_dir(&hidden).unwrap();
        fs::write(hidden.join("young"), b"young").unwrap();
        let opaque = "trusted.overlay.opaque";
        rustix::fs::setxattr(&hidden, opaque, b"y", XattrFlags::empty()).unwrap();
        let layer = scratch.commit_snapshot(&owner, None).unwrap();
        assert_eq!(layer.size_bytes(), 8);
        let base = scratch.find_image("base").unwrap().config.rootfs.diff_ids[0].clone();
        let base = scratch.find_layer(&base).unwrap().unwrap();
        let image = scratch.image_of(&[base, layer]);
        let merged = Merged::of(&scratch, &image);
        assert!(!merged.path().join("gone").exists());
        assert_eq!(fs::read(merged.path().join("kept")).unwrap(), b"x");
        assert_eq!(fs::read(merged.path().join("new")).unwrap(), b"new");
        let names = fs::read_dir(merged.path().join("hidden")).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["young"]);
    }
}

#[test]
fn a_container_without_a_snapshot_is_not_committed() {
    let scratch = Scratch::new(Driver::Overlay);
    let error = scratch
        .commit_snapshot(&ContainerId::random(), None)
        .unwrap_err();
    assert!(error.to_string().ends_with(" has no snapshot"), "{error}");
}
