//! Deleting what has vanished already.
//!
//! What is removed leaves its place by one rename. Freeing its bytes takes long for a large file, so
//! a thread does it, and nobody who removes something waits. The thread ends when nothing is left to
//! do; what it did not come to is deleted by the next open.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::files::Staged;

/// Deletes in the background. Dropping it waits until all is done.
#[derive(Debug, Default)]
pub(crate) struct Reaper(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    work: Mutex<Work>,
    /// Told when the thread ends.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    doomed: Vec<Staged>,
    is_going_on: bool,
}

impl Reaper {
    /// Deletes these soon.
    pub(crate) fn reap(&self, doomed: Vec<Staged>) {
        if doomed.is_empty() {
            return;
        }
        let mut work = self.0.lock();
        work.doomed.extend(doomed);
        if work.is_going_on {
            return;
        }
        work.is_going_on = true;
        drop(work);
        let shared = Arc::clone(&self.0);
        let thread = thread::Builder::new().name("reaper".to_owned());
        if thread.spawn(move || shared.run()).is_err() {
            // As many threads as there may be: then it takes as long as it takes.
            self.0.run();
        }
    }

    /// Waits until everything is deleted.
    pub(crate) fn wait(&self) {
        let mut work = self.0.lock();
        while work.is_going_on {
            work = self
                .0
                .idle
                .wait(work)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let mut work = self.lock();
            if work.doomed.is_empty() {
                work.is_going_on = false;
                self.idle.notify_all();
                return;
            }
            let doomed = std::mem::take(&mut work.doomed);
            drop(work);
            drop(doomed);
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.wait();
    }
}
