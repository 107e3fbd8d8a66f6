//! Berth's own: what is in an image, and whether it is whole.

use std::fmt::Write as _;

use api::types::{FileExplained, ImageExplained, ImageSummary, ImageVerified};

use crate::command::{ANY, Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{switch, text};
use crate::format::{ellipsis, short};
use crate::{human, output, table};

/// `image explain`.
pub const EXPLAIN: Command = Command {
    names: &["image explain"],
    usage: "[OPTIONS] IMAGE",
    about: "Show the layers of an image, its largest files, and what of it is in vain",
    flags: &[&[
        text("format", "`json`, for programs"),
        switch("no-trunc", "Show commands and names in full"),
    ]],
    words: (1, 1),
    stops: false,
    run: |invocation| Box::pin(explain(invocation)) as Run,
};

/// `image verify`.
pub const VERIFY: Command = Command {
    names: &["image verify"],
    usage: "[IMAGE...]",
    about: "Compare every byte of images, of all if none is named, with their digests",
    flags: &[],
    words: (0, ANY),
    stops: false,
    run: |invocation| Box::pin(verify(invocation)) as Run,
};

async fn explain(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let json = match typed.get("format").filter(|format| !format.is_empty()) {
        None => false,
        Some("json") => true,
        Some(other) => {
            return Err(Failure::new(format!(
                "unknown format {other:?}: only json is known here"
            )));
        }
    };
    let client = invocation.session.client().await?;
    let path = format!("/images/{}/explain", invocation.word(0));
    let image: ImageExplained = client.get(path).read().await?;
    if json {
        let text = serde_json::to_string(&image);
        output::line(text.map_err(|error| Failure::new(error.to_string()))?)?;
    } else {
        output::out(&shown(&image, typed.on("no-trunc")))?;
    }
    Ok(0)
}

/// Share of a whole in percent, with one digit behind the point.
fn percent(part: i64, whole: i64) -> String {
    let tenths = if whole > 0 {
        part.saturating_mul(1000) / whole
    } else {
        0
    };
    format!("{}.{}%", tenths / 10, tenths % 10)
}

fn shown(image: &ImageExplained, whole: bool) -> String {
    let cut = |text: &str, width| match whole {
        true => text.to_owned(),
        false => ellipsis(text, width),
    };
    let mut out = format!(
        "Image:      {} ({})\nPlatform:   {}\nSize:       {}\nWasted:     {} ({})\nDuplicate:  {} ({})\n",
        short(&image.id),
        match image.repo_tags.as_slice() {
            [] => "<none>".to_owned(),
            tags => tags.join(", "),
        },
        image.platform,
        human::size(image.size),
        human::size(image.wasted),
        percent(image.wasted, image.size),
        human::size(image.duplicate),
        percent(image.duplicate, image.size),
    );
    let mut layers =
        String::from("LAYER\tDIFF ID\tSIZE\tDISTRIBUTED\tFILES\tWASTED\tHIDES\tCREATED BY\n");
    for (number, layer) in image.layers.iter().enumerate() {
        let line = [
            number.to_string(),
            short(&layer.diff_id).to_owned(),
            human::size(layer.size),
            human::size(layer.distributed),
            layer.files.to_string(),
            human::size(layer.wasted),
            human::size(layer.hides),
            cut(&layer.created_by.replace(['\t', '\n'], " "), 45),
        ];
        writeln!(layers, "{}", line.join("\t")).expect("writing to a string cannot fail");
    }
    write!(out, "\n{}", table::columns(&layers)).expect("writing to a string cannot fail");
    files(&mut out, "Largest files", &image.largest);
    files(&mut out, "Hidden by later layers", &image.wasted_files);
    if !image.duplicates.is_empty() {
        out.push_str("\nSame content\n");
        for group in &image.duplicates {
            let size = group.first().map_or(0, |file| file.size);
            let paths: Vec<&str> = group.iter().map(|file| file.path.as_str()).collect();
            let line = cut(&paths.join(" "), 100);
            writeln!(out, "  {} × {}  {line}", group.len(), human::size(size))
                .expect("writing to a string cannot fail");
        }
    }
    out
}

fn files(out: &mut String, title: &str, files: &[FileExplained]) {
    if files.is_empty() {
        return;
    }
    let mut rows = String::from("SIZE\tLAYER\tPATH\n");
    for file in files {
        writeln!(
            rows,
            "{}\t{}\t{}",
            human::size(file.size),
            file.layer,
            file.path
        )
        .expect("writing to a string cannot fail");
    }
    write!(out, "\n{title}\n{}", table::columns(&rows)).expect("writing to a string cannot fail");
}

async fn verify(invocation: Invocation) -> Result<u8> {
    let client = invocation.session.client().await?;
    let mut names = invocation.typed.words.clone();
    if names.is_empty() {
        let images: Vec<ImageSummary> = client.get("/images/json").read().await?;
        names = images
            .into_iter()
            .map(|image| image.repo_tags.into_iter().next().unwrap_or(image.id))
            .collect();
    }
    let mut code = 0;
    for name in names {
        let path = format!("/images/{name}/verify");
        match client.post(path).read::<ImageVerified>().await {
            Ok(image) => {
                output::out(&verdict(&name, &image))?;
                if image.damage.iter().any(|damage| !damage.mended) {
                    code = 1;
                }
            }
            Err(error) => {
                code = 1;
                output::error(Failure::from(error));
            }
        }
    }
    Ok(code)
}

fn verdict(name: &str, image: &ImageVerified) -> String {
    let word = match image.damage.as_slice() {
        [] => "whole",
        damage if damage.iter().all(|damage| damage.mended) => "mended",
        _ => "damaged: pull or load it again",
    };
    let read = human::size(image.bytes);
    let mut out = format!("{name}: {word} ({read} read)\n");
    for damage in &image.damage {
        writeln!(out, "  {} {}", damage.digest, damage.reason)
            .expect("writing to a string cannot fail");
    }
    out
}

#[cfg(test)]
mod tests {
    use snapbox::{assert_data_eq, str};

    use super::*;

    #[test]
    fn an_image_is_explained_layer_by_layer() {
        let image: ImageExplained = serde_json::from_str(
            r#"{"Id":"sha256:0123456789abcdef","RepoTags":["a:1"],"Platform":"linux/amd64","Size":3000,"Wasted":1000,"Duplicate":0,
                "Layers":[{"DiffId":"sha256:aaaaaaaaaaaaaaaa","Size":2000,"Distributed":700,"Files":2,"Wasted":1000,"CreatedBy":"/bin/sh -c make"},
                          {"DiffId":"sha256:bbbbbbbbbbbbbbbb","Size":1000,"Distributed":300,"Files":1,"Hides":1000}],
                "Largest":[{"Path":"/usr/bin/x","Size":1000,"Layer":1}],
                "WastedFiles":[{"Path":"/usr/bin/x","Size":1000,"Layer":0}],
                "Duplicates":[[{"Path":"/a","Size":9000,"Layer":0},{"Path":"/b","Size":9000,"Layer":1}]]}"#,
        )
        .unwrap();
        assert_data_eq!(
            shown(&image, false),
            str![[r#"
Image:      0123456789ab (a:1)
Platform:   linux/amd64
Size:       3kB
Wasted:     1kB (33.3%)
Duplicate:  0B (0.0%)

LAYER     DIFF ID        SIZE      DISTRIBUTED   FILES     WASTED    HIDES     CREATED BY
0         aaaaaaaaaaaa   2kB       700B          2         1kB       0B        /bin/sh -c make
1         bbbbbbbbbbbb   1kB       300B          1         0B        1kB       

Largest files
SIZE      LAYER     PATH
1kB       1         /usr/bin/x

Hidden by later layers
SIZE      LAYER     PATH
1kB       0         /usr/bin/x

Same content
  2 × 9kB  /a /b

"#]]
        );
    }

    #[test]
    fn a_verdict_names_what_is_wrong() {
        let whole = ImageVerified {
            bytes: 5,
            ..ImageVerified::default()
        };
        assert_data_eq!(
            verdict("a", &whole),
            str![[r#"
a: whole (5B read)

"#]]
        );
        let damaged: ImageVerified = serde_json::from_str(
            r#"{"Bytes":5,"Damage":[{"Digest":"sha256:00","Reason":"is missing"},{"Digest":"sha256:11","Reason":"made again","Mended":true}]}"#,
        )
        .unwrap();
        assert_data_eq!(
            verdict("a", &damaged),
            str![[r#"
a: damaged: pull or load it again (5B read)
  sha256:00 is missing
  sha256:11 made again

"#]]
        );
    }
}
