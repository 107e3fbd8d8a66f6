//! `os/arch/variant`, normalised as containerd's platforms package does it, and which image
//! platform suits which host.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A platform that an image is for (OCI image-index.md, "platform").
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// CPU architecture in Go's words: `amd64`, `arm64`, `arm`, `386`, …
    pub architecture: String,
    /// Operating system in Go's words: `linux`.
    pub os: String,
    /// Version of the operating system (Windows images only).
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Features of the operating system (Windows images only).
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the architecture: `v7` of `arm`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// The text was not `os[/arch[/variant]]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is an invalid platform: os[/arch[/variant]] is wanted, such as linux/amd64")]
pub struct ParsePlatformError(pub String);

impl Platform {
    /// `linux` on `architecture`, in Go's words.
    pub fn linux(architecture: &str) -> Self {
        normalise("linux", architecture, "")
    }

    /// The platform this binary was built for.
    pub fn host() -> Self {
        Self::linux(match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        })
    }

    /// How well an image for `self` runs on `host`: `None` not at all, lower is better.
    ///
    /// A 64-bit ARM host also runs 32-bit ARM images, and amd64 runs 386; the exact match wins.
    pub fn rank_on(&self, host: &Self) -> Option<u8> {
        let image = normalise(&self.os, &self.architecture, &self.variant);
        if image.os != host.os {
            return None;
        }
        match (host.architecture.as_str(), image.architecture.as_str()) {
            (a, b) if a == b => match (host.variant.as_str(), image.variant.as_str()) {
                (a, b) if a == b => Some(0),
                (_, "") => Some(1),
                ("", _) if a == "arm64" || a == "amd64" => Some(2),
                (a, b) if level(a) >= level(b) => Some(3 + level(a) - level(b)),
                _ => None,
            },
            ("arm64", "arm") => Some(20 + 8u8.saturating_sub(level(&image.variant))),
            ("amd64", "386") => Some(30),
            _ => None,
        }
    }
}

/// The number in `v7`.
fn level(variant: &str) -> u8 {
    variant.trim_start_matches('v').parse().unwrap_or(0)
}

fn normalise(os: &str, architecture: &str, variant: &str) -> Platform {
    let os = match os.to_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    };
    let (architecture, variant) = match (architecture.to_lowercase().as_str(), variant) {
        ("i386", _) => ("386".to_owned(), String::new()),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64".to_owned(), String::new()),
        ("x86_64" | "x86-64" | "amd64", v) => ("amd64".to_owned(), v.to_owned()),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64".to_owned(), String::new()),
        ("aarch64" | "arm64", v) => ("arm64".to_owned(), v.to_owned()),
        ("armhf", _) => ("arm".to_owned(), "v7".to_owned()),
        ("armel", _) => ("arm".to_owned(), "v6".to_owned()),
        ("arm", "" | "7") => ("arm".to_owned(), "v7".to_owned()),
        ("arm", v) if !v.starts_with('v') => ("arm".to_owned(), format!("v{v}")),
        (a, v) => (a.to_owned(), v.to_owned()),
    };
    Platform {
        architecture,
        os,
        os_version: String::new(),
        os_features: Vec::new(),
        variant,
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, ParsePlatformError> {
        let wrong = || ParsePlatformError(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let fine = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        if !parts.iter().all(fine) {
            return Err(wrong());
        }
        let host = Self::host();
        match parts.as_slice() {
            // One word is an operating system or an architecture, whichever it names.
            [os @ ("linux" | "windows" | "darwin" | "freebsd")] => {
                Ok(normalise(os, &host.architecture, &host.variant))
            }
            [arch] => {
                let platform = normalise(&host.os, arch, "");
                let known = [
                    "amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "mips64le",
                    "loong64",
                ];
                if known.contains(&platform.architecture.as_str()) {
                    Ok(platform)
                } else {
                    Err(wrong())
                }
            }
            [os, arch] => Ok(normalise(os, arch, "")),
            [os, arch, variant] => Ok(normalise(os, arch, variant)),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_normalised() {
        for (typed, printed) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
        ] {
            assert_eq!(
                typed.parse::<Platform>().unwrap().to_string(),
                printed,
                "{typed}"
            );
        }
        for wrong in ["", "linux/", "a/b/c/d", "li nux/amd64", "nonsense"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_exact_platform_is_preferred() {
        let host = Platform::linux("amd64");
        let rank = |text: &str| text.parse::<Platform>().unwrap().rank_on(&host);
        assert_eq!(rank("linux/amd64"), Some(0));
        assert!(rank("linux/386") > rank("linux/amd64"));
        assert_eq!(rank("linux/arm64"), None);
        assert_eq!(rank("windows/amd64"), None);
    }
}
