//! Networks: what a host keeps of one, and the profile that its containers share on all hosts.
//!
//! dockerd gives each host's network an id of its own and tells no name. So networks of several hosts are one network
//! when the option `margay.network` names them alike or, without it, when they have the same `--subnet`.

use std::collections::{BTreeMap, BTreeSet};

use margay_datastore::AnyStore;
use margay_model::any::AnyResource;
use margay_model::keys::Keys;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::{ObjectMeta, Resource};
use margay_model::net::Cidr;
use margay_model::profile::{Profile, ProfileSpec};
use margay_model::rule::{Action, Rule};
use margay_model::store::{KeyValue, Revision, Store, StoreError, Txn, TxnOutcome};
use margay_model::stored::{decode_stored, encode_stored};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::info;

use super::error::DockerError;
use super::options::{LABEL, check_label, check_name, mtu};
use super::protocol::{
    CreateNetwork, GENERIC, IFACE_PREFIX, INTERNAL, IpamData, MTU, Target, TextOptions,
};
use super::{ADDRESS_SPACE, Driver};
use crate::cni::now_rfc3339;
use crate::fault;

/// Every container of a network has this label, with the network's name.
const NETWORK_LABEL: &str = "margay.io/docker-network";

/// What a network's interfaces are called in a container unless it says otherwise.
const DEFAULT_PREFIX: &str = "eth";

/// How often a network is written again because others write its profile at the same moment.
const ATTEMPTS: u32 = 20;

/// A network of this host as it is kept in the datastore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Network {
    /// The same on all hosts.
    pub(super) name: String,
    /// No way out of the network.
    #[serde(default)]
    pub(super) internal: bool,
    /// Everybody may connect to its containers.
    #[serde(default)]
    pub(super) open: bool,
    #[serde(default)]
    pub(super) mtu: Option<u32>,
    /// Of its endpoints' interfaces in containers.
    pub(super) prefix: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    /// The ranges that the user named.
    #[serde(default)]
    pub(super) subnets: Vec<Cidr>,
}

impl Network {
    pub(super) fn profile_name(&self) -> String {
        format!("docker.{}", self.name)
    }

    /// Members reach each other; what is not of an internal network reaches everything.
    pub(super) fn profile(&self) -> Profile {
        let members = Some(format!("{NETWORK_LABEL} == '{}'", self.name));
        let mut ingress = Rule::new(Action::Allow);
        if !self.open {
            ingress.source.selector.clone_from(&members);
        }
        let mut egress = Rule::new(Action::Allow);
        if self.internal {
            egress.destination.selector = members;
        }
        let mut metadata = ObjectMeta::named(self.profile_name());
        metadata.uid = Some(uuid::Uuid::new_v4().to_string());
        metadata.creation_timestamp = Some(now_rfc3339());
        metadata
            .annotations
            .insert(NETWORK_LABEL.to_owned(), self.name.clone());
        let spec = ProfileSpec {
            ingress: vec![ingress],
            egress: vec![egress],
            labels_to_apply: [(NETWORK_LABEL.to_owned(), self.name.clone())].into(),
            ..ProfileSpec::default()
        };
        Resource::new(metadata, spec)
    }

    fn parse(call: &CreateNetwork) -> Result<Self, DockerError> {
        let ours = |data: &IpamData| data.address_space == ADDRESS_SPACE;
        let mut data = call.ipv4_data.iter().chain(&call.ipv6_data).peekable();
        if data.peek().is_none() || !data.all(ours) {
            return Err(DockerError::ForeignIpam);
        }
        let mut network = Self {
            name: String::new(),
            internal: call.options.get(INTERNAL).and_then(Value::as_bool) == Some(true),
            open: false,
            mtu: None,
            prefix: DEFAULT_PREFIX.to_owned(),
            labels: BTreeMap::new(),
            subnets: subnets(call),
        };
        let generic = call.options.get(GENERIC).cloned().unwrap_or_default();
        // What is no text is of a dockerd that means something else by it.
        let generic: TextOptions = serde_json::from_value(generic).unwrap_or_default();
        for (option, value) in &generic {
            network.option(option, value)?;
        }
        if network.name.is_empty() {
            network.name = match network.subnets.first() {
                Some(subnet) => subnet.to_string().replace(['/', ':'], "-"),
                None => call.network_id.chars().take(12).collect(),
            };
        }
        Ok(network)
    }

    fn option(&mut self, option: &str, value: &str) -> Result<(), DockerError> {
        match option {
            "margay.network" => self.name = check_name(option, value)?,
            "margay.ingress" => {
                self.open = match value {
                    "network" => false,
                    "all" => true,
                    _ => return Err(DockerError::option(option, value, "network or all")),
                };
            }
            MTU => self.mtu = mtu(value)?,
            IFACE_PREFIX => self.prefix = value.to_owned(),
            _ => match option.strip_prefix(LABEL) {
                Some(label) => {
                    check_label(option, label, value)?;
                    self.labels.insert(label.to_owned(), value.to_owned());
                }
                None if option.starts_with("margay.") => {
                    return Err(DockerError::UnknownOption {
                        found: option.to_owned(),
                        known: "margay.network, margay.ingress and margay.label.NAME".to_owned(),
                    });
                }
                None => {}
            },
        }
        Ok(())
    }
}

/// The ranges that the user named: without them dockerd passes on the stand-in that it was given.
fn subnets(call: &CreateNetwork) -> Vec<Cidr> {
    let pools = call.ipv4_data.iter().chain(&call.ipv6_data);
    let named = pools.filter_map(|data| data.pool.parse::<Cidr>().ok());
    named.filter(|pool| pool.prefix_len() > 0).collect()
}

/// Where the networks of all hosts are; below it one key a host and network.
fn networks_key(keys: &Keys) -> String {
    format!("{}/margay/v1/docker/", keys.prefix())
}

impl Driver {
    /// Below it one key for each network of this host.
    pub(super) fn own_networks(&self) -> String {
        format!("{}{}/", networks_key(&self.keys), self.node)
    }

    fn network_key(&self, id: &str) -> Result<String, DockerError> {
        // An id is hexadecimal; what is not must not name another key.
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(DockerError::option("NetworkID", id, "letters and digits"));
        }
        Ok(self.own_networks() + id)
    }

    pub(super) async fn create_network(&self, call: CreateNetwork) -> Result<Value, DockerError> {
        let network = Network::parse(&call)?;
        let key = self.network_key(&call.network_id)?;
        self.open_world().await?;
        let profile_key = self
            .keys
            .resource(&ResourceKey::global(Kind::Profile, network.profile_name()));
        for _ in 0..ATTEMPTS {
            let stored = self.store.get(&profile_key).await?;
            // Written also when it is there: whoever is about to remove it as nobody's learns of us.
            let (revision, profile) = match stored {
                Some(kv) => (kv.mod_revision, kv.value),
                None => (0, encode_stored(&AnyResource::Profile(network.profile()))),
            };
            let record = serde_json::to_vec(&network)
                .map_err(|error| DockerError::Failed(error.to_string()))?;
            let txn = Txn::default()
                .when(profile_key.clone(), revision)
                .put(profile_key.clone(), profile)
                .put(key.clone(), record);
            if let TxnOutcome::Committed(_) = self.store.txn(txn).await? {
                fault::point("docker-after-network");
                info!(id = call.network_id, name = network.name, "docker network");
                return Ok(json!({}));
            }
        }
        Err(DockerError::Contention(network.name))
    }

    /// Nothing there is success: a network that cannot be removed would stay for ever.
    pub(super) async fn delete_network(&self, call: Target) -> Result<Value, DockerError> {
        let key = self.network_key(&call.network_id)?;
        let removed = remove(&self.store, &self.keys, &key).await?;
        fault::point("docker-after-network-removal");
        match removed {
            true => Ok(json!({})),
            false => Err(DockerError::Contention(call.network_id)),
        }
    }

    pub(super) async fn network(&self, id: &str) -> Result<Network, DockerError> {
        let unknown = || DockerError::UnknownNetwork(id.to_owned());
        let stored = self.store.get(&self.network_key(id)?).await?;
        let stored = stored.ok_or_else(unknown)?;
        serde_json::from_slice(&stored.value).map_err(|_damaged| unknown())
    }
}

/// The hosts that have networks.
pub(crate) async fn hosts(store: &AnyStore, keys: &Keys) -> Result<BTreeSet<String>, StoreError> {
    let all = networks_key(keys);
    let listed = store.list(&all).await?.kvs;
    let host = |kv: &KeyValue| {
        let (host, _) = kv.key.strip_prefix(&all)?.split_once('/')?;
        Some(host.to_owned())
    };
    Ok(listed.iter().filter_map(host).collect())
}

/// Removes what a host that is gone for good had of networks.
pub(crate) async fn forget_networks(
    store: &AnyStore,
    keys: &Keys,
    node: &str,
) -> Result<(), StoreError> {
    let own = format!("{}{node}/", networks_key(keys));
    for kv in store.list(&own).await?.kvs {
        if !remove(store, keys, &kv.key).await? {
            info!(
                key = kv.key,
                "network is kept, others write it all the time"
            );
        }
    }
    Ok(())
}

/// Removes a host's network and, with the last of its name, the profile; false when others were in the way again and
/// again.
async fn remove(store: &AnyStore, keys: &Keys, key: &str) -> Result<bool, StoreError> {
    for _ in 0..ATTEMPTS {
        let all = store.list(&networks_key(keys)).await?;
        let Some(own) = all.kvs.iter().find(|kv| kv.key == key) else {
            return Ok(true);
        };
        let name = network_name(&own.value);
        let shared = |name: &str| {
            let mut others = all.kvs.iter().filter(|kv| kv.key != key);
            others.any(|kv| network_name(&kv.value).as_deref() == Some(name))
        };
        let mut txn = Txn::default().when(key, own.mod_revision).delete(key);
        if let Some(name) = name.filter(|name| !shared(name))
            && let Some((profile, revision)) = own_profile(store, keys, &name).await?
        {
            txn = txn.when(profile.clone(), revision).delete(profile);
        }
        if let TxnOutcome::Committed(_) = store.txn(txn).await? {
            info!(key, "docker network removed");
            return Ok(true);
        }
    }
    Ok(false)
}

/// The network's profile, unless somebody else made it.
async fn own_profile(
    store: &AnyStore,
    keys: &Keys,
    name: &str,
) -> Result<Option<(String, Revision)>, StoreError> {
    let resource = ResourceKey::global(Kind::Profile, format!("docker.{name}"));
    let key = keys.resource(&resource);
    let Some(kv) = store.get(&key).await? else {
        return Ok(None);
    };
    let ours = decode_stored(&resource, &kv.value)
        .is_ok_and(|profile| profile.metadata().annotations.contains_key(NETWORK_LABEL));
    Ok(ours.then_some((key, kv.mod_revision)))
}

fn network_name(record: &[u8]) -> Option<String> {
    let network: Network = serde_json::from_slice(record).ok()?;
    Some(network.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(generic: Value, pool: &str) -> Result<Network, DockerError> {
        let call = json!({"NetworkID": "0123456789abcdef", "IPv4Data": [{"AddressSpace": ADDRESS_SPACE,
            "Pool": pool}], "Options": {GENERIC: generic, INTERNAL: true}});
        Network::parse(&serde_json::from_value(call).unwrap())
    }

    #[test]
    fn a_network_is_named_by_option_then_by_subnet_then_by_id() {
        let name = |generic, pool| parse(generic, pool).unwrap().name;
        assert_eq!(name(json!({"margay.network": "web"}), "10.0.0.0/16"), "web");
        assert_eq!(name(json!({}), "10.0.0.0/16"), "10.0.0.0-16");
        assert_eq!(name(Value::Null, "0.0.0.0/0"), "0123456789ab");
    }

    #[test]
    fn options_are_taken_or_refused_by_name() {
        let all = json!({"margay.ingress": "all", MTU: "1400", "margay.label.tier": "db",
            "com.example": "x", IFACE_PREFIX: "net"});
        let network = parse(all, "0.0.0.0/0").unwrap();
        assert!(network.open && network.internal);
        assert_eq!(network.mtu, Some(1400));
        assert_eq!(network.labels["tier"], "db");
        assert_eq!(network.prefix, "net");
        for (generic, needle) in [
            (
                json!({"margay.netwrok": "web"}),
                "unknown option margay.netwrok, there are margay.network",
            ),
            (
                json!({"margay.network": "Web!"}),
                "margay.network is \"Web!\"",
            ),
            (json!({"margay.ingress": "some"}), "network or all"),
            (json!({MTU: "9"}), "1280 to 65535"),
            (
                json!({"margay.label.a": "b c"}),
                "margay.label.a is \"b c\"",
            ),
        ] {
            let error = parse(generic, "0.0.0.0/0").unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }

    #[test]
    fn addresses_of_another_driver_are_refused() {
        let call = json!({"NetworkID": "ab", "IPv4Data": [{"AddressSpace": "LocalDefault",
            "Pool": "172.18.0.0/16", "Gateway": "172.18.0.1/16"}]});
        let error = Network::parse(&serde_json::from_value(call).unwrap()).unwrap_err();
        assert!(
            error.to_string().contains("--ipam-driver margay"),
            "{error}"
        );
        assert!(Network::parse(&CreateNetwork::default()).is_err());
    }
}
