//! What dockerd asks, as far as it matters here. Fields that are unknown, absent or null do not.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Options of a call: anything by name.
pub(super) type Options = Map<String, Value>;

/// Options that are all text: those of users for a network, and those of address management.
pub(super) type TextOptions = BTreeMap<String, String>;

/// User options of a network within [`CreateNetwork::options`].
pub(super) const GENERIC: &str = "com.docker.network.generic";
pub(super) const INTERNAL: &str = "com.docker.network.internal";
pub(super) const MTU: &str = "com.docker.network.driver.mtu";
pub(super) const IFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
pub(super) const IFNAME: &str = "com.docker.network.endpoint.ifname";
pub(super) const MAC: &str = "com.docker.network.endpoint.macaddress";
pub(super) const EXPOSED_PORTS: &str = "com.docker.network.endpoint.exposedports";
pub(super) const PORT_MAP: &str = "com.docker.network.portmap";
pub(super) const GATEWAY: &str = "com.docker.network.gateway";
/// The endpoint leads the host's ports of IPv4 only: another of the container has IPv6's default route (Docker 28 and up).
pub(super) const IPV4_PORTS_ONLY: &str = "com.docker.network.driver.private.no_proxy_6to4";
pub(super) const REQUEST_TYPE: &str = "RequestAddressType";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    pub(super) network_id: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) options: Options,
    #[serde(rename = "IPv4Data", deserialize_with = "nullable")]
    pub(super) ipv4_data: Vec<IpamData>,
    #[serde(rename = "IPv6Data", deserialize_with = "nullable")]
    pub(super) ipv6_data: Vec<IpamData>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct IpamData {
    #[serde(deserialize_with = "nullable")]
    pub(super) address_space: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) pool: String,
}

/// A call about a network, or about an endpoint of it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Target {
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    pub(super) network_id: String,
    #[serde(rename = "EndpointID", deserialize_with = "nullable")]
    pub(super) endpoint_id: String,
    /// Of Join alone.
    #[serde(deserialize_with = "nullable")]
    pub(super) sandbox_key: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) options: Options,
    /// Of CreateEndpoint alone.
    #[serde(deserialize_with = "nullable")]
    pub(super) interface: Interface,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Interface {
    #[serde(deserialize_with = "nullable")]
    pub(super) address: String,
    #[serde(rename = "AddressIPv6", deserialize_with = "nullable")]
    pub(super) address_ipv6: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) mac_address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RequestPool {
    #[serde(deserialize_with = "nullable")]
    pub(super) pool: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) sub_pool: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) options: TextOptions,
    #[serde(deserialize_with = "nullable")]
    pub(super) v6: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct AddressCall {
    #[serde(rename = "PoolID", deserialize_with = "nullable")]
    pub(super) pool_id: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) address: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) options: TextOptions,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PortBinding {
    #[serde(deserialize_with = "nullable")]
    pub(super) proto: u8,
    #[serde(deserialize_with = "nullable")]
    pub(super) port: u16,
    #[serde(rename = "HostIP", deserialize_with = "nullable")]
    pub(super) host_ip: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) host_port: u16,
    #[serde(deserialize_with = "nullable")]
    pub(super) host_port_end: u16,
}

/// Go writes null for what is empty.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_absent_and_unknown_fields_are_all_the_same() {
        let text = r#"{"NetworkID":"n","Options":null,"IPv4Data":null,"Whatever":{"a":[1]}}"#;
        let call: CreateNetwork = serde_json::from_str(text).unwrap();
        assert_eq!(call.network_id, "n");
        assert!(call.options.is_empty() && call.ipv4_data.is_empty() && call.ipv6_data.is_empty());
        let text = r#"{"EndpointID":"e","Interface":{"Address":"10.0.0.1/32","MacAddress":null}}"#;
        let call: Target = serde_json::from_str(text).unwrap();
        assert_eq!(call.interface.address, "10.0.0.1/32");
        assert_eq!(call.interface.mac_address, "");
        let text =
            r#"{"Proto":6,"IP":"","Port":80,"HostIP":null,"HostPort":8080,"HostPortEnd":8080}"#;
        let binding: PortBinding = serde_json::from_str(text).unwrap();
        assert_eq!(
            (binding.proto, binding.port, binding.host_port),
            (6, 80, 8080)
        );
    }
}
