//! What is wrong with a configuration file, and what would be right.

use std::path::{Path, PathBuf};

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {reason}; make it with `freehold init`", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A key that does not exist.
    #[error("{} line {line}: unknown key `{key}`{}", file.display(), hint(nearest.as_deref(), valid))]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// The key.
        key: String,
        /// The valid key that looks most like it.
        nearest: Option<String>,
        /// All keys valid in its place.
        valid: Vec<String>,
    },
    /// Not TOML, or a value of the wrong kind.
    #[error("{} line {line}: {reason}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// A value that cannot be used.
    #[error("{}: `{key}` {reason}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The key, with its table.
        key: String,
        /// What is wrong, and the fix.
        reason: String,
    },
}

fn hint(nearest: Option<&str>, valid: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => format!("; valid here: {}", valid.join(", ")),
    }
}

impl ConfigError {
    /// Sorts out what the TOML reader said.
    pub(super) fn from_toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text
            .bytes()
            .take(start)
            .filter(|byte| *byte == b'\n')
            .count()
            + 1;
        let file = file.to_owned();
        match unknown_key(error.message()) {
            Some((key, valid)) => {
                let nearest = nearest(&key, &valid);
                ConfigError::UnknownKey {
                    file,
                    line,
                    key,
                    nearest,
                    valid,
                }
            }
            None => ConfigError::Syntax {
                file,
                line,
                reason: match key_of(text, line) {
                    Some(key) => format!("`{key}`: {}", error.message()),
                    None => error.message().to_owned(),
                },
            },
        }
    }
}

/// The key that a line sets. Never its value, which may be a secret.
fn key_of(text: &str, line: usize) -> Option<&str> {
    let (key, _) = text.lines().nth(line.checked_sub(1)?)?.split_once('=')?;
    let key = key.trim();
    (!key.is_empty() && !key.starts_with('#')).then_some(key)
}

/// Reads serde's "unknown field `x`, expected one of `a`, `b`".
fn unknown_key(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field ")?;
    let mut quoted = rest.split('`').skip(1).step_by(2).map(str::to_owned);
    Some((quoted.next()?, quoted.collect()))
}

/// The candidate within a third of its letters of `key`.
pub(super) fn nearest(key: &str, valid: &[String]) -> Option<String> {
    valid
        .iter()
        .map(|candidate| (distance(key, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 2)
        .min()
        .map(|(_, candidate)| candidate.clone())
}

/// Edits (insert, delete, replace) between two words.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (b, above) in to.iter().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(a != *b))
                .min(left + 1)
                .min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
