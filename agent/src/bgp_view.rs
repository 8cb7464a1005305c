//! Answers to questions about BGP: what the speaker says, in the words of the socket.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use margay_api::Reply;
use margay_api::bgp::{BgpRequest, Event, FamilyCount, Peer, Route, Session};
use margay_bgp::wire::attrs::community;
use margay_speaker::mrt::TableCursor;
use margay_speaker::{
    PeerEvent, PeerKey, PeerStatus, Queries, RouteCursor, RouteQuery, RouteSource, RouteView,
    SpeakerError,
};
use tokio::io::AsyncWriteExt;

use crate::bgp::BgpHandle;
use crate::server::answer;

/// Why a question has no answer; the text is for people.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("BGP is off on this node")]
    Off,
    #[error("the BGP speaker is not running: see the agent's log")]
    NotRunning,
    #[error("no BGP peer has the address or name {found:?}; there are: {known}")]
    NoPeer { found: String, known: String },
    #[error("the peer {peer} cannot be asked for its routes: {why}")]
    NotAsked { peer: String, why: &'static str },
    #[error("{found:?} is neither a prefix nor an address")]
    Target { found: String },
    #[error(transparent)]
    Speaker(#[from] SpeakerError),
}

/// Answers on the socket.
pub(crate) async fn serve(
    bgp: Option<&BgpHandle>,
    request: BgpRequest,
    writer: &mut (impl AsyncWriteExt + Unpin),
) -> std::io::Result<()> {
    let asked = match bgp {
        None => Err(Refusal::Off),
        Some(bgp) => bgp.speaker().ok_or(Refusal::NotRunning),
    };
    let queries = match asked {
        Ok(asked) => asked.queries,
        Err(refusal) => return refuse(&refusal, writer).await,
    };
    let result = match request {
        BgpRequest::Peers {} => {
            let now = SystemTime::now();
            let peers = queries.status().await;
            let peers = peers.map(|all| all.into_iter().map(|p| peer(p, now)).collect::<Vec<_>>());
            return match peers {
                Ok(peers) => answer(writer, &Reply::Ok(peers)).await,
                Err(error) => refuse(&error.into(), writer).await,
            };
        }
        BgpRequest::Events {} => {
            return match queries.events().await {
                Ok(mut all) => {
                    all.sort_by_key(|event| event.at);
                    let events: Vec<_> = all.into_iter().map(event).collect();
                    answer(writer, &Reply::Ok(events)).await
                }
                Err(error) => refuse(&error.into(), writer).await,
            };
        }
        BgpRequest::Lookup { target } => {
            return match lookup(&queries, &target).await {
                Ok(routes) => answer(writer, &Reply::Ok(routes)).await,
                Err(refusal) => refuse(&refusal, writer).await,
            };
        }
        BgpRequest::Refresh { peer } => {
            return match refresh(&queries, &peer).await {
                Ok(peer) => answer(writer, &Reply::Ok(peer)).await,
                Err(refusal) => refuse(&refusal, writer).await,
            };
        }
        BgpRequest::Dump {} => return dump(&queries, writer).await,
        BgpRequest::Best {} => Ok(RouteQuery::Best),
        BgpRequest::Received { peer } => {
            let key = find_peer(&queries, &peer).await;
            key.map(RouteQuery::Received)
        }
        BgpRequest::Advertised { peer } => {
            let key = find_peer(&queries, &peer).await;
            key.map(RouteQuery::Advertised)
        }
    };
    match result {
        Ok(query) => pages(&queries, query, writer).await,
        Err(refusal) => refuse(&refusal, writer).await,
    }
}

async fn refuse(
    refusal: &Refusal,
    writer: &mut (impl AsyncWriteExt + Unpin),
) -> std::io::Result<()> {
    answer(writer, &Reply::<()>::Error(refusal.to_string())).await
}

/// Writes routes as they come, so that a full table is never in memory twice.
async fn pages(
    queries: &Queries,
    query: RouteQuery,
    writer: &mut (impl AsyncWriteExt + Unpin),
) -> std::io::Result<()> {
    let mut cursor = Some(RouteCursor::START);
    while let Some(from) = cursor {
        let page = match queries.page(query, from).await {
            Ok(page) => page,
            Err(error) => return refuse(&error.into(), writer).await,
        };
        if !page.routes.is_empty() {
            let routes: Vec<_> = page.routes.into_iter().map(route).collect();
            answer(writer, &Reply::Ok(routes)).await?;
        }
        cursor = page.next;
    }
    answer(writer, &Reply::Ok(Vec::<Route>::new())).await
}

/// Writes the table as it comes.
async fn dump(queries: &Queries, writer: &mut (impl AsyncWriteExt + Unpin)) -> std::io::Result<()> {
    let mut cursor = Some(TableCursor::start());
    while let Some(from) = cursor {
        let page = match queries.table(from).await {
            Ok(page) => page,
            Err(error) => return refuse(&error.into(), writer).await,
        };
        if !page.records.is_empty() {
            answer(writer, &Reply::Ok(BASE64_STANDARD.encode(&page.records))).await?;
        }
        cursor = page.next;
    }
    answer(writer, &Reply::Ok(String::new())).await
}

/// Asks a peer for its routes; its address.
async fn refresh(queries: &Queries, peer: &str) -> Result<String, Refusal> {
    let key = find_peer(queries, peer).await?;
    let peer = key.to_string();
    if queries.refresh(key).await? {
        return Ok(peer);
    }
    let why = "its session is not up, or it has no route refresh";
    Err(Refusal::NotAsked { peer, why })
}

async fn find_peer(queries: &Queries, text: &str) -> Result<PeerKey, Refusal> {
    let peers = queries.status().await?;
    let is_it = |p: &&PeerStatus| {
        p.key.to_string() == text || p.key.addr.to_string() == text || p.name == text
    };
    if let Some(peer) = peers.iter().find(is_it) {
        return Ok(peer.key);
    }
    let known: Vec<_> = peers.iter().map(|p| p.key.to_string()).collect();
    Err(Refusal::NoPeer {
        found: text.to_owned(),
        known: known.join(", "),
    })
}

async fn lookup(queries: &Queries, target: &str) -> Result<Vec<Route>, Refusal> {
    let query = match (target.parse::<IpAddr>(), target.parse()) {
        (Ok(addr), _) => RouteQuery::LookupAddress(addr),
        (_, Ok(prefix)) => RouteQuery::Lookup(prefix),
        _ => {
            return Err(Refusal::Target {
                found: target.to_owned(),
            });
        }
    };
    let routes = queries.routes(query).await?;
    Ok(routes.into_iter().map(route).collect())
}

fn peer(peer: PeerStatus, now: SystemTime) -> Peer {
    Peer {
        address: peer.key.to_string(),
        name: peer.name,
        remote_as: peer.remote_as,
        local_as: peer.local_as,
        state: peer.state.to_string(),
        since_secs: now.duration_since(peer.since).map_or(0, |d| d.as_secs()),
        established_count: peer.established_count,
        last_error: peer.last_error.unwrap_or_default(),
        session: peer.session.map(|session| Session {
            peer_id: session.peer_id.to_string(),
            local_address: session.local_addr.to_string(),
            hold_secs: session.hold_time.as_secs(),
            keepalive_secs: session.keepalive.as_secs(),
            capabilities: session
                .capabilities
                .iter()
                .map(ToString::to_string)
                .collect(),
        }),
        families: peer
            .routes
            .iter()
            .map(|family| FamilyCount {
                family: family.family.to_string(),
                received: family.received.into(),
                advertised: family.advertised as u64,
                end_of_rib: family.end_of_rib,
            })
            .collect(),
        bfd_up: peer.bfd_up,
        updates_received: peer.updates_received,
        octets_sent: peer.octets_sent,
    }
}

pub(crate) fn route(view: RouteView) -> Route {
    let attrs = view.attrs;
    Route {
        prefix: view.prefix.to_string(),
        source: match view.source {
            Some(RouteSource::Local) => "local".to_owned(),
            Some(RouteSource::Peer(key)) => key.to_string(),
            None => String::new(),
        },
        path_id: view.path_id,
        next_hops: texts(&view.next_hops),
        as_path: attrs.as_path.to_string(),
        origin: attrs.origin.to_string(),
        local_pref: attrs.local_pref,
        med: attrs.med,
        communities: attrs
            .communities
            .iter()
            .map(|c| community::text(*c))
            .collect(),
        large_communities: attrs
            .large_communities
            .iter()
            .map(|[a, b, c]| format!("{a}:{b}:{c}"))
            .collect(),
        ext_communities: attrs
            .ext_communities
            .iter()
            .map(|c| format!("{:016x}", u64::from_be_bytes(*c)))
            .collect(),
        originator_id: attrs.originator_id.map(|id| id.to_string()),
        cluster_list: texts(&attrs.cluster_list),
        outcome: view.outcome,
        lost_at: view.lost_at.map(str::to_owned),
        compared: view.compared,
        multipath: view.multipath,
        stale: view.stale,
    }
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn event(event: PeerEvent) -> Event {
    let secs = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Event {
        peer: event.key.to_string(),
        unix_secs: secs(event.at),
        first_unix_secs: secs(event.first),
        count: event.count,
        from: event.from.to_string(),
        to: event.to.to_string(),
        reason: event.reason,
    }
}
