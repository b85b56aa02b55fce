//! What is wrong with a file of entries: where, what, and what to do.

use super::find::{best, shown};

/// A file of models or cards that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}{}: {what}", .line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct Fault {
    origin: String,
    line: Option<usize>,
    what: String,
    hint: String,
}

impl Fault {
    /// `origin` names the file, `line` counts from 1; `what` says what is wrong and `hint` what to do.
    pub(super) fn new(
        origin: &str,
        line: Option<usize>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { origin: origin.to_owned(), line, what: what.into(), hint: hint.into() }
    }

    /// What the TOML reader says, in our words where it can be helped.
    pub(super) fn toml(origin: &str, text: &str, error: &toml::de::Error) -> Self {
        let line = error.span().map(|span| line_of(text, span.start));
        let message = error.message().lines().next().unwrap_or("it cannot be read");
        let mut quoted = message.split('`').skip(1).step_by(2);
        let found = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        let offer = || match best(found, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        if message.starts_with("unknown field") {
            return Self::new(origin, line, format!("unknown key `{}`", shown(found)), offer());
        }
        if message.starts_with("unknown variant") {
            return Self::new(
                origin,
                line,
                format!("`{}` is not one of the known words", shown(found)),
                offer(),
            );
        }
        if message.starts_with("invalid type: floating point") {
            let what = format!("{} is not a whole number", shown(found));
            return Self::new(origin, line, what, "write all digits, for example 7_241_732_096");
        }
        Self::new(origin, line, shown(message), "see the keys at the top of config/models.toml")
    }

    /// The file.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The line in the file, counted from 1, where one can be named.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// What to do.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

/// The line, counted from 1, of a position in bytes.
pub(super) fn line_of(text: &str, position: usize) -> usize {
    text.bytes().take(position).filter(|byte| *byte == b'\n').count() + 1
}
