//! The tables of each algorithm, from the lists of the file.

use super::flags::{flag, special_id};
use super::{Lists, byte_of};
use crate::gguf::{Array, Gguf, GgufError, Value};
use crate::tokenizer::bpe::{Alphabet, Merges, UNKNOWN};
use crate::tokenizer::prefixes::Prefixes;
use crate::tokenizer::spm::Pieces;
use crate::tokenizer::wpm::Words;
use crate::tokenizer::{Pre, TokenKind, TokenizerError, bytes};
use std::collections::HashMap;

/// Merge rules. A rule whose parts are no tokens can never apply and is refused.
pub(super) fn merges(
    lists: &Lists<'_>,
    rules: &[String],
    pre: Pre,
) -> Result<Merges, TokenizerError> {
    let ids = ids(lists);
    let alphabet = match pre {
        Pre::Gemma4 => Alphabet::Chars {
            ids: chars(&ids),
            bytes: byte_tokens(lists)?,
        },
        _ => Alphabet::Bytes(byte_level(&ids)?),
    };
    let mut map = HashMap::with_capacity(rules.len());
    for (index, merge) in rules.iter().enumerate() {
        let rule = rule(&ids, merge).ok_or_else(|| TokenizerError::Merge {
            index,
            merge: merge.clone(),
        })?;
        map.entry((rule.0, rule.1))
            .or_insert((index as u32, rule.2));
    }
    let whole = |text: &str| match pre {
        // Merging stops short of the longest runs of newlines.
        Pre::Gemma4 => text.bytes().all(|b| b == b'\n'),
        _ => pre.keeps_whole_tokens(),
    };
    // Pieces are looked up as the alphabet writes them, as in llama.cpp: a token outside of
    // it is never found, though it may stand for the bytes of one that is.
    let text = |text: &str| match pre {
        Pre::Gemma4 => Some(text.as_bytes().into()),
        _ => bytes::written(text).map(Vec::into_boxed_slice),
    };
    Ok(Merges {
        rules: map,
        alphabet,
        whole: ids
            .iter()
            .filter(|(t, _)| whole(t))
            .filter_map(|(t, id)| Some((text(t)?, *id)))
            .collect(),
    })
}

/// Tokens that text may become by merging, by their text in the file. Control
/// tokens are not among them; of equal texts the first counts, ordinary ones first.
fn ids<'a>(lists: &Lists<'a>) -> HashMap<&'a str, u32> {
    let mut ids = HashMap::with_capacity(lists.tokens.len());
    for wanted in [TokenKind::Normal, TokenKind::UserDefined] {
        for (id, text, kind) in lists.iter() {
            if kind == wanted && !text.is_empty() {
                ids.entry(text).or_insert(id);
            }
        }
    }
    ids
}

fn chars(ids: &HashMap<&str, u32>) -> HashMap<char, u32> {
    let single = |(text, id): (&&str, &u32)| {
        let mut chars = text.chars();
        let c = chars.next()?;
        chars.next().is_none().then_some((c, *id))
    };
    ids.iter().filter_map(single).collect()
}

fn byte_level(ids: &HashMap<&str, u32>) -> Result<[u32; 256], TokenizerError> {
    let mut out = [0; 256];
    for byte in 0..=255u8 {
        let mut buffer = [0; 4];
        let text: &str = bytes::to_char(byte).encode_utf8(&mut buffer);
        let id = ids.get(text).copied();
        // Some vocabularies lack control bytes; one without letters is another kind.
        if id.is_none() && byte.is_ascii_graphic() {
            return Err(TokenizerError::MissingByte { byte });
        }
        out[usize::from(byte)] = id.unwrap_or(UNKNOWN);
    }
    Ok(out)
}

/// The tokens `<0x00>` to `<0xFF>`, all of them.
fn byte_tokens(lists: &Lists<'_>) -> Result<[u32; 256], TokenizerError> {
    let found = some_byte_tokens(lists);
    let mut out = [0; 256];
    for byte in 0..=255u8 {
        let id = found[usize::from(byte)];
        out[usize::from(byte)] = id.ok_or(TokenizerError::MissingByte { byte })?;
    }
    Ok(out)
}

fn some_byte_tokens(lists: &Lists<'_>) -> [Option<u32>; 256] {
    let mut out = [None; 256];
    for (id, text, kind) in lists.iter() {
        if kind == TokenKind::Byte
            && let Some(byte) = byte_of(text)
        {
            out[usize::from(byte)].get_or_insert(id);
        }
    }
    out
}

/// `"a b"` to (id of a, id of b, id of ab). The separator is the only space: the
/// alphabet of the tokens has none.
fn rule(ids: &HashMap<&str, u32>, merge: &str) -> Option<(u32, u32, u32)> {
    let (left, right) = merge.split_once(' ')?;
    let merged = ids.get(format!("{left}{right}").as_str())?;
    Some((*ids.get(left)?, *ids.get(right)?, *merged))
}

/// Pieces with their order: the rank of their scores, highest first.
pub(super) fn spm(file: &Gguf, lists: &Lists<'_>) -> Result<Pieces, TokenizerError> {
    let scores = scores(file, lists.tokens.len())?;
    let ids = ids(lists);
    let mut order: Vec<u32> = ids.values().copied().collect();
    order.sort_unstable_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
    let mut rank = vec![0; lists.tokens.len()];
    for pair in order.windows(2) {
        let [a, b] = [pair[0] as usize, pair[1] as usize];
        rank[b] = rank[a] + u32::from(scores[a] != scores[b]);
    }
    let unknown = special_id(file, "tokenizer.ggml.unknown_token_id", lists.tokens.len())?;
    let fallback = || {
        lists
            .iter()
            .find(|t| t.2 == TokenKind::Unknown)
            .map(|t| t.0)
    };
    Ok(Pieces {
        longest: ids.keys().map(|t| t.len()).max().unwrap_or(0),
        pieces: ids
            .into_iter()
            .map(|(text, id)| (text.into(), (id, rank[id as usize])))
            .collect(),
        bytes: some_byte_tokens(lists),
        unknown: unknown.or_else(fallback),
    })
}

fn scores(file: &Gguf, tokens: usize) -> Result<Vec<f32>, TokenizerError> {
    const KEY: &str = "tokenizer.ggml.scores";
    let scores = match file.get(KEY) {
        Some(Value::Array(Array::F32(x))) => x.clone(),
        Some(other) => {
            return Err(GgufError::WrongType {
                key: KEY.to_owned(),
                wanted: "an array of f32",
                found: other.type_name(),
            }
            .into());
        }
        None => Vec::new(),
    };
    match scores.iter().position(|s| !s.is_finite()) {
        _ if scores.len() != tokens => Err(TokenizerError::Scores {
            tokens,
            scores: scores.len(),
        }),
        Some(id) => Err(TokenizerError::Score { id }),
        // -0 and 0 are one score.
        None => Ok(scores.iter().map(|s| s + 0.0).collect()),
    }
}

pub(super) fn wpm(file: &Gguf, lists: &Lists<'_>) -> Result<Words, TokenizerError> {
    const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
    /// `[UNK]` in BERT's own vocabulary, for files that do not say.
    const USUAL: u64 = 100;
    let tokens = lists.tokens.len();
    let unknown = match special_id(file, UNKNOWN, tokens)? {
        Some(id) => id,
        None if USUAL < tokens as u64 => USUAL as u32,
        None => {
            return Err(TokenizerError::SpecialId {
                key: UNKNOWN,
                id: USUAL,
                tokens,
            });
        }
    };
    let lowercase = flag(file, "tokenizer.ggml.normalizer.lowercase", true)?;
    Ok(Words {
        tokens: Prefixes::new(
            ids(lists)
                .into_iter()
                .map(|(t, id)| (t.as_bytes().into(), id)),
        ),
        unknown,
        lowercase,
        strip_accents: flag(file, "tokenizer.ggml.normalizer.strip_accents", lowercase)?,
    })
}
