//! The one task that owns a container: it takes requests, watches the monitor, keeps time, and
//! does what the state machine says.

mod checking;
mod connecting;
mod deaf;

pub(crate) use connecting::open_namespace;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use monitor::protocol::{self, Exit, Reply, Request as Ask};
use runtime::cgroup::{Cgroup, CgroupError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use vocab::config::{EndpointSettings, RestartPolicy};
use vocab::failure;

use super::health::{Checked, HealthStatus, Plan};
use super::index::View;
use super::launch::{self, PendingAttach};
use super::link::{self, Link, LinkError};
use super::record::{BACKOFF_FIRST, Course, Record, from_nanos};
use super::state::{Action, After, Event, Illegal, Next, Phase};
use super::{
    KillError, PauseError, RemoveError, RenameError, StartError, StopError, UpdateError, remove,
};
use crate::db::{DbError, Durability};
use crate::endpoints::ConnectError;
use crate::events::container as announce;
use crate::logs::delivery::{self, Delivery};
use crate::networks::Record as Network;
use crate::shared::Shared;

const SIGKILL: i32 = 9;

/// Requests that wait at most.
pub(crate) const INBOX: usize = 64;

/// Pauses before restarts: the longest, and how long a container must run for the next pause to be
/// the first again (Docker's figures).
const BACKOFF_MAX: Duration = Duration::from_secs(60);
const BACKOFF_RESET: Duration = Duration::from_secs(10);

/// Time between SIGKILL and giving up on an answer.
const KILL_GRACE: Duration = Duration::from_secs(10);

type Answer<E> = oneshot::Sender<Result<(), E>>;

/// What is asked of a container.
#[derive(Debug)]
pub(crate) enum Request {
    Start(Answer<StartError>),
    Stop {
        signal: Option<i32>,
        grace: Option<Duration>,
        answer: Answer<StopError>,
    },
    Restart {
        signal: Option<i32>,
        grace: Option<Duration>,
        answer: Answer<StartError>,
    },
    Kill {
        signal: i32,
        answer: Answer<KillError>,
    },
    Pause(Answer<PauseError>),
    Unpause(Answer<PauseError>),
    Rename {
        name: String,
        answer: Answer<RenameError>,
    },
    Remove {
        force: bool,
        volumes: bool,
        answer: Answer<RemoveError>,
    },
    Update {
        update: Box<super::Update>,
        answer: Answer<UpdateError>,
    },
    Connect {
        network: Box<Network>,
        settings: Box<EndpointSettings>,
        answer: Answer<ConnectError>,
    },
    Disconnect {
        network: Box<Network>,
        answer: Answer<ConnectError>,
    },
    /// Gets a connection to the stdio of this run, or of the next.
    Attach(PendingAttach),
    /// Where its files are; `None` when they are going.
    Lend(oneshot::Sender<Option<Lent>>),
}

/// Where a container's files are.
#[derive(Debug)]
pub(crate) enum Lent {
    /// Where this process sees them.
    Process(i32),
    /// In its layers, and nothing happens to the container until the sender is dropped.
    Files(oneshot::Sender<std::convert::Infallible>),
}

/// What an owner begins with: for a restarted engine, what has to be finished.
#[derive(Debug)]
pub(crate) enum First {
    /// Nothing.
    Nothing,
    /// Something that did not get done.
    Event(Event),
    /// The process ended while nobody looked.
    Ended(Exit),
    /// A stop that was under way.
    Stop,
    /// The pause before a restart.
    Wait,
}

/// What the owner wakes up for.
enum Woken {
    Request(Option<Request>),
    Monitor(std::io::Result<Option<protocol::Event>>),
    Deadline,
    /// A check is due.
    Check,
    Checked(Option<Checked>),
    Cancelled,
}

/// A container, in the hands of its owner.
pub(crate) struct Owner {
    shared: Arc<Shared>,
    record: Arc<Record>,
    name: String,
    course: Course,
    exits: u64,
    /// Whether the end that is being settled is that of a process.
    died: bool,
    inbox: mpsc::Receiver<Request>,
    view: watch::Sender<Arc<View>>,
    /// Watches the monitor while there is a process.
    link: Option<Link>,
    deadline: Option<Instant>,
    starts: Vec<Answer<StartError>>,
    /// What those who asked for the start will hear, once everybody can see it.
    launched: Option<Result<(), StartError>>,
    stops: Vec<Answer<StopError>>,
    removes: Vec<Answer<RemoveError>>,
    attaches: Vec<PendingAttach>,
    /// How its health is checked.
    plan: Option<Arc<Plan>>,
    /// When it is the next time.
    check_at: Option<Instant>,
    /// The check that is under way.
    checking: Option<oneshot::Receiver<Checked>>,
    /// Of its log, if that goes to a remote sink.
    delivery: Option<Delivery>,
}

/// The ends that an owner is made with.
pub(crate) struct Ends {
    pub(crate) inbox: mpsc::Receiver<Request>,
    pub(crate) view: watch::Sender<Arc<View>>,
}

/// A handle and the owner's ends of it.
pub(crate) fn ends(
    record: &Arc<Record>,
    name: &str,
    course: &Course,
) -> (super::index::Handle, Ends) {
    let (requests, inbox) = mpsc::channel(INBOX);
    let (view, seen) = watch::channel(Arc::new(View {
        record: Arc::clone(record),
        name: name.to_owned(),
        course: course.clone(),
        exits: 0,
        gone: false,
    }));
    let handle = super::index::Handle {
        id: record.id,
        requests,
        view: seen,
    };
    (handle, Ends { inbox, view })
}

impl Owner {
    pub(crate) fn new(
        shared: Arc<Shared>,
        record: Arc<Record>,
        name: String,
        course: Course,
        ends: Ends,
        link: Option<Link>,
    ) -> Self {
        let plan = Plan::of(&record.config).map(Arc::new);
        let delivery = Delivery::begin(&shared, &record, &name, ends.view.subscribe());
        Self {
            shared,
            record,
            name,
            course,
            plan,
            check_at: None,
            checking: None,
            delivery,
            exits: 0,
            died: false,
            inbox: ends.inbox,
            view: ends.view,
            link,
            deadline: None,
            starts: Vec::new(),
            launched: None,
            stops: Vec::new(),
            removes: Vec::new(),
            attaches: Vec::new(),
        }
    }

    /// Runs until the container is removed or the engine shuts down.
    pub(crate) async fn drive(mut self, first: First) {
        let cancel = self.shared.tasks.cancel();
        match first {
            First::Nothing => {}
            First::Event(event) => self.advance(event).await,
            First::Ended(exit) => self.exited(&exit).await,
            First::Stop => {
                // It may be that of a paused container, which nobody has thawed yet.
                self.act(Action::Thaw).await;
                self.ask().await;
            }
            First::Wait => self.wait(),
        }
        self.schedule_check();
        while !self.view.borrow().gone {
            let link = async {
                match &mut self.link {
                    Some(link) => link.receive().await,
                    None => std::future::pending().await,
                }
            };
            let deadline = async {
                match self.deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let check = async {
                match (self.check_at, &mut self.checking) {
                    (_, Some(checking)) => Woken::Checked(checking.await.ok()),
                    (Some(at), None) => {
                        tokio::time::sleep_until(at).await;
                        Woken::Check
                    }
                    (None, None) => std::future::pending().await,
                }
            };
            let woken = tokio::select! {
                biased;
                event = link => Woken::Monitor(event),
                () = cancel.cancelled() => Woken::Cancelled,
                request = self.inbox.recv() => Woken::Request(request),
                () = deadline => Woken::Deadline,
                woken = check => woken,
            };
            match woken {
                Woken::Monitor(event) => self.hear(event).await,
                Woken::Request(Some(request)) => self.take(request).await,
                Woken::Deadline => self.time_is_up().await,
                Woken::Check => self.check(),
                Woken::Checked(checked) => self.checked(checked).await,
                Woken::Request(None) | Woken::Cancelled => return,
            }
        }
    }

    async fn take(&mut self, request: Request) {
        match request {
            Request::Start(answer) => self.start(answer).await,
            Request::Stop {
                signal,
                grace,
                answer,
            } => self.stop(signal, grace, answer).await,
            Request::Restart {
                signal,
                grace,
                answer,
            } => self.restart(signal, grace, answer).await,
            Request::Kill { signal, answer } => {
                let outcome = self.kill(signal).await;
                reply(answer, outcome);
            }
            Request::Pause(answer) => {
                let outcome = self.pause().await;
                reply(answer, outcome);
            }
            Request::Unpause(answer) => {
                let outcome = self.unpause().await;
                reply(answer, outcome);
            }
            Request::Rename { name, answer } => {
                let outcome = self.rename(name).await;
                reply(answer, outcome);
            }
            Request::Remove {
                force,
                volumes,
                answer,
            } => self.remove(force, volumes, answer).await,
            Request::Update { update, answer } => {
                let outcome = self.update(*update).await;
                reply(answer, outcome);
            }
            Request::Connect {
                network,
                settings,
                answer,
            } => {
                let outcome = self.connect(*network, *settings).await;
                reply(answer, outcome);
            }
            Request::Disconnect { network, answer } => {
                let outcome = self.disconnect(&network).await;
                reply(answer, outcome);
            }
            Request::Attach(pending) => {
                if self.course.phase.has_process() {
                    let dir = self.shared.run_dir(&self.record.id);
                    launch::connect_attaches(&dir, vec![pending]).await;
                } else {
                    self.attaches.retain(|waiting| !waiting.is_closed());
                    self.attaches.push(pending);
                }
            }
            Request::Lend(answer) => self.lend(answer).await,
        }
    }

    /// Tells where the files are, and waits until they are given back.
    async fn lend(&mut self, answer: oneshot::Sender<Option<Lent>>) {
        match self.course.phase {
            Phase::Removing | Phase::Dead => drop(answer.send(None)),
            phase if phase.has_process() => {
                drop(answer.send(Some(Lent::Process(self.course.pid))));
            }
            _ => {
                let (held, back) = oneshot::channel();
                let cancel = self.shared.tasks.cancel();
                if answer.send(Some(Lent::Files(held))).is_ok() {
                    tokio::select! {
                        _ = back => {}
                        () = cancel.cancelled() => {}
                    }
                }
            }
        }
    }

    async fn start(&mut self, answer: Answer<StartError>) {
        match self.course.phase {
            Phase::Running | Phase::Stopping(_) | Phase::Starting => {
                return reply(answer, Err(StartError::Running));
            }
            Phase::Paused => return reply(answer, Err(StartError::Paused)),
            Phase::Removing | Phase::Dead => {
                return reply(answer, Err(StartError::Removing(self.record.id)));
            }
            Phase::Created | Phase::Exited | Phase::Waiting => {}
        }
        self.course.stopped_by_hand = false;
        self.course.restart_count = 0;
        self.course.backoff = BACKOFF_FIRST;
        self.starts.push(answer);
        self.advance(Event::Start).await;
    }

    async fn stop(
        &mut self,
        signal: Option<i32>,
        grace: Option<Duration>,
        answer: Answer<StopError>,
    ) {
        if !self.course.phase.has_process() && self.course.phase != Phase::Waiting {
            return reply(answer, Err(StopError::NotRunning));
        }
        self.course.stopped_by_hand = true;
        self.course.restarts_not = true;
        self.course.manner.signal = signal;
        self.course.manner.grace = grace;
        self.stops.push(answer);
        self.advance(Event::Stop(After::Rest)).await;
    }

    async fn restart(
        &mut self,
        signal: Option<i32>,
        grace: Option<Duration>,
        answer: Answer<StartError>,
    ) {
        if matches!(self.course.phase, Phase::Removing | Phase::Dead) {
            return reply(answer, Err(StartError::Removing(self.record.id)));
        }
        self.course.stopped_by_hand = false;
        self.course.restarts_not = true;
        self.course.manner.signal = signal;
        self.course.manner.grace = grace;
        self.starts.push(answer);
        self.advance(Event::Stop(After::Start)).await;
    }

    async fn kill(&mut self, signal: i32) -> Result<(), KillError> {
        if self.course.phase == Phase::Waiting {
            self.course.stopped_by_hand = true;
            self.deadline = None;
            self.advance(Event::Stop(After::Rest)).await;
            return Ok(());
        }
        if !self.course.phase.has_process() {
            return Err(KillError::NotRunning(self.record.id));
        }
        let configured = self.configured_signal();
        let stops = signal == SIGKILL || Some(signal) == configured;
        self.course.stopped_by_hand = true;
        // Where a stop signal is named, another one is not meant to stop it.
        self.course.restarts_not |= stops || configured.is_none();
        // A later engine that finds it ended must know that this was wanted.
        if let Err(error) = self.write(Durability::Normal).await {
            self.warn("record the signal", &error);
        }
        self.signal(signal).await?;
        if stops && self.course.phase == Phase::Paused {
            // A frozen process takes no signal on cgroup v1.
            self.thaw().await.map_err(KillError::Thaw)?;
        }
        self.announce("kill", &[("signal", signal.to_string())]);
        Ok(())
    }

    async fn pause(&mut self) -> Result<(), PauseError> {
        match self.course.phase {
            Phase::Running => {}
            Phase::Paused => return Err(PauseError::Paused(self.record.id)),
            Phase::Waiting => return Err(PauseError::Restarting(self.record.id)),
            _ => return Err(PauseError::NotRunning(self.record.id)),
        }
        // Done before it is believed: a freezer that fails leaves a running container.
        let group = self.cgroup();
        tasks::blocking(move || Cgroup::open(&group)?.freeze())
            .await
            .map_err(PauseError::Freezer)?;
        self.advance(Event::Pause).await;
        self.announce("pause", &[]);
        Ok(())
    }

    async fn unpause(&mut self) -> Result<(), PauseError> {
        if self.course.phase != Phase::Paused {
            return Err(PauseError::NotPaused(self.record.id));
        }
        self.thaw().await.map_err(PauseError::Freezer)?;
        self.advance(Event::Unpause).await;
        self.announce("unpause", &[]);
        Ok(())
    }

    async fn rename(&mut self, name: String) -> Result<(), RenameError> {
        let id = self.record.id;
        if matches!(self.course.phase, Phase::Removing | Phase::Dead) {
            return Err(RenameError::Removing(id));
        }
        if name == self.name {
            return Err(RenameError::Same);
        }
        if let Err(owner) = self.shared.index().reserve(&name, id) {
            return Err(RenameError::Taken { name, owner });
        }
        let (key, value) = (id.to_string(), name.clone());
        let written = self.shared.db.write(Durability::Full, move |db| {
            db.prepare_cached("UPDATE containers SET name = ?2 WHERE id = ?1")?
                .execute((key, value))
                .map(drop)
        });
        if let Err(error) = written.await {
            self.shared.index().release(&name, id);
            return Err(RenameError::Record(error));
        }
        let old = std::mem::replace(&mut self.name, name);
        self.shared.index().release(&old, id);
        self.call_endpoints().await;
        self.publish();
        self.announce("rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    async fn remove(&mut self, force: bool, volumes: bool, answer: Answer<RemoveError>) {
        let id = self.record.id;
        let refused = match self.course.phase {
            Phase::Removing => Some(RemoveError::Removing(id)),
            Phase::Running | Phase::Stopping(_) if !force => Some(RemoveError::Running),
            Phase::Paused if !force => Some(RemoveError::Paused),
            Phase::Waiting if !force => Some(RemoveError::Restarting),
            _ => None,
        };
        if let Some(error) = refused {
            return reply(answer, Err(error));
        }
        self.course.remove_volumes |= volumes;
        self.course.stopped_by_hand = true;
        // Whoever removes by force does not wait for good manners.
        self.course.manner.signal = Some(SIGKILL);
        self.course.manner.grace = Some(KILL_GRACE);
        self.removes.push(answer);
        self.advance(Event::Stop(After::Remove)).await;
    }

    async fn update(&mut self, update: super::Update) -> Result<(), UpdateError> {
        let mut record = (*self.record).clone();
        super::update::merge(&mut record.host, &update)?;
        if self.course.phase.has_process() {
            let limits = crate::spec::limits::limits(&record.host.resources);
            let group = self.cgroup();
            tasks::blocking(move || Cgroup::open(&group)?.update(&limits))
                .await
                .map_err(UpdateError::Cgroup)?;
        }
        self.keep(record).await.map_err(UpdateError::Record)?;
        self.publish();
        self.announce("update", &[]);
        Ok(())
    }

    /// Replaces the record, first where it is kept.
    async fn keep(&mut self, record: Record) -> Result<(), DbError> {
        let (key, text) = (record.id.to_string(), super::to_json(&record));
        let written = self.shared.db.write(Durability::Full, move |db| {
            db.prepare_cached("UPDATE containers SET record = ?2 WHERE id = ?1")?
                .execute((key, text))
                .map(drop)
        });
        written.await?;
        self.record = Arc::new(record);
        Ok(())
    }

    /// Goes through the state machine; what an action brings about is the next event.
    async fn advance(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            if let Event::Exited(Next::Remove) | Event::StartFailed(Next::Remove) = event {
                // One that removes itself takes its anonymous volumes along.
                self.course.remove_volumes = true;
            }
            match self.course.phase.step(event) {
                Ok((phase, actions)) => {
                    self.course.phase = phase;
                    for action in actions {
                        if let Some(event) = self.act(*action).await {
                            next = Some(event);
                        }
                    }
                    self.schedule_check();
                    self.publish();
                }
                Err(Illegal(phase)) => {
                    tracing::error!(id = %self.record.id, ?phase, ?event, "event does not fit");
                }
            }
        }
        self.answer_those_who_wait();
    }

    async fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Record => {
                if let Err(error) = self.write(Durability::Normal).await {
                    self.warn("record the state", &error);
                }
                None
            }
            Action::Settle => {
                self.settle().await;
                None
            }
            Action::Launch => Some(self.launch().await),
            Action::Thaw => {
                if let Err(error) = self.thaw().await {
                    self.warn("thaw", &error);
                }
                None
            }
            Action::Ask => {
                self.ask().await;
                None
            }
            Action::Kill => {
                self.force(None).await;
                None
            }
            Action::Wait => {
                self.wait();
                None
            }
            Action::Delete => self.delete().await,
        }
    }

    /// Begins what is left of the pause before a restart.
    fn wait(&mut self) {
        let again = self.course.again_at;
        let left = again.and_then(|at| at.duration_since(SystemTime::now()).ok());
        // A clock that was set back does not make it longer.
        let left = left.unwrap_or_default().min(self.course.backoff);
        self.deadline = Some(Instant::now() + left);
    }

    async fn launch(&mut self) -> Event {
        self.deadline = None;
        self.course.restarts_not = false;
        self.attaches.retain(|waiting| !waiting.is_closed());
        let attaches = std::mem::take(&mut self.attaches);
        let first = self.course.started_at.is_none();
        match self.launch_steps(attaches).await {
            Ok(link) => {
                self.link = Some(link);
                self.course.error.clear();
                self.course.exit_code = 0;
                self.course.oom_killed = false;
                self.course.started_at = Some(SystemTime::now());
                if let Some(health) = &mut self.course.health {
                    health.status = HealthStatus::Starting;
                    health.failing_streak = 0;
                }
                for joined in &self.course.endpoints {
                    announce::network(&self.shared.events, "connect", joined, &self.record.id);
                }
                self.announce("start", &[]);
                self.launched = Some(Ok(()));
                Event::Started
            }
            Err(error) => {
                self.course.exit_code = error.exit_code();
                self.course.error = failure::chain(&error);
                self.course.pid = 0;
                if !first {
                    self.course.finished_at = Some(SystemTime::now());
                }
                let next = if self.record.host.auto_remove {
                    Next::Remove
                } else {
                    Next::Rest
                };
                tracing::info!(id = %self.record.id, error = self.course.error, "did not start");
                self.launched = Some(Err(error));
                Event::StartFailed(next)
            }
        }
    }

    async fn launch_steps(&mut self, attaches: Vec<PendingAttach>) -> Result<Link, StartError> {
        let answers = delivery::probe(&self.shared, &self.record, &self.name);
        answers.await.map_err(StartError::Log)?;
        let prepared = launch::prepare(&self.shared, &self.record, &self.name, attaches).await?;
        self.course.pid = prepared.pid;
        self.course.endpoints.clone_from(&prepared.endpoints);
        // From here on a restarted engine finds a container that holds addresses: it must know.
        if let Err(error) = self.write(Durability::Normal).await {
            launch::abandon(prepared).await;
            return Err(StartError::Record(error));
        }
        launch::go(prepared).await
    }

    async fn hear(&mut self, event: std::io::Result<Option<protocol::Event>>) {
        match event {
            Ok(Some(protocol::Event::Exited(exit))) => {
                self.link = None;
                self.exited(&exit).await;
            }
            Ok(Some(protocol::Event::ExecExited { id, code })) => {
                self.shared
                    .execs
                    .exited(&self.shared.events, &self.record, &self.name, id, code);
            }
            Ok(Some(protocol::Event::OutOfMemory)) => {
                self.course.oom_killed = true;
                self.publish();
                self.announce("oom", &[]);
            }
            // The monitor went without a word: only its directory can tell what happened.
            Ok(None) | Err(_) => {
                self.link = None;
                let exit = launch::lost(&self.shared, &self.record).await;
                self.exited(&exit).await;
            }
        }
    }

    async fn exited(&mut self, exit: &Exit) {
        let finished = from_nanos(exit.at);
        self.course.exit_code = exit.code;
        self.course.oom_killed |= exit.oom_killed;
        // Word of a start may come after a short run has ended; no run ends before it began.
        let finished = self
            .course
            .started_at
            .map_or(finished, |started| finished.max(started));
        self.course.finished_at = Some(finished);
        self.course.pid = 0;
        if let Some(error) = &exit.error {
            self.course.error.clone_from(error);
        }
        let ran = self
            .course
            .started_at
            .and_then(|started| finished.duration_since(started).ok())
            .unwrap_or_default();
        let next = after_exit(
            &self.record.host.restart_policy,
            self.record.host.auto_remove,
            &self.course,
        );
        if next == Next::Restart {
            self.course.backoff = if ran > BACKOFF_RESET {
                BACKOFF_FIRST
            } else if self.course.restart_count == 0 {
                self.course.backoff
            } else {
                (self.course.backoff * 2).min(BACKOFF_MAX)
            };
            self.course.restart_count += 1;
            self.course.again_at = Some(SystemTime::now() + self.course.backoff);
        }
        self.deadline = None;
        self.exits += 1;
        self.died = true;
        self.shared.execs.container_ended(&self.record.id);
        self.advance(Event::Exited(next)).await;
    }

    /// Writes the end down and gives back what the run held.
    async fn settle(&mut self) {
        let endpoints = std::mem::take(&mut self.course.endpoints);
        let shared = Arc::clone(&self.shared);
        let id = self.record.id;
        let written = self.write(Durability::Full);
        let record = Arc::clone(&self.record);
        let returned = launch::give_back(&shared, &record, &endpoints);
        let (written, ()) = tokio::join!(written, returned);
        if std::mem::take(&mut self.died) {
            let lasted = self
                .course
                .started_at
                .zip(self.course.finished_at)
                .and_then(|(started, finished)| finished.duration_since(started).ok())
                .unwrap_or_default();
            self.announce(
                "die",
                &[
                    ("execDuration", lasted.as_secs().to_string()),
                    ("exitCode", self.course.exit_code.to_string()),
                ],
            );
        }
        for joined in &endpoints {
            announce::network(&self.shared.events, "disconnect", joined, &id);
        }
        match written {
            // Only now may the monitor's own record go.
            Ok(()) => launch::remove_run_dir(&self.shared, &id).await,
            Err(error) => self.warn("record the exit", &error),
        }
        if !self.stops.is_empty() {
            self.announce("stop", &[]);
        }
    }

    async fn ask(&mut self) {
        let signal = self
            .course
            .manner
            .signal
            .or_else(|| self.configured_signal())
            .unwrap_or(15);
        let pid = self.course.pid;
        let deaf = tasks::blocking(move || deaf::is_deaf(pid, signal)).await;
        if let Err(error) = self.signal(signal).await {
            self.warn("send the stop signal", &error);
        }
        self.announce("kill", &[("signal", signal.to_string())]);
        self.deadline = self.course.manner.grace.map(|grace| Instant::now() + grace);
        if deaf && self.deadline.is_some() && signal != SIGKILL {
            self.force(Some(format!("process 1 has no handler of signal {signal}")))
                .await;
        }
    }

    /// Kills it, for a reason if it was not given all its time.
    async fn force(&mut self, reason: Option<String>) {
        if let Err(error) = self.signal(SIGKILL).await {
            self.warn("send SIGKILL", &error);
        }
        let signal = ("signal", SIGKILL.to_string());
        let reason = reason.map(|reason| ("reason", reason));
        let more: Vec<_> = std::iter::once(signal).chain(reason).collect();
        self.announce("kill", &more);
        self.deadline = Some(Instant::now() + KILL_GRACE);
        self.course.manner.signal = Some(SIGKILL);
    }

    async fn time_is_up(&mut self) {
        self.deadline = None;
        match self.course.phase {
            Phase::Waiting => self.advance(Event::BackoffOver).await,
            Phase::Stopping(_) => self.advance(Event::GraceOver).await,
            _ => {}
        }
    }

    async fn delete(&mut self) -> Option<Event> {
        if let Some(delivery) = self.delivery.take() {
            delivery.finish(&self.name).await;
        }
        match remove::delete(&self.shared, &self.record, self.course.remove_volumes).await {
            Ok(()) => {
                self.announce("destroy", &[]);
                self.shared.index().remove(&self.record.id);
                self.shared.execs.forget(&self.record.id);
                self.publish_with(true);
                for answer in self.removes.drain(..) {
                    reply(answer, Ok(()));
                }
                None
            }
            Err(error) => {
                let text = failure::chain(&error);
                tracing::warn!(id = %self.record.id, error = text, "was not removed");
                self.course.error.clone_from(&text);
                let mut error = Some(error);
                for answer in self.removes.drain(..) {
                    let again = || RemoveError::Again(text.clone());
                    reply(answer, Err(error.take().unwrap_or_else(again)));
                }
                Some(Event::RemoveFailed)
            }
        }
    }

    fn answer_those_who_wait(&mut self) {
        if !self.course.phase.has_process() && self.course.phase != Phase::Starting {
            for answer in self.stops.drain(..) {
                reply(answer, Ok(()));
            }
        }
        if let Some(launched) = self.launched.take() {
            let text = launched.as_ref().err().map(|error| failure::chain(error));
            let mut launched = Some(launched);
            for answer in self.starts.drain(..) {
                let again = || {
                    text.clone()
                        .map_or(Ok(()), |text| Err(StartError::Again(text)))
                };
                reply(answer, launched.take().unwrap_or_else(again));
            }
        }
        // A start that was asked for and will not come, because a removal came between.
        if matches!(
            self.course.phase,
            Phase::Removing | Phase::Dead | Phase::Exited
        ) {
            for answer in self.starts.drain(..) {
                reply(answer, Err(StartError::Removing(self.record.id)));
            }
        }
    }

    fn configured_signal(&self) -> Option<i32> {
        vocab::signal::parse(&self.record.config.stop_signal)
    }

    async fn signal(&self, signal: i32) -> Result<(), LinkError> {
        let dir = self.shared.run_dir(&self.record.id);
        let request = Ask::Signal { exec: None, signal };
        match link::ask(&dir, &request).await {
            Ok((_, Reply::Ok)) => Ok(()),
            Ok((_, answer)) => Err(link::unexpected(&dir, &answer)),
            Err(error) => Err(error),
        }
    }

    async fn thaw(&self) -> Result<(), CgroupError> {
        let group = self.cgroup();
        tasks::blocking(move || Cgroup::open(&group)?.thaw()).await
    }

    fn cgroup(&self) -> String {
        self.shared
            .cgroup(&self.record.id, &self.record.host.resources.cgroup_parent)
    }

    fn write(
        &self,
        durability: Durability,
    ) -> impl Future<Output = Result<(), DbError>> + Send + use<> {
        let (key, text) = (self.record.id.to_string(), super::to_json(&self.course));
        self.shared.db.write(durability, move |db| {
            db.prepare_cached("UPDATE containers SET state = ?2 WHERE id = ?1")?
                .execute((key, text))
                .map(drop)
        })
    }

    fn publish(&self) {
        let gone = self.view.borrow().gone;
        self.publish_with(gone);
    }

    fn publish_with(&self, gone: bool) {
        self.view.send_replace(Arc::new(View {
            record: Arc::clone(&self.record),
            name: self.name.clone(),
            course: self.course.clone(),
            exits: self.exits,
            gone,
        }));
    }

    fn announce(&self, action: &str, more: &[(&str, String)]) {
        announce::happened(&self.shared.events, action, &self.record, &self.name, more);
    }

    fn warn(&self, what: &str, error: &(dyn std::error::Error + 'static)) {
        let error = failure::chain(error);
        tracing::warn!(id = %self.record.id, error, "could not {what}");
    }
}

/// What the policies say after an end.
pub(crate) fn after_exit(policy: &RestartPolicy, auto_remove: bool, course: &Course) -> Next {
    if auto_remove {
        Next::Remove
    } else if !course.restarts_not && wants_to_run(policy, course) {
        Next::Restart
    } else {
        Next::Rest
    }
}

/// Whether a policy has a container that ended start again; also what a daemon that starts goes by.
/// As in Docker, `on-failure` does not ask who wanted the end.
pub(crate) fn wants_to_run(policy: &RestartPolicy, course: &Course) -> bool {
    let tries = u32::try_from(policy.maximum_retry_count).unwrap_or(0);
    match policy.name.as_str() {
        "always" => true,
        "unless-stopped" => !course.stopped_by_hand,
        "on-failure" => course.exit_code != 0 && (tries == 0 || course.restart_count < tries),
        _ => false,
    }
}

fn reply<E>(answer: oneshot::Sender<Result<(), E>>, outcome: Result<(), E>) {
    // A caller that stopped waiting does not undo what it asked for.
    let _ = answer.send(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_decide_what_follows_an_exit() {
        let policy = |name: &str, tries| RestartPolicy {
            name: name.to_owned(),
            maximum_retry_count: tries,
        };
        let course = |code, restarts, by_hand| Course {
            exit_code: code,
            restart_count: restarts,
            stopped_by_hand: by_hand,
            restarts_not: by_hand,
            ..Course::new()
        };
        for (name, tries, code, restarts, by_hand, wanted) in [
            ("", 0, 1, 0, false, Next::Rest),
            ("always", 0, 0, 9, false, Next::Restart),
            ("always", 0, 0, 0, true, Next::Rest),
            ("unless-stopped", 0, 0, 0, false, Next::Restart),
            ("on-failure", 0, 0, 0, false, Next::Rest),
            ("on-failure", 2, 1, 1, false, Next::Restart),
            ("on-failure", 2, 1, 2, false, Next::Rest),
        ] {
            let course = course(code, restarts, by_hand);
            assert_eq!(
                after_exit(&policy(name, tries), false, &course),
                wanted,
                "{name} {tries}"
            );
        }
        assert_eq!(
            after_exit(&policy("no", 0), true, &course(0, 0, true)),
            Next::Remove
        );
    }
}
