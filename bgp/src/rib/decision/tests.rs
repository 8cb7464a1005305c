use proptest::prelude::*;

use super::*;

fn candidate(at: usize) -> Candidate {
    Candidate {
        at,
        rank: rank(false, 100, 3, 0),
        neighbour_as: 65001,
        med: 0,
        ebgp: true,
        igp_cost: 10,
        router_id: 7,
        cluster_len: 0,
        peer_addr: "192.0.2.7".parse().unwrap(),
        path_id: 0,
    }
}

/// As `attr_store` packs it.
fn rank(local: bool, local_pref: u32, hops: u16, origin: u8) -> u64 {
    u64::from(local) << 63
        | 1 << 62
        | u64::from(local_pref) << 24
        | u64::from(u16::MAX - hops) << 8
        | u64::from(u8::MAX - origin)
}

/// Who wins, and at which step the others lost.
fn decide(all: &[Candidate]) -> (usize, Vec<(usize, DecisionStep)>) {
    let mut lost = Vec::new();
    let mut equal: Candidates = all.into();
    equal_routes(&mut equal, |at, step| lost.push((at, step)));
    let winner = best(&equal, |at, step| lost.push((at, step)));
    (winner.at, lost)
}

/// The second of two wins by `better` alone, whichever comes first.
fn second_wins(step: DecisionStep, better: impl Fn(&mut Candidate)) {
    let mut second = candidate(1);
    better(&mut second);
    assert_eq!(
        decide(&[candidate(0), second]),
        (1, vec![(0, step)]),
        "{step}"
    );
    assert_eq!(
        decide(&[second, candidate(0)]),
        (1, vec![(0, step)]),
        "{step}"
    );
}

#[test]
fn what_was_compared_is_told_in_words() {
    use DecisionStep as S;
    let told = |step, change: &dyn Fn(&mut Candidate)| {
        let mut best = candidate(1);
        change(&mut best);
        let all = [candidate(0), best];
        let compared = compare(step, &all[0], &all[1], &all);
        (compared.this, compared.preferred)
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let rank_is = |to| move |c: &mut Candidate| c.rank = to;
    let pref = told(S::LocalPref, &rank_is(rank(false, u32::MAX, 3, 0)));
    assert_eq!(pref, pair("100", "4294967295"));
    let hops = told(S::AsPathLength, &rank_is(rank(false, 100, 0, 0)));
    assert_eq!(hops, pair("3", "0"));
    let id = told(S::RouterId, &|c| c.router_id = 6);
    assert_eq!(id, pair("0.0.0.7", "0.0.0.6"));
    // The one that beats it by MED need not be the best in the end.
    let rival = Candidate {
        at: 2,
        med: 1,
        ..candidate(2)
    };
    let this = Candidate {
        med: 5,
        ..candidate(0)
    };
    let best = Candidate {
        neighbour_as: 65002,
        med: 9,
        ..candidate(1)
    };
    let compared = compare(S::Med, &this, &best, &[this, best, rival]);
    assert_eq!((compared.this, compared.preferred), pair("5", "1"));
}

#[test]
fn each_step_decides_when_all_before_are_equal() {
    use DecisionStep as S;
    second_wins(S::LocalOrigin, |c| c.rank = rank(true, 100, 3, 0));
    second_wins(S::LocalPref, |c| c.rank = rank(false, 101, 3, 0));
    second_wins(S::LocalPref, |c| c.rank = rank(false, u32::MAX, 3, 0));
    second_wins(S::AsPathLength, |c| c.rank = rank(false, 100, 2, 0));
    second_wins(S::IgpCost, |c| c.igp_cost = 9);
    second_wins(S::RouterId, |c| c.router_id = 6);
    second_wins(S::PeerAddress, |c| {
        c.peer_addr = "192.0.2.6".parse().unwrap()
    });
}

#[test]
fn lower_origin_lower_med_ebgp_and_shorter_cluster_list_win() {
    let worse = |change: fn(&mut Candidate)| {
        let mut other = candidate(1);
        change(&mut other);
        decide(&[other, candidate(0)])
    };
    use DecisionStep as S;
    assert_eq!(
        worse(|c| c.rank = rank(false, 100, 3, 1)),
        (0, vec![(1, S::Origin)])
    );
    assert_eq!(worse(|c| c.med = 1), (0, vec![(1, S::Med)]));
    assert_eq!(worse(|c| c.ebgp = false), (0, vec![(1, S::EbgpOverIbgp)]));
    assert_eq!(
        worse(|c| c.cluster_len = 1),
        (0, vec![(1, S::ClusterListLength)])
    );
    assert_eq!(worse(|c| c.path_id = 1), (0, vec![(1, S::PathId)]));
    let stale = worse(|c| c.rank = rank(false, 200, 0, 0) & !(1 << 62));
    assert_eq!(stale, (0, vec![(1, S::LongLivedStale)]));
}

#[test]
fn an_earlier_step_outweighs_all_later_ones() {
    let mut first = candidate(0);
    first.rank = rank(false, 200, 9, 2);
    first.med = 99;
    first.ebgp = false;
    first.igp_cost = 99;
    first.router_id = 99;
    assert_eq!(decide(&[first, candidate(1)]).0, 0);
}

#[test]
fn the_best_ones_in_order_are_each_the_best_of_the_rest() {
    let make = |at, asn, med, router_id| Candidate {
        neighbour_as: asn,
        med,
        router_id,
        ..candidate(at)
    };
    // The second of AS 65002 only counts once the first is out of the way.
    let all: Candidates = [
        make(0, 65001, 0, 3),
        make(1, 65002, 5, 1),
        make(2, 65002, 1, 2),
    ]
    .into_iter()
    .collect();
    let order = |most| -> Vec<usize> { best_of(all.clone(), most).iter().map(|c| c.at).collect() };
    assert_eq!(order(9), [2, 1, 0]);
    assert_eq!(order(2), [2, 1]);
}

#[test]
fn med_counts_only_within_one_neighbouring_as() {
    let mut other_as = candidate(1);
    (other_as.neighbour_as, other_as.med, other_as.router_id) = (65002, 50, 1);
    assert_eq!(
        decide(&[candidate(0), other_as]),
        (1, vec![(0, DecisionStep::RouterId)])
    );
}

/// The textbook case where pairwise comparison goes in circles: A beats B by router id, B beats C
/// by MED, C beats A by router id.
#[test]
fn med_elimination_does_not_depend_on_order() {
    let make = |at, asn, med, router_id| Candidate {
        neighbour_as: asn,
        med,
        router_id,
        ..candidate(at)
    };
    let (a, b, c) = (
        make(0, 65001, 0, 2),
        make(1, 65002, 1, 3),
        make(2, 65002, 5, 1),
    );
    for order in [
        [a, b, c],
        [a, c, b],
        [b, a, c],
        [b, c, a],
        [c, a, b],
        [c, b, a],
    ] {
        assert_eq!(decide(&order).0, 0);
    }
}

proptest! {
    #[test]
    fn the_winner_does_not_depend_on_order(
        parts in proptest::collection::vec((0u32..3, 0u32..3, 0u32..3, any::<bool>(), 0u32..3), 1..7),
        turn in 0usize..7,
    ) {
        let mut all: Vec<Candidate> = parts
            .into_iter()
            .enumerate()
            .map(|(at, (pref, asn, med, ebgp, router_id))| Candidate {
                rank: rank(false, pref, 3, 0),
                neighbour_as: asn,
                med,
                ebgp,
                router_id,
                ..candidate(at)
            })
            .collect();
        let winner = decide(&all).0;
        let len = all.len();
        all.rotate_left(turn % len);
        all.reverse();
        let (again, lost) = decide(&all);
        prop_assert_eq!(again, winner);
        prop_assert_eq!(lost.len(), len - 1);
    }
}
