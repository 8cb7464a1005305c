//! The arithmetic against a model that is too simple to be wrong.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

fn attribute(handle: &str) -> Arc<AllocationAttribute> {
    Arc::new(AllocationAttribute {
        handle_id: Some(handle.to_owned()),
        ..AllocationAttribute::default()
    })
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[derive(Clone, Debug)]
enum Op {
    Next(usize, u8),
    At(u32, u8),
    Release(Vec<u32>),
    ReleaseHandle(u8),
    Wait(i64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0usize..5, 0u8..4).prop_map(|(n, h)| Op::Next(n, h)),
        (0u32..20, 0u8..4).prop_map(|(o, h)| Op::At(o, h)),
        proptest::collection::vec(0u32..20, 0..4).prop_map(Op::Release),
        (0u8..4).prop_map(Op::ReleaseHandle),
        (1i64..40).prop_map(Op::Wait),
    ]
}

/// Who holds what, and the order of what is free.
#[derive(Default)]
struct Naive {
    held: BTreeMap<u32, u8>,
    resting: Vec<(i64, u32)>,
    free: VecDeque<u32>,
}

const COOLDOWN: u32 = 30;

proptest! {
    #[test]
    fn a_block_does_what_a_naive_model_does(
        ops in proptest::collection::vec(op(), 0..60),
        reserved in proptest::option::of(0u8..16),
        rest in any::<bool>(),
    ) {
        let cidr = "10.0.0.16/28".parse().unwrap();
        let mut now = 1_000;
        let mut block = Block::new(cidr, at(now));
        let reserved_set: AddressSet = reserved
            .map(|r| format!("10.0.0.{}/32", 16 + r).parse::<margay_model::net::Cidr>().unwrap())
            .into_iter().collect();
        let is_reserved = |o: u32| reserved.map(u32::from) == Some(o);
        let mut naive = Naive { free: (0..16).collect(), ..Naive::default() };
        for op in ops {
            match op {
                Op::Next(n, handle) => {
                    let want: Vec<u32> =
                        naive.free.iter().copied().filter(|o| !is_reserved(*o)).take(n).collect();
                    naive.free.retain(|o| !want.contains(o));
                    naive.held.extend(want.iter().map(|o| (*o, handle)));
                    let got = block.allocate_next(n, &attribute(&handle.to_string()), &reserved_set);
                    let got: Vec<u32> = got.iter().map(|ip| cidr.ordinal(*ip).unwrap()).collect();
                    prop_assert_eq!(got, want);
                }
                Op::At(ordinal, handle) if ordinal < 16 => {
                    let free = !naive.held.contains_key(&ordinal);
                    let got = block.allocate_at(ordinal, &attribute(&handle.to_string()));
                    prop_assert_eq!(got.is_ok(), free);
                    if free {
                        naive.held.insert(ordinal, handle);
                        naive.free.retain(|o| *o != ordinal);
                        naive.resting.retain(|(_, o)| *o != ordinal);
                    }
                }
                Op::At(..) => {}
                Op::Release(ordinals) => {
                    let mut count = 0;
                    for ordinal in &ordinals {
                        if naive.held.remove(ordinal).is_some() {
                            count += 1;
                            match rest {
                                true => naive.resting.push((now, *ordinal)),
                                false => naive.free.push_back(*ordinal),
                            }
                        }
                    }
                    prop_assert_eq!(block.release(&ordinals, rest.then_some(at(now))), count);
                }
                Op::ReleaseHandle(handle) => {
                    let ordinals: Vec<u32> =
                        naive.held.iter().filter(|(_, h)| **h == handle).map(|(o, _)| *o).collect();
                    prop_assert_eq!(block.ordinals_of(&handle.to_string()), ordinals.clone());
                    block.release(&ordinals, rest.then_some(at(now)));
                    for ordinal in ordinals {
                        naive.held.remove(&ordinal);
                        match rest {
                            true => naive.resting.push((now, ordinal)),
                            false => naive.free.push_back(ordinal),
                        }
                    }
                }
                Op::Wait(seconds) => {
                    now += seconds;
                    naive.resting.sort_unstable();
                    let over = |(since, _): &(i64, u32)| now - since >= i64::from(COOLDOWN);
                    let rested: Vec<_> = naive.resting.iter().copied().filter(over).collect();
                    naive.resting.retain(|r| !over(r));
                    naive.free.extend(rested.iter().map(|(_, o)| *o));
                    prop_assert_eq!(block.end_rest(at(now), COOLDOWN), rested.len());
                }
            }
            block.sequence_number += 1;
            prop_assert_eq!(&block.unallocated, &naive.free);
            prop_assert_eq!(block.used(), naive.held.len());
            prop_assert_eq!(block.resting(), naive.resting.len());
            prop_assert_eq!(block.is_vacant(), naive.held.is_empty() && naive.resting.is_empty());
            let sequenced: Vec<u32> = block.allocation_sequence.keys().copied().collect();
            prop_assert_eq!(sequenced, naive.held.keys().copied().collect::<Vec<_>>());
            let json = block.to_json();
            prop_assert_eq!(&Block::decode("k", cidr, &json).unwrap(), &block);
        }
    }
}

#[test]
fn addresses_of_one_request_share_an_attribute_and_others_do_not() {
    let mut block = Block::new("10.0.0.0/29".parse().unwrap(), at(0));
    let none = AddressSet::default();
    block.allocate_next(2, &attribute("a"), &none);
    block.allocate_next(1, &attribute("b"), &none);
    block.allocate_next(1, &attribute("a"), &none);
    assert_eq!(block.attributes.len(), 2);
    assert_eq!(block.allocations[..4], [Some(0), Some(0), Some(1), Some(0)]);
    block.release(&[0, 1, 3], None);
    assert_eq!(block.attributes.len(), 1);
    assert_eq!(block.allocations[..4], [None, None, Some(0), None]);
    assert_eq!(block.unallocated, [4, 5, 6, 7, 0, 1, 3]);
}

#[test]
fn a_rest_that_begins_far_in_the_future_or_is_unreadable_ends() {
    for released_at in ["2100-01-01T00:00:00Z", "yesterday"] {
        let mut block = Block::new("10.0.0.0/30".parse().unwrap(), at(0));
        block.allocate_next(1, &attribute("a"), &AddressSet::default());
        block.release(&[0], Some(at(0)));
        let mut resting = AllocationAttribute::clone(&block.attributes[0]);
        resting.released_at = Some(released_at.to_owned());
        block.attributes[0] = Arc::new(resting);
        assert_eq!(
            block.end_rest(at(2_000_000_000), COOLDOWN),
            1,
            "{released_at}"
        );
    }
}
