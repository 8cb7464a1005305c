//! Text and actions, and the words of an action.

use serde_json::Value;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Action(Vec<Word>),
}

/// A word of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    /// A keyword or a function.
    Name(String),
    /// `.` without a field.
    Dot,
    /// `.name`, and whether it touches the word before.
    Field(String, bool),
    /// `$name`; empty for `$`.
    Variable(String),
    Literal(Value),
    Open,
    Close,
    Pipe,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// Splits a template into its pieces.
pub(super) fn split(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while !rest.is_empty() {
        let (plain, after) = match rest.split_once("{{") {
            Some((plain, after)) => (plain, Some(after)),
            None => (rest, None),
        };
        let mut plain = if trim { plain.trim_start() } else { plain };
        let Some(mut inside) = after else {
            push(&mut pieces, plain);
            break;
        };
        if inside.starts_with('-') && inside[1..].starts_with([' ', '\t', '\n', '\r']) {
            plain = plain.trim_end();
            inside = &inside[1..];
        }
        push(&mut pieces, plain);
        if inside.trim_start().starts_with("/*") {
            let (_, after) = inside
                .split_once("*/")
                .ok_or_else(|| "a comment without */".to_owned())?;
            let after = after.trim_start();
            trim = after.starts_with("-}}");
            let after = after.strip_prefix('-').unwrap_or(after);
            rest = after
                .strip_prefix("}}")
                .ok_or_else(|| "a comment without }} after it".to_owned())?;
            continue;
        }
        let mut lexer = Lexer {
            rest: inside,
            space: true,
        };
        let mut words = Vec::new();
        trim = loop {
            match lexer.next()? {
                Next::Word(word) => words.push(word),
                Next::End { trim } => break trim,
            }
        };
        pieces.push(Piece::Action(words));
        rest = lexer.rest;
    }
    Ok(pieces)
}

fn push(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

enum Next {
    Word(Word),
    End { trim: bool },
}

struct Lexer<'a> {
    rest: &'a str,
    /// Whether there was space before `rest`.
    space: bool,
}

impl Lexer<'_> {
    fn next(&mut self) -> Result<Next, String> {
        let trimmed = self.rest.trim_start();
        self.space |= trimmed.len() < self.rest.len();
        let space = std::mem::replace(&mut self.space, false);
        self.rest = trimmed;
        if self.take("}}") {
            return Ok(Next::End { trim: false });
        }
        if space && self.take("-}}") {
            return Ok(Next::End { trim: true });
        }
        for (sign, word) in [
            ("(", Word::Open),
            (")", Word::Close),
            ("|", Word::Pipe),
            (",", Word::Comma),
            (":=", Word::Declare),
            ("=", Word::Assign),
        ] {
            if self.take(sign) {
                return Ok(Next::Word(word));
            }
        }
        self.word(space).map(Next::Word)
    }

    fn word(&mut self, space: bool) -> Result<Word, String> {
        let Some(first) = self.rest.chars().next() else {
            return Err("{{ without }}".to_owned());
        };
        if self.take("$") {
            return Ok(Word::Variable(self.name().to_owned()));
        }
        if self.take(".") {
            let name = self.name();
            return Ok(match name {
                "" => Word::Dot,
                name => Word::Field(name.to_owned(), !space),
            });
        }
        match first {
            '"' | '`' | '\'' => self.quoted(first),
            '0'..='9' | '-' | '+' => self.number(),
            c if c.is_alphabetic() || c == '_' => Ok(Word::Name(self.name().to_owned())),
            c => Err(format!(
                "found {c:?} in an action, allowed: a word, a field, a text in quotes"
            )),
        }
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest.strip_prefix(text);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn name(&mut self) -> &str {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        name
    }

    fn quoted(&mut self, quote: char) -> Result<Word, String> {
        let mut text = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[at + 2..];
                    return Ok(Word::Literal(Value::String(text)));
                }
                '\\' if quote != '`' => text.extend(chars.next().map(|(_, c)| match c {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                })),
                c => text.push(c),
            }
        }
        Err(format!("a text without its closing {quote}"))
    }

    fn number(&mut self) -> Result<Word, String> {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && !".+-".contains(c));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let plain = word.strip_prefix('+').unwrap_or(word);
        match serde_json::from_str(plain) {
            Ok(value @ Value::Number(_)) => {
                self.rest = rest;
                Ok(Word::Literal(value))
            }
            _ => Err(format!("found {word:?}, allowed: a number")),
        }
    }
}
