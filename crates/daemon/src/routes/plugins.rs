//! Managed plugins, of which there are none yet: that much can be told.

use vocab::Kind;

use super::Outcome;
use crate::answer::{self, Refusal};
use crate::call::Call;

/// `GET /plugins`.
pub(crate) async fn list(call: Call) -> Outcome {
    call.filters(&["capability", "enabled"])?;
    Ok(answer::ok(&[(); 0]))
}

/// `GET /plugins/{name}/json`. `docker inspect` asks here when nothing else has that name, and says
/// "No such object" only if the answer is 404.
pub(crate) async fn inspect(call: Call) -> Outcome {
    let message = format!("plugin \"{}\" not found", call.name());
    Err(Refusal::new(Kind::NotFound, message))
}
