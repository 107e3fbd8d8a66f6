//! The process table that `ps` would print, from `/proc`: no program of the host is run.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::stats::Top;

/// Arguments of `ps` that berth does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentsError {
    /// An option.
    #[error(
        "berth reads the process table itself and does not know the ps option `{0}`: -ef, aux and \
         -o with columns are known"
    )]
    Option(String),
    /// A column.
    #[error("berth does not know the ps column `{0}`")]
    Column(String),
    /// Docker's own rule.
    #[error("Couldn't find PID field in ps output")]
    NoPid,
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    User,
    Uid,
    Pid,
    Ppid,
    /// Processor share, as a whole number.
    C,
    Cpu,
    Memory,
    Size,
    Resident,
    Started,
    Terminal,
    State,
    Time,
    Threads,
    Nice,
    Name,
    Command,
}

impl Column {
    fn read(word: &str) -> Option<Self> {
        Some(match word {
            "user" | "euser" | "uname" => Self::User,
            "uid" | "euid" => Self::Uid,
            "pid" => Self::Pid,
            "ppid" => Self::Ppid,
            "c" => Self::C,
            "pcpu" | "%cpu" => Self::Cpu,
            "pmem" | "%mem" => Self::Memory,
            "vsz" | "vsize" => Self::Size,
            "rss" | "rssize" => Self::Resident,
            "stime" | "start_time" | "start" => Self::Started,
            "tty" | "tname" | "tt" => Self::Terminal,
            "stat" | "s" | "state" => Self::State,
            "time" | "cputime" => Self::Time,
            "nlwp" | "thcount" => Self::Threads,
            "ni" | "nice" => Self::Nice,
            "comm" | "ucmd" => Self::Name,
            "cmd" | "args" | "command" => Self::Command,
            _ => return None,
        })
    }
}

type Titled = (String, Column);

/// What `ps` shows for these arguments.
pub(crate) fn columns(arguments: &str) -> Result<Vec<Titled>, ArgumentsError> {
    use Column::{
        C, Command, Cpu, Memory, Pid, Ppid, Resident, Size, Started, State, Terminal, Time, User,
    };
    let titled = |list: &[(&str, Column)]| {
        list.iter()
            .map(|(title, column)| ((*title).to_owned(), *column))
            .collect()
    };
    match arguments.trim() {
        "" | "-ef" | "-e -f" | "-A -f" | "-Af" => Ok(titled(&[
            ("UID", User),
            ("PID", Pid),
            ("PPID", Ppid),
            ("C", C),
            ("STIME", Started),
            ("TTY", Terminal),
            ("TIME", Time),
            ("CMD", Command),
        ])),
        "aux" | "-aux" | "axu" => Ok(titled(&[
            ("USER", User),
            ("PID", Pid),
            ("%CPU", Cpu),
            ("%MEM", Memory),
            ("VSZ", Size),
            ("RSS", Resident),
            ("TTY", Terminal),
            ("STAT", State),
            ("START", Started),
            ("TIME", Time),
            ("COMMAND", Command),
        ])),
        other => {
            let list = ["-eo", "-o", "-Ao", "o", "axo"]
                .iter()
                .find_map(|option| other.strip_prefix(option))
                .ok_or_else(|| ArgumentsError::Option(other.to_owned()))?;
            let columns = list
                .split([',', ' '])
                .filter(|word| !word.is_empty() && *word != "-o")
                .map(|word| {
                    let (name, title) = word.split_once('=').unwrap_or((word, ""));
                    let column = Column::read(name)
                        .ok_or_else(|| ArgumentsError::Column(name.to_owned()))?;
                    let title = if title.is_empty() {
                        name.to_uppercase()
                    } else {
                        title.to_owned()
                    };
                    Ok((title, column))
                })
                .collect::<Result<Vec<_>, ArgumentsError>>()?;
            if columns.iter().any(|(_, column)| *column == Pid) {
                Ok(columns)
            } else {
                Err(ArgumentsError::NoPid)
            }
        }
    }
}

/// The table of these processes; what has ended meanwhile is left out. Blocks.
pub(crate) fn table(columns: &[Titled], pids: &[i32]) -> Top {
    let host = Host::read();
    Top {
        titles: columns.iter().map(|(title, _)| title.clone()).collect(),
        processes: pids
            .iter()
            .filter_map(|pid| Process::read(*pid))
            .map(|process| {
                columns
                    .iter()
                    .map(|(_, column)| process.show(*column, &host))
                    .collect()
            })
            .collect(),
    }
}

/// Ticks in a second (`USER_HZ`).
const TICKS: u64 = 100;

struct Host {
    booted: SystemTime,
    memory_bytes: u64,
    passwd: String,
    now: SystemTime,
}

impl Host {
    fn read() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let booted = stat
            .lines()
            .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
            .unwrap_or(0);
        Self {
            booted: UNIX_EPOCH + Duration::from_secs(booted),
            memory_bytes: crate::system::memory_bytes(),
            passwd: fs::read_to_string("/etc/passwd").unwrap_or_default(),
            now: SystemTime::now(),
        }
    }

    fn user(&self, uid: u32) -> String {
        self.passwd
            .lines()
            .find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
            })
            .unwrap_or_else(|| uid.to_string())
    }
}

struct Process {
    pid: i32,
    uid: u32,
    name: String,
    command: String,
    resident_bytes: u64,
    /// Fields of `/proc/<pid>/stat` after the name, so that `state` is the first.
    stat: Vec<String>,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let uid = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))?
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()?;
        // Absent for a process that is all but gone.
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"))
            .and_then(|text| text.trim().parse::<u64>().ok())
            .unwrap_or(0);
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<_> = cmdline
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(String::from_utf8_lossy)
            .collect();
        let command = if words.is_empty() {
            format!("[{name}]")
        } else {
            words.join(" ")
        };
        Some(Self {
            pid,
            uid,
            name,
            command,
            resident_bytes: resident * 1024,
            stat: tail.split_whitespace().map(str::to_owned).collect(),
        })
    }

    fn number(&self, place: usize) -> u64 {
        self.stat
            .get(place)
            .and_then(|word| word.parse().ok())
            .unwrap_or(0)
    }

    fn used(&self) -> Duration {
        Duration::from_millis((self.number(11) + self.number(12)) * 1000 / TICKS)
    }

    fn started(&self, host: &Host) -> SystemTime {
        host.booted + Duration::from_millis(self.number(19) * 1000 / TICKS)
    }

    /// Tenths of a percent of one processor since the start.
    fn share(&self, host: &Host) -> u64 {
        let lived = host
            .now
            .duration_since(self.started(host))
            .unwrap_or_default();
        let lived = u64::try_from(lived.as_millis()).unwrap_or(u64::MAX).max(1);
        let used = u64::try_from(self.used().as_millis()).unwrap_or(u64::MAX);
        used.saturating_mul(1000) / lived
    }

    fn show(&self, column: Column, host: &Host) -> String {
        let tenths = |value: u64| format!("{}.{}", value / 10, value % 10);
        match column {
            Column::User => host.user(self.uid),
            Column::Uid => self.uid.to_string(),
            Column::Pid => self.pid.to_string(),
            Column::Ppid => self.number(1).to_string(),
            Column::C => (self.share(host) / 10).to_string(),
            Column::Cpu => tenths(self.share(host)),
            Column::Memory => {
                tenths(self.resident_bytes.saturating_mul(1000) / host.memory_bytes.max(1))
            }
            Column::Size => (self.number(20) / 1024).to_string(),
            Column::Resident => (self.resident_bytes / 1024).to_string(),
            Column::Started => {
                let text = vocab::time::rfc3339_nano(self.started(host));
                text.get(11..16).unwrap_or(&text).to_owned()
            }
            Column::Terminal => terminal(self.number(4)),
            Column::State => self.stat.first().cloned().unwrap_or_default(),
            Column::Time => {
                let seconds = self.used().as_secs();
                format!(
                    "{:02}:{:02}:{:02}",
                    seconds / 3600,
                    seconds / 60 % 60,
                    seconds % 60
                )
            }
            Column::Threads => self.number(17).to_string(),
            Column::Nice => self.stat.get(16).cloned().unwrap_or_default(),
            Column::Name => self.name.clone(),
            Column::Command => self.command.clone(),
        }
    }
}

/// A device number as `ps` names it.
fn terminal(number: u64) -> String {
    let major = (number >> 8) & 0xfff;
    let minor = (number & 0xff) | ((number >> 12) & 0xfff00);
    match major {
        0 => "?".to_owned(),
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        4 => format!("tty{minor}"),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_choose_columns() {
        let titles = |arguments: &str| -> Vec<String> {
            columns(arguments)
                .unwrap()
                .into_iter()
                .map(|(title, _)| title)
                .collect()
        };
        assert_eq!(titles("").first().map(String::as_str), Some("UID"));
        assert_eq!(titles("-o pid,cmd"), ["PID", "CMD"]);
        assert_eq!(titles("-eo pid=P,comm"), ["P", "COMM"]);
        assert_eq!(columns("-o cmd"), Err(ArgumentsError::NoPid));
        assert_eq!(
            columns("-o nope,pid"),
            Err(ArgumentsError::Column("nope".to_owned()))
        );
        assert!(matches!(
            columns("--forest"),
            Err(ArgumentsError::Option(_))
        ));
    }

    #[test]
    fn this_process_is_in_its_table() {
        let own = i32::try_from(std::process::id()).unwrap();
        let table = table(
            &columns("-o pid,ppid,user,time,args").unwrap(),
            &[own, i32::MAX],
        );
        assert_eq!(table.processes.len(), 1);
        assert_eq!(table.processes[0][0], own.to_string());
        assert!(
            table.processes[0][4].contains("engine"),
            "{:?}",
            table.processes
        );
    }
}
