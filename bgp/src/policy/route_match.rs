//! Conditions on what a route carries, beside its prefix.

use crate::wire::PathAttrs;

/// The priority of a route that has none: what the established system gives to every route.
const NORMAL_PRIORITY: u32 = 1024;

/// LOCAL_PREF of a route without one.
const NORMAL_PREF: u32 = 100;

/// LOCAL_PREF and priority add up to this where a priority is told to internal peers.
const PREF_OF_PRIORITY_0: u32 = i32::MAX as u32;

/// A community of any kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Community {
    /// RFC 1997.
    Standard(u32),
    /// RFC 8092.
    Large([u32; 3]),
    /// RFC 4360.
    Extended([u8; 8]),
}

/// Conditions, all of which must hold. The default has none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct RouteMatch {
    /// The route carries it.
    pub community: Option<Community>,
    /// AS_PATH begins with these, the nearest first; sets and confederation segments match nothing.
    pub as_path_prefix: Vec<u32>,
    /// Its priority, see [`priority_of`].
    pub priority: Option<u32>,
    /// The interface that it is reached by; `*` stands for any characters.
    pub interface: Option<String>,
}

/// What conditions are held against.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// The attributes; needed where [`Filter::needs_attrs`](super::Filter::needs_attrs).
    pub attrs: Option<&'a PathAttrs>,
    /// The interface that the route is reached by, empty if unknown.
    pub interface: &'a str,
}

impl RouteMatch {
    /// Whether attributes are looked at.
    pub const fn needs_attrs(&self) -> bool {
        self.community.is_some() || !self.as_path_prefix.is_empty() || self.priority.is_some()
    }

    /// Whether all conditions hold.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        if let Some(pattern) = &self.interface
            && !glob(pattern.as_bytes(), facts.interface.as_bytes())
        {
            return false;
        }
        if !self.needs_attrs() {
            return true;
        }
        facts.attrs.is_some_and(|attrs| self.matches_attrs(attrs))
    }

    fn matches_attrs(&self, attrs: &PathAttrs) -> bool {
        let carries = match self.community {
            None => true,
            Some(Community::Standard(c)) => attrs.communities.contains(&c),
            Some(Community::Large(c)) => attrs.large_communities.contains(&c),
            Some(Community::Extended(c)) => attrs.ext_communities.contains(&c),
        };
        carries
            && attrs.as_path.starts_with(&self.as_path_prefix)
            && self
                .priority
                .is_none_or(|p| p == priority_of(attrs.local_pref))
    }
}

/// The priority that a LOCAL_PREF stands for; less is better. It is 2147483647 less LOCAL_PREF, as
/// the established system tells priorities to internal peers; without LOCAL_PREF, or with the usual
/// 100, it is the normal one, 1024.
pub const fn priority_of(local_pref: Option<u32>) -> u32 {
    match local_pref {
        None | Some(NORMAL_PREF) => NORMAL_PRIORITY,
        Some(pref) => PREF_OF_PRIORITY_0.saturating_sub(pref),
    }
}

/// The LOCAL_PREF that a priority is told by. Priorities worse than the normal one become values
/// below 100, coarsely (by powers of two), so that they lose against routes that have no priority.
pub const fn pref_of(priority: u32) -> u32 {
    match priority.checked_sub(NORMAL_PRIORITY) {
        None => PREF_OF_PRIORITY_0 - priority,
        Some(0) => NORMAL_PREF,
        Some(worse) => NORMAL_PREF - 1 - worse.ilog2(),
    }
}

/// Whether `text` fits `pattern`, where `*` stands for any number of characters.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last star does not fit.
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(c) if text.get(t) == Some(c) => (p, t) = (p + 1, t + 1),
            _ => match retry {
                Some((after, from)) => {
                    retry = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .unwrap_or_default()
        .iter()
        .all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::AsPath;

    fn route() -> PathAttrs {
        PathAttrs {
            as_path: AsPath::sequence(&[65001, 65002, 65003]),
            communities: vec![7],
            large_communities: vec![[1, 2, 3]],
            ext_communities: vec![[0, 2, 0, 1, 0, 0, 0, 2]],
            ..PathAttrs::default()
        }
    }

    fn matches(condition: RouteMatch) -> bool {
        let attrs = route();
        condition.matches(&Facts {
            attrs: Some(&attrs),
            interface: "eth1.20",
        })
    }

    #[test]
    fn each_condition_holds_or_not() {
        let any = RouteMatch::default;
        assert!(matches(any()));
        for (community, holds) in [
            (Community::Standard(7), true),
            (Community::Standard(8), false),
            (Community::Large([1, 2, 3]), true),
            (Community::Large([1, 2, 4]), false),
            (Community::Extended([0, 2, 0, 1, 0, 0, 0, 2]), true),
            (Community::Extended([0, 2, 0, 1, 0, 0, 0, 3]), false),
        ] {
            let community = Some(community);
            assert_eq!(matches(RouteMatch { community, ..any() }), holds);
        }
        for (path, holds) in [
            (vec![65001], true),
            (vec![65001, 65002, 65003], true),
            (vec![65002], false),
            (vec![65001, 65002, 65003, 65004], false),
        ] {
            let as_path_prefix = path;
            assert_eq!(
                matches(RouteMatch {
                    as_path_prefix,
                    ..any()
                }),
                holds
            );
        }
        for (pattern, holds) in [
            ("eth1.20", true),
            ("eth*", true),
            ("*.20", true),
            ("e*1*0", true),
            ("*", true),
            ("eth1", false),
            ("*.2", false),
            ("mgy*", false),
            ("", false),
        ] {
            let interface = Some(pattern.to_owned());
            assert_eq!(
                matches(RouteMatch { interface, ..any() }),
                holds,
                "{pattern}"
            );
        }
        let priority = Some(1024);
        assert!(matches(RouteMatch { priority, ..any() }));
    }

    #[test]
    fn what_is_unknown_does_not_match() {
        let condition = RouteMatch {
            community: Some(Community::Standard(7)),
            ..RouteMatch::default()
        };
        assert!(!condition.matches(&Facts::default()));
    }

    #[test]
    fn a_priority_is_told_as_a_preference() {
        assert_eq!(priority_of(Some(pref_of(512))), 512);
        assert_eq!(pref_of(512), 2_147_483_135);
        assert_eq!(priority_of(Some(pref_of(1024))), 1024);
        assert_eq!(pref_of(1024), 100);
        assert_eq!(priority_of(None), 1024);
    }

    proptest! {
        #[test]
        fn a_better_priority_never_gets_a_lower_preference(a in 1u32..2_147_483_647, b in 1u32..2_147_483_647) {
            let (better, worse) = (a.min(b), a.max(b));
            prop_assert!(pref_of(better) >= pref_of(worse));
        }

        #[test]
        fn globs_agree_with_trying_everything(pattern in "[ab*]{0,6}", text in "[ab]{0,7}") {
            fn slow(p: &[u8], t: &[u8]) -> bool {
                match (p.split_first(), t.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), _) => slow(rest, t) || (!t.is_empty() && slow(p, &t[1..])),
                    (Some((a, p)), Some((b, t))) => a == b && slow(p, t),
                    _ => false,
                }
            }
            prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
