//! `--format` of lists: `table`, `table TEMPLATE`, `json`, or a template for each row.

use crate::failure::{Failure, Result};
use crate::table;
use crate::template::{MissingKey, Set, Template, Value};

/// A kind of list: what its rows are called and how they stand in a table.
pub struct Listing<'a> {
    /// The Go type that messages name.
    pub kind: &'static str,
    /// Columns and their headers.
    pub headers: &'a [(&'static str, &'static str)],
}

/// Prints rows. `format` is what the user gave, `default` the template of the plain table, `quiet`
/// the one of `--quiet`, which a format of the user's overrides.
pub fn render(
    listing: &Listing<'_>,
    format: Option<&str>,
    quiet: Option<&str>,
    default: &str,
    rows: &[Value],
) -> Result<String> {
    let format = match (format.filter(|format| !format.is_empty()), quiet) {
        (None, Some(quiet)) => quiet.to_owned(),
        (None | Some("table"), None) => format!("table {default}"),
        (Some("table"), Some(quiet)) => quiet.to_owned(),
        (Some("json"), _) => "{{json .}}".to_owned(),
        (Some(format), _) => format.to_owned(),
    };
    let (is_table, text) = match format.strip_prefix("table") {
        Some(rest) => (true, rest),
        None => (false, format.as_str()),
    };
    let template = Template::parse("", &unescaped(text))
        .map_err(|error| Failure::new(format!("failed to parse template: {error}")))?;
    let failed = |error| Failure::new(format!("failed to execute template: {error}"));
    let mut out = String::new();
    if is_table {
        out.push_str(
            &template
                .execute(&headers(listing), Set::Headers, MissingKey::NoValue)
                .map_err(failed)?,
        );
        out.push('\n');
    }
    for row in rows {
        out.push_str(
            &template
                .execute(row, Set::Values, MissingKey::NoValue)
                .map_err(failed)?,
        );
        out.push('\n');
    }
    Ok(if is_table { table::columns(&out) } else { out })
}

/// A template as it is typed, with tabs and ends of lines in place of what stands for them.
pub fn unescaped(text: &str) -> String {
    let text = text.trim_matches(' ');
    text.replace("\\t", "\t").replace("\\n", "\n")
}

fn headers(listing: &Listing<'_>) -> Value {
    let texts = listing
        .headers
        .iter()
        .map(|(name, header)| ((*name).to_owned(), serde_json::Value::from(*header)));
    let mut headers = Value::from(serde_json::Value::Object(texts.collect()));
    headers.add_hidden(
        "Label",
        Value::method(|name| {
            let last = name.rsplit('.').next().unwrap_or_default();
            Value::from(last.replace(['-', '_'], " "))
        }),
    );
    headers
}

/// Labels as one text: `a=b,c=d`, sorted.
pub fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

/// The method `.Label "key"` of a row.
pub fn label(labels: std::collections::BTreeMap<String, String>) -> Value {
    Value::method(move |key| Value::from(labels.get(key).cloned().unwrap_or_default()))
}

/// The twelve digits that people read of an id.
pub fn short(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// At most `width` characters, the last of them an ellipsis if something is cut.
pub fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// `true` or `false`, as Go formats a truth value.
pub fn truth(value: bool) -> Value {
    Value::from(if value { "true" } else { "false" })
}

/// JSON laid out with four spaces, members in their order (`json.Indent`).
pub fn indent(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0;
    let mut quoted = false;
    let mut escaped = false;
    let mut opened = false;
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("    ", depth));
    };
    for c in json.chars() {
        if quoted {
            out.push(c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => quoted = false,
                _ => {}
            }
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        if opened && !matches!(c, '}' | ']') {
            depth += 1;
            newline(&mut out, depth);
        }
        let was_opened = std::mem::take(&mut opened);
        match c {
            '{' | '[' => {
                out.push(c);
                opened = true;
            }
            '}' | ']' => {
                if !was_opened {
                    depth -= 1;
                    newline(&mut out, depth);
                }
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            '"' => {
                quoted = true;
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: Listing<'_> = Listing {
        kind: "*formatter.XContext",
        headers: &[("ID", "THE ID"), ("Name", "NAME")],
    };

    fn rows() -> Vec<Value> {
        [("1", "a"), ("2", "b")]
            .into_iter()
            .map(|(id, name)| {
                Value::row(
                    LISTING.kind,
                    [
                        ("ID", Value::from(id)),
                        ("Name", Value::from(name)),
                        (
                            "Label",
                            Value::method(|key| Value::from(key.to_uppercase())),
                        ),
                    ],
                )
            })
            .collect()
    }

    fn check(format: Option<&str>, quiet: Option<&str>, wanted: &str) {
        let out = render(&LISTING, format, quiet, "{{.ID}}\\t{{.Name}}", &rows()).unwrap();
        assert_eq!(out, wanted, "{format:?}");
    }

    #[test]
    fn lists_have_every_format() {
        check(None, None, "THE ID    NAME\n1         a\n2         b\n");
        check(
            Some("table"),
            None,
            "THE ID    NAME\n1         a\n2         b\n",
        );
        check(None, Some("{{.ID}}"), "1\n2\n");
        check(Some("{{.Name}}"), Some("{{.ID}}"), "a\nb\n");
        check(
            Some("json"),
            None,
            "{\"ID\":\"1\",\"Name\":\"a\"}\n{\"ID\":\"2\",\"Name\":\"b\"}\n",
        );
        check(Some("{{.ID}}\\t{{.Name}}"), None, "1\ta\n2\tb\n");
        check(Some("table {{upper .Name}}"), None, "NAME\nA\nB\n");
        check(
            Some("table {{.ID}}\t{{.Label \"com.x.the-key\"}}"),
            None,
            "THE ID    the key\n1         COM.X.THE-KEY\n2         COM.X.THE-KEY\n",
        );
    }

    #[test]
    fn mistakes_are_told_as_docker_tells_them() {
        let fails = |format: &str| {
            render(&LISTING, Some(format), None, "", &rows())
                .unwrap_err()
                .message
        };
        assert_eq!(
            fails("{{"),
            "failed to parse template: template: :1: unclosed action"
        );
        assert_eq!(
            fails("{{.Foo}}"),
            "failed to execute template: template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.XContext"
        );
    }

    #[test]
    fn json_is_laid_out_as_go_lays_it_out() {
        assert_eq!(
            indent(r#"[{"b":[],"a":{},"s":"{\"x\":1}","n":[1,2]}]"#),
            "[\n    {\n        \"b\": [],\n        \"a\": {},\n        \"s\": \"{\\\"x\\\":1}\",\n        \"n\": [\n            1,\n            2\n        ]\n    }\n]"
        );
    }

    #[test]
    fn texts_are_cut() {
        assert_eq!(ellipsis("abcdef", 4), "abc…");
        assert_eq!(ellipsis("abcd", 4), "abcd");
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
