//! Building a [`Tokenizer`] from GGUF metadata.

use super::bpe::Merges;
use super::special::Specials;
use super::{Pre, TokenKind, Tokenizer, TokenizerError, bytes};
use crate::gguf::{Array, Gguf, Value};
use std::collections::HashMap;

/// Far above any vocabulary (262,144 is the largest known); keeps ids in u32 and
/// logits in memory.
const MAX_TOKENS: usize = 1 << 22;

/// Control tokens that end a turn in the families we run, whatever the file says
/// in `eos_token_id`.
const TURN_ENDS: [&str; 7] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
];

pub(super) fn from_gguf(file: &Gguf) -> Result<Tokenizer, TokenizerError> {
    let model = file.str("tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(TokenizerError::Model {
            model: model.to_owned(),
        });
    }
    let name = file.str("tokenizer.ggml.pre")?;
    let pre = Pre::from_name(name).ok_or_else(|| TokenizerError::Pre {
        pre: name.to_owned(),
    })?;
    let tokens = file.strings("tokenizer.ggml.tokens")?;
    if tokens.is_empty() || tokens.len() > MAX_TOKENS {
        return Err(TokenizerError::Size {
            tokens: tokens.len(),
            max: MAX_TOKENS,
        });
    }
    let kinds = kinds(file, tokens.len())?;
    let (text, ends) = texts(tokens, &kinds);
    let rules = file.strings("tokenizer.ggml.merges")?;
    let merges = merges(tokens, &kinds, rules, pre)?;
    let specials = Specials::new(tokens.iter().zip(&kinds).enumerate().filter_map(
        |(id, (text, kind))| match kind {
            TokenKind::Control => Some((text.clone(), id as u32, false)),
            TokenKind::UserDefined => Some((text.clone(), id as u32, true)),
            _ => None,
        },
    ));
    let id = |key| special_id(file, key, tokens.len());
    let (bos, eos) = (
        id("tokenizer.ggml.bos_token_id")?,
        id("tokenizer.ggml.eos_token_id")?,
    );
    let mut stops: Vec<u32> = eos
        .into_iter()
        .chain(id("tokenizer.ggml.eot_token_id")?)
        .chain(id("tokenizer.ggml.eom_token_id")?)
        .collect();
    stops.extend(
        tokens
            .iter()
            .zip(&kinds)
            .enumerate()
            .filter_map(|(id, (text, kind))| {
                let ends = *kind == TokenKind::Control && TURN_ENDS.contains(&text.as_str());
                ends.then_some(id as u32)
            }),
    );
    stops.sort_unstable();
    stops.dedup();
    let add_bos = matches!(
        file.get("tokenizer.ggml.add_bos_token"),
        Some(Value::Bool(true))
    );
    let digest = digest(pre, tokens, &kinds, rules, bos, &stops, add_bos);
    Ok(Tokenizer {
        text,
        ends,
        kinds,
        pre,
        merges,
        specials,
        bos,
        eos,
        stops,
        add_bos,
        digest,
    })
}

fn kinds(file: &Gguf, tokens: usize) -> Result<Vec<TokenKind>, TokenizerError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let kinds: Vec<TokenKind> = match file.get(KEY) {
        None => vec![TokenKind::Normal; tokens],
        Some(Value::Array(Array::I32(x))) => x.iter().map(|t| kind(i64::from(*t))).collect(),
        Some(Value::Array(Array::U32(x))) => x.iter().map(|t| kind(i64::from(*t))).collect(),
        Some(other) => {
            return Err(crate::gguf::GgufError::WrongType {
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
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        _ => TokenKind::Normal,
    }
}

fn texts(tokens: &[String], kinds: &[TokenKind]) -> (Vec<u8>, Vec<usize>) {
    let mut text = Vec::new();
    let mut ends = Vec::with_capacity(tokens.len());
    for (token, kind) in tokens.iter().zip(kinds) {
        match kind {
            TokenKind::Normal => text.extend(bytes::decode(token)),
            _ => text.extend_from_slice(token.as_bytes()),
        }
        ends.push(text.len());
    }
    (text, ends)
}

fn merges(
    tokens: &[String],
    kinds: &[TokenKind],
    list: &[String],
    pre: Pre,
) -> Result<Merges, TokenizerError> {
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(tokens.len());
    for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
        if *kind == TokenKind::Normal {
            ids.entry(token).or_insert(id as u32);
        }
    }
    let mut byte_ids = [0; 256];
    for byte in 0..=255u8 {
        let mut buffer = [0; 4];
        let text: &str = bytes::to_char(byte).encode_utf8(&mut buffer);
        byte_ids[usize::from(byte)] = *ids.get(text).ok_or(TokenizerError::MissingByte { byte })?;
    }
    let mut rules = HashMap::with_capacity(list.len());
    for (index, merge) in list.iter().enumerate() {
        let rule = rule(&ids, merge).ok_or_else(|| TokenizerError::Merge {
            index,
            merge: merge.clone(),
        })?;
        rules
            .entry((rule.0, rule.1))
            .or_insert((index as u32, rule.2));
    }
    let whole = (pre == Pre::LlamaBpe).then(|| {
        ids.iter()
            .map(|(text, id)| (bytes::decode(text).into_boxed_slice(), *id))
            .collect()
    });
    Ok(Merges {
        rules,
        byte_ids,
        whole,
    })
}

/// `"a b"` to (id of a, id of b, id of ab). The separator is the only space: the
/// alphabet of the tokens has none.
fn rule(ids: &HashMap<&str, u32>, merge: &str) -> Option<(u32, u32, u32)> {
    let (left, right) = merge.split_once(' ')?;
    let merged = ids.get(format!("{left}{right}").as_str())?;
    Some((*ids.get(left)?, *ids.get(right)?, *merged))
}

fn special_id(
    file: &Gguf,
    key: &'static str,
    tokens: usize,
) -> Result<Option<u32>, TokenizerError> {
    if file.get(key).is_none() {
        return Ok(None);
    }
    let id = file.uint(key)?;
    if id < tokens as u64 {
        Ok(Some(id as u32))
    } else {
        Err(TokenizerError::SpecialId { key, id, tokens })
    }
}

/// Length-prefixed fields in a fixed order, hashed with BLAKE3.
fn digest(
    pre: Pre,
    tokens: &[String],
    kinds: &[TokenKind],
    merges: &[String],
    bos: Option<u32>,
    stops: &[u32],
    add_bos: bool,
) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    let mut text = |s: &str| {
        hash.update(&(s.len() as u64).to_le_bytes());
        hash.update(s.as_bytes());
    };
    text("freehold/tokenizer/1");
    text(pre.name());
    text(&format!("{} tokens, {} merges", tokens.len(), merges.len()));
    tokens.iter().chain(merges).for_each(|s| text(s));
    for kind in kinds {
        hash.update(&[*kind as u8]);
    }
    hash.update(&bos.map_or(u64::MAX, u64::from).to_le_bytes());
    for stop in stops {
        hash.update(&stop.to_le_bytes());
    }
    hash.update(&[u8::from(add_bos)]);
    hash.finalize().into()
}
