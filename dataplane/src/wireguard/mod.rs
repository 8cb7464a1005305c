//! WireGuard as the kernel has it: keys, and the conversation about a device by generic netlink.
//!
//! Which devices there are and who is in them is [`crate::overlay`]'s; this knows neither hosts nor routes. A private key
//! leaves its file for the kernel alone: it has no text form beside the file's, and `Debug` does not show it. Public keys
//! are read from the device, which works them out, so that no cryptography is done here.

mod conversation;
mod key;
#[cfg(test)]
mod tests;
mod wire;

pub use conversation::Wireguard;
pub use key::{KeyError, KeyFileError, PrivateKey, PublicKey};
pub(crate) use wire::{DeviceChange, PeerChange};
pub use wire::{DeviceState, PeerState};
