//! The daemon is killed, or the host loses power, in the middle of pulls, loads, removals and
//! collections. Afterwards, without anybody's help, every image that was acknowledged is whole,
//! nothing is half visible, and every byte on the disk is accounted for.
//!
//! The seeds choose what is done and for how long, not where that ends up: the instants differ from
//! run to run, and what is demanded holds at all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::image::{Compression, Image, Layer, tar};
use testkit::{Chance, Disk, Registry};
use vocab::Platform;

use crate::host::{Host, scratch};

/// How many work at once, each on images of its own that share layers with those of the others.
const WORKERS: usize = 2;
/// Images of each worker.
const IMAGES: u64 = 3;

/// Bytes that do not compress.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut chance = Chance::new(seed);
    let byte = |_| u8::try_from(chance.below(256)).unwrap();
    (0..count).map(byte).collect()
}

/// An image that a worker brings and removes.
struct Sample {
    name: String,
    tag: String,
    id: String,
    archive: Vec<u8>,
}

impl Sample {
    /// One layer is everybody's, one the worker's, one the image's.
    fn all(registry: &Registry, worker: usize) -> Vec<Self> {
        let layer = |seed, bytes, how| Layer::new(&tar(&[("data", &noise(seed, bytes))]), how);
        let owner = worker as u64 + 1;
        let sample = |number: u64| {
            let layers = vec![
                layer(0, 300_000, Compression::Gzip),
                layer(owner, 100_000, Compression::Zstd),
                layer(owner * 100 + number, 40_000, Compression::Plain),
            ];
            let config = json!({ "Labels": { "owner": worker.to_string() } });
            let image = Image::with_config(layers, &Platform::host(), &config);
            let tag = format!("{worker}-{number}");
            registry.push("app", &tag, &image);
            let name = format!("{}/app:{tag}", registry.address());
            Self {
                archive: image.docker_archive(&[&name]),
                id: image.id().to_string(),
                name,
                tag,
            }
        };
        (0..IMAGES).map(sample).collect()
    }
}

/// What is known of an image by what the daemon answered.
enum Said {
    /// It is there, acknowledged.
    In(String),
    /// It is being removed, or may be.
    Out(String),
}

/// One exchange on the daemon's socket: the status and the body.
pub(crate) fn exchange(socket: &Path, line: &str, body: &[u8]) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    let length = body.len();
    let kind = match body.first() {
        Some(b'{') => "application/json",
        _ => "application/x-tar",
    };
    let head = format!(
        "{line} HTTP/1.0\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((status.unwrap_or(0), body.to_owned()))
}

/// Brings, removes and collects until the daemon is gone.
fn work(
    socket: &Path,
    registry: &str,
    samples: &[Sample],
    worker: usize,
    mut chance: Chance,
    tell: &mpsc::Sender<Said>,
) -> io::Result<()> {
    loop {
        let sample = &samples[usize::try_from(chance.below(IMAGES)).unwrap()];
        let name = &sample.name;
        let acknowledged = match chance.below(8) {
            0..=2 => {
                let tag = &sample.tag;
                let line = format!("POST /images/create?fromImage={registry}/app&tag={tag}");
                let (status, said) = exchange(socket, &line, b"")?;
                // The last line of a pull; without it the answer was cut off.
                status == 200 && said.contains(r#""status":"Status: "#)
            }
            3..=4 => {
                let (status, said) = exchange(socket, "POST /images/load", &sample.archive)?;
                status == 200 && said.contains("Loaded image")
            }
            5..=6 => {
                tell.send(Said::Out(name.clone())).unwrap();
                exchange(socket, &format!("DELETE /images/{name}"), b"")?;
                false
            }
            _ => {
                for sample in samples {
                    tell.send(Said::Out(sample.name.clone())).unwrap();
                }
                let filters = format!(
                    "%7B%22dangling%22:[%22false%22],%22label%22:[%22owner={worker}%22]%7D"
                );
                exchange(
                    socket,
                    &format!("POST /images/prune?filters={filters}"),
                    b"",
                )?;
                false
            }
        };
        if acknowledged {
            tell.send(Said::In(name.clone())).unwrap();
        }
    }
}

/// What ends the daemon.
enum End {
    Kill,
    PowerCut(Disk),
}

struct Trial {
    host: Host,
    end: End,
    registry: Registry,
    samples: Vec<Vec<Sample>>,
    /// Names that were acknowledged and not asked to go since.
    promised: BTreeSet<String>,
    chance: Chance,
}

impl Trial {
    fn new(seed: u64, flags: &[&str], end: impl FnOnce(&Path) -> End) -> Self {
        let root = scratch();
        let end = end(root.path());
        let registry = Registry::start();
        let samples = (0..WORKERS).map(|worker| Sample::all(&registry, worker));
        let samples = samples.collect();
        Self {
            host: Host::on(root, flags),
            end,
            registry,
            samples,
            promised: BTreeSet::new(),
            chance: Chance::new(seed),
        }
    }

    /// Lets the workers work, and ends the daemon in the middle of it.
    fn interrupt(&mut self) {
        let socket = self.host.socket();
        let address = self.registry.address().to_owned();
        let (tell, said) = mpsc::channel();
        let answers = 1 + self.chance.below(6);
        let moment = Duration::from_micros(self.chance.below(12_000));
        std::thread::scope(|scope| {
            for (worker, samples) in self.samples.iter().enumerate() {
                let chance = Chance::new(self.chance.below(u64::MAX));
                let (socket, address, tell) = (&socket, &address, tell.clone());
                scope.spawn(move || {
                    work(socket, address, samples, worker, chance, &tell).unwrap_err();
                });
            }
            drop(tell);
            let mut settle = |said| match said {
                Said::In(name) => drop(self.promised.insert(name)),
                Said::Out(name) => drop(self.promised.remove(&name)),
            };
            for _ in 0..answers {
                settle(said.recv().unwrap());
            }
            // Into the middle of what follows.
            std::thread::park_timeout(moment);
            if let End::PowerCut(disk) = &self.end {
                disk.cut();
            }
            self.host.kill_daemon();
            // They end when nobody answers.
            said.iter().for_each(settle);
        });
        if let End::PowerCut(disk) = &mut self.end {
            disk.restore();
            // It is of a tmpfs where it counts.
            fs::remove_dir_all(self.host.path().join("run")).unwrap();
        }
        self.host.start();
    }

    fn ask(&self, line: &str) -> Value {
        ask(&self.host, line)
    }

    fn check(&mut self) {
        let listed = self.ask("GET /images/json?all=1");
        let mut there = BTreeMap::new();
        for image in listed.as_array().unwrap() {
            let id = image["Id"].as_str().unwrap();
            for tag in image["RepoTags"].as_array().unwrap() {
                there.insert(tag.as_str().unwrap().to_owned(), id.to_owned());
            }
            // Whole, whether it was acknowledged or not.
            let verified = self.ask(&format!("POST /images/{id}/verify"));
            assert_eq!(verified["Damage"], json!([]), "{verified:#}");
            assert!(verified["Bytes"].as_i64() > Some(400_000), "{verified:#}");
        }
        for name in &self.promised {
            assert!(there.contains_key(name), "{name} is gone: {there:#?}");
        }
        for sample in self.samples.iter().flatten() {
            if let Some(id) = there.get(&sample.name) {
                assert_eq!(*id, sample.id);
            }
        }
        self.promised = there.into_keys().collect();
        let data = self.host.path().join("data");
        check_accounts(&self.host);
        let names = |below: &str| names(&data.join("store").join(below));
        assert_eq!(names("ingest"), BTreeSet::new());
        assert_eq!(names("quarantine"), BTreeSet::new());
    }

    fn run(mut self, times: usize) {
        for _ in 0..times {
            self.interrupt();
            self.check();
        }
        // Nothing is left of what is removed.
        for name in &self.promised {
            self.host.berth(&["rmi", "-f", name]).ok();
        }
        self.ask("POST /images/prune?filters=%7B%22dangling%22:[%22false%22]%7D");
        self.ask("GET /system/df");
        let store = self.host.path().join("data/store");
        assert_eq!(names(&store.join("blobs/sha256")), BTreeSet::new());
        for driver in ["layers/erofs", "layers/overlay"] {
            if store.join(driver).exists() {
                assert_eq!(names(&store.join(driver)), BTreeSet::new());
            }
        }
    }
}

fn ask(host: &Host, line: &str) -> Value {
    let (status, body) = exchange(&host.socket(), line, b"").unwrap();
    assert_eq!(status, 200, "{line}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// What the daemon says that it occupies is what is there.
pub(crate) fn check_accounts(host: &Host) {
    let usage = ask(host, "GET /system/df?data-root=1");
    let parts = usage["DataRoot"].as_object().unwrap().values();
    let told: i64 = parts.map(|bytes| bytes.as_i64().unwrap()).sum();
    let there = i64::try_from(store_bytes(&host.path().join("data"))).unwrap();
    let far = (told - there).abs();
    assert!(
        far * 100 <= there,
        "told {told}, there are {there}: {usage:#}"
    );
}

pub(crate) fn names(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// What `du` counts.
fn store_bytes(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let found = fs::symlink_metadata(root).unwrap();
    let mut bytes = found.blocks() * 512;
    if found.is_dir() {
        for entry in fs::read_dir(root).unwrap() {
            bytes += store_bytes(&entry.unwrap().path());
        }
    }
    bytes
}

/// 200 instants and more, in portions that run side by side.
macro_rules! killed {
    ($($name:ident: $seed:literal, $times:literal, $flags:expr;)*) => {
        $(#[test] fn $name() { Trial::new($seed, $flags, |_| End::Kill).run($times); })*
    };
}

killed! {
    privileged_a_killed_daemon_keeps_what_it_acknowledged: 1, 45, &[];
    privileged_a_killed_daemon_keeps_what_it_acknowledged_another_time: 2, 45, &[];
    privileged_a_killed_daemon_keeps_what_it_acknowledged_a_third_time: 3, 45, &[];
    privileged_a_killed_daemon_keeps_what_it_acknowledged_a_fourth_time: 4, 45, &[];
    privileged_a_killed_daemon_keeps_what_it_acknowledged_with_overlay: 5, 40, &["--storage-driver", "overlay2"];
}

/// Dozens of instants on a disk of its own. With `nodelalloc,data=writeback` files that were not
/// waited for have their length and not their bytes, as on other file systems.
macro_rules! power_cut {
    ($($name:ident: $seed:literal, $times:literal, $options:literal, $flags:expr;)*) => {
        $(#[test] fn $name() {
            let disk = |root: &Path| {
                End::PowerCut(Disk::new(&root.join("disk"), &root.join("data"), 40, $options))
            };
            Trial::new($seed, $flags, disk).run($times);
        })*
    };
}

power_cut! {
    privileged_a_power_cut_takes_nothing_that_was_acknowledged: 6, 24, "commit=1", &[];
    privileged_a_power_cut_takes_nothing_that_was_acknowledged_where_lengths_lie: 7, 24, "commit=1,nodelalloc,data=writeback", &[];
    privileged_a_power_cut_takes_nothing_that_was_acknowledged_with_overlay: 8, 16, "commit=1", &["--storage-driver", "overlay2"];
}
