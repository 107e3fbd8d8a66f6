//! One line of comma-separated fields, with quotes as in RFC 4180.

/// Cuts a line into fields; Go's reader calls an empty one `EOF`.
pub fn fields(line: &str) -> Result<Vec<String>, String> {
    if line.is_empty() {
        return Err("EOF".to_owned());
    }
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut inner = quoted;
            loop {
                let end = inner.find('"').ok_or_else(|| {
                    format!(
                        "parse error on line 1, column {}: extraneous or missing \" in quoted-field",
                        line.len() + 1
                    )
                })?;
                field.push_str(&inner[..end]);
                inner = &inner[end + 1..];
                match inner.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        inner = more;
                    }
                    None => break,
                }
            }
            fields.push(field);
            match inner.strip_prefix(',') {
                Some(next) => rest = next,
                None if inner.is_empty() => return Ok(fields),
                None => {
                    return Err(format!(
                        "parse error on line 1, column {}: extraneous or missing \" in quoted-field",
                        line.len() - inner.len()
                    ));
                }
            }
            continue;
        }
        let (field, next) = match rest.split_once(',') {
            Some((field, next)) => (field, Some(next)),
            None => (rest, None),
        };
        if let Some(at) = field.find('"') {
            return Err(format!(
                "parse error on line 1, column {}: bare \" in non-quoted field",
                line.len() - rest.len() + at + 1
            ));
        }
        fields.push(field.to_owned());
        match next {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_commas_together() {
        assert_eq!(fields("a,b=c").unwrap(), ["a", "b=c"]);
        assert_eq!(fields(r#""device=0,1",x"#).unwrap(), ["device=0,1", "x"]);
        assert_eq!(fields(r#""a""b""#).unwrap(), ["a\"b"]);
        assert_eq!(fields("a,,b").unwrap(), ["a", "", "b"]);
        assert_eq!(fields("a,").unwrap(), ["a", ""]);
    }

    #[test]
    fn broken_quotes_are_refused() {
        for line in ["", "\"a", "a\"b", "\"a\"b"] {
            assert!(fields(line).is_err(), "{line}");
        }
    }
}
