//! Names, lookup and removal by Docker's rules.

use store::{Driver, NewImage, RemoveError, Removed, User};
use vocab::{ContainerId, Digest, Failure, Kind};

use crate::scratch::{Scratch, Tar, chain, config, digest, reference};

fn none(_: &Digest) -> Vec<User> {
    Vec::new()
}

fn one(path: &str) -> Vec<u8> {
    Tar::new().file(path, path.as_bytes()).bytes()
}

#[test]
fn privileged_an_image_keeps_its_exact_configuration() {
    let mut scratch = Scratch::new(Driver::Overlay);
    let layer = scratch.layer(&one("a")).unwrap();
    let bytes = config(std::slice::from_ref(&layer));
    let id = scratch
        .put_image(NewImage {
            config: bytes.clone(),
            layers: vec![layer],
            names: vec![reference("x:1")],
            ..NewImage::default()
        })
        .unwrap();
    assert_eq!(id, digest(&bytes));
    scratch.reopen();
    let image = scratch.find_image("x:1").unwrap();
    assert_eq!(
        (&image.id, &image.raw_config, image.size_bytes),
        (&id, &bytes, 1)
    );
    assert_eq!(
        vocab::time::rfc3339_nano(image.created.unwrap()),
        "2026-01-02T03:04:05.678Z"
    );
    assert!(image.tagged.is_some());
    assert_eq!(scratch.images().unwrap().len(), 1);
}

#[test]
fn privileged_an_image_is_found_by_name_id_and_prefix() {
    let scratch = Scratch::new(Driver::Overlay);
    let a = scratch.image(&[one("a")], "x");
    let b = scratch.image(&[one("b")], "localhost:5000/y:1");
    let by_digest = reference("x").with_digest(digest(b"manifest"));
    let layer = scratch.layer(&one("a")).unwrap();
    let config = config(std::slice::from_ref(&layer));
    let names = vec![by_digest.clone()];
    let layers = vec![layer];
    scratch
        .put_image(NewImage {
            config,
            layers,
            names,
            ..NewImage::default()
        })
        .unwrap();

    let digits = a.hex();
    for typed in [
        "x",
        "x:latest",
        "docker.io/library/x",
        digits,
        &digits[..12],
        &a.to_string(),
        &a.to_string()[..20],
        &by_digest.familiar(),
    ] {
        assert_eq!(scratch.find_image(typed).unwrap().id, a, "{typed}");
    }
    assert_eq!(scratch.find_image("localhost:5000/y:1").unwrap().id, b);
    let zeros = "0".repeat(64);
    for (typed, text) in [
        ("y", "No such image: y:latest"),
        ("localhost:5000/y", "No such image: localhost:5000/y:latest"),
        (zeros.as_str(), &format!("No such image: sha256:{zeros}")),
        ("x y", "invalid reference format"),
    ] {
        assert_eq!(
            chain(&scratch.find_image(typed).unwrap_err()),
            text,
            "{typed}"
        );
    }
    assert_eq!(scratch.find_image("y").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn privileged_a_tag_moves_and_leaves_the_old_image_without_a_name() {
    let scratch = Scratch::new(Driver::Overlay);
    let a = scratch.image(&[one("a")], "x");
    let b = scratch.image(&[one("b")], "x");
    assert_eq!(scratch.find_image("x").unwrap().id, b);
    assert!(
        scratch
            .find_image_by_id(&a)
            .unwrap()
            .unwrap()
            .names
            .is_empty()
    );
    scratch.tag(&a, &reference("z")).unwrap();
    assert_eq!(scratch.find_image("z").unwrap().id, a);
    let error = scratch.tag(&digest(b"none"), &reference("z")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let error = scratch
        .tag(&a, &reference("z").with_digest(a.clone()))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "refusing to create a tag with a digest reference"
    );
}

#[test]
fn privileged_the_last_name_takes_the_image_along() {
    let scratch = Scratch::new(Driver::Overlay);
    let shared = one("shared");
    let a = scratch.image(&[shared.clone(), one("a")], "x:1");
    scratch.image(&[shared.clone(), one("b")], "y");
    scratch.tag(&a, &reference("x:2")).unwrap();
    let removed = scratch.remove_image("x:1", false, false, &none).unwrap();
    assert_eq!(removed, [Removed::Untagged("x:1".to_owned())]);
    let removed = scratch.remove_image("x:2", false, false, &none).unwrap();
    let chain = digest(format!("{} {}", digest(&shared), digest(&one("a"))).as_bytes());
    assert_eq!(
        removed,
        [
            Removed::Untagged("x:2".to_owned()),
            Removed::Deleted(a),
            Removed::Deleted(chain)
        ]
    );
    let removed = scratch.remove_image("y", false, false, &none).unwrap();
    assert_eq!(
        removed.len(),
        4,
        "the shared layer goes with the last image: {removed:?}"
    );
    for below in ["blobs/sha256", "layers/overlay", "ingest"] {
        assert!(scratch.names(below).is_empty(), "debris in {below}");
    }
}

#[test]
fn privileged_the_last_tag_of_a_repository_takes_its_digests_along() {
    let scratch = Scratch::new(Driver::Overlay);
    let layer = scratch.layer(&one("a")).unwrap();
    let digested = reference("x").with_digest(digest(b"m"));
    let names = vec![reference("x"), digested.clone()];
    let config = config(std::slice::from_ref(&layer));
    let new = NewImage {
        config,
        layers: vec![layer],
        names,
        ..NewImage::default()
    };
    let id = scratch.put_image(new).unwrap();
    let removed = scratch.remove_image("x", false, false, &none).unwrap();
    assert_eq!(
        removed[..3],
        [
            Removed::Untagged("x:latest".to_owned()),
            Removed::Untagged(digested.familiar()),
            Removed::Deleted(id)
        ]
    );
}

#[test]
fn privileged_containers_keep_their_image() {
    let scratch = Scratch::new(Driver::Overlay);
    let id = scratch.image(&[one("a")], "x");
    let container = ContainerId::random();
    let users = |running| move |_: &Digest| vec![User { container, running }];
    let short = (id.short().to_owned(), container.short());
    let refused = |typed: &str, force, running| {
        let error = scratch
            .remove_image(typed, force, false, &users(running))
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(!matches!(error, RemoveError::Find(_)));
        error.to_string()
    };
    assert_eq!(
        refused("x", false, false),
        format!(
            "conflict: unable to remove repository reference \"x\" (must force) - container {} is using its referenced image {}",
            short.1, short.0
        )
    );
    assert_eq!(
        refused(&short.0, false, false),
        format!(
            "conflict: unable to delete {} (must be forced) - image is being used by stopped container {}",
            short.0, short.1
        )
    );
    assert_eq!(
        refused(&short.0, true, true),
        format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by running container {}",
            short.0, short.1
        )
    );
    scratch.tag(&id, &reference("y")).unwrap();
    assert_eq!(
        scratch
            .remove_image(&short.0, false, false, &none)
            .unwrap_err()
            .to_string(),
        format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            short.0
        )
    );
    // A name that is forced off a running container's image leaves the image.
    scratch
        .remove_image("y", true, false, &users(true))
        .unwrap();
    let removed = scratch
        .remove_image("x", true, false, &users(true))
        .unwrap();
    assert_eq!(removed, [Removed::Untagged("x:latest".to_owned())]);
    assert!(scratch.find_image_by_id(&id).unwrap().is_some());
}

#[test]
fn privileged_a_forced_removal_leaves_a_stopped_container_its_layers() {
    let scratch = Scratch::new(Driver::Overlay);
    let id = scratch.image(&[one("a")], "x");
    let owner = ContainerId::random();
    scratch.create_snapshot(&owner, &id).unwrap();
    let users = |_: &Digest| {
        vec![User {
            container: owner,
            running: false,
        }]
    };
    let removed = scratch.remove_image("x", true, false, &users).unwrap();
    assert_eq!(
        removed,
        [
            Removed::Untagged("x:latest".to_owned()),
            Removed::Deleted(id.clone())
        ]
    );
    let lower = scratch.mount_snapshot(&owner).unwrap().lower;
    assert_eq!(std::fs::read(lower[0].join("a")).unwrap(), b"a");
    scratch.remove_snapshot(&owner).unwrap();
    assert!(scratch.names("layers/overlay").is_empty());
    let error = scratch.create_snapshot(&owner, &id).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[test]
fn privileged_layers_must_be_those_of_the_configuration() {
    let scratch = Scratch::new(Driver::Overlay);
    let (a, b) = (
        scratch.layer(&one("a")).unwrap(),
        scratch.layer(&one("b")).unwrap(),
    );
    let config = config(std::slice::from_ref(&a));
    let put = |layers| {
        let new = NewImage {
            config: config.clone(),
            layers,
            ..NewImage::default()
        };
        chain(&scratch.put_image(new).unwrap_err())
    };
    let id = digest(&config);
    assert_eq!(
        put(vec![]),
        format!(
            "the layers of image {id} do not match its configuration: it names 1 layers, and there are 0"
        )
    );
    assert!(put(vec![b]).contains("do not match its configuration: layer 0 is sha256:"));
    let new = NewImage {
        config: b"{".to_vec(),
        ..NewImage::default()
    };
    let error = scratch.put_image(new).unwrap_err();
    assert!(
        chain(&error).contains("is malformed: EOF"),
        "{}",
        chain(&error)
    );
}

#[test]
fn privileged_a_layer_in_hand_is_not_collected() {
    let scratch = Scratch::new(Driver::Overlay);
    let layer = scratch.layer(&one("a")).unwrap();
    assert_eq!(scratch.collect().unwrap(), 0);
    let again = scratch.find_layer(layer.diff_id()).unwrap().unwrap();
    drop(layer);
    assert_eq!(scratch.collect().unwrap(), 0);
    drop(again);
    assert!(scratch.collect().unwrap() > 0);
    assert!(scratch.names("layers/overlay").is_empty() && scratch.names("blobs/sha256").is_empty());
}
