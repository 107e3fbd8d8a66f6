//! Truth values in queries, as Docker's daemon reads them.

/// Empty, `0`, `no`, `false` and `none` in any case are false, and so is what is not said;
/// everything else is true.
pub fn truth(value: Option<&str>) -> bool {
    value.is_some_and(|value| {
        let value = value.trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    })
}

/// The same, with what `default` says when the key is absent.
pub fn truth_or(value: Option<&str>, default: bool) -> bool {
    match value {
        None => default,
        said => truth(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_five_words_are_false() {
        for word in ["", "0", "no", "No", " FALSE ", "none", "\t"] {
            assert!(!truth(Some(word)), "{word:?}");
        }
        for word in ["1", "true", "yes", "2", "off", "nonsense"] {
            assert!(truth(Some(word)), "{word:?}");
        }
        assert!(!truth(None));
        assert!(truth_or(None, true));
        assert!(!truth_or(Some("0"), true));
    }
}
