//! `key=value`: variables, labels, options, hosts.

use std::collections::BTreeMap;
use std::fs;

use crate::template::print::quote;

/// `key=value` texts as a map; without `=` the value is empty, and the last one wins.
pub fn map<'a>(pairs: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

/// Whether a text is a variable.
pub fn check_variable(pair: &str) -> Result<(), String> {
    if pair.split('=').next().is_none_or(str::is_empty) {
        return Err(format!("invalid environment variable: {pair}"));
    }
    Ok(())
}

/// Whether a text is a label.
pub fn check_label(pair: &str) -> Result<(), String> {
    let name = pair.split('=').next().unwrap_or_default();
    if name.is_empty() {
        return Err(format!("invalid label '{pair}': empty name"));
    }
    if name.contains(char::is_whitespace) {
        return Err(format!("label '{name}' contains whitespaces"));
    }
    Ok(())
}

/// Whether a text is `host:address` or `host=address`.
pub fn check_host(pair: &str) -> Result<(), String> {
    host(pair).map(drop)
}

/// A line for /etc/hosts in the form that the API takes.
pub fn host(pair: &str) -> Result<String, String> {
    let bad = || format!("bad format for add-host: {}", quote(pair));
    let (name, address) = pair
        .split_once('=')
        .or_else(|| pair.split_once(':'))
        .ok_or_else(bad)?;
    if name.is_empty() {
        return Err(bad());
    }
    let inner = address
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'))
        .unwrap_or(address);
    if inner != "host-gateway" && inner.parse::<std::net::IpAddr>().is_err() {
        return Err(format!(
            "invalid IP address in add-host: {}",
            quote(address)
        ));
    }
    Ok(format!("{name}:{inner}"))
}

/// Whether a text is an address.
pub fn check_address(text: &str) -> Result<(), String> {
    match text.trim().parse::<std::net::IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
    }
}

/// Whether a text is a legacy link.
pub fn check_link(link: &str) -> Result<(), String> {
    if link.is_empty() {
        return Err("empty string specified for links".to_owned());
    }
    if link.split(':').count() > 2 {
        return Err(format!("bad format for links: {link}"));
    }
    Ok(())
}

/// Whether a text is a kernel parameter that namespaces may have.
pub fn check_sysctl(pair: &str) -> Result<(), String> {
    const KNOWN: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let fine = pair.split_once('=').is_some_and(|(name, _)| {
        KNOWN.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue.")
    });
    if fine {
        Ok(())
    } else {
        Err(format!("sysctl '{pair}' is not allowed"))
    }
}

/// `-e NAME` takes the caller's value; where there is none, the bare name removes the variable.
pub fn variable(pair: &str) -> String {
    if pair.contains('=') {
        return pair.to_owned();
    }
    match std::env::var(pair) {
        Ok(value) => format!("{pair}={value}"),
        Err(_) => pair.to_owned(),
    }
}

/// Lines `KEY=value` of a file, without quoting rules; a bare `KEY` is taken from the caller if
/// `import` and left out if unset there.
pub fn file(path: &str, import: bool) -> Result<Vec<String>, String> {
    let text = fs::read(path).map_err(|error| format!("open {path}: {}", reason(&error)))?;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let text = std::str::from_utf8(text)
        .map_err(|_| format!("invalid env file ({path}): invalid utf8 bytes"))?;
    let mut pairs = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line, None),
        };
        if name.is_empty() {
            return Err(format!(
                "invalid env file ({path}): no variable name on line '{line}'"
            ));
        }
        if name.contains(char::is_whitespace) {
            return Err(format!(
                "invalid env file ({path}): variable '{name}' contains whitespaces"
            ));
        }
        match value {
            Some(value) => pairs.push(format!("{name}={value}")),
            None if import => pairs.extend(std::env::var(name).ok().map(|v| format!("{name}={v}"))),
            None => pairs.push(name.to_owned()),
        }
    }
    Ok(pairs)
}

/// An error of the system in Go's words: `no such file or directory`.
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text
        .rsplit_once(" (os error")
        .map_or(text.as_str(), |(text, _)| text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_maps() {
        let pairs = map(["a=b", "c", "d=e=f", "a=z"]);
        let wanted = [("a", "z"), ("c", ""), ("d", "e=f")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        assert_eq!(pairs, wanted);
    }

    #[test]
    fn mistakes_are_told_as_docker_tells_them() {
        assert_eq!(
            check_variable("=x").unwrap_err(),
            "invalid environment variable: =x"
        );
        assert_eq!(check_label("").unwrap_err(), "invalid label '': empty name");
        assert_eq!(
            check_label("a b").unwrap_err(),
            "label 'a b' contains whitespaces"
        );
        assert_eq!(host("foo").unwrap_err(), "bad format for add-host: \"foo\"");
        assert_eq!(
            host("foo:bar").unwrap_err(),
            "invalid IP address in add-host: \"bar\""
        );
        assert_eq!(
            check_link("a:b:c").unwrap_err(),
            "bad format for links: a:b:c"
        );
        assert_eq!(check_sysctl("x").unwrap_err(), "sysctl 'x' is not allowed");
        assert_eq!(check_sysctl("net.core.somaxconn=1"), Ok(()));
        assert_eq!(
            check_address("x").unwrap_err(),
            "IP address is not correctly formatted: x"
        );
    }

    #[test]
    fn hosts_have_either_sign_and_brackets() {
        assert_eq!(host("a:1.2.3.4").unwrap(), "a:1.2.3.4");
        assert_eq!(host("a=1.2.3.4").unwrap(), "a:1.2.3.4");
        assert_eq!(host("a:host-gateway").unwrap(), "a:host-gateway");
        assert_eq!(host("a=[::1]").unwrap(), "a:::1");
        assert_eq!(host("a:::1").unwrap(), "a:::1");
    }

    #[test]
    fn files_of_variables_are_read_without_quoting() {
        let file_ = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file_.path(),
            "\u{feff}# note\n\n  A=b c \nQ=\"q\"\nX=y=z\nBERTH_SURELY_UNSET\nPATH\n",
        )
        .unwrap();
        let path = file_.path().to_str().unwrap();
        let pairs = file(path, true).unwrap();
        assert_eq!(pairs[..3], ["A=b c ", "Q=\"q\"", "X=y=z"]);
        assert!(pairs[3].starts_with("PATH=/"), "{pairs:?}");
        fs::write(file_.path(), "A B=c\n").unwrap();
        assert_eq!(
            file(path, true).unwrap_err(),
            format!("invalid env file ({path}): variable 'A B' contains whitespaces")
        );
        assert_eq!(
            file("/none", true).unwrap_err(),
            "open /none: no such file or directory"
        );
    }
}
