use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ipnetwork::IpNetwork;
use proptest::prelude::*;

use super::wire;
use super::*;
use crate::netlink::Batch;

/// Behind the netlink header.
fn payloads(batch: &mut Batch) -> Vec<Vec<u8>> {
    let mut bytes = batch.seal(1);
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
        found.push(bytes[16..length].to_vec());
        bytes = &bytes[length..];
    }
    found
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn key(octet: u8) -> PublicKey {
    PublicKey::from([octet; 32])
}

fn set(endpoint: &str, keep_alive: u16, add: Vec<IpNetwork>) -> PeerChange {
    PeerChange::Set {
        endpoint: Some(endpoint.parse().unwrap()),
        keep_alive: Some(keep_alive),
        add,
        replace: true,
    }
}

/// Field by field as linux/wireguard.h has it.
#[cfg(target_endian = "little")]
#[test]
fn a_peer_is_told_in_the_kernels_octets() {
    let mut batch = Batch::new();
    let change = set("192.0.2.2:51820", 25, vec![net("10.65.2.0/26")]);
    wire::set_peer(&mut batch, 0x1c, "wg0", &key(7), &change);
    let mut expected = vec![1, 1, 0, 0];
    expected.extend([8, 0, 2, 0, b'w', b'g', b'0', 0]);
    // Peers, the only one in it, and its key.
    expected.extend([112, 0, 8, 0x80, 108, 0, 0, 0x80, 36, 0, 1, 0]);
    expected.extend([7; 32]);
    // Allowed addresses are replaced; the endpoint; the interval.
    expected.extend([8, 0, 3, 0, 2, 0, 0, 0]);
    expected.extend([20, 0, 4, 0, 2, 0, 0xca, 0x6c, 192, 0, 2, 2]);
    expected.extend([0; 8]);
    expected.extend([6, 0, 5, 0, 25, 0, 0, 0]);
    expected.extend([32, 0, 9, 0x80, 28, 0, 0, 0x80]);
    expected.extend([6, 0, 1, 0, 2, 0, 0, 0]);
    expected.extend([8, 0, 2, 0, 10, 65, 2, 0]);
    expected.extend([5, 0, 3, 0, 26, 0, 0, 0]);
    assert_eq!(payloads(&mut batch), [expected]);
}

#[cfg(target_endian = "little")]
#[test]
fn a_device_is_told_what_differs_and_nothing_else() {
    let mut batch = Batch::new();
    let change = DeviceChange {
        port: Some(51820),
        mark: Some(0x20_0000),
        ..DeviceChange::default()
    };
    wire::set_device(&mut batch, 0x1c, "wg0", &change);
    let mut expected = vec![1, 1, 0, 0];
    expected.extend([8, 0, 2, 0, b'w', b'g', b'0', 0]);
    expected.extend([6, 0, 6, 0, 0x6c, 0xca, 0, 0]);
    expected.extend([8, 0, 7, 0, 0, 0, 0x20, 0]);
    assert_eq!(payloads(&mut batch), [expected]);
}

/// What is told has the form of what is read: so what is told must be read back, over any number of messages.
#[test]
fn what_is_told_is_read_back_over_many_messages() {
    let many: Vec<IpNetwork> = (0..2500u32)
        .map(|n| {
            let [_, a, b, c] = n.to_be_bytes();
            net(&format!("fd00:{a}:{b}::{c}:0/122"))
        })
        .collect();
    let endpoint: SocketAddr = "[2001:db8::2]:51821".parse().unwrap();
    let mut batch = Batch::new();
    wire::set_device(
        &mut batch,
        0x1c,
        "wg0",
        &DeviceChange {
            private_key: Some(PrivateKey::of([9; 32])),
            port: Some(1),
            mark: Some(2),
        },
    );
    let six = set(&endpoint.to_string(), 3, many.clone());
    wire::set_peer(&mut batch, 0x1c, "wg0", &key(7), &six);
    wire::set_peer(
        &mut batch,
        0x1c,
        "wg0",
        &key(8),
        &set("192.0.2.2:2", 0, vec![]),
    );
    assert_eq!(batch.len(), 1 + 3 + 1);
    let mut device = DeviceState::default();
    for message in payloads(&mut batch) {
        wire::merge(&mut device, &message);
    }
    assert_eq!((device.port, device.mark), (1, 2));
    assert_eq!(device.private_key, Some(PrivateKey::of([9; 32])));
    assert_eq!(device.peers.len(), 2);
    let peer = &device.peers[&key(7)];
    assert_eq!(peer.endpoint, Some(endpoint));
    assert_eq!(peer.keep_alive, 3);
    assert_eq!(peer.allowed, many.into_iter().collect());
}

proptest! {
    #[test]
    fn no_message_makes_it_fail(message in prop::collection::vec(any::<u8>(), 0..300)) {
        wire::merge(&mut DeviceState::default(), &message);
        wire::family_from(&message);
    }

    /// Cut off or changed anywhere.
    #[test]
    fn no_damaged_message_makes_it_fail(at in 0usize..200, to: u8, cut in 0usize..200) {
        let mut batch = Batch::new();
        let change = set("192.0.2.2:51820", 25, vec![net("10.65.2.0/26")]);
        wire::set_peer(&mut batch, 0x1c, "wg0", &key(7), &change);
        let mut message = payloads(&mut batch).remove(0);
        if let Some(octet) = message.get_mut(at) {
            *octet = to;
        }
        message.truncate(message.len() - cut.min(message.len()));
        wire::merge(&mut DeviceState::default(), &message);
    }
}

#[test]
fn keys_are_read_as_the_tools_write_them_and_private_ones_are_not_shown() {
    let text = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    assert_eq!(text.parse(), Ok(key(1)));
    assert_eq!(key(1).to_string(), text);
    for wrong in [
        "",
        "x",
        "AQEB",
        &text[1..],
        &format!("{text}="),
        &format!("{text}{text}"),
    ] {
        assert_eq!(wrong.parse::<PublicKey>(), Err(KeyError), "{wrong}");
    }
    let private = PrivateKey::generate().unwrap();
    assert_ne!(private, PrivateKey::generate().unwrap());
    assert_eq!(format!("{private:?}"), "PrivateKey(..)");
    let state = DeviceState {
        private_key: Some(private),
        ..DeviceState::default()
    };
    assert!(format!("{state:?}").contains("PrivateKey(..)"));
}

#[test]
fn a_key_file_is_its_owners_alone_and_survives_what_a_crash_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sub/wireguard-v4.key");
    assert_eq!(PrivateKey::load(&path).unwrap(), None);
    fs::create_dir(dir.path().join("sub")).unwrap();
    let left = path.with_extension("new");
    fs::write(&left, "half").unwrap();
    let made = PrivateKey::generate().unwrap();
    made.save(&path).unwrap();
    assert_eq!(PrivateKey::load(&path).unwrap(), Some(made));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o600);
    assert!(!left.exists());
    for wrong in [&b"nonsense"[..], b"", &[0xff; 300]] {
        fs::write(&path, wrong).unwrap();
        let told = PrivateKey::load(&path).unwrap_err().to_string();
        assert!(told.contains("holds no private key"), "{told}");
        assert!(!told.contains("nonsense"), "{told}");
    }
}
