//! Reading our table back.

use std::collections::BTreeMap;

use super::{
    TABLE_NAME,
    element::{Raw, be32_from},
    render::{HASH_LEN, HASH_TAG},
    wire::{INET, LIST_ELEMENT, Message, TABLE, chain, elements, header, rule, set},
};
use crate::{
    iptables::Hits,
    netlink::{Attributes, NetlinkError, Socket, string_from},
};

/// Where packets come into a base chain: hook and priority.
pub(super) type Hook = (u32, i32);

/// Our table as it is.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) table: bool,
    pub(super) chains: BTreeMap<String, FoundChain>,
    pub(super) sets: BTreeMap<String, FoundSet>,
}

/// A named set as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FoundSet {
    pub(super) flags: u32,
    pub(super) key_len: u32,
    pub(super) members: Vec<Raw>,
}

/// A chain as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FoundChain {
    pub(super) hook: Option<Hook>,
    /// The hash of each rule; none for one that is not ours.
    pub(super) hashes: Vec<String>,
}

/// How often the rules of each chain matched, in order.
pub(super) type Counters = BTreeMap<String, Vec<Hits>>;

/// The names of the tables of family `inet`.
pub(super) fn table_names(socket: &mut Socket) -> Result<Vec<String>, NetlinkError> {
    dump(socket, Message::GetTable, None, |attributes| {
        attributes.find(TABLE).map(string_from)
    })
}

/// Everything of ours.
pub(super) fn all(socket: &mut Socket) -> Result<Found, NetlinkError> {
    let mut found = Found {
        table: table_names(socket)?.iter().any(|name| name == TABLE_NAME),
        ..Found::default()
    };
    if !found.table {
        return Ok(found);
    }
    let chains = dump(socket, Message::GetChain, None, |attributes| {
        let ours = attributes.find(TABLE).map(string_from)? == TABLE_NAME;
        let name = attributes.find(chain::NAME).map(string_from)?;
        let hook = attributes.find(chain::HOOK).map(Attributes::nested);
        let hook = hook.and_then(|hook| {
            let number = hook.find(chain::HOOK_NUMBER).and_then(be32_from)?;
            let priority = hook.find(chain::HOOK_PRIORITY).and_then(be32_from)?;
            Some((number, priority as i32))
        });
        let chain = FoundChain {
            hook,
            hashes: Vec::new(),
        };
        ours.then_some((name, chain))
    })?;
    found.chains = chains.into_iter().collect();
    let rules = dump(socket, Message::GetRule, Some(&[]), |attributes| {
        let chain = attributes.find(rule::CHAIN).map(string_from)?;
        let userdata = attributes.find(rule::USERDATA).unwrap_or_default();
        Some((chain, hash_in(userdata).unwrap_or_default()))
    })?;
    for (chain, hash) in rules {
        found.chains.entry(chain).or_default().hashes.push(hash);
    }
    let sets = dump(socket, Message::GetSet, Some(&[]), |attributes| {
        let name = attributes.find(set::NAME).map(string_from)?;
        let number = |kind| attributes.find(kind).and_then(be32_from).unwrap_or(0);
        let set = FoundSet {
            flags: number(set::FLAGS),
            key_len: number(set::KEY_LEN),
            members: Vec::new(),
        };
        (set.flags & set::ANONYMOUS == 0).then_some((name, set))
    })?;
    for (name, mut set) in sets {
        set.members = elements_of(socket, &name)?;
        found.sets.insert(name, set);
    }
    Ok(found)
}

fn elements_of(socket: &mut Socket, set: &str) -> Result<Vec<Raw>, NetlinkError> {
    let name: (u16, &str) = (elements::SET, set);
    let lists = dump(socket, Message::GetElements, Some(&[name]), |attributes| {
        let list = attributes.find(elements::LIST)?;
        let all = Attributes::nested(list).filter(|(kind, _)| *kind == LIST_ELEMENT);
        // One that cannot be read is no entry of ours, which its emptiness then says.
        let raw = all.map(|(_, element)| Raw::parse(element).unwrap_or_default());
        Some(raw.collect::<Vec<_>>())
    })?;
    Ok(lists.concat())
}

pub(super) fn counters(socket: &mut Socket) -> Result<Counters, NetlinkError> {
    let rules = dump(socket, Message::GetRule, Some(&[]), |attributes| {
        let chain = attributes.find(rule::CHAIN).map(string_from)?;
        let expressions = attributes.find(rule::EXPRESSIONS).unwrap_or_default();
        Some((chain, hits(expressions)))
    })?;
    let mut counters = Counters::new();
    for (chain, hits) in rules {
        counters.entry(chain).or_default().push(hits);
    }
    Ok(counters)
}

/// What the counter among the expressions says; nothing where there is none.
fn hits(expressions: &[u8]) -> Hits {
    let counter = Attributes::nested(expressions).find_map(|(_, expression)| {
        let expression = Attributes::nested(expression);
        let name = expression.find(1).map(string_from)?;
        (name == "counter").then(|| expression.find(2)).flatten()
    });
    let number = |kind: u16| {
        let value = Attributes::nested(counter?).find(kind)?;
        Some(u64::from_be_bytes(value.try_into().ok()?))
    };
    Hits {
        bytes: number(1).unwrap_or(0),
        packets: number(2).unwrap_or(0),
    }
}

fn hash_in(mut userdata: &[u8]) -> Option<String> {
    while let [tag, length, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*length))?;
        if *tag == HASH_TAG && value.len() == HASH_LEN {
            return Some(string_from(value));
        }
        userdata = &rest[value.len()..];
    }
    None
}

/// A dump of one kind; `of_table` limits it to our table and what else it names.
fn dump<T>(
    socket: &mut Socket,
    message: Message,
    of_table: Option<&[(u16, &str)]>,
    mut pick: impl FnMut(Attributes<'_>) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    let fill = |m: &mut crate::netlink::Request<'_>| {
        if let Some(names) = of_table {
            m.string(TABLE, TABLE_NAME);
            for (kind, name) in names {
                m.string(*kind, name);
            }
        }
    };
    let head = header(INET, 0);
    socket.dump(message.kind(), &head, fill, |_, payload| {
        pick(Attributes::after(payload, head.len()))
    })
}
