use super::*;
use crate::request::ParkRequest;
use crate::sticky::{self, Held, LAST_NODE, LEASE_UNTIL, parked_until};

const HANDLE: &str = "net1.sticky-1";

fn request(container: &str, seen: &[Held], second: i64) -> AssignRequest {
    let mut request = AssignRequest::new(HANDLE, 1, 0, at(second));
    let endpoint = format!("default/{container}");
    request.attrs = sticky::attrs("web-0", 100, container, &endpoint, 0);
    request.take_over = Some(seen.iter().map(|h| Arc::clone(&h.attribute)).collect());
    request
}

fn park(container: &str, second: i64) -> ParkRequest {
    ParkRequest {
        handle_id: HANDLE.into(),
        container: container.into(),
        now: at(second),
        extra: crate::request::Extra::default(),
    }
}

struct Two {
    n1: Allocator<MemStore>,
    n2: Allocator<MemStore>,
}

/// `c1` on n1 has the identity's address.
fn held() -> (Two, IpAddr) {
    let store = MemStore::default();
    let view = || view([pool("p", "10.0.0.0/16", 26)]);
    let mut two = Two {
        n1: allocator(&store, "n1", view()),
        n2: allocator(&store, "n2", view()),
    };
    let outcome = block_on(two.n1.assign(request("c1", &[], 0))).unwrap();
    (two, outcome.addresses[0].ip)
}

#[test]
fn a_parked_address_goes_to_the_same_identity_on_another_node() {
    let (mut two, ip) = held();
    let parked = block_on(two.n1.park(park("c1", 10))).unwrap();
    assert_eq!(parked.addresses[0].ip, ip);
    let seen = block_on(two.n2.held_by(HANDLE)).unwrap();
    assert_eq!(parked_until(&seen[0].attribute), Some(at(110)));
    assert_eq!(seen[0].attr(LAST_NODE), Some("n1"));
    assert_eq!(seen[0].attr("node"), None);
    let other = block_on(two.n2.assign(AssignRequest::new("net1.x", 1, 0, at(11)))).unwrap();
    assert_ne!(other.addresses[0].ip, ip);

    let got = block_on(two.n2.assign(request("c2", &seen, 20))).unwrap();
    assert_eq!(got.addresses[0].ip, ip);
    assert!(got.addresses[0].borrowed);
    let now = block_on(two.n1.held_by(HANDLE)).unwrap();
    assert_eq!(now[0].attr("node"), Some("n2"));
    assert_eq!(now[0].attr(LEASE_UNTIL), None);
    assert_ne!(now[0].sequence, seen[0].sequence);
    // The handle counts the address once, so that its release ends the handle.
    let released = block_on(two.n1.release_by_handle(release(HANDLE, 30))).unwrap();
    assert_eq!(released.addresses.len(), 1);
    assert!(block_on(two.n2.held_by(HANDLE)).unwrap().is_empty());
}

#[test]
fn an_address_in_use_is_taken_over_and_the_old_container_cannot_park_it() {
    let (mut two, ip) = held();
    let seen = block_on(two.n2.held_by(HANDLE)).unwrap();
    let got = block_on(two.n2.assign(request("c2", &seen, 20))).unwrap();
    assert_eq!(got.addresses[0].ip, ip);
    let parked = block_on(two.n1.park(park("c1", 30))).unwrap();
    assert!(parked.addresses.is_empty());
    let now = block_on(two.n1.held_by(HANDLE)).unwrap();
    assert_eq!(parked_until(&now[0].attribute), None);
}

#[test]
fn of_two_that_take_over_what_they_both_saw_one_must_look_again() {
    let (mut two, ip) = held();
    block_on(two.n1.park(park("c1", 10))).unwrap();
    let seen = block_on(two.n2.held_by(HANDLE)).unwrap();
    block_on(two.n2.assign(request("c2", &seen, 20))).unwrap();
    let error = block_on(two.n1.assign(request("c3", &seen, 21))).unwrap_err();
    assert!(
        matches!(&error, IpamError::Moved { ip: moved, .. } if *moved == ip),
        "{error}"
    );
    let seen = block_on(two.n1.held_by(HANDLE)).unwrap();
    let got = block_on(two.n1.assign(request("c3", &seen, 22))).unwrap();
    assert_eq!(got.addresses[0].ip, ip);
}

#[test]
fn a_lease_that_is_over_frees_the_address_unless_it_was_taken_again() {
    let (mut two, ip) = held();
    block_on(two.n1.park(park("c1", 10))).unwrap();
    let seen = block_on(two.n1.held_nearby()).unwrap();
    assert!(!seen[0].is_expired(at(109)) && seen[0].is_expired(at(110)));
    block_on(two.n2.assign(request("c2", &seen, 111))).unwrap();
    let error = block_on(two.n1.release_ip(seen[0].release(at(112)))).unwrap_err();
    assert!(matches!(error, IpamError::Mismatch { .. }), "{error}");

    block_on(two.n2.park(park("c2", 120))).unwrap();
    let (seen, owners) = block_on(two.n1.held_everywhere()).unwrap();
    assert_eq!(owners.len(), 1);
    let freed = block_on(two.n1.release_ip(seen[0].release(at(230)))).unwrap();
    assert_eq!(freed.addresses[0].ip, ip);
    assert!(block_on(two.n1.held_by(HANDLE)).unwrap().is_empty());
}

#[test]
fn a_node_that_is_given_up_leaves_parked_addresses_alone() {
    let (mut two, ip) = held();
    block_on(two.n1.park(park("c1", 10))).unwrap();
    let (addresses, blocks, failures) = block_on(two.n2.release_node("n1", at(20))).unwrap();
    assert_eq!((addresses, blocks, failures.len()), (0, 1, 0));
    let seen = block_on(two.n2.held_by(HANDLE)).unwrap();
    let got = block_on(two.n2.assign(request("c2", &seen, 30))).unwrap();
    assert_eq!(got.addresses[0].ip, ip);
}

#[test]
fn each_move_to_another_node_counts_and_each_return_to_the_same_does_not() {
    let (mut two, _) = held();
    let mut expected = 0;
    for (second, node) in [(10, "n1"), (20, "n2"), (30, "n2"), (40, "n1"), (50, "n2")] {
        let allocator = match node {
            "n1" => &mut two.n1,
            _ => &mut two.n2,
        };
        let seen = block_on(allocator.held_by(HANDLE)).unwrap();
        expected += u32::from(seen[0].attr("node").or(seen[0].attr(LAST_NODE)) != Some(node));
        let moves = sticky::moves_to(node, &seen);
        assert_eq!(moves, expected, "at {second}");
        let container = format!("c{second}");
        let mut request = request(&container, &seen, second);
        request
            .attrs
            .insert(sticky::MOVES.into(), moves.to_string());
        block_on(allocator.assign(request)).unwrap();
        // Parked or not, the count goes on.
        if second % 20 == 0 {
            block_on(allocator.park(park(&container, second + 1))).unwrap();
        }
    }
    assert_eq!(expected, 3);
    assert_eq!(sticky::moves_to("n1", &[]), 0);
}

#[test]
fn what_is_under_way_does_not_take_effect_once_its_container_was_parked() {
    for fresh in [true, false] {
        let store = MemStore::default();
        let mut n1 = allocator(&store, "n1", view([pool("p", "10.0.0.0/16", 26)]));
        if !fresh {
            block_on(n1.assign(request("c1", &[], 0))).unwrap();
            block_on(n1.park(park("c1", 1))).unwrap();
        }
        let seen = block_on(n1.held_by(HANDLE)).unwrap();
        store.hold_up(3);
        block_on(n1.assign(request("c2", &seen, 2))).unwrap_err();
        assert!(store.held_up() > 0);
        block_on(n1.park(park("c2", 3))).unwrap();
        store.settle();
        let held = block_on(n1.held_by(HANDLE)).unwrap();
        let running = held.iter().filter(|h| parked_until(&h.attribute).is_none());
        assert_eq!(running.count(), 0, "fresh: {fresh}");
    }
}

/// Both hosts remove the same endpoint: that it is gone proves nothing.
#[test]
fn a_lost_answer_is_not_taken_for_success_because_another_host_did_the_same() {
    let with = |mut request: AssignRequest, container: &str| {
        let own = format!("/endpoints/{container}");
        request.attrs.insert("container".into(), container.into());
        request.with_extra(move |_: &[Address]| {
            let txn = margay_model::store::Txn::default().put(own.clone(), "x");
            crate::request::Extra::from(txn.when("/endpoints/c1", 1).delete("/endpoints/c1"))
        })
    };
    let mut refused = 0;
    for polls in 0..60 {
        let store = MemStore::default();
        store.put("/endpoints/c1", "x");
        let node = |name: &str| allocator(&store, name, view([pool("p", "10.0.0.0/16", 26)]));
        let (mut n1, mut n2, mut n3) = (node("n1"), node("n2"), node("n3"));
        block_on(n1.assign(request("c1", &[], 0))).unwrap();
        let seen = block_on(n2.held_by(HANDLE)).unwrap();
        let lost = store.counts();
        store.hold_up(1);
        let mut assign = Box::pin(n2.assign(with(request("c2", &seen, 1), "c2")));
        let mut cx = Context::from_waker(Waker::noop());
        let mut early = None;
        for _ in 0..polls {
            if let Poll::Ready(result) = assign.as_mut().poll(&mut cx) {
                early = Some(result);
                break;
            }
        }
        if store.counts() == lost || store.held_up() == 0 {
            continue;
        }
        let third = block_on(n3.assign(with(request("c3", &seen, 2), "c3")));
        let second = early.unwrap_or_else(|| block_on(assign));
        assert!(
            second.is_ok() != third.is_ok(),
            "{polls}: {second:?} {third:?}"
        );
        refused += usize::from(matches!(second, Err(IpamError::ExtraConflict { .. })));
    }
    assert!(refused > 0);
}
