//! Annotations `org.systemd.property.NAME`: what else a unit is to be, in GVariant's text form, as
//! runc and crun read them.
//!
//! | text | type |
//! |---|---|
//! | `true`, `false` | boolean |
//! | `'text'`, `"text"` | string |
//! | `['a', 'b']` | strings |
//! | `7`, `int32 7`, `uint32 7`, `int64 7`, `uint64 7` | numbers |
//!
//! A name that ends in `Sec` is in seconds, and becomes what systemd has in microseconds, `USec`.

use std::collections::HashMap;

use super::dbus::Value;
use super::systemd::SystemdError;

const PREFIX: &str = "org.systemd.property.";
/// `Sec` to `USec`.
const MICROS: u64 = 1_000_000;

/// Properties of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(pub(super) Vec<(String, Value)>);

impl Properties {
    /// Those that the annotations name; in the order of their names.
    pub fn new(annotations: Option<&HashMap<String, String>>) -> Result<Self, SystemdError> {
        let mut named: Vec<_> = annotations
            .into_iter()
            .flatten()
            .filter_map(|(key, text)| Some((key.strip_prefix(PREFIX)?, text)))
            .filter(|(name, _)| !name.is_empty())
            .collect();
        named.sort_unstable();
        let read = |(name, text): (&str, &String)| {
            property(name, text).map_err(|reason| SystemdError::Annotation {
                key: format!("{PREFIX}{name}"),
                reason,
            })
        };
        Ok(Self(named.into_iter().map(read).collect::<Result<_, _>>()?))
    }
}

fn property(name: &str, text: &str) -> Result<(String, Value), String> {
    if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(String::from("is no name of a property"));
    }
    let value = value(text.trim()).ok_or_else(|| format!("cannot read the value {text:?}"))?;
    let seconds = name.strip_suffix("Sec");
    let seconds = seconds.filter(|rest| rest.ends_with(|last: char| last.is_ascii_lowercase()));
    let Some(rest) = seconds else {
        return Ok((name.to_owned(), value));
    };
    let count = match value {
        Value::Number(count) => Some(count),
        Value::Short(count) => Some(u64::from(count)),
        Value::SignedShort(count) => u64::try_from(count).ok(),
        Value::Signed(count) => u64::try_from(count).ok(),
        _ => None,
    };
    let micros = count.and_then(|count| count.checked_mul(MICROS));
    let micros = micros.ok_or_else(|| format!("{text:?} is no number of seconds"))?;
    Ok((format!("{rest}USec"), Value::Number(micros)))
}

fn value(text: &str) -> Option<Value> {
    if let Some(items) = text.strip_prefix('[') {
        return texts(items.strip_suffix(']')?).map(Value::Texts);
    }
    if let Some((text, "")) = quoted(text) {
        return Some(Value::Text(text));
    }
    let (kind, digits) = text.split_once(' ').unwrap_or(("int32", text));
    let digits = digits.trim();
    match (text, kind) {
        ("true", _) => Some(Value::Bool(true)),
        ("false", _) => Some(Value::Bool(false)),
        (_, "int32") => digits.parse().ok().map(Value::SignedShort),
        (_, "uint32") => digits.parse().ok().map(Value::Short),
        (_, "int64") => digits.parse().ok().map(Value::Signed),
        (_, "uint64") => digits.parse().ok().map(Value::Number),
        _ => None,
    }
}

fn texts(mut rest: &str) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    loop {
        let (text, behind) = quoted(rest.trim_start())?;
        texts.push(text);
        rest = behind.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return rest.is_empty().then_some(texts),
        }
    }
}

/// A string in either kind of quotes, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text
        .chars()
        .next()
        .filter(|first| matches!(first, '\'' | '"'))?;
    let mut said = String::new();
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            letter if escaped => {
                said.push(match letter {
                    'n' => '\n',
                    't' => '\t',
                    other => other,
                });
                escaped = false;
            }
            '\\' => escaped = true,
            letter if letter == quote => return Some((said, &text[at + letter.len_utf8()..])),
            letter => said.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<(String, Value)>, String> {
        let annotations = [(format!("{PREFIX}{name}"), text.to_owned())].into();
        Properties::new(Some(&annotations))
            .map(|properties| properties.0)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_type_is_read() {
        for (text, value) in [
            ("true", Value::Bool(true)),
            (
                "'inactive-or-failed'",
                Value::Text("inactive-or-failed".into()),
            ),
            (r#""a \"b\"""#, Value::Text("a \"b\"".into())),
            ("['a', \"b\"]", Value::Texts(vec!["a".into(), "b".into()])),
            ("-7", Value::SignedShort(-7)),
            ("uint32 7", Value::Short(7)),
            ("int64 -7", Value::Signed(-7)),
            ("uint64 7", Value::Number(7)),
        ] {
            assert_eq!(
                read("Property", text).unwrap(),
                [("Property".into(), value)]
            );
        }
    }

    #[test]
    fn seconds_become_microseconds() {
        let micros = Value::Number(3_000_000);
        let expected = [("TimeoutStopUSec".to_owned(), micros)];
        assert_eq!(read("TimeoutStopSec", "3").unwrap(), expected);
        assert_eq!(read("TimeoutStopSec", "uint64 3").unwrap(), expected);
        let kept = Value::Number(7);
        assert_eq!(
            read("TimeoutStopUSec", "uint64 7").unwrap(),
            [("TimeoutStopUSec".to_owned(), kept)]
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_path() {
        assert_eq!(
            read("a.b", "true").unwrap_err(),
            "annotations[\"org.systemd.property.a.b\"]: is no name of a property"
        );
        for wrong in ["", "maybe", "'open", "['a' 'b']", "uint32 -1", "uint9 1"] {
            let said = read("Property", wrong).unwrap_err();
            assert!(said.contains("cannot read the value"), "{wrong}: {said}");
        }
        assert!(
            read("TimeoutStopSec", "'3'")
                .unwrap_err()
                .contains("seconds")
        );
        assert_eq!(Properties::new(None).unwrap(), Properties::default());
    }
}
