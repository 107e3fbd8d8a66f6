//! TLS on TCP sockets: who the daemon is, and whom it lets in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::Tls;

/// How long a client may take to introduce itself.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("read {what} `{path}`")]
    Read {
        /// What is in it.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// It has nothing to go by.
    #[error("`{0}` has no certificate in it")]
    Empty(PathBuf),
    /// What is in the files does not fit together.
    #[error("use the certificate `{path}` and its key")]
    Use {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Those who issue clients' certificates.
    #[error("use the issuers of clients' certificates")]
    Clients(#[source] VerifierBuilderError),
}

/// What makes connections of the daemon's TCP sockets private.
#[derive(Clone)]
pub(crate) struct Door(TlsAcceptor);

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

/// Reads certificates and keys.
pub(crate) fn door(tls: &Tls) -> Result<Door, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let in_use = |source| TlsError::Use {
        path: tls.certificate.clone(),
        source,
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(in_use)?;
    let builder = match &tls.clients {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut issuers = RootCertStore::empty();
            for certificate in certificates("the issuers of clients' certificates", path)? {
                issuers.add(certificate).map_err(in_use)?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(issuers), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(TlsError::Clients)?)
        }
    };
    let own = certificates("the certificate", &tls.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|source| TlsError::Read {
        what: "the key",
        path: tls.key.clone(),
        source,
    })?;
    let config = builder.with_single_cert(own, key).map_err(in_use)?;
    Ok(Door(TlsAcceptor::from(Arc::new(config))))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    };
    let found = CertificateDer::pem_file_iter(path).map_err(read)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(read)?;
    if found.is_empty() {
        return Err(TlsError::Empty(path.to_owned()));
    }
    Ok(found)
}

impl Door {
    /// Lets a client introduce itself.
    pub(crate) async fn open(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        tokio::time::timeout(HANDSHAKE_TIME, self.0.accept(socket))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
