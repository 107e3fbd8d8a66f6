//! The same command lines given to runc and to berth: what each prints, and how it ends.
//!
//! Where berth says something else on purpose, the line says why; it fails when that is no longer so.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use testkit::{eventually, tool};

use super::bundle::Bundle;
use crate::client::Run;
use crate::host::PATIENCE;

/// How berth's answer is to runc's.
#[derive(Clone, Copy)]
enum Answer {
    /// The same words and the same exit code.
    Same,
    /// Other words, the same exit code, since …
    Words(&'static str),
    /// Another exit code, since …
    Outcome(&'static str),
}

use Answer::{Outcome, Same, Words};

const PATH: &str = "berth names what it refuses by its JSON path";
const STEP: &str = "berth names the step that failed, runc where it failed";
const FILE: &str = "berth names the file that it needs, runc its own call";
const HOOK: &str = "berth names the hook by its JSON path, runc shows empty streams too";
const LATE: &str = "berth runs poststart hooks at the start, as the specification says";
const QUIET: &str = "berth's --debug tells other steps";

/// Command lines about a container, in their order, and what its configuration is changed to before.
type Story = (fn(&mut Value), &'static [(&'static str, Answer)]);

fn as_it_is(_: &mut Value) {}

const STORIES: &[Story] = &[
    (
        as_it_is,
        &[
            ("state ID", Same),
            ("start ID", Same),
            ("kill ID", Same),
            ("delete ID", Same),
            ("delete --force ID", Same),
            ("ps ID", Same),
            ("pause ID", Same),
            ("resume ID", Same),
            ("exec ID true", Same),
            ("update --pids-limit 5 ID", Same),
            ("events --stats ID", Same),
            ("--log-format json state ID", Same),
            ("--log BUNDLE/log state ID", Same),
            ("--debug state ID", Words(QUIET)),
        ],
    ),
    // Command lines that are none.
    (
        as_it_is,
        &[
            ("state", Same),
            ("start", Same),
            ("kill", Same),
            ("delete", Same),
            ("ps", Same),
            ("pause", Same),
            ("exec", Same),
            ("update", Same),
            ("events", Same),
            ("create", Same),
            ("run", Same),
            ("restore", Same),
            ("state a b", Same),
            ("delete a b", Same),
            ("list a", Same),
            ("features x", Same),
            ("nope", Same),
            ("--nope", Same),
            ("state --nope ID", Same),
            ("--log-format xml state ID", Same),
            ("--log /nowhere/x state ID", Same),
            ("create a/b", Same),
            ("create ..", Same),
            ("create .", Same),
            ("create -x", Same),
            ("create --pid-file /nowhere/pid ID", Words(FILE)),
            ("create --console-socket /nowhere/s ID", Same),
            ("create --preserve-fds 5 ID", Words(FILE)),
            ("create --bundle nowhere ID", Words(FILE)),
            ("spec --bundle /nowhere", Words(FILE)),
        ],
    ),
    // From one state to the next, and what is wrong in each.
    (
        as_it_is,
        &[
            ("create ID", Same),
            ("create ID", Same),
            ("run ID", Same),
            ("pause ID", Same),
            ("resume ID", Same),
            ("exec ID true", Same),
            ("delete ID", Same),
            ("ps --format xml ID", Same),
            ("start ID", Same),
            ("start ID", Same),
            ("delete ID", Same),
            ("resume ID", Same),
            ("pause ID", Same),
            ("pause ID", Same),
            ("exec ID true", Same),
            ("start ID", Same),
            ("resume ID", Same),
            ("kill ID NOPE", Same),
            ("kill ID 999", Same),
            ("kill ID 0x9", Same),
            ("exec ID nope", Same),
            ("exec ID /etc", Same),
            ("exec ID", Same),
            ("exec --cwd /nowhere ID true", Same),
            ("exec --user 5:x ID true", Same),
            ("exec --process nowhere ID", Same),
            ("exec --cap CAP_NOPE ID true", Same),
            ("exec --preserve-fds 7 ID true", Same),
            ("exec --tty --detach ID true", Same),
            ("exec --cgroup nope ID true", Same),
            ("update --memory 10x ID", Same),
            ("update --cpu-share x ID", Same),
            ("update -r nowhere ID", Same),
            ("update --cpuset-cpus 99999 ID", Same),
            ("events --interval 0s ID", Same),
            ("kill ID KILL", Same),
            ("start ID", Same),
            ("pause ID", Same),
            ("resume ID", Same),
            ("exec ID true", Same),
            ("ps ID", Same),
            ("kill ID TERM", Same),
            ("kill --all ID KILL", Same),
            ("update --pids-limit 5 ID", Same),
            ("events --stats ID", Same),
            ("create ID", Same),
            ("delete ID", Same),
            ("delete ID", Same),
            ("delete --force ID", Same),
        ],
    ),
    // Configurations that cannot be.
    (
        |spec| spec["root"]["path"] = json!("nowhere"),
        &[("create ID", Words(PATH)), ("state ID", Same)],
    ),
    (
        |spec| spec["process"]["args"] = json!([]),
        &[("create ID", Words(PATH)), ("state ID", Same)],
    ),
    (
        |spec| spec["process"]["args"] = json!(["nope"]),
        &[("create ID", Words(STEP)), ("state ID", Same)],
    ),
    (
        |spec| spec["process"]["cwd"] = json!("relative"),
        &[("create ID", Words(PATH)), ("state ID", Same)],
    ),
    (
        |spec| spec["process"]["capabilities"]["bounding"] = json!(["CAP_NOPE"]),
        &[("create ID", Words(PATH))],
    ),
    (
        |spec| {
            spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOPE", "hard": 1, "soft": 1}]);
        },
        &[("create ID", Words(PATH)), ("state ID", Same)],
    ),
    (
        |spec| add(spec, "/linux/namespaces", json!({"type": "pid"})),
        &[("create ID", Words(PATH)), ("state ID", Same)],
    ),
    (
        |spec| {
            let mount = json!({"destination": "/x", "type": "bind", "source": "/nowhere",
                "options": ["bind"]});
            add(spec, "/mounts", mount);
        },
        &[("create ID", Words(STEP)), ("state ID", Same)],
    ),
    (
        |spec| {
            let mount = json!({"destination": "/x", "type": "nofs", "source": "x"});
            add(spec, "/mounts", mount);
        },
        &[("create ID", Words(STEP)), ("state ID", Same)],
    ),
    (
        |spec| spec["linux"]["sysctl"] = json!({"nope.nope": "1"}),
        &[("create ID", Words(PATH)), ("state ID", Same)],
    ),
    (
        |spec| spec["linux"]["rootfsPropagation"] = json!("nope"),
        &[("create ID", Words(PATH)), ("state ID", Same)],
    ),
    (
        |spec| spec["process"]["terminal"] = json!(true),
        &[("create ID", Same), ("state ID", Same)],
    ),
    // Hooks that fail.
    (
        |spec| hook(spec, "prestart"),
        &[("create ID", Words(HOOK)), ("state ID", Same)],
    ),
    (
        |spec| hook(spec, "createRuntime"),
        &[("create ID", Words(HOOK)), ("state ID", Same)],
    ),
    (
        |spec| hook(spec, "createContainer"),
        &[("create ID", Words(HOOK)), ("state ID", Same)],
    ),
    (
        |spec| hook(spec, "startContainer"),
        &[
            ("create ID", Same),
            (
                "start ID",
                Outcome("runc takes the container's end before its program for success"),
            ),
            ("delete --force ID", Same),
        ],
    ),
    (
        |spec| hook(spec, "poststart"),
        &[
            ("create ID", Outcome(LATE)),
            ("start ID", Words(LATE)),
            ("delete --force ID", Same),
        ],
    ),
    (
        |spec| hook(spec, "poststop"),
        &[
            ("create ID", Same),
            ("start ID", Same),
            ("kill ID KILL", Same),
            (
                "delete ID",
                Outcome("a poststop hook that fails is warned of, as the specification says"),
            ),
        ],
    ),
];

fn add(spec: &mut Value, pointer: &str, value: Value) {
    let list = spec.pointer_mut(pointer).unwrap();
    list.as_array_mut().unwrap().push(value);
}

fn hook(spec: &mut Value, kind: &str) {
    spec["hooks"][kind] =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo bad >&2; exit 3"]}]);
}

/// A runtime and its own bundle.
struct Side {
    bundle: Bundle,
    is_runc: bool,
}

impl Side {
    fn new(is_runc: bool, change: fn(&mut Value)) -> Self {
        let bundle = Bundle::sh("exec sleep 1000").with(change);
        Self { bundle, is_runc }
    }

    fn run(&self, words: &str) -> Run {
        let path = self.bundle.path().to_str().unwrap();
        let words = words.replace("ID", &self.bundle.id);
        let words = words.replace("BUNDLE", path);
        let words: Vec<&str> = words.split(' ').collect();
        if !self.is_runc {
            return self.bundle.run(&words);
        }
        let mut command = Command::new(tool("runc"));
        command
            .arg("--root")
            .arg(self.bundle.path().join("runc"))
            .args(words)
            .current_dir(path)
            .stdin(std::process::Stdio::null());
        self.bundle.finish(command)
    }

    /// Exit code and words, without what is of this run or of this program alone.
    fn answer(&self, words: &str) -> (Option<i32>, String) {
        let run = self.run(words);
        if words == "kill ID KILL" && run.code == Some(0) {
            eventually(PATIENCE, || {
                self.bundle.reap();
                self.run("state ID").stdout.contains("\"stopped\"")
            });
        }
        // The help of each is its own.
        let out = match run.stdout.split_once('\n') {
            Some((first, _)) if first.starts_with("Incorrect Usage") => first,
            _ => run.stdout.as_str(),
        };
        let all = format!("{out}{}", run.stderr);
        let all = all
            .replace(self.bundle.path().to_str().unwrap(), "BUNDLE")
            .replace(&self.bundle.id, "ID")
            .replace(tool("runc").to_str().unwrap(), "PROGRAM")
            .replace("\"berth runtime:", "\"PROGRAM:")
            .replace("msg=\"runc ", "msg=\"");
        let lines = all.lines().map(|line| {
            let timeless = line.split_once("time=\"").and_then(|(before, rest)| {
                let (_, after) = rest.split_once('"')?;
                Some(format!("{before}{after}"))
            });
            let timeless = timeless.unwrap_or_else(|| line.to_owned());
            match timeless.split_once("\"time\":") {
                Some((before, _)) => before.to_owned(),
                None => timeless,
            }
        });
        (run.code, lines.collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if self.is_runc {
            self.run("kill ID KILL");
            eventually(PATIENCE, || {
                self.bundle.reap();
                self.run("delete --force ID").code == Some(0)
            });
        }
    }
}

#[test]
fn privileged_slow_berth_answers_as_runc_does_or_for_a_reason() {
    let mut wrong = Vec::new();
    for (change, words) in STORIES {
        let (runc, berth) = (Side::new(true, *change), Side::new(false, *change));
        for (words, expected) in *words {
            let (theirs, ours) = (runc.answer(words), berth.answer(words));
            let holds = match expected {
                Same => theirs == ours,
                Words(_) => theirs.0 == ours.0 && theirs.1 != ours.1,
                Outcome(_) => theirs.0 != ours.0,
            };
            let reason = match expected {
                Same => "",
                Words(reason) | Outcome(reason) => reason,
            };
            if !holds {
                wrong.push(format!(
                    "{words} ({reason}):\n  runc  {theirs:?}\n  berth {ours:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn privileged_logs_look_as_runcs_do() {
    let (runc, berth) = (Side::new(true, as_it_is), Side::new(false, as_it_is));
    for format in ["text", "json"] {
        let line = |side: &Side| {
            let words = format!("--log BUNDLE/{format} --log-format {format} state ID");
            assert_eq!(side.run(&words).code, Some(1));
            let log = fs::read_to_string(side.bundle.path().join(format)).unwrap();
            log.replace(&side.bundle.id, "ID")
        };
        // But for the time, whose form is the same.
        let still = |line: String| -> String {
            let digit = |letter: char| if letter.is_ascii_digit() { '0' } else { letter };
            line.chars().map(digit).collect()
        };
        assert_eq!(still(line(&berth)), still(line(&runc)));
    }
}
