//! A case against a runtime.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use regex::Regex;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::Value;

use crate::bundle::Bundle;
use crate::case::{self, Case, Expect, Need, Step};
use crate::command::{self, Ran};
use crate::merge;
use crate::runtime::Runtime;

/// How long one program may take, on an emulated machine too.
const LIMIT: Duration = Duration::from_secs(90);

/// How long the kernel may take to bring about what is expected eventually.
const EVENTUALLY: Duration = Duration::from_secs(10);

/// How a case ended.
#[derive(Debug)]
pub enum Verdict {
    /// As the specification has it.
    Passed,
    /// As the case says that this runtime differs.
    Differs,
    /// The host lacks what the case needs.
    NotHere(Need),
    /// Otherwise; what was seen.
    Failed(String),
}

/// Runs a case. `busybox` is a static busybox: what runs inside.
pub fn run(case: &Case, runtime: &Runtime, busybox: &Path) -> Verdict {
    if let Some(need) = case.needs.iter().find(|need| !met(**need)) {
        return Verdict::NotHere(*need);
    }
    let own = case
        .differences()
        .filter(|(family, _)| *family == runtime.family);
    let own: Vec<_> = own.map(|(_, difference)| difference).collect();
    let differs = !own.is_empty();
    if own.iter().any(|difference| difference.not_run) {
        return Verdict::Differs;
    }
    match try_run(case, runtime, busybox) {
        Ok(()) if differs => Verdict::Differs,
        Ok(()) => Verdict::Passed,
        Err(error) => Verdict::Failed(format!("{error:#}")),
    }
}

/// Whether the host has what `need` names.
fn met(need: Need) -> bool {
    let unified = || Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let security = |module: &str| {
        let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
        modules.split(',').any(|known| known.trim() == module)
    };
    match need {
        Need::CgroupV1 => !unified(),
        Need::CgroupV2 => unified(),
        Need::Numa => Path::new("/proc/self/numa_maps").exists(),
        Need::X86 => cfg!(target_arch = "x86_64"),
        Need::Apparmor => security("apparmor"),
        Need::NoApparmor => !security("apparmor"),
        Need::NoSelinux => !security("selinux"),
        Need::NoResctrl => !Path::new("/sys/fs/resctrl").exists(),
        Need::SysResource => {
            const BIT: u64 = 1 << 24;
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            let effective = status
                .lines()
                .find_map(|line| line.strip_prefix("CapEff:\t"));
            effective
                .and_then(|set| u64::from_str_radix(set, 16).ok())
                .is_some_and(|set| set & BIT != 0)
        }
        Need::NoRdma => {
            let known = fs::read_to_string("/proc/cgroups").unwrap_or_default();
            !known.lines().any(|line| line.starts_with("rdma"))
        }
    }
}

fn try_run(case: &Case, runtime: &Runtime, busybox: &Path) -> Result<()> {
    let stage = Stage::new(runtime, busybox)?;
    stage
        .bundle
        .configure(case, |text| stage.fill_known(text))?;
    let played = stage.play(case);
    let cleaned = stage.clean(case, played.is_ok());
    stage.bundle.sweep()?;
    played.and(cleaned)
}

/// A case under way.
struct Stage<'a> {
    runtime: &'a Runtime,
    bundle: Bundle,
    places: BTreeMap<&'static str, String>,
    console: UnixListener,
    listener: UnixListener,
    /// The terminal's master, once it arrived.
    terminal: RefCell<Option<OwnedFd>>,
}

impl<'a> Stage<'a> {
    fn new(runtime: &'a Runtime, busybox: &Path) -> Result<Self> {
        let bundle = Bundle::create(busybox)?;
        let mut places = bundle.places();
        let invocation = format!(
            "{} --root {}",
            runtime.path.display(),
            bundle.state().display()
        );
        places.insert("{runtime}", invocation);
        places.insert("{busybox}", busybox.to_string_lossy().into_owned());
        let socket = |place: &str| -> Result<UnixListener> {
            let socket = UnixListener::bind(&places[place])
                .with_context(|| format!("bind the socket {place}"))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let (console, listener) = (socket("{console}")?, socket("{listener}")?);
        Ok(Self {
            runtime,
            bundle,
            places,
            console,
            listener,
            terminal: RefCell::new(None),
        })
    }

    /// `text` with what is known before anything runs.
    fn fill_known(&self, text: &str) -> String {
        let places = self.places.iter();
        places.fold(text.to_owned(), |text, (place, value)| {
            text.replace(place, value)
        })
    }

    /// `text` with everything, the container's pid too.
    fn fill(&self, text: &str) -> Result<String> {
        let text = self.fill_known(text);
        if !text.contains("{pid}") {
            return Ok(text);
        }
        let state = self.call(&["state".into(), self.bundle.id.clone()], "pid", None)?;
        let state: Value = serde_json::from_str(&state.stdout).context("the state is not JSON")?;
        let pid = state["pid"].as_i64().context("the state has no pid")?;
        Ok(text.replace("{pid}", &pid.to_string()))
    }

    fn play(&self, case: &Case) -> Result<()> {
        if let Some(script) = &case.before {
            let ran = self.script(script, "before")?;
            ensure!(ran.exit == Some(0), "`before` ended with {}", told(&ran));
        }
        if case.step.is_empty() {
            let mut words = vec!["run".to_owned()];
            words.extend(case.flags.iter().map(|flag| self.fill_known(flag)));
            words.push(self.bundle.id.clone());
            let ran = self.call(&words, "0", None)?;
            let expect = case::expected(&case.expect, &case.differs, self.runtime.family);
            return self.judge(&ran, expect);
        }
        for (number, step) in case.step.iter().enumerate() {
            self.step(step, number)
                .with_context(|| format!("step {}", number + 1))?;
        }
        Ok(())
    }

    fn step(&self, step: &Step, number: usize) -> Result<()> {
        let expect = step.expected(self.runtime.family);
        let end = Instant::now() + EVENTUALLY;
        loop {
            let ran = self.act(step, &number.to_string())?;
            match self.judge(&ran, expect) {
                Err(_) if step.eventually && Instant::now() < end => {
                    // Nobody wakes this thread: it is the pause between two looks.
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                judged => return judged,
            }
        }
    }

    fn act(&self, step: &Step, name: &str) -> Result<Ran> {
        let stdin = step.stdin.as_deref();
        if let Some(words) = &step.runtime {
            let words = words.words();
            let words = words
                .iter()
                .map(|word| self.fill(word))
                .collect::<Result<Vec<_>>>()?;
            let ran = self.call(&words, name, stdin)?;
            self.accept_terminal()?;
            return Ok(ran);
        }
        if let Some(script) = &step.host {
            return self.script(script, name);
        }
        if step.output {
            let files = self.files("0");
            return Ok(Ran {
                exit: Some(0),
                stdout: command::read(&command::output(&files, "out"))?,
                stderr: command::read(&command::output(&files, "err"))?,
            });
        }
        let stdout = if step.listener {
            self.read_listener()?
        } else {
            self.read_terminal()?
        };
        Ok(Ran {
            exit: Some(0),
            stdout,
            stderr: String::new(),
        })
    }

    /// The runtime with `words`.
    fn call(&self, words: &[String], name: &str, stdin: Option<&str>) -> Result<Ran> {
        let mut argv: Vec<OsString> = vec![self.runtime.path.clone().into()];
        argv.push("--root".into());
        argv.push(self.bundle.state().into());
        argv.extend(words.iter().map(OsString::from));
        self.command(&argv, name, stdin)
    }

    /// A script of the host, with busybox as its shell.
    fn script(&self, script: &str, name: &str) -> Result<Ran> {
        let script = self.fill(script)?;
        let argv = [self.places["{busybox}"].as_str(), "sh", "-ec", &script];
        self.command(&argv.map(OsString::from), name, None)
    }

    fn command(&self, argv: &[OsString], name: &str, stdin: Option<&str>) -> Result<Ran> {
        let (directory, files) = (self.bundle.path(), self.files(name));
        let mut context = command::Context::new(&directory, &files, LIMIT);
        context.stdin = stdin;
        let ran = command::run(argv, &context)?;
        ensure!(
            ran.exit.is_some(),
            "did not end within {LIMIT:?}: {}",
            told(&ran)
        );
        Ok(ran)
    }

    /// Where the output of the step `name` goes.
    fn files(&self, name: &str) -> PathBuf {
        self.bundle.scratch().join(format!("step-{name}"))
    }

    /// Takes the terminal that a runtime sent to `{console}`, if it did.
    fn accept_terminal(&self) -> Result<()> {
        if let Some((_, descriptor)) = received(&self.console)? {
            self.terminal.replace(descriptor);
        }
        Ok(())
    }

    /// What was sent to `{listener}`. The descriptor that came with it is closed, so that system
    /// calls that wait for an answer fail with ENOSYS.
    fn read_listener(&self) -> Result<String> {
        let (said, descriptor) = received(&self.listener)?.context("nothing was sent")?;
        ensure!(descriptor.is_some(), "no descriptor came with {said}");
        Ok(said)
    }

    /// Everything the terminal says until its last user is gone, with plain line ends.
    fn read_terminal(&self) -> Result<String> {
        let terminal = self.terminal.borrow();
        let terminal = terminal.as_ref().context("no terminal arrived")?;
        let mut text = Vec::new();
        let mut bytes = [0; 4096];
        // A terminal ends with EIO.
        while let Ok(length @ 1..) = rustix::io::read(terminal, &mut bytes) {
            text.extend_from_slice(&bytes[..length]);
        }
        Ok(String::from_utf8_lossy(&text).replace("\r\n", "\n"))
    }

    fn judge(&self, ran: &Ran, expect: &Expect) -> Result<()> {
        let judged = self.compare(ran, expect);
        judged.with_context(|| format!("saw {}", told(ran)))
    }

    fn compare(&self, ran: &Ran, expect: &Expect) -> Result<()> {
        if let Some(path) = &expect.refused {
            ensure!(ran.exit != Some(0), "was not refused");
            let left = self.bundle.left()?;
            ensure!(left.is_empty(), "was refused, but left {}", left.join(", "));
            if self.runtime.family.names_paths() {
                let said = format!("{}{}", ran.stdout, ran.stderr);
                ensure!(
                    said.contains(path.as_str()),
                    "the refusal does not name `{path}`"
                );
            }
        } else if expect.fails {
            ensure!(ran.exit != Some(0), "did not fail");
        } else {
            let wanted = expect.exit.unwrap_or(0);
            ensure!(ran.exit == Some(wanted), "the exit code is not {wanted}");
        }
        if let Some(wanted) = &expect.stdout {
            let wanted = self.fill(wanted)?;
            ensure!(
                ran.stdout.trim_end_matches('\n') == wanted.trim_end_matches('\n'),
                "the output is not {wanted:?}"
            );
        }
        for (pattern, text, found) in [
            (&expect.like, &ran.stdout, true),
            (&expect.lacks, &ran.stdout, false),
            (&expect.stderr, &ran.stderr, true),
        ] {
            let Some(pattern) = pattern else { continue };
            let pattern = self.fill(pattern)?;
            let expression = Regex::new(&format!("(?m){pattern}"))?;
            if expression.is_match(text) != found {
                bail!(
                    "{} {pattern:?}",
                    if found { "does not match" } else { "matches" }
                );
            }
        }
        if let Some(wanted) = &expect.json {
            let wanted: Value = serde_json::from_str(&self.fill(wanted)?).context("`json`")?;
            let said: Value =
                serde_json::from_str(&ran.stdout).context("the output is not JSON")?;
            if let Err(wrong) = merge::contains(&said, &wanted, "$") {
                bail!("{wrong}");
            }
        }
        Ok(())
    }

    /// Deletes the container and looks for what is left. After a story that went wrong only the
    /// former matters: the story is what is told.
    fn clean(&self, case: &Case, went_well: bool) -> Result<()> {
        if self.bundle.state().join(&self.bundle.id).exists() {
            let words = ["delete", "--force", self.bundle.id.as_str()].map(ToOwned::to_owned);
            let ran = self.call(&words, "delete", None)?;
            ensure!(
                ran.exit == Some(0),
                "`delete --force` ended with {}",
                told(&ran)
            );
        }
        if let Some(script) = &case.after {
            let ran = self.script(script, "after")?;
            ensure!(ran.exit == Some(0), "`after` ended with {}", told(&ran));
        }
        let leaves = case
            .expected(self.runtime.family)
            .any(|expect| expect.leaves);
        if went_well && !leaves {
            let left = self.bundle.left()?;
            ensure!(left.is_empty(), "left {}", left.join(", "));
        }
        Ok(())
    }
}

/// A message and its descriptor, if somebody connected.
fn received(socket: &UnixListener) -> Result<Option<(String, Option<OwnedFd>)>> {
    let Ok((connection, _)) = socket.accept() else {
        return Ok(None);
    };
    let mut bytes = [0; 16 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(&connection, &mut parts, &mut control, flags).context("receive")?;
    let mut descriptor = None;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = part {
            descriptor = descriptors.next();
        }
    }
    let text = String::from_utf8_lossy(&bytes[..message.bytes]).into_owned();
    Ok(Some((text, descriptor)))
}

fn told(ran: &Ran) -> String {
    let exit = ran
        .exit
        .map_or_else(|| "no exit".to_owned(), |code| format!("exit {code}"));
    format!("{exit}, stdout {:?}, stderr {:?}", ran.stdout, ran.stderr)
}
