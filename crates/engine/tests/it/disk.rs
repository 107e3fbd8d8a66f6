//! A disk that is full.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use engine::config::ImageGc;
use engine::containers::{Status, WaitCondition};
use engine::images::{ImportImage, ListImages};
use vocab::failure;

use crate::place::{Place, eventually, wanted};

/// Takes all space below the data root.
fn fill(place: &Place) -> std::path::PathBuf {
    let path = place.dir.path().join("data/ballast");
    let mut ballast = File::create(&path).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_full_disk_is_told_and_costs_nothing() {
    let mut place = Place::on_disk_of(32 << 20).await;
    place
        .create(
            "runs",
            &[
                "sh",
                "-c",
                "while [ -e /hold ]; do sleep 0.02; done; exit 4",
            ],
        )
        .await;
    place
        .create("fills", &["sh", "-c", "touch /hold; sleep 1000"])
        .await;
    place.start("fills").await;
    let ballast = fill(&place);
    let error = place
        .engine()
        .create(wanted("more", &["true"], |_, _| {}))
        .await
        .unwrap_err();
    let text = failure::chain(&error);
    assert!(text.contains("full") || text.contains("space"), "{text}");
    // The end of a container is known all the same, and again after a restart.
    let wait = place
        .engine()
        .wait("fills", WaitCondition::NextExit)
        .await
        .unwrap();
    place.engine().stop("fills", None, Some(0)).await.unwrap();
    assert_eq!(wait.outcome().await.code, 137);
    place.drop_engine().await;
    std::fs::remove_file(ballast).unwrap();
    place.reopen().await;
    let engine = place.engine();
    eventually(async || {
        engine.inspect("fills", false).await.unwrap().state.status == Status::Exited
    })
    .await;
    let state = engine.inspect("fills", false).await.unwrap().state;
    assert_eq!(state.exit_code, 137);
    place.create("more", &["true"]).await;
    assert_eq!(place.run("more").await.code, 0);
    assert_eq!(place.run("runs").await.code, 4);
}

/// A root tree of one file, as an image.
async fn import(place: &Place, name: &str, bytes: usize) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes as u64);
    header.set_mode(0o644);
    let mut tar = tar::Builder::new(Vec::new());
    let content = vec![name.as_bytes()[name.len() - 1]; bytes];
    tar.append_data(&mut header, "file", &content[..]).unwrap();
    let import = ImportImage {
        name: Some(name.parse().unwrap()),
        ..ImportImage::default()
    };
    let tar = Box::new(std::io::Cursor::new(tar.into_inner().unwrap()));
    place.engine().import_image(tar, import).await.unwrap();
}

async fn names(place: &Place) -> Vec<String> {
    let images = place.engine().list_images(ListImages::default()).await;
    let mut names: Vec<String> = images
        .unwrap()
        .iter()
        .flat_map(|image| image.tags.clone())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_images_make_room_between_the_marks() {
    let mut place = Place::on_disk_of(64 << 20).await;
    for number in 0..6 {
        import(&place, &format!("image-{number}"), 6 << 20).await;
    }
    place
        .create_as("user", &["true"], |config, _| {
            "image-0".clone_into(&mut config.image);
        })
        .await;
    place.image_gc = Some(ImageGc {
        high_percent: 50,
        low_percent: 30,
        keep: Duration::ZERO,
    });
    place.reopen().await;
    // The longest unused go, down to the low mark; what a container uses stays.
    eventually(async || {
        names(&place).await == ["image-0:latest", "image-4:latest", "image-5:latest"]
    })
    .await;
    // Their bytes follow.
    let data = place.dir.path().join("data");
    eventually(async || {
        let disk = rustix::fs::statvfs(&data).unwrap();
        (disk.f_blocks - disk.f_bfree) * 100 <= disk.f_blocks * 30
    })
    .await;
    // Below the high mark nothing goes.
    import(&place, "image-6", 6 << 20).await;
    place.reopen().await;
    assert_eq!(names(&place).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_an_image_that_lost_its_configuration_is_told_and_removed() {
    let mut place = Place::new().await;
    let engine = place.engine();
    let image = engine.list_images(ListImages::default()).await.unwrap();
    let store = place.dir.path().join("data/store");
    let id = image[0].id.clone();
    std::fs::remove_file(store.join("blobs/sha256").join(id.hex())).unwrap();
    assert_eq!(names(&place).await, ["busybox:latest"]);
    let error = engine.create(wanted("none", &["true"], |_, _| {})).await;
    let text = failure::chain(&error.unwrap_err());
    assert!(text.contains("read the configuration of image"), "{text}");
    let (_, verified) = engine.verify_image("busybox").await.unwrap();
    assert_eq!(verified.damage.len(), 1);
    place.reopen().await;
    let warnings = place.engine().info().await.warnings;
    let told = |warning: &String| warning.ends_with("is missing: pull, load or remove it");
    assert!(warnings.iter().any(told), "{warnings:?}");
    let removed = place.engine().remove_image("busybox", false, false).await;
    assert_eq!(removed.unwrap().len(), 3);
    assert!(names(&place).await.is_empty());
}
