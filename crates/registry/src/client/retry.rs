//! What is worth another try, and after which pause.

use std::time::Duration;

use tasks::Backoff;

use super::{Config, RequestError};

/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// The longest pause that a server may ask for; beyond it, the user is told instead.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The tries of one thing.
#[derive(Debug)]
pub(super) struct Tries {
    first_pause: Duration,
    most: u32,
    backoff: Backoff,
    made: u32,
}

impl Tries {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            first_pause: config.first_pause,
            most: config.max_attempts.max(1),
            backoff: Backoff::new(config.first_pause, PAUSE_MAX),
            made: 0,
        }
    }

    /// How many were made.
    pub(super) fn made(&self) -> u32 {
        self.made
    }

    /// The last one brought so much that this is not the same trouble again.
    pub(super) fn start_over(&mut self) {
        self.made = 0;
        self.backoff = Backoff::new(self.first_pause, PAUSE_MAX);
    }

    /// The pause before the next try after this failure; `None` if there is to be none.
    pub(super) fn pause_after(&mut self, error: &RequestError) -> Option<Duration> {
        self.made += 1;
        if self.made >= self.most || !is_passing(error) {
            return None;
        }
        let usual = self.backoff.pause();
        match error {
            RequestError::Refused(refusal) => match refusal.retry_after {
                Some(asked) if asked > RETRY_AFTER_MAX => None,
                Some(asked) => Some(asked.max(usual)),
                None => Some(usual),
            },
            _ => Some(usual),
        }
    }
}

/// Whether the same request may well succeed in a moment.
fn is_passing(error: &RequestError) -> bool {
    match error {
        RequestError::Send { .. }
        | RequestError::Stalled { .. }
        | RequestError::Receive { .. }
        | RequestError::Short { .. } => true,
        RequestError::Refused(refusal) => {
            // What is sent was verified when it came here: it suffered on the way.
            let suffered = refusal.code.as_deref() == Some("DIGEST_INVALID");
            suffered || matches!(refusal.status.as_u16(), 408 | 429 | 500 | 502..=504)
        }
        RequestError::Token { source, .. } => is_passing(source),
        _ => false,
    }
}

/// Whether nobody was there at all: then a first request is not worth another try.
pub(super) fn is_unreachable(error: &RequestError) -> bool {
    matches!(error, RequestError::Send { source, .. } if source.is_connect())
}
