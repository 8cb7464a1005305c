//! Writing requests.

use std::net::IpAddr;

use super::ip_bytes;

/// `struct nlmsghdr`.
pub(crate) const HEADER_LEN: usize = 16;
const NESTED: u16 = libc::NLA_F_NESTED as u16;

/// Requests that travel in one `send`. The kernel works them off in order, before the `send` returns.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// Adds a request: its fixed header (such as `struct rtmsg`), then what `fill` writes. Returns its place.
    pub fn push(
        &mut self,
        kind: u16,
        flags: i32,
        header: &[u8],
        fill: impl FnOnce(&mut Request<'_>),
    ) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(header);
        pad(&mut self.bytes);
        fill(&mut Request {
            bytes: &mut self.bytes,
        });
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.starts.push(start);
        self.starts.len() - 1
    }

    /// Number of requests.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is no request.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Forgets all requests and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// Makes a request one that no kernel knows.
    #[cfg(test)]
    pub(crate) fn spoil(&mut self, place: usize) {
        let start = self.starts[place];
        self.bytes[start + 4..start + 6].copy_from_slice(&0x7fff_u16.to_ne_bytes());
    }

    /// Numbers the requests from `first` on and asks for an acknowledgement of the last.
    pub(crate) fn seal(&mut self, first: u32) -> &[u8] {
        let last = self.starts.len().saturating_sub(1);
        self.seal_at(first, last)
    }

    /// Like [`Batch::seal`] with the acknowledgement of another than the last request.
    pub(super) fn seal_at(&mut self, first: u32, acknowledged: usize) -> &[u8] {
        for (i, start) in self.starts.iter().enumerate() {
            let sequence = first.wrapping_add(i as u32);
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
        if let Some(start) = self.starts.get(acknowledged) {
            let flags = &mut self.bytes[start + 6..start + 8];
            let acknowledged = u16::from_ne_bytes([flags[0], flags[1]]) | libc::NLM_F_ACK as u16;
            flags.copy_from_slice(&acknowledged.to_ne_bytes());
        }
        &self.bytes
    }
}

/// The attributes of a request under construction.
#[derive(Debug)]
pub struct Request<'a> {
    bytes: &'a mut Vec<u8>,
}

impl<'a> Request<'a> {
    /// Attributes outside of a request, to be put into one later.
    pub(crate) const fn apart(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Attributes that were written apart.
    pub(crate) fn attributes(&mut self, written: &[u8]) {
        self.bytes.extend_from_slice(written);
    }
}

impl Request<'_> {
    /// An attribute of raw bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.bytes
            .extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
    }

    /// A native-endian `u32`.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// A string with its terminating zero.
    pub fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// An address of 4 or 16 bytes.
    pub fn ip(&mut self, kind: u16, value: IpAddr) {
        let (bytes, len) = ip_bytes(value);
        self.bytes(kind, &bytes[..len]);
    }

    /// An attribute that holds attributes, after an optional fixed `header` (such as a peer's `struct ifinfomsg`).
    pub fn nest(&mut self, kind: u16, header: &[u8], fill: impl FnOnce(&mut Request<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        self.bytes.extend_from_slice(header);
        pad(self.bytes);
        fill(&mut Request { bytes: self.bytes });
        self.close(start);
    }

    /// One `struct rtnexthop` inside `RTA_MULTIPATH`; `hops` is the weight minus one.
    pub(crate) fn next_hop(
        &mut self,
        flags: u8,
        hops: u8,
        index: u32,
        fill: impl FnOnce(&mut Request<'_>),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0, flags, hops]);
        self.bytes.extend_from_slice(&index.to_ne_bytes());
        fill(&mut Request { bytes: self.bytes });
        self.close(start);
    }

    fn close(&mut self, start: usize) {
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
