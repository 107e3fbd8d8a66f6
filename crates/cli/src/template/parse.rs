//! Go's `text/template` grammar: tokens become a tree.
//!
//! Nodes print as Go prints them, since its error messages quote them, and carry the byte position
//! that those messages count from.

use std::collections::BTreeMap;
use std::fmt;

use super::TemplateError;
use super::lex::{Kind, Token, tokens};
use super::print::quote;
use super::value::Value;

/// Depth of parentheses and blocks that a template may have.
pub(super) const DEPTH_MAX: usize = 100;

/// Something that stands in a command.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    Dot,
    Nil,
    /// A constant, with its spelling.
    Constant(Value, String),
    /// `.A.B`
    Field(Vec<String>),
    /// `$x.A`
    Variable(String, Vec<String>),
    /// A function.
    Function(String),
    /// `(…)`
    Pipe(Box<Pipe>),
    /// `(…).A`
    Chain(Box<Node>, Vec<String>),
}

/// An operand with its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) operand: Operand,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = |f: &mut fmt::Formatter<'_>, names: &[String]| {
            names.iter().try_for_each(|name| write!(f, ".{name}"))
        };
        match &self.operand {
            Operand::Dot => f.write_str("."),
            Operand::Nil => f.write_str("nil"),
            Operand::Constant(_, spelled) | Operand::Function(spelled) => f.write_str(spelled),
            Operand::Field(names) => fields(f, names),
            Operand::Variable(name, names) => {
                f.write_str(name)?;
                fields(f, names)
            }
            Operand::Pipe(pipe) => write!(f, "({pipe})"),
            Operand::Chain(node, names) => {
                write!(f, "{node}")?;
                fields(f, names)
            }
        }
    }
}

/// A function with arguments, or a value.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) at: usize,
    pub(super) words: Vec<Node>,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.words.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{word}")?;
        }
        Ok(())
    }
}

/// Commands joined by `|`, with the variables that take the result.
#[derive(Clone, Debug)]
pub(super) struct Pipe {
    pub(super) at: usize,
    pub(super) variables: Vec<String>,
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            let sign = if self.assigns { "=" } else { ":=" };
            write!(f, "{} {sign} ", self.variables.join(", "))?;
        }
        for (index, command) in self.commands.iter().enumerate() {
            if index > 0 {
                f.write_str(" | ")?;
            }
            write!(f, "{command}")?;
        }
        Ok(())
    }
}

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Text(String),
    Action(Pipe),
    If(Pipe, Vec<Piece>, Vec<Piece>),
    With(Pipe, Vec<Piece>, Vec<Piece>),
    Range(Pipe, Vec<Piece>, Vec<Piece>),
    Template {
        at: usize,
        name: String,
        pipe: Option<Pipe>,
    },
    Break,
    Continue,
}

/// Templates by name.
pub(super) type Trees = BTreeMap<String, Vec<Piece>>;

/// Parses `text` as the template `name` and those that it defines.
pub(super) fn parse(
    name: &str,
    text: &str,
    knows: &dyn Fn(&str) -> bool,
) -> Result<Trees, TemplateError> {
    let mut parser = Parser {
        name,
        tokens: tokens(text),
        next: 0,
        knows,
        variables: vec!["$".to_owned()],
        ranges: 0,
        depth: 0,
        action_line: 0,
        trees: Trees::new(),
    };
    let mut root = Vec::new();
    loop {
        if parser.peek().kind == Kind::Eof {
            break;
        }
        if parser.peek().kind == Kind::Left {
            let start = parser.next;
            parser.take();
            if parser.take_solid().is("define") {
                parser.define()?;
                continue;
            }
            parser.next = start;
        }
        match parser.piece()? {
            Parsed::Piece(piece) => root.push(piece),
            Parsed::End => return parser.fail("unexpected {{end}}"),
            Parsed::Else => return parser.fail("unexpected {{else}}"),
        }
    }
    let mut trees = parser.trees;
    let empty = is_empty(&root);
    if !empty || !trees.contains_key(name) {
        trees.insert(name.to_owned(), root);
    }
    Ok(trees)
}

/// Go keeps the earlier body when a later one is only white space.
fn is_empty(pieces: &[Piece]) -> bool {
    pieces
        .iter()
        .all(|piece| matches!(piece, Piece::Text(text) if text.trim().is_empty()))
}

enum Parsed {
    Piece(Piece),
    End,
    Else,
}

struct Parser<'a> {
    name: &'a str,
    tokens: Vec<Token>,
    next: usize,
    knows: &'a dyn Fn(&str) -> bool,
    variables: Vec<String>,
    ranges: usize,
    depth: usize,
    action_line: usize,
    trees: Trees,
}

impl Token {
    fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Keyword && self.text == keyword
    }
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        // The last token is the end or an error, and stays.
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn skip_space(&mut self) {
        while self.peek().kind == Kind::Space {
            self.next += 1;
        }
    }

    fn peek_solid(&mut self) -> &Token {
        self.skip_space();
        self.peek()
    }

    fn take_solid(&mut self) -> Token {
        self.skip_space();
        self.take()
    }

    fn line(&self) -> usize {
        let last = self.next.saturating_sub(1).min(self.tokens.len() - 1);
        self.tokens[last].line
    }

    fn fail<T>(&self, message: impl fmt::Display) -> Result<T, TemplateError> {
        Err(TemplateError(format!(
            "template: {}:{}: {message}",
            self.name,
            self.line()
        )))
    }

    fn unexpected<T>(&self, token: &Token, context: &str) -> Result<T, TemplateError> {
        if token.kind == Kind::Error {
            let mut extra = String::new();
            if self.action_line != 0 && self.action_line != token.line {
                let started = format!(" started at {}:{}", self.name, self.action_line);
                if !token.text.ends_with(" action") {
                    extra.push_str(" in action");
                }
                extra.push_str(&started);
            }
            return self.fail(format!("{}{extra}", token.text));
        }
        self.fail(format!("unexpected {} in {context}", token.shown()))
    }

    fn expect(&mut self, kind: Kind, context: &str) -> Result<Token, TemplateError> {
        let token = self.take_solid();
        if token.kind != kind {
            return self.unexpected(&token, context);
        }
        Ok(token)
    }

    fn deeper(&mut self) -> Result<(), TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.fail(format!("nested deeper than {DEPTH_MAX}"));
        }
        Ok(())
    }

    fn piece(&mut self) -> Result<Parsed, TemplateError> {
        let token = self.take_solid();
        match token.kind {
            Kind::Text => Ok(Parsed::Piece(Piece::Text(token.text))),
            Kind::Left => {
                self.action_line = token.line;
                let parsed = self.action();
                self.action_line = 0;
                parsed
            }
            _ => self.unexpected(&token, "input"),
        }
    }

    fn action(&mut self) -> Result<Parsed, TemplateError> {
        let token = self.take_solid();
        if token.kind == Kind::Keyword {
            return match token.text.as_str() {
                "block" => self.block(),
                "break" => self.leave(&token, Piece::Break),
                "continue" => self.leave(&token, Piece::Continue),
                "else" => self.otherwise(),
                "end" => {
                    self.expect(Kind::Right, "end")?;
                    Ok(Parsed::End)
                }
                "if" | "range" | "with" => self.control(&token.text),
                "template" => self.template(),
                _ => self.unexpected(&token, "command"),
            };
        }
        self.next -= 1;
        let pipe = self.pipeline("command", Kind::Right)?;
        Ok(Parsed::Piece(Piece::Action(pipe)))
    }

    fn leave(&mut self, token: &Token, piece: Piece) -> Result<Parsed, TemplateError> {
        let after = self.take_solid();
        if after.kind != Kind::Right {
            return self.unexpected(&after, &format!("{{{{{}}}}}", token.text));
        }
        if self.ranges == 0 {
            return self.fail(format!("{{{{{}}}}} outside {{{{range}}}}", token.text));
        }
        Ok(Parsed::Piece(piece))
    }

    /// After `else`: `if` and `with` go on as a nested control, so they are left to be read.
    fn otherwise(&mut self) -> Result<Parsed, TemplateError> {
        let peek = self.peek_solid();
        if peek.is("if") || peek.is("with") {
            return Ok(Parsed::Else);
        }
        self.expect(Kind::Right, "else")?;
        Ok(Parsed::Else)
    }

    fn control(&mut self, context: &str) -> Result<Parsed, TemplateError> {
        self.deeper()?;
        let known = self.variables.len();
        let pipe = self.pipeline(context, Kind::Right)?;
        if context == "range" {
            self.ranges += 1;
        }
        let (body, mut end) = self.list()?;
        if context == "range" {
            self.ranges -= 1;
        }
        let mut otherwise = Vec::new();
        if matches!(end, Parsed::Else) {
            let next = self.peek_solid().clone();
            if next.kind == Kind::Keyword && next.text == context && context != "range" {
                // `{{else if}}` shares the end of the whole.
                self.take();
                if let Parsed::Piece(piece) = self.control(context)? {
                    otherwise.push(piece);
                }
                end = Parsed::End;
            } else if next.is("if") || next.is("with") {
                self.take();
                return self.unexpected(&next, "else");
            } else {
                (otherwise, end) = self.list()?;
            }
        }
        if !matches!(end, Parsed::End) {
            return self.fail("expected end; found {{else}}");
        }
        self.variables.truncate(known);
        self.depth -= 1;
        Ok(Parsed::Piece(match context {
            "if" => Piece::If(pipe, body, otherwise),
            "with" => Piece::With(pipe, body, otherwise),
            _ => Piece::Range(pipe, body, otherwise),
        }))
    }

    fn list(&mut self) -> Result<(Vec<Piece>, Parsed), TemplateError> {
        let mut pieces = Vec::new();
        while self.peek_solid().kind != Kind::Eof {
            match self.piece()? {
                Parsed::Piece(piece) => pieces.push(piece),
                end => return Ok((pieces, end)),
            }
        }
        self.next += 1;
        self.fail("unexpected EOF")
    }

    fn template_name(&mut self, context: &str) -> Result<String, TemplateError> {
        let token = self.take_solid();
        match token.kind {
            Kind::Quoted | Kind::Raw => match unquote(&token) {
                Some(name) => Ok(name),
                None => self.fail("invalid syntax"),
            },
            _ => self.unexpected(&token, context),
        }
    }

    fn template(&mut self) -> Result<Parsed, TemplateError> {
        let at = self.peek_solid().at;
        let name = self.template_name("template clause")?;
        let pipe = if self.peek_solid().kind == Kind::Right {
            self.take();
            None
        } else {
            Some(self.pipeline("template clause", Kind::Right)?)
        };
        Ok(Parsed::Piece(Piece::Template { at, name, pipe }))
    }

    fn block(&mut self) -> Result<Parsed, TemplateError> {
        let at = self.peek_solid().at;
        let name = self.template_name("block clause")?;
        let pipe = self.pipeline("block clause", Kind::Right)?;
        self.definition(&name, "block clause")?;
        Ok(Parsed::Piece(Piece::Template {
            at,
            name,
            pipe: Some(pipe),
        }))
    }

    fn define(&mut self) -> Result<(), TemplateError> {
        let name = self.template_name("define clause")?;
        self.expect(Kind::Right, "define clause")?;
        self.definition(&name, "define clause")
    }

    fn definition(&mut self, name: &str, context: &str) -> Result<(), TemplateError> {
        self.deeper()?;
        let outer = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (body, end) = self.list()?;
        if !matches!(end, Parsed::End) {
            return self.fail(format!("unexpected {{{{else}}}} in {context}"));
        }
        self.variables = outer;
        self.ranges = ranges;
        self.depth -= 1;
        let old = self.trees.get(name);
        match old {
            Some(old) if !is_empty(old) && !is_empty(&body) => {
                return self.fail(format!("multiple definition of template {}", quote(name)));
            }
            Some(old) if !is_empty(old) => {}
            _ => {
                self.trees.insert(name.to_owned(), body);
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, context: &str, end: Kind) -> Result<Pipe, TemplateError> {
        let mut pipe = Pipe {
            at: self.peek_solid().at,
            variables: Vec::new(),
            assigns: false,
            commands: Vec::new(),
        };
        while self.peek_solid().kind == Kind::Variable {
            let start = self.next;
            let variable = self.take();
            let after = self.peek_solid().clone();
            match after.kind {
                Kind::Assign | Kind::Declare => {
                    self.take();
                    pipe.assigns = after.kind == Kind::Assign;
                    self.declare(&mut pipe, variable.text)?;
                    break;
                }
                Kind::Char if after.text == "," => {
                    self.take();
                    self.declare(&mut pipe, variable.text)?;
                    if context == "range" && pipe.variables.len() < 2 {
                        match self.peek_solid().kind {
                            Kind::Variable | Kind::Right | Kind::RightParen => continue,
                            _ => return self.fail("range can only initialize variables"),
                        }
                    }
                    return self.fail(format!("too many declarations in {context}"));
                }
                _ => {
                    self.next = start;
                    break;
                }
            }
        }
        loop {
            let token = self.take_solid();
            match token.kind {
                kind if kind == end => {
                    self.check(&pipe, context)?;
                    return Ok(pipe);
                }
                Kind::Bool
                | Kind::CharConstant
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::Raw
                | Kind::Quoted
                | Kind::Variable
                | Kind::LeftParen => {
                    self.next -= 1;
                    let command = self.command()?;
                    pipe.commands.push(command);
                }
                _ => return self.unexpected(&token, context),
            }
        }
    }

    fn declare(&mut self, pipe: &mut Pipe, name: String) -> Result<(), TemplateError> {
        let (base, fields) = split_variable(&name);
        if !fields.is_empty() || base.is_empty() {
            return self.fail(format!("unexpected {} in declaration", quote(&name)));
        }
        if pipe.assigns && !self.variables.contains(&name) {
            return self.fail(format!("undefined variable {}", quote(&name)));
        }
        self.variables.push(name.clone());
        pipe.variables.push(name);
        Ok(())
    }

    fn check(&self, pipe: &Pipe, context: &str) -> Result<(), TemplateError> {
        if pipe.commands.is_empty() {
            return self.fail(format!("missing value for {context}"));
        }
        for (index, command) in pipe.commands.iter().enumerate().skip(1) {
            if matches!(
                command.words[0].operand,
                Operand::Dot | Operand::Nil | Operand::Constant(..)
            ) {
                return self.fail(format!(
                    "non executable command in pipeline stage {}",
                    index + 1
                ));
            }
        }
        Ok(())
    }

    fn command(&mut self) -> Result<Command, TemplateError> {
        let mut command = Command {
            at: self.peek_solid().at,
            words: Vec::new(),
        };
        loop {
            self.skip_space();
            if let Some(word) = self.operand()? {
                command.words.push(word);
            }
            let token = self.take();
            match token.kind {
                Kind::Space => {}
                Kind::Right | Kind::RightParen => {
                    self.next -= 1;
                    break;
                }
                Kind::Pipe => break,
                _ => return self.unexpected(&token, "operand"),
            }
        }
        if command.words.is_empty() {
            return self.fail("empty command");
        }
        Ok(command)
    }

    fn operand(&mut self) -> Result<Option<Node>, TemplateError> {
        let Some(mut node) = self.term()? else {
            return Ok(None);
        };
        if self.peek().kind != Kind::Field {
            return Ok(Some(node));
        }
        let at = self.peek().at;
        let mut names = Vec::new();
        while self.peek().kind == Kind::Field {
            names.push(self.take().text[1..].to_owned());
        }
        match &mut node.operand {
            // Go makes a new node that begins at the second field.
            Operand::Field(fields) | Operand::Variable(_, fields) => {
                fields.extend(names);
                node.at = at;
            }
            Operand::Dot | Operand::Nil | Operand::Constant(..) => {
                return self.fail(format!(
                    "unexpected . after term {}",
                    quote(&node.to_string())
                ));
            }
            Operand::Function(_) | Operand::Pipe(_) | Operand::Chain(..) => {
                node = Node {
                    at,
                    operand: Operand::Chain(Box::new(node), names),
                };
            }
        }
        Ok(Some(node))
    }

    fn term(&mut self) -> Result<Option<Node>, TemplateError> {
        let token = self.take_solid();
        let operand = match token.kind {
            Kind::Identifier => {
                if !(self.knows)(&token.text) {
                    return self.fail(format!("function {} not defined", quote(&token.text)));
                }
                Operand::Function(token.text)
            }
            Kind::Dot => Operand::Dot,
            Kind::Nil => Operand::Nil,
            Kind::Variable => {
                let (base, fields) = split_variable(&token.text);
                if !self.variables.iter().any(|known| known == base) {
                    return self.fail(format!("undefined variable {}", quote(base)));
                }
                Operand::Variable(base.to_owned(), fields)
            }
            Kind::Field => Operand::Field(vec![token.text[1..].to_owned()]),
            Kind::Bool => Operand::Constant(Value::Bool(token.text == "true"), token.text),
            Kind::Number => match number(&token.text) {
                Some(value) => Operand::Constant(value, token.text),
                None => return self.fail(format!("bad number syntax: {}", quote(&token.text))),
            },
            Kind::CharConstant => {
                let text = unquote(&token);
                match text.as_ref().map(|text| text.chars().collect::<Vec<_>>()) {
                    Some(chars) if chars.len() == 1 => {
                        Operand::Constant(Value::Int(chars[0] as i128), token.text)
                    }
                    _ => {
                        return self.fail(format!("malformed character constant: {}", token.text));
                    }
                }
            }
            Kind::Quoted | Kind::Raw => match unquote(&token) {
                Some(text) => Operand::Constant(Value::text(text), token.text),
                None => return self.fail("invalid syntax"),
            },
            Kind::LeftParen => {
                self.deeper()?;
                let pipe = self.pipeline("parenthesized pipeline", Kind::RightParen)?;
                self.depth -= 1;
                Operand::Pipe(Box::new(pipe))
            }
            _ => {
                self.next -= 1;
                return Ok(None);
            }
        };
        Ok(Some(Node {
            at: token.at,
            operand,
        }))
    }
}

fn split_variable(text: &str) -> (&str, Vec<String>) {
    let mut parts = text.split('.');
    let base = parts.next().unwrap_or_default();
    (base, parts.map(str::to_owned).collect())
}

/// Go's integer and floating constants, with `_` between digits and prefixes for other bases.
fn number(text: &str) -> Option<Value> {
    let clean = text.replace('_', "");
    let (negative, digits) = match clean.as_bytes().first()? {
        b'-' => (true, &clean[1..]),
        b'+' => (false, &clean[1..]),
        _ => (false, clean.as_str()),
    };
    let lower = digits.to_ascii_lowercase();
    let integer = if let Some(hex) = lower.strip_prefix("0x") {
        i128::from_str_radix(hex, 16).ok()
    } else if let Some(octal) = lower.strip_prefix("0o") {
        i128::from_str_radix(octal, 8).ok()
    } else if let Some(binary) = lower.strip_prefix("0b") {
        i128::from_str_radix(binary, 2).ok()
    } else if lower.len() > 1 && lower.starts_with('0') && lower.bytes().all(|b| b.is_ascii_digit())
    {
        i128::from_str_radix(&lower, 8).ok()
    } else if lower.bytes().all(|b| b.is_ascii_digit()) && !lower.is_empty() {
        lower.parse().ok()
    } else {
        None
    };
    if let Some(integer) = integer.filter(|integer| *integer <= i128::from(u64::MAX)) {
        return Some(Value::Int(if negative { -integer } else { integer }));
    }
    let float: f64 = lower
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'+' | b'-'))
        .then(|| lower.parse().ok())
        .flatten()?;
    Some(Value::Float(if negative { -float } else { float }))
}

/// `strconv.Unquote` of a quoted, raw or character token.
fn unquote(token: &Token) -> Option<String> {
    let inner = token.text.get(1..token.text.len().checked_sub(1)?)?;
    if token.kind == Kind::Raw {
        return Some(inner.replace('\r', ""));
    }
    let mut bytes = Vec::new();
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = rest.chars().next()?;
        rest = &rest[escape.len_utf8()..];
        let simple = match escape {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '\'' | '"' => u8::try_from(escape).ok(),
            _ => None,
        };
        if let Some(byte) = simple {
            bytes.push(byte);
            continue;
        }
        let (count, radix) = match escape {
            'x' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='7' => (2, 8),
            _ => return None,
        };
        let digits = rest.get(..count)?;
        rest = &rest[count..];
        let mut value = u32::from_str_radix(digits, radix).ok()?;
        if radix == 8 {
            value += escape.to_digit(8)? * 64;
        }
        if matches!(escape, 'u' | 'U') {
            bytes.extend_from_slice(char::from_u32(value)?.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            bytes.push(u8::try_from(value).ok()?);
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
