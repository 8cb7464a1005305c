//! Base chains: where packets come from the kernel into our table.

use super::{
    driver::{Desired, Nftables},
    names,
    read::Hook,
    render,
};
use crate::{
    filter::{Family, program::ChainId},
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
        let Some(targets) = self.hooks.get(&(table, point)).filter(|t| !t.is_empty()) else {
            return self.unwant_chain(name);
        };
        let chain = |(family, target): (&Family, &&'static str)| {
            let id = ChainId::Fixed(target);
            (*family, names::chain(*family, table, &id))
        };
        let chains: Vec<(Family, String)> = targets.iter().map(chain).collect();
        let targets = chains
            .iter()
            .map(|(family, chain)| (*family, chain.as_str()));
        let desired = Desired {
            rules: render::base(&name, table, targets),
            hook: Some(BaseHook::of(table, point)),
            rank: Rank::Base,
            owner: None,
            lines: Vec::new(),
        };
        self.want_chain(name, desired);
    }
}
