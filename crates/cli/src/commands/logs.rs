//! `logs`: what a container has written.

use api::stream::Decoder;
use api::types::ContainerInspect;

use crate::attached::show_frames;
use crate::command::{Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{switch, text};
use crate::{human, output};

/// `logs`.
pub const LOGS: Command = Command {
    names: &["container logs", "logs"],
    usage: "[OPTIONS] CONTAINER",
    about: "Show what a container has written",
    flags: &[&[
        switch("details", "Show the attributes of its log driver"),
        switch("follow", "Go on as it writes").short('f'),
        text(
            "since",
            "Only after a moment (2013-01-02T13:23:37Z) or so long ago (42m)",
        ),
        text("tail", "Only so many lines from the end")
            .short('n')
            .default("\"all\""),
        switch("timestamps", "Show when each line was written").short('t'),
        text("until", "Only before a moment or so long ago"),
    ]],
    words: (1, 1),
    stops: false,
    run: |invocation| Box::pin(logs(invocation)) as Run,
};

/// A moment as the API wants it.
pub fn moment(typed: Option<&str>) -> Result<Option<String>> {
    let Some(text) = typed.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    human::parse_moment(text, jiff::Timestamp::now())
        .map(Some)
        .ok_or_else(|| {
            Failure::new(format!(
                "failed to parse value as time or duration: \"{text}\""
            ))
        })
}

async fn logs(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let name = invocation.word(0);
    let client = invocation.session.client().await?;
    let details: ContainerInspect = client
        .get(format!("/containers/{name}/json"))
        .read()
        .await?;
    let invalid = |which: &str, failure: Failure| {
        Failure::new(format!(
            "invalid value for \"{which}\": {}",
            failure.message
        ))
    };
    let since = moment(typed.get("since")).map_err(|failure| invalid("since", failure))?;
    let until = moment(typed.get("until")).map_err(|failure| invalid("until", failure))?;
    let mut answer = client
        .get(format!("/containers/{}/logs", details.id))
        .query("stdout", 1)
        .query("stderr", 1)
        .flag("follow", typed.on("follow"))
        .flag("timestamps", typed.on("timestamps"))
        .flag("details", typed.on("details"))
        .query("tail", typed.get("tail").unwrap_or("all"))
        .query_some("since", since)
        .query_some("until", until)
        .send()
        .await?;
    let mut decoder = Decoder::new();
    while let Some(piece) = answer.next().await {
        let piece = piece?;
        if details.config.tty {
            output::bytes(&piece)?;
        } else {
            decoder.push(&piece);
            show_frames(&mut decoder)?;
        }
    }
    Ok(0)
}
