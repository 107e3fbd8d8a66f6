//! `image ls --tree`: each image with the platforms that its names stand for.

use api::types::{ImageManifestData, ImageManifestSummary, ImageSummary};
use api::{Client, Filters};

use crate::failure::{Failure, Result};
use crate::flags::Typed;
use crate::format::short;
use crate::{human, output};

/// Where the legend ends, as on a terminal of 80 columns.
const LEGEND_END: usize = 79;
const WARNING: &str =
    "WARNING: This is an experimental feature. The output may change and shouldn't be depended on.";
const LEGEND: &str = "Info ->  U In Use";
/// Between two columns.
const GAP: &str = "   ";

/// Flags that say how a table is to look, with the words in which Docker refuses them.
const OF_TABLES: [(&str, &str); 4] = [
    ("quiet", "--quiet"),
    ("no-trunc", "--no-trunc"),
    ("digests", "--show-digest"),
    ("format", "--format"),
];

/// Prints the tree.
pub async fn tree(client: &Client, typed: &Typed, filters: &Filters) -> Result<u8> {
    let mut images: Vec<ImageSummary> = client
        .get("/images/json")
        .flag("all", typed.on("all"))
        .flag("manifests", true)
        .filters(filters)
        .read()
        .await?;
    // Images without a tag are drawn where all are.
    images.retain(|image| typed.on("all") || !image.repo_tags.is_empty());
    output::out(&draw(&images))?;
    Ok(0)
}

/// Refuses what a tree has no place for.
pub fn check(typed: &Typed) -> Result {
    let is_said =
        |name: &str| typed.on(name) || typed.get(name).is_some_and(|text| !text.is_empty());
    match OF_TABLES.iter().find(|(name, _)| is_said(name)) {
        Some((_, words)) => Err(Failure::new(format!(
            "{words} is not yet supported with --tree"
        ))),
        None => Ok(()),
    }
}

/// A line with an id and sizes.
struct Row {
    name: String,
    id: String,
    disk: i64,
    content: i64,
    used: bool,
}

/// Names beyond the last, which stand alone, and the rows beneath them.
struct Group {
    names: Vec<String>,
    rows: Vec<Row>,
}

fn draw(images: &[ImageSummary]) -> String {
    let groups: Vec<Group> = images.iter().map(group).collect();
    let names = groups.iter().flat_map(|group| {
        let rows = group.rows.iter().map(|row| &row.name);
        rows.chain(&group.names)
    });
    // In bytes, as Docker counts.
    let widest = names.map(String::len).max().unwrap_or(0).max("IMAGE".len());
    let mut out = format!("{WARNING}\n{LEGEND:>LEGEND_END$} \n\n");
    let head = format!(
        "{:widest$}{GAP}{:12}{GAP}DISK USAGE{GAP}CONTENT SIZE{GAP}EXTRA\n",
        "IMAGE", "ID"
    );
    out.push_str(&head);
    for (at, group) in groups.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        for name in &group.names {
            out.push_str(name);
            out.push('\n');
        }
        for row in &group.rows {
            let name = &row.name;
            let pad = " ".repeat(widest - name.chars().count());
            let line = format!(
                "{name}{pad}{GAP}{:12}{GAP}{:>10}{GAP}{:>12}{GAP}{:5}\n",
                short(&row.id),
                human::size(row.disk),
                human::size(row.content),
                if row.used { "U" } else { "" },
            );
            out.push_str(&line);
        }
    }
    if !groups.is_empty() {
        out.push('\n');
    }
    out
}

fn group(image: &ImageSummary) -> Group {
    let manifests = image.manifests.as_deref().unwrap_or_default();
    let mut names = image.repo_tags.clone();
    if names.is_empty() {
        names.push("<untagged>".to_owned());
    }
    let images: Vec<(&ImageManifestSummary, &ImageManifestData)> = manifests
        .iter()
        .filter_map(|one| Some((one, one.image_data.as_ref()?)))
        .collect();
    let used = |data: &ImageManifestData| !data.containers.is_empty();
    let mut rows = vec![Row {
        name: names.pop().unwrap_or_default(),
        id: image.id.clone(),
        disk: image.size,
        content: manifests.iter().map(|one| one.size.content).sum(),
        used: image.containers > 0 || images.iter().any(|(_, data)| used(data)),
    }];
    let last = images.len().saturating_sub(1);
    for (at, (one, data)) in images.into_iter().enumerate() {
        let branch = if at == last { "└─" } else { "├─" };
        rows.push(Row {
            name: format!("{branch} {}", data.platform),
            id: one.id.clone(),
            disk: one.size.total,
            content: one.size.content,
            used: used(data),
        });
    }
    Group { names, rows }
}
