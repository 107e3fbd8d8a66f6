//! Where the daemon listens, and for whom: the values of `--host`.
//!
//! ```text
//! unix:///run/berth.sock?scope=read-only&group=ops&mode=0660
//! tcp://0.0.0.0:2376
//! fd://                  all sockets that systemd passed on; fd://4 that descriptor
//! ```

use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use super::{ConfigError, SOCKET, wrong};
use crate::scope::Scope;

/// A value of `--host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Where.
    pub listen: Listen,
    /// What may be asked for there.
    pub scope: Scope,
    /// Group of the unix socket, if it is not the daemon's.
    pub group: Option<String>,
    /// Mode of the unix socket.
    pub mode: Option<u32>,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A socket in the file system.
    Unix(PathBuf),
    /// `address:port`.
    Tcp(String),
    /// What systemd listens on: all of it, or one descriptor.
    Inherited(Option<u32>),
}

impl From<Listen> for Host {
    fn from(listen: Listen) -> Self {
        Self {
            listen,
            scope: Scope::Everything,
            group: None,
            mode: None,
        }
    }
}

impl FromStr for Host {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (place, options) = text.split_once('?').unwrap_or((text, ""));
        let mut host = Self::from(place.parse::<Listen>()?);
        let refuse = |wanted| Err(wrong("host", text, wanted));
        let mut owner = None;
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            let is_unix = matches!(host.listen, Listen::Unix(_));
            match name {
                "scope" => match value.parse() {
                    Ok(scope) => host.scope = scope,
                    Err(_) => return refuse(Scope::WANTED),
                },
                "owner" if !value.is_empty() => owner = Some(value),
                "group" if is_unix && !value.is_empty() => host.group = Some(value),
                "mode" if is_unix => match u32::from_str_radix(&value, 8) {
                    Ok(mode) if mode <= 0o777 => host.mode = Some(mode),
                    _ => return refuse("a mode such as 0660"),
                },
                _ => return refuse("options scope, owner, and on unix sockets group and mode"),
            }
        }
        match (&mut host.scope, owner) {
            (Scope::OwnContainers(of), Some(owner)) => *of = owner,
            // Sockets without a name share what was made on the same path.
            (Scope::OwnContainers(of), None) => place.clone_into(of),
            (_, None) => {}
            (_, Some(_)) => return refuse("an owner only with scope=own-containers"),
        }
        Ok(host)
    }
}

impl FromStr for Listen {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        const WANTED: &str = "unix:///path, tcp://address:port or fd://";
        let refuse = || wrong("host", text, WANTED);
        match text.split_once("://").ok_or_else(refuse)? {
            ("unix", "") => Ok(Self::Unix(PathBuf::from(SOCKET))),
            ("unix", path) if path.starts_with('/') => Ok(Self::Unix(PathBuf::from(path))),
            ("fd", "" | "*") => Ok(Self::Inherited(None)),
            ("fd", number) => match number.parse() {
                Ok(number @ 3..) => Ok(Self::Inherited(Some(number))),
                _ => Err(refuse()),
            },
            ("tcp", address) => {
                let address = address.strip_suffix('/').unwrap_or(address);
                let (host, port) = address.rsplit_once(':').ok_or_else(refuse)?;
                port.parse::<u16>().map_err(|_| refuse())?;
                let host = if host.is_empty() { "0.0.0.0" } else { host };
                Ok(Self::Tcp(format!("{host}:{port}")))
            }
            _ => Err(refuse()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Result<Host, String> {
        text.parse().map_err(|error: ConfigError| error.to_string())
    }

    #[test]
    fn hosts_say_where_and_for_whom() {
        let full = host("unix:///a/b?scope=own-containers&owner=ci%20one&group=g&mode=0600");
        let full = full.unwrap();
        assert_eq!(full.listen, Listen::Unix(PathBuf::from("/a/b")));
        assert_eq!(full.scope, Scope::OwnContainers("ci one".to_owned()));
        assert_eq!((full.group.as_deref(), full.mode), (Some("g"), Some(0o600)));
        let plain = host("unix:///a?scope=own-containers").unwrap();
        assert_eq!(plain.scope, Scope::OwnContainers("unix:///a".to_owned()));
        let tcp = host("tcp://:1?scope=events").unwrap();
        assert_eq!(tcp.listen, Listen::Tcp("0.0.0.0:1".to_owned()));
        assert_eq!(tcp.scope, Scope::Events);
        assert_eq!(host("fd://").unwrap().listen, Listen::Inherited(None));
        assert_eq!(host("fd://4").unwrap().listen, Listen::Inherited(Some(4)));
        assert_eq!(host("unix:///a").unwrap().scope, Scope::Everything);
    }

    #[test]
    fn hosts_that_say_nothing_certain_are_refused() {
        for text in [
            "/a",
            "unix://a",
            "tcp://a",
            "tcp://a:b",
            "fd://2",
            "fd://name",
            "http://a:1",
            "unix:///a?scope=",
            "unix:///a?scope=all",
            "unix:///a?scope",
            "unix:///a?nope=1",
            "unix:///a?mode=1000",
            "unix:///a?mode=rw",
            "tcp://:1?group=g",
            "unix:///a?owner=x",
            "unix:///a?scope=read-only&owner=x",
            "unix:///a?group=",
        ] {
            assert!(host(text).is_err(), "{text}");
        }
    }
}
