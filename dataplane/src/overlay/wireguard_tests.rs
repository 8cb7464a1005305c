//! What is told to the driver, and the driver itself where the kernel has it.

use std::fs;

use super::*;
use crate::lab::NetNs;
use crate::overlay::tests::{clean_round, round};
use crate::overlay::threads::tests::own_sysfs;
use crate::overlay::wireguard_lab::*;
use crate::overlay::{Overlay, Wanted};

fn as_kernel(peer: &WireguardPeer) -> PeerState {
    PeerState {
        endpoint: Some(peer.endpoint),
        keep_alive: peer.keep_alive,
        allowed: peer.allowed.clone(),
        ..PeerState::default()
    }
}

#[test]
fn only_what_differs_of_the_peer_that_differs_is_told() {
    let same = peer("192.0.2.3:1", &["10.65.3.0/26"]);
    let before = peer("192.0.2.2:1", &["10.65.2.0/26", "10.65.9.9/32"]);
    let found = [(key(2), as_kernel(&before)), (key(3), as_kernel(&same))].into();
    let mut wanted: BTreeMap<_, _> = [(key(2), before.clone()), (key(3), same)].into();
    assert_eq!(additions(&found, &wanted), []);
    assert_eq!(removals(&found, &wanted), []);

    let after = peer("192.0.2.2:1", &["10.65.2.0/26", "10.65.4.0/26"]);
    wanted.insert(key(2), after.clone());
    let set = |endpoint, keep_alive, add: &[&str], replace| PeerChange::Set {
        endpoint,
        keep_alive,
        add: add.iter().map(|text| net(text)).collect(),
        replace,
    };
    let added = set(None, None, &["10.65.4.0/26"], false);
    assert_eq!(additions(&found, &wanted), [(key(2), added)]);
    let all = set(None, None, &["10.65.2.0/26", "10.65.4.0/26"], true);
    assert_eq!(removals(&found, &wanted), [(key(2), all)]);

    let moved = WireguardPeer {
        endpoint: "192.0.2.9:1".parse().unwrap(),
        keep_alive: 10,
        ..before
    };
    wanted.insert(key(2), moved.clone());
    let changed = set(Some(moved.endpoint), Some(10), &[], false);
    assert_eq!(additions(&found, &wanted), [(key(2), changed)]);
    assert_eq!(removals(&found, &wanted), []);

    wanted.remove(&key(2));
    assert_eq!(additions(&found, &wanted), []);
    assert_eq!(removals(&found, &wanted), [(key(2), PeerChange::Remove)]);
}

#[test]
fn a_new_peer_is_woken_and_left_in_peace() {
    let new = peer("192.0.2.2:1", &["10.65.2.0/26"]);
    let wanted = [(key(2), new.clone())].into();
    let told = additions(&BTreeMap::new(), &wanted);
    let intervals: Vec<_> = told
        .iter()
        .map(|(_, change)| match change {
            PeerChange::Set { keep_alive, .. } => *keep_alive,
            PeerChange::Remove => None,
        })
        .collect();
    assert_eq!(intervals, [Some(WAKE_SECS), Some(0)]);
    let lively = WireguardPeer {
        keep_alive: 60,
        ..new
    };
    let wanted = [(key(2), lively)].into();
    assert_eq!(additions(&BTreeMap::new(), &wanted).len(), 1);
}

#[test]
fn a_kernel_without_the_driver_is_told_of_as_such() {
    for errno in [libc::EOPNOTSUPP, libc::ENOENT, libc::ENODEV] {
        let told = without_driver(V4, RequestError { errno, text: None }.into()).to_string();
        assert!(
            told.starts_with("this kernel has no driver for wireguard"),
            "{told}"
        );
    }
    let other = RequestError {
        errno: libc::EPERM,
        text: None,
    };
    let told = without_driver(V4, other.into()).to_string();
    assert!(told.starts_with("cannot create wireguard.cali"), "{told}");
}

#[test]
fn packets_of_both_families_are_encrypted_between_two_hosts() {
    let dir = dir();
    let Some((a, b)) = two(dir.path()) else {
        return;
    };
    let wire = Wire::tap(&b.ns);
    a.ping("10.65.2.9");
    a.ping("fd00:65:2::9");
    let (encrypted, plain) = wire.seen();
    assert!(encrypted >= 8, "{encrypted} packets of WireGuard");
    assert_eq!(plain, [[0; 0]; 0], "something went unencrypted");
    for (host, name, far) in [
        (&a, V4, b.keys[0]),
        (&a, V6, b.keys[1]),
        (&b, V4, a.keys[0]),
    ] {
        let peer = &host.state(name).peers[&far];
        assert!(
            peer.last_handshake > 0 && peer.received > 0 && peer.sent > 0,
            "{peer:?}"
        );
        assert_eq!(peer.keep_alive, 0);
    }
    // Without the device they would be seen: so the test sees what it should.
    a.ns.ip("route add 10.65.2.9/32 via 192.0.2.2");
    let (pong, _) = a.ns.command("ping -n -c 1 -W 1 10.65.2.9");
    let (_, plain) = wire.seen();
    assert!(
        !plain.is_empty(),
        "plain packets are not seen, answered: {pong}"
    );
}

#[test]
fn a_fresh_agent_adopts_devices_peers_and_keys() {
    let dir = dir();
    let Some((a, b)) = two(dir.path()) else {
        return;
    };
    a.ping("10.65.2.9");
    let before = a.state(V4);
    assert_eq!(a.bring().changed, 0);
    assert_eq!(b.bring().changed, 0);
    assert_eq!(
        a.state(V4).peers[&b.keys[0]].last_handshake,
        before.peers[&b.keys[0]].last_handshake
    );
    // The file is lost: the device still has its key, and others know it by that.
    let file = &a.wanted.wireguard_v4.as_ref().unwrap().key_file;
    let text = fs::read_to_string(file).unwrap();
    fs::remove_file(file).unwrap();
    assert_eq!(a.bring().changed, 0);
    assert_eq!(fs::read_to_string(file).unwrap(), text);
    // Both are lost: another key.
    fs::remove_file(file).unwrap();
    a.ns.ip(&format!("link del {V4}"));
    a.bring();
    assert_ne!(a.state(V4).public_key, before.public_key);
    assert!(a.state(V4).public_key.is_some());
}

#[test]
fn a_peer_that_changes_its_key_is_met_again_and_others_are_not_touched() {
    let dir = dir();
    let Some((mut a, mut b)) = two(dir.path()) else {
        return;
    };
    a.ping("10.65.2.9");
    a.ping("fd00:65:2::9");
    let six = a.state(V6).peers[&b.keys[1]].last_handshake;
    let old = b.keys[0];
    let file = b.wanted.wireguard_v4.as_ref().unwrap().key_file.clone();
    PrivateKey::generate().unwrap().save(&file).unwrap();
    assert_eq!(b.bring().changed, 1);
    b.keys[0] = b.state(V4).public_key.unwrap();
    assert_ne!(b.keys[0], old);
    a.wanted.wireguard_v4.as_mut().unwrap().peers.remove(&old);
    a.meet(&b);
    assert_eq!(a.state(V4).peers.keys().collect::<Vec<_>>(), [&b.keys[0]]);
    a.ping("10.65.2.9");
    assert_eq!(a.state(V6).peers[&b.keys[1]].last_handshake, six);
    // A host that goes: nothing is sent to it any more.
    a.wanted.wireguard_v4.as_mut().unwrap().peers.clear();
    assert_eq!(a.bring().changed, 1);
    let (pong, _) = a.ns.command("ping -n -c 1 -W 2 10.65.2.9");
    assert!(!pong);
}

#[test]
fn whatever_somebody_breaks_is_mended_and_counted() {
    let dir = dir();
    let Some((mut a, b)) = two(dir.path()) else {
        return;
    };
    a.wanted.wireguard_v4.as_mut().unwrap().threaded = true;
    let whole = || {
        let mut state = a.state(V4);
        for peer in state.peers.values_mut() {
            (peer.last_handshake, peer.received, peer.sent) = (0, 0, 0);
        }
        let link = a.ns.ip(&format!("-o link show dev {V4}"));
        let link = link.split_once(": ").unwrap().1.to_owned();
        let mut addresses = a.ns.ip(&format!("-o addr show dev {V4}"));
        addresses.retain(|c| !c.is_whitespace());
        let addresses: Vec<_> = addresses.split("inet").skip(1).map(str::to_owned).collect();
        (state, link, addresses)
    };
    a.ns.run(|| {
        own_sysfs();
        let mut overlay = Overlay::open().unwrap();
        overlay.allow_deletes();
        overlay.set(a.wanted.clone());
        clean_round(&mut overlay);
        let threads = || fs::read_to_string(threads::file(V4)).unwrap();
        assert_eq!(threads(), "1\n");
        let before = whole();
        let mut kernel = Wireguard::open().unwrap();
        let far = b.keys[0];
        let device =
            |change: DeviceChange| move |k: &mut Wireguard| k.set_device(V4, &change).unwrap();
        let peers = |key, change: PeerChange| {
            move |k: &mut Wireguard| k.set_peers(V4, &[(key, change.clone())]).unwrap()
        };
        let steals = PeerChange::Set {
            endpoint: Some("198.51.100.1:9".parse().unwrap()),
            keep_alive: None,
            add: vec![net("10.65.2.0/26")],
            replace: false,
        };
        let strays = PeerChange::Set {
            endpoint: Some("198.51.100.1:9".parse().unwrap()),
            keep_alive: Some(7),
            add: vec![net("0.0.0.0/0")],
            replace: false,
        };
        let ns = &a.ns;
        let ip = |line: String| move |_: &mut Wireguard| drop(ns.ip(&line));
        type Break<'a> = (&'static str, Box<dyn Fn(&mut Wireguard) + 'a>);
        let breaks: Vec<Break<'_>> = vec![
            (
                "another port",
                Box::new(device(DeviceChange {
                    port: Some(9),
                    ..DeviceChange::default()
                })),
            ),
            (
                "no mark",
                Box::new(device(DeviceChange {
                    mark: Some(0),
                    ..DeviceChange::default()
                })),
            ),
            (
                "another key",
                Box::new(device(DeviceChange {
                    private_key: Some(PrivateKey::generate().unwrap()),
                    ..DeviceChange::default()
                })),
            ),
            ("no peer", Box::new(peers(far, PeerChange::Remove))),
            ("a stranger takes a block", Box::new(peers(key(9), steals))),
            ("the peer strays", Box::new(peers(far, strays))),
            ("down", Box::new(ip(format!("link set {V4} down")))),
            ("small", Box::new(ip(format!("link set {V4} mtu 1300")))),
            (
                "no address",
                Box::new(ip(format!("addr del 10.65.1.0/32 dev {V4}"))),
            ),
            (
                "an address more",
                Box::new(ip(format!("addr add 10.65.1.7/32 dev {V4}"))),
            ),
            (
                "no threads",
                Box::new(|_| fs::write(threads::file(V4), "0").unwrap()),
            ),
            ("gone", Box::new(ip(format!("link del {V4}")))),
        ];
        for (what, broken) in breaks {
            broken(&mut kernel);
            assert_eq!(
                clean_round(&mut overlay).changed,
                0,
                "nobody told of it: {what}"
            );
            overlay.invalidate();
            assert!(clean_round(&mut overlay).drift > 0, "not noticed: {what}");
            assert_eq!(whole(), before, "{what}");
            assert_eq!(threads(), "1\n", "{what}");
        }
    });
}

#[test]
fn devices_of_others_are_left_alone_and_a_new_name_is_a_new_device() {
    let dir = dir();
    let ns = NetNs::new();
    if !has_driver(&ns) {
        return;
    }
    ns.ip(&format!("link add {V4} type wireguard"));
    ns.ip("link add theirs type wireguard");
    ns.run(|| {
        let mut overlay = Overlay::open().unwrap();
        overlay.allow_deletes();
        let mut wanted = Wanted {
            wireguard_v4: Some(spec(dir.path(), false, 1)),
            ..Wanted::default()
        };
        overlay.set(wanted.clone());
        let report = round(&mut overlay);
        let told = report.failures[0].to_string();
        assert!(told.contains("somebody else's"), "{told}");
        overlay.set(Wanted::default());
        clean_round(&mut overlay);
        for name in ["wg-one", "wg-two"] {
            wanted.wireguard_v4.as_mut().unwrap().name = name.to_owned();
            overlay.set(wanted.clone());
            clean_round(&mut overlay);
        }
        let links = ns.ip("-o link show");
        assert!(
            links.contains(" wg-two:") && !links.contains(" wg-one:"),
            "{links}"
        );
        let mut socket = Socket::route().unwrap();
        assert_eq!(clean(&mut socket, true).unwrap(), ["interface wg-two"]);
        clean(&mut socket, false).unwrap();
        let links = ns.ip("-o link show");
        assert!(!links.contains(" wg-two:"), "{links}");
        assert!(links.contains(V4) && links.contains(" theirs:"), "{links}");
        // A device that the kernel would not take.
        wanted.wireguard_v4.as_mut().unwrap().name = "much-too-long-a-name".to_owned();
        overlay.set(wanted);
        let told = round(&mut overlay).failures[0].to_string();
        assert!(told.contains("is no name for an interface"), "{told}");
    });
}

#[test]
fn what_hosts_send_each_other_is_encrypted_where_wanted_and_plain_again_after() {
    let dir = dir();
    let Some((mut a, mut b)) = two(dir.path()) else {
        return;
    };
    for (host, far) in [(&mut a, 2), (&mut b, 1)] {
        host.encrypt_own_traffic(far);
        assert_eq!(
            host.bring().changed,
            4,
            "a route and a rule, of both families"
        );
        assert_eq!(host.bring().changed, 0);
    }
    let rules = a.ns.ip("rule show") + &a.ns.ip("-6 rule show");
    for table in [77, 78] {
        let rule = format!("99:\tnot from all fwmark 0x200000/0x200000 lookup {table}");
        assert!(rules.contains(&rule), "{rules}");
    }
    let wire = Wire::tap(&b.ns);
    a.ping("192.0.2.2");
    a.ping("2001:db8::2");
    a.ping("10.65.2.9");
    let (encrypted, plain) = wire.seen();
    assert!(encrypted >= 12, "{encrypted} packets of WireGuard");
    assert_eq!(plain, [[0; 0]; 0], "something went unencrypted");
    // Somebody takes the rule away, and the route.
    a.ns.ip("rule del priority 99");
    a.ns.ip("-6 route flush table 78");
    assert_eq!(a.bring().changed, 2);
    let told =
        a.ns.run(|| clean(&mut Socket::route().unwrap(), true).unwrap());
    for line in [
        "rule 99 to routing table 77",
        "route 192.0.2.2/32 of table 77",
    ] {
        assert!(told.iter().any(|told| told == line), "{told:?}");
    }
    for host in [&mut a, &mut b] {
        host.wanted.wireguard_v4.as_mut().unwrap().host_traffic = None;
        host.wanted.wireguard_v6.as_mut().unwrap().host_traffic = None;
        assert_eq!(host.bring().changed, 4);
    }
    let rules = a.ns.ip("rule show") + &a.ns.ip("-6 rule show");
    assert!(!rules.contains("fwmark"), "{rules}");
    wire.seen();
    a.ping("192.0.2.2");
    assert!(!wire.seen().1.is_empty(), "still encrypted");
}
