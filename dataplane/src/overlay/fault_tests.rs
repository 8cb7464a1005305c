//! Whatever the kernel refuses or loses, once: devices, entries and addresses converge, and nothing floods meanwhile. What is
//! encrypted is in `wireguard_fault_tests`.

use super::tests::{both, clean_round, host, round};
use super::*;
use crate::faults::{self, FAULTS, Fault};
use crate::lab::NetNs;

/// An agent without memory.
pub(super) fn fresh(wanted: &Wanted) -> Overlay {
    let mut overlay = Overlay::open().unwrap();
    overlay.set(wanted.clone());
    overlay.allow_deletes();
    overlay
}

/// Neither learns a device that is there, nor does it send anywhere what it has no entry for.
fn floods_nothing(ns: &NetNs, when: &str) {
    let (is_there, link) = ns.command(&format!("ip -d -o link show dev {VXLAN_V4}"));
    if !is_there {
        return;
    }
    assert!(link.contains("nolearning"), "{when}: {link}");
    let (_, entries) = ns.command(&format!("bridge fdb show dev {VXLAN_V4}"));
    assert!(!entries.contains("00:00:00:00:00:00"), "{when}: {entries}");
}

/// Each thing that is asked of the kernel on the way from what `begin` leaves to what is wanted meets each fault. After the
/// round in which it did, and at the end, all is as `during` and `after` want it.
pub(super) fn converges(
    wanted: &Wanted,
    begin: impl Fn(),
    during: impl Fn(&str),
    after: impl Fn(&str),
) {
    for fault in FAULTS {
        for nth in 0.. {
            begin();
            let mut overlay = fresh(wanted);
            faults::plan(nth, fault);
            let mut report = round(&mut overlay);
            let struck = faults::struck();
            let when = format!("{fault:?} at {nth}");
            during(&when);
            for _ in 0..3 {
                if !report.failures.is_empty() {
                    report = round(&mut overlay);
                }
            }
            assert!(report.failures.is_empty(), "{when}: {:?}", report.failures);
            let left = round(&mut fresh(wanted));
            assert!(left.failures.is_empty(), "{when}: {:?}", left.failures);
            assert_eq!(left.changed, 0, "{when}");
            after(&when);
            if !struck {
                assert!(nth > 1, "only {nth} things were asked");
                break;
            }
        }
    }
}

fn v4_only() -> Wanted {
    Wanted {
        vxlan_v6: None,
        ..both()
    }
}

#[test]
fn a_device_is_made_whatever_the_kernel_refuses_once() {
    let ns = host();
    ns.run(|| {
        let begin = || {
            ns.command(&format!("ip link del {VXLAN_V4}"));
        };
        converges(&v4_only(), begin, |when| floods_nothing(&ns, when), |_| {});
    });
}

#[test]
fn what_somebody_broke_is_mended_whatever_the_kernel_refuses_once() {
    let ns = host();
    ns.run(|| {
        round(&mut fresh(&v4_only()));
        let begin = || {
            for broken in [
                "ip link set vxlan.margay down mtu 1300 address 66:00:00:00:00:77",
                "ip addr add 10.65.1.9/32 dev vxlan.margay",
                "sysctl -qw net/ipv4/conf/vxlan.margay/rp_filter=1",
                "bridge fdb replace 66:00:00:00:00:02 dev vxlan.margay dst 192.0.2.99",
                "bridge fdb add 66:00:00:00:00:88 dev vxlan.margay dst 192.0.2.88",
                "ip neigh replace 10.65.3.0 lladdr 66:00:00:00:00:99 dev vxlan.margay nud permanent",
            ] {
                let (done, said) = ns.command(broken);
                assert!(done, "{broken}: {said}");
            }
        };
        converges(&v4_only(), begin, |when| floods_nothing(&ns, when), |_| {});
    });
}

#[test]
fn a_device_goes_whatever_the_kernel_refuses_once() {
    let ns = host();
    ns.run(|| {
        let begin = || {
            round(&mut fresh(&v4_only()));
        };
        let during = |when: &str| floods_nothing(&ns, when);
        let after = |when: &str| assert!(!ns.ip("-o link show").contains(VXLAN_V4), "{when}");
        converges(&Wanted::default(), begin, during, after);
    });
}

/// What fails always is told of each time, and keeps nothing else from being done.
#[test]
fn a_device_that_always_fails_leaves_the_others_alone() {
    let ns = host();
    ns.ip(&format!("link add {VXLAN_V4} type bridge"));
    ns.run(|| {
        let mut overlay = fresh(&both());
        for nth in 0..5 {
            ns.command(&format!("ip link del {VXLAN_V6}"));
            overlay.invalidate();
            faults::plan(nth, Fault::Refused(libc::EBUSY));
            round(&mut overlay);
            faults::struck();
            let report = round(&mut overlay);
            assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
            let links = ns.ip("-o link show");
            assert!(links.contains(&format!(" {VXLAN_V6}:")), "{links}");
        }
    });
}

fn ipip() -> Wanted {
    Wanted {
        ipip: Some(IpipSpec {
            mtu: 1400,
            address: Some([10, 65, 1, 0].into()),
        }),
        ..Wanted::default()
    }
}

/// Whether the kernel has the driver; says so loudly where it has not.
fn has_ipip() -> bool {
    let failures = round(&mut fresh(&ipip())).failures;
    if let Some(told) = failures.first() {
        assert!(
            matches!(
                told,
                OverlayError::Kernel {
                    action: "create",
                    ..
                }
            ),
            "{told}"
        );
        eprintln!(
            "NOT RUN: this kernel has no IP in IP ({told}); `make test-vm` runs it on one that has"
        );
    }
    failures.is_empty()
}

/// The device in short: whether it is up, its MTU, its addresses.
fn tunl0() -> (bool, u32, Vec<String>) {
    let mut socket = Socket::route().unwrap();
    let device = device::find(&mut socket, IPIP).unwrap().unwrap();
    let addresses = device::addresses(&mut socket, device.index).unwrap();
    let addresses = addresses.iter().map(|a| a.address.address.to_string());
    (device.link.up, device.link.mtu, addresses.collect())
}

fn commands(ns: &NetNs, lines: &[&str]) {
    for line in lines {
        let (done, said) = ns.command(line);
        assert!(done, "{line}: {said}");
    }
}

#[test]
fn ipip_is_set_up_and_mended_whatever_the_kernel_refuses_once() {
    let ns = host();
    ns.run(|| {
        if !has_ipip() {
            return;
        }
        // Somebody else's: never touched, whatever fails.
        commands(&ns, &["ip addr add 203.0.113.1/32 dev tunl0"]);
        let begin = || {
            commands(
                &ns,
                &[
                    "ip addr del 10.65.1.0/32 dev tunl0",
                    "ip addr add 10.65.1.9/32 dev tunl0 label tunl0:margay",
                    "ip link set tunl0 down mtu 1300",
                    "sysctl -qw net/ipv4/conf/tunl0/rp_filter=1",
                ],
            );
        };
        let during = |when: &str| {
            let (_, _, addresses) = tunl0();
            assert!(
                addresses.contains(&"203.0.113.1/32".to_owned()),
                "{when}: {addresses:?}"
            );
        };
        let whole = tunl0();
        assert!(whole.0 && whole.1 == 1400, "{whole:?}");
        let after = |when: &str| {
            let (up, mtu, mut addresses) = tunl0();
            addresses.sort();
            assert_eq!(addresses, ["10.65.1.0/32", "203.0.113.1/32"], "{when}");
            assert_eq!((up, mtu), (true, 1400), "{when}");
            assert_eq!(
                crate::sysctl::read("net/ipv4/conf/tunl0/rp_filter").unwrap(),
                "2",
                "{when}"
            );
        };
        converges(&ipip(), begin, during, after);
    });
}

/// Down as well, for it would go on taking packets; but not where somebody else needs it.
#[test]
fn ipip_is_taken_away_whatever_the_kernel_refuses_once() {
    let ns = host();
    ns.run(|| {
        if !has_ipip() {
            return;
        }
        let begin = || drop(clean_round(&mut fresh(&ipip())));
        let after = |when: &str| {
            let (up, _, addresses) = tunl0();
            assert_eq!((up, addresses), (false, vec![]), "{when}");
        };
        converges(&Wanted::default(), begin, |_| {}, after);
        commands(&ns, &["ip addr add 203.0.113.1/32 dev tunl0"]);
        let others = |when: &str| {
            let (up, _, addresses) = tunl0();
            assert!(
                up && addresses.contains(&"203.0.113.1/32".to_owned()),
                "{when}: {addresses:?}"
            );
        };
        converges(&Wanted::default(), begin, others, |when| {
            assert_eq!(tunl0().2, ["203.0.113.1/32"], "{when}");
        });
    });
}
