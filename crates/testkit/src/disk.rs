//! A disk that loses power: ext4 in a file, whose kernel side can be stopped at any moment.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long the last user of a mount may take to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mounted file system of its own, gone with its value.
pub struct Disk {
    image: PathBuf,
    point: PathBuf,
    options: String,
}

impl Disk {
    /// Makes it in the file `image`, of so many MiB, and mounts it at `point`.
    pub fn new(image: &Path, point: &Path, mebibytes: u64, options: &str) -> Self {
        File::create(image)
            .unwrap()
            .set_len(mebibytes << 20)
            .unwrap();
        fs::create_dir_all(point).unwrap();
        run("mkfs.ext4", &["-q", "-b", "4096", image.to_str().unwrap()]);
        let disk = Self {
            image: image.to_owned(),
            point: point.to_owned(),
            options: format!("loop,{options}"),
        };
        disk.mount();
        fs::remove_dir(point.join("lost+found")).unwrap();
        disk
    }

    fn mount(&self) {
        let (image, point) = (self.image.to_str().unwrap(), self.point.to_str().unwrap());
        run("mount", &["-o", &self.options, image, point]);
    }

    /// From now on nothing reaches the disk; what was not there yet is lost.
    pub fn cut(&self) {
        let root = File::open(&self.point).unwrap();
        sys::shutdown::without_writing(root).unwrap();
    }

    /// The power is back, and the journal is replayed. Nobody uses it any more, or soon will not.
    pub fn restore(&mut self) {
        crate::eventually(PATIENCE, || {
            program("umount", &[self.point.to_str().unwrap()]).success()
        });
        // Of a copy: a mount namespace of somebody else may keep the file system that was stopped.
        let copy = self.image.with_extension("restored");
        fs::copy(&self.image, &copy).unwrap();
        fs::rename(&copy, &self.image).unwrap();
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        program("umount", &["-l", self.point.to_str().unwrap()]);
    }
}

fn run(name: &str, arguments: &[&str]) {
    let status = program(name, arguments);
    assert!(status.success(), "{name} {arguments:?}: {status}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test may run the tools of its host"
)]
fn program(name: &str, arguments: &[&str]) -> std::process::ExitStatus {
    Command::new(name).args(arguments).output().unwrap().status
}
