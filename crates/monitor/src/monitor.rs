//! The loop: what is waited for, and what each thing that happens leads to.
//!
//! One `poll` over everything, built anew for each turn from the state, so that no interest can be
//! forgotten: an output is read only while all its clients keep up, a client only while its process
//! takes input. A turn handles what is ready, then settles what follows from it.
//!
//! The end of the container, in this order: its output is drained into log and clients, the cgroup
//! goes, `exit.json` is renamed into place, the socket goes, watchers are told. Clients that
//! have not taken all their output yet are served to the end; then the monitor goes too.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runtime::cgroup::{Cgroup, OomWatch};
use runtime::{Created, StartError, Starting};
use rustix::event::{PollFd, PollFlags, Timespec};
use vocab::failure::chain;
use vocab::{ExecId, Failure, Kind};

use crate::connection::{Connection, Received, Role};
use crate::log::{Sink, Stream, blocks};
use crate::process::{self, Output, Plan, Process, Stage};
use crate::protocol::{
    self, Event, ExecStatus, Exit, FailureKind, MAX_EXECS, Reply, Request, State, Status, VERSION,
};
use crate::{client, exit};

/// How long the outputs of an ended process may stay open in other hands before its exit is told
/// anyway (dockerd waits as long for its streams).
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// After so much quiet, memory that only bursts need is given back.
const QUIET: Duration = Duration::from_secs(1);

/// How often a full log is looked at for room.
const ROOM_CHECK: Duration = Duration::from_millis(50);

/// Bytes read at a time: what a pipe holds.
const READ_BYTES: usize = 64 << 10;

/// Most that is read at once from the output of an ended process; more than a pipe or terminal
/// holds, so only one that somebody still writes to has more.
const DRAIN_BYTES: usize = 2 << 20;

/// Connections at a time; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 1024;

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// Something that was waited for. The numbers are places in the monitor's lists, which only grow
/// during a turn.
#[derive(Clone, Copy, Debug)]
enum Token {
    Listener,
    OutOfMemory,
    Starting(usize),
    Exit(usize),
    Output(usize, Stream),
    Input(usize),
    Connection(usize),
}

/// What the loop begins with.
pub(crate) struct Beginning {
    pub(crate) dir: PathBuf,
    pub(crate) listener: UnixListener,
    pub(crate) log: Sink,
    pub(crate) created: Created,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) stdin_once: bool,
    /// The container has a pid namespace of its own, so nothing outlives its first process.
    pub(crate) own_pids: bool,
}

pub(crate) struct Monitor {
    dir: PathBuf,
    monitor_pid: i32,
    /// Until the exit is recorded.
    listener: Option<UnixListener>,
    /// Until the start.
    gate: Option<Created>,
    /// From then until the program runs.
    starting: Option<Starting>,
    log: Sink,
    cgroup: Option<Cgroup>,
    oom: Option<OomWatch>,
    /// Kills that watchers were told of.
    oom_kills: u64,
    stdin_once: bool,
    own_pids: bool,
    /// The container's own first, then commands in the order they were planned.
    processes: Vec<Process>,
    connections: Vec<Connection>,
    /// Why the container never ran, and the exit code for it.
    failure: Option<(i32, String)>,
    /// Nanoseconds since 1970 at which the first process was reaped.
    ended_at: u64,
    /// The exit is recorded and told.
    over: bool,
    buffer: Vec<u8>,
    /// Something happened since memory was last given back.
    busy: bool,
}

/// Why a request was not done.
struct Refusal {
    kind: FailureKind,
    message: String,
}

/// When a request is answered.
enum Answer {
    Now(Reply),
    /// Once this process's program runs, or does not.
    OnceRuns(Option<ExecId>),
}

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Refused,
            message: message.into(),
        }
    }
}

impl From<Refusal> for Reply {
    fn from(Refusal { kind, message }: Refusal) -> Self {
        Self::Failed { kind, message }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self {
            kind: FailureKind::Other,
            message: chain(&error),
        }
    }
}

impl From<&StartError> for Refusal {
    fn from(error: &StartError) -> Self {
        let kind = match error {
            StartError::NotFound(_) => FailureKind::NotFound,
            StartError::NotExecutable(_) => FailureKind::NotExecutable,
            StartError::Twice => FailureKind::Refused,
            StartError::Create(_) if error.kind() == Kind::InvalidArgument => FailureKind::Invalid,
            StartError::Create(_) => FailureKind::Other,
        };
        Self {
            kind,
            message: chain(error),
        }
    }
}

impl Monitor {
    /// Takes over a created container, and says so on the control socket.
    pub(crate) fn new(control: UnixStream, beginning: Beginning) -> io::Result<Self> {
        let mut created = beginning.created;
        let pid = created.pid;
        let pidfd = created.pidfd.try_clone()?;
        let init = Process::running(pid, pidfd, std::mem::take(&mut created.streams))?;
        let monitor_pid = rustix::process::getpid().as_raw_nonzero().get();
        let mut control = Connection::new(control, true)?;
        control.send(&Reply::Created { pid, monitor_pid });
        beginning.listener.set_nonblocking(true)?;
        let oom = beginning
            .cgroup
            .as_ref()
            .and_then(|cgroup| cgroup.watch_oom().ok());
        Ok(Self {
            dir: beginning.dir,
            monitor_pid,
            listener: Some(beginning.listener),
            gate: Some(created),
            starting: None,
            log: beginning.log,
            cgroup: beginning.cgroup,
            oom,
            oom_kills: 0,
            stdin_once: beginning.stdin_once,
            own_pids: beginning.own_pids,
            processes: vec![init],
            connections: vec![control],
            failure: None,
            ended_at: 0,
            over: false,
            buffer: Vec::new(),
            // Creating a container needs memory, too.
            busy: true,
        })
    }

    /// Goes on until the exit is recorded and everybody has been told.
    pub(crate) fn run(&mut self) {
        while !self.over || !self.connections.is_empty() {
            let ready = self.wait();
            self.busy |= !ready.is_empty();
            for (token, flags) in ready {
                self.handle(token, flags);
            }
            self.settle();
        }
    }

    /// What is ready, at least one thing unless time has passed that matters.
    fn wait(&mut self) -> Vec<(Token, PollFlags)> {
        let mut tokens = Vec::new();
        let mut fds = Vec::new();
        let mut watch = |token, fd| {
            tokens.push(token);
            fds.push(fd);
        };
        if let Some(listener) = &self.listener
            && self.connections.len() < MAX_CONNECTIONS
        {
            watch(Token::Listener, PollFd::new(listener, PollFlags::IN));
        }
        if let Some(oom) = &self.oom {
            watch(Token::OutOfMemory, PollFd::new(oom, PollFlags::IN));
        }
        if let Some(starting) = &self.starting {
            watch(Token::Starting(0), PollFd::new(starting, PollFlags::IN));
        }
        for (place, process) in self.processes.iter().enumerate() {
            if let Some(fd) = process.starting_fd() {
                let token = Token::Starting(place);
                watch(token, PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
            if let Some(fd) = process.exit_fd() {
                watch(
                    Token::Exit(place),
                    PollFd::from_borrowed_fd(fd, PollFlags::IN),
                );
            }
            for stream in STREAMS {
                let held_back = || {
                    let of = process.exec;
                    let mut connections = self.connections.iter();
                    connections.any(|client| client.wants(of, stream) && client.is_full())
                };
                let log_full = process.exec.is_none() && self.log.is_full();
                if let Some(fd) = process.output_fd(stream)
                    && !log_full
                    && !held_back()
                {
                    let token = Token::Output(place, stream);
                    watch(token, PollFd::from_borrowed_fd(fd, PollFlags::IN));
                }
            }
            if process.has_input()
                && let Some(fd) = process.input_fd()
            {
                watch(
                    Token::Input(place),
                    PollFd::from_borrowed_fd(fd, PollFlags::OUT),
                );
            }
        }
        for (place, connection) in self.connections.iter().enumerate() {
            if connection.hung_up {
                continue;
            }
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::OUT, connection.waiting() > 0);
            flags.set(PollFlags::IN, self.listens_to(connection));
            watch(Token::Connection(place), PollFd::new(connection, flags));
        }

        let timeout = self.timeout();
        let timeout = timeout.map(|time| Timespec::try_from(time).expect("a few seconds fit"));
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) => {
                self.relax();
                Vec::new()
            }
            Ok(_) => {
                let flags = fds.iter().map(PollFd::revents);
                let ready = tokens.into_iter().zip(flags);
                ready.filter(|(_, flags)| !flags.is_empty()).collect()
            }
            // EINTR or a want of kernel memory: both pass.
            Err(_) => Vec::new(),
        }
    }

    /// Whether anything from this client could be handled now.
    fn listens_to(&self, connection: &Connection) -> bool {
        match connection.role {
            // An answer that is not there, or not taken, holds the next request back.
            Role::Asking => {
                connection.awaits.is_none() && connection.waiting() == 0 && !connection.is_closing()
            }
            Role::Watching => true,
            Role::Attached { exec, stdin, .. } => {
                let takes = |place: usize| self.processes[place].takes_input();
                stdin && self.find(exec).is_none_or(takes)
            }
        }
    }

    /// How long nothing may happen before something is to be done.
    fn timeout(&self) -> Option<Duration> {
        let graces = self
            .processes
            .iter()
            .filter_map(|process| match process.stage {
                Stage::Ended { since, .. } => Some(DRAIN_GRACE.saturating_sub(since.elapsed())),
                _ => None,
            });
        let quiet = self.busy.then_some(QUIET);
        let full = self.log.is_full().then_some(ROOM_CHECK);
        graces.chain(quiet).chain(full).min()
    }

    fn relax(&mut self) {
        self.busy = false;
        self.buffer = Vec::new();
        self.log.relax();
        for connection in &mut self.connections {
            connection.relax();
        }
        sys::memory::trim_heap();
        // Where the stack cannot be told, its pages stay.
        let _ = sys::memory::release_stack();
    }

    fn handle(&mut self, token: Token, flags: PollFlags) {
        match token {
            Token::Listener => self.accept(),
            Token::OutOfMemory => {
                if let Some(oom) = &self.oom {
                    oom.drain();
                }
                self.tell_oom();
            }
            Token::Starting(place) => self.hear_of_start(place),
            Token::Exit(place) => self.reap(place),
            Token::Output(place, stream) => {
                self.copy_output(place, stream);
            }
            Token::Input(place) => self.processes[place].push_input(),
            Token::Connection(place) => {
                let connection = &mut self.connections[place];
                if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
                    // What it sent before is read while settling, perhaps over several turns.
                    connection.hang_up();
                    return;
                }
                if flags.contains(PollFlags::OUT) {
                    connection.flush();
                }
                if flags.contains(PollFlags::IN) {
                    self.hear(place);
                }
            }
        }
    }

    /// What follows from what happened.
    fn settle(&mut self) {
        for place in 0..self.connections.len() {
            while self.has_unheard(place) {
                self.hear(place);
            }
        }
        // Commands before the container itself, whose end is the last thing told.
        for place in (0..self.processes.len()).rev() {
            if let Stage::Ended { code, since } = self.processes[place].stage {
                let over = match self.processes[place].exec {
                    Some(_) => self.processes[place].is_drained(),
                    None => self.is_drained(),
                };
                if over || since.elapsed() >= DRAIN_GRACE {
                    self.finish(place, code);
                }
            }
        }
        self.flush_log();
        self.connections.retain(|connection| !connection.is_over());
        self.processes
            .retain(|process| !(process.forgotten && process.is_drained()));
        if self.gate.is_some() && !self.connections.iter().any(Connection::is_control) {
            self.abandon();
        }
    }

    /// Whether the container has nothing left that runs or is to be read.
    fn is_drained(&self) -> bool {
        let Some((init, commands)) = self.processes.split_first() else {
            return true;
        };
        init.is_drained() && !commands.iter().any(Process::is_running)
    }

    fn flush_log(&mut self) {
        if self.log.is_full() {
            self.log.make_room();
        }
        if let Err(error) = self.log.flush() {
            complain("write the log", &error);
        }
    }

    fn find(&self, exec: Option<ExecId>) -> Option<usize> {
        let mut processes = self.processes.iter();
        processes.position(|process| process.exec == exec && !process.forgotten)
    }

    fn found(&self, exec: Option<ExecId>) -> Result<usize, Refusal> {
        self.find(exec)
            .ok_or_else(|| Refusal::new("there is no such command"))
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        while self.connections.len() < MAX_CONNECTIONS
            && let Ok((socket, _)) = listener.accept()
        {
            match Connection::new(socket, false) {
                Ok(connection) => self.connections.push(connection),
                Err(error) => complain("accept a connection", &error),
            }
        }
    }

    // Output.

    fn copy_output(&mut self, place: usize, stream: Stream) -> Output {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(READ_BYTES, 0);
        let process = &mut self.processes[place];
        let exec = process.exec;
        let output = process.read(stream, &mut buffer);
        match output {
            Output::Bytes(bytes) => {
                let bytes = &buffer[..bytes];
                if exec.is_none() {
                    self.log
                        .append(stream, bytes, blocks::nanoseconds(SystemTime::now()));
                }
                for connection in &mut self.connections {
                    if connection.wants(exec, stream) {
                        connection.send_chunk(stream, bytes);
                    }
                }
            }
            Output::End if exec.is_none() => {
                self.log.end(stream, blocks::nanoseconds(SystemTime::now()));
            }
            Output::End | Output::Nothing => {}
        }
        self.buffer = buffer;
        output
    }

    // Input and requests.

    /// Whether something is left to be read that `poll` does not tell of.
    fn has_unheard(&self, place: usize) -> bool {
        let connection = &self.connections[place];
        let left = match connection.role {
            Role::Attached { stdin: true, .. } => {
                (connection.hung_up || !connection.received.is_empty())
                    && self.listens_to(connection)
            }
            _ => connection.hung_up,
        };
        left && !connection.is_over()
    }

    /// Reads from a connection once.
    fn hear(&mut self, place: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(READ_BYTES, 0);
        let connection = &mut self.connections[place];
        let received = match connection.role {
            Role::Attached { stdin: false, .. } => Received::End,
            Role::Attached { .. } if !connection.received.is_empty() => {
                buffer = std::mem::take(&mut connection.received);
                Received::Bytes(buffer.len())
            }
            _ => connection.receive(&mut buffer),
        };
        match (connection.role, received) {
            (_, Received::Nothing) if connection.hung_up => connection.gone = true,
            (_, Received::Nothing) => {}
            (Role::Asking, Received::Bytes(bytes)) => {
                connection.received.extend_from_slice(&buffer[..bytes]);
                self.answer_all(place);
            }
            (Role::Attached { exec, .. }, Received::Bytes(bytes)) => {
                if let Some(process) = self.find(exec) {
                    self.processes[process].give(&buffer[..bytes]);
                }
            }
            (Role::Attached { exec, stdin, .. }, Received::End) => {
                let vanished = connection.hung_up;
                connection.input_ended();
                connection.gone |= vanished;
                // Nobody else will ever reach a command's input.
                let ends = exec.is_some() || (self.stdin_once && !vanished);
                if stdin
                    && ends
                    && let Some(process) = self.find(exec)
                {
                    self.processes[process].end_input();
                }
            }
            // A watcher has nothing more to say.
            (Role::Asking, Received::End) | (Role::Watching, _) => connection.gone = true,
        }
        self.buffer = buffer;
    }

    /// Answers the requests that were received completely.
    fn answer_all(&mut self, place: usize) {
        loop {
            let connection = &mut self.connections[place];
            if connection.role != Role::Asking || connection.awaits.is_some() {
                return;
            }
            match protocol::decode::<Request>(&connection.received) {
                Ok(None) => return,
                Ok(Some((request, used))) => {
                    connection.received.drain(..used);
                    self.answer(place, request);
                }
                Err(error) => {
                    connection.received.clear();
                    connection.send(&Reply::from(Refusal::new(chain(&error))));
                    connection.close();
                    return;
                }
            }
        }
    }

    fn answer(&mut self, place: usize, request: Request) {
        let reply = match self.obey(place, request) {
            Ok(Answer::Now(reply)) => reply,
            Ok(Answer::OnceRuns(process)) => {
                self.connections[place].awaits = Some(process);
                return;
            }
            Err(refusal) => refusal.into(),
        };
        let connection = &mut self.connections[place];
        connection.send(&reply);
        connection.changed_role();
        if connection.role == Role::Watching {
            for process in &self.processes {
                if let (Some(id), Stage::Over { code }) = (process.exec, &process.stage) {
                    connection.send(&Event::ExecExited { id, code: *code });
                }
            }
        }
    }

    fn obey(&mut self, place: usize, request: Request) -> Result<Answer, Refusal> {
        match request {
            Request::Hello { version: _ } => {
                return Ok(Answer::Now(Reply::Hello { version: VERSION }));
            }
            Request::Start => {
                self.start()?;
                return Ok(Answer::OnceRuns(None));
            }
            Request::Status => return Ok(Answer::Now(Reply::Status(self.status()))),
            Request::ExecStart { id } => {
                self.start_command(id)?;
                return Ok(Answer::OnceRuns(Some(id)));
            }
            Request::Signal { exec, signal } => {
                let process = self.found(exec)?;
                self.processes[process].signal(signal)?;
            }
            Request::Resize {
                exec,
                rows,
                columns,
            } => {
                let process = self.found(exec)?;
                self.processes[process].resize(rows, columns)?;
            }
            Request::Exec {
                id,
                process,
                terminal,
                stdin,
            } => {
                let process = *process;
                self.plan_command(
                    id,
                    Plan {
                        process,
                        terminal,
                        stdin,
                    },
                )?;
            }
            Request::ForgetExec { id } => self.forget_command(id)?,
            Request::CloseStdin { exec } => {
                let process = self.found(exec)?;
                self.processes[process].end_input();
            }
            Request::Attach {
                exec,
                stdin,
                stdout,
                stderr,
            } => {
                let process = self.found(exec)?;
                if let Stage::Ended { .. } | Stage::Over { .. } = self.processes[process].stage {
                    return Err(Refusal::new("the command has ended"));
                }
                self.connections[place].next_role = Some(Role::Attached {
                    exec,
                    stdin,
                    stdout,
                    stderr,
                });
            }
            Request::Watch => self.connections[place].next_role = Some(Role::Watching),
        }
        Ok(Answer::Now(Reply::Ok))
    }

    fn start(&mut self) -> Result<(), Refusal> {
        let Some(mut created) = self.gate.take() else {
            return Err(Refusal::new("the container was started before"));
        };
        match created.begin() {
            Ok(starting) => self.starting = Some(starting),
            Err(error) => return Err(self.not_started(&error)),
        }
        Ok(())
    }

    fn not_started(&mut self, error: &StartError) -> Refusal {
        self.failure = Some((error.exit_code(), chain(error)));
        Refusal::from(error)
    }

    /// The next step of a start; who asked for it is answered with the last.
    fn hear_of_start(&mut self, place: usize) {
        let exec = self.processes[place].exec;
        let reply = match exec {
            None => self.hear_of_container(),
            Some(id) => self.hear_of_command(place, id),
        };
        let Some(reply) = reply else {
            return;
        };
        let awaits = |connection: &Connection| connection.awaits == Some(exec);
        if let Some(place) = self.connections.iter().position(awaits) {
            let connection = &mut self.connections[place];
            connection.awaits = None;
            connection.send(&reply);
            self.answer_all(place);
        }
    }

    fn hear_of_container(&mut self) -> Option<Reply> {
        let heard = self.starting.as_mut()?.advance();
        if let Ok(false) = heard {
            return None;
        }
        self.starting = None;
        Some(match heard {
            Ok(_) => Reply::Started {
                pid: self.processes[0].pid,
            },
            Err(error) => self.not_started(&error).into(),
        })
    }

    fn hear_of_command(&mut self, place: usize, id: ExecId) -> Option<Reply> {
        let command = &mut self.processes[place];
        let Stage::Starting(executing) = &mut command.stage else {
            return None;
        };
        let refusal = match executing.advance() {
            Ok(None) => return None,
            Ok(Some(executed)) => {
                let pid = executed.pid;
                match command.started(pid, executed.pidfd, executed.streams) {
                    Ok(()) => return Some(Reply::Started { pid }),
                    Err(error) => Refusal::from(error),
                }
            }
            Err(error) => {
                command.forgotten = true;
                self.close_attached(Some(id));
                Refusal::from(&error)
            }
        };
        Some(refusal.into())
    }

    /// Nobody is left who would start the container.
    fn abandon(&mut self) {
        self.gate = None;
        let why = "whoever created the container went away before starting it";
        self.failure = Some((FailureKind::Other.exit_code(), why.to_owned()));
    }

    fn status(&self) -> Status {
        let waits = self.gate.is_some() || self.starting.is_some();
        let state = match (waits, &self.processes[0].stage) {
            (true, _) => State::Created,
            (false, Stage::Running) => State::Running,
            (false, _) => State::Ending,
        };
        let commands = self.processes.iter().filter(|process| !process.forgotten);
        let execs = commands.filter_map(|process| {
            Some(ExecStatus {
                id: process.exec?,
                pid: (process.pid != 0).then_some(process.pid),
                code: match process.stage {
                    Stage::Ended { code, .. } | Stage::Over { code } => Some(code),
                    Stage::Planned(_) | Stage::Starting(_) | Stage::Running => None,
                },
            })
        });
        Status {
            pid: self.processes[0].pid,
            monitor_pid: self.monitor_pid,
            state,
            execs: execs.collect(),
        }
    }

    // Commands.

    fn plan_command(&mut self, id: ExecId, plan: Plan) -> Result<(), Refusal> {
        if self.find(Some(id)).is_some() {
            return Err(Refusal::new("there is a command of this name"));
        }
        let commands = || self.processes.iter().filter(|process| !process.forgotten);
        // The container itself is one of them.
        if commands().count() > MAX_EXECS {
            let over = |process: &Process| matches!(process.stage, Stage::Over { .. });
            match self.processes.iter_mut().find(|process| over(process)) {
                Some(oldest) => oldest.forgotten = true,
                None => return Err(Refusal::new(format!("{MAX_EXECS} commands run already"))),
            }
        }
        self.processes.push(Process::plan(id, plan));
        Ok(())
    }

    fn start_command(&mut self, id: ExecId) -> Result<(), Refusal> {
        let place = self.found(Some(id))?;
        let (init, commands) = self.processes.split_at_mut(1);
        let (init, command) = (&init[0], &mut commands[place - 1]);
        let Stage::Planned(plan) = &command.stage else {
            return Err(Refusal::new("the command was started before"));
        };
        let waits = self.gate.is_some() || self.starting.is_some();
        let (Some(pidfd), true, false) = (init.exit_fd(), init.is_running(), waits) else {
            return Err(Refusal::new("the container is not running"));
        };
        let stdio = process::stdio(plan.terminal, plan.stdin);
        match runtime::begin_exec(pidfd, init.pid, &plan.process, stdio, 0) {
            Ok(executing) => {
                command.stage = Stage::Starting(Box::new(executing));
                Ok(())
            }
            Err(error) => {
                command.forgotten = true;
                self.close_attached(Some(id));
                Err(Refusal::from(&error))
            }
        }
    }

    fn forget_command(&mut self, id: ExecId) -> Result<(), Refusal> {
        let place = self.found(Some(id))?;
        let command = &mut self.processes[place];
        if command.is_running() {
            return Err(Refusal::new("the command is running"));
        }
        command.forgotten = true;
        self.close_attached(Some(id));
        Ok(())
    }

    /// The process will not say more.
    fn close_attached(&mut self, exec: Option<ExecId>) {
        for connection in &mut self.connections {
            if connection.is_attached_to(exec) {
                connection.close();
            }
        }
    }

    // Ends.

    fn reap(&mut self, place: usize) {
        if self.processes[place].reap().is_none() {
            return;
        }
        // Who asked for the start is told of it before the end.
        while place == 0 && self.starting.is_some() {
            self.hear_of_start(place);
        }
        if self.processes[place].exec.is_none() {
            self.ended_at = nanoseconds_now();
            if !self.own_pids
                && let Some(cgroup) = &self.cgroup
                && let Err(error) = cgroup.kill_all()
            {
                complain("end the container's other processes", &error);
            }
        }
        for stream in STREAMS {
            let mut left = DRAIN_BYTES;
            while let Output::Bytes(bytes) = self.copy_output(place, stream) {
                left = left.saturating_sub(bytes);
                if left == 0 {
                    break;
                }
            }
        }
    }

    fn finish(&mut self, place: usize, code: i32) {
        let process = &mut self.processes[place];
        process.stage = Stage::Over { code };
        match process.exec {
            None => self.finish_container(code),
            Some(id) => {
                self.tell(&Event::ExecExited { id, code });
                self.close_attached(Some(id));
            }
        }
    }

    fn finish_container(&mut self, code: i32) {
        for stream in STREAMS {
            self.log.end(stream, blocks::nanoseconds(SystemTime::now()));
        }
        self.flush_log();
        self.tell_oom();
        self.oom = None;
        if let Some(cgroup) = self.cgroup.take()
            && let Err(error) = cgroup.remove()
        {
            complain("remove the cgroup", &error);
        }
        let (code, error) = match self.failure.take() {
            Some((code, why)) => (code, Some(why)),
            None => (code, None),
        };
        let exit = Exit {
            code,
            oom_killed: self.oom_kills > 0,
            at: self.ended_at,
            error,
        };
        if let Err(error) = exit::record(&self.dir, &exit) {
            complain("record the exit", &error);
        }
        self.listener = None;
        if let Err(error) = fs::remove_file(self.dir.join(client::SOCKET)) {
            complain("remove the socket", &error);
        }
        self.tell(&Event::Exited(exit));
        for connection in &mut self.connections {
            connection.close();
        }
        self.gate = None;
        self.processes.clear();
        self.over = true;
    }

    fn tell_oom(&mut self) {
        let Some(cgroup) = &self.cgroup else { return };
        match cgroup.oom_kills() {
            Ok(kills) if kills > self.oom_kills => {
                self.oom_kills = kills;
                self.tell(&Event::OutOfMemory);
            }
            Ok(_) => {}
            Err(error) => complain("count the kills for want of memory", &error),
        }
    }

    fn tell(&mut self, event: &Event) {
        for connection in &mut self.connections {
            if connection.role == Role::Watching {
                connection.send(event);
            }
        }
    }
}

/// The moment, as log lines carry it.
fn now() -> String {
    vocab::time::rfc3339_nano(SystemTime::now())
}

fn nanoseconds_now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Leaves word in `monitor.log`: a monitor has nobody to return an error to.
pub(crate) fn complain(what: &str, error: &(dyn std::error::Error + 'static)) {
    let _ = writeln!(io::stderr(), "{} {what}: {}", now(), chain(error));
}
