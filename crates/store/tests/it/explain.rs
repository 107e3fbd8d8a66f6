//! What an image is made of, and what of it is in vain.

use store::{Driver, NamedFile};

use crate::scratch::{Scratch, Tar, gzip, noise};

fn named(file: &NamedFile) -> (&str, u64, usize) {
    (&file.path, file.size_bytes, file.layer)
}

#[test]
fn privileged_hidden_and_repeated_files_are_found() {
    for driver in [Driver::Overlay, Driver::Erofs] {
        let scratch = Scratch::new(driver);
        let lowest = Tar::new()
            .file("replaced", &noise(10_000))
            .file("removed", &noise(20_000))
            .directory("emptied/", 0o755)
            .file("emptied/one", &noise(3000))
            .file("emptied/two", b"two")
            .file("original", &noise(50_000));
        let topmost = Tar::new()
            .file("replaced", &noise(9000))
            .file(".wh.removed", b"")
            .file("emptied/.wh..wh..opq", b"")
            .file("copy", &noise(50_000))
            .symlink("link", "copy");
        let layers = [gzip(&lowest.bytes()), topmost.bytes()];
        let image = scratch.image(&layers, "explained");
        let image = scratch.find_image_by_id(&image).unwrap().unwrap();
        let found = scratch.explain(&image).unwrap();
        assert_eq!(found.wasted_bytes, 10_000 + 20_000 + 3003);
        assert_eq!(found.duplicate_bytes, 50_000);
        let [lowest, topmost] = found.layers.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!((lowest.size_bytes, lowest.files), (83_003, 5));
        assert_eq!((lowest.wasted_bytes, lowest.hides_bytes), (33_003, 0));
        assert_eq!((topmost.size_bytes, topmost.files), (59_000, 3));
        assert_eq!((topmost.wasted_bytes, topmost.hides_bytes), (0, 33_003));
        let largest: Vec<_> = found.largest.iter().map(named).collect();
        assert_eq!(
            largest,
            [
                ("/copy", 50_000, 1),
                ("/original", 50_000, 0),
                ("/replaced", 9000, 1)
            ]
        );
        let wasted: Vec<_> = found.wasted.iter().map(named).collect();
        assert_eq!(
            wasted,
            [
                ("/removed", 20_000, 0),
                ("/replaced", 10_000, 0),
                ("/emptied/one", 3000, 0),
                ("/emptied/two", 3, 0)
            ]
        );
        assert_eq!(found.duplicates.len(), 1);
        let same: Vec<_> = found.duplicates[0].iter().map(named).collect();
        assert_eq!(same, [("/copy", 50_000, 1), ("/original", 50_000, 0)]);
    }
}
