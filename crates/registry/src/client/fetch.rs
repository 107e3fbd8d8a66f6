//! Bytes from an address that is no registry's: what `import` is given.

use bytes::Bytes;
use http::{Method, StatusCode};
use vocab::{Failure, Kind};

use super::transport::{Request, Response};
use super::{Client, RequestError};

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Whoever is there does not give it; Docker's sentence.
    #[error("failed to GET {url} with status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// What was answered.
        status: StatusCode,
    },
    /// The request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Failure for FetchError {
    fn kind(&self) -> Kind {
        match self {
            Self::Status { status, .. } if *status == StatusCode::NOT_FOUND => Kind::NotFound,
            Self::Status { .. } => Kind::Unavailable,
            Self::Request(error) => error.kind(),
        }
    }
}

/// Bytes that are coming.
#[derive(Debug)]
pub struct Fetched(Response);

impl Fetched {
    /// The next piece; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RequestError> {
        self.0.chunk().await
    }
}

impl Client {
    /// Begins to fetch what is at an `http` or `https` address, through the proxies and with the
    /// certificates that registries are reached with.
    pub async fn fetch(&self, address: &str) -> Result<Fetched, FetchError> {
        let request = Request::new(Method::GET, address)?;
        if !matches!(request.url.scheme(), "http" | "https") {
            let url = address.to_owned();
            return Err(RequestError::Address { url }.into());
        }
        let response = self.inner.transport.send(&request).await?;
        match response.status().is_success() {
            true => Ok(Fetched(response)),
            false => Err(FetchError::Status {
                status: response.status(),
                url: response.url,
            }),
        }
    }
}
