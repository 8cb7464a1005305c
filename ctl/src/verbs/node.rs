//! `node status` and `node list`.

use std::time::Duration;

use margay_api::status::NodeStatus;
use margay_model::kind::Kind;

use crate::agent::Agent;
use crate::cli::StatusOutput;
use crate::context::Context;
use crate::failure::Fatal;
use crate::output::Output;
use crate::table::Table;
use crate::verbs::get::{self, Get};

/// Prints the state of an agent, of this host's if none is named; one that is not ready makes the command fail.
pub(crate) async fn status(
    name: Option<&str>,
    output: StatusOutput,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    let agent = Agent::of(name, &context.socket, &context.client).await?;
    let status = agent.status().await?;
    let text = match output {
        StatusOutput::Text => render(&status),
        StatusOutput::Json => {
            let text = serde_json::to_string_pretty(&status).map_err(std::io::Error::from)?;
            text + "\n"
        }
    };
    context.streams.failed |= !status.ready;
    context.streams.print(&text)
}

/// Prints the hosts of the cluster.
pub(crate) async fn list(context: &mut Context<'_>) -> Result<(), Fatal> {
    get::get(&Get::all(Kind::Node, Output::Wide), context).await
}

fn render(status: &NodeStatus) -> String {
    let mut text = format!(
        "Node:        {} (agent {}, up {})\n",
        status.node,
        status.version,
        period(status.uptime_secs)
    );
    text += &match status.ready {
        true => "Ready:       yes\n".to_owned(),
        false => format!("Ready:       no: {}\n", status.not_ready_reasons.join("; ")),
    };
    let store = &status.datastore;
    let state = if store.connected {
        "connected"
    } else {
        "not connected"
    };
    let detail = if store.detail.is_empty() {
        String::new()
    } else {
        format!(": {}", store.detail)
    };
    let since = period(store.since_secs);
    text += &format!(
        "Datastore:   {}, {state} for {since}{detail}\n",
        store.driver
    );
    let plane = &status.dataplane;
    text += &format!(
        "Dataplane:   {}, {} endpoints, {} routes, {} failing\n",
        plane.backend,
        plane.endpoints,
        plane.routes,
        plane.failing.len()
    );
    for failing in &plane.failing {
        text += &format!("             {failing}\n");
    }
    let router = if status.bgp.router_id.is_empty() {
        "(none)"
    } else {
        &status.bgp.router_id
    };
    text += &format!(
        "BGP:         AS {}, router id {router}\n",
        status.bgp.local_as
    );
    if !status.bgp.peers.is_empty() {
        text.push('\n');
        text += &peers(status).render();
    }
    text
}

fn peers(status: &NodeStatus) -> Table {
    let mut table = Table::new([
        "PEER",
        "NAME",
        "AS",
        "STATE",
        "SINCE",
        "RECEIVED",
        "ADVERTISED",
        "LAST ERROR",
    ]);
    for peer in &status.bgp.peers {
        table.row([
            peer.address.clone(),
            peer.name.clone(),
            peer.remote_as.to_string(),
            peer.state.clone(),
            period(peer.since_secs),
            peer.received.to_string(),
            peer.advertised.to_string(),
            peer.last_error.clone(),
        ]);
    }
    table
}

/// The two largest units of a period.
pub(crate) fn period(secs: u64) -> String {
    let secs = Duration::from_secs(secs).as_secs();
    let units = [
        (secs / 86400, "d"),
        (secs / 3600 % 24, "h"),
        (secs / 60 % 60, "m"),
        (secs % 60, "s"),
    ];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    units[first..]
        .iter()
        .take(2)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use margay_api::status::{BgpStatus, DataplaneStatus, DatastoreStatus, PeerStatus};

    use super::*;

    #[test]
    fn periods_have_two_units_at_most() {
        for (secs, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m0s"),
            (3_725, "1h2m"),
            (86_400 * 3 + 7_200, "3d2h"),
        ] {
            assert_eq!(period(secs), text);
        }
    }

    #[test]
    fn status_is_printed_like_this() {
        let status = NodeStatus {
            node: "n1".into(),
            version: "0.1.0".into(),
            ready: false,
            not_ready_reasons: vec!["datastore not in sync".into()],
            uptime_secs: 3_725,
            datastore: DatastoreStatus {
                driver: "etcdv3".into(),
                connected: false,
                since_secs: 5,
                detail: "connection refused".into(),
            },
            bgp: BgpStatus {
                local_as: 64512,
                router_id: "10.0.0.1".into(),
                peers: vec![PeerStatus {
                    name: "mesh n2".into(),
                    address: "10.0.0.2".into(),
                    remote_as: 64512,
                    state: "Established".into(),
                    since_secs: 61,
                    received: 2,
                    advertised: 1,
                    ..PeerStatus::default()
                }],
            },
            dataplane: DataplaneStatus {
                backend: "iptables-nft".into(),
                endpoints: 1,
                routes: 3,
                failing: vec!["route 10.0.0.0/8: busy".into()],
            },
        };
        assert_eq!(
            render(&status),
            "\
Node:        n1 (agent 0.1.0, up 1h2m)
Ready:       no: datastore not in sync
Datastore:   etcdv3, not connected for 5s: connection refused
Dataplane:   iptables-nft, 1 endpoints, 3 routes, 1 failing
             route 10.0.0.0/8: busy
BGP:         AS 64512, router id 10.0.0.1

PEER       NAME      AS      STATE         SINCE   RECEIVED   ADVERTISED   LAST ERROR
10.0.0.2   mesh n2   64512   Established   1m1s    2          1
"
        );
    }
}
