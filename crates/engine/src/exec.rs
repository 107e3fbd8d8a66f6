//! Commands started inside running containers.

use std::collections::HashMap;
use std::future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use monitor::protocol::{FailureKind, Reply, Request};
use tokio::sync::{Notify, oneshot};
use vocab::{ContainerId, ExecId, Failure, Kind};

use crate::Engine;
use crate::attach::{Attached, attached};
use crate::containers::index::View;
use crate::containers::launch;
use crate::containers::link::{self, LinkError};
use crate::containers::record::Record;
use crate::containers::state::Phase;
use crate::containers::{FindError, launch::hostname};
use crate::detach::{DetachKeys, KeysError};
use crate::endpoints::Mode;
use crate::events::{Events, container as announce};
use crate::shared::{Shared, lock};
use crate::spec::security::Security;
use crate::spec::{self, CheckError, SeccompError, UserError, environment, user};

/// A command that is wanted.
#[derive(Clone, Debug, Default)]
pub struct CreateExec {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// `KEY=value`, added to the container's.
    pub env: Vec<String>,
    /// `user[:group]`; the container's when absent.
    pub user: Option<String>,
    /// The container's when absent.
    pub working_dir: Option<String>,
    /// All capabilities.
    pub privileged: bool,
    /// On a terminal.
    pub tty: bool,
    /// With input.
    pub attach_stdin: bool,
    /// With stdout.
    pub attach_stdout: bool,
    /// With stderr.
    pub attach_stderr: bool,
    /// Keys that detach.
    pub detach_keys: Option<String>,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
}

/// How a command is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartExec {
    /// Without a client.
    pub detach: bool,
    /// Rows and columns, when not those given at creation.
    pub console_size: Option<(u16, u16)>,
}

/// What `inspect` shows of a command.
#[derive(Clone, Debug)]
pub struct ExecDetails {
    /// Its id.
    pub id: ExecId,
    /// Its container.
    pub container: ContainerId,
    /// What was wanted.
    pub wanted: CreateExec,
    /// Whether it runs.
    pub running: bool,
    /// Once it has ended, or failed to start (126, 127).
    pub exit_code: Option<i32>,
    /// On the host; 0 before the start.
    pub pid: i32,
    /// Whether its stdin can be written to.
    pub can_remove: bool,
}

/// Why a command was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateExecError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Nothing to run.
    #[error("No exec command specified")]
    NoCommand,
    /// The container does not run.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// The container is paused.
    #[error("Container {0} is paused, unpause the container before exec")]
    Paused(String),
    /// The detach keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Too many commands are waiting or running.
    #[error("container {0} has {EXECS_MAX} commands already")]
    TooMany(ContainerId),
}

impl Failure for CreateExecError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::NoCommand | Self::Keys(_) => Kind::InvalidArgument,
            Self::NotRunning(_) | Self::Paused(_) | Self::TooMany(_) => Kind::Conflict,
        }
    }
}

/// No such command.
#[derive(Debug, thiserror::Error)]
#[error("No such exec instance: {0}")]
pub struct FindExecError(pub String);

impl Failure for FindExecError {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }
}

/// Why a command did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartExecError {
    /// No such command.
    #[error(transparent)]
    Find(#[from] FindExecError),
    /// It was started before.
    #[error("exec command {0} is already running")]
    Running(ExecId),
    /// It has ended.
    #[error("exec command {0} has already run")]
    Over(ExecId),
    /// Its container does not run any more.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// Its container is paused.
    #[error("Container {0} is paused, unpause the container before exec")]
    Paused(ContainerId),
    /// Its user is not there.
    #[error(transparent)]
    User(UserError),
    /// The container's users cannot be read.
    #[error("read /etc/passwd and /etc/group of the container")]
    Accounts(#[source] std::io::Error),
    /// An option cannot be.
    #[error(transparent)]
    Check(CheckError),
    /// Its system call filter.
    #[error(transparent)]
    Seccomp(SeccompError),
    /// The monitor did not.
    #[error("exec in the container")]
    Monitor(#[from] LinkError),
    /// It could not be executed. To an attached client this is output, not a failed request: the
    /// face upgrades the connection and writes the text there.
    #[error("OCI runtime exec failed: exec failed: unable to start container process: {message}")]
    Launch {
        /// 126, 127 or 128: what the exec's `ExitCode` became.
        code: i32,
        /// What the runtime said.
        message: String,
    },
}

impl Failure for StartExecError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Running(_) | Self::Over(_) | Self::NotRunning(_) | Self::Paused(_) => {
                Kind::Conflict
            }
            Self::User(error) => error.kind(),
            Self::Check(error) => error.kind(),
            Self::Seccomp(error) => error.kind(),
            Self::Accounts(_) | Self::Monitor(_) => Kind::Internal,
            Self::Launch { .. } => Kind::InvalidArgument,
        }
    }
}

/// How long the end of a command's output waits for the word of its end: the monitor tells both, on
/// two connections.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);

/// Commands of one container that are remembered; the oldest that have ended go first.
const EXECS_MAX: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Waiting,
    Starting,
    Running { pid: i32 },
    Over { code: i32 },
}

#[derive(Debug)]
struct Entry {
    container: ContainerId,
    number: u64,
    wanted: Arc<CreateExec>,
    progress: Progress,
}

/// Commands of all containers.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    entries: Mutex<(u64, HashMap<ExecId, Entry>)>,
    /// Rung when commands have ended.
    ended: Notify,
}

impl Execs {
    fn create(&self, container: ContainerId, wanted: CreateExec) -> Option<ExecId> {
        let id = ExecId::random();
        let (number, entries) = &mut *lock(&self.entries);
        let of_container = entries
            .values()
            .filter(|entry| entry.container == container);
        if of_container.count() >= EXECS_MAX {
            let over = |(_, entry): &(&ExecId, &Entry)| {
                entry.container == container && matches!(entry.progress, Progress::Over { .. })
            };
            let oldest = entries
                .iter()
                .filter(over)
                .min_by_key(|(_, entry)| entry.number);
            let oldest = oldest.map(|(id, _)| *id)?;
            entries.remove(&oldest);
        }
        *number += 1;
        let entry = Entry {
            container,
            number: *number,
            wanted: Arc::new(wanted),
            progress: Progress::Waiting,
        };
        entries.insert(id, entry);
        Some(id)
    }

    /// Commands that an earlier engine started: nothing is known of them but that they run.
    pub(crate) fn adopt(&self, container: ContainerId, id: ExecId, pid: i32) {
        let (number, entries) = &mut *lock(&self.entries);
        *number += 1;
        entries.insert(
            id,
            Entry {
                container,
                number: *number,
                wanted: Arc::default(),
                progress: Progress::Running { pid },
            },
        );
    }

    fn find(
        &self,
        typed: &str,
    ) -> Result<(ExecId, ContainerId, Arc<CreateExec>, Progress), FindExecError> {
        let missing = || FindExecError(typed.to_owned());
        let entries = &lock(&self.entries).1;
        let found = match typed.parse::<ExecId>() {
            Ok(id) => entries.get_key_value(&id),
            Err(_) if typed.is_empty() => None,
            Err(_) => {
                let mut matches = entries
                    .iter()
                    .filter(|(id, _)| id.to_string().starts_with(typed));
                matches.next().filter(|_| matches.next().is_none())
            }
        };
        let (id, entry) = found.ok_or_else(missing)?;
        Ok((
            *id,
            entry.container,
            Arc::clone(&entry.wanted),
            entry.progress,
        ))
    }

    /// Moves on; answers whether the command was where the caller thought.
    fn step(&self, id: &ExecId, from: Progress, to: Progress) -> bool {
        match lock(&self.entries).1.get_mut(id) {
            Some(entry) if entry.progress == from => {
                entry.progress = to;
                true
            }
            _ => false,
        }
    }

    /// Waits until the command's end is on record, or it is forgotten.
    async fn recorded(&self, id: &ExecId) {
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            let over = match lock(&self.entries).1.get(id) {
                Some(entry) => matches!(entry.progress, Progress::Over { .. }),
                None => true,
            };
            if over {
                return;
            }
            ended.await;
        }
    }

    /// A monitor told that a command has ended.
    pub(crate) fn exited(
        &self,
        events: &Events,
        record: &Record,
        name: &str,
        id: ExecId,
        code: i32,
    ) {
        if let Some(entry) = lock(&self.entries).1.get_mut(&id) {
            entry.progress = Progress::Over { code };
        }
        self.ended.notify_waiters();
        let more = [("execID", id.to_string()), ("exitCode", code.to_string())];
        announce::happened(events, "exec_die", record, name, &more);
    }

    /// The container has ended, and with it all its commands.
    pub(crate) fn container_ended(&self, container: &ContainerId) {
        const KILLED: i32 = 137;
        lock(&self.entries).1.retain(|_, entry| {
            if entry.container == *container
                && matches!(
                    entry.progress,
                    Progress::Running { .. } | Progress::Starting
                )
            {
                entry.progress = Progress::Over { code: KILLED };
            }
            // Those that never ran have nothing to tell.
            entry.container != *container || entry.progress != Progress::Waiting
        });
        self.ended.notify_waiters();
    }

    /// The container is gone, and with it all its commands.
    pub(crate) fn forget(&self, container: &ContainerId) {
        lock(&self.entries)
            .1
            .retain(|_, entry| entry.container != *container);
        self.ended.notify_waiters();
    }

    /// Those that run.
    pub(crate) fn running_in(&self, container: &ContainerId) -> Vec<ExecId> {
        let entries = &lock(&self.entries).1;
        let mut running: Vec<(u64, ExecId)> = entries
            .iter()
            .filter(|(_, entry)| {
                entry.container == *container && matches!(entry.progress, Progress::Running { .. })
            })
            .map(|(id, entry)| (entry.number, *id))
            .collect();
        running.sort_unstable();
        running.into_iter().map(|(_, id)| id).collect()
    }
}

/// Registers a command; the container must run.
pub(crate) fn create(
    shared: &Shared,
    typed: &str,
    wanted: CreateExec,
) -> Result<ExecId, CreateExecError> {
    let view = shared.index().find(typed)?.view();
    let id = view.record.id;
    match view.course.phase {
        Phase::Paused => return Err(CreateExecError::Paused(typed.to_owned())),
        phase if !phase.has_process() => return Err(CreateExecError::NotRunning(id)),
        _ => {}
    }
    if wanted.cmd.is_empty() {
        return Err(CreateExecError::NoCommand);
    }
    DetachKeys::read(wanted.detach_keys.as_deref())?;
    let action = format!("exec_create: {}", wanted.cmd.join(" "));
    let created = shared.execs.create(id, wanted);
    let exec = created.ok_or(CreateExecError::TooMany(id))?;
    let more = [("execID", exec.to_string())];
    announce::happened(&shared.events, &action, &view.record, &view.name, &more);
    Ok(exec)
}

/// Runs it. Attached unless `detach` says otherwise; no byte is lost in between.
pub(crate) async fn start(
    shared: &Arc<Shared>,
    id: &str,
    options: StartExec,
) -> Result<Option<Attached>, StartExecError> {
    let (id, container, wanted, progress) = shared.execs.find(id)?;
    let view = running_container(shared, container)?;
    match progress {
        Progress::Waiting => {}
        Progress::Over { .. } => return Err(StartExecError::Over(id)),
        Progress::Starting | Progress::Running { .. } => {
            return Err(StartExecError::Running(id));
        }
    }
    if !shared
        .execs
        .step(&id, Progress::Waiting, Progress::Starting)
    {
        return Err(StartExecError::Running(id));
    }
    let started = run(shared, id, &view, &wanted, options).await;
    if let Err(error) = &started {
        let code = match error {
            StartExecError::Launch { code, .. } => *code,
            _ => 126,
        };
        shared
            .execs
            .step(&id, Progress::Starting, Progress::Over { code });
    }
    started
}

async fn run(
    shared: &Arc<Shared>,
    id: ExecId,
    view: &Arc<View>,
    wanted: &Arc<CreateExec>,
    options: StartExec,
) -> Result<Option<Attached>, StartExecError> {
    let terminal = wanted.tty.then(|| {
        options
            .console_size
            .or(wanted.console_size)
            .unwrap_or_default()
    });
    let attach = !options.detach;
    let stdin = attach && wanted.attach_stdin;
    let dir = shared.run_dir(&view.record.id);
    let process = {
        let (shared, view, wanted) = (Arc::clone(shared), Arc::clone(view), Arc::clone(wanted));
        tasks::blocking(move || process(&shared, &view, &wanted)).await?
    };
    let registered = Request::Exec {
        id,
        process: Box::new(process),
        terminal,
        stdin,
    };
    let (mut link, _) = link::ask(&dir, &registered).await?;
    let stream = if attach {
        let request = Request::Attach {
            exec: Some(id),
            stdin,
            stdout: wanted.attach_stdout || wanted.tty,
            stderr: wanted.attach_stderr,
        };
        let dir = dir.clone();
        Some(tasks::blocking(move || launch::attach(&dir, &request)).await?)
    } else {
        None
    };
    let pid = match link::ask_on(&mut link, &dir, &Request::ExecStart { id }).await {
        Ok(Reply::Started { pid }) => pid,
        Ok(answer) => {
            return Err(link::unexpected(&dir, &answer).into());
        }
        Err(LinkError::Refused { kind, message }) if kind != FailureKind::Refused => {
            return Err(StartExecError::Launch {
                code: kind.exit_code(),
                message,
            });
        }
        Err(error) => return Err(error.into()),
    };
    // Its end may have been told before its start was.
    shared
        .execs
        .step(&id, Progress::Starting, Progress::Running { pid });
    let action = format!("exec_start: {}", wanted.cmd.join(" "));
    let more = [("execID", id.to_string())];
    announce::happened(&shared.events, &action, &view.record, &view.name, &more);
    Ok(stream.map(|stream| {
        let (sender, connected) = oneshot::channel();
        // The receiver is right here.
        let _ = sender.send(stream);
        let keys = wanted
            .tty
            .then(|| DetachKeys::read(wanted.detach_keys.as_deref()).ok())
            .flatten();
        let mut attached = attached(wanted.tty, connected, stdin, keys);
        // Clients ask for the exit code as soon as the output ends.
        let (shared, left) = (Arc::clone(shared), attached.detached());
        let recorded = async move {
            tokio::select! {
                () = left.cancelled() => {}
                () = shared.execs.recorded(&id) => {}
                () = tokio::time::sleep(RECORD_PATIENCE) => {}
            }
            None
        };
        let end = stream::once(recorded).filter_map(future::ready);
        attached.output = attached.output.chain(end).boxed();
        attached
    }))
}

fn running_container(shared: &Shared, id: ContainerId) -> Result<Arc<View>, StartExecError> {
    let view = match shared.index().get(&id) {
        Some(handle) => handle.view(),
        None => return Err(StartExecError::NotRunning(id)),
    };
    match view.course.phase {
        Phase::Paused => Err(StartExecError::Paused(id)),
        phase if !phase.has_process() => Err(StartExecError::NotRunning(id)),
        _ => Ok(view),
    }
}

/// What became of a command that ran.
pub(crate) fn exit_code(shared: &Shared, id: &ExecId) -> Option<i32> {
    match lock(&shared.execs.entries).1.get(id)?.progress {
        Progress::Over { code } => Some(code),
        _ => None,
    }
}

/// A command that is killed, and forgotten, when nobody waits for it any more.
pub(crate) struct Killed {
    shared: Arc<Shared>,
    container: ContainerId,
    id: ExecId,
}

impl Killed {
    pub(crate) fn new(shared: &Arc<Shared>, container: ContainerId, id: ExecId) -> Self {
        Self {
            shared: Arc::clone(shared),
            container,
            id,
        }
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        const SIGKILL: i32 = 9;
        let entry = lock(&self.shared.execs.entries).1.remove(&self.id);
        let over = entry.is_none_or(|entry| matches!(entry.progress, Progress::Over { .. }));
        if over {
            return;
        }
        let (dir, id) = (self.shared.run_dir(&self.container), self.id);
        self.shared.tasks.spawn("kill a command", async move {
            let request = Request::Signal {
                exec: Some(id),
                signal: SIGKILL,
            };
            if let Err(error) = link::ask(&dir, &request).await {
                let error = vocab::failure::chain(&error);
                tracing::debug!(%id, error, "kill a command");
            }
        });
    }
}

impl Engine {
    /// Registers a command; the container must run.
    pub async fn create_exec(
        &self,
        typed: &str,
        wanted: CreateExec,
    ) -> Result<ExecId, CreateExecError> {
        create(&self.shared, typed, wanted)
    }

    /// Runs it. Attached unless `detach` says otherwise; no byte is lost in between.
    pub async fn start_exec(
        &self,
        id: &str,
        options: StartExec,
    ) -> Result<Option<Attached>, StartExecError> {
        start(&self.shared, id, options).await
    }

    /// Sets the size of its terminal.
    pub async fn resize_exec(
        &self,
        id: &str,
        rows: u16,
        columns: u16,
    ) -> Result<(), StartExecError> {
        let (id, container, _, progress) = self.shared.execs.find(id)?;
        if let Progress::Over { .. } = progress {
            return Err(StartExecError::Over(id));
        }
        let view = running_container(&self.shared, container)?;
        let request = Request::Resize {
            exec: Some(id),
            rows,
            columns,
        };
        link::ask(&self.shared.run_dir(&view.record.id), &request).await?;
        Ok(())
    }

    /// What is known about it.
    pub async fn inspect_exec(&self, id: &str) -> Result<ExecDetails, FindExecError> {
        let (id, container, wanted, progress) = self.shared.execs.find(id)?;
        Ok(ExecDetails {
            id,
            container,
            wanted: (*wanted).clone(),
            running: matches!(progress, Progress::Running { .. }),
            exit_code: match progress {
                Progress::Over { code } => Some(code),
                _ => None,
            },
            pid: match progress {
                Progress::Running { pid } => pid,
                _ => 0,
            },
            can_remove: matches!(progress, Progress::Over { .. }),
        })
    }
}

/// What runs, as whom. Blocks.
fn process(
    shared: &Shared,
    view: &View,
    wanted: &CreateExec,
) -> Result<runtime::ExecProcess, StartExecError> {
    let record = &view.record;
    let accounts =
        spec::cache::accounts_of_process(view.course.pid).map_err(StartExecError::Accounts)?;
    let typed = wanted.user.as_deref().filter(|user| !user.is_empty());
    let identity = user::find(
        typed.unwrap_or(&record.config.user),
        match typed {
            // Docker gives the extra groups only to the container's own user.
            Some(_) => &[],
            None => record.host.group_add.as_deref().unwrap_or_default(),
        },
        &accounts.passwd,
        &accounts.group,
    )
    .map_err(StartExecError::User)?;
    let mut security = Security::of(&record.host, shared.config.no_new_privileges)
        .map_err(StartExecError::Check)?;
    let seccomp = if wanted.privileged {
        security.capabilities = runtime::capability::all();
        None
    } else {
        shared
            .cache
            .program(&security)
            .map_err(StartExecError::Seccomp)?
    };
    let mode = if record.host.network_mode == "host" {
        Mode::Host
    } else {
        Mode::Own(Vec::new())
    };
    let env = environment::of_exec(
        record.config.env.as_deref().unwrap_or_default(),
        &wanted.env,
        &hostname(record, &mode),
        wanted.tty,
        &identity.home,
    );
    let working_dir = wanted.working_dir.as_deref().filter(|dir| !dir.is_empty());
    let mut process = spec::process_of(
        &identity,
        wanted.cmd.clone(),
        env,
        working_dir.unwrap_or(&record.config.working_dir),
        wanted.tty,
        &security,
    );
    process
        .set_rlimits(Some(spec::limits::rlimits(
            record.host.resources.ulimits.as_deref().unwrap_or_default(),
            &shared.config.ulimits,
        )))
        .set_oom_score_adj(Some(record.host.oom_score_adj));
    Ok(runtime::ExecProcess {
        process,
        seccomp,
        profile: None,
        personality: None,
        memory_policy: None,
        state: None,
        cgroup: shared.cgroup(&record.id, &record.host.resources.cgroup_parent),
        namespaces: Vec::new(),
    })
}
