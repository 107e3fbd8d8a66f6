//! `stats`, `top` and `port`: what containers are at.

use std::collections::BTreeMap;
use std::time::Duration;

use api::Client;
use api::client::{CallError, Documents};
use api::types::{ContainerInspect, ContainerSummary, Stats, Top};
use futures_util::stream::{FuturesUnordered, StreamExt as _};

use super::listing_format;
use crate::command::{ANY, Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{TABLE, switch};
use crate::format::{self, Listing, short};
use crate::template::Value;
use crate::{human, output, table};

/// `stats`.
pub const STATS: Command = Command {
    names: &["container stats", "stats"],
    usage: "[OPTIONS] [CONTAINER...]",
    about: "Show what running containers use, as they use it",
    flags: &[&[
        switch("all", "Those that have stopped too").short('a'),
        TABLE,
        switch("no-stream", "Once"),
        switch("no-trunc", "Do not cut ids"),
    ]],
    words: (0, ANY),
    stops: false,
    run: |invocation| Box::pin(stats(invocation)) as Run,
};

/// `top`.
pub const TOP: Command = Command {
    names: &["container top", "top"],
    usage: "CONTAINER [ps OPTIONS]",
    about: "Show the processes of a container",
    flags: &[],
    words: (1, ANY),
    stops: true,
    run: |invocation| Box::pin(top(invocation)) as Run,
};

/// `port`.
pub const PORT: Command = Command {
    names: &["container port", "port"],
    usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
    about: "Show where the ports of a container are published",
    flags: &[],
    words: (1, 2),
    stops: false,
    run: |invocation| Box::pin(port(invocation)) as Run,
};

const LISTING: Listing<'_> = Listing {
    kind: "*container.statsContext",
    headers: &[
        ("Container", "CONTAINER"),
        ("Name", "NAME"),
        ("ID", "CONTAINER ID"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
};

const COLUMNS: &str = "{{.ID}}\\t{{.Name}}\\t{{.CPUPerc}}\\t{{.MemUsage}}\\t{{.MemPerc}}\\t{{.NetIO}}\\t{{.BlockIO}}\\t{{.PIDs}}";

/// Between two pictures on the screen, as Docker's.
const REDRAW: Duration = Duration::from_millis(500);

/// Pictures between two looks for new containers.
const LOOKS: u32 = 4;

async fn stats(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let format = listing_format(&invocation, |config| config.stats_format);
    let whole = typed.on("no-trunc");
    let client = invocation.session.client().await?;
    let draw = |rows: &[Value]| format::render(&LISTING, format.as_deref(), None, COLUMNS, rows);
    draw(&[])?;
    let named = !typed.words.is_empty();
    let names = if named {
        typed.words.clone()
    } else {
        listed(&client, typed.on("all")).await?
    };
    if typed.on("no-stream") {
        let client = &client;
        let samples = futures_util::future::join_all(names.iter().map(|name| async move {
            let read = client
                .get(format!("/containers/{name}/stats"))
                .query("stream", 0)
                .read::<Stats>();
            (name.clone(), read.await)
        }))
        .await;
        let mut rows = Vec::new();
        let mut code = 0;
        for (name, sample) in samples {
            match sample {
                Ok(sample) => rows.push(row(&name, Some(&sample), whole)),
                // One of the list that went away meanwhile is no mistake.
                Err(error) if !named && error.is_not_found() => {}
                Err(error) => {
                    output::error(Failure::from(error));
                    code = 1;
                }
            }
        }
        if code == 0 {
            output::out(&draw(&rows)?)?;
        }
        return Ok(code);
    }
    watch(&client, names, named, typed.on("all"), whole, draw).await?;
    Ok(0)
}

async fn listed(client: &Client, all: bool) -> Result<Vec<String>> {
    let containers: Vec<ContainerSummary> = client
        .get("/containers/json")
        .flag("all", all)
        .read()
        .await?;
    Ok(containers
        .into_iter()
        .map(|container| short(&container.id).to_owned())
        .collect())
}

type Sample = (
    String,
    Option<std::result::Result<Stats, CallError>>,
    Documents<Stats>,
);

async fn next(name: String, mut stream: Documents<Stats>) -> Sample {
    let sample = stream.next().await;
    (name, sample, stream)
}

async fn watch(
    client: &Client,
    names: Vec<String>,
    named: bool,
    all: bool,
    whole: bool,
    draw: impl Fn(&[Value]) -> Result<String>,
) -> Result {
    let open = |name: String| async move {
        let answer = client
            .get(format!("/containers/{name}/stats"))
            .query("stream", 1)
            .send()
            .await?;
        Ok::<_, Failure>(answer.documents::<Stats>())
    };
    let mut order = names.clone();
    let mut latest: BTreeMap<String, Option<Stats>> = BTreeMap::new();
    let mut samples = FuturesUnordered::new();
    for name in names {
        let stream = open(name.clone()).await?;
        latest.insert(name.clone(), None);
        samples.push(next(name, stream));
    }
    let mut ticks = tokio::time::interval(REDRAW);
    let mut looks = 0;
    loop {
        tokio::select! {
            Some((name, sample, stream)) = samples.next() => match sample {
                Some(Ok(sample)) => {
                    latest.insert(name.clone(), Some(sample));
                    samples.push(next(name, stream));
                }
                _ => {
                    latest.remove(&name);
                    order.retain(|known| *known != name);
                }
            },
            _ = ticks.tick() => {
                let rows: Vec<Value> = order
                    .iter()
                    .filter_map(|name| latest.get(name).map(|sample| row(name, sample.as_ref(), whole)))
                    .collect();
                // Over the picture before, line by line, so that nothing flickers.
                let picture = draw(&rows)?.replace('\n', "\x1b[K\n");
                output::out(&format!("\x1b[H{picture}\x1b[J"))?;
                if named && latest.is_empty() {
                    return Ok(());
                }
                looks += 1;
                if !named && looks % LOOKS == 0 {
                    for name in listed(client, all).await? {
                        if !latest.contains_key(&name) && let Ok(stream) = open(name.clone()).await {
                            latest.insert(name.clone(), None);
                            order.push(name.clone());
                            samples.push(next(name, stream));
                        }
                    }
                }
            }
        }
    }
}

/// Percent of all processors since the sample before.
#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
fn cpu_percent(sample: &Stats) -> f64 {
    let (now, before) = (&sample.cpu_stats, &sample.precpu_stats);
    let used = now.cpu_usage.total_usage as f64 - before.cpu_usage.total_usage as f64;
    let passed = now.system_cpu_usage as f64 - before.system_cpu_usage as f64;
    let cpus = match now.online_cpus {
        0 => now.cpu_usage.percpu_usage.len() as f64,
        online => f64::from(online),
    };
    if passed > 0.0 && used > 0.0 {
        used / passed * cpus * 100.0
    } else {
        0.0
    }
}

/// Memory without what the kernel can drop at once.
fn memory(sample: &Stats) -> u64 {
    let memory = &sample.memory_stats;
    let cache = memory
        .stats
        .get("total_inactive_file")
        .or_else(|| memory.stats.get("inactive_file"));
    match cache {
        Some(cache) if *cache < memory.usage => memory.usage - cache,
        _ => memory.usage,
    }
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
fn row(name: &str, sample: Option<&Stats>, whole: bool) -> Value {
    // A container that does not run has no samples.
    let sample = sample.filter(|sample| !sample.id.is_empty());
    let amount = |bytes: u64| human::size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let or_dashes = |dashes: &str, show: &dyn Fn(&Stats) -> String| {
        Value::from(sample.map_or_else(|| dashes.to_owned(), show))
    };
    Value::row(
        LISTING.kind,
        [
            ("Container", Value::from(name)),
            (
                "Name",
                or_dashes("--", &|sample| {
                    sample.name.trim_start_matches('/').to_owned()
                }),
            ),
            (
                "ID",
                or_dashes("--", &|sample| {
                    if whole {
                        sample.id.clone()
                    } else {
                        short(&sample.id).to_owned()
                    }
                }),
            ),
            (
                "CPUPerc",
                or_dashes("--", &|sample| format!("{:.2}%", cpu_percent(sample))),
            ),
            (
                "MemUsage",
                or_dashes("-- / --", &|sample| {
                    format!(
                        "{} / {}",
                        human::size_binary(memory(sample)),
                        human::size_binary(sample.memory_stats.limit)
                    )
                }),
            ),
            (
                "MemPerc",
                or_dashes("--", &|sample| {
                    let limit = sample.memory_stats.limit as f64;
                    let percent = if limit > 0.0 {
                        memory(sample) as f64 / limit * 100.0
                    } else {
                        0.0
                    };
                    format!("{percent:.2}%")
                }),
            ),
            (
                "NetIO",
                or_dashes("--", &|sample| {
                    let received = sample.networks.values().map(|n| n.rx_bytes).sum();
                    let sent = sample.networks.values().map(|n| n.tx_bytes).sum();
                    format!("{} / {}", amount(received), amount(sent))
                }),
            ),
            (
                "BlockIO",
                or_dashes("--", &|sample| {
                    let sum = |letter: char| {
                        sample
                            .blkio_stats
                            .io_service_bytes_recursive
                            .iter()
                            .flatten()
                            .filter(|entry| entry.op.to_lowercase().starts_with(letter))
                            .map(|entry| entry.value)
                            .sum()
                    };
                    format!("{} / {}", amount(sum('r')), amount(sum('w')))
                }),
            ),
            (
                "PIDs",
                or_dashes("--", &|sample| sample.pids_stats.current.to_string()),
            ),
        ],
    )
}

async fn top(invocation: Invocation) -> Result<u8> {
    let arguments = invocation.typed.words[1..].join(" ");
    let client = invocation.session.client().await?;
    let top: Top = client
        .get(format!("/containers/{}/top", invocation.word(0)))
        .query_some("ps_args", Some(arguments).filter(|a| !a.is_empty()))
        .read()
        .await?;
    let mut text = format!("{}\n", top.titles.join("\t"));
    for process in &top.processes {
        text.push_str(&process.join("\t"));
        text.push('\n');
    }
    output::out(&table::layout(&text, 20, 1, 3))?;
    Ok(0)
}

async fn port(invocation: Invocation) -> Result<u8> {
    let name = invocation.word(0);
    let client = invocation.session.client().await?;
    let details: ContainerInspect = client
        .get(format!("/containers/{name}/json"))
        .read()
        .await?;
    let ports = &details.network_settings.ports;
    let address = |binding: &vocab::config::PortBinding| {
        if binding.host_ip.contains(':') {
            format!("[{}]:{}", binding.host_ip, binding.host_port)
        } else {
            format!("{}:{}", binding.host_ip, binding.host_port)
        }
    };
    if let Some(wanted) = invocation.typed.words.get(1) {
        let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        if number.parse::<u16>().is_err() {
            return Err(Failure::new(format!(
                "Error: invalid port ({number}): value out of range"
            )));
        }
        let key = format!("{number}/{}", protocol.to_lowercase());
        match ports
            .get(&key)
            .and_then(Option::as_ref)
            .filter(|list| !list.is_empty())
        {
            Some(bindings) => {
                for binding in bindings {
                    output::line(address(binding))?;
                }
            }
            None => {
                return Err(Failure::new(format!(
                    "Error: No public port '{wanted}' published for {name}"
                )));
            }
        }
        return Ok(0);
    }
    let number = |key: &str| {
        key.split('/')
            .next()
            .and_then(|port| port.parse::<u16>().ok())
    };
    let mut lines: Vec<(Option<u16>, String)> = ports
        .iter()
        .flat_map(|(key, bindings)| {
            bindings
                .iter()
                .flatten()
                .map(move |binding| (number(key), format!("{key} -> {}", address(binding))))
        })
        .collect();
    lines.sort();
    for (_, text) in lines {
        output::line(text)?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_reads_as_docker_shows_it() {
        let sample: Stats = serde_json::from_str(
            r#"{"id":"0123456789abcdef","name":"/web","pids_stats":{"current":3},
                "cpu_stats":{"cpu_usage":{"total_usage":300},"system_cpu_usage":2000,"online_cpus":2},
                "precpu_stats":{"cpu_usage":{"total_usage":100},"system_cpu_usage":1000},
                "memory_stats":{"usage":3145728,"limit":67108864,"stats":{"inactive_file":1048576}},
                "networks":{"eth0":{"rx_bytes":1500,"tx_bytes":0}},
                "blkio_stats":{"io_service_bytes_recursive":[{"op":"read","value":4096},{"op":"Write","value":8192}]}}"#,
        )
        .unwrap();
        let out = format::render(
            &LISTING,
            None,
            None,
            COLUMNS,
            &[row("web", Some(&sample), false), row("x", None, false)],
        )
        .unwrap();
        assert_eq!(
            out,
            "CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O      BLOCK I/O        PIDS\n\
             0123456789ab   web       40.00%    2MiB / 64MiB        3.12%     1.5kB / 0B   4.1kB / 8.19kB   3\n\
             --             --        --        -- / --             --        --           --               --\n"
        );
    }
}
