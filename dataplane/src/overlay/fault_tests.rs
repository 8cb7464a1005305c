//! Whatever the kernel refuses or loses, once: devices, entries and addresses converge, and nothing floods meanwhile.

use super::tests::{both, host, round};
use super::*;
use crate::faults::{self, FAULTS, Fault};
use crate::lab::NetNs;

/// An agent without memory.
fn fresh(wanted: &Wanted) -> Overlay {
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

/// Each thing that is asked of the kernel on the way from what `begin` leaves to what is wanted meets each fault.
fn converges(ns: &NetNs, wanted: &Wanted, begin: impl Fn()) {
    for fault in FAULTS {
        for nth in 0.. {
            begin();
            let mut overlay = fresh(wanted);
            faults::plan(nth, fault);
            let mut report = round(&mut overlay);
            let struck = faults::struck();
            let when = format!("{fault:?} at {nth}");
            floods_nothing(ns, &when);
            for _ in 0..3 {
                if !report.failures.is_empty() {
                    report = round(&mut overlay);
                }
            }
            assert!(report.failures.is_empty(), "{when}: {:?}", report.failures);
            let left = round(&mut fresh(wanted));
            assert!(left.failures.is_empty(), "{when}: {:?}", left.failures);
            assert_eq!(left.changed, 0, "{when}");
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
        converges(&ns, &v4_only(), begin);
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
        converges(&ns, &v4_only(), begin);
    });
}

#[test]
fn a_device_goes_whatever_the_kernel_refuses_once() {
    let ns = host();
    ns.run(|| {
        let begin = || {
            round(&mut fresh(&v4_only()));
        };
        converges(&ns, &Wanted::default(), begin);
        assert!(!ns.ip("-o link show").contains(VXLAN_V4));
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
