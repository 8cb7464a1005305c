//! DNS messages (RFC 1035 section 4), as far as questions for SRV records (RFC 2782) need them.

/// The type of SRV records.
const TYPE_SRV: u16 = 33;
const CLASS_IN: u16 = 1;
/// The answer did not fit.
const FLAG_TRUNCATED: u16 = 0x0200;
const FLAG_RESPONSE: u16 = 0x8000;
const RCODE: u16 = 0x000f;
const NAME_ERROR: u16 = 3;
/// More pointers than a name of 255 bytes can have.
const MAX_POINTERS: usize = 127;

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    /// Lower is asked first.
    pub(super) priority: u16,
    /// Among those of one priority, more is asked more often.
    pub(super) weight: u16,
    pub(super) port: u16,
    /// Without a dot at the end.
    pub(super) host: String,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The records; none where the name does not exist.
    Services(Vec<Service>),
    /// The answer needs a stream.
    Truncated,
    /// The server cannot answer: its response code.
    Failed(u16),
}

/// A question for the SRV records of `name`; `None` if it is no name.
pub(super) fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(name.len() + 18);
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > 253 {
        return None;
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok()?;
        if !(1..=63).contains(&length) {
            return None;
        }
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    for word in [TYPE_SRV, CLASS_IN] {
        message.extend(word.to_be_bytes());
    }
    Some(message)
}

/// Reads the answer to the question `id`; `None` if it is none.
pub(super) fn answer(id: u16, message: &[u8]) -> Option<Answer> {
    let mut reader = Reader { message, at: 0 };
    let (found, flags) = (reader.word()?, reader.word()?);
    if found != id || flags & FLAG_RESPONSE == 0 {
        return None;
    }
    if flags & FLAG_TRUNCATED != 0 {
        return Some(Answer::Truncated);
    }
    let (questions, answers) = (reader.word()?, reader.word()?);
    reader.skip(4)?;
    match flags & RCODE {
        0 => {}
        NAME_ERROR => return Some(Answer::Services(Vec::new())),
        code => return Some(Answer::Failed(code)),
    }
    for _ in 0..questions {
        reader.name()?;
        reader.skip(4)?;
    }
    let mut services = Vec::new();
    for _ in 0..answers {
        services.extend(reader.record()?);
    }
    Some(Answer::Services(services))
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = self.message.get(self.at)?;
        self.at += 1;
        Some(*byte)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at += count;
        (self.at <= self.message.len()).then_some(())
    }

    /// A name, of which the rest may stand further up in the message.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut pointers = 0;
        let mut end = None;
        loop {
            let length = self.byte()?;
            match length {
                0 => break,
                1..=63 => {
                    let label = self.message.get(self.at..self.at + usize::from(length))?;
                    self.at += usize::from(length);
                    if !name.is_empty() {
                        name.push('.');
                    }
                    name.push_str(std::str::from_utf8(label).ok()?);
                }
                0xc0.. => {
                    let low = self.byte()?;
                    end.get_or_insert(self.at);
                    pointers += 1;
                    if pointers > MAX_POINTERS {
                        return None;
                    }
                    self.at = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                }
                _ => return None,
            }
        }
        self.at = end.unwrap_or(self.at);
        Some(name)
    }

    /// A record: the inner `None` for one of another type.
    fn record(&mut self) -> Option<Option<Service>> {
        self.name()?;
        let kind = self.word()?;
        let class = self.word()?;
        self.skip(4)?;
        let length = usize::from(self.word()?);
        let end = self.at + length;
        if (kind, class) != (TYPE_SRV, CLASS_IN) {
            self.skip(length)?;
            return Some(None);
        }
        let (priority, weight, port) = (self.word()?, self.word()?, self.word()?);
        let host = self.name()?;
        if self.at != end {
            return None;
        }
        // A single dot says that the service is not offered (RFC 2782).
        Some((!host.is_empty()).then_some(Service {
            priority,
            weight,
            port,
            host,
        }))
    }
}
