//! Tasks that somebody waits for, and the one bridge to blocking code.
//!
//! Nothing in berth is spawned and forgotten: a [`Group`] owns its tasks, ends them when asked and
//! waits for them. Code below `engine` blocks; [`blocking`] is the only way to call it from async
//! code, on a pool that the daemon bounds. What you will not find: a detached `spawn`, a retry of
//! something that is not idempotent.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
pub use tokio_util::sync::CancellationToken as Cancel;
use tokio_util::task::TaskTracker;

/// Tasks with one owner.
///
/// Dropping it asks them to end; [`Group::finish`] also waits for them.
#[derive(Debug, Default)]
pub struct Group {
    tracker: TaskTracker,
    cancel: Cancel,
}

impl Group {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Told when the group is asked to end; hand it to whatever should stop then.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Runs `future` until it ends or the group does. A panic in it is logged and ends only it.
    #[expect(clippy::disallowed_methods, reason = "the group is the owner")]
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        let guarded = std::panic::AssertUnwindSafe(future).catch_unwind();
        tokio::spawn(self.tracker.track_future(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                outcome = guarded => if outcome.is_err() {
                    tracing::error!(task = name, "panicked; see the message above");
                }
            }
        }));
    }

    /// Runs `future` to its own end, even when the group is asked to end first: for work that must
    /// not be cut in the middle. [`Group::finish`] waits for it.
    #[expect(clippy::disallowed_methods, reason = "the group is the owner")]
    pub fn spawn_whole(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let guarded = std::panic::AssertUnwindSafe(future).catch_unwind();
        tokio::spawn(self.tracker.track_future(async move {
            if guarded.await.is_err() {
                tracing::error!(task = name, "panicked; see the message above");
            }
        }));
    }

    /// Asks every task to end and waits until all have.
    pub async fn finish(self) {
        self.stop().await;
    }

    /// The same, for a group that is shared.
    pub async fn stop(&self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Runs blocking code on the pool and waits for it. A panic in it goes on in the caller.
#[expect(clippy::disallowed_methods, reason = "this is the bridge")]
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The pool refuses work only while the whole runtime is being torn down.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Growing pauses between tries: doubled each time, up to a ceiling.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// The first pause and the longest one.
    pub fn new(first: Duration, ceiling: Duration) -> Self {
        Self {
            next: first,
            ceiling,
        }
    }

    /// The pause to make now.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.ceiling);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finishing_a_group_ends_its_tasks() {
        let group = Group::new();
        group.spawn("endless", std::future::pending());
        group.finish().await;
    }

    #[tokio::test]
    async fn whole_work_is_waited_for() {
        let group = Group::new();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        group.spawn_whole("work", async move {
            tokio::task::yield_now().await;
            sender.send(7).unwrap();
        });
        group.finish().await;
        assert_eq!(receiver.await, Ok(7));
    }

    #[test]
    fn pauses_grow_to_the_ceiling() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let pauses: Vec<_> = (0..4).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 300, 300]);
    }
}
