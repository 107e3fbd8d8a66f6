//! Extended attributes as they stand behind an inode.

use super::fields::Fields;
use super::nodes::Marks;

/// What stands before the attributes of an inode: no name filter, no shared ones.
const HEADER: [u8; 12] = [0; 12];
/// Prefixes that have a number of their own.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// Attributes one after the other; what EROFS cannot name is left out.
pub(super) fn encode(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut fields = Fields::default();
    for (name, value) in xattrs {
        put(&mut fields, name, value);
    }
    fields.0
}

/// All that stands behind an inode which has these attributes; nothing if there are none.
pub(super) fn behind(encoded: Vec<u8>, marks: Marks) -> Vec<u8> {
    let mut fields = Fields(encoded);
    // As overlayfs reads them.
    if marks.is_opaque {
        put(&mut fields, b"trusted.overlay.opaque", b"y");
    }
    if marks.has_whiteouts {
        put(&mut fields, b"trusted.overlay.origin", b"");
    }
    match fields.0.is_empty() {
        true => fields.0,
        false => [&HEADER[..], &fields.0].concat(),
    }
}

/// What an inode says of how much stands behind it.
pub(super) fn count(bytes: u32) -> u16 {
    let count = match bytes {
        0 => 0,
        bytes => (bytes - 12) / 4 + 1,
    };
    u16::try_from(count).expect("attributes are bounded")
}

fn put(fields: &mut Fields, name: &[u8], value: &[u8]) {
    let known = PREFIXES.iter().find_map(|(prefix, number)| {
        let rest = name.strip_prefix(*prefix)?;
        (rest.is_empty() == prefix.starts_with(b"system.")).then_some((rest, *number))
    });
    let (Some((rest, number)), Ok(value_bytes)) = (known, u16::try_from(value.len())) else {
        // No file system would show it either.
        return;
    };
    fields.u8(u8::try_from(rest.len()).expect("names are at most 255 bytes"));
    fields.u8(number);
    fields.u16(value_bytes);
    fields.0.extend_from_slice(rest);
    fields.0.extend_from_slice(value);
    fields.0.resize(fields.0.len().next_multiple_of(4), 0);
}
