//! Messages for people: every field with its place, and every error with what RFC 7606 makes of it.
//!
//! [`inspect`] takes any octets, as a capture or a log has them, and never fails: what cannot be
//! read is said. Its verdict on a message is the one that the speaker comes to, because it asks
//! the same decoders.

mod field;
mod open;
mod short;
mod update;

use bytes::BytesMut;
use serde::Serialize;

pub use field::Field;

use crate::wire::{
    AttrError, Kind, MessageType, Notification, PeerKind, Verdict, WireError,
    header::{self, HEADER_LEN},
};
use field::Walk;

/// What the octets alone do not tell: what the two sides agreed on in their OPENs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// AS numbers have four octets in AS_PATH and AGGREGATOR (RFC 6793).
    pub four_octet_as: bool,
    /// Prefixes have a path identifier in front (RFC 7911).
    pub add_path: bool,
    /// Messages may be longer than 4096 octets (RFC 8654).
    pub extended: bool,
    /// Who sent them.
    pub peer: PeerKind,
    /// What octets without a header are.
    pub bare: MessageType,
}

impl Default for Options {
    /// An external peer with four-octet AS numbers and nothing else; bare octets are an UPDATE.
    fn default() -> Self {
        Self {
            four_octet_as: true,
            add_path: false,
            extended: false,
            peer: PeerKind::Ebgp,
            bare: MessageType::Update,
        }
    }
}

/// What an error costs (RFC 7606 section 2), weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Nothing.
    Accept,
    /// The attribute is left out, the routes are used.
    AttributeDiscard,
    /// The announced prefixes count as withdrawn.
    TreatAsWithdraw,
    /// The family is not used any more on the session.
    AfiSafiDisable,
    /// The session ends with a NOTIFICATION.
    SessionReset,
}

impl Action {
    /// As the RFC writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::AttributeDiscard => "attribute discard",
            Self::TreatAsWithdraw => "treat-as-withdraw",
            Self::AfiSafiDisable => "AFI/SAFI disable",
            Self::SessionReset => "session reset",
        }
    }
}

/// Code and subcode of a NOTIFICATION with their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Code {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Registered name, empty if there is none.
    pub name: &'static str,
}

impl From<Kind> for Code {
    fn from(kind: Kind) -> Self {
        Self {
            code: kind.code,
            subcode: kind.subcode,
            name: kind.name().unwrap_or_default(),
        }
    }
}

/// An error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where: the path attribute's code, absent for errors elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribute: Option<u8>,
    /// What is wrong.
    pub what: String,
    /// What this speaker does about it.
    pub action: Action,
    /// What RFC 7606 section 5.3 would allow instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub or: Option<Action>,
    /// The NOTIFICATION of a session reset; for a weaker action the one that RFC 4271 had for the
    /// error, which is not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification: Option<Code>,
}

impl Finding {
    fn of(verdict: Verdict) -> Option<Self> {
        let attr = |error: AttrError, action| Self {
            attribute: Some(error.code).filter(|code| *code != 0),
            what: error.what.to_owned(),
            action,
            or: None,
            notification: Some(error.kind.into()),
        };
        match verdict {
            Verdict::Accept => None,
            Verdict::AttributeDiscard(e) => Some(attr(e, Action::AttributeDiscard)),
            Verdict::TreatAsWithdraw(e) => Some(attr(e, Action::TreatAsWithdraw)),
            Verdict::Reset(e) => Some(Self::reset(&e)),
        }
    }

    fn reset(error: &WireError) -> Self {
        Self {
            attribute: None,
            what: error.to_string(),
            action: Action::SessionReset,
            or: None,
            notification: Some(error.notification().kind.into()),
        }
    }
}

/// A NOTIFICATION to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Code and subcode.
    #[serde(flatten)]
    pub code: Code,
    /// Its data, hexadecimal.
    pub data: String,
}

impl From<&Notification> for Answer {
    fn from(notification: &Notification) -> Self {
        Self {
            code: notification.kind.into(),
            data: field::hex(&notification.data),
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE-REFRESH or unknown.
    pub message: &'static str,
    /// Where it starts in what was given.
    pub offset: usize,
    /// Octets of it that were given.
    pub length: usize,
    /// Its fields in order.
    pub fields: Vec<Field>,
    /// What is wrong with it.
    pub errors: Vec<Finding>,
    /// What becomes of it: the strongest of the errors.
    pub verdict: Action,
    /// What the sender is told before its session ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification: Option<Answer>,
}

impl Inspection {
    fn new(message: &'static str, offset: usize, length: usize) -> Self {
        Self {
            message,
            offset,
            length,
            fields: Vec::new(),
            errors: Vec::new(),
            verdict: Action::Accept,
            notification: None,
        }
    }

    /// An error that ends the session.
    fn reject(&mut self, error: &WireError) {
        self.reject_or(error, None);
    }

    fn reject_or(&mut self, error: &WireError, or: Option<Action>) {
        self.errors.push(Finding {
            or,
            ..Finding::reset(error)
        });
        if self.verdict != Action::SessionReset {
            self.verdict = Action::SessionReset;
            self.notification = Some(error.notification().into());
        }
    }
}

const fn name(kind: MessageType) -> &'static str {
    match kind {
        MessageType::Open => "OPEN",
        MessageType::Update => "UPDATE",
        MessageType::Notification => "NOTIFICATION",
        MessageType::Keepalive => "KEEPALIVE",
        MessageType::RouteRefresh => "ROUTE-REFRESH",
    }
}

/// Every message in `bytes`: with headers, several in a row; with a header that lacks its marker;
/// or the body of one message of the type that `options` say. Ends after a message whose header
/// is wrong or that is cut off.
pub fn inspect(bytes: &[u8], options: &Options) -> Vec<Inspection> {
    let marker = bytes
        .get(..16)
        .is_some_and(|m| m.iter().all(|b| *b == 0xff));
    if marker {
        return with_headers(bytes, options);
    }
    if let [hi, lo, kind, body @ ..] = bytes
        && usize::from(u16::from_be_bytes([*hi, *lo])) == bytes.len() + 16
        && let Some(kind) = MessageType::from_wire(*kind)
    {
        let mut found = Inspection::new(name(kind), 0, bytes.len());
        header_fields(bytes, 0, &mut found);
        judge_body(kind, body, 3, options, &mut found);
        return vec![found];
    }
    let mut found = Inspection::new(name(options.bare), 0, bytes.len());
    judge_body(options.bare, bytes, 0, options, &mut found);
    vec![found]
}

fn with_headers(bytes: &[u8], options: &Options) -> Vec<Inspection> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let kind = rest.get(18).copied().and_then(MessageType::from_wire);
        let mut found = Inspection::new(kind.map_or("unknown", name), at, rest.len());
        if let Some(after_marker) = rest.get(16..) {
            header_fields(after_marker, at + 16, &mut found);
        }
        let next = match header::peek(rest, options.extended) {
            Err(error) => {
                found.reject(&error);
                None
            }
            Ok(None) => {
                let wanted = rest.get(16..18).map(|len| match len {
                    [hi, lo] => usize::from(u16::from_be_bytes([*hi, *lo])),
                    _ => HEADER_LEN,
                });
                found.errors.push(Finding {
                    attribute: None,
                    what: format!(
                        "{} octets of the message are missing",
                        wanted.unwrap_or(HEADER_LEN).saturating_sub(rest.len())
                    ),
                    action: Action::Accept,
                    or: None,
                    notification: None,
                });
                None
            }
            Ok(Some((kind, total))) => {
                found.length = total;
                let body = rest.get(HEADER_LEN..total).unwrap_or_default();
                message(kind, body, at + HEADER_LEN, options, &mut found);
                Some(at + total)
            }
        };
        all.push(found);
        let Some(next) = next else { break };
        at = next;
    }
    all
}

/// Length and type, which `bytes` begin with.
fn header_fields(bytes: &[u8], at: usize, found: &mut Inspection) {
    let mut walk = Walk::new(bytes, at);
    walk.u16("length", &mut found.fields);
    walk.named("type", &mut found.fields, |bytes| match bytes {
        [kind] => match MessageType::from_wire(*kind) {
            Some(known) => format!("{kind} {}", name(known)),
            None => format!("{kind} unknown"),
        },
        _ => String::new(),
    });
}

/// A body whose header is not there to be judged: its length is what was given.
fn judge_body(
    kind: MessageType,
    body: &[u8],
    at: usize,
    options: &Options,
    found: &mut Inspection,
) {
    let mut head = BytesMut::new();
    header::put(&mut head, kind, body.len());
    if let Err(error) = header::peek(&head, options.extended) {
        found.reject(&error);
    }
    message(kind, body, at, options, found);
}

fn message(kind: MessageType, body: &[u8], at: usize, options: &Options, found: &mut Inspection) {
    match kind {
        MessageType::Open => open::inspect(body, at, found),
        MessageType::Update => update::inspect(body, at, options, found),
        MessageType::Notification => short::notification(body, at, found),
        MessageType::RouteRefresh => short::refresh(body, at, found),
        MessageType::Keepalive => {}
    }
}

#[cfg(test)]
mod tests;
