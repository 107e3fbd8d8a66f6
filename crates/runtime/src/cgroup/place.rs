//! Where a cgroup is: a path below the mounts, the same in all hierarchies or not.
//!
//! As text it is the path alone, `/a/b`. Where some version 1 hierarchies have another one, each
//! follows on a line of its own, after its controllers (no cgroup's name has a line break):
//!
//! ```text
//! /id
//! memory:/slice/id
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::CgroupError;
use super::host::{Hierarchy, Host};

/// What the unified hierarchy is called where every other has a name.
const UNIFIED: &str = "";

/// Paths without the leading slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    path: PathBuf,
    others: BTreeMap<String, PathBuf>,
}

/// Why a cgroup below a container's cannot be named.
#[derive(Debug, thiserror::Error)]
pub enum BelowError {
    /// It would be beside or above.
    #[error("{0} is not a sub cgroup path")]
    Outside(String),
    /// No hierarchy has the controller, or there is but one hierarchy.
    #[error("unknown controller {0} in SubCgroupPaths")]
    Controller(String),
}

impl Place {
    pub(super) fn parse(text: &str) -> Result<Self, CgroupError> {
        let refused = || CgroupError::Path(text.to_owned());
        let mut lines = text.split('\n');
        let path = lines.next().and_then(plain).ok_or_else(refused)?;
        let other = |line: &str| {
            let (name, path) = line.rsplit_once(':')?;
            Some((name.to_owned(), plain(path)?))
        };
        let others = lines.map(|line| other(line).ok_or_else(refused));
        Ok(Self {
            path,
            others: others.collect::<Result<_, _>>()?,
        })
    }

    /// In the unified hierarchy, and in all that are not named.
    pub(super) fn unified(&self) -> &Path {
        &self.path
    }

    pub(super) fn within(&self, hierarchy: &Hierarchy) -> &Path {
        self.others.get(&hierarchy.name()).unwrap_or(&self.path)
    }

    /// One below it, in the hierarchy of `controller` or in all.
    pub(super) fn below(
        &self,
        host: &Host,
        controller: Option<&str>,
        path: &str,
    ) -> Result<Self, BelowError> {
        let down = |own: &Path| {
            let joined = join(own, path);
            let stays = joined.starts_with(own);
            stays
                .then_some(joined)
                .ok_or_else(|| BelowError::Outside(path.to_owned()))
        };
        let mut place = self.clone();
        let Some(controller) = controller else {
            place.path = down(&self.path)?;
            for other in place.others.values_mut() {
                *other = down(other)?;
            }
            return Ok(place);
        };
        let has = |hierarchy: &&Hierarchy| hierarchy.controllers.iter().any(|c| c == controller);
        let hierarchy = host.v1.iter().find(has);
        let hierarchy = hierarchy.ok_or_else(|| BelowError::Controller(controller.to_owned()))?;
        let moved = down(self.within(hierarchy))?;
        place.others.insert(hierarchy.name(), moved);
        Ok(place)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.path.display())?;
        for (name, path) in &self.others {
            write!(f, "\n{name}:/{}", path.display())?;
        }
        Ok(())
    }
}

/// `path` where it names a cgroup and does not climb.
fn plain(path: &str) -> Option<PathBuf> {
    let relative = Path::new(path.strip_prefix('/')?);
    let plain = |component| matches!(component, Component::Normal(_));
    let named = !relative.as_os_str().is_empty() && relative.components().all(plain);
    named.then(|| relative.to_owned())
}

/// As Go's `path.Join` does it.
fn join(own: &Path, path: &str) -> PathBuf {
    let mut joined = own.to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => joined.push(name),
            Component::ParentDir => {
                joined.pop();
            }
            _ => {}
        }
    }
    joined
}

/// Where the cgroup is that the specification names by a path relative to the caller's own: below
/// that in every version 1 hierarchy. On version 2 alone it is beside the caller's, as runc has it:
/// a cgroup with processes hands no controllers down.
pub fn relative(path: &Path) -> Result<String, CgroupError> {
    let host = Host::find()?;
    let own = fs::read_to_string("/proc/self/cgroup").map_err(CgroupError::Own)?;
    Ok(relative_to(&host, &own, path).to_string())
}

fn relative_to(host: &Host, own: &str, path: &Path) -> Place {
    let own = memberships(own);
    let nowhere = Path::new("");
    let below = |name: &str, root: &Path| {
        let own = own.get(name).copied().unwrap_or(nowhere);
        let seen = own.strip_prefix(root).unwrap_or(own);
        join(
            seen.strip_prefix("/").unwrap_or(seen),
            &path.to_string_lossy(),
        )
    };
    if host.v1.is_empty() {
        let own = own.get(UNIFIED).and_then(|own| own.parent());
        let own = own.and_then(|own| own.strip_prefix("/").ok());
        return Place {
            path: join(own.unwrap_or(nowhere), &path.to_string_lossy()),
            others: BTreeMap::new(),
        };
    }
    let mut place = Place {
        path: below(UNIFIED, Path::new("/")),
        others: BTreeMap::new(),
    };
    for hierarchy in &host.v1 {
        let first = hierarchy
            .controllers
            .first()
            .map_or(UNIFIED, String::as_str);
        let there = below(first, &hierarchy.root);
        if there != place.path {
            place.others.insert(hierarchy.name(), there);
        }
    }
    place
}

/// Lines of `4:cpu,cpuacct:/path`, by each controller.
fn memberships(own: &str) -> BTreeMap<&str, &Path> {
    let line = |line| {
        let mut fields = str::splitn(line, 3, ':').skip(1);
        Some((fields.next()?, Path::new(fields.next()?)))
    };
    own.lines()
        .filter_map(line)
        .flat_map(|(controllers, path)| controllers.split(',').map(move |one| (one, path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
35 31 0:31 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";
    const OWN: &str = "4:memory:/docker/x/inner\n3:cpu,cpuacct:/a\n2:name=systemd:/a\n0::/a\n";

    fn place(path: &str) -> Place {
        Place::parse(path).unwrap()
    }

    #[test]
    fn a_path_that_climbs_is_refused() {
        for path in [
            "",
            "/",
            "relative",
            "/a/../b",
            "/..",
            "/a\n",
            "/a\nmemory:b",
            "/a\nmemory:/",
        ] {
            let parsed = Place::parse(path);
            assert!(matches!(parsed, Err(CgroupError::Path(_))), "{path}");
        }
    }

    #[test]
    fn it_is_read_as_it_is_written() {
        for text in ["/a/b", "/a\nmemory:/b/a\nname=systemd:/c"] {
            assert_eq!(place(text).to_string(), text);
        }
    }

    #[test]
    fn a_relative_path_is_below_the_callers_own() {
        let host = Host::parse(MOUNTS);
        let found = relative_to(&host, OWN, Path::new("id"));
        assert_eq!(found.to_string(), "/a/id\nmemory:/inner/id");
        assert_eq!(found.within(&host.v1[0]), Path::new("a/id"));
        assert_eq!(found.within(&host.v1[2]), Path::new("inner/id"));
        let found = relative_to(
            &host,
            "4:memory:/docker/x\n3:cpu:/\n0::/\n",
            Path::new("id"),
        );
        assert_eq!(found.to_string(), "/id");
    }

    #[test]
    fn on_version_2_alone_it_is_beside_the_callers_own() {
        let host = Host::parse("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let at = |own| relative_to(&host, own, Path::new("id")).to_string();
        assert_eq!(at("0::/user.slice/session-1.scope\n"), "/user.slice/id");
        assert_eq!(at("0::/\n"), "/id");
    }

    #[test]
    fn one_below_is_named_for_all_hierarchies_or_for_one() {
        let host = Host::parse(MOUNTS);
        let own = place("/c\nmemory:/m/c");
        let below = |controller, path| {
            let below = own.below(&host, controller, path);
            below
                .map(|below| below.to_string())
                .map_err(|e| e.to_string())
        };
        assert_eq!(below(None, "/s").unwrap(), "/c/s\nmemory:/m/c/s");
        assert_eq!(below(None, "x/../s/").unwrap(), "/c/s\nmemory:/m/c/s");
        assert_eq!(below(Some("memory"), "s").unwrap(), "/c\nmemory:/m/c/s");
        assert_eq!(
            below(None, "../d").unwrap_err(),
            "../d is not a sub cgroup path"
        );
        assert_eq!(
            below(Some("nope"), "s").unwrap_err(),
            "unknown controller nope in SubCgroupPaths"
        );
    }
}
