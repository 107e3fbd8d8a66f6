//! The places where a name may be found, asked one after the other.

use store::ReceiveError;
use vocab::Reference;

use super::hosts::Endpoint;
use super::retry::is_unreachable;
use super::{Client, LayerError, PullError, RequestError};

/// The places of one name, the likeliest first: mirrors before the origin, and both schemes where
/// TLS is not demanded.
#[derive(Debug)]
pub(super) struct Places<'a> {
    client: &'a Client,
    reference: &'a Reference,
    /// Never empty.
    endpoints: Vec<Endpoint>,
    at: usize,
}

impl<'a> Places<'a> {
    pub(super) fn new(client: &'a Client, reference: &'a Reference) -> Self {
        Self {
            client,
            reference,
            endpoints: client.endpoints(reference),
            at: 0,
        }
    }

    /// The one to ask now.
    pub(super) fn place(&self) -> &Endpoint {
        &self.endpoints[self.at]
    }

    /// What came of asking it; `None` if the next one is to be asked.
    pub(super) fn settle<T>(
        &mut self,
        outcome: Result<T, PullError>,
    ) -> Option<Result<T, PullError>> {
        let endpoint = self.place();
        match outcome {
            Ok(found) => {
                self.client.remember(self.reference.domain(), endpoint);
                Some(Ok(found))
            }
            Err(error) if self.at + 1 < self.endpoints.len() && falls_through(&error, endpoint) => {
                tracing::debug!(?endpoint, %error, "the next place is asked");
                self.at += 1;
                None
            }
            Err(error) => Some(Err(name_refusal(error, self.reference))),
        }
    }
}

/// Whether the next place is to be asked: a mirror's failures never count, and where one scheme
/// is not spoken, the other may be.
fn falls_through(error: &PullError, endpoint: &Endpoint) -> bool {
    let ours = match error {
        PullError::Put(_) | PullError::LookUp { .. } => true,
        PullError::Layer { source, .. } => {
            matches!(&**source, LayerError::Receive(ReceiveError::Write { .. }))
        }
        _ => false,
    };
    let unreachable = matches!(error, PullError::Request(error) if is_unreachable(error));
    !ours && (endpoint.mirror || unreachable)
}

/// Puts the engine's sentence before the registry's (specs/registry.md §2).
fn name_refusal(error: PullError, reference: &Reference) -> PullError {
    let refusal = match error {
        PullError::Request(RequestError::Refused(refusal)) => refusal,
        // Some token servers say it before the registry can.
        PullError::Request(RequestError::Token { realm, source }) => match *source {
            RequestError::Refused(refusal) if refusal.code.as_deref() == Some("DENIED") => refusal,
            other => {
                let source = Box::new(other);
                return PullError::Request(RequestError::Token { realm, source });
            }
        },
        other => return other,
    };
    match refusal.code.as_deref() {
        Some("DENIED") => PullError::Denied {
            name: reference.familiar_name(),
            source: refusal,
        },
        Some("MANIFEST_UNKNOWN") => PullError::ManifestUnknown {
            reference: reference.familiar(),
            source: refusal,
        },
        Some("NAME_UNKNOWN") => PullError::NameUnknown {
            name: reference.familiar_name(),
            source: refusal,
        },
        None if refusal.status == http::StatusCode::NOT_FOUND => PullError::ManifestUnknown {
            reference: reference.familiar(),
            source: refusal,
        },
        _ => PullError::Request(RequestError::Refused(refusal)),
    }
}
