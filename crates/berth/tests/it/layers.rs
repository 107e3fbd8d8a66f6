//! Images of as many layers as one may have: all that is done with images and containers works.

use std::fs;
use std::process::Command;

use serde_json::json;
use testkit::image::{Compression, Image, Layer, tar};
use vocab::Platform;

use crate::client::CLIENTS;
use crate::host::Host;

/// As many as overlayfs stacks.
const MOST: usize = 500;

/// An image of so many layers: busybox, and above it one file of each layer and one of all.
fn deep(layers: usize) -> Image {
    let mut all = vec![Layer::new(
        &testkit::image::busybox_tar(),
        Compression::Plain,
    )];
    all.extend((1..layers).map(|number| {
        let (own, number) = (format!("own/{number}"), number.to_string());
        let files = tar(&[(&own, b""), ("last", number.as_bytes())]);
        Layer::new(&files, Compression::Plain)
    }));
    let config = json!({ "Cmd": ["cat", "/last"] });
    Image::with_config(all, &Platform::host(), &config)
}

#[test]
fn privileged_an_image_of_very_many_layers_is_used_as_any_other() {
    let host = Host::empty();
    let path = |name: &str| host.path().join(name).display().to_string();
    let whole = deep(MOST);
    fs::write(path("most.tar"), whole.docker_archive(&["most"])).unwrap();
    fs::write(path("less.tar"), deep(MOST - 1).docker_archive(&["less"])).unwrap();
    for archive in ["most.tar", "less.tar"] {
        host.berth(&["load", "-q", "-i", &path(archive)]).ok();
    }
    for client in CLIENTS {
        let run = |args: &[&str]| client.run(&host, args);
        let last = (MOST - 1).to_string();
        assert_eq!(run(&["run", "--name", "one", "most"]).ok(), last);
        run(&["run", "--name", "two", "most", "touch", "/new"]).ok();
        assert_eq!(run(&["diff", "one"]).ok(), "");
        assert_eq!(run(&["diff", "two"]).ok(), "A /new");
        assert_eq!(run(&["history", "-q", "most"]).ok().lines().count(), MOST);

        // Its files, of a container that has ended.
        run(&["cp", "two:/last", &path("last")]).ok();
        assert_eq!(fs::read_to_string(path("last")).unwrap(), last);
        run(&["cp", &path("last"), "two:/copied"]).ok();
        run(&["export", "-o", &path("root.tar"), "two"]).ok();
        let listed = Command::new("tar")
            .args(["tf", &path("root.tar")])
            .output()
            .unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let own = listed.lines().filter(|name| name.starts_with("own/"));
        assert_eq!(own.count(), MOST, "the directory and a file of each layer");
        assert!(listed.contains("copied\n"), "{listed}");

        // Out, and in again as the same.
        run(&["save", "-o", &path("saved.tar"), "most"]).ok();
        run(&["rm", "one", "two"]).ok();
        run(&["rmi", "most"]).ok();
        run(&["load", "-q", "-i", &path("saved.tar")]).ok();
        let id = run(&["image", "inspect", "-f", "{{.Id}}", "most"]);
        assert_eq!(id.ok(), whole.id().to_string());

        // One more is made where there is room for it.
        let change = ["sh", "-c", "echo changed > /last"];
        for image in ["less", "most"] {
            run(&[&["run", "--name", image, image], &change[..]].concat()).ok();
        }
        run(&["commit", "-c", "CMD [\"cat\", \"/last\"]", "less", "made"]).ok();
        assert_eq!(run(&["run", "--rm", "made"]).ok(), "changed");
        let refused = run(&["commit", "most", "more"]);
        let refused = refused.fails(1);
        assert!(
            refused.contains("has 501 layers, more than the 500 accepted"),
            "{refused}"
        );
        // Where nothing changed, no layer is needed.
        run(&["create", "--name", "same", "most"]).ok();
        run(&["commit", "-c", "CMD [\"echo\", \"other\"]", "same", "other"]).ok();
        assert_eq!(run(&["run", "--rm", "other"]).ok(), "other");
        run(&["rm", "less", "most", "same"]).ok();
        run(&["rmi", "made", "other"]).ok();
    }
    let left = host.berth(&["images", "-a", "--format", "{{.Repository}}"]);
    assert_eq!(left.ok(), "most\nless");
}
