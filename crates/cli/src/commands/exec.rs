//! `exec`: another process in a running container.

use api::types::{ContainerInspect, ExecConfig, ExecInspect, ExecStart, Identified};

use super::run::{detach_keys, ended_by};
use crate::attached::{self, End, Plan, Signals};
use crate::command::{ANY, Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{many, many_checked, switch, text};
use crate::grammar::pairs;
use crate::terminal::{self, Detach, Raw};

/// `exec`.
pub const EXEC: Command = Command {
    names: &["container exec", "exec"],
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    about: "Run a command in a running container",
    flags: &[&[
        switch("detach", "Run it in the background").short('d'),
        text("detach-keys", "Keys that detach"),
        many_checked(
            "env",
            "list",
            pairs::check_variable,
            "Set a variable; `NAME` alone takes the caller's",
        )
        .short('e'),
        many("env-file", "Set the variables of a file"),
        switch("interactive", "Keep stdin open even if nobody is attached").short('i'),
        switch("privileged", "Give it all capabilities"),
        switch("tty", "Give it a terminal").short('t'),
        text("user", "User: `name|uid[:group|gid]`").short('u'),
        text("workdir", "Working directory").short('w'),
    ]],
    words: (2, ANY),
    stops: true,
    run: |invocation| Box::pin(exec(invocation)) as Run,
};

async fn exec(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let detach = typed.on("detach");
    let tty = typed.on("tty");
    let stdin = typed.on("interactive") && !detach;
    let mut env = Vec::new();
    for path in typed.all("env-file") {
        env.extend(pairs::file(path, true)?);
    }
    env.extend(typed.all("env").map(pairs::variable));
    let keys = detach_keys(&invocation)?;
    let name = invocation.word(0);
    let client = invocation.session.client().await?;
    // As Docker's: a container that is not there is told before anything is created.
    let _: ContainerInspect = client
        .get(format!("/containers/{name}/json"))
        .read()
        .await?;
    if stdin && tty && !terminal::stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let console_size = if tty {
        terminal::size().map(|(r, c)| [r, c])
    } else {
        None
    };
    let config = ExecConfig {
        user: typed.text("user").to_owned(),
        privileged: typed.on("privileged"),
        tty,
        console_size,
        attach_stdin: stdin,
        attach_stderr: !detach,
        attach_stdout: !detach,
        detach,
        detach_keys: keys.clone(),
        env: (!env.is_empty()).then_some(env),
        working_dir: typed.text("workdir").to_owned(),
        cmd: typed.words[1..].to_vec(),
    };
    let created: Identified = client
        .post(format!("/containers/{name}/exec"))
        .json(&config)
        .read()
        .await?;
    let id = created.id;
    let start = ExecStart {
        detach,
        tty,
        console_size,
    };
    let call = client.post(format!("/exec/{id}/start")).json(&start);
    if detach {
        call.done().await?;
        return Ok(0);
    }
    let mut signals = Signals::catch(false)?;
    let raw = if tty && stdin { Raw::enter()? } else { None };
    let connection = call.hijack().await?;
    let resize = format!("/exec/{id}/resize");
    if tty {
        attached::resize(&client, &resize).await;
    }
    let plan = Plan {
        terminal: tty,
        stdin,
        detach: if tty && stdin {
            Some(Detach::new(&keys)?)
        } else {
            None
        },
        signals: None,
        resize: tty.then_some(resize),
    };
    let end = attached::carry(&client, connection, plan, &mut signals).await;
    drop(raw);
    match end? {
        End::Output => {}
        End::Detached => return Err(Failure::new("read escape sequence")),
        End::Signal(number) => return Ok(ended_by(number)),
    }
    let ended: ExecInspect = client.get(format!("/exec/{id}/json")).read().await?;
    Ok(u8::try_from(ended.exit_code.unwrap_or(0) & 0xff).unwrap_or(1))
}
