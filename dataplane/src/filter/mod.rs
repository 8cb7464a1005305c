//! Packet policy, anti-spoofing and outgoing NAT: desired state in, iptables and ipsets out.
//!
//! [`Filter`] takes sets, rules, endpoints and globals ([`types`]) and makes the kernel equal to
//! them in [`Filter::apply`], which alone touches it.
//!
//! **What is in the kernel.** Endpoints with the same tiers, policies and profiles share a *group*: a
//! chain pair `mgy-to-GROUP` / `mgy-fw-GROUP` and an ipset `mgy4g:GROUP` of (address, interface).
//! Dispatch goes by these sets, so an endpoint that joins a group that exists is a few set members:
//! no rule changes. Chains of policies and profiles are shared by all groups. `mgy4-wl` holds every
//! workload's (address, interface): packets from a workload that are not in it are dropped in `raw`,
//! packets to one that are not in it in `FORWARD`.
//!
//! The host's own interfaces have chains each, in `raw`, `mangle` and `filter`; see [`hosts`]. They come
//! into force with [`Filter::allow_deletes`]: a host must not be cut off by policy that is half known.
//!
//! Ports of the host that lead to workloads are in `nat`, see [`ports`]; policy sees what they lead to.
//!
//! **Order of an apply.** Sets and members in; one `iptables-restore --noflush` for each family with
//! the chains that differ; members out; sets that no rule refers to destroyed. At each instant a
//! packet meets the old or the new rules, never none.
//!
//! **Ownership.** Chains `mgy-*`, sets `mgy4*`/`mgy6*`, rules with a comment `mgy:HASH`. Nothing of
//! ours is deleted before [`Filter::allow_deletes`]; nothing of others is ever changed.

mod backend;
mod chains;
mod driver;
mod hosts;
mod iptables;
pub(crate) mod kernel;
mod label;
mod limits;
mod members;
pub(crate) mod names;
mod ports;
pub(crate) mod program;
mod rules;
mod sets;
mod settled;
mod state;
#[cfg(test)]
mod tests;
mod tunnels;
pub mod types;
mod verdicts;

pub use self::{
    backend::{Backend, Wish, left_behind, sets_left_behind},
    driver::{ApplyReport, Config, Failure, Filter, FilterError, Sizes},
    label::{Cause, Label, Verdict, is_cut, name_of},
    state::{Counters, RulesHits, RulesId},
    types::{
        Action, DenyAction, Direction, Endpoint, EndpointId, EntityMatch, Failsafe, Family,
        Globals, HostAction, HostEndpoint, HostInterface, HostPort, IcmpMatch, Limits, Nflog,
        Phase, PolicyId, PolicyRules, ProfileId, Rule, SetId, SetKind, SetMember, SetSpec, Tier,
        TierDefault, Tunnels, WayLimits, Ways,
    },
    verdicts::ended_mark,
};
pub use crate::iptables::{Hits, Programs, Variant};
