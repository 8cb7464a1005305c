//! From what the kernel says to the names that people gave: of endpoints by interface, of tiers and long policies.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use margay_api::flows::Reason;
use margay_dataplane::filter::{Cause, is_cut};

use super::named;
use super::ring::Key;
use crate::kernel::{Explained, Unexplained};

/// What is known until the end of the interval: names change, and interfaces get the numbers of others.
#[derive(Debug, Default)]
pub(super) struct Names {
    interfaces: HashMap<u32, Arc<str>>,
    explained: Explained,
    /// What was asked for, so that what nobody knows is asked for once.
    asked: HashSet<String>,
}

impl Names {
    /// The name of an interface; empty when it is gone, and where there is none.
    pub(super) fn interface(&mut self, index: Option<u32>) -> Arc<str> {
        let Some(index) = index else {
            return Arc::from("");
        };
        let name = self.interfaces.entry(index).or_insert_with(|| {
            let name = nix::net::if_::if_indextoname(index);
            let name = name.ok().and_then(|name| name.into_string().ok());
            name.unwrap_or_default().into()
        });
        Arc::clone(name)
    }

    /// What has to be explained to tell of these.
    pub(super) fn unknown<'a>(&mut self, keys: impl Iterator<Item = &'a Key>) -> Unexplained {
        let mut unknown = Unexplained::default();
        for key in keys {
            let interface = key.own_interface();
            if !interface.is_empty() && !self.asked.contains(&**interface) {
                self.asked.insert(interface.to_string());
                unknown.interfaces.insert(interface.to_string());
            }
            let name = named(&key.label.cause).filter(|name| !self.asked.contains(*name));
            if let Some(name) = name {
                self.asked.insert(name.to_owned());
                unknown.names.insert(name.to_owned());
            }
        }
        unknown
    }

    pub(super) fn learned(&mut self, explained: Explained) {
        self.explained.endpoints.extend(explained.endpoints);
        self.explained.policies.extend(explained.policies);
        self.explained.others.extend(explained.others);
        self.explained.log_prefix = explained.log_prefix;
    }

    /// At the end of an interval.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) fn endpoint(&self, key: &Key) -> &str {
        let endpoint = self.explained.endpoints.get(&**key.own_interface());
        endpoint.map(String::as_str).unwrap_or_default()
    }

    pub(super) fn log_prefix(&self) -> Option<&str> {
        Some(self.explained.log_prefix.as_str()).filter(|prefix| !prefix.is_empty())
    }

    pub(super) fn reason(&self, cause: &Cause) -> Reason {
        let whole = |name: &String| match is_cut(name) {
            true => self.explained.others.get(name).unwrap_or(name).clone(),
            false => name.clone(),
        };
        match cause {
            Cause::Policy { name, rule } => {
                let (tier, policy) = match self.explained.policies.get(name) {
                    Some((tier, policy)) => (tier.clone(), policy.clone()),
                    None => (String::new(), name.clone()),
                };
                let rule = *rule;
                Reason::Policy { tier, policy, rule }
            }
            Cause::Profile { name, rule } => Reason::Profile {
                profile: whole(name),
                rule: *rule,
            },
            Cause::TierEnd(name) => Reason::EndOfTier { tier: whole(name) },
            Cause::Nothing => Reason::NothingAllowed,
            Cause::Spoofed => Reason::Spoofed,
            Cause::NoSuchWorkload => Reason::NoSuchWorkload,
        }
    }
}
