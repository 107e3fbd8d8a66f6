//! What a user proves with, as it travels from client to daemon in `X-Registry-Auth`.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use vocab::{Failure, Kind};

/// Characters in the header; a token of an identity provider is a few thousand.
const HEADER_LENGTH_MAX: usize = 64 * 1024;

/// A user's proof for one registry. Empty fields are not there. It prints no secrets.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Credentials {
    /// Name of the user.
    pub username: String,
    /// Password, or an access token used as one.
    pub password: String,
    /// Long-lived token that the registry's token server issued at login, in place of a password.
    #[serde(rename = "identitytoken")]
    pub identity_token: String,
    /// Bearer token to be shown to the registry as it is.
    #[serde(rename = "registrytoken")]
    pub registry_token: String,
    /// Which registry this is for, as the client wrote it.
    #[serde(rename = "serveraddress")]
    pub server_address: String,
}

/// The document in the header.
#[derive(Deserialize)]
struct Header {
    #[serde(flatten)]
    credentials: Credentials,
    /// `user:password` in base64: the older spelling.
    #[serde(default)]
    auth: String,
}

/// Why a header holds no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It is longer than any real one.
    #[error("the credentials are longer than {HEADER_LENGTH_MAX} characters")]
    TooLong,
    /// It is not base64.
    #[error("the credentials are not base64")]
    Base64(#[source] base64::DecodeError),
    /// What it encodes is not the document wanted.
    #[error("the credentials are not the JSON wanted")]
    Json(#[source] serde_json::Error),
}

impl Failure for CredentialsError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

impl Credentials {
    /// A name and a password.
    pub fn password(username: &str, password: &str) -> Self {
        Self {
            username: username.to_owned(),
            password: password.to_owned(),
            ..Self::default()
        }
    }

    /// Reads an `X-Registry-Auth` header: JSON in base64, either alphabet, padded or not.
    /// `None` if it is empty or says nothing, which means anonymous.
    pub fn from_header(header: &str) -> Result<Option<Self>, CredentialsError> {
        let header = header.trim();
        if header.is_empty() {
            return Ok(None);
        }
        if header.len() > HEADER_LENGTH_MAX {
            return Err(CredentialsError::TooLong);
        }
        let bytes = decode(header).map_err(CredentialsError::Base64)?;
        let read: Option<Header> =
            serde_json::from_slice(&bytes).map_err(CredentialsError::Json)?;
        let Some(Header { credentials, auth }) = read else {
            return Ok(None);
        };
        let credentials = if credentials.username.is_empty() && !auth.is_empty() {
            credentials.with_pair(&auth)?
        } else {
            credentials
        };
        Ok(Some(credentials).filter(|read| !read.is_anonymous()))
    }

    /// Whether nothing in it proves anything.
    pub fn is_anonymous(&self) -> bool {
        self.username.is_empty() && self.identity_token.is_empty() && self.registry_token.is_empty()
    }

    fn with_pair(mut self, encoded: &str) -> Result<Self, CredentialsError> {
        let bytes = decode(encoded).map_err(CredentialsError::Base64)?;
        let text = String::from_utf8_lossy(&bytes);
        if let Some((username, password)) = text.split_once(':') {
            username.clone_into(&mut self.username);
            password
                .trim_end_matches('\0')
                .clone_into(&mut self.password);
        }
        Ok(self)
    }
}

/// Both alphabets and both habits of padding are seen in the wild.
fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['+', '/']) {
        &alphabet::STANDARD
    } else {
        &alphabet::URL_SAFE
    };
    GeneralPurpose::new(alphabet, lenient).decode(text)
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(json: &str) -> String {
        base64::engine::general_purpose::URL_SAFE.encode(json)
    }

    #[test]
    fn a_header_holds_credentials() {
        let read = Credentials::from_header(&header(
            r#"{"username":"ann","password":"p>?","serveraddress":"localhost:5000"}"#,
        ));
        let read = read.unwrap().unwrap();
        assert_eq!(
            (read.username.as_str(), read.password.as_str()),
            ("ann", "p>?")
        );
    }

    #[test]
    fn the_older_spelling_is_read_too() {
        let legacy = base64::engine::general_purpose::STANDARD.encode("ann:a:b");
        let read = Credentials::from_header(&header(&format!(r#"{{"auth":"{legacy}"}}"#)));
        assert_eq!(read.unwrap().unwrap(), Credentials::password("ann", "a:b"));
    }

    #[test]
    fn nothing_said_means_anonymous() {
        for text in ["", &header("{}"), &header("null")] {
            assert_eq!(Credentials::from_header(text).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for text in ["!", &header("[1]"), &"A".repeat(HEADER_LENGTH_MAX + 1)] {
            let error = Credentials::from_header(text).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let printed = format!("{:?}", Credentials::password("ann", "hunter2"));
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
