//! Networks.

use api::types::{
    Ipam, NetworkConnect, NetworkCreate, NetworkCreated, NetworkDisconnect, NetworksPruned,
};
use engine::networks::{CreateNetwork, Subnet};
use http::StatusCode;
use vocab::Kind;

use super::Outcome;
use super::containers::{PRUNE_FILTERS, prune_filters};
use crate::answer::{self, Refusal};
use crate::call::Call;
use crate::render;

/// Keys that the list's `filters` may have.
const LIST_FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];

/// `GET /networks`.
pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.filters(LIST_FILTERS)?.into_map();
    let found = call.engine().list_networks(filters).await?;
    let list: Vec<_> = found
        .into_iter()
        .map(|network| {
            let mut shown = render::network(network, call.version);
            // Since 1.28 lists leave the containers out.
            if call.speaks(28) {
                shown.containers = Some(Default::default());
            }
            shown
        })
        .collect();
    Ok(answer::ok(&list))
}

/// `GET /networks/{id}`.
pub(crate) async fn inspect(call: Call) -> Outcome {
    if call
        .query
        .said("scope")
        .is_some_and(|scope| scope != "local")
    {
        return Err(Refusal::new(
            Kind::NotFound,
            format!("network {} not found", call.name()),
        ));
    }
    let network = call.engine().inspect_network(call.name()).await?;
    Ok(answer::ok(&render::network(network, call.version)))
}

/// `POST /networks/create`.
pub(crate) async fn create(mut call: Call) -> Outcome {
    let request: NetworkCreate = call.json().await?;
    let refuse = |what: &str| {
        Err(Refusal::new(
            Kind::NotImplemented,
            format!("berth does not have {what} yet"),
        ))
    };
    if request.ingress || request.scope == "swarm" {
        return refuse("networks of a swarm");
    }
    if request.config_only
        || request
            .config_from
            .as_ref()
            .is_some_and(|from| !from.network.is_empty())
    {
        return refuse("networks that are only a configuration");
    }
    if call.speaks(48) && request.enable_ipv4 == Some(false) {
        return refuse("networks without IPv4");
    }
    let Ipam {
        driver,
        options,
        config,
    } = request.ipam.unwrap_or_default();
    let subnets = config.unwrap_or_default().into_iter().map(|pool| Subnet {
        subnet: pool.subnet,
        range: pool.ip_range,
        gateway: pool.gateway,
        reserved: pool.auxiliary_addresses.unwrap_or_default(),
    });
    let wanted = CreateNetwork {
        name: request.name,
        driver: request.driver,
        internal: request.internal,
        attachable: request.attachable,
        ipv6: request.enable_ipv6.unwrap_or(false),
        subnets: subnets.collect(),
        ipam_driver: driver,
        ipam_options: options.unwrap_or_default(),
        options: request.options.unwrap_or_default(),
        labels: request.labels.unwrap_or_default(),
    };
    let (id, warning) = call.engine().create_network(wanted).await?;
    let created = NetworkCreated {
        id: id.to_string(),
        warning,
    };
    Ok(answer::json(StatusCode::CREATED, &created))
}

/// `DELETE /networks/{id}`.
pub(crate) async fn remove(call: Call) -> Outcome {
    call.engine().remove_network(call.name()).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `POST /networks/{id}/connect`.
pub(crate) async fn connect(mut call: Call) -> Outcome {
    let request: NetworkConnect = call.json().await?;
    let mut settings = request.endpoint_config.unwrap_or_default();
    if !call.speaks(54) {
        settings.mac_address.clear();
    }
    call.engine()
        .connect_network(call.name(), &request.container, settings)
        .await?;
    Ok(answer::empty(StatusCode::OK))
}

/// `POST /networks/{id}/disconnect`.
pub(crate) async fn disconnect(mut call: Call) -> Outcome {
    let request: NetworkDisconnect = call.json().await?;
    call.engine()
        .disconnect_network(call.name(), &request.container, request.force)
        .await?;
    Ok(answer::empty(StatusCode::OK))
}

/// `POST /networks/prune`.
pub(crate) async fn prune(call: Call) -> Outcome {
    let filters = prune_filters(&call, PRUNE_FILTERS)?;
    let removed = call.engine().prune_networks(filters).await?;
    Ok(answer::ok(&NetworksPruned {
        networks_deleted: (!removed.is_empty()).then_some(removed),
    }))
}
