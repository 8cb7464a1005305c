//! The decision process (RFC 4271 section 9.1.2, RFC 4456 section 9).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use smallvec::SmallVec;

use super::Compared;
use crate::wire::Origin;

/// The step that decided between routes, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DecisionStep {
    /// Originated here rather than learnt.
    LocalOrigin,
    /// Not kept beyond its source's absence (RFC 9494).
    LongLivedStale,
    /// Highest LOCAL_PREF.
    LocalPref,
    /// Shortest AS_PATH.
    AsPathLength,
    /// Lowest ORIGIN.
    Origin,
    /// Lowest MULTI_EXIT_DISC among the routes of one neighbouring AS.
    Med,
    /// eBGP rather than iBGP.
    EbgpOverIbgp,
    /// Lowest interior cost to the next hop.
    IgpCost,
    /// Lowest BGP identifier, or ORIGINATOR_ID of a reflected route.
    RouterId,
    /// Shortest CLUSTER_LIST.
    ClusterListLength,
    /// Lowest peer address.
    PeerAddress,
    /// Lowest path identifier, among the paths of one peer (RFC 7911).
    PathId,
}

impl DecisionStep {
    /// The name shown to operators.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalOrigin => "local origin",
            Self::LongLivedStale => "long-lived stale",
            Self::LocalPref => "local preference",
            Self::AsPathLength => "AS path length",
            Self::Origin => "origin",
            Self::Med => "MED",
            Self::EbgpOverIbgp => "eBGP over iBGP",
            Self::IgpCost => "IGP cost",
            Self::RouterId => "router id",
            Self::ClusterListLength => "cluster list length",
            Self::PeerAddress => "peer address",
            Self::PathId => "path identifier",
        }
    }
}

impl fmt::Display for DecisionStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An eligible path, reduced to what is compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// Position among the destination's paths.
    pub(crate) at: usize,
    /// [`AttrSet::rank`](super::attr_store::AttrSet::rank).
    pub(crate) rank: u64,
    pub(crate) neighbour_as: u32,
    pub(crate) med: u32,
    pub(crate) ebgp: bool,
    pub(crate) igp_cost: u32,
    pub(crate) router_id: u32,
    pub(crate) cluster_len: u16,
    pub(crate) peer_addr: IpAddr,
    pub(crate) path_id: u32,
}

/// The candidates of a destination.
pub(crate) type Candidates = SmallVec<[Candidate; 4]>;

/// What is left after steps 1 to 8: routes that multipath may use beside each other.
///
/// `lost` hears which path went out at which step.
pub(crate) fn equal_routes(all: &mut Candidates, mut lost: impl FnMut(usize, DecisionStep)) {
    keep_rank(all, &mut lost);
    if all.len() > 1 {
        keep_med(all, &mut lost);
    }
    keep_min(all, |c| !c.ebgp, DecisionStep::EbgpOverIbgp, &mut lost);
    keep_min(all, |c| c.igp_cost, DecisionStep::IgpCost, &mut lost);
}

/// The `most` best of `all` in order, each the best of what those before it left.
pub(crate) fn best_of(mut all: Candidates, most: usize) -> Candidates {
    let mut chosen = Candidates::new();
    while chosen.len() < most && !all.is_empty() {
        let mut equal = all.clone();
        equal_routes(&mut equal, |_, _| {});
        let next = best(&equal, |_, _| {});
        all.retain(|c| c.at != next.at);
        chosen.push(next);
    }
    chosen
}

/// The single best of what [`equal_routes`] left, which must not be empty.
pub(crate) fn best(equal: &[Candidate], mut lost: impl FnMut(usize, DecisionStep)) -> Candidate {
    let mut all: Candidates = equal.into();
    keep_min(&mut all, |c| c.router_id, DecisionStep::RouterId, &mut lost);
    keep_min(
        &mut all,
        |c| c.cluster_len,
        DecisionStep::ClusterListLength,
        &mut lost,
    );
    keep_min(
        &mut all,
        |c| c.peer_addr,
        DecisionStep::PeerAddress,
        &mut lost,
    );
    // Two peers with one address and the same identifiers differ in nothing else.
    keep_min(
        &mut all,
        |c| (c.path_id, c.at),
        DecisionStep::PathId,
        &mut lost,
    );
    all[0]
}

/// The values that decided a step between `this` and what was preferred: `best`, but for MED the
/// lowest one of the same neighbour.
pub(crate) fn compare(
    step: DecisionStep,
    this: &Candidate,
    best: &Candidate,
    all: &[Candidate],
) -> Compared {
    let value = |c: &Candidate| match step {
        DecisionStep::LocalOrigin => if c.rank >> 63 == 1 { "local" } else { "learnt" }.to_owned(),
        DecisionStep::LongLivedStale => if c.rank >> 62 & 1 == 1 { "no" } else { "yes" }.to_owned(),
        DecisionStep::LocalPref => (c.rank >> 24 & u64::from(u32::MAX)).to_string(),
        DecisionStep::AsPathLength => {
            (u64::from(u16::MAX) - (c.rank >> 8 & u64::from(u16::MAX))).to_string()
        }
        DecisionStep::Origin => match u64::from(u8::MAX) - (c.rank & u64::from(u8::MAX)) {
            0 => Origin::Igp.to_string(),
            1 => Origin::Egp.to_string(),
            _ => Origin::Incomplete.to_string(),
        },
        DecisionStep::Med => c.med.to_string(),
        DecisionStep::EbgpOverIbgp => if c.ebgp { "eBGP" } else { "iBGP" }.to_owned(),
        DecisionStep::IgpCost => c.igp_cost.to_string(),
        DecisionStep::RouterId => Ipv4Addr::from(c.router_id).to_string(),
        DecisionStep::ClusterListLength => c.cluster_len.to_string(),
        DecisionStep::PeerAddress => c.peer_addr.to_string(),
        DecisionStep::PathId => c.path_id.to_string(),
    };
    let rival = all
        .iter()
        .filter(|_| step == DecisionStep::Med)
        .filter(|c| c.rank == best.rank && c.neighbour_as == this.neighbour_as)
        .min_by_key(|c| c.med)
        .unwrap_or(best);
    Compared {
        this: value(this),
        preferred: value(rival),
    }
}

fn keep_min<K: Ord>(
    all: &mut Candidates,
    key: impl Fn(&Candidate) -> K,
    step: DecisionStep,
    lost: &mut impl FnMut(usize, DecisionStep),
) {
    if all.len() < 2 {
        return;
    }
    let Some(min) = all.iter().map(&key).min() else {
        return;
    };
    all.retain(|c| {
        let stays = key(c) == min;
        if !stays {
            lost(c.at, step);
        }
        stays
    });
}

fn keep_rank(all: &mut Candidates, lost: &mut impl FnMut(usize, DecisionStep)) {
    let Some(max) = all.iter().map(|c| c.rank).max() else {
        return;
    };
    all.retain(|c| {
        if c.rank != max {
            // The highest bit that differs tells the step.
            let step = match 63 - (c.rank ^ max).leading_zeros() {
                63.. => DecisionStep::LocalOrigin,
                56..63 => DecisionStep::LongLivedStale,
                24..56 => DecisionStep::LocalPref,
                8..24 => DecisionStep::AsPathLength,
                _ => DecisionStep::Origin,
            };
            lost(c.at, step);
        }
        c.rank == max
    });
}

/// Elimination by group, so that the result does not depend on the order of comparison.
fn keep_med(all: &mut Candidates, lost: &mut impl FnMut(usize, DecisionStep)) {
    let groups: SmallVec<[(u32, u32); 4]> = all.iter().map(|c| (c.neighbour_as, c.med)).collect();
    all.retain(|c| {
        let beaten = groups
            .iter()
            .any(|&(asn, med)| asn == c.neighbour_as && med < c.med);
        if beaten {
            lost(c.at, DecisionStep::Med);
        }
        !beaten
    });
}

#[cfg(test)]
mod tests;
