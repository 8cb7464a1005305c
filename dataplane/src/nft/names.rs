//! What things are called in our table: readable, the same in every process, and different for
//! different things.

use crate::{
    filter::{
        Family, HostInterface,
        names::{HostWay, Way, short_hash},
        program::ChainId,
    },
    iptables::Table,
};

/// The kernel takes 255 bytes; this leaves names that fit a screen.
const ID_LEN: usize = 90;

const fn family_word(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}

const fn table_word(table: Table) -> &'static str {
    match table {
        Table::Raw => "raw-",
        Table::Mangle => "mangle-",
        Table::Filter | Table::Nat => "",
    }
}

/// The chain that packets come into from the kernel.
pub(super) fn base_chain(table: Table, point: &str) -> String {
    // Translation on the way out is the one point of its table that no other table has.
    let word = match (table, point) {
        (Table::Nat, "PREROUTING" | "OUTPUT") => "nat-",
        _ => table_word(table),
    };
    format!("{word}{}", point.to_ascii_lowercase())
}

pub(super) fn chain(family: Family, table: Table, id: &ChainId) -> String {
    let prefix = format!("{}-{}", family_word(family), table_word(table));
    let rest = match id {
        ChainId::Fixed(name) => fixed(name),
        ChainId::Policy(way, id) => format!("policy-{}/{}", in_or_out(*way), clean(id.as_str())),
        ChainId::Profile(way, id) => {
            format!("profile-{}/{}", in_or_out(*way), clean(id.as_str()))
        }
        ChainId::Group(Way::Ingress, group) => format!("to-group/{group}"),
        ChainId::Group(Way::Egress, group) => format!("from-group/{group}"),
        ChainId::Host(way, interface) => host(*way, interface),
        ChainId::Limit(way, ifname) => format!("limit-{}/{}", in_or_out(*way), clean(ifname)),
    };
    prefix + &rest
}

/// The names in iptables have to be short.
fn fixed(name: &str) -> String {
    let name = name.strip_prefix("mgy-").unwrap_or(name);
    let long = match name {
        "wl-host" => "workload-to-host",
        "to-wl" => "to-workloads",
        "from-wl" => "from-workloads",
        "safe-in" => "failsafe-in",
        "safe-out" => "failsafe-out",
        "hfwd-in" => "host-forward-in",
        "hfwd-out" => "host-forward-out",
        "hfwd-to" => "host-forward-to",
        "ports" => "host-ports",
        "mss" => "segments",
        other => other,
    };
    long.to_ascii_lowercase()
}

const fn in_or_out(way: Way) -> &'static str {
    match way {
        Way::Ingress => "in",
        Way::Egress => "out",
    }
}

fn host(way: HostWay, interface: &HostInterface) -> String {
    let (forwarded, way) = match way {
        HostWay::Own(way) => ("", in_or_out(way)),
        HostWay::Forwarded(way) => ("forward-", in_or_out(way)),
    };
    match interface {
        HostInterface::Named(name) => format!("host-{forwarded}{way}/{}", clean(name)),
        HostInterface::All => format!("host-{forwarded}{way}-all-interfaces"),
    }
}

/// What is not fit for a name, or too long for one, is told apart by a hash.
fn clean(id: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
    if id.chars().all(fits) && id.len() <= ID_LEN {
        return id.to_owned();
    }
    let plain = id.chars().map(|c| if fits(c) { c } else { '_' });
    let start: String = plain.take(ID_LEN).collect();
    format!("{start}-{}", short_hash(id))
}

/// The verdict map for packets that go this way, with addresses or with prefixes.
pub(super) fn map(family: Family, way: Way, prefixes: bool) -> String {
    let nets = if prefixes { "-nets" } else { "" };
    let way = match way {
        Way::Ingress => "to",
        Way::Egress => "from",
    };
    format!("{}-{way}-workload{nets}", family_word(family))
}

/// The set that goes by this name among ipsets; those of addresses have one for prefixes beside it.
pub(super) fn set(name: &str, prefixes: bool) -> String {
    let family = match name.get(..4) {
        Some("mgy4") => "v4",
        _ => "v6",
    };
    let rest = name.get(4..).unwrap_or_default();
    let words = match rest.split_once(':') {
        Some(("s", hash)) if prefixes => format!("members/{hash}"),
        Some(("s", hash)) => format!("hosts/{hash}"),
        Some(("n", hash)) => format!("ports/{hash}"),
        Some(("h", hash)) if prefixes => format!("nets/{hash}"),
        Some(("h", hash)) => format!("addresses/{hash}"),
        Some((kind, hash)) => format!("{kind}/{hash}"),
        None => match rest {
            "-wl" if prefixes => "workload-nets".to_owned(),
            "-wl" => "workloads".to_owned(),
            "-masq" if prefixes => "masquerade".to_owned(),
            "-masq" => "masquerade-hosts".to_owned(),
            other if prefixes => other.trim_start_matches('-').to_owned(),
            other => format!("{}-hosts", other.trim_start_matches('-')),
        },
    };
    format!("{family}-{words}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{PolicyId, SetId, SetKind, names};

    #[test]
    fn names_say_what_they_are_and_differ_where_things_differ() {
        let policy = |id: &str| {
            let id = ChainId::Policy(Way::Ingress, PolicyId::from(id));
            chain(Family::V4, Table::Filter, &id)
        };
        assert_eq!(
            policy("NetworkPolicy/shop/web"),
            "v4-policy-in/NetworkPolicy/shop/web"
        );
        assert_ne!(policy("a b"), policy("a_b"));
        assert_ne!(policy(&"x".repeat(200)), policy(&"x".repeat(201)));
        assert!(policy(&"x".repeat(500)).len() < 128);
        let set = set(
            &names::user_set(Family::V6, &SetId::from("a"), SetKind::NetPorts),
            false,
        );
        assert!(set.starts_with("v6-ports/"), "{set}");
    }
}
