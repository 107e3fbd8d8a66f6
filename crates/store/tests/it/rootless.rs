//! An ordinary user's store: in a user namespace, with the overlay driver.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use store::{Driver, Options, Store};
use tar::EntryType;
use vocab::ContainerId;

use crate::scratch::{Merged, Scratch, Tar};

/// Names the directory of the user's, for the test that is run inside.
const PLACE: &str = "BERTH_TEST_ROOTLESS";
/// The user, whom no machine has.
const USER: &str = "1660000001";

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test that runs itself as somebody else"
)]
fn privileged_an_ordinary_user_has_layers_in_a_user_namespace() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    // Where the tests lie may be closed to others.
    let program = path.join("suite");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for open in [path, &program] {
        fs::set_permissions(open, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let own = path.join("own");
    fs::create_dir(&own).unwrap();
    let id = USER.parse().unwrap();
    std::os::unix::fs::chown(&own, Some(id), Some(id)).unwrap();
    let output = std::process::Command::new("setpriv")
        .args([
            "--reuid",
            USER,
            "--regid",
            USER,
            "--clear-groups",
            "unshare",
        ])
        .args(["--user", "--map-root-user", "--mount"])
        .arg(&program)
        .args(["--ignored", "--exact", "rootless::inside", "--nocapture"])
        .env(PLACE, &own)
        .env("TMPDIR", &own)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[test]
#[ignore = "is run by the test above, as a user"]
fn inside() {
    let place = std::env::var_os(PLACE).unwrap();
    let place = Path::new(&place);
    // Nothing is mounted from a file by a user, so the driver is the other one by itself.
    let open = |name: &str| {
        Store::open(&place.join(name), &place.join("run"), &Options::default()).unwrap()
    };
    assert_eq!(open("chosen").driver(), Driver::Overlay);

    let scratch = Scratch::new(Driver::Overlay);
    let own = |header: &mut tar::Header| {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    };
    let lower = Tar::new()
        .directory("etc", 0o755)
        .file("etc/kept", b"1")
        .file("etc/gone", b"1")
        .file("swept/old", b"1")
        .file("set", b"1")
        .entry("null", EntryType::Char, b"", &[], own)
        .entry(
            "attributes",
            EntryType::Regular,
            b"x",
            &[("SCHILY.xattr.user.note", b"n")],
            |header| {
                header.set_mode(0o4755);
            },
        );
    let upper = Tar::new()
        .file("etc/.wh.gone", b"")
        .file("swept/.wh..wh..opq", b"")
        .file("swept/new", b"2")
        .file("young/.wh.never", b"");
    let image = scratch.image(&[lower.bytes(), upper.bytes()], "of-a-user");
    let owner = ContainerId::random();
    scratch.create_snapshot(&owner, &image).unwrap();
    let mounts = scratch.mount_snapshot(&owner).unwrap();
    assert!(mounts.as_user);
    let names = |path: &Path| {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let merged = Merged::writable(&mounts);
    let root = merged.path();
    assert_eq!(names(&root.join("etc")), ["kept"]);
    assert_eq!(names(&root.join("swept")), ["new"]);
    assert!(names(&root.join("young")).is_empty());
    // Devices are left to whoever starts a container.
    assert_eq!(names(&root), ["attributes", "etc", "set", "swept", "young"]);
    let mode = fs::metadata(root.join("attributes"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o4755);
    let mut note = [0; 8];
    let length =
        rustix::fs::lgetxattr(root.join("attributes"), "user.note", &mut note[..]).unwrap();
    assert_eq!(note[..length], *b"n");
    // What the container does becomes a layer as well.
    fs::remove_file(root.join("etc/kept")).unwrap();
    fs::remove_dir_all(root.join("swept")).unwrap();
    fs::create_dir(root.join("swept")).unwrap();
    fs::write(root.join("swept/last"), b"3").unwrap();
    drop(merged);
    let layer = scratch.commit_snapshot(&owner, None).unwrap();
    let base = scratch
        .find_image("of-a-user")
        .unwrap()
        .config
        .rootfs
        .diff_ids;
    let mut layers: Vec<_> = base
        .iter()
        .map(|diff_id| scratch.find_layer(diff_id).unwrap().unwrap())
        .collect();
    layers.push(layer);
    let image = scratch.image_of(&layers);
    scratch.release_snapshot(&owner).unwrap();
    scratch.remove_snapshot(&owner).unwrap();
    scratch.create_snapshot(&owner, &image).unwrap();
    let mounts = scratch.mount_snapshot(&owner).unwrap();
    let merged = Merged::writable(&mounts);
    assert!(names(&merged.path().join("etc")).is_empty());
    assert_eq!(names(&merged.path().join("swept")), ["last"]);
}
