//! The commit loop: plan, read what is missing, commit, learn from conflicts, again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use margay_model::store::{Compare, KeyValue, Revision, Store, StoreError, TxnOutcome};

use super::Allocator;
use crate::error::IpamError;
use crate::known::{Known, Slot};
use crate::plan::{Accepted, Built, Need, Origin, Plan, Stop};
use crate::request::{Outcome, Request};

/// Conflicts in a row after which a batch gives up.
const MAX_ATTEMPTS: u32 = 100;
/// Lost answers in a row after which a batch gives up; the caller knows better when to go on.
const MAX_LOST_ANSWERS: u32 = 3;

/// The requests on their way.
struct Run {
    requests: Vec<Request>,
    pending: BTreeSet<usize>,
    results: BTreeMap<usize, Result<Outcome, IpamError>>,
    /// Keys to be created if absent that exist.
    present: BTreeSet<String>,
    /// Transactions whose answer was lost and which were not in the store when looked for: they
    /// may still arrive.
    uncertain: Vec<Vec<Accepted>>,
    attempts: u32,
    lost_answers: u32,
}

impl Run {
    fn finish(&mut self, index: usize, result: Result<Outcome, IpamError>) {
        if self.pending.remove(&index) {
            self.results.insert(index, result);
        }
    }

    /// What a request is told that cannot be served, such as for want of an address: if an attempt of its own
    /// may have been made, or may still be, nobody knows.
    fn in_doubt(&self, index: usize, error: IpamError) -> IpamError {
        let mut uncertain = self.uncertain.iter().flatten();
        if !uncertain.any(|request| request.index == index) {
            return error;
        }
        let reason = format!("the answer to an earlier attempt was lost, and now: {error}");
        IpamError::Store(Arc::new(StoreError::Unavailable { reason }))
    }

    fn fail_all(&mut self, error: impl Fn() -> IpamError) {
        for index in std::mem::take(&mut self.pending) {
            self.results.insert(index, Err(error()));
        }
    }

    fn succeed(&mut self, accepted: Vec<Accepted>) {
        for request in accepted {
            self.finish(request.index, Ok(request.outcome));
        }
    }
}

impl<S: Store> Allocator<S> {
    /// Makes many changes, in order, in as few transactions as they fit into. Each request
    /// succeeds or fails by itself; the results are in the order of the requests.
    pub async fn run(&mut self, requests: Vec<Request>) -> Vec<Result<Outcome, IpamError>> {
        self.known.begin();
        let mut run = Run {
            pending: (0..requests.len()).collect(),
            requests,
            results: BTreeMap::new(),
            present: BTreeSet::new(),
            uncertain: Vec::new(),
            attempts: 0,
            lost_answers: 0,
        };
        while !run.pending.is_empty() {
            if run.attempts >= MAX_ATTEMPTS {
                run.fail_all(|| IpamError::Contention {
                    attempts: MAX_ATTEMPTS,
                });
                break;
            }
            if let Err(error) = self.step(&mut run).await {
                let error = Arc::new(error);
                run.fail_all(|| IpamError::Store(Arc::clone(&error)));
            }
        }
        self.known.end();
        run.results.into_values().collect()
    }

    /// One transaction, or the reads that must come before it.
    async fn step(&mut self, run: &mut Run) -> Result<(), StoreError> {
        self.recognise_late(run);
        let mut plan = Plan::new(&self.known, &self.view, &run.present);
        let mut needs = BTreeSet::new();
        let mut failed = Vec::new();
        for &index in &run.pending {
            match plan.add(index, &run.requests[index]) {
                Ok(()) => {}
                Err(Stop::Need(need)) => {
                    needs.insert(need);
                }
                Err(Stop::Fail(error)) => failed.push((index, error)),
                Err(Stop::Defer) => break,
            }
        }
        let full = std::mem::take(&mut plan.full);
        let built = plan.build();
        self.known.full.extend(full);
        if !needs.is_empty() {
            // The failures are judged again with what is read.
            return self.read(needs).await;
        }
        let progress = !failed.is_empty();
        for (index, error) in failed {
            let error = run.in_doubt(index, error);
            run.finish(index, Err(error));
        }
        if built.accepted.is_empty() {
            // Deferred without anything to wait for: counts as an attempt, so that it ends.
            run.attempts += u32::from(!progress);
            return Ok(());
        }
        self.commit(run, built).await
    }

    async fn read(&mut self, needs: BTreeSet<Need>) -> Result<(), StoreError> {
        for need in needs {
            match need {
                Need::Blocks(family) => {
                    let listing = self.store.list(&self.known.keys.blocks(family)).await?;
                    self.known.set_listing(family, &listing.kvs);
                }
                Need::Block(cidr) => self.read_block(cidr).await?,
                Need::Handle(id) => {
                    let kv = self.store.get(&self.known.keys.handle(&id)).await?;
                    self.known.set_handle(&id, kv.as_ref());
                }
            }
        }
        Ok(())
    }

    async fn commit(&mut self, run: &mut Run, built: Built) -> Result<(), StoreError> {
        if built.txn.compares.is_empty() && built.txn.ops.is_empty() {
            run.succeed(built.accepted);
            return Ok(());
        }
        match self.store.txn(built.txn.clone()).await {
            Ok(TxnOutcome::Committed(revision)) => {
                run.attempts = 0;
                run.lost_answers = 0;
                run.succeed(built.apply(revision, &mut self.known));
                Ok(())
            }
            Ok(TxnOutcome::Conflict(current)) => {
                run.attempts += 1;
                self.learn(run, &built, &current);
                Ok(())
            }
            Err(error @ StoreError::Unavailable { .. }) => {
                self.after_lost_answer(run, built, error).await
            }
            Err(error) => {
                // The store judged this transaction, not the requests that are not in it.
                let error = Arc::new(error);
                for request in built.accepted {
                    run.finish(request.index, Err(IpamError::Store(Arc::clone(&error))));
                }
                Ok(())
            }
        }
    }

    /// Takes over the current values that a conflict returns.
    fn learn(&mut self, run: &mut Run, built: &Built, current: &[Option<KeyValue>]) {
        let mut conflicts: BTreeMap<usize, Vec<(String, Option<KeyValue>)>> = BTreeMap::new();
        let mut superseded = false;
        let compared = built.txn.compares.iter().zip(&built.origins).zip(current);
        for ((compare, origin), current) in compared {
            match origin {
                Origin::Block(cidr) => self.known.set_block(*cidr, current.as_ref()),
                Origin::Handle(id) => self.known.set_handle(id, current.as_ref()),
                Origin::CreateIfAbsent => {
                    if current.is_some() {
                        run.present.insert(compare.key.clone());
                    }
                }
                Origin::Extra(index) if differs(compare, current.as_ref()) => {
                    let conflict = (compare.key.clone(), current.clone());
                    conflicts.entry(*index).or_default().push(conflict);
                }
                Origin::Extra(_) => {}
                Origin::Fence => superseded |= self.is_superseded(current.as_ref()),
            }
        }
        self.recognise_late(run);
        if superseded {
            let node = self.known.node().to_owned();
            run.fail_all(|| IpamError::Superseded { node: node.clone() });
            return;
        }
        for (index, compared) in conflicts {
            // Perhaps an earlier transaction of ours did it whose answer was lost; others may have as well.
            // The caller looks again.
            run.finish(index, Err(IpamError::ExtraConflict { compared }));
        }
    }

    /// Whether another instance of this node's agent has begun. A fence that somebody removed is put up
    /// again with the next transaction; one of ours is newer when an answer was lost.
    fn is_superseded(&mut self, current: Option<&KeyValue>) -> bool {
        let Some(fence) = &mut self.known.fence else {
            return false;
        };
        let ours = current.is_none_or(|kv| kv.value == fence.instance.as_bytes());
        if ours {
            fence.revision = current.map_or(0, |kv| kv.mod_revision);
        }
        !ours
    }

    /// The transaction may or may not have been made: looks, and takes it over if it was.
    async fn after_lost_answer(
        &mut self,
        run: &mut Run,
        built: Built,
        error: StoreError,
    ) -> Result<(), StoreError> {
        for (handle, cidr, base) in built.assigned() {
            self.known.unsettle(handle, cidr, base);
        }
        // Nothing that it touched is known any more, should the look fail too.
        for origin in &built.origins {
            match origin {
                Origin::Block(cidr) => {
                    self.known.fresh.remove(cidr);
                }
                Origin::Handle(id) => {
                    self.known.handles.remove(id);
                }
                Origin::Extra(_) | Origin::CreateIfAbsent | Origin::Fence => {}
            }
        }
        run.lost_answers += 1;
        if run.lost_answers >= MAX_LOST_ANSWERS {
            return Err(error);
        }
        let needs = built.origins.iter().filter_map(|origin| match origin {
            Origin::Block(cidr) => Some(Need::Block(*cidr)),
            Origin::Handle(id) => Some(Need::Handle(id.clone())),
            Origin::Extra(_) | Origin::CreateIfAbsent | Origin::Fence => None,
        });
        self.read(needs.collect()).await?;
        run.uncertain.push(built.accepted);
        self.recognise_late(run);
        Ok(())
    }

    /// Finds transactions whose answer was lost among what the store says by now. One that takes no
    /// address leaves no mark of its own (others may have removed its handle): it is tried again.
    fn recognise_late(&self, run: &mut Run) {
        for accepted in std::mem::take(&mut run.uncertain) {
            match seen(&self.known, &accepted) {
                Some(revision) => {
                    let with_revision = accepted.into_iter().map(|mut request| {
                        request.outcome.revision = revision;
                        request
                    });
                    run.succeed(with_revision.collect());
                }
                None => run.uncertain.push(accepted),
            }
        }
    }
}

/// Whether the marks of a transaction are in the store, addresses that only it can have taken: the
/// revision of their blocks, which is that of the transaction or of a later change. All of them must
/// be there, because an earlier or later attempt may have taken some of them just so.
fn seen(known: &Known, accepted: &[Accepted]) -> Option<Revision> {
    let fresh = accepted.iter().flat_map(|request| &request.fresh);
    let marks = fresh.map(|fresh| match known.blocks.get(&fresh.block)? {
        Slot::Present(revision, block) => {
            let same = block.attribute(fresh.ordinal) == Some(&fresh.attribute)
                && block.allocation_sequence.get(&fresh.ordinal) == Some(&fresh.sequence);
            same.then_some(*revision)
        }
        Slot::Absent | Slot::Corrupt(..) => None,
    });
    let marks: Option<Vec<Revision>> = marks.collect();
    marks?.into_iter().min()
}

fn differs(compare: &Compare, current: Option<&KeyValue>) -> bool {
    current.map_or(0, |kv| kv.mod_revision) != compare.mod_revision
}
