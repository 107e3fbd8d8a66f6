//! Lists of processors and memory nodes: `0-3,7`.

use std::fs;

use vocab::config::Resources;

use super::CheckError;

/// Where the kernel lists the processors there are.
const PROCESSORS: &str = "/sys/devices/system/cpu/online";

/// Where it lists the memory nodes; a kernel without NUMA does not.
const NODES: &str = "/sys/devices/system/node/online";

/// Refuses lists that are none, or name what this host does not have.
pub(super) fn check(wanted: &Resources) -> Result<(), CheckError> {
    one("cpus", "CPUs", &wanted.cpuset_cpus, PROCESSORS)?;
    one("mems", "memory nodes", &wanted.cpuset_mems, NODES)
}

fn one(list: &str, what: &str, wanted: &str, place: &str) -> Result<(), CheckError> {
    let Some(ranges) = read(wanted) else {
        return Err(CheckError::Invalid(format!(
            "Invalid value {wanted} for cpuset {list}: invalid format: {wanted}"
        )));
    };
    if ranges.is_empty() {
        return Ok(());
    }
    // Where the kernel does not say what there is, it judges at the start.
    let Ok(available) = fs::read_to_string(place) else {
        return Ok(());
    };
    let available = available.trim();
    let there = read(available).unwrap_or_default();
    if covers(&there, &ranges) {
        return Ok(());
    }
    Err(CheckError::Invalid(format!(
        "Requested {what} are not available - requested {wanted}, available: {available}"
    )))
}

/// First and last of each range; nothing at all is no range.
fn read(text: &str) -> Option<Vec<(u32, u32)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some((first, last))
    };
    text.split(',').map(range).collect()
}

/// Whether all of `wanted` is in `there`, whose ranges do not touch, as the kernel writes them.
fn covers(there: &[(u32, u32)], wanted: &[(u32, u32)]) -> bool {
    let within =
        |(first, last): &(u32, u32)| there.iter().any(|own| own.0 <= *first && *last <= own.1);
    wanted.iter().all(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_compared_with_what_there_is() {
        assert_eq!(read("0-3,7").unwrap(), [(0, 3), (7, 7)]);
        assert_eq!(read("").unwrap(), []);
        for text in ["x", "3-0", "0,", "-1", "0-", "0-1-2", " 0"] {
            assert_eq!(read(text), None, "{text}");
        }
        let there = [(0, 3), (7, 7)];
        assert!(covers(&there, &[(1, 2), (7, 7), (0, 0)]));
        assert!(!covers(&there, &[(2, 4)]));
        assert!(!covers(&there, &[(0, 0), (6, 7)]));
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let of = |cpus: &str| Resources {
            cpuset_cpus: cpus.to_owned(),
            ..Resources::default()
        };
        check(&of("0")).unwrap();
        let refused = |cpus: &str| check(&of(cpus)).unwrap_err().to_string();
        assert_eq!(
            refused("x"),
            "Invalid value x for cpuset cpus: invalid format: x"
        );
        assert!(
            refused("0,4294967295").starts_with(
                "Requested CPUs are not available - requested 0,4294967295, available: "
            )
        );
    }
}
