//! Leases: layers and blobs that the collector leaves alone although no record needs them yet, or
//! any more.
//!
//! They live in memory only. After a crash nobody holds anything, and the next open collects.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vocab::Digest;

use crate::store::Inner;

/// What is held.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// How often each is held.
    counts: HashMap<Digest, usize>,
    /// What the collector would have taken, had it not been held.
    passed_over: HashSet<Digest>,
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the collector has to pass over it; if so, that is remembered for
    /// [`take_passed_over`](Self::take_passed_over).
    pub(crate) fn keeps(&self, digest: &Digest) -> bool {
        let mut held = self.lock();
        let keeps = held.counts.contains_key(digest);
        if keeps {
            held.passed_over.insert(digest.clone());
        }
        keeps
    }

    /// What the collector passed over and may take by now.
    pub(crate) fn take_passed_over(&self) -> Vec<Digest> {
        let mut held = self.lock();
        let Held {
            counts,
            passed_over,
        } = &mut *held;
        let free = passed_over.extract_if(|digest| !counts.contains_key(digest));
        free.collect()
    }
}

/// Layers and blobs that stay while this lives.
#[derive(Debug)]
pub struct Lease {
    inner: Arc<Inner>,
    held: Vec<Digest>,
}

impl Lease {
    /// Holds what is there. So that the collector does not come between, the caller has the tables
    /// locked, or does not care whether all of it is there.
    pub(crate) fn new(inner: &Arc<Inner>, held: Vec<Digest>) -> Self {
        let mut now = inner.leases.lock();
        for digest in &held {
            *now.counts.entry(digest.clone()).or_default() += 1;
        }
        drop(now);
        Self {
            inner: Arc::clone(inner),
            held,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut now = self.inner.leases.lock();
        for digest in &self.held {
            if let Some(count) = now.counts.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    now.counts.remove(digest);
                }
            }
        }
    }
}
