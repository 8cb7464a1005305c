//! What this host's agent has.

use margay_speaker::{RouteCursor, RouteQuery};
use serde_json::{Value, json};

use crate::bgp_view;
use crate::status::StatusSource;
use crate::world::World;

/// Most rows of a table: more is for the command line.
pub(super) const ROWS: usize = 500;

/// State and size of everything.
pub(super) async fn node(status: &StatusSource) -> Value {
    let now = status.collect().await;
    let world = status.world.borrow().clone();
    let node = world.node.as_ref();
    let bgp = node.and_then(|node| node.spec.bgp.as_ref());
    let addresses = bgp.map(|bgp| {
        let both = [bgp.ipv4_address, bgp.ipv6_address];
        let both = both.into_iter().flatten();
        both.map(|address| address.to_string()).collect::<Vec<_>>()
    });
    let meters = &status.meters;
    let apply = meters.apply.summary();
    json!({
        "status": now,
        "addresses": addresses.unwrap_or_default(),
        "policies": meters.policies.value(),
        "sets": meters.sets.value(),
        "apply_seconds": apply.quantiles.first(),
        "drift": meters.drift().iter().map(|(_, count)| count).sum::<u64>(),
        "leaks": meters.leak_suspects.value(),
        "blocks": world.blocks.len(),
    })
}

/// The endpoints of this host.
pub(super) fn endpoints(world: &World) -> Value {
    let rows = world.endpoints.iter().take(ROWS).map(|(key, endpoint)| {
        let resource = &endpoint.resource;
        let spec = &resource.spec;
        let addresses = spec.ip_networks.iter().map(|net| net.addr().to_string());
        json!({
            "namespace": key.namespace,
            "name": key.name,
            "pod": spec.pod,
            "container": spec.container_id,
            "interface": spec.interface_name,
            "mac": spec.mac,
            "addresses": addresses.collect::<Vec<_>>(),
            "profiles": spec.profiles,
            "labels": resource.metadata.labels,
        })
    });
    json!({"total": world.endpoints.len(), "rows": rows.collect::<Vec<_>>()})
}

/// The selected routes, as many as a person reads.
pub(super) async fn routes(status: &StatusSource) -> Result<Value, String> {
    let speaker = status.bgp.as_ref().and_then(|bgp| bgp.speaker());
    let Some(asked) = speaker else {
        return Err("the BGP speaker is not running".to_owned());
    };
    let fault = |error: margay_speaker::SpeakerError| error.to_string();
    let total = asked.queries.totals().await.map_err(fault)?.rib.prefixes;
    let mut rows = Vec::new();
    let mut cursor = Some(RouteCursor::START);
    while let Some(from) = cursor.filter(|_| rows.len() < ROWS) {
        let page = asked.queries.page(RouteQuery::Best, from).await;
        let page = page.map_err(fault)?;
        rows.extend(page.routes.into_iter().map(bgp_view::route));
        cursor = page.next;
    }
    rows.truncate(ROWS);
    Ok(json!({"total": total, "rows": rows}))
}
