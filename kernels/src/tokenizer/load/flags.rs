//! Special token ids, what ends an answer, and what a prompt begins and ends with.

use super::Lists;
use crate::gguf::{Gguf, GgufError, Value};
use crate::tokenizer::{Algorithm, TokenKind, TokenizerError};

/// Control tokens that end a turn in the families we run, whatever the file says
/// in `eos_token_id`, and of whatever type it says that they are.
const TURN_ENDS: [&str; 16] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "[EOT]",
    "[EOS]",
    "<｜end▁of▁sentence｜>",
];

/// Whether a token of this text ends a turn: then it is a control token, as in llama.cpp,
/// also where a converter wrote down another type, which would make it text.
pub(super) fn ends_a_turn(text: &str) -> bool {
    TURN_ENDS.contains(&text)
}

pub(super) struct Flags {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub sep: Option<u32>,
    pub stops: Vec<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    pub add_space: bool,
}

impl Flags {
    pub fn read(
        file: &Gguf,
        lists: &Lists<'_>,
        algorithm: &Algorithm,
    ) -> Result<Self, TokenizerError> {
        let id = |key| special_id(file, key, lists.tokens.len());
        // SentencePiece and BERT files of the first years leave out what is usual.
        let usual = |id: u32| (id < lists.tokens.len() as u32).then_some(id);
        let (spm, wpm) = match algorithm {
            Algorithm::Spm(_) => (true, false),
            Algorithm::Wpm(_) => (false, true),
            Algorithm::Bpe { .. } => (false, false),
        };
        let mut bos = id("tokenizer.ggml.bos_token_id")?;
        let mut eos = id("tokenizer.ggml.eos_token_id")?;
        let mut sep = id("tokenizer.ggml.seperator_token_id")?;
        if spm {
            (bos, eos) = (bos.or(usual(1)), eos.or(usual(2)));
        }
        if wpm {
            bos = bos.or(id("tokenizer.ggml.cls_token_id")?).or(usual(101));
            sep = sep.or(usual(102));
        }
        let usual_bos = match algorithm {
            Algorithm::Bpe { pre, .. } => pre.adds_bos(),
            _ => true,
        };
        Ok(Self {
            stops: stops(
                lists,
                [
                    eos,
                    id("tokenizer.ggml.eot_token_id")?,
                    id("tokenizer.ggml.eom_token_id")?,
                ],
            ),
            bos,
            eos,
            sep,
            add_bos: flag(file, "tokenizer.ggml.add_bos_token", usual_bos)?,
            add_eos: flag(file, "tokenizer.ggml.add_eos_token", false)?,
            add_space: flag(file, "tokenizer.ggml.add_space_prefix", spm)? && spm,
        })
    }
}

pub(super) fn flag(file: &Gguf, key: &str, usual: bool) -> Result<bool, GgufError> {
    match file.get(key) {
        None => Ok(usual),
        Some(Value::Bool(x)) => Ok(*x),
        Some(other) => Err(GgufError::WrongType {
            key: key.to_owned(),
            wanted: "a boolean",
            found: other.type_name(),
        }),
    }
}

/// Tokens that end an answer: those the file names and those known by their text.
fn stops(lists: &Lists<'_>, named: [Option<u32>; 3]) -> Vec<u32> {
    let known = |(id, text, kind): (u32, &'_ str, TokenKind)| {
        (kind == TokenKind::Control && ends_a_turn(text)).then(|| (id, text.to_owned()))
    };
    let known: Vec<(u32, String)> = lists.iter().filter_map(known).collect();
    // Where messages have parts (gpt-oss, Solar), `<|end|>` ends a part only.
    let has = |name: &str| known.iter().any(|(_, text)| text == name);
    let parts = (has("<|return|>") && has("<|call|>")) || (has("<|flush|>") && has("<|calls|>"));
    let ends = known.iter().filter(|(_, text)| !parts || text != "<|end|>");
    let mut stops: Vec<u32> = named.into_iter().flatten().collect();
    stops.extend(ends.map(|(id, _)| *id));
    stops.sort_unstable();
    stops.dedup();
    stops
}

pub(super) fn special_id(
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
