//! Decoders that are not of the protocol, for fuzzing alone.

use std::net::Ipv6Addr;

use crate::{handover::State, router_adv};

/// Whether an ICMPv6 message of a neighbour says that it is a router (RFC 4861).
pub fn is_router(message: &[u8]) -> bool {
    const NEAR: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let heard = router_adv::decode(message, NEAR);
    heard == Some(router_adv::Heard::Router(NEAR))
}

/// The fields of what a process leaves to the next, read and written again; `None` if they make no sense.
pub fn hand_over(fields: &[u8]) -> Option<Vec<u8>> {
    State::read_fields(fields).map(|state| state.fields())
}
