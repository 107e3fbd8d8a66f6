//! A container joins and leaves networks while it exists.
//!
//! One that does not run only changes its record: the next start does the rest. One that runs gets
//! or loses a link; where that changes its way out, default route and published ports move with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use vocab::ContainerId;
use vocab::config::EndpointSettings;

use super::Owner;
use crate::containers::launch;
use crate::containers::record::{Joined, Record};
use crate::containers::state::Phase;
use crate::db::Durability;
use crate::endpoints::{self, ConnectError, JoinError, Joining, Mode};
use crate::events::container as announce;
use crate::networks::Record as Network;

impl Owner {
    pub(super) async fn connect(
        &mut self,
        network: Network,
        settings: EndpointSettings,
    ) -> Result<(), ConnectError> {
        if matches!(self.course.phase, Phase::Removing | Phase::Dead) {
            return Err(ConnectError::Removing(self.record.id));
        }
        let running = self.course.phase.has_process();
        if self.is_on(&network)? {
            // To do it again changes nothing, unless there is a link that would have to change.
            return match running {
                false => Ok(()),
                true => Err(ConnectError::Connected {
                    container: self.name.clone(),
                    network: network.name,
                }),
            };
        }
        let mut record = (*self.record).clone();
        record
            .networks
            .push((network.name.clone(), settings.clone()));
        if !running {
            self.keep(record).await.map_err(ConnectError::Record)?;
            self.publish();
            return Ok(());
        }
        let joined = self.attach(&record, &network, &settings).await?;
        if let Err(error) = self.keep(record).await {
            self.course
                .endpoints
                .retain(|own| own.network_id != network.id);
            if let Some(endpoint) = &joined.endpoint
                && let Err(error) = self.shared.links.disconnect(endpoint).await
            {
                self.warn("leave a network", &error);
            }
            return Err(ConnectError::Record(error));
        }
        self.networks_changed().await;
        announce::network(&self.shared.events, "connect", &joined, &self.record.id);
        Ok(())
    }

    pub(super) async fn disconnect(&mut self, network: &Network) -> Result<(), ConnectError> {
        if matches!(self.course.phase, Phase::Removing | Phase::Dead) {
            return Err(ConnectError::Removing(self.record.id));
        }
        if network.driver == "host" && self.record.host.network_mode == "host" {
            return Err(ConnectError::FromHost);
        }
        let mut record = (*self.record).clone();
        record.networks.retain(|(name, _)| *name != network.name);
        if record.networks.len() == self.record.networks.len() {
            return Err(ConnectError::NotConnected {
                container: self.record.id,
                network: network.name.clone(),
            });
        }
        let mut own = self.course.endpoints.iter();
        let left = own.position(|joined| joined.network_id == network.id);
        if let Some(left) = left {
            self.detach(left, &record).await?;
        }
        let left = left.map(|left| self.course.endpoints.remove(left));
        self.keep(record).await.map_err(ConnectError::Record)?;
        match left {
            None => self.publish(),
            Some(left) => {
                self.networks_changed().await;
                announce::network(&self.shared.events, "disconnect", &left, &self.record.id);
            }
        }
        Ok(())
    }

    /// Whether the container is on a network already; refused where it can never be on it.
    fn is_on(&self, network: &Network) -> Result<bool, ConnectError> {
        let mode = self.record.host.network_mode.as_str();
        if mode.starts_with("container:") {
            return Err(ConnectError::SharedNamespace);
        }
        if network.driver == "host" && mode != "host" {
            return Err(ConnectError::ToHost);
        }
        let records = self.shared.networks();
        for (name, _) in &self.record.networks {
            // One that was removed since is in nobody's way.
            let Ok(other) = records.find(name) else {
                continue;
            };
            if other.id == network.id {
                return Ok(true);
            }
            if other.driver == "host" || network.driver == "host" {
                return Err(ConnectError::SharedNamespace);
            }
            if other.driver == "null" || network.driver == "null" {
                return Err(ConnectError::WithNone);
            }
        }
        Ok(false)
    }

    /// Makes the link of a container that runs; `record` has the network already.
    async fn attach(
        &mut self,
        record: &Record,
        network: &Network,
        settings: &EndpointSettings,
    ) -> Result<Joined, ConnectError> {
        let Some(bridge) = &network.bridge else {
            let joined = endpoints::joined(network, None);
            self.course.endpoints.push(joined.clone());
            return Ok(joined);
        };
        let sandbox = self.namespace()?;
        self.be_heard(network, &sandbox).await?;
        let way_out = self.way_out(record)? == Some(network.id);
        let holder = self.holder();
        let joining = Joining {
            record,
            name: &self.name,
            bridge,
            settings,
            interface: endpoints::interface(settings, &self.course.endpoints),
            way_out,
            publish: way_out && holder.is_none(),
        };
        let endpoint = self.shared.attach(joining, &sandbox).await?;
        let joined = endpoints::joined(network, Some(endpoint));
        self.course.endpoints.push(joined);
        if let Some(holder) = holder.filter(|_| way_out) {
            self.move_ports(holder, self.course.endpoints.len() - 1)
                .await;
        }
        let joined = self.course.endpoints.last().cloned();
        Ok(joined.unwrap_or_else(|| endpoints::joined(network, None)))
    }

    /// Has the daemon answer for names from the first network of a user on. It goes on when the
    /// last is left: what is written in `resolv.conf` stays true.
    async fn be_heard(&self, network: &Network, sandbox: &OwnedFd) -> Result<(), ConnectError> {
        let links = &self.shared.links;
        if !endpoints::has_names(&network.name) || links.hears(&self.record.id) {
            return Ok(());
        }
        let asking = endpoints::asking(&self.shared, &self.record);
        let heard = links.hear(self.record.id, sandbox.as_fd(), asking, false);
        heard.await.map_err(ConnectError::Names)?;
        let (shared, record) = (Arc::clone(&self.shared), Arc::clone(&self.record));
        let written = tasks::blocking(move || launch::write_resolv_conf(&shared, &record, true));
        if let Err(error) = written.await {
            self.warn("write resolv.conf", &error);
        }
        Ok(())
    }

    /// After a new name: others on its networks know it by that.
    pub(super) async fn call_endpoints(&mut self) {
        let names = |network: &str| {
            let mut networks = self.record.networks.iter();
            let (_, settings) = networks.find(|(name, _)| name == network)?;
            Some(endpoints::names(&self.record, &self.name, settings))
        };
        for joined in &mut self.course.endpoints {
            if let Some(endpoint) = &mut joined.endpoint
                && endpoints::has_names(&joined.network)
                && let Some(names) = names(&joined.network)
            {
                endpoint.names = names;
                self.shared.links.rename(endpoint);
            }
        }
        if self.course.phase.has_process()
            && let Err(error) = self.write(Durability::Normal).await
        {
            self.warn("record the endpoints", &error);
        }
    }

    /// Takes the link of a container that runs away; `record` does not have the network any more.
    async fn detach(&mut self, left: usize, record: &Record) -> Result<(), ConnectError> {
        let way_out = self.way_out(record)?;
        let heir = self.course.endpoints.iter().position(|joined| {
            Some(joined.network_id) == way_out && self.course.endpoints[left] != *joined
        });
        if let Some(heir) = heir
            && self.holder() == Some(left)
        {
            self.move_ports(left, heir).await;
        }
        let joined = &self.course.endpoints[left];
        let failed = |source| ConnectError::Leave {
            container: self.record.id,
            network: joined.network.clone(),
            source,
        };
        if let Some(endpoint) = &joined.endpoint {
            let links = &self.shared.links;
            links.disconnect(endpoint).await.map_err(failed)?;
        }
        // The kernel dropped the default route with the link, if it was that one's.
        if let Some(endpoint) = heir.and_then(|heir| self.course.endpoints[heir].endpoint.as_ref())
        {
            let sandbox = self.namespace()?;
            let routed = self.shared.links.route_through(sandbox.as_fd(), endpoint);
            routed.await.map_err(failed)?;
        }
        Ok(())
    }

    /// Which of the networks of `record` is its way out.
    fn way_out(&self, record: &Record) -> Result<Option<vocab::NetworkId>, JoinError> {
        Ok(match self.shared.network_mode(record)? {
            Mode::Own(networks) => endpoints::way_out(&networks),
            Mode::Host | Mode::Container { .. } => None,
        })
    }

    /// The endpoint that has the published ports.
    fn holder(&self) -> Option<usize> {
        let has_ports = |joined: &Joined| {
            let endpoint = joined.endpoint.as_ref();
            endpoint.is_some_and(|endpoint| !endpoint.ports.is_empty())
        };
        self.course.endpoints.iter().position(has_ports)
    }

    /// Has published ports lead to another of the container's addresses.
    async fn move_ports(&mut self, from: usize, to: usize) {
        let endpoint = |at: usize| self.course.endpoints[at].endpoint.clone();
        let (Some(old), Some(new)) = (endpoint(from), endpoint(to)) else {
            return;
        };
        match self.shared.links.move_ports(&old, &new).await {
            Ok((old, new)) => {
                self.course.endpoints[from].endpoint = Some(old);
                self.course.endpoints[to].endpoint = Some(new);
            }
            // They go on where they are, which is nearly as good.
            Err(error) => self.warn("move published ports", &error),
        }
    }

    fn namespace(&self) -> Result<OwnedFd, ConnectError> {
        let (container, pid) = (self.record.id, self.course.pid);
        open_namespace(&container, pid)
            .map_err(|source| ConnectError::Namespace { container, source })
    }

    /// Tells everybody, the disk and the container's own files.
    async fn networks_changed(&mut self) {
        if let Err(error) = self.write(Durability::Normal).await {
            self.warn("record the endpoints", &error);
        }
        self.publish();
        let (shared, record) = (Arc::clone(&self.shared), Arc::clone(&self.record));
        let endpoints = self.course.endpoints.clone();
        let written = tasks::blocking(move || {
            launch::write_hosts(&shared, &record, &Mode::Own(Vec::new()), &endpoints)
        });
        if let Err(error) = written.await {
            self.warn("write the hosts file", &error);
        }
    }
}

/// The network namespace of a container's first process, which may have ended meanwhile.
pub(crate) fn open_namespace(container: &ContainerId, pid: i32) -> io::Result<OwnedFd> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    // Looked at afterwards: if it is the container's now, it was the container's then.
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    match groups.contains(&container.to_string()) {
        true => Ok(namespace.into()),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}
