//! One case's scratch directory: bundle, root file system, the runtime's state; and what may not
//! be left of it on the host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::case::Case;
use crate::merge::merge;

/// What every case begins with.
const BASE: &str = include_str!("../cases/base.json");

/// Directories of every root file system.
const DIRECTORIES: [&str; 10] = [
    "bin", "dev", "etc", "mnt", "proc", "root", "sys", "tmp", "usr/bin", "var/www",
];

/// The names under which busybox lies in `/bin`.
const APPLETS: &str = "[ awk cat chmod chown chroot cp cut dd df echo env false find grep \
    head hostname id ionice ip kill ln ls mkdir mkfifo mknod mount mv nproc nsenter pidof \
    printenv ps pwd readlink renice rm sed seq setpriv sh sleep sort stat stty sync tail taskset \
    test touch tr true tty umount uname unshare wc";

/// A case's place on the host.
#[derive(Debug)]
pub struct Bundle {
    /// Everything is in here, and gone with it.
    directory: TempDir,
    /// The container's id, and the name of its cgroup.
    pub id: String,
}

impl Bundle {
    /// Makes the directories and the root; [`Bundle::configure`] writes the rest.
    pub fn create(busybox: &Path) -> Result<Self> {
        let bundle = Self {
            directory: tempfile::Builder::new()
                .prefix("conformance.")
                .tempdir()
                .context("make a scratch directory")?,
            id: testkit::unique("berth-conf"),
        };
        // User namespaces have to pass through it.
        fs::set_permissions(bundle.directory.path(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir(bundle.path())?;
        let root = bundle.rootfs();
        for directory in DIRECTORIES {
            fs::create_dir_all(root.join(directory))?;
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        let program = root.join("bin/busybox");
        fs::copy(busybox, &program).with_context(|| format!("copy `{}`", busybox.display()))?;
        for applet in APPLETS.split_whitespace() {
            fs::hard_link(&program, root.join("bin").join(applet))?;
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var/www:/bin/sh\n";
        fs::write(root.join("etc/passwd"), passwd)?;
        Ok(bundle)
    }

    /// The bundle's directory.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("bundle")
    }

    /// The root file system.
    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// What the runtime gets as `--root`.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The case's directory, with room for output beside the bundle.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// The texts that are filled in, but for those that only a run knows.
    pub fn places(&self) -> BTreeMap<&'static str, String> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        BTreeMap::from([
            ("{id}", self.id.clone()),
            // Names of links end after fifteen characters.
            ("{link}", format!("br{}", &self.id["berth-conf-".len()..])),
            ("{bundle}", text(self.path())),
            ("{rootfs}", text(self.rootfs())),
            ("{state}", text(self.state())),
            ("{console}", text(self.scratch().join("console"))),
            ("{listener}", text(self.scratch().join("listener"))),
        ])
    }

    /// Writes the case's files and `config.json`.
    pub fn configure(&self, case: &Case, fill: impl Fn(&str) -> String) -> Result<()> {
        for (path, text) in &case.files {
            let path = self.path().join(path);
            fs::create_dir_all(path.parent().context("a file has a directory")?)?;
            fs::write(&path, fill(text)).with_context(|| format!("write `{}`", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        let text = match &case.raw_config {
            Some(raw) => raw.clone(),
            None => serde_json::to_string_pretty(&self.configuration(case)?)?,
        };
        fs::write(self.path().join("config.json"), fill(&text))?;
        Ok(())
    }

    fn configuration(&self, case: &Case) -> Result<Value> {
        let mut configuration: Value = serde_json::from_str(BASE).context("base.json")?;
        if let Some(inside) = &case.inside {
            configuration["process"]["args"] = json!(["/bin/sh", "-c", inside]);
        }
        configuration["linux"]["cgroupsPath"] = json!(format!("/{}", self.id));
        merge(&mut configuration, &case.fragment()?);
        Ok(configuration)
    }

    /// What is left on the host: state, cgroups, mounts.
    pub fn left(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let state = self.state().join(&self.id);
        if state.exists() {
            left.push(format!("the state `{}`", state.display()));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
        left.extend(
            self.cgroups(&mounts)
                .into_iter()
                .map(|path| format!("the cgroup `{}`", path.display())),
        );
        let scratch = self.directory.path().to_string_lossy();
        let ours = mounts.lines().filter(|line| line.contains(&*scratch));
        left.extend(ours.map(|line| format!("the mount `{line}`")));
        Ok(left)
    }

    /// The container's cgroups that exist, in every hierarchy.
    fn cgroups(&self, mounts: &str) -> Vec<PathBuf> {
        let points = mounts.lines().filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            right
                .starts_with("cgroup")
                .then(|| left.split(' ').nth(4))
                .flatten()
        });
        let paths = points.map(|point| Path::new(point).join(&self.id));
        paths.filter(|path| path.exists()).collect()
    }

    /// Takes away what a runtime left, so that one case does not trouble the next.
    pub fn sweep(&self) -> Result<()> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
        for group in self.cgroups(&mounts) {
            remove_cgroup(&group);
        }
        let scratch = self.directory.path();
        for line in mounts.lines().rev() {
            let point = Path::new(line.split(' ').nth(4).unwrap_or_default());
            if point.starts_with(scratch) {
                rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH)?;
            }
        }
        Ok(())
    }
}

/// Ends what runs in a cgroup and below, and removes both. What cannot be removed was reported.
fn remove_cgroup(group: &Path) {
    for below in fs::read_dir(group).into_iter().flatten().flatten() {
        if below.path().is_dir() {
            remove_cgroup(&below.path());
        }
    }
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    let _ = fs::remove_dir(group);
}
