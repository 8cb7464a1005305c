//! A decision as text and as JSON: tier by tier, policy by policy, rule by rule.

use margay_model::kind::ResourceKey;
use margay_policy::explain::{Packet, Place, Step};
use margay_policy::program::Direction;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::decision::{Decision, Hop};
use super::words::{packet_text, protocol_name};

impl Cluster {
    /// A decision for people; each line ended.
    pub(crate) fn decision_text(&self, decision: &Decision) -> String {
        let packet = &decision.packet;
        let mut text = format!("{}\n", packet_text(packet));
        text += &self.hop_text("Egress", Direction::Egress, &decision.egress, packet);
        if let Some(hop) = &decision.egress_host {
            text += &self.hop_text("Forwarding", Direction::Egress, hop, packet);
        }
        if let Some(hop) = &decision.ingress_host {
            text += &self.hop_text("Forwarding", Direction::Ingress, hop, packet);
        }
        text += &self.hop_text("Ingress", Direction::Ingress, &decision.ingress, packet);
        let (way, hop) = decision.deciding();
        text += &format!(
            "Verdict: {}, decided on {way} by {}\n",
            decision.verdict(),
            hop.decided_by()
        );
        text
    }

    fn hop_text(&self, title: &str, direction: Direction, hop: &Hop, packet: &Packet) -> String {
        let (endpoint, node, verdict, steps) = match hop {
            Hop::NotReached => return format!("{title}: not reached\n"),
            Hop::NotAsked { verdict, why } => return format!("{title}: {verdict}: {why}\n"),
            Hop::Asked {
                endpoint,
                node,
                verdict,
                steps,
            } => (endpoint, node, verdict, steps),
        };
        let host = match node.as_str() {
            "" => String::new(),
            node => format!(" on {node}"),
        };
        let mut text = format!("{title} of {endpoint}{host}: {verdict}\n");
        let mut heading = (String::new(), String::new());
        for step in steps {
            self.step_text(step, direction, packet, &mut heading, &mut text);
        }
        text
    }

    /// Writes a step under the headings of its tier and policy, which are written when they change.
    fn step_text(
        &self,
        step: &Step,
        direction: Direction,
        packet: &Packet,
        heading: &mut (String, String),
        text: &mut String,
    ) {
        if let Some(place) = place_of(step) {
            let (tier, policy) = match place {
                Place::Policy { tier, policy } => (format!("tier {tier}"), policy.to_string()),
                Place::Profile(name) => ("profiles".to_owned(), format!("Profile/{name}")),
            };
            if heading.0 != tier {
                *text += &format!("  {tier}\n");
                heading.1.clear();
            }
            if heading.1 != policy {
                *text += &format!("    {policy}\n");
                if let Place::Policy { policy, .. } = place
                    && let Some(problem) = self.problem(policy)
                {
                    *text += &format!("      problem: {problem}\n");
                }
            }
            *heading = (tier, policy);
        }
        let rule = |place, index| {
            let rule = self.rule(place, direction, index);
            rule.map_or_else(String::new, |rule| self.rule_text(rule))
        };
        *text += &match step {
            Step::Rule { place, index, .. } => {
                format!("      rule {index}: {}: MATCHES\n", rule(place, *index))
            }
            Step::Skipped {
                place, index, why, ..
            } => format!(
                "      rule {index}: {}: no match: {}\n",
                rule(place, *index),
                self.mismatch_text(why, packet)
            ),
            Step::Staged { place, rule } => match rule {
                Some((index, action)) => format!(
                    "      staged, not enforced: rule {index}: {}: would {action}\n",
                    self.rule(place, direction, *index)
                        .map_or_else(String::new, |rule| self.rule_text(rule))
                ),
                None => "      staged, not enforced: no rule would match\n".to_owned(),
            },
            Step::NoMatch(_) => "      no rule matches\n".to_owned(),
            Step::TierDefault { tier, action } => {
                format!("    no rule of tier {tier} decides: default action {action}\n")
            }
            Step::Missing(_) => "      does not exist: Deny\n".to_owned(),
            Step::End => "  nothing allows it: Deny\n".to_owned(),
        };
    }

    /// A decision for programs.
    pub(crate) fn decision_json(&self, decision: &Decision) -> Value {
        let packet = &decision.packet;
        let (way, hop) = decision.deciding();
        let icmp = packet
            .icmp
            .map(|(kind, code)| json!({"type": kind, "code": code}));
        let port = |port: u16| (port > 0).then_some(port);
        let host = |direction, hop: &Option<Hop>| {
            hop.as_ref()
                .map(|hop| self.hop_json(direction, hop, packet))
        };
        json!({
            "packet": {
                "protocol": protocol_name(packet.protocol), "source": packet.source,
                "sourcePort": port(packet.source_port), "destination": packet.destination,
                "destinationPort": port(packet.destination_port), "icmp": icmp,
            },
            "verdict": decision.verdict().to_string(),
            "decidedOn": way,
            "decidedBy": hop.decided_by(),
            "egress": self.hop_json(Direction::Egress, &decision.egress, packet),
            "egressHost": host(Direction::Egress, &decision.egress_host),
            "ingressHost": host(Direction::Ingress, &decision.ingress_host),
            "ingress": self.hop_json(Direction::Ingress, &decision.ingress, packet),
        })
    }

    fn hop_json(&self, direction: Direction, hop: &Hop, packet: &Packet) -> Value {
        match hop {
            Hop::NotReached => Value::Null,
            Hop::NotAsked { verdict, why } => json!({"verdict": verdict.to_string(), "why": why}),
            Hop::Asked {
                endpoint,
                node,
                verdict,
                steps,
            } => {
                let step = |step| self.step_json(step, direction, packet);
                json!({
                    "endpoint": endpoint.to_string(), "node": node,
                    "verdict": verdict.to_string(),
                    "steps": steps.iter().map(step).collect::<Vec<_>>(),
                })
            }
        }
    }

    fn step_json(&self, step: &Step, direction: Direction, packet: &Packet) -> Value {
        let mut value = match step {
            Step::Rule { index, action, .. } => {
                json!({"result": "match", "rule": index, "action": action.as_str()})
            }
            Step::Skipped {
                index, action, why, ..
            } => json!({
                "result": "noMatch", "rule": index, "action": action.as_str(),
                "why": self.mismatch_text(why, packet),
            }),
            Step::Staged { rule, .. } => json!({
                "result": "staged", "rule": rule.map(|(index, _)| index),
                "action": rule.map(|(_, action)| action.as_str()),
            }),
            Step::NoMatch(_) => json!({"result": "noRuleMatches"}),
            Step::TierDefault { tier, action } => {
                json!({"result": "tierDefault", "tier": tier, "action": action.as_str()})
            }
            Step::Missing(_) => json!({"result": "missing", "action": "Deny"}),
            Step::End => json!({"result": "end", "action": "Deny"}),
        };
        match place_of(step) {
            Some(Place::Policy { tier, policy }) => {
                value["tier"] = json!(tier);
                value["policy"] = json!(policy.to_string());
                if let Some(problem) = self.problem(policy) {
                    value["problem"] = json!(problem);
                }
            }
            Some(Place::Profile(name)) => value["profile"] = json!(name),
            None => {}
        }
        let index = match step {
            Step::Rule { index, .. } | Step::Skipped { index, .. } => Some(*index),
            Step::Staged { rule, .. } => rule.map(|(index, _)| index),
            _ => None,
        };
        let rule = place_of(step).zip(index);
        if let Some(rule) = rule.and_then(|(place, index)| self.rule(place, direction, index)) {
            value["text"] = json!(self.rule_text(rule));
        }
        value
    }

    /// Resources that cannot be used as they are, a line each.
    pub(crate) fn problem_lines(&self) -> Vec<String> {
        let line = |(key, text): (&ResourceKey, &str)| format!("{key}: {text}");
        self.calc.problems().map(line).collect()
    }
}

const fn place_of(step: &Step) -> Option<&Place> {
    match step {
        Step::Rule { place, .. }
        | Step::Skipped { place, .. }
        | Step::Staged { place, .. }
        | Step::NoMatch(place)
        | Step::Missing(place) => Some(place),
        Step::TierDefault { .. } | Step::End => None,
    }
}
