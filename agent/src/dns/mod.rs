//! Names: a DNS responder for the cluster's workloads, for hosts without Kubernetes.
//!
//! `WORKLOAD.GROUP.ZONE` stands for the addresses of a workload anywhere in the cluster, where a group is a network or a
//! namespace. The graph tells of endpoints as it learns of them, from the datastore or from the agent's snapshot: answers
//! need no datastore. What is in no zone of ours goes to the host's own name servers, for this host and for workloads.
//!
//! A task per listen address answers queries; one follows the agents' signs of life. They share the zone under a lock,
//! because a query is a reader that must not wait for a task, and writers hold it for the length of one map's change.

mod answer;
mod counters;
mod record;
mod serve;
mod zone;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use margay_datastore::{AnyStore, SyncEvent, Syncer};
use margay_ipam::own_keys;
use margay_model::kind::ResourceKey;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use answer::{Authority, Verdict};
pub(crate) use counters::Counters;
pub(crate) use record::{HEALTH_ANNOTATION, Record, UNHEALTHY};
use zone::Zone;

/// Events of the agents' signs of life; the syncer waits when it is full.
const EVENTS: usize = 256;

/// The longest time to live that makes sense of names that move.
const TTL_MAX: u32 = 3600;

/// Settings of the agent's file.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DnsConfig {
    /// Where queries are taken, over UDP and TCP. An address of 169.254.0.0/16 is added to the host.
    pub(crate) listen: Vec<SocketAddr>,
    /// What all names end with.
    pub(crate) zone: String,
    /// Name servers for everything else; those of /etc/resolv.conf when empty.
    pub(crate) upstreams: Vec<SocketAddr>,
    /// How long others may remember an answer, in seconds; 0 to 3600.
    pub(crate) ttl_secs: u32,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([169, 254, 1, 53], 53))],
            // Set aside for private use by ICANN, 2024-07-29.
            zone: "margay.internal".to_owned(),
            upstreams: Vec::new(),
            ttl_secs: 5,
        }
    }
}

impl DnsConfig {
    /// What is wrong with it, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.listen.is_empty() {
            return Err("dns.listen is empty, must have an address and port".to_owned());
        }
        let part = |part: &str| {
            let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            (1..=63).contains(&part.len()) && part.bytes().all(inner)
        };
        let zone = self.zone.trim_end_matches('.');
        if zone.len() > 60 || !zone.split('.').all(part) {
            let zone = &self.zone;
            return Err(format!(
                "dns.zone is {zone:?}, must be a domain name of at most 60 characters"
            ));
        }
        match self.ttl_secs {
            0..=TTL_MAX => Ok(()),
            ttl => Err(format!("dns.ttl_secs is {ttl}, must be 0 to {TTL_MAX}")),
        }
    }
}

/// The responder's state.
#[derive(Debug)]
pub(crate) struct Responder {
    config: DnsConfig,
    authority: Authority,
    zone: RwLock<Zone>,
    counters: Counters,
}

impl Responder {
    pub(crate) fn new(config: DnsConfig) -> Self {
        let authority = Authority {
            zone: config.zone.trim_end_matches('.').to_ascii_lowercase(),
            ttl_secs: config.ttl_secs,
        };
        Self {
            config,
            authority,
            zone: RwLock::default(),
            counters: Counters::default(),
        }
    }

    /// An endpoint of any host is there, has changed, or is gone.
    pub(crate) fn set(&self, key: ResourceKey, record: Option<Record>) {
        self.write(|zone| zone.set(key, record.map(Arc::new)));
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many endpoints have a name.
    pub(crate) fn named(&self) -> usize {
        self.read(Zone::len)
    }

    /// Serves until the handles are dropped.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        store: AnyStore,
        root: &str,
    ) -> Vec<AbortOnDropHandle<()>> {
        let listeners = self.config.listen.iter();
        let serving = listeners.map(|at| tokio::spawn(serve::run(Arc::clone(self), *at)));
        let following = tokio::spawn(follow(Arc::clone(self), store, root.to_owned()));
        serving
            .chain([following])
            .map(AbortOnDropHandle::new)
            .collect()
    }

    fn judge(&self, message: &[u8], tcp: bool) -> Verdict {
        let verdict = self.read(|zone| self.authority.judge(message, zone, tcp));
        if let Verdict::Answer(_, outcome) = &verdict {
            self.counters.count(*outcome);
        }
        verdict
    }

    /// Whether a caller may have queries passed on: this host and every workload, so that nobody else makes the host
    /// flood a third one with answers.
    fn serves(&self, caller: IpAddr, listener: IpAddr) -> bool {
        caller.is_loopback() || caller == listener || self.read(|zone| zone.knows(caller))
    }

    fn read<T>(&self, work: impl FnOnce(&Zone) -> T) -> T {
        work(&self.zone.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, work: impl FnOnce(&mut Zone)) {
        work(&mut self.zone.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Who has an agent, and which of them live: keys in the datastore, the latter on a lease.
async fn follow(responder: Arc<Responder>, store: AnyStore, root: String) {
    let (agents_prefix, alive_prefix) = (own_keys::instance(&root, ""), own_keys::alive(&root));
    let (tx, mut events) = mpsc::channel(EVENTS);
    let prefixes = vec![agents_prefix.clone(), alive_prefix.clone()];
    let _syncer = Syncer::spawn(store, prefixes, tx);
    let (mut keys, mut listing) = (BTreeSet::new(), false);
    while let Some(event) = events.recv().await {
        match event {
            SyncEvent::Init => {
                keys = BTreeSet::new();
                listing = true;
            }
            SyncEvent::InitApply(kv) | SyncEvent::Apply(kv) => {
                keys.insert(kv.key);
            }
            SyncEvent::Delete { key, .. } => {
                keys.remove(&key);
            }
            SyncEvent::InitDone { .. } => listing = false,
        }
        if listing {
            continue;
        }
        let below = |prefix: &str| -> BTreeSet<String> {
            let names = keys.iter().filter_map(|key| key.strip_prefix(prefix));
            names.map(str::to_owned).collect()
        };
        let (agents, alive) = (below(&agents_prefix), below(&alive_prefix));
        responder.write(|zone| zone.set_health(agents, alive));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_by_name() {
        assert_eq!(DnsConfig::default().check(), Ok(()));
        let with = |change: fn(&mut DnsConfig)| {
            let mut config = DnsConfig::default();
            change(&mut config);
            config.check().unwrap_err()
        };
        assert!(with(|c| c.listen.clear()).contains("dns.listen"));
        assert!(with(|c| c.zone = "a b".into()).contains("dns.zone is \"a b\""));
        assert!(with(|c| c.ttl_secs = 9999).contains("must be 0 to 3600"));
    }

    #[test]
    fn only_this_host_and_workloads_have_queries_passed_on() {
        let responder = Responder::new(DnsConfig::default());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let listener = ip("169.254.1.53");
        assert!(responder.serves(ip("127.0.0.1"), listener));
        assert!(responder.serves(listener, listener));
        assert!(!responder.serves(ip("198.51.100.1"), listener));
    }
}
