//! Images come and go: pull, push, tag, rmi, load, import, save, prune.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use api::types::{ImageDeleted, ImagesPruned};
use bytes::Bytes;
use futures_util::stream;
use http::Method;

use super::images::reference;
use super::{confirm, filters, platform_json};
use crate::attached::Stdin;
use crate::command::{ANY, Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{ALL_IMAGES, Flag, UNASKED, filter, many, many_of, on, switch, text};
use crate::grammar::pairs;
use crate::progress::{self, To};
use crate::{human, output, terminal};

const CONTENT_TRUST: Flag = on("disable-content-trust", "");

/// `pull`.
pub const PULL: Command = Command {
    names: &["image pull", "pull"],
    usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
    about: "Get an image from a registry",
    flags: &[&[
        switch("all-tags", "Get every tag of the repository").short('a'),
        CONTENT_TRUST,
        text("platform", "Platform of the image: `os[/arch[/variant]]`"),
        switch("quiet", "Do not show how it goes").short('q'),
    ]],
    words: (1, 1),
    stops: false,
    run: |invocation| Box::pin(pull(invocation)) as Run,
};

/// `push`.
pub const PUSH: Command = Command {
    names: &["image push", "push"],
    usage: "[OPTIONS] NAME[:TAG]",
    about: "Send an image to a registry",
    flags: &[&[
        switch("all-tags", "Send every tag of the repository").short('a'),
        CONTENT_TRUST,
        text("platform", "Send only this platform: `os[/arch[/variant]]`"),
        switch("quiet", "Do not show how it goes").short('q'),
    ]],
    words: (1, 1),
    stops: false,
    run: |invocation| Box::pin(push(invocation)) as Run,
};

/// `tag`.
pub const TAG: Command = Command {
    names: &["image tag", "tag"],
    usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    about: "Give an image another name",
    flags: &[],
    words: (2, 2),
    stops: false,
    run: |invocation| Box::pin(tag(invocation)) as Run,
};

/// `rmi`.
pub const RM: Command = Command {
    names: &["image rm", "image remove", "rmi"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Remove images",
    flags: &[&[
        switch(
            "force",
            "Even if it has several names or a stopped container",
        )
        .short('f'),
        switch("no-prune", "Keep parents that have no name"),
        many_of(
            "platform",
            "strings",
            "Remove only this platform: `os[/arch[/variant]]`",
        ),
    ]],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(remove(invocation)) as Run,
};

/// `load`.
pub const LOAD: Command = Command {
    names: &["image load", "load"],
    usage: "[OPTIONS]",
    about: "Take images from a tar that `save` has written",
    flags: &[&[
        text("input", "Read this file rather than standard input").short('i'),
        text("platform", "Take only this platform: `os[/arch[/variant]]`"),
        switch("quiet", "Do not show how it goes").short('q'),
    ]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(load(invocation)) as Run,
};

/// `import`.
pub const IMPORT: Command = Command {
    names: &["image import", "import"],
    usage: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    about: "Make an image of a tar with a root file system",
    flags: &[&[
        many("change", "Apply an instruction of a Dockerfile").short('c'),
        text("message", "Commit message").short('m'),
        text("platform", "Platform of the image: `os[/arch[/variant]]`"),
    ]],
    words: (1, 2),
    stops: false,
    run: |invocation| Box::pin(import(invocation)) as Run,
};

/// `save`.
pub const SAVE: Command = Command {
    names: &["image save", "save"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Write images to a tar, on standard output unless told otherwise",
    flags: &[&[
        text("output", "Write this file").short('o'),
        text(
            "platform",
            "Write only this platform: `os[/arch[/variant]]`",
        ),
    ]],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(save(invocation)) as Run,
};

/// `image prune`.
pub const PRUNE: Command = Command {
    names: &["image prune"],
    usage: "[OPTIONS]",
    about: "Remove images that nothing uses",
    flags: &[&[ALL_IMAGES, filter(), UNASKED]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(prune(invocation)) as Run,
};

async fn pull(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let named = reference(invocation.word(0))?;
    let quiet = typed.on("quiet");
    let all = typed.on("all-tags");
    if all && (named.tag().is_some() || named.digest().is_some()) {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    let complete = named.clone().or_latest();
    if !all && named.tag().is_none() && named.digest().is_none() && !quiet {
        output::line(format!(
            "Using default tag: {}",
            vocab::reference::DEFAULT_TAG
        ))?;
    }
    let client = invocation.session.client().await?;
    let platform = typed
        .get("platform")
        .map(str::to_owned)
        .or_else(|| std::env::var("DOCKER_DEFAULT_PLATFORM").ok())
        .filter(|platform| !platform.is_empty());
    let to = if quiet { To::Nowhere } else { To::Stdout };
    if all {
        let answer = client
            .post("/images/create")
            .query("fromImage", named.familiar_name())
            .query_some("platform", platform)
            .header(
                http::HeaderName::from_static("x-registry-auth"),
                &crate::credentials::header(&invocation.session, &named),
            )
            .send()
            .await?;
        progress::show(answer, to, |_| {}).await?;
        output::line(named.repository())?;
    } else {
        super::run::pull(
            &client,
            &invocation.session,
            &complete.familiar(),
            platform.as_deref(),
            to,
        )
        .await?;
        output::line(complete)?;
    }
    Ok(0)
}

async fn push(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let named = reference(invocation.word(0))?;
    let all = typed.on("all-tags");
    if all && named.tag().is_some() {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    let quiet = typed.on("quiet");
    let complete = if all {
        named.clone()
    } else {
        named.clone().or_latest()
    };
    if !all && named.tag().is_none() && !quiet {
        output::line(format!(
            "Using default tag: {}",
            vocab::reference::DEFAULT_TAG
        ))?;
    }
    let platform = match typed.get("platform") {
        Some(platform) => Some(platform_json(platform)?),
        None => None,
    };
    let client = invocation.session.client().await?;
    let answer = client
        .post(format!("/images/{}/push", complete.familiar_name()))
        .query("tag", complete.tag().unwrap_or_default())
        .query_some("platform", platform)
        .header(
            http::HeaderName::from_static("x-registry-auth"),
            &crate::credentials::header(&invocation.session, &complete),
        )
        .send()
        .await?;
    let mut notes = Vec::new();
    let to = if quiet { To::Nowhere } else { To::Stdout };
    progress::show(answer, to, |said| notes.extend(note(&said))).await?;
    if quiet {
        output::line(complete)?;
    }
    for note in notes {
        output::line(note)?;
    }
    Ok(0)
}

/// What people should know of a push, in Docker's words.
fn note(said: &serde_json::Value) -> Option<String> {
    said["manifestPushedInsteadOfIndex"]
        .as_bool()
        .filter(|only| *only)?;
    let index = said["originalIndex"]["digest"].as_str()?;
    let manifest = said["selectedManifest"]["digest"].as_str()?;
    Some(format!(
        "\n Info -> Not all multiplatform-content is present and only the available single-platform image \
         was pushed\n         {index} -> {manifest}"
    ))
}

async fn tag(invocation: Invocation) -> Result<u8> {
    let target = invocation.word(1);
    let named = reference(target).map_err(|failure| {
        Failure::new(format!(
            "Error parsing reference: \"{target}\" is not a valid repository/tag: {}",
            failure.message
        ))
    })?;
    if named.digest().is_some() {
        return Err(Failure::new(
            "refusing to create a tag with a digest reference",
        ));
    }
    let named = named.or_latest();
    let client = invocation.session.client().await?;
    client
        .post(format!("/images/{}/tag", invocation.word(0)))
        .query("repo", named.familiar_name())
        .query("tag", named.tag().unwrap_or_default())
        .done()
        .await?;
    Ok(0)
}

async fn remove(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let platforms = typed
        .all("platform")
        .flat_map(|platforms| platforms.split(','))
        .map(platform_json)
        .collect::<Result<Vec<_>>>()?;
    let client = invocation.session.client().await?;
    let mut code = 0;
    for name in &typed.words {
        let mut call = client
            .call(Method::DELETE, format!("/images/{name}"))
            .flag("force", typed.on("force"))
            .flag("noprune", typed.on("no-prune"));
        for platform in &platforms {
            call = call.query("platforms", platform);
        }
        match call.read::<Vec<ImageDeleted>>().await {
            Ok(deleted) => show_deleted(&deleted)?,
            Err(error) => {
                // With --force an image that is not there is what was wanted.
                if !(typed.on("force") && error.is_not_found()) {
                    code = 1;
                }
                output::error(Failure::from(error));
            }
        }
    }
    Ok(code)
}

fn show_deleted(deleted: &[ImageDeleted]) -> Result {
    for item in deleted {
        if item.deleted.is_empty() {
            output::line(format!("Untagged: {}", item.untagged))?;
        } else {
            output::line(format!("Deleted: {}", item.deleted))?;
        }
    }
    Ok(())
}

/// Bytes at a time of what is sent.
const PIECE: usize = 256 * 1024;

/// A file as a request body.
fn file_body(file: File) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
    stream_body(Stdin::Plain(OwnedFd::from(file)))
}

/// Anything readable as a request body.
pub(super) fn stream_body(
    from: Stdin,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold(from, |from| async move {
        let mut buffer = vec![0; PIECE];
        let count = from.read(&mut buffer).await?;
        buffer.truncate(count);
        Ok((count > 0).then(|| (Bytes::from(buffer), from)))
    })
}

fn open(path: &str) -> Result<File> {
    File::open(path)
        .map_err(|error| Failure::new(format!("open {path}: {}", pairs::reason(&error))))
}

async fn load(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let platform = match typed.get("platform") {
        Some(platform) => Some(platform_json(platform)?),
        None => None,
    };
    let file = match typed.get("input").filter(|path| !path.is_empty()) {
        Some(path) => Some(open(path)?),
        None if terminal::stdin_is_terminal() => {
            return Err(Failure::new(
                "requested load from stdin, but stdin is empty",
            ));
        }
        None => None,
    };
    let quiet = typed.on("quiet") || !terminal::stdout_is_terminal();
    let client = invocation.session.client().await?;
    let call = client
        .post("/images/load")
        .query("quiet", u8::from(quiet))
        .query_some("platform", platform);
    let answer = match file {
        Some(file) => call.body("application/x-tar", file_body(file)),
        None => call.body("application/x-tar", stream_body(Stdin::open()?)),
    }
    .send()
    .await?;
    progress::show(answer, To::Stdout, |_| {}).await?;
    Ok(0)
}

async fn import(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let source = invocation.word(0);
    let name = match typed.words.get(1) {
        Some(name) => {
            let named = reference(name)?;
            if named.digest().is_some() {
                return Err(Failure::new("cannot import digest reference"));
            }
            Some(named)
        }
        None => None,
    };
    let url = source.starts_with("http://") || source.starts_with("https://");
    let file = match source {
        "-" => None,
        _ if url => None,
        path => Some(open(path)?),
    };
    let client = invocation.session.client().await?;
    let mut call = client
        .post("/images/create")
        .query("fromSrc", if url { source } else { "-" })
        .query_some("repo", name.as_ref().map(vocab::Reference::familiar_name))
        .query_some("tag", name.as_ref().and_then(vocab::Reference::tag))
        .query_some("message", typed.get("message"))
        .query_some("platform", typed.get("platform"));
    for change in typed.all("change") {
        call = call.query("changes", change);
    }
    let answer = match file {
        Some(file) => call.body("application/x-tar", file_body(file)),
        None if url => call,
        None => call.body("application/x-tar", stream_body(Stdin::open()?)),
    }
    .send()
    .await?;
    progress::show(answer, To::Stdout, |_| {}).await?;
    Ok(0)
}

async fn save(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let platform = match typed.get("platform") {
        Some(platform) => Some(platform_json(platform)?),
        None => None,
    };
    let path = typed.get("output").filter(|path| !path.is_empty());
    if path.is_none() && terminal::stdout_is_terminal() {
        return Err(Failure::new(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let client = invocation.session.client().await?;
    let mut call = client.get("/images/get");
    for name in &typed.words {
        call = call.query("names", name);
    }
    let call = call.query_some("platform", platform);
    save_to(call, path, "save image").await
}

/// Writes what a call answers to a file, or to standard output. The file is whole or not there: a
/// failure leaves no half of a tar under the wanted name.
pub async fn save_to(call: api::client::Call<'_>, path: Option<&str>, what: &str) -> Result<u8> {
    use std::io::Write as _;
    if let Some(path) = path {
        check_directory(path, what)?;
    }
    let mut answer = call.send().await?;
    let Some(path) = path else {
        while let Some(piece) = answer.next().await {
            output::bytes(&piece?)?;
        }
        return Ok(0);
    };
    let failed = |error: io::Error| {
        let reason = pairs::reason(&error);
        Failure::new(format!("failed to {what}: {path}: {reason}"))
    };
    let temporary = format!("{path}.berth-{}", std::process::id());
    let device = std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
    let mut file = File::create(if device { path } else { &temporary }).map_err(failed)?;
    let write = async {
        while let Some(piece) = answer.next().await {
            file.write_all(&piece?).map_err(failed)?;
        }
        if device {
            Ok(())
        } else {
            std::fs::rename(&temporary, path).map_err(failed)
        }
    };
    let outcome: Result = write.await;
    if outcome.is_err() && !device {
        let _ = std::fs::remove_file(&temporary);
    }
    outcome.map(|()| 0)
}

/// A tar that cannot be written is not asked for.
fn check_directory(path: &str, what: &str) -> Result {
    let parent = std::path::Path::new(path)
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent
        && let Err(error) = std::fs::metadata(parent)
    {
        return Err(Failure::new(format!(
            "failed to {what}: invalid output path: stat {}: {}",
            parent.display(),
            pairs::reason(&error)
        )));
    }
    Ok(())
}

async fn prune(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let all = typed.on("all");
    let warning = if all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    if !typed.on("force") && !confirm(warning).await? {
        return Ok(0);
    }
    let client = invocation.session.client().await?;
    let (text, reclaimed) = prune_images(&client, filters(typed), all).await?;
    output::out(&text)?;
    output::line(format!(
        "Total reclaimed space: {}",
        human::size_four(reclaimed)
    ))?;
    Ok(0)
}

/// Prunes images; what to print, and the bytes reclaimed.
pub async fn prune_images(
    client: &api::Client,
    mut filters: api::Filters,
    all: bool,
) -> Result<(String, u64)> {
    filters.add("dangling", if all { "false" } else { "true" });
    let pruned: ImagesPruned = client
        .post("/images/prune")
        .filters(&filters)
        .read()
        .await?;
    let mut text = String::new();
    let deleted = pruned.images_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        text.push_str("Deleted Images:\n");
        for item in deleted {
            let line = if item.untagged.is_empty() {
                format!("deleted: {}\n", item.deleted)
            } else {
                format!("untagged: {}\n", item.untagged)
            };
            text.push_str(&line);
        }
        text.push('\n');
    }
    Ok((text, pruned.space_reclaimed))
}
