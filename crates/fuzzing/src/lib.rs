//! What is done with strangers' bytes to see whether it breaks: one function for each kind.
//!
//! Each takes any bytes, and panics if berth would: on a panic inside, or where a promise does not
//! hold (what was printed is read back as the same, what is refused says why). Two callers:
//!
//! - `fuzz/`, a workspace of its own for `cargo fuzz`, which needs a nightly compiler. `cargo fuzz
//!   run config` and so on; where only the stable toolchain is, `RUSTC_BOOTSTRAP=1` before it.
//! - the tests here, with the stable toolchain: every file of `fuzz/corpus/<target>/`, and some
//!   thousand [`mutate`]d ones, the same each time.
//!
//! What once broke something is a file of the corpus for good.

pub mod mutate;

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;

use network::dns::{self, Lookup, Verdict};
use runc::state::Record;
use runtime::{Bundle, CreateError, Rootfs};
use serde_json::Value;
use vocab::image::ImageConfig;
use vocab::manifest::{Index, Manifest};
use vocab::{Platform, Reference};

/// A target: its name, which is also that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 7] = [
    ("authenticate", authenticate),
    ("config", config),
    ("erofs", erofs),
    ("manifest", manifest),
    ("names", names),
    ("reference", reference),
    ("state", state),
];

/// `config.json`, or the parts of it that `exec` and `update` take.
///
/// # Panics
/// If what was read cannot be read again, or a refusal names no place.
pub fn config(bytes: &[u8]) {
    match runtime::config::spec(bytes) {
        Ok(read) => {
            let written = serde_json::to_vec(&read.value).expect("a specification is JSON");
            let again = runtime::config::spec(&written).expect("what was read can be read again");
            assert!(again.value == read.value, "it is read back as the same");
            let bundle = Bundle {
                id: String::from("fuzz"),
                directory: PathBuf::from("/bundle"),
                spec: read.value,
                rootfs: Rootfs::Directory(PathBuf::from("/bundle/rootfs")),
                seccomp: None,
                extras: runtime::Extras::default(),
            };
            if let Err(error) = runtime::check(&bundle) {
                named(&error);
            }
        }
        Err(error) => named(&error),
    }
    for error in [
        runtime::config::process(bytes).err(),
        runtime::config::resources(bytes).err(),
    ]
    .iter()
    .flatten()
    {
        named(error);
    }
}

/// A refusal says where and why.
fn named(error: &CreateError) {
    if let CreateError::Invalid { path, reason } = error {
        assert!(!path.is_empty() && !reason.is_empty(), "{error:?}");
    }
}

/// The state of a container, as it is told and as it is kept.
///
/// # Panics
/// If what was read is written as something else.
pub fn state(bytes: &[u8]) {
    if let Ok(state) = serde_json::from_slice::<runtime::State>(bytes) {
        let written = serde_json::to_vec(&state).expect("a state is JSON");
        let again: runtime::State = serde_json::from_slice(&written).expect("it is read again");
        assert!(again == state, "it is read back as the same");
    }
    if let Ok(record) = Record::read(bytes) {
        let written = serde_json::to_vec(&record).expect("a record is JSON");
        let again = Record::read(&written).expect("it is read again");
        assert!(again == record, "it is read back as the same");
    }
}

/// A layer's tar becomes an EROFS image, or is refused.
///
/// # Panics
/// If two indexings of one tar differ, or an image is no EROFS.
pub fn erofs(bytes: &[u8]) {
    /// Where EROFS has its superblock, and how that begins.
    const SUPERBLOCK: usize = 1024;
    const MAGIC: [u8; 4] = 0xE0F5_E1E2_u32.to_le_bytes();

    let mut tar: File = tempfile::tempfile().expect("a file can be made");
    tar.write_all(bytes).expect("a file can be written");
    if let Ok(image) = store::erofs::index(&tar) {
        let magic = image.get(SUPERBLOCK..SUPERBLOCK + MAGIC.len());
        assert!(magic == Some(&MAGIC[..]), "the image has a superblock");
        let again = store::erofs::index(&tar);
        assert!(again.is_ok_and(|again| again == image), "always the same");
        let scratch = tempfile::tempdir().expect("a directory can be made");
        let mut frugal: File = tempfile::tempfile().expect("a file can be made");
        store::erofs::index_frugally(&tar, scratch.path(), &mut frugal).expect("it has an index");
        frugal.rewind().expect("a file can be read");
        let mut again = Vec::new();
        frugal.read_to_end(&mut again).expect("a file can be read");
        assert!(again == image, "the same with little memory");
    }
}

/// Manifests, indexes and image configurations.
///
/// # Panics
/// If what was read is written as something else.
pub fn manifest(bytes: &[u8]) {
    again::<Manifest>(bytes);
    again::<ImageConfig>(bytes);
    if let Some(index) = again::<Index>(bytes) {
        let _ = index.find_best(&Platform::host());
    }
    // Any manifest with any configuration: half of the bytes for each.
    let halves = bytes.split_at(bytes.len() / 2);
    let name: Reference = "fuzz".parse().expect("a name");
    for (manifest, config) in [(bytes, bytes), halves] {
        registry::client::strangers::image("", manifest, config, &name);
    }
}

fn again<T: serde::de::DeserializeOwned + serde::Serialize>(bytes: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(bytes).ok()?;
    let written: Value = serde_json::to_value(&read).expect("a document is JSON");
    let again: T = serde_json::from_value(written.clone()).expect("it is read again");
    let twice = serde_json::to_value(&again).expect("a document is JSON");
    assert!(twice == written, "it is read back as the same");
    Some(read)
}

/// Names of images.
///
/// # Panics
/// If a name is printed as another one.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(name) = text.parse::<Reference>() {
        for printed in [name.to_string(), name.familiar()] {
            let again = printed.parse::<Reference>();
            assert!(
                again.as_ref() == Ok(&name),
                "{printed:?} is {name:?}, not {again:?}"
            );
        }
    }
}

/// Questions for names, and what name servers say to them: half of the bytes for each.
///
/// # Panics
/// If a reply is larger than who asks takes, or is not the reply to what was asked.
pub fn names(bytes: &[u8]) {
    /// Two containers of a network, of which one has three addresses.
    struct Known;

    impl Lookup for Known {
        fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
            let known = |last| IpAddr::from([10, 0, 0, last]);
            match name {
                "a" => Some(vec![known(2)]),
                "b.c" => Some(vec![known(3), known(4), known(5)]),
                _ => None,
            }
        }

        fn name(&self, address: IpAddr) -> Option<String> {
            (address == IpAddr::from([10, 0, 0, 2])).then(|| "a.c".to_owned())
        }

        fn has_way_out(&self) -> bool {
            true
        }
    }

    for datagram in [true, false] {
        if let Verdict::Reply(reply) = dns::judge(bytes, &Known, datagram, true) {
            assert!(
                reply.get(..2) == bytes.get(..2),
                "it has the query's number"
            );
            assert!(
                reply.len() <= if datagram { 1232 } else { 65_535 },
                "it fits"
            );
        }
    }
    let (query, reply) = bytes.split_at(bytes.len() / 2);
    if let Some(retold) = dns::retold(query, reply) {
        assert!(
            retold.get(..2) == query.get(..2),
            "it has the query's number"
        );
    }
    dns::retold(bytes, bytes);
}

/// `WWW-Authenticate` of a registry.
///
/// # Panics
/// If a header makes more challenges than are looked at.
pub fn authenticate(bytes: &[u8]) {
    assert!(registry::client::strangers::challenges(bytes) <= 16);
}
