//! `exec`: one more process in all namespaces of a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use crate::bundle::ExecProcess;
use crate::cgroup::Cgroup;
use crate::channel::{self, Order, Word};
use crate::child::{self, Another, Common};
use crate::create::{end, filter, prepare_stdio, sibling_of, start_error, with_pid_namespace};
use crate::error::{CreateError, StartError};
use crate::oci;
use crate::plan::Process;
use crate::starting::Starting;
use crate::state::{State, Status};
use crate::stdio::{Stdio, Streams};
use crate::user_namespace;

/// A process that runs in a container beside its first one.
#[derive(Debug)]
pub struct Executed {
    /// In the caller's pid namespace. A child of the caller, who must wait for it.
    pub pid: i32,
    /// The same, free of reuse.
    pub pidfd: OwnedFd,
    /// Our ends of its standard streams.
    pub streams: Streams,
}

/// A process on its way to become [`Executed`]. Its descriptor is readable when
/// [`advance`](Self::advance) has something to hear. Dropped before that, it ends.
#[derive(Debug)]
pub struct Executing {
    /// Until it is handed out.
    executed: Option<Executed>,
    process: Process,
    starting: Starting,
    /// It has yet to send its terminal.
    owes_terminal: bool,
    /// It is in another user namespace, and has yet to say that it is ready.
    owes_readiness: bool,
}

impl Executing {
    /// Hears what the process says next, for which it waits. `Some` once its program runs.
    pub fn advance(&mut self) -> Result<Option<Executed>, StartError> {
        if !self.owes_terminal && !self.owes_readiness {
            let runs = self.starting.advance()?;
            return Ok(self.executed.take_if(|_| runs));
        }
        let gate = self.starting.gate();
        let executed = self.executed.as_mut().ok_or(StartError::Twice)?;
        match gate.next().map_err(CreateError::Channel)? {
            Some(Word::Terminal(master)) if self.owes_terminal => {
                executed.streams.console = Some(master);
                self.owes_terminal = false;
            }
            Some(Word::Ready) if self.owes_readiness => {
                let (pid, streams) = (executed.pid, &executed.streams);
                user_namespace::hand_over(pid, &self.process, streams)
                    .map_err(CreateError::Setup)?;
                gate.send_order(Order::Start)
                    .map_err(CreateError::Channel)?;
                self.owes_readiness = false;
            }
            Some(Word::Failed(failure)) => return Err(start_error(failure)),
            _ => return Err(CreateError::Died.into()),
        }
        Ok(None)
    }
}

impl AsFd for Executing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.starting.as_fd()
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        if let Some(executed) = &self.executed {
            end(executed.pidfd.as_fd());
        }
    }
}

/// Runs `exec` in the namespaces of the process `init`; returns once its program runs.
///
/// Forks the calling thread: call it from a program with one thread.
pub fn exec(
    init: BorrowedFd<'_>,
    init_pid: i32,
    exec: &ExecProcess,
    stdio: Stdio,
) -> Result<Executed, StartError> {
    exec_with(init, init_pid, exec, stdio, 0)
}

/// [`exec`] that hands so many descriptors from 3 up to the program.
pub fn exec_with(
    init: BorrowedFd<'_>,
    init_pid: i32,
    exec: &ExecProcess,
    stdio: Stdio,
    preserve_fds: i32,
) -> Result<Executed, StartError> {
    let mut executing = begin_exec(init, init_pid, exec, stdio, preserve_fds)?;
    loop {
        if let Some(executed) = executing.advance()? {
            return Ok(executed);
        }
    }
}

/// [`exec_with`] without waiting for the program.
pub fn begin_exec(
    init: BorrowedFd<'_>,
    init_pid: i32,
    exec: &ExecProcess,
    stdio: Stdio,
    preserve_fds: i32,
) -> Result<Executing, StartError> {
    let mut process = Process::new(&exec.process)?;
    process
        .attributes
        .of_container(exec.personality.as_ref(), exec.memory_policy.as_ref())?;
    let filter = filter(exec.seccomp.as_deref(), exec.profile.as_ref(), || State {
        status: Status::Running,
        pid: init_pid,
        ..exec.state.clone().unwrap_or_else(State::unknown)
    })?;
    let cgroup = match exec.cgroup.as_str() {
        "" => None,
        path => Cgroup::of_running(path)
            .and_then(|cgroup| cgroup.map(|it| it.for_another(init_pid)).transpose())
            .map_err(CreateError::Cgroup)?,
    };
    let (child_stdio, streams) = prepare_stdio(stdio).map_err(CreateError::Stdio)?;
    let (gate, theirs) = channel::pair().map_err(CreateError::Stdio)?;

    // Not born in the cgroup where something is to be done before entering it.
    let within = cgroup
        .as_ref()
        .filter(|_| process.affinity.initial.is_none());
    let directory = within.and_then(Cgroup::clone_directory);
    let another = Another {
        common: Common {
            channel: &theirs,
            stdio: &child_stdio,
            seccomp: filter.as_ref(),
            cgroup: cgroup.as_ref(),
            born_inside: directory.is_some(),
            preserve_fds,
        },
        process: &process,
        init,
        namespaces: namespaces(exec, init_pid),
    };
    let foreign = another.in_user_namespace();
    let none = UnshareFlags::empty();
    let directory = directory.as_ref().map(|fd| fd.as_fd());
    let child = if foreign {
        sys::clone::spawn(none, directory, || child::intermediate_to(&another))
    } else {
        with_pid_namespace(Some(init), || {
            sys::clone::spawn(none, directory, || child::another(&another))
        })
    }
    .map_err(CreateError::Clone)?;
    drop(theirs);
    drop(child_stdio);
    let child = if foreign {
        sibling_of(&child, &gate)?
    } else {
        child
    };
    // From here on the child ends with it.
    let executing = Executing {
        executed: Some(Executed {
            pid: child.pid,
            pidfd: child.pidfd,
            streams,
        }),
        process,
        starting: Starting::new(gate),
        owes_terminal: matches!(stdio, Stdio::Terminal { .. }),
        owes_readiness: foreign,
    };
    if foreign {
        let gate = executing.starting.gate();
        gate.send_admitted(None).map_err(CreateError::Channel)?;
    }
    Ok(executing)
}

/// The namespaces of the container's process but for its pid namespace, which is a matter of birth,
/// and but for those that are the caller's too: an ordinary user may not even join those.
fn namespaces(exec: &ExecProcess, init_pid: i32) -> ThreadNameSpaceType {
    let lists = |kind| exec.namespaces.iter().any(|listed| listed.typ() == kind);
    let shared = [
        ("mnt", ThreadNameSpaceType::MOUNT),
        ("uts", ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
        ("ipc", ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
        ("net", ThreadNameSpaceType::NETWORK),
        ("cgroup", ThreadNameSpaceType::CONTROL_GROUP),
    ];
    let mut all = ThreadNameSpaceType::empty();
    for (file, kind) in shared {
        if !is_callers(file, init_pid) {
            all |= kind;
        }
    }
    if lists(oci::LinuxNamespaceType::User) {
        all |= ThreadNameSpaceType::USER;
    }
    if lists(oci::LinuxNamespaceType::Time) {
        all |= ThreadNameSpaceType::TIME;
    }
    all
}

/// Whether the process shares this namespace with the caller. What cannot be told is joined.
fn is_callers(file: &str, pid: i32) -> bool {
    let of = |process: &str| rustix::fs::stat(format!("/proc/{process}/ns/{file}"));
    match (of("self"), of(&pid.to_string())) {
        (Ok(own), Ok(its)) => (own.st_dev, own.st_ino) == (its.st_dev, its.st_ino),
        _ => false,
    }
}
