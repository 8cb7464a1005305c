//! Whatever the kernel refuses or loses, once, of a device that encrypts: it converges, and nothing that is to be encrypted
//! goes over the cable as it is.

use std::net::UdpSocket;

use super::fault_tests::{converges, fresh};
use super::tests::{clean_round, round};
use super::threads::tests::own_sysfs;
use super::wireguard_lab::*;
use super::*;
use crate::wireguard::{DeviceChange, PeerChange, PeerState, PrivateKey, PublicKey, Wireguard};

/// Of the first host, IPv4 alone, with threads and with what hosts send each other.
fn wanted(a: &mut Host) -> Wanted {
    a.encrypt_own_traffic(2);
    let mut spec = a.wanted.wireguard_v4.clone();
    spec.as_mut().unwrap().threaded = true;
    Wanted {
        wireguard_v4: spec,
        ..Wanted::default()
    }
}

fn peers() -> std::collections::BTreeMap<PublicKey, PeerState> {
    let mut peers = Wireguard::open().unwrap().read(V4).unwrap().peers;
    for peer in peers.values_mut() {
        (peer.last_handshake, peer.received, peer.sent) = (0, 0, 0);
    }
    peers
}

/// Sends to the other host and to a container there, which is there or not.
fn send() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    for far in ["192.0.2.2:9", "10.65.2.9:9"] {
        // Refused where there is no way: then nothing goes out either.
        drop(socket.send_to(b"to be encrypted", far));
    }
}

/// What the first host has sent unencrypted. The other one, which is not told to encrypt what is its own, answers so.
fn in_the_clear(wire: &Wire) -> Vec<Vec<u8>> {
    let (_, mut plain) = wire.seen();
    plain.retain(|frame| frame[12..14] != [0x08, 0x00] || frame[26..30] == [192, 0, 2, 1]);
    plain
}

fn remove_device() {
    let mut socket = Socket::route().unwrap();
    if let Some(device) = device::find(&mut socket, V4).unwrap() {
        device::remove(&mut socket, device.index).unwrap();
    }
}

/// How many rules lead hosts' own packets into the device.
fn rules(a: &Host) -> usize {
    a.ns.ip("rule show").matches("lookup 77").count()
}

#[test]
fn a_device_that_encrypts_is_made_whatever_the_kernel_refuses_once() {
    let dir = dir();
    let Some((mut a, _b)) = two(dir.path()) else {
        return;
    };
    let wanted = wanted(&mut a);
    a.ns.run(|| {
        own_sysfs();
        clean_round(&mut fresh(&wanted));
        let (whole, key) = (peers(), a.keys[0]);
        let after = |when: &str| {
            assert_eq!(peers(), whole, "{when}");
            let state = Wireguard::open().unwrap().read(V4).unwrap();
            assert_eq!((state.public_key, state.mark), (Some(key), MARK), "{when}");
        };
        // With the device go the routes into it; the rule stays.
        converges(&wanted, remove_device, |_| {}, after);
    });
}

#[test]
fn what_somebody_broke_is_mended_without_a_packet_in_the_clear() {
    let dir = dir();
    let Some((mut a, b)) = two(dir.path()) else {
        return;
    };
    let wanted = wanted(&mut a);
    let wire = Wire::tap(&b.ns);
    a.ns.run(|| {
        own_sysfs();
        clean_round(&mut fresh(&wanted));
        let whole = peers();
        let far = b.keys[0];
        let begin = || {
            let mut kernel = Wireguard::open().unwrap();
            let change = DeviceChange {
                private_key: Some(PrivateKey::generate().unwrap()),
                port: Some(9999),
                mark: Some(0),
            };
            kernel.set_device(V4, &change).unwrap();
            let strays = |keep_alive, add: &str| PeerChange::Set {
                endpoint: Some("198.51.100.1:9".parse().unwrap()),
                keep_alive: Some(keep_alive),
                add: vec![net(add)],
                replace: false,
            };
            let broken = [
                (far, strays(7, "0.0.0.0/0")),
                (key(9), strays(0, "10.65.2.0/26")),
            ];
            kernel.set_peers(V4, &broken).unwrap();
            a.ns.ip(&format!("link set {V4} mtu 1300"));
            // In this order: with the last address the kernel takes away the routes.
            a.ns.ip(&format!("addr add 10.65.1.7/32 dev {V4}"));
            a.ns.ip(&format!("addr del 10.65.1.0/32 dev {V4}"));
            a.ns.ip("rule add not fwmark 0x10/0x10 priority 90 lookup 77 protocol 77");
            wire.seen();
        };
        let during = |when: &str| {
            send();
            assert_eq!(in_the_clear(&wire), [[0; 0]; 0], "in the clear, {when}");
        };
        let after = |when: &str| {
            during(when);
            assert_eq!(peers(), whole, "{when}");
            assert_eq!(rules(&a), 1, "{when}");
        };
        converges(&wanted, begin, during, after);
        // Without the rule it would be seen: so the test sees what it should.
        a.ns.ip("rule del priority 99");
        send();
        assert!(
            !in_the_clear(&wire).is_empty(),
            "plain packets are not seen"
        );
    });
}

/// The new rule is there before the old one goes.
#[test]
fn a_rule_gets_another_priority_without_a_packet_in_the_clear() {
    let dir = dir();
    let Some((mut a, b)) = two(dir.path()) else {
        return;
    };
    let before = wanted(&mut a);
    let mut other = before.clone();
    let spec = other.wireguard_v4.as_mut().unwrap();
    spec.host_traffic.as_mut().unwrap().priority = 98;
    let wire = Wire::tap(&b.ns);
    a.ns.run(|| {
        own_sysfs();
        let begin = || {
            clean_round(&mut fresh(&before));
            wire.seen();
        };
        let during = |when: &str| {
            send();
            assert_eq!(in_the_clear(&wire), [[0; 0]; 0], "in the clear, {when}");
        };
        converges(&other, begin, during, |when| {
            assert_eq!(rules(&a), 1, "{when}")
        });
    });
}

#[test]
fn a_device_that_encrypts_goes_whatever_the_kernel_refuses_once() {
    let dir = dir();
    let Some((mut a, _b)) = two(dir.path()) else {
        return;
    };
    let wanted = wanted(&mut a);
    a.ns.run(|| {
        own_sysfs();
        let begin = || drop(clean_round(&mut fresh(&wanted)));
        // A rule without routes would do no harm, routes without a device there are none.
        let after = |when: &str| {
            let mut socket = Socket::route().unwrap();
            assert_eq!(clean(&mut socket, true).unwrap(), [""; 0], "{when}");
        };
        converges(&Wanted::default(), begin, |_| {}, after);
        assert!(round(&mut fresh(&Wanted::default())).failures.is_empty());
    });
}
