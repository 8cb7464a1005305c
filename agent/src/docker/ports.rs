//! Published ports: kept in the endpoint, as every runtime's are.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::{ObjectMeta, Resource};
use margay_model::profile::{Profile, ProfileSpec};
use margay_model::protocol::{Port, Protocol};
use margay_model::rule::{Action, Rule};
use margay_model::store::{Store, Txn};
use margay_model::stored::encode_stored;
use margay_model::workload_endpoint::EndpointPort;
use serde_json::{Value, json};

use super::Driver;
use super::error::DockerError;
use super::options::{bindings, protocol};
use super::protocol::{PORT_MAP, PortBinding, Target};
use crate::cni::now_rfc3339;
use crate::fault;
use crate::world::World;

/// What the profiles of published ports are called, before protocol and port.
const OPEN_PORT: &str = "docker-port.";

/// Where a port is chosen when the user names none: as dockerd does.
const EPHEMERAL: (u16, u16) = (49153, 65535);

impl Driver {
    /// Chooses the ports of the host and writes them into the endpoint.
    pub(super) async fn publish(&self, call: Target) -> Result<Value, DockerError> {
        let wanted = bindings(&call.options, PORT_MAP);
        let key = self.endpoint_key(&call.endpoint_id)?;
        if wanted.is_empty() {
            return Ok(json!({}));
        }
        let world = self.open_world().await?;
        // One at a time: two containers must not choose the same.
        let _choice = self.turns.take("published ports").await;
        let _turn = self.turns.take(&call.endpoint_id).await;
        let mut taken = taken(&world, &call.endpoint_id);
        let mut chosen = Vec::new();
        for binding in &wanted {
            let port = choose(binding, &taken)?;
            taken.push((port.clone(), call.endpoint_id.clone()));
            chosen.push(port);
        }
        let mut profiles = Vec::new();
        for port in &chosen {
            profiles.push(self.open_port(port).await?);
        }
        fault::point("docker-after-open-port");
        let change = self.amend(&key, |endpoint| {
            let spec = &mut endpoint.spec;
            spec.ports.retain(|port| port.host_port.is_none());
            spec.ports.extend(chosen.iter().cloned());
            spec.profiles.retain(|name| !name.starts_with(OPEN_PORT));
            spec.profiles.extend(profiles.iter().cloned());
            true
        });
        change.await?;
        fault::point("docker-after-ports");
        Ok(json!({}))
    }

    /// The profile that lets everybody reach a container's published port, as its user expects. Policy sees the
    /// container's own port, and one profile does for all that publish the same; it is left for the next one.
    async fn open_port(&self, port: &EndpointPort) -> Result<String, DockerError> {
        let name = format!("{OPEN_PORT}{}", port_name(port.protocol, port.port));
        if !self.world.borrow().profiles.contains(&name) {
            let resource = AnyResource::Profile(open_profile(&name, port));
            let key = self
                .keys
                .resource(&ResourceKey::global(Kind::Profile, name.clone()));
            // A conflict means that it is there.
            let txn = Txn::default()
                .when(key.clone(), 0)
                .put(key, encode_stored(&resource));
            self.store.txn(txn).await?;
            self.profile_known(&name).await?;
        }
        Ok(name)
    }

    pub(super) async fn unpublish(&self, call: Target) -> Result<Value, DockerError> {
        let world = self.synced_world().await?;
        let key = self.endpoint_key(&call.endpoint_id)?;
        let _turn = self.turns.take(&call.endpoint_id).await;
        let published = |port: &EndpointPort| port.host_port.is_some();
        let known = world.endpoints.get(&key);
        if known.is_some_and(|known| known.resource.spec.ports.iter().any(published)) {
            let change = self.amend(&key, |endpoint| {
                endpoint.spec.ports.retain(|port| !published(port));
                endpoint
                    .spec
                    .profiles
                    .retain(|name| !name.starts_with(OPEN_PORT));
                true
            });
            change.await?;
            fault::point("docker-after-ports-removal");
        }
        Ok(json!({}))
    }

    /// What the endpoint has beside what dockerd knows: its published ports.
    pub(super) async fn endpoint_info(&self, call: Target) -> Result<Value, DockerError> {
        let world = self.synced_world().await?;
        let key = self.endpoint_key(&call.endpoint_id)?;
        let ports = world
            .endpoints
            .get(&key)
            .map(|known| &known.resource.spec.ports);
        let told = |port: &EndpointPort| {
            let host_port = port.host_port?;
            Some(
                json!({"Proto": port.protocol.number(), "Port": port.port, "IP": "",
                "HostIP": port.host_ip.clone().unwrap_or_default(), "HostPort": host_port,
                "HostPortEnd": host_port}),
            )
        };
        let ports: Vec<Value> = ports.into_iter().flatten().filter_map(told).collect();
        match ports.is_empty() {
            true => Ok(json!({"Value": {}})),
            false => Ok(json!({"Value": {PORT_MAP: ports}})),
        }
    }
}

fn open_profile(name: &str, port: &EndpointPort) -> Profile {
    let mut rule = Rule::new(Action::Allow);
    rule.protocol = Some(port.protocol);
    rule.destination.ports = vec![Port::Number(port.port)];
    let mut metadata = ObjectMeta::named(name);
    metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    metadata.creation_timestamp = Some(now_rfc3339());
    let spec = ProfileSpec {
        ingress: vec![rule],
        egress: Vec::new(),
        ..ProfileSpec::default()
    };
    Resource::new(metadata, spec)
}

fn port_name(protocol: Protocol, port: u16) -> String {
    format!("{}-{port}", protocol.to_string().to_lowercase())
}

/// Every published port of this host, and whose it is.
fn taken(world: &World, but: &str) -> Vec<(EndpointPort, String)> {
    let others = world.endpoints.values().map(|e| &e.resource);
    let others = others.filter(|other| other.spec.container_id != but);
    let ports = others.flat_map(|other| {
        let ports = other
            .spec
            .ports
            .iter()
            .filter(|port| port.host_port.is_some());
        ports.map(|port| (port.clone(), other.metadata.name.clone()))
    });
    ports.collect()
}

fn choose(
    binding: &PortBinding,
    taken: &[(EndpointPort, String)],
) -> Result<EndpointPort, DockerError> {
    let protocol = protocol(binding.proto).filter(|_| binding.port > 0);
    let protocol = protocol.ok_or_else(|| {
        let found = format!("port {} of protocol {}", binding.port, binding.proto);
        DockerError::option("-p", found, "a port of TCP, UDP or SCTP")
    })?;
    let host_ip: Option<IpAddr> = match binding.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_bad: std::net::AddrParseError| {
            DockerError::option("-p", text, "an address of the host before its port")
        })?),
    };
    let (first, last) = match (binding.host_port, binding.host_port_end) {
        (0, _) => EPHEMERAL,
        (first, last) => (first, last.max(first)),
    };
    let mut objection = None;
    for host_port in first..=last {
        let port = EndpointPort {
            name: String::new(),
            protocol,
            port: binding.port,
            host_port: Some(host_port),
            host_ip: host_ip
                .filter(|ip| !ip.is_unspecified())
                .map(|ip| ip.to_string()),
            extra: Default::default(),
        };
        let same = taken.iter().find(|(other, _)| collide(&port, other));
        match same
            .map(|(_, by)| by.clone())
            .or_else(|| of_the_host(protocol, host_ip, host_port))
        {
            None => return Ok(port),
            Some(by) => objection = Some(by),
        }
    }
    match objection.filter(|_| first == last) {
        Some(by) => Err(DockerError::PortTaken {
            port: format!("{first}/{}", protocol.to_string().to_lowercase()),
            by,
        }),
        None => Err(DockerError::NoFreePort { first, last }),
    }
}

fn collide(a: &EndpointPort, b: &EndpointPort) -> bool {
    a.protocol.number() == b.protocol.number()
        && a.host_port == b.host_port
        && (a.host_ip.is_none() || b.host_ip.is_none() || a.host_ip == b.host_ip)
}

/// A program of the host that listens there would lose its callers to the container.
fn of_the_host(protocol: Protocol, ip: Option<IpAddr>, port: u16) -> Option<String> {
    let at = (ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port);
    let bound = match protocol {
        Protocol::Tcp => TcpListener::bind(at).map(drop),
        Protocol::Udp => UdpSocket::bind(at).map(drop),
        _ => Ok(()),
    };
    // Any other error is of the address, which the kernel knows better than we do.
    let in_use = bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse);
    in_use.then(|| "a program of the host".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(host_port: u16, end: u16) -> PortBinding {
        PortBinding {
            proto: 6,
            port: 80,
            host_port,
            host_port_end: end,
            ..PortBinding::default()
        }
    }

    #[test]
    fn a_port_is_chosen_from_its_range_and_never_twice() {
        let first = choose(&binding(0, 0), &[]).unwrap();
        let number = first.host_port.unwrap();
        assert!(number >= EPHEMERAL.0);
        let taken = vec![(first, "a".to_owned())];
        let second = choose(&binding(number, number + 1), &taken).unwrap();
        assert_eq!(second.host_port, Some(number + 1));
        let error = choose(&binding(number, number), &taken).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("port {number}/tcp of the host is taken by a")
        );
    }

    #[test]
    fn a_program_of_the_host_keeps_its_port() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = choose(&binding(port, port), &[]).unwrap_err();
        assert!(
            error.to_string().contains("a program of the host"),
            "{error}"
        );
    }

    #[test]
    fn other_protocols_and_addresses_are_refused() {
        let mut icmp = binding(80, 80);
        icmp.proto = 1;
        choose(&icmp, &[]).unwrap_err();
        let mut bad = binding(80, 80);
        bad.host_ip = "here".into();
        choose(&bad, &[]).unwrap_err();
    }
}
