//! One netlink socket, requests one after the other, each acknowledged.

use std::{collections::BTreeMap, io};

use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::{
    Entry, IpsetError, MAX_ELEMENTS, SetType,
    wire::{self, Answer, Command, NLMSG_DONE, NLMSG_ERROR},
};
use crate::filter::Family;

/// Far above anything but a lost answer: the largest batch takes milliseconds.
const ANSWER_TIMEOUT_SECS: u64 = 10;
/// The kernel fills dump datagrams up to 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// A set as read back from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSet {
    /// Type; `None` when it is not one of ours.
    pub set_type: Option<SetType>,
    /// Family; `None` when the type has none.
    pub family: Option<Family>,
    /// Members; one that could not be understood is left out.
    pub entries: Vec<Entry>,
}

/// The `ip_set` subsystem of the network namespace in which the socket was opened.
///
/// Blocking. A request takes some 5 to 20 microseconds plus about one per member.
pub struct IpsetSocket {
    socket: Socket,
    seq: u32,
    buf: Vec<u8>,
    revisions: BTreeMap<(SetType, Family), u8>,
}

impl std::fmt::Debug for IpsetSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IpsetSocket")
            .field("seq", &self.seq)
            .finish_non_exhaustive()
    }
}

impl IpsetSocket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the socket cannot be made; it needs no capability, the requests do (`CAP_NET_ADMIN`).
    pub fn open() -> Result<Self, IpsetError> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let timeout = TimeVal::new(ANSWER_TIMEOUT_SECS as i64, 0);
        setsockopt(&socket, ReceiveTimeout, &timeout).map_err(io::Error::from)?;
        let buf = Vec::with_capacity(RECEIVE_BUFFER);
        Ok(Self {
            socket,
            seq: 0,
            buf,
            revisions: BTreeMap::new(),
        })
    }

    /// Makes an empty set.
    ///
    /// # Errors
    /// Also when a set of that name exists.
    pub fn create(
        &mut self,
        name: &str,
        set_type: SetType,
        family: Family,
    ) -> Result<(), IpsetError> {
        let revision = self.revision(set_type, family)?;
        let seq = self.next_seq();
        let request = wire::create(name, set_type, revision, family, MAX_ELEMENTS, seq);
        self.request(&request, Command::Create, name)
    }

    /// Destroys a set; one that does not exist is success.
    ///
    /// # Errors
    /// [`IpsetError::is_busy`] while a rule refers to it.
    pub fn destroy(&mut self, name: &str) -> Result<(), IpsetError> {
        let seq = self.next_seq();
        match self.request(&wire::destroy(name, seq), Command::Destroy, name) {
            Err(error) if error.is_missing() => Ok(()),
            other => other,
        }
    }

    /// Exchanges the contents of two sets of equal type, so that rules see one or the other.
    ///
    /// # Errors
    /// When one is missing or the types differ.
    pub fn swap(&mut self, name: &str, other: &str) -> Result<(), IpsetError> {
        let seq = self.next_seq();
        self.request(&wire::swap(name, other, seq), Command::Swap, name)
    }

    /// Adds members; those already there are success.
    ///
    /// # Errors
    /// The members before the refused one are in.
    pub fn add(&mut self, name: &str, entries: &[Entry]) -> Result<(), IpsetError> {
        self.members(Command::Add, name, entries)
    }

    /// Deletes members; those not there are success.
    ///
    /// # Errors
    /// The members before the refused one are out.
    pub fn del(&mut self, name: &str, entries: &[Entry]) -> Result<(), IpsetError> {
        self.members(Command::Del, name, entries)
    }

    fn members(
        &mut self,
        command: Command,
        name: &str,
        mut entries: &[Entry],
    ) -> Result<(), IpsetError> {
        while !entries.is_empty() {
            let seq = self.next_seq();
            let (request, taken) = wire::members(command, name, entries, seq);
            self.request(&request, command, name)?;
            entries = &entries[taken..];
        }
        Ok(())
    }

    /// Names of all sets in the namespace, ours and others'.
    ///
    /// # Errors
    /// When the kernel has no ip set support or the dump failed.
    pub fn names(&mut self) -> Result<Vec<String>, IpsetError> {
        let seq = self.next_seq();
        let mut names = Vec::new();
        self.exchange(&wire::list_names(seq), Command::List, "(all)", |answer| {
            names.extend(answer.set_name().map(str::to_owned));
        })?;
        Ok(names)
    }

    /// Reads a set back; `None` when it does not exist.
    ///
    /// # Errors
    /// When the dump failed.
    pub fn list(&mut self, name: &str) -> Result<Option<KernelSet>, IpsetError> {
        let seq = self.next_seq();
        let mut set = KernelSet {
            set_type: None,
            family: None,
            entries: Vec::new(),
        };
        let result = self.exchange(&wire::list_set(name, seq), Command::List, name, |answer| {
            if answer.has_header() {
                set.set_type = answer.set_type();
                set.family = answer.family();
            }
            if let Some(set_type) = set.set_type {
                set.entries.extend(answer.entries(set_type).flatten());
            }
        });
        match result {
            Ok(()) => Ok(Some(set)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The newest revision of a type that the kernel offers; asked once.
    fn revision(&mut self, set_type: SetType, family: Family) -> Result<u8, IpsetError> {
        if let Some(revision) = self.revisions.get(&(set_type, family)) {
            return Ok(*revision);
        }
        let seq = self.next_seq();
        let mut revision = None;
        let request = wire::type_query(set_type, family, seq);
        self.exchange(&request, Command::Type, set_type.name(), |answer| {
            revision = revision.or(answer.revision());
        })?;
        let revision = revision.ok_or_else(|| IpsetError::Malformed {
            set: set_type.name().to_owned(),
            op: Command::Type.name(),
        })?;
        self.revisions.insert((set_type, family), revision);
        Ok(revision)
    }

    fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    fn request(&mut self, request: &[u8], command: Command, set: &str) -> Result<(), IpsetError> {
        self.exchange(request, command, set, |_| {})
    }

    /// Sends a request and hands every answer that is not the end to `each`.
    fn exchange(
        &mut self,
        request: &[u8],
        command: Command,
        set: &str,
        mut each: impl FnMut(&Answer<'_>),
    ) -> Result<(), IpsetError> {
        let op = command.name();
        self.socket.send(request, 0)?;
        loop {
            self.receive(set, op)?;
            let mut bytes = self.buf.as_slice();
            while !bytes.is_empty() {
                let malformed = || IpsetError::Malformed {
                    set: set.to_owned(),
                    op,
                };
                let (answer, rest) = Answer::split(bytes).ok_or_else(malformed)?;
                bytes = rest;
                // An answer to an earlier request that was given up on.
                if answer.seq != self.seq {
                    continue;
                }
                if answer.kind != NLMSG_ERROR && answer.kind != NLMSG_DONE {
                    each(&answer);
                    continue;
                }
                return match answer.error_code() {
                    Some(0) => Ok(()),
                    // A dump that ends well may carry no code.
                    None if answer.kind == NLMSG_DONE => Ok(()),
                    Some(errno) => Err(IpsetError::Kernel {
                        set: set.to_owned(),
                        op,
                        errno,
                    }),
                    None => Err(malformed()),
                };
            }
        }
    }

    fn receive(&mut self, set: &str, op: &'static str) -> Result<(), IpsetError> {
        self.buf.clear();
        loop {
            return match self.socket.recv(&mut self.buf, 0) {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let seconds = ANSWER_TIMEOUT_SECS;
                    Err(IpsetError::Timeout {
                        set: set.to_owned(),
                        op,
                        seconds,
                    })
                }
                Err(error) => Err(error.into()),
            };
        }
    }
}
