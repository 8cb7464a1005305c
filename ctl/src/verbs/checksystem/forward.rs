//! Chains of others that drop what they do not know of what is forwarded: dockerd and most firewalls leave such a policy.

use serde::Deserialize;

use super::{Check, Outcome};
use crate::host::Host;

/// What chains of ours begin with in iptables, and the table of ours in nf_tables.
const OUR_CHAINS: &str = "-j mgy-";
const OUR_TABLE: &str = "margay";

/// Of `nft -j list chains`.
#[derive(Debug, Deserialize)]
struct Listed {
    nftables: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    chain: Option<Chain>,
}

#[derive(Debug, Deserialize)]
struct Chain {
    family: String,
    table: String,
    name: String,
    #[serde(default)]
    hook: String,
    #[serde(default)]
    policy: String,
}

impl Chain {
    /// What the packets of containers meet and somebody else owns.
    fn drops_forwarded(&self) -> bool {
        self.hook == "forward" && self.policy == "drop" && self.table != OUR_TABLE
    }

    fn path(&self) -> String {
        format!("{} {} {}", self.family, self.table, self.name)
    }
}

/// Chains by what `nft -j list chains` says.
fn dropping(listed: &str) -> Vec<Chain> {
    let listed: Result<Listed, _> = serde_json::from_str(listed);
    let chains = listed.map_or(Vec::new(), |listed| listed.nftables);
    let chains = chains.into_iter().filter_map(|entry| entry.chain);
    chains.filter(Chain::drops_forwarded).collect()
}

/// Whether `iptables -S FORWARD` says that what nobody accepts is dropped, and ours are not asked first.
fn is_dropping(rules: &str) -> bool {
    rules.lines().any(|line| line == "-P FORWARD DROP") && !rules.contains(OUR_CHAINS)
}

/// Asks the programs that show rules. Where there are none, nobody can have written rules by them.
pub(super) async fn checks(host: &Host) -> Vec<Check> {
    let mut found = Vec::new();
    let listed = host.run(&["nft", "-j", "list", "chains"]).await;
    for chain in dropping(&listed.unwrap_or_default()) {
        let (family, table, name) = (&*chain.family, &*chain.table, &*chain.name);
        let words = ["nft", "list", "chain", family, table, name];
        let rules = host.run(&words).await.unwrap_or_default();
        // Ours are asked first in it, and accept.
        if !rules.contains("jump mgy-") {
            let path = chain.path();
            let fix = format!("nft chain {path} '{{ policy accept; }}'");
            found.push((format!("nftables chain {path}"), fix));
        }
    }
    for (names, program) in [
        ("/proc/net/ip_tables_names", "iptables-legacy"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy"),
    ] {
        // To look at a table makes it.
        let tables = host.read(names).unwrap_or_default();
        if !tables.lines().any(|table| table == "filter") {
            continue;
        }
        let rules = host.run(&[program, "-S", "FORWARD"]).await;
        if is_dropping(&rules.unwrap_or_default()) {
            let fix = format!("{program} -P FORWARD ACCEPT");
            found.push((format!("{program} chain FORWARD"), fix));
        }
    }
    let check = |(chain, fix): (String, String)| {
        let found = format!("{chain} drops what no rule of it accepts");
        Check::new("forwarded packets", Outcome::Warning, found).fix(format!(
            "{fix}; or a rule there that accepts the pools; a firewall or dockerd sets it again when it starts"
        ))
    };
    let checks: Vec<Check> = found.into_iter().map(check).collect();
    match checks.is_empty() {
        true => vec![Check::new(
            "forwarded packets",
            Outcome::Ok,
            "nobody drops them by default",
        )],
        false => checks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_others_that_drop_by_default_are_found() {
        let chain = |table: &str, hook: &str, policy: &str| {
            format!(
                r#"{{"chain": {{"family": "inet", "table": "{table}", "name": "c", "handle": 1, "type": "filter",
                 "hook": "{hook}", "prio": 0, "policy": "{policy}"}}}}"#
            )
        };
        let all = [
            r#"{"metainfo": {"version": "1.0.6"}}"#.to_owned(),
            r#"{"chain": {"family": "inet", "table": "fw", "name": "plain", "handle": 2}}"#
                .to_owned(),
            chain("fw", "forward", "drop"),
            chain("fw", "input", "drop"),
            chain("open", "forward", "accept"),
            chain("margay", "forward", "drop"),
        ];
        let listed = format!(r#"{{"nftables": [{}]}}"#, all.join(", "));
        let found: Vec<String> = dropping(&listed).iter().map(Chain::path).collect();
        assert_eq!(found, ["inet fw c"]);
        assert!(dropping("nft: not found").is_empty());
    }

    #[test]
    fn a_policy_is_no_matter_where_ours_are_asked_first() {
        assert!(is_dropping("-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n"));
        assert!(!is_dropping("-P FORWARD DROP\n-A FORWARD -j mgy-forward\n"));
        assert!(!is_dropping("-P FORWARD ACCEPT\n"));
        assert!(!is_dropping(""));
    }
}
