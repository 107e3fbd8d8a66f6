//! The container's processes killed while the runtime still makes them: at each of their own system
//! calls, by ptrace. Those of the runtime are `interrupted`'s.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use sys::trace::{self, Stop, Until};

use super::interrupted::{Place, each_step, nothing_is_left, quiet, said};

/// `__WALL`: children of any kind.
const ALL: u32 = 0x4000_0000;

fn wait(pid: i32, options: WaitOptions) -> WaitStatus {
    let pid = Pid::from_raw(pid).unwrap();
    let options = options | WaitOptions::from_bits_retain(ALL);
    let (_, status) = waitpid(Some(pid), options).unwrap().unwrap();
    status
}

/// The runtime, and the process that it makes, stopped where it begins.
struct Traced {
    runtime: Child,
    /// What it says, in a file that the container may keep.
    said: File,
    made: i32,
}

/// Starts `words` and lets them go on once they have made a process.
fn until_made(place: &Place, words: &[&str]) -> Traced {
    let said = tempfile::tempfile().unwrap();
    let runtime = Command::new("sh")
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_berth"))
        .args(place.words(words))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().unwrap())
        .spawn()
        .unwrap();
    let pid = i32::try_from(runtime.id()).unwrap();
    assert!(wait(pid, WaitOptions::UNTRACED).stopped());
    trace::seize(pid).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::CONT).unwrap();
    let made = loop {
        let status = wait(pid, WaitOptions::empty());
        assert!(status.stopped(), "it made no process: {status:?}");
        match trace::stop(status.as_raw()) {
            Stop::Fork => break trace::forked(pid).unwrap(),
            Stop::Signal(signal) => trace::go_on(pid, Until::Fork, signal).unwrap(),
            _ => trace::go_on(pid, Until::Fork, 0).unwrap(),
        }
    };
    assert!(wait(made, WaitOptions::empty()).stopped());
    trace::detach(pid).unwrap();
    Traced {
        runtime,
        said,
        made,
    }
}

/// Kills a stopped process at the beginning of its `step`-th system call. Whether it came so far
/// before it became its program.
fn kill_at(pid: i32, step: usize) -> bool {
    let mut calls = 0;
    let mut inside = false;
    let mut signal = 0;
    loop {
        trace::go_on(pid, Until::SystemCall, signal).unwrap();
        signal = 0;
        let status = wait(pid, WaitOptions::empty());
        if !status.stopped() {
            return false;
        }
        match trace::stop(status.as_raw()) {
            Stop::SystemCall => {
                inside = !inside;
                calls += usize::from(inside);
            }
            Stop::Exec => {
                trace::detach(pid).unwrap();
                return false;
            }
            Stop::Signal(one) => signal = one,
            Stop::Fork | Stop::Other => {}
        }
        if calls == step {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
            while wait(pid, WaitOptions::empty()).stopped() {}
            return true;
        }
    }
}

/// What became of a runtime whose process was killed.
struct Outcome {
    killed: bool,
    made: Output,
    /// `start`, if `create` went well.
    started: Option<Output>,
}

fn run_and_kill(place: &Place, words: &[&str], start: Option<&str>, step: usize) -> Outcome {
    let Traced {
        mut runtime,
        mut said,
        made,
    } = until_made(place, words);
    std::thread::scope(|scope| {
        // It waits at the gate until somebody starts it, and is watched all the while.
        let rest = scope.spawn(|| {
            let status = runtime.wait().unwrap();
            let mut stderr = Vec::new();
            said.rewind().unwrap();
            said.read_to_end(&mut stderr).unwrap();
            let made = Output {
                status,
                stdout: Vec::new(),
                stderr,
            };
            let id = start.filter(|_| made.status.success());
            let start = |id| {
                let words = place.words(&["start", id]);
                quiet(Command::new(env!("CARGO_BIN_EXE_berth")).args(words))
            };
            (made, id.map(start))
        });
        let killed = kill_at(made, step);
        let (made, started) = rest.join().unwrap();
        Outcome {
            killed,
            made,
            started,
        }
    })
}

#[track_caller]
fn says_why(output: &Output, step: usize) {
    let text = said(output);
    assert!(output.status.code().is_some(), "step {step}: {text}");
    assert!(text.contains("level=error"), "step {step}: {text}");
}

#[test]
fn privileged_slow_a_first_process_killed_at_any_step_is_told_of_and_cleaned_up() {
    let place = Place::new();
    // Killed as the kernel takes the program, it cannot be told from a program that was killed.
    let unheard = AtomicUsize::new(0);
    let steps = each_step(|step| {
        let id = place.id(step);
        let create = place.create(&id);
        let create: Vec<&str> = create.iter().map(String::as_str).collect();
        let outcome = run_and_kill(&place, &create, Some(&id), step);
        match &outcome.started {
            None => says_why(&outcome.made, step),
            Some(started) if started.status.success() => {
                unheard.fetch_add(usize::from(outcome.killed), Ordering::Relaxed);
            }
            Some(started) => says_why(started, step),
        }
        place.done(&["delete", "--force", &id]);
        outcome.killed
    });
    nothing_is_left(&place);
    assert!(steps > 100, "killed at {steps} steps");
    assert!(unheard.into_inner() <= 1);
}

#[test]
fn privileged_slow_an_executed_process_killed_at_any_step_is_told_of() {
    let place = Place::new();
    let id = place.id(0);
    let create = place.create(&id);
    place.done(&create.iter().map(String::as_str).collect::<Vec<_>>());
    place.done(&["start", &id]);
    let steps = each_step(|step| {
        let outcome = run_and_kill(&place, &["exec", &id, "true"], None, step);
        let code = outcome.made.status.code();
        match outcome.killed {
            true if code == Some(137) => {}
            true => says_why(&outcome.made, step),
            false => assert_eq!(code, Some(0), "{}", said(&outcome.made)),
        }
        outcome.killed
    });
    place.done(&["delete", "--force", &id]);
    nothing_is_left(&place);
    assert!(steps > 20, "killed at {steps} steps");
}
