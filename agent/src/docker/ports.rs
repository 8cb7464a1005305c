//! Published ports: kept in the endpoint, as every runtime's are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::{ObjectMeta, Resource};
use margay_model::profile::{Profile, ProfileSpec};
use margay_model::protocol::{Port, Protocol};
use margay_model::rule::{Action, Rule};
use margay_model::store::{Store, Txn};
use margay_model::stored::encode_stored;
use margay_model::workload_endpoint::{EndpointPort, WorkloadEndpoint, WorkloadEndpointSpec};
use serde_json::{Value, json};

use super::Driver;
use super::error::DockerError;
use super::join::SANDBOX;
use super::options::{bindings, protocol};
use super::protocol::{IPV4_PORTS_ONLY, PORT_MAP, PortBinding, Target};
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
        let known = world.endpoints.get(&key);
        let known = known.ok_or_else(|| DockerError::UnknownEndpoint(call.endpoint_id.clone()))?;
        let has = Families::of(&known.resource.spec);
        let v4_only = call.options.get(IPV4_PORTS_ONLY) == Some(&Value::Bool(true));
        let may = Families {
            v6: has.v6 && !v4_only,
            ..has
        };
        let mut taken = taken(&world, &known.resource);
        let mut chosen: Vec<EndpointPort> = Vec::new();
        for binding in &wanted {
            // Repeated for a container that goes on, it keeps what it has.
            let had = known.resource.spec.ports.iter();
            let had = had.filter(|port| !chosen.contains(port));
            let port = choose(binding, &taken, had)?;
            let Some(port) = left_to(port, has, may, &taken) else {
                continue;
            };
            taken.push(Taken {
                port: port.clone(),
                by: call.endpoint_id.clone(),
                leads: None,
            });
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

/// A published port of this host.
struct Taken {
    port: EndpointPort,
    /// Whose it is.
    by: String,
    /// Of another endpoint of the same container: for which families it leads there. Docker gives a container one endpoint
    /// for each family that the host's ports are to lead to, and tells neither of the other.
    leads: Option<Families>,
}

/// Which addresses of the host a port is for, as far as the family goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    fn of(endpoint: &WorkloadEndpointSpec) -> Self {
        let has = |v4| endpoint.ip_networks.iter().any(|net| net.is_ipv4() == v4);
        Self {
            v4: has(true),
            v6: has(false),
        }
    }

    /// Those of a port that an endpoint with addresses of these publishes.
    fn of_port(self, port: &EndpointPort) -> Self {
        match address(port) {
            None => self,
            Some(ip) => Self {
                v4: self.v4 && ip.is_ipv4(),
                v6: self.v6 && ip.is_ipv6(),
            },
        }
    }

    fn without(self, other: Self) -> Self {
        Self {
            v4: self.v4 && !other.v4,
            v6: self.v6 && !other.v6,
        }
    }

    /// How a port for all addresses of the host is written.
    fn host_ip(self) -> Option<IpAddr> {
        match (self.v4, self.v6) {
            (true, false) => Some(Ipv4Addr::UNSPECIFIED.into()),
            (false, true) => Some(Ipv6Addr::UNSPECIFIED.into()),
            _ => None,
        }
    }
}

/// Every published port of this host but the endpoint's own.
fn taken(world: &World, own: &WorkloadEndpoint) -> Vec<Taken> {
    let sandbox = own.metadata.annotations.get(SANDBOX);
    let others = world.endpoints.values().map(|e| &e.resource);
    let others = others.filter(|other| other.spec.container_id != own.spec.container_id);
    let ports = others.flat_map(|other| {
        let same = sandbox.is_some() && other.metadata.annotations.get(SANDBOX) == sandbox;
        let families = same.then(|| Families::of(&other.spec));
        let published = other.spec.ports.iter();
        let published = published.filter(|port| port.host_port.is_some());
        published.map(move |port| Taken {
            port: port.clone(),
            by: other.metadata.name.clone(),
            leads: families.map(|families| families.of_port(port)),
        })
    });
    ports.collect()
}

fn choose<'a>(
    binding: &PortBinding,
    taken: &[Taken],
    had: impl Iterator<Item = &'a EndpointPort>,
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
    let kept = had.filter(|port| port.protocol == protocol && port.port == binding.port);
    let kept = kept.filter_map(|port| port.host_port);
    let kept: Vec<u16> = kept.filter(|port| (first..=last).contains(port)).collect();
    let mut objection = None;
    for host_port in kept.iter().copied().chain(first..=last) {
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
        let mut strangers = taken.iter().filter(|other| other.leads.is_none());
        let same = strangers.find(|other| collide(&port, &other.port));
        let of_the_host = || match kept.contains(&host_port) {
            true => None,
            false => of_the_host(protocol, host_ip, host_port),
        };
        match same.map(|other| other.by.clone()).or_else(of_the_host) {
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

/// The port for the families that no other endpoint of the container leads; none if there are none.
fn left_to(
    mut port: EndpointPort,
    has: Families,
    may: Families,
    taken: &[Taken],
) -> Option<EndpointPort> {
    let same = taken.iter().filter(|other| collide(&port, &other.port));
    let led = same.filter_map(|other| other.leads);
    let left = led.fold(may.of_port(&port), Families::without);
    if left == Families::default() {
        return None;
    }
    if left != has.of_port(&port) {
        port.host_ip = left.host_ip().map(|ip| ip.to_string());
    }
    Some(port)
}

fn address(port: &EndpointPort) -> Option<IpAddr> {
    port.host_ip.as_deref()?.parse().ok()
}

fn collide(a: &EndpointPort, b: &EndpointPort) -> bool {
    let overlap = match (address(a), address(b)) {
        (Some(a), Some(b)) => {
            a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
        }
        _ => true,
    };
    a.protocol.number() == b.protocol.number() && a.host_port == b.host_port && overlap
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

    fn pick(binding: &PortBinding, taken: &[Taken]) -> Result<EndpointPort, DockerError> {
        choose(binding, taken, std::iter::empty())
    }

    fn of_a_stranger(port: EndpointPort) -> Taken {
        Taken {
            port,
            by: "a".to_owned(),
            leads: None,
        }
    }

    #[test]
    fn a_port_is_chosen_from_its_range_and_never_twice() {
        let first = pick(&binding(0, 0), &[]).unwrap();
        let number = first.host_port.unwrap();
        assert!(number >= EPHEMERAL.0);
        let taken = [of_a_stranger(first.clone())];
        let second = pick(&binding(number, number + 1), &taken).unwrap();
        assert_eq!(second.host_port, Some(number + 1));
        let error = pick(&binding(number, number), &taken).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("port {number}/tcp of the host is taken by a")
        );
        // Asked again, it keeps what it had, also where something before it has become free.
        let again = choose(&binding(0, 0), &[], [&second].into_iter()).unwrap();
        assert_eq!(again.host_port, second.host_port);
    }

    const BOTH: Families = Families { v4: true, v6: true };
    const V4: Families = Families {
        v4: true,
        v6: false,
    };
    const V6: Families = Families {
        v4: false,
        v6: true,
    };

    #[test]
    fn endpoints_of_one_container_share_a_port_by_family() {
        let port = || pick(&binding(49999, 49999), &[]).unwrap();
        let sibling = |leads| Taken {
            leads: Some(leads),
            ..of_a_stranger(port())
        };
        let host_ip = |has, may, taken: &[Taken]| {
            let left = left_to(
                choose(&binding(49999, 49999), taken, [].iter()).unwrap(),
                has,
                may,
                taken,
            );
            left.map(|port| port.host_ip.unwrap_or_default())
        };
        assert_eq!(host_ip(BOTH, BOTH, &[]).unwrap(), "");
        assert_eq!(host_ip(V4, V4, &[]).unwrap(), "");
        assert_eq!(host_ip(BOTH, V4, &[]).unwrap(), "0.0.0.0");
        assert_eq!(host_ip(BOTH, BOTH, &[sibling(V4)]).unwrap(), "::");
        assert_eq!(host_ip(V6, V6, &[sibling(V4)]).unwrap(), "");
        assert_eq!(host_ip(BOTH, BOTH, &[sibling(BOTH)]), None);
        // One at an address of the host is for its family alone.
        let mut at = binding(49999, 49999);
        at.host_ip = "127.0.0.1".to_owned();
        let at = || pick(&at, &[]).unwrap();
        assert_eq!(left_to(at(), BOTH, V6, &[]), None);
        let kept = left_to(at(), BOTH, BOTH, &[sibling(V6)]).unwrap();
        assert_eq!(kept.host_ip.as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn a_program_of_the_host_keeps_its_port() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = pick(&binding(port, port), &[]).unwrap_err();
        assert!(
            error.to_string().contains("a program of the host"),
            "{error}"
        );
    }

    #[test]
    fn other_protocols_and_addresses_are_refused() {
        let mut icmp = binding(80, 80);
        icmp.proto = 1;
        pick(&icmp, &[]).unwrap_err();
        let mut bad = binding(80, 80);
        bad.host_ip = "here".into();
        pick(&bad, &[]).unwrap_err();
    }
}
