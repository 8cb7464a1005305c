//! Sessions: which are down, and what their last error usually means.

use margay_api::bgp::Peer;

use super::{Finding, Severity};
use crate::verbs::node::period;

/// A session that came up more often than this since the agent started, and is young, comes and goes.
const FLAPS: u64 = 5;
/// Young, in seconds.
const YOUNG: u64 = 600;

pub(super) fn unasked(error: &str) -> Finding {
    Finding::new(
        Severity::Note,
        "The BGP speaker cannot be asked",
        error,
        "bgp: true in /etc/margay/margayd.yaml, unless this host is not to speak BGP",
    )
}

pub(super) fn findings(peers: &[Peer]) -> Vec<Finding> {
    let is_up = |peer: &&Peer| peer.state == "Established";
    let down: Vec<_> = peers.iter().filter(|peer| !is_up(peer)).collect();
    let cut_off = !peers.is_empty() && down.len() == peers.len();
    let mut findings = Vec::new();
    if cut_off {
        findings.push(Finding::new(
            Severity::Broken,
            match peers.len() {
                1 => "The only BGP session is down".to_owned(),
                count => format!("All {count} BGP sessions are down"),
            },
            "The containers of this host are cut off from all others.",
            "ip route; ip -s link; then the sessions below",
        ));
    }
    for peer in down {
        let severity = match peer.name.starts_with("mesh ") && !cut_off {
            // The other host may just be off.
            true => Severity::Warning,
            false => Severity::Broken,
        };
        let why = match peer.last_error.is_empty() {
            true => "It has not come up since the agent started; nothing was refused.",
            false => &peer.last_error,
        };
        findings.push(Finding::new(
            severity,
            format!(
                "The session with {} ({}, AS {}) is {} for {}",
                peer.name,
                peer.address,
                peer.remote_as,
                peer.state,
                period(peer.since_secs)
            ),
            why,
            next(peer),
        ));
    }
    for peer in peers.iter().filter(is_up) {
        if peer.bfd_up == Some(false) {
            findings.push(Finding::new(
                Severity::Warning,
                format!(
                    "BFD finds the path to {} ({}) broken",
                    peer.name, peer.address
                ),
                "The session has not noticed, or the router does not speak BFD with us.",
                "the router's BFD for this neighbour; UDP port 3784 on the way",
            ));
        }
        if peer.established_count > FLAPS && peer.since_secs < YOUNG {
            findings.push(Finding::new(
                Severity::Warning,
                format!(
                    "The session with {} came up {} times, last {} ago",
                    peer.name,
                    peer.established_count,
                    period(peer.since_secs)
                ),
                "It comes and goes; each time routes move.",
                format!("margayctl bgp events --peer {}", peer.address),
            ));
        }
    }
    findings
}

/// What the error usually means.
fn next(peer: &Peer) -> String {
    let error = peer.last_error.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| error.contains(word));
    let address = &peer.address;
    if has(&["refused"]) {
        return format!(
            "nobody listens at {address}: on the router, is BGP on, and is this host a neighbour of it?"
        );
    }
    if has(&["hold timer", "hold time"]) {
        return format!(
            "nothing was heard for the hold time: ping {address}; then loss and MTU of the link, and the \
             router's load"
        );
    }
    if has(&["peer as", "bad peer"]) {
        return "the two ends disagree about an AS number: asNumber of the BGPPeer and of this node, and \
                the router's remote-as"
            .to_owned();
    }
    if has(&["authenti", "password", "md5"]) {
        return "the passwords differ: secretKeyRef of the BGPPeer, /etc/margay/secrets, the router".to_owned();
    }
    if has(&["cease", "administrative", "deconfigured"]) {
        return "the router ended it on purpose: its configuration and its log".to_owned();
    }
    if has(&["unreachable", "no route", "timed out", "host is down"]) {
        return format!(
            "no way there: ping {address}, ip route get {address}; a password that only one end has looks \
             the same"
        );
    }
    if has(&["bgp identifier"]) {
        return "two speakers have one router id: margayctl node list, routerID of BGPConfiguration"
            .to_owned();
    }
    format!("margayctl bgp events --peer {address}, and the router's log")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, state: &str, error: &str) -> Peer {
        Peer {
            name: name.to_owned(),
            address: "192.0.2.6".to_owned(),
            state: state.to_owned(),
            last_error: error.to_owned(),
            since_secs: 90,
            ..Peer::default()
        }
    }

    #[test]
    fn the_last_one_to_go_cuts_the_host_off_and_a_node_that_is_away_does_not() {
        let up = peer("tor", "Established", "");
        let mesh = peer(
            "mesh h2",
            "Connect",
            "could not connect: Connection refused",
        );
        let found = findings(&[up.clone(), mesh.clone()]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity, Severity::Warning);
        let found = findings(&[mesh]);
        assert_eq!(found[0].what, "The only BGP session is down");
        assert_eq!(found[1].severity, Severity::Broken);
        assert!(findings(&[up]).is_empty());
    }

    #[test]
    fn the_next_step_follows_from_the_error() {
        for (error, word) in [
            (
                "could not connect: Connection refused (os error 111)",
                "nobody listens",
            ),
            ("received Hold Timer Expired", "ping 192.0.2.6"),
            ("sent OPEN Message Error: Bad Peer AS", "asNumber"),
            ("could not connect: timed out", "password"),
            ("received Cease: Administrative Shutdown", "on purpose"),
            ("", "margayctl bgp events"),
        ] {
            let next = next(&peer("tor", "Idle", error));
            assert!(next.contains(word), "{error}: {next}");
        }
    }

    #[test]
    fn a_session_that_comes_and_goes_is_told_of_while_it_is_young() {
        let mut flaps = peer("tor", "Established", "");
        flaps.established_count = 9;
        assert_eq!(findings(&[flaps.clone()]).len(), 1);
        flaps.since_secs = 86_400;
        assert!(findings(&[flaps]).is_empty());
    }
}
