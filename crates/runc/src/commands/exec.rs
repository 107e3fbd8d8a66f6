//! `exec`: one more process in a running container.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use runtime::cgroup::{BelowError, Cgroup};
use runtime::{CreateError, ExecProcess, Status, oci};
use serde_json::json;

use super::create::{CONSOLE_SOCKET, PID_FILE, PIDFD_SOCKET, PRESERVE_FDS};
use super::run::DETACH;
use super::{Command, Outcome, container};
use crate::Context;
use crate::arguments::{ArgumentError, Arguments, Flag, text};
use crate::attend::Attendant;
use crate::launch::{self, Attendance, Handover, LaunchError};
use crate::state::{Container, StateError};

pub(crate) const COMMAND: Command = Command::new(
    "exec",
    "runs one more process in a container",
    "<container-id> <command> [arguments...], or --process process.json <container-id>",
    &[
        CONSOLE_SOCKET,
        PIDFD_SOCKET,
        Flag::value(&["cwd"], "the process's directory"),
        Flag::value(&["env", "e"], "a variable, name=value"),
        Flag::switch(&["tty", "t"], "give it a terminal"),
        Flag::value(&["user", "u"], "as whom, uid[:gid]"),
        Flag::value(&["additional-gids", "g"], "more groups"),
        Flag::value(&["process", "p"], "file that describes the process"),
        DETACH,
        PID_FILE,
        Flag::value(&["process-label"], "its SELinux label"),
        Flag::value(&["apparmor"], "its AppArmor profile"),
        Flag::switch(&["no-new-privs"], "it may not gain privileges"),
        Flag::value(&["cap", "c"], "one more capability"),
        PRESERVE_FDS,
        Flag::value(
            &["cgroup"],
            "run it in an existing cgroup below the container's, [controller[,controller...]:]path",
        ),
        Flag::switch(&["ignore-paused"], "also in a paused container"),
    ],
    run,
)
.operands(1, usize::MAX)
.flags_first()
.fails_with("exec failed: ", 255);

#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error("cannot exec in a stopped container")]
    Stopped,
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    Paused,
    #[error("cannot exec in a container that is being created")]
    Creating,
    #[error("exec args cannot be empty")]
    NoCommand,
    #[error("open {}", path.display())]
    ReadProcess { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Config(CreateError),
    #[error("the container's configuration has no process")]
    NoProcess,
    #[error("bad {what}: strconv.Atoi: parsing {given:?}: invalid syntax")]
    Number { what: &'static str, given: String },
    #[error("invalid --cgroup argument: {given} ({why})")]
    Cgroup { given: String, why: &'static str },
    #[error("invalid --cgroup argument(s): controller {0} specified multiple times")]
    CgroupTwice(String),
    #[error("the container has no cgroup, so none is below it")]
    NoCgroup,
    #[error("unable to create new parent process")]
    Below(#[from] BelowError),
    #[error(transparent)]
    State(#[from] StateError),
}

fn run(context: &Context, arguments: &Arguments) -> Outcome {
    runtime::seal_self().map_err(LaunchError::Seal)?;
    let container = container(context, arguments)?;
    match container.status() {
        Status::Stopped => return Err(ExecError::Stopped.into()),
        Status::Creating => return Err(ExecError::Creating.into()),
        Status::Paused if !arguments.switch("ignore-paused")? => {
            return Err(ExecError::Paused.into());
        }
        _ => {}
    }
    let config = container.directory.config()?;
    let config = runtime::config::spec(&config)
        .map_err(ExecError::Config)?
        .value;
    let mut process = process(context, arguments, &config)?;
    let handover = Handover::new(arguments)?;
    let mut environment = process.env().clone().unwrap_or_default();
    handover.add_listen_fds(&mut environment);
    process.set_env(Some(environment));

    let attendance = if arguments.switch("detach")? {
        Attendance::Detached
    } else {
        Attendance::Foreground
    };
    let terminal = process.terminal().unwrap_or(false);
    handover.check_terminal(terminal, attendance)?;
    let attendant = match attendance {
        Attendance::Foreground => Some(Attendant::new(false)?),
        Attendance::Detached => None,
    };
    let stdio = launch::stdio(Some(&process), terminal, attendance);
    let cgroup = cgroup(&container, &arguments.texts("cgroup")?)?;
    let linux = config.linux().as_ref();
    let exec = ExecProcess {
        process,
        seccomp: None,
        profile: linux.and_then(|linux| linux.seccomp().clone()),
        personality: linux.and_then(|linux| linux.personality().clone()),
        memory_policy: linux.and_then(|linux| linux.memory_policy().clone()),
        namespaces: linux
            .and_then(|linux| linux.namespaces().clone())
            .unwrap_or_default(),
        state: Some(launch::told(&container.record, Status::Running)),
        cgroup,
    };
    let init = container.init().ok_or(ExecError::Stopped)?;
    let (pid, preserve_fds) = (container.record.pid, handover.preserve_fds);
    let executed = runtime::exec_with(init.as_fd(), pid, &exec, stdio, preserve_fds);
    let mut executed = executed.map_err(LaunchError::from)?;
    drop((init, exec, config));
    let console = executed.streams.console.as_ref().map(|fd| fd.as_fd());
    let console = console.filter(|_| attendance == Attendance::Detached);
    if let Err(error) = handover.tell(executed.pid, executed.pidfd.as_fd(), console) {
        // Nobody would know of it.
        let _ = sys::pidfd::send_signal(executed.pidfd.as_fd(), libc::SIGKILL);
        return Err(error.into());
    }
    let Some(attendant) = attendant else {
        return Ok(ExitCode::SUCCESS);
    };
    let console = executed.streams.console.take();
    let code = attendant.attend(executed.pid, executed.pidfd.as_fd(), console)?;
    Ok(ExitCode::from(code))
}

/// What is to run: a document of its own, or the container's process with the flags put over it.
fn process(
    context: &Context,
    arguments: &Arguments,
    config: &oci::Spec,
) -> Result<oci::Process, ExecError> {
    if let Some(path) = arguments.value("process") {
        let json = fs::read(path).map_err(|source| ExecError::ReadProcess {
            path: path.into(),
            source,
        })?;
        let read = runtime::config::process(&json).map_err(ExecError::Config)?;
        for warning in &read.warnings {
            context.log.warn(warning);
        }
        return Ok(read.value);
    }
    let mut process = config.process().clone().ok_or(ExecError::NoProcess)?;
    let words = arguments.operands.get(1..).unwrap_or_default();
    if words.is_empty() {
        return Err(ExecError::NoCommand);
    }
    let words: Result<Vec<&str>, _> = words.iter().map(|word| text(word)).collect();
    process.set_args(Some(words?.into_iter().map(str::to_owned).collect()));
    if let Some(cwd) = arguments.value("cwd") {
        process.set_cwd(cwd.into());
    }
    let mut environment = process.env().clone().unwrap_or_default();
    environment.extend(arguments.texts("env")?.into_iter().map(str::to_owned));
    process.set_env(Some(environment));
    process.set_terminal(Some(arguments.switch("tty")?));
    // The container's own terminal may have another size.
    process.set_console_size(None);
    if let Some(on) = arguments.choice("no-new-privs")? {
        process.set_no_new_privileges(Some(on));
    }
    if let Some(profile) = arguments.text("apparmor")? {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = arguments.text("process-label")? {
        process.set_selinux_label(Some(label.to_owned()));
    }
    let mut user = process.user().clone();
    if let Some(typed) = arguments.text("user")? {
        let (uid, gid) = match typed.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (typed, None),
        };
        user.set_uid(number("uid", uid)?);
        if let Some(gid) = gid {
            user.set_gid(number("gid", gid)?);
        }
    }
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for typed in arguments.texts("additional-gids")? {
        groups.push(number("gid", typed)?);
    }
    user.set_additional_gids(Some(groups));
    process.set_user(user);
    let unknown = add_capabilities(&mut process, &arguments.texts("cap")?);
    if !unknown.is_empty() {
        let unknown = unknown.join(" ");
        context.log.warn(&format!(
            "ignoring unknown or unavailable capabilities: [{unknown}]"
        ));
    }
    Ok(process)
}

fn number(what: &'static str, typed: &str) -> Result<u32, ExecError> {
    typed.parse().map_err(|_| ExecError::Number {
        what,
        given: typed.to_owned(),
    })
}

/// To all sets but the inheritable one, which would hand them on to every program that is run
/// (CVE-2022-29162); to the ambient one, which must be part of that, where the container has it
/// inheritable already. Answers with those that nobody knows.
fn add_capabilities<'a>(process: &mut oci::Process, names: &[&'a str]) -> Vec<&'a str> {
    let mut unknown = Vec::new();
    if names.is_empty() {
        return unknown;
    }
    let mut sets = process.capabilities().clone().unwrap_or_default();
    for name in names {
        let Ok(one) = serde_json::from_value::<oci::Capability>(json!(name)) else {
            unknown.push(*name);
            continue;
        };
        let with = |set: &Option<oci::Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(one);
            Some(set)
        };
        let (bounding, effective, permitted) = (
            with(sets.bounding()),
            with(sets.effective()),
            with(sets.permitted()),
        );
        let inheritable = sets.inheritable().as_ref();
        if inheritable.is_some_and(|set| set.contains(&one)) {
            let ambient = with(sets.ambient());
            sets.set_ambient(ambient);
        }
        sets.set_bounding(bounding);
        sets.set_effective(effective);
        sets.set_permitted(permitted);
    }
    process.set_capabilities(Some(sets));
    unknown
}

/// The container's cgroup, or what is asked for below it: one path for all hierarchies, or some for
/// single controllers.
fn cgroup(container: &Container, asked: &[&str]) -> Result<String, ExecError> {
    let own = container.record.cgroup.clone().unwrap_or_default();
    let mut place = own;
    for (controller, path) in below(asked)? {
        let cgroup = Cgroup::open(&place).map_err(|_| ExecError::NoCgroup)?;
        place = cgroup.below(controller, path)?;
    }
    Ok(place)
}

/// `[controller[,controller...]:]path`, again and again, as controllers and paths.
fn below<'a>(asked: &[&'a str]) -> Result<Vec<(Option<&'a str>, &'a str)>, ExecError> {
    let mut below: Vec<(Option<&str>, &str)> = Vec::new();
    for given in asked {
        let bad = |why| ExecError::Cgroup {
            given: (*given).to_owned(),
            why,
        };
        let Some((controllers, path)) = given.split_once(':') else {
            if asked.len() > 1 {
                return Err(bad("missing <controller>: prefix"));
            }
            below.push((None, given));
            continue;
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return Err(bad("empty <controller> prefix"));
            }
            if below.iter().any(|(known, _)| *known == Some(controller)) {
                return Err(ExecError::CgroupTwice(controller.to_owned()));
            }
            below.push((Some(controller), path));
        }
    }
    Ok(below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Order, parse};

    fn planned(words: &[&str]) -> Result<oci::Process, ExecError> {
        let config = json!({
            "ociVersion": "1.3.0",
            "process": {
                "terminal": true, "cwd": "/", "args": ["sh"], "env": ["A=1"],
                "user": {"uid": 1, "gid": 2},
                "capabilities": {"bounding": ["CAP_KILL"], "inheritable": []}
            }
        });
        let config: oci::Spec = serde_json::from_value(config).unwrap();
        let words = words.iter().map(Into::into);
        let arguments = parse(COMMAND.flags, Order::FlagsFirst, words).unwrap();
        let context = Context {
            containers: crate::state::Containers::new(PathBuf::new()),
            log: crate::log::Log::default(),
            systemd_cgroup: false,
        };
        process(&context, &arguments, &config)
    }

    #[test]
    fn flags_are_put_over_the_containers_process() {
        let process = planned(&[
            "-e",
            "B=2",
            "-u",
            "7:8",
            "-g",
            "9",
            "--cap",
            "CAP_NET_RAW",
            "--cwd",
            "/tmp",
            "id",
            "ls",
            "-l",
        ])
        .unwrap();
        assert_eq!(process.args().as_deref().unwrap(), ["ls", "-l"]);
        assert_eq!(process.env().as_deref().unwrap(), ["A=1", "B=2"]);
        assert_eq!(process.terminal(), Some(false));
        let user = process.user();
        assert_eq!((user.uid(), user.gid()), (7, 8));
        assert_eq!(user.additional_gids().as_deref(), Some(&[9][..]));
        let sets = process.capabilities().as_ref().unwrap();
        assert_eq!(sets.bounding().as_ref().unwrap().len(), 2);
        assert_eq!(sets.effective().as_ref().unwrap().len(), 1);
        assert!(sets.inheritable().as_ref().unwrap().is_empty());
        assert!(sets.ambient().is_none());
    }

    #[test]
    fn what_cannot_be_is_said() {
        let said = |words| planned(words).unwrap_err().to_string();
        assert_eq!(said(&["id"]), "exec args cannot be empty");
        assert_eq!(
            said(&["-u", "foo", "id", "x"]),
            "bad uid: strconv.Atoi: parsing \"foo\": invalid syntax"
        );
        planned(&["-c", "CAP_X", "id", "x"]).unwrap();
    }

    #[test]
    fn a_cgroup_is_below_the_containers() {
        assert_eq!(below(&[]).unwrap(), []);
        assert_eq!(below(&["/a/b"]).unwrap(), [(None, "/a/b")]);
        assert_eq!(
            below(&["cpu,memory:a", "name=systemd:b:c"]).unwrap(),
            [
                (Some("cpu"), "a"),
                (Some("memory"), "a"),
                (Some("name=systemd"), "b:c")
            ]
        );
    }

    #[test]
    fn cgroups_that_contradict_each_other_are_refused() {
        let said = |asked: &[&str]| below(asked).unwrap_err().to_string();
        assert_eq!(
            said(&["a", "cpu:b"]),
            "invalid --cgroup argument: a (missing <controller>: prefix)"
        );
        assert_eq!(
            said(&["cpu,:b"]),
            "invalid --cgroup argument: cpu,:b (empty <controller> prefix)"
        );
        assert_eq!(
            said(&["cpu:a", "memory,cpu:b"]),
            "invalid --cgroup argument(s): controller cpu specified multiple times"
        );
    }
}
