//! Scanners for the expressions of byte-level vocabularies. Each quotes its own.

use super::classes::{Kind, kind};
use super::pre::Cut;

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
pub(super) fn gpt2(text: &str) -> Cut {
    if let Some(len) = contraction(text, false) {
        return Cut::Take(len);
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    let skipped = text.len() - body.len();
    Cut::Take(match body.chars().next().map(kind) {
        Some(Kind::Number) => skipped + run(body, |k| k == Kind::Number),
        Some(k) if k.is_letter() => skipped + run(body, Kind::is_letter),
        Some(k) if k.is_sign() => skipped + run(body, Kind::is_sign),
        _ => spaces(text),
    })
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}`
/// `| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
pub(super) fn llama(text: &str) -> Cut {
    modern(text, 3, Kind::is_letter, Kind::is_sign)
}

/// As [`llama`] with `\p{N}` for digits.
pub(super) fn qwen2(text: &str) -> Cut {
    modern(text, 1, Kind::is_letter, Kind::is_sign)
}

/// As [`qwen2`] with `[\p{L}\p{M}]+` for words and `[^\s\p{L}\p{M}\p{N}]+` for signs.
pub(super) fn qwen35(text: &str) -> Cut {
    modern(text, 1, Kind::is_letter_or_mark, |k| {
        k.is_sign() && k != Kind::Mark
    })
}

fn modern(text: &str, digits: usize, word: fn(Kind) -> bool, sign: fn(Kind) -> bool) -> Cut {
    let taken = contraction(text, true).or_else(|| {
        let (first, rest) = head(text)?;
        let leads = !first.is_newline && !first.kind.is_letter() && first.kind != Kind::Number;
        if leads && rest.chars().next().is_some_and(|c| word(kind(c))) {
            Some(first.len + run(rest, word))
        } else if word(first.kind) {
            Some(run(text, word))
        } else {
            None
        }
    });
    Cut::Take(taken.unwrap_or_else(|| tail(text, digits, sign, is_newline)))
}

/// `U` = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, `W` = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`,
/// `C` = `(?i:'s|'t|'re|'ve|'m|'ll|'d)?`: `[^\r\n\p{L}\p{N}]?U*W+C`
/// `|[^\r\n\p{L}\p{N}]?U+W*C|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*`
/// `|\s*[\r\n]+|\s+(?!\S)|\s+`
pub(super) fn gpt4o(text: &str) -> Cut {
    Cut::Take(match cased(text) {
        Some(len) => len + contraction(&text[len..], true).unwrap_or(0),
        None => tail(text, 3, Kind::is_sign, |c| is_newline(c) || c == '/'),
    })
}

/// As [`gpt4o`] with `\p{N}` for digits and without `C`.
pub(super) fn tekken(text: &str) -> Cut {
    let other = || tail(text, 1, Kind::is_sign, |c| is_newline(c) || c == '/');
    Cut::Take(cased(text).unwrap_or_else(other))
}

/// `[^\r\n\p{L}\p{N}]?U*W+|[^\r\n\p{L}\p{N}]?U+W*`
fn cased(text: &str) -> Option<usize> {
    let (first, rest) = head(text)?;
    let leads = !first.is_newline && !first.kind.is_letter() && first.kind != Kind::Number;
    let mixed = |from: &str| mixed(from).filter(|n| *n > 0);
    let upper = |from: &str| Some(run(from, is_upper)).filter(|n| *n > 0);
    let led = |len: usize| first.len + len;
    // In the order in which a backtracking engine tries them.
    leads
        .then(|| mixed(rest).map(led))
        .flatten()
        .or_else(|| mixed(text))
        .or_else(|| leads.then(|| upper(rest).map(led)).flatten())
        .or_else(|| upper(text))
}

/// `U*W+`: a run of U as long as possible that leaves one W behind or inside it.
fn mixed(text: &str) -> Option<usize> {
    let end = run(text, is_upper);
    let rest = run(&text[end..], is_lower);
    if rest > 0 {
        return Some(end + rest);
    }
    let (at, c) = text[..end]
        .char_indices()
        .rev()
        .find(|(_, c)| is_lower(kind(*c)))?;
    Some(at + c.len_utf8())
}

fn is_upper(k: Kind) -> bool {
    matches!(k, Kind::Upper | Kind::Caseless | Kind::Mark)
}

fn is_lower(k: Kind) -> bool {
    matches!(k, Kind::Lower | Kind::Caseless | Kind::Mark)
}

/// `\p{N}`
pub(super) fn digit(text: &str) -> Cut {
    one(text, |c| kind(c) == Kind::Number)
}

/// `[0-9][0-9][0-9]`
pub(super) fn ascii_digits_3(text: &str) -> Cut {
    match text.as_bytes() {
        [a, b, c, ..] if [a, b, c].iter().all(|d| d.is_ascii_digit()) => Cut::Take(3),
        _ => Cut::Skip(text.chars().next().map_or(1, char::len_utf8)),
    }
}

/// ``[\p{P}\$\+<=>\^~\|`]+``
pub(super) fn falcon_signs(text: &str) -> Cut {
    many(text, |c| {
        kind(c) == Kind::Punctuation || (c.is_ascii() && kind(c) == Kind::Symbol)
    })
}

/// `[\p{P}\$\+<=>\^~\|]+`
pub(super) fn default_signs(text: &str) -> Cut {
    many(text, |c| {
        kind(c) == Kind::Punctuation || (c.is_ascii() && c != '`' && kind(c) == Kind::Symbol)
    })
}

/// `\p{N}+`
pub(super) fn numbers(text: &str) -> Cut {
    many(text, |c| kind(c) == Kind::Number)
}

/// `[^\n]+|[\n]+`
pub(super) fn lines(text: &str) -> Cut {
    let newline = text.starts_with('\n');
    Cut::Take(text.find(|c| (c == '\n') != newline).unwrap_or(text.len()))
}

/// A run of characters, or a step over the one that is not of them.
pub(super) fn many(text: &str, want: impl Fn(char) -> bool) -> Cut {
    let len = text.find(|c| !want(c)).unwrap_or(text.len());
    match len {
        0 => Cut::Skip(text.chars().next().map_or(1, char::len_utf8)),
        _ => Cut::Take(len),
    }
}

/// One character, or a step over it.
pub(super) fn one(text: &str, want: impl Fn(char) -> bool) -> Cut {
    match text.chars().next() {
        Some(c) if want(c) => Cut::Take(c.len_utf8()),
        Some(c) => Cut::Skip(c.len_utf8()),
        None => Cut::Skip(1),
    }
}

/// What the expressions end with: `\p{N}{1,DIGITS}| ?SIGN+BEHIND*`
/// `|\s*[\r\n]+|\s+(?!\S)|\s+`
fn tail(
    text: &str,
    digits: usize,
    sign: impl Fn(Kind) -> bool,
    behind: impl Fn(char) -> bool,
) -> usize {
    let numbers = text.chars().take(digits);
    let len: usize = numbers
        .take_while(|c| kind(*c) == Kind::Number)
        .map(char::len_utf8)
        .sum();
    if len > 0 {
        return len;
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    let signs = run(body, sign);
    if signs > 0 {
        let end = text.len() - body.len() + signs;
        let more = text[end..].find(|c| !behind(c));
        return more.map_or(text.len(), |n| end + n);
    }
    newlines_or_spaces(text)
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+`; 0 where the text does not begin with white space.
pub(super) fn newlines_or_spaces(text: &str) -> usize {
    let space = &text[..run(text, |k| k == Kind::Space)];
    match space.rfind(is_newline) {
        Some(at) => at + 1,
        None => spaces(text),
    }
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

pub(super) fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// The first character and what follows it.
pub(super) struct Head {
    pub kind: Kind,
    pub len: usize,
    pub is_newline: bool,
}

pub(super) fn head(text: &str) -> Option<(Head, &str)> {
    let mut chars = text.chars();
    let c = chars.next()?;
    let head = Head {
        kind: kind(c),
        len: c.len_utf8(),
        is_newline: is_newline(c),
    };
    Some((head, chars.as_str()))
}

/// Bytes of the leading characters whose kind satisfies `want`.
pub(super) fn run(text: &str, want: impl Fn(Kind) -> bool) -> usize {
    text.find(|c| !want(kind(c))).unwrap_or(text.len())
}
