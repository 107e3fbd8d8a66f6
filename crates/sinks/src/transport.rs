//! Sockets: datagrams and streams, plain and with TLS.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Where the host's syslog listens, if it does.
const LOCAL_SYSLOG: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// Bytes that a receive asks for.
const RECEIVE_BYTES: usize = 256;

/// Where to send to.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    LocalSyslog,
    Journal(PathBuf),
    Unix(PathBuf),
    UnixDatagram(PathBuf),
    Udp(String),
    Tcp(String),
    Tls(String, Arc<TlsSettings>),
}

/// How the other side is recognised, and how it recognises us.
#[derive(Clone, Debug)]
pub(crate) struct TlsSettings {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) skip_verify: bool,
}

/// Why something was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nobody answers there.
    #[error("dial {network} {address}")]
    Connect {
        /// In Go's words.
        network: &'static str,
        /// As it was given.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// There is no journald.
    #[error("journald is not enabled on this host")]
    NoJournal,
    /// There is no syslog on this host.
    #[error("Unix syslog delivery error")]
    NoSyslog,
    /// A file that TLS needs.
    #[error("read `{path}`")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// TLS cannot be as it is asked for.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// It was cut off.
    #[error("send")]
    Send(#[source] io::Error),
    /// Something else came where an acknowledgement was to come.
    #[error("the receiver acknowledged something else")]
    Acknowledgement,
}

/// A socket.
#[derive(Debug)]
pub(crate) enum Transport {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
    UnixDatagram(UnixDatagram),
}

impl Transport {
    pub(crate) async fn connect(address: &Address) -> Result<Self, SendError> {
        let failed = |network: &'static str, address: &str| {
            let address = address.to_owned();
            move |source| SendError::Connect {
                network,
                address,
                source,
            }
        };
        match address {
            Address::LocalSyslog => {
                for path in LOCAL_SYSLOG.map(Path::new) {
                    if let Ok(socket) = datagram(path) {
                        return Ok(Self::UnixDatagram(socket));
                    }
                    if let Ok(socket) = UnixStream::connect(path).await {
                        return Ok(Self::Unix(socket));
                    }
                }
                Err(SendError::NoSyslog)
            }
            Address::Journal(path) => {
                let socket = datagram(path).map_err(|_| SendError::NoJournal)?;
                Ok(Self::UnixDatagram(socket))
            }
            Address::Unix(path) => {
                let connected = UnixStream::connect(path).await;
                let name = path.display().to_string();
                connected.map(Self::Unix).map_err(failed("unix", &name))
            }
            Address::UnixDatagram(path) => {
                let name = path.display().to_string();
                let connected = datagram(path);
                connected
                    .map(Self::UnixDatagram)
                    .map_err(failed("unixgram", &name))
            }
            Address::Udp(host) => udp(host).await.map(Self::Udp).map_err(failed("udp", host)),
            Address::Tcp(host) => tcp(host).await.map(Self::Tcp).map_err(failed("tcp", host)),
            Address::Tls(host, settings) => {
                let connector = TlsConnector::from(Arc::new(client_config(settings)?));
                let name = host
                    .rsplit_once(':')
                    .map_or(host.as_str(), |(name, _)| name);
                let name = name.trim_matches(['[', ']']).to_owned();
                let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
                let connected = async {
                    let name = ServerName::try_from(name).map_err(invalid)?;
                    let stream = tcp(host).await?;
                    let greeted = connector.connect(name, stream);
                    patiently(CONNECT_PATIENCE, greeted).await
                };
                let stream = connected.await.map_err(failed("tcp", host))?;
                Ok(Self::Tls(Box::new(stream)))
            }
        }
    }

    /// Whether the other side has closed a stream, which the next write would not tell yet.
    pub(crate) fn is_gone(&self) -> bool {
        let socket = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.get_ref().0.as_fd(),
            Self::Udp(_) | Self::UnixDatagram(_) => return false,
        };
        // Whatever it says stays there for its reader.
        let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let mut byte = [0];
        match rustix::net::recv(socket, &mut byte[..], look) {
            Ok((_, bytes)) => bytes == 0,
            Err(error) => !matches!(error, Errno::AGAIN | Errno::INTR),
        }
    }

    /// Sends messages, each a datagram of its own where there are any. What was taken is gone from
    /// `bytes` and `ends`, but for a message of a stream that was taken in part.
    pub(crate) async fn send(
        &mut self,
        bytes: &mut Vec<u8>,
        ends: &mut Vec<usize>,
    ) -> Result<(), SendError> {
        let mut sent = 0;
        let outcome = match self {
            Self::Udp(socket) => each(bytes, ends, &mut sent, Datagrams::Udp(socket)).await,
            Self::UnixDatagram(socket) => {
                each(bytes, ends, &mut sent, Datagrams::Unix(socket)).await
            }
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Unix(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => match stream.write_all(bytes).await {
                Ok(()) => stream.flush().await,
                failed => failed,
            },
        };
        bytes.drain(..sent);
        ends.retain(|end| *end > sent);
        for end in ends {
            *end -= sent;
        }
        outcome.map_err(SendError::Send)
    }

    /// Waits for some bytes.
    pub(crate) async fn receive(
        &mut self,
        bytes: &mut Vec<u8>,
        patience: Duration,
    ) -> Result<(), SendError> {
        let mut buffer = [0; RECEIVE_BYTES];
        let received = async {
            match self {
                Self::Tcp(stream) => stream.read(&mut buffer).await,
                Self::Unix(stream) => stream.read(&mut buffer).await,
                Self::Tls(stream) => stream.read(&mut buffer).await,
                Self::Udp(_) | Self::UnixDatagram(_) => Err(io::ErrorKind::Unsupported.into()),
            }
        };
        match patiently(patience, received).await {
            Ok(0) => Err(SendError::Send(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => {
                bytes.extend_from_slice(&buffer[..read]);
                Ok(())
            }
            Err(error) => Err(SendError::Send(error)),
        }
    }
}

/// A socket on which a message is one packet.
enum Datagrams<'a> {
    Udp(&'a UdpSocket),
    Unix(&'a UnixDatagram),
}

impl Datagrams<'_> {
    async fn send(&self, message: &[u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket) => socket.send(message).await,
            Self::Unix(socket) => socket.send(message).await,
        }
    }
}

/// Sends each message by itself, and notes how far that went.
async fn each(
    bytes: &[u8],
    ends: &[usize],
    sent: &mut usize,
    socket: Datagrams<'_>,
) -> io::Result<()> {
    for end in ends {
        match socket.send(&bytes[*sent..*end]).await {
            Ok(_) => {}
            // Nobody will ever take it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::MSGSIZE) => {}
            Err(error) => return Err(error),
        }
        *sent = *end;
    }
    Ok(())
}

async fn patiently<T>(
    patience: Duration,
    future: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match tokio::time::timeout(patience, future).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn datagram(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

async fn udp(host: &str) -> io::Result<UdpSocket> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in tokio::net::lookup_host(host).await? {
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).await?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn tcp(host: &str) -> io::Result<TcpStream> {
    patiently(CONNECT_PATIENCE, TcpStream::connect(host)).await
}

fn client_config(settings: &TlsSettings) -> Result<ClientConfig, SendError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(SendError::Tls)?;
    let builder = if settings.skip_verify {
        let anyone = Arc::new(Anyone(provider));
        builder.dangerous().with_custom_certificate_verifier(anyone)
    } else {
        let mut roots = RootCertStore::empty();
        let path = settings.ca.clone();
        let path = path.unwrap_or_else(|| PathBuf::from(HOST_CERTIFICATES));
        for certificate in certificates(&path)? {
            roots.add(certificate).map_err(SendError::Tls)?;
        }
        builder.with_root_certificates(roots)
    };
    match (&settings.certificate, &settings.key) {
        (Some(certificate), Some(key)) => {
            let file = |source| SendError::File {
                path: key.clone(),
                source,
            };
            let text = fs::read(key).map_err(|error| file(error.into()))?;
            let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| file(error.into()))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, key)
                .map_err(SendError::Tls)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// The authorities that the host trusts.
const HOST_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SendError> {
    let file = |source| SendError::File {
        path: path.to_owned(),
        source,
    };
    let text = fs::read(path).map_err(|error| file(error.into()))?;
    CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| file(error.into()))
}

/// Takes anybody for the right one: `syslog-tls-skip-verify`.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
