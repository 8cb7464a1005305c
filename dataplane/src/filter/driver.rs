//! [`Filter`]: the one object that the owner of the dataplane holds.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    backend::{Backend, Survey, Wish},
    iptables::Iptables,
    kernel::{Kernel, Pass},
    state::{Counters, RulesId, State},
    types::{
        Endpoint, EndpointId, Family, Globals, HostEndpoint, HostInterface, PolicyId, PolicyRules,
        ProfileId, SetId, SetMember, SetSpec,
    },
};
use crate::{
    ipset::{IfName, IpsetError},
    iptables::{BackendError, Programs, RestoreError, Variant},
    netlink::NetlinkError,
    nft::{Concern, Nftables},
};

/// How to reach the kernel.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the rules are to be.
    pub backend: Wish,
    /// Program IPv6 as well. Off only where the kernel has no IPv6.
    pub ipv6: bool,
    /// The iptables programs.
    pub programs: Programs,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: Wish::Auto,
            ipv6: true,
            programs: Programs::default(),
        }
    }
}

/// Why a filter could not be opened, or an input not be taken. The caller corrects the input;
/// nothing is retried here.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// No usable iptables.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// No nf_tables.
    #[error("nf_tables: {0}")]
    Nftables(#[from] NetlinkError),
    /// No ip sets.
    #[error(transparent)]
    Ipset(#[from] IpsetError),
    /// Cleaning up failed.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A bad interface name.
    #[error(
        "endpoint {endpoint}: interface \"{ifname}\" must start with \"{prefix}\", have up to 15 bytes and no blank, slash or colon"
    )]
    Interface {
        /// Endpoint.
        endpoint: EndpointId,
        /// What was given.
        ifname: String,
        /// The prefix in force.
        prefix: String,
    },
    /// A bad prefix.
    #[error("interface prefix \"{0}\" must have 1 to 14 of the characters A-Z a-z 0-9 _ . -")]
    InterfacePrefix(String),
    /// Too few mark bits.
    #[error("mark mask {0:#x} must have at least two bits")]
    MarkMask(u32),
}

/// Something that could not be made so; it stays wanted and is retried.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The chain, the set, or the family's tables as a whole.
    pub object: String,
    /// One line.
    pub error: String,
}

/// What one [`Filter::apply`] did.
#[derive(Clone, Debug, Default)]
pub struct ApplyReport {
    /// Runs of `iptables-restore`, or batches with rules for nf_tables; 0 when only set members changed.
    pub restores: u32,
    /// Chains written or deleted.
    pub chains_changed: usize,
    /// Rules in the chains that were written.
    pub rules_written: usize,
    /// How often chains were read back; with iptables, of each family.
    pub reads: u32,
    /// How many of these readings failed.
    pub read_failures: u32,
    /// Sets made or destroyed, members added or deleted.
    pub set_changes: usize,
    /// Differences from what was left behind, found by a resync; repaired in the same apply.
    pub drift: usize,
    /// What is not as desired.
    pub failures: Vec<Failure>,
    /// When to call [`Filter::apply`] again even if nothing changes.
    pub retry_in: Option<Duration>,
}

/// How much a backend is to hold, for all families and tables together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Chains.
    pub chains: usize,
    /// Rules in them.
    pub rules: usize,
    /// Sets, with those that no policy asked for.
    pub sets: usize,
}

impl ApplyReport {
    /// The kernel is as desired. Work that only waits (a set to be destroyed that is still
    /// referenced) counts as done.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.failures.is_empty()
    }
}

/// The driver. Every `set_*` and `remove_*` only marks; [`Filter::apply`] changes the kernel.
///
/// Blocking and without locks: hold it in the dataplane's own thread, or call [`Filter::apply`]
/// under `spawn_blocking`/`block_in_place`. Member changes take microseconds; rule changes too with
/// nftables, while with iptables they run one program per family (both in parallel) for some milliseconds.
#[derive(Debug)]
pub struct Filter {
    programs: Programs,
    families: Vec<Family>,
    state: State,
    kernel: Box<dyn Kernel>,
    may_delete: bool,
    wish: Wish,
    /// Where the rules are to be once everything is known.
    wanted: Backend,
    /// Why they are not there.
    cannot_move: Option<String>,
    /// Backends not in use that may still hold rules of ours.
    left_behind: Vec<Backend>,
    /// Those that could not be cleaned; tried again at the next resync.
    not_cleaned: Vec<Backend>,
}

impl Filter {
    /// Opens the filter in the calling thread's network namespace. Reads, writes nothing.
    ///
    /// Where rules of ours are left in another backend than the wanted one, they are adopted there first:
    /// the move is made when the desired state is complete, so that no packet meets half of it.
    ///
    /// # Errors
    /// When no variant of iptables is installed or the netlink socket cannot be made.
    pub fn open(config: Config) -> Result<Self, FilterError> {
        let (start, wanted, left_behind) = match config.backend {
            Wish::Exactly(backend) => (backend, backend, Backend::ALL.into()),
            wish => {
                let survey = Survey::take(&config.programs);
                let (wanted, mut left) = (survey.resolve(wish)?, survey.left_behind());
                let elsewhere = left.first().filter(|_| !left.contains(&wanted));
                let start = elsewhere.copied().unwrap_or(wanted);
                // An agent may have died between the rules and the sets that they referred to.
                if Iptables::has_sets() {
                    left.push(Backend::Iptables(Variant::Nft));
                }
                (start, wanted, left)
            }
        };
        let mut families = vec![Family::V4];
        families.extend(config.ipv6.then_some(Family::V6));
        let kernel = open_kernel(start, &config.programs, &families)?;
        let mut filter = Self::over(kernel, families);
        filter.programs = config.programs;
        filter.wish = config.backend;
        filter.wanted = wanted;
        filter.left_behind = left_behind;
        Ok(filter)
    }

    pub(crate) fn over(mut kernel: Box<dyn Kernel>, families: Vec<Family>) -> Self {
        Self {
            state: State::new(families.clone(), kernel.as_mut()),
            programs: Programs::default(),
            families,
            wish: Wish::Exactly(kernel.backend()),
            wanted: kernel.backend(),
            kernel,
            may_delete: false,
            cannot_move: None,
            left_behind: Vec::new(),
            not_cleaned: Vec::new(),
        }
    }

    /// Where the rules are.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.kernel.backend()
    }

    /// Which changes of others make a [`Filter::resync`] worthwhile: see [`crate::nft::Watch`]. None where nobody tells
    /// of any, which is iptables' legacy variant.
    #[must_use]
    pub fn concern(&self) -> Option<Concern> {
        self.kernel.concern()
    }

    /// Decides anew where the rules are to be. They move with an [`Filter::apply`] after
    /// [`Filter::allow_deletes`]: first the new place is complete, then the old one is cleared, and in
    /// between packets meet the same rules twice.
    ///
    /// # Errors
    /// When iptables is wanted and not installed; nothing is changed then.
    pub fn set_backend(&mut self, wish: Wish) -> Result<(), FilterError> {
        // To look around takes some milliseconds.
        if wish != self.wish {
            self.wanted = match wish {
                Wish::Exactly(backend) => backend,
                _ => Survey::take(&self.programs).resolve(wish)?,
            };
            self.wish = wish;
            self.cannot_move = None;
        }
        Ok(())
    }

    /// Sets everything that is not per policy or endpoint.
    ///
    /// # Errors
    /// When a value is out of range; nothing is changed then.
    pub fn set_globals(&mut self, globals: Globals) -> Result<(), FilterError> {
        let prefix = &globals.interface_prefix;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if !(1..=14).contains(&prefix.len()) || !prefix.bytes().all(plain) {
            return Err(FilterError::InterfacePrefix(prefix.clone()));
        }
        if globals.mark_mask.count_ones() < 2 {
            return Err(FilterError::MarkMask(globals.mark_mask));
        }
        let backend = self.kernel.backend();
        self.state.set_globals(globals, backend);
        Ok(())
    }

    /// Adds or replaces a set.
    pub fn set_ipset(&mut self, id: SetId, spec: SetSpec) {
        self.state.set_ipset(self.kernel.as_mut(), id, spec);
    }

    /// Changes members of a set; costs only the changes. False when the set is not known.
    pub fn update_ipset(
        &mut self,
        id: &SetId,
        add: impl IntoIterator<Item = SetMember>,
        remove: impl IntoIterator<Item = SetMember>,
    ) -> bool {
        self.state
            .update_ipset(self.kernel.as_mut(), id, add, remove)
    }

    /// Takes all members out of a set, which stays: for one that may be needed again soon.
    pub fn empty_ipset(&mut self, id: &SetId) {
        self.state.empty_ipset(self.kernel.as_mut(), id);
    }

    /// Whether this very member is wanted in a set.
    #[must_use]
    pub fn has_member(&self, id: &SetId, member: &SetMember) -> bool {
        self.state.has_member(id, member)
    }

    /// Removes a set. Policies that still refer to it drop everything.
    pub fn remove_ipset(&mut self, id: &SetId) {
        self.state.remove_ipset(self.kernel.as_mut(), id);
    }

    /// Adds or replaces a policy.
    pub fn set_policy(&mut self, id: PolicyId, rules: PolicyRules) {
        self.state.set_rules(RulesId::Policy(id), rules);
    }

    /// Removes a policy. Endpoints that still refer to it drop what reaches it.
    pub fn remove_policy(&mut self, id: &PolicyId) {
        self.state.remove_rules(&RulesId::Policy(id.clone()));
    }

    /// Adds or replaces a profile.
    pub fn set_profile(&mut self, id: ProfileId, rules: PolicyRules) {
        self.state.set_rules(RulesId::Profile(id), rules);
    }

    /// Removes a profile. Endpoints that still refer to it drop what reaches it.
    pub fn remove_profile(&mut self, id: &ProfileId) {
        self.state.remove_rules(&RulesId::Profile(id.clone()));
    }

    /// Adds or replaces an endpoint. When its group exists, the next apply runs no program.
    ///
    /// # Errors
    /// When the interface name is not a workload's; nothing is changed then.
    pub fn set_endpoint(&mut self, id: EndpointId, endpoint: Endpoint) -> Result<(), FilterError> {
        let prefix = &self.state.globals().interface_prefix;
        let ifname = &endpoint.ifname;
        if IfName::new(ifname).is_none() || !ifname.starts_with(prefix.as_str()) {
            let (ifname, prefix) = (ifname.clone(), prefix.clone());
            return Err(FilterError::Interface {
                endpoint: id,
                ifname,
                prefix,
            });
        }
        self.state.set_endpoint(self.kernel.as_mut(), id, endpoint);
        Ok(())
    }

    /// Removes an endpoint; its addresses drop from the next apply on.
    pub fn remove_endpoint(&mut self, id: &EndpointId) {
        self.state.remove_endpoint(self.kernel.as_mut(), id);
    }

    /// Sets all endpoints of the host itself. They come into force with [`Filter::allow_deletes`].
    /// Interfaces whose names no interface can have are left out, and so are those of workloads.
    pub fn set_hosts(&mut self, mut hosts: BTreeMap<HostInterface, HostEndpoint>) {
        let prefix = &self.state.globals().interface_prefix;
        hosts.retain(|interface, _| match interface {
            HostInterface::Named(name) => {
                let plain =
                    |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'+');
                let usable = IfName::new(name).is_some()
                    && name.bytes().all(plain)
                    && !name.starts_with(['!', '-'])
                    && !name.starts_with(prefix.as_str());
                if !usable {
                    tracing::warn!(
                        name,
                        "no interface of the host can have this name; left out"
                    );
                }
                usable
            }
            HostInterface::All => true,
        });
        self.state.set_hosts(hosts);
    }

    /// The endpoint as last set.
    #[must_use]
    pub fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.state.endpoint(id)
    }

    /// What each rule matched, and what else decides, read from the kernel.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn counters(&mut self) -> Result<Counters, FilterError> {
        let kernel = self.kernel.counters()?;
        Ok(Counters {
            rules: self.state.hits(&kernel),
            others: self.state.others(&kernel),
        })
    }

    /// How much the kernel is to hold.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.kernel.sizes()
    }

    /// Whether the kernel has all that concerns this endpoint: its members, its group's chains with
    /// every policy and profile in them, the dispatch and the fixed chains. What an attachment waits
    /// for; failures of other objects do not matter. An unknown endpoint is not in force.
    #[must_use]
    pub fn in_force(&self, id: &EndpointId) -> bool {
        self.state.in_force(id, self.kernel.as_ref())
    }

    /// The desired state is complete: from the next apply on, what is ours and not desired goes.
    pub fn allow_deletes(&mut self) {
        if !self.may_delete {
            self.may_delete = true;
            self.state.mark_structure();
        }
    }

    /// Makes the next apply read everything back and repair it. To be called every minute or so.
    pub fn resync(&mut self) {
        self.left_behind.append(&mut self.not_cleaned);
        self.kernel.invalidate();
    }

    /// Drops groups without endpoints, which are kept because their next endpoint then needs no
    /// program to run. To be called every ten minutes or so.
    pub fn sweep(&mut self) {
        if self.may_delete {
            self.state.sweep_groups(self.kernel.as_mut());
        }
    }

    /// Makes the kernel equal to the desired state, as far as it goes; see [`ApplyReport`].
    pub fn apply(&mut self) -> ApplyReport {
        let now = Instant::now();
        let mut pass = Pass::default();
        if self.may_delete && self.wanted != self.kernel.backend() {
            self.change_backend();
        }
        let refreshed = self.kernel.refresh(now, &mut pass);
        if refreshed.read && !self.may_delete {
            self.state.mark_structure();
        }
        if refreshed.usable {
            self.state.flush(self.kernel.as_mut(), self.may_delete);
        }
        self.kernel.write(self.may_delete, now, &mut pass);
        if self.may_delete && !self.left_behind.is_empty() && pass.failures.is_empty() {
            self.clean_others();
        }
        if let Some(error) = &self.cannot_move {
            pass.fail(format!("backend {}", self.wanted), error);
        }
        pass.report(now)
    }

    /// What the earlier backend holds stays in force until the new one has everything.
    fn change_backend(&mut self) {
        match open_kernel(self.wanted, &self.programs, &self.families) {
            Ok(mut kernel) => {
                tracing::info!(from = %self.kernel.backend(), to = %self.wanted, "the rules move");
                self.state.move_to(kernel.as_mut());
                self.left_behind.push(self.kernel.backend());
                self.kernel = kernel;
                self.cannot_move = None;
            }
            Err(error) => self.cannot_move = Some(error.to_string()),
        }
    }

    fn clean_others(&mut self) {
        let own = self.kernel.backend();
        let mut others = std::mem::take(&mut self.left_behind);
        others.sort_unstable();
        others.dedup();
        others.retain(|other| *other != own);
        let sets_too = own == Backend::Nftables && !others.is_empty();
        for other in others {
            let cleaned = match other {
                Backend::Nftables => Nftables::clean_up(),
                Backend::Iptables(variant) => {
                    Iptables::clean_up(variant, &self.programs, &self.families)
                }
            };
            if !is_clean(other, cleaned) {
                self.not_cleaned.push(other);
            }
        }
        // Both variants refer to them.
        if sets_too && self.not_cleaned.is_empty() && !is_clean(own, Iptables::clean_up_sets()) {
            self.not_cleaned.push(Backend::Iptables(Variant::Nft));
        }
    }

    /// Removes everything of ours from the kernel, in all backends. The desired state is forgotten:
    /// the filter is as new.
    ///
    /// # Errors
    /// The first failure; what was removed before stays removed.
    pub fn clean(&mut self) -> Result<(), FilterError> {
        self.kernel.clean()?;
        self.left_behind = Backend::ALL.into();
        self.clean_others();
        self.state = State::new(self.families.clone(), self.kernel.as_mut());
        self.may_delete = false;
        Ok(())
    }
}

/// A variant that is not installed holds nothing that could be removed with it, and likewise ipsets.
fn is_clean(backend: Backend, cleaned: Result<(), FilterError>) -> bool {
    let Err(error) = cleaned else { return true };
    tracing::debug!(%error, %backend, "what is not in use was not cleaned");
    match &error {
        FilterError::Restore(error) => error.is_not_installed(),
        FilterError::Ipset(error) => error.is_unsupported(),
        _ => false,
    }
}

fn open_kernel(
    backend: Backend,
    programs: &Programs,
    families: &[Family],
) -> Result<Box<dyn Kernel>, FilterError> {
    Ok(match backend {
        Backend::Iptables(variant) => {
            Box::new(Iptables::open(variant, programs.clone(), families)?)
        }
        Backend::Nftables => Box::new(Nftables::open(families)?),
    })
}
