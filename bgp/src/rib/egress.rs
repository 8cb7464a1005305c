//! What each peer is told: groups formed, filled and read.
//!
//! A peer in step reads the log of its key's main group, where each change is encoded once for
//! all. A newcomer, a peer that asked for a refresh or whose filter changed, and one that was too
//! slow for the log get a group of their own with the prefixes they lack, and move to the main
//! group once both have nothing left to say: what was said is then the same.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    PeerId, Rib,
    export::Export,
    group::{Group, GroupKey, Marker, Next, Readers, StaleTold, Told},
    held::Held,
    table::{LOCAL, Source, Table},
};
use crate::{
    prefix::{Family, Ipv4Prefix, Ipv6Prefix, Prefix},
    wire::{
        MessageType, NextHop, Nlri, PeerKind, header,
        nlri::PutNlri,
        update_encode::{
            AttrsTooLong, announce_mp, announce_v4, end_of_rib, withdraw_mp, withdraw_v4,
        },
    },
};

/// How much is encoded and kept. A struct, so that tests can make both small.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Prefixes encoded at a time: about 100 KiB of messages, one good write.
    pub(super) batch: usize,
    /// A log of more octets drops its slowest readers, who are then told anew what they missed.
    /// Far more than a socket buffer, so that only a peer that has stopped reading gets here.
    pub(super) log_bytes: usize,
    /// Prefixes that are put in order at once, a few milliseconds; more are in portions.
    pub(super) sort: usize,
    /// Prefixes that a portion of what concerns a whole table is about: a few milliseconds at the
    /// most, whatever the filters are.
    pub(super) portion: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch: 8192,
            log_bytes: 8 << 20,
            sort: 64 << 10,
            portion: 4096,
        }
    }
}

impl Rib {
    /// Whether [`Rib::poll_transmit`] may have something for the peer.
    pub fn pending(&self, peer: PeerId) -> bool {
        let Some(session) = self.session(peer) else {
            return false;
        };
        !self.is_silent()
            && session.groups.iter().flatten().any(|&at| {
                self.groups
                    .get(at)
                    .is_some_and(|g| g.as_ref().is_some_and(|g| g.is_pending(peer.0)))
            })
    }

    /// Whether nothing is decided yet: after a restart of ours, or before the first decision on what
    /// another process has left.
    pub(super) const fn is_silent(&self) -> bool {
        self.deferral.is_some() || self.resumed
    }

    /// Appends messages for the peer until there are none or `out` has grown by `limit` octets;
    /// the last batch may go beyond by some 100 KiB. Returns whether anything was appended.
    pub fn poll_transmit(&mut self, peer: PeerId, out: &mut BytesMut, limit: usize) -> bool {
        let start = out.len();
        while out.len() - start < limit {
            match self.poll_transmit_shared(peer) {
                Some(data) => out.extend_from_slice(&data),
                None if self.order_some() => {}
                None => break,
            }
        }
        out.len() > start
    }

    /// The next whole messages for the peer, in memory shared with the other readers. `None` as well
    /// while [`Rib::work`] has to put in order what is next.
    pub fn poll_transmit_shared(&mut self, peer: PeerId) -> Option<Bytes> {
        if self.is_silent() {
            return None;
        }
        Family::ALL
            .into_iter()
            .find_map(|family| self.next_data(peer, family))
    }

    fn next_data(&mut self, peer: PeerId, family: Family) -> Option<Bytes> {
        loop {
            let at = self.session(peer)?.groups[family.index()]?;
            let group = self.groups.get_mut(at)?.as_mut()?;
            match group.read(peer.0) {
                Next::Data(data) => return Some(data),
                Next::Marker(marker) => return Some(marker_message(marker, family)),
                Next::End if group.queue.is_to_be_ordered(self.limits.sort) => {
                    if !self.to_order.contains(&at) {
                        self.to_order.push_back(at);
                    }
                    return None;
                }
                Next::End if !group.queue.is_empty() => self.emit(at, peer.0),
                Next::End => {
                    group.batch_done();
                    if !group.is_pending(peer.0) {
                        self.merge(at, peer, family);
                        return None;
                    }
                }
            }
        }
    }

    /// A portion of what is to be put in order; `false` if nothing is.
    pub(super) fn order_some(&mut self) -> bool {
        let Some(&at) = self.to_order.front() else {
            return false;
        };
        let Limits { sort, portion, .. } = self.limits;
        let done = match self.groups.get_mut(at).and_then(Option::as_mut) {
            Some(group) if group.queue.is_to_be_ordered(sort) => {
                let table = &self.families[group.key.family.index()].table;
                group.queue.order(portion, |id| table.dest(id).best)
            }
            // The group that was there is gone.
            _ => true,
        };
        if done {
            self.to_order.pop_front();
        }
        true
    }

    /// Whether some peer waits for [`Rib::work`] to put in order what it is told.
    pub fn is_ordering(&self) -> bool {
        !self.to_order.is_empty()
    }

    pub(super) fn group_key(&self, peer: PeerId, family: Family) -> Option<GroupKey> {
        let state = self.peer(peer)?;
        let info = &state.session.as_ref()?.info;
        let config = &state.config;
        Some(GroupKey {
            family,
            kind: config.kind,
            local_as: config.local_as,
            rr_client: config.rr_client,
            graceful_shutdown: config.graceful_shutdown,
            next_hop_mode: config.next_hop_mode,
            next_hop: config.next_hop(family),
            four_octet_as: info.four_octet_as,
            max_message_len: info.max_message_len,
            extended_next_hop: info.extended_next_hop,
            as_override: config.as_override,
            remove_private_as: config.remove_private_as,
            add_path: info
                .add_path
                .send
                .contains(family)
                .then_some(config.paths_sent),
            long_lived: match info.long_lived {
                Some(peer) if peer.partial && config.kind == PeerKind::Ibgp => StaleTold::Last {
                    no_export: !peer.capable,
                },
                Some(peer) if !peer.capable => StaleTold::NotAtAll,
                _ => StaleTold::AsTheyAre,
            },
            export: std::sync::Arc::clone(&config.export),
        })
    }

    /// A new session: the whole table is to be told, then End-of-RIB.
    pub(super) fn join(&mut self, peer: PeerId, family: Family) {
        let Some(key) = self.group_key(peer, family) else {
            return;
        };
        let marker = Some(Marker::EndOfRib);
        let groups = || {
            (0usize..)
                .zip(&self.groups)
                .filter_map(|(i, g)| Some((i, g.as_ref()?)))
        };
        let pristine = groups()
            .find(|(_, g)| g.is_pristine() && g.key == key)
            .map(|(at, _)| at);
        if let Some(at) = pristine {
            if let Some(group) = &mut self.groups[at] {
                group.add(peer.0, marker);
            }
            self.set_group(peer, family, Some(at));
            return;
        }
        let main = !groups().any(|(_, g)| g.main && g.key == key);
        let held = Held::new(key.add_path.is_some());
        let mut group = Group::new(key, main, held);
        let table = &self.families[family.index()].table;
        // Without a selected path there is none that could be told.
        let any = |id: &u32| table.dest(*id).best != super::NONE;
        table.ids().filter(any).for_each(|id| group.queue.push(id));
        group.add(peer.0, marker);
        self.open(peer, family, group);
    }

    pub(super) fn open(&mut self, peer: PeerId, family: Family, group: Group) {
        let at = self
            .groups
            .iter()
            .position(Option::is_none)
            .unwrap_or_else(|| {
                self.groups.push(None);
                self.groups.len() - 1
            });
        self.groups[at] = Some(Box::new(group));
        self.set_group(peer, family, Some(at));
    }

    pub(super) fn set_group(&mut self, peer: PeerId, family: Family, group: Option<usize>) {
        if let Some(session) = self.peer_mut(peer).and_then(|p| p.session.as_mut()) {
            session.groups[family.index()] = group;
        }
    }

    /// Takes the peer out of its group, to a group of its own that knows what the peer was told;
    /// what it missed is queued there. The key may be another one.
    pub(super) fn detach(&mut self, peer: PeerId, family: Family) -> Option<Group> {
        let at = self.session(peer)?.groups[family.index()]?;
        let key = self.group_key(peer, family)?;
        let old = self.groups.get_mut(at)?.as_mut()?;
        let (member, missed) = old.remove(peer.0)?;
        let mut group = Group::new(key, false, old.held.told_to(peer.0, &missed));
        missed.ids.into_iter().for_each(|id| group.queue.push(id));
        group.add(peer.0, member.marker);
        self.drop_if_empty(at);
        Some(group)
    }

    fn drop_if_empty(&mut self, at: usize) {
        if self.groups[at]
            .as_ref()
            .is_some_and(|g| g.members.is_empty())
        {
            self.groups[at] = None;
        }
    }

    /// The session of the peer ends.
    pub(super) fn leave(&mut self, peer: PeerId, family: Family) {
        let Some(at) = self.session(peer).and_then(|s| s.groups[family.index()]) else {
            return;
        };
        if let Some(group) = &mut self.groups[at] {
            group.remove(peer.0);
        }
        self.drop_if_empty(at);
        self.set_group(peer, family, None);
    }

    /// The configuration changed: if that changes what the peer is told, it is told the difference.
    pub(super) fn regroup(&mut self, peer: PeerId, family: Family) {
        let at = self.session(peer).and_then(|s| s.groups[family.index()]);
        let Some(old) = at.and_then(|at| self.groups[at].as_ref()) else {
            return;
        };
        if self
            .group_key(peer, family)
            .is_none_or(|key| key == old.key)
        {
            return;
        }
        let Some(mut group) = self.detach(peer, family) else {
            return;
        };
        self.families[family.index()]
            .table
            .ids()
            .for_each(|id| group.queue.push(id));
        self.open(peer, family, group);
    }

    /// The peer asked for all of it once more (RFC 2918, RFC 7313).
    pub(super) fn send_again(&mut self, peer: PeerId, family: Family) {
        let enhanced = self.session(peer).is_some_and(|s| s.info.enhanced_refresh);
        let Some(mut group) = self.detach(peer, family) else {
            return;
        };
        self.families[family.index()]
            .table
            .ids()
            .for_each(|id| group.queue.push(id));
        if enhanced
            && group
                .members
                .iter()
                .all(|m| m.marker != Some(Marker::EndOfRib))
        {
            let begin = refresh_message(family, 1);
            group.append(
                Readers::Only(peer.0),
                begin,
                Told::default(),
                self.emissions,
            );
            group.set_marker(peer.0, Some(Marker::EndOfRefresh));
        }
        self.open(peer, family, group);
    }

    /// A rule that is not part of the keys changed: everything is looked at again.
    pub(super) fn export_again(&mut self) {
        for group in self.groups.iter_mut().flatten() {
            let table = &self.families[group.key.family.index()].table;
            table.ids().for_each(|id| group.queue.push(id));
        }
    }

    /// A peer that has caught up goes to the main group, if that is as far.
    fn merge(&mut self, at: usize, peer: PeerId, family: Family) {
        let Some(own) = self.groups[at].as_ref().filter(|g| !g.main) else {
            return;
        };
        let undecided = !self.families[family.index()].changed.list.is_empty();
        if own.key.add_path.is_some() && undecided {
            // What is told of several paths is ahead of the decision: of what is undecided each group may
            // have told something else.
            return;
        }
        let is_main =
            |g: &Option<Box<Group>>| g.as_ref().is_some_and(|g| g.main && g.key == own.key);
        match self.groups.iter().position(is_main) {
            None => {
                if let Some(own) = &mut self.groups[at] {
                    own.main = true;
                }
            }
            Some(main) => {
                let Some(group) = self.groups[main].as_mut().filter(|g| g.queue.is_empty()) else {
                    return;
                };
                group.add(peer.0, None);
                if let Some(own) = &mut self.groups[at] {
                    own.remove(peer.0);
                }
                self.drop_if_empty(at);
                self.set_group(peer, family, Some(main));
            }
        }
    }

    /// Encodes the next batch of a group into its log, on behalf of `reader`.
    fn emit(&mut self, at: usize, reader: Source) {
        if self.groups[at]
            .as_ref()
            .is_some_and(|g| g.log_bytes() > self.limits.log_bytes)
        {
            self.drop_laggards(at, reader);
        }
        let Some(mut group) = self.groups[at].take() else {
            return;
        };
        let table = &self.families[group.key.family.index()].table;
        let batch = group.take_batch(self.limits.batch, |id| table.dest(id).best);
        self.emissions += 1;
        Emission::new(self, &mut group).run(&batch);
        group.batch_done();
        self.groups[at] = Some(group);
    }

    fn drop_laggards(&mut self, at: usize, reader: Source) {
        let Some(group) = &self.groups[at] else {
            return;
        };
        let family = group.key.family;
        for source in group.laggards(reader) {
            if let Some(group) = self.detach(PeerId(source), family) {
                self.open(PeerId(source), family, group);
            }
        }
    }
}

/// Room for messages from the start, as a rule enough: what one takes at most with few attributes, ...
const MESSAGE_OCTETS: usize = 128;
/// ... what a route more takes, its share of the attributes included, ...
const ROUTE_OCTETS: usize = 16;
/// ... and one that is withdrawn.
const GONE_OCTETS: usize = 5;

/// A route to be withdrawn: whom its readers are found by, the prefix, and which path of it.
type Gone = (Source, u32, u8);

/// One batch on its way into a log.
struct Emission<'a> {
    rib: &'a Rib,
    group: &'a mut Group,
    table: &'a Table,
    /// Withdrawals by who had the route from whom it came.
    gone: Vec<Gone>,
    /// Withdrawals for a member whose own route took over.
    replaced: Vec<Gone>,
}

impl<'a> Emission<'a> {
    fn new(rib: &'a Rib, group: &'a mut Group) -> Self {
        let table = &rib.families[group.key.family.index()].table;
        Self {
            rib,
            group,
            table,
            gone: Vec::new(),
            replaced: Vec::new(),
        }
    }

    fn run(&mut self, batch: &[u32]) {
        let mut announced: Vec<(Export, u32)> = Vec::with_capacity(batch.len());
        for &id in batch {
            if let Some(limit) = self.group.key.add_path {
                let exports = self.rib.exports(&self.group.key, id, limit);
                for number in self.group.held.numbers(id) {
                    if exports.iter().all(|e| e.number != number) {
                        self.withdrawn(id, number);
                    }
                }
                announced.extend(exports.into_iter().map(|export| (export, id)));
                continue;
            }
            match self.rib.export(&self.group.key, id) {
                Some(export) => announced.push((export, id)),
                None => self.withdrawn(id, 0),
            }
        }
        announced.sort_unstable();
        for same_source in announced.chunk_by(|(a, _), (b, _)| a.source == b.source) {
            self.announce(same_source);
        }
        let gone = std::mem::take(&mut self.gone);
        self.withdraw(gone, Readers::AllBut);
        let replaced = std::mem::take(&mut self.replaced);
        self.withdraw(replaced, Readers::Only);
    }

    fn withdrawn(&mut self, id: u32, number: u8) {
        if let Some(source) = self.group.held.get(id, number) {
            self.group.held.set(id, number, None);
            self.gone.push((self.tag(source), id, number));
        }
    }

    /// The source if it is a reader of the log, which then has to skip its own routes.
    fn tag(&self, source: Source) -> Source {
        if self.group.has_member(source) {
            source
        } else {
            LOCAL
        }
    }

    /// Routes of one source, ordered by attributes.
    fn announce(&mut self, routes: &[(Export, u32)]) {
        let Some((Export { source, .. }, _)) = routes.first().copied() else {
            return;
        };
        let tag = self.tag(source);
        let mut data = BytesMut::with_capacity(MESSAGE_OCTETS + ROUTE_OCTETS * routes.len());
        let mut told = Vec::with_capacity(routes.len());
        for same in routes.chunk_by(|(a, _), (b, _)| a.is_told_as(b)) {
            if !self.put_announcements(same, &mut data) {
                same.iter()
                    .for_each(|&(export, id)| self.withdrawn(id, export.number));
                continue;
            }
            for &(Export { number, .. }, id) in same {
                let before = self.group.held.get(id, number);
                if tag == source && before.is_some_and(|before| before != source) {
                    self.replaced.push((source, id, number));
                }
                self.group.held.set(id, number, Some(source));
                told.push((id, number));
            }
        }
        self.append(Readers::AllBut(tag), data, told.iter().copied());
    }

    /// `false` if the routes cannot be told: no next hop, or attributes longer than a message.
    fn put_announcements(&mut self, same: &[(Export, u32)], out: &mut BytesMut) -> bool {
        let Some(&(export, _)) = same.first() else {
            return true;
        };
        let last = self.group.rendered.take();
        let key = &self.group.key;
        let Some(rendered) = self.rib.render_again(last, (key, export)) else {
            return false;
        };
        let routes = same.iter().map(|&(export, id)| (id, export.number));
        let message = Message {
            next_hop: rendered.mp_next_hop,
            attrs: &rendered.attrs,
            key,
        };
        let done = match key.family {
            Family::Ipv4Unicast => message.announce(self.v4(routes), out),
            Family::Ipv6Unicast if message.next_hop.is_none() => return false,
            Family::Ipv6Unicast => message.announce(self.v6(routes), out),
        };
        let is_told = done.is_ok();
        self.group.rendered = Some(rendered);
        is_told
    }

    fn withdraw(&mut self, mut list: Vec<Gone>, readers: impl Fn(Source) -> Readers) {
        list.sort_unstable();
        for same in list.chunk_by(|a, b| a.0 == b.0) {
            let Some(&(source, ..)) = same.first() else {
                continue;
            };
            let routes = same.iter().map(|&(_, id, number)| (id, number));
            let mut data = BytesMut::with_capacity(MESSAGE_OCTETS + GONE_OCTETS * same.len());
            let key = &self.group.key;
            match key.family {
                Family::Ipv4Unicast => withdraw(key, self.v4(routes.clone()), &mut data),
                Family::Ipv6Unicast => withdraw(key, self.v6(routes.clone()), &mut data),
            }
            self.append(readers(source), data, routes);
        }
    }

    fn append(
        &mut self,
        readers: Readers,
        data: BytesMut,
        routes: impl Iterator<Item = (u32, u8)> + Clone,
    ) {
        if data.is_empty() {
            return;
        }
        let several = self.group.key.add_path.is_some();
        let told = Told {
            ids: routes.clone().map(|(id, _)| id).collect(),
            numbers: routes
                .filter(|_| several)
                .map(|(_, number)| number)
                .collect(),
        };
        self.group
            .append(readers, data.freeze(), told, self.rib.emissions);
    }

    fn v4(
        &self,
        routes: impl Iterator<Item = (u32, u8)>,
    ) -> impl Iterator<Item = Nlri<Ipv4Prefix>> {
        routes.filter_map(|(id, number)| match self.table.prefix(id) {
            Prefix::V4(prefix) => Some(nlri(prefix, number)),
            Prefix::V6(_) => None,
        })
    }

    fn v6(
        &self,
        routes: impl Iterator<Item = (u32, u8)>,
    ) -> impl Iterator<Item = Nlri<Ipv6Prefix>> {
        routes.filter_map(|(id, number)| match self.table.prefix(id) {
            Prefix::V6(prefix) => Some(nlri(prefix, number)),
            Prefix::V4(_) => None,
        })
    }
}

const fn nlri<P>(prefix: P, number: u8) -> Nlri<P> {
    Nlri {
        path_id: told_id(number),
        prefix,
    }
}

/// The identifier that peers are told for a path: never 0, which some take for none.
pub(super) const fn told_id(number: u8) -> u32 {
    number as u32 + 1
}

/// What the prefixes of an announcement share.
struct Message<'a> {
    /// For MP_REACH_NLRI; `None` when `attrs` has it.
    next_hop: Option<NextHop>,
    attrs: &'a [u8],
    key: &'a GroupKey,
}

impl Message<'_> {
    fn announce<P: PutNlri>(
        &self,
        routes: impl Iterator<Item = Nlri<P>>,
        out: &mut BytesMut,
    ) -> Result<usize, AttrsTooLong> {
        if self.key.add_path.is_some() {
            self.put(routes, out)
        } else {
            self.put(routes.map(|nlri| nlri.prefix), out)
        }
    }

    fn put<N: PutNlri>(
        &self,
        routes: impl Iterator<Item = N>,
        out: &mut BytesMut,
    ) -> Result<usize, AttrsTooLong> {
        let max_len = self.key.max_message_len;
        match self.next_hop {
            None => announce_v4(self.attrs, routes, max_len, out),
            Some(hop) => announce_mp(hop, self.attrs, routes, max_len, out),
        }
    }
}

fn withdraw<P: PutNlri>(key: &GroupKey, routes: impl Iterator<Item = Nlri<P>>, out: &mut BytesMut) {
    fn put<N: PutNlri>(mp: bool, routes: impl Iterator<Item = N>, most: usize, out: &mut BytesMut) {
        if mp {
            withdraw_mp(routes, most, out);
        } else {
            withdraw_v4(routes, most, out);
        }
    }
    let over_v6 = matches!(key.next_hop, Some(NextHop::V6 { .. })) && key.extended_next_hop;
    let mp = key.family == Family::Ipv6Unicast || over_v6;
    if key.add_path.is_some() {
        put(mp, routes, key.max_message_len, out);
    } else {
        put(mp, routes.map(|nlri| nlri.prefix), key.max_message_len, out);
    }
}

fn marker_message(marker: Marker, family: Family) -> Bytes {
    match marker {
        Marker::EndOfRefresh => refresh_message(family, 2),
        Marker::EndOfRib => {
            let mut out = BytesMut::new();
            end_of_rib(family, &mut out);
            out.freeze()
        }
    }
}

/// ROUTE-REFRESH with a subtype of RFC 7313: 1 begins, 2 ends.
fn refresh_message(family: Family, subtype: u8) -> Bytes {
    let mut out = BytesMut::new();
    header::put(&mut out, MessageType::RouteRefresh, 4);
    out.put_u16(family.afi());
    out.put_u8(subtype);
    out.put_u8(family.safi());
    out.freeze()
}
