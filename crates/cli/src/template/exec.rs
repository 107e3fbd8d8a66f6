//! Running a parsed template.

use super::TemplateError;
use super::functions::{self, Set};
use super::parse::{Command, Node, Operand, Piece, Pipe, Trees};
use super::print;
use super::value::{Shape, Value};

/// How deep blocks and templates may call each other.
const DEPTH_MAX: usize = 400;

/// What a missing key of a map is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingKey {
    /// Nothing; prints as `<no value>`.
    #[default]
    NoValue,
    /// An error, as in `docker inspect`.
    Error,
}

pub(super) struct Run<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    pub(super) trees: &'a Trees,
    pub(super) set: Set,
    pub(super) missing: MissingKey,
    /// The template whose body runs; messages name it.
    running: &'a str,
    variables: Vec<(String, Value)>,
    depth: usize,
    pub(super) out: String,
}

/// Whether the surrounding range goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        name: &'a str,
        text: &'a str,
        trees: &'a Trees,
        set: Set,
        missing: MissingKey,
    ) -> Self {
        Self {
            name,
            text,
            trees,
            set,
            missing,
            running: name,
            variables: Vec::new(),
            depth: 0,
            out: String::new(),
        }
    }

    pub(super) fn run(&mut self, data: &Value) -> Result<(), TemplateError> {
        self.variables.push(("$".to_owned(), data.clone()));
        if let Some(pieces) = self.trees.get(self.name) {
            self.pieces(pieces, data)?;
        }
        Ok(())
    }

    fn fail<T>(
        &self,
        at: usize,
        context: &str,
        message: impl AsRef<str>,
    ) -> Result<T, TemplateError> {
        let before = &self.text[..at.min(self.text.len())];
        let column = match before.rfind('\n') {
            None => at,
            Some(newline) => at - newline - 1,
        };
        let line = 1 + before.matches('\n').count();
        Err(TemplateError(format!(
            "template: {}:{line}:{column}: executing {} at <{context}>: {}",
            self.name,
            print::quote(self.running),
            message.as_ref()
        )))
    }

    fn pieces(&mut self, pieces: &'a [Piece], dot: &Value) -> Result<Flow, TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(TemplateError(format!(
                "template: {}: exceeded maximum template depth ({DEPTH_MAX})",
                self.name
            )));
        }
        for piece in pieces {
            let flow = self.piece(piece, dot)?;
            if flow != Flow::On {
                self.depth -= 1;
                return Ok(flow);
            }
        }
        self.depth -= 1;
        Ok(Flow::On)
    }

    fn piece(&mut self, piece: &'a Piece, dot: &Value) -> Result<Flow, TemplateError> {
        match piece {
            Piece::Text(text) => self.out.push_str(text),
            Piece::Action(pipe) => {
                let value = self.pipeline(pipe, dot)?;
                if pipe.variables.is_empty() {
                    if matches!(value, Value::Method(_)) {
                        let first = pipe.commands[0].to_string();
                        return self.fail(pipe.at, &first, "wrong number of args: want 1 got 0");
                    }
                    self.out.push_str(&print::action(&value));
                }
            }
            Piece::If(pipe, body, otherwise) | Piece::With(pipe, body, otherwise) => {
                let known = self.variables.len();
                let value = self.pipeline(pipe, dot)?;
                let flow = if value.is_true() {
                    let inner = matches!(piece, Piece::With(..));
                    self.pieces(body, if inner { &value } else { dot })
                } else {
                    self.pieces(otherwise, dot)
                };
                self.variables.truncate(known);
                return flow;
            }
            Piece::Range(pipe, body, otherwise) => {
                let known = self.variables.len();
                let flow = self.range(pipe, body, otherwise, dot);
                self.variables.truncate(known);
                return flow;
            }
            Piece::Template { at, name, pipe } => {
                let Some((name, body)) = self.trees.get_key_value(name) else {
                    let shown = format!("{{{{template {}}}}}", print::quote(name));
                    let message = format!("template {} not defined", print::quote(name));
                    return self.fail(*at, &shown, message);
                };
                let data = match pipe {
                    Some(pipe) => self.pipeline(pipe, dot)?,
                    None => Value::Nil,
                };
                let outer = std::mem::take(&mut self.variables);
                let running = std::mem::replace(&mut self.running, name);
                self.variables.push(("$".to_owned(), data.clone()));
                let flow = self.pieces(body, &data);
                self.variables = outer;
                self.running = running;
                flow?;
            }
            Piece::Break => return Ok(Flow::Break),
            Piece::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn range(
        &mut self,
        pipe: &'a Pipe,
        body: &'a [Piece],
        otherwise: &'a [Piece],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        let before = self.variables.len();
        let value = self.pipeline(pipe, dot)?;
        // Declared variables hold the elements, not the whole.
        if !pipe.assigns {
            self.variables.truncate(before);
        }
        let items: Vec<(Value, Value)> = match &value {
            Value::Nil | Value::NilPointer | Value::NilList | Value::NilMap => Vec::new(),
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| (Value::Int(index as i128), item.clone()))
                .collect(),
            Value::Object(object) if !matches!(object.shape, Shape::Struct(_)) => object
                .sorted()
                .into_iter()
                .map(|(key, member)| (Value::Text(key.clone()), member.clone()))
                .collect(),
            Value::Int(count) => (0..(*count).min(RANGE_MAX))
                .map(|index| (Value::Int(index), Value::Int(index)))
                .collect(),
            other => {
                let message = format!("range can't iterate over {}", print::plain(other));
                return self.fail(pipe.at, &pipe.to_string(), message);
            }
        };
        if items.is_empty() {
            return self.pieces(otherwise, dot);
        }
        for (key, item) in items {
            let known = self.variables.len();
            let values = match pipe.variables.as_slice() {
                [] => vec![],
                [one] => vec![(one, item.clone())],
                [first, second, ..] => vec![(first, key), (second, item.clone())],
            };
            for (name, value) in values {
                if pipe.assigns {
                    self.assign(name, value);
                } else {
                    self.variables.push((name.clone(), value));
                }
            }
            let flow = self.pieces(body, &item);
            self.variables.truncate(known);
            if flow? == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn assign(&mut self, name: &str, value: Value) {
        if let Some((_, old)) = self
            .variables
            .iter_mut()
            .rev()
            .find(|(known, _)| known == name)
        {
            *old = value;
        }
    }

    fn pipeline(&mut self, pipe: &'a Pipe, dot: &Value) -> Result<Value, TemplateError> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, dot, last)?);
        }
        let value = last.unwrap_or_default();
        for name in &pipe.variables {
            if pipe.assigns {
                self.assign(name, value.clone());
            } else {
                self.variables.push((name.clone(), value.clone()));
            }
        }
        Ok(value)
    }

    fn command(
        &mut self,
        command: &'a Command,
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, TemplateError> {
        let first = &command.words[0];
        let has_arguments = command.words.len() > 1 || piped.is_some();
        if let Operand::Function(name) = &first.operand {
            return self.call(name, command, dot, piped);
        }
        let value = match &first.operand {
            Operand::Nil => {
                return self.fail(first.at, "nil", "nil is not a command");
            }
            _ => self.operand(first, dot)?,
        };
        if let Value::Method(method) = &value {
            let mut arguments = self.arguments(command, dot)?;
            arguments.extend(piped);
            return match arguments.as_slice() {
                [Value::Text(argument)] => Ok(method.call(argument)),
                [other] => {
                    let message = format!("expected string; found {}", print::plain(other));
                    self.fail(command.at, &command.to_string(), message)
                }
                _ => {
                    let message = format!(
                        "wrong number of args for {}: want 1 got {}",
                        last_name(first),
                        arguments.len()
                    );
                    self.fail(first.at, &first.to_string(), message)
                }
            };
        }
        if has_arguments {
            return match &first.operand {
                Operand::Field(_) | Operand::Chain(..) | Operand::Variable(..) => {
                    let message = match &first.operand {
                        Operand::Variable(_, names) if names.is_empty() => {
                            format!("can't give argument to non-function {first}")
                        }
                        _ => format!("{} is not a method but has arguments", last_name(first)),
                    };
                    self.fail(first.at, &first.to_string(), message)
                }
                _ => {
                    let message = format!("can't give argument to non-function {first}");
                    self.fail(first.at, &first.to_string(), message)
                }
            };
        }
        Ok(value)
    }

    fn arguments(
        &mut self,
        command: &'a Command,
        dot: &Value,
    ) -> Result<Vec<Value>, TemplateError> {
        command.words[1..]
            .iter()
            .map(|word| self.operand(word, dot))
            .collect()
    }

    fn call(
        &mut self,
        name: &str,
        command: &'a Command,
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, TemplateError> {
        let words = &command.words[1..];
        if matches!(name, "and" | "or") {
            if words.is_empty() && piped.is_none() {
                let message = format!("wrong number of args for {name}: want at least 1 got 0");
                return self.fail(command.words[0].at, &command.to_string(), message);
            }
            let mut value = Value::Nil;
            for word in words {
                value = self.operand(word, dot)?;
                if value.is_true() == (name == "or") {
                    return Ok(value);
                }
            }
            return Ok(piped.unwrap_or(value));
        }
        let mut arguments = self.arguments(command, dot)?;
        arguments.extend(piped);
        functions::call(self.set, name, &arguments)
            .or_else(|message| self.fail(command.at, &command.to_string(), message))
    }

    fn operand(&mut self, node: &'a Node, dot: &Value) -> Result<Value, TemplateError> {
        match &node.operand {
            Operand::Dot => Ok(dot.clone()),
            Operand::Nil => Ok(Value::Nil),
            Operand::Constant(value, _) => Ok(value.clone()),
            Operand::Field(names) => self.fields(node, dot.clone(), names),
            Operand::Variable(name, names) => {
                let value = self
                    .variables
                    .iter()
                    .rev()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value.clone())
                    .unwrap_or_default();
                self.fields(node, value, names)
            }
            Operand::Function(name) => functions::call(self.set, name, &[])
                .or_else(|message| self.fail(node.at, name, message)),
            Operand::Pipe(pipe) => self.pipeline(pipe, dot),
            Operand::Chain(inner, names) => {
                if matches!(inner.operand, Operand::Nil) {
                    let message = format!("indirection through explicit nil in {node}");
                    return self.fail(node.at, &node.to_string(), message);
                }
                let value = self.operand(inner, dot)?;
                self.fields(node, value, names)
            }
        }
    }

    fn fields(&self, node: &Node, start: Value, names: &[String]) -> Result<Value, TemplateError> {
        let mut value = start;
        for (index, name) in names.iter().enumerate() {
            if matches!(value, Value::NilPointer)
                && let Some(before) = index.checked_sub(1).and_then(|at| names.get(at))
            {
                // Docker tries again over plain JSON, where the member is not there at all.
                let message = format!("map has no entry for key {}", print::quote(before));
                return self.fail(node.at, &node.to_string(), message);
            }
            value = self.field(node, &value, name, index)?;
        }
        Ok(value)
    }

    fn field(
        &self,
        node: &Node,
        value: &Value,
        name: &str,
        depth: usize,
    ) -> Result<Value, TemplateError> {
        let fail = |message: String| self.fail(node.at, &node.to_string(), message);
        match value {
            Value::Object(object) => match (object.find(name), object.shape) {
                (Some(member), _) => Ok(member.clone()),
                (None, Shape::Struct(kind)) => {
                    fail(format!("can't evaluate field {name} in type {kind}"))
                }
                (None, Shape::Map) if self.missing == MissingKey::Error => {
                    fail(format!("map has no entry for key {}", print::quote(name)))
                }
                (None, _) => Ok(Value::Nil),
            },
            Value::NilMap | Value::NilPointer => Ok(Value::Nil),
            Value::Nil if depth == 0 && self.missing == MissingKey::Error => {
                fail(format!("nil data; no entry for key {}", print::quote(name)))
            }
            Value::Nil if depth == 0 || self.missing == MissingKey::NoValue => Ok(Value::Nil),
            Value::Nil => fail(format!("nil pointer evaluating interface {{}}.{name}")),
            other => {
                let kind = if depth == 0 {
                    other.kind()
                } else {
                    "interface {}"
                };
                fail(format!("can't evaluate field {name} in type {kind}"))
            }
        }
    }
}

/// The most rounds that `range` over a number makes.
const RANGE_MAX: i128 = 1 << 20;

fn last_name(node: &Node) -> &str {
    match &node.operand {
        Operand::Field(names) | Operand::Chain(_, names) | Operand::Variable(_, names) => {
            names.last().map_or("", String::as_str)
        }
        _ => "",
    }
}
