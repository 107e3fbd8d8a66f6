//! Options of the local driver: a file system of its own, mounted while containers use the volume.
//!
//! | option | meaning |
//! |---|---|
//! | `type` | what the kernel calls the file system: `tmpfs`, `nfs`, `ext4`, … or `none` |
//! | `device` | where it comes from |
//! | `o` | its options, as mount(8) takes them; `bind` binds `device` |
//! | `size` | a limit for a directory of the host: refused, since no file system here keeps it |

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs as _};

use crate::spec::CheckError;

/// What is mounted for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    kind: String,
    device: String,
    options: String,
}

/// Checks what somebody asks for, in Docker's words.
pub(crate) fn check(options: &BTreeMap<String, String>) -> Result<(), CheckError> {
    const KNOWN: [&str; 4] = ["type", "device", "o", "size"];
    let refuse = |text: String| Err(CheckError::Invalid(text));
    if let Some(other) = options.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return refuse(format!("invalid option: {other:?}"));
    }
    if options.contains_key("size") {
        return refuse(
            "quota size requested but no quota support: of a file system with a size of its own \
             say it in 'o', as in type=tmpfs,device=tmpfs,o=size=100m"
                .to_owned(),
        );
    }
    for (given, wanted) in [
        ("device", "type"),
        ("type", "device"),
        ("o", "device"),
        ("o", "type"),
    ] {
        if options.contains_key(given) && !options.contains_key(wanted) {
            return refuse(format!("missing required option: {wanted:?}"));
        }
    }
    Ok(())
}

impl Own {
    /// What these options mount, if they do.
    pub(crate) fn of(options: Option<&BTreeMap<String, String>>) -> Option<Self> {
        let options = options?;
        let text = |key: &str| options.get(key).cloned().unwrap_or_default();
        options.contains_key("device").then(|| Self {
            kind: text("type"),
            device: text("device"),
            options: text("o"),
        })
    }

    /// Mounts it. Blocks, for as long as a server takes.
    pub(crate) fn mount(&self, target: &std::path::Path) -> std::io::Result<()> {
        let options = match self.kind.as_str() {
            "nfs" | "nfs4" | "cifs" => with_address(&self.options)?,
            _ => self.options.clone(),
        };
        runtime::host::mount(&self.kind, &self.device, &options, target)
    }

    /// For messages.
    pub(crate) fn describe(&self, target: &std::path::Path) -> String {
        let target = target.display();
        let text = format!("mount {}:{target}", self.device);
        match self.options.as_str() {
            "" => text,
            options => format!("{text}, data: {options}"),
        }
    }
}

/// The kernel takes addresses only.
fn with_address(options: &str) -> std::io::Result<String> {
    let words = options.split(',').map(|word| {
        let Some(name) = word.strip_prefix("addr=") else {
            return Ok(word.to_owned());
        };
        if name.parse::<IpAddr>().is_ok() {
            return Ok(word.to_owned());
        }
        let found = (name, 0).to_socket_addrs()?.next();
        let found = found.ok_or_else(|| std::io::Error::other(format!("{name} has no address")))?;
        Ok(format!("addr={}", found.ip()))
    });
    let words: Vec<String> = words.collect::<std::io::Result<_>>()?;
    Ok(words.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        owned.collect()
    }

    #[test]
    fn options_that_cannot_be_are_refused_in_dockers_words() {
        for (pairs, text) in [
            (&[("foo", "x")][..], "invalid option: \"foo\""),
            (&[("type", "tmpfs")], "missing required option: \"device\""),
            (&[("device", "tmpfs")], "missing required option: \"type\""),
            (&[("o", "x")], "missing required option: \"device\""),
        ] {
            assert_eq!(check(&options(pairs)).unwrap_err().to_string(), text);
        }
        let quota = check(&options(&[("size", "10m")])).unwrap_err().to_string();
        assert!(quota.starts_with("quota size requested but no quota support"));
        check(&options(&[
            ("type", "none"),
            ("device", "/x"),
            ("o", "bind"),
        ]))
        .unwrap();
        check(&options(&[])).unwrap();
    }

    #[test]
    fn only_a_device_is_mounted() {
        assert_eq!(Own::of(None), None);
        assert_eq!(Own::of(Some(&options(&[]))), None);
        let own = Own::of(Some(&options(&[
            ("type", "nfs"),
            ("device", ":/x"),
            ("o", "addr=::1"),
        ])));
        let told = own.unwrap().describe(std::path::Path::new("/v"));
        assert_eq!(told, "mount :/x:/v, data: addr=::1");
    }

    #[test]
    fn names_of_servers_become_addresses() {
        assert_eq!(
            with_address("ro,addr=10.0.0.1").unwrap(),
            "ro,addr=10.0.0.1"
        );
        assert!(
            with_address("addr=localhost")
                .unwrap()
                .starts_with("addr=127.")
                || with_address("addr=localhost").unwrap() == "addr=::1"
        );
    }
}
