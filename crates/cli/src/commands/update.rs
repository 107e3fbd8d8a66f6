//! `update`: limits and restart policy of containers that exist.

use api::types::{UpdateRequest, UpdateResponse};
use vocab::config::{Resources, RestartPolicy};

use crate::command::{ANY, Command, Invocation, Run};
use crate::create::LIMITS;
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Typed, text};
use crate::grammar::limits;
use crate::output;

const RESTART: &[Flag] = &[text(
    "restart",
    "What to do when it exits: no, on-failure[:N], always, unless-stopped",
)];

/// `update`.
pub const UPDATE: Command = Command {
    names: &["container update", "update"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Change limits and restart policy of containers",
    flags: &[LIMITS, RESTART],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(update(invocation)) as Run,
};

fn request(typed: &Typed) -> Result<UpdateRequest, String> {
    let integer = |name: &str| typed.integer(name).unwrap_or(0);
    let restart_policy = match typed.get("restart") {
        Some(restart) => limits::restart(restart)?,
        None => RestartPolicy::default(),
    };
    Ok(UpdateRequest {
        resources: Resources {
            blkio_weight: u16::try_from(integer("blkio-weight")).unwrap_or(0),
            cpu_period: integer("cpu-period"),
            cpu_quota: integer("cpu-quota"),
            cpu_realtime_period: integer("cpu-rt-period"),
            cpu_realtime_runtime: integer("cpu-rt-runtime"),
            cpu_shares: integer("cpu-shares"),
            nano_cpus: typed.get("cpus").map_or(Ok(0), limits::cpus)?,
            cpuset_cpus: typed.text("cpuset-cpus").to_owned(),
            cpuset_mems: typed.text("cpuset-mems").to_owned(),
            memory: typed.bytes("memory").unwrap_or(0),
            memory_reservation: typed.bytes("memory-reservation").unwrap_or(0),
            memory_swap: typed.get("memory-swap").map_or(Ok(0), limits::swap)?,
            pids_limit: typed.integer("pids-limit"),
            ..Resources::default()
        },
        restart_policy,
    })
}

async fn update(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    if ![LIMITS, RESTART]
        .concat()
        .iter()
        .any(|flag| typed.has(flag.name))
    {
        return Err(Failure::new(
            "you must provide one or more flags when using this command",
        ));
    }
    let request = request(typed)?;
    let client = invocation.session.client().await?;
    let (mut warnings, mut failures) = (Vec::new(), Vec::new());
    for name in &typed.words {
        let call = client.post(format!("/containers/{name}/update"));
        match call.json(&request).read::<UpdateResponse>().await {
            Ok(response) => {
                output::line(name)?;
                warnings.extend(response.warnings.unwrap_or_default());
            }
            Err(error) => failures.push(Failure::from(error).message),
        }
    }
    for warning in warnings {
        output::line(warning)?;
    }
    match failures.is_empty() {
        true => Ok(0),
        false => Err(Failure::new(failures.join("\n"))),
    }
}
