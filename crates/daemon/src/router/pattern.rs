//! Paths with names in them.
//!
//! A name may hold slashes and colons (`/images/a/b:c/json`), so a pattern is matched from both
//! ends: what stands before the first name and after the last is literal, and a name takes
//! everything in between. Where several patterns fit, the one with the most literal text is meant.

/// A path with up to two names, written `/images/{name}/json`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern(pub(crate) &'static str);

/// The names found in a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// The first.
    pub(crate) first: String,
    /// The second, where there are two.
    pub(crate) second: String,
}

impl Pattern {
    /// The names in `path`, if it is like this pattern.
    pub(crate) fn find(self, path: &str) -> Option<Names> {
        let Some((before, rest)) = self.0.split_once('{') else {
            return (path == self.0).then(Names::default);
        };
        let (_, rest) = rest.split_once('}')?;
        let path = path.strip_prefix(before)?;
        let (first, second) = match rest.split_once('{') {
            None => (path.strip_suffix(rest)?, ""),
            Some((between, rest)) => {
                let (_, after) = rest.split_once('}')?;
                path.strip_suffix(after)?.rsplit_once(between)?
            }
        };
        let two = rest.contains('{');
        (!first.is_empty() && two != second.is_empty()).then(|| Names {
            first: first.to_owned(),
            second: second.to_owned(),
        })
    }

    /// How much of it is literal.
    pub(crate) fn literal_bytes(self) -> usize {
        let mut inside = false;
        let literal = self.0.bytes().filter(|byte| {
            inside = match byte {
                b'{' => true,
                b'}' => false,
                _ => inside,
            };
            !inside && *byte != b'}'
        });
        literal.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pattern: &'static str, path: &str) -> Option<(String, String)> {
        let names = Pattern(pattern).find(path)?;
        Some((names.first, names.second))
    }

    #[test]
    fn names_take_slashes_and_colons() {
        for (pattern, path, wanted) in [
            ("/_ping", "/_ping", Some(("", ""))),
            ("/_ping", "/_ping/", None),
            ("/images/{name}/json", "/images/a/json", Some(("a", ""))),
            (
                "/images/{name}/json",
                "/images/h:5000/b/c:d/json",
                Some(("h:5000/b/c:d", "")),
            ),
            (
                "/images/{name}/json",
                "/images/json/json",
                Some(("json", "")),
            ),
            ("/images/{name}/json", "/images//json", None),
            ("/images/{name}/json", "/images/json", None),
            (
                "/images/{name}",
                "/images/a/b@sha256:0",
                Some(("a/b@sha256:0", "")),
            ),
            ("/images/{name}", "/images/", None),
            (
                "/c/{id}/checkpoints/{checkpoint}",
                "/c/a/checkpoints/b",
                Some(("a", "b")),
            ),
            (
                "/c/{id}/checkpoints/{checkpoint}",
                "/c/a/checkpoints/",
                None,
            ),
            ("/c/{id}/checkpoints/{checkpoint}", "/c/checkpoints/b", None),
        ] {
            let wanted = wanted.map(|(a, b): (&str, &str)| (a.to_owned(), b.to_owned()));
            assert_eq!(names(pattern, path), wanted, "{pattern} {path}");
        }
    }

    #[test]
    fn literal_text_is_counted() {
        assert_eq!(Pattern("/a/{id}/b").literal_bytes(), 5);
        assert_eq!(Pattern("/a").literal_bytes(), 2);
    }
}
