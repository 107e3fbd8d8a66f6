//! Volumes, networks, events.

use std::collections::BTreeMap;

use api::Version;
use api::types::{
    ConfigReference, EndpointResource, Event, EventActor, Ipam, IpamConfig, Network, Volume,
    VolumeUsage,
};
use engine::events::EventKind;

use super::{bytes, count, nanoseconds};

/// A volume.
pub(crate) fn volume(volume: engine::volumes::Volume) -> Volume {
    Volume {
        created_at: vocab::time::rfc3339_nano(volume.created),
        driver: volume.driver,
        labels: volume.labels,
        mountpoint: volume.mountpoint.to_string_lossy().into_owned(),
        name: volume.name,
        options: volume.options,
        scope: "local".to_owned(),
        status: None,
        usage_data: None,
    }
}

/// A volume with its bytes and its users.
pub(crate) fn volume_with_usage(
    (found, size, users): (engine::volumes::Volume, Option<u64>, usize),
) -> Volume {
    Volume {
        usage_data: Some(VolumeUsage {
            ref_count: count(users),
            size: size.map_or(-1, bytes),
        }),
        ..volume(found)
    }
}

/// A network with the containers on it.
pub(crate) fn network(network: engine::networks::Network, version: Version) -> Network {
    let pools: Vec<_> = network
        .subnets
        .into_iter()
        .map(|subnet| IpamConfig {
            subnet: subnet.subnet,
            ip_range: subnet.range,
            gateway: subnet.gateway,
            auxiliary_addresses: (!subnet.reserved.is_empty()).then_some(subnet.reserved),
        })
        .collect();
    let members = network.containers.into_iter().map(|(id, member)| {
        let shown = EndpointResource {
            name: member.name,
            endpoint_id: member.endpoint_id,
            mac_address: member.mac_address,
            ipv4_address: member.ipv4_address,
            ipv6_address: member.ipv6_address,
        };
        (id.to_string(), shown)
    });
    Network {
        name: network.name,
        id: network.id.to_string(),
        created: vocab::time::rfc3339_nano(network.created),
        scope: "local".to_owned(),
        driver: network.driver,
        enable_ipv4: (version >= Version::new(1, 48)).then_some(true),
        enable_ipv6: network.ipv6,
        ipam: Ipam {
            driver: "default".to_owned(),
            options: network.ipam_options,
            config: (!pools.is_empty()).then_some(pools),
        },
        internal: network.internal,
        attachable: network.attachable,
        ingress: false,
        config_from: ConfigReference::default(),
        config_only: false,
        containers: Some(members.collect::<BTreeMap<_, _>>()),
        options: Some(network.options),
        labels: Some(network.labels),
    }
}

/// Something that happened; `old` clients also find it in the places of before 1.22.
pub(crate) fn event(event: engine::events::Event, old: bool) -> Event {
    let nanos = i64::try_from(nanoseconds(event.time)).unwrap_or(i64::MAX);
    let mut shown = Event {
        kind: event.kind.name().to_owned(),
        action: event.action,
        actor: EventActor {
            id: event.id,
            attributes: event.attributes,
        },
        scope: "local".to_owned(),
        time: nanos.div_euclid(1_000_000_000),
        time_nano: nanos,
        ..Event::default()
    };
    if old && matches!(event.kind, EventKind::Container | EventKind::Image) {
        shown.status.clone_from(&shown.action);
        shown.id.clone_from(&shown.actor.id);
        if event.kind == EventKind::Container {
            shown.from = shown
                .actor
                .attributes
                .get("image")
                .cloned()
                .unwrap_or_default();
        }
    }
    shown
}

/// What lies under the data root.
pub(crate) fn places(places: engine::usage::Places) -> api::types::DataRootUsage {
    api::types::DataRootUsage {
        images: bytes(places.images),
        containers: bytes(places.containers),
        volumes: bytes(places.volumes),
        incoming: bytes(places.incoming),
        quarantine: bytes(places.quarantine),
        metadata: bytes(places.metadata),
        foreign: bytes(places.foreign),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn shown(old: bool) -> String {
        let happened = engine::events::Event {
            kind: EventKind::Container,
            action: "die".to_owned(),
            id: "i".to_owned(),
            attributes: BTreeMap::from([("image".to_owned(), "a<b>".to_owned())]),
            time: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001),
        };
        serde_json::to_string(&event(happened, old)).unwrap()
    }

    #[test]
    fn an_event_has_the_old_members_only_for_old_clients() {
        assert_eq!(
            shown(true),
            r#"{"status":"die","id":"i","from":"a<b>","Type":"container","Action":"die","Actor":{"ID":"i","Attributes":{"image":"a<b>"}},"scope":"local","time":1700000000,"timeNano":1700000000000000001}"#
        );
        assert_eq!(
            shown(false),
            r#"{"Type":"container","Action":"die","Actor":{"ID":"i","Attributes":{"image":"a<b>"}},"scope":"local","time":1700000000,"timeNano":1700000000000000001}"#
        );
    }
}
