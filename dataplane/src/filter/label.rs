//! What a packet is logged for, in the few bytes that the kernel hands back with it.
//!
//! A fresh agent must understand what rules of an earlier one say, so the text says it all: no table of
//! numbers lies behind it. Only names that are too long are cut, and told apart by a hash.

use super::names::{Way, short_hash};

/// Every label starts with this.
const START: &str = "mgy:";
/// What iptables takes as a prefix.
const LONGEST: usize = 63;
/// What is left for a name: a label is at most `mgy:DiP65535:NAME`.
const NAME_LEN: usize = LONGEST - 13;
/// Between what is left of a name and its hash.
const CUT: char = '~';

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// A rule allowed it.
    Allow,
    /// It is dropped or rejected.
    Deny,
    /// Nothing; a rule wants it logged.
    Log,
    /// Nothing; a rule that is not enforced would allow it.
    WouldAllow,
    /// Nothing; a rule that is not enforced would deny it.
    WouldDeny,
}

impl Verdict {
    /// What a rule with this verdict says while it is not enforced.
    #[must_use]
    pub const fn if_enforced(self) -> Self {
        match self {
            Self::Allow => Self::WouldAllow,
            Self::Deny => Self::WouldDeny,
            other => other,
        }
    }
}

/// By what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A rule of a policy.
    Policy {
        /// See [`name_of`].
        name: String,
        /// Its place; see [`super::Rule::place`].
        rule: usize,
    },
    /// A rule of a profile.
    Profile {
        /// See [`name_of`].
        name: String,
        /// Its place.
        rule: usize,
    },
    /// No policy of a tier decided; its name as by [`name_of`].
    TierEnd(String),
    /// No policy or profile allowed it.
    Nothing,
    /// The source is not one of the interface.
    Spoofed,
    /// No workload has the destination.
    NoSuchWorkload,
}

/// What a packet is logged for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// What was decided.
    pub verdict: Verdict,
    /// Whether the receiver's rules did, or those of the sender.
    pub ingress: bool,
    /// Which.
    pub cause: Cause,
}

/// The name that a label has for an identifier: itself if it fits.
#[must_use]
pub fn name_of(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
    if id.len() <= NAME_LEN && id.chars().all(plain) {
        return id.to_owned();
    }
    let hash = short_hash(id);
    let start = id.chars().map(|c| if plain(c) { c } else { '_' });
    let start: String = start.take(NAME_LEN - hash.len() - 1).collect();
    format!("{start}{CUT}{hash}")
}

/// Whether [`name_of`] had to cut it, so that it has to be looked for among what there is.
#[must_use]
pub fn is_cut(name: &str) -> bool {
    name.contains(CUT)
}

impl Label {
    pub(crate) fn new(verdict: Verdict, way: Way, cause: Cause) -> Self {
        Self {
            verdict,
            ingress: way == Way::Ingress,
            cause,
        }
    }

    /// As it stands in a rule.
    #[must_use]
    pub fn text(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Allow => 'A',
            Verdict::Deny => 'D',
            Verdict::Log => 'L',
            Verdict::WouldAllow => 'a',
            Verdict::WouldDeny => 'd',
        };
        let way = if self.ingress { 'i' } else { 'e' };
        let cause = match &self.cause {
            Cause::Policy { name, rule } => format!("P{rule}:{name}"),
            Cause::Profile { name, rule } => format!("R{rule}:{name}"),
            Cause::TierEnd(tier) => format!("T:{tier}"),
            Cause::Nothing => "N".to_owned(),
            Cause::Spoofed => "S".to_owned(),
            Cause::NoSuchWorkload => "W".to_owned(),
        };
        format!("{START}{verdict}{way}{cause}")
    }

    /// Reads it back; nothing when it is not one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut letters = text.strip_prefix(START)?.chars();
        let verdict = match letters.next()? {
            'A' => Verdict::Allow,
            'D' => Verdict::Deny,
            'L' => Verdict::Log,
            'a' => Verdict::WouldAllow,
            'd' => Verdict::WouldDeny,
            _ => return None,
        };
        let ingress = match letters.next()? {
            'i' => true,
            'e' => false,
            _ => return None,
        };
        let kind = letters.next()?;
        let rest = letters.as_str();
        let rule = || {
            let (place, name) = rest.split_once(':')?;
            Some((place.parse().ok()?, name.to_owned()))
        };
        let cause = match kind {
            'P' => {
                let (rule, name) = rule()?;
                Cause::Policy { name, rule }
            }
            'R' => {
                let (rule, name) = rule()?;
                Cause::Profile { name, rule }
            }
            'T' => Cause::TierEnd(rest.strip_prefix(':')?.to_owned()),
            'N' if rest.is_empty() => Cause::Nothing,
            'S' if rest.is_empty() => Cause::Spoofed,
            'W' if rest.is_empty() => Cause::NoSuchWorkload,
            _ => return None,
        };
        Some(Self {
            verdict,
            ingress,
            cause,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<Label> {
        let long = name_of(&"NetworkPolicy/a-name/".repeat(9));
        let causes = [
            Cause::Policy {
                name: "NetworkPolicy/shop/web".into(),
                rule: 0,
            },
            Cause::Policy {
                name: long.clone(),
                rule: 65_535,
            },
            Cause::Profile {
                name: "kns.default".into(),
                rule: 7,
            },
            Cause::TierEnd(long),
            Cause::Nothing,
            Cause::Spoofed,
            Cause::NoSuchWorkload,
        ];
        let verdicts = [
            Verdict::Allow,
            Verdict::Deny,
            Verdict::Log,
            Verdict::WouldAllow,
            Verdict::WouldDeny,
        ];
        let each = verdicts
            .into_iter()
            .flat_map(|verdict| Way::BOTH.map(|way| (verdict, way)));
        each.flat_map(|(verdict, way)| causes.clone().map(|cause| Label::new(verdict, way, cause)))
            .collect()
    }

    #[test]
    fn every_label_fits_and_is_understood() {
        for label in labels() {
            let text = label.text();
            assert!(text.len() <= LONGEST, "{text}");
            assert_eq!(Label::parse(&text), Some(label));
        }
    }

    #[test]
    fn what_is_no_label_is_none() {
        for text in [
            "",
            "mgy:",
            "mgy:D",
            "mgy:Di",
            "mgy:DiP",
            "mgy:DiPx:a",
            "mgy:DiP1",
            "mgy:XiN",
            "mgy:DxN",
            "mgy:DiNN",
            "mgy:DiT",
            "calico-packet",
            "mgy:DiZ",
            "mgy:é",
        ] {
            assert_eq!(Label::parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_cut_only_where_they_must_be_and_stay_apart() {
        assert_eq!(name_of("NetworkPolicy/shop/web"), "NetworkPolicy/shop/web");
        let long = "x".repeat(NAME_LEN + 1);
        assert!(is_cut(&name_of(&long)) && name_of(&long).len() <= NAME_LEN);
        assert_ne!(name_of(&long), name_of(&format!("{long}y")));
        assert_ne!(name_of("a b"), name_of("a\"b"));
        assert!(!is_cut(&name_of(&"x".repeat(NAME_LEN))));
    }
}
