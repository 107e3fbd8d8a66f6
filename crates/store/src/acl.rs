//! Access control lists as archivers write them, and as Linux keeps them.
//!
//! GNU tar, star and bsdtar put the lists of a file into its extended header as text
//! (`SCHILY.acl.access`, `SCHILY.acl.default`): entries between commas or line ends, each
//! `user:NAME-OR-NUMBER:rwx`, to which star and bsdtar append the number that belongs to a name.
//! Linux wants the attributes `system.posix_acl_access` and `system.posix_acl_default`: a version
//! and eight bytes for each entry (`linux/posix_acl_xattr.h`), sorted.

/// `POSIX_ACL_XATTR_VERSION`
const VERSION: u32 = 2;
/// The number of an entry that has none.
const NOBODY: u32 = u32::MAX;
/// Entries of one list; the attribute ends at 64 KiB.
const ENTRIES: usize = 8000;

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Why a text is no list.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("has an access control list that cannot be used: {0}")]
pub(crate) struct AclError(String);

/// The attribute's value. Nothing if the text is empty, or names somebody without a number: who that
/// is only the system in the image knows.
pub(crate) fn read(text: &[u8]) -> Result<Option<Vec<u8>>, AclError> {
    let wrong = |what: &str| AclError(what.to_owned());
    let text = std::str::from_utf8(text).map_err(|_| wrong("it is no text"))?;
    let mut entries = Vec::new();
    for line in text.split(['\n', ',']) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match entry(line).ok_or_else(|| AclError(format!("`{}`", line.escape_debug())))? {
            Some(entry) => entries.push(entry),
            None => return Ok(None),
        }
        if entries.len() > ENTRIES {
            return Err(wrong("it has too many entries"));
        }
    }
    if entries.is_empty() {
        return Ok(None);
    }
    entries.sort_unstable();
    if entries
        .windows(2)
        .any(|pair| pair[0].0 == pair[1].0 && pair[0].1 == pair[1].1)
    {
        return Err(wrong("it has an entry twice"));
    }
    let has = |tag| entries.iter().any(|entry| entry.0 == tag);
    if ![OWNER, OWNING_GROUP, OTHER].into_iter().all(has) {
        return Err(wrong("owner, group or others are missing"));
    }
    if (has(USER) || has(GROUP)) && !has(MASK) {
        return Err(wrong("its mask is missing"));
    }
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, number, rights) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&rights.to_le_bytes());
        value.extend_from_slice(&number.to_le_bytes());
    }
    Ok(Some(value))
}

/// Whether a list says no more than a mode does.
pub(crate) fn is_mode(value: &[u8]) -> bool {
    value.len() == 4 + 3 * 8
}

/// Tag, number and rights of one entry. `None` is no entry; nothing in it is a name without a
/// number.
fn entry(line: &str) -> Option<Option<(u16, u32, u16)>> {
    let mut fields = line.split(':');
    let tag = fields.next()?;
    let fields: Vec<&str> = fields.map(str::trim).collect();
    let (named, unnamed) = match tag.trim() {
        "user" | "u" => (Some(USER), OWNER),
        "group" | "g" => (Some(GROUP), OWNING_GROUP),
        "mask" | "m" => (None, MASK),
        "other" | "o" => (None, OTHER),
        _ => return None,
    };
    let (name, rights, appended) = match (fields.as_slice(), named) {
        // Solaris leaves out what is always empty.
        (&[rights], None) => ("", rights, None),
        (&[name, rights], _) => (name, rights, None),
        (&[name, rights, number], Some(_)) => (name, rights, Some(number)),
        _ => return None,
    };
    let rights = self::rights(rights)?;
    let Some(tag) = named.filter(|_| !name.is_empty()) else {
        return name.is_empty().then_some(Some((unnamed, NOBODY, rights)));
    };
    let number = match (name.parse::<u32>(), appended) {
        // The number is what counts elsewhere, as with owners.
        (_, Some(number)) => number.parse().ok()?,
        (Ok(number), None) => number,
        (Err(_), None) => return Some(None),
    };
    (number != NOBODY).then_some(Some((tag, number, rights)))
}

/// `r-x`
fn rights(text: &str) -> Option<u16> {
    let mut rights = 0;
    for letter in text.chars() {
        rights |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    Some(rights)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, entries: &[(u16, u32, u16)]) {
        let mut value = vec![2, 0, 0, 0];
        for (tag, number, rights) in entries {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&rights.to_le_bytes());
            value.extend_from_slice(&number.to_le_bytes());
        }
        assert_eq!(read(text.as_bytes()), Ok(Some(value)), "{text}");
    }

    #[test]
    fn lists_of_all_archivers_are_read() {
        let entries = [
            (1, NOBODY, 7),
            (2, 0, 4),
            (2, 1000, 6),
            (4, NOBODY, 5),
            (8, 70_000, 0),
            (16, NOBODY, 7),
            (32, NOBODY, 1),
        ];
        for text in [
            "user::rwx\nuser:0:r--\nuser:1000:rw-\ngroup::r-x\ngroup:70000:---\nmask::rwx\nother::--x\n",
            "user::rwx,user:lisa:rw-:1000,user:root:r--:0,group::r-x,group:staff:---:70000,mask::rwx,other::--x",
            "u::rwx, g::rx, o:x, m:rwx, g:70000:, u:1000:rw\t#effective:r--, u:0:r # the last",
        ] {
            check(text, &entries);
        }
        check(
            "user::r--,group::r--,mask::r--,other::r--",
            &[
                (1, NOBODY, 4),
                (4, NOBODY, 4),
                (16, NOBODY, 4),
                (32, NOBODY, 4),
            ],
        );
    }

    #[test]
    fn what_is_no_list_is_told() {
        let told = |text: &str| read(text.as_bytes()).unwrap_err().0;
        assert_eq!(told("user::rwz"), "`user::rwz`");
        assert_eq!(told("everyone::rwx"), "`everyone::rwx`");
        assert_eq!(told("mask:7:rwx"), "`mask:7:rwx`");
        assert_eq!(told("user:1:rwx:many"), "`user:1:rwx:many`");
        assert_eq!(told("user:4294967295:rwx"), "`user:4294967295:rwx`");
        assert_eq!(told("user::rwx"), "owner, group or others are missing");
        let minimal = "user::rwx,group::r-x,other::r-x";
        assert_eq!(
            told(&format!("{minimal},user:1:r--")),
            "its mask is missing"
        );
        assert_eq!(
            told(&format!("{minimal},user::r--")),
            "it has an entry twice"
        );
        assert!(is_mode(&read(minimal.as_bytes()).unwrap().unwrap()));
        let named = format!("{minimal},mask::r--,user:lisa:r--");
        assert_eq!(read(named.as_bytes()), Ok(None));
        assert_eq!(read(b""), Ok(None));
    }
}
