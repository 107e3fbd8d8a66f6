//! Images.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vocab::config::{ContainerConfig, Healthcheck, Set};
use vocab::manifest::Descriptor;

use super::{DriverData, Identity, ImageManifestSummary, is_zero};

/// One line of `docker images`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageSummary {
    /// How many use it; −1 when not counted.
    pub containers: i64,
    /// Seconds since 1970.
    pub created: i64,
    /// `sha256:…`.
    pub id: String,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// The image it was built on, when known.
    pub parent_id: String,
    /// What its names point at (API 1.48).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    /// The manifests that leads to, if asked for (API 1.47).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<ImageManifestSummary>>,
    /// `repository@digest`; never `null`.
    pub repo_digests: Vec<String>,
    /// `repository:tag`; never `null`.
    pub repo_tags: Vec<String>,
    /// Bytes shared with other images; −1 when not counted.
    pub shared_size: i64,
    /// Bytes.
    pub size: i64,
    /// Bytes, once more (before API 1.44).
    #[serde(skip_serializing_if = "is_zero")]
    pub virtual_size: i64,
}

/// Everything about one image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageInspect {
    /// `sha256:…`.
    pub id: String,
    /// `repository:tag`; never `null`.
    pub repo_tags: Vec<String>,
    /// `repository@digest`; never `null`.
    pub repo_digests: Vec<String>,
    /// The image it was built on (always there before API 1.52).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Of the last commit (always there before API 1.52).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The container it was committed from (before API 1.45).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Of that container (before API 1.45).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_config: Option<ContainerConfig>,
    /// What built it (always there before API 1.52).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker_version: Option<String>,
    /// Who made it (always there before API 1.52).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// How containers of it run; its members depend on the version that is spoken.
    pub config: Option<ImageRuns>,
    /// CPU architecture.
    pub architecture: String,
    /// Variant of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Operating system.
    pub os: String,
    /// Version of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Bytes.
    pub size: i64,
    /// Bytes, once more (before API 1.44).
    #[serde(skip_serializing_if = "is_zero")]
    pub virtual_size: i64,
    /// Where its files are (before API 1.52).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph_driver: Option<DriverData>,
    /// Its layers.
    #[serde(rename = "RootFS")]
    pub root_fs: ImageRootFs,
    /// What only this host knows.
    pub metadata: ImageMetadata,
    /// What its names point at (API 1.48).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    /// The manifests that leads to, if asked for (API 1.48).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<ImageManifestSummary>>,
    /// Where it came from (API 1.53).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// How containers of an image run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageRuns {
    /// Only what an image can say (API 1.50). What is read is always this.
    New(Box<ImageRunConfig>),
    /// With members that only containers have, all empty (before API 1.50).
    Old(Box<ContainerConfig>),
    /// What an image can say, with the members that once were always there (before API 1.52).
    Whole(serde_json::Map<String, serde_json::Value>),
}

impl ImageRuns {
    /// What an image can say, whichever form it came in.
    pub fn into_config(self) -> ImageRunConfig {
        match self {
            Self::New(config) => *config,
            Self::Old(config) => (*config).into(),
            Self::Whole(members) => {
                serde_json::from_value(serde_json::Value::Object(members)).unwrap_or_default()
            }
        }
    }

    /// What an image can say, with the members that were always there before API 1.52.
    pub fn whole(config: &ImageRunConfig) -> Self {
        use serde_json::Value;
        let members = ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes"];
        let members = members.map(|name| (name, Value::Null));
        let texts = ["User", "WorkingDir"].map(|name| (name, Value::from("")));
        let members = members.into_iter().chain(texts);
        let mut whole: serde_json::Map<String, Value> = members
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        if let Ok(Value::Object(said)) = serde_json::to_value(config) {
            whole.extend(said);
        }
        Self::Whole(whole)
    }
}

/// What an image says about how its containers run; what is empty is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageRunConfig {
    /// `user[:group]`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `port/protocol`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<Set>,
    /// `KEY=value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// What runs before `cmd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Arguments of the entry point, or the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths that get an anonymous volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Set>,
    /// Working directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal that asks the process to end.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Windows only.
    #[serde(skip_serializing_if = "is_zero")]
    pub args_escaped: bool,
    /// How health is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for builds on top of this image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// Shell of the shell form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

impl From<ContainerConfig> for ImageRunConfig {
    fn from(config: ContainerConfig) -> Self {
        Self {
            user: config.user,
            exposed_ports: config.exposed_ports.filter(|said| !said.is_empty()),
            env: config.env.filter(|said| !said.is_empty()),
            entrypoint: config.entrypoint.filter(|said| !said.is_empty()),
            cmd: config.cmd.filter(|said| !said.is_empty()),
            volumes: config.volumes.filter(|said| !said.is_empty()),
            working_dir: config.working_dir,
            labels: config.labels.filter(|said| !said.is_empty()),
            stop_signal: config.stop_signal,
            args_escaped: config.args_escaped,
            healthcheck: config.healthcheck,
            on_build: config.on_build.filter(|said| !said.is_empty()),
            shell: config.shell.filter(|said| !said.is_empty()),
        }
    }
}

/// The layers of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageRootFs {
    /// Always `layers`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Digests of the uncompressed tars, lowest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
}

/// What only this host knows of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageMetadata {
    /// RFC 3339; [`vocab::time::ZERO`] when never.
    pub last_tag_time: String,
}

/// One step in an image's history, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HistoryItem {
    /// Why.
    pub comment: String,
    /// Seconds since 1970.
    pub created: i64,
    /// By which command.
    pub created_by: String,
    /// `sha256:…` of the newest step, `<missing>` of all others.
    pub id: String,
    /// Bytes of its layer.
    pub size: i64,
    /// Names of the image; `null` below the newest step.
    pub tags: Option<Vec<String>>,
}

/// What the removal of an image did; one of both is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageDeleted {
    /// A digest that is gone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deleted: String,
    /// A name that is gone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub untagged: String,
}

/// The answer to `POST /images/prune`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImagesPruned {
    /// `null` when there were none.
    pub images_deleted: Option<Vec<ImageDeleted>>,
    /// Bytes.
    pub space_reclaimed: u64,
}

/// One line of progress: pull, push, import, load, build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Text of a build or a load, with its own line ends.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stream: String,
    /// What happens.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// How far it is.
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub detail: Option<ProgressDetail>,
    /// The same as a bar, for old clients.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// To what: a layer or a tag.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Why it ended.
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
    /// The same text, for old clients.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// A result for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
}

/// How far something is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressDetail {
    /// Done.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: i64,
    /// To be done.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: i64,
    /// When it began, seconds since 1970.
    #[serde(skip_serializing_if = "is_zero")]
    pub start: i64,
    /// Whether counts are hidden.
    #[serde(rename = "hidecounts", skip_serializing_if = "is_zero")]
    pub hide_counts: bool,
    /// Bytes when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub units: String,
}

/// Why a stream of progress ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorDetail {
    /// Exit code of a build step.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: i64,
    /// For people.
    pub message: String,
}

/// The member of a registry's account (`X-Registry-Auth`, `POST /auth`).
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct AuthConfig {
    /// User.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Password.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// Base64 of `user:password`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth: String,
    /// Registry.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serveraddress: String,
    /// A refresh token in place of user and password.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identitytoken: String,
    /// A bearer token in place of all others.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub registrytoken: String,
}

impl std::fmt::Debug for AuthConfig {
    /// Without the secrets: this type comes near logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("serveraddress", &self.serveraddress)
            .finish_non_exhaustive()
    }
}

/// The answer to `POST /auth`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AuthResponse {
    /// A refresh token to keep in place of the password.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identity_token: String,
    /// `Login Succeeded`.
    pub status: String,
}

/// What is in an image (`GET /images/{name}/explain`, berth's own).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageExplained {
    /// `sha256:…`.
    pub id: String,
    /// `repository:tag`.
    pub repo_tags: Vec<String>,
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// Bytes of the files in all layers.
    pub size: i64,
    /// Bytes that later layers hide.
    pub wasted: i64,
    /// Bytes that visible files have in common with other visible files.
    pub duplicate: i64,
    /// Lowest first.
    pub layers: Vec<LayerExplained>,
    /// The largest visible files.
    pub largest: Vec<FileExplained>,
    /// The largest hidden files.
    pub wasted_files: Vec<FileExplained>,
    /// Visible files of the same content, those that cost most first.
    pub duplicates: Vec<Vec<FileExplained>>,
}

/// One layer of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct LayerExplained {
    /// Digest of the plain tar.
    pub diff_id: String,
    /// Digest of it as distributed.
    pub digest: String,
    /// Of it as distributed.
    pub media_type: String,
    /// Bytes as distributed.
    pub distributed: i64,
    /// Bytes of its files.
    pub size: i64,
    /// Its files, links and devices.
    pub files: i64,
    /// Bytes of it that later layers hide.
    pub wasted: i64,
    /// Bytes of lower layers that it hides.
    pub hides: i64,
    /// The command that made it, where the history tells.
    pub created_by: String,
}

/// A file of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct FileExplained {
    /// From the root.
    pub path: String,
    /// Bytes.
    pub size: i64,
    /// Which layer brought it: 0 is the lowest.
    pub layer: i64,
}

/// Whether an image is whole (`POST /images/{name}/verify`, berth's own).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageVerified {
    /// `sha256:…`.
    pub id: String,
    /// Bytes that were compared with their digests.
    pub bytes: i64,
    /// What was wrong.
    pub damage: Vec<ImageDamage>,
}

/// Something of an image that is not what it should be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageDamage {
    /// The blob or layer.
    pub digest: String,
    /// What is wrong with it, and what was done.
    pub reason: String,
    /// Whether it is whole again.
    pub mended: bool,
}

/// The answer to a commit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CommitResponse {
    /// `sha256:…`.
    pub id: String,
}
