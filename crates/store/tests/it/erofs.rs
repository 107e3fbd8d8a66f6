//! The index against the reference tools: `fsck.erofs` finds nothing, and what `mkfs.erofs --tar=i`
//! makes of the same tar looks the same when it is mounted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use tar::EntryType;

use crate::scratch::Tar;

fn tool(name: &str, arguments: &[&Path]) {
    program(testkit::tool(name).to_str().unwrap(), arguments);
}

#[expect(
    clippy::disallowed_methods,
    reason = "the reference tools are programs"
)]
fn program(name: &str, arguments: &[&Path]) {
    let output = std::process::Command::new(name)
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {text}");
}

/// A mount that goes with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, tar: &Path, point: PathBuf) -> Self {
        fs::create_dir(&point).unwrap();
        let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_set_string(&context, "source", image).unwrap();
        fsconfig_set_string(&context, "device", tar).unwrap();
        fsconfig_create(&context).unwrap();
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        let mounted = fsmount(&context, flags, MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap();
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&mounted, "", CWD, &point, flags).unwrap();
        Self(point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Larger files are looked at where they begin, around 4 GiB, and where they end.
const WHOLE_BYTES_MAX: u64 = 1 << 30;

fn edges(path: &Path, size: u64) -> String {
    let file = File::open(path).unwrap();
    let mut read = vec![0; 1 << 20];
    let places = [0, (4 << 30) - (1 << 19), size - (1 << 20)];
    let sums = places.map(|place| {
        file.read_exact_at(&mut read, place).unwrap();
        hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &read))
    });
    sums.join(" ")
}

/// Everything that can be seen of a tree, by path.
fn seen(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    // Inode numbers differ; which names share one must not.
    let mut first_names: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let content = if stat.is_file() && stat.size() > WHOLE_BYTES_MAX {
            edges(&path, stat.size())
        } else if stat.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            entries.sort_by(|a, b| b.cmp(a));
            open.extend(entries);
            String::new()
        } else if stat.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if stat.is_file() {
            let mut bytes = Vec::new();
            File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
            hex::encode(aws_lc_rs::digest::digest(
                &aws_lc_rs::digest::SHA256,
                &bytes,
            ))
        } else {
            String::new()
        };
        let mut names = vec![0; 4096];
        let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        names.truncate(length);
        let mut xattrs = BTreeMap::new();
        for key in names.split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
            let mut value = vec![0; 70_000];
            let length = rustix::fs::lgetxattr(&path, key, &mut value[..]).unwrap();
            value.truncate(length);
            xattrs.insert(key.to_vec(), value);
        }
        let first = first_names
            .entry(stat.ino())
            .or_insert_with(|| name.clone());
        // A directory's size is the format's own affair.
        let size = if stat.is_dir() { 0 } else { stat.size() };
        let line = format!(
            "{:o} {}:{} {}.{:09} size {size} links {} device {:x} first {} {content} {xattrs:?}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.nlink(),
            stat.rdev(),
            first.display(),
        );
        found.insert(name, line);
    }
    found
}

fn check(tar: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let image = store::erofs::index(&File::open(tar).unwrap()).unwrap();
    let again = store::erofs::index(&File::open(tar).unwrap()).unwrap();
    assert!(image == again, "the same twice");
    fs::create_dir(at("scratch")).unwrap();
    let mut ours = File::create(at("ours")).unwrap();
    store::erofs::index_frugally(&File::open(tar).unwrap(), &at("scratch"), &mut ours).unwrap();
    assert!(fs::read(at("ours")).unwrap() == image, "the same frugally");
    assert_eq!(fs::read_dir(at("scratch")).unwrap().count(), 0);
    let device = format!("--device={}", tar.display());
    tool(
        "fsck.erofs",
        &[Path::new("-p"), Path::new(&device), &at("ours")],
    );
    tool(
        "mkfs.erofs",
        &[
            Path::new("--tar=i"),
            Path::new("--aufs"),
            Path::new("--quiet"),
            &at("theirs"),
            tar,
        ],
    );
    let ours = Mounted::new(&at("ours"), tar, at("a"));
    let theirs = Mounted::new(&at("theirs"), tar, at("b"));
    let (ours, theirs) = (seen(&ours.0), seen(&theirs.0));
    for (path, line) in &theirs {
        assert_eq!(ours.get(path), Some(line), "{}", path.display());
    }
    assert_eq!(ours.len(), theirs.len());
}

fn check_bytes(bytes: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let tar = directory.path().join("tar");
    fs::write(&tar, bytes).unwrap();
    check(&tar);
}

#[test]
fn privileged_a_tar_of_everything_looks_as_the_reference_shows_it() {
    let long = "x".repeat(250);
    let target = "t".repeat(600);
    let big = vec![b'a'; 100_000];
    let value = vec![b'v'; 3000];
    let pax: [(&str, &[u8]); 5] = [
        ("mtime", b"1234567890.123456789"),
        ("SCHILY.xattr.user.note", b"hello"),
        ("SCHILY.xattr.user.long", &value),
        (
            "SCHILY.xattr.security.capability",
            b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ),
        ("SCHILY.xattr.trusted.t", b"x"),
    ];
    let numbers: [(&str, &[u8]); 3] = [
        ("uid", b"4000000000"),
        ("gid", b"70000"),
        ("path", long.as_bytes()),
    ];
    let linkpath: [(&str, &[u8]); 1] = [("linkpath", target.as_bytes())];
    let device = |major, minor| {
        move |header: &mut tar::Header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
    };
    let mut tar = Tar::new()
        .directory("./", 0o755)
        .directory("d", 0o1777)
        .entry("d/file", EntryType::Regular, &big, &pax, |header| {
            header.set_mode(0o4755);
        })
        .entry("short", EntryType::Regular, b"x", &numbers, |_| {})
        .entry("s", EntryType::Symlink, b"", &linkpath, |header| {
            header.set_mode(0o777);
        })
        .entry("l", EntryType::Symlink, b"", &[], |header| {
            header.set_mode(0o777);
            header.set_link_name_literal("d/file").unwrap();
        })
        .link("hard", "d/file")
        .file("empty", b"")
        .file("block", &[b'b'; 512])
        .entry("null", EntryType::Char, b"", &[], device(1, 3))
        .entry("disk", EntryType::Block, b"", &[], device(259, 70_000))
        .entry("pipe", EntryType::Fifo, b"", &[], |_| {})
        .directory("many", 0o755);
    for number in 0..2000 {
        tar = tar.file(&format!("many/{}{number}", "n".repeat(number % 40)), b"");
    }
    check_bytes(&tar.bytes());
}

/// Directories that are filled in turn, links from the end to the beginning, things that are
/// replaced long after they came: all of it wants pages that have made way.
#[test]
fn privileged_what_does_not_fit_in_memory_looks_as_the_reference_shows_it() {
    const DIRECTORIES: usize = 97;
    let note = vec![b'n'; 900];
    let pax: [(&str, &[u8]); 1] = [("SCHILY.xattr.user.note", &note)];
    let mut tar = Tar::new().directory("./", 0o755);
    for number in 0..DIRECTORIES {
        tar = tar.directory(&format!("{number}"), 0o755);
    }
    let name = |number: usize| {
        let length = number % 80;
        format!("{}/{}{number}", number % DIRECTORIES, "n".repeat(length))
    };
    for number in 0..8000 {
        tar = match number % 50 {
            0 => tar.entry(&name(number), EntryType::Regular, b"some", &pax, |_| {}),
            _ => tar.file(&name(number), b""),
        };
    }
    for number in (0..8000).step_by(7) {
        tar = match number % 2 {
            0 => tar.link(&format!("links{number}"), &name(8000 - 1 - number)),
            _ => tar.file(&name(number), b"another"),
        };
    }
    check_bytes(&tar.bytes());
}

/// Directories and links of each length around the borders of a block.
#[test]
fn privileged_every_length_around_a_block_is_sound() {
    let mut tar = Tar::new().directory("./", 0o755);
    for length in 1..100 {
        tar = tar.directory(&format!("d{length}"), 0o755);
        for number in 0..length {
            tar = tar.file(&format!("d{length}/{number:05}"), b"");
        }
    }
    for length in 300..=700 {
        let target = "t".repeat(length);
        let pax: [(&str, &[u8]); 1] = [("linkpath", target.as_bytes())];
        tar = tar.entry(
            &format!("s{length}"),
            EntryType::Symlink,
            b"",
            &pax,
            |header| {
                header.set_mode(0o777);
            },
        );
    }
    check_bytes(&tar.bytes());
}

/// Of sparse files GNU tar is the reference: `mkfs.erofs` takes their maps for data.
#[test]
fn privileged_sparse_files_of_gnu_tar_look_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let tree = at("tree");
    fs::create_dir(&tree).unwrap();
    let make = |name: &str, size: u64, pieces: &[u64]| {
        let file = File::create(tree.join(name)).unwrap();
        file.set_len(size).unwrap();
        for piece in pieces {
            file.write_all_at(&[b'p'; 5000], *piece).unwrap();
        }
    };
    make("hole", 20 << 20, &[]);
    make("pieces", 20 << 20, &[0, 1 << 20, (18 << 20) + 77]);
    make("end", (17 << 20) + 5, &[(17 << 20) - 4995]);
    // More pieces than a header holds, or one with it.
    let many: Vec<u64> = (0..100).map(|piece| piece << 17).collect();
    make("many", 13 << 20, &many);
    let theirs = seen(&tree);
    let tar = at("tar");
    let create: [&Path; 5] = [
        Path::new("--create"),
        Path::new("--sparse"),
        Path::new("--numeric-owner"),
        Path::new("--directory"),
        &tree,
    ];
    for way in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let file: [&Path; 3] = [Path::new("--file"), &tar, Path::new(".")];
        let way: Vec<&Path> = way.iter().map(Path::new).collect();
        program("tar", &[&create[..], &way, &file].concat());
        assert!(fs::metadata(&tar).unwrap().len() < 2 << 20, "{way:?}");
        let image = store::erofs::index(&File::open(&tar).unwrap()).unwrap();
        fs::write(at("ours"), &image).unwrap();
        let device = format!("--device={}", tar.display());
        tool(
            "fsck.erofs",
            &[Path::new("-p"), Path::new(&device), &at("ours")],
        );
        let ours = {
            let mounted = Mounted::new(&at("ours"), &tar, at("a"));
            seen(&mounted.0)
        };
        let content = |seen: &BTreeMap<PathBuf, String>| -> Vec<(PathBuf, String)> {
            // GNU's own format has whole seconds.
            let part = |line: &String| line.split_once(" size ").unwrap().1.to_owned();
            seen.iter()
                .map(|(path, line)| (path.clone(), part(line)))
                .collect()
        };
        assert_eq!(content(&ours), content(&theirs), "{way:?}");
        fs::remove_dir(at("a")).unwrap();
    }
}

#[test]
fn privileged_a_file_above_four_gibibytes_looks_as_the_reference_shows_it() {
    const SIZE: u64 = (4 << 30) + (3 << 20) + 5;
    let size = SIZE.to_string();
    let pax: [(&str, &[u8]); 1] = [("size", size.as_bytes())];
    let head = Tar::new()
        .directory("./", 0o755)
        .entry("large", EntryType::Regular, b"", &pax, |_| {})
        .unfinished();
    let tail = Tar::new().file("after", b"in step").bytes();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tar");
    let tar = File::create(&path).unwrap();
    let begin = head.len() as u64;
    tar.write_all_at(&head, 0).unwrap();
    tar.write_all_at(b"begin", begin).unwrap();
    tar.write_all_at(&[b'm'; 10_000], begin + (4 << 30) - 5000)
        .unwrap();
    tar.write_all_at(b"end", begin + SIZE - 3).unwrap();
    tar.write_all_at(&tail, begin + SIZE.next_multiple_of(512))
        .unwrap();
    check(&path);
}

#[test]
fn privileged_whiteouts_look_as_the_reference_shows_them() {
    let list = [
        &[2, 0, 0, 0][..],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[32, 0, 4, 0, 255, 255, 255, 255],
    ]
    .concat();
    let acl: [(&str, &[u8]); 1] = [("SCHILY.xattr.system.posix_acl_access", &list)];
    let tar = Tar::new()
        .directory("./", 0o755)
        .directory("etc", 0o755)
        .entry("etc/.wh.passwd", EntryType::Regular, b"", &[], |header| {
            header.set_mode(0);
            header.set_mtime(0);
        })
        .entry("etc/list", EntryType::Regular, b"x", &acl, |header| {
            header.set_mode(0o754);
        })
        .directory("opaque", 0o700)
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"n");
    check_bytes(&tar.bytes());
}

/// A tar to try it on by hand: `BERTH_TRY_TAR=… cargo test -p store -- --ignored a_tar_named`.
#[test]
#[ignore = "wants a tar by hand"]
fn privileged_a_tar_named_by_the_caller_looks_the_same() {
    check(Path::new(std::ffi::OsStr::from_bytes(
        std::env::var("BERTH_TRY_TAR").unwrap().as_bytes(),
    )));
}
