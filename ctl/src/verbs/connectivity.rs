//! `connectivity test`: whether this host reaches the others, and their containers, with packets of full size.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use futures_util::{StreamExt, stream};
use margay_api::bgp::{BgpRequest, Peer};
use margay_model::any::AnyResource;
use margay_model::kind::Kind;
use serde::Serialize;
use serde_json::json;

use crate::agent::Agent;
use crate::cli::StatusOutput;
use crate::context::Context;
use crate::failure::Fatal;
use crate::host::Host;
use crate::table::Table;
use crate::terminal::Paint;
use crate::verbs::fatal;
use crate::verbs::selector::print_json;

pub(crate) const HELP: &str = "\
Example:
  margayctl connectivity test

From this host, by one echo request each: the BGP peers, the address of every other host, endpoints of
this host, and so many endpoints of every other one. What answers is asked once more with a packet of
the interface's full size that must not be split, which finds an MTU that is too large on the way.
Policy may deny echo requests to containers; margayctl trace says whether it does. Exit code 1 if
anything does not answer.";

/// Hosts and containers that are asked at the same time.
const AT_ONCE: usize = 16;

/// Headers of IP and ICMP, which are not in the size that `ping` is told.
const HEADERS_V4: u32 = 28;
const HEADERS_V6: u32 = 48;

/// Tests.
#[derive(Debug, Subcommand)]
pub(crate) enum ConnectivityCommand {
    /// Ask peers, hosts and containers for an echo, also with packets of full size
    #[command(after_help = HELP)]
    Test(Test),
}

/// How much to test.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Endpoints of each host that are asked
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    endpoints: usize,
    /// How many seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=30))]
    wait: u8,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    output: StatusOutput,
}

/// Somebody to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    kind: &'static str,
    name: String,
    address: IpAddr,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Outcome {
    kind: &'static str,
    name: String,
    address: IpAddr,
    answered: bool,
    /// Milliseconds until the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_ms: Option<f64>,
    /// Whether a packet of this many octets came through as well, if that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    full_size: Option<(u32, bool)>,
    /// What is wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
}

/// Asks everybody.
pub(crate) async fn test(args: &Test, context: &mut Context<'_>) -> Result<(), Fatal> {
    if !context.host.has_program("ping") {
        let line = "ping is not installed (Debian: iputils-ping)".to_owned();
        return Err(Fatal::Refused(line));
    }
    let targets = targets(args, context).await?;
    let (host, wait) = (&context.host, args.wait);
    let asked = stream::iter(targets)
        .map(|target| probe(host, target, wait))
        .buffered(AT_ONCE);
    let outcomes: Vec<Outcome> = asked.collect().await;
    let failed = outcomes.iter().filter(|o| !o.problem.is_empty()).count();
    context.streams.failed |= failed > 0;
    if args.output == StatusOutput::Json {
        let value = json!({"failed": failed, "targets": outcomes});
        return print_json(&value, &mut context.streams);
    }
    let mut table = Table::new(["WHAT", "NAME", "ADDRESS", "ANSWER", "FULL SIZE", "PROBLEM"]);
    for outcome in &outcomes {
        table.row([
            outcome.kind.to_owned(),
            outcome.name.clone(),
            outcome.address.to_string(),
            match outcome.time_ms {
                Some(time) => format!("{time} ms"),
                None => "none".to_owned(),
            },
            match outcome.full_size {
                Some((size, true)) => format!("{size}"),
                Some((size, false)) => format!("{size} LOST"),
                None => String::new(),
            },
            outcome.problem.clone(),
        ]);
    }
    context.streams.show(&table)?;
    let line = format!(
        "\n{} of {} answer.",
        outcomes.len() - failed,
        outcomes.len()
    );
    let paint = match failed {
        0 => Paint::Green,
        _ => Paint::Red,
    };
    let line = context.streams.terminal.paint(paint, &line);
    context.streams.say(&line)
}

/// Whom to ask: in the order in which one thing builds on another.
async fn targets(args: &Test, context: &Context<'_>) -> Result<Vec<Target>, Fatal> {
    let here = Agent::Here(&context.socket);
    let node = here.status().await?.node;
    let mut targets = Vec::new();
    if let Ok(peers) = here.bgp::<Vec<Peer>>(BgpRequest::Peers {}).await {
        // Those of the mesh are asked as hosts.
        let routers = peers.iter().filter(|p| !p.name.starts_with("mesh "));
        targets.extend(routers.filter_map(|peer| {
            // An address of an interface's own link cannot be asked without the interface.
            let address = peer.address.parse().ok()?;
            Some(Target {
                kind: "peer",
                name: peer.name.clone(),
                address,
            })
        }));
    }
    let nodes = context.client.list(Kind::Node, None).await;
    for resource in nodes.map_err(|error| fatal(&error))?.resources {
        if let AnyResource::Node(other) = resource
            && other.metadata.name != node
        {
            let bgp = other.spec.bgp.iter();
            let both = bgp.flat_map(|bgp| [bgp.ipv4_address, bgp.ipv6_address]);
            targets.extend(both.flatten().map(|address| Target {
                kind: "host",
                name: other.metadata.name.clone(),
                address: address.addr(),
            }));
        }
    }
    let endpoints = context.client.list(Kind::WorkloadEndpoint, None).await;
    let mut asked = std::collections::BTreeMap::<String, usize>::new();
    for resource in endpoints.map_err(|error| fatal(&error))?.resources {
        let AnyResource::WorkloadEndpoint(endpoint) = resource else {
            continue;
        };
        let count = asked.entry(endpoint.spec.node.clone()).or_default();
        if *count >= args.endpoints {
            continue;
        }
        *count += 1;
        let namespace = endpoint.metadata.namespace.clone().unwrap_or_default();
        let nets = endpoint.spec.ip_networks.iter();
        targets.extend(nets.map(|net| Target {
            kind: "endpoint",
            name: format!("{namespace}/{}", endpoint.metadata.name),
            address: net.addr(),
        }));
    }
    Ok(targets)
}

async fn probe(host: &Host, target: Target, wait: u8) -> Outcome {
    let Target {
        kind,
        name,
        address,
    } = target;
    let mut outcome = Outcome {
        kind,
        name,
        address,
        answered: false,
        time_ms: None,
        full_size: None,
        problem: String::new(),
    };
    match ping(host, address, wait, None).await {
        Ok(time) => {
            outcome.answered = true;
            outcome.time_ms = time;
        }
        Err(why) => {
            outcome.problem = why;
            return outcome;
        }
    }
    if let Some(mtu) = mtu_towards(host, address).await {
        let headers = match address {
            IpAddr::V4(_) => HEADERS_V4,
            IpAddr::V6(_) => HEADERS_V6,
        };
        let size = mtu.saturating_sub(headers);
        let whole = ping(host, address, wait, Some(size)).await;
        outcome.full_size = Some((mtu, whole.is_ok()));
        if whole.is_err() {
            outcome.problem = format!(
                "small packets pass, one of {mtu} octets does not: the MTU on the way is smaller"
            );
        }
    }
    outcome
}

/// Milliseconds until the answer, as far as they were printed; or why there is none.
async fn ping(
    host: &Host,
    address: IpAddr,
    wait: u8,
    size: Option<u32>,
) -> Result<Option<f64>, String> {
    let (address, wait) = (address.to_string(), wait.to_string());
    let size = size.map(|size| size.to_string());
    let mut words = vec!["ping", "-n", "-c", "1", "-W", &wait];
    if let Some(size) = &size {
        words.extend(["-M", "do", "-s", size]);
    }
    words.push(&address);
    match host.run(&words).await {
        Ok(text) => Ok(time(&text)),
        Err(text) => Err(reason(&text)),
    }
}

fn time(text: &str) -> Option<f64> {
    let (_, rest) = text.split_once("time=")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// What a router or the kernel answered instead, if anything did.
fn reason(text: &str) -> String {
    let line = text.lines().find(|line| {
        [
            "nreachable",
            "prohibited",
            "filtered",
            "too long",
            "connect:",
            "exceeded",
        ]
        .iter()
        .any(|word| line.contains(word))
    });
    line.map_or_else(|| "no answer".to_owned(), |line| line.trim().to_owned())
}

/// The MTU of the interface that leads there.
async fn mtu_towards(host: &Host, address: IpAddr) -> Option<u32> {
    let text = host
        .run(&["ip", "-o", "route", "get", &address.to_string()])
        .await
        .ok()?;
    let mut words = text.split_whitespace();
    words.find(|word| *word == "dev")?;
    let device = words.next()?;
    // Not from /sys, which may be that of another network namespace.
    let link = host
        .run(&["ip", "-o", "link", "show", "dev", device])
        .await
        .ok()?;
    let mut words = link.split_whitespace();
    words.find(|word| *word == "mtu")?;
    // A loopback interface takes what no way to another host does.
    words.next()?.parse().ok().filter(|mtu| *mtu <= 9216)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_ping_is_read() {
        let answered = "64 bytes from 192.0.2.6: icmp_seq=1 ttl=64 time=0.041 ms\n";
        assert_eq!(time(answered), Some(0.041));
        let refused = "PING 10.0.0.1\nFrom 192.0.2.6 icmp_seq=1 Destination Net Unreachable\n";
        assert_eq!(
            reason(refused),
            "From 192.0.2.6 icmp_seq=1 Destination Net Unreachable"
        );
        assert_eq!(reason("1 packets transmitted, 0 received"), "no answer");
    }
}
