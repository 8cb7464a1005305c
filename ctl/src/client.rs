//! Resources in the datastore: reading, and writing by compare-and-swap.

use jiff::Timestamp;
use margay_datastore::AnyStore;
use margay_model::any::AnyResource;
use margay_model::block_affinity::{BlockAffinitySpec, affinity_name};
use margay_model::defaults::is_built_in_tier;
use margay_model::field_error::FieldError;
use margay_model::ipam::{BlockAffinity, IpamConfig, IpamKey, IpamKeys};
use margay_model::ippool::{IpPool, PoolUse};
use margay_model::keys::Keys;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::policy::DEFAULT_TIER;
use margay_model::store::{KeyValue, Listing, Store, StoreError, Txn, TxnOutcome};
use margay_model::stored::{DecodeError, decode_stored, encode_stored};
use margay_model::validate::overlapping_pools;

use crate::failure::Failure;

/// How often a write without a resource version starts over when somebody else was faster.
const ATTEMPTS: usize = 5;

/// How existing and missing resources are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It must not exist.
    Create,
    /// It may exist.
    Apply,
    /// It must exist.
    Replace,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It did not exist.
    Created,
    /// It was different.
    Replaced,
    /// It was the same.
    Unchanged,
}

/// What a write would do.
pub(crate) struct Planned {
    /// What is stored, if that can be read.
    pub(crate) old: Option<AnyResource>,
    /// What would be; equal to `old` if nothing would change. One that is new has no uid yet.
    pub(crate) new: AnyResource,
    /// The revision of what is stored; 0 if nothing is.
    revision: i64,
}

/// All resources of a kind.
pub(crate) struct Listed {
    /// In the order of their keys, each with its resource version.
    pub(crate) resources: Vec<AnyResource>,
    /// What could not be decoded.
    pub(crate) damaged: Vec<DecodeError>,
    /// The revision of the list.
    pub(crate) revision: i64,
}

/// Access to the resources below one prefix.
pub(crate) struct Client {
    pub(crate) store: AnyStore,
    pub(crate) keys: Keys,
    /// The time that new resources get.
    pub(crate) now: Timestamp,
    /// Makes the uid of a new resource.
    pub(crate) new_uid: fn() -> String,
}

impl Client {
    pub(crate) async fn get(&self, key: &ResourceKey) -> Result<Option<AnyResource>, Failure> {
        if key.kind == Kind::BlockAffinity {
            let all = self.list(key.kind, None).await?.resources;
            return Ok(all.into_iter().find(|affinity| affinity.key() == *key));
        }
        let stored = self.store.get(&self.keys.resource(key)).await?;
        stored
            .map(|kv| self.decode(key, &kv))
            .transpose()
            .map_err(Failure::from)
    }

    /// What the keys of a kind, or of those in a namespace, start with; and perhaps others.
    pub(crate) fn prefix(&self, kind: Kind, namespace: Option<&str>) -> String {
        match namespace.filter(|_| kind.namespaced()) {
            Some(namespace) => self.keys.namespace(kind, namespace),
            None if kind == Kind::BlockAffinity => self.ipam_keys().all().to_owned(),
            None => self.keys.kind(kind),
        }
    }

    fn ipam_keys(&self) -> IpamKeys {
        IpamKeys::new(self.keys.prefix())
    }

    /// The resource that a key of the store is about; none if it is about something else.
    pub(crate) fn parse(&self, key: &str) -> Option<ResourceKey> {
        if let Some(IpamKey::Affinity(owner, cidr)) = self.ipam_keys().parse(key) {
            let name = affinity_name(&owner, cidr);
            return Some(ResourceKey::global(Kind::BlockAffinity, name));
        }
        self.keys.parse(key)
    }

    /// A stored resource, with its resource version.
    pub(crate) fn decode(
        &self,
        key: &ResourceKey,
        kv: &KeyValue,
    ) -> Result<AnyResource, DecodeError> {
        let affinity = match self.ipam_keys().parse(&kv.key) {
            Some(IpamKey::Affinity(owner, cidr)) => Some((owner, cidr)),
            _ => None,
        };
        let mut resource = match affinity {
            Some((owner, cidr)) => {
                let stored = BlockAffinity::decode(&kv.key, &kv.value);
                let stored = stored.map_err(|error| DecodeError::NotAnObject {
                    key: key.clone(),
                    reason: error.to_string(),
                })?;
                BlockAffinitySpec::shown(&owner, cidr, &stored).into()
            }
            None => decode_stored(key, &kv.value)?,
        };
        resource.metadata_mut().resource_version = Some(kv.mod_revision.to_string());
        Ok(resource)
    }

    /// Everything below the prefixes of a kind.
    async fn listing(&self, kind: Kind, namespace: Option<&str>) -> Result<Listing, StoreError> {
        if kind != Kind::BlockAffinity {
            return self.store.list(&self.prefix(kind, namespace)).await;
        }
        // Not what is beside them: the blocks.
        let [hosts, others] = self.ipam_keys().owners();
        let mut listing = self.store.list(&hosts).await?;
        // Whoever watches begins with the older list.
        listing.kvs.extend(self.store.list(&others).await?.kvs);
        Ok(listing)
    }

    /// All of a kind, or those of a namespace.
    pub(crate) async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
    ) -> Result<Listed, StoreError> {
        let listing = self.listing(kind, namespace).await?;
        let mut listed = Listed {
            resources: Vec::new(),
            damaged: Vec::new(),
            revision: listing.revision,
        };
        for kv in &listing.kvs {
            let Some(key) = self.parse(&kv.key) else {
                continue;
            };
            match self.decode(&key, kv) {
                Ok(resource) => listed.resources.push(resource),
                Err(error) => listed.damaged.push(error),
            }
        }
        Ok(listed)
    }

    /// Writes a valid resource, with defaults filled in.
    pub(crate) async fn write(
        &self,
        mode: Mode,
        resource: AnyResource,
    ) -> Result<Written, Failure> {
        let resource = resource.with_defaults();
        let given = resource.metadata().resource_version.clone();
        if mode == Mode::Create && given.is_some() {
            let allowed = "nothing when a resource is created";
            let found = given.unwrap_or_default();
            let error = FieldError::new("metadata.resourceVersion", format!("{found:?}"), allowed);
            return Err(Failure::Refused(vec![error]));
        }
        for _ in 0..ATTEMPTS {
            if let Some(written) = self.try_write(mode, &resource, given.as_deref()).await? {
                return Ok(written);
            }
        }
        let stored = "changed with each attempt".to_owned();
        Err(Failure::Conflict {
            given: given.unwrap_or_default(),
            stored,
        })
    }

    /// What `apply` would do with a valid resource.
    pub(crate) async fn plan(&self, resource: AnyResource) -> Result<Planned, Failure> {
        let resource = resource.with_defaults();
        let given = resource.metadata().resource_version.clone();
        self.prepare(Mode::Apply, &resource, given.as_deref()).await
    }

    /// Looks at what is stored and refuses what may not be.
    async fn prepare(
        &self,
        mode: Mode,
        resource: &AnyResource,
        given: Option<&str>,
    ) -> Result<Planned, Failure> {
        let key = resource.key();
        if key.kind == Kind::BlockAffinity {
            let allowed = "another kind: affinities are kept by address management, margayctl ipam";
            let error = FieldError::new("kind", "BlockAffinity", allowed);
            return Err(Failure::Refused(vec![error]));
        }
        let Some(stored) = self.store.get(&self.keys.resource(&key)).await? else {
            if mode == Mode::Replace {
                return Err(Failure::Missing);
            }
            self.check_new(resource).await?;
            return Ok(Planned {
                old: None,
                new: resource.clone(),
                revision: 0,
            });
        };
        if mode == Mode::Create {
            return Err(Failure::Exists);
        }
        let found = stored.mod_revision.to_string();
        if let Some(given) = given.filter(|given| **given != found) {
            return Err(Failure::Conflict {
                given: given.to_owned(),
                stored: found,
            });
        }
        // What is damaged may be replaced: that is how it is repaired.
        let mut new = resource.clone();
        let old = self.decode(&key, &stored).ok();
        if let Some(old) = &old {
            check_change(old, resource)?;
            keep(old, &mut new);
        }
        new.metadata_mut().resource_version = Some(found);
        Ok(Planned {
            old,
            new,
            revision: stored.mod_revision,
        })
    }

    /// One attempt; nothing if somebody else was faster.
    async fn try_write(
        &self,
        mode: Mode,
        resource: &AnyResource,
        given: Option<&str>,
    ) -> Result<Option<Written>, Failure> {
        let Planned {
            old,
            mut new,
            revision,
        } = self.prepare(mode, resource, given).await?;
        match &old {
            Some(old) if new == *old => return Ok(Some(Written::Unchanged)),
            Some(_) => {}
            None => self.stamp(&mut new),
        }
        let done = self.commit(&new, revision).await?;
        if let (false, Some(given), true) = (done, given, revision > 0) {
            let now = self.store.get(&self.keys.resource(&new.key())).await?;
            return Err(Failure::Conflict {
                given: given.to_owned(),
                stored: now.map_or_else(|| "none".to_owned(), |kv| kv.mod_revision.to_string()),
            });
        }
        let written = match revision {
            0 => Written::Created,
            _ => Written::Replaced,
        };
        Ok(done.then_some(written))
    }

    /// Gives a new resource its identity.
    pub(crate) fn stamp(&self, resource: &mut AnyResource) {
        let metadata = resource.metadata_mut();
        metadata.uid = Some((self.new_uid)());
        metadata.creation_timestamp = Some(self.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }

    /// Writes if the key is still at `revision`.
    async fn commit(&self, resource: &AnyResource, revision: i64) -> Result<bool, Failure> {
        let key = self.keys.resource(&resource.key());
        let txn = Txn::default()
            .when(key.as_str(), revision)
            .put(key, encode_stored(resource));
        let txn = self.with_ipam_config(txn, resource).await?;
        Ok(matches!(
            self.store.txn(txn).await?,
            TxnOutcome::Committed(_)
        ))
    }

    /// Address management reads its settings from a key of its own; both change together.
    async fn with_ipam_config(&self, txn: Txn, resource: &AnyResource) -> Result<Txn, Failure> {
        let AnyResource::IpamConfiguration(config) = resource else {
            return Ok(txn);
        };
        let key = IpamKeys::new(self.keys.prefix()).config();
        let stored = self.store.get(&key).await?;
        let old = stored
            .as_ref()
            .and_then(|kv| IpamConfig::decode(&key, &kv.value).ok());
        let new = IpamConfig {
            strict_affinity: config.spec.strict_affinity,
            auto_allocate_blocks: config.spec.auto_allocate_blocks(),
            max_blocks_per_host: config.spec.max_blocks_per_host.unwrap_or(0),
            ip_cooldown_seconds: config.spec.ip_cooldown_seconds,
            other: old.map(|old| old.other).unwrap_or_default(),
        };
        let revision = stored.map_or(0, |kv| kv.mod_revision);
        Ok(txn.when(key.as_str(), revision).put(key, new.to_json()))
    }

    /// Rules between a new resource and those that exist.
    async fn check_new(&self, resource: &AnyResource) -> Result<(), Failure> {
        match resource {
            AnyResource::IpPool(pool) => {
                let others = self.list(Kind::IpPool, None).await?.resources;
                let ranges = others.iter().filter_map(as_pool);
                let named = ranges.map(|pool| (pool.metadata.name.as_str(), pool.spec.cidr));
                refuse(overlapping_pools(pool, named))
            }
            AnyResource::NetworkPolicy(policy) => self.check_tier(policy.spec.tier()).await,
            AnyResource::GlobalNetworkPolicy(policy) => self.check_tier(policy.spec.tier()).await,
            AnyResource::StagedNetworkPolicy(staged) => {
                self.check_tier(staged.spec.policy.tier()).await
            }
            AnyResource::StagedGlobalNetworkPolicy(staged) => {
                self.check_tier(staged.spec.policy.tier()).await
            }
            _ => Ok(()),
        }
    }

    async fn check_tier(&self, tier: &str) -> Result<(), Failure> {
        if is_built_in_tier(tier) {
            return Ok(());
        }
        let tiers = self.list(Kind::Tier, None).await?.resources;
        let names: Vec<_> = tiers
            .iter()
            .map(|tier| tier.metadata().name.as_str())
            .collect();
        if names.contains(&tier) {
            return Ok(());
        }
        let allowed = [DEFAULT_TIER]
            .into_iter()
            .chain(names)
            .collect::<Vec<_>>()
            .join(", ");
        refuse(vec![FieldError::new(
            "spec.tier",
            format!("{tier:?}"),
            allowed,
        )])
    }

    /// Deletes a resource; with `version` only if it is still at that.
    pub(crate) async fn delete(
        &self,
        key: &ResourceKey,
        version: Option<&str>,
    ) -> Result<(), Failure> {
        if key.kind == Kind::BlockAffinity {
            let why = "address management keeps affinities; margayctl ipam release and node remove give blocks back";
            return Err(Failure::Kept(why.to_owned()));
        }
        if key.kind == Kind::Tier {
            self.check_tier_is_free(&key.name).await?;
        }
        let etcd_key = self.keys.resource(key);
        for _ in 0..ATTEMPTS {
            let stored = self.store.get(&etcd_key).await?.ok_or(Failure::Missing)?;
            let found = stored.mod_revision.to_string();
            if let Some(given) = version.filter(|given| **given != found) {
                return Err(Failure::Conflict {
                    given: given.to_owned(),
                    stored: found,
                });
            }
            let mut txn = Txn::default()
                .when(etcd_key.as_str(), stored.mod_revision)
                .delete(etcd_key.as_str());
            if key.kind == Kind::IpamConfiguration {
                txn = txn.delete(IpamKeys::new(self.keys.prefix()).config());
            }
            if matches!(self.store.txn(txn).await?, TxnOutcome::Committed(_)) {
                return Ok(());
            }
        }
        let stored = "changed with each attempt".to_owned();
        Err(Failure::Conflict {
            given: version.unwrap_or_default().to_owned(),
            stored,
        })
    }

    async fn check_tier_is_free(&self, tier: &str) -> Result<(), Failure> {
        if is_built_in_tier(tier) {
            return Err(Failure::Kept("every cluster has this tier".to_owned()));
        }
        for kind in [
            Kind::GlobalNetworkPolicy,
            Kind::NetworkPolicy,
            Kind::StagedGlobalNetworkPolicy,
            Kind::StagedNetworkPolicy,
        ] {
            for policy in self.list(kind, None).await?.resources {
                let of = match &policy {
                    AnyResource::NetworkPolicy(policy) => policy.spec.tier(),
                    AnyResource::GlobalNetworkPolicy(policy) => policy.spec.tier(),
                    AnyResource::StagedNetworkPolicy(staged) => staged.spec.policy.tier(),
                    AnyResource::StagedGlobalNetworkPolicy(staged) => staged.spec.policy.tier(),
                    _ => continue,
                };
                if of == tier {
                    return Err(Failure::Kept(format!("{} is in this tier", policy.key())));
                }
            }
        }
        Ok(())
    }
}

const fn as_pool(resource: &AnyResource) -> Option<&IpPool> {
    match resource {
        AnyResource::IpPool(pool) => Some(pool),
        _ => None,
    }
}

fn refuse(errors: Vec<FieldError>) -> Result<(), Failure> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Failure::Refused(errors))
    }
}

/// What a change leaves as it was: identity, and what others report about the resource.
fn keep(old: &AnyResource, new: &mut AnyResource) {
    let (from, to) = (old.metadata(), new.metadata_mut());
    to.uid.clone_from(&from.uid);
    to.creation_timestamp.clone_from(&from.creation_timestamp);
    new.keep_extra(old);
}

/// Rules between a resource and what it was.
fn check_change(old: &AnyResource, new: &AnyResource) -> Result<(), Failure> {
    let (Some(old), Some(new)) = (as_pool(old), as_pool(new)) else {
        return Ok(());
    };
    let mut errors = Vec::new();
    let (was, is) = (&old.spec, &new.spec);
    if is.cidr != was.cidr {
        let allowed = format!("{}, because the range of a pool never changes", was.cidr);
        errors.push(FieldError::new("spec.cidr", is.cidr.to_string(), allowed));
    }
    if is.block_size() != was.block_size() {
        let allowed = format!("{}, because the blocks of a pool stay", was.block_size());
        errors.push(FieldError::new(
            "spec.blockSize",
            is.block_size().to_string(),
            allowed,
        ));
    }
    let balances = |spec: &margay_model::ippool::IpPoolSpec| spec.allows(PoolUse::LoadBalancer);
    if balances(was) && !balances(is) {
        let allowed = "LoadBalancer, because the pool is used for it";
        errors.push(FieldError::new("spec.allowedUses", "another use", allowed));
    }
    refuse(errors)
}
