//! Base chains: where packets come from the kernel into our table.

use super::{
    driver::{Desired, Nftables},
    names,
    read::Hook,
    render::{self, Rule},
};
use crate::{
    filter::{
        Family,
        program::{Chain, ChainId},
    },
    iptables::{Rank, Table},
};

/// Where packets come into a base chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct BaseHook {
    pub(super) number: u32,
    pub(super) priority: i32,
    pub(super) kind: &'static str,
}

impl BaseHook {
    fn of(table: Table, point: &str) -> Self {
        let number = match point {
            "PREROUTING" => 0,
            "INPUT" => 1,
            "FORWARD" => 2,
            "OUTPUT" => 3,
            _ => 4,
        };
        // Those of iptables.
        let (priority, kind) = match table {
            Table::Raw => (-300, "filter"),
            Table::Mangle => (-150, "filter"),
            Table::Filter => (0, "filter"),
            Table::Nat if matches!(point, "PREROUTING" | "OUTPUT") => (-100, "nat"),
            Table::Nat => (100, "nat"),
        };
        Self {
            number,
            priority,
            kind,
        }
    }

    pub(super) const fn place(self) -> Hook {
        (self.number, self.priority)
    }
}

impl Nftables {
    pub(super) fn base(&mut self, table: Table, point: &'static str) {
        let name = names::base_chain(table, point);
        let Some(rules) = self.base_rules(&name, (table, point), true) else {
            return self.unwant_chain(name);
        };
        let desired = Desired {
            rules,
            hook: Some(BaseHook::of(table, point)),
            rank: Rank::Base,
            owner: None,
            lines: Vec::new(),
        };
        self.want_chain(name, desired);
    }

    /// The rules of a base chain, with what can be asked in it or without; none where no family has a chain for it to
    /// lead to.
    fn base_rules(
        &self,
        name: &str,
        place: (Table, &'static str),
        short_cuts: bool,
    ) -> Option<Vec<Rule>> {
        let targets = self.hooks.get(&place).filter(|t| !t.is_empty())?;
        let chain = |(family, target): (&Family, &&'static str)| {
            let id = ChainId::Fixed(target);
            (*family, names::chain(*family, place.0, &id))
        };
        let chains: Vec<(Family, String)> = targets.iter().map(chain).collect();
        let targets = chains.iter().map(|(family, chain)| {
            let lines = self.short_cuts.get(chain).filter(|_| short_cuts);
            let lines = lines.map_or(&[][..], Vec::as_slice);
            (*family, chain.as_str(), lines)
        });
        Some(render::base(name, place.0, targets))
    }

    /// Takes note of what a family's chain begins with, for the base chain that leads to it.
    pub(super) fn shorten(&mut self, family: Family, name: &str, chain: &Chain) {
        let lines = render::short_cuts(chain);
        let before = self.short_cuts.get(name).map_or(&[][..], Vec::as_slice);
        if lines == before {
            return;
        }
        match lines {
            [] => drop(self.short_cuts.remove(name)),
            _ => drop(self.short_cuts.insert(name.to_owned(), lines.to_vec())),
        }
        let leads_here = |target: Option<&&'static str>| {
            target.is_some_and(|target| chain.id == ChainId::Fixed(target))
        };
        let hooks = self.hooks.iter().filter(|((table, _), targets)| {
            *table == chain.table && leads_here(targets.get(&family))
        });
        for (table, point) in hooks.map(|(place, _)| *place).collect::<Vec<_>>() {
            self.base(table, point);
        }
    }

    /// What a chain has while its own rules are refused. A base chain is written without its short cuts, which nothing
    /// depends on.
    pub(super) fn stub(&self, name: &str) -> Vec<Rule> {
        let mut hooks = self.hooks.keys();
        let place = hooks.find(|(table, point)| names::base_chain(*table, point) == name);
        let base = place.and_then(|place| self.base_rules(name, *place, false));
        base.unwrap_or_else(|| {
            let rank = self.desired.get(name).map_or(Rank::Base, |c| c.rank);
            vec![render::stub(name, rank)]
        })
    }
}
