//! A host in a network namespace of its own, a LAN beside it, and sockets in each.
//!
//! Nothing of the machine's own network is touched, so every test runs beside every other.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use network::{Attach, AttachError, Bridge, Config, Endpoint, Networks, Protocol, PublishRequest};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use vocab::{ContainerId, NetworkId};

/// Longer than any answer takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a call that should fail is given.
const DOUBT: Duration = Duration::from_millis(300);

/// The host's address on the LAN, and that of the other host there.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub(crate) const LAN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// Runs a test as if on a host of its own, with nothing but `lo`.
pub(crate) fn on_a_host(test: impl AsyncFnOnce() + Send) {
    thread::scope(|scope| {
        let host = scope.spawn(|| {
            sys::namespace::unshare(UnshareFlags::NEWNET).expect("root rights are needed");
            ip("link set lo up");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(test());
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Says whether bridged packets pass this host's IP rules (`br_netfilter`), where the kernel can.
pub(crate) fn bridge_netfilter(on: bool) {
    let setting = std::path::Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if setting.exists() {
        std::fs::write(setting, u8::from(on).to_string()).unwrap();
    }
}

/// Runs `work` inside a namespace.
pub(crate) fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(netns.as_fd(), network).unwrap();
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Networks with one bridge, and a LAN.
pub(crate) struct Lab {
    pub(crate) networks: Networks,
    pub(crate) bridge: Bridge,
    pub(crate) lan: OwnedFd,
}

impl Lab {
    pub(crate) async fn new() -> Self {
        let networks = Networks::open(Config::new("")).unwrap();
        let bridge = bridge("berth0", "172.17.0.0/16");
        networks.ensure_bridge(&bridge).await.unwrap();
        let lan = lan(&networks).await;
        Self {
            networks,
            bridge,
            lan,
        }
    }

    /// A container on the default bridge.
    pub(crate) async fn container(&self, ports: &[PublishRequest]) -> Container {
        self.container_on(&self.bridge, ports).await
    }

    pub(crate) async fn container_on(
        &self,
        bridge: &Bridge,
        ports: &[PublishRequest],
    ) -> Container {
        self.attach(bridge, ports).await.unwrap()
    }

    pub(crate) async fn attach(
        &self,
        bridge: &Bridge,
        ports: &[PublishRequest],
    ) -> Result<Container, AttachError> {
        let netns = self.networks.open_sandbox().await.unwrap();
        let endpoint = self
            .networks
            .attach(netns.as_fd(), wanted(bridge, ports))
            .await?;
        Ok(Container { netns, endpoint })
    }
}

pub(crate) struct Container {
    pub(crate) netns: OwnedFd,
    pub(crate) endpoint: Endpoint,
}

pub(crate) fn wanted(bridge: &Bridge, ports: &[PublishRequest]) -> Attach {
    Attach {
        network: bridge.id,
        container: ContainerId::random(),
        interface: "eth0".to_owned(),
        address: None,
        address6: None,
        mac: None,
        ports: ports.to_vec(),
        default_route: true,
        sysctls: Vec::new(),
        names: Vec::new(),
        links: Vec::new(),
    }
}

pub(crate) fn bridge(device: &str, subnet: &str) -> Bridge {
    let subnet: ipnet::Ipv4Net = subnet.parse().unwrap();
    Bridge {
        id: NetworkId::random(),
        name: device.to_owned(),
        device: device.to_owned(),
        subnet,
        gateway: subnet.hosts().next().unwrap(),
        mtu: None,
        internal: false,
        icc: true,
        masquerade: true,
        ipv6: None,
    }
}

/// `-p host_ip:host_port:container_port/tcp`
pub(crate) fn tcp(
    host_ip: Option<Ipv4Addr>,
    host_port: u16,
    container_port: u16,
) -> PublishRequest {
    PublishRequest {
        protocol: Protocol::Tcp,
        container_port,
        host_ip: host_ip.map(IpAddr::from),
        host_port: Some(host_port.into()),
    }
}

/// A host beside ours, `lan0` on our side.
pub(crate) async fn lan(networks: &Networks) -> OwnedFd {
    let lan = networks.open_sandbox().await.unwrap();
    let here = rustix::thread::gettid().as_raw_nonzero();
    inside(&lan, || {
        ip(&format!(
            "link add eth0 type veth peer name lan0 netns {here}"
        ));
        ip(&format!("address add {LAN}/24 dev eth0"));
        ip("link set eth0 up");
    });
    ip(&format!("address add {HOST}/24 dev lan0"));
    ip("link set lan0 up");
    // Looking makes the links carry packets now.
    ip("link show lan0");
    inside(&lan, || ip("link show eth0"));
    lan
}

/// A server that tells each caller which address it sees, then repeats lines.
pub(crate) struct Server(TcpListener);

impl Server {
    pub(crate) fn in_container(container: &Container, port: u16) -> Self {
        Self::start(&container.netns, port)
    }

    pub(crate) fn start(netns: &OwnedFd, port: u16) -> Self {
        let listener = inside(netns, || {
            // Of both families.
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()
        });
        let own = listener.try_clone().unwrap();
        thread::spawn(move || {
            while let Ok((mut stream, peer)) = own.accept() {
                thread::spawn(move || -> io::Result<()> {
                    writeln!(stream, "{}", peer.ip().to_canonical())?;
                    let mut lines = BufReader::new(stream.try_clone()?);
                    io::copy(&mut lines, &mut stream)?;
                    Ok(())
                });
            }
        });
        Self(listener)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ends the accepting thread.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

/// A connection to a [`Server`].
pub(crate) struct Call {
    stream: BufReader<TcpStream>,
    /// The address that the server sees.
    pub(crate) seen_as: IpAddr,
}

impl Call {
    pub(crate) fn line(&mut self, text: &str) -> io::Result<String> {
        writeln!(self.stream.get_mut(), "{text}")?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }
}

/// Calls a server from this thread's namespace.
pub(crate) fn call(address: impl Into<IpAddr>, port: u16) -> io::Result<Call> {
    call_for(PATIENCE, address, port)
}

/// Whether nobody answers this thread.
pub(crate) fn unreached(address: impl Into<IpAddr>, port: u16) -> bool {
    call_for(DOUBT, address, port).is_err()
}

pub(crate) fn unreached_from(netns: &OwnedFd, address: impl Into<IpAddr>, port: u16) -> bool {
    let address = address.into();
    inside(netns, || unreached(address, port))
}

fn call_for(patience: Duration, address: impl Into<IpAddr>, port: u16) -> io::Result<Call> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((address.into(), port)), patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut stream = BufReader::new(stream);
    let mut seen_as = String::new();
    stream.read_line(&mut seen_as)?;
    let seen_as = seen_as.trim_end().parse().map_err(io::Error::other)?;
    Ok(Call { stream, seen_as })
}

pub(crate) fn call_from(
    netns: &OwnedFd,
    address: impl Into<IpAddr>,
    port: u16,
) -> io::Result<Call> {
    let address = address.into();
    inside(netns, || call(address, port))
}

/// The address a server sees, or nothing if it is not reached.
pub(crate) fn seen_as(netns: &OwnedFd, address: impl Into<IpAddr>, port: u16) -> Option<IpAddr> {
    call_from(netns, address, port)
        .ok()
        .map(|call| call.seen_as)
}

/// A UDP server that answers each datagram with the address it sees.
pub(crate) fn serve_udp(netns: &OwnedFd, port: u16) {
    let socket = inside(netns, || {
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()
    });
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    thread::spawn(move || {
        while let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
            let seen = peer.ip().to_canonical().to_string();
            let _ = socket.send_to(seen.as_bytes(), peer);
        }
    });
}

pub(crate) fn seen_as_udp(address: impl Into<IpAddr>, port: u16) -> Option<IpAddr> {
    UdpClient::here((address.into(), port)).ask()
}

/// A client that keeps its port.
pub(crate) struct UdpClient(UdpSocket);

impl UdpClient {
    pub(crate) fn new(netns: &OwnedFd, server: (Ipv4Addr, u16)) -> Self {
        inside(netns, || Self::here((server.0.into(), server.1)))
    }

    fn here(server: (IpAddr, u16)) -> Self {
        let any = match server.0 {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(server).unwrap();
        Self(socket)
    }

    pub(crate) fn send(&self) {
        self.0.send(b"?").unwrap();
    }

    /// Whether the server's host has said that nobody is there.
    pub(crate) fn was_refused(&self) -> bool {
        matches!(self.0.take_error(), Ok(Some(_)))
    }

    /// The address the server sees.
    pub(crate) fn ask(&self) -> Option<IpAddr> {
        self.send();
        let mut answer = [0; 64];
        let length = self.0.recv(&mut answer).ok()?;
        String::from_utf8_lossy(&answer[..length]).parse().ok()
    }
}

pub(crate) fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

pub(crate) fn nft(arguments: &str) -> String {
    run("nft", arguments)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the LAN is made, and rules are read, by others"
)]
fn run(program: &str, arguments: &str) -> String {
    let mut command = Command::new(testkit::tool(program));
    let output = command
        .args(arguments.split_ascii_whitespace())
        .output()
        .unwrap();
    let refused = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {refused}");
    String::from_utf8(output.stdout).unwrap()
}
