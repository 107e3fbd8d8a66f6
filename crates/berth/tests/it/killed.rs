//! The daemon is killed at instants nobody chose, while eight clients create, start, end, pause,
//! rename, update and remove containers. Afterwards, without anybody's help, all that was
//! acknowledged holds, every exit code is the one the process ended with, every name is free or
//! somebody's, and the kernel has nothing that no running container needs.
//!
//! `BERTH_KILLS` and `BERTH_SEED` choose how often and which; the seed chooses what is done and for
//! how long, not where that ends up: what is demanded holds at all instants.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Chance, tool};

use crate::client::Client;
use crate::host::{Host, PATIENCE, scratch};
use crate::interrupted::{exchange, names};

/// How many work at once.
const CLIENTS: u64 = 8;
/// Containers that each of them has at most.
const SLOTS: u64 = 2;
/// Of a process that SIGKILL ended.
const KILLED: i64 = 137;

/// What runs, and so how it can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    /// Ends at once.
    Brief,
    /// Ends by SIGKILL alone.
    Deaf,
    /// Ends when it is asked to.
    Obliging,
    /// Ends when its FIFO is written to.
    Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Absent,
    Created,
    Up,
    Paused,
    Ended(i64),
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Start,
    Stop,
    Kill,
    Restart,
    Remove,
    Pause,
    Unpause,
    Rename(String),
    Update(i64),
    Exec,
    /// The process is told to end, and its end is waited for.
    Finish,
}

/// A container of one client, as its client knows it.
#[derive(Debug)]
struct Slot {
    /// Of the FIFO, and of its names.
    key: String,
    name: String,
    id: String,
    nature: Nature,
    code: i64,
    network: &'static str,
    auto_remove: bool,
    memory: i64,
    life: Life,
    /// What was asked and not answered.
    pending: Option<Step>,
}

/// Nobody answers any more, or the answer was cut off.
type Asked<T> = io::Result<T>;

impl Slot {
    fn new(key: String, folder: &Path) -> Self {
        let fifo = folder.join(&key);
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from(0o600)).unwrap();
        Self {
            name: key.clone(),
            key,
            id: String::new(),
            nature: Nature::Brief,
            code: 0,
            network: "none",
            auto_remove: false,
            memory: 0,
            life: Life::Absent,
            pending: None,
        }
    }

    /// Something that can be asked of it now.
    fn choose(&mut self, chance: &mut Chance) -> Step {
        let pick = |chance: &mut Chance, steps: &[Step]| {
            steps[usize::try_from(chance.below(steps.len() as u64)).unwrap()].clone()
        };
        let rename = Step::Rename(match self.name == self.key {
            true => format!("{}-too", self.key),
            false => self.key.clone(),
        });
        match self.life {
            Life::Absent => {
                let natures = [
                    Nature::Brief,
                    Nature::Deaf,
                    Nature::Obliging,
                    Nature::Waiting,
                ];
                self.nature = natures[usize::try_from(chance.below(4)).unwrap()];
                self.code = 1 + i64::try_from(chance.below(100)).unwrap();
                self.network =
                    ["none", "bridge", "bridge"][usize::try_from(chance.below(3)).unwrap()];
                self.auto_remove = chance.below(4) == 0;
                self.memory = 64 << 20;
                self.name = match chance.below(2) {
                    0 => self.key.clone(),
                    _ => format!("{}-too", self.key),
                };
                Step::Create
            }
            Life::Created | Life::Ended(_) => pick(
                chance,
                &[Step::Start, Step::Start, Step::Start, Step::Remove, rename],
            ),
            Life::Up => {
                let memory = (64 + i64::try_from(chance.below(64)).unwrap()) << 20;
                let mut steps = vec![
                    Step::Stop,
                    Step::Kill,
                    Step::Restart,
                    Step::Remove,
                    Step::Pause,
                    Step::Exec,
                    Step::Update(memory),
                    rename,
                ];
                if self.nature == Nature::Waiting {
                    steps.extend([Step::Finish, Step::Finish]);
                }
                pick(chance, &steps)
            }
            Life::Paused => pick(chance, &[Step::Unpause, Step::Stop, Step::Remove, rename]),
        }
    }

    fn command(&self) -> Value {
        let (code, key) = (self.code, &self.key);
        match self.nature {
            Nature::Brief => json!(["sh", "-c", format!("exit {code}")]),
            Nature::Deaf => json!(["sleep", "1000"]),
            Nature::Obliging => {
                let trap = format!("trap 'exit {code}' TERM");
                json!(["sh", "-c", format!("{trap}; sleep 1000 & wait")])
            }
            Nature::Waiting => json!(["sh", "-c", format!("read x < /go/{key}; exit {code}")]),
        }
    }

    /// What it is once its process has ended so.
    fn ended(&self, code: i64) -> Life {
        match self.auto_remove {
            true => Life::Absent,
            false => Life::Ended(code),
        }
    }

    /// The code with which it ends when it is asked to.
    fn stopped(&self) -> Life {
        self.ended(match self.nature {
            Nature::Obliging => self.code,
            _ => KILLED,
        })
    }

    /// What it comes to by itself.
    fn settled(&self, life: Life) -> Life {
        match (life, self.nature) {
            (Life::Up, Nature::Brief) => self.ended(self.code),
            _ => life,
        }
    }

    /// What it may be after a crash.
    fn may_be(&self) -> Vec<Life> {
        let now = self.settled(self.life);
        let mut may = match &self.pending {
            None | Some(Step::Rename(_) | Step::Update(_) | Step::Exec) => vec![now],
            Some(Step::Create) => vec![Life::Absent, Life::Created],
            // 128 is the code of a start that failed.
            Some(Step::Start) => vec![now, Life::Up, Life::Ended(128)],
            Some(Step::Stop) => vec![now, self.stopped()],
            Some(Step::Kill) => vec![now, self.ended(KILLED)],
            Some(Step::Restart) => vec![now, Life::Up, self.stopped(), Life::Ended(128)],
            Some(Step::Remove) => vec![now, Life::Absent],
            Some(Step::Pause | Step::Unpause) => vec![Life::Up, Life::Paused],
            // It was told before anybody was asked.
            Some(Step::Finish) => vec![self.ended(self.code)],
        };
        if matches!(self.pending, Some(Step::Start | Step::Restart)) && self.auto_remove {
            // One whose start fails is removed.
            may.push(Life::Absent);
        }
        may.into_iter().map(|life| self.settled(life)).collect()
    }

    /// Does it, or remembers that it was asked. After a crash, `again` takes what was done already
    /// for an answer.
    fn step(&mut self, socket: &Path, folder: &Path, step: Step, again: bool) -> Asked<()> {
        self.pending = Some(step.clone());
        let id = &self.id;
        let post = |rest: &str, body: &Value| {
            let body = if body.is_null() {
                String::new()
            } else {
                body.to_string()
            };
            exchange(
                socket,
                &format!("POST /containers/{id}{rest}"),
                body.as_bytes(),
            )
        };
        let nothing = Value::Null;
        let answer = match &step {
            Step::Create => {
                let line = format!("POST /containers/create?name={}", self.name);
                exchange(socket, &line, self.wanted(folder).to_string().as_bytes())?
            }
            Step::Start => post("/start", &nothing)?,
            Step::Stop => post("/stop?t=20", &nothing)?,
            Step::Kill => post("/kill", &nothing)?,
            Step::Restart => post("/restart?t=20", &nothing)?,
            Step::Remove => exchange(socket, &format!("DELETE /containers/{id}?force=1&v=1"), b"")?,
            Step::Pause => post("/pause", &nothing)?,
            Step::Unpause => post("/unpause", &nothing)?,
            Step::Rename(name) => post(&format!("/rename?name={name}"), &nothing)?,
            Step::Update(memory) => {
                post("/update", &json!({ "Memory": memory, "MemorySwap": -1 }))?
            }
            Step::Exec => return self.exec(socket),
            Step::Finish => {
                self.write(folder);
                post("/wait", &nothing)?
            }
        };
        let (status, body) = answer;
        let done = matches!(status, 200 | 201 | 204)
            || again && matches!(status, 304 | 404 | 409)
            // The one ends by itself, so that others come too late.
            || self.nature == Nature::Brief && matches!(status, 304 | 404 | 409);
        assert!(done, "{step:?} of {self:#?}: {status} {body}");
        if status == 404 {
            self.life = Life::Absent;
            self.pending = None;
            return Ok(());
        }
        self.life = match step {
            Step::Create => {
                if status == 201 {
                    self.id = text(&body, "Id")?;
                }
                Life::Created
            }
            Step::Start | Step::Restart => {
                self.ready(socket)?;
                Life::Up
            }
            Step::Stop => self.stopped(),
            Step::Kill => self.ended(KILLED),
            Step::Remove => Life::Absent,
            Step::Pause => Life::Paused,
            Step::Unpause => Life::Up,
            Step::Rename(name) => {
                self.name = name;
                self.life
            }
            Step::Update(memory) => {
                self.memory = memory;
                self.life
            }
            Step::Exec => self.life,
            Step::Finish => {
                let code = parse(&body)?["StatusCode"].as_i64();
                assert_eq!(code, Some(self.code), "{self:#?}");
                self.ended(self.code)
            }
        };
        self.pending = None;
        if matches!(self.life, Life::Up) && self.nature == Nature::Brief {
            self.heard(socket)?;
        }
        if matches!(self.life, Life::Ended(_)) {
            // A signal is acknowledged before it has ended anything.
            exchange(socket, &format!("POST /containers/{}/wait", self.id), b"")?;
        }
        if self.life == Life::Absent {
            // With `--rm` the removal follows the end that was acknowledged.
            let line = format!("GET /containers/{}/json", self.id);
            self.poll(socket, &line, |status, _| status == 404)?;
        }
        Ok(())
    }

    fn wanted(&self, folder: &Path) -> Value {
        let ports = match self.network {
            "bridge" => json!({ "80/tcp": [{ "HostIp": "127.0.0.1" }] }),
            _ => json!({}),
        };
        json!({
            "Image": "busybox",
            "Cmd": self.command(),
            "Volumes": { "/anonymous": {} },
            "HostConfig": {
                "Binds": [format!("{}:/go", folder.display())],
                "NetworkMode": self.network,
                "PortBindings": ports,
                "AutoRemove": self.auto_remove,
                "Memory": self.memory,
                "MemorySwap": -1,
            },
        })
    }

    /// Asks until the answer is right.
    fn poll(&self, socket: &Path, line: &str, right: impl Fn(u16, &str) -> bool) -> Asked<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, body) = exchange(socket, line, b"")?;
            if right(status, &body) {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "{line}: {body}, of {self:#?}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Waits until the process has its trap.
    fn ready(&self, socket: &Path) -> Asked<()> {
        if self.nature != Nature::Obliging {
            return Ok(());
        }
        let line = format!("GET /containers/{}/json", self.id);
        self.poll(socket, &line, |_, body| {
            let state = parse(body).unwrap_or_default();
            state["State"]["Pid"].as_i64().is_some_and(catches_term)
        })
    }

    /// The end of one that is brief.
    fn heard(&mut self, socket: &Path) -> Asked<()> {
        let (status, body) = exchange(socket, &format!("POST /containers/{}/wait", self.id), b"")?;
        if status == 200 {
            let code = parse(&body)?["StatusCode"].as_i64();
            assert_eq!(code, Some(self.code), "{self:#?}");
        } else {
            assert!(
                status == 404 && self.auto_remove,
                "{self:#?}: {status} {body}"
            );
        }
        self.life = self.ended(self.code);
        Ok(())
    }

    fn exec(&mut self, socket: &Path) -> Asked<()> {
        if self.nature == Nature::Brief {
            self.pending = None;
            return Ok(());
        }
        let body = json!({ "Cmd": ["sh", "-c", "echo word; exit 3"], "AttachStdout": true });
        let line = format!("POST /containers/{}/exec", self.id);
        let (status, answer) = exchange(socket, &line, body.to_string().as_bytes())?;
        assert_eq!(status, 201, "{self:#?}: {answer}");
        let id = text(&answer, "Id")?;
        let (status, said) = exchange(socket, &format!("POST /exec/{id}/start"), b"{}")?;
        let (_, told) = exchange(socket, &format!("GET /exec/{id}/json"), b"")?;
        let told = parse(&told)?;
        assert_eq!(status, 200, "{self:#?}: {said}");
        assert!(said.contains("word"), "{self:#?}: {said}");
        assert_eq!(told["ExitCode"], 3, "{self:#?}: {told:#}");
        self.pending = None;
        Ok(())
    }

    /// Tells its process to end.
    fn write(&self, folder: &Path) {
        testkit::eventually(PATIENCE, || {
            let mut options = fs::OpenOptions::new();
            // Fails until somebody reads.
            options.write(true).custom_flags(libc_nonblock());
            let opened = options.open(folder.join(&self.key));
            opened.is_ok_and(|mut fifo| fifo.write_all(b"\n").is_ok())
        });
    }
}

/// Whether a process has a handler of SIGTERM.
fn catches_term(pid: i64) -> bool {
    const TERM: u64 = 1 << 14;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & TERM != 0)
}

fn libc_nonblock() -> i32 {
    i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap()
}

fn parse(body: &str) -> Asked<Value> {
    serde_json::from_str(body).map_err(|_| io::ErrorKind::UnexpectedEof.into())
}

fn text(body: &str, key: &str) -> Asked<String> {
    let value = parse(body)?;
    let text = value[key].as_str().map(str::to_owned);
    text.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// One who works until nobody answers.
struct Worker {
    slots: Vec<Slot>,
    chance: Chance,
}

impl Worker {
    fn work(&mut self, socket: &Path, folder: &Path, tell: &mpsc::Sender<()>) -> Asked<()> {
        loop {
            let which = usize::try_from(self.chance.below(SLOTS)).unwrap();
            let slot = &mut self.slots[which];
            let step = slot.choose(&mut self.chance);
            slot.step(socket, folder, step, false)?;
            tell.send(()).unwrap();
        }
    }
}

struct Trial {
    host: Host,
    /// Where the FIFOs are.
    folder: PathBuf,
    workers: Vec<Worker>,
    chance: Chance,
    /// What bridge, cgroups and rules of this daemon are called.
    instance: String,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let root = scratch();
        let folder = root.path().join("go");
        fs::create_dir(&folder).unwrap();
        let mut chance = Chance::new(seed);
        let worker = |number: u64| Worker {
            slots: (0..SLOTS)
                .map(|slot| Slot::new(format!("w{number}-{slot}"), &folder))
                .collect(),
            chance: Chance::new(chance.below(u64::MAX)),
        };
        let workers = (0..CLIENTS).map(worker).collect();
        let host = Host::on(root, &[]);
        host.import_busybox();
        let mut trial = Self {
            host,
            folder,
            workers,
            chance,
            instance: String::new(),
        };
        let bridge = trial.get("/networks/bridge");
        let device = &bridge["Options"]["com.docker.network.bridge.name"];
        trial.instance = device
            .as_str()
            .unwrap()
            .trim_start_matches("br-")
            .to_owned();
        trial
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = exchange(&self.host.socket(), &format!("GET {path}"), b"").unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Lets the clients work, kills the daemon in the middle of it, and starts the next.
    fn interrupt(&mut self) {
        let (socket, folder) = (self.host.socket(), self.folder.clone());
        let answers = 1 + self.chance.below(30);
        let moment = Duration::from_micros(self.chance.below(12_000));
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            for worker in &mut self.workers {
                let (socket, folder, tell) = (&socket, &folder, tell.clone());
                scope.spawn(move || worker.work(socket, folder, &tell).unwrap_err());
            }
            drop(tell);
            for _ in 0..answers {
                told.recv().unwrap();
            }
            // Into the middle of what follows.
            std::thread::park_timeout(moment);
            self.host.kill_daemon();
        });
        // Some end while nobody looks.
        for slot in self.workers.iter_mut().flat_map(|worker| &mut worker.slots) {
            let waits = slot.life == Life::Up && slot.nature == Nature::Waiting;
            if waits && slot.pending.is_none() && self.chance.below(2) == 0 {
                slot.write(&self.folder);
                slot.life = slot.ended(slot.code);
            }
        }
        self.host.start();
    }

    /// What was acknowledged is so, what was not is one of two things.
    fn check(&mut self) {
        let socket = self.host.socket();
        let mut workers = std::mem::take(&mut self.workers);
        for slot in workers.iter_mut().flat_map(|worker| &mut worker.slots) {
            let typed = match slot.pending {
                Some(Step::Create) => slot.name.clone(),
                _ if slot.id.is_empty() => continue,
                _ => slot.id.clone(),
            };
            let may = slot.may_be();
            let line = format!("GET /containers/{typed}/json");
            let deadline = Instant::now() + PATIENCE;
            let last = loop {
                let (status, body) = exchange(&socket, &line, b"").unwrap();
                let last: Value = serde_json::from_str(&body).unwrap();
                if let Some(seen) = seen(status, &last).filter(|seen| may.contains(seen)) {
                    slot.life = seen;
                    break last;
                }
                let state = &last["State"];
                assert!(
                    Instant::now() < deadline,
                    "{state:#}, not one of {may:?}, of {slot:#?}"
                );
                std::thread::park_timeout(Duration::from_millis(2));
            };
            if slot.life != Life::Absent {
                slot.id = last["Id"].as_str().unwrap().to_owned();
                let mut names = vec![format!("/{}", slot.name)];
                if let Some(Step::Rename(other)) = &slot.pending {
                    names.push(format!("/{other}"));
                }
                let name = last["Name"].as_str().unwrap().to_owned();
                assert!(names.contains(&name), "{name} of {slot:#?}");
                name[1..].clone_into(&mut slot.name);
                let memory = last["HostConfig"]["Memory"].as_i64().unwrap();
                let other = matches!(slot.pending, Some(Step::Update(other)) if other == memory);
                assert!(memory == slot.memory || other, "{memory} of {slot:#?}");
                slot.memory = memory;
            }
            // A client that was not answered asks again.
            match slot.pending.take() {
                Some(
                    Step::Finish | Step::Exec | Step::Create | Step::Rename(_) | Step::Update(_),
                )
                | None => {}
                Some(_) if slot.life == Life::Absent => {}
                Some(step) => slot.step(&socket, &self.folder, step, true).unwrap(),
            }
        }
        self.workers = workers;
    }

    /// There is what running containers need, and nothing else.
    fn check_kernel(&self) {
        let slots = || self.workers.iter().flat_map(|worker| &worker.slots);
        let ids = |keep: &dyn Fn(&Slot) -> bool| -> BTreeSet<String> {
            slots()
                .filter(|slot| keep(slot))
                .map(|slot| slot.id.clone())
                .collect()
        };
        let there = ids(&|slot| slot.life != Life::Absent);
        let up = ids(&|slot| matches!(slot.life, Life::Up | Life::Paused));
        let linked =
            ids(&|slot| matches!(slot.life, Life::Up | Life::Paused) && slot.network == "bridge");

        let listed = self.get("/containers/json?all=1");
        let listed: BTreeSet<String> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|container| container["Id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(listed, there);
        let joined = self.get("/networks/bridge");
        let joined: BTreeSet<String> = joined["Containers"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(joined, linked);

        let root = self.host.path();
        let same = |what: &str, wanted: &BTreeSet<String>, found: &dyn Fn() -> BTreeSet<String>| {
            let mut last = BTreeSet::new();
            self.host.wait_until(&format!("{what} of {wanted:#?}"), || {
                last = found();
                last == *wanted
            });
        };
        let below = |path: &str| base_names(&root.join(path));
        // Made when they are needed.
        for folder in ["data/containers", "data/store/snapshots"] {
            same(folder, &BTreeSet::new(), &|| &below(folder) - &there);
        }
        same("directories of runs", &up, &|| below("run/containers"));
        same("cgroups", &up, &|| self.cgroups());
        let count = |what: &str, wanted: usize, found: &dyn Fn() -> usize| {
            self.host
                .wait_until(&format!("{wanted} {what}, not {}", found()), || {
                    found() == wanted
                });
        };
        let bridge = format!("/sys/class/net/br-{}/brif", self.instance);
        count("links", linked.len(), &|| names(Path::new(&bridge)).len());
        count("monitors", up.len(), &|| self.host.monitors());
        count("published ports", linked.len(), &|| self.published());
        count("volumes", there.len(), &|| below("data/volumes").len());
        let layers = root.join("run/layers");
        let layers = layers.to_str().unwrap();
        count("mounts beside those of layers", 0, &|| {
            let mounts = self.host.mounts();
            mounts.iter().filter(|line| !line.contains(layers)).count()
        });
    }

    /// Ids by cgroups, in every hierarchy.
    fn cgroups(&self) -> BTreeSet<String> {
        let parent = format!("berth-{}", self.instance);
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots.extend(names(Path::new("/sys/fs/cgroup")));
        let mut found = BTreeSet::new();
        for root in roots {
            for group in fs::read_dir(root.join(&parent))
                .into_iter()
                .flatten()
                .flatten()
            {
                if group.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.insert(group.file_name().into_string().unwrap());
                }
            }
        }
        found
    }

    fn published(&self) -> usize {
        let table = format!("berth-{}", self.instance);
        let output = std::process::Command::new(tool("nft"))
            .args(["-j", "list", "table", "inet", &table])
            .output()
            .unwrap();
        let rules = String::from_utf8_lossy(&output.stdout);
        rules.matches("\"127.0.0.1\"").count()
    }

    fn run(mut self, times: u64) {
        for _ in 0..times {
            self.interrupt();
            self.check();
            self.check_kernel();
        }
        for slot in self.workers.iter_mut().flat_map(|worker| &mut worker.slots) {
            if slot.life != Life::Absent {
                let socket = self.host.socket();
                slot.step(&socket, &self.folder, Step::Remove, false)
                    .unwrap();
            }
        }
        self.check_kernel();
        for slot in self.workers.iter().flat_map(|worker| &worker.slots) {
            for name in [slot.key.clone(), format!("{}-too", slot.key)] {
                Client::Berth
                    .run(&self.host, &["create", "--name", &name, "busybox", "true"])
                    .ok();
            }
        }
    }
}

/// As a client sees it; nothing while it is on its way.
fn seen(status: u16, body: &Value) -> Option<Life> {
    if status == 404 {
        return Some(Life::Absent);
    }
    Some(match body["State"]["Status"].as_str()? {
        "created" => Life::Created,
        "running" => Life::Up,
        "paused" => Life::Paused,
        "exited" => Life::Ended(body["State"]["ExitCode"].as_i64()?),
        _ => return None,
    })
}

fn base_names(folder: &Path) -> BTreeSet<String> {
    let base = |path: &PathBuf| path.file_name().and_then(OsStr::to_str).unwrap().to_owned();
    names(folder).iter().map(base).collect()
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// A share of the instants; `BERTH_KILLS=200` has each of them take as many.
fn trial(seed: u64) {
    Trial::new(number("BERTH_SEED", seed)).run(number("BERTH_KILLS", 12));
}

#[test]
fn privileged_a_killed_daemon_forgets_no_container() {
    trial(1);
}

#[test]
fn privileged_a_killed_daemon_forgets_no_container_another_time() {
    trial(2);
}
