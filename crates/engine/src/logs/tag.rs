//! Tags of log lines: the part of Go's template language that they use.
//!
//! ```text
//! {{.Name}}/{{.ID}}   {{.ImageName | upper}}   {{index .ContainerLabels "a.b"}}
//! ```

use std::collections::BTreeMap;

/// What a template can name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Digits, without the algorithm.
    pub(crate) image_id: String,
    pub(crate) image_name: String,
    pub(crate) command: String,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Subject {
    fn field(&self, name: &str) -> Option<String> {
        let short = |text: &str| text.chars().take(12).collect();
        Some(match name {
            ".ID" => short(&self.id),
            ".FullID" | ".ContainerID" => self.id.clone(),
            ".Name" => self.name.clone(),
            ".ContainerName" => format!("/{}", self.name),
            ".ImageID" => short(&self.image_id),
            ".ImageFullID" => self.image_id.clone(),
            ".ContainerImageID" => format!("sha256:{}", self.image_id),
            ".ImageName" | ".ContainerImageName" => self.image_name.clone(),
            ".Command" => self.command.clone(),
            // What the program is called where such templates come from.
            ".DaemonName" => "docker".to_owned(),
            _ => {
                let key = name.strip_prefix(".ContainerLabels.")?;
                self.labels.get(key).cloned().unwrap_or_default()
            }
        })
    }
}

/// Fills in a template; an error says what is wrong with it.
pub(crate) fn render(template: &str, subject: &Subject) -> Result<String, String> {
    let wrong = |what: String| format!("template: log-tag:1: {what}");
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after
            .split_once("}}")
            .ok_or_else(|| wrong("unclosed action".to_owned()))?;
        let trims = |text: &str| text.strip_prefix("- ").is_some();
        text.push_str(if trims(action) {
            before.trim_end()
        } else {
            before
        });
        let closing = action.strip_suffix(" -");
        let inner = closing.unwrap_or(action);
        let inner = inner.strip_prefix("- ").unwrap_or(inner);
        text.push_str(&pipeline(inner, subject).map_err(wrong)?);
        rest = if closing.is_some() {
            after.trim_start()
        } else {
            after
        };
    }
    text.push_str(rest);
    Ok(text)
}

fn pipeline(text: &str, subject: &Subject) -> Result<String, String> {
    let mut stages = text.split('|').map(str::trim);
    let first = stages.next().unwrap_or_default();
    let mut value = operand(first, subject)?;
    for stage in stages {
        value = apply(stage, value)?;
    }
    Ok(value)
}

fn operand(text: &str, subject: &Subject) -> Result<String, String> {
    if text.is_empty() {
        return Err("missing value for command".to_owned());
    }
    if let Some(arguments) = text.strip_prefix("index .ContainerLabels ") {
        let key = quoted(arguments.trim())?;
        return Ok(subject.labels.get(key).cloned().unwrap_or_default());
    }
    if text.starts_with('"') {
        return quoted(text).map(str::to_owned);
    }
    if text.starts_with('.') {
        let unknown = || format!("can't evaluate field {}", text.trim_start_matches('.'));
        return subject.field(text).ok_or_else(unknown);
    }
    match text.split_once(' ') {
        Some((function, argument)) => apply(function, operand(argument.trim(), subject)?),
        None => Err(format!("function {text:?} not defined")),
    }
}

fn quoted(text: &str) -> Result<&str, String> {
    text.strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .ok_or_else(|| format!("unexpected {text:?} in operand"))
}

fn apply(function: &str, value: String) -> Result<String, String> {
    Ok(match function {
        "lower" => value.to_lowercase(),
        "upper" => value.to_uppercase(),
        "title" => {
            let mut characters = value.chars();
            let first = characters.next().map(char::to_uppercase);
            first.into_iter().flatten().chain(characters).collect()
        }
        "json" => serde_json::Value::from(value).to_string(),
        _ => return Err(format!("function {function:?} not defined")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            id: "0123456789abcdef".to_owned(),
            name: "web".to_owned(),
            image_id: "fedcba9876543210".to_owned(),
            image_name: "nginx:1".to_owned(),
            command: "sh -c x".to_owned(),
            labels: [("a.b".to_owned(), "c".to_owned())].into(),
        }
    }

    #[test]
    fn templates_are_filled_in_as_docker_does() {
        let cases = [
            ("{{.ID}}", "0123456789ab"),
            (
                "{{.ImageName}}/{{.Name}}/{{.ID}}",
                "nginx:1/web/0123456789ab",
            ),
            ("x {{ .FullID }} y", "x 0123456789abcdef y"),
            (
                "{{.ImageID}} {{.ImageFullID}}",
                "fedcba987654 fedcba9876543210",
            ),
            ("{{.Command}}", "sh -c x"),
            ("{{.DaemonName}}", "docker"),
            ("{{.Name | upper}} {{title .Name}}", "WEB Web"),
            ("{{json .Name}}", "\"web\""),
            ("{{index .ContainerLabels \"a.b\"}}", "c"),
            ("a {{- .Name -}} b", "awebb"),
            ("plain", "plain"),
        ];
        for (template, wanted) in cases {
            assert_eq!(
                render(template, &subject()).as_deref(),
                Ok(wanted),
                "{template}"
            );
        }
        for template in [
            "{{.ID",
            "{{.Nope}}",
            "{{nope .ID}}",
            "{{}}",
            "{{.ID | nope}}",
        ] {
            assert!(render(template, &subject()).is_err(), "{template}");
        }
    }
}
