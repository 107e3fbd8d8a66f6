//! Registry credentials of the caller: Docker's `config.json` and its helper programs.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use api::types::AuthConfig;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};
use vocab::Reference;

use crate::failure::{Failure, Result};
use crate::session::Session;

/// Under which name the credentials of Docker Hub are kept.
pub const HUB: &str = "https://index.docker.io/v1/";

/// The largest config.json that is read.
const CONFIG_BYTES: u64 = 4 << 20;

/// What berth reads in `config.json`; the rest is kept as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// By registry.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub auths: BTreeMap<String, Auth>,
    /// The helper for all registries.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub creds_store: String,
    /// Helpers by registry.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cred_helpers: BTreeMap<String, String>,
    /// The context in use; empty means `default`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub current_context: String,
    /// The keys that detach.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detach_keys: String,
    /// Default format of `ps`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ps_format: String,
    /// Default format of `images`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub images_format: String,
    /// Default format of `network ls`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub networks_format: String,
    /// Default format of `volume ls`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub volumes_format: String,
    /// Default format of `stats`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stats_format: String,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// One registry's entry.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// Base64 of `user:password`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth: String,
    /// In place of a password.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identitytoken: String,
    /// In place of all others.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub registrytoken: String,
}

impl std::fmt::Debug for Auth {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth")
    }
}

impl Config {
    /// The caller's configuration; one that cannot be read is told and counts as empty.
    pub fn load(session: &Session) -> Self {
        let path = Self::path(session);
        match Self::read(&path) {
            Ok(config) => config,
            Err(error) => {
                crate::output::error(format!("WARNING: {}", error.message));
                Self::default()
            }
        }
    }

    fn path(session: &Session) -> PathBuf {
        session.config_directory().join("config.json")
    }

    fn read(path: &Path) -> Result<Self> {
        let failed = |what: String| {
            Failure::new(format!(
                "Error loading config file: {}: {what}",
                path.display()
            ))
        };
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() > CONFIG_BYTES => {
                return Err(failed("it is too long".to_owned()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            _ => {}
        }
        let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))
    }

    /// Writes it so that nobody else can read it, whole or not at all.
    pub fn save(&self, session: &Session) -> Result {
        let path = Self::path(session);
        let failed =
            |error: std::io::Error| Failure::new(format!("write `{}`: {error}", path.display()));
        let directory = session.config_directory();
        fs::create_dir_all(&directory).map_err(failed)?;
        let text = serde_json::to_string(self)
            .map_err(|error| Failure::new(format!("write `{}`: {error}", path.display())))?;
        let temporary = directory.join(format!(".config.json.{}", std::process::id()));
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::options()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(crate::format::indent(&text).as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            failed(error)
        })
    }

    /// The helper that keeps the credentials of `registry`.
    pub fn helper(&self, registry: &str) -> Option<&str> {
        self.cred_helpers
            .get(registry)
            .or(Some(&self.creds_store))
            .map(String::as_str)
            .filter(|helper| !helper.is_empty())
    }

    /// The credentials of `registry`, if there are any.
    pub fn find(&self, registry: &str) -> Option<AuthConfig> {
        let key = if registry == "docker.io" {
            HUB
        } else {
            registry
        };
        if let Some(helper) = self.helper(key) {
            return ask_helper(helper, "get", key).and_then(|answer| {
                let answer: HelperAnswer = serde_json::from_str(&answer).ok()?;
                let token = answer.username == "<token>";
                Some(AuthConfig {
                    username: if token {
                        String::new()
                    } else {
                        answer.username
                    },
                    password: if token {
                        String::new()
                    } else {
                        answer.secret.clone()
                    },
                    identitytoken: if token { answer.secret } else { String::new() },
                    serveraddress: key.to_owned(),
                    ..AuthConfig::default()
                })
            });
        }
        let bare = |name: &str| {
            name.trim_start_matches("https://")
                .trim_start_matches("http://")
                .trim_end_matches('/')
                .to_owned()
        };
        let auth = self.auths.get(key).or_else(|| {
            self.auths
                .iter()
                .find(|(name, _)| bare(name) == bare(key))
                .map(|(_, auth)| auth)
        })?;
        let plain = STANDARD.decode(auth.auth.trim()).unwrap_or_default();
        let plain = String::from_utf8_lossy(&plain).into_owned();
        let (username, password) = plain.split_once(':').unwrap_or((&plain, ""));
        Some(AuthConfig {
            username: username.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
            identitytoken: auth.identitytoken.clone(),
            registrytoken: auth.registrytoken.clone(),
            serveraddress: key.to_owned(),
            ..AuthConfig::default()
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Runs `docker-credential-<helper> <verb>` with `input` on its standard input.
#[expect(
    clippy::disallowed_methods,
    reason = "the helper is the user's own program, run with the user's rights"
)]
pub fn ask_helper(helper: &str, verb: &str, input: &str) -> Option<String> {
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(input.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The value of `X-Registry-Auth` for an image.
pub fn header(session: &Session, image: &Reference) -> String {
    let from_environment = std::env::var("DOCKER_AUTH_CONFIG")
        .ok()
        .and_then(|text| serde_json::from_str::<Config>(&text).ok())
        .and_then(|config| config.find(image.domain()));
    let auth = from_environment
        .or_else(|| Config::load(session).find(image.domain()))
        .unwrap_or_default();
    URL_SAFE.encode(serde_json::to_vec(&auth).unwrap_or_else(|_| b"{}".to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_under_every_spelling() {
        let config: Config = serde_json::from_str(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"http://localhost:5000/":{"auth":"YTpiOmM="}},"other":{"x":1}}"#,
        )
        .unwrap();
        let hub = config.find("docker.io").unwrap();
        assert_eq!((hub.username.as_str(), hub.password.as_str()), ("u", "p"));
        let local = config.find("localhost:5000").unwrap();
        assert_eq!(
            (local.username.as_str(), local.password.as_str()),
            ("a", "b:c")
        );
        assert_eq!(local.serveraddress, "localhost:5000");
        assert!(config.find("example.com").is_none());
    }

    #[test]
    fn what_is_not_ours_in_the_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let session = Session {
            config: Some(directory.path().to_owned()),
            ..Session::default()
        };
        let path = directory.path().join("config.json");
        fs::write(
            &path,
            r#"{"HttpHeaders":{"A":"b"},"auths":{"x":{"auth":"dTpw"}}}"#,
        )
        .unwrap();
        let mut config = Config::load(&session);
        config.auths.clear();
        config.save(&session).unwrap();
        let kept: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(kept, serde_json::json!({"HttpHeaders": {"A": "b"}}));
    }

    #[test]
    fn no_configuration_is_an_empty_one() {
        let config = Config::read(Path::new("/none/config.json")).unwrap();
        assert!(config.auths.is_empty());
    }
}
