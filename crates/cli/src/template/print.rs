//! Go's `fmt`, for the values that templates have: `%v` of maps and slices, and every verb that
//! makes sense for booleans, numbers and texts, with flags, width, precision and argument indexes.

use std::fmt::Write as _;

use super::value::{Shape, Value};

/// `fmt.Sprint`: spaces between operands when neither is a text.
pub(super) fn print(values: &[Value]) -> String {
    let mut out = String::new();
    let mut last_text = true;
    for (index, value) in values.iter().enumerate() {
        let text = matches!(value, Value::Text(_));
        if index > 0 && !text && !last_text {
            out.push(' ');
        }
        write_value(&mut out, value, false);
        last_text = text;
    }
    out
}

/// `fmt.Sprintln`.
pub(super) fn println(values: &[Value]) -> String {
    let mut out = String::new();
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        write_value(&mut out, value, false);
    }
    out.push('\n');
    out
}

/// What an action prints: `%v`, with `<no value>` for nothing.
pub(super) fn action(value: &Value) -> String {
    if matches!(value, Value::Nil) {
        return "<no value>".to_owned();
    }
    plain(value)
}

/// `%v`.
pub(super) fn plain(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, false);
    out
}

fn write_value(out: &mut String, value: &Value, named: bool) {
    match value {
        Value::Nil | Value::NilPointer => out.push_str("<nil>"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => write_fmt(out, format_args!("{value}")),
        Value::Float(value) => out.push_str(&float_g(*value, None, false)),
        Value::Text(text) => out.push_str(text),
        Value::NilList => out.push_str("[]"),
        Value::NilMap => out.push_str("map[]"),
        Value::Method(_) => out.push_str("0x0"),
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                write_value(out, item, named);
            }
            out.push(']');
        }
        Value::Object(object) => match object.shape {
            Shape::Struct(_) => {
                out.push('{');
                for (index, (name, member)) in object.members.iter().enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    if named {
                        out.push_str(name);
                        out.push(':');
                    }
                    write_value(out, member, named);
                }
                out.push('}');
            }
            Shape::Map | Shape::Texts => {
                out.push_str("map[");
                for (index, (name, member)) in object.sorted().into_iter().enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    out.push_str(name);
                    out.push(':');
                    write_value(out, member, named);
                }
                out.push(']');
            }
        },
    }
}

fn write_fmt(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments)
        .expect("writing to a string cannot fail");
}

/// The widest field and precision that a format may ask for (Go: `tooLarge`).
const WIDTH_MAX: usize = 1_000_000;

#[derive(Clone, Debug, Default)]
struct Directive {
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// `fmt.Sprintf`.
pub(super) fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let chars: Vec<char> = format.chars().collect();
    let mut at = 0;
    let mut next = 0;
    let mut reordered = false;
    while at < chars.len() {
        if chars[at] != '%' {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        at += 1;
        let mut directive = Directive::default();
        let mut bad_index = false;
        while let Some(flag) = chars.get(at) {
            match flag {
                '+' => directive.plus = true,
                '-' => directive.minus = true,
                '#' => directive.sharp = true,
                ' ' => directive.space = true,
                '0' => directive.zero = true,
                _ => break,
            }
            at += 1;
        }
        let mut after_index = argument_index(
            &chars,
            &mut at,
            &mut next,
            arguments.len(),
            &mut reordered,
            &mut bad_index,
        );
        if chars.get(at) == Some(&'*') {
            at += 1;
            match star(arguments, &mut next) {
                Some(width) => {
                    directive.minus |= width < 0;
                    directive.width = usize::try_from(width.unsigned_abs()).ok();
                }
                None => out.push_str("%!(BADWIDTH)"),
            }
            after_index = false;
        } else if let Some(width) = number(&chars, &mut at) {
            directive.width = Some(width);
            bad_index |= after_index;
        }
        if chars.get(at) == Some(&'.') {
            at += 1;
            bad_index |= after_index;
            after_index = argument_index(
                &chars,
                &mut at,
                &mut next,
                arguments.len(),
                &mut reordered,
                &mut bad_index,
            );
            if chars.get(at) == Some(&'*') {
                at += 1;
                match star(arguments, &mut next) {
                    Some(precision) if precision >= 0 => {
                        directive.precision = usize::try_from(precision).ok();
                    }
                    Some(_) => {}
                    None => out.push_str("%!(BADPREC)"),
                }
                after_index = false;
            } else {
                directive.precision = Some(number(&chars, &mut at).unwrap_or(0));
            }
        }
        if !after_index {
            argument_index(
                &chars,
                &mut at,
                &mut next,
                arguments.len(),
                &mut reordered,
                &mut bad_index,
            );
        }
        let Some(&verb) = chars.get(at) else {
            out.push_str("%!(NOVERB)");
            break;
        };
        at += 1;
        if verb == '%' {
            out.push('%');
        } else if bad_index {
            write_fmt(&mut out, format_args!("%!{verb}(BADINDEX)"));
        } else if let Some(argument) = arguments.get(next) {
            next += 1;
            write_verb(&mut out, verb, &directive, argument);
        } else {
            write_fmt(&mut out, format_args!("%!{verb}(MISSING)"));
        }
    }
    if !reordered && next < arguments.len() {
        out.push_str("%!(EXTRA ");
        for (index, argument) in arguments[next..].iter().enumerate() {
            if index > 0 {
                out.push_str(", ");
            }
            if matches!(argument, Value::Nil) {
                out.push_str("<nil>");
            } else {
                write_fmt(
                    &mut out,
                    format_args!("{}={}", argument.kind(), plain(argument)),
                );
            }
        }
        out.push(')');
    }
    out
}

/// `[3]` after a percent sign; returns whether one was there.
fn argument_index(
    chars: &[char],
    at: &mut usize,
    next: &mut usize,
    count: usize,
    reordered: &mut bool,
    bad: &mut bool,
) -> bool {
    if chars.get(*at) != Some(&'[') {
        return false;
    }
    *reordered = true;
    let Some(end) = chars[*at..].iter().position(|c| *c == ']') else {
        *bad = true;
        *at += 1;
        return false;
    };
    let digits: String = chars[*at + 1..*at + end].iter().collect();
    *at += end + 1;
    match digits.parse::<usize>() {
        Ok(index) if (1..=count).contains(&index) => *next = index - 1,
        _ => *bad = true,
    }
    true
}

fn number(chars: &[char], at: &mut usize) -> Option<usize> {
    let start = *at;
    let mut value = 0_usize;
    while let Some(digit) = chars.get(*at).and_then(|c| c.to_digit(10)) {
        value = (value * 10 + digit as usize).min(WIDTH_MAX + 1);
        *at += 1;
    }
    (*at > start && value <= WIDTH_MAX).then_some(value)
}

fn star(arguments: &[Value], next: &mut usize) -> Option<i64> {
    let argument = arguments.get(*next)?;
    *next += 1;
    match argument {
        Value::Int(value) => i64::try_from(*value)
            .ok()
            .filter(|value| value.unsigned_abs() <= WIDTH_MAX as u64),
        _ => None,
    }
}

fn write_verb(out: &mut String, verb: char, directive: &Directive, value: &Value) {
    if verb == 'T' {
        let kind = match value {
            Value::Nil | Value::NilPointer => "<nil>",
            other => other.kind(),
        };
        return pad(out, directive, kind, false);
    }
    match value {
        Value::Nil | Value::NilPointer if verb == 'v' => pad(out, directive, "<nil>", false),
        Value::Nil | Value::NilPointer => write_fmt(out, format_args!("%!{verb}(<nil>)")),
        Value::Bool(flag) if matches!(verb, 't' | 'v') => {
            pad(out, directive, if *flag { "true" } else { "false" }, false);
        }
        Value::Int(number) => write_int(out, verb, directive, *number, value),
        Value::Float(number) => write_float(out, verb, directive, *number, value),
        Value::Text(text) => write_text(out, verb, directive, text, value),
        Value::List(_) | Value::NilList | Value::NilMap | Value::Object(_) => {
            write_compound(out, verb, directive, value);
        }
        Value::Bool(_) | Value::Method(_) => bad_verb(out, verb, value),
    }
}

/// Each element with the same verb, as Go does for slices and maps.
fn write_compound(out: &mut String, verb: char, directive: &Directive, value: &Value) {
    match value {
        Value::NilList => out.push_str("[]"),
        Value::NilMap => out.push_str("map[]"),
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                write_verb(out, verb, directive, item);
            }
            out.push(']');
        }
        Value::Object(object) => {
            let structure = matches!(object.shape, Shape::Struct(_));
            out.push_str(if structure { "{" } else { "map[" });
            let members: Vec<_> = if structure {
                object.members.iter().map(|(k, v)| (k, v)).collect()
            } else {
                object.sorted()
            };
            for (index, (name, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                if !structure {
                    write_verb(out, verb, directive, &Value::Text(name.clone()));
                    out.push(':');
                } else if directive.plus {
                    out.push_str(name);
                    out.push(':');
                }
                write_verb(out, verb, directive, member);
            }
            out.push(if structure { '}' } else { ']' });
        }
        other => write_value(out, other, directive.plus),
    }
}

fn bad_verb(out: &mut String, verb: char, value: &Value) {
    write_fmt(
        out,
        format_args!("%!{verb}({}={})", value.kind(), plain(value)),
    );
}

/// Pads to the width; `numeric` fields may be padded with zeros after their sign.
fn pad(out: &mut String, directive: &Directive, text: &str, numeric: bool) {
    let width = directive.width.unwrap_or(0);
    let missing = width.saturating_sub(text.chars().count());
    if directive.minus {
        out.push_str(text);
        out.extend(std::iter::repeat_n(' ', missing));
    } else if directive.zero && numeric {
        let (sign, digits) = match text.chars().next() {
            Some(sign @ ('+' | '-' | ' ')) => (Some(sign), &text[1..]),
            _ => (None, text),
        };
        out.extend(sign);
        out.extend(std::iter::repeat_n('0', missing));
        out.push_str(digits);
    } else {
        let filler = if directive.zero { '0' } else { ' ' };
        out.extend(std::iter::repeat_n(filler, missing));
        out.push_str(text);
    }
}

fn write_int(out: &mut String, verb: char, directive: &Directive, number: i128, value: &Value) {
    let magnitude = number.unsigned_abs();
    let (digits, prefix) = match verb {
        'd' | 'v' => (magnitude.to_string(), ""),
        'b' => (format!("{magnitude:b}"), "0b"),
        'o' => (format!("{magnitude:o}"), "0"),
        'O' => (format!("{magnitude:o}"), ""),
        'x' => (format!("{magnitude:x}"), "0x"),
        'X' => (format!("{magnitude:X}"), "0X"),
        'c' | 'q' | 'U' => {
            let character = u32::try_from(magnitude)
                .ok()
                .and_then(char::from_u32)
                .unwrap_or('\u{fffd}');
            let text = match verb {
                'c' => character.to_string(),
                'q' => quote_char(character),
                _ => format!("U+{magnitude:04X}"),
            };
            return pad(out, directive, &text, false);
        }
        // Go prints an integer under a floating verb as a mistake.
        _ => return bad_verb(out, verb, value),
    };
    let mut digits = digits;
    if let Some(precision) = directive.precision {
        if precision == 0 && number == 0 {
            return pad(
                out,
                &Directive {
                    zero: false,
                    ..directive.clone()
                },
                "",
                false,
            );
        }
        let missing = precision.saturating_sub(digits.len());
        digits.insert_str(0, &"0".repeat(missing));
    }
    let mut text = String::new();
    if number < 0 {
        text.push('-');
    } else if directive.plus {
        text.push('+');
    } else if directive.space {
        text.push(' ');
    }
    if verb == 'O' {
        text.push_str("0o");
    } else if directive.sharp && verb != 'd' {
        text.push_str(prefix);
    }
    text.push_str(&digits);
    let zero = directive.zero && directive.precision.is_none() && !directive.minus;
    pad(
        out,
        &Directive {
            zero,
            ..directive.clone()
        },
        &text,
        true,
    );
}

fn write_float(out: &mut String, verb: char, directive: &Directive, number: f64, value: &Value) {
    let mut text = match verb {
        'v' => float_g(number, directive.precision, false),
        'g' | 'G' => float_g(number, directive.precision, directive.sharp),
        'f' | 'F' => float_f(number, directive.precision.unwrap_or(6)),
        'e' | 'E' => float_e(number, Some(directive.precision.unwrap_or(6))),
        _ => return bad_verb(out, verb, value),
    };
    if matches!(verb, 'G' | 'E') {
        text = text.to_uppercase();
    }
    if !text.starts_with('-') {
        if directive.plus {
            text.insert(0, '+');
        } else if directive.space {
            text.insert(0, ' ');
        }
    }
    pad(out, directive, &text, number.is_finite());
}

fn write_text(out: &mut String, verb: char, directive: &Directive, text: &str, value: &Value) {
    let cut: String = match directive.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text.to_owned(),
    };
    let printed = match verb {
        'v' if directive.sharp => quote(&cut),
        'v' | 's' => cut,
        'q' if directive.sharp && !cut.contains('`') => format!("`{cut}`"),
        'q' => quote(&cut),
        'x' | 'X' => {
            let bytes: Vec<u8> = match directive.precision {
                Some(precision) => text.bytes().take(precision).collect(),
                None => text.bytes().collect(),
            };
            let gap = if directive.space { " " } else { "" };
            let prefix = if directive.sharp { "0x" } else { "" };
            let lower = prefix.to_owned()
                + &bytes
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<Vec<_>>()
                    .join(gap);
            if verb == 'X' {
                lower.to_uppercase()
            } else {
                lower
            }
        }
        _ => return bad_verb(out, verb, value),
    };
    pad(out, directive, &printed, false);
}

/// `strconv.Quote`.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        escape(&mut out, character, '"');
    }
    out.push('"');
    out
}

fn quote_char(character: char) -> String {
    let mut out = String::from("'");
    escape(&mut out, character, '\'');
    out.push('\'');
    out
}

fn escape(out: &mut String, character: char, delimiter: char) {
    match character {
        _ if character == delimiter || character == '\\' => {
            out.push('\\');
            out.push(character);
        }
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        control if control.is_control() && (control as u32) < 0x80 => {
            write_fmt(out, format_args!("\\x{:02x}", control as u32));
        }
        odd if odd.is_control()
            || matches!(odd, '\u{a0}' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{feff}') =>
        {
            write_fmt(out, format_args!("\\u{:04x}", odd as u32));
        }
        plain => out.push(plain),
    }
}

/// `%e`: at least two digits of exponent; without a precision the shortest digits that read back.
pub(crate) fn float_e(number: f64, precision: Option<usize>) -> String {
    if let Some(text) = not_finite(number) {
        return text;
    }
    let rust = match precision {
        Some(precision) => format!("{number:.precision$e}"),
        None => format!("{number:e}"),
    };
    let (digits, exponent) = rust.split_once('e').unwrap_or((&rust, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn float_f(number: f64, precision: usize) -> String {
    not_finite(number).unwrap_or_else(|| format!("{number:.precision$}"))
}

/// `%g`: scientific below an exponent of -4, and from the precision on (6 when there is none, and
/// then with the shortest digits that read back).
pub(crate) fn float_g(number: f64, precision: Option<usize>, keep_zeros: bool) -> String {
    if let Some(text) = not_finite(number) {
        return text;
    }
    let precision = precision.map(|precision| precision.max(1));
    let scientific = float_e(number, precision.map(|precision| precision - 1));
    let (digits, tail) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
    let exponent: i32 = tail.parse().unwrap_or(0);
    let limit = precision.map_or(6, |precision| i32::try_from(precision).unwrap_or(i32::MAX));
    if exponent < -4 || exponent >= limit {
        let digits = if keep_zeros {
            digits
        } else {
            trim_zeros(digits)
        };
        return format!("{digits}e{tail}");
    }
    let Some(precision) = precision else {
        return format!("{number}");
    };
    let decimals = i32::try_from(precision).unwrap_or(i32::MAX) - 1 - exponent;
    let decimals = usize::try_from(decimals).unwrap_or(0);
    let text = format!("{number:.decimals$}");
    if keep_zeros {
        text
    } else {
        trim_zeros(&text).to_owned()
    }
}

fn trim_zeros(digits: &str) -> &str {
    if digits.contains('.') {
        digits.trim_end_matches('0').trim_end_matches('.')
    } else {
        digits
    }
}

fn not_finite(number: f64) -> Option<String> {
    if number.is_nan() {
        Some("NaN".to_owned())
    } else if number.is_infinite() {
        Some(if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned())
    } else {
        None
    }
}

/// As `encoding/json` prints a float64.
pub(super) fn json_float(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        let text = float_e(number, None);
        // e-09 becomes e-9.
        return match text.split_once("e-0") {
            Some((digits, exponent)) => format!("{digits}e-{exponent}"),
            None => text,
        };
    }
    format!("{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    fn check(format: &str, arguments: &[&str], expected: &str) {
        let arguments: Vec<_> = arguments.iter().map(|json| value(json)).collect();
        assert_eq!(printf(format, &arguments), expected, "{format}");
    }

    #[test]
    fn verbs_print_as_go_prints_them() {
        check("%v", &["1"], "1");
        check(
            "%d|%5d|%-5d|%05d|%+d|% d",
            &["1", "2", "3", "-4", "5", "6"],
            "1|    2|3    |-0004|+5| 6",
        );
        check(
            "%x %X %#x %o %#o %b %O",
            &["255", "255", "255", "8", "8", "5", "8"],
            "ff FF 0xff 10 010 101 0o10",
        );
        check("%c %q %U", &["65", "65", "65"], "A 'A' U+0041");
        check(
            "%s|%5s|%-5s|%.2s|%q",
            &["\"a\"", "\"b\"", "\"c\"", "\"defg\"", "\"h\\\"\\n\""],
            "a|    b|c    |de|\"h\\\"\\n\"",
        );
        check(
            "%#q %x % x %#v",
            &["\"a b\"", "\"hi\"", "\"hi\"", "\"a\""],
            "`a b` 6869 68 69 \"a\"",
        );
        check("%t %v", &["true", "false"], "true false");
        check(
            "%f %.2f %e %g %6.1f|%-8.2f|",
            &["1.5", "2.345", "123456.789", "0.00001", "3.14159", "2.5"],
            "1.500000 2.35 1.234568e+05 1e-05    3.1|2.50    |",
        );
        check("%5t|%%", &["true"], " true|%");
        check(
            "%v %s %d",
            &["[1,2]", "[\"a\",\"b\"]", "{\"a\":1}"],
            "[1 2] [a b] map[%!d(string=a):1]",
        );
        check("%q", &["[\"a\",\"b\"]"], "[\"a\" \"b\"]");
        check("%.3d|%8.3d|%.0d", &["7", "7", "0"], "007|     007|");
    }

    #[test]
    fn mistakes_are_printed_as_go_prints_them() {
        check("%d", &["\"x\""], "%!d(string=x)");
        check("%s", &["1"], "%!s(int=1)");
        check("%d", &[], "%!d(MISSING)");
        check("%", &[], "%!(NOVERB)");
        check("a", &["1", "\"b\""], "a%!(EXTRA int=1, string=b)");
        check("%z", &["1"], "%!z(int=1)");
        check("%s", &["null"], "%!s(<nil>)");
        check("%v", &["null"], "<nil>");
        check("%t", &["1"], "%!t(int=1)");
        check("%[3]d", &["1"], "%!d(BADINDEX)");
    }

    #[test]
    fn arguments_can_be_chosen() {
        check("%[2]d %[1]d", &["1", "2"], "2 1");
        check("%*d|%-*d|", &["5", "1", "3", "2"], "    1|2  |");
        check("%.*f", &["2", "3.14159"], "3.14");
        check("%[1]v %[1]q", &["\"a\""], "a \"a\"");
    }

    #[test]
    fn floats_print_as_go_prints_them() {
        for (number, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (1.5, "1.5"),
            (1e6, "1e+06"),
            (123_456_789.0, "1.23456789e+08"),
            (100_000.0, "100000"),
            (1e20, "1e+20"),
            (1e21, "1e+21"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(float_g(number, None, false), text, "{number}");
        }
        for (number, text) in [
            (999.9, "1e+03"),
            (187.4, "187"),
            (1.236, "1.24"),
            (7.8, "7.8"),
            (0.0, "0"),
        ] {
            assert_eq!(float_g(number, Some(3), false), text, "{number}");
        }
    }

    #[test]
    fn json_floats_print_as_go_prints_them() {
        for (number, text) in [
            (1e6, "1000000"),
            (1e21, "1e+21"),
            (1e-7, "1e-7"),
            (0.5, "0.5"),
        ] {
            assert_eq!(json_float(number), text);
        }
    }
}
