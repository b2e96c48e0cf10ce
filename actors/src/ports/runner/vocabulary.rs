//! What a GGUF file says about the model that a server should run: digest, vocabulary,
//! template. Its weights are hashed and never loaded.

use crate::ports::compute::job::said;
use crate::ports::compute::piece;
use kernels::gguf::{Gguf, GgufError, Head, Tensor, Value};
use kernels::tokenizer::{TokenKind, TokenizerError};
use kernels::{Tokenizer, encode_chat};
use protocol::ids::{Digest, ModelDigest};
use protocol::wire::chain::Piece;
use protocol::work::{Job, Work};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What stands for the path of what is in memory.
const IN_MEMORY: &str = "the file in memory";

/// A file that tells nothing about a model.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {
    /// Not a GGUF file, or without what names a model.
    #[error("{}: {source}; `tokenizer` is the model's own GGUF file", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: GgufError,
    },
    /// A tokenizer that this node does not know.
    #[error("{}: {source}; leave `tokenizer` out to sell by the name alone", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: TokenizerError,
    },
}

/// A model's identity and its vocabulary, from its file.
#[derive(Debug)]
pub struct Vocabulary {
    /// BLAKE3 of the file.
    pub digest: ModelDigest,
    /// Digest of the chat template.
    pub template_digest: Digest,
    /// `general.name`, where there is one.
    pub name: Option<String>,
    /// `general.architecture`.
    pub architecture: String,
    /// The storage type of most weights.
    pub quantisation: String,
    /// Number of weights.
    pub parameters: u64,
    /// Context in tokens; 0 where the file does not say.
    pub context: u32,
    /// What others may read of the file; none where this was read from no more.
    pub head: Option<Arc<Head>>,
    tokenizer: Tokenizer,
    template: Option<String>,
    /// Encoding puts a space in front of text.
    leads: bool,
    /// No token reaches over the space between two words.
    words: bool,
    /// No token reaches from the end of a line to a letter.
    lines: bool,
}

impl Vocabulary {
    /// Reads a file. Blocks while it is hashed.
    ///
    /// # Errors
    /// Where it is no model's file, or its tokenizer is not known here.
    pub fn open(path: &Path) -> Result<Self, VocabularyError> {
        Self::of(Gguf::open(path), path, None)
    }

    /// As [`Self::open`], from memory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VocabularyError> {
        Self::of(Gguf::from_bytes(bytes), Path::new(IN_MEMORY), None)
    }

    /// From the beginning of a file that was verified against the model's digest: nothing is
    /// known of its weights.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_head(
        bytes: impl Into<Arc<[u8]>>,
        model: ModelDigest,
    ) -> Result<Self, VocabularyError> {
        Self::of(Gguf::from_head(bytes), Path::new(IN_MEMORY), Some(model))
    }

    fn of(
        file: Result<Gguf, GgufError>,
        path: &Path,
        verified: Option<ModelDigest>,
    ) -> Result<Self, VocabularyError> {
        file.and_then(|file| Self::read(&file, verified))
            .map_err(|source| VocabularyError::File {
                path: path.to_owned(),
                source,
            })?
            .map_err(|source| VocabularyError::Tokenizer {
                path: path.to_owned(),
                source,
            })
    }

    fn read(
        file: &Gguf,
        verified: Option<ModelDigest>,
    ) -> Result<Result<Self, TokenizerError>, GgufError> {
        let architecture = file.str("general.architecture")?.to_owned();
        let tokenizer = match Tokenizer::from_gguf(file) {
            Ok(tokenizer) => tokenizer,
            Err(error) => return Ok(Err(error)),
        };
        let template = file
            .get("tokenizer.chat_template")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let context = file.uint(&format!("{architecture}.context_length"));
        let first = tokenizer.encode("a", false).first().copied();
        let (words, lines) = joins(&tokenizer);
        let (digest, head) = match verified {
            Some(digest) => (digest, None),
            None => {
                let (digest, head) = file.digest_and_head();
                (ModelDigest(digest), Some(Arc::new(head)))
            }
        };
        Ok(Ok(Vocabulary {
            digest,
            template_digest: Digest(
                blake3::hash(template.as_deref().unwrap_or_default().as_bytes()).into(),
            ),
            name: file.str("general.name").ok().map(str::to_owned),
            architecture,
            quantisation: quantisation(file),
            parameters: file.tensors().iter().map(Tensor::elements).sum(),
            context: context
                .ok()
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or_default(),
            head,
            leads: first.is_some_and(|id| tokenizer.bytes(id).starts_with(b" ")),
            tokenizer,
            template,
            words,
            lines,
        }))
    }

    /// Digest of the tokenizer.
    pub fn tokenizer_digest(&self) -> Digest {
        Digest(self.tokenizer.digest())
    }

    /// What a token stands for, as a host that computes this model says it.
    pub fn piece(&self, token: u32) -> Piece {
        piece(&self.tokenizer, token)
    }

    /// Bytes of memory that this takes, about; without its head.
    pub fn memory(&self) -> usize {
        let template = self.template.as_ref().map_or(0, String::capacity);
        size_of::<Self>() + self.tokenizer.memory() + template
    }

    /// The tokens of a job's prompt, rendered as the model's template says; of texts to embed,
    /// those of all.
    ///
    /// # Errors
    /// A sentence for the buyer.
    pub fn prompt(&self, job: &Job) -> Result<Vec<u32>, String> {
        match &job.work {
            Work::Chat { messages } => encode_chat(
                &self.tokenizer,
                self.template.as_deref(),
                &said(messages),
                &job.date,
            )
            .map_err(|error| error.to_string()),
            Work::Complete { prompt } => Ok(self.tokenizer.encode(prompt, false)),
            Work::Embed { texts } => Ok(texts
                .iter()
                .flat_map(|text| self.tokenizer.encode_whole(text, false))
                .collect()),
        }
    }

    /// The tokens of a stretch of an answer: of its beginning, or from a place where
    /// [`Self::boundary`] cut.
    pub(super) fn encode(&self, text: &str, begins: bool) -> Vec<u32> {
        let text = match self.leads && !begins {
            // Encoding puts this one back.
            true => text.strip_prefix(' ').unwrap_or(text),
            false => text,
        };
        self.tokenizer.encode(text, false)
    }

    /// Bytes that a token stands for.
    pub(super) fn bytes(&self, token: u32) -> usize {
        self.tokenizer.bytes(token).len()
    }

    /// Whether encoding puts a space in front of text.
    pub(super) fn leads(&self) -> bool {
        self.leads
    }

    /// The last place in `text`, behind its beginning, where every tokenizer of this
    /// kind cuts whatever follows: between two words, or in front of a letter that
    /// begins a line. Every pre-tokeniser that we know splits there, and where there is
    /// none, no token of the vocabulary reaches over it.
    pub(super) fn boundary(&self, text: &str) -> Option<usize> {
        let mut after: Option<(usize, char)> = None;
        let mut beyond: Option<(usize, char)> = None;
        for (at, c) in text.char_indices().rev() {
            if let (Some((space, ' ')), Some((_, letter))) = (after, beyond)
                && self.words
                && is_letter(c)
                && is_letter(letter)
            {
                return Some(space);
            }
            if let Some((line, letter)) = after
                && self.lines
                && !self.leads
                && c == '\n'
                && is_letter(letter)
            {
                return Some(line);
            }
            beyond = after;
            after = Some((at, c));
        }
        None
    }
}

/// Letters that every pre-tokeniser calls letters: Latin, Greek and Cyrillic.
fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic()
        || matches!(c, 'À'..='ɏ' if c != '×' && c != '÷')
        || matches!(c, 'Α'..='ω' | 'А'..='я')
}

/// Whether no token reaches over a space between two words, and none from a line's end
/// to a letter.
fn joins(tokenizer: &Tokenizer) -> (bool, bool) {
    let (mut words, mut lines) = (true, true);
    for id in 0..u32::try_from(tokenizer.len()).unwrap_or(u32::MAX) {
        if tokenizer.kind(id) == Some(TokenKind::Control) {
            continue;
        }
        let text = String::from_utf8_lossy(tokenizer.bytes(id));
        let letters: Vec<char> = text.chars().collect();
        words &= !letters
            .windows(3)
            .any(|three| matches!(three, [a, ' ', b] if is_letter(*a) && is_letter(*b)));
        lines &= !letters
            .windows(2)
            .any(|two| matches!(two, ['\n', b] if is_letter(*b)));
    }
    (words, lines)
}

/// The storage type of most weights.
fn quantisation(file: &Gguf) -> String {
    let mut by_type: BTreeMap<u32, (u64, &str)> = BTreeMap::new();
    for tensor in file.tensors() {
        let entry = by_type.entry(tensor.ty.id());
        entry.or_insert((0, tensor.ty.name())).0 += tensor.elements();
    }
    let most = by_type.iter().max_by_key(|(id, (n, _))| (*n, **id));
    most.map_or("none", |(_, (_, name))| name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::runner::tests::job;
    use kernels::{ChatMessage, Model, OpenOptions};

    #[test]
    fn identity_and_prompt_are_those_of_the_loaded_model() {
        let pocket = kernels::pocket::pocket();
        let vocabulary = Vocabulary::from_bytes(pocket).unwrap();
        let model = Model::from_bytes(pocket.to_vec(), &OpenOptions::default()).unwrap();
        let info = model.info();
        assert_eq!(vocabulary.digest.0, model.digest());
        assert_eq!(vocabulary.template_digest.0, info.template_digest);
        assert_eq!(vocabulary.tokenizer_digest().0, info.tokenizer_digest);
        assert_eq!(vocabulary.architecture, info.architecture);
        assert_eq!(vocabulary.quantisation, info.quantisation);
        assert_eq!(vocabulary.context, info.context);
        assert_eq!(vocabulary.parameters, info.parameters);
        let head = vocabulary.head.clone().unwrap();
        assert_eq!(*head, *model.head().unwrap());
        let alone = Vocabulary::from_head(head.bytes.as_slice(), vocabulary.digest).unwrap();
        assert_eq!(alone.template_digest, vocabulary.template_digest);
        assert_eq!(alone.tokenizer_digest(), vocabulary.tokenizer_digest());
        let said = [ChatMessage {
            role: "user".to_owned(),
            content: "What is a sat?".to_owned(),
        }];
        assert_eq!(
            alone.prompt(&job("What is a sat?", 1)).unwrap(),
            model.encode_chat(&said, "2026-11-20").unwrap()
        );
    }

    #[test]
    fn a_boundary_is_the_last_one_between_words_or_lines() {
        let vocabulary = Vocabulary::from_bytes(kernels::pocket::pocket()).unwrap();
        assert!(vocabulary.words);
        let cut = |text: &str| {
            vocabulary
                .boundary(text)
                .map(|at| text.split_at(at).1.to_owned())
        };
        assert_eq!(cut("one two thr"), Some(" thr".to_owned()));
        assert_eq!(cut("größe Ωμ"), Some(" Ωμ".to_owned()));
        // What follows the space is not known yet, or may join it.
        for text in ["one ", "one  two", "a 1", "1 a", "", "x", "日本 語"] {
            assert_eq!(cut(text), None, "{text:?}");
        }
        if vocabulary.lines && !vocabulary.leads {
            assert_eq!(cut("a:\nnext"), Some("next".to_owned()));
        }
    }

    #[test]
    fn what_is_no_model_is_refused_with_the_fix() {
        let error = Vocabulary::from_bytes(b"not a model").unwrap_err();
        assert!(error.to_string().contains("GGUF"), "{error}");
    }
}
