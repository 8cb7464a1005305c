//! The backend made of nf_tables: one table of our own, spoken to by netlink, without a program.
//!
//! **What is in the kernel.** Table `inet margay`. Its base chains only tell the families apart; each
//! family has its own chains, called after what they are (`v4-forward`,
//! `v4-policy-in/NetworkPolicy/shop/web`). Two verdict maps a family lead from (interface, address) to the
//! chain of the endpoint's group, so that a packet costs the same whatever the number of endpoints; maps
//! with prefixes beside them serve endpoints that may use whole networks and are empty otherwise. Members
//! of selectors are in sets by hash, and their networks in sets with intervals beside them; named ports in sets of
//! (address, protocol, port). Rules that match several ports look them up in a set that all of those ports share.
//!
//! **Changes.** Everything that differs goes into one transaction, which the kernel takes as a whole or
//! refuses as a whole and then says which messages it minded. Their objects are left out, a chain that is
//! new drops meanwhile, and all the rest is sent again.
//!
//! **Recognition.** Each rule's userdata carries a hash over its chain up to there; rules whose hashes are
//! as they should be are left alone. The table is ours by its name.

mod adopt;
mod backend;
mod base;
mod commit;
mod cover;
mod dispatch;
mod driver;
mod edge;
mod element;
mod expression;
mod names;
mod parts;
mod plan;
mod ports;
mod read;
mod render;
mod send;
mod set;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

pub(crate) use self::driver::Nftables;
pub use self::watch::{Concern, Watch};
use crate::netlink::Socket;

/// The table that is ours, of family `inet`.
pub const TABLE_NAME: &str = "margay";

/// Whether the kernel has nf_tables, as far as this namespace can tell.
#[must_use]
pub fn is_supported() -> bool {
    let dump = |mut socket: Socket| read::table_names(&mut socket);
    Socket::netfilter().and_then(dump).is_ok()
}

/// Whether our table is in the kernel.
#[must_use]
pub fn is_present() -> bool {
    let dump = |mut socket: Socket| read::table_names(&mut socket);
    let tables = Socket::netfilter().and_then(dump).unwrap_or_default();
    tables.iter().any(|table| table == TABLE_NAME)
}
