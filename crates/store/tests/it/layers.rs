//! What every driver owes: one suite, run for each.

use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use store::{Driver, Options, Store};
use tar::EntryType;
use vocab::ContainerId;

use crate::scratch::{Place, Scratch, Tar, chain, digest, gzip, noise};

macro_rules! suite {
    (everywhere: $($name:ident),* ; with_many_layers: $($many:ident),* $(,)?) => {
        mod overlay {
            $(#[test] fn $name() { super::$name(store::Driver::Overlay.into()); })*
            $(#[test] fn $many() { super::$many(store::Driver::Overlay.into()); })*
        }
        mod erofs {
            $(#[test] fn $name() { super::$name(store::Driver::Erofs.into()); })*
            $(#[test] fn $many() { super::$many(store::Driver::Erofs.into()); })*
        }
        // Each layer takes two devices, which stay in /dev.
        mod erofs_through_loop_devices {
            $(#[test] fn $name() { super::$name(crate::scratch::Place::Loops); })*
        }
    };
}

suite! {
    everywhere:
    privileged_a_layer_shows_what_its_tar_says,
    privileged_long_names_and_large_numbers_are_kept,
    privileged_sparse_files_have_holes,
    privileged_hard_links_are_one_file,
    privileged_what_comes_later_replaces_what_came_before,
    privileged_whiteouts_become_those_of_overlayfs,
    privileged_directories_that_nothing_names_are_made,
    privileged_all_forms_of_a_layer_are_one_layer,
    privileged_overlayfs_stacks_the_layers,
    privileged_links_of_a_layer_are_followed_inside_it,
    privileged_mounting_twice_gives_the_same_directories,
    privileged_a_layer_survives_reopening,
    privileged_a_lost_layer_is_made_again_from_its_blob,
    privileged_a_directory_may_have_many_entries,
    privileged_an_empty_layer_is_an_empty_directory,
    privileged_sparse_files_of_any_kind_are_kept,
    privileged_lists_of_access_are_kept;
    with_many_layers:
    privileged_as_many_layers_as_overlayfs_stacks,
}

fn shown(driver: Place, tar: Vec<u8>, look: impl FnOnce(&Path)) {
    let scratch = Scratch::new(driver);
    let image = scratch.image(&[tar], "");
    look(&scratch.mounted(&image)[0]);
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn privileged_a_layer_shows_what_its_tar_says(driver: Place) {
    let device = |major, minor| {
        move |header: &mut tar::Header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
    };
    let pax: [(&str, &[u8]); 3] = [
        ("mtime", b"1234567890.123456789"),
        ("SCHILY.xattr.user.note", b"hello\n\0x"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
    ];
    let tar = Tar::new()
        .directory("./", 0o750)
        .directory("etc/", 0o2755)
        .entry(
            "etc/plain",
            EntryType::Regular,
            b"some text",
            &pax,
            |header| {
                header.set_mode(0o4711);
                header.set_uid(12);
                header.set_gid(34);
            },
        )
        .file("etc/empty", b"")
        .symlink("etc/link", "../plain")
        .entry("null", EntryType::Char, b"", &[], device(1, 3))
        .entry("disk", EntryType::Block, b"", &[], device(259, 70_000))
        .entry("pipe", EntryType::Fifo, b"", &[], |header| {
            header.set_mode(0o600);
        })
        .bytes();
    shown(driver, tar, |root| {
        assert_eq!(fs::metadata(root).unwrap().mode(), 0o40750);
        let etc = fs::metadata(root.join("etc")).unwrap();
        assert_eq!((etc.mode(), etc.mtime()), (0o42755, 1_700_000_000));
        let path = root.join("etc/plain");
        let plain = fs::metadata(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"some text");
        assert_eq!((plain.mode(), plain.uid(), plain.gid()), (0o104711, 12, 34));
        assert_eq!(
            (plain.mtime(), plain.mtime_nsec()),
            (1_234_567_890, 123_456_789)
        );
        assert_eq!(xattr(&path, "user.note").unwrap(), b"hello\n\0x");
        assert_eq!(
            xattr(&path, "trusted.overlay.redirect"),
            None,
            "a stranger's redirect"
        );
        assert_eq!(fs::read(root.join("etc/empty")).unwrap(), b"");
        assert_eq!(
            fs::read_link(root.join("etc/link")).unwrap(),
            Path::new("../plain")
        );
        let null = fs::metadata(root.join("null")).unwrap();
        assert!(null.file_type().is_char_device());
        assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
        let disk = fs::metadata(root.join("disk")).unwrap();
        assert!(disk.file_type().is_block_device());
        assert_eq!(disk.rdev(), rustix::fs::makedev(259, 70_000));
        assert!(
            fs::metadata(root.join("pipe"))
                .unwrap()
                .file_type()
                .is_fifo()
        );
    });
}

fn privileged_long_names_and_large_numbers_are_kept(driver: Place) {
    let deep = format!("{}/{}", "d".repeat(200), "e".repeat(255));
    let gnu = format!("{}/g", "long".repeat(60));
    let pax: [(&str, &[u8]); 3] = [
        ("path", deep.as_bytes()),
        ("uid", b"4000000000"),
        ("gid", b"70000"),
    ];
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    builder.append_data(&mut header, &gnu, &b"gnu"[..]).unwrap();
    let mut first = builder.into_inner().unwrap();
    first.truncate(first.len() - 1024);
    let second = Tar::new()
        .entry("short", EntryType::Regular, b"pax", &pax, |_| {})
        .bytes();
    shown(driver, [first, second].concat(), |root| {
        assert_eq!(fs::read(root.join(&gnu)).unwrap(), b"gnu");
        assert_eq!(fs::read(root.join(&deep)).unwrap(), b"pax");
        let found = fs::metadata(root.join(&deep)).unwrap();
        assert_eq!((found.uid(), found.gid()), (4_000_000_000, 70_000));
    });
}

/// 1 MiB with `head` at the front and `tail` at its end.
fn privileged_sparse_files_have_holes(driver: Place) {
    let size = 1 << 20;
    let gnu = |header: &mut tar::Header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(size);
        gnu.sparse[0].set_offset(0);
        gnu.sparse[0].set_length(512);
        gnu.sparse[1].set_offset(size - 4);
        gnu.sparse[1].set_length(4);
    };
    let aligned = |header: &mut tar::Header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(size);
        gnu.sparse[0].set_offset(8192);
        gnu.sparse[0].set_length(4096);
        gnu.sparse[1].set_offset(1 << 19);
        gnu.sparse[1].set_length(8192);
    };
    let pieces = [[1_u8; 4096], [2; 4096], [3; 4096]].concat();
    let head = [7_u8; 512];
    let data = [&head[..], b"tail"].concat();
    let map = b"2\n0\n512\n1048572\n4\n";
    let pax: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"pax"),
        ("GNU.sparse.realsize", b"1048576"),
    ];
    let mut stored = map.to_vec();
    stored.resize(512, 0);
    stored.extend_from_slice(&data);
    let tar = Tar::new()
        .entry("gnu", EntryType::GNUSparse, &data, &[], gnu)
        .entry(
            "GNUSparseFile.0/pax",
            EntryType::Regular,
            &stored,
            &pax,
            |_| {},
        )
        .entry("aligned", EntryType::GNUSparse, &pieces, &[], aligned)
        .file("after", b"in step")
        .bytes();
    shown(driver, tar, |root| {
        for name in ["gnu", "pax"] {
            let found = fs::read(root.join(name)).unwrap();
            assert_eq!(found.len(), 1 << 20, "{name}");
            assert_eq!(found[..512], head, "{name}");
            assert!(
                found[512..(1 << 20) - 4].iter().all(|byte| *byte == 0),
                "{name}"
            );
            assert_eq!(&found[(1 << 20) - 4..], b"tail", "{name}");
        }
        let found = fs::read(root.join("aligned")).unwrap();
        let mut wanted = vec![0; 1 << 20];
        wanted[8192..8192 + 4096].fill(1);
        wanted[1 << 19..(1 << 19) + 4096].fill(2);
        wanted[(1 << 19) + 4096..(1 << 19) + 8192].fill(3);
        assert!(found == wanted, "aligned");
        assert_eq!(fs::read(root.join("after")).unwrap(), b"in step");
    });
}

/// Pieces that begin and end anywhere, in files of any size, in all four ways.
fn privileged_sparse_files_of_any_kind_are_kept(driver: Place) {
    type Pieces<'a> = &'a [(u64, &'a [u8])];
    const MIB: u64 = 1 << 20;
    let noise = noise(3 * 4096);
    let odd: [(u64, &[u8]); 4] = [
        (0, &noise[..700]),
        (5000, &noise[700..701]),
        (33 * MIB + 77, &noise[701..8000]),
        (40 * MIB - 3, b"end"),
    ];
    // Larger than four bytes can say, and than there are entries for pieces of a page.
    let large: [(u64, &[u8]); 3] = [
        (4096, &noise[..4096]),
        (5 << 30, &noise[4096..8192]),
        ((9 << 30) + 4096, &noise[..8192]),
    ];
    let touching: [(u64, &[u8]); 2] = [(512, &noise[..512]), (1024, &noise[512..1024])];
    let kinds: [(&str, u64, Pieces<'_>); 5] = [
        ("odd", 40 * MIB, &odd),
        ("large", 10 << 30, &large),
        ("touching", 4096, &touching),
        // As GNU tar says it.
        ("hole", 6 << 30, &[(6 << 30, &[])]),
        ("empty", 0, &[]),
    ];
    let mut tar = Tar::new();
    for way in ["old", "0.0", "0.1", "1.0"] {
        for (name, size, pieces) in kinds {
            tar = tar.sparse(way, &format!("{way}-{name}"), size, pieces);
        }
    }
    shown(driver, tar.file("after", b"in step").bytes(), |root| {
        for way in ["old", "0.0", "0.1", "1.0"] {
            for (name, size, pieces) in kinds {
                let file = fs::File::open(root.join(format!("{way}-{name}"))).unwrap();
                assert_eq!(file.metadata().unwrap().len(), size, "{way} {name}");
                let mut read = vec![0; 10_000];
                let mut end = 0;
                for (offset, data) in pieces {
                    let here = &mut read[..data.len() + 100];
                    let before = offset.saturating_sub(100).max(end);
                    let hole = usize::try_from(offset - before).unwrap();
                    file.read_exact_at(&mut here[..hole + data.len()], before)
                        .unwrap();
                    assert!(
                        here[..hole].iter().all(|byte| *byte == 0),
                        "{way} {name} before {offset}"
                    );
                    assert!(
                        here[hole..hole + data.len()] == **data,
                        "{way} {name} at {offset}"
                    );
                    end = offset + data.len() as u64;
                }
                if size > end {
                    let length = usize::try_from((size - end).min(10_000)).unwrap();
                    file.read_exact_at(&mut read[..length], end).unwrap();
                    assert!(
                        read[..length].iter().all(|byte| *byte == 0),
                        "{way} {name} behind {end}"
                    );
                }
            }
        }
        assert_eq!(fs::read(root.join("after")).unwrap(), b"in step");
    });
}

fn privileged_lists_of_access_are_kept(driver: Place) {
    // Version 2; the owner, user 7, the group, the mask, all others (acl(5), linux/posix_acl_xattr.h).
    let list = [
        &[2, 0, 0, 0][..],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[2, 0, 4, 0, 7, 0, 0, 0],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[16, 0, 5, 0, 255, 255, 255, 255],
        &[32, 0, 4, 0, 255, 255, 255, 255],
    ]
    .concat();
    // As text, the way GNU tar and star write it.
    let gnu = b"user::rwx\nuser:7:r--\ngroup::r-x\nmask::r-x\nother::r--\n";
    let star = b"user::rwx,user:lisa:r--:7,group::r-x,mask::r-x,other::r--";
    for (access, default, list_of) in [
        (
            "SCHILY.xattr.system.posix_acl_access",
            "SCHILY.xattr.system.posix_acl_default",
            &list[..],
        ),
        ("SCHILY.acl.access", "SCHILY.acl.default", gnu),
        ("SCHILY.acl.access", "SCHILY.acl.default", star),
    ] {
        check_lists(driver, (access, list_of), (default, list_of), &list);
    }
}

fn check_lists(driver: Place, access: (&str, &[u8]), default: (&str, &[u8]), list: &[u8]) {
    let (access, default) = ([access], [default]);
    let tar = Tar::new()
        .entry("file", EntryType::Regular, b"x", &access, |header| {
            header.set_mode(0o754);
        })
        .entry("directory", EntryType::Directory, b"", &default, |header| {
            header.set_mode(0o700);
        })
        .bytes();
    shown(driver, tar, |root| {
        let file = root.join("file");
        assert_eq!(
            xattr(&file, "system.posix_acl_access").as_deref(),
            Some(list)
        );
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o754);
        let directory = xattr(&root.join("directory"), "system.posix_acl_default");
        assert_eq!(directory.as_deref(), Some(list));
    });
}

#[test]
fn privileged_where_files_are_not_mounted_loop_devices_are_and_come_free() {
    let mut scratch = Scratch::new(Place::Loops);
    let images = ["a", "b"].map(|name| scratch.image(&[Tar::new().file(name, b"x").bytes()], name));
    let devices = |scratch: &Scratch| -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let run = scratch.path().join("run");
        let ours = table
            .lines()
            .filter(|line| line.contains(run.to_str().unwrap()));
        ours.map(|line| line.rsplit(' ').nth(1).unwrap().to_owned())
            .collect()
    };
    for image in &images {
        scratch.mounted(image);
        scratch.mounted(image);
    }
    let used = devices(&scratch);
    assert_eq!(used.len(), 2, "{used:?}");
    assert!(
        used.iter().all(|device| device.starts_with("/dev/loop")),
        "{used:?}"
    );
    // What stands on a layer keeps it, also when the driver is gone.
    let merged = crate::scratch::Merged::of(&scratch, &images[0]);
    let root = scratch.root();
    scratch.store = None;
    assert_eq!(devices(&scratch), Vec::<String>::new());
    assert_eq!(fs::read(merged.path().join("a")).unwrap(), b"x");
    assert!(!backing_files(&root).is_empty());
    drop(merged);
    testkit::eventually(std::time::Duration::from_secs(20), || {
        backing_files(&root).is_empty()
    });
}

/// The files below a directory that loop devices are attached to.
fn backing_files(root: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").unwrap();
    devices
        .filter_map(|device| {
            let path = device.unwrap().path().join("loop/backing_file");
            let file = fs::read_to_string(path).ok()?;
            // On a file system of its own the path begins where that is mounted, or nowhere.
            file.contains(root.file_name()?.to_str()?).then_some(file)
        })
        .collect()
}

fn privileged_hard_links_are_one_file(driver: Place) {
    let tar = Tar::new()
        .file("a", b"shared")
        .link("d/b", "a")
        .link("c", "./d/b")
        .symlink("s", "nowhere")
        .link("t", "s")
        .bytes();
    shown(driver, tar, |root| {
        let inode = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().ino();
        assert_eq!(inode("a"), inode("d/b"));
        assert_eq!(inode("a"), inode("c"));
        assert_eq!(fs::metadata(root.join("a")).unwrap().nlink(), 3);
        assert_eq!(inode("s"), inode("t"));
        assert_eq!(fs::read(root.join("c")).unwrap(), b"shared");
    });
}

fn privileged_what_comes_later_replaces_what_came_before(driver: Place) {
    let tar = Tar::new()
        .file("file", b"first")
        .file("file", b"second")
        .file("directory/kept", b"kept")
        .directory("directory", 0o711)
        .file("gone/inside", b"x")
        .file("gone", b"now a file")
        .file("link", b"x")
        .symlink("link", "elsewhere")
        .file("was", b"x")
        .directory("was", 0o755)
        .file("was/inside", b"y")
        .bytes();
    shown(driver, tar, |root| {
        assert_eq!(fs::read(root.join("file")).unwrap(), b"second");
        assert_eq!(fs::read(root.join("directory/kept")).unwrap(), b"kept");
        assert_eq!(
            fs::metadata(root.join("directory")).unwrap().mode(),
            0o40711
        );
        assert_eq!(fs::read(root.join("gone")).unwrap(), b"now a file");
        assert_eq!(
            fs::read_link(root.join("link")).unwrap(),
            Path::new("elsewhere")
        );
        assert_eq!(fs::read(root.join("was/inside")).unwrap(), b"y");
    });
}

fn privileged_whiteouts_become_those_of_overlayfs(driver: Place) {
    let tar = Tar::new()
        .directory("etc", 0o755)
        .file("etc/.wh.passwd", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"n")
        // What this layer brings itself is there, in whichever order it says so.
        .file(".wh.both", b"")
        .file("both/new", b"n")
        .file("other/new", b"n")
        .file(".wh.other", b"")
        .file(".wh.plain", b"")
        .file("plain", b"p")
        .file(".wh..wh.plnk/1", b"")
        .file(".wh..wh.aufs", b"")
        .bytes();
    shown(driver, tar, |root| {
        let whiteout = fs::symlink_metadata(root.join("etc/passwd")).unwrap();
        assert!(whiteout.file_type().is_char_device());
        assert_eq!(whiteout.rdev(), 0);
        for name in ["opaque", "both", "other"] {
            let opaque = xattr(&root.join(name), "trusted.overlay.opaque");
            assert_eq!(opaque.as_deref(), Some(&b"y"[..]), "{name}");
            assert_eq!(
                fs::read(root.join(name).join("new")).unwrap(),
                b"n",
                "{name}"
            );
        }
        assert_eq!(xattr(&root.join("etc"), "trusted.overlay.opaque"), None);
        // So that overlayfs does not list the whiteout where no layer below has the directory.
        let origin = xattr(&root.join("etc"), "trusted.overlay.origin");
        assert_eq!(origin.as_deref(), Some(&b""[..]));
        assert_eq!(fs::read(root.join("plain")).unwrap(), b"p");
        let mut names: Vec<_> = fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["both", "etc", "opaque", "other", "plain"]);
    });
}

fn privileged_directories_that_nothing_names_are_made(driver: Place) {
    shown(driver, Tar::new().file("a/b/c", b"x").bytes(), |root| {
        for name in ["a", "a/b"] {
            let found = fs::metadata(root.join(name)).unwrap();
            assert_eq!(
                (found.mode(), found.uid(), found.mtime()),
                (0o40755, 0, 0),
                "{name}"
            );
        }
    });
}

fn privileged_all_forms_of_a_layer_are_one_layer(driver: Place) {
    let scratch = Scratch::new(driver);
    let tar = Tar::new().file("a", &[b'x'; 100_000]).bytes();
    let (front, back) = tar.split_at(5000);
    let zstd = |bytes: &[u8]| zstd::stream::encode_all(bytes, 3).unwrap();
    let diff_id = digest(&tar);
    for bytes in [
        gzip(&tar),
        tar.clone(),
        zstd(&tar),
        [gzip(front), gzip(back)].concat(),
        [zstd(front), zstd(back)].concat(),
        [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd(&tar)].concat(),
    ] {
        let blob = digest(&bytes);
        let size = bytes.len() as u64;
        let mut ingest = scratch
            .receive_layer(Some(&blob), Some(size), Some(&diff_id))
            .unwrap();
        // One byte at a time at first: the form is told by the first four.
        let (slow, fast) = bytes.split_at(10);
        for byte in slow {
            ingest.receive(&[*byte]).unwrap();
        }
        ingest.receive(fast).unwrap();
        let layer = ingest.commit().unwrap();
        assert_eq!(*layer.diff_id(), diff_id);
        assert_eq!(layer.blob().digest, blob);
        assert_eq!(layer.size_bytes(), 100_000);
        assert!(scratch.find_layer_of_blob(&blob).unwrap().is_some());
    }
    assert!(scratch.find_layer(&diff_id).unwrap().is_some());
    assert!(scratch.names("ingest").is_empty());
}

/// As Docker does it, which unpacks each layer in a root of its own.
fn privileged_links_of_a_layer_are_followed_inside_it(driver: Place) {
    let scratch = Scratch::new(driver);
    let tar = Tar::new()
        .directory("usr/bin/", 0o755)
        .symlink("bin", "usr/bin")
        .symlink("absolute", "/usr/bin")
        .symlink("up", "../../../usr/./bin/../bin")
        .symlink("twice", "up")
        .file("bin/a", b"a")
        .file("absolute/b", b"b")
        .file("up/c", b"c")
        .file("twice/d", b"d")
        .directory("bin/below/", 0o700)
        .file("bin/below/e", b"e")
        .link("hard", "absolute/a")
        .link("of-a-link", "bin")
        .file("twice/.wh.gone", b"")
        .directory("swept/", 0o755)
        .symlink("broom", "swept")
        .file("broom/.wh..wh..opq", b"")
        // Replacing a link does not touch what it led to.
        .directory("up/", 0o755)
        .file("up/f", b"f");
    let image = scratch.image(&[tar.bytes()], "");
    let root = scratch.mounted(&image).remove(0);
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    for (name, text) in [
        ("usr/bin/a", "a"),
        ("usr/bin/b", "b"),
        ("usr/bin/c", "c"),
        ("usr/bin/d", "d"),
        ("usr/bin/below/e", "e"),
        ("hard", "a"),
        ("up/f", "f"),
    ] {
        assert_eq!(read(name), text, "{name}");
    }
    assert_eq!(
        fs::read_link(root.join("bin")).unwrap(),
        Path::new("usr/bin")
    );
    assert_eq!(
        fs::read_link(root.join("of-a-link")).unwrap(),
        Path::new("usr/bin")
    );
    assert!(!fs::exists(root.join("up/c")).unwrap());
    let mode = fs::metadata(root.join("usr/bin/below")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o700);
    let gone = fs::symlink_metadata(root.join("usr/bin/gone")).unwrap();
    assert_eq!(gone.rdev(), 0);
    assert_eq!(
        xattr(&root.join("swept"), "trusted.overlay.opaque"),
        Some(b"y".to_vec())
    );
}

/// More do not go into one mount; as many as an image may have do.
fn privileged_as_many_layers_as_overlayfs_stacks(driver: Place) {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    };
    use std::os::fd::AsRawFd;

    let scratch = Scratch::new(driver);
    let layers: Vec<_> = (0..store::limits::LAYERS)
        .map(|number| {
            let number = format!("{number}");
            Tar::new()
                .file(&format!("own-{number}"), b"")
                .file("last", number.as_bytes())
                .bytes()
        })
        .collect();
    let image = scratch.image(&layers, "");
    let owner = ContainerId::random();
    scratch.create_snapshot(&owner, &image).unwrap();
    let mounts = scratch.mount_snapshot(&owner).unwrap();
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    for lower in &mounts.lower {
        fsconfig_set_string(&context, "lowerdir+", lower).unwrap();
    }
    fsconfig_set_string(&context, "upperdir", &mounts.upper).unwrap();
    fsconfig_set_string(&context, "workdir", &mounts.work).unwrap();
    fsconfig_create(&context).unwrap();
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mounted = fsmount(&context, flags, MountAttrFlags::empty()).unwrap();
    let root = Path::new("/proc/self/fd").join(mounted.as_raw_fd().to_string());
    assert_eq!(
        fs::read_dir(root.join(".")).unwrap().count(),
        layers.len() + 1
    );
    let last = fs::read_to_string(root.join("last")).unwrap();
    assert_eq!(last, (layers.len() - 1).to_string());
}

fn privileged_overlayfs_stacks_the_layers(driver: Place) {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    let scratch = Scratch::new(driver);
    let lower = Tar::new()
        .file("kept", b"1")
        .file("hidden", b"1")
        .file("changed", b"1")
        .file("opaque/old", b"1")
        .file("swept/old", b"1")
        .bytes();
    let upper = Tar::new()
        .file(".wh.hidden", b"")
        .file("changed", b"2")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"2")
        .file(".wh.swept", b"")
        .file("young/.wh.never", b"")
        .file("young/there", b"2")
        .bytes();
    let image = scratch.image(&[lower, upper], "");
    let owner = ContainerId::random();
    scratch.create_snapshot(&owner, &image).unwrap();
    let mounts = scratch.mount_snapshot(&owner).unwrap();
    let point = scratch.path().join("merged");
    fs::create_dir(&point).unwrap();
    let lower: Vec<_> = mounts
        .lower
        .iter()
        .map(|path| path.to_str().unwrap())
        .collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        mounts.upper.display(),
        mounts.work.display()
    );
    let options = std::ffi::CString::new(options).unwrap();
    mount(
        "overlay",
        &point,
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .unwrap();
    let seen = |name: &str| fs::read_to_string(point.join(name)).ok();
    let found = (
        seen("kept"),
        seen("hidden"),
        seen("changed"),
        seen("opaque/old"),
        seen("opaque/new"),
        fs::exists(point.join("swept")).unwrap(),
        fs::read_dir(point.join("young")).unwrap().count(),
    );
    let written = fs::write(point.join("kept"), b"by the container");
    unmount(&point, UnmountFlags::DETACH).unwrap();
    written.unwrap();
    let one = || Some("1".to_owned());
    let two = || Some("2".to_owned());
    assert_eq!(found, (one(), None, two(), None, two(), false, 1));
    assert_eq!(
        fs::read(mounts.upper.join("kept")).unwrap(),
        b"by the container"
    );
    assert_eq!(scratch.snapshot_bytes(&owner).unwrap(), 16);
    scratch.release_snapshot(&owner).unwrap();
    scratch.remove_snapshot(&owner).unwrap();
    scratch.remove_snapshot(&owner).unwrap();
    assert!(scratch.names("snapshots").is_empty());
}

fn privileged_mounting_twice_gives_the_same_directories(driver: Place) {
    let mut scratch = Scratch::new(driver);
    let image = scratch.image(&[Tar::new().file("a", b"x").bytes()], "");
    let first = scratch.mounted(&image);
    assert_eq!(scratch.mounted(&image), first);
    scratch.reopen();
    assert_eq!(scratch.mounted(&image), first);
    let mounted = |path: &str| {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(path)).count()
    };
    let count = mounted(first[0].to_str().unwrap());
    assert!(count <= 1, "mounted {count} times");
    scratch.store = None;
    let run = scratch.path().join("run");
    assert_eq!(mounted(run.to_str().unwrap()), 0, "left behind");
}

fn privileged_a_layer_survives_reopening(driver: Place) {
    let mut scratch = Scratch::new(driver);
    let tar = Tar::new().file("a", b"kept").bytes();
    let diff_id = digest(&tar);
    let image = scratch.image(&[tar], "x");
    scratch.reopen();
    assert!(scratch.find_layer(&diff_id).unwrap().is_some());
    assert_eq!(
        fs::read(scratch.mounted(&image)[0].join("a")).unwrap(),
        b"kept"
    );
}

fn privileged_a_lost_layer_is_made_again_from_its_blob(driver: Place) {
    let mut scratch = Scratch::new(driver);
    let tar = Tar::new().file("a", b"kept").bytes();
    let layers = scratch.root().join("layers").join(driver.driver().name());
    let bytes = gzip(&tar);
    let mut ingest = scratch.receive_layer(None, None, None).unwrap();
    ingest.receive(&bytes).unwrap();
    let layer = ingest.commit().unwrap();
    let image = scratch.image(&[tar], "x");
    drop(layer);
    scratch.store = None;
    fs::remove_dir_all(&layers).unwrap();
    scratch.reopen();
    assert_eq!(
        fs::read(scratch.mounted(&image)[0].join("a")).unwrap(),
        b"kept"
    );
}

fn privileged_a_directory_may_have_many_entries(driver: Place) {
    let mut tar = Tar::new();
    for number in 0..3000 {
        tar = tar.file(
            &format!("d/{}{number}", "n".repeat(40)),
            number.to_string().as_bytes(),
        );
    }
    shown(driver, tar.bytes(), |root| {
        assert_eq!(fs::read_dir(root.join("d")).unwrap().count(), 3000);
        for number in [0, 1, 1499, 2998, 2999] {
            let name = format!("d/{}{number}", "n".repeat(40));
            assert_eq!(
                fs::read_to_string(root.join(name)).unwrap(),
                number.to_string()
            );
        }
    });
}

fn privileged_an_empty_layer_is_an_empty_directory(driver: Place) {
    for tar in [Tar::new().bytes(), Vec::new()] {
        shown(driver, tar, |root| {
            assert_eq!(fs::read_dir(root).unwrap().count(), 0);
        });
    }
    let scratch = Scratch::new(driver);
    let image = scratch.image(&[], "scratch");
    assert_eq!(
        fs::read_dir(&scratch.mounted(&image)[0]).unwrap().count(),
        0
    );
}

#[test]
fn two_processes_never_have_one_store_open() {
    let scratch = Scratch::new(Driver::Overlay);
    let options = Options {
        driver: Some(Driver::Overlay),
    };
    let error = Store::open(&scratch.root(), scratch.path(), &options).unwrap_err();
    assert!(
        chain(&error).ends_with("is in use by another berth daemon"),
        "{error}"
    );
}
