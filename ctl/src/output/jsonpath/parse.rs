//! The grammar of templates and paths.

use serde_json::Value;

use super::{Comparison, Condition, Node, Operand, Path, Step};

/// How deep `range` and brackets may be in each other: far more than people write, and no danger to
/// the stack.
const MAX_DEPTH: usize = 64;

/// Reads a whole template.
pub(super) fn template(text: &str) -> Result<Vec<Node>, String> {
    let mut rest = text;
    // A body for each `range` that is open, below it the template itself.
    let mut bodies: Vec<(Option<Path>, Vec<Node>)> = vec![(None, Vec::new())];
    while !rest.is_empty() {
        let (plain, action) = match rest.split_once('{') {
            Some((plain, after)) => {
                let end = closing(after).ok_or_else(|| format!("no }} to {{{after}"))?;
                rest = &after[end + 1..];
                (plain, Some(after[..end].trim()))
            }
            None => (std::mem::take(&mut rest), None),
        };
        if !plain.is_empty() {
            push(&mut bodies, Node::Text(plain.to_owned()));
        }
        let Some(action) = action else { continue };
        if action == "end" {
            let (Some(path), body) = bodies.pop().unwrap_or_default() else {
                return Err("{end} without {range}".to_owned());
            };
            push(&mut bodies, Node::Range(path, body));
        } else if let Some(over) = action.strip_prefix("range")
            && !over.starts_with(|c: char| c.is_alphanumeric())
        {
            if bodies.len() > MAX_DEPTH {
                return Err(format!("more than {MAX_DEPTH} {{range}} in each other"));
            }
            bodies.push((Some(path(over.trim())?), Vec::new()));
        } else {
            push(&mut bodies, node(action)?);
        }
    }
    match (bodies.len(), bodies.pop()) {
        (1, Some((_, nodes))) => Ok(nodes),
        _ => Err("{range} without {end}".to_owned()),
    }
}

fn push(bodies: &mut [(Option<Path>, Vec<Node>)], node: Node) {
    if let Some((_, body)) = bodies.last_mut() {
        body.push(node);
    }
}

/// Where the brace closes that was just opened; braces in quotes do not count.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '}') => return Some(at),
            _ => {}
        }
    }
    None
}

fn node(action: &str) -> Result<Node, String> {
    if action.starts_with(['"', '\'']) {
        let mut reader = Reader::new(action);
        let text = reader.quoted()?;
        reader.end()?;
        return Ok(Node::Text(text));
    }
    path(action).map(Node::Path)
}

/// Reads a whole path.
pub(super) fn path(text: &str) -> Result<Path, String> {
    let mut reader = Reader::new(text);
    let path = reader.path(0)?;
    reader.end()?;
    Ok(path)
}

struct Reader<'a> {
    whole: &'a str,
    rest: &'a str,
}

impl<'a> Reader<'a> {
    const fn new(text: &'a str) -> Self {
        Self {
            whole: text,
            rest: text,
        }
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest.strip_prefix(text);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn end(&mut self) -> Result<(), String> {
        self.space();
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(self.wrong("the end"))
    }

    fn wrong(&self, allowed: &str) -> String {
        let found = match self.rest.chars().next() {
            Some(_) => format!("{:?}", self.rest),
            None => "nothing".to_owned(),
        };
        format!("{}: found {found}, allowed: {allowed}", self.whole)
    }

    fn path(&mut self, depth: usize) -> Result<Path, String> {
        if depth > MAX_DEPTH {
            return Err(format!("{}: too deep", self.whole));
        }
        let from_root = self.take("$");
        let current = !from_root && self.take("@");
        let begun = self.rest.len();
        let mut steps = Vec::new();
        loop {
            if self.take("..") {
                steps.push(Step::Descend);
                if self.rest.starts_with('[') || self.rest.is_empty() {
                    continue;
                }
                steps.push(self.name()?);
            } else if self.take(".") {
                // A lone dot is the value itself.
                if self.rest.is_empty() || self.rest.starts_with([' ', ')', '[']) {
                    continue;
                }
                steps.push(self.name()?);
            } else if self.take("[") {
                steps.push(self.bracket(depth)?);
            } else {
                break;
            }
        }
        if !from_root && !current && begun == self.rest.len() {
            return Err(self.wrong("a path such as .metadata.name, or range, end, \"text\""));
        }
        Ok(Path { from_root, steps })
    }

    /// A name after a dot; a backslash takes the next character as it is.
    fn name(&mut self) -> Result<Step, String> {
        if self.take("*") {
            return Ok(Step::Wildcard);
        }
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                c if c.is_alphanumeric() || "_-/:".contains(c) => name.push(c),
                _ => {
                    end = at;
                    break;
                }
            }
        }
        if name.is_empty() {
            return Err(self.wrong("a name"));
        }
        self.rest = &self.rest[end..];
        Ok(Step::Field(name))
    }

    /// What stands in brackets, the first of which is read already.
    fn bracket(&mut self, depth: usize) -> Result<Step, String> {
        self.space();
        let step = if self.take("?") {
            self.space();
            if !self.take("(") {
                return Err(self.wrong("("));
            }
            let condition = self.either(depth + 1)?;
            if !self.take(")") {
                return Err(self.wrong("), ==, !=, <, <=, >, >=, && or ||"));
            }
            Step::Filter(condition)
        } else if self.take("*") {
            Step::Wildcard
        } else if self.rest.starts_with(['"', '\'']) {
            let mut names = vec![self.quoted()?];
            while self.comma() {
                names.push(self.quoted()?);
            }
            match names.pop() {
                Some(name) if names.is_empty() => Step::Field(name),
                last => Step::Fields(names.into_iter().chain(last).collect()),
            }
        } else {
            self.numbers()?
        };
        self.space();
        if !self.take("]") {
            return Err(self.wrong("]"));
        }
        Ok(step)
    }

    fn comma(&mut self) -> bool {
        self.space();
        let found = self.take(",");
        self.space();
        found
    }

    /// Indices with commas, or a slice.
    fn numbers(&mut self) -> Result<Step, String> {
        let first = self.number()?;
        self.space();
        if self.take(":") {
            self.space();
            let end = self.number()?;
            self.space();
            let step = if self.take(":") { self.number()? } else { None };
            let step = match usize::try_from(step.unwrap_or(1)) {
                Ok(step) if step > 0 => step,
                _ => return Err(format!("{}: the step of a slice is at least 1", self.whole)),
            };
            return Ok(Step::Slice(first, end, step));
        }
        let mut indices =
            vec![first.ok_or_else(|| self.wrong("*, an index, a name in quotes, ?("))?];
        while self.comma() {
            indices.push(self.number()?.ok_or_else(|| self.wrong("an index"))?);
        }
        Ok(Step::Indices(indices))
    }

    fn number(&mut self) -> Result<Option<i64>, String> {
        let sign = usize::from(self.rest.starts_with('-'));
        let digits = self.rest[sign..]
            .bytes()
            .take_while(u8::is_ascii_digit)
            .count();
        let (number, rest) = self.rest.split_at(sign + digits);
        if number.is_empty() {
            return Ok(None);
        }
        let number = number.parse().map_err(|_error| self.wrong("a number"))?;
        self.rest = rest;
        Ok(Some(number))
    }

    /// A text in single or double quotes.
    fn quoted(&mut self) -> Result<String, String> {
        let mut chars = self.rest.char_indices();
        let Some((_, quote @ ('"' | '\''))) = chars.next() else {
            return Err(self.wrong("a text in quotes"));
        };
        let mut text = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => text.extend(chars.next().map(|(_, c)| match c {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                })),
                c if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err(self.wrong("a text that ends with its quote"))
    }

    fn either(&mut self, depth: usize) -> Result<Condition, String> {
        let mut condition = self.both(depth)?;
        while self.take("||") {
            condition = Condition::Or(Box::new(condition), Box::new(self.both(depth)?));
        }
        Ok(condition)
    }

    fn both(&mut self, depth: usize) -> Result<Condition, String> {
        let mut condition = self.comparison(depth)?;
        while self.take("&&") {
            condition = Condition::And(Box::new(condition), Box::new(self.comparison(depth)?));
        }
        Ok(condition)
    }

    fn comparison(&mut self, depth: usize) -> Result<Condition, String> {
        let left = self.operand(depth)?;
        self.space();
        let comparisons = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        for (sign, comparison) in comparisons {
            if self.take(sign) {
                let right = self.operand(depth)?;
                self.space();
                return Ok(Condition::Compare(left, comparison, right));
            }
        }
        match left {
            Operand::Path(path) => Ok(Condition::Exists(path)),
            Operand::Value(_) => Err(self.wrong("==, !=, <, <=, > or >=")),
        }
    }

    fn operand(&mut self, depth: usize) -> Result<Operand, String> {
        self.space();
        if self.rest.starts_with(['"', '\'']) {
            return Ok(Operand::Value(Value::String(self.quoted()?)));
        }
        if self.rest.starts_with(['@', '$', '.']) {
            return Ok(Operand::Path(self.path(depth)?));
        }
        let end = self
            .rest
            .find(|c: char| !c.is_alphanumeric() && !".+-".contains(c))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        match serde_json::from_str(word) {
            Ok(value @ (Value::Bool(_) | Value::Number(_))) => {
                self.rest = rest;
                Ok(Operand::Value(value))
            }
            _ => Err(self.wrong("@.field, a text in quotes, a number, true or false")),
        }
    }
}
