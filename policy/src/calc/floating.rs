//! Floating IPs: which endpoint has one that several ask for.
//!
//! All hosts have to come to the same answer, by nothing but what is in the datastore: the endpoint that was created
//! first has it, and of those of the same second the one whose name comes first. An endpoint that asks for none leaves
//! nothing here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use margay_model::kind::ResourceKey;
use margay_model::workload_endpoint::{IpNat, WorkloadEndpoint, WorkloadEndpointSpec};

/// The orchestrator whose addresses are translated whatever the settings say, as the established system has it.
const ALWAYS: &str = "openstack";

/// Who asks for which addresses.
#[derive(Debug)]
pub(super) struct FloatingIps {
    /// Whether those of other orchestrators than [`ALWAYS`] lead anywhere.
    enabled: bool,
    /// The first has the address.
    claims: BTreeMap<IpAddr, BTreeSet<Claim>>,
    askers: BTreeMap<ResourceKey, Asker>,
    /// Endpoints of which more or less may be translated than at the last look.
    changed: BTreeSet<ResourceKey>,
}

/// In the order in which they come to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    /// One that nobody knows the age of counts as the youngest.
    undated: bool,
    /// RFC 3339 in UTC, as every writer has it: text in the order of time.
    created: String,
    key: ResourceKey,
}

#[derive(Debug, PartialEq, Eq)]
struct Asker {
    claim: Claim,
    addresses: BTreeSet<IpAddr>,
    always: bool,
}

impl Default for FloatingIps {
    fn default() -> Self {
        Self {
            enabled: true,
            claims: BTreeMap::new(),
            askers: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }
}

/// Those that can be translated: to the first address of each family, which is where all of a host leads. Another
/// is no other container's.
pub(super) fn asked(spec: &WorkloadEndpointSpec) -> impl Iterator<Item = IpAddr> {
    let first = |v4: bool| {
        let mut addresses = spec.ip_networks.iter().map(|net| net.addr());
        addresses.find(|ip| ip.is_ipv4() == v4)
    };
    let leads_here = move |nat: &&IpNat| {
        let (internal, external) = (nat.internal_ip, nat.external_ip);
        internal.is_ipv4() == external.is_ipv4() && first(internal.is_ipv4()) == Some(internal)
    };
    let nats = spec.ip_nats.iter().filter(leads_here);
    nats.map(|nat| nat.external_ip)
}

impl FloatingIps {
    /// Whether addresses are translated at all.
    pub(super) fn enable(&mut self, enabled: bool) {
        if enabled != self.enabled {
            self.enabled = enabled;
            self.changed.extend(self.askers.keys().cloned());
        }
    }

    /// An endpoint is new or has changed.
    pub(super) fn set(&mut self, endpoint: &WorkloadEndpoint) {
        if endpoint.spec.ip_nats.is_empty() && self.askers.is_empty() {
            return;
        }
        let key = endpoint.key();
        let addresses: BTreeSet<IpAddr> = asked(&endpoint.spec).collect();
        if addresses.is_empty() {
            return self.remove(&key);
        }
        let created = endpoint.metadata.creation_timestamp.clone();
        let asker = Asker {
            claim: Claim {
                undated: created.is_none(),
                created: created.unwrap_or_default(),
                key: key.clone(),
            },
            addresses,
            always: endpoint.spec.orchestrator == ALWAYS,
        };
        if self.askers.get(&key) == Some(&asker) {
            return;
        }
        self.remove(&key);
        for address in &asker.addresses {
            let claims = self.claims.entry(*address).or_default();
            claims.insert(asker.claim.clone());
            self.changed
                .extend(claims.iter().map(|claim| claim.key.clone()));
        }
        self.askers.insert(key, asker);
    }

    /// An endpoint is gone, or asks for nothing any more.
    pub(super) fn remove(&mut self, key: &ResourceKey) {
        let Some(asker) = self.askers.remove(key) else {
            return;
        };
        self.changed.insert(key.clone());
        for address in asker.addresses {
            let Some(claims) = self.claims.get_mut(&address) else {
                continue;
            };
            claims.remove(&asker.claim);
            self.changed
                .extend(claims.iter().map(|claim| claim.key.clone()));
            if claims.is_empty() {
                self.claims.remove(&address);
            }
        }
    }

    /// Which endpoint has an address.
    fn owner(&self, address: IpAddr) -> Option<&ResourceKey> {
        let first = self.claims.get(&address)?.first()?;
        Some(&first.key)
    }

    /// Every address with the endpoint that has it.
    pub(super) fn owners(&self) -> impl Iterator<Item = (IpAddr, &ResourceKey)> {
        let all = self.claims.iter();
        all.filter_map(|(address, claims)| Some((*address, &claims.first()?.key)))
    }

    /// Whether an address that the endpoint asks for is translated to its own.
    pub(super) fn leads_to(&self, key: &ResourceKey, address: IpAddr) -> bool {
        let allowed = self.enabled || self.askers.get(key).is_some_and(|asker| asker.always);
        allowed && self.owner(address) == Some(key)
    }

    /// What the endpoint asks for and others have, for people.
    pub(super) fn problem(&self, key: &ResourceKey) -> Option<String> {
        let lost = |address: &IpAddr| {
            let owner = self.owner(*address).filter(|owner| *owner != key)?;
            let namespace = owner.namespace.as_deref().unwrap_or_default();
            Some(format!(
                "floating IP {address} is endpoint {namespace}/{}'s, which is older, and leads there",
                owner.name
            ))
        };
        let lost: Vec<_> = self
            .askers
            .get(key)?
            .addresses
            .iter()
            .filter_map(lost)
            .collect();
        (!lost.is_empty()).then(|| lost.join("; "))
    }

    /// Endpoints to look at anew.
    pub(super) fn take_changed(&mut self) -> BTreeSet<ResourceKey> {
        std::mem::take(&mut self.changed)
    }
}
