//! How a command ends: an exit code, and what it says on standard error.

use api::client::CallError;

/// Outcome of a step of a command.
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// A command that cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the process exits with.
    pub code: u8,
    /// What is told; empty when it has been told already.
    pub message: String,
    /// HTTP status, if the daemon refused.
    pub status: Option<u16>,
}

impl Failure {
    /// Exit code 1 and a sentence.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            code: 1,
            message: message.into(),
            status: None,
        }
    }

    /// All has been told.
    pub fn silent(code: u8) -> Self {
        Self {
            code,
            message: String::new(),
            status: None,
        }
    }

    /// The same with another exit code.
    #[must_use]
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Whether what was named is not there.
    pub fn is_not_found(&self) -> bool {
        self.status == Some(404)
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

impl From<&str> for Failure {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let status = error.status().map(|status| status.as_u16());
        let message = match &error {
            CallError::Api { message, .. } => format!("Error response from daemon: {message}"),
            CallError::Connect { address, source } => unreachable(address, source),
            other => vocab::failure::chain(other),
        };
        Self {
            code: 1,
            message,
            status,
        }
    }
}

/// What to do about a daemon that does not answer.
fn unreachable(address: &str, source: &std::io::Error) -> String {
    match source.kind() {
        std::io::ErrorKind::PermissionDenied => format!(
            "permission denied while trying to connect to the berth daemon at {address}: run this as root, or join the group `berth`"
        ),
        _ if address == api::client::DEFAULT_HOST => format!(
            "Cannot connect to the berth daemon at {address}. Is the daemon running? Start it with `sudo berth daemon`, or run this as root and it is started for you"
        ),
        _ => format!("Cannot connect to the daemon at {address}. Is the daemon running?"),
    }
}
