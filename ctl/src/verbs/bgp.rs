//! `bgp`: what a host's speaker knows, and messages decoded.

mod decode;
mod lookup;

use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use margay_api::bgp::{BgpRequest, Event, Peer, Route};
use serde::Serialize;

use crate::agent::Agent;
use crate::cli::{BgpCommand, OfNode, Routes, StatusOutput};
use crate::context::{Context, Streams};
use crate::failure::Fatal;
use crate::table::Table;
use crate::verbs::node::period;

/// What needs no agent; none for the rest.
pub(crate) fn offline(
    command: &BgpCommand,
    streams: &mut Streams<'_>,
) -> Option<Result<(), Fatal>> {
    match command {
        BgpCommand::Decode(args) => Some(decode::decode(args, streams)),
        _ => None,
    }
}

/// What the agent is asked.
pub(crate) async fn online(command: &BgpCommand, context: &mut Context<'_>) -> Result<(), Fatal> {
    match command {
        BgpCommand::Peers { of, output } => {
            let peers: Vec<Peer> = agent(of, context).await?.bgp(BgpRequest::Peers {}).await?;
            let text = match output {
                StatusOutput::Text => peer_table(&peers).render(),
                StatusOutput::Json => json(&peers)?,
            };
            context.streams.print(&text)
        }
        BgpCommand::Routes(args) => routes(args, context).await,
        BgpCommand::Lookup { target, of, output } => {
            let request = BgpRequest::Lookup {
                target: target.clone(),
            };
            let paths: Vec<Route> = agent(of, context).await?.bgp(request).await?;
            context.streams.failed |= paths.is_empty();
            let text = match output {
                StatusOutput::Text => lookup::render(target, &paths),
                StatusOutput::Json => json(&paths)?,
            };
            context.streams.print(&text)
        }
        BgpCommand::Events { peer, of, output } => {
            let agent = agent(of, context).await?;
            let mut events: Vec<Event> = agent.bgp(BgpRequest::Events {}).await?;
            events.retain(|event| peer.as_ref().is_none_or(|peer| event.peer == *peer));
            let text = match output {
                StatusOutput::Text => event_table(&events).render(),
                StatusOutput::Json => json(&events)?,
            };
            context.streams.print(&text)
        }
        BgpCommand::Refresh { peer } => {
            let request = BgpRequest::Refresh { peer: peer.clone() };
            let asked: String = Agent::Here(&context.socket).bgp(request).await?;
            let line = format!("asked {asked} to send all its routes again\n");
            context.streams.print(&line)
        }
        BgpCommand::Dump { mrt, of } => dump(mrt, of, context).await,
        BgpCommand::Decode(args) => decode::decode(args, &mut context.streams),
    }
}

/// Writes the table as the agent gives it; the file appears when it is whole.
async fn dump(path: &Path, of: &OfNode, context: &mut Context<'_>) -> Result<(), Fatal> {
    let at_fault =
        |error: std::io::Error| Fatal::Refused(format!("cannot write {}: {error}", path.display()));
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(at_fault)?;
    let mut octets = 0;
    agent(of, context)
        .await?
        .bgp_dump(|records| {
            octets += records.len();
            file.write_all(records)
        })
        .await?;
    file.persist(path).map_err(|e| at_fault(e.error))?;
    let line = format!("{}: {octets} octets\n", path.display());
    context.streams.print(&line)
}

async fn agent<'a>(of: &'a OfNode, context: &'a Context<'_>) -> Result<Agent<'a>, Fatal> {
    Agent::of(of.node.as_deref(), &context.socket, &context.client).await
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, Fatal> {
    let text = serde_json::to_string_pretty(value).map_err(std::io::Error::from)?;
    Ok(text + "\n")
}

async fn routes(args: &Routes, context: &mut Context<'_>) -> Result<(), Fatal> {
    let request = match (&args.received, &args.advertised) {
        (Some(peer), _) => BgpRequest::Received { peer: peer.clone() },
        (None, Some(peer)) => BgpRequest::Advertised { peer: peer.clone() },
        (None, None) => BgpRequest::Best {},
    };
    let mut routes = agent(&args.of, context).await?.bgp_routes(request).await?;
    // Text would put 10.0.0.0/8 behind 100.0.0.0/8.
    routes.sort_by_cached_key(|route| route.prefix.parse::<margay_bgp::prefix::Prefix>().ok());
    let text = match args.output {
        StatusOutput::Text => route_table(&routes).render(),
        StatusOutput::Json => json(&routes)?,
    };
    context.streams.print(&text)
}

fn peer_table(peers: &[Peer]) -> Table {
    let mut table = Table::new([
        "PEER",
        "NAME",
        "AS",
        "STATE",
        "SINCE",
        "FAMILY",
        "RECEIVED",
        "ADVERTISED",
        "LAST ERROR",
    ]);
    for peer in peers {
        for (at, family) in peer.families.iter().enumerate() {
            let first = |text: String| if at == 0 { text } else { String::new() };
            table.row([
                first(peer.address.clone()),
                first(peer.name.clone()),
                first(peer.remote_as.to_string()),
                first(peer.state.clone()),
                first(period(peer.since_secs)),
                family.family.clone(),
                family.received.to_string(),
                family.advertised.to_string(),
                first(peer.last_error.clone()),
            ]);
        }
    }
    table
}

fn route_table(routes: &[Route]) -> Table {
    // Only sessions with several paths of a prefix have identifiers.
    let with_ids = routes.iter().any(|route| route.path_id.is_some());
    let heading = [
        "PREFIX",
        "PATH ID",
        "NEXT HOP",
        "FROM",
        "PREF",
        "MED",
        "AS PATH",
        "ORIGIN",
        "COMMUNITIES",
    ];
    let mut table = Table::new(heading.into_iter().filter(|h| with_ids || *h != "PATH ID"));
    let number = |value: Option<u32>| value.map_or_else(String::new, |v| v.to_string());
    for route in routes {
        let first = [
            Some(route.prefix.clone()),
            with_ids.then(|| number(route.path_id)),
        ];
        let rest = [
            route.next_hops.join(" "),
            route.source.clone(),
            number(route.local_pref),
            number(route.med),
            route.as_path.clone(),
            route.origin.clone(),
            communities(route),
        ];
        table.row(first.into_iter().flatten().chain(rest));
    }
    table
}

fn communities(route: &Route) -> String {
    let all = [
        &route.communities,
        &route.large_communities,
        &route.ext_communities,
    ];
    all.map(|list| list.join(" "))
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn event_table(events: &[Event]) -> Table {
    let mut table = Table::new(["WHEN", "PEER", "FROM", "TO", "TIMES", "REASON"]);
    for event in events {
        let secs = i64::try_from(event.unix_secs).unwrap_or(i64::MAX);
        let when =
            Timestamp::from_second(secs).map_or_else(|_| secs.to_string(), |t| t.to_string());
        table.row([
            when,
            event.peer.clone(),
            event.from.clone(),
            event.to.clone(),
            event.count.to_string(),
            event.reason.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use margay_api::bgp::FamilyCount;

    use super::*;

    #[test]
    fn peers_have_a_line_for_each_family() {
        let family = |family: &str, received| FamilyCount {
            family: family.into(),
            received,
            advertised: 1,
            end_of_rib: true,
        };
        let peer = Peer {
            address: "192.0.2.1".into(),
            name: "tor1".into(),
            remote_as: 65000,
            state: "Established".into(),
            since_secs: 61,
            families: vec![family("ipv4-unicast", 2), family("ipv6-unicast", 0)],
            ..Peer::default()
        };
        assert_eq!(
            peer_table(&[peer]).render(),
            "\
PEER        NAME   AS      STATE         SINCE   FAMILY         RECEIVED   ADVERTISED   LAST ERROR
192.0.2.1   tor1   65000   Established   1m1s    ipv4-unicast   2          1
                                                 ipv6-unicast   0          1
"
        );
    }

    #[test]
    fn identifiers_of_paths_have_a_column_where_there_are_any() {
        let plain = Route {
            prefix: "10.0.0.0/24".into(),
            ..Route::default()
        };
        assert!(
            !route_table(std::slice::from_ref(&plain))
                .render()
                .contains("PATH ID")
        );
        let second = Route {
            path_id: Some(2),
            ..plain.clone()
        };
        let text = route_table(&[plain, second]).render();
        let last: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        assert!(
            text.contains("PATH ID") && last == ["10.0.0.0/24", "2"],
            "{text}"
        );
    }

    #[test]
    fn events_are_printed_with_their_reason() {
        let event = Event {
            peer: "192.0.2.1".into(),
            unix_secs: 1_700_000_000,
            first_unix_secs: 1_700_000_000,
            count: 3,
            from: "Established".into(),
            to: "Idle".into(),
            reason: "sent hold timer expired (4/0)".into(),
        };
        assert_eq!(
            event_table(&[event]).render(),
            "\
WHEN                   PEER        FROM          TO     TIMES   REASON
2023-11-14T22:13:20Z   192.0.2.1   Established   Idle   3       sent hold timer expired (4/0)
"
        );
    }
}
