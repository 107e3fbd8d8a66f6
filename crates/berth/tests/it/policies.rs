//! Restart policies: what follows each kind of end, with the daemon up and after it was down, is
//! what follows at Docker's daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::{Host, PATIENCE, busybox_tar};
use crate::interrupted::exchange;
use crate::runtime::docker::Docker;

const POLICIES: [(&str, i64); 5] = [
    ("no", 0),
    ("always", 0),
    ("unless-stopped", 0),
    ("on-failure", 0),
    ("on-failure", 1),
];

/// How a container comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It has not begun.
    Never,
    /// By itself, with this code.
    Exit(i32),
    Stop,
    /// By a signal through the API; the stop signal is another one, or none is named.
    Kill(&'static str, Option<&'static str>),
    /// By a signal from elsewhere.
    Outside(&'static str),
    /// The same while there is no daemon.
    Meanwhile(&'static str),
    /// It was stopped before, and somebody started it again.
    StopStart,
}

const ENDS: [End; 11] = [
    End::Never,
    End::Exit(0),
    End::Exit(1),
    End::Stop,
    End::Kill("KILL", None),
    End::Kill("USR1", None),
    End::Kill("USR1", Some("INT")),
    End::Outside("KILL"),
    End::Meanwhile("KILL"),
    End::Meanwhile("TERM"),
    End::StopStart,
];

/// Ends with 0 when SIGTERM says so, with 3 at other signals.
const LASTING: &str = "trap 'exit 0' TERM; trap 'exit 3' USR1 INT; touch /ready; \
    while :; do sleep 0.1; done";

/// A daemon that does not know that it is compared.
struct Side {
    socket: PathBuf,
}

impl Side {
    fn ask(&self, line: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, answer) = exchange(&self.socket, line, body.as_bytes()).unwrap();
        (status, serde_json::from_str(&answer).unwrap_or_default())
    }

    #[track_caller]
    fn done(&self, line: &str, body: &Value) {
        let (status, answer) = self.ask(line, body);
        assert!(
            matches!(status, 201 | 204 | 304),
            "{line}: {status} {answer}"
        );
    }

    fn state(&self, name: &str) -> Value {
        self.ask(&format!("GET /containers/{name}/json"), &Value::Null)
            .1
    }

    fn signal(&self, name: &str, signal: &str) {
        let pid = self.state(name)["State"]["Pid"].to_string();
        let sent = std::process::Command::new("kill")
            .args(["-s", signal, &pid])
            .status();
        assert!(sent.unwrap().success(), "{name}");
    }

    fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.state(name);
            if holds(&seen) {
                return seen;
            }
            assert!(
                Instant::now() < deadline,
                "{name} never {what}: {}",
                seen["State"]
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Waits until its traps are set.
    fn ready(&self, name: &str) {
        self.until(name, "set its traps", |seen| {
            let pid = &seen["State"]["Pid"];
            fs::remove_file(format!("/proc/{pid}/root/ready")).is_ok()
        });
    }

    fn begin(&self, name: &str, policy: (&str, i64), end: End) {
        let (policy, tries) = policy;
        let command = match end {
            End::Exit(code) => format!("exit {code}"),
            _ => LASTING.to_owned(),
        };
        let mut wanted = json!({
            "Image": "busybox", "Cmd": ["sh", "-c", command],
            "HostConfig": {
                "NetworkMode": "none",
                "RestartPolicy": { "Name": policy, "MaximumRetryCount": tries },
            },
        });
        if let End::Kill(_, Some(signal)) = end {
            wanted["StopSignal"] = signal.into();
        }
        self.done(&format!("POST /containers/create?name={name}"), &wanted);
        if end == End::Never {
            return;
        }
        let post = |rest: &str| self.done(&format!("POST /containers/{name}/{rest}"), &Value::Null);
        post("start");
        if matches!(end, End::Exit(_)) {
            return;
        }
        self.ready(name);
        match end {
            End::Stop => post("stop"),
            End::Kill(signal, _) => post(&format!("kill?signal={signal}")),
            End::Outside(signal) => self.signal(name, signal),
            End::StopStart => {
                post("stop");
                post("start");
                self.ready(name);
            }
            End::Never | End::Exit(_) | End::Meanwhile(_) => {}
        }
    }

    /// What has become of it.
    fn became(&self, name: &str, end: End) -> String {
        let seen = self.until(name, "settled", |seen| {
            let times = seen["RestartCount"].as_i64();
            match seen["State"]["Status"].as_str() {
                Some("exited" | "created") => true,
                Some("running") if matches!(end, End::StopStart | End::Meanwhile(_)) => true,
                Some("running") if !matches!(end, End::Exit(_)) => times >= Some(1),
                _ => times >= Some(2),
            }
        });
        match seen["State"]["Status"].as_str() {
            Some("created") => "created".to_owned(),
            Some("exited") => format!(
                "exited {} {}",
                seen["State"]["ExitCode"], seen["RestartCount"]
            ),
            _ => "up".to_owned(),
        }
    }
}

/// No container is between two runs for longer, but shows that its next run waits.
const BETWEEN_RUNS: Duration = Duration::from_secs(2);

fn cases() -> Vec<(String, (&'static str, i64), End)> {
    let mut cases = Vec::new();
    for policy in POLICIES {
        for (number, end) in ENDS.into_iter().enumerate() {
            let name = format!("{}-{}-{number}", policy.0, policy.1);
            cases.push((name, policy, end));
        }
    }
    cases
}

/// Does it for all cases, several at a time.
fn each<T: Send>(act: impl Fn(&str, (&'static str, i64), End) -> T + Sync) -> Vec<T> {
    let cases = cases();
    let portion = cases.len().div_ceil(8);
    std::thread::scope(|scope| {
        let act = &act;
        let run = |part: &'_ [(String, (&'static str, i64), End)]| -> Vec<T> {
            part.iter()
                .map(|(name, policy, end)| act(name, *policy, *end))
                .collect()
        };
        let threads: Vec<_> = cases
            .chunks(portion)
            .map(|part| scope.spawn(move || run(part)))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// All cases at one daemon: what became of each while it was up, and after it was down.
fn story(socket: PathBuf, mut restart: impl FnMut(&dyn Fn())) -> BTreeMap<String, [String; 2]> {
    let side = Side { socket };
    let told = |name: &str, policy: (&str, i64), end| format!("{policy:?} {end:?} {name}");
    each(|name, policy, end| side.begin(name, policy, end));
    let before = each(|name, _, end| side.became(name, end));
    let pids = each(|name, _, end| match end {
        End::Meanwhile(signal) => Some((side.state(name)["State"]["Pid"].to_string(), signal)),
        _ => None,
    });
    restart(&|| {
        for (pid, signal) in pids.iter().flatten() {
            let sent = std::process::Command::new("kill")
                .args(["-s", signal, pid])
                .status();
            assert!(sent.unwrap().success());
        }
        for (pid, _) in pids.iter().flatten() {
            let process = format!("/proc/{pid}/ns");
            testkit::eventually(PATIENCE, || {
                fs::read_link(Path::new(&process).join("pid")).is_err()
            });
        }
    });
    let lived: BTreeSet<String> = each(|name, _, _| name.to_owned())
        .into_iter()
        .zip(&before)
        .filter(|(_, before)| *before == "up")
        .map(|(name, _)| name)
        .collect();
    let after = each(|name, _, end| {
        let looked = Instant::now();
        // Comes after what the daemon does by itself.
        side.done(
            &format!("POST /containers/{name}/rename?name={name}-after"),
            &Value::Null,
        );
        let lived = lived.contains(name);
        let name = format!("{name}-after");
        let seen = side.until(&name, "settled", |seen| {
            match seen["State"]["Status"].as_str() {
                Some("restarting") => matches!(end, End::Exit(_)),
                // Docker shows this for a moment between two runs.
                Some("exited") if lived => looked.elapsed() > BETWEEN_RUNS,
                _ => true,
            }
        });
        match seen["State"]["Status"].as_str() {
            Some("exited") => "exited".to_owned(),
            Some("created") => "created".to_owned(),
            _ => "up".to_owned(),
        }
    });
    let names = each(told);
    let pairs = before.into_iter().zip(after);
    names
        .into_iter()
        .zip(pairs.map(|(before, after)| [before, after]))
        .collect()
}

#[test]
fn privileged_restart_policies_do_what_docker_does() {
    let mut host = Host::new();
    let socket = host.socket();
    let ours = story(socket, |meanwhile| {
        host.kill_daemon();
        meanwhile();
        host.start();
    });
    let mut docker = Docker::empty();
    fs::write(docker.path().join("busybox.tar"), busybox_tar()).unwrap();
    let tar = docker.path().join("busybox.tar");
    docker
        .run(&["import", tar.to_str().unwrap(), "busybox"])
        .ok();
    let socket = docker.path().join("d.sock");
    let theirs = story(socket, |meanwhile| docker.restart(meanwhile));
    // Docker does not know how a container ended while it was down, and takes it for a failure.
    let unknown = |case: &str| case.contains("on-failure") && case.contains("Meanwhile(\"TERM\")");
    let different: Vec<String> = theirs
        .iter()
        .filter(|(case, became)| ours[*case] != **became && !unknown(case))
        .map(|(case, became)| format!("{case}: docker {became:?}, berth {:?}", ours[case]))
        .collect();
    assert!(different.is_empty(), "{different:#?}");
}

#[test]
fn privileged_the_pause_before_a_restart_outlives_the_daemon() {
    const PAUSE: Duration = Duration::from_millis(1600);
    let mut host = Host::new();
    let script = "cut -d' ' -f1 /proc/uptime; exit 1";
    let run = [
        "run",
        "-d",
        "--name",
        "box",
        "--restart",
        "always",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    host.docker(&run).ok();
    let restarts = |host: &Host| {
        let shown = host.docker(&["inspect", "-f", "{{.RestartCount}}", "box"]);
        shown.ok().parse::<u32>().unwrap()
    };
    host.wait_until("the fifth pause begins", || restarts(&host) == 5);
    host.kill_daemon();
    host.start();
    host.wait_until("it is over", || restarts(&host) > 5);
    let log = host.docker(&["logs", "box"]).stdout;
    let mut began = log
        .lines()
        .map(|line| Duration::from_secs_f64(line.parse().unwrap()));
    let (before, after) = (began.nth(4).unwrap(), began.next().unwrap());
    assert!(after - before >= PAUSE, "{log}");
}
