//! Messages decoded, without an agent.

use std::io::Read;

use margay_bgp::inspect::{Action, Code, Field, Finding, Inspection, Options, inspect};
use margay_bgp::wire::{MessageType, PeerKind};

use super::json;
use crate::cli::{Bare, Decode, StatusOutput};
use crate::context::Streams;
use crate::failure::Fatal;

/// Far more than any session's worth of messages that a person would paste.
const MAX_INPUT: u64 = 64 << 20;

/// Prints every message; fails if one would not be accepted as it is.
pub(super) fn decode(args: &Decode, streams: &mut Streams<'_>) -> Result<(), Fatal> {
    let text = if args.hex == ["-"] {
        let mut text = String::new();
        let mut limited = Read::take(&mut *streams.stdin, MAX_INPUT);
        limited.read_to_string(&mut text)?;
        text
    } else {
        args.hex.concat()
    };
    let bytes = octets(&text)?;
    let options = Options {
        four_octet_as: !args.two_octet_as,
        add_path: args.add_path,
        extended: args.extended,
        peer: if args.ibgp {
            PeerKind::Ibgp
        } else {
            PeerKind::Ebgp
        },
        bare: match args.bare {
            Bare::Open => MessageType::Open,
            Bare::Update => MessageType::Update,
            Bare::Notification => MessageType::Notification,
            Bare::Keepalive => MessageType::Keepalive,
            Bare::RouteRefresh => MessageType::RouteRefresh,
        },
    };
    let found = inspect(&bytes, &options);
    streams.failed |= found.iter().any(|message| !message.errors.is_empty());
    let text = match args.output {
        StatusOutput::Json => json(&found)?,
        StatusOutput::Text => found.iter().map(render).collect::<Vec<_>>().join("\n"),
    };
    streams.print(&text)
}

fn octets(text: &str) -> Result<Vec<u8>, Fatal> {
    let wrong = |what: String| {
        Fatal::Usage(format!(
            "HEX: {what}, allowed: pairs of hexadecimal digits with spaces, colons or 0x between"
        ))
    };
    let plain = text.replace("0x", "");
    let skipped = |c: &char| c.is_whitespace() || matches!(c, ':' | ',' | '-');
    let digits = plain.chars().filter(|c| !skipped(c)).map(|c| {
        let digit = c.to_digit(16).and_then(|d| u8::try_from(d).ok());
        digit.ok_or_else(|| wrong(format!("found {c:?}")))
    });
    let digits = digits.collect::<Result<Vec<u8>, Fatal>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return Err(wrong(format!("found {} digits", digits.len())));
    }
    Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

fn render(message: &Inspection) -> String {
    let mut text = format!(
        "{} at octet {}, {} octets: {}\n",
        message.message,
        message.offset,
        message.length,
        message.verdict.name()
    );
    for field in &message.fields {
        field_lines(field, 1, &mut text);
    }
    for error in &message.errors {
        text += &error_line(error);
    }
    if let Some(answer) = &message.notification {
        text += &format!("  the sender is told NOTIFICATION {}", code(&answer.code));
        if !answer.data.is_empty() {
            text += &format!(", data {}", answer.data);
        }
        text.push('\n');
    }
    text
}

fn field_lines(field: &Field, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    *text += &format!(
        "{:>6} {indent}{}: {}\n",
        field.offset, field.name, field.value
    );
    for inner in &field.fields {
        field_lines(inner, depth + 1, text);
    }
}

fn error_line(error: &Finding) -> String {
    let place = match error.attribute {
        Some(kind) => format!("attribute {kind}: "),
        None => String::new(),
    };
    let mut line = format!("  error: {place}{}", error.what);
    if error.action != Action::Accept {
        line += &format!(": {}", error.action.name());
    }
    if let Some(or) = error.or {
        line += &format!(" (or {})", or.name());
    }
    if let Some(told) = &error.notification
        && error.action != Action::SessionReset
    {
        line += &format!("; not sent, RFC 4271 had {}", code(told));
    }
    line + "\n"
}

fn code(code: &Code) -> String {
    format!("{}/{} {}", code.code, code.subcode, code.name)
}
