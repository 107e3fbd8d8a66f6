//! `update`: limits and restart policy of containers that exist.

use api::types::{UpdateRequest, UpdateResponse};
use vocab::config::{Resources, RestartPolicy};

use crate::command::{ANY, Command, Invocation, Run};
use crate::create::unsigned16;
use crate::failure::{Failure, Result};
use crate::flags::{self, Flag, Typed, text};
use crate::grammar::limits;
use crate::output;

const FLAGS: &[Flag] = &[
    unsigned16(
        "blkio-weight",
        "Relative weight of block I/O, 10 to 1000, or 0 for none",
    )
    .default("0"),
    flags::integer("cpu-period", "CFS period in microseconds"),
    flags::integer("cpu-quota", "CFS quota in microseconds"),
    flags::integer("cpu-rt-period", "Real-time period in microseconds"),
    flags::integer("cpu-rt-runtime", "Real-time budget in microseconds"),
    flags::integer("cpu-shares", "Relative weight of CPU time").short('c'),
    flags::checked(
        "cpus",
        "decimal",
        limits::check_cpus,
        "How many CPUs it may use: `1.5`",
    ),
    text("cpuset-cpus", "CPUs it may run on: `0-3,5`"),
    text("cpuset-mems", "Memory nodes it may use: `0-1`"),
    flags::bytes("memory", "Limit of memory").short('m'),
    flags::bytes("memory-reservation", "Soft limit of memory"),
    flags::checked(
        "memory-swap",
        "bytes",
        limits::check_swap,
        "Limit of memory and swap together; -1 for none",
    ),
    flags::integer("pids-limit", "Limit of processes; -1 for none"),
    text(
        "restart",
        "What to do when it exits: no, on-failure[:N], always, unless-stopped",
    ),
];

/// `update`.
pub const UPDATE: Command = Command {
    names: &["container update", "update"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Change limits and restart policy of containers",
    flags: &[FLAGS],
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
    if !FLAGS.iter().any(|flag| typed.has(flag.name)) {
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
