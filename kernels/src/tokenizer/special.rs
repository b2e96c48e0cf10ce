//! Finding special tokens in text.

use super::prefixes::Prefixes;

/// A stretch of text, or a special token found in it.
pub(super) enum Part<'a> {
    Text(&'a str),
    Token(u32),
}

/// One special token.
#[derive(Debug)]
pub(super) struct Special {
    pub id: u32,
    /// Found even when control tokens are not to be parsed.
    pub always: bool,
    /// Swallows the white space behind it.
    pub strips_right: bool,
}

/// The special tokens of a vocabulary.
#[derive(Debug)]
pub(super) struct Specials(Prefixes<Special>);

impl Specials {
    pub fn new<'a>(tokens: impl Iterator<Item = (&'a str, Special)>) -> Self {
        Self(Prefixes::new(
            tokens.map(|(text, special)| (text.as_bytes().into(), special)),
        ))
    }

    /// Bytes of memory, about.
    pub fn memory(&self) -> usize {
        self.0.memory()
    }

    /// Cut a text at the special tokens in it, leftmost first, longest first.
    pub fn split<'a>(&self, text: &'a str, control: bool, mut each: impl FnMut(Part<'a>)) {
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            let found = self
                .0
                .longest(&text.as_bytes()[at..], |s| control || s.always);
            let Some((len, special)) = found else {
                at += 1;
                continue;
            };
            if start < at {
                each(Part::Text(&text[start..at]));
            }
            each(Part::Token(special.id));
            at += len;
            if special.strips_right {
                let rest = text[at..].trim_ascii_start();
                at = text.len() - rest.len();
            }
            start = at;
        }
        if start < text.len() {
            each(Part::Text(&text[start..]));
        }
    }
}
