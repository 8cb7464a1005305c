//! A way in words, and as JSON.

use serde_json::{Value, json};

use super::Way;
use super::hop::Source;
use crate::verbs::policy::words::packet_text;

pub(super) fn text(way: &Way) -> String {
    let mut text = format!("{}\n", packet_text(&way.packet));
    for (number, hop) in way.hops.iter().enumerate() {
        let mark = if hop.stopped.is_some() { " ✕" } else { "" };
        text += &format!("{:>2}. {}{mark}\n", number + 1, hop.title);
        for fact in &hop.facts {
            let live = match fact.source {
                Source::Live => " [live]",
                Source::Datastore | Source::Policy => "",
            };
            text += &format!("    {}{live}\n", fact.text);
        }
    }
    if let Some(mtu) = way.mtu {
        text += &format!("MTU: packets up to {mtu} octets pass the interfaces that were read\n");
    }
    text += &match &way.stopped {
        Some(why) => format!("Verdict: does not arrive. {why}\n"),
        None if way.live() => "Verdict: arrives\n".to_owned(),
        None => "Verdict: arrives, as far as the datastore tells; no agent on the way was asked\n"
            .to_owned(),
    };
    text
}

pub(super) fn json(way: &Way) -> Value {
    json!({
        "packet": packet_text(&way.packet),
        "hops": way.hops,
        "mtu": way.mtu,
        "arrives": way.stopped.is_none(),
        "stopped": way.stopped,
        "live": way.live(),
    })
}
