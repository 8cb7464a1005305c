//! Ports of the host that lead to containers: whose is which.

use std::net::IpAddr;

use margay_api::cni::{CniError, code};
use margay_model::kind::ResourceKey;
use margay_model::workload_endpoint::EndpointPort;

use crate::world::World;

/// What calls that want ports of the host take turns by: no container has such a name.
pub(super) const TURN: &str = "/host-ports";

/// Makes sure that none of the ports leads to another endpoint of this host than `key`.
pub(super) fn ensure_free(
    world: &World,
    key: &ResourceKey,
    wanted: &[EndpointPort],
) -> Result<(), CniError> {
    for port in wanted {
        let holder = world.endpoints.iter().find(|(other, endpoint)| {
            let ports = &endpoint.resource.spec.ports;
            **other != *key && ports.iter().any(|held| are_same(held, port))
        });
        if let Some((_, holder)) = holder {
            let msg = format!(
                "port {}/{} of the host leads to container {} already",
                port.host_port.unwrap_or_default(),
                port.protocol,
                holder.resource.spec.container_id
            );
            return Err(CniError::new(code::HOST_PORT_TAKEN, msg));
        }
    }
    Ok(())
}

fn are_same(a: &EndpointPort, b: &EndpointPort) -> bool {
    let number = |port: &EndpointPort| port.host_port.filter(|number| *number != 0);
    number(a).is_some()
        && number(a) == number(b)
        && a.protocol.number() == b.protocol.number()
        && overlap(address(a), address(b))
}

fn address(port: &EndpointPort) -> Option<IpAddr> {
    port.host_ip.as_deref()?.parse().ok()
}

fn overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let (Some(a), Some(b)) = (a, b) else {
        return true;
    };
    a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
}

#[cfg(test)]
mod tests {
    use margay_model::protocol::Protocol;

    use super::*;

    fn port(protocol: Protocol, number: u16, ip: Option<&str>) -> EndpointPort {
        EndpointPort {
            name: String::new(),
            protocol,
            port: 80,
            host_port: Some(number),
            host_ip: ip.map(str::to_owned),
            extra: margay_model::meta::Extra::default(),
        }
    }

    #[test]
    fn ports_are_the_same_where_protocol_number_and_an_address_are() {
        let tcp = |ip: Option<&str>| port(Protocol::Tcp, 80, ip);
        assert!(are_same(&tcp(None), &tcp(Some("192.0.2.1"))));
        assert!(are_same(&tcp(Some("192.0.2.1")), &tcp(Some("192.0.2.1"))));
        assert!(are_same(&tcp(Some("0.0.0.0")), &tcp(Some("192.0.2.1"))));
        assert!(!are_same(&tcp(Some("192.0.2.2")), &tcp(Some("192.0.2.1"))));
        assert!(!are_same(&tcp(Some("::")), &tcp(Some("192.0.2.1"))));
        assert!(!are_same(&tcp(None), &port(Protocol::Udp, 80, None)));
        assert!(!are_same(&tcp(None), &port(Protocol::Tcp, 81, None)));
        let only_named = EndpointPort {
            host_port: None,
            ..tcp(None)
        };
        assert!(!are_same(&only_named, &only_named));
    }
}
