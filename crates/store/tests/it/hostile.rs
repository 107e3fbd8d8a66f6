//! Layers made to do harm: each is refused with its reason, and touches nothing outside.

use std::fs;

use snapbox::{IntoData, assert_data_eq, str};
use store::Driver;
use tar::EntryType;

use crate::scratch::{Scratch, Tar, chain, digest, gzip};

/// The layer is refused with this text; nothing is left of it, and nothing appears beside the store.
fn check(driver: Driver, bytes: &[u8], expected: impl IntoData) {
    let scratch = Scratch::new(driver);
    let beside = scratch.path().join("beside");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("victim"), b"untouched").unwrap();
    let before = fs::read_dir(scratch.path()).unwrap().count();
    let error = scratch.layer(bytes).unwrap_err();
    assert_data_eq!(chain(&error), expected);
    assert_eq!(fs::read(beside.join("victim")).unwrap(), b"untouched");
    assert_eq!(
        fs::read_dir(scratch.path()).unwrap().count(),
        before,
        "something appeared"
    );
    for below in [
        "ingest",
        "blobs/sha256",
        &format!("layers/{}", driver.name()),
    ] {
        assert!(scratch.names(below).is_empty(), "debris in {below}");
    }
}

macro_rules! refused {
    ($($name:ident: $tar:expr => $text:expr;)*) => {
        mod overlay {
            use super::*;
            $(#[test] fn $name() { check(Driver::Overlay, &$tar, $text); })*
        }
        mod erofs {
            use super::*;
            $(#[test] fn $name() { check(Driver::Erofs, &$tar, $text); })*
        }
    };
}

refused! {
    privileged_a_path_with_two_dots: Tar::new().file("../beside/victim", b"x").bytes()
        => str!["layer from the stream is not a sound tar: `../beside/victim` leads out of the layer by `..`"];
    privileged_two_dots_in_the_middle: Tar::new().file("a/../../b", b"x").bytes()
        => str!["layer from the stream is not a sound tar: `a/../../b` leads out of the layer by `..`"];
    privileged_a_path_through_a_symbolic_link: Tar::new().symlink("out", "/tmp").file("out/x", b"x").bytes()
        => str!["layer from the stream is not a sound tar: `out` leads through `out`, which is no directory"];
    privileged_a_path_through_a_file: Tar::new().file("f", b"x").file("f/x", b"x").bytes()
        => str!["layer from the stream is not a sound tar: `f` leads through `f`, which is no directory"];
    privileged_a_hard_link_out_of_the_layer: Tar::new().link("x", "../../../../etc/passwd").bytes()
        => str!["layer from the stream is not a sound tar: `x` is a hard link to `../../../../etc/passwd`, which leads out of the layer by `..`"];
    privileged_a_hard_link_through_a_symbolic_link: Tar::new().symlink("s", "/etc").link("x", "s/passwd").bytes()
        => str!["layer from the stream is not a sound tar: `x` is a hard link to `s/passwd`, which is no file of this layer"];
    privileged_a_path_through_links_that_go_round: Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"x").bytes()
        => str!["layer from the stream is not a sound tar: `a` leads through `a`, which is no directory"];
    privileged_a_path_through_a_link_to_the_host: Tar::new().symlink("proc", "/proc/self/root/etc").file("proc/x", b"x").bytes()
        => str!["layer from the stream is not a sound tar: `proc` leads through `proc`, which is no directory"];
    privileged_a_path_through_a_link_upwards: Tar::new().symlink("up", "../../../../../../etc").file("up/x", b"x").bytes()
        => str!["layer from the stream is not a sound tar: `up` leads through `up`, which is no directory"];
    privileged_a_hard_link_to_nothing: Tar::new().link("x", "/etc/passwd").bytes()
        => str!["layer from the stream is not a sound tar: `x` is a hard link to `etc/passwd`, which is no file of this layer"];
    privileged_a_hard_link_to_a_directory: Tar::new().directory("d", 0o755).link("x", "d").bytes()
        => str!["layer from the stream is not a sound tar: `x` is a hard link to `d`, which is no file of this layer"];
    privileged_a_whiteout_of_the_parent: Tar::new().file("d/.wh...", b"").bytes()
        => str!["layer from the stream is not a sound tar: `d/.wh...` leads out of the layer by a whiteout"];
    privileged_a_file_in_place_of_the_root: Tar::new().file("./", b"x").bytes()
        => str!["layer from the stream is not a sound tar: `./` would replace the root directory"];
    privileged_a_whiteout_disguised_as_a_device: Tar::new().entry("x", EntryType::Char, b"", &[], |header| {
            header.set_device_major(0).unwrap();
            header.set_device_minor(0).unwrap();
        }).bytes()
        => str!["layer from the stream is not a sound tar: `x` is the character device 0:0"];
    privileged_a_device_with_an_impossible_number: Tar::new().entry("x", EntryType::Block, b"", &[], |header| {
            header.set_device_major(1 << 12).unwrap();
            header.set_device_minor(0).unwrap();
        }).bytes()
        => str!["layer from the stream is not a sound tar: `x` is a device with an impossible number"];
    privileged_a_size_beyond_the_end: Tar::new().entry("x", EntryType::Regular, b"short", &[], |header| header.set_size(1 << 40)).bytes()
        => str!["layer from the stream is not a sound tar: it ends within or after `x`"];
    privileged_a_size_beyond_all_bounds: Tar::new().entry("x", EntryType::Regular, b"", &[("size", b"18446744073709551615")], |_| {}).bytes()
        => str!["layer from the stream is not a sound tar: `x` claims 18446744073709551615 bytes"];
    privileged_a_size_that_is_no_number: Tar::new().entry("x", EntryType::Regular, b"", &[("size", b"many")], |_| {}).bytes()
        => str!["layer from the stream is not a sound tar: `x` has a PAX size that is no number"];
    privileged_a_list_of_access_that_is_none: Tar::new().entry("x", EntryType::Regular, b"", &[("SCHILY.acl.access", b"user::all")], |_| {}).bytes()
        => str!["layer from the stream is not a sound tar: `x` has an access control list that cannot be used: `user::all`"];
    privileged_a_nul_in_a_path: Tar::new().entry("x", EntryType::Regular, b"", &[("path", b"a\0b")], |_| {}).bytes()
        => str!["layer from the stream is not a sound tar: `a/0b` has a NUL byte in its path"];
    privileged_a_sparse_map_that_contradicts_itself: Tar::new().entry("x", EntryType::GNUSparse, b"data", &[], |header| {
            let gnu = header.as_gnu_mut().unwrap();
            gnu.set_real_size(2);
            gnu.sparse[0].set_offset(0);
            gnu.sparse[0].set_length(4);
        }).bytes()
        => str!["layer from the stream is not a sound tar: `x` has a sparse map that contradicts its sizes"];
    privileged_a_damaged_header: { let mut tar = Tar::new().file("x", b"").bytes(); tar[5] ^= 1; tar }
        => str!["layer from the stream is not a sound tar: after ``: [..]checksum[..]"];
    privileged_what_is_no_tar: vec![b'?'; 4096]
        => str!["layer from the stream is not a sound tar: after ``: [..]"];
    privileged_an_unknown_type: Tar::new().entry("x", EntryType::new(b'V'), b"", &[], |_| {}).bytes()
        => str!["layer from the stream is not a sound tar: `x` is of the unknown type 'V'"];
    privileged_a_gzip_stream_cut_off: { let gz = gzip(&Tar::new().file("x", &[b'x'; 5000]).bytes()); gz[..gz.len() - 6].to_vec() }
        => str!["decompress layer from the stream: [..]"];
    privileged_a_zstd_stream_cut_off: { let z = zstd::stream::encode_all(&Tar::new().file("x", &[b'x'; 5000]).bytes()[..], 3).unwrap(); z[..z.len() - 6].to_vec() }
        => str!["decompress layer from the stream: unexpected end of file"];
    privileged_a_gzip_stream_with_a_wrong_sum: { let mut gz = gzip(&Tar::new().file("x", b"x").bytes()); let at = gz.len() - 6; gz[at] ^= 1; gz }
        => str!["decompress layer from the stream: [..]"];
    privileged_a_gzip_bomb: gzip(&Tar::new().file("x", &vec![0; 65 << 20]).bytes())
        => str!["layer from the stream unpacks to more than 67108864 bytes, refused as a decompression bomb"];
    privileged_a_zstd_bomb: zstd::stream::encode_all(&Tar::new().file("x", &vec![0; 65 << 20]).bytes()[..], 3).unwrap()
        => str!["layer from the stream unpacks to more than 67108864 bytes, refused as a decompression bomb"];
}

/// A few kilobytes that would take gigabytes of entries.
#[test]
fn privileged_an_index_has_bounds() {
    let mut tar = Tar::new();
    for number in 0..33 {
        tar = tar.sparse("old", &format!("x{number}"), 512 << 20, &[(512, &[1; 512])]);
    }
    let text =
        str!["layer from the stream is not a sound tar: its index would have more than [..] bytes"];
    check(Driver::Erofs, &tar.bytes(), text);
    let endless = Tar::new()
        .sparse("old", "x", i64::MAX.cast_unsigned(), &[(0, &[1; 512])])
        .bytes();
    let text = str![
        "layer from the stream is not a sound tar: it has a sparse file of 9223372036854775807 bytes"
    ];
    check(Driver::Erofs, &endless, text);
    // Files are unpacked with the holes they have, as far as the file system goes.
    let text = str!["unpack layer from the stream: extend `x`: [..]"];
    check(Driver::Overlay, &endless, text);
}

#[test]
fn privileged_leading_slashes_stay_inside() {
    let scratch = Scratch::new(Driver::Overlay);
    let path = format!("{}/absolute", scratch.path().display());
    let image = scratch.image(&[Tar::new().file(&path, b"x").bytes()], "");
    assert!(!fs::exists(&path).unwrap());
    let inside = scratch.mounted(&image)[0].join(&path[1..]);
    assert_eq!(fs::read(inside).unwrap(), b"x");
}

#[test]
fn privileged_promises_about_a_layer_are_checked() {
    let scratch = Scratch::new(Driver::Overlay);
    let tar = Tar::new().file("a", b"x").bytes();
    let bytes = gzip(&tar);
    let (right, wrong) = (digest(&bytes), digest(b"other"));
    let size = bytes.len() as u64;
    let receive = |blob, size, diff_id| {
        let mut ingest = scratch.receive_layer(blob, size, diff_id).unwrap();
        ingest
            .receive(&bytes)
            .and_then(|()| ingest.commit().map(drop))
            .unwrap_err()
            .to_string()
    };
    let found = receive(Some(&wrong), Some(size), None);
    assert_eq!(found, format!("layer {wrong} has digest {right}"));
    let found = receive(Some(&right), Some(size - 1), None);
    assert_eq!(
        found,
        format!("layer {right} has {size} bytes instead of {}", size - 1)
    );
    let found = receive(Some(&right), Some(size + 1), None);
    assert_eq!(
        found,
        format!("layer {right} has {size} bytes instead of {}", size + 1)
    );
    let found = receive(Some(&right), None, Some(&wrong));
    assert_eq!(
        found,
        format!(
            "layer {right} unpacks to {}, but the image configuration says {wrong}",
            digest(&tar)
        )
    );
    assert!(scratch.names("ingest").is_empty() && scratch.names("blobs/sha256").is_empty());
}

/// A tree of the host is not reachable, whatever links say; what a link means inside the layer is.
#[test]
fn privileged_links_that_look_outside_stay_inside() {
    for driver in [Driver::Overlay, Driver::Erofs] {
        let scratch = Scratch::new(driver);
        let beside = scratch.path().join("beside");
        fs::create_dir(&beside).unwrap();
        let target = beside.to_str().unwrap();
        let tar = Tar::new()
            .directory(&target[1..], 0o755)
            .symlink("absolute", target)
            .symlink("up", &format!("../../../../../../..{target}"))
            .file("absolute/x", b"x")
            .file("up/y", b"y");
        let image = scratch.image(&[tar.bytes()], "");
        assert_eq!(fs::read_dir(&beside).unwrap().count(), 0);
        let inside = scratch.mounted(&image)[0].join(&target[1..]);
        assert_eq!(fs::read(inside.join("x")).unwrap(), b"x");
        assert_eq!(fs::read(inside.join("y")).unwrap(), b"y");
    }
}
