//! Content that is addressed by SHA-512: taken in, found, verified, saved and loaded like any other.

use std::fs;
use std::os::unix::fs::FileExt;

use store::{Document, Driver, NewImage};

use crate::scratch::{Scratch, Tar, config, digest, digest512, gzip, noise, reference};

#[test]
fn privileged_a_blob_of_sha512_comes_in_pieces_and_is_verified() {
    let scratch = Scratch::new(Driver::Overlay);
    let bytes = noise(100_000);
    let blob = digest512(&bytes);
    let size = bytes.len() as u64;
    let mut ingest = scratch.resume(&blob, size).unwrap();
    ingest.receive(&bytes[..60_000]).unwrap();
    drop(ingest);
    let mut ingest = scratch.resume(&blob, size).unwrap();
    assert_eq!(ingest.received_bytes(), 60_000);
    ingest.receive(&bytes[60_000..]).unwrap();
    assert_eq!(ingest.commit().unwrap(), blob);
    assert!(scratch.find_blob(&blob).unwrap().is_some());
    assert_eq!(scratch.names("blobs/sha512"), [blob.hex()]);
    let mut wrong = scratch.ingest(&digest512(b"other"), None).unwrap();
    wrong.receive(&bytes).unwrap();
    let error = wrong.commit().unwrap_err().to_string();
    assert_eq!(
        error,
        format!("blob {} has digest {blob}", digest512(b"other"))
    );
    // Nothing needs it.
    assert_eq!(scratch.collect().unwrap(), size);
    assert!(scratch.names("blobs/sha512").is_empty());
}

#[test]
fn privileged_layers_of_sha512_make_an_image_that_travels() {
    for driver in [Driver::Overlay, Driver::Erofs] {
        let mut scratch = Scratch::new(driver);
        let plain = Tar::new().file("plain", &noise(5000)).bytes();
        let tar = Tar::new().file("packed", &noise(50_000)).bytes();
        let packed = gzip(&tar);
        let mut layers = Vec::new();
        for (bytes, diff_id) in [(&plain, digest512(&plain)), (&packed, digest512(&tar))] {
            let blob = digest512(bytes);
            let receive = |diff_id: &vocab::Digest| {
                let mut ingest = scratch
                    .receive_layer(Some(&blob), None, Some(diff_id))
                    .unwrap();
                ingest.receive(bytes).unwrap();
                ingest.commit()
            };
            let error = receive(&digest512(b"other")).unwrap_err().to_string();
            assert!(
                error.contains(&format!("unpacks to {diff_id}, but")),
                "{error}"
            );
            let layer = receive(&diff_id).unwrap();
            assert_eq!((layer.diff_id(), &layer.blob().digest), (&diff_id, &blob));
            layers.push(layer);
        }
        let config = config(&layers);
        let forms: Vec<_> = layers
            .iter()
            .map(|layer| serde_json::json!({ "mediaType": layer.blob().media_type, "digest": layer.blob().digest, "size": layer.blob().size_bytes }))
            .collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type, "layers": forms,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len() },
        });
        let bytes = manifest.to_string().into_bytes();
        let by_digest = format!("repository@{}", digest512(&bytes));
        let manifest = Document { media_type, bytes };
        let image = NewImage {
            config,
            manifest: Some(manifest.clone()),
            layers,
            names: vec![reference("strong"), by_digest.parse().unwrap()],
            ..NewImage::default()
        };
        let id = scratch.put_image(image).unwrap();
        // As after a pull by digest.
        assert_eq!(scratch.find_image(&by_digest).unwrap().id, id);
        let lower = scratch.mounted(&id);
        assert_eq!(fs::read(lower[0].join("packed")).unwrap(), noise(50_000));
        assert_eq!(fs::read(lower[1].join("plain")).unwrap(), noise(5000));
        let image = scratch.find_image("strong").unwrap();
        assert_eq!(scratch.verify(&image).unwrap().damage, []);
        let mut archive = Vec::new();
        scratch.save(&["strong".to_owned()], &mut archive).unwrap();
        scratch.reopen();
        assert_eq!(scratch.told(), [] as [String; 0]);

        let other = Scratch::new(driver);
        let loaded = other.load(&mut &archive[..], &mut |_| {}).unwrap();
        assert_eq!(loaded[0].id, id);
        let copy = other.find_image("strong").unwrap();
        assert_eq!(copy.layers, image.layers);
        assert_eq!(other.manifest(&copy).unwrap(), manifest);
        assert_eq!(other.names("blobs/sha512").len(), 2);

        let blob = &image.layers[1].digest;
        let path = scratch.root().join("blobs/sha512").join(blob.hex());
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(b"rot", 700).unwrap();
        let damage = scratch.verify(&image).unwrap().damage;
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert_eq!(damage[0].digest, *blob);
        assert_eq!(
            scratch.names("quarantine"),
            [format!("sha512-{}", blob.hex())]
        );
    }
}
