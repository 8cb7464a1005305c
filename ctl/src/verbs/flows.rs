//! `flows`: which traffic policy allowed and denied, and by which rule.

mod ipfix;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use margay_api::flows::{Flow, FlowQuery, Reason, Verdict};
use margay_model::net::Cidr;

use crate::agent::Agent;
use crate::cli::StatusOutput;
use crate::context::Context;
use crate::failure::Fatal;
use crate::verbs::policy::cluster::{Cluster, read_datastore};
use ipfix::Exporter;

pub(crate) const HELP: &str = "\
Example:
  margayctl flows --denied --to 10.65.0.7

Packets of some seconds that differ in nothing but the sender's port are one flow; a flow that goes on
is shown again with its new sums. WHO is an address, a range, or the name of an endpoint, pod, container or
host. The agent keeps the last of them; what it looks at is in its configuration. With -o json a line
of JSON each, with --ipfix records of IPFIX (RFC 7011) by UDP besides.";

/// How often somebody who follows asks again.
const AGAIN: Duration = Duration::from_secs(1);

/// Which flows.
#[derive(Debug, Args)]
pub(crate) struct Flows {
    /// The host whose agent is asked [default: the one this runs on]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only what was denied
    #[arg(long)]
    denied: bool,
    /// Only what this one sent
    #[arg(long, value_name = "WHO")]
    from: Option<String>,
    /// Only what was sent to this one
    #[arg(long, value_name = "WHO")]
    to: Option<String>,
    /// Only what this policy or profile decided, by its name
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// At most so many of the latest
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: usize,
    /// Go on until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Also tell this collector
    #[arg(long, value_name = "ADDRESS:PORT")]
    ipfix: Option<SocketAddr>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    output: StatusOutput,
}

/// Some addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    Anybody,
    Range(Cidr),
    Addresses(Vec<IpAddr>),
}

impl Who {
    fn is(&self, address: IpAddr) -> bool {
        match self {
            Self::Anybody => true,
            Self::Range(range) => range.contains(address),
            Self::Addresses(all) => all.contains(&address),
        }
    }
}

/// What is asked for.
#[derive(Debug)]
struct Wanted {
    denied: bool,
    from: Who,
    to: Who,
    policy: Option<String>,
}

impl Wanted {
    fn matches(&self, flow: &Flow) -> bool {
        (!self.denied || flow.verdict == Verdict::Deny)
            && self.from.is(flow.source)
            && self.to.is(flow.destination)
            && self
                .policy
                .as_ref()
                .is_none_or(|name| decided_by(flow, name))
    }
}

/// Whether a policy or profile of this name decided; `NAMESPACE/NAME` and the whole name are names as well.
fn decided_by(flow: &Flow, name: &str) -> bool {
    match &flow.reason {
        Reason::Policy { policy, .. } => {
            policy == name
                || policy
                    .strip_suffix(name)
                    .is_some_and(|rest| rest.ends_with('/'))
        }
        Reason::Profile { profile, .. } => profile == name,
        _ => false,
    }
}

/// Prints them.
pub(crate) async fn flows(args: &Flows, context: &mut Context<'_>) -> Result<(), Fatal> {
    let wanted = wanted(args, context).await?;
    let mut exporter = args.ipfix.map(Exporter::new).transpose()?;
    let mut query = FlowQuery {
        after: 0,
        limit: args.limit,
    };
    let mut first = true;
    loop {
        let agent = Agent::of(args.node.as_deref(), &context.socket, &context.client).await?;
        let report = agent.flows(query.clone()).await?;
        if first && !report.problem.is_empty() {
            context.streams.note(&report.problem)?;
        }
        if first && report.capture == "none" {
            let line = "the agent is configured to look at no flows";
            context.streams.note(line)?;
        }
        let shown: Vec<_> = report
            .flows
            .iter()
            .filter(|flow| wanted.matches(flow))
            .collect();
        match args.output {
            StatusOutput::Text => {
                let text = text::lines(&shown, first);
                context.streams.print(&text)?;
            }
            StatusOutput::Json => {
                for flow in &shown {
                    let line = serde_json::to_string(flow).map_err(std::io::Error::from)?;
                    context.streams.say(&line)?;
                }
            }
        }
        context.streams.stdout.flush()?;
        if let Some(exporter) = &mut exporter {
            exporter.export(&shown)?;
        }
        if !args.follow {
            return Ok(());
        }
        (query.after, first) = (report.next, false);
        tokio::time::sleep(AGAIN).await;
    }
}

async fn wanted(args: &Flows, context: &mut Context<'_>) -> Result<Wanted, Fatal> {
    let named = |who: &Option<String>| {
        let text = who.as_deref().unwrap_or("0.0.0.0/0");
        text.parse::<Cidr>().is_err() && text.parse::<IpAddr>().is_err()
    };
    // Names are the datastore's; addresses need none.
    let cluster = match named(&args.from) || named(&args.to) {
        true => Some(Cluster::new(read_datastore(context).await?)),
        false => None,
    };
    let who = |flag: &str, text: &Option<String>| match text {
        None => Ok(Who::Anybody),
        Some(text) => {
            if let Ok(address) = text.parse::<IpAddr>() {
                return Ok(Who::Addresses(vec![address]));
            }
            if let Ok(range) = text.parse::<Cidr>() {
                return Ok(Who::Range(range));
            }
            let party = cluster.as_ref().map(|cluster| cluster.party(text));
            match party {
                Some(Ok(party)) => Ok(Who::Addresses(party.addresses)),
                Some(Err(error)) => Err(Fatal::Usage(format!("{flag}: {error}"))),
                None => Ok(Who::Anybody),
            }
        }
    };
    Ok(Wanted {
        denied: args.denied,
        from: who("--from", &args.from)?,
        to: who("--to", &args.to)?,
        policy: args.policy.clone(),
    })
}

#[cfg(test)]
mod tests;
