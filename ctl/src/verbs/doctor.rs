//! `doctor`: what is wrong right now, the worst first, each with the next step.
//!
//! Whatever cannot be asked is a finding itself and does not keep the rest from being looked at.

mod agent;
mod cluster;
mod session;

use clap::Args;
use margay_api::bgp::{BgpRequest, Peer};
use serde::Serialize;
use serde_json::json;

use crate::agent::Agent;
use crate::cli::StatusOutput;
use crate::context::Context;
use crate::failure::Fatal;
use crate::terminal::Paint;
use crate::verbs::checksystem::{self, Outcome};
use crate::verbs::selector::print_json;

pub(crate) const HELP: &str = "\
Example:
  margayctl doctor

Looks at this host's agent, its sessions, what the kernel refuses, the host itself, and at pools,
policies and the other hosts in the datastore. Changes nothing. Exit code 1 if something is broken;
warnings and notes are no failure.";

/// How to look.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    output: StatusOutput,
}

/// How much it matters; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Traffic or policy is broken, or nothing can be attached.
    Broken,
    /// It works, and may not for long, or not for all.
    Warning,
    /// Worth knowing.
    Note,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// What is wrong, in a line.
    pub(crate) what: String,
    /// Why, or what it means.
    pub(crate) why: String,
    /// What to do now.
    pub(crate) next: String,
}

impl Finding {
    fn new(
        severity: Severity,
        what: impl Into<String>,
        why: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            what: what.into(),
            why: why.into(),
            next: next.into(),
        }
    }
}

/// Looks at everything and prints what is wrong.
pub(crate) async fn doctor(args: &Doctor, context: &mut Context<'_>) -> Result<(), Fatal> {
    let (mut findings, node) = of_agent(context).await;
    findings.extend(of_host(context, node.is_some()).await);
    findings.extend(cluster::findings(node.as_deref(), &context.client).await);
    // Of the same weight, those of the agent come before those of the host and of the cluster.
    findings.sort_by_key(|finding| finding.severity);
    context.streams.failed |= findings.iter().any(|f| f.severity == Severity::Broken);
    match args.output {
        StatusOutput::Json => {
            let healthy = findings.is_empty();
            let value = json!({"node": node, "healthy": healthy, "findings": findings});
            print_json(&value, &mut context.streams)
        }
        StatusOutput::Text => print(&findings, node.as_deref(), context),
    }
}

/// What the agent of this host says, and what the host is called.
async fn of_agent(context: &Context<'_>) -> (Vec<Finding>, Option<String>) {
    let here = Agent::Here(&context.socket);
    let status = match here.status().await {
        Ok(status) => status,
        Err(error) => return (vec![agent::unreachable(&error.to_string())], None),
    };
    let mut findings = agent::findings(&status);
    match here.bgp::<Vec<Peer>>(BgpRequest::Peers {}).await {
        Ok(peers) => findings.extend(session::findings(&peers)),
        Err(error) => findings.push(session::unasked(&error.to_string())),
    }
    (findings, Some(status.node))
}

async fn of_host(context: &Context<'_>, agent_runs: bool) -> Vec<Finding> {
    let checks = checksystem::look_and_ask(&context.host, None).await;
    let finding = |check: checksystem::Check| {
        let severity = match check.outcome {
            Outcome::Ok => return None,
            // The agent switches it on when it starts, and has started.
            Outcome::Warning if agent_runs && check.is_forwarding_off() => Severity::Broken,
            Outcome::Warning => Severity::Warning,
            Outcome::Failed => Severity::Broken,
        };
        let what = format!("This host: {}: {}", check.name, check.found);
        Some(Finding::new(severity, what, "", check.fix))
    };
    checks.into_iter().filter_map(finding).collect()
}

fn print(findings: &[Finding], node: Option<&str>, context: &mut Context<'_>) -> Result<(), Fatal> {
    let streams = &mut context.streams;
    let terminal = streams.terminal;
    for (number, finding) in findings.iter().enumerate() {
        let (word, paint) = match finding.severity {
            Severity::Broken => ("BROKEN", Paint::Red),
            Severity::Warning => ("warning", Paint::Bold),
            Severity::Note => ("note", Paint::Cyan),
        };
        let word = terminal.paint(paint, word);
        streams.say(&format!("{}. {word}  {}", number + 1, finding.what))?;
        if !finding.why.is_empty() {
            streams.say(&format!("   {}", finding.why))?;
        }
        if !finding.next.is_empty() {
            streams.say(&format!("   Next: {}", finding.next))?;
        }
        streams.say("")?;
    }
    let of = node.map_or_else(String::new, |node| format!(" on {node}"));
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let line = match findings.len() {
        0 => terminal.paint(Paint::Green, &format!("All is well{of}.")),
        _ => format!(
            "{} broken, {}, {}{of}.",
            count(Severity::Broken),
            counted(count(Severity::Warning), "warning"),
            counted(count(Severity::Note), "note")
        ),
    };
    streams.say(&line)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
