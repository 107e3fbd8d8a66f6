//! How the ids of a user namespace stand for ids of the namespace around it (pure).

use std::fmt::Write as _;

use crate::error::CreateError;
use crate::oci;
use crate::plan::invalid;

/// The kernel takes no more lines (`UID_GID_MAP_MAX_EXTENTS`).
const MAX_LINES: usize = 340;

/// A run of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    /// The first, as the container counts.
    pub(crate) inside: u32,
    /// The first, as the caller counts.
    pub(crate) outside: u32,
    pub(crate) length: u32,
}

/// What a user namespace calls its users and groups. Two are equal if they say the same in the
/// same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mappings {
    pub(crate) users: Vec<Run>,
    pub(crate) groups: Vec<Run>,
}

impl Mappings {
    /// Checks what stands at `<at>.uidMappings` and `<at>.gidMappings`; `None` if neither does.
    pub(crate) fn new(
        at: &str,
        users: Option<&[oci::LinuxIdMapping]>,
        groups: Option<&[oci::LinuxIdMapping]>,
    ) -> Result<Option<Self>, CreateError> {
        let (users_at, groups_at) = (format!("{at}.uidMappings"), format!("{at}.gidMappings"));
        let users = runs(&users_at, users.unwrap_or_default())?;
        let groups = runs(&groups_at, groups.unwrap_or_default())?;
        match (users.is_empty(), groups.is_empty()) {
            (true, true) => Ok(None),
            (true, false) => Err(invalid(users_at, "is missing, while gidMappings is given")),
            (false, true) => Err(invalid(groups_at, "is missing, while uidMappings is given")),
            (false, false) => Ok(Some(Self { users, groups })),
        }
    }

    pub(crate) fn has_user(&self, inside: u32) -> bool {
        outside(&self.users, inside).is_some()
    }

    pub(crate) fn has_group(&self, inside: u32) -> bool {
        outside(&self.groups, inside).is_some()
    }
}

/// What `inside` stands for.
pub(crate) fn outside(runs: &[Run], inside: u32) -> Option<u32> {
    runs.iter().find_map(|run| {
        let place = inside.checked_sub(run.inside)?;
        (place < run.length).then(|| run.outside + place)
    })
}

/// The text of `/proc/<pid>/uid_map`.
pub(crate) fn text(runs: &[Run]) -> String {
    let mut text = String::new();
    for run in runs {
        let Run {
            inside,
            outside,
            length,
        } = run;
        // Writing to a string does not fail.
        let _ = writeln!(text, "{inside} {outside} {length}");
    }
    text
}

/// The other way round.
pub(crate) fn parse(text: &str) -> Option<Vec<Run>> {
    let run = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        Some(Run {
            inside: numbers.next()??,
            outside: numbers.next()??,
            length: numbers.next()??,
        })
    };
    text.lines().map(run).collect()
}

fn runs(at: &str, mappings: &[oci::LinuxIdMapping]) -> Result<Vec<Run>, CreateError> {
    if mappings.len() > MAX_LINES {
        let reason = format!("has more than the {MAX_LINES} lines that the kernel takes");
        return Err(invalid(at, reason));
    }
    let mut runs: Vec<Run> = Vec::new();
    for (i, mapping) in mappings.iter().enumerate() {
        let run = Run {
            inside: mapping.container_id(),
            outside: mapping.host_id(),
            length: mapping.size(),
        };
        let end = |first: u32| first.checked_add(run.length).ok_or(());
        if run.length == 0 {
            return Err(invalid(format!("{at}[{i}].size"), "is 0"));
        }
        if end(run.inside).is_err() || end(run.outside).is_err() {
            return Err(invalid(
                format!("{at}[{i}]"),
                "goes beyond the last id, 4294967294",
            ));
        }
        let meets = |a: u32, b: u32, length: u32| a < b + length && b < a + run.length;
        if let Some(other) = runs.iter().position(|other| {
            meets(run.inside, other.inside, other.length)
                || meets(run.outside, other.outside, other.length)
        }) {
            return Err(invalid(
                format!("{at}[{i}]"),
                format!("maps ids that {at}[{other}] maps too"),
            ));
        }
        runs.push(run);
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(inside: u32, outside: u32, length: u32) -> oci::LinuxIdMapping {
        oci::LinuxIdMappingBuilder::default()
            .container_id(inside)
            .host_id(outside)
            .size(length)
            .build()
            .unwrap()
    }

    fn check(users: &[(u32, u32, u32)]) -> Result<Mappings, String> {
        let users: Vec<_> = users.iter().map(|(i, o, l)| mapping(*i, *o, *l)).collect();
        let groups = [mapping(0, 0, 1)];
        Mappings::new("linux", Some(&users), Some(&groups))
            .map(Option::unwrap)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn ids_are_found_in_their_runs() {
        let mappings = check(&[(0, 1000, 1), (1, 100_000, 65_535)]).unwrap();
        let found = [0, 1, 65_535, 65_536].map(|id| outside(&mappings.users, id));
        assert_eq!(found, [Some(1000), Some(100_000), Some(165_534), None]);
        assert!(mappings.has_group(0) && !mappings.has_group(1));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mappings = check(&[(0, 1000, 1), (1, 100_000, 65_535)]).unwrap();
        let text = text(&mappings.users);
        assert_eq!(text, "0 1000 1\n1 100000 65535\n");
        assert_eq!(parse(&text), Some(mappings.users));
        assert_eq!(parse("0 x 1\n"), None);
    }

    #[test]
    fn what_the_kernel_would_refuse_is_named() {
        for (users, expected) in [
            (&[(0, 0, 0)][..], "linux.uidMappings[0].size: is 0"),
            (
                &[(0, u32::MAX, 2)],
                "linux.uidMappings[0]: goes beyond the last id, 4294967294",
            ),
            (
                &[(0, 0, 10), (9, 100, 1)],
                "linux.uidMappings[1]: maps ids that linux.uidMappings[0] maps too",
            ),
            (
                &[(0, 5, 1), (1, 0, 6)],
                "linux.uidMappings[1]: maps ids that linux.uidMappings[0] maps too",
            ),
            (
                &[],
                "linux.uidMappings: is missing, while gidMappings is given",
            ),
        ] {
            let said = check(users).unwrap_err();
            assert_eq!(said, format!("invalid specification: {expected}"));
        }
    }
}
