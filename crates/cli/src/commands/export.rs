//! A container's files: export, commit, diff.

use api::types::{Change, CommitResponse};

use super::image::save_to;
use super::images::reference;
use crate::command::{Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{many, on, text};
use crate::{output, terminal};

/// `export`.
pub const EXPORT: Command = Command {
    names: &["container export", "export"],
    usage: "[OPTIONS] CONTAINER",
    about: "Write all files of a container to a tar, on standard output unless told otherwise",
    flags: &[&[text("output", "Write this file").short('o')]],
    words: (1, 1),
    stops: false,
    run: |invocation| Box::pin(export(invocation)) as Run,
};

/// `commit`.
pub const COMMIT: Command = Command {
    names: &["container commit", "commit"],
    usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    about: "Make an image of a container",
    flags: &[&[
        text("author", "Who made it (\"Jane Doe <jane@example.com>\")").short('a'),
        many("change", "Apply an instruction of a Dockerfile").short('c'),
        text("message", "Commit message").short('m'),
        on("pause", "Freeze the container meanwhile").short('p'),
    ]],
    words: (1, 2),
    stops: false,
    run: |invocation| Box::pin(commit(invocation)) as Run,
};

/// `diff`.
pub const DIFF: Command = Command {
    names: &["container diff", "diff"],
    usage: "CONTAINER",
    about: "Show which files differ from the image: A added, C changed, D deleted",
    flags: &[],
    words: (1, 1),
    stops: false,
    run: |invocation| Box::pin(diff(invocation)) as Run,
};

async fn diff(invocation: Invocation) -> Result<u8> {
    if invocation.word(0).is_empty() {
        return Err(Failure::new("Container name cannot be empty"));
    }
    let client = invocation.session.client().await?;
    let path = format!("/containers/{}/changes", invocation.word(0));
    let changes: Option<Vec<Change>> = client.get(path).read().await?;
    for change in changes.unwrap_or_default() {
        let letter = match change.kind {
            0 => 'C',
            1 => 'A',
            2 => 'D',
            _ => '?',
        };
        output::line(format!("{letter} {}", change.path))?;
    }
    Ok(0)
}

async fn export(invocation: Invocation) -> Result<u8> {
    let path = invocation
        .typed
        .get("output")
        .filter(|path| !path.is_empty());
    if path.is_none() && terminal::stdout_is_terminal() {
        return Err(Failure::new(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let client = invocation.session.client().await?;
    let path_of = format!("/containers/{}/export", invocation.word(0));
    save_to(client.get(path_of), path, "export container").await
}

async fn commit(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let name = match typed.words.get(1) {
        Some(name) => {
            let named = reference(name)?;
            if named.digest().is_some() {
                return Err(Failure::new("cannot commit to digest reference"));
            }
            Some(named)
        }
        None => None,
    };
    let client = invocation.session.client().await?;
    let mut call = client
        .post("/commit")
        .query("container", invocation.word(0))
        .query_some("repo", name.as_ref().map(vocab::Reference::familiar_name))
        .query_some("tag", name.as_ref().and_then(vocab::Reference::tag))
        .query_some("comment", typed.get("message"))
        .query_some("author", typed.get("author"));
    for change in typed.all("change") {
        call = call.query("changes", change);
    }
    if !typed.not_off("pause") {
        call = call.query("pause", 0);
    }
    let made: CommitResponse = call.read().await?;
    output::line(made.id)?;
    Ok(0)
}
