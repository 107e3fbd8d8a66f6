//! Go's `text/template`, as far as it shows: what `--format` takes.
//!
//! Actions, pipelines, `if`, `with`, `range`, `define`, `template`, `block`, `break`, `continue`,
//! variables, all predefined functions, and the functions that Docker adds. Messages are Go's,
//! with its positions, because scripts and people know them.
//!
//! | module | holds |
//! |---|---|
//! | [`value`] | what templates work on: JSON in its order, with what is known of Go types |
//! | `lex`, `parse` | text → tokens → tree, with Go's messages |
//! | `exec` | tree and value → text |
//! | `functions` | Go's and Docker's functions |
//! | `print` | Go's `fmt` |
//!
//! What is absent: methods other than those of list rows, complex numbers, channels, and functions
//! as values. Templates are bounded in depth, so that no text can exhaust the stack.

mod exec;
mod functions;
mod lex;
mod parse;
pub(crate) mod print;
pub mod value;

pub use exec::MissingKey;
pub use functions::Set;
pub use value::{Value, Zero};

/// What is wrong with a template, in Go's words: `template: :1:2: …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(pub(crate) String);

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    name: String,
    text: String,
    trees: parse::Trees,
}

impl Template {
    /// Parses `text`; messages call it `name`, which Docker leaves empty.
    pub fn parse(name: &str, text: &str) -> Result<Self, TemplateError> {
        Ok(Self {
            name: name.to_owned(),
            text: text.to_owned(),
            trees: parse::parse(name, text, &functions::knows)?,
        })
    }

    /// What the template makes of `data`.
    pub fn execute(
        &self,
        data: &Value,
        set: Set,
        missing: MissingKey,
    ) -> Result<String, TemplateError> {
        let mut run = exec::Run::new(&self.name, &self.text, &self.trees, set, missing);
        run.run(data)?;
        Ok(run.out)
    }
}

#[cfg(test)]
mod tests;
