//! WordPiece (`tokenizer.ggml.model = bert`): words cleaned up, then covered by the
//! longest tokens from the left; a word that cannot be covered is unknown.
//!
//! Cleaning follows BERT's normaliser: controls dropped, letters decomposed and
//! their accents dropped, lower case, each punctuation mark and each Chinese
//! character a word of its own.

use super::accents::unaccented;
use super::classes::{Kind, kind};
use super::prefixes::Prefixes;
use super::spm::SPACE;

/// The tokens and how to clean text.
#[derive(Debug)]
pub(super) struct Words {
    /// Tokens by text; those that begin a word begin with [`SPACE`].
    pub tokens: Prefixes<u32>,
    pub unknown: u32,
    pub lowercase: bool,
    pub strip_accents: bool,
}

impl Words {
    /// Append the tokens of a text.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut word = String::new();
        let mut end = |word: &mut String| {
            if !word.is_empty() {
                self.cover(word, out);
                word.clear();
            }
        };
        let mut each = |c: char| match kind(c) {
            Kind::Space => end(&mut word),
            Kind::Other => {}
            _ if c == char::REPLACEMENT_CHARACTER => {}
            Kind::Mark if self.strip_accents => {}
            k => {
                let alone = is_alone(c, k);
                if alone {
                    end(&mut word);
                }
                if word.is_empty() {
                    word.push(SPACE);
                }
                match self.lowercase {
                    true => word.extend(c.to_lowercase()),
                    false => word.push(c),
                }
                if alone {
                    end(&mut word);
                }
            }
        };
        match self.strip_accents {
            true => text.chars().for_each(|c| unaccented(c, &mut each)),
            false => text.chars().for_each(&mut each),
        }
        each(' ');
    }

    /// What beside the tokens decides.
    pub fn hash(&self, hash: &mut blake3::Hasher) {
        hash.update(&self.unknown.to_le_bytes());
        hash.update(&[u8::from(self.lowercase), u8::from(self.strip_accents)]);
    }

    /// The longest tokens from the left, or one unknown token for all of it.
    fn cover(&self, word: &str, out: &mut Vec<u32>) {
        let (bytes, before) = (word.as_bytes(), out.len());
        let mut at = 0;
        while at < bytes.len() {
            let Some((len, id)) = self.tokens.longest(&bytes[at..], |_| true) else {
                out.truncate(before);
                out.push(self.unknown);
                return;
            };
            out.push(*id);
            at += len;
        }
    }
}

fn is_alone(c: char, kind: Kind) -> bool {
    kind == Kind::Punctuation || (c.is_ascii() && kind == Kind::Symbol) || is_chinese(c)
}

/// The blocks that BERT calls Chinese (its tokenizer's `_is_chinese_char`).
fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' | '\u{20000}'..='\u{2a6df}'
        | '\u{2a700}'..='\u{2b73f}' | '\u{2b740}'..='\u{2b81f}' | '\u{2b820}'..='\u{2ceaf}'
        | '\u{f900}'..='\u{faff}' | '\u{2f800}'..='\u{2fa1f}')
}
