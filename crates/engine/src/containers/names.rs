//! Names for containers that nobody named, and which names are fine.

/// First words.
const QUALITIES: [&str; 48] = [
    "able", "agile", "amber", "blithe", "bold", "brave", "bright", "brisk", "calm", "candid",
    "cheery", "clever", "cosy", "crisp", "dapper", "deft", "eager", "early", "fair", "fleet",
    "fond", "frank", "fresh", "gentle", "glad", "golden", "hardy", "hearty", "jolly", "keen",
    "kind", "lively", "lucid", "mellow", "merry", "nimble", "patient", "plucky", "quick", "quiet",
    "ready", "sober", "spry", "steady", "sunny", "trusty", "vivid", "witty",
];

/// Second words: harbours.
const HARBOURS: [&str; 48] = [
    "aarhus", "antwerp", "bergen", "bilbao", "bremen", "cadiz", "calais", "cork", "danzig",
    "dover", "dublin", "esbjerg", "genoa", "gdynia", "haifa", "halifax", "hamburg", "havre",
    "helsinki", "hobart", "izmir", "kiel", "kobe", "lagos", "limassol", "lisbon", "malaga",
    "malmo", "mersin", "mombasa", "nagoya", "naples", "narvik", "odessa", "oslo", "ostend",
    "piraeus", "porto", "riga", "rostock", "seattle", "split", "tallinn", "tanger", "trieste",
    "tromso", "turku", "valencia",
];

/// A name by chance; `again` is how many times it was taken already.
pub(crate) fn random(again: u32) -> String {
    let mut bytes = [0; 3];
    getrandom::fill(&mut bytes).expect("the kernel's random source is always there");
    let [first, second, digit] = bytes.map(usize::from);
    let name = format!(
        "{}_{}",
        QUALITIES[first % QUALITIES.len()],
        HARBOURS[second % HARBOURS.len()]
    );
    match again {
        0 => name,
        _ => format!("{name}{}", digit * usize::try_from(again).unwrap_or(1)),
    }
}

/// Whether a container may have this name.
pub(crate) fn is_fine(name: &str) -> bool {
    name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_fine() {
        for again in 0..20 {
            assert!(is_fine(&random(again)));
        }
        for name in ["", "a", "-a", "a b", "a/b", "ä1"] {
            assert!(!is_fine(name), "{name}");
        }
    }
}
