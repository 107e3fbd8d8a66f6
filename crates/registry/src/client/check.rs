//! `docker login`: are these credentials good, and is there a token to keep instead of them?

use http::StatusCode;
use vocab::reference::DEFAULT_DOMAIN;

use super::retry::is_unreachable;
use super::session::Purpose;
use super::{CheckError, Checked, Client, Credentials, RequestError};

/// Asks the registry that was typed.
pub(super) async fn check(
    client: &Client,
    typed: &str,
    credentials: &Credentials,
) -> Result<Checked, CheckError> {
    let domain = domain_of(typed).ok_or_else(|| CheckError::Address {
        typed: typed.to_owned(),
    })?;
    let endpoints = client.origins(&domain);
    let last = endpoints.len() - 1;
    for (at, endpoint) in endpoints.iter().enumerate() {
        let session = client.session(endpoint.clone(), Purpose::Login, Some(credentials));
        match session.probe().await {
            Ok(()) => {
                client.remember(&domain, endpoint);
                return Ok(Checked {
                    identity_token: session.identity_token(),
                });
            }
            Err(error) if at != last && is_unreachable(&error) => {}
            Err(error) => {
                return Err(match rejection(&error) {
                    Some(status) => CheckError::Rejected {
                        url: endpoint.address(""),
                        status,
                        source: error,
                    },
                    None => CheckError::Request(error),
                });
            }
        }
    }
    unreachable!("the last place's outcome is returned")
}

/// The status with which somebody said that the credentials are not good.
fn rejection(error: &RequestError) -> Option<StatusCode> {
    match error {
        RequestError::Refused(refusal) => Some(refusal.status)
            .filter(|status| matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)),
        RequestError::Token { source, .. } => rejection(source),
        RequestError::NoCredentials { .. } => Some(StatusCode::UNAUTHORIZED),
        _ => None,
    }
}

/// The domain in what users type: `https://index.docker.io/v1/`, `host:5000`, nothing.
fn domain_of(typed: &str) -> Option<String> {
    let rest = typed.trim();
    let rest = rest
        .strip_prefix("https://")
        .or_else(|| rest.strip_prefix("http://"))
        .unwrap_or(rest);
    let host = rest.split('/').next().unwrap_or_default();
    match host {
        "" if rest.is_empty() => Some(DEFAULT_DOMAIN.to_owned()),
        "docker.io" | "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => {
            Some(DEFAULT_DOMAIN.to_owned())
        }
        // The grammar of a domain is the one that image names have.
        host => format!("{host}/x")
            .parse::<vocab::Reference>()
            .ok()
            .map(|reference| reference.domain().to_owned())
            .filter(|domain| domain == host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_type_is_a_domain() {
        for (typed, domain) in [
            ("", Some("docker.io")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("localhost:5000", Some("localhost:5000")),
            ("http://reg.lan/v2/", Some("reg.lan")),
            ("[::1]:5000", Some("[::1]:5000")),
            ("user@host", None),
            ("no domain", None),
            ("/", None),
        ] {
            assert_eq!(domain_of(typed).as_deref(), domain, "{typed}");
        }
    }
}
