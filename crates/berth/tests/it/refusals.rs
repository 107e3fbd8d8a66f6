//! Images made to do harm, from registries that lie and from archives: each is refused in a
//! sentence, and nothing is left of it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::json;
use testkit::image::{Compression, Image, Layer, compress, gzip_best, sha256, tar};
use testkit::{Fault, FaultProxy, Registry};
use vocab::manifest::media_type;
use vocab::{Digest, Platform};

use crate::client::CLIENTS;
use crate::host::Host;
use crate::interrupted::check_accounts;

fn image() -> Image {
    let layer = (tar(&[("data", b"some")]), Compression::Gzip);
    Image::new(&[layer], &Platform::host())
}

fn image_of(layers: Vec<Layer>) -> Image {
    Image::with_config(layers, &Platform::host(), &json!({}))
}

/// Both command lines are told this, and nothing is there afterwards.
fn check_pull(host: &Host, name: &str, told: &str) {
    for client in CLIENTS {
        let said = client.run(host, &["pull", name]);
        let complaint = said.fails(1);
        assert!(complaint.contains(told), "{told}: {said:?}");
        // What an error leads back to is told once.
        assert_eq!(complaint.lines().count(), 1, "{said:?}");
        check_nothing(host);
    }
}

fn check_load(host: &Host, archive: &[u8], told: &str) {
    for client in CLIENTS {
        let said = client.feed(host, &["load"], archive);
        assert!(said.fails(1).contains(told), "{told}: {said:?}");
        check_nothing(host);
    }
}

/// No image, no blob, no layer, nothing that waits; and what is said to be there is all.
fn check_nothing(host: &Host) {
    check_accounts(host);
    let store = host.path().join("data/store");
    for below in [
        "blobs/sha256",
        "layers/erofs",
        "ingest",
        "partial",
        "records",
        "quarantine",
    ] {
        let left = entries(&store.join(below));
        assert!(left.is_empty(), "{below}: {left:?}");
    }
    assert_eq!(host.berth(&["images", "-aq"]).ok(), "");
}

fn entries(directory: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

/// 65 MiB of zeros, which is more than such bytes may become.
#[test]
fn privileged_bombs_are_refused() {
    let told = "unpacks to more than 67108864 bytes, refused as a decompression bomb";
    let (registry, host) = (Registry::start(), Host::empty());
    let zeros = tar(&[("zeros", &vec![0; 65 << 20])]);
    let mut gzip = Layer::new(b"", Compression::Gzip);
    gzip.blob = gzip_best(&zeros);
    gzip.digest = sha256(&gzip.blob);
    for (tag, layer) in [
        ("gzip", gzip),
        ("zstd", Layer::new(&zeros, Compression::Zstd)),
    ] {
        let image = image_of(vec![layer]);
        registry.push("app", tag, &image);
        let name = format!("{}/app:{tag}", registry.address());
        check_pull(&host, &name, told);
        check_load(&host, &image.docker_archive(&[&name]), told);
    }
}

/// More entries than a layer may have, which say nothing of what they are together.
#[test]
fn privileged_a_layer_of_more_than_a_million_entries_is_refused() {
    let told = "it has more than 1000000 entries";
    let (registry, host) = (Registry::start(), Host::empty());
    let block = tar(&[("./", b"")])[..512].to_vec();
    // Of many gzip members, as some writers make them.
    let blob = compress(&block.repeat(10_000), Compression::Gzip).repeat(101);
    let crowd = Layer {
        media_type: format!("{}+gzip", media_type::OCI_LAYER),
        digest: sha256(&blob),
        blob,
        // It is refused long before its digest is known.
        diff_id: sha256(b""),
    };
    let image = image_of(vec![crowd]);
    registry.push("app", "1", &image);
    let name = format!("{}/app:1", registry.address());
    let said = host.berth(&["pull", &name]);
    assert!(said.fails(1).contains(told), "{said:?}");
    check_nothing(&host);
}

/// Documents that contradict each other, from an honest registry and in archives.
#[test]
fn privileged_documents_that_contradict_each_other_are_refused() {
    let (registry, host) = (Registry::start(), Host::empty());
    let honest = image();
    let layer = honest.layers[0].clone();
    let other = sha256(b"other");
    // A configuration that names another layer, and one that names one layer too many.
    let mut wrong = layer.clone();
    wrong.diff_id = other.clone();
    let mut two = image_of(vec![layer.clone(), layer.clone()]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&two.manifest).unwrap();
    manifest["layers"].as_array_mut().unwrap().pop();
    two.manifest = serde_json::to_vec(&manifest).unwrap();
    two.layers.pop();
    // A manifest with another idea of how long the layer is.
    let mut short: serde_json::Value = serde_json::from_slice(&honest.manifest).unwrap();
    short["layers"][0]["size"] = json!(layer.blob.len() - 1);
    let short = short.to_string();
    let wrong = image_of(vec![wrong]);
    let unpacks = format!(
        "layer {} unpacks to {}, but the image configuration says {other}",
        layer.digest, layer.diff_id
    );
    for (tag, image, told) in [
        ("diff-id", &wrong, unpacks.as_str()),
        ("count", &two, "names 2 layers"),
    ] {
        registry.push("app", tag, image);
        let name = format!("{}/app:{tag}", registry.address());
        check_pull(&host, &name, told);
    }
    let archive = wrong.docker_archive(&["app:1"]);
    let told = format!("layer 0 is {}, and {other} is named", layer.diff_id);
    check_load(&host, &archive, &told);
    // The registry checks what it is given, so the lie is told on the way.
    registry.push("app", "size", &honest);
    let proxy = FaultProxy::start(registry.address(), move |asked| {
        match asked.path().contains("/manifests/") {
            true => document(media_type::OCI_MANIFEST, &short),
            false => Fault::None,
        }
    });
    let name = format!("{}/app:size", proxy.address());
    let told = format!("more than {} bytes", layer.blob.len() - 1);
    check_pull(&host, &name, &told);
}

/// An answer that is a document.
fn document(media_type: &str, body: &str) -> Fault {
    Fault::Answer {
        status: 200,
        headers: vec![("Content-Type", media_type.to_owned())],
        body: body.to_owned(),
    }
}

/// Registries that answer with one document whatever manifest they are asked for: nothing that
/// names itself by its digest can be, so it is noticed at once.
#[test]
fn privileged_indexes_that_lead_nowhere_are_refused() {
    let (registry, host) = (Registry::start(), Host::empty());
    let index = |of: &str, digest: &Digest, size: usize| {
        json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
            "manifests": [{
                "mediaType": of, "digest": digest, "size": size,
                "platform": Platform::host(),
            }],
        })
        .to_string()
    };
    let round = index(media_type::OCI_INDEX, &sha256(b"round"), 500);
    let proxy = FaultProxy::start(registry.address(), move |_| {
        document(media_type::OCI_INDEX, &round)
    });
    let name = format!("{}/app:1", proxy.address());
    let told = format!("sent something else than {}", sha256(b"round"));
    check_pull(&host, &name, &told);
    // And those that can be, an index in an index in an index …, end.
    let mut nested = image().manifest;
    registry.push("app", "1", &image());
    let mut of_type = media_type::OCI_MANIFEST;
    for depth in 0..6 {
        let digest = registry.push_manifest("app", &format!("deep{depth}"), of_type, &nested);
        nested = index(of_type, &digest, nested.len()).into_bytes();
        of_type = media_type::OCI_INDEX;
    }
    let name = |depth: u8| format!("{}/app:deep{depth}", registry.address());
    check_pull(&host, &name(5), "it holds indexes more than 3 deep");
    host.berth(&["pull", &name(3)]).ok();
}

#[test]
fn privileged_a_manifest_of_more_than_four_mebibytes_is_refused() {
    let (registry, host) = (Registry::start(), Host::empty());
    let proxy = FaultProxy::start(registry.address(), |_| {
        document(media_type::OCI_MANIFEST, &" ".repeat((4 << 20) + 1))
    });
    let name = format!("{}/app:1", proxy.address());
    check_pull(&host, &name, "more than 4194304 bytes");
}

/// A layer that is another one when the rest of it is asked for: whether the registry says so by
/// its ETag or not, it is the digest that tells.
#[test]
fn privileged_a_layer_that_changes_between_requests_is_refused() {
    let (registry, host) = (Registry::start(), Host::empty());
    let text = b"abcdefghij".repeat(1 << 21);
    let layer = (tar(&[("data", &text)]), Compression::Plain);
    let image = Image::new(&[layer], &Platform::host());
    registry.push("app", "1", &image);
    let layer = image.layers[0].clone();
    let told = format!("layer {0} has digest sha256:", layer.digest);
    // Other bytes that are a sound tar as well.
    let other = String::from_utf8(layer.blob.clone()).unwrap();
    let other = other.replace("ij", "XY");
    // So long a layer comes in segments; and a transfer that broke goes on where it ended.
    for is_cut in [false, true] {
        let (digest, other) = (layer.digest.clone(), other.clone());
        let proxy = FaultProxy::start(registry.address(), move |asked| {
            if !asked.is_blob(&digest) {
                return Fault::None;
            }
            match asked.before {
                0 if is_cut => Fault::CutAnswer(100_000),
                0..=2 if !is_cut => Fault::Header("etag", "\"one\"".to_owned()),
                _ => part_of(&other, &asked.headers["range"]),
            }
        });
        let name = format!("{}/app:1", proxy.address());
        check_pull(&host, &name, &told);
    }
    // The same bytes under another ETag each time are the same bytes.
    let proxy = FaultProxy::start(registry.address(), |asked| {
        Fault::Header("etag", format!("\"{}\"", asked.before))
    });
    let name = format!("{}/app:1", proxy.address());
    host.berth(&["pull", "-q", &name]).ok();
    host.berth(&["image", "verify", &name]).ok();
}

/// What another registry would answer to `bytes=5-9` or `bytes=5-`.
fn part_of(blob: &str, range: &str) -> Fault {
    let (from, to) = range["bytes=".len()..].split_once('-').unwrap();
    let from: usize = from.parse().unwrap();
    let last: usize = to.parse().unwrap_or(blob.len() - 1);
    Fault::Answer {
        status: 206,
        headers: vec![
            ("ETag", "\"another\"".to_owned()),
            (
                "Content-Range",
                format!("bytes {from}-{last}/{}", blob.len()),
            ),
        ],
        body: blob[from..=last].to_owned(),
    }
}

/// Labels, commands and environments are data: nothing of them is taken for an option.
#[test]
fn privileged_labels_that_look_like_options_are_labels() {
    let (registry, host) = (Registry::start(), Host::empty());
    let layer = Layer::new(&testkit::image::busybox_tar(), Compression::Gzip);
    let labels = json!({
        "--privileged": "true", "-v": "/:/host", "--": "", "=": "=", "a b": "$(id)\n--rm",
        "io.berth.privileged": "true", "com.docker.compose.project": "-p",
    });
    let config = json!({
        "Cmd": ["sh", "-c", "id -u"], "Env": ["PATH=/bin", "--privileged=true"], "Labels": labels,
    });
    let image = Image::with_config(vec![layer], &Platform::host(), &config);
    registry.push("app", "1", &image);
    let name = format!("{}/app:1", registry.address());
    for client in CLIENTS {
        client.run(&host, &["pull", "-q", &name]).ok();
        let shown = client.run(&host, &["inspect", "-f", "{{json .Config.Labels}}", &name]);
        let shown: serde_json::Value = serde_json::from_str(shown.ok()).unwrap();
        assert_eq!(shown, labels);
        for filter in ["label=--privileged=true", "label=-v=/:/host", "label=--"] {
            let found = client.run(&host, &["images", "-q", "--filter", filter]);
            assert_eq!(found.ok().lines().count(), 1, "{filter}");
        }
        let id = client.run(&host, &["create", "--network", "none", &name]);
        let id = id.ok().to_owned();
        let facts = "{{.HostConfig.Privileged}} {{.HostConfig.AutoRemove}} {{len .Mounts}} \
                     {{len .HostConfig.Binds}}";
        let facts = client.run(&host, &["inspect", "-f", facts, &id]);
        assert_eq!(facts.ok(), "false false 0 0");
        let shown = client.run(&host, &["inspect", "-f", "{{json .Config.Labels}}", &id]);
        let shown: serde_json::Value = serde_json::from_str(shown.ok()).unwrap();
        assert_eq!(shown, labels);
        client.run(&host, &["rm", &id]).ok();
        client.run(&host, &["rmi", &name]).ok();
        check_nothing(&host);
    }
}
