//! Progress as the API streams it: a line for each layer on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::fmt::Write as _;

use api::client::Answer;
use api::types::{Progress, ProgressDetail};

use crate::failure::{Failure, Result};
use crate::{human, output};

/// Where progress goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Standard output, as `pull` does.
    Stdout,
    /// Standard error, as `run` does, where standard output is the container's.
    Stderr,
    /// Nowhere; failures still count.
    Nowhere,
}

/// Shows progress to its end. A failure in it is the command's failure. `aux` sees what is said
/// besides.
pub async fn show(answer: Answer, to: To, mut aux: impl FnMut(serde_json::Value)) -> Result {
    let terminal = match to {
        To::Stdout => rustix::termios::isatty(rustix::stdio::stdout()),
        To::Stderr => rustix::termios::isatty(rustix::stdio::stderr()),
        To::Nowhere => false,
    };
    let columns = crate::terminal::size().map_or(80, |(_, columns)| columns);
    let mut screen = Screen::new(terminal, columns);
    let mut messages = answer.documents::<Progress>();
    while let Some(message) = messages.next().await {
        let message = message?;
        if let Some(error) = &message.error_detail {
            return Err(Failure::new(error.message.clone()));
        }
        if !message.error.is_empty() {
            return Err(Failure::new(message.error));
        }
        // What is said for programs is nothing to be shown.
        if let Some(said) = message.aux.clone() {
            aux(said);
            continue;
        }
        let text = screen.render(&message);
        match to {
            To::Stdout => output::out(&text)?,
            To::Stderr => output::error_bytes(text.as_bytes()),
            To::Nowhere => {}
        }
    }
    Ok(())
}

/// Which line of the terminal belongs to which id.
struct Screen {
    terminal: bool,
    columns: u16,
    lines: HashMap<String, usize>,
}

impl Screen {
    fn new(terminal: bool, columns: u16) -> Self {
        Self {
            terminal,
            columns,
            lines: HashMap::new(),
        }
    }

    /// What to write for one message.
    fn render(&mut self, message: &Progress) -> String {
        let has_progress = message.detail.as_ref().is_some_and(ProgressExt::is_some);
        let mut out = String::new();
        if !self.terminal {
            if has_progress {
                return out;
            }
            write_message(&mut out, message, None);
            return out;
        }
        let own_line = !message.id.is_empty() && (has_progress || !message.status.is_empty());
        if !own_line {
            // A line without an id ends the block of those that are rewritten.
            self.lines.clear();
            write_message(&mut out, message, None);
            return out;
        }
        let count = self.lines.len();
        let (line, new) = match self.lines.get(&message.id) {
            Some(line) => (*line, false),
            None => {
                self.lines.insert(message.id.clone(), count);
                (count, true)
            }
        };
        let up = if new { 0 } else { count - line };
        if new {
            out.push('\n');
        }
        let up = if new { 1 } else { up };
        write!(out, "\x1b[{up}A\x1b[2K\r").expect("writing to a string cannot fail");
        let bar = message
            .detail
            .as_ref()
            .map(|detail| bar(detail, self.columns));
        write_message(&mut out, message, Some(bar.unwrap_or_default()));
        write!(out, "\x1b[{up}B").expect("writing to a string cannot fail");
        out
    }
}

trait ProgressExt {
    fn is_some(&self) -> bool;
}

impl ProgressExt for ProgressDetail {
    fn is_some(&self) -> bool {
        self.current > 0 || self.total > 0
    }
}

/// `bar` is there on a terminal, where lines end without a newline.
fn write_message(out: &mut String, message: &Progress, bar: Option<String>) {
    if !message.stream.is_empty() {
        out.push_str(&message.stream);
        return;
    }
    if !message.id.is_empty() {
        out.push_str(&message.id);
        out.push_str(": ");
    }
    out.push_str(&message.status);
    match bar {
        Some(bar) => {
            if !bar.is_empty() {
                out.push(' ');
                out.push_str(&bar);
            }
            out.push('\r');
        }
        None => out.push('\n'),
    }
}

/// `[=====>     ]  1.2MB/4.5MB`
fn bar(detail: &ProgressDetail, columns: u16) -> String {
    let current = u64::try_from(detail.current).unwrap_or(0);
    let total = u64::try_from(detail.total).unwrap_or(0);
    if current == 0 && total == 0 {
        return String::new();
    }
    let amount = |bytes| {
        if detail.units.is_empty() {
            human::size_four(bytes)
        } else {
            format!("{bytes} {}", detail.units)
        }
    };
    if total == 0 {
        return format!("{:>8}", amount(current));
    }
    let mut out = String::new();
    let half = usize::try_from((current.min(total) * 50) / total).unwrap_or(50);
    if columns > 110 {
        let spaces = 50_usize.saturating_sub(half);
        write!(out, "[{}>{}] ", "=".repeat(half), " ".repeat(spaces))
            .expect("writing to a string cannot fail");
    }
    if !detail.hide_counts {
        if current > total {
            write!(out, "{:>8}", amount(current)).expect("writing to a string cannot fail");
        } else {
            write!(out, "{:>8}/{}", amount(current), amount(total))
                .expect("writing to a string cannot fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> Progress {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn plain_lines_have_no_bars() {
        let mut screen = Screen::new(false, 80);
        let mut shown = String::new();
        for json in [
            r#"{"status":"Pulling from library/busybox","id":"latest"}"#,
            r#"{"status":"Pulling fs layer","id":"abc"}"#,
            r#"{"status":"Downloading","id":"abc","progressDetail":{"current":1,"total":2}}"#,
            r#"{"status":"Pull complete","id":"abc","progressDetail":{}}"#,
            r#"{"status":"Status: Downloaded"}"#,
            r#"{"stream":"Loaded image: x\n"}"#,
        ] {
            shown.push_str(&screen.render(&message(json)));
        }
        assert_eq!(
            shown,
            "latest: Pulling from library/busybox\nabc: Pulling fs layer\nabc: Pull complete\nStatus: Downloaded\nLoaded image: x\n"
        );
    }

    #[test]
    fn a_terminal_gets_one_line_for_each_layer() {
        let mut screen = Screen::new(true, 120);
        let first = screen.render(&message(r#"{"status":"Waiting","id":"a"}"#));
        assert_eq!(first, "\n\x1b[1A\x1b[2K\ra: Waiting\r\x1b[1B");
        screen.render(&message(r#"{"status":"Waiting","id":"b"}"#));
        let again = screen.render(&message(
            r#"{"status":"Downloading","id":"a","progressDetail":{"current":50,"total":100}}"#,
        ));
        assert_eq!(
            again,
            format!(
                "\x1b[2A\x1b[2K\ra: Downloading [{}>{}]      50B/100B\r\x1b[2B",
                "=".repeat(25),
                " ".repeat(25)
            )
        );
    }
}
