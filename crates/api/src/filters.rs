//! The `filters` query, in both shapes that clients send.
//!
//! Go clients send `{"label":{"a=b":true}}`, docker-py sends `{"label":["a=b"]}`. Values of one key
//! are alternatives, keys must all match; `label` is the exception, where every value must match.
//! Which keys a list knows is decided beside its route, with [`Filters::check`].

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// Values by key, without order and without repeats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

/// Why a `filters` query was refused.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Neither shape.
    #[error("invalid filter: {0}")]
    Shape(String),
    /// A key that this list does not know.
    #[error("invalid filter '{0}'")]
    UnknownKey(String),
    /// A value that is neither true nor false.
    #[error("invalid filter '{key}={value:?}'")]
    NotBoolean {
        /// Of which key.
        key: String,
        /// What was given.
        value: Vec<String>,
    },
}

impl vocab::Failure for FilterError {
    fn kind(&self) -> vocab::Kind {
        vocab::Kind::InvalidArgument
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Map(BTreeMap<String, bool>),
    List(Vec<String>),
    Null,
}

impl Filters {
    /// No filters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the query value; empty text is no filters.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let wire: BTreeMap<String, Values> =
            serde_json::from_str(text).map_err(|error| FilterError::Shape(error.to_string()))?;
        let mut filters = Self::default();
        for (key, values) in wire {
            let values: Vec<String> = match values {
                Values::Map(map) => map
                    .into_iter()
                    .filter(|(_, on)| *on)
                    .map(|(v, _)| v)
                    .collect(),
                Values::List(list) => list,
                Values::Null => Vec::new(),
            };
            filters.0.entry(key).or_default().extend(values);
        }
        Ok(filters)
    }

    /// Adds one value.
    pub fn add(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.entry(key.into()).or_default().insert(value.into());
    }

    /// The shape that Go clients send; empty text when there is nothing to send.
    pub fn to_query(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let wire: BTreeMap<&str, BTreeMap<&str, bool>> = self
            .0
            .iter()
            .map(|(key, values)| {
                (
                    key.as_str(),
                    values.iter().map(|v| (v.as_str(), true)).collect(),
                )
            })
            .collect();
        serde_json::to_string(&wire).expect("maps of text always serialise")
    }

    /// Refuses keys that are not in `known`.
    pub fn check(&self, known: &[&str]) -> Result<(), FilterError> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(FilterError::UnknownKey(key.clone())),
            None => Ok(()),
        }
    }

    /// Whether `key` was given at all.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The values of `key`.
    pub fn values<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// The one truth value of `key`, or `default` when it was not given.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, FilterError> {
        let Some(values) = self.0.get(key) else {
            return Ok(default);
        };
        let is = |words: [&str; 3]| {
            values
                .iter()
                .any(|v| words.contains(&v.to_lowercase().as_str()))
        };
        match (is(["1", "true", "t"]), is(["0", "false", "f"])) {
            (true, false) => Ok(true),
            (false, true) => Ok(false),
            _ => Err(FilterError::NotBoolean {
                key: key.to_owned(),
                value: values.iter().cloned().collect(),
            }),
        }
    }

    /// Whether nothing is filtered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Values by key, for whoever decides what they mean.
    pub fn into_map(self) -> BTreeMap<String, Vec<String>> {
        self.0
            .into_iter()
            .map(|(key, values)| (key, values.into_iter().collect()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_mean_the_same() {
        let go =
            Filters::parse(r#"{"label":{"a=b":true,"c":true},"status":{"exited":true}}"#).unwrap();
        let python = Filters::parse(r#"{"label":["c","a=b","c"],"status":["exited"]}"#).unwrap();
        assert_eq!(go, python);
        assert_eq!(go.values("label").collect::<Vec<_>>(), ["a=b", "c"]);
    }

    #[test]
    fn what_is_switched_off_does_not_count() {
        let filters = Filters::parse(r#"{"label":{"a":false}}"#).unwrap();
        assert_eq!(filters.values("label").count(), 0);
    }

    #[test]
    fn nothing_is_no_filter() {
        assert!(Filters::parse("").unwrap().is_empty());
        assert!(Filters::parse("{}").unwrap().is_empty());
        assert_eq!(Filters::new().to_query(), "");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut filters = Filters::new();
        filters.add("name", "a b\"<");
        filters.add("name", "ü");
        assert_eq!(Filters::parse(&filters.to_query()).unwrap(), filters);
    }

    #[test]
    fn other_shapes_and_keys_are_refused() {
        for text in ["x", "[]", r#"{"a":1}"#, r#"{"a":[1]}"#, r#"{"a":"b"}"#, "{"] {
            assert!(Filters::parse(text).is_err(), "{text}");
        }
        let filters = Filters::parse(r#"{"nope":["x"]}"#).unwrap();
        let refusal = filters.check(&["label"]).unwrap_err().to_string();
        assert_eq!(refusal, "invalid filter 'nope'");
    }

    #[test]
    fn flags_are_true_or_false_and_nothing_else() {
        let flag = |text: &str| Filters::parse(text).unwrap().flag("dangling", false).ok();
        assert_eq!(flag("{}"), Some(false));
        assert_eq!(flag(r#"{"dangling":["true"]}"#), Some(true));
        assert_eq!(flag(r#"{"dangling":{"0":true}}"#), Some(false));
        assert_eq!(flag(r#"{"dangling":["maybe"]}"#), None);
        assert_eq!(flag(r#"{"dangling":["1","0"]}"#), None);
    }
}
