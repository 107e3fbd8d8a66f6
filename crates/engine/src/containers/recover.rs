//! What a restarted engine finds: each container is compared with its monitor, or with what that
//! left behind, and what was begun is finished.
//!
//! | recorded | monitor | what follows |
//! |---|---|---|
//! | running, paused, starting | answers | it is watched again |
//! | running, paused | answers | its freezer says which of the two it is |
//! | stopping | answers | it is watched, and asked to end again as it was asked before |
//! | any of these | gone, `exit.json` there | that was its end |
//! | any of these | gone without a word | it died with its host, or was killed: code 255 |
//! | starting | never ran anything | the start failed, and happens again if its policy says so |
//! | waiting | – | it starts when its pause is over |
//! | removing | – | the removal goes on |
//! | exited | – | it starts, if its policy says so |

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use monitor::protocol::{Exit, Reply, Request, State};
use runtime::cgroup::Cgroup;
use vocab::{ContainerId, failure};

use super::link::{self, Link};
use super::owner::{self, First, Owner};
use super::record::{Course, Record, from_nanos};
use super::state::{Event, Phase};
use super::{ipc, launch, remove};
use crate::endpoints;
use crate::shared::Shared;

/// The exit code of a start that was cut short, as of one that failed.
const INTERRUPTED_CODE: i32 = 128;

/// A container as it was recorded.
pub(crate) struct Found {
    name: String,
    record: Arc<Record>,
    course: Course,
}

/// Understands the rows.
pub(crate) fn read(
    rows: Vec<(String, String, String, String)>,
) -> Result<Vec<Found>, serde_json::Error> {
    rows.into_iter()
        .map(|(_, name, record, state)| {
            Ok(Found {
                name,
                record: Arc::new(serde_json::from_str(&record)?),
                course: serde_json::from_str(&state)?,
            })
        })
        .collect()
}

/// What is left of a run.
enum Left {
    /// A monitor, watched.
    Alive { link: Link, pid: i32, frozen: bool },
    /// Its end.
    Ended(Exit),
    /// It never ran: its code and why, if somebody is left to tell.
    NeverRan(Option<(i32, String)>),
}

/// A monitor that is there and cannot be talked to. Who went on without it would take its container
/// for lost, and end what runs.
#[derive(Debug, thiserror::Error)]
#[error(
    "container {container} runs, and its monitor cannot be talked to: start the berth that started \
     it, and end it with that"
)]
pub struct MonitorError {
    container: ContainerId,
    source: link::LinkError,
}

/// Gives every container its owner, and removes what belongs to none.
pub(crate) async fn recover(shared: &Arc<Shared>, found: Vec<Found>) -> Result<(), MonitorError> {
    let looked = found.into_iter().map(|found| async move {
        let left = match found.course.phase {
            Phase::Starting | Phase::Running | Phase::Paused | Phase::Stopping(_) => {
                Some(look(shared, &found).await?)
            }
            _ => None,
        };
        Ok((found, left))
    });
    let looked = futures_util::future::try_join_all(looked).await?;

    let held: Vec<network::Endpoint> = looked
        .iter()
        .filter(|(_, left)| matches!(left, Some(Left::Alive { .. })))
        .flat_map(|(found, _)| &found.course.endpoints)
        .filter_map(|joined| joined.endpoint.clone())
        .collect();
    if let Err(error) = shared.links.restore(&held).await {
        tracing::warn!(
            error = failure::chain(&error),
            "take up the endpoints again"
        );
    }
    hear_again(shared, &looked).await;
    let ids = |keep: &dyn Fn(&Option<Left>) -> bool| -> HashSet<ContainerId> {
        let kept = looked.iter().filter(|(_, left)| keep(left));
        kept.map(|(found, _)| found.record.id).collect()
    };
    restore_mounts(shared, &looked).await;
    let owners = sweep(
        shared,
        ids(&|_| true),
        ids(&Option::is_some),
        images(&looked),
    )
    .await;

    for (found, left) in looked {
        let id = found.record.id;
        let whole = owners.as_ref().is_none_or(|owners| owners.contains(&id));
        if !whole && found.course.phase == Phase::Created {
            // Its creation was cut short, so nobody was told of it.
            remove::remove_volumes(shared, &found.record).await;
            if let Err(error) = remove::forget(shared, id).await {
                tracing::warn!(%id, error = failure::chain(&error), "forget half a container");
            }
            continue;
        }
        if let Err(other) = shared.index().reserve(&found.name, id) {
            tracing::error!(%id, %other, name = found.name, "two containers have one name");
        }
        adopt(shared, found, left);
    }
    Ok(())
}

/// Who holds the images that are mounted into containers.
fn images(looked: &[(Found, Option<Left>)]) -> HashSet<ContainerId> {
    let mounts = looked.iter().flat_map(|(found, _)| &found.record.mounts);
    let images = mounts.filter_map(|mounted| mounted.image.as_ref());
    images.map(|(_, holder)| *holder).collect()
}

/// What is mounted on the host for containers that run, and what is for nobody any more.
async fn restore_mounts(shared: &Arc<Shared>, looked: &[(Found, Option<Left>)]) {
    let alive = looked
        .iter()
        .filter(|(_, left)| matches!(left, Some(Left::Alive { .. })));
    let alive: Vec<Arc<Record>> = alive.map(|(found, _)| Arc::clone(&found.record)).collect();
    let shared = Arc::clone(shared);
    tasks::blocking(move || {
        let running = alive.iter();
        shared.restore_volumes(running.map(|record| (record.id, record.mounts.as_slice())));
        ipc::sweep(&shared, &alive.iter().map(|record| record.id).collect());
    })
    .await;
}

/// Answers questions for names again in every container that was told to ask the daemon.
async fn hear_again(shared: &Arc<Shared>, looked: &[(Found, Option<Left>)]) {
    for (found, left) in looked {
        let Some(Left::Alive { pid, .. }) = left else {
            continue;
        };
        let (id, pid) = (found.record.id, *pid);
        if found
            .course
            .endpoints
            .iter()
            .all(|own| own.endpoint.is_none())
        {
            continue;
        }
        let path = shared.data_dir(&id).join("resolv.conf");
        let asking = endpoints::asking(shared, &found.record);
        let heard = async {
            let opened = tasks::blocking(move || {
                let told = fs::read_to_string(path).is_ok_and(|text| asks_daemon(&text));
                told.then(|| owner::open_namespace(&id, pid)).transpose()
            });
            let opened = opened.await.map_err(|source| network::NamesError {
                container: id,
                source,
            })?;
            match opened {
                Some(netns) => shared.links.hear(id, netns.as_fd(), asking, false).await,
                None => Ok(()),
            }
        };
        if let Err(error) = heard.await {
            tracing::warn!(%id, error = failure::chain(&error), "names are not answered");
        }
    }
}

/// Whether a `resolv.conf` names the daemon.
fn asks_daemon(text: &str) -> bool {
    let daemon = format!("nameserver {}", network::dns::ADDRESS);
    text.lines().any(|line| line == daemon)
}

fn adopt(shared: &Arc<Shared>, found: Found, left: Option<Left>) {
    let Found {
        name,
        record,
        mut course,
    } = found;
    let mut watched = None;
    let first = match (course.phase, left) {
        (phase, Some(Left::Alive { link, pid, frozen })) => {
            watched = Some(link);
            course.pid = pid;
            // A pause is written down once it is done.
            if phase == Phase::Running && frozen {
                course.phase = Phase::Paused;
            } else if phase == Phase::Paused && !frozen {
                course.phase = Phase::Running;
            }
            match phase {
                Phase::Stopping(_) => First::Stop,
                Phase::Starting => {
                    course.started_at.get_or_insert(record.created);
                    course.phase = Phase::Starting;
                    First::Event(Event::Started)
                }
                _ => First::Nothing,
            }
        }
        (phase, Some(Left::Ended(exit))) => {
            if phase == Phase::Starting {
                course.started_at = Some(from_nanos(exit.at));
                course.phase = Phase::Running;
            }
            First::Ended(exit)
        }
        (_, Some(Left::NeverRan(why))) => {
            let cut_short = || (INTERRUPTED_CODE, "the start was interrupted".to_owned());
            (course.exit_code, course.error) = why.unwrap_or_else(cut_short);
            course.phase = Phase::Starting;
            course.pid = 0;
            let (policy, auto_remove) = (&record.host.restart_policy, record.host.auto_remove);
            let next = owner::after_exit(policy, auto_remove, &course);
            First::Event(Event::StartFailed(next))
        }
        (Phase::Removing, None) => {
            course.phase = Phase::Dead;
            First::Event(Event::Remove)
        }
        (Phase::Waiting, None) => First::Wait,
        (Phase::Exited, None) if record.host.auto_remove => First::Event(Event::Remove),
        (Phase::Exited, None) => {
            let again = owner::wants_to_run(&record.host.restart_policy, &course);
            match again {
                true => First::Event(Event::Start),
                false => First::Nothing,
            }
        }
        (_, None) => First::Nothing,
    };
    let (handle, ends) = owner::ends(&record, &name, &course);
    shared.index().insert(handle);
    let owner = Owner::new(Arc::clone(shared), record, name, course, ends, watched);
    shared.tasks.spawn_whole("container", owner.drive(first));
}

/// Looks for the monitor, and for what it left.
async fn look(shared: &Arc<Shared>, found: &Found) -> Result<Left, MonitorError> {
    let container = found.record.id;
    let dir = shared.run_dir(&container);
    match watch(shared, found, &dir).await {
        Ok(Some(left)) => return Ok(left),
        Ok(None) => {}
        Err(error) if error.is_gone() => {
            let error = failure::chain(&error);
            tracing::info!(id = %container, error, "no monitor answers");
        }
        Err(source) => return Err(MonitorError { container, source }),
    }
    let written = {
        let dir = dir.clone();
        tasks::blocking(move || monitor::find_exit(&dir).ok().flatten()).await
    };
    Ok(match (written, found.course.phase) {
        (Some(exit), Phase::Starting) if exit.error.is_some() => {
            Left::NeverRan(exit.error.map(|why| (exit.code, why)))
        }
        (Some(exit), _) => Left::Ended(exit),
        (None, Phase::Starting) => {
            // Nothing was told to run; whatever the monitor had prepared went with it.
            launch::lost(shared, &found.record).await;
            Left::NeverRan(None)
        }
        (None, _) => Left::Ended(launch::lost(shared, &found.record).await),
    })
}

async fn watch(
    shared: &Arc<Shared>,
    found: &Found,
    dir: &Path,
) -> Result<Option<Left>, link::LinkError> {
    let (mut link, reply) = link::ask_anew(dir, &Request::Status).await?;
    let Reply::Status(status) = reply else {
        return Err(link::unexpected(dir, &reply));
    };
    match status.state {
        // Its control socket closed with the engine that made it: it goes by itself. Wait for
        // that, so that the next start finds nothing in its way.
        State::Created => {
            while let Ok(Some(_)) = link.receive::<Reply>().await {}
            Ok(None)
        }
        State::Running | State::Ending => {
            for exec in &status.execs {
                if let (Some(pid), None) = (exec.pid, exec.code) {
                    shared.execs.adopt(found.record.id, exec.id, pid);
                }
            }
            link::ask_on(&mut link, dir, &Request::Watch).await?;
            let parent = &found.record.host.resources.cgroup_parent;
            let group = shared.cgroup(&found.record.id, parent);
            let frozen = tasks::blocking(move || Cgroup::open(&group)?.is_frozen()).await;
            Ok(Some(Left::Alive {
                link,
                pid: status.pid,
                frozen: frozen.unwrap_or(false),
            }))
        }
    }
}

/// Removes files and layers of containers that are not recorded, and what runs left that are over:
/// what a creation, a removal or an end that was cut short left behind. Answers who has a layer, if
/// that can be told.
async fn sweep(
    shared: &Arc<Shared>,
    known: HashSet<ContainerId>,
    running: HashSet<ContainerId>,
    images: HashSet<ContainerId>,
) -> Option<HashSet<ContainerId>> {
    let shared = Arc::clone(shared);
    tasks::blocking(move || {
        let config = &shared.config;
        for (parent, needed) in [(&config.data_root, &known), (&config.exec_root, &running)] {
            let is_known = |name: &str| name.parse().is_ok_and(|id| needed.contains(&id));
            let Ok(entries) = fs::read_dir(parent.join("containers")) else {
                continue;
            };
            for entry in entries.flatten() {
                if is_known(&entry.file_name().to_string_lossy()) {
                    continue;
                }
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    tracing::warn!(%error, path = ?entry.path(), "remove what nobody owns");
                }
            }
        }
        let owners = shared.store.snapshot_owners();
        let owners = owners.inspect_err(|error| {
            let error = failure::chain(error);
            tracing::warn!(error, "list the writable layers");
        });
        let owners: HashSet<ContainerId> = owners.ok()?.into_iter().collect();
        for owner in owners.difference(&known) {
            if images.contains(owner) {
                continue;
            }
            if let Err(error) = shared.store.remove_snapshot(owner) {
                let error = failure::chain(&error);
                tracing::warn!(%owner, error, "remove a layer that nobody owns");
            }
        }
        Some(owners)
    })
    .await
}
