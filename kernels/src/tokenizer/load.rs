//! Building a [`Tokenizer`] from GGUF metadata.
//!
//! Files are untrusted: every count, id, score and length is checked, and whatever
//! is kept is bounded by the file's own size.

mod flags;
mod pieces;

use super::special::{Special, Specials};
use super::spm::{Pieces, SPACE};
use super::{Algorithm, Pre, TokenKind, Tokenizer, TokenizerError, bytes};
use crate::gguf::{Array, Gguf, GgufError, Value};
use std::collections::HashMap;
use std::sync::OnceLock;

/// Twice the largest known vocabulary (Gemma's 262,144). Strangers' vocabularies are read
/// in the process that holds the wallet: this and the next two bound what one takes there.
const MAX_TOKENS: usize = 1 << 19;
/// Twice the most known (Gemma 4's 514,906).
const MAX_MERGES: usize = 1 << 20;
/// Bytes of all tokens' texts together: six times the most known (Command R's 2.8 million).
const MAX_TEXT: usize = 16 << 20;
/// Longest text of a token: four times the longest known (runs of 256 spaces,
/// written in two bytes each). Bounds what one comparison can cost.
const MAX_TOKEN_BYTES: usize = 2048;

/// What the pre-tokeniser of a byte-level vocabulary is called where nobody looked.
const DEFAULT_PRE: &str = "default";

/// The lists of a vocabulary, checked against each other.
struct Lists<'a> {
    tokens: &'a [String],
    kinds: Vec<TokenKind>,
}

pub(super) fn from_gguf(file: &Gguf) -> Result<Tokenizer, TokenizerError> {
    let lists = Lists::read(file)?;
    let (algorithm, rules) = algorithm(file, &lists)?;
    let flags = flags::Flags::read(file, &lists, &algorithm)?;
    let (text, ends) = texts(&lists, &algorithm);
    let mut tokenizer = Tokenizer {
        text,
        ends,
        specials: specials(file, &lists),
        kinds: lists.kinds,
        algorithm,
        bos: flags.bos,
        eos: flags.eos,
        sep: flags.sep,
        stops: flags.stops,
        add_bos: flags.add_bos,
        add_eos: flags.add_eos,
        add_space: flags.add_space,
        digest: [0; 32],
        grammars: OnceLock::new(),
    };
    tokenizer.digest = digest(&tokenizer, lists.tokens, rules);
    Ok(tokenizer)
}

pub(super) fn without_text(tokens: usize) -> Result<Tokenizer, TokenizerError> {
    check_size(tokens)?;
    let pieces = Pieces {
        longest: 0,
        pieces: HashMap::new(),
        bytes: [None; 256],
        unknown: None,
    };
    Ok(Tokenizer {
        text: Vec::new(),
        ends: vec![0; tokens],
        specials: Specials::new(std::iter::empty()),
        kinds: vec![TokenKind::Unused; tokens],
        algorithm: Algorithm::Spm(Box::new(pieces)),
        bos: None,
        eos: None,
        sep: None,
        stops: Vec::new(),
        add_bos: false,
        add_eos: false,
        add_space: false,
        digest: [0; 32],
        grammars: OnceLock::new(),
    })
}

fn check_size(tokens: usize) -> Result<(), TokenizerError> {
    match (1..=MAX_TOKENS).contains(&tokens) {
        true => Ok(()),
        false => Err(TokenizerError::Size {
            tokens,
            max: MAX_TOKENS,
        }),
    }
}

fn algorithm<'a>(
    file: &'a Gguf,
    lists: &Lists<'_>,
) -> Result<(Algorithm, &'a [String]), TokenizerError> {
    let model = file.str("tokenizer.ggml.model")?;
    let pre = match model {
        "llama" => return Ok((Algorithm::Spm(Box::new(pieces::spm(file, lists)?)), &[])),
        "bert" => return Ok((Algorithm::Wpm(pieces::wpm(file, lists)?), &[])),
        "gemma4" => Pre::Gemma4,
        "gpt2" => {
            let name = match file.get("tokenizer.ggml.pre") {
                Some(_) => file.str("tokenizer.ggml.pre")?,
                None => DEFAULT_PRE,
            };
            if name == DEFAULT_PRE {
                tracing::warn!(
                    "the file does not name its pre-tokeniser: the default is used, as in llama.cpp, and may cut text otherwise than the model learned it; a current converter names it"
                );
            }
            Pre::from_name(name).ok_or_else(|| TokenizerError::Pre {
                pre: name.to_owned(),
            })?
        }
        _ => {
            return Err(TokenizerError::Model {
                model: model.to_owned(),
            });
        }
    };
    let rules = file.strings("tokenizer.ggml.merges")?;
    if rules.len() > MAX_MERGES {
        return Err(TokenizerError::Merges {
            merges: rules.len(),
            max: MAX_MERGES,
        });
    }
    let merges = Box::new(pieces::merges(lists, rules, pre)?);
    Ok((Algorithm::Bpe { pre, merges }, rules))
}

impl<'a> Lists<'a> {
    fn read(file: &'a Gguf) -> Result<Self, TokenizerError> {
        let tokens = file.strings("tokenizer.ggml.tokens")?;
        check_size(tokens.len())?;
        if let Some(id) = tokens.iter().position(|t| t.len() > MAX_TOKEN_BYTES) {
            return Err(TokenizerError::Long {
                id,
                bytes: tokens[id].len(),
                max: MAX_TOKEN_BYTES,
            });
        }
        let bytes = tokens.iter().map(String::len).sum();
        if bytes > MAX_TEXT {
            return Err(TokenizerError::Text {
                bytes,
                max: MAX_TEXT,
            });
        }
        let mut kinds = kinds(file, tokens.len())?;
        for (text, kind) in tokens.iter().zip(&mut kinds) {
            if matches!(kind, TokenKind::Normal | TokenKind::UserDefined)
                && flags::ends_a_turn(text)
            {
                tracing::warn!(%text, "the file says that this token is text; it ends a turn");
                *kind = TokenKind::Control;
            }
        }
        Ok(Self { tokens, kinds })
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &'a str, TokenKind)> + '_ {
        let all = self.tokens.iter().zip(&self.kinds).enumerate();
        all.map(|(id, (text, kind))| (id as u32, text.as_str(), *kind))
    }
}

fn kinds(file: &Gguf, tokens: usize) -> Result<Vec<TokenKind>, TokenizerError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let kinds: Vec<TokenKind> = match file.get(KEY) {
        None => vec![TokenKind::Normal; tokens],
        Some(Value::Array(Array::I32(x))) => x.iter().map(|t| kind(i64::from(*t))).collect(),
        Some(Value::Array(Array::U32(x))) => x.iter().map(|t| kind(i64::from(*t))).collect(),
        Some(other) => {
            return Err(GgufError::WrongType {
                key: KEY.to_owned(),
                wanted: "an array of i32",
                found: other.type_name(),
            }
            .into());
        }
    };
    if kinds.len() != tokens {
        return Err(TokenizerError::Types {
            tokens,
            types: kinds.len(),
        });
    }
    Ok(kinds)
}

fn kind(id: i64) -> TokenKind {
    match id {
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        _ => TokenKind::Normal,
    }
}

/// What each token stands for, one after the other, and where each ends.
fn texts(lists: &Lists<'_>, algorithm: &Algorithm) -> (Vec<u8>, Vec<usize>) {
    let byte_level = matches!(algorithm, Algorithm::Bpe { pre, .. } if *pre != Pre::Gemma4);
    let mut text = Vec::new();
    let mut ends = Vec::with_capacity(lists.tokens.len());
    for (_, token, kind) in lists.iter() {
        match (kind, byte_of(token)) {
            (TokenKind::Byte, Some(byte)) => text.push(byte),
            (TokenKind::Normal, _) if byte_level => text.extend(bytes::decode(token)),
            (TokenKind::Normal, _) => text.extend(token.replace(SPACE, " ").into_bytes()),
            _ => text.extend_from_slice(token.as_bytes()),
        }
        ends.push(text.len());
    }
    text.shrink_to_fit();
    (text, ends)
}

/// The byte that a token such as `<0x0A>` stands for.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| u8::from_str_radix(digits, 16).ok())?
}

fn specials(file: &Gguf, lists: &Lists<'_>) -> Specials {
    let strips = strips_right(file);
    let special = |id, text: &str, always| Special {
        id,
        always,
        strips_right: strips && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>"),
    };
    Specials::new(lists.iter().filter_map(|(id, text, kind)| match kind {
        TokenKind::Control | TokenKind::Unknown => Some((text, special(id, text, false))),
        TokenKind::UserDefined => Some((text, special(id, text, true))),
        _ => None,
    }))
}

/// Phi-3's tokenizer lets its special tokens swallow the white space behind them.
/// The format has no key for it: llama.cpp goes by the model's name, too.
fn strips_right(file: &Gguf) -> bool {
    let name = file.get("general.name").and_then(Value::as_str);
    let name = name.unwrap_or_default().to_lowercase();
    name.contains("phi-3") || name.contains("phi3")
}

/// Length-prefixed fields in a fixed order, hashed with BLAKE3.
fn digest(tokenizer: &Tokenizer, tokens: &[String], merges: &[String]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    let mut text = |s: &str| {
        hash.update(&(s.len() as u64).to_le_bytes());
        hash.update(s.as_bytes());
    };
    text("freehold/tokenizer/1");
    text(tokenizer.name());
    text(&format!("{} tokens, {} merges", tokens.len(), merges.len()));
    tokens.iter().chain(merges).for_each(|s| text(s));
    for kind in &tokenizer.kinds {
        hash.update(&[*kind as u8]);
    }
    hash.update(&tokenizer.bos.map_or(u64::MAX, u64::from).to_le_bytes());
    for stop in &tokenizer.stops {
        hash.update(&stop.to_le_bytes());
    }
    hash.update(&[u8::from(tokenizer.add_bos)]);
    tokenizer.algorithm.hash(&mut hash);
    // What files of byte-level vocabularies do not have leaves their digest alone.
    if tokenizer.add_eos || tokenizer.add_space {
        hash.update(&[u8::from(tokenizer.add_eos), u8::from(tokenizer.add_space)]);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
