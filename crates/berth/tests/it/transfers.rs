//! What travels through the daemon: each byte once, across reboots.

use std::fs;

use testkit::image::{Compression, Image, tar};
use testkit::{Chance, Disk, Fault, FaultProxy, Registry};
use vocab::{Digest, Platform};

use crate::client::{CLIENTS, Client};
use crate::host::{Host, scratch};

/// Bytes that do not compress.
fn noise(count: usize) -> Vec<u8> {
    let mut chance = Chance::new(1);
    let words =
        (0..count / 3).flat_map(|_| chance.below(1 << 24).to_le_bytes().into_iter().take(3));
    words.collect()
}

fn image(bytes: usize) -> Image {
    let layer = (tar(&[("data", &noise(bytes))]), Compression::Plain);
    Image::new(&[layer], &Platform::host())
}

/// How many bytes of a blob were asked for, as the ranges say.
fn asked_bytes(proxy: &FaultProxy, blob: &Digest, size: usize) -> usize {
    let asked = proxy.asked();
    let of_blob = asked.iter().filter(|asked| asked.is_blob(blob));
    let bytes = of_blob.map(|asked| {
        let Some(range) = asked.headers.get("range") else {
            return size;
        };
        let (from, to) = range
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        let to = to.parse::<usize>().map_or(size, |last| last + 1);
        to - from.parse::<usize>().unwrap()
    });
    bytes.sum()
}

#[test]
fn privileged_what_several_pull_at_once_is_fetched_once() {
    let image = image(24 << 20);
    let (registry, host) = (Registry::start(), Host::empty());
    registry.push("app", "1", &image);
    let blob = &image.layers[0].digest;
    let proxy = FaultProxy::start(registry.address(), |_| Fault::None);
    let name = format!("{}/app:1", proxy.address());
    let pulls = [Client::Docker, Client::Berth, Client::Docker]
        .map(|client| client.spawn(&host, &["pull", &name]));
    for pull in pulls {
        let output = pull.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let size = image.layers[0].blob.len();
    assert_eq!(asked_bytes(&proxy, blob, size), size);
    // So long a layer comes in several ranges.
    assert!(proxy.count(|asked| asked.is_blob(blob)) > 4);
}

#[test]
fn privileged_a_registry_that_is_busy_is_asked_again_when_it_says() {
    let image = image(100_000);
    let registry = Registry::start();
    registry.push("app", "1", &image);
    let blob = image.layers[0].digest.clone();
    for client in CLIENTS {
        let busy = blob.clone();
        let proxy = FaultProxy::start(registry.address(), move |asked| {
            if !asked.is_blob(&busy) || asked.before > 0 {
                return Fault::None;
            }
            Fault::Answer {
                status: 429,
                headers: vec![("Retry-After", "1".to_owned())],
                body: String::new(),
            }
        });
        let host = Host::empty();
        let name = format!("{}/app:1", proxy.address());
        let said = client.run(&host, &["pull", &name]);
        assert!(said.ok().contains("Retrying in 1 second"), "{said:?}");
        assert_eq!(proxy.count(|asked| asked.is_blob(&blob)), 2);
    }
}

#[test]
fn privileged_a_pull_goes_on_after_a_reboot() {
    let image = image(4_000_000);
    let registry = Registry::start();
    registry.push("app", "1", &image);
    let (blob, size) = (&image.layers[0].digest, image.layers[0].blob.len());
    let half = size / 2;
    let stalled = blob.clone();
    let proxy = FaultProxy::start(registry.address(), move |asked| {
        match asked.is_blob(&stalled) && asked.before == 0 {
            true => Fault::StallAnswer(half),
            false => Fault::None,
        }
    });
    let root = scratch();
    let mut disk = Disk::new(
        &root.path().join("disk"),
        &root.path().join("data"),
        40,
        "commit=1",
    );
    let mut host = Host::on(root, &[]);
    let name = format!("{}/app:1", proxy.address());
    let mut pull = Client::Docker.spawn(&host, &["pull", &name]);
    let partial = format!("data/store/partial/sha256-{}", blob.hex());
    let partial = host.path().join(partial);
    let came = || fs::metadata(&partial).map_or(0, |found| found.len());
    host.wait_until("half of the layer is there", || came() == half as u64);
    host.kill_daemon();
    pull.wait().unwrap();
    // What a host does on its way down and up.
    let data = fs::File::open(host.path().join("data")).unwrap();
    rustix::fs::syncfs(&data).unwrap();
    drop(data);
    disk.restore();
    fs::remove_dir_all(host.path().join("run")).unwrap();
    host.start();
    let said = host.docker(&["pull", &name]);
    assert!(said.ok().contains("Downloaded newer image"), "{said:?}");
    // The stalled request was for everything.
    assert_eq!(asked_bytes(&proxy, blob, size), size + size - half);
    host.berth(&["image", "verify", &name]).ok();
}
