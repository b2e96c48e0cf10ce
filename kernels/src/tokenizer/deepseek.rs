//! Scanners for DeepSeek's expressions (their `tokenizer.json` files).

use super::classes::{Kind, Ranges, kind};
use super::pre::{Cut, Scanner};
use super::scan::{digit, head, is_newline, many, newlines_or_spaces, one, run};
use std::sync::LazyLock;

/// DeepSeek LLM: lines, words, signs, trailing spaces, CJK, numbers.
pub(super) const LLM: [Scanner; 6] = [newline, word, signs, trailing, cjk, numbers];
/// DeepSeek Coder: lines, words, punctuation, CJK, single digits.
pub(super) const CODER: [Scanner; 5] = [newline, letters, punctuation, cjk, digit];
/// DeepSeek V3: digits in threes, Chinese and Japanese, the rest.
pub(super) const V3: [Scanner; 3] = [digits_3, kana, main];

/// `[\r\n]`
fn newline(text: &str) -> Cut {
    one(text, is_newline)
}

/// `\s?[CASED]+`
fn word(text: &str) -> Cut {
    behind_space(text, |c| c.is_ascii_alphabetic() || CASED.contains(c))
}

/// `\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+`
fn signs(text: &str) -> Cut {
    behind_space(text, |c| {
        matches!(c, '!'..='/' | ':'..='~' | '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff5e}'
            | '\u{2018}'..='\u{201f}' | '\u{3000}'..='\u{3002}')
    })
}

/// `\s+$`
fn trailing(text: &str) -> Cut {
    match run(text, |k| k == Kind::Space) {
        0 => Cut::Skip(head(text).map_or(1, |(first, _)| first.len)),
        len if len == text.len() => Cut::Take(len),
        len => Cut::Skip(len),
    }
}

/// `[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+`
fn cjk(text: &str) -> Cut {
    many(
        text,
        |c| matches!(c, '\u{800}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7ff}'),
    )
}

/// `\p{N}+`
fn numbers(text: &str) -> Cut {
    many(text, |c| kind(c) == Kind::Number)
}

/// `\s?\p{L}+`
fn letters(text: &str) -> Cut {
    behind_space(text, |c| kind(c).is_letter())
}

/// `\s?\p{P}+`
fn punctuation(text: &str) -> Cut {
    behind_space(text, |c| kind(c) == Kind::Punctuation)
}

/// `\s?[WANT]+`
fn behind_space(text: &str, want: impl Fn(char) -> bool) -> Cut {
    let Some((first, rest)) = head(text) else {
        return Cut::Skip(1);
    };
    if first.kind == Kind::Space
        && let Cut::Take(len) = many(rest, &want)
    {
        return Cut::Take(first.len + len);
    }
    many(text, want)
}

/// `\p{N}{1,3}`
fn digits_3(text: &str) -> Cut {
    let digits = text
        .chars()
        .take(3)
        .take_while(|c| kind(*c) == Kind::Number);
    match digits.map(char::len_utf8).sum() {
        0 => one(text, |_| false),
        len => Cut::Take(len),
    }
}

/// `[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+`
fn kana(text: &str) -> Cut {
    many(
        text,
        |c| matches!(c, '\u{4e00}'..='\u{9fa5}' | '\u{3040}'..='\u{30ff}'),
    )
}

/// `[ASCII PUNCTUATION][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+`
/// `| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
fn main(text: &str) -> Cut {
    let Some((first, rest)) = head(text) else {
        return Cut::Skip(1);
    };
    let is_sign = |k| matches!(k, Kind::Punctuation | Kind::Symbol);
    let latin = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    if text.as_bytes()[0].is_ascii_punctuation() && latin > 0 {
        return Cut::Take(1 + latin);
    }
    let leads = !first.is_newline && !first.kind.is_letter() && !is_sign(first.kind);
    let led = run(rest, Kind::is_letter_or_mark);
    if leads && led > 0 {
        return Cut::Take(first.len + led);
    }
    if first.kind.is_letter_or_mark() {
        return Cut::Take(run(text, Kind::is_letter_or_mark));
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    let signs = run(body, is_sign);
    if signs > 0 {
        let end = text.len() - body.len() + signs;
        return Cut::Take(
            text[end..]
                .find(|c| !is_newline(c))
                .map_or(text.len(), |n| end + n),
        );
    }
    match newlines_or_spaces(text) {
        0 => Cut::Skip(first.len),
        len => Cut::Take(len),
    }
}

/// Letters with case, and nothing newer than Unicode 11, as DeepSeek LLM lists them.
static CASED: LazyLock<Ranges> =
    LazyLock::new(|| Ranges::new(&format!("[{}]", CASED_LIST.concat())));

pub(super) const CASED_LIST: [&str; 18] = [
    r"A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}",
    r"\x{1c4}-\x{293}\x{295}-\x{2af}\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}",
    r"\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1}\x{3a3}-\x{3f5}",
    r"\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5}",
    r"\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}",
    r"\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}",
    r"\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}",
    r"\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}",
    r"\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}",
    r"\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}",
    r"\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}",
    r"\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e}\x{2183}\x{2184}",
    r"\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}",
    r"\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787}",
    r"\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}",
    r"\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}\x{104b0}-\x{104d3}",
    r"\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}",
    r"\x{1e900}-\x{1e943}",
];
