//! `context`: named daemons.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use serde::Serialize;
use serde_json::Map;

use crate::command::{ANY, Command, Invocation, Run};
use crate::contexts::{Context, Contexts, DEFAULT, check_name};
use crate::credentials::Config;
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Typed, many_of, switch, text};
use crate::format::{self, Listing};
use crate::grammar::pairs;
use crate::session::Session;
use crate::template::{MissingKey, Set, Template, Value};
use crate::{output, terminal};

/// The most bytes of a context that is imported (Docker's figure).
const IMPORT_BYTES: u64 = 10 << 20;

const ENDPOINT: &[Flag] = &[
    text("description", "What it is for"),
    many_of(
        "docker",
        "stringToString",
        "The daemon: `host=unix:///path`",
    )
    .default("[]"),
];

macro_rules! command {
    ($name:ident, $names:expr, $usage:literal, $about:literal, $flags:expr, $words:expr, $run:path) => {
        #[doc = $about]
        pub const $name: Command = Command {
            names: $names,
            usage: $usage,
            about: $about,
            flags: $flags,
            words: $words,
            stops: false,
            run: |invocation| Box::pin(async move { $run(&invocation) }) as Run,
        };
    };
}

command!(
    CREATE,
    &["context create"],
    "[OPTIONS] CONTEXT",
    "Make a context",
    &[
        ENDPOINT,
        &[text("from", "Begin with what this context says")]
    ],
    (1, 1),
    create
);
command!(
    LS,
    &["context ls", "context list"],
    "[OPTIONS]",
    "List contexts",
    &[&[
        text(
            "format",
            "Format: `table`, `table TEMPLATE`, `json`, or a Go template"
        ),
        switch("quiet", "Only names").short('q')
    ]],
    (0, 0),
    list
);
command!(
    RM,
    &["context rm", "context remove"],
    "CONTEXT [CONTEXT...]",
    "Remove contexts",
    &[&[switch("force", "Also one that is in use").short('f')]],
    (1, ANY),
    remove
);
command!(
    USE,
    &["context use"],
    "CONTEXT",
    "Choose the context of later commands",
    &[],
    (1, 1),
    choose
);
command!(
    SHOW,
    &["context show"],
    "",
    "Print the name of the context in use",
    &[],
    (0, 0),
    show
);
command!(
    INSPECT,
    &["context inspect"],
    "[OPTIONS] [CONTEXT] [CONTEXT...]",
    "Show all about contexts",
    &[&[text("format", "Format: `json`, or a Go template").short('f')]],
    (0, ANY),
    inspect
);
command!(
    UPDATE,
    &["context update"],
    "[OPTIONS] CONTEXT",
    "Change a context",
    &[ENDPOINT],
    (1, 1),
    update
);
command!(
    EXPORT,
    &["context export"],
    "CONTEXT FILE|-",
    "Write a context to a tar",
    &[],
    (1, 2),
    export
);
command!(
    IMPORT,
    &["context import"],
    "CONTEXT FILE|-",
    "Read a context from a tar",
    &[],
    (2, 2),
    import
);

fn contexts(invocation: &Invocation) -> Contexts {
    Contexts::of(&invocation.session.config_directory())
}

/// One by name, `default` included.
fn look_up(session: &Session, contexts: &Contexts, name: &str) -> Result<Context> {
    match name {
        DEFAULT => Ok(Context::new(DEFAULT, &session.default_address())),
        name => contexts.find(name),
    }
}

/// What `--docker` says of the daemon.
fn host(typed: &Typed, session: &Session, contexts: &Contexts) -> Result<Option<String>> {
    let mut host = None;
    let pairs = typed.all("docker").flat_map(|pairs| pairs.split(','));
    for pair in pairs {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("{pair} must be formatted as key=value")))?;
        match key {
            "host" => {
                if let Err(error) = value.parse::<api::client::Address>() {
                    return Err(Failure::new(format!("`{value}` names no daemon: {error}")));
                }
                host = Some(value.to_owned());
            }
            "from" => host = Some(look_up(session, contexts, value)?.host().to_owned()),
            "skip-tls-verify" if matches!(value, "false" | "0" | "") => {}
            "ca" | "cert" | "key" | "skip-tls-verify" => {
                return Err(Failure::new(
                    "berth does not talk TLS to a daemon yet; use a unix socket, or tcp:// inside a tunnel",
                ));
            }
            _ => {
                return Err(Failure::new(format!("unrecognized config key: {key}")));
            }
        }
    }
    Ok(host)
}

fn create(invocation: &Invocation) -> Result<u8> {
    let (typed, session) = (&invocation.typed, &invocation.session);
    let (name, contexts) = (invocation.word(0), contexts(invocation));
    check_name(name)?;
    if contexts.has(name) {
        return Err(Failure::new(format!("context \"{name}\" already exists")));
    }
    let host = host(typed, session, &contexts)?;
    let mut context = match (typed.get("from"), &host) {
        (Some(from), _) => look_up(session, &contexts, from)?,
        (None, Some(_)) => Context::default(),
        // What is in use is what is meant.
        (None, None) => look_up(session, &contexts, &session.context())?,
    };
    name.clone_into(&mut context.name);
    if let Some(host) = host {
        context.set_host(&host);
    }
    if let Some(text) = typed.get("description") {
        context.describe(text);
    }
    contexts.save(&context)?;
    output::line(name)?;
    output::error(format!("Successfully created context \"{name}\""));
    Ok(0)
}

fn update(invocation: &Invocation) -> Result<u8> {
    let (name, contexts) = (invocation.word(0), contexts(invocation));
    check_name(name)?;
    let mut context = contexts.find(name)?;
    if let Some(host) = host(&invocation.typed, &invocation.session, &contexts)? {
        context.set_host(&host);
    }
    if let Some(text) = invocation.typed.get("description") {
        context.describe(text);
    }
    contexts.save(&context)?;
    output::line(name)?;
    output::error(format!("Successfully updated context \"{name}\""));
    Ok(0)
}

const LISTING: Listing<'_> = Listing {
    kind: "*formatter.clientContextContext",
    headers: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("DockerEndpoint", "DOCKER ENDPOINT"),
        ("Current", "CURRENT"),
        ("Error", "ERROR"),
    ],
};

fn list(invocation: &Invocation) -> Result<u8> {
    let (typed, session) = (&invocation.typed, &invocation.session);
    let current = session.context();
    let contexts = contexts(invocation);
    let mut all = vec![look_up(session, &contexts, DEFAULT)?];
    all[0].describe("Current DOCKER_HOST based configuration");
    all.extend(contexts.list()?);
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let is_table = typed
        .get("format")
        .is_none_or(|format| format.starts_with("table"));
    let rows: Vec<Value> = all
        .iter()
        .map(|context| {
            let is_current = context.name == current;
            let star = if is_current && is_table && !typed.on("quiet") {
                " *"
            } else {
                ""
            };
            Value::row(
                LISTING.kind,
                [
                    ("Current", Value::from(serde_json::Value::Bool(is_current))),
                    ("Description", Value::from(context.description())),
                    ("DockerEndpoint", Value::from(context.host())),
                    ("Error", Value::from("")),
                    ("Name", Value::from(format!("{}{star}", context.name))),
                ],
            )
        })
        .collect();
    output::out(&format::render(
        &LISTING,
        typed.get("format"),
        typed.on("quiet").then_some("{{.Name}}"),
        "{{.Name}}\\t{{.Description}}\\t{{.DockerEndpoint}}\\t{{.Error}}",
        &rows,
    )?)?;
    if !typed.on("quiet") && session.host_variable().is_some() {
        warn_of_variable("use a context");
    }
    Ok(0)
}

fn warn_of_variable(to_do: &str) {
    output::error(format!(
        "Warning: DOCKER_HOST environment variable overrides the active context. To {to_do}, either set the global --context flag, or unset DOCKER_HOST environment variable."
    ));
}

fn remove(invocation: &Invocation) -> Result<u8> {
    let contexts = contexts(invocation);
    let current = invocation.session.context();
    let mut failures = Vec::new();
    for name in &invocation.typed.words {
        let outcome = if name == DEFAULT {
            Err(Failure::new("context \"default\" cannot be removed"))
        } else if !contexts.has(name) && !invocation.typed.on("force") {
            Err(Failure::new(format!("context \"{name}\" does not exist")))
        } else if *name == current && !invocation.typed.on("force") {
            Err(Failure::new(format!(
                "context \"{name}\" is in use, set -f flag to force remove"
            )))
        } else {
            contexts.remove(name).and_then(|()| {
                let mut config = Config::load(&invocation.session);
                if config.current_context == *name {
                    config.current_context.clear();
                    config.save(&invocation.session)?;
                }
                output::line(name)
            })
        };
        failures.extend(outcome.err().map(|failure| failure.message));
    }
    match failures.is_empty() {
        true => Ok(0),
        false => Err(Failure::new(failures.join("\n"))),
    }
}

fn choose(invocation: &Invocation) -> Result<u8> {
    let (name, session) = (invocation.word(0), &invocation.session);
    if name != DEFAULT {
        contexts(invocation).find(name)?;
    }
    let mut config = Config::load(session);
    let wanted = if name == DEFAULT { "" } else { name };
    if config.current_context != wanted {
        wanted.clone_into(&mut config.current_context);
        config.save(session)?;
    }
    output::line(name)?;
    output::error(format!("Current context is now \"{name}\""));
    if name != DEFAULT && session.host_variable().is_some() {
        warn_of_variable(&format!("use \"{name}\""));
    }
    Ok(0)
}

fn show(invocation: &Invocation) -> Result<u8> {
    output::line(invocation.session.context())?;
    Ok(0)
}

/// What `inspect` prints of a context, in Docker's order.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    name: String,
    metadata: Map<String, serde_json::Value>,
    endpoints: Map<String, serde_json::Value>,
    #[serde(rename = "TLSMaterial")]
    tls_material: Map<String, serde_json::Value>,
    storage: Storage,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Storage {
    metadata_path: String,
    #[serde(rename = "TLSPath")]
    tls_path: String,
}

fn inspect(invocation: &Invocation) -> Result<u8> {
    let (session, contexts) = (&invocation.session, contexts(invocation));
    let mut names = invocation.typed.words.clone();
    if names.is_empty() {
        names.push(session.context());
    }
    let mut documents = Vec::with_capacity(names.len());
    let mut missing = Vec::new();
    for name in &names {
        let context = match look_up(session, &contexts, name) {
            Ok(context) => context,
            Err(failure) => {
                missing.push(failure.message);
                continue;
            }
        };
        let place = |path: std::path::PathBuf| match name.as_str() {
            DEFAULT => "<IN MEMORY>".to_owned(),
            _ => path.to_string_lossy().into_owned(),
        };
        documents.push(Shown {
            name: context.name,
            metadata: context.metadata,
            endpoints: context.endpoints,
            tls_material: Map::new(),
            storage: Storage {
                metadata_path: place(contexts.metadata_path(name)),
                tls_path: place(contexts.tls_path(name)),
            },
        });
    }
    let failed = |error| Failure::new(format!("unable to read inspect data: {error}"));
    match invocation
        .typed
        .get("format")
        .filter(|format| !format.is_empty())
    {
        None => {
            let text = serde_json::to_string(&documents).map_err(failed)?;
            output::line(
                format::indent(&text)
                    .replace('<', "\\u003c")
                    .replace('>', "\\u003e"),
            )?;
        }
        Some("json") => {
            for document in documents {
                output::line(serde_json::to_string(&document).map_err(failed)?)?;
            }
        }
        Some(text) => {
            let template = Template::parse("", text)
                .map_err(|error| Failure::new(format!("template parsing error: {error}")))?;
            for document in documents {
                let document = serde_json::to_value(document).map_err(failed)?;
                let shown = template
                    .execute(&Value::from(document), Set::Values, MissingKey::Error)
                    .map_err(|error| Failure::new(format!("template parsing error: {error}")))?;
                output::line(shown)?;
            }
        }
    }
    match missing.is_empty() {
        true => Ok(0),
        false => Err(Failure::new(missing.join("\n"))),
    }
}

fn export(invocation: &Invocation) -> Result<u8> {
    let name = invocation.word(0);
    check_name(name).and_then(|()| contexts(invocation).find(name).map(drop))?;
    let context = contexts(invocation).find(name)?;
    let document = serde_json::to_vec(&context)
        .map_err(|error| Failure::new(format!("context \"{name}\": {error}")))?;
    let failed = |error: io::Error| Failure::new(pairs::reason(&error));
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(document.len() as u64);
    tar.append_data(&mut header, "meta.json", document.as_slice())
        .map_err(failed)?;
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o700);
    header.set_size(0);
    tar.append_data(&mut header, "tls", io::empty())
        .map_err(failed)?;
    let bytes = tar.into_inner().map_err(failed)?;
    let path = match invocation.typed.words.get(1) {
        Some(path) => path.clone(),
        None => format!("{name}.dockercontext"),
    };
    if path == "-" {
        if terminal::stdout_is_terminal() {
            return Err(Failure::new(
                "cowardly refusing to export to a terminal, specify a file path",
            ));
        }
        output::bytes(&bytes)?;
        return Ok(0);
    }
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    file.and_then(|mut file| file.write_all(&bytes))
        .map_err(|error| Failure::new(format!("open {path}: {}", pairs::reason(&error))))?;
    output::error(format!("Written file \"{path}\""));
    Ok(0)
}

fn import(invocation: &Invocation) -> Result<u8> {
    let (name, path) = (invocation.word(0), invocation.word(1));
    let contexts = contexts(invocation);
    check_name(name)?;
    if contexts.has(name) {
        return Err(Failure::new(format!("context \"{name}\" already exists")));
    }
    let mut bytes = Vec::new();
    let read = match path {
        "-" => io::stdin().take(IMPORT_BYTES + 1).read_to_end(&mut bytes),
        path => {
            File::open(path).and_then(|file| file.take(IMPORT_BYTES + 1).read_to_end(&mut bytes))
        }
    };
    read.map_err(|error| Failure::new(format!("open {path}: {}", pairs::reason(&error))))?;
    if bytes.len() as u64 > IMPORT_BYTES {
        return Err(Failure::new("the context is longer than 10 MiB"));
    }
    if bytes.starts_with(b"PK") {
        return Err(Failure::new(
            "berth imports contexts from tars only: unpack the zip, and pack it as a tar",
        ));
    }
    let wrong = |error: io::Error| Failure::new(format!("read {path}: {error}"));
    let mut context: Option<Context> = None;
    let mut archive = tar::Archive::new(bytes.as_slice());
    for member in archive.entries().map_err(wrong)? {
        let mut member = member.map_err(wrong)?;
        let member_path = member.path().map_err(wrong)?.into_owned();
        if member_path.as_os_str() == "meta.json" {
            let mut text = Vec::new();
            member.read_to_end(&mut text).map_err(wrong)?;
            let read = serde_json::from_slice(&text);
            context = Some(read.map_err(|error| Failure::new(format!("meta.json: {error}")))?);
        } else if member_path.starts_with("tls") && member.header().entry_type().is_file() {
            return Err(Failure::new(
                "the context has certificates, and berth does not talk TLS to a daemon yet",
            ));
        }
    }
    let mut context = context.ok_or_else(|| Failure::new("invalid context: no metadata found"))?;
    name.clone_into(&mut context.name);
    contexts.save(&context)?;
    output::line(name)?;
    output::error(format!("Successfully imported context \"{name}\""));
    Ok(0)
}
