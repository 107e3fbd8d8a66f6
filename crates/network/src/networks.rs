//! The networks of one daemon: what is wanted, and the order in which it is brought about.
//!
//! What is wanted lives in [`State`], behind one lock: it is held for binding ports and for changes
//! of rules, but on the way of a container into and out of a network for no link operation. Everything the kernel has can be made again from it and from the endpoints that
//! the engine stores, so a restarted daemon asserts instead of repairing:
//!
//! ```text
//! attach:  reserve (address, ports bound) ─▶ veth pair ─▶ address, route inside ─▶ publish
//! detach:  withdraw ─▶ silence the link ─▶ release address and ports; the link goes with the
//!          container's namespace
//! restore: take up endpoints ─▶ the table anew in one transaction ─▶ unknown links removed
//! ```
//!
//! Namespaces: sockets are opened on tokio's blocking threads, so all of this happens in the
//! network namespace of the thread that the runtime was built on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use tasks::Group;
use tokio::io::unix::AsyncFd;
use vocab::{ContainerId, NetworkId};

use crate::dns::{Asking, Names, Resolvers};
use crate::error::{
    AttachError, BridgeError, DetachError, NamesError, OpenError, SandboxError, SubnetError,
};
use crate::flows;
use crate::ipam;
use crate::links::{self, Link, Links, Pair, Port};
use crate::rules::{Disturbance, Table, Watch};
use crate::state::State;
use crate::{Attach, Bridge, Endpoint, Mac, Protocol, sandbox, sysctl};

/// How the networks of one daemon are set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Six digits that tell daemons on one host apart; empty for the default one.
    pub instance: String,
    /// Where subnets of new networks come from.
    pub pools: Vec<SubnetPool>,
    /// Whether to switch on `net.ipv4.ip_forward` (dockerd's `--ip-forward`).
    pub ip_forward: bool,
    /// Where the host's name servers stand.
    pub resolv_conf: PathBuf,
}

impl Config {
    /// Docker's pools, forwarding on.
    pub fn new(instance: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            pools: ipam::default_pools(),
            ip_forward: true,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }

    /// Device of the default network: `berth0`, or `br-<instance>`.
    pub fn bridge_device(&self) -> String {
        match self.instance.as_str() {
            "" => "berth0".to_owned(),
            instance => format!("br-{instance}"),
        }
    }

    /// Our nftables table: `berth`, or `berth-<instance>`.
    pub fn table(&self) -> String {
        match self.instance.as_str() {
            "" => "berth".to_owned(),
            instance => format!("berth-{instance}"),
        }
    }
}

/// A range that is cut into subnets of one size (daemon.json `default-address-pools`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetPool {
    /// The range.
    pub base: Ipv4Net,
    /// Bits of each subnet.
    pub size: u8,
}

/// The networks of one daemon. Share it in an `Arc`.
#[derive(Debug)]
pub struct Networks {
    inner: Arc<Inner>,
    /// Looks after links of detached containers, and after the rules.
    sweeping: Group,
    resolvers: Resolvers,
}

/// A port is tried so often, with this pause between: every child that the daemon forks has copies
/// of the sockets that hold ports until it execs, and one just given back may live on in such a copy.
const BIND_ATTEMPTS: u32 = 4;
const BIND_PAUSE: Duration = Duration::from_millis(5);

/// Rules that others removed are made again after this time, and no more often.
const SETTLE: Duration = Duration::from_millis(200);

/// The setting that keeps a link from having IPv6.
const DISABLE: &str = "disable_ipv6";

/// A detached container's link goes with its namespace; one that is still there after this time,
/// because something holds the namespace open, is removed.
const LINK_GRACE: Duration = Duration::from_secs(1);

impl Networks {
    /// Starts with no network; [`Networks::ensure_bridge`] adds them. Rules that others remove are
    /// made again from now on. Within a tokio runtime.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let table = Table::open(config.table()).map_err(OpenError::Socket)?;
        #[expect(
            deprecated,
            reason = "what takes its place is unsafe, for types whose descriptor may change; this \
                      one owns its descriptor for life"
        )]
        let watch = table.watch().and_then(AsyncFd::new);
        let watch = watch.map_err(OpenError::Socket)?;
        let resolvers = Resolvers::new(config.resolv_conf.clone());
        let networks = Self {
            resolvers,
            inner: Arc::new(Inner {
                config,
                state: Mutex::new(State::new(table)),
            }),
            sweeping: Group::new(),
        };
        // It ends with the group, and so with the networks.
        let guarded = guard(Arc::clone(&networks.inner), watch);
        networks.sweeping.spawn("guard the rules", guarded);
        Ok(networks)
    }

    /// A subnet of the pools that neither `taken` nor any route of the host overlaps.
    pub async fn choose_subnet(&self, taken: &[Ipv4Net]) -> Result<Ipv4Net, SubnetError> {
        let (inner, taken) = (Arc::clone(&self.inner), taken.to_vec());
        tasks::blocking(move || inner.choose_subnet(taken)).await
    }

    /// A `/64` of the daemon's own IPv6 range that neither `taken` nor any route of the host overlaps.
    pub async fn choose_subnet6(
        &self,
        range: [u8; 5],
        taken: &[Ipv6Net],
    ) -> Result<Ipv6Net, SubnetError> {
        let mut in_use = taken.to_vec();
        tasks::blocking(move || {
            let routes = Links::open().and_then(|links| links.routes6());
            in_use.extend(routes.map_err(SubnetError::Routes)?);
            ipam::choose_subnet6(range, &in_use).ok_or(SubnetError::Exhausted)
        })
        .await
    }

    /// Makes sure that the bridge device is there with its address, that packets are forwarded
    /// and that the rules know it. Doing it again changes nothing.
    ///
    /// Switches on `net.ipv4.ip_forward` (unless configured not to), its IPv6 counterpart where the
    /// network has IPv6, and, for the bridge alone, `route_localnet`. No container can advertise
    /// itself to the host as a router: on a bridge without IPv6 that is off altogether.
    pub async fn ensure_bridge(&self, bridge: &Bridge) -> Result<(), BridgeError> {
        let (inner, bridge) = (Arc::clone(&self.inner), bridge.clone());
        tasks::blocking(move || inner.ensure_bridge(bridge)).await
    }

    /// Removes the bridge device and its rules; unknown networks are removed already.
    pub async fn remove_bridge(&self, network: &NetworkId) -> Result<(), BridgeError> {
        let (inner, network) = (Arc::clone(&self.inner), *network);
        tasks::blocking(move || inner.remove_bridge(network)).await
    }

    /// A new network namespace with `lo` up. It lives as long as the descriptor or a process in it.
    pub async fn open_sandbox(&self) -> Result<OwnedFd, SandboxError> {
        tasks::blocking(sandbox::open).await
    }

    /// Puts the container's namespace on a network; after a failure nothing of it is left.
    pub async fn attach(
        &self,
        netns: BorrowedFd<'_>,
        wanted: Attach,
    ) -> Result<Endpoint, AttachError> {
        let netns = netns
            .try_clone_to_owned()
            .map_err(|source| AttachError::Link {
                step: "duplicate the namespace for",
                interface: wanted.interface.clone(),
                container: wanted.container,
                source,
            })?;
        let (netns, wanted) = (Arc::new(netns), Arc::new(wanted));
        let mut attempts = BIND_ATTEMPTS;
        loop {
            let inner = Arc::clone(&self.inner);
            let (netns, wanted) = (Arc::clone(&netns), Arc::clone(&wanted));
            attempts -= 1;
            match tasks::blocking(move || inner.attach((*netns).as_fd(), &wanted)).await {
                Err(AttachError::PortInUse { .. }) if attempts > 0 => {}
                Ok(endpoint) => {
                    self.call(&endpoint);
                    return Ok(endpoint);
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(BIND_PAUSE).await;
        }
    }

    /// Takes a container whose processes are gone off the network. It is cut off and its ports and
    /// address are free at once; the link goes when the kernel takes the namespace apart, which it
    /// does in the background and for many at a time. (Removing a link by itself waits for RCU
    /// grace periods: 15 ms and more that hold up every other link operation of the host.)
    ///
    /// Doing it again changes nothing.
    pub async fn detach(&self, endpoint: &Endpoint) -> Result<(), DetachError> {
        self.names().leave(endpoint);
        let (inner, name) = (Arc::clone(&self.inner), endpoint.host_interface.clone());
        self.sweeping.spawn("sweep", async move {
            tokio::time::sleep(LINK_GRACE).await;
            if let Err(error) = tasks::blocking(move || inner.remove_link(&name)).await {
                tracing::warn!("{}", vocab::failure::chain(&error));
            }
        });
        let (inner, endpoint) = (Arc::clone(&self.inner), endpoint.clone());
        tasks::blocking(move || inner.detach(&endpoint)).await
    }

    /// Takes a running container off the network: its link is gone when this returns.
    ///
    /// Doing it again changes nothing.
    pub async fn disconnect(&self, endpoint: &Endpoint) -> Result<(), DetachError> {
        self.names().leave(endpoint);
        let (inner, endpoint) = (Arc::clone(&self.inner), endpoint.clone());
        tasks::blocking(move || inner.disconnect(&endpoint)).await
    }

    /// Has the default route of a container go through one of its networks.
    pub async fn route_through(
        &self,
        netns: BorrowedFd<'_>,
        endpoint: &Endpoint,
    ) -> Result<(), DetachError> {
        let failed = |source| DetachError::Link {
            interface: endpoint.interface.clone(),
            source,
        };
        let netns = netns.try_clone_to_owned().map_err(failed)?;
        let own = endpoint.clone();
        tasks::blocking(move || {
            sandbox::inside(netns.as_fd(), || {
                let links = Links::open()?;
                let link = links.find(&own.interface)?.ok_or(io::ErrorKind::NotFound)?;
                let ipv6 = own.ipv6.and_then(|own| own.gateway).map(IpAddr::V6);
                let gateways = own.gateway.map(IpAddr::V4).into_iter().chain(ipv6);
                for gateway in gateways {
                    links.set_default_route(link.index, gateway)?;
                }
                Ok(())
            })
        })
        .await
        .map_err(failed)
    }

    /// Has the published ports of one endpoint of a container lead to another of its endpoints, in
    /// one transaction; answers with both as they are then.
    pub async fn move_ports(
        &self,
        from: &Endpoint,
        to: &Endpoint,
    ) -> Result<(Endpoint, Endpoint), DetachError> {
        let (inner, from, to) = (Arc::clone(&self.inner), from.clone(), to.clone());
        tasks::blocking(move || inner.move_ports(&from, &to)).await
    }

    /// After a restart of the daemon, once every bridge is ensured: takes up the endpoints that
    /// live containers have (addresses, held ports, rules) and removes what belongs to nobody.
    /// Connections go on meanwhile. May be called again to bring back what others removed.
    pub async fn restore(&self, endpoints: &[Endpoint]) -> Result<(), DetachError> {
        let (inner, held) = (Arc::clone(&self.inner), endpoints.to_vec());
        let restored = tasks::blocking(move || inner.restore(&held)).await;
        for endpoint in endpoints {
            self.call(endpoint);
        }
        restored
    }

    /// Answers a container's questions for names, at [`crate::dns::ADDRESS`] inside its namespace,
    /// until [`Networks::ignore`]. `fresh` says that the namespace has never been heard.
    pub async fn hear(
        &self,
        container: ContainerId,
        netns: BorrowedFd<'_>,
        asking: Asking,
        fresh: bool,
    ) -> Result<(), NamesError> {
        let failed = |source| NamesError { container, source };
        let netns = netns.try_clone_to_owned().map_err(failed)?;
        let heard = self.resolvers.hear(container, netns, asking, fresh);
        heard.await.map_err(failed)
    }

    /// Whether a container's questions for names are answered.
    pub fn hears(&self, container: &ContainerId) -> bool {
        self.resolvers.hears(container)
    }

    /// Answers a container no more: its namespace is held open by that.
    pub fn ignore(&self, container: &ContainerId) {
        self.resolvers.forget(container);
    }

    /// Calls an endpoint by other names; `endpoint` has the new ones.
    pub fn rename(&self, endpoint: &Endpoint) {
        self.inner.state().rename(endpoint);
        self.names().leave(endpoint);
        self.call(endpoint);
    }

    /// Has others know an endpoint by its names.
    fn call(&self, endpoint: &Endpoint) {
        let name = {
            let state = self.inner.state();
            let bridge = state.find_bridge(&endpoint.network);
            bridge.map(|bridge| bridge.name.clone())
        };
        if let Some(name) = name {
            self.names().join(&name, endpoint);
        }
    }

    fn names(&self) -> std::sync::RwLockWriteGuard<'_, Names> {
        let names = self.resolvers.names().write();
        names.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the table anew whenever others took something of it away.
async fn guard(inner: Arc<Inner>, watch: AsyncFd<Watch>) {
    loop {
        let heard = match watch.readable().await {
            Ok(mut ready) => {
                ready.clear_ready();
                watch.get_ref().heard()
            }
            Err(error) => Err(error),
        };
        match heard {
            Ok(Disturbance::None) => continue,
            Ok(Disturbance::Unknown | Disturbance::Removed) => {}
            Err(error) => {
                tracing::warn!(%error, "changes of rules by others are not seen any more");
                return;
            }
        }
        // Who flushes the rules loads others in the next moment.
        tokio::time::sleep(SETTLE).await;
        loop {
            let own = Arc::clone(&inner);
            let table = inner.config.table();
            match tasks::blocking(move || own.state().reassert()).await {
                Ok(()) => tracing::warn!(table, "somebody removed rules; they are there again"),
                Err(error) => tracing::warn!(table, %error, "rules were removed and are not back"),
            }
            // What was too much to keep now was our own: making a large table anew again because of
            // that would never end.
            if !matches!(watch.get_ref().heard(), Ok(Disturbance::Removed)) {
                break;
            }
            tokio::time::sleep(SETTLE).await;
        }
    }
}

/// What the blocking side works on. Sockets for links are opened for each operation: that costs
/// 5 µs and needs no lock.
#[derive(Debug)]
struct Inner {
    config: Config,
    state: Mutex<State>,
}

impl Inner {
    fn choose_subnet(&self, taken: Vec<Ipv4Net>) -> Result<Ipv4Net, SubnetError> {
        let routes = Links::open().and_then(|links| links.routes());
        let mut in_use = taken;
        in_use.extend(routes.map_err(SubnetError::Routes)?);
        ipam::choose_subnet(&self.config.pools, &in_use).ok_or(SubnetError::Exhausted)
    }

    fn ensure_bridge(&self, bridge: Bridge) -> Result<(), BridgeError> {
        check(&bridge)?;
        let device = bridge.device.clone();
        let failed = |step| {
            let device = device.clone();
            move |source| BridgeError::Link {
                step,
                device,
                source,
            }
        };
        let mut state = self.state();

        let links = Links::open().map_err(failed("open a netlink socket for"))?;
        let mac = Mac::of(bridge.gateway);
        if links.find(&device).map_err(failed("find"))?.is_none() {
            links
                .create_bridge(&device, mac, bridge.mtu)
                .map_err(failed("make"))?;
        }
        let link = links.find(&device).map_err(failed("find"))?;
        let link = link
            .filter(|link| link.kind.as_deref() == Some("bridge"))
            .ok_or_else(|| BridgeError::NotABridge {
                device: device.clone(),
            })?;
        let alias = self.alias(&bridge.name);
        links
            .assert_bridge(link.index, mac, bridge.mtu, &alias)
            .map_err(failed("raise"))?;

        let wanted = address(bridge.gateway, bridge.subnet.prefix_len());
        let present = links.addresses().map_err(failed("list the addresses of"))?;
        for (_, address) in present.iter().filter(|(owner, _)| *owner == link.index) {
            if *address != wanted {
                links
                    .remove_address(link.index, *address)
                    .map_err(failed("remove an address of"))?;
            }
        }
        links
            .configure(link.index, wanted, None)
            .map_err(failed("set the address of"))?;

        let ipv6 = bridge.ipv6;
        let joined = state.join(bridge);
        joined.map_err(|source| self.rules_failed(source))?;

        // Only now that the rules drop what would abuse them.
        let localnet = format!("net/ipv4/conf/{device}/route_localnet");
        sysctl::write(&localnet, "1").map_err(setting_failed(&localnet))?;
        let disabled = format!("net/ipv6/conf/{device}/disable_ipv6");
        match ipv6 {
            None => sysctl::write_if_there(&disabled, "1").map_err(setting_failed(&disabled))?,
            Some(ipv6) => {
                ask_no_neighbour(&device)?;
                let own = address6(ipv6.gateway, ipv6.subnet.prefix_len());
                links
                    .configure6(link.index, own, None)
                    .map_err(failed("set the IPv6 address of"))?;
                if self.config.ip_forward {
                    sysctl::forward_ipv6().map_err(setting_failed(sysctl::FORWARD_IPV6))?;
                }
            }
        }
        if self.config.ip_forward {
            let forward = "net/ipv4/ip_forward";
            sysctl::write(forward, "1").map_err(setting_failed(forward))?;
        }
        Ok(())
    }

    fn remove_bridge(&self, id: NetworkId) -> Result<(), BridgeError> {
        let mut state = self.state();
        let members = state
            .endpoints()
            .filter(|endpoint| endpoint.network == id)
            .count();
        if members > 0 {
            return Err(BridgeError::Active { members });
        }
        let Some(device) = state.find_bridge(&id).map(|bridge| bridge.device.clone()) else {
            return Ok(());
        };
        let rules = state.leave(&id);
        let link = Links::open().and_then(|links| links.remove(&device));
        rules.map_err(|source| self.rules_failed(source))?;
        link.map_err(|source| BridgeError::Link {
            step: "remove",
            device,
            source,
        })
    }

    fn attach(&self, netns: BorrowedFd<'_>, wanted: &Attach) -> Result<Endpoint, AttachError> {
        let (endpoint, bridge) = self.state().reserve(wanted)?;
        let attached = self
            .link(netns, wanted, &endpoint, &bridge)
            .and_then(|()| self.publish(&endpoint));
        match attached {
            Ok(()) => Ok(endpoint),
            Err(error) => {
                if let Err(undo) = self.disconnect(&endpoint) {
                    tracing::warn!("undo of an attach that failed: {undo}");
                }
                Err(error)
            }
        }
    }

    /// Makes the pair and configures the container's end.
    fn link(
        &self,
        netns: BorrowedFd<'_>,
        wanted: &Attach,
        endpoint: &Endpoint,
        bridge: &Bridge,
    ) -> Result<(), AttachError> {
        let failed = |step| {
            move |source| AttachError::Link {
                step,
                interface: wanted.interface.clone(),
                container: wanted.container,
                source,
            }
        };
        let links = Links::open().map_err(failed("open a netlink socket for"))?;
        let index = links
            .find(&bridge.device)
            .map_err(failed("find the bridge of"))?;
        let index = index.ok_or(AttachError::NoNetwork(bridge.id))?.index;
        let pair = Pair {
            host_name: &endpoint.host_interface,
            bridge: index,
            mtu: bridge.mtu,
            netns,
            name: &endpoint.interface,
            mac: endpoint.mac,
        };
        links.create_pair(&pair).map_err(failed("make link"))?;
        let port = port_settings(bridge);
        if port != Port::default() {
            links
                .set_port(&endpoint.host_interface, port)
                .map_err(failed("set up link"))?;
        }
        let own = address(endpoint.address, endpoint.prefix);
        let gateway = endpoint.gateway.filter(|_| wanted.default_route);
        let ipv6 = endpoint.ipv6.map(|own| {
            let gateway = own.gateway.filter(|_| wanted.default_route);
            (address6(own.address, own.prefix), gateway)
        });
        sandbox::inside(netns, || {
            let links = Links::open()?;
            let link = links
                .find(&endpoint.interface)?
                .ok_or(io::ErrorKind::NotFound)?;
            if ipv6.is_some() {
                // No neighbour is its router, and nobody else has its addresses.
                for (setting, value) in [("accept_ra", "0"), ("accept_dad", "0"), (DISABLE, "0")] {
                    let path = format!("net/ipv6/conf/{}/{setting}", endpoint.interface);
                    sysctl::write(&path, value)?;
                }
            }
            for setting in &wanted.sysctls {
                sysctl::write(&setting.path, &setting.value).map_err(|error| {
                    let text = format!("write `{}` to `{}`: {error}", setting.value, setting.path);
                    io::Error::new(error.kind(), text)
                })?;
            }
            links.configure(link.index, own, gateway)?;
            if let Some((own, gateway)) = ipv6 {
                links.configure6(link.index, own, gateway)?;
            }
            links.settle(&endpoint.interface)
        })
        .map_err(failed("configure link"))?;
        links
            .settle(&endpoint.host_interface)
            .and_then(|()| links.settle(&bridge.device))
            .map_err(failed("raise link"))
    }

    fn publish(&self, endpoint: &Endpoint) -> Result<(), AttachError> {
        let failed = |source| AttachError::Rules {
            ports: endpoint.ports.len(),
            container: endpoint.container,
            source,
        };
        self.state().publish(endpoint).map_err(failed)?;
        forget_local(endpoint).map_err(failed)
    }

    fn detach(&self, endpoint: &Endpoint) -> Result<(), DetachError> {
        let withdrawn = self.state().withdraw(endpoint);
        let withdrawn = withdrawn.map_err(|source| DetachError::Rules {
            table: self.config.table(),
            source,
        });
        let forgotten = flows::forget_container(endpoint).map_err(|source| DetachError::Flows {
            container: endpoint.container,
            source,
        });
        let name = &endpoint.host_interface;
        let silenced = Links::open().and_then(|links| links.silence_port(name));
        let silenced = silenced.map_err(|source| DetachError::Link {
            interface: name.clone(),
            source,
        });
        // After that: whoever gets the port or the address next gets its packets too.
        self.state().release(endpoint);
        DetachError::all([withdrawn, forgotten, silenced])
    }

    fn move_ports(
        &self,
        from: &Endpoint,
        to: &Endpoint,
    ) -> Result<(Endpoint, Endpoint), DetachError> {
        let moved = self.state().move_ports(from, to);
        let (old, new) = moved.map_err(|source| DetachError::Rules {
            table: self.config.table(),
            source,
        })?;
        let forgotten = flows::forget_container(from).and_then(|()| forget_local(&new));
        forgotten.map_err(|source| DetachError::Flows {
            container: from.container,
            source,
        })?;
        Ok((old, new))
    }

    fn disconnect(&self, endpoint: &Endpoint) -> Result<(), DetachError> {
        let detached = self.detach(endpoint);
        DetachError::all([detached, self.remove_link(&endpoint.host_interface)])
    }

    fn remove_link(&self, name: &str) -> Result<(), DetachError> {
        let removed = Links::open().and_then(|links| links.remove(name));
        removed.map_err(|source| DetachError::Link {
            interface: name.to_owned(),
            source,
        })
    }

    fn restore(&self, endpoints: &[Endpoint]) -> Result<(), DetachError> {
        let mut state = self.state();
        for endpoint in endpoints {
            state.take_up(endpoint);
        }
        let rules = state.reassert();
        let rules = rules.map_err(|source| DetachError::Rules {
            table: self.config.table(),
            source,
        });
        let links = Links::open().and_then(|links| Ok((links.list()?, links)));
        let links = match links {
            Ok((present, links)) => self.tidy(&state, &links, &present),
            Err(source) => Err(DetachError::Link {
                interface: "(all)".to_owned(),
                source,
            }),
        };
        DetachError::all([rules, links])
    }

    /// Brings back ports that left their bridge; removes bridges and ports that nobody knows.
    fn tidy(&self, state: &State, links: &Links, present: &[Link]) -> Result<(), DetachError> {
        let prefix = self.alias("");
        let wanted: BTreeSet<&str> = state.bridges().map(|bridge| &*bridge.device).collect();
        let known: BTreeMap<&str, &Endpoint> = state
            .endpoints()
            .map(|endpoint| (&*endpoint.host_interface, endpoint))
            .collect();
        let of_kind = |kind| {
            present
                .iter()
                .filter(move |link| link.kind.as_deref() == Some(kind))
        };
        let ours: BTreeMap<u32, &Link> = of_kind("bridge")
            .filter(|link| wanted.contains(&*link.name) || link.alias.starts_with(&prefix))
            .map(|link| (link.index, link))
            .collect();
        let is_ours = |link: &Link| {
            let on_our_bridge = link.master.is_some_and(|master| ours.contains_key(&master));
            on_our_bridge && links::is_port_name(&link.name)
        };
        let failed = |link: &Link| {
            let interface = link.name.clone();
            move |source| DetachError::Link { interface, source }
        };

        let ports = of_kind("veth").map(|link| {
            let done = match known.get(&*link.name) {
                Some(endpoint) => hold_port(state, links, link, endpoint, &ours),
                None if is_ours(link) => links.remove(&link.name),
                None => Ok(()),
            };
            done.map_err(failed(link))
        });
        let bridges = ours
            .values()
            .map(|link| match wanted.contains(&*link.name) {
                true => Ok(()),
                false => links.remove(&link.name).map_err(failed(link)),
            });
        DetachError::all(ports.chain(bridges))
    }

    /// Marks our bridges for people and for [`Networks::restore`].
    fn alias(&self, network: &str) -> String {
        format!("{}: network {network}", self.config.table())
    }

    fn rules_failed(&self, source: io::Error) -> BridgeError {
        let table = self.config.table();
        BridgeError::Rules { table, source }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // State changes are complete before anything that may panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees to it that a known port is on its bridge.
fn hold_port(
    state: &State,
    links: &Links,
    port: &Link,
    endpoint: &Endpoint,
    bridges: &BTreeMap<u32, &Link>,
) -> io::Result<()> {
    let Some(wanted) = state.find_bridge(&endpoint.network) else {
        return Ok(());
    };
    let bridge = bridges.values().find(|bridge| bridge.name == wanted.device);
    if let Some(bridge) = bridge
        && port.master != Some(bridge.index)
    {
        links.enslave(port.index, bridge.index)?;
    }
    links.set_port(&port.name, port_settings(wanted))
}

/// Isolated where containers must not talk to each other. Hairpin where `br_netfilter` shows bridged
/// packets to the rules: a container's call to its own published port is then sent back by the
/// bridge itself, without visiting the host.
///
/// The two do not go together: isolated containers reach each other's published ports only while
/// `net.bridge.bridge-nf-call-iptables` is off.
fn port_settings(bridge: &Bridge) -> Port {
    Port {
        isolated: !bridge.icc,
        hairpin: sysctl::is_on("net/bridge/bridge-nf-call-iptables"),
    }
}

fn forget_local(endpoint: &Endpoint) -> io::Result<()> {
    let udp = endpoint
        .ports
        .iter()
        .any(|port| port.protocol == Protocol::Udp);
    if !udp {
        return Ok(());
    }
    let local: Vec<_> = Links::open()?
        .addresses()?
        .iter()
        .map(|(_, own)| IpAddr::V4(own.addr()))
        .collect();
    flows::forget_local(endpoint, &local)
}

fn check(bridge: &Bridge) -> Result<(), BridgeError> {
    let name = bridge.device.as_str();
    let fits = (1..=links::NAME_BYTES).contains(&name.len()) && name != "." && name != "..";
    let plain = !name
        .bytes()
        .any(|byte| byte == b'/' || byte == b':' || byte.is_ascii_whitespace());
    if !(fits && plain) {
        return Err(BridgeError::DeviceName(name.to_owned()));
    }
    if !bridge.subnet.contains(&bridge.gateway) {
        return Err(BridgeError::Gateway {
            subnet: bridge.subnet,
            gateway: bridge.gateway,
        });
    }
    Ok(())
}

fn address(address: Ipv4Addr, prefix: u8) -> Ipv4Net {
    Ipv4Net::new(address, prefix).expect("the prefix is of a subnet, so at most 32")
}

fn address6(address: Ipv6Addr, prefix: u8) -> Ipv6Net {
    Ipv6Net::new(address, prefix).expect("the prefix is of a subnet, so at most 128")
}

/// Has a bridge take no router's word, and use its addresses at once: for the second or two in which
/// the kernel would ask whether others have them, it would look for no neighbour either.
fn ask_no_neighbour(device: &str) -> Result<(), BridgeError> {
    let setting = |name: &str| format!("net/ipv6/conf/{device}/{name}");
    let set = |name: &str, value| {
        let path = setting(name);
        sysctl::write(&path, value).map_err(setting_failed(&path))
    };
    if sysctl::is_on(&setting("accept_dad")) {
        // The address that it has by now is being asked about.
        set(DISABLE, "1")?;
        set("accept_dad", "0")?;
    }
    set("accept_ra", "0")?;
    set(DISABLE, "0")
}

fn setting_failed(name: &str) -> impl FnOnce(io::Error) -> BridgeError {
    let path = sysctl::path(name).display().to_string();
    move |source| BridgeError::Sysctl { path, source }
}
