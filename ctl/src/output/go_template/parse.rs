//! The grammar of templates.

use serde_json::Value;

use super::functions;
use super::lex::{Piece, Word, split};
use super::{Command, Leave, Node, Pipeline, Term};

/// How deep blocks and parentheses may be in each other: no danger to the stack.
const MAX_DEPTH: usize = 64;

/// Reads a whole template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    let mut pieces = split(text)?.into_iter();
    let (nodes, end) = block(&mut pieces, 0, false)?;
    match end {
        None => Ok(nodes),
        Some(_) => Err("{{end}} or {{else}} without {{if}}, {{with}} or {{range}}".to_owned()),
    }
}

/// What ended a block: the words after `else`, or `end`.
enum End {
    End,
    Else(Vec<Word>),
}

type Pieces = std::vec::IntoIter<Piece>;

fn block(
    pieces: &mut Pieces,
    depth: usize,
    ranged: bool,
) -> Result<(Vec<Node>, Option<End>), String> {
    if depth > MAX_DEPTH {
        return Err(format!("more than {MAX_DEPTH} blocks in each other"));
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let words = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(words) => words,
        };
        let name = match words.first() {
            Some(Word::Name(name)) => name.clone(),
            _ => String::new(),
        };
        let mut rest = words.clone();
        rest.drain(..usize::from(!name.is_empty()));
        match name.as_str() {
            "end" => return Ok((nodes, Some(End::End))),
            "else" => return Ok((nodes, Some(End::Else(rest)))),
            "if" | "with" | "range" => {
                nodes.push(branch(&name, rest, pieces, depth + 1, ranged)?);
            }
            "break" | "continue" if !ranged => {
                return Err(format!("{{{{{name}}}}} outside of {{{{range}}}}"));
            }
            "break" => nodes.push(Node::Leave(Leave::Break)),
            "continue" => nodes.push(Node::Leave(Leave::Continue)),
            "define" | "template" | "block" => {
                return Err(format!(
                    "{{{{{name}}}}} is not supported; supported are if, else, with, range, break, \
                     continue, end, variables and functions"
                ));
            }
            _ => nodes.push(Node::Print(pipeline(&words)?)),
        }
    }
    Ok((nodes, None))
}

fn branch(
    name: &str,
    words: Vec<Word>,
    pieces: &mut Pieces,
    depth: usize,
    ranged: bool,
) -> Result<Node, String> {
    let test = pipeline(&words)?;
    if test.variables.len() > 1 && name != "range" {
        return Err(format!("two variables in {{{{{name}}}}}, allowed: one"));
    }
    let (body, end) = block(pieces, depth, ranged || name == "range")?;
    let otherwise = match end {
        None => return Err(format!("{{{{{name}}}}} without {{{{end}}}}")),
        Some(End::End) => Vec::new(),
        Some(End::Else(mut words)) => match words.first() {
            // `else if` has the `end` of its `if`.
            Some(Word::Name(next)) if next == "if" || next == "with" => {
                let next = next.clone();
                words.remove(0);
                vec![branch(&next, words, pieces, depth + 1, ranged)?]
            }
            Some(_) => return Err("found more after else, allowed: if, with".to_owned()),
            None => match block(pieces, depth, ranged)? {
                (nodes, Some(End::End)) => nodes,
                _ => return Err("{{else}} without {{end}}".to_owned()),
            },
        },
    };
    Ok(match name {
        "if" => Node::If(test, body, otherwise),
        "with" => Node::With(test, body, otherwise),
        _ => Node::Range(test, body, otherwise),
    })
}

fn pipeline(words: &[Word]) -> Result<Pipeline, String> {
    let mut reader = Reader { words, at: 0 };
    let pipeline = reader.pipeline(0)?;
    match reader.words.get(reader.at) {
        None => Ok(pipeline),
        Some(_) => Err("found ) or , where the action should end".to_owned()),
    }
}

struct Reader<'a> {
    words: &'a [Word],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Word> {
        self.words.get(self.at)
    }

    fn take(&mut self, word: &Word) -> bool {
        let found = self.peek() == Some(word);
        self.at += usize::from(found);
        found
    }

    fn pipeline(&mut self, depth: usize) -> Result<Pipeline, String> {
        if depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} parentheses in each other"));
        }
        let (variables, declares) = self.variables();
        let mut commands = vec![self.command(depth, false)?];
        while self.take(&Word::Pipe) {
            commands.push(self.command(depth, true)?);
        }
        Ok(Pipeline {
            variables,
            declares,
            commands,
        })
    }

    /// `$x :=`, `$i, $x :=` or `$x =`.
    fn variables(&mut self) -> (Vec<String>, bool) {
        let start = self.at;
        let mut variables = Vec::new();
        while let Some(Word::Variable(name)) = self.peek() {
            variables.push(name.clone());
            self.at += 1;
            if !self.take(&Word::Comma) {
                break;
            }
        }
        if !variables.is_empty() && variables.len() <= 2 {
            if self.take(&Word::Declare) {
                return (variables, true);
            }
            if self.take(&Word::Assign) {
                return (variables, false);
            }
        }
        self.at = start;
        (Vec::new(), false)
    }

    fn command(&mut self, depth: usize, piped: bool) -> Result<Command, String> {
        if let Some(Word::Name(name)) = self.peek()
            && literal(name).is_none()
        {
            let name = function(name)?;
            self.at += 1;
            let mut arguments = Vec::new();
            while self.peek().is_some_and(begins_term) {
                arguments.push(self.term(depth)?);
            }
            return Ok(Command::Call(name, arguments));
        }
        if piped {
            return Err("found a value after |, allowed: a function".to_owned());
        }
        let term = self.term(depth)?;
        if self.peek().is_some_and(begins_term) {
            return Err(
                "found two values in a row, allowed: a function and its arguments".to_owned(),
            );
        }
        Ok(Command::Value(term))
    }

    fn term(&mut self, depth: usize) -> Result<Term, String> {
        let word = self.peek().cloned();
        self.at += 1;
        Ok(match word {
            Some(Word::Literal(value)) => Term::Literal(value),
            Some(Word::Dot) => Term::Dot(Vec::new()),
            Some(Word::Field(name, _)) => {
                let mut names = vec![name];
                names.extend(self.fields());
                Term::Dot(names)
            }
            Some(Word::Variable(name)) => Term::Variable(name, self.fields()),
            Some(Word::Open) => {
                let inner = self.pipeline(depth + 1)?;
                if !self.take(&Word::Close) {
                    return Err("( without )".to_owned());
                }
                Term::Group(Box::new(inner), self.fields())
            }
            Some(Word::Name(name)) => match literal(&name) {
                Some(value) => Term::Literal(value),
                None => Term::Function(function(&name)?),
            },
            _ => {
                return Err("found nothing in an action, allowed: a value or a function".to_owned());
            }
        })
    }

    /// Fields that touch what stands before them.
    fn fields(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        while let Some(Word::Field(name, true)) = self.peek() {
            names.push(name.clone());
            self.at += 1;
        }
        names
    }
}

fn begins_term(word: &Word) -> bool {
    matches!(
        word,
        Word::Name(_)
            | Word::Dot
            | Word::Field(..)
            | Word::Variable(_)
            | Word::Literal(_)
            | Word::Open
    )
}

fn literal(name: &str) -> Option<Value> {
    match name {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        "nil" => Some(Value::Null),
        _ => None,
    }
}

fn function(name: &str) -> Result<String, String> {
    if functions::NAMES.contains(&name) {
        return Ok(name.to_owned());
    }
    let allowed = functions::NAMES.join(", ");
    Err(format!("function: found {name:?}, allowed: {allowed}"))
}
