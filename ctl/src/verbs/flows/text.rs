//! Flows for people, a line each.

use jiff::Timestamp;
use margay_api::flows::{Flow, Reason, Verdict};

use crate::table::Table;
use crate::verbs::policy::words::protocol_name;

/// Protocols of which the port is type and code.
const ICMP: [u8; 2] = [1, 58];

/// The lines, with a heading above the first.
pub(super) fn lines(flows: &[&Flow], heading: bool) -> String {
    let mut table = Table::new([
        "LAST",
        "VERDICT",
        "FROM",
        "TO",
        "WHAT",
        "WAY",
        "PACKETS",
        "BYTES",
        "DECIDED BY",
    ]);
    for flow in flows {
        table.row([
            time(flow.last_ms),
            verdict(flow.verdict).to_owned(),
            flow.source.to_string(),
            flow.destination.to_string(),
            what(flow),
            if flow.ingress { "in" } else { "out" }.to_owned(),
            flow.packets.to_string(),
            flow.bytes.to_string(),
            reason(&flow.reason),
        ]);
    }
    match heading {
        true => table.render(),
        false => table.render_rows(&mut Vec::new()),
    }
}

fn time(ms: u64) -> String {
    let at = i64::try_from(ms).unwrap_or(0);
    let at = Timestamp::from_millisecond(at).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "DENY",
        Verdict::Log => "log",
        Verdict::WouldAllow => "would allow",
        Verdict::WouldDeny => "would DENY",
    }
}

fn what(flow: &Flow) -> String {
    let name = protocol_name(flow.protocol);
    match flow.port {
        port if ICMP.contains(&flow.protocol) => format!("{name} {}/{}", port >> 8, port & 0xff),
        0 => name,
        port => format!("{name} {port}"),
    }
}

pub(super) fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Policy { tier, policy, rule } if tier.is_empty() => {
            format!("rule {rule} of {policy}")
        }
        Reason::Policy { tier, policy, rule } => format!("rule {rule} of {policy} in tier {tier}"),
        Reason::Profile { profile, rule } => format!("rule {rule} of profile {profile}"),
        Reason::EndOfTier { tier } => format!("no rule of tier {tier} matches"),
        Reason::NothingAllowed => "no policy and no profile allows it".to_owned(),
        Reason::Spoofed => "the sender's address is not its own".to_owned(),
        Reason::NoSuchWorkload => "no workload has this address there".to_owned(),
    }
}
