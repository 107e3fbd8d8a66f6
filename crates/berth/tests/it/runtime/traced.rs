//! The container's processes killed while the runtime still makes them: at each of their own system
//! calls, by ptrace. Those of the runtime are `interrupted`'s.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use sys::trace::{self, Stop, Until};

use super::interrupted::{Place, each_step, nothing_is_left, quiet, said};
use crate::host::PATIENCE;

/// `__WALL`: children of any kind.
const ALL: u32 = 0x4000_0000;

fn wait(pid: i32, options: WaitOptions) -> WaitStatus {
    let pid = Pid::from_raw(pid).unwrap();
    let options = options | WaitOptions::from_bits_retain(ALL);
    let (_, status) = waitpid(Some(pid), options).unwrap().unwrap();
    status
}

/// Which of the processes that are made by or for the runtime.
#[derive(Clone, Copy, Debug)]
struct Whom {
    /// So many it makes before.
    earlier: usize,
    /// Not that one, but the one which that one makes.
    by_it: bool,
    /// The runtime does nothing until it is killed.
    ahead: bool,
}

/// The first of all.
const FIRST: Whom = Whom {
    earlier: 0,
    by_it: false,
    ahead: false,
};

/// The runtime, and a process that was made, stopped where it begins.
struct Traced {
    runtime: Child,
    /// What it says, in a file that the container may keep.
    said: File,
    made: i32,
}

impl Traced {
    /// Waits until the runtime has ended.
    fn end(&mut self) -> Output {
        let status = self.runtime.wait().unwrap();
        let mut stderr = Vec::new();
        self.said.rewind().unwrap();
        self.said.read_to_end(&mut stderr).unwrap();
        Output {
            status,
            stdout: Vec::new(),
            stderr,
        }
    }
}

/// Lets a stopped process go on until it has made one more, which is then stopped; `None` if it ends.
fn until_fork(pid: i32) -> Option<i32> {
    let mut signal = 0;
    loop {
        trace::go_on(pid, Until::Fork, signal).unwrap();
        let status = wait(pid, WaitOptions::empty());
        if !status.stopped() {
            return None;
        }
        signal = match trace::stop(status.as_raw()) {
            Stop::Fork => return Some(forked(pid)),
            Stop::Signal(signal) => signal,
            _ => 0,
        };
    }
}

/// Whom a process made that stopped for it. That one is stopped too.
fn forked(pid: i32) -> i32 {
    let made = trace::forked(pid).unwrap();
    assert!(wait(made, WaitOptions::empty()).stopped());
    made
}

/// That process, stopped, of a runtime that stays stopped too.
fn made_by(pid: i32, whom: Whom) -> Option<i32> {
    for _ in 0..whom.earlier {
        trace::detach(until_fork(pid)?).unwrap();
    }
    let made = until_fork(pid)?;
    if !whom.by_it {
        return Some(made);
    }
    let its = until_fork(made)?;
    trace::detach(made).unwrap();
    Some(its)
}

/// Starts `words` and lets them go on once that process is there.
fn until_made(place: &Place, words: &[&str], whom: Whom) -> Traced {
    let file = tempfile::tempfile().unwrap();
    let runtime = Command::new("sh")
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_berth"))
        .args(place.words(words))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file.try_clone().unwrap())
        .spawn()
        .unwrap();
    let pid = i32::try_from(runtime.id()).unwrap();
    assert!(wait(pid, WaitOptions::UNTRACED).stopped());
    trace::seize(pid).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::CONT).unwrap();
    // Stopped once more, by being continued.
    assert!(wait(pid, WaitOptions::empty()).stopped());
    let mut traced = Traced {
        runtime,
        said: file,
        made: 0,
    };
    let made = made_by(pid, whom);
    if !whom.ahead || made.is_none() {
        trace::detach(pid).unwrap();
    }
    traced.made = made.unwrap_or_else(|| panic!("none was made: {}", said(&traced.end())));
    traced
}

/// Kills a stopped process at the beginning of its `step`-th system call. Whether it came so far
/// before it became its program.
fn kill_at(pid: i32, step: usize) -> bool {
    let mut calls = 0;
    let mut inside = false;
    let mut signal = 0;
    loop {
        // It may have been ended by the runtime while it was stopped.
        let goes_on = trace::go_on(pid, Until::SystemCall, signal).is_ok();
        signal = 0;
        let status = wait(pid, WaitOptions::empty());
        if !status.stopped() {
            return false;
        }
        assert!(goes_on);
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
            Stop::Fork => trace::detach(forked(pid)).unwrap(),
            Stop::Other => {}
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

fn run_and_kill(
    place: &Place,
    words: &[&str],
    start: Option<&str>,
    whom: Whom,
    step: usize,
) -> Outcome {
    let mut traced = until_made(place, words, whom);
    let (pid, made) = (i32::try_from(traced.runtime.id()).unwrap(), traced.made);
    std::thread::scope(|scope| {
        // It waits at the gate until somebody starts it, and is watched all the while.
        let rest = scope.spawn(|| {
            let made = traced.end();
            let id = start.filter(|_| made.status.success());
            let start = |id| {
                let words = place.words(&["start", id]);
                quiet(Command::new(env!("CARGO_BIN_EXE_berth")).args(words))
            };
            (made, id.map(start))
        });
        let killed = kill_at(made, step);
        if whom.ahead {
            trace::detach(pid).unwrap();
        }
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

/// Kills that process of a creation at each of its steps, and has the container deleted by force each
/// time. Returns at how many steps it was killed, and how often that kept nobody from starting.
fn kill_in_creation(place: &Place, whom: Whom) -> (usize, usize) {
    let unheard = AtomicUsize::new(0);
    let steps = each_step(|step| {
        let id = place.id(step);
        let create = place.create(&id);
        let create: Vec<&str> = create.iter().map(String::as_str).collect();
        let outcome = run_and_kill(place, &create, Some(&id), whom, step);
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
    nothing_is_left(place);
    (steps, unheard.into_inner())
}

/// Kills that process of an `exec` at each of its steps. Returns at how many, and how often that kept
/// nobody from running.
fn kill_in_exec(place: &Place, whom: Whom) -> (usize, usize) {
    let id = place.id(0);
    let create = place.create(&id);
    place.done(&create.iter().map(String::as_str).collect::<Vec<_>>());
    place.done(&["start", &id]);
    let unheard = AtomicUsize::new(0);
    let steps = each_step(|step| {
        let outcome = run_and_kill(place, &["exec", &id, "true"], None, whom, step);
        match (outcome.killed, outcome.made.status.code()) {
            (true, Some(137)) => {}
            (true, Some(0)) => {
                unheard.fetch_add(1, Ordering::Relaxed);
            }
            (true, _) => says_why(&outcome.made, step),
            (false, code) => assert_eq!(code, Some(0), "{}", said(&outcome.made)),
        }
        outcome.killed
    });
    // The first process cannot end before those are gone whom the runtime left to this one.
    testkit::eventually(PATIENCE, || {
        place.0.reap();
        place.0.left_to_us() == 1
    });
    place.done(&["delete", "--force", &id]);
    nothing_is_left(place);
    (steps, unheard.into_inner())
}

#[test]
fn privileged_slow_a_first_process_killed_at_any_step_is_told_of_and_cleaned_up() {
    let (steps, unheard) = kill_in_creation(&Place::new(), FIRST);
    assert!(steps > 100, "killed at {steps} steps");
    // Killed as the kernel takes the program, it cannot be told from a program that was killed.
    assert!(unheard <= 1);
}

#[test]
fn privileged_slow_an_executed_process_killed_at_any_step_is_told_of() {
    let (steps, unheard) = kill_in_exec(&Place::new(), FIRST);
    assert!(steps > 20, "killed at {steps} steps");
    assert_eq!(unheard, 0);
}

/// Of `Place::mapped`: before it comes the one whose user namespace the mount is made with.
const INTERMEDIATE: Whom = Whom {
    earlier: 1,
    ..FIRST
};

#[test]
fn privileged_slow_a_helper_that_maps_ids_killed_at_any_step_is_in_nobodys_way() {
    let place = Place::mapped();
    let helper = Whom {
        ahead: true,
        ..FIRST
    };
    // It sees to its own end, and waits for it. Its user namespace is there until it is reaped.
    for step in [1, 2] {
        let id = place.id(step);
        let create = place.create(&id);
        let create: Vec<&str> = create.iter().map(String::as_str).collect();
        let outcome = run_and_kill(&place, &create, Some(&id), helper, step);
        assert!(outcome.killed, "step {step}");
        let made = outcome.started.unwrap_or(outcome.made);
        assert!(made.status.success(), "step {step}: {}", said(&made));
        place.done(&["delete", "--force", &id]);
    }
    nothing_is_left(&place);
}

#[test]
fn privileged_slow_an_intermediate_process_killed_at_any_step_is_told_of_and_cleaned_up() {
    let (steps, unheard) = kill_in_creation(&Place::mapped(), INTERMEDIATE);
    assert!(steps > 10, "killed at {steps} steps");
    // When it has told whom it made, all that it does is to end.
    assert!(unheard < 5, "unheard at {unheard} steps");
}

#[test]
fn privileged_slow_the_process_made_by_an_intermediate_killed_at_any_step_is_told_of() {
    let whom = Whom {
        by_it: true,
        ..INTERMEDIATE
    };
    let (steps, unheard) = kill_in_creation(&Place::mapped(), whom);
    assert!(steps > 100, "killed at {steps} steps");
    assert!(unheard <= 1);
}

#[test]
fn privileged_slow_an_intermediate_of_exec_killed_at_any_step_is_told_of() {
    let (steps, unheard) = kill_in_exec(&Place::mapped(), FIRST);
    assert!(steps > 10, "killed at {steps} steps");
    assert!(unheard < 5, "unheard at {unheard} steps");
}

#[test]
fn privileged_slow_the_process_made_by_an_intermediate_of_exec_killed_at_any_step_is_told_of() {
    let whom = Whom {
        by_it: true,
        ..FIRST
    };
    let (steps, unheard) = kill_in_exec(&Place::mapped(), whom);
    assert!(steps > 20, "killed at {steps} steps");
    assert_eq!(unheard, 0);
}
