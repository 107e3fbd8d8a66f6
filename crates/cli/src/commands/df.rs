//! `system df`: what takes space, and where every byte under the data root belongs.

use std::fmt::Write as _;
use std::rc::Rc;

use api::types::{ContainerSummary, DataRootUsage, DiskUsage, ImageSummary, Volume};

use super::images;
use crate::command::{Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{TABLE, switch};
use crate::format::{self, Listing, short};
use crate::template::{MissingKey, Set, Template, Value};
use crate::{human, output, table};

/// `system df`.
pub const DF: Command = Command {
    names: &["system df"],
    usage: "[OPTIONS]",
    about: "Show how much of the disk is used",
    flags: &[&[TABLE, switch("verbose", "Show each object").short('v')]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(df(invocation)) as Run,
};

const DF_LISTING: Listing<'_> = Listing {
    kind: "*formatter.diskUsageContext",
    headers: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
};

/// One line of `system df`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    total: i64,
    active: i64,
    size: i64,
    reclaimable: i64,
}

fn count<T>(items: impl Iterator<Item = T>) -> i64 {
    i64::try_from(items.count()).unwrap_or(i64::MAX)
}

/// The lines, from whichever layout the daemon sends. Where it tells what lies under its data root,
/// the sizes are those of the disk, and a fifth line holds what is neither of the four.
fn used(usage: &DiskUsage) -> Vec<(&'static str, Used)> {
    fn from<T>(usage: &api::types::Usage<T>) -> Used {
        Used {
            total: usage.total_count,
            active: usage.active_count,
            size: usage.total_size,
            reclaimable: usage.reclaimable,
        }
    }
    let images = usage.image_usage.as_ref().map(from).unwrap_or_else(|| {
        let images = usage.images.as_deref().unwrap_or_default();
        let size = usage.layers_size.unwrap_or(0);
        let in_use: i64 = images
            .iter()
            .filter(|image| image.containers > 0)
            .map(|image| image.size - image.shared_size.max(0))
            .sum();
        Used {
            total: count(images.iter()),
            active: count(images.iter().filter(|image| image.containers > 0)),
            size,
            reclaimable: (size - in_use).max(0),
        }
    });
    let containers = usage.container_usage.as_ref().map(from).unwrap_or_else(|| {
        let all = usage.containers.as_deref().unwrap_or_default();
        let active = |state: &str| matches!(state, "running" | "paused" | "restarting");
        Used {
            total: count(all.iter()),
            active: count(all.iter().filter(|c| active(&c.state))),
            size: all.iter().map(|c| c.size_rw).sum(),
            reclaimable: all
                .iter()
                .filter(|c| !active(&c.state))
                .map(|c| c.size_rw)
                .sum(),
        }
    });
    let volumes = usage.volume_usage.as_ref().map(from).unwrap_or_else(|| {
        let all = usage.volumes.as_deref().unwrap_or_default();
        let size = |unused: bool| {
            all.iter()
                .filter_map(|volume| volume.usage_data.as_ref())
                .filter(|usage| !unused || usage.ref_count == 0)
                .map(|usage| usage.size.max(0))
                .sum()
        };
        Used {
            total: count(all.iter()),
            active: count(all.iter().filter(|v| {
                v.usage_data
                    .as_ref()
                    .is_some_and(|usage| usage.ref_count > 0)
            })),
            size: size(false),
            reclaimable: size(true),
        }
    });
    let cache = usage
        .build_cache_usage
        .as_ref()
        .map(from)
        .unwrap_or_else(|| Used {
            total: count(usage.build_cache.iter().flatten()),
            ..Used::default()
        });
    let mut lines = vec![
        ("Images", images),
        ("Containers", containers),
        ("Local Volumes", volumes),
        ("Build Cache", cache),
    ];
    if let Some(places) = &usage.data_root {
        lines[0].1.size = places.images;
        lines[1].1.size = places.containers;
        lines[2].1.size = places.volumes;
        let size = places.incoming + places.quarantine + places.metadata + places.foreign;
        let reclaimable = places.quarantine;
        let other = Used {
            size,
            reclaimable,
            ..Used::default()
        };
        lines.push(("Other", other));
    }
    lines
}

/// The lines of `--format raw`.
const RAW: &str = "type: {{.Type}}\\ntotal: {{.TotalCount}}\\nactive: {{.Active}}\\n\
                   size: {{.Size}}\\nreclaimable: {{.Reclaimable}}\\n";

/// The objects of `--verbose --format raw`.
const RAW_OBJECTS: &str = "\
{{range .Images}}type: Image\\nrepository: {{.Repository}}\\ntag: {{.Tag}}\\ndigest: {{.Digest}}\\n\
image_id: {{.ID}}\\ncreated_at: {{.CreatedAt}}\\nvirtual_size: {{.Size}}\\n\\n{{end}}\
{{range .Containers}}type: Container\\ncontainer_id: {{.ID}}\\nimage: {{.Image}}\\n\
command: {{.Command}}\\ncreated_at: {{.CreatedAt}}\\nstate: {{.State}}\\nstatus: {{.Status}}\\n\
names: {{.Names}}\\nlabels:{{pad .Labels 1 0}}\\nports:{{pad .Ports 1 0}}\\nsize: {{.Size}}\\n\\n{{end}}\
{{range .Volumes}}type: Volume\\nname: {{.Name}}\\ndriver: {{.Driver}}\\n\\n{{end}}";

async fn df(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let format = typed.get("format").filter(|format| !format.is_empty());
    let shown = match (typed.on("verbose"), format) {
        (true, None | Some("table")) => None,
        (true, Some(format)) => Some(Objects::read(format)?),
        (false, _) => None,
    };
    let client = invocation.session.client().await?;
    // With a format of the user's, the figures are Docker's: programs read them.
    let usage: DiskUsage = client
        .get("/system/df")
        .query_some("data-root", format.is_none().then_some(1))
        .read()
        .await?;
    if typed.on("verbose") {
        let text = match shown {
            Some(shown) => shown.render(&usage)?,
            None => details(&usage)?,
        };
        output::out(&text)?;
        return Ok(0);
    }
    let rows: Vec<Value> = used(&usage)
        .into_iter()
        .map(|(name, used)| {
            let mut reclaimable = human::size_four(used.reclaimable.unsigned_abs());
            if used.size > 0 && name != "Build Cache" {
                let percent = used.reclaimable.saturating_mul(100) / used.size;
                write!(reclaimable, " ({percent}%)").expect("writing to a string cannot fail");
            }
            Value::row(
                DF_LISTING.kind,
                [
                    ("Type", Value::from(name)),
                    ("TotalCount", Value::from(used.total.to_string())),
                    ("Active", Value::from(used.active.to_string())),
                    (
                        "Size",
                        Value::from(human::size_four(used.size.unsigned_abs())),
                    ),
                    ("Reclaimable", Value::from(reclaimable)),
                ],
            )
        })
        .collect();
    output::out(&format::render(
        &DF_LISTING,
        format.map(|format| if format == "raw" { RAW } else { format }),
        None,
        "{{.Type}}\\t{{.TotalCount}}\\t{{.Active}}\\t{{.Size}}\\t{{.Reclaimable}}",
        &rows,
    )?)?;
    Ok(0)
}

/// What `--verbose` shows with a template: it is given all objects at once.
enum Objects {
    /// Their kinds stand in the order of the tables.
    Json,
    Template(Template),
}

impl Objects {
    fn read(format: &str) -> Result<Self> {
        let text = match format {
            "json" | "{{json .}}" => return Ok(Self::Json),
            "raw" => RAW_OBJECTS,
            text => text.strip_prefix("table").unwrap_or(text),
        };
        Template::parse("", &format::unescaped(text))
            .map(Self::Template)
            .map_err(|error| Failure::new(format!("template parsing error: {error}")))
    }

    fn render(&self, usage: &DiskUsage) -> Result<String> {
        let now = human::now();
        let images = usage.images.as_deref().unwrap_or_default().iter();
        let images = images.flat_map(|image| {
            let names = images::names(image, false).into_iter();
            names.map(move |name| image_row(image, &name, now))
        });
        let containers = usage.containers.as_deref().unwrap_or_default().iter();
        let containers = containers.map(|container| super::ps::row(&alone(container), true, now));
        let volumes = usage.volumes.as_deref().unwrap_or_default().iter();
        let kinds: [(&str, Vec<Value>); 4] = [
            ("Images", images.collect()),
            ("Containers", containers.collect()),
            ("Volumes", volumes.map(super::volume::row).collect()),
            ("BuildCache", Vec::new()),
        ];
        match self {
            Self::Json => {
                let kinds = kinds.map(|(name, rows)| {
                    let rows: Vec<String> = rows.iter().map(Value::to_json).collect();
                    format!("\"{name}\":[{}]", rows.join(","))
                });
                Ok(format!("{{{}}}", kinds.join(",")))
            }
            Self::Template(template) => {
                let kinds = kinds.map(|(name, rows)| (name, Value::List(Rc::new(rows))));
                let all = Value::row("*formatter.diskUsageContext", kinds);
                template
                    .execute(&all, Set::Values, MissingKey::NoValue)
                    .map_err(|error| Failure::new(error.to_string()))
            }
        }
    }
}

fn image_row(image: &ImageSummary, name: &images::Name, now: i64) -> Value {
    let shared = image.shared_size.max(0);
    let amount = |bytes: i64| Value::from(human::size_four(bytes.unsigned_abs()));
    Value::row(
        images::LISTING.kind,
        [
            ("ID", Value::from(image.id.as_str())),
            ("Repository", Value::from(name.repository.as_str())),
            ("Tag", Value::from(name.tag.as_str())),
            ("Digest", Value::from("")),
            ("CreatedSince", Value::from(human::ago(image.created, now))),
            ("CreatedAt", Value::from(human::moment(image.created))),
            ("Size", Value::from(human::size(image.size))),
            (
                "Containers",
                Value::from(image.containers.max(0).to_string()),
            ),
            ("VirtualSize", amount(image.size)),
            ("SharedSize", amount(shared)),
            ("UniqueSize", amount(image.size - shared)),
        ],
    )
}

/// Without what the image brings: that is counted there.
fn alone(container: &ContainerSummary) -> ContainerSummary {
    ContainerSummary {
        size_root_fs: 0,
        ..container.clone()
    }
}

/// What `--verbose` shows: a table of each kind.
fn details(usage: &DiskUsage) -> Result<String> {
    let images = usage.images.as_deref().unwrap_or_default();
    let containers = usage.containers.as_deref().unwrap_or_default();
    let volumes = usage.volumes.as_deref().unwrap_or_default();
    let mut text = format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\n\
         Local Volumes space usage:\n\n{}\nBuild cache usage: 0B\n\n{}",
        image_table(images, human::now()),
        container_table(containers)?,
        volume_table(volumes),
        table::columns("CACHE ID\tCACHE TYPE\tSIZE\tCREATED\tLAST USED\tUSAGE\tSHARED\n"),
    );
    if let Some(places) = &usage.data_root {
        text.push('\n');
        text.push_str(&place_table(places));
    }
    Ok(text)
}

fn image_table(images: &[ImageSummary], now: i64) -> String {
    let mut text = String::from(
        "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS\n",
    );
    for image in images {
        let shared = image.shared_size.max(0);
        for name in images::names(image, false) {
            let line = [
                name.repository,
                name.tag,
                short(&image.id).to_owned(),
                human::ago(image.created, now),
                human::size(image.size),
                human::size_four(shared.unsigned_abs()),
                human::size_four((image.size - shared).unsigned_abs()),
                image.containers.max(0).to_string(),
            ];
            text.push_str(&line.join("\t"));
            text.push('\n');
        }
    }
    table::columns(&text)
}

fn container_table(containers: &[ContainerSummary]) -> Result<String> {
    let listing = Listing {
        kind: super::ps::LISTING.kind,
        headers: &[
            ("ID", "CONTAINER ID"),
            ("Image", "IMAGE"),
            ("Command", "COMMAND"),
            ("LocalVolumes", "LOCAL VOLUMES"),
            ("Size", "SIZE"),
            ("RunningFor", "CREATED"),
            ("Status", "STATUS"),
            ("Names", "NAMES"),
        ],
    };
    let now = human::now();
    let rows: Vec<Value> = containers
        .iter()
        .map(|container| super::ps::row(&alone(container), false, now))
        .collect();
    format::render(
        &listing,
        None,
        None,
        "{{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.LocalVolumes}}\\t{{.Size}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Names}}",
        &rows,
    )
}

fn volume_table(volumes: &[Volume]) -> String {
    let mut text = String::from("VOLUME NAME\tLINKS\tSIZE\n");
    for volume in volumes {
        let usage = volume.usage_data.as_ref();
        let links = usage.map_or(0, |usage| usage.ref_count);
        let size = usage.map_or(0, |usage| usage.size);
        writeln!(text, "{}\t{links}\t{}", volume.name, human::size(size))
            .expect("writing to a string cannot fail");
    }
    table::columns(&text)
}

fn place_table(places: &DataRootUsage) -> String {
    let lines = [
        ("images", places.images),
        ("containers", places.containers),
        ("volumes", places.volumes),
        ("downloads", places.incoming),
        ("quarantine", places.quarantine),
        ("metadata", places.metadata),
        ("other files", places.foreign),
    ];
    let total = lines.iter().map(|(_, size)| size).sum();
    let mut text = String::from("WHAT\tSIZE ON DISK\n");
    for (what, size) in lines.into_iter().chain([("total", total)]) {
        writeln!(text, "{what}\t{}", human::size(size)).expect("writing to a string cannot fail");
    }
    format!("Data root usage:\n\n{}", table::columns(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_usage_is_read_in_both_layouts() {
        let old: DiskUsage = serde_json::from_str(
            r#"{"LayersSize":100,"Images":[{"Size":60,"SharedSize":0,"Containers":1},{"Size":40,"Containers":0}],
                "Containers":[{"State":"running","SizeRw":5},{"State":"exited","SizeRw":7}],"Volumes":[{"UsageData":{"RefCount":0,"Size":9}}]}"#,
        )
        .unwrap();
        let lines = used(&old);
        assert_eq!(
            lines[0].1,
            Used {
                total: 2,
                active: 1,
                size: 100,
                reclaimable: 40
            }
        );
        assert_eq!(
            lines[1].1,
            Used {
                total: 2,
                active: 1,
                size: 12,
                reclaimable: 7
            }
        );
        assert_eq!(
            lines[2].1,
            Used {
                total: 1,
                active: 0,
                size: 9,
                reclaimable: 9
            }
        );
        let new: DiskUsage = serde_json::from_str(
            r#"{"ImageUsage":{"ActiveCount":1,"TotalCount":3,"TotalSize":10,"Reclaimable":4}}"#,
        )
        .unwrap();
        assert_eq!(
            used(&new)[0].1,
            Used {
                total: 3,
                active: 1,
                size: 10,
                reclaimable: 4
            }
        );
    }

    #[test]
    fn what_the_data_root_holds_is_a_line_more() {
        let usage: DiskUsage = serde_json::from_str(
            r#"{"LayersSize":1,"DataRoot":{"Images":100,"Containers":20,"Volumes":3,"Incoming":4,"Quarantine":5,"Metadata":6,"Foreign":7}}"#,
        )
        .unwrap();
        let sizes: Vec<_> = used(&usage)
            .iter()
            .map(|(name, used)| (*name, used.size))
            .collect();
        assert_eq!(
            sizes,
            [
                ("Images", 100),
                ("Containers", 20),
                ("Local Volumes", 3),
                ("Build Cache", 0),
                ("Other", 22)
            ]
        );
    }

    #[test]
    fn details_read_as_dockers() {
        let usage: DiskUsage = serde_json::from_str(
            r#"{"Images":[{"Id":"sha256:0123456789abcdef","RepoTags":["a:1"],"Size":1000,"SharedSize":400,"Containers":2,"Created":0}],
                "Containers":[{"Id":"0123456789abcdef","Image":"a:1","Command":"sh","Status":"Up","Names":["/web"],"SizeRw":5,"SizeRootFs":7,"Created":0}],
                "Volumes":[{"Name":"v","UsageData":{"RefCount":1,"Size":9}}],
                "DataRoot":{"Images":1000,"Metadata":24}}"#,
        )
        .unwrap();
        let text = details(&usage).unwrap();
        snapbox::assert_data_eq!(
            text,
            snapbox::str![[r#"
Images space usage:

REPOSITORY   TAG       IMAGE ID       CREATED        SIZE      SHARED SIZE   UNIQUE SIZE   CONTAINERS
a            1         0123456789ab   56 years ago   1kB       400B          600B          2

Containers space usage:

CONTAINER ID   IMAGE     COMMAND   LOCAL VOLUMES   SIZE      CREATED        STATUS    NAMES
0123456789ab   a:1       "sh"      0               5B        56 years ago   Up        web

Local Volumes space usage:

VOLUME NAME   LINKS     SIZE
v             1         9B

Build cache usage: 0B

CACHE ID   CACHE TYPE   SIZE      CREATED   LAST USED   USAGE     SHARED

Data root usage:

WHAT          SIZE ON DISK
images        1kB
containers    0B
volumes       0B
downloads     0B
quarantine    0B
metadata      24B
other files   0B
total         1.02kB

"#]]
        );
    }
}
