//! Holds what the workers were told against what the store did.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_model::store::Revision;

use crate::history::{Belief, Call, Ended, Ledger};
use crate::replay::Timeline;
use crate::setting;

/// What the histories say, in numbers.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) workloads: usize,
    pub(crate) adds: u64,
    pub(crate) dels: u64,
    pub(crate) failed: u64,
    pub(crate) unknown: u64,
    pub(crate) interrupted: u64,
}

/// A time by revisions in which a workload was told that an address is its own.
struct Lease<'a> {
    from: Revision,
    to: Revision,
    workload: &'a str,
}

/// Checks all histories; each finding is a line.
pub(crate) fn check(
    ledgers: &BTreeMap<String, Ledger>,
    timelines: &BTreeMap<String, Timeline>,
) -> (Summary, Vec<String>) {
    let mut summary = Summary::default();
    let mut findings = Vec::new();
    let mut leases: BTreeMap<IpAddr, Vec<Lease<'_>>> = BTreeMap::new();
    let nothing = Timeline::new();
    for (workload, calls) in ledgers.values().flat_map(|ledger| &ledger.calls) {
        summary.workloads += 1;
        count(&mut summary, calls);
        let timeline = timelines.get(workload).unwrap_or(&nothing);
        let told = explain(workload, calls, timeline);
        findings.extend(told.into_iter().map(|text| format!("{workload}: {text}")));
        if let Some((ips, from)) = first_lease(calls) {
            let to = end_of_lease(calls, timeline);
            for ip in ips {
                leases
                    .entry(ip)
                    .or_default()
                    .push(Lease { from, to, workload });
            }
        }
    }
    let known = |workload: &String| ledgers.values().any(|l| l.calls.contains_key(workload));
    for workload in timelines.keys().filter(|w| !known(w)) {
        findings.push(format!("{workload}: in the store, and nobody asked for it"));
    }
    for (ip, leases) in &mut leases {
        leases.sort_by_key(|lease| lease.from);
        for pair in leases.windows(2) {
            if pair[1].from < pair[0].to {
                findings.push(format!(
                    "{ip}: {} was told it has it until revision {}, {} from {} on",
                    pair[0].workload, pair[0].to, pair[1].workload, pair[1].from
                ));
            }
        }
    }
    (summary, findings)
}

/// Those who live by the histories, with their addresses.
pub(crate) fn live(ledgers: &BTreeMap<String, Ledger>) -> BTreeMap<String, Vec<IpAddr>> {
    let mut live = BTreeMap::new();
    for ledger in ledgers.values() {
        for workload in ledger.select(|b| matches!(b, Belief::Live(..))) {
            if let Belief::Live(mut ips, _) = ledger.belief(&workload) {
                ips.sort_unstable();
                live.insert(workload, ips);
            }
        }
    }
    live
}

fn count(summary: &mut Summary, calls: &[Call]) {
    for call in calls {
        match (&call.ended, call.add) {
            (Some(Ended::Ok { .. }), true) => summary.adds += 1,
            (Some(Ended::Ok { .. }), false) => summary.dels += 1,
            (Some(Ended::Failed { .. }), _) => summary.failed += 1,
            (Some(Ended::Unknown { .. }), _) => summary.unknown += 1,
            (None, _) => summary.interrupted += 1,
        }
    }
}

/// The state of the endpoint at a revision.
fn at(timeline: &Timeline, revision: Revision) -> Option<&Vec<IpAddr>> {
    let before = timeline.iter().take_while(|(r, _)| *r <= revision);
    before.last().and_then(|(_, ips)| ips.as_ref())
}

/// Goes through a workload's calls; says what does not fit the store's timeline.
fn explain(workload: &str, calls: &[Call], timeline: &Timeline) -> Vec<String> {
    let mut findings = Vec::new();
    let mut may_put = false;
    let mut gone_at = None;
    for call in calls {
        match (call.add, &call.ended) {
            (true, Some(Ended::Ok { ips, revision })) => {
                may_put = true;
                let stored = at(timeline, *revision);
                if stored != Some(ips) {
                    findings.push(format!(
                        "was told {ips:?} at revision {revision}, the store had {stored:?}"
                    ));
                }
            }
            (true, Some(Ended::Unknown { .. }) | None) => may_put = true,
            (false, Some(Ended::Ok { revision, .. })) => {
                if *revision > 0 && at(timeline, *revision).is_some() {
                    findings.push(format!("deleted at revision {revision}, and still there"));
                }
                gone_at = Some(*revision);
            }
            (true, Some(Ended::Failed { .. })) | (false, _) => {}
        }
    }
    let was_put = timeline.iter().any(|(_, ips)| ips.is_some());
    if was_put && !may_put {
        findings.push("was told it has no address, the store gave it one".into());
    }
    let deleted = timeline.iter().any(|(_, ips)| ips.is_none());
    // An identity's next workload removes the one before it.
    let moves = setting::identity(workload).is_some();
    if deleted && !moves && calls.iter().all(|c| c.add) {
        findings.push("the store deleted it, nobody asked for that".into());
    }
    for pair in timeline.windows(2) {
        if let [(_, Some(a)), (revision, Some(b))] = pair
            && a != b
        {
            findings.push(format!(
                "changed from {a:?} to {b:?} at revision {revision}"
            ));
        }
    }
    let puts_after = |revision: Revision| {
        let mut puts = timeline.iter().filter(|(_, ips)| ips.is_some());
        puts.any(|(r, _)| *r > revision)
    };
    if gone_at.is_some_and(|revision| revision > 0 && puts_after(revision)) {
        findings.push(format!("came back after its DEL: {timeline:?}"));
    }
    findings
}

fn first_lease(calls: &[Call]) -> Option<(Vec<IpAddr>, Revision)> {
    calls.iter().find_map(|call| match (&call.ended, call.add) {
        (Some(Ended::Ok { ips, revision }), true) => Some((ips.clone(), *revision)),
        _ => None,
    })
}

/// The revision at which a workload's addresses were given back.
fn end_of_lease(calls: &[Call], timeline: &Timeline) -> Revision {
    let told = calls.iter().find_map(|call| match (&call.ended, call.add) {
        (Some(Ended::Ok { revision, .. }), false) if *revision > 0 => Some(*revision),
        _ => None,
    });
    let seen = timeline
        .iter()
        .find(|(_, ips)| ips.is_none())
        .map(|(r, _)| *r);
    match (told, seen) {
        (Some(told), Some(seen)) => told.min(seen),
        (one, other) => one.or(other).unwrap_or(Revision::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(process: u32, add: bool, ended: Option<Ended>) -> Call {
        Call {
            process,
            add,
            ended,
        }
    }

    fn ok(ips: &[IpAddr], revision: Revision) -> Option<Ended> {
        let ips = ips.to_vec();
        Some(Ended::Ok { ips, revision })
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn explained(calls: &[Call], timeline: Timeline) -> Vec<String> {
        explain("n1-1", calls, &timeline)
    }

    #[test]
    fn what_was_told_and_done_needs_no_explanation() {
        let calls = [
            call(1, true, ok(&[ip(1)], 5)),
            call(1, false, ok(&[ip(1)], 9)),
        ];
        let timeline = vec![(5, Some(vec![ip(1)])), (9, None)];
        assert!(explained(&calls, timeline).is_empty());
    }

    #[test]
    fn an_address_that_the_store_does_not_know_is_found() {
        let calls = [call(1, true, ok(&[ip(1)], 5))];
        assert_eq!(explained(&calls, vec![]).len(), 1);
        assert_eq!(explained(&calls, vec![(5, Some(vec![ip(2)]))]).len(), 1);
    }

    #[test]
    fn an_address_after_a_refusal_is_found() {
        let error = "no".to_owned();
        let calls = [call(1, true, Some(Ended::Failed { error }))];
        assert_eq!(explained(&calls, vec![(5, Some(vec![ip(1)]))]).len(), 1);
    }

    #[test]
    fn a_return_after_del_is_found_also_if_the_process_was_killed() {
        let back = || vec![(9, Some(vec![ip(1)])), (12, None)];
        let error = "lost".to_owned();
        let lost = call(1, true, Some(Ended::Unknown { error }));
        let calls = [lost, call(1, false, ok(&[], 7))];
        assert_eq!(explained(&calls, back()).len(), 1);
        let calls = [call(1, true, None), call(2, false, ok(&[], 7))];
        assert_eq!(explained(&calls, back()).len(), 1);
    }

    #[test]
    fn only_an_identity_goes_without_being_asked() {
        let calls = [call(1, true, ok(&[ip(1)], 5))];
        let taken = || vec![(5, Some(vec![ip(1)])), (8, None)];
        assert_eq!(explained(&calls, taken()).len(), 1);
        assert!(explain("id3-n1-1", &calls, &taken()).is_empty());
    }

    #[test]
    fn two_who_were_told_the_same_address_are_found() {
        let mut ledger = Ledger::default();
        for (name, from) in [("a", 5), ("b", 8)] {
            let calls = vec![call(1, true, ok(&[ip(1)], from))];
            ledger.calls.insert(name.to_owned(), calls);
        }
        let timelines =
            [("a", 5), ("b", 8)].map(|(name, at)| (name.to_owned(), vec![(at, Some(vec![ip(1)]))]));
        let ledgers = BTreeMap::from([("n1".to_owned(), ledger)]);
        let (_, findings) = check(&ledgers, &BTreeMap::from(timelines));
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("10.0.0.1: a was told"));
    }
}
