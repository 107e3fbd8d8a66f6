//! `start` and `attach`: containers that are there already.

use api::Client;
use api::types::ContainerInspect;

use super::run::{detach_keys, ended_by, exit_code, start as start_one};
use crate::attached::{self, End, Plan, Signals};
use crate::command::{ANY, Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{on, switch, text};
use crate::output;
use crate::terminal::{self, Detach, Raw};

/// `start`.
pub const START: Command = Command {
    names: &["container start", "start"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Start containers that have stopped, or never ran",
    flags: &[&[
        switch("attach", "Show its output and forward signals").short('a'),
        text("checkpoint", ""),
        text("checkpoint-dir", ""),
        text("detach-keys", "Keys that detach"),
        switch("interactive", "Give it standard input").short('i'),
    ]],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(start(invocation)) as Run,
};

/// `attach`.
pub const ATTACH: Command = Command {
    names: &["container attach", "attach"],
    usage: "[OPTIONS] CONTAINER",
    about: "Connect to the input and output of a running container",
    flags: &[&[
        text("detach-keys", "Keys that detach"),
        switch("no-stdin", "Do not give it standard input"),
        on("sig-proxy", "Forward signals to the process"),
    ]],
    words: (1, 1),
    stops: false,
    run: |invocation| Box::pin(attach(invocation)) as Run,
};

async fn start(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    if typed.has("checkpoint") || typed.has("checkpoint-dir") {
        return Err(Failure::new("berth does not do checkpoints yet"));
    }
    let names = &typed.words;
    if typed.on("attach") || typed.on("interactive") {
        if names.len() > 1 {
            return Err(Failure::new(
                "you cannot start and attach multiple containers at once",
            ));
        }
        let client = invocation.session.client().await?;
        let wanted = Wanted {
            start: true,
            stdin: typed.on("interactive"),
            signals: true,
        };
        return join(&client, &invocation, wanted).await;
    }
    let client = invocation.session.client().await?;
    let mut failed = Vec::new();
    for name in names {
        match start_one(&client, name).await {
            Ok(()) => output::line(name)?,
            Err(failure) => {
                output::error(failure);
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(format!(
            "Error: failed to start containers: {}",
            failed.join(", ")
        )))
    }
}

async fn attach(invocation: Invocation) -> Result<u8> {
    let client = invocation.session.client().await?;
    let wanted = Wanted {
        start: false,
        stdin: !invocation.typed.on("no-stdin"),
        signals: invocation.typed.not_off("sig-proxy"),
    };
    join(&client, &invocation, wanted).await
}

struct Wanted {
    start: bool,
    stdin: bool,
    signals: bool,
}

/// Attaches to a container, starts it if wanted, and ends with its exit code.
async fn join(client: &Client, invocation: &Invocation, wanted: Wanted) -> Result<u8> {
    let name = invocation.word(0);
    let details: ContainerInspect = client
        .get(format!("/containers/{name}/json"))
        .read()
        .await?;
    if !wanted.start {
        let refused = match &details.state {
            state if !state.running => {
                Some("You cannot attach to a stopped container, start it first")
            }
            state if state.paused => {
                Some("You cannot attach to a paused container, unpause it first")
            }
            state if state.restarting => {
                Some("You cannot attach to a restarting container, wait until it is running")
            }
            _ => None,
        };
        if let Some(refused) = refused {
            return Err(Failure::new(refused));
        }
    }
    let id = &details.id;
    let tty = details.config.tty;
    let stdin = wanted.stdin && details.config.open_stdin;
    if stdin && tty && !terminal::stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let keys = detach_keys(invocation)?;
    let forward = wanted.signals && !tty;
    let mut signals = Signals::catch(forward)?;
    let connection = client
        .post(format!("/containers/{id}/attach"))
        .query("stream", 1)
        .flag("stdin", stdin)
        .flag(
            "stdout",
            !wanted.start || details.config.attach_stdout || invocation.typed.on("attach"),
        )
        .flag(
            "stderr",
            !wanted.start || details.config.attach_stderr || invocation.typed.on("attach"),
        )
        .query_some("detachKeys", Some(&keys).filter(|keys| !keys.is_empty()))
        .hijack()
        .await?;
    let condition = match (wanted.start, details.host_config.auto_remove) {
        (_, true) => "removed",
        (true, false) => "next-exit",
        (false, false) => "not-running",
    };
    let waiting = client
        .post(format!("/containers/{id}/wait"))
        .query("condition", condition)
        .send()
        .await?;
    let raw = if tty && stdin { Raw::enter()? } else { None };
    if wanted.start {
        start_one(client, id).await?;
    }
    let resize = format!("/containers/{id}/resize");
    if tty {
        if !wanted.start {
            // A size that changes makes the program draw itself anew.
            attached::nudge(client, &resize).await;
        }
        attached::resize(client, &resize).await;
    }
    let plan = Plan {
        terminal: tty,
        stdin,
        detach: if tty && stdin {
            Some(Detach::new(&keys)?)
        } else {
            None
        },
        signals: forward.then(|| format!("/containers/{id}/kill")),
        resize: tty.then_some(resize),
    };
    match attached::carry(client, connection, plan, &mut signals).await? {
        End::Output => {}
        End::Detached => {
            drop(raw);
            if wanted.start {
                return Ok(0);
            }
            return Err(Failure::new("read escape sequence"));
        }
        End::Signal(number) => return Ok(ended_by(number)),
    }
    let code = exit_code(waiting).await;
    drop(raw);
    code
}
