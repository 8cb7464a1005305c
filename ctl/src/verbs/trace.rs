//! `trace`: the way of a packet through the cluster, hop by hop, live where it can be asked and computed where not.
//!
//! Policy is decided by the same code as `policy explain`. Interfaces and routes come from the kernels and the BGP
//! speakers of the hosts on the way: their agents are asked, those of other hosts through etcd. A host that does not
//! answer is left to computation.

mod hop;
mod live;
mod render;

use std::net::IpAddr;

use clap::Args;
use margay_model::any::AnyResource;
use margay_model::ippool::{EncapMode, IpPool};
use margay_model::kind::Kind;
use margay_policy::explain::{Packet, Verdict};
use serde_json::json;

use crate::agent::Agent;
use crate::cli::StatusOutput;
use crate::context::Context;
use crate::failure::Fatal;
use crate::verbs::fatal;
use crate::verbs::policy::cluster::{Cluster, read_datastore};
use crate::verbs::policy::decision::{Decision, Hop as Asked};
use crate::verbs::policy::traffic::{Party, Traffic, Who};
use crate::verbs::selector::print_json;
use hop::{Fact, Hop, Source};
use live::Live;

pub(crate) const HELP: &str = "\
Example:
  margayctl trace default/web 10.65.3.7 --port 5432

FROM and TO are addresses, or names of endpoints, pods, containers or hosts, also as NAMESPACE/NAME.
Told of every hop: interface and MTU, route, address translation, encapsulation, and what policy says.
What was read from a kernel or an agent is marked live, the rest follows from the datastore. Exit code
1 if the traffic does not arrive.";

/// What to trace.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// Who sends
    #[arg(value_name = "FROM")]
    from: String,
    /// Who receives
    #[arg(value_name = "TO")]
    to: String,
    /// What is sent
    #[command(flatten)]
    traffic: Traffic,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    output: StatusOutput,
}

/// A way and how it ends.
#[derive(Debug)]
struct Way {
    packet: Packet,
    hops: Vec<Hop>,
    /// Where and why it ends before its aim.
    stopped: Option<String>,
    /// The smallest MTU that is known of.
    mtu: Option<u32>,
}

/// Traces, for each family that both ends have.
pub(crate) async fn trace(args: &Trace, context: &mut Context<'_>) -> Result<(), Fatal> {
    let resources = read_datastore(context).await?;
    let pools = context.client.list(Kind::IpPool, None).await;
    let pools = pools.map_err(|error| fatal(&error))?.resources;
    let pools: Vec<IpPool> = pools
        .into_iter()
        .filter_map(|resource| match resource {
            AnyResource::IpPool(pool) => Some(pool),
            _ => None,
        })
        .collect();
    let cluster = Cluster::new(resources);
    let wrong = |what: &str| {
        let what = what.to_owned();
        move |error: String| Fatal::Usage(format!("{what}: {error}"))
    };
    let from = cluster.party(&args.from).map_err(wrong("FROM"))?;
    let to = cluster.party(&args.to).map_err(wrong("TO"))?;
    let packets = cluster
        .packets(&from, &to, &args.traffic)
        .map_err(Fatal::Usage)?;
    let here = Agent::Here(&context.socket).status().await;
    let live = Live::new(here.ok().map(|status| status.node), context);
    let mut ways = Vec::new();
    for packet in packets {
        let decision = cluster.decide(&from, &to, packet, true);
        let tracer = Tracer {
            cluster: &cluster,
            pools: &pools,
            from: &from,
            to: &to,
            live: &live,
        };
        ways.push(tracer.way(&decision).await);
    }
    let arrives = ways.iter().all(|way| way.stopped.is_none());
    match args.output {
        StatusOutput::Text => {
            let texts: Vec<_> = ways.iter().map(render::text).collect();
            let text = texts.join("\n");
            context.streams.print(&text)?;
        }
        StatusOutput::Json => {
            let ways: Vec<_> = ways.iter().map(render::json).collect();
            let all = json!({"from": args.from, "to": args.to, "arrives": arrives, "ways": ways});
            print_json(&all, &mut context.streams)?;
        }
    }
    context.streams.failed |= !arrives;
    Ok(())
}

/// What a way is found out from.
struct Tracer<'a> {
    cluster: &'a Cluster,
    pools: &'a [IpPool],
    from: &'a Party,
    to: &'a Party,
    live: &'a Live<'a>,
}

impl Tracer<'_> {
    async fn way(&self, decision: &Decision) -> Way {
        let packet = decision.packet;
        let mut way = Way {
            packet,
            hops: Vec::new(),
            stopped: None,
            mtu: None,
        };
        let (sender, receiver) = (self.node_of(self.from), self.node_of(self.to));
        way.push(self.end("Sender", self.from, packet.source).await);
        way.push(self.policy("Policy of the sender", &decision.egress));
        if let Some(node) = &sender {
            if let Some(hop) = &decision.egress_host {
                way.push(self.policy(&format!("Forwarding policy of host {node}"), hop));
            }
            way.push(self.route(node, &packet, receiver.as_deref()).await);
            way.push(self.translation(&packet));
            if receiver.as_ref() != Some(node) {
                way.push(self.encapsulation(node, receiver.as_deref(), &packet));
            }
        }
        if let Some(node) = receiver
            .as_ref()
            .filter(|node| sender.as_ref() != Some(*node))
        {
            way.push(self.arrival(node, &packet).await);
            if let Some(hop) = &decision.ingress_host {
                way.push(self.policy(&format!("Forwarding policy of host {node}"), hop));
            }
        }
        way.push(self.policy("Policy of the receiver", &decision.ingress));
        way.push(self.end("Receiver", self.to, packet.destination).await);
        way
    }

    fn node_of(&self, party: &Party) -> Option<String> {
        match &party.who {
            Who::Endpoint(key) => self.cluster.endpoint(key).map(|e| e.spec.node.clone()),
            Who::Host(node) => Some(node.clone()),
            Who::Outside => None,
        }
    }

    /// One end of the way: where it is, and its interface.
    async fn end(&self, title: &str, party: &Party, address: IpAddr) -> Hop {
        let mut hop = Hop::new(title);
        match &party.who {
            Who::Outside => hop.tell(
                Source::Datastore,
                format!("{address}, outside of the cluster"),
            ),
            Who::Host(node) => hop.tell(Source::Datastore, format!("host {node}, {address}")),
            Who::Endpoint(key) => {
                let Some(endpoint) = self.cluster.endpoint(key) else {
                    return hop;
                };
                let spec = &endpoint.spec;
                hop.tell(
                    Source::Datastore,
                    format!("{key}, {address}, on host {}", spec.node),
                );
                let interface = &spec.interface_name;
                match self.live.interface(&spec.node, interface).await {
                    Ok(Ok(found)) => {
                        hop.mtu = Some(found.0.mtu);
                        hop.tell(Source::Live, format!("interface {interface}, {found}"));
                        if !found.0.up {
                            hop.stop(format!("interface {interface} is down"));
                        } else if found.0.no_carrier {
                            hop.stop(format!(
                                "interface {interface} has no carrier: the container's end is down"
                            ));
                        }
                    }
                    Ok(Err(missing)) => {
                        hop.tell(Source::Live, missing.clone());
                        hop.stop(missing);
                    }
                    Err(why) => {
                        let line = format!("interface {interface}, not looked at: {why}");
                        hop.tell(Source::Datastore, line);
                    }
                }
            }
        }
        hop
    }

    fn policy(&self, title: &str, asked: &Asked) -> Hop {
        let mut hop = Hop::new(title);
        match asked.verdict() {
            None => hop.tell(
                Source::Policy,
                "not asked: it does not get that far".to_owned(),
            ),
            Some(verdict) => {
                hop.tell(Source::Policy, format!("{verdict}: {}", asked.decided_by()));
                if verdict == Verdict::Deny {
                    hop.stop(format!("denied by {}", asked.decided_by()));
                }
            }
        }
        hop
    }

    /// The route of the sender's host.
    async fn route(&self, node: &str, packet: &Packet, receiver: Option<&str>) -> Hop {
        let mut hop = Hop::new(&format!("Route on host {node}"));
        let to = packet.destination;
        match self.live.kernel_route(node, to).await {
            Ok(Ok(route)) => {
                hop.mtu = Some(route.0.mtu);
                hop.tell(Source::Live, format!("kernel: {route}"));
                if let Some(tunnel) = route.tunnel() {
                    hop.tell(Source::Live, format!("encapsulated: {tunnel}"));
                }
            }
            Ok(Err(missing)) => {
                hop.tell(Source::Live, format!("kernel: {missing}"));
                hop.stop(format!("host {node} has no route to {to}: {missing}"));
            }
            Err(why) => hop.tell(Source::Datastore, format!("kernel not asked: {why}")),
        }
        self.bgp_path(&mut hop, node, to, receiver).await;
        hop
    }

    async fn bgp_path(&self, hop: &mut Hop, node: &str, to: IpAddr, receiver: Option<&str>) {
        // What is on the same host or outside of the pools is no matter of BGP between hosts.
        if receiver == Some(node) || !self.in_pools(to) {
            return;
        }
        match self.live.paths(node, to).await {
            Ok(paths) => match paths.first() {
                Some(best) => {
                    let via = match best.next_hops.is_empty() {
                        true => "originated here".to_owned(),
                        false => format!("via {}", best.next_hops.join(", ")),
                    };
                    let count = paths.len();
                    let line = format!(
                        "BGP: {} {via}, from {}, best of {count}",
                        best.prefix, best.source
                    );
                    hop.tell(Source::Live, line);
                }
                None => {
                    hop.tell(Source::Live, format!("BGP: no path to {to}"));
                    // A default route may still carry it to a router that knows more.
                    if hop
                        .facts
                        .iter()
                        .all(|fact| !fact.text.starts_with("kernel: "))
                    {
                        hop.stop(format!("host {node} has no BGP path to {to}"));
                    }
                }
            },
            Err(why) => hop.tell(Source::Datastore, format!("BGP of {node} not asked: {why}")),
        }
    }

    fn in_pools(&self, address: IpAddr) -> bool {
        self.pool_of(address).is_some()
    }

    fn pool_of(&self, address: IpAddr) -> Option<&IpPool> {
        self.pools
            .iter()
            .find(|pool| pool.spec.cidr.contains(address))
    }

    /// Whether the sender's address is translated on its way out.
    fn translation(&self, packet: &Packet) -> Hop {
        let mut hop = Hop::new("Address translation");
        let text = match self.pool_of(packet.source) {
            Some(pool) if !pool.spec.nat_outgoing => {
                format!("none: pool {} has no natOutgoing", pool.metadata.name)
            }
            Some(_) if self.in_pools(packet.destination) => {
                "none: the receiver is in a pool".to_owned()
            }
            Some(pool) => format!(
                "the sender's address becomes that of its host: pool {} has natOutgoing and {} is in no pool",
                pool.metadata.name, packet.destination
            ),
            None => "none: the sender is in no pool".to_owned(),
        };
        hop.tell(Source::Datastore, text);
        hop
    }

    /// What the receiver's pool asks for between two hosts.
    fn encapsulation(&self, node: &str, receiver: Option<&str>, packet: &Packet) -> Hop {
        let mut hop = Hop::new("Encapsulation");
        let text = match (self.pool_of(packet.destination), receiver) {
            (Some(pool), Some(receiver)) => {
                let asked = [
                    ("VXLAN", pool.spec.vxlan_mode),
                    ("IPIP", pool.spec.ipip_mode),
                ];
                let name = &pool.metadata.name;
                let mode = asked.into_iter().find_map(|(kind, mode)| match mode {
                    Some(EncapMode::Always) => Some(format!("{kind}: pool {name} asks for it always")),
                    Some(EncapMode::CrossSubnet) => Some(match self.share_subnet(node, receiver) {
                        true => format!(
                            "none: pool {name} asks for {kind} between subnets, and {node} and {receiver} share one"
                        ),
                        false => format!("{kind}: pool {name} asks for it between subnets"),
                    }),
                    _ => None,
                });
                mode.unwrap_or_else(|| format!("none: pool {name} asks for none"))
            }
            _ => "none: the receiver is no endpoint of a pool".to_owned(),
        };
        hop.tell(Source::Datastore, text);
        hop
    }

    fn share_subnet(&self, a: &str, b: &str) -> bool {
        let subnets = |node: &str| {
            let key = margay_model::kind::ResourceKey::global(Kind::Node, node);
            match self.cluster.resources.get(&key) {
                Some(AnyResource::Node(node)) => {
                    let bgp = node.spec.bgp.iter();
                    let both = bgp.flat_map(|bgp| [bgp.ipv4_address, bgp.ipv6_address]);
                    both.flatten().map(|address| address.subnet()).collect()
                }
                _ => Vec::new(),
            }
        };
        let others = subnets(b);
        subnets(a).iter().any(|subnet| others.contains(subnet))
    }

    /// At the receiver's host: whether it announces and routes the address.
    async fn arrival(&self, node: &str, packet: &Packet) -> Hop {
        let mut hop = Hop::new(&format!("Route on host {node}"));
        let to = packet.destination;
        match self.live.kernel_route(node, to).await {
            Ok(Ok(route)) => {
                hop.mtu = Some(route.0.mtu);
                hop.tell(Source::Live, format!("kernel: {route}"));
            }
            Ok(Err(missing)) => hop.stop(format!("host {node} has no route to {to}: {missing}")),
            Err(why) => hop.tell(Source::Datastore, format!("kernel not asked: {why}")),
        }
        if !self.in_pools(to) {
            return hop;
        }
        match self.live.paths(node, to).await {
            Ok(paths) => match paths.iter().find(|path| path.source == "local") {
                Some(own) => hop.tell(Source::Live, format!("BGP: announces {}", own.prefix)),
                None => {
                    let line = format!("BGP: host {node} does not announce {to}");
                    hop.tell(Source::Live, line.clone());
                    hop.stop(line);
                }
            },
            Err(why) => hop.tell(Source::Datastore, format!("BGP of {node} not asked: {why}")),
        }
        hop
    }
}

impl Way {
    /// Adds a hop; where it ends the way, the rest tells what would be.
    fn push(&mut self, hop: Hop) {
        self.mtu = self.mtu.into_iter().chain(hop.mtu).min();
        if self.stopped.is_none() {
            self.stopped = hop
                .stopped
                .as_ref()
                .map(|why| format!("{}: {why}", hop.title));
        }
        self.hops.push(hop);
    }

    fn live(&self) -> bool {
        let facts = self.hops.iter().flat_map(|hop| &hop.facts);
        let live = |fact: &Fact| fact.source == Source::Live;
        facts.into_iter().any(live)
    }
}
