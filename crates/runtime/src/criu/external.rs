//! Which mounts of a container are the host's.
//!
//! CRIU makes a container's own file systems anew. What is bound from the host it only knows by
//! a name: to save, each mount point and its name ([`of_running`]); to restore, each name and what is
//! to be bound there ([`of_plan`]). The names are mount points, but for masks, which are all one.
//!
//! A mount is the host's if its file system is mounted on the host too and the specification does
//! not have it made: so binds below binds are found, and what a hook put in.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, ResolveFlags};
use rustix::mount::{UnmountFlags, unmount};

use super::PrepareError;
use super::rpc::ExternalMount;
use crate::cgroup::Cgroup;
use crate::child::{inside, view};
use crate::error::{During as _, SetupError, Step};
use crate::plan::{Mount, MountKind, Plan};

/// What masked files are made of, and how the images call that.
const NULL: &str = "/dev/null";
/// The mounts of the host, as far as the caller is there.
pub(super) const HOST: &str = "/proc/self/mountinfo";

/// A line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// `major:minor` of its file system.
    device: String,
    /// What of that is mounted.
    root: PathBuf,
    at: PathBuf,
    kind: String,
}

impl Mounted {
    /// All that a file of that form lists.
    pub(super) fn of(path: &Path) -> Result<Vec<Self>, PrepareError> {
        let text = fs::read_to_string(path).map_err(PrepareError::read(path))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Vec<Self> {
        text.lines().filter_map(Self::line).collect()
    }

    fn line(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let device = fields.nth(2)?.to_owned();
        let root = unescape(fields.next()?);
        let at = unescape(fields.next()?);
        let kind = file_system.split(' ').next()?.to_owned();
        Some(Self {
            device,
            root,
            at,
            kind,
        })
    }
}

/// Blanks and backslashes are written as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The mounts to name when a container is saved: `container` are its own, `host` those of the host.
pub(super) fn of_running(
    plan: &Plan,
    container: &[Mounted],
    host: &[Mounted],
) -> Vec<ExternalMount> {
    let hosts: HashSet<&str> = host.iter().map(|mount| mount.device.as_str()).collect();
    let made: HashSet<&str> = container
        .iter()
        .filter(|mount| is_made(plan, mount))
        .map(|mount| mount.device.as_str())
        .collect();
    let external = container.iter().filter(|mount| {
        mount.at != Path::new("/")
            && hosts.contains(mount.device.as_str())
            && !made.contains(mount.device.as_str())
            && !plan.readonly.contains(&mount.at)
    });
    external
        .map(|mount| {
            let mask = plan.masked.contains(&mount.at) && mount.root.ends_with("null");
            let at = text(&mount.at);
            let value = if mask { NULL.to_owned() } else { at.clone() };
            ExternalMount { key: at, value }
        })
        .collect()
}

/// Whether it is a file system that the specification has made, such as a procfs, which the host
/// may have mounted too where they share the namespace that it shows.
fn is_made(plan: &Plan, mount: &Mounted) -> bool {
    plan.mounts.iter().any(|planned| {
        let MountKind::New { kind, .. } = &planned.kind else {
            return false;
        };
        *kind == mount.kind && planned.destination == mount.at
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What the names stand for when a container is restored. `points` are where its binds come to be,
/// by their place in the plan.
pub(super) fn of_plan(
    plan: &Plan,
    points: &[(usize, PathBuf)],
    cgroup: Option<&Cgroup>,
    host: &[Mounted],
) -> Vec<ExternalMount> {
    let named = |at: &Path, source: &Path| ExternalMount {
        key: text(at),
        value: text(source),
    };
    let mut all = vec![named(Path::new(NULL), Path::new(NULL))];
    for (place, at) in points {
        let MountKind::Bind { source, recursive } = &plan.mounts[*place].kind else {
            continue;
        };
        all.push(named(at, source));
        let below = host.iter().filter(|_| *recursive);
        let below = below.filter_map(|mount| Some((mount, mount.at.strip_prefix(source).ok()?)));
        for (mount, rest) in below.filter(|(_, rest)| !rest.as_os_str().is_empty()) {
            all.push(named(&at.join(rest), &mount.at));
        }
    }
    // Bound where the container has other users; else nobody asks for them.
    let nodes = plan.devices.iter().map(|device| device.path.as_path());
    all.extend(nodes.map(|path| named(path, path)));
    // Bound like the rest, and now of another cgroup.
    let places = plan.mounts.iter();
    for mount in places.filter(|mount| mount.kind == MountKind::Cgroup) {
        for (name, directory) in cgroup.map(Cgroup::directories).unwrap_or_default() {
            let at = name.map_or_else(
                || mount.destination.clone(),
                |name| mount.destination.join(name),
            );
            all.push(named(&at, &directory));
        }
    }
    all
}

/// Makes the mount points of the plan that are missing below `root`, which is a mount of its own.
/// Binds are mounted for that and unmounted again, so that those below them are found.
pub(super) fn make_points(root: &OwnedFd, plan: &Plan) -> Result<(), SetupError> {
    let mut mounted = Vec::new();
    let made = plan.mounts.iter().try_for_each(|mount| {
        if !is_below_made(plan, mount)
            && let Some(tree) = make_point(root, mount)?
        {
            mounted.push(tree);
        }
        Ok(())
    });
    for tree in mounted.iter().rev() {
        let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
        unmount(path, UnmountFlags::DETACH).during(Step::Mount, || "unmount a bind")?;
    }
    made
}

/// What the file systems of the container hold comes with its images, mount points included.
fn is_below_made(plan: &Plan, mount: &Mount) -> bool {
    plan.mounts.iter().any(|other| {
        matches!(other.kind, MountKind::New { .. } | MountKind::Cgroup)
            && mount.destination != other.destination
            && mount.destination.starts_with(&other.destination)
    })
}

fn make_point(root: &OwnedFd, mount: &Mount) -> Result<Option<OwnedFd>, SetupError> {
    let at = &mount.destination;
    let what = || format!("prepare the mount point `{}`", at.display());
    match &mount.kind {
        MountKind::Remount { .. } => Ok(None),
        MountKind::New { .. } | MountKind::Cgroup => {
            inside::make_directory(root.as_fd(), at, 0o755).during(Step::Mount, what)?;
            Ok(None)
        }
        MountKind::Bind { source, recursive } => {
            let tree = crate::origin::open_tree(source, mount.origin.as_ref(), *recursive)
                .during(Step::Mount, || {
                    format!("bind `{}` to `{}`", source.display(), at.display())
                })?;
            let status = rustix::fs::fstat(&tree).during(Step::Mount, what)?;
            let target = match FileType::from_raw_mode(status.st_mode) {
                FileType::Directory => inside::make_directory(root.as_fd(), at, 0o755),
                _ => inside::make_file(root.as_fd(), at),
            };
            let target = target.during(Step::Mount, what)?;
            view::attach(&tree, target.as_fd()).during(Step::Mount, what)?;
            Ok(Some(tree))
        }
    }
}

/// Where each bind of the plan comes to be, with its place in the plan: links below `root`, where the
/// mount points are by now, are followed.
pub(super) fn points(root: &OwnedFd, plan: &Plan) -> Vec<(usize, PathBuf)> {
    let base = inside::path_of(root.as_fd());
    let real = |mount: &Mount| {
        let flags = rustix::fs::OFlags::PATH;
        let empty = ResolveFlags::empty();
        let found = inside::open(root.as_fd(), &mount.destination, flags, empty).ok()?;
        let path = inside::path_of(found.as_fd()).ok()?;
        let rest = path.strip_prefix(base.as_ref().ok()?).ok()?;
        Some(Path::new("/").join(rest))
    };
    let places = plan.mounts.iter().enumerate();
    places
        .filter(|(_, mount)| matches!(mount.kind, MountKind::Bind { .. }))
        .map(|(place, mount)| {
            let real = real(mount).filter(|_| !is_below_made(plan, mount));
            (place, real.unwrap_or_else(|| mount.destination.clone()))
        })
        .collect()
}
