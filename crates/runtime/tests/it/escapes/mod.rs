//! Published ways out of a container, tried: each as its advisory tells it, with a real image,
//! real links, and real racing renames where the way out is a race.
//!
//! | module | what is attacked |
//! |---|---|
//! | `procfs` | the `/proc` that masks, kernel parameters and labels rely on |
//! | `paths` | mount points, devices and directories made in a root that somebody else changes |
//! | `dev` | the null device and the console |
//! | `descriptors` | what a process could reach of its caller: descriptors, directories, memory |
//! | `privilege` | groups, capabilities, keys, sessions, and who opens the container's files |
//!
//! A test ends with what was seen when its protection was taken out, which was really done once.

mod descriptors;
mod dev;
mod paths;
mod privilege;
mod procfs;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use crate::kit::{Container, Outcome};

/// Between two exchanges: long enough for others to look a path up in peace, short enough to hit
/// what happens between a look and an act in one of a few starts.
const PACE: Duration = Duration::from_micros(20);

/// Runs `attacked` while the files `a` and `b` exchange their names again and again: what another
/// container does that shares the directory.
fn while_exchanging<T>(a: &Path, b: &Path, attacked: impl FnOnce() -> T) -> T {
    while_exchanging_at(PACE, a, b, attacked)
}

/// With a pace of its own.
fn while_exchanging_at<T>(pace: Duration, a: &Path, b: &Path, attacked: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
                std::thread::park_timeout(pace);
            }
        });
        let outcome = attacked();
        done.store(true, Ordering::Relaxed);
        outcome
    })
}

/// A directory of the host that no container has any business in.
fn outside(container: &Container) -> PathBuf {
    let outside = container.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    outside
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Takes the mounts at these places out of the specification.
fn without_mounts(mut container: Container, places: &[&str]) -> Container {
    container.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !places.contains(&mount["destination"].as_str().unwrap()));
    container
}

/// A specification in which `/dev` is the image's.
fn with_dev_of_the_image(container: Container) -> Container {
    without_mounts(container, &["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"])
}

/// A bind mount.
fn bind(source: &Path, destination: &str) -> Value {
    json!({"destination": destination, "type": "bind", "source": source.to_str(),
           "options": ["rbind", "rprivate"]})
}

/// One line of mountinfo.
#[derive(Debug)]
struct Mounted<'a> {
    id: &'a str,
    parent: &'a str,
    root: &'a str,
    at: &'a str,
    kind: &'a str,
}

fn mounts(mountinfo: &str) -> Vec<Mounted<'_>> {
    let lines = mountinfo.lines().filter_map(|line| line.split_once(" - "));
    lines
        .map(|(mount, kind)| {
            let mut fields = mount.split(' ');
            let mut next = || fields.next().unwrap();
            let (id, parent, _device, root, at) = (next(), next(), next(), next(), next());
            let kind = kind.split(' ').next().unwrap();
            Mounted {
                id,
                parent,
                root,
                at,
                kind,
            }
        })
        .collect()
}

/// What was refused, of many outcomes.
fn refusals(outcomes: &[Outcome]) -> Vec<&str> {
    outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().err().map(String::as_str))
        .collect()
}
