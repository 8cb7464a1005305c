//! Devices of WireGuard, under the established system's names.

use margay_dataplane::wireguard::{DeviceState, PeerState};

use super::text::{Kind, Text};

/// What is told of each other host.
type Figure = (Kind, &'static str, &'static str, fn(&PeerState) -> f64);

const FIGURES: [Figure; 3] = [
    (
        Kind::Counter,
        "wireguard_bytes_rcvd",
        "Bytes that came from another host's device.",
        |peer| peer.received as f64,
    ),
    (
        Kind::Counter,
        "wireguard_bytes_sent",
        "Bytes sent to another host's device.",
        |peer| peer.sent as f64,
    ),
    (
        Kind::Gauge,
        "wireguard_latest_handshake_seconds",
        "When keys were last exchanged, in seconds since 1970; 0 if they never were.",
        |peer| peer.last_handshake as f64,
    ),
];

/// Labels are bounded by the hosts of the cluster.
pub(super) fn collect(node: &str, devices: &[(String, DeviceState)], text: &mut Text) {
    let key = |device: &DeviceState| {
        let key = device.public_key.map(|key| key.to_string());
        key.unwrap_or_default()
    };
    let meta = devices.iter().map(|(name, device)| {
        let labels = vec![
            ("hostname", node.to_owned()),
            ("public_key", key(device)),
            ("iface", name.clone()),
            ("listen_port", device.port.to_string()),
        ];
        (labels, 1.0)
    });
    let help = "Constant 1, with a device of this host.";
    text.metric(Kind::Gauge, "wireguard_meta", help, meta);
    for (kind, name, help, value) in FIGURES {
        let peers = devices.iter().flat_map(|(_, device)| {
            let own = key(device);
            device.peers.iter().map(move |(peer_key, peer)| {
                let endpoint = peer.endpoint.map(|endpoint| endpoint.to_string());
                let labels = vec![
                    ("hostname", node.to_owned()),
                    ("public_key", own.clone()),
                    ("peer_key", peer_key.to_string()),
                    ("peer_endpoint", endpoint.unwrap_or_default()),
                ];
                (labels, value(peer))
            })
        });
        text.metric(kind, name, help, peers);
    }
}

#[cfg(test)]
mod tests {
    use margay_dataplane::wireguard::PublicKey;

    use super::*;

    #[test]
    fn each_device_and_each_peer_of_it_is_told_of() {
        let peer = PeerState {
            endpoint: Some("192.0.2.2:51820".parse().unwrap()),
            last_handshake: 1_700_000_000,
            received: 7,
            sent: 9,
            ..PeerState::default()
        };
        let mut device = DeviceState::default();
        device.public_key = Some(PublicKey::from([1; 32]));
        device.port = 51820;
        device.peers = [(PublicKey::from([2; 32]), peer)].into();
        let mut text = Text::default();
        collect("h1", &[("wireguard.cali".to_owned(), device)], &mut text);
        let text = text.finish();
        let (own, far) = (PublicKey::from([1; 32]), PublicKey::from([2; 32]));
        let peer = format!(
            "hostname=\"h1\",public_key=\"{own}\",peer_key=\"{far}\",peer_endpoint=\"192.0.2.2:51820\""
        );
        for line in [
            format!(
                "wireguard_meta{{hostname=\"h1\",public_key=\"{own}\",iface=\"wireguard.cali\",listen_port=\"51820\"}} 1"
            ),
            format!("wireguard_bytes_rcvd{{{peer}}} 7"),
            format!("wireguard_bytes_sent{{{peer}}} 9"),
            format!("wireguard_latest_handshake_seconds{{{peer}}} 1700000000"),
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
        let mut none = Text::default();
        collect("h1", &[], &mut none);
        assert_eq!(none.finish(), "");
    }
}
