//! Commands that do one thing to each container named: stop, restart, kill, rm, pause, unpause,
//! wait; and rename.
//!
//! Each prints the name as typed when it is done. A failure is told and the rest goes on; the exit
//! code then is 1.

use api::Client;
use api::client::Call;
use http::Method;

use super::told;
use crate::command::{ANY, Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Typed, integer, switch, text};
use crate::output;

const STOP_FLAGS: &[Flag] = &[
    text("signal", "Signal to send").short('s'),
    integer("timeout", "Seconds until it is killed").short('t'),
    integer("time", ""),
];

/// `stop`.
pub const STOP: Command = Command {
    names: &["container stop", "stop"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Stop running containers",
    flags: &[STOP_FLAGS],
    words: (1, ANY),
    stops: false,
    run: |invocation| {
        Box::pin(each(invocation, |client, name, typed| {
            stop_like(client, name, "stop", typed)
        })) as Run
    },
};

/// `restart`.
pub const RESTART: Command = Command {
    names: &["container restart", "restart"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Stop containers and start them again",
    flags: &[STOP_FLAGS],
    words: (1, ANY),
    stops: false,
    run: |invocation| {
        Box::pin(each(invocation, |client, name, typed| {
            stop_like(client, name, "restart", typed)
        })) as Run
    },
};

/// `kill`.
pub const KILL: Command = Command {
    names: &["container kill", "kill"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Send a signal to running containers, SIGKILL unless another is named",
    flags: &[&[text("signal", "Signal to send").short('s')]],
    words: (1, ANY),
    stops: false,
    run: |invocation| {
        Box::pin(each(invocation, |client, name, typed| {
            post(client, name, "kill").query("signal", typed.get("signal").unwrap_or("KILL"))
        })) as Run
    },
};

/// `pause`.
pub const PAUSE: Command = Command {
    names: &["container pause", "pause"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Freeze all processes of containers",
    flags: &[],
    words: (1, ANY),
    stops: false,
    run: |invocation| {
        Box::pin(each(invocation, |client, name, _| {
            post(client, name, "pause")
        })) as Run
    },
};

/// `unpause`.
pub const UNPAUSE: Command = Command {
    names: &["container unpause", "unpause"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Let the processes of frozen containers go on",
    flags: &[],
    words: (1, ANY),
    stops: false,
    run: |invocation| {
        Box::pin(each(invocation, |client, name, _| {
            post(client, name, "unpause")
        })) as Run
    },
};

/// `rm`.
pub const RM: Command = Command {
    names: &["container rm", "container remove", "rm"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Remove containers",
    flags: &[&[
        switch("force", "Kill it first if it runs").short('f'),
        switch("link", "Remove only this link").short('l'),
        switch("volumes", "Remove its anonymous volumes too").short('v'),
    ]],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(remove(invocation)) as Run,
};

/// `wait`.
pub const WAIT: Command = Command {
    names: &["container wait", "wait"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Wait until containers have stopped, and print their exit codes",
    flags: &[],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(wait(invocation)) as Run,
};

/// `rename`.
pub const RENAME: Command = Command {
    names: &["container rename", "rename"],
    usage: "CONTAINER NEW_NAME",
    about: "Give a container another name",
    flags: &[],
    words: (2, 2),
    stops: false,
    run: |invocation| Box::pin(rename(invocation)) as Run,
};

fn post<'c>(client: &'c Client, name: &str, verb: &str) -> Call<'c> {
    client.post(format!("/containers/{name}/{verb}"))
}

fn stop_like<'c>(client: &'c Client, name: &str, verb: &str, typed: &Typed) -> Call<'c> {
    post(client, name, verb)
        .query_some("signal", typed.get("signal"))
        .query_some(
            "t",
            typed.integer("timeout").or_else(|| typed.integer("time")),
        )
}

async fn each(
    invocation: Invocation,
    call: impl for<'c> Fn(&'c Client, &str, &Typed) -> Call<'c>,
) -> Result<u8> {
    let client = invocation.session.client().await?;
    let mut code = 0;
    for name in &invocation.typed.words {
        code |= told(name, call(&client, name, &invocation.typed).done().await)?;
    }
    Ok(code)
}

async fn remove(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let client = invocation.session.client().await?;
    let mut code = 0;
    for name in &typed.words {
        let name = name.trim_matches('/');
        if name.is_empty() {
            output::error("Container name cannot be empty");
            code = 1;
            continue;
        }
        let removed = client
            .call(Method::DELETE, format!("/containers/{name}"))
            .flag("force", typed.on("force"))
            .flag("link", typed.on("link"))
            .flag("v", typed.on("volumes"))
            .done()
            .await;
        match removed {
            // With --force a container that is not there is what was wanted.
            Err(error) if error.is_not_found() && typed.on("force") => {
                output::error(Failure::from(error));
            }
            removed => code |= told(name, removed)?,
        }
    }
    Ok(code)
}

async fn wait(invocation: Invocation) -> Result<u8> {
    let client = invocation.session.client().await?;
    let mut code = 0;
    for name in &invocation.typed.words {
        let waited = async {
            let answer = post(&client, name, "wait").send().await?;
            let mut answers = answer.documents::<api::types::WaitResponse>();
            match answers.next().await {
                Some(answer) => Ok(answer?.status_code),
                None => Err(Failure::new("the daemon went away")),
            }
        };
        match waited.await {
            Ok(status) => output::line(status)?,
            Err(failure) => {
                output::error(failure);
                code = 1;
            }
        }
    }
    Ok(code)
}

async fn rename(invocation: Invocation) -> Result<u8> {
    let (old, new) = (invocation.word(0).trim(), invocation.word(1).trim());
    if old.is_empty() || new.is_empty() {
        return Err(Failure::new(
            "Error: Neither old nor new names may be empty",
        ));
    }
    let client = invocation.session.client().await?;
    post(&client, old, "rename")
        .query("name", new)
        .done()
        .await
        .map_err(|error| {
            let failure = Failure::from(error);
            Failure {
                message: format!(
                    "{}\nError: failed to rename container named {old}",
                    failure.message
                ),
                ..failure
            }
        })?;
    Ok(0)
}
