//! The programs that lines are sent to.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use testkit::{eventually, tool};

/// How long a slow machine may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ended with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A receiver of ours that writes what it understood.
pub(crate) struct Receiver {
    port: u16,
    lines: Mutex<Lines<BufReader<ChildStdout>>>,
    _process: Running,
}

impl Receiver {
    pub(crate) fn start(kind: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/receiver.py");
        let mut process = Command::new(tool("msgpack"))
            .arg(script)
            .arg(kind)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self {
            port: lines.next().unwrap().unwrap().parse().unwrap(),
            lines: Mutex::new(lines),
            _process: Running(process),
        }
    }

    pub(crate) fn address(&self, protocol: &str) -> String {
        format!("{protocol}://127.0.0.1:{}", self.port)
    }

    pub(crate) fn messages(&self, count: usize) -> Vec<Value> {
        let mut lines = self.lines.lock().unwrap();
        let mut next = || serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        (0..count).map(|_| next()).collect()
    }
}

/// rsyslog on a port of TCP and UDP.
pub(crate) struct Rsyslog {
    pub(crate) port: u16,
    dir: tempfile::TempDir,
    process: Option<Running>,
}

impl Rsyslog {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut rsyslog = Self {
            port: free.local_addr().unwrap().port(),
            dir,
            process: None,
        };
        drop(free);
        rsyslog.start_again();
        rsyslog
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    pub(crate) fn start_again(&mut self) {
        let (port, out) = (self.port, self.out());
        let input =
            |kind: &str| format!("input(type=\"{kind}\" address=\"127.0.0.1\" port=\"{port}\")");
        let template = "%pri%|%app-name%|%timereported:::date-rfc3339%|%msg%\\n";
        let config = format!(
            "module(load=\"imtcp\")\nmodule(load=\"imudp\")\n{}\n{}\n\
             template(name=\"f\" type=\"string\" string=\"{template}\")\n\
             action(type=\"omfile\" file=\"{}\" template=\"f\")\n",
            input("imtcp"),
            input("imudp"),
            out.display()
        );
        let file = self.dir.path().join("conf");
        fs::write(&file, config).unwrap();
        let process = Command::new(tool("rsyslogd"))
            .args(["-n", "-iNONE", "-f"])
            .arg(file)
            .spawn()
            .unwrap();
        self.process = Some(Running(process));
        eventually(PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }

    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    /// The line with this text, once it is there.
    pub(crate) fn line_with(&self, text: &str) -> String {
        let find = || {
            let written = fs::read_to_string(self.out()).unwrap_or_default();
            let found = written.lines().find(|line| line.ends_with(text));
            found.map(str::to_owned)
        };
        eventually(PATIENCE, || find().is_some());
        find().unwrap()
    }
}

/// systemd's journal with a `/run` of its own.
pub(crate) struct Journal {
    process: Running,
}

impl Journal {
    pub(crate) fn start() -> Self {
        // Of the kernel's own messages it is to know nothing.
        let script = format!(
            "mount -t tmpfs none /run && mkdir -p /run/systemd/journal /run/log/journal \
             /run/systemd/journald.conf.d && \
             printf '[Journal]\\nAudit=no\\nReadKMsg=no\\nStorage=volatile\\n' \
             > /run/systemd/journald.conf.d/test.conf && exec {}",
            tool("systemd-journald").display()
        );
        let process = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .spawn()
            .unwrap();
        let journal = Self {
            process: Running(process),
        };
        eventually(PATIENCE, || journal.socket().exists());
        journal
    }

    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.process.0.id()))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root().join("run/systemd/journal/socket")
    }

    /// The first entries of the container.
    pub(crate) fn entries(&self, count: usize) -> Vec<Value> {
        let read = || -> Vec<Value> {
            let listed = Command::new(tool("journalctl"))
                .args([
                    "--output=json",
                    "--no-pager",
                    "--all",
                    "CONTAINER_NAME=web",
                    "-D",
                ])
                .arg(self.root().join("run/log/journal"))
                .output()
                .unwrap();
            let text = String::from_utf8(listed.stdout).unwrap();
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        };
        eventually(PATIENCE, || read().len() >= count);
        read()
    }
}
