//! Clocks that jump: time is an argument, so a jump is another argument.

use super::*;
use crate::request::ParkRequest;
use crate::sticky;

const HOUR: i64 = 3600;

/// Two addresses, both released at second 0, with a cooldown of 30 s.
fn released() -> Allocator<MemStore> {
    let mut config = view([pool("p", "10.0.0.0/31", 31)]);
    config.config.ip_cooldown_seconds = Some(30);
    let mut allocator = allocator(&MemStore::default(), "n1", config);
    block_on(allocator.assign(AssignRequest::new("a", 2, 0, at(0)))).unwrap();
    block_on(allocator.release_by_handle(release("a", 0))).unwrap();
    allocator
}

#[test]
fn an_address_rests_for_its_time_and_no_clock_keeps_it_for_ever() {
    for (second, free) in [
        (29, false),
        (30, true),
        // Forward by a year, and back by less and by more than clocks of hosts may differ.
        (8760 * HOUR, true),
        (-HOUR / 2, false),
        (-HOUR, false),
        (-HOUR - 1, true),
        (-8760 * HOUR, true),
    ] {
        let mut allocator = released();
        let result = block_on(allocator.assign(AssignRequest::new("b", 1, 0, at(second))));
        match result {
            Ok(outcome) => assert!(free && outcome.addresses.len() == 1, "at {second}"),
            Err(error) => {
                let hint = "2 were released less than 30 s ago and rest";
                assert!(
                    !free && error.to_string().contains(hint),
                    "at {second}: {error}"
                );
                // Nothing is lost: when the clock is right again the address is there.
                block_on(allocator.assign(AssignRequest::new("b", 1, 0, at(31)))).unwrap();
            }
        }
    }
}

#[test]
fn a_lease_ends_by_the_clock_and_its_identity_has_the_address_until_then() {
    let store = MemStore::default();
    let mut n1 = allocator(&store, "n1", view([pool("p", "10.0.0.0/24", 26)]));
    let request = |container: &str, seen: &[sticky::Held], second: i64| {
        let mut request = AssignRequest::new("net.sticky", 1, 0, at(second));
        request.attrs = sticky::attrs("db", 100, container, container, 0);
        let seen = seen.iter().map(|held| Arc::clone(&held.attribute));
        request.take_over = Some(seen.collect());
        request
    };
    let first = block_on(n1.assign(request("c1", &[], 0))).unwrap();
    let park = |container: &str, second: i64| ParkRequest {
        handle_id: "net.sticky".into(),
        container: container.into(),
        now: at(second),
        extra: crate::request::Extra::default(),
    };
    block_on(n1.park(park("c1", 0))).unwrap();
    let held = block_on(n1.held_by("net.sticky")).unwrap();
    for (second, over) in [
        (-24 * HOUR, false),
        (0, false),
        (99, false),
        (100, true),
        (24 * HOUR, true),
    ] {
        assert_eq!(held[0].is_expired(at(second)), over, "at {second}");
    }
    // The clock went back by a day: the same address, and a lease that counts from there.
    let again = block_on(n1.assign(request("c2", &held, -24 * HOUR))).unwrap();
    assert_eq!(again.addresses[0].ip, first.addresses[0].ip);
    block_on(n1.park(park("c2", -24 * HOUR))).unwrap();
    let held = block_on(n1.held_by("net.sticky")).unwrap();
    assert!(held[0].is_expired(at(-24 * HOUR + 100)) && !held[0].is_expired(at(-24 * HOUR + 99)));
    // A lease that ends beyond all time does not.
    block_on(n1.assign(request("c3", &held, 0))).unwrap();
    let mut last = park("c3", 0);
    last.now = Timestamp::MAX;
    block_on(n1.park(last)).unwrap();
    assert!(!block_on(n1.held_by("net.sticky")).unwrap()[0].is_expired(at(0)));
}
