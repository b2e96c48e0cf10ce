//! Unicode classes of characters, as the pre-tokenisers' expressions name them.
//!
//! One sorted table, made of the regex parser's own tables, so that a scanner and
//! the expression it stands for mean the same characters.

use regex_syntax::hir::{Class, HirKind};
use std::sync::LazyLock;

/// The class of a character. No character is in two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `\p{Lu}`, `\p{Lt}`
    Upper,
    /// `\p{Ll}`
    Lower,
    /// `\p{Lm}`, `\p{Lo}`
    Caseless,
    /// `\p{M}`
    Mark,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
    /// `\p{P}`
    Punctuation,
    /// `\p{S}`
    Symbol,
    /// Controls, formats, unassigned.
    Other,
}

impl Kind {
    pub fn is_letter(self) -> bool {
        matches!(self, Self::Upper | Self::Lower | Self::Caseless)
    }

    /// `[\p{L}\p{M}]`
    pub fn is_letter_or_mark(self) -> bool {
        self.is_letter() || self == Self::Mark
    }

    /// `[^\s\p{L}\p{N}]`
    pub fn is_sign(self) -> bool {
        !self.is_letter() && !matches!(self, Self::Number | Self::Space)
    }
}

pub(super) fn kind(c: char) -> Kind {
    match c {
        'a'..='z' => Kind::Lower,
        'A'..='Z' => Kind::Upper,
        '0'..='9' => Kind::Number,
        ' ' | '\t'..='\r' => Kind::Space,
        '$' | '+' | '<'..='>' | '^' | '`' | '|' | '~' => Kind::Symbol,
        '!'..='~' => Kind::Punctuation,
        '\0'..='\x7f' => Kind::Other,
        _ => {
            let i = TABLE.partition_point(|(_, end, _)| *end < c);
            match TABLE.get(i) {
                Some((start, _, kind)) if *start <= c => *kind,
                _ => Kind::Other,
            }
        }
    }
}

/// Ranges by their ends.
static TABLE: LazyLock<Vec<(char, char, Kind)>> = LazyLock::new(|| {
    let classes = [
        (r"[\p{Lu}\p{Lt}]", Kind::Upper),
        (r"\p{Ll}", Kind::Lower),
        (r"[\p{Lm}\p{Lo}]", Kind::Caseless),
        (r"\p{M}", Kind::Mark),
        (r"\p{N}", Kind::Number),
        (r"\s", Kind::Space),
        (r"\p{P}", Kind::Punctuation),
        (r"\p{S}", Kind::Symbol),
    ];
    let mut table: Vec<_> = classes
        .iter()
        .flat_map(|(class, kind)| ranges(class).into_iter().map(|(a, b)| (a, b, *kind)))
        .collect();
    table.sort_unstable_by_key(|(start, ..)| *start);
    table
});

/// A class of its own, for expressions that list characters.
pub(super) struct Ranges(Vec<(char, char)>);

impl Ranges {
    /// From a constant class expression.
    pub fn new(class: &str) -> Self {
        Self(ranges(class))
    }

    pub fn contains(&self, c: char) -> bool {
        let i = self.0.partition_point(|(_, end)| *end < c);
        self.0.get(i).is_some_and(|(start, _)| *start <= c)
    }
}

fn ranges(class: &str) -> Vec<(char, char)> {
    let hir = regex_syntax::parse(class).expect("a constant class parses");
    match hir.kind() {
        HirKind::Class(Class::Unicode(c)) => c.iter().map(|r| (r.start(), r.end())).collect(),
        _ => unreachable!("a constant Unicode class"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_do_not_overlap_and_ascii_agrees_with_the_tables() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].1 < pair[1].0, "{pair:?}");
        }
        for c in '\0'..='\x7f' {
            let by_table = TABLE
                .iter()
                .find(|(a, b, _)| (*a..=*b).contains(&c))
                .map_or(Kind::Other, |(.., k)| *k);
            assert_eq!(kind(c), by_table, "{c:?}");
        }
    }
}
