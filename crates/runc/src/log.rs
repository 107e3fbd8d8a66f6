//! What is said to whoever runs this program: on standard error, or into the file of `--log`, in
//! the two formats of logrus, which containerd, conmon and Docker read.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Debug,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Where lines go.
#[derive(Debug, Default)]
pub(crate) struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
}

/// The fields in logrus's order, which is that of the alphabet.
#[derive(Serialize)]
struct Line<'a> {
    level: Level,
    msg: &'a str,
    time: String,
}

impl Log {
    /// `path` is made if missing, and appended to. Empty, or `/dev/stderr`: standard error.
    pub(crate) fn open(path: Option<&OsStr>, format: Format, debug: bool) -> io::Result<Self> {
        let path = path.filter(|path| !path.is_empty() && *path != "/dev/stderr");
        let open = |path| File::options().append(true).create(true).open(path);
        Ok(Self {
            file: path.map(open).transpose()?,
            format,
            debug,
        })
    }

    /// Why the program fails. With a log file, standard error hears the bare words too.
    pub(crate) fn error(&self, message: &str) {
        self.line(Level::Error, message);
        if self.file.is_some() {
            let _ = writeln!(io::stderr(), "{message}");
        }
    }

    pub(crate) fn warn(&self, message: &str) {
        self.line(Level::Warning, message);
    }

    pub(crate) fn debug(&self, message: impl FnOnce() -> String) {
        if self.debug {
            self.line(Level::Debug, &message());
        }
    }

    fn line(&self, level: Level, message: &str) {
        let line = self.render(level, message, SystemTime::now());
        // Nobody is left to hear that it could not be said.
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => io::stderr().write_all(line.as_bytes()),
        };
    }

    fn render(&self, level: Level, message: &str, moment: SystemTime) -> String {
        let time = seconds(moment);
        match self.format {
            Format::Text => {
                let level = level.name();
                format!("time=\"{time}\" level={level} msg={message:?}\n")
            }
            Format::Json => {
                let msg = message;
                let line = serde_json::to_string(&Line { level, msg, time });
                line.map(|line| line + "\n").unwrap_or_default()
            }
        }
    }
}

/// RFC 3339 without a fraction.
fn seconds(moment: SystemTime) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    let whole = UNIX_EPOCH + std::time::Duration::from_secs(since.as_secs());
    vocab::time::rfc3339_nano(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_logrus() {
        let moment = UNIX_EPOCH + std::time::Duration::from_millis(1_500);
        let line = |format| {
            let log = Log {
                format,
                ..Log::default()
            };
            log.render(Level::Error, "unknown signal \"FOO\"", moment)
        };
        assert_eq!(
            line(Format::Text),
            "time=\"1970-01-01T00:00:01Z\" level=error msg=\"unknown signal \\\"FOO\\\"\"\n"
        );
        assert_eq!(
            line(Format::Json),
            "{\"level\":\"error\",\"msg\":\"unknown signal \\\"FOO\\\"\",\
             \"time\":\"1970-01-01T00:00:01Z\"}\n"
        );
    }
}
