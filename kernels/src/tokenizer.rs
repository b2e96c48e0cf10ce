//! Text to token ids and back, from the vocabulary inside a GGUF file.
//!
//! Byte-level BPE (`tokenizer.ggml.model = gpt2`) with the pre-tokenisers named
//! in [`Pre`]. It adds no BOS token by itself and treats the text of special
//! tokens as plain text unless asked to parse it. Called by `model` (chat
//! prompts), `runtime` (streaming text) and the node's `tokenize`.

mod bpe;
mod bytes;
mod load;
mod pre;
mod special;
mod stream;

pub use pre::Pre;
pub use stream::TextStream;

use bpe::Merges;
use special::Specials;

/// Why a vocabulary was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A key of the vocabulary is missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::GgufError),
    /// Another kind of tokenizer.
    #[error("tokenizer model {model:?} is not supported (only \"gpt2\", byte-level BPE)")]
    Model {
        /// Its name in the file.
        model: String,
    },
    /// Another pre-tokeniser.
    #[error("pre-tokeniser {pre:?} is not supported (qwen2, llama-bpe and gpt-2 are)")]
    Pre {
        /// Its name in the file.
        pre: String,
    },
    /// No tokens, or more than ids can name.
    #[error("the vocabulary has {tokens} tokens; it must have 1 to {max}")]
    Size {
        /// How many it has.
        tokens: usize,
        /// The most allowed.
        max: usize,
    },
    /// `token_type` does not have one entry per token.
    #[error("the vocabulary has {tokens} tokens but {types} token types")]
    Types {
        /// Number of tokens.
        tokens: usize,
        /// Number of types.
        types: usize,
    },
    /// One of the 256 byte tokens is missing.
    #[error("the vocabulary has no token for byte 0x{byte:02x}")]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// A merge that names unknown tokens or is not a pair.
    #[error("merge {index} ({merge:?}) does not join two tokens of the vocabulary into a third")]
    Merge {
        /// Its position.
        index: usize,
        /// Its text.
        merge: String,
    },
    /// A special token id outside the vocabulary.
    #[error("{key} is {id}, but the vocabulary has {tokens} tokens")]
    SpecialId {
        /// The metadata key.
        key: &'static str,
        /// Its value.
        id: u64,
        /// Number of tokens.
        tokens: usize,
    },
}

/// What a token is for (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Ordinary text.
    Normal,
    /// Structure, such as `<|im_end|>`: never shown as text.
    Control,
    /// Added by the model's author and always recognised in text.
    UserDefined,
    /// A filler that is never produced.
    Unused,
}

/// A loaded vocabulary.
#[derive(Debug)]
pub struct Tokenizer {
    /// Bytes of every token, one after the other.
    text: Vec<u8>,
    /// Token `i` is `text[ends[i-1]..ends[i]]`.
    ends: Vec<usize>,
    kinds: Vec<TokenKind>,
    pre: Pre,
    merges: Merges,
    specials: Specials,
    bos: Option<u32>,
    eos: Option<u32>,
    stops: Vec<u32>,
    add_bos: bool,
    digest: [u8; 32],
}

impl Tokenizer {
    /// Read the vocabulary of a GGUF file.
    pub fn from_gguf(file: &crate::gguf::Gguf) -> Result<Self, TokenizerError> {
        load::from_gguf(file)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no tokens (never true for a loaded vocabulary).
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The pre-tokeniser.
    pub fn pre(&self) -> Pre {
        self.pre
    }

    /// The begin-of-text token, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-text token, if the model has one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether prompts of this model start with [`Self::bos`].
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether this token ends an answer (end of text, of turn, of message).
    pub fn is_stop(&self, token: u32) -> bool {
        self.stops.contains(&token)
    }

    /// BLAKE3 over everything that decides how text becomes tokens.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The bytes a token stands for (control tokens: their name). Empty for ids
    /// outside the vocabulary.
    pub fn bytes(&self, token: u32) -> &[u8] {
        let i = token as usize;
        let Some(&end) = self.ends.get(i) else {
            return &[];
        };
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.text[start..end]
    }

    /// What a token is for; `None` for ids outside the vocabulary.
    pub fn kind(&self, token: u32) -> Option<TokenKind> {
        self.kinds.get(token as usize).copied()
    }

    /// Token ids of a text. With `parse_special` the names of control tokens
    /// become those tokens; without it they are plain text. No BOS is added.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3 + 1);
        self.specials.split(text, parse_special, |part| match part {
            special::Part::Token(id) => out.push(id),
            special::Part::Text(text) => {
                for piece in self.pre.split(text) {
                    self.merges.encode(piece.as_bytes(), &mut out);
                }
            }
        });
        out
    }

    /// The bytes of a token sequence, control tokens included by name.
    pub fn decode(&self, tokens: &[u32]) -> Vec<u8> {
        tokens
            .iter()
            .flat_map(|t| self.bytes(*t))
            .copied()
            .collect()
    }

    /// A decoder for a stream of tokens that gives whole characters only.
    pub fn stream(&self) -> TextStream {
        TextStream::default()
    }
}

/// The character that stands for a byte in a byte-level vocabulary: for writers
/// of vocabularies.
pub fn byte_char(byte: u8) -> char {
    bytes::to_char(byte)
}

#[cfg(test)]
mod tests;
