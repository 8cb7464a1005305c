//! What a template prints.

use std::borrow::Cow;

use serde_json::Value;

use super::functions::{self, display};
use super::{Command, Leave, Node, Pipeline, Term};

/// A value while a template is printed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Val<'a> {
    /// A value of JSON.
    Some(Cow<'a, Value>),
    /// A field that does not exist.
    Missing,
    /// The whole value, which is also the list of it alone.
    Root(&'a Value),
}

impl<'a> Val<'a> {
    /// The value, if there is one.
    pub(super) fn value(&self) -> Option<&Value> {
        match self {
            Self::Some(value) => Some(value),
            Self::Root(value) => Some(value),
            Self::Missing => None,
        }
    }

    pub(super) fn own(value: impl Into<Value>) -> Self {
        Self::Some(Cow::Owned(value.into()))
    }

    /// Whether Go takes it for true: neither empty nor zero.
    pub(super) fn truth(&self) -> bool {
        match self.value() {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(members)) => !members.is_empty(),
        }
    }

    /// A field or an element, by a way to find it in a value.
    pub(super) fn step(&self, find: impl Fn(&Value) -> Option<&Value>) -> Self {
        let found = match self {
            Self::Some(Cow::Borrowed(value)) => find(value).map(Cow::Borrowed),
            Self::Root(value) => find(value).map(Cow::Borrowed),
            Self::Some(Cow::Owned(value)) => find(value).cloned().map(Cow::Owned),
            Self::Missing => None,
        };
        found.map_or(Self::Missing, Self::Some)
    }

    fn fields(self, names: &[String]) -> Result<Self, String> {
        let mut value = self;
        for name in names {
            if let Some(
                found @ (Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Array(_)),
            ) = value.value()
            {
                return Err(format!(".{name}: found {}, allowed: an object", found));
            }
            if name == "TypeMeta" {
                continue;
            }
            value = value.step(|value| field(value, name));
        }
        Ok(value)
    }
}

/// A field by its name in JSON, else by that of the Go structs, which differs in case.
fn field<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    let members = value.as_object()?;
    let by_case = |name: &str| {
        let mut members = members.iter();
        members.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    };
    members.get(name).or_else(|| match name {
        "ObjectMeta" => members.get("metadata"),
        name if name.starts_with(char::is_uppercase) => by_case(name),
        _ => None,
    })
}

struct Machine<'a> {
    out: String,
    root: &'a Value,
    asn: &'a str,
    /// The innermost last; a block takes away what it declared.
    variables: Vec<(String, Val<'a>)>,
}

/// Prints a template.
pub(super) fn render(nodes: &[Node], root: &Value, asn: &str) -> Result<String, String> {
    let mut machine = Machine {
        out: String::new(),
        root,
        asn,
        variables: vec![(String::new(), Val::Root(root))],
    };
    machine.block(nodes, &Val::Root(root))?;
    Ok(machine.out)
}

impl<'a> Machine<'a> {
    fn block(&mut self, nodes: &[Node], dot: &Val<'a>) -> Result<Option<Leave>, String> {
        let declared = self.variables.len();
        for node in nodes {
            if let Some(leave) = self.node(node, dot)? {
                self.variables.truncate(declared);
                return Ok(Some(leave));
            }
        }
        self.variables.truncate(declared);
        Ok(None)
    }

    fn node(&mut self, node: &Node, dot: &Val<'a>) -> Result<Option<Leave>, String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if !self.assign(pipeline, &value)? {
                    self.out.push_str(&display(&value));
                }
            }
            Node::If(test, body, otherwise) => return self.test(test, body, otherwise, dot, false),
            Node::With(test, body, otherwise) => {
                return self.test(test, body, otherwise, dot, true);
            }
            Node::Range(over, body, otherwise) => return self.range(over, body, otherwise, dot),
            Node::Leave(leave) => return Ok(Some(*leave)),
        }
        Ok(None)
    }

    fn test(
        &mut self,
        test: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Val<'a>,
        with: bool,
    ) -> Result<Option<Leave>, String> {
        let declared = self.variables.len();
        let value = self.pipeline(test, dot)?;
        self.assign(test, &value)?;
        let leave = match (value.truth(), with) {
            (false, _) => self.block(otherwise, dot)?,
            (true, false) => self.block(body, dot)?,
            (true, true) => self.block(body, &value)?,
        };
        self.variables.truncate(declared);
        Ok(leave)
    }

    fn range(
        &mut self,
        over: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Val<'a>,
    ) -> Result<Option<Leave>, String> {
        let items = entries(self.pipeline(over, dot)?)?;
        if items.is_empty() {
            return self.block(otherwise, dot);
        }
        let declared = self.variables.len();
        for (key, item) in items {
            match over.variables.as_slice() {
                [element] => self.variables.push((element.clone(), item.clone())),
                [index, element] => {
                    self.variables.push((index.clone(), key));
                    self.variables.push((element.clone(), item.clone()));
                }
                _ => {}
            }
            let leave = self.block(body, &item)?;
            self.variables.truncate(declared);
            if leave == Some(Leave::Break) {
                break;
            }
        }
        Ok(None)
    }

    /// Sets the variables of a pipeline; whether it has any.
    fn assign(&mut self, pipeline: &Pipeline, value: &Val<'a>) -> Result<bool, String> {
        for name in &pipeline.variables {
            if pipeline.declares {
                self.variables.push((name.clone(), value.clone()));
                continue;
            }
            let mut known = self.variables.iter_mut().rev();
            match known.find(|(known, _)| known == name) {
                Some((_, old)) => *old = value.clone(),
                None => return Err(format!("variable ${name} is not declared")),
            }
        }
        Ok(!pipeline.variables.is_empty())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Val<'a>) -> Result<Val<'a>, String> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(match command {
                Command::Value(term) => self.term(term, dot)?,
                Command::Call(name, arguments) => {
                    let arguments = arguments.iter().map(|argument| self.term(argument, dot));
                    let mut arguments = arguments.collect::<Result<Vec<_>, _>>()?;
                    arguments.extend(last);
                    functions::call(name, &arguments, self.asn)?
                }
            });
        }
        Ok(last.unwrap_or(Val::Missing))
    }

    fn term(&self, term: &Term, dot: &Val<'a>) -> Result<Val<'a>, String> {
        match term {
            Term::Literal(value) => Ok(Val::own(value.clone())),
            Term::Dot(names) => dot.clone().fields(names),
            Term::Variable(name, names) if name.is_empty() => Val::Root(self.root).fields(names),
            Term::Variable(name, names) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                match found {
                    Some((_, value)) => value.clone().fields(names),
                    None => Err(format!("variable ${name} is not declared")),
                }
            }
            Term::Group(pipeline, names) => self.pipeline(pipeline, dot)?.fields(names),
            Term::Function(name) => functions::call(name, &[], self.asn),
        }
    }
}

/// What `range` goes over: keys and elements.
fn entries(value: Val<'_>) -> Result<Vec<(Val<'_>, Val<'_>)>, String> {
    let index = |(at, item)| (Val::own(at), item);
    Ok(match value {
        Val::Root(value) => vec![(Val::own(0), Val::Some(Cow::Borrowed(value)))],
        Val::Missing => Vec::new(),
        Val::Some(Cow::Borrowed(Value::Array(items))) => {
            let items = items.iter().map(|item| Val::Some(Cow::Borrowed(item)));
            items.enumerate().map(index).collect()
        }
        Val::Some(Cow::Borrowed(Value::Object(members))) => {
            let entry = |(name, value)| {
                (
                    Val::own(String::clone(name)),
                    Val::Some(Cow::Borrowed(value)),
                )
            };
            members.iter().map(entry).collect()
        }
        Val::Some(value) => match value.into_owned() {
            Value::Null => Vec::new(),
            Value::Array(items) => items
                .into_iter()
                .map(Val::own)
                .enumerate()
                .map(index)
                .collect(),
            Value::Object(members) => {
                let entry = |(name, value)| (Val::own(name), Val::own(value));
                members.into_iter().map(entry).collect()
            }
            other => {
                return Err(format!(
                    "range: found {other}, allowed: a list or an object"
                ));
            }
        },
    })
}
