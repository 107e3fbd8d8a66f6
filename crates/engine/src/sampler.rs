//! The one sampler: keeps the last two readings of every container that runs, so that a rate needs
//! no wait. It reads each second while somebody asks for all of them, and seldom while nobody does;
//! whoever asks for one container has it read for everybody.
//!
//! What you will not find: what is read, which is `stats`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use vocab::ContainerId;

use crate::containers::index::View;
use crate::shared::{Shared, lock};
use crate::stats::{Cpu, Host, INTERVAL, Memory, Reading, Sample, StatsError, online};

/// Time between two readings while nobody asks.
const SELDOM: Duration = Duration::from_secs(10);

/// How long somebody counts as asking.
const INTEREST: Duration = Duration::from_secs(30);

/// Two readings that are closer make no rate.
const SPAN: Duration = Duration::from_millis(500);

/// What is kept of all containers.
#[derive(Debug, Default)]
pub(crate) struct Sampler(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    readings: HashMap<ContainerId, Pair>,
    /// When somebody asked for all of them.
    asked: Option<Instant>,
}

/// The last two readings of a run.
#[derive(Debug)]
struct Pair {
    started: Option<SystemTime>,
    last: (Instant, Arc<Sample>),
    /// Of processor time alone.
    before: Option<Arc<Sample>>,
}

impl Sampler {
    /// Keeps a reading, and answers with it and the one before.
    pub(crate) fn keep(&self, view: &View, now: Sample) -> Reading {
        let now = Arc::new(now);
        if now.read.is_none() {
            lock(&self.0).readings.remove(&view.record.id);
            return Reading { now, before: None };
        }
        let started = view.course.started_at;
        let at = Instant::now();
        let mut kept = lock(&self.0);
        let pair = kept.readings.remove(&view.record.id);
        // Counters of an earlier run are another's.
        let pair = pair.filter(|pair| pair.started == started);
        let (last, before) = match pair {
            None => ((at, Arc::clone(&now)), Some(Arc::new(birth(view, &now)))),
            Some(pair) if at.duration_since(pair.last.0) >= SPAN => {
                let before = Arc::new(processor_of(&pair.last.1));
                ((at, Arc::clone(&now)), Some(before))
            }
            Some(pair) => (pair.last, pair.before),
        };
        let reading = Reading {
            now,
            before: before.clone(),
        };
        let pair = Pair {
            started,
            last,
            before,
        };
        kept.readings.insert(view.record.id, pair);
        reading
    }

    /// A reading that is no older than a second, made if there is none.
    pub(crate) fn recent(&self, shared: &Shared, view: &View) -> Result<Arc<Sample>, StatsError> {
        if let Some(reading) = self.kept(view, SPAN) {
            return Ok(reading.now);
        }
        let now = Host::look(shared).sample(view)?;
        Ok(self.keep(view, now).now)
    }

    /// What is kept of this run, if it is no older.
    fn kept(&self, view: &View, age: Duration) -> Option<Reading> {
        let kept = lock(&self.0);
        let pair = kept.readings.get(&view.record.id)?;
        let fresh = pair.started == view.course.started_at && pair.last.0.elapsed() < age;
        let runs = view.course.phase.has_process();
        (fresh && runs).then(|| Reading {
            now: Arc::clone(&pair.last.1),
            before: pair.before.clone(),
        })
    }

    /// Readings of all that run; those of which none is kept are read. Blocks.
    pub(crate) fn all(&self, shared: &Shared) -> Vec<Reading> {
        lock(&self.0).asked = Some(Instant::now());
        let host = Host::look(shared);
        let views = shared.index().views();
        let running = views.iter().filter(|view| view.course.phase.has_process());
        let readings = running.filter_map(|view| {
            // One that ends meanwhile is not among those that run.
            self.kept(view, 2 * SELDOM)
                .or_else(|| Some(self.keep(view, host.sample(view).ok()?)))
        });
        readings.collect()
    }

    /// Reads all that run, and forgets the others. Blocks.
    fn sweep(&self, shared: &Shared) {
        let views = shared.index().views();
        let running: HashMap<ContainerId, &Arc<View>> = views
            .iter()
            .filter(|view| view.course.phase.has_process())
            .map(|view| (view.record.id, view))
            .collect();
        lock(&self.0)
            .readings
            .retain(|id, _| running.contains_key(id));
        if running.is_empty() {
            return;
        }
        let host = Host::look(shared);
        for view in running.into_values() {
            if let Ok(now) = host.sample(view) {
                self.keep(view, now);
            }
        }
    }

    /// Whether it is time for the next sweep, `since` the last one.
    fn is_due(&self, since: Duration) -> bool {
        let asked = lock(&self.0).asked;
        let interest = asked.is_some_and(|asked| asked.elapsed() < INTEREST);
        interest || since >= SELDOM
    }
}

/// Reads until the engine ends.
pub(crate) async fn run(shared: std::sync::Weak<Shared>) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if shared.sampler.is_due(last.elapsed()) {
            last = Instant::now();
            tasks::blocking(move || shared.sampler.sweep(&shared)).await;
        }
    }
}

/// The reading that there would have been when the container began.
fn birth(view: &View, now: &Sample) -> Sample {
    let read = now.read.zip(view.course.started_at);
    let age = read.and_then(|(read, started)| read.duration_since(started).ok());
    let age = age.unwrap_or_default().as_nanos() * u128::from(online());
    let age = u64::try_from(age).unwrap_or(u64::MAX);
    Sample {
        read: view.course.started_at,
        cpu: Cpu {
            host_nanos: now.cpu.host_nanos.saturating_sub(age),
            online: now.cpu.online,
            ..Cpu::default()
        },
        ..bare(now)
    }
}

/// What of a reading is needed for a rate.
fn processor_of(sample: &Sample) -> Sample {
    Sample {
        read: sample.read,
        cpu: sample.cpu.clone(),
        ..bare(sample)
    }
}

fn bare(sample: &Sample) -> Sample {
    Sample {
        id: sample.id,
        name: String::new(),
        read: None,
        cpu: Cpu::default(),
        memory: Memory::default(),
        pids: 0,
        pids_limit: None,
        block: Vec::new(),
        networks: std::collections::BTreeMap::new(),
        unified: sample.unified,
    }
}
