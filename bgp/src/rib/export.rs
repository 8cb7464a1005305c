//! What a group is told of a route: whether, and with which attributes.

use std::net::Ipv4Addr;

use bytes::BytesMut;
use smallvec::SmallVec;

use super::{
    NextHopMode, PathLimit, PeerId, Rib,
    attr_store::{DEFAULT_LOCAL_PREF, Kind},
    decision::{self, Candidate},
    group::{GroupKey, StaleTold},
    index::NONE,
    table::{LOCAL, Source},
};
use crate::{
    policy::{self, Facts, Operation},
    prefix::{Family, Prefix},
    wire::{
        ExtCommunity, NextHop, PathAttrs, PeerKind,
        attrs::community::{GRACEFUL_SHUTDOWN, NO_EXPORT},
    },
};

/// A route as a group is told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Export {
    pub(super) source: Source,
    pub(super) set: u32,
    /// Rule of the export filter whose operations apply.
    pub(super) rule: u16,
    /// [`Path::number`](super::table::Path) where several are told, else 0.
    pub(super) number: u8,
}

impl Export {
    /// Whether both can be told in one message.
    pub(super) fn is_told_as(&self, other: &Self) -> bool {
        let key = |e: &Self| (e.source, e.set, e.rule);
        key(self) == key(other)
    }
}

/// What attributes are made of, beside what their group has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ingredients {
    set: u32,
    generation: u32,
    rule: u16,
    source: Source,
    /// Of the source of a reflected route.
    router_id: Option<Ipv4Addr>,
}

/// Attributes ready to send.
#[derive(Debug)]
pub(super) struct Rendered {
    of: Ingredients,
    pub(super) attrs: BytesMut,
    /// For MP_REACH_NLRI; `None` when `attrs` has it as NEXT_HOP.
    pub(super) mp_next_hop: Option<NextHop>,
}

impl Rib {
    /// What members of the group are told of the prefix, its source aside.
    pub(super) fn export(&self, key: &GroupKey, id: u32) -> Option<Export> {
        let dest = self.families[key.family.index()].table.dest(id);
        if dest.best == NONE {
            return None;
        }
        self.export_route(key, id, (dest.best_source, dest.best))
    }

    /// The same where several paths are told (RFC 7911): at most `limit`, the best first.
    pub(super) fn exports(
        &self,
        key: &GroupKey,
        id: u32,
        limit: PathLimit,
    ) -> SmallVec<[Export; 4]> {
        let paths = self.families[key.family.index()].table.paths(id);
        let usable = self.candidates(paths);
        let chosen = match limit {
            PathLimit::All => usable,
            PathLimit::Best(most) => decision::best_of(usable, most.get().into()),
        };
        let export = |candidate: &Candidate| {
            let path = &paths[candidate.at];
            let export = self.export_route(key, id, (path.source, path.post))?;
            Some(Export {
                number: path.number,
                ..export
            })
        };
        chosen.iter().filter_map(export).collect()
    }

    fn export_route(
        &self,
        key: &GroupKey,
        id: u32,
        (source, best): (Source, u32),
    ) -> Option<Export> {
        let set = self.attrs.set(best);
        let origin = self.attrs.kind(best);
        let to_ebgp = key.kind == PeerKind::Ebgp;
        if set.no_advertise || (to_ebgp && set.no_export) {
            return None;
        }
        if set.long_lived_stale && key.long_lived == StaleTold::NotAtAll {
            return None;
        }
        // RFC 4456, section 6: between internal peers only to or from a client.
        if origin == Kind::Ibgp && !to_ebgp && !key.rr_client && !self.is_client(source) {
            return None;
        }
        let prefix = self.families[key.family.index()].table.prefix(id);
        let filter = &key.export;
        let attrs = filter.needs_attrs().then(|| self.attrs.decode(best));
        let interface = match filter.needs_interface() {
            true => self.interface_of(prefix, source),
            false => "",
        };
        let facts = Facts {
            attrs: attrs.as_ref(),
            interface,
        };
        let rule = filter.decide(prefix, origin.into(), &facts)?;
        Some(Export {
            source,
            set: best,
            rule,
            number: 0,
        })
    }

    /// Where the route of a source leads: a peer's by the interface of its session.
    fn interface_of(&self, prefix: Prefix, source: Source) -> &str {
        if source == LOCAL {
            return self.local_interfaces.get(&prefix).map_or("", |i| i);
        }
        let last = self.peer(PeerId(source)).and_then(|p| p.last.as_ref());
        last.map_or("", |info| &info.interface)
    }

    fn is_client(&self, source: Source) -> bool {
        self.peer(PeerId(source))
            .is_some_and(|p| p.config.rr_client)
    }

    /// The same as [`Rib::render`], which is `last` where it was made of the same: a route that comes and goes
    /// is told like that.
    pub(super) fn render_again(
        &self,
        last: Option<Rendered>,
        (key, export): (&GroupKey, Export),
    ) -> Option<Rendered> {
        let same = |last: &Rendered| last.of == self.ingredients(key, export);
        last.filter(same).or_else(|| self.render(key, export))
    }

    fn ingredients(&self, key: &GroupKey, export: Export) -> Ingredients {
        let Export {
            source, set, rule, ..
        } = export;
        let reflected = key.kind == PeerKind::Ibgp && self.attrs.kind(set) == Kind::Ibgp;
        Ingredients {
            set,
            generation: self.attrs.generation(set),
            rule,
            source,
            router_id: reflected.then(|| self.router_id_of(source)),
        }
    }

    /// The attributes of `export` for the group, `None` if there is no next hop to tell.
    pub(super) fn render(&self, key: &GroupKey, export: Export) -> Option<Rendered> {
        let mut attrs = self.attrs.decode(export.set);
        let origin = self.attrs.kind(export.set);
        let operations = key.export.operations(export.rule);
        match key.kind {
            PeerKind::Ebgp => {
                attrs.local_pref = None;
                attrs.originator_id = None;
                attrs.cluster_list.clear();
                if origin != Kind::Local {
                    let goes_on = |c: &[u8; 8]| ExtCommunity(*c).is_transitive();
                    attrs.ext_communities.retain(goes_on);
                }
                if origin != Kind::Local {
                    // RFC 4271, section 5.1.4: not on to a third AS.
                    attrs.med = None;
                }
                operate(&mut attrs, operations);
                attrs.local_pref = None;
                attrs.as_path.strip_confed();
                if key.remove_private_as {
                    attrs.as_path.retain(|asn| !is_private_as(asn));
                }
                if let Some(theirs) = key.as_override {
                    let ours = |asn| if asn == theirs { key.local_as } else { asn };
                    attrs.as_path.map(ours);
                }
                attrs.as_path.prepend(key.local_as, 1);
            }
            PeerKind::Ibgp => {
                attrs.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
                if origin == Kind::Ibgp {
                    self.reflect(&mut attrs, export.source);
                }
                operate(&mut attrs, operations);
            }
        }
        if key.graceful_shutdown {
            operate(&mut attrs, &[Operation::AddCommunity(GRACEFUL_SHUTDOWN)]);
            if key.kind == PeerKind::Ibgp {
                attrs.local_pref = Some(0);
            }
        }
        if let StaleTold::Last { no_export } = key.long_lived
            && self.attrs.set(export.set).long_lived_stale
        {
            attrs.local_pref = Some(0);
            if no_export {
                operate(&mut attrs, &[Operation::AddCommunity(NO_EXPORT)]);
            }
        }
        let next_hop = self.told_next_hop(key, export, origin)?;
        let mp_next_hop = match (key.family, next_hop) {
            (Family::Ipv4Unicast, NextHop::V4(v4)) => {
                attrs.next_hop = Some(v4);
                None
            }
            (Family::Ipv4Unicast, NextHop::V6 { .. }) if !key.extended_next_hop => return None,
            _ => {
                attrs.next_hop = None;
                Some(next_hop)
            }
        };
        let mut encoded = BytesMut::with_capacity(128);
        attrs.encode(key.four_octet_as, &mut encoded);
        Some(Rendered {
            of: self.ingredients(key, export),
            attrs: encoded,
            mp_next_hop,
        })
    }

    /// RFC 4456, section 8.
    fn reflect(&self, attrs: &mut PathAttrs, source: Source) {
        let id = self.router_id_of(source);
        attrs.originator_id.get_or_insert(id);
        attrs.cluster_list.insert(0, self.config.cluster_id);
    }

    fn router_id_of(&self, source: Source) -> Ipv4Addr {
        let last = self.peer(PeerId(source)).and_then(|p| p.last.as_ref());
        last.map_or(Ipv4Addr::UNSPECIFIED, |info| info.router_id)
    }

    fn told_next_hop(&self, key: &GroupKey, export: Export, origin: Kind) -> Option<NextHop> {
        let received = self.next_hops.wire(self.attrs.set(export.set).next_hop);
        let ours = match key.next_hop_mode {
            _ if export.source == LOCAL || origin == Kind::Local => true,
            NextHopMode::SelfAlways => true,
            NextHopMode::Keep => false,
            NextHopMode::Auto => key.kind == PeerKind::Ebgp,
        };
        if ours {
            return key.next_hop;
        }
        match received? {
            // A link-local address means nothing off the link that it came from.
            NextHop::V6 { global, .. }
                if global.is_unspecified() || global.is_unicast_link_local() =>
            {
                key.next_hop
            }
            NextHop::V6 { global, .. } => Some(NextHop::V6 {
                global,
                link_local: None,
            }),
            v4 @ NextHop::V4(_) => Some(v4),
        }
    }
}

/// RFC 6996 section 5.
fn is_private_as(asn: u32) -> bool {
    (64512..=65534).contains(&asn) || (4_200_000_000..=4_294_967_294).contains(&asn)
}

/// Applies a filter's operations.
pub(super) fn operate(attrs: &mut PathAttrs, operations: &[Operation]) {
    for operation in operations {
        match operation {
            Operation::AddCommunity(community) => {
                if !attrs.communities.contains(community) {
                    attrs.communities.push(*community);
                }
            }
            Operation::AddLargeCommunity(community) => {
                if !attrs.large_communities.contains(community) {
                    attrs.large_communities.push(*community);
                }
            }
            Operation::AddExtCommunity(community) => {
                if !attrs.ext_communities.contains(community) {
                    attrs.ext_communities.push(*community);
                }
            }
            Operation::PrependAsPath(asns) => {
                asns.iter()
                    .rev()
                    .for_each(|&asn| attrs.as_path.prepend(asn, 1));
            }
            Operation::SetLocalPref(value) => attrs.local_pref = Some(*value),
            Operation::SetMed(value) => attrs.med = Some(*value),
            Operation::SetPriority(value) => attrs.local_pref = Some(policy::pref_of(*value)),
        }
    }
}
