//! What a rule ends with, and the mark bits that carry it.
//!
//! A verdict is carried in two mark bits: *accept* (the endpoint's policy accepts) and *pass* (leave
//! the tier). The rules of policies `goto` a chain that sets the bit and thereby return to the
//! group's chain, which looks at the bits after each policy. A third bit says that a rule that is not enforced
//! would decide; only the end of a tier without any that is looks at it. An agent of an earlier version does not know
//! it, and must not be led astray by it: for a moment its chains ask ours.

use super::{
    backend::Backend,
    label::{Cause, Label, Verdict, name_of},
    names::Way,
    program::{Chain, ChainId, Line, Match, Target},
    rules::clean,
    types::{DenyAction, Globals, Nflog},
};
use crate::iptables::{Rank, Table};

const ACCEPT_CHAIN: ChainId = ChainId::Fixed("mgy-accept");
const PASS_CHAIN: ChainId = ChainId::Fixed("mgy-pass");
const STAGED_CHAIN: ChainId = ChainId::Fixed("mgy-staged");
/// Ends of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdicts {
    pub(super) accept: Target,
    pub(super) pass: Target,
    pub(super) deny: Target,
    /// Of a rule that is not enforced, and would decide.
    pub(super) staged: Target,
    accept_bit: u32,
    pass_bit: u32,
    /// None in a small mask.
    staged_bit: Option<u32>,
    nflog: Option<Nflog>,
}

impl Verdicts {
    pub(super) fn new(globals: &Globals, backend: Backend) -> Self {
        let mask = marks_of(globals.mark_mask, backend);
        let accept_bit = lowest_bit(mask);
        let staged_bit = staged_mark(globals.mark_mask);
        Self {
            accept: Target::Goto(ACCEPT_CHAIN),
            pass: Target::Goto(PASS_CHAIN),
            deny: match globals.deny_action {
                DenyAction::Drop => Target::Drop,
                DenyAction::Reject => Target::Reject,
            },
            staged: match staged_bit {
                Some(_) => Target::Goto(STAGED_CHAIN),
                None => Target::Return,
            },
            accept_bit,
            pass_bit: lowest_bit(mask & !accept_bit),
            staged_bit,
            nflog: globals.nflog,
        }
    }

    /// For tables in which nothing can be rejected.
    pub(super) fn early(&self) -> Self {
        Self {
            deny: Target::Drop,
            ..self.clone()
        }
    }

    /// What hands packets up for this reason, if that is wanted.
    pub(super) fn log(&self, label: &Label) -> Option<Target> {
        let nflog = self.nflog.filter(|nflog| match label.verdict {
            Verdict::Allow | Verdict::WouldAllow => nflog.allowed,
            Verdict::Deny | Verdict::WouldDeny => nflog.denied,
            Verdict::Log => true,
        })?;
        let (group, prefix) = (nflog.group, label.text());
        Some(Target::Nflog { group, prefix })
    }

    /// Denies what matches, and hands it up before if that is wanted.
    pub(super) fn denied(
        &self,
        matches: &[Match],
        way: Way,
        cause: Cause,
        end: &Target,
    ) -> impl Iterator<Item = Line> {
        let log = self.log(&Label::new(Verdict::Deny, way, cause));
        let targets = log.into_iter().chain([end.clone()]);
        let matches = matches.to_vec();
        targets.map(move |target| Line::new(matches.clone(), target))
    }

    /// Forgets verdicts.
    pub(super) fn clear_both(&self) -> Line {
        Line::always(Target::ClearMark(self.accept_bit | self.pass_bit))
    }

    /// `then` for what has been accepted.
    pub(super) fn if_accepted(&self, then: Target) -> Line {
        let accepted = Match::Mark {
            bits: self.accept_bit,
            set: true,
        };
        Line::new([accepted], then)
    }

    /// The chains that policies of a table end in.
    pub(super) fn chains(&self, table: Table) -> impl Iterator<Item = Chain> + use<> {
        let staged = self.staged_bit.map(|bit| (STAGED_CHAIN, bit));
        let both = [(ACCEPT_CHAIN, self.accept_bit), (PASS_CHAIN, self.pass_bit)];
        both.into_iter().chain(staged).map(move |(id, bit)| {
            let set = Line::always(Target::SetMark(bit));
            Chain::new(table, id, Rank::Verdict, vec![set])
        })
    }

    /// Before and behind the policies of a tier in which none is enforced: hands up what it would deny in the end.
    pub(super) fn would_deny(&self, way: Way, tier: &str) -> Option<(Line, Line)> {
        let bits = self.staged_bit?;
        let cause = Cause::TierEnd(name_of(tier));
        let log = self.log(&Label::new(Verdict::WouldDeny, way, cause))?;
        let undecided = Match::Mark { bits, set: false };
        let note = format!("would be the end of tier {}", clean(tier, 60));
        let told = Line::new([undecided], log).noted(note);
        Some((Line::always(Target::ClearMark(bits)), told))
    }

    pub(super) fn clear_pass(&self) -> Line {
        Line::always(Target::ClearMark(self.pass_bit))
    }

    pub(super) fn unless_passed(&self) -> Match {
        Match::Mark {
            bits: self.pass_bit,
            set: false,
        }
    }
}

/// While the rules move from one backend to the other, packets meet both, and neither is to take the
/// other's verdict for its own: if there are bits enough, nftables leaves the lowest two to iptables.
fn marks_of(mask: u32, backend: Backend) -> u32 {
    let without_lowest = |mask: u32| mask & !lowest_bit(mask);
    let rest = without_lowest(without_lowest(mask));
    match backend {
        Backend::Nftables if rest.count_ones() >= 2 => rest,
        _ => mask,
    }
}

/// The bit of a connection's mark that says that it is to end. Connections have marks of their own, so that it is
/// nobody's else as long as nobody copies packets' marks into them.
#[must_use]
pub const fn ended_mark(mark_mask: u32) -> u32 {
    match mark_mask {
        0 => 0,
        mask => 1 << mask.ilog2(),
    }
}

/// The fifth bit of the mask: both backends use the same, since each walk that looks at it clears it before.
fn staged_mark(mask: u32) -> Option<u32> {
    let bits = (0..u32::BITS).map(|bit| 1 << bit);
    bits.filter(|bit| mask & bit != 0).nth(4)
}

fn lowest_bit(mask: u32) -> u32 {
    mask & mask.wrapping_neg()
}
