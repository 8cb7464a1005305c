//! One behaviour a test.

use margay_model::net::Cidr;
use margay_model::store::Txn;

use super::*;
use crate::request::Extra;

fn one(handle: &str, second: i64) -> AssignRequest {
    AssignRequest::new(handle, 1, 0, at(second))
}

fn ips(result: Result<Outcome, IpamError>) -> Vec<String> {
    let addresses = result.unwrap().addresses;
    addresses.iter().map(|a| a.ip.to_string()).collect()
}

fn specific(handle: &str, address: &str) -> AssignRequest {
    let mut request = AssignRequest::new(handle, 0, 0, at(0));
    request.ips = vec![ip(address)];
    request
}

#[test]
fn the_usual_change_is_one_transaction_and_no_read() {
    let store = MemStore::default();
    let mut allocator = allocator(&store, "n1", view([pool("p", "10.0.0.0/24", 26)]));
    block_on(allocator.assign(one("a", 0))).unwrap();
    let (txns, reads) = store.counts();
    block_on(allocator.assign(one("b", 0))).unwrap();
    block_on(allocator.release_by_handle(release("a", 0))).unwrap();
    assert_eq!(store.counts(), (txns + 2, reads));
    assert_eq!(store.check(), Ok(1));
}

#[test]
fn a_batch_of_a_hundred_with_endpoints_takes_two_transactions() {
    let store = MemStore::default();
    let mut allocator = allocator(&store, "n1", view([pool("p", "10.0.0.0/24", 26)]));
    block_on(allocator.assign(one("first", 0))).unwrap();
    let before = store.counts().0;
    let requests = (0..100).map(|i| {
        one(&format!("h{i}"), 0).with_extra(move |addresses: &[Address]| Extra {
            txn: Txn::default()
                .when(format!("/wep/{i}"), 0)
                .put(format!("/wep/{i}"), addresses[0].ip.to_string()),
            create_if_absent: vec![("/profile".to_owned(), b"shared".to_vec())],
        })
    });
    let results = block_on(allocator.assign_batch(requests.collect()));
    for (i, result) in results.into_iter().enumerate() {
        let address = result.unwrap().addresses[0].ip.to_string();
        assert_eq!(store.value(&format!("/wep/{i}")), Some(address));
    }
    assert_eq!(store.value("/profile").unwrap(), "shared");
    assert!(
        store.counts().0 - before <= 3,
        "{}",
        store.counts().0 - before
    );
    assert_eq!(store.check(), Ok(101));
}

#[test]
fn a_full_pool_borrows_gives_back_and_then_says_why_it_cannot() {
    let store = MemStore::default();
    let view = view([pool("p", "10.0.0.0/30", 31)]);
    let mut n1 = allocator(&store, "n1", view.clone());
    let mut n2 = allocator(&store, "n2", view.clone());
    let mut n3 = allocator(&store, "n3", view);
    block_on(n1.assign(one("a", 0))).unwrap();
    block_on(n2.assign(one("b", 0))).unwrap();
    let borrowed = block_on(n3.assign(one("c", 0))).unwrap().addresses[0];
    assert!(borrowed.borrowed);
    let usage = block_on(n3.usage()).unwrap();
    assert_eq!(
        (
            usage.pools[0].used,
            usage.pools[0].blocks,
            usage.pools[0].free()
        ),
        (3, 2, 1)
    );
    assert_eq!(
        (usage.borrowed[0].ip, usage.borrowed[0].node.as_str()),
        (borrowed.ip, "n3")
    );
    block_on(n3.assign(one("d", 0))).unwrap();
    let error = block_on(n3.assign(one("e", 0))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no free IPv4 address for node n3 in p (10.0.0.0/30)"
    );
    block_on(n3.release_by_handle(release("c", 0))).unwrap();
    assert_eq!(
        ips(block_on(n1.assign(one("f", 0)))),
        [borrowed.ip.to_string()]
    );
    assert_eq!(store.check(), Ok(4));
}

#[test]
fn strict_affinity_and_block_limit_stop_borrowing_and_claiming() {
    let store = MemStore::default();
    let mut strict = view([pool("p", "10.0.0.0/29", 31)]);
    strict.config.strict_affinity = true;
    strict.config.max_blocks_per_host = 1;
    let mut n1 = allocator(&store, "n1", strict.clone());
    let mut n2 = allocator(&store, "n2", strict);
    block_on(n2.assign(one("other", 0))).unwrap();
    let error = block_on(n1.assign(AssignRequest::new("h", 3, 0, at(0)))).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("in p (10.0.0.0/29)") && error.contains("; strictAffinity forbids"),
        "{error}"
    );
    assert_eq!(store.check(), Ok(1));
    block_on(n1.assign(AssignRequest::new("h", 2, 0, at(0)))).unwrap();
    let error = block_on(n1.assign(one("g", 0))).unwrap_err().to_string();
    assert!(
        error.contains("the node has 1 blocks, maxBlocksPerHost allows 1"),
        "{error}"
    );
}

#[test]
fn half_of_a_dual_stack_request_takes_nothing() {
    let store = MemStore::default();
    let pools = [pool("v4", "10.0.0.0/24", 26), pool("v6", "fd00::/128", 128)];
    let mut allocator = allocator(&store, "n1", view(pools));
    let both = |handle: &str| AssignRequest::new(handle, 1, 1, at(0));
    assert_eq!(
        block_on(allocator.assign(both("a")))
            .unwrap()
            .addresses
            .len(),
        2
    );
    assert!(block_on(allocator.assign(both("b"))).is_err());
    assert_eq!(store.check(), Ok(2));
    assert_eq!(store.value("/calico/ipam/v2/handle/b"), None);
}

#[test]
fn v6_blocks_and_single_address_blocks_work() {
    let store = MemStore::default();
    let pools = [
        pool("v6", "fd00:10::/121", 122),
        pool("v4", "10.0.0.0/30", 32),
    ];
    let mut allocator = allocator(&store, "n1", view(pools));
    let outcome = block_on(allocator.assign(AssignRequest::new("a", 4, 65, at(0)))).unwrap();
    assert_eq!(outcome.addresses.len(), 69);
    assert_eq!(
        store
            .keys()
            .iter()
            .filter(|k| k.contains("ipv6/block"))
            .count(),
        4
    );
    assert_eq!(store.check(), Ok(69));
    block_on(allocator.release_by_handle(release("a", 0))).unwrap();
    assert_eq!(store.check(), Ok(0));
}

#[test]
fn pools_are_used_in_the_order_in_which_they_are_named() {
    let store = MemStore::default();
    let pools = [pool("a", "10.0.0.0/31", 31), pool("b", "10.1.0.0/31", 31)];
    let mut allocator = allocator(&store, "n1", view(pools));
    let mut request = AssignRequest::new("h", 3, 0, at(0));
    request.v4_pools = vec!["b".parse().unwrap(), "10.0.0.0/31".parse().unwrap()];
    let got = ips(block_on(allocator.assign(request)));
    assert_eq!(got, ["10.1.0.0", "10.1.0.1", "10.0.0.0"]);
}

#[test]
fn a_specific_address_is_given_once_adopted_by_its_holder_and_refused_with_the_reason() {
    let store = MemStore::default();
    let mut config = view([pool("p", "10.0.0.0/24", 26)]);
    config.reserved = ["10.0.0.9/32".parse::<Cidr>().unwrap()]
        .into_iter()
        .collect();
    let mut n1 = allocator(&store, "n1", config.clone());
    let mut n2 = allocator(&store, "n2", config);
    assert_eq!(
        ips(block_on(n1.assign(specific("a", "10.0.0.77")))),
        ["10.0.0.77"]
    );
    assert_eq!(
        ips(block_on(n1.assign(specific("a", "10.0.0.77")))),
        ["10.0.0.77"]
    );
    assert_eq!(
        ips(block_on(n2.assign(specific("a", "10.0.0.77")))),
        ["10.0.0.77"]
    );
    for (address, reason) in [
        ("10.0.0.77", "10.0.0.77 is taken by a on node n1"),
        ("10.0.0.9", "10.0.0.9 is reserved"),
        ("10.9.0.0", "10.9.0.0 lies in no pool"),
    ] {
        let error = block_on(n2.assign(specific("b", address))).unwrap_err();
        assert_eq!(error.to_string(), reason);
    }
    assert_eq!(store.check(), Ok(1));
    let addresses = block_on(n2.ips_of_handle("a")).unwrap();
    assert_eq!(
        (addresses[0].ip, addresses[0].borrowed),
        (ip("10.0.0.77"), true)
    );
}

#[test]
fn a_released_address_rests_and_is_not_counted() {
    let store = MemStore::default();
    let mut config = view([pool("p", "10.0.0.0/31", 31)]);
    config.config.ip_cooldown_seconds = Some(30);
    let mut allocator = allocator(&store, "n1", config);
    block_on(allocator.assign(AssignRequest::new("a", 2, 0, at(0)))).unwrap();
    block_on(allocator.release_by_handle(release("a", 10))).unwrap();
    assert_eq!(store.check(), Ok(0));
    let error = block_on(allocator.assign(one("b", 39)))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("2 were released less than 30 s ago"),
        "{error}"
    );
    let error = block_on(allocator.assign(specific("b", "10.0.0.1")))
        .unwrap_err()
        .to_string();
    assert!(error.contains("may be used again 30 s later"), "{error}");
    assert_eq!(ips(block_on(allocator.assign(one("b", 40)))), ["10.0.0.0"]);
}

#[test]
fn releasing_twice_is_success_and_the_callers_part_is_done() {
    let store = MemStore::default();
    store.put("/wep", "x");
    let mut allocator = allocator(&store, "n1", view([pool("p", "10.0.0.0/24", 26)]));
    block_on(allocator.assign(one("a", 0))).unwrap();
    assert_eq!(
        ips(block_on(allocator.release_by_handle(release("a", 0)))).len(),
        1
    );
    let mut again = release("a", 0);
    again.extra = Txn::default().delete("/wep").into();
    assert!(ips(block_on(allocator.release_by_handle(again))).is_empty());
    assert_eq!(store.value("/wep"), None);
}

#[test]
fn a_compare_of_the_caller_that_fails_fails_its_request_alone() {
    let store = MemStore::default();
    let revision = store.put("/wep/1", "old");
    let mut allocator = allocator(&store, "n1", view([pool("p", "10.0.0.0/24", 26)]));
    let requests = (0..3).map(|i| {
        let key = format!("/wep/{i}");
        one(&key, 0)
            .with_extra(move |_: &[Address]| Txn::default().when(&*key, 0).put(&*key, "new"))
    });
    let results = block_on(allocator.assign_batch(requests.collect()));
    assert!(results[0].is_ok() && results[2].is_ok());
    match results[1].as_ref().unwrap_err() {
        IpamError::ExtraConflict { compared } => {
            assert_eq!(compared[0].1.as_ref().unwrap().mod_revision, revision);
        }
        other => panic!("{other}"),
    }
    assert_eq!(store.check(), Ok(2));
}

#[test]
fn release_of_an_address_checks_holder_and_time() {
    let store = MemStore::default();
    let mut allocator = allocator(&store, "n1", view([pool("p", "10.0.0.0/24", 26)]));
    let address = block_on(allocator.assign(one("a", 0))).unwrap().addresses[0].ip;
    let request = |handle: Option<&str>, sequence| ReleaseIpRequest {
        ip: address,
        sequence,
        handle_id: handle.map(str::to_owned),
        now: at(0),
        extra: Extra::default(),
    };
    for wrong in [request(Some("b"), None), request(None, Some(7))] {
        let error = block_on(allocator.release_ip(wrong)).unwrap_err();
        assert!(matches!(error, IpamError::Mismatch { .. }), "{error}");
    }
    assert_eq!(
        ips(block_on(allocator.release_ip(request(Some("a"), None)))).len(),
        1
    );
    assert_eq!(
        ips(block_on(allocator.release_ip(request(Some("a"), None)))).len(),
        0
    );
    assert_eq!(store.check(), Ok(0));
    assert_eq!(store.value("/calico/ipam/v2/handle/a"), None);
}

#[test]
fn a_damaged_block_stops_neither_assignment_nor_release() {
    let store = MemStore::default();
    let mut allocator = allocator(&store, "n1", view([pool("p", "10.0.0.0/28", 30)]));
    let first = block_on(allocator.assign(AssignRequest::new("a", 6, 0, at(0)))).unwrap();
    let damaged = first.addresses[0].block;
    let key = allocator.keys().block(damaged);
    let revision = store.put(&key, "{\"cidr\":");
    allocator.observe(&key, Some(b"{\"cidr\":"), revision);
    let second = block_on(allocator.assign(one("b", 0))).unwrap();
    assert_ne!(second.addresses[0].block, damaged);
    let released = block_on(allocator.release_by_handle(release("a", 0))).unwrap();
    assert_eq!(released.addresses.len(), 2);
    assert!(
        released.skipped[0].reason.starts_with(&key),
        "{:?}",
        released.skipped
    );
    assert!(block_on(allocator.load()).unwrap().damaged[0].starts_with(&key));
}

#[test]
fn a_block_whose_pool_is_gone_gives_nothing_and_goes_with_its_last_address() {
    let store = MemStore::default();
    let mut allocator = allocator(&store, "n1", view([pool("p", "10.0.0.0/24", 26)]));
    block_on(allocator.assign(one("a", 0))).unwrap();
    allocator.set_view(view([pool("q", "10.1.0.0/24", 26)]));
    assert_eq!(
        block_on(allocator.assign(one("b", 0))).unwrap().addresses[0]
            .block
            .network()
            .to_string()
            .split('.')
            .nth(1),
        Some("1")
    );
    block_on(allocator.release_by_handle(release("a", 0))).unwrap();
    assert!(
        store.keys().iter().all(|key| !key.contains("/10.0.0.")),
        "{:?}",
        store.keys()
    );
}

#[test]
fn an_empty_block_of_another_host_is_taken_over_when_it_is_old() {
    let store = MemStore::default();
    let config = view([pool("p", "10.0.0.0/31", 31)]);
    let mut n1 = allocator(&store, "n1", config.clone());
    let mut strict = config;
    strict.config.strict_affinity = true;
    let mut n2 = allocator(&store, "n2", strict);
    block_on(n1.assign(one("a", 0))).unwrap();
    block_on(n1.release_by_handle(release("a", 1))).unwrap();
    assert!(block_on(n2.assign(one("b", 59))).is_err());
    let got = block_on(n2.assign(one("b", 60))).unwrap();
    assert!(!got.addresses[0].borrowed);
    assert_eq!(store.check(), Ok(1));
    assert!(block_on(n1.blocks_of("n1")).unwrap().is_empty());
    // n1 still remembers the block as its own.
    let borrowed = block_on(n1.assign(one("c", 61))).unwrap();
    assert!(borrowed.addresses[0].borrowed);
}

#[test]
fn unfinished_affinities_of_other_agents_are_confirmed_or_removed() {
    let store = MemStore::default();
    let config = view([pool("p", "10.0.0.0/24", 26)]);
    let mut before = allocator(&store, "n1", config.clone());
    let own = block_on(before.assign(one("a", 0))).unwrap().addresses[0].block;
    let keys = before.keys().clone();
    let owner = margay_model::ipam::Owner::Host("n1".to_owned());
    store.put(
        &keys.affinity(&owner, own),
        r#"{"state":"pendingDeletion"}"#,
    );
    let never_made = "10.7.0.0/26".parse().unwrap();
    store.put(&keys.affinity(&owner, never_made), r#"{"state":"pending"}"#);
    let mut after = allocator(&store, "n1", config);
    let loaded = block_on(after.load()).unwrap();
    assert_eq!((loaded.blocks, loaded.repaired.len()), (vec![own], 2));
    assert_eq!(store.check(), Ok(1));
    assert_eq!(after.own_blocks()[0].used, 1);
    let (txns, reads) = store.counts();
    block_on(after.assign(one("b", 0))).unwrap();
    assert_eq!(store.counts(), (txns + 1, reads));
}

#[test]
fn a_node_that_is_gone_leaves_nothing_behind() {
    let store = MemStore::default();
    let config = view([pool("p", "10.0.0.0/29", 30)]);
    let mut gone = allocator(&store, "gone", config.clone());
    let mut stays = allocator(&store, "stays", config);
    block_on(stays.assign(one("s", 0))).unwrap();
    for handle in ["a", "b", "c", "d", "e"] {
        block_on(gone.assign(one(handle, 0))).unwrap();
    }
    let (addresses, blocks, failures) = block_on(stays.release_node("gone", at(0))).unwrap();
    assert_eq!((addresses, blocks, failures.len()), (5, 1, 0));
    assert_eq!(store.check(), Ok(1));
    assert!(block_on(stays.blocks_of("gone")).unwrap().is_empty());
}

#[test]
fn an_assignment_that_arrives_after_its_release_takes_no_effect() {
    // In a block that is there, and in one that it makes.
    for earlier in [1, 0] {
        let store = MemStore::default();
        let mut a = allocator(&store, "n1", view([pool("p", "10.0.0.0/26", 28)]));
        for n in 0..earlier {
            block_on(a.assign(one(&format!("net.c{n}"), 0))).unwrap();
        }
        store.hold_up(3);
        block_on(a.assign(one("net.late", 1))).unwrap_err();
        block_on(a.release_by_handle(release("net.late", 2))).unwrap();
        store.settle();
        assert_eq!(store.check(), Ok(earlier));
        block_on(a.assign(one("net.next", 3))).unwrap();
        assert_eq!(store.check(), Ok(earlier + 1));
    }
}

#[test]
fn a_handle_that_others_removed_does_not_vouch_for_a_lost_batch() {
    let store = MemStore::default();
    let mut a = allocator(&store, "n1", view([pool("p", "10.0.0.0/26", 28)]));
    for handle in ["net.a", "net.b"] {
        block_on(a.assign(one(handle, 0))).unwrap();
    }
    let mut b = allocator(&store, "n2", view([pool("p", "10.0.0.0/26", 28)]));
    store.hold_up(1);
    let both = ["net.a", "net.b"].map(|handle| Request::Release(release(handle, 1)));
    let (store_of_b, mut others) = (store.clone(), Some(&mut b));
    let mut run = pin!(a.run(both.into()));
    let mut cx = Context::from_waker(Waker::noop());
    let results = loop {
        if let Poll::Ready(results) = run.as_mut().poll(&mut cx) {
            break results;
        }
        if store_of_b.held_up() > 0
            && let Some(b) = others.take()
        {
            block_on(b.release_by_handle(release("net.a", 1))).unwrap();
        }
    };
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(store.check(), Ok(0));
}

#[test]
fn a_mixed_batch_whose_answer_was_lost_has_its_revision() {
    let store = MemStore::default();
    let mut a = allocator(&store, "n1", view([pool("p", "10.0.0.0/26", 28)]));
    block_on(a.assign(one("net.a", 0))).unwrap();
    store.lose_answers(1);
    let batch = vec![
        Request::Release(release("net.a", 1)),
        Request::Assign(one("net.b", 1)),
    ];
    for result in block_on(a.run(batch)) {
        assert_eq!(result.unwrap().revision, 2);
    }
}

#[test]
fn what_a_killed_instance_had_sent_fails_once_the_next_one_has_begun() {
    // In a block that is there, and in one that the transaction makes: each is under way when its sender
    // dies. Without a fence it arrives.
    for (v4, v6, fenced) in [(1, 0, true), (0, 1, true), (1, 0, false), (0, 1, false)] {
        let store = MemStore::default();
        let instance = |name: &str| {
            let pools = [pool("p", "10.0.0.0/24", 26), pool("six", "fd00::/120", 122)];
            let allocator = allocator(&store, "n1", view(pools));
            match fenced {
                true => allocator.fenced(name),
                false => allocator,
            }
        };
        let mut killed = instance("killed");
        block_on(killed.load()).unwrap();
        block_on(killed.assign(AssignRequest::new("net.kept", 1, 0, at(0)))).unwrap();
        store.hold_up(3);
        block_on(killed.assign(AssignRequest::new("net.lost", v4, v6, at(1)))).unwrap_err();
        assert!(store.held_up() > 0);
        drop(killed);
        let mut next = instance("next");
        block_on(next.load()).unwrap();
        block_on(next.release_by_handle(release("net.lost", 2))).unwrap();
        store.settle();
        let arrived = !block_on(next.ips_of_handle("net.lost")).unwrap().is_empty();
        assert_eq!(arrived, !fenced);
        assert_eq!(store.check(), Ok(1 + usize::from(arrived)));
    }
}

#[test]
fn an_instance_that_lives_learns_of_the_one_that_came_after_it() {
    let store = MemStore::default();
    let [mut first, mut second] = ["first", "second"].map(|name| {
        let view = view([pool("p", "10.0.0.0/24", 26)]);
        allocator(&store, "n1", view).fenced(name)
    });
    let add = |handle: &str| AssignRequest::new(handle, 1, 0, at(0));
    block_on(first.load()).unwrap();
    block_on(first.assign(add("net.kept"))).unwrap();
    block_on(second.load()).unwrap();
    let error = block_on(first.assign(add("net.late"))).unwrap_err();
    assert!(matches!(error, IpamError::Superseded { .. }), "{error}");
    block_on(second.assign(add("net.late"))).unwrap();
    assert_eq!(store.check(), Ok(2));
}

#[test]
fn a_fence_that_was_removed_is_put_up_again() {
    let store = MemStore::default();
    let mut one = allocator(&store, "n1", view([pool("p", "10.0.0.0/24", 26)])).fenced("one");
    block_on(one.load()).unwrap();
    let mut other = allocator(&store, "", view([]));
    block_on(other.release_node("n1", at(0))).unwrap();
    let key = "/calico/margay/v1/instances/n1";
    assert_eq!(store.value(key), None);
    for n in 0..2 {
        let request = AssignRequest::new(format!("net.{n}"), 1, 0, at(1));
        block_on(one.assign(request)).unwrap();
        assert_eq!(store.value(key).as_deref(), Some("one"));
    }
    // Its own answer was lost: no reason to give up.
    block_on(other.release_node("n1", at(2))).unwrap();
    store.lose_answers(1);
    block_on(one.assign(AssignRequest::new("net.3", 1, 0, at(3)))).unwrap();
    block_on(one.assign(AssignRequest::new("net.4", 1, 0, at(3)))).unwrap();
    assert_eq!(store.check(), Ok(2));
}
