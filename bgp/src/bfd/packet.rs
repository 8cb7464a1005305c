//! The control packet (RFC 5880 section 4.1).

use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::wire::cursor::Cursor;

const VERSION: u8 = 1;
/// Octets of a packet without authentication.
const LEN: u8 = 24;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// State of a session (RFC 5880 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Held down by its operator.
    AdminDown,
    /// Nothing heard, or too long ago.
    Down,
    /// The other side is heard.
    Init,
    /// Both sides hear each other.
    Up,
}

impl State {
    const fn to_wire(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a session went down last (RFC 5880 section 4.1). Any value may be received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Diag(pub u8);

impl Diag {
    /// Nothing to say.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for too long.
    pub const TIME_EXPIRED: Self = Self(1);
    /// The other side says that it is down.
    pub const NEIGHBOR_DOWN: Self = Self(3);
    /// Held down by its operator.
    pub const ADMIN_DOWN: Self = Self(7);
}

impl fmt::Display for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            other => return write!(f, "diagnostic {other}"),
        })
    }
}

/// A control packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session went down last.
    pub diag: Diag,
    /// The sender's state.
    pub state: State,
    /// An answer with `last` is wanted at once.
    pub poll: bool,
    /// The answer to a poll (F bit).
    pub last: bool,
    /// The sender's BFD outlives its control plane (C bit).
    pub independent: bool,
    /// The sender wants no periodic packets.
    pub demand: bool,
    /// Packets that may be missed; not 0.
    pub detect_mult: u8,
    /// The sender's name for the session; not 0.
    pub my_discr: u32,
    /// The receiver's name for it, 0 if not known.
    pub your_discr: u32,
    /// How often the sender would like to send, at most, microseconds.
    pub desired_min_tx_us: u32,
    /// How often the sender can receive, at most, microseconds; 0: it wants none.
    pub required_min_rx_us: u32,
    /// The same for echo packets; 0: it does no echo.
    pub required_min_echo_rx_us: u32,
}

/// Why a packet is ignored (RFC 5880 section 6.8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Discard {
    /// Not version 1.
    #[error("the version is not 1")]
    Version,
    /// Too short, or longer than it is.
    #[error("the length is wrong")]
    Length,
    /// A detection multiplier of 0.
    #[error("the detection multiplier is 0")]
    Multiplier,
    /// The multipoint bit.
    #[error("the multipoint bit is set")]
    Multipoint,
    /// It names no session of its sender.
    #[error("my discriminator is 0")]
    MyDiscriminator,
    /// It names no session of ours where it has to.
    #[error("your discriminator is 0 in state Init or Up")]
    YourDiscriminator,
    /// There is no key to check it with.
    #[error("it is authenticated")]
    Authenticated,
}

impl Packet {
    /// Reads a packet from the payload of a datagram.
    pub fn decode(payload: &[u8]) -> Result<Self, Discard> {
        let mut c = Cursor::new(payload);
        let [first, second, detect_mult, len] = c.array().ok_or(Discard::Length)?;
        if first >> 5 != VERSION {
            return Err(Discard::Version);
        }
        if len < LEN || usize::from(len) > payload.len() {
            return Err(Discard::Length);
        }
        if detect_mult == 0 {
            return Err(Discard::Multiplier);
        }
        if second & MULTIPOINT != 0 {
            return Err(Discard::Multipoint);
        }
        let mut word = || c.u32().ok_or(Discard::Length);
        let packet = Self {
            diag: Diag(first & 0x1f),
            state: match second >> 6 {
                0 => State::AdminDown,
                1 => State::Down,
                2 => State::Init,
                _ => State::Up,
            },
            poll: second & POLL != 0,
            last: second & FINAL != 0,
            independent: second & INDEPENDENT != 0,
            demand: second & DEMAND != 0,
            detect_mult,
            my_discr: word()?,
            your_discr: word()?,
            desired_min_tx_us: word()?,
            required_min_rx_us: word()?,
            required_min_echo_rx_us: word()?,
        };
        if packet.my_discr == 0 {
            return Err(Discard::MyDiscriminator);
        }
        if packet.your_discr == 0 && matches!(packet.state, State::Init | State::Up) {
            return Err(Discard::YourDiscriminator);
        }
        if second & AUTHENTICATED != 0 {
            return Err(Discard::Authenticated);
        }
        Ok(packet)
    }

    /// Appends the packet.
    pub fn encode(&self, out: &mut BytesMut) {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        out.put_u8(VERSION << 5 | (self.diag.0 & 0x1f));
        out.put_u8(
            self.state.to_wire() << 6
                | bit(self.poll, POLL)
                | bit(self.last, FINAL)
                | bit(self.independent, INDEPENDENT)
                | bit(self.demand, DEMAND),
        );
        out.put_u8(self.detect_mult);
        out.put_u8(LEN);
        out.put_u32(self.my_discr);
        out.put_u32(self.your_discr);
        out.put_u32(self.desired_min_tx_us);
        out.put_u32(self.required_min_rx_us);
        out.put_u32(self.required_min_echo_rx_us);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Version 1, Up, multiplier 3, discriminators 1 and 2, 50 ms each way.
    const GOOD: [u8; 24] = [
        0x20, 0xc0, 3, 24, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0xc3, 0x50, 0, 0, 0xc3, 0x50, 0, 0, 0, 0,
    ];

    #[test]
    fn rfc5880_6_8_6_what_is_ignored() {
        let with = |at: usize, value: u8| {
            let mut bytes = GOOD;
            bytes[at] = value;
            Packet::decode(&bytes)
        };
        assert!(Packet::decode(&GOOD).is_ok());
        assert_eq!(with(0, 0x40), Err(Discard::Version));
        assert_eq!(with(3, 23), Err(Discard::Length));
        assert_eq!(with(3, 25), Err(Discard::Length));
        assert_eq!(Packet::decode(&GOOD[..23]), Err(Discard::Length));
        assert_eq!(with(2, 0), Err(Discard::Multiplier));
        assert_eq!(with(1, 0xc1), Err(Discard::Multipoint));
        assert_eq!(with(7, 0), Err(Discard::MyDiscriminator));
        assert_eq!(with(11, 0), Err(Discard::YourDiscriminator));
        assert_eq!(with(1, 0xc4), Err(Discard::Authenticated));
        // Down needs no discriminator of ours.
        let mut down = GOOD;
        (down[1], down[11]) = (0x40, 0);
        assert_eq!(Packet::decode(&down).unwrap().state, State::Down);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic_and_what_is_read_is_written_alike(
            bytes in vec(any::<u8>(), 0..40), good: bool,
        ) {
            let bytes = if good { [&GOOD[..4], &bytes].concat() } else { bytes };
            if let Ok(packet) = Packet::decode(&bytes) {
                let mut out = BytesMut::new();
                packet.encode(&mut out);
                prop_assert_eq!(Packet::decode(&out), Ok(packet));
            }
        }
    }
}
