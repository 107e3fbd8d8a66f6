//! A container for a test: a root made of busybox, a specification close to Docker's, and a
//! helper process that runs it.
//!
//! `create` and `exec` fork, which a test harness with its threads must not. So the test binary is
//! run again for one test only ([`helper`]), in one thread, with a script of steps; it is the
//! container's parent and answers what each step came to.

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use runtime::cgroup::Cgroup;
use runtime::hooks::Kind;
use runtime::{Bundle, Created, ExecProcess, Overlay, Rootfs, State, Status, Stdio, Streams, oci};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vocab::failure::chain;

/// Where the helper finds its script, and where it writes its answer.
const SCRIPT: &str = "BERTH_RUNTIME_TEST_SCRIPT";

/// How the standard streams are set up.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Streaming {
    Pipes,
    Input,
    Terminal(u16, u16),
    Null,
}

/// One thing the helper does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    Start,
    /// Runs a process in the container to its end.
    Exec(Box<Value>, Streaming, Option<PathBuf>),
    /// The same with a filter that is compiled for it.
    ExecFiltered(Box<Value>, Box<Value>),
    /// Writes to the standard input (or terminal) of the container and closes a pipe.
    Input(String),
    /// Waits until the container has printed this.
    Until(String),
    Signal(i32),
    Freeze,
    Thaw,
    KillAll,
    Update(Value),
    Stats,
    /// Waits until the kernel says that memory ran out.
    Oom,
    /// A file of the host; `{pid}` is the container's process.
    Read(String),
    /// Runs another container to its end beside this one. In its specification, `{pid}` is this
    /// one's process.
    Beside(Box<Value>),
    /// The container's process ids.
    Pids,
    /// Runs the hooks that are the caller's to run; answers with those that failed.
    Hooks(Kind, Status),
    /// Waits for the end: exit code, output and errors.
    Wait,
}

/// What a step came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) error: Option<String>,
    /// The exit code; 128 and the signal for one that was killed.
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

#[derive(Serialize, Deserialize)]
struct Script {
    bundle: Bundle,
    netns: Option<PathBuf>,
    streaming: Streaming,
    steps: Vec<Step>,
    /// How often all this is done, one after the other.
    times: u32,
    /// Whether the caller has the host's root open, by a descriptor that is not close-on-exec.
    leak: bool,
    /// Who the caller is, if not root.
    caller: Option<u32>,
}

/// What all came to: why the container was not created, or one answer for each step.
pub(crate) type Outcome = Result<Vec<Answer>, String>;

/// A container to be.
pub(crate) struct Container {
    pub(crate) spec: Value,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) streaming: Streaming,
    pub(crate) directory: bool,
    pub(crate) seccomp: Option<PathBuf>,
    /// Whether the caller has the host's root open, for all it starts to inherit.
    pub(crate) leak: bool,
    /// The ordinary user who calls, instead of root.
    pub(crate) caller: Option<u32>,
    cgroup: String,
}

impl Container {
    /// One that runs `sh -c script`.
    pub(crate) fn sh(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    pub(crate) fn new(args: &[&str]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("berth-runtime-")
            .tempdir()
            .unwrap();
        make_root(&dir.path().join("lower"));
        for name in ["upper", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let cgroup = format!("/{}/c", testkit::unique("berth-test"));
        Self {
            spec: specification(args, &cgroup),
            dir,
            streaming: Streaming::Pipes,
            directory: false,
            seccomp: None,
            leak: false,
            caller: None,
            cgroup,
        }
    }

    /// Changes the value at a JSON pointer such as `/process/user`; makes the last part.
    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = self.spec.pointer_mut(parent).unwrap();
        parent
            .as_object_mut()
            .unwrap()
            .insert(key.to_owned(), value);
        self
    }

    /// Removes a value of the specification.
    pub(crate) fn without(mut self, key: &str) -> Self {
        self.spec.as_object_mut().unwrap().remove(key);
        self
    }

    /// Adds to the array at a JSON pointer.
    pub(crate) fn add(mut self, pointer: &str, value: Value) -> Self {
        self.spec
            .pointer_mut(pointer)
            .unwrap()
            .as_array_mut()
            .unwrap()
            .push(value);
        self
    }

    pub(crate) fn with(mut self, streaming: Streaming) -> Self {
        self.streaming = streaming;
        self
    }

    /// A file of the image.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.dir
            .path()
            .join("lower")
            .join(path.trim_start_matches('/'))
    }

    pub(crate) fn id(&self) -> String {
        self.cgroup.trim_matches('/').replace('/', "-")
    }

    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Created, started, waited for.
    pub(crate) fn run(&self) -> Answer {
        let answers = self
            .script(&[Step::Start, Step::Wait])
            .unwrap_or_else(|error| {
                panic!("not created: {error}");
            });
        if let Some(error) = &answers[0].error {
            panic!("not started: {error}");
        }
        answers[1].clone()
    }

    /// What it prints, if it ends well.
    #[track_caller]
    pub(crate) fn output(&self) -> String {
        let Answer { code, out, err, .. } = self.run();
        assert_eq!(code, 0, "output: {out}\nerrors: {err}");
        out.trim_end().to_owned()
    }

    pub(crate) fn script(&self, steps: &[Step]) -> Outcome {
        self.script_in(None, steps)
    }

    /// Runs steps in a helper. Afterwards nothing of the container may be left.
    pub(crate) fn script_in(&self, netns: Option<&Path>, steps: &[Step]) -> Outcome {
        let outcome = self.play(netns, steps, 1).remove(0);
        self.check_clean();
        outcome
    }

    /// Runs the same steps so many times: for what only happens sometimes.
    pub(crate) fn repeat(&self, times: u32, steps: &[Step]) -> Vec<Outcome> {
        let outcomes = self.play(None, steps, times);
        self.check_clean();
        outcomes
    }

    /// Runs steps where the test itself has something mounted.
    pub(crate) fn script_unclean(&self, steps: &[Step]) -> Outcome {
        self.play(None, steps, 1).remove(0)
    }

    fn play(&self, netns: Option<&Path>, steps: &[Step], times: u32) -> Vec<Outcome> {
        let path = self.dir.path();
        let rootfs = if self.directory {
            Rootfs::Directory(path.join("lower"))
        } else {
            Rootfs::Overlay(Overlay {
                lower: vec![path.join("lower")],
                upper: path.join("upper"),
                work: path.join("work"),
            })
        };
        let script = Script {
            bundle: Bundle {
                directory: path.to_owned(),
                id: self.id(),
                spec: serde_json::from_value(self.spec.clone()).unwrap(),
                rootfs,
                seccomp: self.seccomp.clone(),
                extras: runtime::Extras::default(),
            },
            netns: netns.map(Path::to_owned),
            streaming: self.streaming,
            steps: steps.to_vec(),
            times,
            leak: self.leak,
            caller: self.caller,
        };
        if let Some(caller) = self.caller {
            crate::rootless::prepare(path, caller);
        }
        let file = path.join("script.json");
        fs::write(&file, serde_json::to_vec(&script).unwrap()).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the helper is this very program")]
        let mut helper = std::process::Command::new(std::env::current_exe().unwrap());
        let ran = helper
            .args(["--exact", "kit::helper", "--test-threads=1", "--nocapture"])
            .env(SCRIPT, &file)
            .output()
            .unwrap();
        let answer = fs::read(path.join("answer.json")).unwrap_or_else(|_| {
            panic!(
                "the helper failed: {}\n{}",
                String::from_utf8_lossy(&ran.stdout),
                String::from_utf8_lossy(&ran.stderr)
            )
        });
        serde_json::from_slice(&answer).unwrap()
    }

    /// Nothing is left on the host: no cgroup, no mount.
    fn check_clean(&self) {
        let (parent, _) = self.cgroup[1..].split_once('/').unwrap();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let hierarchy = hierarchy.unwrap().path();
            assert!(
                !hierarchy.join(parent).exists(),
                "left: {}",
                hierarchy.display()
            );
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().to_str().unwrap();
        assert!(!mounts.contains(dir), "left mounted: {mounts}");
    }
}

/// busybox under the names that tests use, and what an image has beside.
fn make_root(root: &Path) {
    for dir in ["bin", "etc", "tmp", "root", "proc", "sys", "dev", "var/www"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let busybox = root.join("bin/busybox");
    fs::copy(testkit::tool("busybox"), &busybox).unwrap();
    let applets = [
        "sh", "cat", "ls", "id", "env", "pwd", "stat", "mount", "umount", "hostname", "sleep",
        "true", "false", "echo", "touch", "mkdir", "chmod", "head", "tty", "stty", "ps",
        "readlink", "grep", "test", "dd", "kill", "mknod", "nproc", "tr", "printf", "ip", "chroot",
        "wc",
    ];
    for applet in applets {
        fs::hard_link(&busybox, root.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var/www:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
}

/// What Docker's engine asks for, more or less.
fn specification(args: &[&str], cgroup: &str) -> Value {
    let capabilities = json!(runtime::capability::DEFAULT);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            }
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]}
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "mount"}, {"type": "network"}, {"type": "uts"},
                {"type": "pid"}, {"type": "ipc"}, {"type": "cgroup"}
            ],
            "maskedPaths": [
                "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"
            ]
        }
    })
}

/// A process for [`Step::Exec`].
pub(crate) fn process(args: &[&str]) -> Value {
    let capabilities = json!(runtime::capability::DEFAULT);
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities
        }
    })
}

/// Runs one more process in a container that sleeps.
pub(crate) fn exec_in(container: Container, process: Value, streaming: Streaming) -> Answer {
    let container = container.set(
        "/process/args",
        json!(["/bin/sh", "-c", "echo ready; exec sleep 1000"]),
    );
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Exec(Box::new(process), streaming, None),
        Step::Signal(9),
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    assert_eq!(answers[4].code, 137, "{answers:?}");
    answers[2].clone()
}

/// The helper: not a test, but what runs containers for tests.
#[test]
fn helper() {
    let Some(script) = std::env::var_os(SCRIPT).map(PathBuf::from) else {
        return;
    };
    let answer = script.with_file_name("answer.json");
    let directory = script.parent().unwrap().to_owned();
    let script: Script = serde_json::from_slice(&fs::read(&script).unwrap()).unwrap();
    if let Some(caller) = script.caller {
        crate::rootless::assume(&directory, caller);
    }
    let directory = rustix::fs::OFlags::DIRECTORY;
    let _leaked = script
        .leak
        .then(|| rustix::fs::open("/", directory, rustix::fs::Mode::empty()).unwrap());
    let outcomes: Vec<Outcome> = (0..script.times).map(|_| play(&script)).collect();
    fs::write(answer, serde_json::to_vec(&outcomes).unwrap()).unwrap();
}

fn stdio(streaming: Streaming) -> Stdio {
    match streaming {
        Streaming::Pipes => Stdio::Pipes { stdin: false },
        Streaming::Input => Stdio::Pipes { stdin: true },
        Streaming::Terminal(rows, columns) => Stdio::Terminal {
            rows,
            columns,
            carriage_returns: true,
        },
        Streaming::Null => Stdio::Null,
    }
}

fn play(script: &Script) -> Outcome {
    let path = script
        .bundle
        .spec
        .linux()
        .as_ref()
        .and_then(|l| l.cgroups_path().clone());
    let path = path
        .map(|path| path.to_string_lossy().into_owned())
        .unwrap_or_default();
    let netns = script
        .netns
        .as_ref()
        .map(|path| fs::File::open(path).unwrap());
    let created = runtime::create(
        &script.bundle,
        netns.as_ref().map(|file| file.as_fd()),
        stdio(script.streaming),
    );
    let outcome = created.map_err(|error| chain(&error)).map(|created| {
        let cgroup = (!path.is_empty()).then(|| Cgroup::open(&path).unwrap());
        let mut stage = Stage {
            created,
            cgroup,
            path: path.clone(),
            bundle: &script.bundle,
            out: String::new(),
            code: None,
        };
        script.steps.iter().map(|step| stage.step(step)).collect()
    });
    if let Some((parent, _)) = path.rsplit_once('/') {
        for path in [path.as_str(), parent] {
            Cgroup::open(path).unwrap().remove().unwrap();
        }
    }
    outcome
}

struct Stage<'a> {
    bundle: &'a Bundle,
    created: Created,
    cgroup: Option<Cgroup>,
    path: String,
    out: String,
    code: Option<i32>,
}

impl Stage<'_> {
    fn exec(
        &self,
        process: &Value,
        streaming: Streaming,
        seccomp: Option<PathBuf>,
        profile: Option<oci::LinuxSeccomp>,
    ) -> Answer {
        let pid = self.created.pid;
        let exec = ExecProcess {
            process: serde_json::from_value(process.clone()).unwrap(),
            seccomp,
            profile,
            personality: None,
            memory_policy: None,
            state: Some(State::new(self.bundle, Status::Running, pid)),
            cgroup: self.path.clone(),
            namespaces: self.namespaces(),
        };
        match runtime::exec(self.created.pidfd.as_fd(), pid, &exec, stdio(streaming)) {
            Ok(mut executed) => {
                let (out, err) = drain(&mut executed.streams);
                Answer {
                    code: wait(&executed.pidfd),
                    out,
                    err,
                    error: None,
                }
            }
            Err(error) => Answer {
                code: error.exit_code(),
                error: Some(chain(&error)),
                ..Answer::default()
            },
        }
    }

    fn step(&mut self, step: &Step) -> Answer {
        match self.try_step(step) {
            Ok(answer) => answer,
            Err(error) => Answer {
                error: Some(error),
                ..Answer::default()
            },
        }
    }

    fn try_step(&mut self, step: &Step) -> Result<Answer, String> {
        let said = |out: String| Answer {
            out,
            ..Answer::default()
        };
        let nothing = |()| Answer::default();
        let cgroup = self.cgroup.as_ref();
        let cgroup = || cgroup.ok_or("no cgroup");
        Ok(match step {
            Step::Start => match self.created.start() {
                Ok(()) => Answer::default(),
                Err(error) => Answer {
                    code: error.exit_code(),
                    error: Some(chain(&error)),
                    ..Answer::default()
                },
            },
            Step::Exec(process, streaming, seccomp) => {
                self.exec(process, *streaming, seccomp.clone(), None)
            }
            Step::ExecFiltered(process, filter) => {
                let profile = serde_json::from_value((**filter).clone()).unwrap();
                self.exec(process, Streaming::Pipes, None, Some(profile))
            }
            Step::Input(text) => {
                let streams = &mut self.created.streams;
                let to = streams.stdin.as_ref().or(streams.console.as_ref()).unwrap();
                rustix::io::write(to, text.as_bytes()).unwrap();
                streams.stdin = None;
                Answer::default()
            }
            Step::Until(text) => {
                let streams = &self.created.streams;
                let from = streams
                    .stdout
                    .as_ref()
                    .or(streams.console.as_ref())
                    .unwrap();
                while !self.out.contains(text.as_str()) {
                    let mut bytes = [0; 4096];
                    match rustix::io::read(from, &mut bytes) {
                        Ok(length) if length > 0 => {
                            self.out
                                .push_str(&String::from_utf8_lossy(&bytes[..length]));
                        }
                        _ => return Err(format!("the output ended: {}", self.out)),
                    }
                }
                said(self.out.clone())
            }
            Step::Signal(signal) => {
                let signal = rustix::process::Signal::from_named_raw(*signal).unwrap();
                rustix::process::pidfd_send_signal(&self.created.pidfd, signal).unwrap();
                Answer::default()
            }
            Step::Freeze => cgroup()?.freeze().map(nothing).map_err(|e| chain(&e))?,
            Step::Thaw => cgroup()?.thaw().map(nothing).map_err(|e| chain(&e))?,
            Step::KillAll => cgroup()?.kill_all().map(nothing).map_err(|e| chain(&e))?,
            Step::Update(resources) => {
                let resources = serde_json::from_value(resources.clone()).unwrap();
                cgroup()?
                    .update(&resources)
                    .map(nothing)
                    .map_err(|e| chain(&e))?
            }
            Step::Stats => said(format!("{:?}", cgroup()?.stats().map_err(|e| chain(&e))?)),
            Step::Oom => {
                let cgroup = cgroup()?;
                let watch = cgroup.watch_oom().map_err(|e| chain(&e))?;
                let mut looks = 0;
                while cgroup.oom_kills().map_err(|e| chain(&e))? == 0 {
                    let mut fds = [PollFd::new(&watch, PollFlags::IN)];
                    // Version 1 counts after it signals, so once may not be enough.
                    let limit = rustix::time::Timespec {
                        tv_sec: 0,
                        tv_nsec: 100_000_000,
                    };
                    rustix::event::poll(&mut fds, Some(&limit)).unwrap();
                    watch.drain();
                    looks += 1;
                    if looks > 200 {
                        return Err(String::from("memory did not run out"));
                    }
                }
                said(cgroup.oom_kills().unwrap().to_string())
            }
            Step::Read(path) => {
                let path = path.replace("{pid}", &self.created.pid.to_string());
                said(fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?)
            }
            Step::Beside(spec) => self.beside(spec)?,
            Step::Pids => said(cgroup()?.pids().map_err(|e| chain(&e))?.len().to_string()),
            Step::Hooks(kind, status) => {
                let state = State::new(self.bundle, *status, self.created.pid);
                let hooks = self.bundle.spec.hooks().as_ref().unwrap();
                let failed = runtime::hooks::run_all(hooks, *kind, &state);
                let failed: Vec<String> = failed.iter().map(|error| chain(error)).collect();
                said(failed.join("\n"))
            }
            Step::Wait => {
                let (rest, err) = drain(&mut self.created.streams);
                self.out.push_str(&rest);
                let code = wait(&self.created.pidfd);
                self.code = Some(code);
                Answer {
                    code,
                    out: std::mem::take(&mut self.out),
                    err,
                    error: None,
                }
            }
        })
    }
}

impl Stage<'_> {
    fn beside(&self, spec: &Value) -> Result<Answer, String> {
        let spec = spec
            .to_string()
            .replace("{pid}", &self.created.pid.to_string());
        let bundle = Bundle {
            spec: serde_json::from_str(&spec).unwrap(),
            rootfs: Rootfs::Directory(self.bundle.directory.join("lower")),
            ..self.bundle.clone()
        };
        let stdio = stdio(Streaming::Pipes);
        let mut other = runtime::create(&bundle, None, stdio).map_err(|e| chain(&e))?;
        other.start().map_err(|e| chain(&e))?;
        let (out, err) = drain(&mut other.streams);
        Ok(Answer {
            code: wait(&other.pidfd),
            out,
            err,
            error: None,
        })
    }

    fn namespaces(&self) -> Vec<oci::LinuxNamespace> {
        let linux = self.bundle.spec.linux().as_ref();
        linux
            .and_then(|linux| linux.namespaces().clone())
            .unwrap_or_default()
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if self.code.is_none() {
            let _ = rustix::process::pidfd_send_signal(
                &self.created.pidfd,
                rustix::process::Signal::KILL,
            );
            wait(&self.created.pidfd);
        }
    }
}

fn wait(pidfd: &OwnedFd) -> i32 {
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
        .unwrap()
        .unwrap();
    status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0))
}

/// Everything that is printed until both streams end. Tests print little: one after the other.
fn drain(streams: &mut Streams) -> (String, String) {
    let read = |stream: Option<OwnedFd>| {
        let mut bytes = Vec::new();
        if let Some(stream) = stream {
            // A terminal ends with EIO.
            let _ = fs::File::from(stream).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let out = read(streams.stdout.take().or_else(|| streams.console.take()));
    (out, read(streams.stderr.take()))
}
