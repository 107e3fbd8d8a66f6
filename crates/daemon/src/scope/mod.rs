//! What may be asked for on a socket.
//!
//! The decision is about the operation that was found and the documents it will be carried out
//! with, not about the text of the request: however a path or a body is written, what is judged
//! and what is done are the same. Everything that is not allowed is refused, so an operation that
//! is new is refused until somebody says here that it is not.
//!
//! | scope | what it is for |
//! |---|---|
//! | everything | whoever may be root |
//! | `read-only` | dashboards: what exists and how it does; nothing of what is inside images and containers but their logs |
//! | `events` | proxies and monitors: that something happened |
//! | `own-containers` | build agents, test runners: containers, networks and volumes that were made on this socket, without a way to the host |

mod own;

use std::str::FromStr;

use vocab::Kind;

use crate::answer::Refusal;
use crate::call::Call;
use crate::router::Operation;

/// What may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that the daemon does.
    Everything,
    /// What changes nothing and shows no files.
    ReadOnly,
    /// Only events.
    Events,
    /// Only what this owner made.
    OwnContainers(String),
}

/// It is no scope.
#[derive(Debug)]
pub struct ParseScopeError;

impl Scope {
    /// What a scope looks like.
    pub(crate) const WANTED: &str = "a scope: everything, read-only, events or own-containers";
}

impl FromStr for Scope {
    type Err = ParseScopeError;

    fn from_str(text: &str) -> Result<Self, ParseScopeError> {
        Ok(match text {
            "everything" => Self::Everything,
            "read-only" => Self::ReadOnly,
            "events" => Self::Events,
            "own-containers" => Self::OwnContainers(String::new()),
            _ => return Err(ParseScopeError),
        })
    }
}

/// What tells that the daemon lives.
const LIVENESS: [&str; 3] = ["GET /_ping", "HEAD /_ping", "GET /version"];

/// What shows without changing, and holds no bytes of files.
const READS: [&str; 23] = [
    "GET /info",
    "GET /system/df",
    "GET /events",
    "GET /containers/json",
    "GET /containers/{id}/json",
    "GET /containers/{id}/top",
    "GET /containers/{id}/logs",
    "GET /containers/{id}/changes",
    "GET /containers/{id}/stats",
    "POST /containers/{id}/wait",
    "GET /exec/{id}/json",
    "GET /images/json",
    "GET /images/{name}/json",
    "GET /images/{name}/attestations",
    "GET /images/{name}/history",
    "GET /images/{name}/explain",
    "GET /volumes",
    "GET /volumes/{name}",
    "GET /networks",
    "GET /networks/",
    "GET /networks/{id}",
    "GET /plugins",
    "GET /plugins/{name}/json",
];

impl Scope {
    /// Refuses what is not allowed, and makes sure that what is allowed stays within its bounds.
    pub(crate) async fn admit(
        &self,
        operation: &Operation,
        call: &mut Call,
    ) -> Result<(), Refusal> {
        let asked = format!("{} {}", operation.method, operation.path.0);
        let asked = asked.as_str();
        let allowed = match self {
            Self::Everything => true,
            _ if LIVENESS.contains(&asked) => true,
            Self::ReadOnly => READS.contains(&asked),
            Self::Events => asked == "GET /events",
            Self::OwnContainers(owner) => return own::admit(owner, asked, call).await,
        };
        if allowed {
            Ok(())
        } else {
            Err(self.refuse(asked))
        }
    }

    fn refuse(&self, asked: &str) -> Refusal {
        let name = match self {
            Self::Everything => "everything",
            Self::ReadOnly => "read-only",
            Self::Events => "events",
            Self::OwnContainers(_) => "own-containers",
        };
        Refusal::new(
            Kind::Forbidden,
            format!("this socket has the scope {name}, which does not include {asked}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::router::OPERATIONS;

    use super::*;

    #[test]
    fn every_operation_that_is_allowed_exists() {
        let all: Vec<String> = OPERATIONS
            .iter()
            .map(|operation| format!("{} {}", operation.method, operation.path.0))
            .collect();
        for allowed in LIVENESS.iter().chain(&READS).chain(own::every_operation()) {
            assert!(all.iter().any(|one| one == allowed), "{allowed}");
        }
    }
}
