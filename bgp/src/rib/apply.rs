//! Step one: taking updates into the table, no decision yet.

use smallvec::SmallVec;

use super::{
    FamilyRib, PeerId, Rib,
    attr_store::{self, AttrStore},
    index::NONE,
    peers::Session,
    restart::RestartEvent,
    table::{Age, Key, Path, Source, Table},
};
use crate::{
    policy::{Facts, Filter},
    prefix::{Family, Ipv4Prefix, Ipv6Prefix},
    wire::{
        Kind, NextHop, Nlri, NlriIter, NlriPrefix, PathAttrs, UpdateFrame, Verdict, WireError,
        attrs::community::GRACEFUL_SHUTDOWN, error::AttrError,
    },
};

/// What an UPDATE turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// Routes, or nothing.
    Routes,
    /// End-of-RIB of a family (RFC 4724, section 2).
    EndOfRib(Family),
    /// The attributes were unusable and the routes count as withdrawn (RFC 7606, section 2).
    TreatedAsWithdraw(AttrError),
    /// Some attribute was dropped, the routes are in use (RFC 7606, section 2).
    AttributeDiscarded,
}

/// Subtype of a ROUTE-REFRESH (RFC 7313, section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshKind {
    /// The peer asks for our routes.
    Request,
    /// The peer begins to send its routes again.
    Begin,
    /// The peer has sent them all: what it did not repeat is gone.
    End,
}

/// Prefixes with their hashes.
type Hashed<P> = SmallVec<[(Nlri<P>, u32); 64]>;

/// Fills an empty `list` with the prefixes of `nlri` and their hashes; what it holds after an error counts for
/// nothing. `add_path` tells whether each stands behind a path identifier (RFC 7911, section 3).
///
/// The list is the caller's, so that it is not moved.
fn approach<P: NlriPrefix + Key>(
    table: &Table,
    nlri: &[u8],
    add_path: bool,
    list: &mut Hashed<P>,
) -> Result<(), WireError> {
    for item in NlriIter::<P>::new(nlri, add_path) {
        let nlri = item?;
        list.push((nlri, table.hash(nlri.prefix)));
    }
    table.touch(list.iter().map(|&(_, hash)| hash));
    Ok(())
}

/// Puts a path in, with its references, and marks the prefix if anything changed; `true` if it is
/// one more.
pub(super) fn put(family: &mut FamilyRib, attrs: &mut AttrStore, id: u32, path: Path) -> bool {
    attrs.retain(path.pre);
    if path.post != NONE {
        attrs.retain(path.post);
    }
    let old = family.table.put(id, path);
    if let Some(old) = old {
        attrs.release(old.pre);
        attrs.release(old.post);
    }
    if old.is_none_or(|old| (old.pre, old.post) != (path.pre, path.post)) {
        family.changed.insert(id);
    }
    old.is_none()
}

/// Takes a path out; `false` if there was none.
pub(super) fn take(
    family: &mut FamilyRib,
    attrs: &mut AttrStore,
    id: u32,
    (source, path_id): (Source, u32),
) -> bool {
    let Some(old) = family.table.take(id, source, path_id) else {
        return false;
    };
    attrs.release(old.pre);
    attrs.release(old.post);
    family.changed.insert(id);
    true
}

impl Rib {
    /// Takes in an UPDATE of an established session. Nothing is decided until [`Rib::settle`].
    ///
    /// On error the session has to end with the NOTIFICATION that the error names. Prefixes of
    /// families that were not negotiated are ignored.
    pub fn handle_update(
        &mut self,
        peer: PeerId,
        frame: &UpdateFrame<'_>,
    ) -> Result<UpdateOutcome, WireError> {
        let Some(session) = self.session(peer) else {
            return Ok(UpdateOutcome::Routes);
        };
        let families = session.info.families;
        if let Some(family) = frame.end_of_rib() {
            self.handle_eor(peer, family);
            return Ok(UpdateOutcome::EndOfRib(family));
        }
        let (v4, v6) = (Family::Ipv4Unicast, Family::Ipv6Unicast);
        if families.contains(v4) {
            self.withdraw::<Ipv4Prefix>(peer, frame.withdrawn)?;
        }
        if let Some(unreach) = frame.mp_unreach.filter(|u| families.contains(u.family)) {
            if unreach.family == v4 {
                self.withdraw::<Ipv4Prefix>(peer, unreach.nlri)?;
            } else {
                self.withdraw::<Ipv6Prefix>(peer, unreach.nlri)?;
            }
        }
        if !frame.announces() {
            return self.attributes_alone(peer, frame);
        }
        let mut outcome = UpdateOutcome::Routes;
        if !frame.nlri.is_empty() && families.contains(v4) {
            let set = self.resolve(peer, frame, None)?;
            self.announce::<Ipv4Prefix>(peer, frame.nlri, set, &mut outcome)?;
        }
        if let Some(reach) = frame.mp_reach.filter(|r| families.contains(r.family)) {
            let set = self.resolve(peer, frame, Some(reach.next_hop))?;
            if reach.family == v6 {
                self.announce::<Ipv6Prefix>(peer, reach.nlri, set, &mut outcome)?;
            } else {
                self.announce::<Ipv4Prefix>(peer, reach.nlri, set, &mut outcome)?;
            }
        }
        Ok(outcome)
    }

    /// The attributes of a message that announces nothing of ours (RFC 7606 section 5.2).
    fn attributes_alone(
        &mut self,
        peer: PeerId,
        frame: &UpdateFrame<'_>,
    ) -> Result<UpdateOutcome, WireError> {
        let class = self.session(peer).map(|session| session.class);
        let Some(class) = class.filter(|_| !frame.attrs.is_empty() && !frame.foreign_family) else {
            return Ok(UpdateOutcome::Routes);
        };
        let findings = PathAttrs::findings(&frame.attrs, &self.attrs.context(class));
        Ok(match frame.verdict_without_routes(findings)? {
            Verdict::AttributeDiscard(_) => UpdateOutcome::AttributeDiscarded,
            _ => UpdateOutcome::Routes,
        })
    }

    /// Takes in a ROUTE-REFRESH (RFC 2918, RFC 7313).
    pub fn handle_refresh(&mut self, peer: PeerId, family: Family, kind: RefreshKind) {
        let Some(session) = self.session(peer) else {
            return;
        };
        if !session.info.families.contains(family) {
            return;
        }
        match kind {
            RefreshKind::Request => self.send_again(peer, family),
            RefreshKind::Begin => self.mark_stale(peer, family),
            RefreshKind::End => self.purge_stale(peer, family),
        }
    }

    /// The peer has sent all routes of `family`.
    pub fn handle_eor(&mut self, peer: PeerId, family: Family) {
        self.purge_stale(peer, family);
        self.end_grace(peer, family);
        self.restart_event(peer, RestartEvent::EndOfRib(family));
    }

    fn withdraw<P: NlriPrefix + Key>(
        &mut self,
        peer: PeerId,
        nlri: &[u8],
    ) -> Result<(), WireError> {
        if nlri.is_empty() {
            return Ok(());
        }
        let add_path = self.identifies_paths(peer, P::FAMILY);
        let family = &mut self.families[P::FAMILY.index()];
        let mut gone = 0;
        let mut list = Hashed::<P>::new();
        approach(&family.table, nlri, add_path, &mut list)?;
        for &(Nlri { prefix, path_id }, hash) in &list {
            if let Some(id) = family.table.find_hashed(prefix, hash) {
                let path = (peer.0, path_id);
                gone += u32::from(take(family, &mut self.attrs, id, path));
            }
        }
        self.count(peer, P::FAMILY, |count| count - gone);
        Ok(())
    }

    /// The interned set that the attributes of `frame` mean, or why its routes are withdrawn.
    fn resolve(
        &mut self,
        peer: PeerId,
        frame: &UpdateFrame<'_>,
        mp_next_hop: Option<NextHop>,
    ) -> Result<Result<(u32, bool), AttrError>, WireError> {
        let Some(session) = self.session(peer) else {
            return Ok(Err(AttrError {
                code: 0,
                what: "the session is down",
                kind: Kind::FSM_ERROR,
            }));
        };
        let (class, scope) = (session.class, session.info.scope);
        let mp = mp_next_hop.map(|wire| (wire, self.next_hops.intern(wire, scope)));
        if !frame.is_malformed()
            && let Some(found) = self.attrs.find(class, &frame.attrs, mp)
        {
            return Ok(Ok(found));
        }
        let mut decoded = PathAttrs::decode(&frame.attrs, &self.attrs.context(class));
        let next_hop = match (mp, decoded.attrs.next_hop) {
            (Some((_, id)), _) => Some(id),
            (None, Some(v4)) => Some(self.next_hops.intern(NextHop::V4(v4), scope)),
            (None, None) => None,
        };
        let verdict = frame.verdict(&decoded.verdict, next_hop.is_some());
        let (discarded, next_hop) = match (verdict, next_hop) {
            (Verdict::Reset(error), _) => return Err(error),
            (Verdict::TreatAsWithdraw(error), _) => return Ok(Err(error)),
            (Verdict::Accept, Some(next_hop)) => (false, next_hop),
            (Verdict::AttributeDiscard(_), Some(next_hop)) => (true, next_hop),
            (_, None) => {
                return Ok(Err(AttrError {
                    code: 3,
                    what: "NEXT_HOP is missing",
                    kind: Kind::UPDATE_MISSING_WELL_KNOWN,
                }));
            }
        };
        if mp.is_some() {
            decoded.attrs.next_hop = None;
        }
        if self.attrs.class(class).kind == attr_store::Kind::Ebgp
            && decoded.attrs.has_community(GRACEFUL_SHUTDOWN)
        {
            // RFC 8326, section 4.1: as if it were received with the lowest preference.
            decoded.attrs.local_pref = Some(0);
        }
        let set = self.attrs.intern(class, &decoded.attrs, next_hop);
        self.attrs.remember(class, &frame.attrs, mp, set, discarded);
        Ok(Ok((set, discarded)))
    }

    fn announce<P: NlriPrefix + Key>(
        &mut self,
        peer: PeerId,
        nlri: &[u8],
        resolved: Result<(u32, bool), AttrError>,
        outcome: &mut UpdateOutcome,
    ) -> Result<(), WireError> {
        let (set, discarded) = match resolved {
            Ok(found) => found,
            Err(error) => {
                *outcome = UpdateOutcome::TreatedAsWithdraw(error);
                self.bump(peer, |stats| stats.treated_as_withdraw += 1);
                return self.withdraw::<P>(peer, nlri);
            }
        };
        if discarded {
            *outcome = UpdateOutcome::AttributeDiscarded;
            self.bump(peer, |stats| stats.attribute_discards += 1);
        }
        let looped = self.attrs.set(set).looped.is_some();
        let origin = self.attrs.kind(set).into();
        let Some(filter) = self.import_filter(peer) else {
            return Ok(());
        };
        let attrs = filter.needs_attrs().then(|| self.attrs.decode(set));
        let interface = match filter.needs_interface() {
            true => self.session(peer).map(|s| s.info.interface.clone()),
            false => None,
        };
        let facts = Facts {
            attrs: attrs.as_ref(),
            interface: interface.as_deref().unwrap_or_default(),
        };
        let add_path = self.identifies_paths(peer, P::FAMILY);
        let age = self
            .peer(peer)
            .map_or(Age::FIRST, |p| p.age[P::FAMILY.index()]);
        let family = &mut self.families[P::FAMILY.index()];
        let mut added = 0;
        // The operations that the last prefix got, and the set that came of it.
        let mut last = (Filter::PLAIN, set);
        let mut list = Hashed::<P>::new();
        approach(&family.table, nlri, add_path, &mut list)?;
        for &(Nlri { prefix, path_id }, hash) in &list {
            let id = family.table.find_or_insert_hashed(prefix, hash);
            let rule = if looped {
                None
            } else {
                filter.decide(prefix.into_prefix(), origin, &facts)
            };
            let post = match rule {
                None => NONE,
                Some(Filter::PLAIN) => set,
                Some(rule) => {
                    if last.0 != rule {
                        last = (rule, modified(&mut self.attrs, set, &filter, rule));
                    }
                    last.1
                }
            };
            let path = Path {
                age,
                ..Path::fresh(peer.0, path_id, set, post)
            };
            added += u32::from(put(family, &mut self.attrs, id, path));
        }
        self.count(peer, P::FAMILY, |count| count + added);
        Ok(())
    }

    /// Whether the prefixes that the peer sends have path identifiers.
    pub(super) fn identifies_paths(&self, peer: PeerId, family: Family) -> bool {
        self.session(peer)
            .is_some_and(|s| s.info.add_path.receive.contains(family))
    }

    pub(super) fn session(&self, peer: PeerId) -> Option<&Session> {
        self.peer(peer)?.session.as_ref()
    }
}

/// The set that import makes of `set` with the operations of `rule`.
pub(super) fn modified(attrs: &mut AttrStore, set: u32, filter: &Filter, rule: u16) -> u32 {
    let mut decoded = attrs.decode(set);
    super::export::operate(&mut decoded, filter.operations(rule));
    let (class, next_hop) = (attrs.class_of(set), attrs.set(set).next_hop);
    attrs.intern(class, &decoded, next_hop)
}
