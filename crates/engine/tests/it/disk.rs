//! A disk that is full.

use std::fs::File;
use std::io::Write as _;

use engine::containers::{Status, WaitCondition};
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
