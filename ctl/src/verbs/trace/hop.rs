//! A part of the way, and what is known of it.

use serde::Serialize;

/// Where a fact is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// A kernel or an agent said so just now.
    Live,
    /// Follows from the resources.
    Datastore,
    /// The program that the agents render says so.
    Policy,
}

/// Something that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Fact {
    pub(super) source: Source,
    pub(super) text: String,
}

/// A part of the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Hop {
    pub(super) title: String,
    pub(super) facts: Vec<Fact>,
    /// The largest packet that fits, if that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mtu: Option<u32>,
    /// Why the way ends here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stopped: Option<String>,
}

impl Hop {
    pub(super) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            facts: Vec::new(),
            mtu: None,
            stopped: None,
        }
    }

    pub(super) fn tell(&mut self, source: Source, text: String) {
        self.facts.push(Fact { source, text });
    }

    /// The first reason is the one that counts.
    pub(super) fn stop(&mut self, why: String) {
        self.stopped.get_or_insert(why);
    }
}
