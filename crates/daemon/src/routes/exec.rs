//! Commands inside running containers.

use api::types::{ExecConfig, ExecInspect, ExecStart, Identified, ProcessConfig};
use engine::exec::{CreateExec, ExecDetails, StartExec, StartExecError};
use http::StatusCode;
use vocab::failure::chain;

use super::Outcome;
use super::attach::{take_over, take_over_to_say};
use super::containers::size;
use crate::answer::{self, Refusal};
use crate::call::Call;

/// `POST /containers/{id}/exec`.
pub(crate) async fn create(mut call: Call) -> Outcome {
    let config: ExecConfig = call.json().await?;
    if config.cmd.is_empty() {
        return Err(Refusal::invalid("No exec command specified"));
    }
    let some = |text: String| (!text.is_empty()).then_some(text);
    let wanted = CreateExec {
        cmd: config.cmd,
        env: config.env.unwrap_or_default(),
        user: some(config.user),
        working_dir: some(config.working_dir),
        privileged: config.privileged,
        tty: config.tty,
        attach_stdin: config.attach_stdin,
        attach_stdout: config.attach_stdout,
        attach_stderr: config.attach_stderr,
        detach_keys: some(config.detach_keys),
        console_size: console(&call, config.console_size),
    };
    let id = call.engine().create_exec(call.name(), wanted).await?;
    Ok(answer::json(
        StatusCode::CREATED,
        &Identified { id: id.to_string() },
    ))
}

/// Clients before 1.42 may send a size that means nothing.
fn console(call: &Call, size: Option<[u16; 2]>) -> Option<(u16, u16)> {
    let [rows, columns] = size.filter(|size| call.speaks(42) && *size != [0, 0])?;
    Some((rows, columns))
}

/// `POST /exec/{id}/start`.
pub(crate) async fn start(mut call: Call) -> Outcome {
    let request: ExecStart = call.json().await?;
    let tty = call.engine().inspect_exec(call.name()).await?.wanted.tty;
    let options = StartExec {
        detach: request.detach,
        console_size: console(&call, request.console_size),
    };
    match call.engine().start_exec(call.name(), options).await {
        Ok(Some(attached)) => Ok(take_over(call, attached)),
        Ok(None) => Ok(answer::empty(StatusCode::OK)),
        // Docker tells an attached client in the stream, and keeps 126 or 127 for `inspect`.
        Err(error @ StartExecError::Launch { .. }) if !request.detach => {
            let text = format!("{}\r\n", chain(&error));
            Ok(take_over_to_say(call, tty, text))
        }
        Err(error) => Err(error.into()),
    }
}

/// `POST /exec/{id}/resize`.
pub(crate) async fn resize(call: Call) -> Outcome {
    let (rows, columns) = size(&call)?;
    call.engine()
        .resize_exec(call.name(), rows, columns)
        .await?;
    Ok(answer::empty(StatusCode::OK))
}

/// `GET /exec/{id}/json`.
pub(crate) async fn inspect(call: Call) -> Outcome {
    let details = call.engine().inspect_exec(call.name()).await?;
    Ok(answer::ok(&shown(details)))
}

fn shown(details: ExecDetails) -> ExecInspect {
    let wanted = details.wanted;
    let mut words = wanted.cmd.into_iter();
    ExecInspect {
        id: details.id.to_string(),
        running: details.running,
        exit_code: details.exit_code.map(i64::from),
        process_config: ProcessConfig {
            tty: wanted.tty,
            entrypoint: words.next().unwrap_or_default(),
            arguments: words.collect(),
            privileged: Some(wanted.privileged),
            user: wanted.user.unwrap_or_default(),
        },
        open_stdin: wanted.attach_stdin,
        open_stderr: wanted.attach_stderr,
        open_stdout: wanted.attach_stdout,
        can_remove: details.can_remove,
        container_id: details.container.to_string(),
        detach_keys: String::new(),
        pid: i64::from(details.pid),
    }
}
