//! Values of options, read as Go reads them.

use crate::{OptionError, Options};

/// Options of every driver, which are checked elsewhere.
const COMMON: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];

/// Refuses what no driver of this name knows.
pub(crate) fn known(driver: &str, options: &Options, own: &[&str]) -> Result<(), OptionError> {
    let strange = options
        .keys()
        .find(|key| !COMMON.contains(&key.as_str()) && !own.contains(&key.as_str()));
    match strange {
        None => Ok(()),
        Some(key) if driver == "gelf" => Err(OptionError(format!(
            "unknown log opt {key:?} for gelf log driver"
        ))),
        Some(key) => Err(OptionError(format!(
            "unknown log opt '{key}' for {driver} log driver"
        ))),
    }
}

/// Go's `strconv.ParseBool`; false where there is nothing.
pub(crate) fn flag(options: &Options, key: &str) -> Result<bool, OptionError> {
    match text(options, key) {
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        other => Err(OptionError(format!(
            "strconv.ParseBool: parsing {other:?}: invalid syntax"
        ))),
    }
}

/// The value, or nothing.
pub(crate) fn text<'a>(options: &'a Options, key: &str) -> &'a str {
    options.get(key).map_or("", String::as_str)
}

/// Options from a test's table.
#[cfg(test)]
pub(crate) fn of(pairs: &[(&str, &str)]) -> Options {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}
