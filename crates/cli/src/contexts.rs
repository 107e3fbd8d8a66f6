//! Named daemons: Docker's contexts, in Docker's own files, so that both command lines share them.
//!
//! ```text
//! ~/.docker/contexts/meta/<sha256 of the name>/meta.json   name, description, endpoint
//! ~/.docker/contexts/tls/<sha256 of the name>/docker/      certificates: kept, not used
//! ~/.docker/config.json                                    currentContext
//! ```
//!
//! `default` is not in a file: it is what the environment says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};
use crate::grammar::pairs;

/// The context that is in no file.
pub const DEFAULT: &str = "default";

/// The name of the daemon's endpoint in a context.
const DOCKER: &str = "docker";

/// What is known of a context; what berth does not know of it stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Context {
    /// Its name.
    pub name: String,
    /// `Description`, and what others put there.
    pub metadata: Map<String, Value>,
    /// `docker`, and others.
    pub endpoints: Map<String, Value>,
}

impl Context {
    /// One that leads to this daemon.
    pub fn new(name: &str, host: &str) -> Self {
        let mut context = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        context.set_host(host);
        context
    }

    /// The daemon's address.
    pub fn host(&self) -> &str {
        let endpoint = self.endpoints.get(DOCKER);
        endpoint
            .and_then(|endpoint| endpoint.get("Host"))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Leads to another daemon.
    pub fn set_host(&mut self, host: &str) {
        let endpoint = serde_json::json!({"Host": host, "SkipTLSVerify": false});
        self.endpoints.insert(DOCKER.to_owned(), endpoint);
    }

    /// What it is for.
    pub fn description(&self) -> &str {
        let text = self.metadata.get("Description").and_then(Value::as_str);
        text.unwrap_or_default()
    }

    /// Says what it is for; nothing takes the description away.
    pub fn describe(&mut self, text: &str) {
        if text.is_empty() {
            self.metadata.remove("Description");
        } else {
            self.metadata.insert("Description".to_owned(), text.into());
        }
    }
}

/// The contexts of one configuration directory.
#[derive(Clone, Debug)]
pub struct Contexts {
    root: PathBuf,
}

impl Contexts {
    /// Those in a configuration directory.
    pub fn of(config: &Path) -> Self {
        Self {
            root: config.join("contexts"),
        }
    }

    /// Where what is said of a context lies.
    pub fn metadata_path(&self, name: &str) -> PathBuf {
        self.root.join("meta").join(id(name))
    }

    /// Where its certificates lie.
    pub fn tls_path(&self, name: &str) -> PathBuf {
        self.root.join("tls").join(id(name))
    }

    /// Looks one up.
    pub fn find(&self, name: &str) -> Result<Context> {
        let path = self.metadata_path(name).join("meta.json");
        let failed = |reason: String| Failure::new(format!("context \"{name}\": {reason}"));
        let text = fs::read(&path).map_err(|error| {
            let (path, reason) = (path.display(), pairs::reason(&error));
            match error.kind() {
                io::ErrorKind::NotFound => {
                    failed(format!("context not found: open {path}: {reason}"))
                }
                _ => failed(format!("open {path}: {reason}")),
            }
        })?;
        serde_json::from_slice(&text)
            .map_err(|error| failed(format!("parsing {}: {error}", path.display())))
    }

    /// Whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        self.metadata_path(name).join("meta.json").exists()
    }

    /// All of them, by name.
    pub fn list(&self) -> Result<Vec<Context>> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(self.root.join("meta")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(Failure::new(pairs::reason(&error))),
        };
        for entry in entries.flatten() {
            let Ok(text) = fs::read(entry.path().join("meta.json")) else {
                continue;
            };
            let context: Context = serde_json::from_slice(&text).map_err(|error| {
                let path = entry.path();
                Failure::new(format!("parsing {}: {error}", path.display()))
            })?;
            found.push(context);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Writes one, whole or not at all.
    pub fn save(&self, context: &Context) -> Result {
        let directory = self.metadata_path(&context.name);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&directory)?;
            let new = directory.join(format!(".meta.json.{}", std::process::id()));
            fs::write(&new, serde_json::to_vec(context)?)?;
            fs::rename(new, directory.join("meta.json"))
        };
        write().map_err(|error| {
            Failure::new(format!(
                "write `{}`: {}",
                directory.display(),
                pairs::reason(&error)
            ))
        })
    }

    /// Removes one, certificates and all.
    pub fn remove(&self, name: &str) -> Result {
        for path in [self.metadata_path(name), self.tls_path(name)] {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let reason = pairs::reason(&error);
                    return Err(Failure::new(format!(
                        "remove `{}`: {reason}",
                        path.display()
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Docker's rule for names.
pub fn check_name(name: &str) -> Result {
    if name.is_empty() {
        return Err(Failure::new("context name cannot be empty"));
    }
    if name == DEFAULT {
        return Err(Failure::new("\"default\" is a reserved context name"));
    }
    let mut letters = name.chars();
    let first = letters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let mut rest = 0;
    let fine = letters.all(|c| {
        rest += 1;
        c.is_ascii_alphanumeric() || "_.+-".contains(c)
    });
    match first && fine && rest > 0 {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "context name \"{name}\" is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
        ))),
    }
}

/// The directory of a context: the digits of its name's SHA-256.
fn id(name: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
    let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_lie_where_docker_looks_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let contexts = Contexts::of(dir.path());
        let mut one = Context::new("one", "tcp://1.2.3.4:2375");
        one.describe("first one");
        contexts.save(&one).unwrap();
        let path = "contexts/meta/7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
        let text = fs::read_to_string(dir.path().join(path).join("meta.json")).unwrap();
        assert_eq!(
            text,
            r#"{"Name":"one","Metadata":{"Description":"first one"},"Endpoints":{"docker":{"Host":"tcp://1.2.3.4:2375","SkipTLSVerify":false}}}"#
        );
        assert_eq!(contexts.list().unwrap(), [one]);
        contexts.remove("one").unwrap();
        assert!(!contexts.has("one") && contexts.list().unwrap().is_empty());
        let error = contexts.find("one").unwrap_err().message;
        assert!(
            error.starts_with("context \"one\": context not found: open /"),
            "{error}"
        );
    }

    #[test]
    fn names_are_judged_as_docker_judges_them() {
        for (name, fine) in [
            ("one", true),
            ("a-b_c.d+e", true),
            ("x", false),
            ("a b", false),
        ] {
            assert_eq!(check_name(name).is_ok(), fine, "{name}");
        }
        assert!(check_name(DEFAULT).is_err() && check_name("").is_err());
    }
}
