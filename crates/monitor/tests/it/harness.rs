//! A real container of busybox under a real monitor.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use monitor::client;
use monitor::protocol::{ChunkHead, Event, Exit, FailureKind, Reply, Request, Status};
use monitor::{Launcher, Log, Setup, SpawnError, Spawned};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::eventually;
use vocab::{ContainerId, ExecId};

/// Far beyond what anything here takes, on a machine that is busy with everything else too.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The monitor's program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_monitor-alone");

/// Starts every monitor of a test.
pub(crate) fn launcher() -> &'static Launcher {
    static LAUNCHER: OnceLock<Launcher> = OnceLock::new();
    LAUNCHER.get_or_init(|| Launcher::new(PROGRAM.into()))
}

/// A container to be.
pub(crate) struct Wanted {
    args: Vec<String>,
    pub(crate) terminal: Option<(u16, u16)>,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) max_log_bytes: Option<u64>,
    pub(crate) netns: Option<OwnedFd>,
    /// Appended to the run directory's path.
    pub(crate) below: PathBuf,
    /// Hooked in at the end of the OCI document.
    pub(crate) change: fn(&mut Value),
}

/// A shell script.
pub(crate) fn script(text: &str) -> Wanted {
    command(&["/bin/sh", "-c", text])
}

/// A program.
pub(crate) fn command(args: &[&str]) -> Wanted {
    Wanted {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        terminal: None,
        stdin: false,
        stdin_once: false,
        memory_bytes: None,
        max_log_bytes: None,
        netns: None,
        below: PathBuf::from("run"),
        change: |_| {},
    }
}

/// A directory with the root, the log, and the run directory.
pub(crate) struct Place {
    base: TempDir,
    pub(crate) dir: PathBuf,
    pub(crate) cgroup: String,
}

/// A created container. Killed with its value.
pub(crate) struct Container {
    pub(crate) place: Place,
    pub(crate) control: UnixStream,
    pub(crate) pid: i32,
    pub(crate) monitor_pid: i32,
}

impl Wanted {
    pub(crate) fn with_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    pub(crate) fn with_terminal(mut self, rows: u16, columns: u16) -> Self {
        self.terminal = Some((rows, columns));
        self.stdin = true;
        self
    }

    fn process(args: &[String], terminal: bool) -> Value {
        json!({
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
        })
    }

    /// What the engine would write.
    pub(crate) fn setup(&self, place: &Place) -> Setup {
        let id = ContainerId::random().to_string();
        let mut spec = json!({
            "ociVersion": "1.2.0",
            "process": Self::process(&self.args, self.terminal.is_some()),
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": place.cgroup,
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"},
                    {"type": "network"},
                ],
                "resources": {"memory": {"limit": self.memory_bytes, "swap": self.memory_bytes}},
            },
        });
        (self.change)(&mut spec);
        Setup {
            bundle: runtime::Bundle {
                id,
                directory: PathBuf::new(),
                spec: serde_json::from_value(spec).unwrap(),
                rootfs: runtime::Rootfs::Directory(place.base.path().join("rootfs")),
                seccomp: None,
                extras: runtime::Extras::default(),
            },
            terminal: self.terminal,
            stdin: self.stdin,
            stdin_once: self.stdin_once,
            log: Log::JsonFile {
                path: place.log_path(),
                max_bytes: self.max_log_bytes,
                max_files: 3,
                attrs: Default::default(),
            },
        }
    }

    /// Created, not started.
    pub(crate) fn create(&self) -> Container {
        self.try_create()
            .unwrap_or_else(|(error, _)| panic!("{}", vocab::failure::chain(&error)))
    }

    pub(crate) fn try_create(&self) -> Result<Container, (SpawnError, Place)> {
        let place = Place::new(&self.below);
        let netns = self.netns.as_ref().map(OwnedFd::as_fd);
        match launcher().spawn(&place.dir, &self.setup(&place), netns) {
            Ok(Spawned {
                control,
                pid,
                monitor_pid,
            }) => Ok(Container {
                place,
                control,
                pid,
                monitor_pid,
            }),
            Err(error) => Err((error, place)),
        }
    }

    /// Created and started.
    pub(crate) fn start(&self) -> Container {
        let container = self.create();
        container.start();
        container
    }
}

impl Place {
    pub(crate) fn new(below: &Path) -> Self {
        let base = tempfile::tempdir().unwrap();
        let mut root = tar::Archive::new(&*testkit::image::busybox_tar().leak());
        root.unpack(base.path().join("rootfs")).unwrap();
        let dir = base.path().join(below);
        fs::create_dir_all(&dir).unwrap();
        let cgroup = format!("/berth-monitor-test-{}", ContainerId::random().short());
        Self { base, dir, cgroup }
    }

    fn log_path(&self) -> PathBuf {
        self.base.path().join("log.json")
    }

    /// The whole objects of all log files, oldest first: stream and text.
    pub(crate) fn log(&self) -> Vec<(String, String)> {
        let current = self.log_path();
        let mut lines = Vec::new();
        for suffix in [".2", ".1", ""] {
            let mut name = current.clone().into_os_string();
            name.push(suffix);
            let text = fs::read_to_string(name).unwrap_or_default();
            // A batch that is just being written ends with part of an object.
            let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
            for line in whole.lines() {
                let object: Value = serde_json::from_str(line).unwrap();
                let field = |name: &str| object[name].as_str().unwrap().to_owned();
                lines.push((field("stream"), field("log")));
            }
        }
        lines
    }

    /// What was written to one stream.
    pub(crate) fn logged(&self, wanted: &str) -> String {
        let lines = self.log().into_iter();
        lines
            .filter_map(|(stream, text)| (stream == wanted).then_some(text))
            .collect()
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        fs::metadata(self.log_path()).unwrap().len()
    }

    /// How the container ended; waits for that.
    #[track_caller]
    pub(crate) fn exit(&self) -> Exit {
        let mut exit = None;
        eventually(LONG, || {
            exit = monitor::find_exit(&self.dir).unwrap();
            exit.is_some()
        });
        exit.unwrap()
    }

    /// Whether the container's cgroup is in any hierarchy.
    pub(crate) fn has_cgroup(&self) -> bool {
        let mut hierarchies = vec![PathBuf::from("/sys/fs/cgroup")];
        let entries = fs::read_dir("/sys/fs/cgroup").unwrap();
        hierarchies.extend(entries.map(|entry| entry.unwrap().path()));
        hierarchies
            .iter()
            .any(|path| path.join(&self.cgroup[1..]).exists())
    }

    pub(crate) fn connect(&self) -> UnixStream {
        monitor::connect(&self.dir).unwrap()
    }

    pub(crate) fn ask(&self, request: &Request) -> Reply {
        client::ask(&self.connect(), request).unwrap()
    }

    #[track_caller]
    pub(crate) fn must(&self, request: &Request) {
        assert_eq!(self.ask(request), Reply::Ok, "{request:?}");
    }
}

impl std::ops::Deref for Container {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Container {
    #[track_caller]
    pub(crate) fn start(&self) {
        let reply = client::ask(&self.control, &Request::Start).unwrap();
        assert_eq!(reply, Reply::Started { pid: self.pid });
    }

    pub(crate) fn status(&self) -> Status {
        match self.ask(&Request::Status) {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn attach(&self) -> Attached {
        self.attach_to(None)
    }

    #[track_caller]
    pub(crate) fn attach_to(&self, exec: Option<ExecId>) -> Attached {
        let socket = self.connect();
        let request = Request::Attach {
            exec,
            stdin: true,
            stdout: true,
            stderr: true,
        };
        assert_eq!(client::ask(&socket, &request).unwrap(), Reply::Ok);
        Attached { socket }
    }

    #[track_caller]
    pub(crate) fn watch(&self) -> Watch {
        let socket = self.connect();
        assert_eq!(client::ask(&socket, &Request::Watch).unwrap(), Reply::Ok);
        Watch { socket }
    }

    /// Remembers a command.
    #[track_caller]
    pub(crate) fn plan(&self, args: &[&str], terminal: Option<(u16, u16)>) -> ExecId {
        let id = ExecId::random();
        self.must(&self.planned(id, args, terminal));
        id
    }

    /// The request to remember a command.
    pub(crate) fn planned(
        &self,
        id: ExecId,
        args: &[&str],
        terminal: Option<(u16, u16)>,
    ) -> Request {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let process = Wanted::process(&args, terminal.is_some());
        Request::Exec {
            id,
            process: Box::new(runtime::ExecProcess {
                process: serde_json::from_value(process).unwrap(),
                seccomp: None,
                profile: None,
                personality: None,
                memory_policy: None,
                state: None,
                cgroup: self.cgroup.clone(),
                namespaces: Vec::new(),
            }),
            terminal,
            stdin: true,
        }
    }

    /// Starts a command and gives its pid.
    #[track_caller]
    pub(crate) fn run(&self, id: ExecId) -> i32 {
        match self.ask(&Request::ExecStart { id }) {
            Reply::Started { pid } => pid,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn signal(&self, signal: i32) {
        self.must(&Request::Signal { exec: None, signal });
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let Ok(socket) = monitor::connect(&self.dir) else {
            return;
        };
        // Either it is killed now, or it was ending anyway.
        let kill = Request::Signal {
            exec: None,
            signal: 9,
        };
        let _ = client::ask(&socket, &kill);
        let gone = || !Path::new(&format!("/proc/{}", self.monitor_pid)).exists();
        let mut rest = Vec::new();
        let _ = (&self.control).read_to_end(&mut rest);
        if !std::thread::panicking() {
            eventually(LONG, || {
                gone() || monitor::find_exit(&self.place.dir).unwrap().is_some()
            });
        }
    }
}

/// A connection that carries bytes.
pub(crate) struct Attached {
    pub(crate) socket: UnixStream,
}

impl Attached {
    pub(crate) fn write(&self, text: &str) {
        (&self.socket).write_all(text.as_bytes()).unwrap();
    }

    /// The end of input.
    pub(crate) fn end(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// The next piece of output, until the process's end.
    pub(crate) fn chunk(&self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; ChunkHead::BYTES];
        (&self.socket).read_exact(&mut head).ok()?;
        let ChunkHead { stream, bytes } = ChunkHead::decode(head);
        let mut payload = vec![0; bytes as usize];
        (&self.socket).read_exact(&mut payload).unwrap();
        Some((stream, payload))
    }

    /// Reads until standard output has brought `wanted`, and gives all that came.
    #[track_caller]
    pub(crate) fn read_until(&self, wanted: &str) -> String {
        let mut text = String::new();
        while !text.contains(wanted) {
            let (stream, bytes) = self
                .chunk()
                .unwrap_or_else(|| panic!("ended after {text:?}"));
            assert_eq!(stream, 1);
            text.push_str(&String::from_utf8(bytes).unwrap());
        }
        text
    }

    /// All of standard output and standard error to the end.
    pub(crate) fn rest(&self) -> [String; 2] {
        let mut text = [Vec::new(), Vec::new()];
        while let Some((stream, bytes)) = self.chunk() {
            text[usize::from(stream - 1)].extend(bytes);
        }
        text.map(|bytes| String::from_utf8(bytes).unwrap())
    }
}

/// A connection that carries events.
pub(crate) struct Watch {
    socket: UnixStream,
}

impl Watch {
    /// The next one, until there are no more.
    pub(crate) fn next(&self) -> Option<Event> {
        client::receive(&self.socket).ok()
    }

    /// All to the end.
    pub(crate) fn rest(&self) -> Vec<Event> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// Whether a request was refused this way, and what was said.
#[track_caller]
pub(crate) fn refused(reply: Reply, wanted: FailureKind) -> String {
    match reply {
        Reply::Failed { kind, message } if kind == wanted => message,
        other => panic!("{other:?}"),
    }
}
