//! Pre-tokenisers: text to the pieces inside which merging happens.
//!
//! Each is a hand-written scanner for the regular expression that the model was
//! trained with (quoted at its function); the tests compare it with that
//! expression on random text. A scanner is linear in the text and cannot fail,
//! where a backtracking engine gives up on long runs.

use regex_syntax::hir::{Class, HirKind};
use std::sync::LazyLock;

/// Which expression splits text (`tokenizer.ggml.pre`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pre {
    /// GPT-2's.
    Gpt2,
    /// Llama 3's: digits in threes.
    LlamaBpe,
    /// Qwen 2 and 3: single digits.
    Qwen2,
}

impl Pre {
    /// By its name in the file.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "gpt-2" => Some(Self::Gpt2),
            "llama-bpe" | "llama3" | "llama-v3" => Some(Self::LlamaBpe),
            "qwen2" => Some(Self::Qwen2),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt-2",
            Self::LlamaBpe => "llama-bpe",
            Self::Qwen2 => "qwen2",
        }
    }

    /// Split a text into pieces whose concatenation is the text.
    pub fn split(self, text: &str) -> impl Iterator<Item = &str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let len = match self {
                Self::Gpt2 => gpt2(rest),
                Self::LlamaBpe => modern(rest, 3),
                Self::Qwen2 => modern(rest, 1),
            };
            let (piece, tail) = rest.split_at(len);
            rest = tail;
            Some(piece)
        })
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2(text: &str) -> usize {
    if let Some(len) = contraction(text, false) {
        return len;
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    let skipped = text.len() - body.len();
    match body.chars().next().map(kind) {
        Some(k @ (Kind::Letter | Kind::Number | Kind::Other)) => skipped + run(body, |c| c == k),
        _ => spaces(text),
    }
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}`
/// `| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
fn modern(text: &str, digits: usize) -> usize {
    if let Some(len) = contraction(text, true) {
        return len;
    }
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return 0 };
    let rest = chars.as_str();
    let lead = first.len_utf8();
    let next = chars.next().map(kind);
    match kind(first) {
        Kind::Letter => run(text, |k| k == Kind::Letter),
        Kind::Number => text
            .chars()
            .take(digits)
            .take_while(|c| kind(*c) == Kind::Number)
            .map(char::len_utf8)
            .sum(),
        _ if !is_newline(first) && next == Some(Kind::Letter) => {
            lead + run(rest, |k| k == Kind::Letter)
        }
        Kind::Other => symbols(text),
        Kind::Space if first == ' ' && next == Some(Kind::Other) => lead + symbols(rest),
        Kind::Space => {
            let space = &text[..run(text, |k| k == Kind::Space)];
            match space.rfind(is_newline) {
                Some(at) => at + 1,
                None => spaces(text),
            }
        }
    }
}

/// `[^\s\p{L}\p{N}]+[\r\n]*`
fn symbols(text: &str) -> usize {
    let len = run(text, |k| k == Kind::Other);
    len + text[len..]
        .bytes()
        .take_while(|b| matches!(b, b'\r' | b'\n'))
        .count()
}

/// `\s+(?!\S)|\s+`: a run of spaces leaves its last one to the word behind it.
fn spaces(text: &str) -> usize {
    let len = run(text, |k| k == Kind::Space);
    if len == text.len() {
        return len;
    }
    let last = text[..len].chars().next_back().map_or(0, char::len_utf8);
    if len > last { len - last } else { len }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, with `any_case` as under `(?i:)`.
fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let mut chars = text.strip_prefix('\'')?.chars();
    let mut fold = || match chars.next() {
        // Simple case folding maps the long s to s.
        Some('ſ') if any_case => Some(('s', 'ſ'.len_utf8())),
        Some(c) if any_case => Some((c.to_ascii_lowercase(), c.len_utf8())),
        Some(c) => Some((c, c.len_utf8())),
        None => None,
    };
    let (first, len) = fold()?;
    match first {
        's' | 't' | 'm' | 'd' => Some(1 + len),
        'r' | 'v' => fold().filter(|(c, _)| *c == 'e').map(|_| 3),
        'l' => fold().filter(|(c, _)| *c == 'l').map(|_| 3),
        _ => None,
    }
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// Bytes of the leading characters whose kind satisfies `want`.
fn run(text: &str, want: impl Fn(Kind) -> bool) -> usize {
    text.char_indices()
        .find(|(_, c)| !want(kind(*c)))
        .map_or(text.len(), |(i, _)| i)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Letter,
    Number,
    Space,
    Other,
}

fn kind(c: char) -> Kind {
    match c {
        'a'..='z' | 'A'..='Z' => Kind::Letter,
        '0'..='9' => Kind::Number,
        ' ' | '\t'..='\r' => Kind::Space,
        '\0'..='\x7f' => Kind::Other,
        _ => CLASSES.kind(c),
    }
}

struct Classes {
    letter: Vec<(char, char)>,
    number: Vec<(char, char)>,
    space: Vec<(char, char)>,
}

/// The Unicode tables of the regex parser, so that scanner and expression agree.
static CLASSES: LazyLock<Classes> = LazyLock::new(|| Classes {
    letter: ranges(r"\p{L}"),
    number: ranges(r"\p{N}"),
    space: ranges(r"\s"),
});

impl Classes {
    fn kind(&self, c: char) -> Kind {
        let within = |ranges: &[(char, char)]| {
            let i = ranges.partition_point(|(_, end)| *end < c);
            ranges.get(i).is_some_and(|(start, _)| *start <= c)
        };
        if within(&self.letter) {
            Kind::Letter
        } else if within(&self.number) {
            Kind::Number
        } else if within(&self.space) {
            Kind::Space
        } else {
            Kind::Other
        }
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
    use proptest::prelude::*;

    const GPT2: &str =
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const LLAMA: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    fn compare(pre: Pre, expression: &fancy_regex::Regex, text: &str) {
        let mine: Vec<&str> = pre.split(text).collect();
        let theirs: Vec<&str> = expression
            .find_iter(text)
            .map(|m| m.expect("within limits").as_str())
            .collect();
        assert_eq!(mine, theirs, "{pre:?} on {text:?}");
        assert_eq!(mine.concat(), text);
    }

    fn all(text: &str) {
        static REGEXES: LazyLock<[(Pre, fancy_regex::Regex); 3]> = LazyLock::new(|| {
            [
                (Pre::Gpt2, GPT2),
                (Pre::LlamaBpe, LLAMA),
                (Pre::Qwen2, QWEN),
            ]
            .map(|(p, r)| {
                (
                    p,
                    fancy_regex::Regex::new(r).expect("a constant expression"),
                )
            })
        });
        for (pre, expression) in REGEXES.iter() {
            compare(*pre, expression, text);
        }
    }

    #[test]
    fn the_scanners_split_prose_code_and_scripts_as_their_expressions_do() {
        for text in [
            "Hello world, it's 12345 o'clock; I'LL be 'ſo WE'VE they'Re",
            "a  b   c\n\n d \r\n\t e\u{a0}f  ",
            "    def f(x):\n\treturn x**2  # done\n\n\n",
            "…—«éàü» ñandú 東京は 日本 🦀🦀 ½ Ⅷ ١٢٣",
            "'",
            "''",
            "'l",
            " '",
            "\n'",
            "   ",
            "\u{2028}x\u{85}",
            "e\u{301}a",
            "'s's",
            " !!\n\n x",
        ] {
            all(text);
        }
    }

    #[test]
    fn a_very_long_run_takes_linear_time() {
        for unit in [" ", "a", "\n", "'", "1", "é", " \n"] {
            let text = unit.repeat(100_000);
            for pre in [Pre::Gpt2, Pre::LlamaBpe, Pre::Qwen2] {
                assert_eq!(pre.split(&text).map(str::len).sum::<usize>(), text.len());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn the_scanners_agree_with_their_expressions_on_random_text(
            text in "([a-zA-Z']|[sStTmMdDlLrRvVeE]|'|[0-9]| |\r|\n|\t|[.,!#]|\\PC|\u{a0}|\u{2028}|ſ){0,40}"
        ) {
            all(&text);
        }
    }
}
