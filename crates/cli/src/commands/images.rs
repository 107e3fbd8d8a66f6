//! `images` and `history`: what the store holds.

use api::types::{HistoryItem, ImageSummary};
use vocab::Reference;

use super::{filters, listing_format};
use crate::command::{Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{TABLE, filter, on, switch, text};
use crate::format::{self, Listing, ellipsis, short};
use crate::template::Value;
use crate::{human, output};

/// `images`.
pub const IMAGES: Command = Command {
    names: &["image ls", "image list", "images"],
    usage: "[OPTIONS] [REPOSITORY[:TAG]]",
    about: "List images",
    flags: &[&[
        switch("all", "Intermediate images too").short('a'),
        switch("digests", "Show digests"),
        filter().short('f'),
        TABLE,
        switch("no-trunc", "Do not cut ids"),
        switch("quiet", "Only ids").short('q'),
        switch("tree", "Show the platforms of each image"),
    ]],
    words: (0, 1),
    stops: false,
    run: |invocation| Box::pin(images(invocation)) as Run,
};

/// `history`.
pub const HISTORY: Command = Command {
    names: &["image history", "history"],
    usage: "[OPTIONS] IMAGE",
    about: "Show how an image was made",
    flags: &[&[
        TABLE,
        on("human", "Sizes and dates as people read them").short('H'),
        switch("no-trunc", "Do not cut ids and texts"),
        text("platform", "Of which platform: `os[/arch[/variant]]`"),
        switch("quiet", "Only ids").short('q'),
    ]],
    words: (1, 1),
    stops: false,
    run: |invocation| Box::pin(history(invocation)) as Run,
};

pub const LISTING: Listing<'_> = Listing {
    kind: "*formatter.imageContext",
    headers: &[
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
        ("Containers", "CONTAINERS"),
        ("VirtualSize", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ],
};

async fn images(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let tree = typed.on("tree");
    if tree {
        super::tree::check(typed)?;
    }
    let format = listing_format(&invocation, |config| config.images_format);
    let mut filters = filters(typed);
    if let Some(name) = typed.words.first() {
        filters.add("reference", name);
    }
    if tree {
        let client = invocation.session.client().await?;
        return super::tree::tree(&client, typed, &filters).await;
    }
    let shown = Shown {
        whole: typed.on("no-trunc"),
        quiet: typed.on("quiet"),
        digests: typed.on("digests"),
        format: format.as_deref(),
    };
    shown.render(&[])?;
    let client = invocation.session.client().await?;
    let images: Vec<ImageSummary> = client
        .get("/images/json")
        .flag("all", typed.on("all"))
        .filters(&filters)
        .read()
        .await?;
    output::out(&shown.render(&images)?)?;
    Ok(0)
}

struct Shown<'a> {
    whole: bool,
    quiet: bool,
    digests: bool,
    format: Option<&'a str>,
}

impl Shown<'_> {
    fn render(&self, images: &[ImageSummary]) -> Result<String> {
        let now = human::now();
        let wants_digest =
            self.digests || self.format.is_some_and(|format| format.contains(".Digest"));
        let mut rows = Vec::new();
        for image in images {
            for name in names(image, wants_digest && !self.quiet) {
                rows.push(self.row(image, &name, now));
            }
        }
        let default = if self.digests {
            "{{.Repository}}\\t{{.Tag}}\\t{{.Digest}}\\t{{.ID}}\\t{{.CreatedSince}}\\t{{.Size}}"
        } else {
            "{{.Repository}}\\t{{.Tag}}\\t{{.ID}}\\t{{.CreatedSince}}\\t{{.Size}}"
        };
        format::render(
            &LISTING,
            self.format.map(|format| self.written_out(format)),
            self.quiet.then_some("{{.ID}}"),
            default,
            &rows,
        )
    }

    /// The template that `raw` stands for.
    fn written_out<'f>(&self, format: &'f str) -> &'f str {
        match (format, self.quiet, self.digests) {
            ("raw", true, _) => "image_id: {{.ID}}",
            ("raw", false, true) => {
                "repository: {{.Repository}}\\ntag: {{.Tag}}\\ndigest: {{.Digest}}\\n\
                 image_id: {{.ID}}\\ncreated_at: {{.CreatedAt}}\\nvirtual_size: {{.Size}}\\n"
            }
            ("raw", false, false) => {
                "repository: {{.Repository}}\\ntag: {{.Tag}}\\nimage_id: {{.ID}}\\n\
                 created_at: {{.CreatedAt}}\\nvirtual_size: {{.Size}}\\n"
            }
            _ => format,
        }
    }

    fn row(&self, image: &ImageSummary, name: &Name, now: i64) -> Value {
        let id = if self.whole {
            &image.id
        } else {
            short(&image.id)
        };
        let created = |text: String| {
            if image.created > 0 {
                text
            } else {
                "N/A".to_owned()
            }
        };
        let count = |number: i64| {
            if number < 0 {
                "N/A".to_owned()
            } else {
                number.to_string()
            }
        };
        let amount = |bytes: i64| {
            if bytes < 0 {
                "N/A".to_owned()
            } else {
                human::size(bytes)
            }
        };
        let unique = if image.shared_size < 0 {
            -1
        } else {
            image.size - image.shared_size
        };
        Value::row(
            LISTING.kind,
            [
                ("ID", Value::from(id)),
                ("Repository", Value::from(name.repository.as_str())),
                ("Tag", Value::from(name.tag.as_str())),
                ("Digest", Value::from(name.digest.as_str())),
                (
                    "CreatedSince",
                    Value::from(created(human::ago(image.created, now))),
                ),
                (
                    "CreatedAt",
                    Value::from(created(human::moment(image.created))),
                ),
                ("Size", Value::from(human::size(image.size))),
                ("Containers", Value::from(count(image.containers))),
                (
                    "VirtualSize",
                    Value::from(human::size_four(image.size.unsigned_abs())),
                ),
                ("SharedSize", Value::from(amount(image.shared_size))),
                ("UniqueSize", Value::from(amount(unique))),
            ],
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Without a tag.
    pub repository: String,
    /// `<none>` without one.
    pub tag: String,
    /// `<none>` without one.
    pub digest: String,
}

/// One row for each name; an image without any has one all the same.
pub fn names(image: &ImageSummary, with_digests: bool) -> Vec<Name> {
    let none = || "<none>".to_owned();
    let real = |name: &&String| !name.starts_with("<none>");
    let mut names: Vec<Name> = Vec::new();
    let digests: Vec<(String, String)> = image
        .repo_digests
        .iter()
        .filter(real)
        .filter_map(|name| name.split_once('@'))
        .map(|(repository, digest)| (repository.to_owned(), digest.to_owned()))
        .collect();
    for tagged in image.repo_tags.iter().filter(real) {
        let Some((repository, tag)) = tagged.rsplit_once(':') else {
            continue;
        };
        let digest = digests
            .iter()
            .find(|(name, _)| with_digests && name == repository)
            .map_or_else(none, |(_, digest)| digest.clone());
        names.push(Name {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            digest,
        });
    }
    for (repository, digest) in &digests {
        if !names.iter().any(|name| name.repository == *repository) {
            names.push(Name {
                repository: repository.clone(),
                tag: none(),
                digest: if with_digests { digest.clone() } else { none() },
            });
        }
    }
    if names.is_empty() {
        names.push(Name {
            repository: none(),
            tag: none(),
            digest: none(),
        });
    }
    names
}

const HISTORY_ROW: &str = "*formatter.historyContext";

async fn history(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let platform = match typed.get("platform") {
        Some(platform) => Some(super::platform_json(platform)?),
        None => None,
    };
    let client = invocation.session.client().await?;
    let items: Vec<HistoryItem> = client
        .get(format!("/images/{}/history", invocation.word(0)))
        .query_some("platform", platform)
        .read()
        .await?;
    let whole = typed.on("no-trunc");
    let people = typed.not_off("human");
    let now = human::now();
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let by = item.created_by.replace('\t', " ");
            let created = human::moment_rfc3339(item.created);
            let since = if item.created <= 0 {
                "N/A".to_owned()
            } else if people {
                human::ago(item.created, now)
            } else {
                created.clone()
            };
            Value::row(
                HISTORY_ROW,
                [
                    (
                        "ID",
                        Value::from(if whole || item.id == "<missing>" {
                            &item.id
                        } else {
                            short(&item.id)
                        }),
                    ),
                    ("CreatedSince", Value::from(since)),
                    ("CreatedAt", Value::from(created)),
                    (
                        "CreatedBy",
                        Value::from(if whole { by } else { ellipsis(&by, 45) }),
                    ),
                    (
                        "Size",
                        Value::from(if people {
                            human::size(item.size)
                        } else {
                            item.size.to_string()
                        }),
                    ),
                    ("Comment", Value::from(item.comment.as_str())),
                ],
            )
        })
        .collect();
    let created = if people { "CREATED" } else { "CREATED AT" };
    let listing = Listing {
        kind: HISTORY_ROW,
        headers: &[
            ("ID", "IMAGE"),
            ("CreatedSince", created),
            ("CreatedAt", "CREATED AT"),
            ("CreatedBy", "CREATED BY"),
            ("Size", "SIZE"),
            ("Comment", "COMMENT"),
        ],
    };
    output::out(&format::render(
        &listing,
        typed.get("format"),
        typed.on("quiet").then_some("{{.ID}}"),
        "{{.ID}}\\t{{.CreatedSince}}\\t{{.CreatedBy}}\\t{{.Size}}\\t{{.Comment}}",
        &rows,
    )?)?;
    Ok(0)
}

/// Reads an image name, with Docker's message for what is none.
pub fn reference(text: &str) -> Result<Reference> {
    text.parse::<Reference>()
        .map_err(|error| Failure::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(image: &ImageSummary, digests: bool) -> Vec<String> {
        names(image, digests)
            .into_iter()
            .map(|name| format!("{}:{}@{}", name.repository, name.tag, name.digest))
            .collect()
    }

    #[test]
    fn every_name_is_a_row() {
        let image = |tags: &[&str], digests: &[&str]| ImageSummary {
            repo_tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            repo_digests: digests.iter().map(|&digest| digest.to_owned()).collect(),
            ..ImageSummary::default()
        };
        assert_eq!(shown(&image(&[], &[]), false), ["<none>:<none>@<none>"]);
        assert_eq!(
            shown(
                &image(&["localhost:5000/a:1", "b:2"], &["b@sha256:x"]),
                true
            ),
            ["localhost:5000/a:1@<none>", "b:2@sha256:x"]
        );
        assert_eq!(
            shown(&image(&[], &["c@sha256:x"]), false),
            ["c:<none>@<none>"]
        );
        assert_eq!(
            shown(&image(&["<none>:<none>"], &["<none>@<none>"]), false),
            ["<none>:<none>@<none>"]
        );
    }

    #[test]
    fn the_table_reads_as_dockers() {
        let shown = Shown {
            whole: false,
            quiet: false,
            digests: false,
            format: None,
        };
        assert_eq!(
            shown.render(&[]).unwrap(),
            "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n"
        );
    }
}
