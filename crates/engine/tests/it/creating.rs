//! What a container is made of: user, mounts, volumes, limits; and what is refused.

use std::fs;

use engine::volumes::CreateVolume;
use vocab::config::{ContainerConfig, HostConfig};
use vocab::{Failure as _, Kind};

use crate::place::{Place, wanted};

/// What a script prints in a container with these settings.
async fn says(
    place: &Place,
    script: &str,
    change: impl FnOnce(&mut ContainerConfig, &mut HostConfig),
) -> String {
    place.create_as("says", &["sh", "-c", script], change).await;
    place.run("says").await;
    let text = place.logged("says").await;
    place.remove("says").await;
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_container_is_what_was_asked() {
    let place = Place::new().await;
    let text = says(
        &place,
        "id -u; id -g; pwd; hostname; echo $A $FROM",
        |config, host| {
            config.user = "1000:1001".to_owned();
            config.working_dir = "/tmp".to_owned();
            config.hostname = "own".to_owned();
            config.env = Some(vec!["A=b".to_owned()]);
            host.group_add = Some(vec!["7".to_owned()]);
        },
    )
    .await;
    assert_eq!(text, "1000\n1001\n/tmp\nown\nb image\n");
    let caps = "grep -e CapEff -e NoNewPrivs -e Seccomp: /proc/self/status | cut -f2";
    let plain = says(&place, caps, |_, _| {}).await;
    assert_eq!(plain, "00000000a80425fb\n0\n2\n");
    let tight = says(&place, caps, |_, host| {
        host.cap_drop = Some(vec!["ALL".to_owned()]);
        host.security_opt = Some(vec!["no-new-privileges".to_owned()]);
    })
    .await;
    assert_eq!(tight, "0000000000000000\n1\n2\n");
    let free = says(&place, caps, |_, host| host.privileged = true).await;
    assert!(
        free.ends_with("\n0\n0\n") && !free.starts_with("00000000a8"),
        "{free}"
    );
    let readonly = says(
        &place,
        "touch /x 2>&1; touch /t/y && echo fine",
        |_, host| {
            host.readonly_rootfs = true;
            host.tmpfs = Some([("/t".to_owned(), "size=1m".to_owned())].into());
        },
    )
    .await;
    assert!(
        readonly.contains("Read-only file system") && readonly.ends_with("fine\n"),
        "{readonly}"
    );
    let limited = says(
        &place,
        "ulimit -n; cat /proc/sys/net/core/somaxconn",
        |_, host| {
            host.resources.ulimits = Some(vec![vocab::config::Ulimit {
                name: "nofile".to_owned(),
                soft: 50,
                hard: 60,
            }]);
            host.sysctls = Some([("net.core.somaxconn".to_owned(), "77".to_owned())].into());
        },
    )
    .await;
    assert_eq!(limited, "50\n77\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_binds_show_the_hosts_files() {
    let place = Place::new().await;
    let shared = place.dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("f"), "host\n").unwrap();
    let bind = format!("{}:/c:ro", shared.display());
    let made = place.dir.path().join("made/deep");
    let second = format!("{}:/d", made.display());
    let text = says(
        &place,
        "cat /c/f; touch /c/x 2>&1; echo back > /d/g",
        |_, host| {
            host.binds = Some(vec![bind, second]);
        },
    )
    .await;
    assert!(
        text.starts_with("host\n") && text.contains("Read-only"),
        "{text}"
    );
    assert_eq!(fs::read_to_string(made.join("g")).unwrap(), "back\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_volumes_keep_what_was_written() {
    let place = Place::new().await;
    let engine = place.engine();
    let volume = |host: &mut HostConfig| host.binds = Some(vec!["data:/etc".to_owned()]);
    // A new volume begins with what the image has there.
    let first = says(
        &place,
        "head -n1 /etc/passwd | cut -d: -f1; echo x > /etc/new",
        |_, host| {
            volume(host);
        },
    )
    .await;
    assert_eq!(first, "root\n");
    assert_eq!(
        says(&place, "cat /etc/new", |_, host| volume(host)).await,
        "x\n"
    );
    place
        .create_as("user", &["true"], |_, host| volume(host))
        .await;
    let error = engine.remove_volume("data", false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(
        error
            .to_string()
            .starts_with("remove data: volume is in use - ["),
        "{error}"
    );
    place.remove("user").await;
    engine.remove_volume("data", false).await.unwrap();
    let gone = engine.inspect_volume("data").await.unwrap_err();
    assert_eq!(gone.to_string(), "get data: no such volume");

    place
        .create_as("anonymous", &["true"], |config, _| {
            config.volumes = Some([("/v".to_owned(), Default::default())].into());
        })
        .await;
    assert_eq!(
        engine.list_volumes(Default::default()).await.unwrap().len(),
        1
    );
    place.remove("anonymous").await;
    assert_eq!(
        engine.list_volumes(Default::default()).await.unwrap().len(),
        0
    );
    let made = CreateVolume {
        name: "named".to_owned(),
        ..CreateVolume::default()
    };
    let volume = engine.create_volume(made).await.unwrap();
    assert!(volume.mountpoint.is_dir());
    engine.remove_volume("named", false).await.unwrap();
    assert!(!volume.mountpoint.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_what_cannot_be_is_refused_and_leaves_nothing() {
    let place = Place::new().await;
    let engine = place.engine();
    let missing = engine.create(wanted("xx", &["true"], |config, _| {
        config.image = "nope".to_owned();
    }));
    let error = missing.await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(
        error.to_string().starts_with("No such image: nope"),
        "{error}"
    );
    let bad_name = engine
        .create(wanted("a/b", &["true"], |_, _| {}))
        .await
        .unwrap_err();
    assert_eq!(bad_name.kind(), Kind::InvalidArgument);
    // A 404 at creation would make Docker's clients pull the image, so this is said at the start.
    place
        .create_as("apart", &["true"], |_, host| {
            host.network_mode = "nowhere".to_owned();
        })
        .await;
    let error = engine.start("apart").await.unwrap_err();
    assert_eq!(error.to_string(), "network nowhere not found");
    place.remove("apart").await;
    place
        .create_as("nobody", &["true"], |config, _| {
            config.user = "nobody-here".to_owned();
        })
        .await;
    let error = engine.start("nobody").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "unable to find user nobody-here: no matching entries in passwd file"
    );
    place.remove("nobody").await;
    // The name of what was refused is free.
    place.create("xx", &["true"]).await;
}
