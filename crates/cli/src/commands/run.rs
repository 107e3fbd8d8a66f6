//! `run` and `create`.
//!
//! ```text
//! create ── 404 ──▶ pull ──▶ create
//!    └▶ attach ▶ wait (registered, so that no exit is missed) ▶ start ▶ resize ▶ bytes ▶ exit code
//! ```

use std::fs;
use std::io::Write as _;
use std::path::Path;

use api::Client;
use api::client::Answer;
use api::types::{CreateRequest, CreateResponse, WaitResponse};
use vocab::Reference;

use crate::attached::{self, End, Plan, Signals};
use crate::command::{ANY, Command, Invocation, Run};
use crate::create::{self, Attached};
use crate::credentials::{self, Config};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, on, switch, text};
use crate::grammar::pairs;
use crate::output;
use crate::progress::{self, To};
use crate::session::Session;
use crate::terminal::{self, Detach, Raw};

/// What `run` has beyond `create`.
pub const FLAGS: &[Flag] = &[
    switch("detach", "Run it in the background and print its id").short('d'),
    text("detach-keys", "Keys that detach"),
    on("sig-proxy", "Forward signals to the process"),
];

/// `run`.
pub const RUN: Command = Command {
    names: &["container run", "run"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Make a container from an image and start it",
    flags: &[create::FLAGS, create::LIMITS, FLAGS],
    words: (1, ANY),
    stops: true,
    run: |invocation| Box::pin(run(invocation)) as Run,
};

/// `create`.
pub const CREATE: Command = Command {
    names: &["container create", "create"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Make a container from an image",
    flags: &[create::FLAGS, create::LIMITS],
    words: (1, ANY),
    stops: true,
    run: |invocation| Box::pin(create_only(invocation)) as Run,
};

/// The exit code of what failed before the process ran.
const NOT_RUN: u8 = 125;

/// Failures of `run` name the program and point at the help, as Docker's do.
fn told(invocation: &Invocation, failure: Failure) -> Failure {
    if failure.message.is_empty() {
        return failure;
    }
    let code = if failure.code == 1 {
        NOT_RUN
    } else {
        failure.code
    };
    let (program, name) = (&invocation.session.program, &invocation.name);
    Failure {
        code,
        message: format!(
            "{program}: {}\n\nRun '{name} --help' for more information",
            failure.message
        ),
        ..failure
    }
}

async fn create_only(invocation: Invocation) -> Result<u8> {
    let asked = Asked::read(&invocation).map_err(|failure| told(&invocation, failure))?;
    refuse_used_cidfile(&invocation)?;
    let client = invocation.session.client().await?;
    output::line(make(&client, &invocation, &asked).await?)?;
    Ok(0)
}

async fn run(invocation: Invocation) -> Result<u8> {
    let detached = invocation.typed.on("detach");
    let asked = Asked::read(&invocation).map_err(|failure| told(&invocation, failure))?;
    refuse_used_cidfile(&invocation).map_err(|failure| told(&invocation, failure))?;
    let typed = &invocation.typed;
    let attached = asked.attached;
    if attached.stdin && typed.on("tty") && !terminal::stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let keys = detach_keys(&invocation)?;
    let client = match invocation.session.client().await {
        Ok(client) => client,
        Err(failure) => return Err(told(&invocation, failure)),
    };
    let id = make(&client, &invocation, &asked)
        .await
        .map_err(|failure| told(&invocation, failure))?;
    if detached {
        start(&client, &id)
            .await
            .map_err(|failure| told(&invocation, failure))?;
        output::line(id)?;
        return Ok(0);
    }
    attach_and_start(&client, &invocation, &asked, &id, keys).await
}

/// The keys that detach: the flag, else the configuration.
pub fn detach_keys(invocation: &Invocation) -> Result<String> {
    let keys = match invocation.typed.get("detach-keys") {
        Some(keys) => keys.to_owned(),
        None if terminal::stdin_is_terminal() => Config::load(&invocation.session).detach_keys,
        None => String::new(),
    };
    if !keys.is_empty() {
        terminal::parse_keys(&keys)
            .map_err(|why| Failure::new(format!("invalid detach keys ({keys}): {why}")))?;
    }
    Ok(keys)
}

async fn attach_and_start(
    client: &Client,
    invocation: &Invocation,
    asked: &Asked,
    id: &str,
    keys: String,
) -> Result<u8> {
    let typed = &invocation.typed;
    let tty = typed.on("tty");
    let attached = asked.attached;
    let mut signals = Signals::catch(typed.not_off("sig-proxy"))?;
    let connection = if attached.stdin || attached.stdout || attached.stderr {
        let call = client
            .post(format!("/containers/{id}/attach"))
            .query("stream", 1)
            .flag("stdin", attached.stdin)
            .flag("stdout", attached.stdout)
            .flag("stderr", attached.stderr)
            .query_some("detachKeys", Some(&keys).filter(|keys| !keys.is_empty()));
        let failed = |error: api::client::CallError| told(invocation, error.into());
        Some(call.hijack().await.map_err(failed)?)
    } else {
        None
    };
    let condition = if typed.on("rm") {
        "removed"
    } else {
        "next-exit"
    };
    let waiting = client
        .post(format!("/containers/{id}/wait"))
        .query("condition", condition)
        .send()
        .await
        .map_err(|error| told(invocation, error.into()))?;
    // Raw before the start: what is typed meanwhile goes in unchanged.
    let raw = if tty && attached.stdin {
        Raw::enter()?
    } else {
        None
    };
    if let Err(failure) = start(client, id).await {
        drop(raw);
        drop(connection);
        if typed.on("rm") {
            // The daemon removes it; the name is free when this returns.
            let _ = exit_code(waiting).await;
        }
        return Err(told(invocation, failure));
    }
    let resize = format!("/containers/{id}/resize");
    if tty {
        attached::resize(client, &resize).await;
    }
    if let Some(connection) = connection {
        let plan = Plan {
            terminal: tty,
            stdin: attached.stdin,
            detach: if tty && attached.stdin {
                Some(Detach::new(&keys)?)
            } else {
                None
            },
            signals: typed
                .not_off("sig-proxy")
                .then(|| format!("/containers/{id}/kill")),
            resize: tty.then_some(resize),
        };
        match attached::carry(client, connection, plan, &mut signals).await? {
            End::Output => {}
            End::Detached => return Ok(0),
            End::Signal(number) => return Ok(ended_by(number)),
        }
    }
    let code = exit_code(waiting).await;
    drop(raw);
    code.map_err(|failure| told(invocation, failure))
}

/// The exit code of a client that a signal ended.
pub fn ended_by(number: i32) -> u8 {
    u8::try_from(128 + number).unwrap_or(1)
}

/// What `wait` answers in the end.
pub async fn exit_code(waiting: Answer) -> Result<u8> {
    let mut answers = waiting.documents::<WaitResponse>();
    match answers.next().await {
        Some(answer) => {
            let answer = answer?;
            if let Some(error) = answer.error.filter(|error| !error.message.is_empty()) {
                return Err(Failure::new(error.message).code(NOT_RUN));
            }
            Ok(u8::try_from(answer.status_code & 0xff).unwrap_or(NOT_RUN))
        }
        None => Err(Failure::new("the daemon went away before the container ended").code(NOT_RUN)),
    }
}

/// Starts a container; the exit code of a failure tells what kind it was.
pub async fn start(client: &Client, id: &str) -> Result {
    match client.post(format!("/containers/{id}/start")).done().await {
        Ok(_) => Ok(()),
        Err(error) => {
            let failure = Failure::from(error);
            let said = |text: &str| failure.message.contains(text);
            let code = if said("executable file not found") || said("no such file or directory") {
                127
            } else if said("permission denied") || said("is a directory") {
                126
            } else {
                NOT_RUN
            };
            Err(failure.code(code))
        }
    }
}

/// A file that holds an id belongs to another container.
fn refuse_used_cidfile(invocation: &Invocation) -> Result {
    let cidfile = invocation.typed.text("cidfile");
    if cidfile.is_empty() || !Path::new(cidfile).exists() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "container ID file found, make sure the other container isn't running or delete {cidfile}"
    )))
}

/// What the flags ask for, before anybody is asked.
struct Asked {
    request: CreateRequest,
    image: String,
    attached: Attached,
    pull: Pull,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pull {
    Always,
    Missing,
    Never,
}

impl Asked {
    fn read(invocation: &Invocation) -> Result<Self> {
        let typed = &invocation.typed;
        let pull = match typed.get("pull") {
            None | Some("missing" | "") => Pull::Missing,
            Some("always") => Pull::Always,
            Some("never") => Pull::Never,
            Some(other) => {
                return Err(Failure::new(format!(
                    "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
                )));
            }
        };
        let image = invocation.word(0).to_owned();
        let here = std::env::current_dir().unwrap_or_else(|_| Path::new("/").to_owned());
        let mut request = create::request(typed, &image, &typed.words[1..], &here)?;
        if let Some((rows, columns)) = terminal::size() {
            request.host_config.console_size = [rows, columns];
        }
        // A name is completed; anything else is an id, which the daemon knows.
        let looks_like_id = image.len() == 64 && image.bytes().all(|b| b.is_ascii_hexdigit())
            || image.starts_with("sha256:");
        if !looks_like_id {
            let reference: Reference = image
                .parse()
                .map_err(|error: vocab::reference::ParseReferenceError| error.to_string())?;
            request.config.image = reference.or_latest().familiar();
        }
        Ok(Self {
            image: request.config.image.clone(),
            request,
            attached: Attached::read(typed)?,
            pull,
        })
    }
}

/// Creates the container, after pulling its image if need be; returns its id.
async fn make(client: &Client, invocation: &Invocation, asked: &Asked) -> Result<String> {
    let typed = &invocation.typed;
    let platform = typed
        .get("platform")
        .map(str::to_owned)
        .or_else(|| std::env::var("DOCKER_DEFAULT_PLATFORM").ok())
        .filter(|platform| !platform.is_empty());
    let to = if typed.on("quiet") {
        To::Nowhere
    } else {
        To::Stderr
    };
    if asked.pull == Pull::Always {
        pull(
            client,
            &invocation.session,
            &asked.image,
            platform.as_deref(),
            to,
        )
        .await?;
    }
    let create = || async {
        client
            .post("/containers/create")
            .query_some("name", typed.get("name").filter(|name| !name.is_empty()))
            .query_some("platform", platform.as_deref())
            .json(&asked.request)
            .read::<CreateResponse>()
            .await
            .map_err(Failure::from)
    };
    let created = match create().await {
        Err(failure)
            if failure.is_not_found()
                && asked.pull == Pull::Missing
                && is_about_image(&failure) =>
        {
            if to == To::Stderr {
                output::error(format!("Unable to find image '{}' locally", asked.image));
            }
            pull(
                client,
                &invocation.session,
                &asked.image,
                platform.as_deref(),
                to,
            )
            .await?;
            create().await?
        }
        outcome => outcome?,
    };
    for warning in &created.warnings {
        output::error(format!("WARNING: {warning}"));
    }
    let cidfile = typed.text("cidfile");
    if !cidfile.is_empty() {
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create_new(cidfile)?;
            file.write_all(created.id.as_bytes())
        };
        write().map_err(|error| {
            Failure::new(format!(
                "failed to write the container ID to the file: open {cidfile}: {}",
                pairs::reason(&error)
            ))
        })?;
    }
    Ok(created.id)
}

/// A 404 may also be about a network or a volume, which no pull brings.
fn is_about_image(failure: &Failure) -> bool {
    let lower = failure.message.to_lowercase();
    lower.contains("no such image") || lower.contains("image")
}

/// Pulls an image and shows how it goes.
pub async fn pull(
    client: &Client,
    session: &Session,
    image: &str,
    platform: Option<&str>,
    to: To,
) -> Result {
    let reference: Reference = image
        .parse()
        .map_err(|error: vocab::reference::ParseReferenceError| Failure::new(error.to_string()))?;
    let reference = reference.or_latest();
    let (tag, digest) = (reference.tag(), reference.digest().map(ToString::to_string));
    let answer = client
        .post("/images/create")
        .query("fromImage", reference.familiar_name())
        .query_some("tag", digest.as_deref().or(tag))
        .query_some("platform", platform)
        .header(
            http::HeaderName::from_static("x-registry-auth"),
            &credentials::header(session, &reference),
        )
        .send()
        .await?;
    progress::show(answer, to, |_| {}).await
}
