//! Sockets in containers' namespaces, and the tasks that hear them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tasks::{Cancel, Group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use vocab::ContainerId;

use super::answer::{Verdict, judge};
use super::names::Names;
use super::upstream::{Host, Servers, Upstream};
use crate::{rules, sandbox};

/// The name server of every container on a network of a user.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Largest query that is read.
const QUERY_BYTES: usize = 4096;
/// Queries of one container that wait for others at a time, and its connections.
const WAITING: usize = 256;
const CONNECTIONS: usize = 32;
/// A connection on which nothing is asked for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Datagrams that are answered in one go before others have a turn.
const BURST: usize = 64;

/// How a container's queries go on.
#[derive(Clone, Debug, Default)]
pub struct Asking {
    /// Name servers, as the container reaches them; none: the host's.
    pub servers: Vec<IpAddr>,
    /// Names without a dot stay here: the container tries them with its search domains.
    pub qualified: bool,
}

/// Everybody whose queries are heard.
#[derive(Debug)]
pub(crate) struct Resolvers {
    names: Arc<RwLock<Names>>,
    host: Arc<Host>,
    heard: Mutex<HashMap<ContainerId, Cancel>>,
    tasks: Arc<Group>,
}

impl Resolvers {
    /// Nobody yet. `resolv_conf` is the host's.
    pub(crate) fn new(resolv_conf: PathBuf) -> Self {
        Self {
            names: Arc::default(),
            host: Arc::new(Host::new(resolv_conf)),
            heard: Mutex::default(),
            tasks: Arc::new(Group::new()),
        }
    }

    /// The names that are known.
    pub(crate) fn names(&self) -> &RwLock<Names> {
        &self.names
    }

    /// Hears a container from now on. `fresh` says that nobody has heard it before.
    pub(crate) async fn hear(
        &self,
        container: ContainerId,
        netns: OwnedFd,
        asking: Asking,
        fresh: bool,
    ) -> io::Result<()> {
        let netns = Arc::new(netns);
        let inside = Arc::clone(&netns);
        let (datagrams, connections) =
            tasks::blocking(move || sandbox::inside(inside.as_fd(), || open(fresh))).await?;
        let datagrams = tokio::net::UdpSocket::from_std(datagrams)?;
        let connections = tokio::net::TcpListener::from_std(connections)?;
        let servers = match asking.servers.is_empty() {
            true => Servers::Host(Arc::clone(&self.host)),
            false => Servers::Own(asking.servers),
        };
        let resolver = Arc::new(Resolver {
            container,
            names: Arc::clone(&self.names),
            qualified: asking.qualified,
            upstream: Upstream::new(netns, servers),
            waiting: Arc::new(Semaphore::new(WAITING)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            tasks: Arc::clone(&self.tasks),
            end: Cancel::new(),
        });
        let end = resolver.end.clone();
        if let Some(before) = self.heard().insert(container, end.clone()) {
            before.cancel();
        }
        self.tasks.spawn("names", async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = resolver.hear(Arc::new(datagrams), connections) => {}
            }
        });
        Ok(())
    }

    /// Whether a container is heard.
    pub(crate) fn hears(&self, container: &ContainerId) -> bool {
        self.heard().contains_key(container)
    }

    /// Hears a container no more; its namespace is let go of soon after.
    pub(crate) fn forget(&self, container: &ContainerId) {
        if let Some(end) = self.heard().remove(container) {
            end.cancel();
        }
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Cancel>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Resolvers {
    fn drop(&mut self) {
        for (_, end) in self.heard().drain() {
            end.cancel();
        }
    }
}

/// Opens the sockets in the namespace of this thread, and puts port 53 before them.
fn open(fresh: bool) -> io::Result<(UdpSocket, TcpListener)> {
    let datagrams = UdpSocket::bind((ADDRESS, 0))?;
    let connections = TcpListener::bind((ADDRESS, 0))?;
    datagrams.set_nonblocking(true)?;
    connections.set_nonblocking(true)?;
    rules::lead_names(
        datagrams.local_addr()?.port(),
        connections.local_addr()?.port(),
        fresh,
    )?;
    Ok((datagrams, connections))
}

/// One container's queries.
struct Resolver {
    container: ContainerId,
    names: Arc<RwLock<Names>>,
    qualified: bool,
    upstream: Upstream,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    tasks: Arc<Group>,
    end: Cancel,
}

impl Resolver {
    async fn hear(
        self: Arc<Self>,
        datagrams: Arc<tokio::net::UdpSocket>,
        connections: tokio::net::TcpListener,
    ) {
        loop {
            tokio::select! {
                readable = datagrams.readable() => match readable {
                    Ok(()) => self.drain(&datagrams),
                    Err(error) => return self.deaf(&error),
                },
                accepted = connections.accept() => match accepted {
                    Ok((stream, _)) => self.accept(stream),
                    // One connection that failed is no reason to hear no other.
                    Err(error) => {
                        tracing::debug!(%error, "accept a connection for names");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                },
            }
        }
    }

    fn deaf(&self, error: &io::Error) {
        tracing::warn!(container = self.container.short(), %error, "queries are not heard any more");
    }

    /// Answers what came; the buffer lives only while it is needed.
    fn drain(self: &Arc<Self>, socket: &Arc<tokio::net::UdpSocket>) {
        let mut buffer = [0; QUERY_BYTES];
        for _ in 0..BURST {
            // An error here tells of an earlier reply that nobody waited for.
            let Ok((length, from)) = socket.try_recv_from(&mut buffer) else {
                return;
            };
            let query = &buffer[..length];
            match self.judge(query, true) {
                // Where the socket is full, who asked asks again.
                Verdict::Reply(reply) => drop(socket.try_send_to(&reply, from)),
                Verdict::Forward(message) => {
                    self.forward(query.to_vec(), message, Arc::clone(socket), from);
                }
                Verdict::Ignore => {}
            }
        }
    }

    fn judge(&self, query: &[u8], datagram: bool) -> Verdict {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        judge(query, &names.of(self.container), datagram, self.qualified)
    }

    fn forward(
        self: &Arc<Self>,
        query: Vec<u8>,
        message: Box<hickory_proto::op::Message>,
        socket: Arc<tokio::net::UdpSocket>,
        from: SocketAddr,
    ) {
        // Too many: who asked asks again.
        let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else {
            return;
        };
        let own = Arc::clone(self);
        self.tasks.spawn("forward a query", async move {
            let _permit = permit;
            let reply = async {
                if let Some(reply) = own.upstream.reply(&message, &query, true).await {
                    // Whoever asked may have gone.
                    let _ = socket.send_to(&reply, from).await;
                }
            };
            tokio::select! {
                () = own.end.cancelled() => {}
                () = reply => {}
            }
        });
    }

    fn accept(self: &Arc<Self>, stream: tokio::net::TcpStream) {
        let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
            return;
        };
        let own = Arc::clone(self);
        self.tasks.spawn("names by tcp", async move {
            let _permit = permit;
            tokio::select! {
                () = own.end.cancelled() => {}
                // It ends when who asks goes, breaks off or is silent.
                _ = own.converse(stream) => {}
            }
        });
    }

    async fn converse(&self, mut stream: tokio::net::TcpStream) -> io::Result<()> {
        loop {
            let query = tokio::time::timeout(IDLE, async {
                let length = usize::from(stream.read_u16().await?);
                if length > QUERY_BYTES {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let mut query = vec![0; length];
                stream.read_exact(&mut query).await?;
                io::Result::Ok(query)
            });
            let query = query.await.map_err(io::Error::other)??;
            let reply = match self.judge(&query, false) {
                Verdict::Reply(reply) => Some(reply),
                Verdict::Forward(message) => self.upstream.reply(&message, &query, false).await,
                Verdict::Ignore => None,
            };
            let reply = reply.ok_or(io::ErrorKind::InvalidData)?;
            let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes()[..], &reply].concat();
            tokio::time::timeout(IDLE, stream.write_all(&framed))
                .await
                .map_err(io::Error::other)??;
        }
    }
}
