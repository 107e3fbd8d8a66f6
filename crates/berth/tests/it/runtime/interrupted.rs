//! `berth runtime`, many at once, and killed at every step: nothing of a container is left.
//!
//! A step is what the kernel is asked for, since all that lasts is made by system calls: strace
//! kills the program on its n-th one, for every n until it comes to its end. So no list of
//! failpoints can go out of date.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::bundle::Bundle;
use super::cgroups::memberships;
use crate::host::PATIENCE;

const WORKERS: usize = 8;

/// The containers of one bundle.
pub(super) struct Place(pub(super) Bundle);

impl Place {
    pub(super) fn new() -> Self {
        Self(Bundle::sh("exec sleep 1000").with(|spec| {
            spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
            spec["linux"]["resources"]["pids"] = json!({"limit": 32});
            // Each container has its own, named after it.
            spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
        }))
    }

    /// The same with users of their own and a namespace that is joined, which together take an
    /// intermediate process, and with a mount that maps ids, which takes a helper.
    pub(super) fn mapped() -> Self {
        let Self(bundle) = Self::new();
        let shared = bundle.path().join("shared");
        fs::create_dir(&shared).unwrap();
        let ids = |outside: u32| json!([{"containerID": 0, "hostID": outside, "size": 65_536}]);
        Self(bundle.with(|spec| {
            let linux = &mut spec["linux"];
            for kind in ["uidMappings", "gidMappings"] {
                linux[kind] = ids(0);
            }
            let namespaces = linux["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "uts");
            namespaces.push(json!({"type": "uts", "path": "/proc/self/ns/uts"}));
            namespaces.push(json!({"type": "user"}));
            // It is the host's.
            spec.as_object_mut().unwrap().remove("hostname");
            spec["mounts"].as_array_mut().unwrap().push(json!({
                "destination": "/shared", "type": "bind", "source": shared, "options": ["bind"],
                "uidMappings": ids(100_000), "gidMappings": ids(100_000)
            }));
        }))
    }

    pub(super) fn id(&self, number: usize) -> String {
        format!("{}-{number}", self.0.id)
    }

    /// `berth runtime WORDS` under strace, which kills it at its `step`-th system call.
    fn killed_at(&self, step: usize, words: &[&str]) -> Command {
        let mut command = Command::new(testkit::tool("strace"));
        command
            .args(["--quiet=all", "--output=/dev/null"])
            .arg(format!("--inject=all:signal=KILL:when={step}"))
            .arg(env!("CARGO_BIN_EXE_berth"))
            .args(self.words(words));
        command
    }

    pub(super) fn words(&self, words: &[&str]) -> Vec<String> {
        let state = self.0.root().display().to_string();
        let own = ["runtime".to_owned(), "--root".to_owned(), state];
        own.into_iter()
            .chain(words.iter().map(|&word| word.to_owned()))
            .collect()
    }

    pub(super) fn create(&self, id: &str) -> Vec<String> {
        let bundle = self.0.path().display().to_string();
        ["create", "--bundle", &bundle, id]
            .map(str::to_owned)
            .into()
    }

    /// Runs to the end with what must succeed.
    #[track_caller]
    pub(super) fn done(&self, words: &[&str]) {
        let output = quiet(&mut self.0.command(words));
        assert!(output.status.success(), "{words:?}: {}", said(&output));
    }

    /// What is left anywhere of containers with this prefix.
    fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for entry in fs::read_dir(self.0.root()).into_iter().flatten() {
            left.push(entry.unwrap().path().display().to_string());
        }
        for cgroup in cgroups(&self.0.id) {
            left.push(cgroup.display().to_string());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.0.path().to_str().unwrap();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(here))
                .map(str::to_owned),
        );
        left.extend(processes(here));
        left
    }
}

/// Runs without input, its output in a file that the container may keep.
pub(super) fn quiet(command: &mut Command) -> Output {
    let mut said = tempfile::tempfile().unwrap();
    let status = command
        .stdin(Stdio::null())
        .stdout(said.try_clone().unwrap())
        .stderr(said.try_clone().unwrap())
        .status()
        .unwrap();
    let mut stderr = Vec::new();
    std::io::Seek::rewind(&mut said).unwrap();
    std::io::Read::read_to_end(&mut said, &mut stderr).unwrap();
    Output {
        status,
        stdout: Vec::new(),
        stderr,
    }
}

pub(super) fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    format!("{} {text}", output.status)
}

/// Directories of any hierarchy whose name begins so.
fn cgroups(prefix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (hierarchy, own) in memberships("self") {
        // By this process's own, or beside it where version 2 is alone.
        let own = hierarchy.join(own.strip_prefix("/").unwrap());
        let beside = own.parent().unwrap().to_owned();
        let entries = [own, beside].into_iter().flat_map(fs::read_dir).flatten();
        let paths = entries.flatten().map(|entry| entry.path());
        found.extend(paths.filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with(prefix)
        }));
    }
    found
}

/// Processes that have this place as root, in their arguments, or among their descriptors.
fn processes(place: &str) -> Vec<String> {
    let me = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == me || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mounts = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        // The root of a container is a mount whose source is a directory of ours.
        let inside = mounts.lines().any(|line| line.contains(place));
        if inside || String::from_utf8_lossy(&words).contains(place) {
            found.push(format!("process {name}"));
        }
    }
    found
}

#[track_caller]
pub(super) fn nothing_is_left(place: &Place) {
    let mut left = Vec::new();
    let begin = std::time::Instant::now();
    // Processes that were killed take a moment to go.
    while begin.elapsed() < PATIENCE {
        place.0.reap();
        left = place.leftovers();
        if left.is_empty() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("left behind: {left:#?}");
}

#[test]
fn privileged_slow_two_hundred_containers_side_by_side_leave_nothing() {
    let place = Place::new();
    let next = AtomicUsize::new(0);
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 200 {
                        break;
                    }
                    let id = place.id(number);
                    let create = place.create(&id);
                    let create: Vec<&str> = create.iter().map(String::as_str).collect();
                    place.done(&create);
                    place.done(&["start", &id]);
                    place.done(&["delete", "--force", &id]);
                }
            });
        }
    });
    nothing_is_left(&place);
    assert_eq!(descriptors(), before);
}

/// Does `one` for each step, from the first until it says that there are no more.
pub(super) fn each_step(one: impl Fn(usize) -> bool + Sync) -> usize {
    let next = AtomicUsize::new(1);
    let whole = AtomicUsize::new(usize::MAX);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let step = next.fetch_add(1, Ordering::Relaxed);
                    if step > whole.load(Ordering::Relaxed) {
                        break;
                    }
                    if !one(step) {
                        whole.fetch_min(step, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    whole.into_inner() - 1
}

/// Kills `words` at each of its steps, on a container that `prepare` left, and has the container
/// deleted by force each time. Returns at how many steps it was killed.
fn kill_at_each_step(
    place: &Place,
    prepare: &[&str],
    words: impl Fn(&Place, &str) -> Vec<String> + Sync,
) -> usize {
    let steps = each_step(|step| {
        let id = place.id(step);
        for &command in prepare {
            match command {
                "create" => {
                    let create = place.create(&id);
                    place.done(&create.iter().map(String::as_str).collect::<Vec<_>>());
                }
                _ => place.done(&[command, &id]),
            }
        }
        let words = words(place, &id);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = quiet(&mut place.killed_at(step, &words));
        place.done(&["delete", "--force", &id]);
        // Else it came to its end before that step.
        !output.status.success()
    });
    nothing_is_left(place);
    steps
}

#[test]
fn privileged_slow_a_creation_killed_at_any_step_is_cleaned_up() {
    let steps = kill_at_each_step(&Place::new(), &[], |place, id| place.create(id));
    assert!(steps > 100, "killed at {steps} steps");
}

#[test]
fn privileged_slow_a_creation_with_a_user_namespace_killed_at_any_step_is_cleaned_up() {
    let steps = kill_at_each_step(&Place::mapped(), &[], |place, id| place.create(id));
    assert!(steps > 100, "killed at {steps} steps");
}

#[test]
fn privileged_slow_a_start_killed_at_any_step_is_cleaned_up() {
    let steps = kill_at_each_step(&Place::new(), &["create"], |_, id| {
        ["start", id].map(str::to_owned).into()
    });
    assert!(steps > 20, "killed at {steps} steps");
}

#[test]
fn privileged_slow_a_removal_killed_at_any_step_can_be_done_again() {
    let steps = kill_at_each_step(&Place::new(), &["create", "start"], |_, id| {
        ["delete", "--force", id].map(str::to_owned).into()
    });
    assert!(steps > 20, "killed at {steps} steps");
}
