//! A fragment changes the base configuration: JSON merge patch (RFC 7396), and `"name+"` appends.
//!
//! Merge patch replaces arrays as a whole, but most cases add one mount or one rule to what is
//! there. A member whose name ends in `+` therefore appends its elements to the array of that name.

use serde_json::{Map, Value};

/// Applies `patch` to `target`.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (name, value) in patch {
        match (name.strip_suffix('+'), value) {
            (Some(name), Value::Array(more)) => append(target, name, more),
            (_, Value::Null) => {
                target.remove(name);
            }
            _ => merge(target.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}

fn append(target: &mut Map<String, Value>, name: &str, more: &[Value]) {
    let there = target
        .entry(name.to_owned())
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(there) = there {
        there.extend_from_slice(more);
    }
}

/// Whether everything in `part` is in `whole`: members of objects may be more, arrays are equal in
/// length. `Err` is the path of the first that is not.
pub fn contains(whole: &Value, part: &Value, path: &str) -> Result<(), String> {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part.iter().try_for_each(|(name, value)| {
            let path = format!("{path}.{name}");
            match (whole.get(name), value) {
                (None, Value::Null) => Ok(()),
                (None, _) => Err(format!("`{path}` is missing")),
                (Some(there), value) => contains(there, value, &path),
            }
        }),
        (Value::Array(whole), Value::Array(part)) if whole.len() == part.len() => {
            let mut pairs = whole.iter().zip(part).enumerate();
            pairs
                .try_for_each(|(i, (there, value))| contains(there, value, &format!("{path}[{i}]")))
        }
        (there, wanted) if there == wanted => Ok(()),
        (there, wanted) => Err(format!("`{path}` is {there}, not {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_replaces_removes_and_appends() {
        let mut target = json!({"a": {"b": 1, "c": [1]}, "d": [1, 2]});
        merge(
            &mut target,
            &json!({"a": {"b": null, "c+": [2], "e+": [0]}, "d": [3]}),
        );
        assert_eq!(target, json!({"a": {"c": [1, 2], "e": [0]}, "d": [3]}));
    }

    #[test]
    fn a_part_is_found_and_what_is_missing_is_named() {
        let whole = json!({"a": {"b": [1, {"c": 2, "d": 3}]}, "e": 4});
        contains(&whole, &json!({"a": {"b": [1, {"c": 2}]}}), "$").unwrap();
        let wrong = contains(&whole, &json!({"a": {"b": [1, {"c": 5}]}}), "$");
        assert_eq!(wrong.unwrap_err(), "`$.a.b[1].c` is 2, not 5");
        assert!(contains(&whole, &json!({"f": 1}), "$").is_err());
        contains(&whole, &json!({"f": null}), "$").unwrap();
    }
}
