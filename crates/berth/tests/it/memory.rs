//! The daemon in a room of 64 MiB: whatever it pulls, it never needs more. Pages of files count there
//! too, but make way; what the daemon itself holds does not, and one that wants more is killed.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use testkit::image::{Compression, Image, Layer, sha256, tar};
use testkit::{Chance, Registry};
use vocab::Platform;

use crate::host::{Host, scratch};

const LIMIT_BYTES: usize = 64 << 20;

/// A cgroup with little memory, gone with its value.
struct Room(PathBuf);

impl Room {
    fn new(root: &Path) -> Self {
        let name = root.file_name().unwrap().to_str().unwrap();
        let (top, file) = match PathBuf::from("/sys/fs/cgroup/memory") {
            version_1 if version_1.join("cgroup.procs").exists() => {
                (version_1, "memory.limit_in_bytes")
            }
            _ => (PathBuf::from("/sys/fs/cgroup"), "memory.max"),
        };
        let room = Self(top.join(format!("berth-room-{name}")));
        fs::create_dir(&room.0).unwrap();
        fs::write(room.0.join(file), LIMIT_BYTES.to_string()).unwrap();
        room
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // The daemon has ended, and so has everything that it started.
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// Layers of so many empty files each, with names of some length.
fn many(layers: usize, files: usize) -> Vec<Vec<u8>> {
    let layer = |layer: usize| {
        let name = |file: usize| {
            let directory = file / 1000;
            format!("layer{layer}/directory{directory:060}/file{file:07}")
        };
        let names: Vec<String> = (0..files).map(name).collect();
        let files: Vec<(&str, &[u8])> =
            names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        tar(&files)
    };
    (0..layers).map(layer).collect()
}

/// Layers of one file each, of so many bytes that do not compress.
fn large(layers: usize, bytes: usize) -> Vec<Vec<u8>> {
    let mut chance = Chance::new(7);
    let noise: Vec<u8> = (0..1 << 18)
        .flat_map(|_| chance.below(1 << 24).to_le_bytes().into_iter().take(4))
        .collect();
    let content = noise.repeat(bytes.div_ceil(noise.len()));
    (0..layers)
        .map(|layer| tar(&[(&format!("file{layer}"), &content[..bytes])]))
        .collect()
}

fn check(tars: Vec<Vec<u8>>, how: Compression) {
    let layers: Vec<_> = tars.into_iter().map(|tar| (tar, how)).collect();
    check_image(&Image::new(&layers, &Platform::host()));
}

fn check_image(image: &Image) {
    let registry = Registry::start();
    registry.push("app", "1", image);
    let root = scratch();
    let room = Room::new(root.path());
    let mut host = Host::on(root, &[]);
    host.restart_in(&room.0);
    let name = format!("{}/app:1", registry.address());
    host.berth(&["pull", "-q", &name]).ok();
    host.berth(&["image", "verify", &name]).ok();
}

#[test]
fn privileged_a_layer_of_many_files_is_pulled_in_little_memory() {
    check(many(1, 150_000), Compression::Plain);
}

#[test]
fn privileged_layers_of_many_files_are_pulled_at_once_in_little_memory() {
    check(many(4, 50_000), Compression::Gzip);
}

#[test]
fn privileged_a_large_layer_is_pulled_in_little_memory() {
    check(large(1, 200 << 20), Compression::Plain);
}

#[test]
fn privileged_many_layers_are_pulled_in_little_memory() {
    check(large(20, 5 << 20), Compression::Gzip);
}

/// Layers that zstd made with a window of so many bits.
fn wide(layers: usize, log: u32) -> Image {
    let compress = |tar: Vec<u8>| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&tar).unwrap();
        let mut layer = Layer::new(&tar, Compression::Zstd);
        layer.blob = encoder.finish().unwrap();
        layer.digest = sha256(&layer.blob);
        layer
    };
    let layers = large(layers, 80 << 20).into_iter().map(compress).collect();
    Image::with_config(layers, &Platform::host(), &serde_json::Value::Null)
}

#[test]
fn privileged_zstd_layers_of_wide_windows_are_pulled_in_little_memory() {
    check_image(&wide(3, 25));
}

#[test]
fn privileged_a_zstd_layer_of_too_wide_a_window_is_refused_with_the_reason() {
    let registry = Registry::start();
    registry.push("app", "1", &wide(1, 27));
    let host = Host::empty();
    let said = host.berth(&["pull", &format!("{}/app:1", registry.address())]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.stderr
            .contains("a window of 128 MiB, more than the 32 MiB"),
        "{said:?}"
    );
}
