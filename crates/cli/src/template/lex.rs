//! Tokens of Go's `text/template`.
//!
//! The whole text is cut at once; the last token is the end or an error. Positions are bytes from
//! the start, as Go counts them in its messages.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Error,
    Eof,
    Text,
    Left,
    Right,
    Space,
    Pipe,
    Declare,
    Assign,
    Char,
    CharConstant,
    Bool,
    Nil,
    Dot,
    Field,
    Variable,
    Identifier,
    Number,
    Quoted,
    Raw,
    LeftParen,
    RightParen,
    Keyword,
}

/// A token with its place.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
    pub(super) line: usize,
    pub(super) text: String,
}

impl Token {
    /// As Go's parser names it in an error.
    pub(super) fn shown(&self) -> String {
        match self.kind {
            Kind::Eof => "EOF".to_owned(),
            Kind::Error => self.text.clone(),
            Kind::Keyword => format!("<{}>", self.text),
            _ if self.text.len() > 10 => {
                let cut: String = self.text.chars().take(10).collect();
                format!("{}...", super::print::quote(&cut))
            }
            _ => super::print::quote(&self.text),
        }
    }
}

const KEYWORDS: [&str; 10] = [
    "block", "break", "continue", "define", "else", "end", "if", "range", "template", "with",
];

/// Cuts `text` into tokens.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        text,
        at: 0,
        start: 0,
        line: 1,
        start_line: 1,
        parens: 0,
        out: Vec::new(),
    };
    // An error is already the last token.
    let _ = lexer.run();
    lexer.out
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    start: usize,
    line: usize,
    start_line: usize,
    parens: usize,
    out: Vec<Token>,
}

/// Stops the lexer; the error token says why.
struct Stop;

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += character.len_utf8();
        if character == '\n' {
            self.line += 1;
        }
        Some(character)
    }

    fn advance(&mut self, bytes: usize) {
        let end = self.at + bytes;
        self.line += self.text[self.at..end].matches('\n').count();
        self.at = end;
    }

    fn ignore(&mut self) {
        self.start = self.at;
        self.start_line = self.line;
    }

    fn emit(&mut self, kind: Kind) {
        self.out.push(Token {
            kind,
            at: self.start,
            line: self.start_line,
            text: self.text[self.start..self.at].to_owned(),
        });
        self.ignore();
    }

    fn fail<T>(&mut self, message: impl Into<String>) -> Result<T, Stop> {
        self.out.push(Token {
            kind: Kind::Error,
            at: self.start,
            line: self.start_line,
            text: message.into(),
        });
        Err(Stop)
    }

    fn run(&mut self) -> Result<(), Stop> {
        loop {
            let whole = self.text;
            let Some(offset) = self.rest().find("{{") else {
                self.advance(self.rest().len());
                if self.at > self.start {
                    self.emit(Kind::Text);
                }
                self.emit(Kind::Eof);
                return Ok(());
            };
            let after = &whole[self.at + offset + 2..];
            let trims = has_left_trim(after);
            let text = &whole[self.at..self.at + offset];
            let kept = if trims {
                text.trim_end_matches(is_space).len()
            } else {
                offset
            };
            if kept > 0 {
                self.advance(kept);
                self.emit(Kind::Text);
            }
            self.advance(offset - kept);
            self.ignore();
            let marker = if trims { 2 } else { 0 };
            if after[marker..].starts_with("/*") {
                self.advance(2 + marker);
                self.ignore();
                self.comment()?;
                continue;
            }
            self.advance(2);
            self.emit(Kind::Left);
            self.advance(marker);
            self.ignore();
            self.parens = 0;
            self.action()?;
        }
    }

    fn comment(&mut self) -> Result<(), Stop> {
        let Some(end) = self.rest()[2..].find("*/") else {
            return self.fail("unclosed comment");
        };
        self.advance(2 + end + 2);
        match self.at_right() {
            None => self.fail("comment ends before closing delimiter"),
            Some(trims) => {
                self.advance(if trims { 4 } else { 2 });
                if trims {
                    self.skip_space();
                }
                self.ignore();
                Ok(())
            }
        }
    }

    fn skip_space(&mut self) {
        let space = self.rest().len() - self.rest().trim_start_matches(is_space).len();
        self.advance(space);
        self.ignore();
    }

    /// Whether a closing delimiter is next, and whether it trims.
    fn at_right(&self) -> Option<bool> {
        let rest = self.rest();
        let mut chars = rest.chars();
        if chars.next().is_some_and(is_space) && chars.as_str().starts_with("-}}") {
            return Some(true);
        }
        rest.starts_with("}}").then_some(false)
    }

    fn action(&mut self) -> Result<(), Stop> {
        loop {
            if let Some(trims) = self.at_right() {
                if self.parens > 0 {
                    return self.fail("unclosed left paren");
                }
                if trims {
                    self.advance(2);
                    self.ignore();
                }
                self.advance(2);
                self.emit(Kind::Right);
                if trims {
                    self.skip_space();
                }
                return Ok(());
            }
            match self.bump() {
                None => return self.fail("unclosed action"),
                Some(c) if is_space(c) => {
                    while self.at_right().is_none() && self.peek().is_some_and(is_space) {
                        self.bump();
                    }
                    self.emit(Kind::Space);
                }
                Some('=') => self.emit(Kind::Assign),
                Some(':') => {
                    if self.bump() != Some('=') {
                        return self.fail("expected :=");
                    }
                    self.emit(Kind::Declare);
                }
                Some('|') => self.emit(Kind::Pipe),
                Some('"') => self.quoted('"', "unterminated quoted string", Kind::Quoted)?,
                Some('\'') => {
                    self.quoted('\'', "unterminated character constant", Kind::CharConstant)?;
                }
                Some('`') => {
                    let Some(end) = self.rest().find('`') else {
                        return self.fail("unterminated raw quoted string");
                    };
                    self.advance(end + 1);
                    self.emit(Kind::Raw);
                }
                Some('$') => self.name(Kind::Variable)?,
                Some('.') if !self.peek().is_some_and(|c| c.is_ascii_digit()) => {
                    self.name(Kind::Field)?;
                }
                Some('+' | '-' | '.' | '0'..='9') => self.number()?,
                Some(c) if is_word(c) => self.identifier()?,
                Some('(') => {
                    self.parens += 1;
                    self.emit(Kind::LeftParen);
                }
                Some(')') => {
                    if self.parens == 0 {
                        return self.fail("unexpected right paren");
                    }
                    self.parens -= 1;
                    self.emit(Kind::RightParen);
                }
                Some(c) if c.is_ascii_graphic() => self.emit(Kind::Char),
                Some(c) => {
                    return self.fail(format!("unrecognized character in action: {}", named(c)));
                }
            }
        }
    }

    fn quoted(&mut self, delimiter: char, unterminated: &str, kind: Kind) -> Result<(), Stop> {
        loop {
            match self.bump() {
                Some('\\') if self.peek().is_some_and(|c| c != '\n') => {
                    self.bump();
                }
                None | Some('\n' | '\\') => return self.fail(unterminated),
                Some(c) if c == delimiter => break,
                Some(_) => {}
            }
        }
        self.emit(kind);
        Ok(())
    }

    fn words(&mut self) {
        while self.peek().is_some_and(is_word) {
            self.bump();
        }
    }

    fn name(&mut self, kind: Kind) -> Result<(), Stop> {
        if self.at_terminator() {
            self.emit(if kind == Kind::Variable {
                Kind::Variable
            } else {
                Kind::Dot
            });
            return Ok(());
        }
        self.words();
        if !self.at_terminator() {
            return self.bad_character();
        }
        self.emit(kind);
        Ok(())
    }

    fn bad_character<T>(&mut self) -> Result<T, Stop> {
        let character = self.peek().map_or_else(|| "EOF".to_owned(), named);
        self.fail(format!("bad character {character}"))
    }

    fn identifier(&mut self) -> Result<(), Stop> {
        self.words();
        let word = &self.text[self.start..self.at];
        if !self.at_terminator() {
            return self.bad_character();
        }
        let kind = match word {
            "true" | "false" => Kind::Bool,
            "nil" => Kind::Nil,
            word if KEYWORDS.contains(&word) => Kind::Keyword,
            _ => Kind::Identifier,
        };
        self.emit(kind);
        Ok(())
    }

    fn at_terminator(&self) -> bool {
        match self.peek() {
            None => true,
            Some(c) if is_space(c) => true,
            Some('.' | ',' | '|' | ':' | ')' | '(') => true,
            Some(_) => self.rest().starts_with("}}"),
        }
    }

    fn number(&mut self) -> Result<(), Stop> {
        self.at = self.start;
        let accept = |lexer: &mut Self, set: &str| {
            let found = lexer.peek().is_some_and(|c| set.contains(c));
            if found {
                lexer.bump();
            }
            found
        };
        accept(self, "+-");
        let mut digits = "0123456789_";
        if accept(self, "0") {
            if accept(self, "xX") {
                digits = "0123456789abcdefABCDEF_";
            } else if accept(self, "oO") {
                digits = "01234567_";
            } else if accept(self, "bB") {
                digits = "01_";
            }
        }
        while accept(self, digits) {}
        if accept(self, ".") {
            while accept(self, digits) {}
        }
        if digits.len() == 11 && accept(self, "eE") {
            accept(self, "+-");
            while accept(self, "0123456789_") {}
        }
        if digits.len() == 23 && accept(self, "pP") {
            accept(self, "+-");
            while accept(self, "0123456789_") {}
        }
        accept(self, "i");
        if self.peek().is_some_and(is_word) {
            self.bump();
            let text = super::print::quote(&self.text[self.start..self.at]);
            return self.fail(format!("bad number syntax: {text}"));
        }
        self.emit(Kind::Number);
        Ok(())
    }
}

fn has_left_trim(after: &str) -> bool {
    let mut chars = after.chars();
    chars.next() == Some('-') && chars.next().is_some_and(is_space)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// `%#U`: `U+0023 '#'`.
fn named(c: char) -> String {
    if c.is_control() {
        format!("U+{:04X}", c as u32)
    } else {
        format!("U+{:04X} '{c}'", c as u32)
    }
}
