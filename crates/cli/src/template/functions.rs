//! Functions of templates: Go's predefined ones, and those that Docker adds.
//!
//! In the header of a table Docker's functions return their text as it is, so that
//! `table {{upper .Name}}` is headed `NAME` and not something cut or padded.

use std::cmp::Ordering;
use std::rc::Rc;

use super::print;
use super::value::{Shape, Value};

/// Which of Docker's functions are at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Set {
    /// All, doing what they say.
    #[default]
    Values,
    /// Those that change a text leave it alone.
    Headers,
}

/// Whether a template may name this function.
pub(super) fn knows(name: &str) -> bool {
    matches!(
        name,
        "and"
            | "or"
            | "not"
            | "len"
            | "index"
            | "slice"
            | "print"
            | "printf"
            | "println"
            | "html"
            | "js"
            | "urlquery"
            | "call"
            | "eq"
            | "ne"
            | "lt"
            | "le"
            | "gt"
            | "ge"
            | "json"
            | "split"
            | "join"
            | "title"
            | "lower"
            | "upper"
            | "pad"
            | "truncate"
    )
}

type Outcome = Result<Value, String>;

/// Calls a function; the error is what follows the place in Go's message.
pub(super) fn call(set: Set, name: &str, arguments: &[Value]) -> Outcome {
    let count = arguments.len();
    let (least, most) = match name {
        "not" | "len" | "json" | "title" | "lower" | "upper" => (1, Some(1)),
        "split" | "join" | "truncate" | "ne" | "lt" | "le" | "gt" | "ge" => (2, Some(2)),
        "pad" => (3, Some(3)),
        "index" | "slice" | "printf" | "eq" | "call" => (1, None),
        _ => (0, None),
    };
    if count < least && most.is_none() {
        return Err(format!(
            "wrong number of args for {name}: want at least {least} got {count}"
        ));
    }
    if count < least || most.is_some_and(|most| count > most) {
        return Err(format!(
            "wrong number of args for {name}: want {least} got {count}"
        ));
    }
    let failed = |message: String| format!("error calling {name}: {message}");
    match name {
        "not" => Ok(Value::Bool(!arguments[0].is_true())),
        "len" => length(&arguments[0]).map_err(failed),
        "index" => index(&arguments[0], &arguments[1..]).map_err(failed),
        "slice" => slice(&arguments[0], &arguments[1..]).map_err(failed),
        "print" => Ok(Value::from(print::print(arguments))),
        "println" => Ok(Value::from(print::println(arguments))),
        "printf" => {
            let format = text(&arguments[0])?;
            Ok(Value::from(print::printf(&format, &arguments[1..])))
        }
        "html" => Ok(Value::from(html(&joined(arguments)))),
        "js" => Ok(Value::from(js(&joined(arguments)))),
        "urlquery" => Ok(Value::from(url_query(&joined(arguments)))),
        "call" => Err(failed(format!(
            "non-function {} of type {}",
            print::plain(&arguments[0]),
            arguments[0].kind()
        ))),
        "eq" => equal(arguments).map(Value::Bool).map_err(failed),
        "ne" => equal(arguments)
            .map(|same| Value::Bool(!same))
            .map_err(failed),
        "lt" | "le" | "gt" | "ge" => {
            let order = compare(&arguments[0], &arguments[1]).map_err(failed)?;
            Ok(Value::Bool(match name {
                "lt" => order == Some(Ordering::Less),
                "le" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                "gt" => order == Some(Ordering::Greater),
                _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            }))
        }
        "json" if set == Set::Headers => Ok(arguments[0].clone()),
        "json" => Ok(Value::from(arguments[0].to_json())),
        "title" | "lower" | "upper" if set == Set::Headers => text(&arguments[0]).map(Value::from),
        "title" => Ok(Value::from(title(&text(&arguments[0])?))),
        "lower" => Ok(Value::from(text(&arguments[0])?.to_lowercase())),
        "upper" => Ok(Value::from(text(&arguments[0])?.to_uppercase())),
        "split" => {
            let (whole, separator) = (text(&arguments[0])?, text(&arguments[1])?);
            let parts: Vec<Value> = if separator.is_empty() {
                whole.chars().map(|c| Value::from(c.to_string())).collect()
            } else {
                whole.split(&*separator).map(Value::from).collect()
            };
            Ok(Value::List(Rc::new(parts)))
        }
        "join" => join(&arguments[0], &text(&arguments[1])?).map(Value::from),
        "pad" => {
            let (text, before, after) = (
                text(&arguments[0])?,
                size(&arguments[1])?,
                size(&arguments[2])?,
            );
            if text.is_empty() {
                return Ok(Value::from(""));
            }
            Ok(Value::from(format!(
                "{}{text}{}",
                " ".repeat(before),
                " ".repeat(after)
            )))
        }
        "truncate" => {
            let (text, length) = (text(&arguments[0])?, size(&arguments[1])?);
            if set == Set::Headers || text.len() < length {
                return Ok(Value::from(&*text));
            }
            Ok(Value::from(
                String::from_utf8_lossy(&text.as_bytes()[..length]).into_owned(),
            ))
        }
        _ => Err(format!("{} is not a defined function", print::quote(name))),
    }
}

fn text(value: &Value) -> Result<Rc<str>, String> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        Value::Nil | Value::NilPointer => Err("invalid value; expected string".to_owned()),
        other => Err(format!(
            "wrong type for value; expected string; got {}",
            other.kind()
        )),
    }
}

/// The largest padding that a template may ask for.
const PAD_MAX: usize = 1 << 16;

fn size(value: &Value) -> Result<usize, String> {
    match value {
        Value::Int(number) => usize::try_from(*number)
            .ok()
            .filter(|size| *size <= PAD_MAX)
            .ok_or_else(|| format!("number {number} is out of range")),
        Value::Nil | Value::NilPointer => Err("invalid value; expected int".to_owned()),
        other => Err(format!(
            "wrong type for value; expected int; got {}",
            other.kind()
        )),
    }
}

fn join(value: &Value, separator: &str) -> Result<String, String> {
    let wrong = || {
        format!(
            "wrong type for value; expected []string; got {}",
            value.kind()
        )
    };
    match value {
        Value::NilList => Ok(String::new()),
        Value::List(items) => items
            .iter()
            .map(|item| match item {
                Value::Text(text) => Ok(&**text),
                _ => Err(wrong()),
            })
            .collect::<Result<Vec<_>, _>>()
            .map(|items| items.join(separator)),
        _ => Err(wrong()),
    }
}

fn joined(arguments: &[Value]) -> String {
    match arguments {
        [Value::Text(text)] => text.to_string(),
        _ => print::print(arguments),
    }
}

fn length(value: &Value) -> Outcome {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        Value::NilList | Value::NilMap => 0,
        Value::Object(object) if !matches!(object.shape, Shape::Struct(_)) => object.members.len(),
        Value::Nil | Value::NilPointer => return Err("len of nil pointer".to_owned()),
        other => return Err(format!("len of type {}", other.kind())),
    };
    Ok(Value::Int(length as i128))
}

fn index(value: &Value, keys: &[Value]) -> Outcome {
    if matches!(value, Value::Nil | Value::NilPointer) {
        return Err("index of untyped nil".to_owned());
    }
    let mut value = value.clone();
    for key in keys {
        value = match &value {
            Value::List(items) => position(key, items.len()).map(|at| items[at].clone())?,
            Value::NilList => position(key, 0).map(|_| Value::Nil)?,
            Value::Text(text) => {
                position(key, text.len()).map(|at| Value::Int(text.as_bytes()[at].into()))?
            }
            Value::Object(object) if !matches!(object.shape, Shape::Struct(_)) => {
                let Value::Text(key) = key else {
                    return Err(format!("value has type {}; should be string", key.kind()));
                };
                match (object.find(key), object.shape) {
                    (Some(member), _) => member.clone(),
                    (None, Shape::Texts) => Value::from(""),
                    (None, _) => Value::Nil,
                }
            }
            Value::NilMap => Value::from(""),
            Value::Nil | Value::NilPointer => return Err("index of nil pointer".to_owned()),
            other => return Err(format!("can't index item of type {}", other.kind())),
        };
    }
    Ok(value)
}

fn position(key: &Value, length: usize) -> Result<usize, String> {
    match key {
        Value::Int(at) => usize::try_from(*at)
            .ok()
            .filter(|at| *at < length)
            .ok_or_else(|| format!("index out of range: {at}")),
        Value::Nil => Err("cannot index slice/array with nil".to_owned()),
        other => Err(format!(
            "cannot index slice/array with type {}",
            other.kind()
        )),
    }
}

fn slice(value: &Value, bounds: &[Value]) -> Outcome {
    if bounds.len() > 3 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    let length = match value {
        Value::List(items) => items.len(),
        Value::NilList => 0,
        Value::Text(_) if bounds.len() == 3 => {
            return Err("cannot 3-index slice a string".to_owned());
        }
        Value::Text(text) => text.len(),
        Value::Nil => return Err("slice of untyped nil".to_owned()),
        other => return Err(format!("can't slice item of type {}", other.kind())),
    };
    let mut ends = [0, length, length];
    for (end, bound) in ends.iter_mut().zip(bounds) {
        *end = position(bound, length + 1)?;
    }
    if ends[0] > ends[1] {
        return Err(format!("invalid slice index: {} > {}", ends[0], ends[1]));
    }
    if ends[1] > ends[2] {
        return Err(format!("invalid slice index: {} > {}", ends[1], ends[2]));
    }
    Ok(match value {
        Value::List(items) => Value::List(Rc::new(items[ends[0]..ends[1]].to_vec())),
        Value::Text(text) => {
            Value::from(String::from_utf8_lossy(&text.as_bytes()[ends[0]..ends[1]]).into_owned())
        }
        _ => Value::NilList,
    })
}

/// Whether the first equals any of the others.
fn equal(arguments: &[Value]) -> Result<bool, String> {
    let (first, others) = arguments
        .split_first()
        .ok_or("missing argument for comparison")?;
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        let same = match (first, other) {
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            #[expect(clippy::float_cmp, reason = "templates compare as Go does")]
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => a == b,
            (first, other) if is_nil(first) && is_nil(other) => true,
            (Value::Nil | Value::NilPointer, _) | (_, Value::Nil | Value::NilPointer) => false,
            (Value::List(_) | Value::Object(_) | Value::NilList | Value::NilMap, _) => {
                return Err(format!(
                    "non-comparable type {}: {}",
                    print::plain(first),
                    first.kind()
                ));
            }
            _ => return Err("incompatible types for comparison".to_owned()),
        };
        if same {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_nil(value: &Value) -> bool {
    matches!(
        value,
        Value::Nil | Value::NilPointer | Value::NilList | Value::NilMap
    )
}

fn compare(a: &Value, b: &Value) -> Result<Option<Ordering>, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(Some(a.cmp(b))),
        (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(Some(a.cmp(b))),
        (Value::Int(_) | Value::Float(_) | Value::Text(_), _) => {
            Err("incompatible types for comparison".to_owned())
        }
        _ => Err("invalid type for comparison".to_owned()),
    }
}

/// `strings.Title`: the first letter of each word in upper case.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut previous = ' ';
    for c in text.chars() {
        let inside = previous.is_alphanumeric() || previous == '_' || previous == '\'';
        if inside && !previous.is_whitespace() {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        previous = c;
    }
    out
}

fn html(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

fn js(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' => out.push_str("\\u003C"),
            '>' => out.push_str("\\u003E"),
            '&' => out.push_str("\\u0026"),
            '=' => out.push_str("\\u003D"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

fn url_query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
