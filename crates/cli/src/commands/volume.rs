//! `volume`: ls, create, rm, prune.

use api::types::{Volume, VolumeCreate, VolumeList, VolumesPruned};
use http::Method;

use super::{confirm, filters, listing_format, told};
use crate::command::{ANY, Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{TABLE, UNASKED, filter, many, many_of, switch, text};
use crate::format::{self, Listing};
use crate::grammar::pairs;
use crate::template::Value;
use crate::{human, output};

/// `volume ls`.
pub const LS: Command = Command {
    names: &["volume ls", "volume list"],
    usage: "[OPTIONS]",
    about: "List volumes",
    flags: &[&[
        switch("cluster", ""),
        filter().short('f'),
        TABLE,
        switch("quiet", "Only names").short('q'),
    ]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(list(invocation)) as Run,
};

/// `volume create`.
pub const CREATE: Command = Command {
    names: &["volume create"],
    usage: "[OPTIONS] [VOLUME]",
    about: "Make a volume",
    flags: &[&[
        text("driver", "Driver").short('d').default("\"local\""),
        many("label", "Label it: `key=value`"),
        many_of("opt", "map", "Option of the driver")
            .short('o')
            .default("map[]"),
        text("name", ""),
        text("availability", ""),
        text("group", ""),
        text("limit-bytes", ""),
        text("required-bytes", ""),
        text("scope", ""),
        many("secret", ""),
        text("sharing", ""),
        many("topology-preferred", ""),
        many("topology-required", ""),
        text("type", ""),
    ]],
    words: (0, 1),
    stops: false,
    run: |invocation| Box::pin(create(invocation)) as Run,
};

/// `volume rm`.
pub const RM: Command = Command {
    names: &["volume rm", "volume remove"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Remove volumes",
    flags: &[&[switch("force", "Missing volumes are no mistake").short('f')]],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(remove(invocation)) as Run,
};

/// `volume prune`.
pub const PRUNE: Command = Command {
    names: &["volume prune"],
    usage: "[OPTIONS]",
    about: "Remove volumes that no container uses",
    flags: &[&[
        switch("all", "Those with a name too").short('a'),
        filter(),
        UNASKED,
    ]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(prune(invocation)) as Run,
};

const LISTING: Listing<'_> = Listing {
    kind: "*formatter.volumeContext",
    headers: &[
        ("Name", "VOLUME NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
        ("Group", "GROUP"),
        ("Availability", "AVAILABILITY"),
        ("Status", "STATUS"),
    ],
};

async fn list(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let format = listing_format(&invocation, |config| config.volumes_format);
    let client = invocation.session.client().await?;
    let found: VolumeList = client
        .get("/volumes")
        .filters(&filters(typed))
        .read()
        .await?;
    let mut volumes = found.volumes;
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let rows: Vec<Value> = volumes.iter().map(row).collect();
    output::out(&format::render(
        &LISTING,
        format.as_deref(),
        typed.on("quiet").then_some("{{.Name}}"),
        "{{.Driver}}\\t{{.Name}}",
        &rows,
    )?)?;
    Ok(0)
}

/// One volume as a row.
pub fn row(volume: &Volume) -> Value {
    let labels = volume.labels.clone().unwrap_or_default();
    let usage = volume.usage_data.as_ref();
    let unknown = || "N/A".to_owned();
    Value::row(
        LISTING.kind,
        [
            ("Name", Value::from(volume.name.as_str())),
            ("Driver", Value::from(volume.driver.as_str())),
            ("Scope", Value::from(volume.scope.as_str())),
            ("Mountpoint", Value::from(volume.mountpoint.as_str())),
            ("Labels", Value::from(format::labels(&labels))),
            ("Label", format::label(labels)),
            (
                "Links",
                Value::from(usage.map_or_else(unknown, |usage| usage.ref_count.to_string())),
            ),
            (
                "Size",
                Value::from(usage.map_or_else(unknown, |usage| human::size(usage.size))),
            ),
            ("Group", Value::from("N/A")),
            ("Availability", Value::from("N/A")),
            ("Status", Value::from("N/A")),
        ],
    )
}

async fn create(invocation: Invocation) -> Result<u8> {
    const CLUSTER: [&str; 10] = [
        "availability",
        "group",
        "limit-bytes",
        "required-bytes",
        "scope",
        "secret",
        "sharing",
        "topology-preferred",
        "topology-required",
        "type",
    ];
    let typed = &invocation.typed;
    if let Some(flag) = CLUSTER.iter().find(|flag| typed.has(flag)) {
        return Err(Failure::new(format!(
            "--{flag} is for cluster volumes, which berth does not do yet"
        )));
    }
    if typed.has("name") && !typed.words.is_empty() {
        return Err(Failure::new(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
        ));
    }
    let wanted = VolumeCreate {
        driver: typed.get("driver").unwrap_or("local").to_owned(),
        driver_opts: Some(pairs::map(typed.all("opt"))),
        labels: Some(pairs::map(typed.all("label"))),
        name: typed
            .words
            .first()
            .map(String::as_str)
            .or_else(|| typed.get("name"))
            .unwrap_or_default()
            .to_owned(),
    };
    let client = invocation.session.client().await?;
    let volume: Volume = client.post("/volumes/create").json(&wanted).read().await?;
    output::line(volume.name)?;
    Ok(0)
}

async fn remove(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let client = invocation.session.client().await?;
    let mut code = 0;
    for name in &typed.words {
        let removed = client
            .call(Method::DELETE, format!("/volumes/{name}"))
            .flag("force", typed.on("force"))
            .done()
            .await;
        code |= told(name, removed)?;
    }
    Ok(code)
}

async fn prune(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let all = typed.on("all");
    let which = if all { "all" } else { "anonymous" };
    let warning = format!(
        "WARNING! This will remove {which} local volumes not used by at least one container."
    );
    if !typed.on("force") && !confirm(&warning).await? {
        return Ok(0);
    }
    let mut filters = filters(typed);
    if all {
        filters.add("all", "true");
    }
    let client = invocation.session.client().await?;
    let (text, reclaimed) = prune_volumes(&client, &filters).await?;
    output::out(&text)?;
    output::line(format!(
        "Total reclaimed space: {}",
        human::size_four(reclaimed)
    ))?;
    Ok(0)
}

/// Prunes volumes; what to print, and the bytes reclaimed.
pub async fn prune_volumes(client: &api::Client, filters: &api::Filters) -> Result<(String, u64)> {
    let pruned: VolumesPruned = client
        .post("/volumes/prune")
        .filters(filters)
        .read()
        .await?;
    let deleted = pruned.volumes_deleted.unwrap_or_default();
    let mut text = String::new();
    if !deleted.is_empty() {
        text = format!("Deleted Volumes:\n{}\n\n", deleted.join("\n"));
    }
    Ok((text, pruned.space_reclaimed))
}
