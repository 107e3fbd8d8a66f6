//! The commands, and what they share.
//!
//! One file holds commands that do the same kind of thing; each command is a constant with its
//! names, flags and help, so that the list below is all there is to know about what exists.

pub mod context;
pub mod cp;
pub mod df;
pub mod each;
pub mod exec;
pub mod explain;
pub mod export;
pub mod image;
pub mod images;
pub mod inspect;
pub mod login;
pub mod logs;
pub mod network;
pub mod ps;
pub mod run;
pub mod start;
pub mod stats;
pub mod system;
pub mod tree;
pub mod update;
pub mod volume;

use api::Filters;

use crate::attached::Stdin;
use crate::command::{Command, Invocation};
use crate::credentials::Config;
use crate::failure::{Failure, Result};
use crate::flags::Typed;
use crate::output;

/// Every command that berth does.
pub const DONE: &[&Command] = &[
    &run::RUN,
    &run::CREATE,
    &start::START,
    &start::ATTACH,
    &exec::EXEC,
    &each::STOP,
    &each::RESTART,
    &each::KILL,
    &each::PAUSE,
    &each::UNPAUSE,
    &each::RM,
    &each::WAIT,
    &each::RENAME,
    &update::UPDATE,
    &logs::LOGS,
    &ps::PS,
    &stats::STATS,
    &stats::TOP,
    &stats::PORT,
    &inspect::INSPECT,
    &inspect::CONTAINER,
    &inspect::IMAGE,
    &inspect::VOLUME,
    &inspect::NETWORK,
    &images::IMAGES,
    &images::HISTORY,
    &image::PULL,
    &image::PUSH,
    &image::TAG,
    &image::RM,
    &image::LOAD,
    &image::IMPORT,
    &image::SAVE,
    &image::PRUNE,
    &explain::EXPLAIN,
    &explain::VERIFY,
    &cp::CP,
    &export::EXPORT,
    &export::DIFF,
    &export::COMMIT,
    &volume::LS,
    &volume::CREATE,
    &volume::RM,
    &volume::PRUNE,
    &network::LS,
    &network::CREATE,
    &network::RM,
    &network::CONNECT,
    &network::DISCONNECT,
    &network::PRUNE,
    &system::VERSION,
    &system::INFO,
    &system::EVENTS,
    &df::DF,
    &system::PRUNE,
    &system::CONTAINER_PRUNE,
    &context::CREATE,
    &context::LS,
    &context::RM,
    &context::USE,
    &context::SHOW,
    &context::INSPECT,
    &context::UPDATE,
    &context::EXPORT,
    &context::IMPORT,
    &login::LOGIN,
    &login::LOGOUT,
];

/// Groups of commands that have commands already.
pub const GROUPS: &[(&str, &str)] = &[
    ("container", "Containers"),
    ("image", "Images"),
    ("network", "Networks"),
    ("volume", "Volumes"),
    ("context", "Daemons by name"),
    ("system", "The daemon as a whole"),
];

/// Docker's commands and groups that berth does not do yet.
pub const LATER: &[&str] = &[
    "bake",
    "build",
    "builder",
    "builder build",
    "builder prune",
    "buildx",
    "checkpoint",
    "checkpoint create",
    "checkpoint ls",
    "checkpoint rm",
    "compose",
    "config",
    "config create",
    "config inspect",
    "config ls",
    "config rm",
    "image build",
    "manifest",
    "manifest annotate",
    "manifest create",
    "manifest inspect",
    "manifest push",
    "manifest rm",
    "node",
    "node demote",
    "node inspect",
    "node ls",
    "node promote",
    "node ps",
    "node rm",
    "node update",
    "plugin",
    "plugin create",
    "plugin disable",
    "plugin enable",
    "plugin inspect",
    "plugin install",
    "plugin ls",
    "plugin push",
    "plugin rm",
    "plugin set",
    "plugin upgrade",
    "search",
    "secret",
    "secret create",
    "secret inspect",
    "secret ls",
    "secret rm",
    "service",
    "service create",
    "service inspect",
    "service logs",
    "service ls",
    "service ps",
    "service rm",
    "service rollback",
    "service scale",
    "service update",
    "stack",
    "stack config",
    "stack deploy",
    "stack ls",
    "stack ps",
    "stack rm",
    "stack services",
    "swarm",
    "swarm ca",
    "swarm init",
    "swarm join",
    "swarm join-token",
    "swarm leave",
    "swarm unlock",
    "swarm unlock-key",
    "swarm update",
    "system dial-stdio",
    "trust",
    "trust inspect",
    "trust key",
    "trust key generate",
    "trust key load",
    "trust revoke",
    "trust sign",
    "trust signer",
    "trust signer add",
    "trust signer remove",
    "volume update",
];

/// Flags `--filter` as the API wants them: `key=value`, blanks trimmed, keys in lower case.
pub fn filters(typed: &Typed) -> Filters {
    let mut filters = Filters::new();
    for pair in typed.all("filter").filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        filters.add(key.trim().to_lowercase(), value.trim());
    }
    filters
}

/// The format of a list: that of `--format`, else what the client's configuration says.
pub fn listing_format(
    invocation: &Invocation,
    configured: impl FnOnce(Config) -> String,
) -> Option<String> {
    match invocation.typed.get("format") {
        Some(format) => Some(format.to_owned()),
        None => Some(configured(Config::load(&invocation.session))).filter(|text| !text.is_empty()),
    }
}

/// Prints the name of what went well, or why it did not; the exit code this makes.
pub fn told<T>(name: &str, outcome: Result<T, api::client::CallError>) -> Result<u8> {
    match outcome {
        Ok(_) => {
            output::line(name)?;
            Ok(0)
        }
        Err(error) => {
            output::error(Failure::from(error));
            Ok(1)
        }
    }
}

/// A platform as the API wants it in a query: `{"os":…,"architecture":…}`.
pub fn platform_json(text: &str) -> Result<String> {
    let platform: vocab::Platform = text
        .parse()
        .map_err(|_| Failure::new(format!("invalid platform: {text}")))?;
    serde_json::to_string(&platform)
        .map_err(|error| Failure::new(format!("invalid platform: {text}: {error}")))
}

/// Asks before something is removed; the end of standard input means no.
pub async fn confirm(warning: &str) -> Result<bool> {
    output::out(&format!(
        "{warning}\nAre you sure you want to continue? [y/N] "
    ))?;
    let stdin = Stdin::open()?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while answer.len() < 16 {
        match stdin.read(&mut byte).await {
            Ok(1) if byte[0] != b'\n' => answer.push(byte[0]),
            _ => break,
        }
    }
    if answer.is_empty() {
        output::line("")?;
    }
    Ok(matches!(answer.trim_ascii(), b"y" | b"Y"))
}
