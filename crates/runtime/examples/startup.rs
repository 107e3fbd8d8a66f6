//! How long a container of a static `true` takes, from nothing to nothing, beside other runtimes.
//!
//! ```text
//! cargo run --example startup -p runtime [-- ROUNDS [crun runc …]]
//! ```
//!
//! One round is create, start, wait, removal of the cgroup, and letting go of the mounts (which
//! the monitor does after it has told of the exit; the kernel syncs the upper file system then): with all namespaces, Docker's
//! mounts, masks and filter, a memory limit. Others run the same configuration by `RUNTIME run`,
//! on a plain directory, which is less work than our overlay. Medians, in milliseconds; rounds
//! take turns, so that a slow moment of the machine hits all.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring tool"
)]

use std::error::Error;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Redirect};
use std::time::Instant;

use runtime::cgroup::Cgroup;
use runtime::{Bundle, Overlay, Rootfs, Stdio};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(50), |rounds| rounds.parse())?;
    let others: Vec<String> = arguments.collect();
    let dir = tempfile::Builder::new()
        .prefix("berth-startup-")
        .tempdir()?;
    let bundle = prepare(dir.path())?;

    let mut times: Vec<(String, Vec<f64>)> = vec![
        (String::from("berth create"), Vec::new()),
        (String::from("berth start+wait"), Vec::new()),
        (String::from("berth remove"), Vec::new()),
        (String::from("berth unmount"), Vec::new()),
        (String::from("berth, all"), Vec::new()),
    ];
    times.extend(
        others
            .iter()
            .map(|other| (format!("{other} run"), Vec::new())),
    );
    for round in 0..rounds {
        let steps = run(&fresh(&bundle, dir.path(), round)?)?;
        for ((_, times), step) in times.iter_mut().zip(steps) {
            times.push(step);
        }
        for (other, (_, times)) in others.iter().zip(times.iter_mut().skip(5)) {
            times.push(run_other(other, dir.path(), round)?);
        }
    }
    for (name, mut times) in times {
        times.sort_by(f64::total_cmp);
        let (median, best) = (times[times.len() / 2], times[0]);
        println!("{name:<20} median {median:7.2} ms   best {best:7.2} ms");
    }
    Cgroup::open("/berth-startup")?.remove()?;
    Ok(())
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn run(bundle: &Bundle) -> Result<[f64; 5], Box<dyn Error>> {
    let begin = Instant::now();
    let mut created = runtime::create(bundle, None, Stdio::Null)?;
    let create = millis(begin);
    let at = Instant::now();
    created.start()?;
    let pidfd = created.pidfd.as_fd();
    let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED)?.and_then(|s| s.exit_status());
    if status != Some(0) {
        return Err(format!("`true` ended with {status:?}").into());
    }
    let start = millis(at);
    let at = Instant::now();
    Cgroup::open("/berth-startup/c")?.remove()?;
    let remove = millis(at);
    let at = Instant::now();
    drop(created);
    Ok([create, start, remove, millis(at), millis(begin)])
}

/// The bundle with a new writable layer, as a new container has it.
fn fresh(bundle: &Bundle, dir: &Path, round: usize) -> Result<Bundle, Box<dyn Error>> {
    let mut bundle = bundle.clone();
    if let Rootfs::Overlay(overlay) = &mut bundle.rootfs {
        overlay.upper = dir.join(format!("upper{round}"));
        overlay.work = dir.join(format!("work{round}"));
        fs::create_dir(&overlay.upper)?;
        fs::create_dir(&overlay.work)?;
    }
    Ok(bundle)
}

fn run_other(runtime: &str, dir: &Path, round: usize) -> Result<f64, Box<dyn Error>> {
    let begin = Instant::now();
    let status = Command::new(runtime)
        .args(["--root", "/run/berth-startup", "run", "--bundle"])
        .arg(dir)
        .arg(format!("berth-startup-{}-{round}", std::process::id()))
        .stdin(Redirect::null())
        .stdout(Redirect::null())
        .status()?;
    if !status.success() {
        return Err(format!("`{runtime} run` ended with {status}").into());
    }
    Ok(millis(begin))
}

/// The bundle: a root with one program, `config.json` for the others, a compiled filter for us.
fn prepare(dir: &Path) -> Result<Bundle, Box<dyn Error>> {
    let root = dir.join("rootfs");
    for sub in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
        fs::create_dir_all(root.join(sub))?;
    }
    fs::copy("/bin/busybox", root.join("bin/true"))?;
    let overlay = Overlay {
        lower: vec![root],
        upper: dir.join("upper"),
        work: dir.join("work"),
    };

    let held: Vec<String> = runtime::capability::DEFAULT.map(String::from).to_vec();
    let machine = runtime::seccomp::Machine::HOST;
    let filter = runtime::seccomp::docker_default(&held, machine);
    let mut spec = specification(&json!(held));
    spec["linux"]["seccomp"] = serde_json::to_value(&filter)?;
    fs::write(dir.join("config.json"), serde_json::to_vec(&spec)?)?;
    spec["linux"]["cgroupsPath"] = json!("/berth-startup/c");
    let compiled: PathBuf = dir.join("filter");
    fs::write(&compiled, runtime::seccomp::compile(&filter)?)?;
    Ok(Bundle {
        id: String::from("startup"),
        directory: PathBuf::new(),
        spec: serde_json::from_value(spec)?,
        rootfs: Rootfs::Overlay(overlay),
        seccomp: Some(compiled),
        extras: runtime::Extras::default(),
    })
}

fn specification(capabilities: &Value) -> Value {
    let options = json!(["nosuid", "noexec", "nodev"]);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/",
            "env": ["PATH=/bin"],
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities}
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": options},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": options},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 67_108_864}},
            "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "uts"},
                {"type": "pid"}, {"type": "ipc"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]
        }
    })
}
