//! `user[:group]` becomes numbers, by the image's own `/etc/passwd` and `/etc/group`.
//!
//! The rules are those of runc's `user` package: a number needs no entry, a name does; a user's
//! groups come from `/etc/group` unless a group was named.

use vocab::{Failure, Kind};

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// `$HOME` when the environment has none.
    pub(crate) home: String,
}

/// The user or a group is not there.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    /// No such group.
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
    /// The number is beyond what the kernel takes.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
}

impl Failure for UserError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

pub(crate) const ID_MAX: u32 = i32::MAX as u32;

/// Finds `typed` (`user[:group]`, empty is root) and the groups in `extra`.
pub(crate) fn find(
    typed: &str,
    extra: &[String],
    passwd: &str,
    group: &str,
) -> Result<Identity, UserError> {
    let (user, named_group) = match typed.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (typed, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = number(user)?;
    let entry = passwd.lines().filter_map(Entry::parse).find(|entry| {
        // A name that looks like a number is looked for as a name first, as runc does.
        entry.name == user || number.is_some_and(|number| entry.uid == number)
    });
    let mut identity = match (entry, number) {
        (Some(entry), _) => Identity {
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: entry.home.to_owned(),
        },
        (None, Some(uid)) => Identity {
            uid,
            gid: 0,
            groups: Vec::new(),
            home: String::new(),
        },
        (None, None) => return Err(UserError::User(user.to_owned())),
    };
    if identity.home.is_empty() {
        "/".clone_into(&mut identity.home);
    }
    match named_group {
        Some(named) => identity.gid = find_group(named, group)?,
        None => {
            if let Some(name) = passwd
                .lines()
                .filter_map(Entry::parse)
                .find(|entry| entry.uid == identity.uid)
                .map(|entry| entry.name)
            {
                identity.groups = group
                    .lines()
                    .filter_map(Group::parse)
                    .filter(|group| group.members.split(',').any(|member| member == name))
                    .map(|group| group.gid)
                    .collect();
            }
        }
    }
    for named in extra {
        identity.groups.push(find_group(named, group)?);
    }
    if identity.uid > ID_MAX || identity.gid > ID_MAX {
        return Err(UserError::Range);
    }
    // Docker sends the main group along with the others.
    identity.groups.retain(|gid| *gid != identity.gid);
    identity.groups.insert(0, identity.gid);
    let mut seen = Vec::with_capacity(identity.groups.len());
    identity.groups.retain(|gid| {
        let new = !seen.contains(gid);
        seen.push(*gid);
        new
    });
    Ok(identity)
}

/// What is typed as a number. One that is out of range is not a name instead, which the image could
/// give to root (CVE-2024-40635, CVE-2026-46680).
fn number(typed: &str) -> Result<Option<u32>, UserError> {
    let digits = typed.strip_prefix(['+', '-']).unwrap_or(typed);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match typed.parse::<u32>() {
        Ok(number) if number <= ID_MAX => Ok(Some(number)),
        _ => Err(UserError::Range),
    }
}

fn find_group(named: &str, group: &str) -> Result<u32, UserError> {
    let number = number(named)?;
    group
        .lines()
        .filter_map(Group::parse)
        .find(|group| group.name == named || number.is_some_and(|number| group.gid == number))
        .map(|group| group.gid)
        .or(number)
        .ok_or_else(|| UserError::Group(named.to_owned()))
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let _password = fields.next()?;
        Some(Self {
            name,
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
            home: fields.nth(1).unwrap_or(""),
        })
    }
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let _password = fields.next()?;
        Some(Self {
            name,
            gid: fields.next()?.parse().ok()?,
            members: fields.next().unwrap_or(""),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\nweb:x:33:34::/var/www:\n\
                          7:x:70:71::/seven:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:40:web,root\nssl:x:41:web\n";

    fn check(typed: &str, extra: &[&str], wanted: (u32, u32, &[u32], &str)) {
        let extra: Vec<String> = extra.iter().map(|&group| group.to_owned()).collect();
        let found = find(typed, &extra, PASSWD, GROUP).unwrap();
        let (uid, gid, groups, home) = wanted;
        assert_eq!((found.uid, found.gid), (uid, gid), "{typed}");
        assert_eq!(
            (found.groups.as_slice(), found.home.as_str()),
            (groups, home),
            "{typed}"
        );
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        check("", &[], (0, 0, &[0, 40], "/root"));
        check("web", &[], (33, 34, &[34, 40, 41], "/var/www"));
        check("33", &[], (33, 34, &[34, 40, 41], "/var/www"));
        check("web:log", &[], (33, 40, &[40], "/var/www"));
        check("web:5", &[], (33, 5, &[5], "/var/www"));
        check("1000", &[], (1000, 0, &[0], "/"));
        check(
            "1000:1000",
            &["ssl", "77"],
            (1000, 1000, &[1000, 41, 77], "/"),
        );
        check("7", &[], (70, 71, &[71], "/seven"));
    }

    #[test]
    fn who_is_not_there_is_named() {
        let error = find("nobody", &[], PASSWD, GROUP).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert!(matches!(
            find("web:x", &[], PASSWD, GROUP),
            Err(UserError::Group(_))
        ));
    }

    /// Taken out: `number` answered `None` for what does not fit. Seen: user 0.
    #[test]
    fn numbers_that_do_not_fit_are_no_names() {
        let passwd = "4294967296:x:0:0::/:\n-1:x:0:0::/:\n2147483648:x:0:0::/:\n";
        let group = "4294967296:x:0:\n";
        for typed in [
            "4294967296",
            "4294967295",
            "2147483648",
            "-1",
            "1:4294967296",
        ] {
            let found = find(typed, &[], passwd, group);
            assert!(matches!(found, Err(UserError::Range)), "{typed}: {found:?}");
        }
    }
}
