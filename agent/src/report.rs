//! Writes the `status` of each CalicoNodeStatus that asks for this node, every `updatePeriodSeconds`.
//!
//! One task; the resources come with the world, and everything else is asked of its owner when a report is due.
//! While the datastore is locked nothing is written.

mod routes;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use margay_api::status::{BgpStatus, PeerStatus};
use margay_datastore::AnyStore;
use margay_model::any::AnyResource;
use margay_model::calico_node_status::{
    AgentReport, BgpReport, CalicoNodeStatusSpec, DaemonReport, NodeReport, NodeStatusClass,
    PeerReport,
};
use margay_model::keys::Keys;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::store::{Store, StoreError, Txn, TxnOutcome};
use margay_model::stored::{DecodeError, decode_stored, encode_stored};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::status::StatusSource;

/// How often a write is tried again because somebody else wrote the resource at the same moment.
const ATTEMPTS: u32 = 5;

/// What the mesh calls its peers, before the node's name.
const MESH: &str = "mesh ";

/// What reports are made from, and where they go.
pub(crate) struct Reporter {
    pub(crate) store: AnyStore,
    pub(crate) keys: Keys,
    pub(crate) status: StatusSource,
}

/// The reports that are asked for, and when each is due next.
#[derive(Debug, Default)]
struct Due(BTreeMap<String, (CalicoNodeStatusSpec, Instant)>);

impl Due {
    /// One that is new or changed is due at once.
    fn wanted(&mut self, reports: &BTreeMap<String, CalicoNodeStatusSpec>, now: Instant) {
        self.0
            .retain(|name, (spec, _)| reports.get(name) == Some(spec));
        for (name, spec) in reports {
            if period(spec).is_some() && !self.0.contains_key(name) {
                self.0.insert(name.clone(), (spec.clone(), now));
            }
        }
    }

    fn next(&self) -> Option<Instant> {
        self.0.values().map(|(_, at)| *at).min()
    }

    /// What is due, which is then due again a period later.
    fn take(&mut self, now: Instant) -> Vec<(String, CalicoNodeStatusSpec)> {
        let mut due = Vec::new();
        for (name, (spec, at)) in &mut self.0 {
            if *at <= now {
                *at = now + period(spec).unwrap_or(Duration::MAX / 4);
                due.push((name.clone(), spec.clone()));
            }
        }
        due
    }
}

fn period(spec: &CalicoNodeStatusSpec) -> Option<Duration> {
    let secs = spec.update_period_seconds.filter(|secs| *secs > 0)?;
    Some(Duration::from_secs(secs.into()))
}

#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stored(#[from] DecodeError),
    #[error("cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("others write it all the time, gave up after {ATTEMPTS} attempts")]
    Contended,
}

impl Reporter {
    /// Reports for ever.
    pub(crate) async fn run(self) {
        let mut world = self.status.world.clone();
        let mut due = Due::default();
        loop {
            let (reports, open) = {
                let world = world.borrow_and_update();
                (Arc::clone(&world.reports), world.in_sync && !world.locked)
            };
            due.wanted(&reports, Instant::now());
            let next = due.next().filter(|_| open);
            // Cancel-safe: a change that is remembered, and a timer.
            tokio::select! {
                changed = world.changed() => match changed {
                    Ok(()) => continue,
                    Err(_closed) => return,
                },
                () = async {
                    match next {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
            for (name, spec) in due.take(Instant::now()) {
                let report = self.report(&spec).await;
                if let Err(error) = self.write(&name, &report).await {
                    warn!(name, %error, "CalicoNodeStatus is not brought up to date");
                }
            }
        }
    }

    async fn report(&self, spec: &CalicoNodeStatusSpec) -> NodeReport {
        let has = |class| spec.classes.contains(&class);
        let bgp = match &self.status.bgp {
            Some(bgp) => bgp.status().await,
            None => BgpStatus::default(),
        };
        let mut report = NodeReport {
            last_updated: rfc3339(Timestamp::now()),
            ..NodeReport::default()
        };
        if has(NodeStatusClass::Agent) {
            report.agent = Some(self.agent(&bgp));
        }
        if has(NodeStatusClass::Bgp) {
            report.bgp = Some(sessions(&bgp.peers, &self.global_peers().await));
        }
        if has(NodeStatusClass::Routes) {
            report.routes = Some(routes::report(self.status.bgp.as_ref(), &bgp.peers).await);
        }
        report
    }

    /// One program is the daemon of both families; of a family without an address there is none.
    fn agent(&self, bgp: &BgpStatus) -> AgentReport {
        let world = Arc::clone(&self.status.world.borrow());
        let node = world.node.as_ref().and_then(|node| node.spec.bgp.as_ref());
        let up = SignedDuration::try_from(self.status.started.elapsed()).unwrap_or_default();
        let daemon = DaemonReport {
            state: if bgp.router_id.is_empty() {
                "NotReady".to_owned()
            } else {
                "Ready".to_owned()
            },
            version: format!("margayd {}", env!("CARGO_PKG_VERSION")),
            router_id: bgp.router_id.clone(),
            last_boot_time: rfc3339(Timestamp::now() - up),
        };
        let speaks = |family: bool| (self.status.bgp.is_some() && family).then(|| daemon.clone());
        AgentReport {
            v4: speaks(node.is_some_and(|bgp| bgp.ipv4_address.is_some())),
            v6: speaks(node.is_some_and(|bgp| bgp.ipv6_address.is_some())),
        }
    }

    /// Names of the BGPPeers that are for every node.
    async fn global_peers(&self) -> Vec<String> {
        let listed = self.store.list(&self.keys.kind(Kind::BgpPeer)).await;
        let listed = listed.map(|listing| listing.kvs).unwrap_or_default();
        let global = listed.iter().filter_map(|kv| {
            match decode_stored(&self.keys.parse(&kv.key)?, &kv.value) {
                Ok(AnyResource::BgpPeer(peer))
                    if peer.spec.node.is_none() && peer.spec.node_selector.is_none() =>
                {
                    Some(peer.metadata.name)
                }
                _ => None,
            }
        });
        global.collect()
    }

    /// Writes the status and nothing else; a resource that is gone needs none.
    async fn write(&self, name: &str, report: &NodeReport) -> Result<(), ReportError> {
        let resource_key = ResourceKey::global(Kind::CalicoNodeStatus, name);
        let key = self.keys.resource(&resource_key);
        for _ in 0..ATTEMPTS {
            let Some(stored) = self.store.get(&key).await? else {
                return Ok(());
            };
            let mut resource = decode_stored(&resource_key, &stored.value)?;
            if let AnyResource::CalicoNodeStatus(resource) = &mut resource {
                let status = serde_json::to_value(report)?;
                resource.extra.insert("status".to_owned(), status);
            }
            let txn = Txn::default()
                .when(key.clone(), stored.mod_revision)
                .put(key.clone(), encode_stored(&resource));
            if let TxnOutcome::Committed(_) = self.store.txn(txn).await? {
                debug!(name, "reported");
                return Ok(());
            }
        }
        Err(ReportError::Contended)
    }
}

fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The address of a peer, whose port may stand behind it.
fn address(peer: &PeerStatus) -> Option<IpAddr> {
    let address = peer.address.parse::<SocketAddr>().map(|at| at.ip());
    address.or_else(|_| peer.address.parse()).ok()
}

fn sessions(peers: &[PeerStatus], global: &[String]) -> BgpReport {
    let mut report = BgpReport::default();
    for peer in peers {
        let Some(address) = address(peer) else {
            continue;
        };
        let kind = if peer.name.starts_with(MESH) {
            "NodeMesh"
        } else if global.contains(&peer.name) {
            "GlobalPeer"
        } else {
            "NodePeer"
        };
        let since = SignedDuration::from_secs(i64::try_from(peer.since_secs).unwrap_or(0));
        let session = PeerReport {
            peer_ip: address.to_string(),
            kind: kind.to_owned(),
            state: peer.state.clone(),
            since: rfc3339(Timestamp::now() - since),
        };
        let up = session.state == "Established";
        let (established, not, list) = match address {
            IpAddr::V4(_) => (
                &mut report.number_established_v4,
                &mut report.number_not_established_v4,
                &mut report.peers_v4,
            ),
            IpAddr::V6(_) => (
                &mut report.number_established_v6,
                &mut report.number_not_established_v6,
                &mut report.peers_v6,
            ),
        };
        *(if up { established } else { not }) += 1;
        list.push(session);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(secs: u32) -> CalicoNodeStatusSpec {
        CalicoNodeStatusSpec {
            node: "h1".into(),
            update_period_seconds: Some(secs),
            ..CalicoNodeStatusSpec::default()
        }
    }

    #[test]
    fn a_report_is_due_at_once_then_every_period_and_never_with_a_period_of_zero() {
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let mut wanted = BTreeMap::from([("a".to_owned(), spec(10)), ("off".to_owned(), spec(0))]);
        let mut due = Due::default();
        due.wanted(&wanted, start);
        assert_eq!(due.take(start), [("a".to_owned(), spec(10))]);
        due.wanted(&wanted, after(3));
        assert!(due.take(after(9)).is_empty());
        assert_eq!(due.next(), Some(after(10)));
        assert_eq!(due.take(after(10)).len(), 1);
        // A changed one does not wait for its old period.
        wanted.insert("a".into(), spec(3600));
        due.wanted(&wanted, after(11));
        assert_eq!(due.take(after(11)), [("a".to_owned(), spec(3600))]);
        wanted.remove("a");
        due.wanted(&wanted, after(12));
        assert_eq!(due.next(), None);
    }

    #[test]
    fn sessions_are_counted_by_family_and_state() {
        let peer = |name: &str, address: &str, state: &str| PeerStatus {
            name: name.into(),
            address: address.into(),
            state: state.into(),
            ..PeerStatus::default()
        };
        let peers = [
            peer("mesh h2", "192.0.2.9", "Established"),
            peer("tor", "192.0.2.6:1790", "Idle"),
            peer("all", "[2001:db8::1]:1790", "Established"),
        ];
        let report = sessions(&peers, &["all".to_owned()]);
        let counts = (
            report.number_established_v4,
            report.number_not_established_v4,
            report.number_established_v6,
            report.number_not_established_v6,
        );
        assert_eq!(counts, (1, 1, 1, 0));
        let told: Vec<_> = report.peers_v4.iter().chain(&report.peers_v6).collect();
        let told: Vec<_> = told.iter().map(|p| (&*p.peer_ip, &*p.kind)).collect();
        let expected = [
            ("192.0.2.9", "NodeMesh"),
            ("192.0.2.6", "NodePeer"),
            ("2001:db8::1", "GlobalPeer"),
        ];
        assert_eq!(told, expected);
    }
}
