//! Text to token ids and back, from the vocabulary inside a GGUF file.
//!
//! Byte-level BPE (`tokenizer.ggml.model = gpt2`) with the pre-tokenisers named
//! in [`Pre`], Gemma 4's BPE over characters (`gemma4`), SentencePiece (`llama`) and
//! WordPiece (`bert`); anything else is refused by name. It adds no BOS token by
//! itself and treats the text of special tokens as plain text unless asked to parse
//! it. Called by `model` (chat prompts, embeddings), `runtime` (streaming text) and
//! the node's `tokenize`.

mod accents;
mod bpe;
mod bytes;
mod classes;
mod deepseek;
mod grammar;
mod json_schema;
mod load;
mod memory;
mod pre;
mod prefixes;
mod scan;
mod special;
mod spm;
mod stream;
mod wpm;

pub use grammar::{Grammar, GrammarError};
pub use pre::Pre;
pub use stream::TextStream;

pub(crate) use grammar::Constraint;

use bpe::Merges;
use grammar::Grammars;
use special::{Part, Specials};
use spm::SPACE;
use std::sync::OnceLock;

/// Why a vocabulary was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A key of the vocabulary is missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::GgufError),
    /// Another kind of tokenizer.
    #[error(
        "tokenizer model {model:?} is not supported (gpt2, gemma4, llama and bert are): use a file with one of these"
    )]
    Model {
        /// Its name in the file.
        model: String,
    },
    /// Another pre-tokeniser.
    #[error(
        "pre-tokeniser {pre:?} is not supported (llama-bpe, qwen2, qwen35, gpt-4o, tekken, gpt-2, deepseek-v3 and others are): convert the model with a current converter or use another"
    )]
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
    /// More merges than any vocabulary has.
    #[error("the vocabulary has {merges} merges; at most {max} are allowed")]
    Merges {
        /// How many it has.
        merges: usize,
        /// The most allowed.
        max: usize,
    },
    /// Tokens that are longer together than those of any vocabulary.
    #[error("the tokens are {bytes} bytes long together; at most {max} are allowed")]
    Text {
        /// Their length.
        bytes: usize,
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
    /// A token with an endless text.
    #[error("token {id} is {bytes} bytes long; at most {max} are allowed: the file is damaged")]
    Long {
        /// Its id.
        id: usize,
        /// Its length.
        bytes: usize,
        /// The most allowed.
        max: usize,
    },
    /// `scores` does not have one entry per token.
    #[error("the vocabulary has {tokens} tokens but {scores} scores")]
    Scores {
        /// Number of tokens.
        tokens: usize,
        /// Number of scores.
        scores: usize,
    },
    /// A score that cannot be ordered.
    #[error("the score of token {id} is not a number: the file is damaged")]
    Score {
        /// The token.
        id: usize,
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
    /// What stands for text that has no tokens.
    Unknown,
    /// One byte, for text that has no other tokens.
    Byte,
}

/// What a token of a vocabulary is as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Structure, a filler or unknown text: never shown to people.
    pub control: bool,
    /// Its exact bytes; of a control token its name in the vocabulary.
    pub bytes: Vec<u8>,
}

/// How text becomes tokens.
#[derive(Debug)]
enum Algorithm {
    Bpe { pre: Pre, merges: Box<Merges> },
    Spm(Box<spm::Pieces>),
    Wpm(wpm::Words),
}

/// A loaded vocabulary.
#[derive(Debug)]
pub struct Tokenizer {
    /// Bytes of every token, one after the other.
    text: Vec<u8>,
    /// Token `i` is `text[ends[i-1]..ends[i]]`.
    ends: Vec<usize>,
    kinds: Vec<TokenKind>,
    algorithm: Algorithm,
    specials: Specials,
    bos: Option<u32>,
    eos: Option<u32>,
    sep: Option<u32>,
    stops: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Text gets a space in front, and loses it again on the way back.
    add_space: bool,
    digest: [u8; 32],
    /// Made when the first grammar is used.
    grammars: OnceLock<Result<Grammars, GrammarError>>,
}

impl Tokenizer {
    /// Read the vocabulary of a GGUF file.
    pub fn from_gguf(file: &crate::gguf::Gguf) -> Result<Self, TokenizerError> {
        load::from_gguf(file)
    }

    /// A vocabulary of which nothing is known but the number of its tokens: none has any
    /// text, and every text becomes nothing.
    pub(crate) fn without_text(tokens: usize) -> Result<Self, TokenizerError> {
        load::without_text(tokens)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no tokens (never true for a loaded vocabulary).
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The name of the algorithm: of the pre-tokeniser, `spm` or `wpm`.
    pub fn name(&self) -> &'static str {
        match &self.algorithm {
            Algorithm::Bpe { pre, .. } => pre.name(),
            Algorithm::Spm(_) => "spm",
            Algorithm::Wpm(_) => "wpm",
        }
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

    /// Whether texts of this model end with [`Self::eos`].
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// Whether this token ends an answer (end of text, of turn, of message).
    pub fn is_stop(&self, token: u32) -> bool {
        self.stops.contains(&token)
    }

    /// All tokens that end an answer, in order.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// This vocabulary for grammars.
    fn grammars(&self) -> Result<&Grammars, GrammarError> {
        let made = self.grammars.get_or_init(|| Grammars::new(self));
        made.as_ref().map_err(Clone::clone)
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

    /// A token's exact bytes and whether they are text. Ids outside the vocabulary
    /// are control tokens without bytes.
    pub fn piece(&self, token: u32) -> Piece {
        Piece {
            control: !self.is_text(token),
            bytes: self.bytes(token).to_vec(),
        }
    }

    /// What a token is for; `None` for ids outside the vocabulary.
    pub fn kind(&self, token: u32) -> Option<TokenKind> {
        self.kinds.get(token as usize).copied()
    }

    /// Bytes of memory that this vocabulary takes, about; without what the first grammar
    /// adds.
    pub fn memory(&self) -> usize {
        let lists = self.text.capacity() + size_of_val(&*self.ends) + size_of_val(&*self.kinds);
        size_of::<Self>() + lists + self.algorithm.memory() + self.specials.memory()
    }

    /// Token ids of a text. With `parse_special` the names of control tokens
    /// become those tokens; without it they are plain text. No BOS is added.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3 + 1);
        // SentencePiece puts its space in front of text that follows nothing or a
        // special token.
        let mut space = self.add_space;
        self.specials.split(text, parse_special, |part| match part {
            Part::Token(id) => {
                out.push(id);
                space = self.add_space;
            }
            Part::Text(text) => {
                self.algorithm.encode(text, space, &mut out);
                space = false;
            }
        });
        out
    }

    /// [`Self::encode`] with what the model was trained to see around a whole text:
    /// BOS and EOS where it wants them, `[CLS]` and `[SEP]` for BERT.
    pub fn encode_whole(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut out: Vec<u32> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        out.extend(self.encode(text, parse_special));
        out.extend(match &self.algorithm {
            Algorithm::Wpm(_) => self.sep,
            _ => self.eos.filter(|_| self.add_eos),
        });
        out
    }

    /// The bytes of a whole text from its tokens, control tokens included by name.
    /// A space that [`Self::encode`] put in front is taken away.
    pub fn decode(&self, tokens: &[u32]) -> Vec<u8> {
        let mut text: Vec<u8> = tokens
            .iter()
            .flat_map(|t| self.bytes(*t))
            .copied()
            .collect();
        if self.leads_with_space() && text.first() == Some(&b' ') {
            text.remove(0);
        }
        text
    }

    fn leads_with_space(&self) -> bool {
        self.add_space || matches!(self.algorithm, Algorithm::Wpm(_))
    }

    /// A decoder for a stream of tokens that are a whole text: the pieces it gives
    /// are whole characters and together [`Self::decode`] without control tokens.
    /// For text that continues a prompt use [`TextStream::default`], which keeps the
    /// first space.
    pub fn stream(&self) -> TextStream {
        TextStream::whole(self.leads_with_space())
    }

    /// Whether the text of this token is shown to people.
    fn is_text(&self, token: u32) -> bool {
        matches!(
            self.kind(token),
            Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte)
        )
    }
}

impl Algorithm {
    fn encode(&self, text: &str, space: bool, out: &mut Vec<u32>) {
        match self {
            Self::Wpm(words) => words.encode(text, out),
            Self::Spm(pieces) => {
                let mut escaped = String::with_capacity(text.len() + text.len() / 2);
                escaped.extend(space.then_some(SPACE));
                escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
                pieces.encode(&escaped, out);
            }
            Self::Bpe { pre, merges } if *pre == Pre::Gemma4 => {
                let escaped = text.replace(' ', "\u{2581}");
                pre.split(&escaped).for_each(|p| merges.encode(p, out));
            }
            Self::Bpe { pre, merges } => pre.split(text).for_each(|p| merges.encode(p, out)),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Bpe { merges, .. } => merges.memory(),
            Self::Spm(pieces) => pieces.memory(),
            Self::Wpm(words) => words.tokens.memory(),
        }
    }

    /// What decides beside the lists of the vocabulary.
    fn hash(&self, hash: &mut blake3::Hasher) {
        match self {
            Self::Bpe { .. } => {}
            Self::Spm(pieces) => pieces.hash(hash),
            Self::Wpm(words) => words.hash(hash),
        }
    }
}

/// The character that stands for a byte in a byte-level vocabulary: for writers
/// of vocabularies.
pub fn byte_char(byte: u8) -> char {
    bytes::to_char(byte)
}

#[cfg(test)]
mod tests;
